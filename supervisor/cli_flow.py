"""pause, resume, trigger, rename: what starts by itself, and under which name."""

# ruff: noqa: PLC0415 - an import waits for the command that needs it, for each costs time at every call

import json
from typing import Any

import click

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import cli_common


@click.command("pause", cls=cli_common.Command)
@click.argument("job_id", metavar="[JOB]", required=False, shell_complete=cli_common.complete_jobs)
@click.option("--for", "seconds", type=cli_common.duration, metavar="D", help="Resume by itself after this: 2h, 30m.")
@click.option("--reason", metavar="TEXT", help="Why, for those who see it.")
def pause(job_id: str | None, seconds: float | None, reason: str | None) -> None:
    """Keep a job, or all of them, from starting by itself for a while. What runs, waits or retries goes on."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        found = daemon.request(control.Pause(job_id=job_id, seconds=seconds, reason=reason))["pause"]
    if invocation.json:
        from lnmt_scheduler.supervisor import views

        cli_common.print_json(views.pause_json(found))
    else:
        from lnmt_scheduler.supervisor import tables

        until = "until it is resumed" if found["until"] is None else f"until {tables.second(found['until'])}"
        print(f"{_what(job_id)} paused {until}.")


@click.command("resume", cls=cli_common.Command)
@click.argument("job_id", metavar="[JOB]", required=False, shell_complete=cli_common.complete_jobs)
def resume(job_id: str | None) -> None:
    """End a pause, of a job or of the whole schedule. What came meanwhile does not run."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        found = daemon.request(control.Resume(job_id=job_id))["pause"]
    if invocation.json:
        from lnmt_scheduler.supervisor import views

        cli_common.print_json({"resumed": None if found is None else views.pause_json(found)})
    elif found is None:
        print(f"{_what(job_id)} was not paused.")
    else:
        print(f"{_what(job_id)} resumed.")


def _what(job_id: str | None) -> str:
    return "The whole schedule" if job_id is None else f"Job '{job_id}'"


@click.command("trigger", cls=cli_common.Command)
@click.argument("event", metavar="EVENT", shell_complete=cli_common.complete_events)
@click.option("--data", metavar="JSON", help="What the jobs get as their event.")
def trigger(event: str, data: str | None) -> None:
    """Start the jobs of an event: those whose on_event names it."""
    invocation = cli_common.current()
    request = control.Trigger(event=event, data=_read(data))
    with invocation.client() as daemon:
        runs = daemon.request(request)["runs"]
    if invocation.json:
        cli_common.print_json(runs)
        return
    for run in runs:
        if run["status"] == "skipped":
            print(f"Job '{run['job_id']}' skipped: {run['reason']}: {cli_common.printable(run['error'] or '')}")
        else:
            print(f"Job '{run['job_id']}' started: run {run['run_id']}")


def _read(data: str | None) -> Any:
    try:
        return None if data is None else json.loads(data)
    except ValueError as error:
        raise click.BadParameter(f"--data {data!r} is not JSON: {error}") from None


@click.command("rename", cls=cli_common.Command)
@click.argument("job_id", metavar="JOB", shell_complete=cli_common.complete_jobs)
@click.argument("new_id", metavar="NEW")
def rename(job_id: str, new_id: str) -> None:
    """Give a job another id. Its history stays with it, and jobs that name it follow."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        answer = daemon.request(control.Rename(job_id=job_id, new_id=new_id))
    if invocation.json:
        from lnmt_scheduler.supervisor import views

        cli_common.print_json({"job": views.job_json(answer["job"]), "followed": answer["followed"]})
        return
    print(f"Job '{job_id}' is now '{new_id}'.")
    for other in answer["followed"]:
        print(f"Job '{other}' names it by its new id.")


COMMANDS = {"pause": pause, "resume": resume, "trigger": trigger, "rename": rename}
