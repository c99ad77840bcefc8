"""notify test: whether a message reaches those whom [notify] of config.toml names."""

from collections.abc import Mapping
from typing import Any

import click

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import cli_common, client, notices
from lnmt_scheduler.supervisor.cli_sandbox import Group


@click.group("notify", cls=Group, no_args_is_help=False)
def notify() -> None:
    """Try the targets of notices."""


@notify.command("test", cls=cli_common.Command)
@click.argument("targets", metavar="[TARGET]...", nargs=-1)
def test(targets: tuple[str, ...]) -> int:
    """Send a test to these targets, or to all. The exit code is 0 if each has taken it."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        known = _targets(daemon)
        names = list(dict.fromkeys(targets)) or sorted(known)
        if unknown := sorted(set(names) - known.keys()):
            raise cli_common.Failure(f"there is no target {unknown[0]!r}", control.NOT_FOUND)
        if not names:
            raise cli_common.Failure("config.toml has no [notify.targets.NAME]; give it one", control.FAILED)
        found = {name: _try(daemon, known[name]) for name in names}
    if invocation.json:
        cli_common.print_json([{"target": name, **_outcome(row)} for name, row in found.items()])
    else:
        for name, row in found.items():
            said = _outcome(row)
            words = "delivered" if said["delivered"] else f"not delivered: {said['error']}"
            print(f"{name}: {cli_common.printable(words)} (run {row['run_id']})")
    return control.OK if all(row["status"] == "completed" for row in found.values()) else control.FAILED


def _targets(daemon: client.Client) -> dict[str, str]:
    """Name -> job."""
    found, after = {}, None
    while True:
        page = daemon.request(control.List(tag="notify", after=after))
        for job in page["jobs"]:
            if job["id"].startswith(notices.PREFIX) and job["module"] == notices.MODULE:
                found[job["id"].removeprefix(notices.PREFIX)] = job["id"]
        after = page["more"]
        if after is None:
            return found


def _try(daemon: client.Client, job_id: str) -> Mapping[str, Any]:
    """One attempt; the row of its run, with what it said."""
    run_id = daemon.request(control.Run(job_id=job_id, allow_overlap=True))["run_id"]
    stream = daemon.stream(control.Follow(run_id=run_id))
    for _ in stream:
        pass
    said = daemon.request(control.Read(run_id=run_id, what="stderr", offset=-500))["data"]
    return {**stream.value["run"], "said": said.decode(errors="replace")}


def _outcome(row: Mapping[str, Any]) -> dict[str, Any]:
    delivered = row["status"] == "completed"
    lines = [line for line in row["said"].splitlines() if not line.startswith(("hint:", "replay:"))]
    error = (row["error"] or "").strip().splitlines()[-1:] or lines[-1:] or [str(row["reason"])]
    return {"run_id": row["run_id"], "delivered": delivered, "error": None if delivered else error[0]}


COMMANDS = {"notify": notify}
