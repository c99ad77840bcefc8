"""why: one answer in words about a job and a moment."""

import re
from datetime import datetime

import click

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import cli_common, views

_SECOND, _MINUTE = 1_000, 60_000


def _asked(text: str) -> tuple[int, int]:
    """A moment in the caller's zone, and how long it is: a minute, or a second where seconds are written."""
    whole = text
    if re.fullmatch(r"\d{1,2}:\d\d(:\d\d)?", text):
        whole = f"{datetime.now().astimezone():%Y-%m-%d}T{text if text[2] == ':' else f'0{text}'}"
    at = cli_common.moment(whole)
    if at is None:
        raise click.BadParameter(f"{text!r} is no time such as 02:00, 2026-01-31T02:00 or 2026-01-31T02:00Z")
    return at, _SECOND if re.search(r"\d:\d\d:\d\d", text) else _MINUTE


@click.command("why", cls=cli_common.Command)
@click.argument("job_id", metavar="JOB", shell_complete=cli_common.complete_jobs)
@click.argument("time", metavar="[TIME]", type=_asked, required=False)
def why(job_id: str, time: tuple[int, int] | None) -> None:
    """Say why a job runs or not, now or at a time that was or will be.

    TIME is a moment in your zone: 02:00 (today), 2026-01-31T02:00, or with Z or an offset.
    """
    invocation = cli_common.current()
    at, span = (None, _MINUTE) if time is None else time
    answer = invocation.source().request(control.Why(job_id=job_id, at=at, span=span))
    if invocation.json:
        cli_common.print_json(views.with_times(answer, ("time", "slot")))
    else:
        print(cli_common.printable(f"{job_id}: {answer['answer']}"))


COMMANDS = {"why": why}
