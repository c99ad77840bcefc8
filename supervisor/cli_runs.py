"""run, wait, cancel, retry, history, logs, progress: what jobs do and did.

`run` and `wait` leave with the job's own exit code where it has one; the last line on stderr says whose word the code
is. What goes wrong with these commands themselves is 125.
"""

import itertools
import json
import os
import signal
import sys
import time
from collections.abc import Iterator, Mapping
from types import FrameType
from typing import Any

import click

from lnmt_scheduler.ipc import channel, codec, control, frames, messages
from lnmt_scheduler.jobs import model, units
from lnmt_scheduler.supervisor import cli_common, client, live, tables

View = Mapping[str, Any]

_RUN_ID = click.IntRange(1, (1 << 63) - 1)
#: What ended by itself, so that the exit code is the job's; the rest was the daemon's doing.
_OWN = (None, "warning", "exit", "exception", "result", "signal")


class _Runner(cli_common.Command):
    """A command whose exit code is a job's: its own failures have one that hardly a job uses."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise cli_common.Failure(error.format_message(), control.RUN_FAILED) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except cli_common.Failure as error:
            error.code = control.RUN_FAILED
            raise
        except client.RequestError as error:
            raise cli_common.Failure(error.message, control.RUN_FAILED) from None
        except KeyboardInterrupt:
            raise cli_common.Failure("interrupted", control.RUN_FAILED) from None


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not JSON: {error}") from None


def _json_map(text: str) -> dict[str, Any]:
    found = _json(text)
    if not isinstance(found, dict):
        raise click.BadParameter(f"{text!r} is not a JSON object, such as '{{\"name\": 1}}'")
    return found


def _since(text: str) -> int:
    """A time, or how long ago; epoch milliseconds."""
    if (at := cli_common.moment(text)) is not None:
        return at
    try:
        return round((time.time() - units.duration(text)) * 1000)
    except ValueError:
        wanted = "a time such as 2026-01-31T12:00, nor a duration such as 2h"
        raise click.BadParameter(f"{text!r} is neither {wanted}") from None


@click.command("run", cls=_Runner)
@click.argument("job_id", metavar="JOB", shell_complete=cli_common.complete_jobs)
@click.option("--kwargs", type=_json_map, metavar="JSON", help="Keyword arguments, over the job's own.")
@click.option("--event", type=_json, metavar="JSON", help="What the job gets as its event.")
@click.option("--detach", is_flag=True, help="Print the run's id and leave.")
@click.option("--with-retries", is_flag=True, help="Retry as the job says.")
@click.option("--allow-overlap", is_flag=True, help="Also while a run of the job is active.")
@click.option("--profile", metavar="P", help="Sandbox profile, in place of the job's.")
def run(
    job_id: str,
    kwargs: dict[str, Any] | None,
    event: Any,
    detach: bool,
    with_retries: bool,
    allow_overlap: bool,
    profile: str | None,
) -> int:
    """Run a job now and show its output. Ctrl-C cancels the run; a second one leaves at once."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        started = daemon.request(
            control.Run(
                job_id=job_id,
                kwargs=kwargs,
                event=event,
                with_retries=with_retries,
                allow_overlap=allow_overlap,
                profile=profile,
            )
        )
        run_id = started["run_id"]
        if detach:
            _print_run_id(invocation, run_id)
            return control.OK
        words = sys.stderr if invocation.json else sys.stdout
        print(f"Running job '{job_id}'...", file=words, flush=True)
        view = _follow(invocation, daemon, run_id)
        if invocation.json:
            cli_common.print_json(cli_common.run_in_full(daemon, view))
        else:
            _print_end(daemon, view)
    return _leave(view)


def _follow(invocation: cli_common.Invocation, daemon: client.Client, run_id: int) -> View:
    cancelling: list[client.Client] = []

    def on_interrupt(_number: int, _frame: FrameType | None) -> None:
        if cancelling:
            raise KeyboardInterrupt
        # On a connection of its own: this one is in the middle of the run's output. Its answer is the run's end, which
        # is followed here anyway.
        cancelling.append(invocation.client())
        cancelling[0].stream(control.Cancel(run_id=run_id))
        print("Cancelling; Ctrl-C again leaves at once.", file=sys.stderr, flush=True)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        view: View = live.Follower(sys.stderr if invocation.json else sys.stdout).show(
            daemon.follow(run_id, output=True)
        )
    except client.Unreachable as error:
        raise cli_common.Failure(f"{error.message}; what became of run {run_id} says: schedctl wait {run_id}") from None
    finally:
        signal.signal(signal.SIGINT, before)
        for connection in cancelling:
            connection.close()
    return view


def _print_end(daemon: client.Client, view: View) -> None:
    print(f"Job '{view['job_id']}' completed with status: {view['status']}", flush=True)
    if view["more"]["result_bytes"]:
        print(f"Output: {cli_common.printable(repr(cli_common.result_of(daemon, view)))}", flush=True)


def _leave(view: View) -> int:
    """The last line on stderr, and the exit code."""
    if view["error"]:
        for line in view["error"].strip().splitlines():
            print(cli_common.printable(line), file=sys.stderr)
    code = exit_code(view)
    word = tables.cause(view) or ("completed" if view["exit_code"] is None else f"exit {view['exit_code']}")
    whose = "job" if view["reason"] in _OWN else "schedd"
    print(f"run {view['run_id']}: {word} ({whose})", file=sys.stderr)
    return code


def exit_code(view: View) -> int:
    """What `run` and `wait` leave with."""
    match view["reason"]:
        case None | "warning":
            return 0
        case "exit":
            return int(view["exit_code"])
        case "signal":
            return 128 + _signal_number(view["signal"])
        case "timeout":
            return 124
    return 1


def _signal_number(name: str) -> int:
    number = name.removeprefix("SIG")
    return int(number) if number.isdigit() else int(signal.Signals[name])


def _print_run_id(invocation: cli_common.Invocation, run_id: int) -> None:
    if invocation.json:
        cli_common.print_json({"run_id": run_id})
    else:
        print(run_id)


@click.command("wait", cls=_Runner)
@click.argument("run_id", metavar="RUN", type=_RUN_ID, shell_complete=cli_common.complete_runs)
@click.option(
    "--timeout", type=cli_common.duration, metavar="D", help="Wait no longer than this, in seconds or as 1h30m."
)
def wait(run_id: int, timeout: float | None) -> int:
    """Wait for a run to end, and leave as `run` does."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        if timeout is not None:
            daemon.deadline = time.monotonic() + timeout
        try:
            view = client.last(daemon.follow(run_id))
        except TimeoutError:
            raise cli_common.Failure(f"run {run_id} has not ended in {timeout:g} s; it goes on") from None
        daemon.deadline = None
        if invocation.json:
            cli_common.print_json(cli_common.run_in_full(daemon, view))
        else:
            _print_end(daemon, view)
    return _leave(view)


@click.command("cancel", cls=cli_common.Command)
@click.argument("run_id", metavar="RUN", type=_RUN_ID, shell_complete=cli_common.complete_runs)
def cancel(run_id: int) -> None:
    """End a run with all its processes, and return when they are gone. A queued run is removed."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        view = daemon.request(control.Cancel(run_id=run_id))["run"]
        if invocation.json:
            cli_common.print_json(cli_common.run_in_full(daemon, view))
        else:
            print(f"Run {run_id} of job '{view['job_id']}' ended with status: {view['status']}")


@click.command("retry", cls=cli_common.Command)
@click.argument("run_id", metavar="RUN", type=_RUN_ID, shell_complete=cli_common.complete_runs)
def retry(run_id: int) -> None:
    """Start a new run of what this run was, and print its id."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        _print_run_id(invocation, daemon.request(control.Retry(run_id=run_id))["run_id"])


@click.command("history", cls=cli_common.Command)
@click.option("--job", "job_id", metavar="J", shell_complete=cli_common.complete_jobs, help="Only runs of this job.")
@click.option("--status", type=click.Choice([each.value for each in model.JobStatus]), help="Only runs that stand so.")
@click.option("--since", type=_since, metavar="T", help="Only runs since a time, or within a duration such as 2h.")
@click.option("--limit", type=click.IntRange(1), default=50, metavar="N", help="At most so many; default 50.")
def history(job_id: str | None, status: str | None, since: int | None, limit: int) -> None:
    """Show past runs, the newest first."""
    invocation = cli_common.current()
    source = invocation.source()
    request = control.History(job_id=job_id, status=status, since=since, limit=min(limit, 200))
    found = cli_common.pages(source, request, "runs", "before")
    views = list(itertools.islice(found, limit))
    if invocation.json:
        cli_common.print_json([cli_common.run_in_full(source, view) for view in views])
    else:
        print(tables.runs(views, terminal=sys.stdout.isatty(), color=invocation.color))


@click.command("logs", cls=cli_common.Command)
@click.argument("which", metavar="RUN|JOB", shell_complete=cli_common.complete_jobs)
@click.option("--follow", "-f", is_flag=True, help="Go on until the run ends.")
@click.option("--stderr", "only_stderr", is_flag=True, help="Only what it wrote to stderr.")
def logs(which: str, follow: bool, only_stderr: bool) -> None:
    """Show the output of a run, or of a job's last run."""
    invocation = cli_common.current()
    source = invocation.source()
    view = _chosen(source, which)
    writer = live.Writer(sys.stdout)
    if follow and view["end_time"] is None and isinstance(source, client.Client):
        for item in source.follow(view["run_id"], output=True):
            match item["kind"]:
                case "output" if not only_stderr or item["stream"] == "stderr":
                    writer.write(item["data"])
                case "gap":
                    live.say_gap(item["bytes"])
    else:
        for piece in cli_common.read_all(source, view["run_id"], "stderr" if only_stderr else "output"):
            writer.write(piece)
    writer.finish()


def _chosen(source: cli_common.Source, which: str) -> View:
    """The run of this number, else the last run of this job that started."""
    if which.isdecimal() and which.isascii() and len(which) < 19:
        # The newest run before the next number.
        runs = source.request(control.History(before=int(which) + 1, limit=1))["runs"]
        if runs and runs[0]["run_id"] == int(which):
            return dict(runs[0])
    newest = None
    for view in _runs_of(source, which):
        if view["start_time"] is not None:
            return view
        newest = newest or view
    if newest is None:
        raise cli_common.Failure(f"job {which!r} never ran", control.NOT_FOUND)
    return newest


def _runs_of(source: cli_common.Source, job_id: str) -> Iterator[View]:
    try:
        yield from cli_common.pages(source, control.History(job_id=job_id), "runs", "before")
    except client.RequestError as error:
        if error.code != control.NOT_FOUND:
            raise
        raise cli_common.Failure(f"no run and no job {job_id!r}; see: schedctl history", error.code) from None


@click.command("progress", cls=cli_common.Command)
@click.argument("done", metavar="N", type=float)
@click.argument("total", metavar="[TOTAL]", type=float, required=False)
@click.argument("message", metavar="[MESSAGE]", nargs=-1)
def progress(done: float, total: float | None, message: tuple[str, ...]) -> None:
    """In a job: say how far it is. It counts as a sign of life, too."""
    report = os.environ.get("LNMT_REPORT_FD", "")
    if not report.isdecimal():
        raise cli_common.Failure("progress is for the command of a job, where LNMT_REPORT_FD is set; this is none")
    try:
        channel.send_report(int(report), messages.Progress(done=done, total=total, message=" ".join(message)[:1000]))
    except (OSError, OverflowError, codec.ProtocolError, frames.FrameError) as error:
        raise cli_common.Failure(f"progress could not be reported to descriptor {report}: {error}") from None


COMMANDS = {
    "run": run,
    "wait": wait,
    "cancel": cancel,
    "retry": retry,
    "history": history,
    "logs": logs,
    "progress": progress,
}
