"""list, show, remove, enable, disable: what is registered."""

# ruff: noqa: PLC0415 - an import waits for the command that needs it, for each costs time at every call

import sys

import click

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import cli_common


@click.command("list", cls=cli_common.Command)
@click.option("--enabled", is_flag=True, help="Only jobs that their schedule may start.")
@click.option("--tag", metavar="T", help="Only jobs with this tag.")
def list_jobs(enabled: bool, tag: str | None) -> None:
    """List the jobs."""
    invocation = cli_common.current()
    request = control.List(tag=tag, enabled=True if enabled else None)
    jobs = cli_common.pages(invocation.source(), request, "jobs", "after")
    if invocation.json:
        from lnmt_scheduler.supervisor import views

        cli_common.print_json([views.job_json(job) for job in jobs])
    else:
        from lnmt_scheduler.supervisor import tables

        print(tables.jobs(jobs, terminal=sys.stdout.isatty(), color=invocation.color))


@click.command("show", cls=cli_common.Command)
@click.argument("job_id", metavar="JOB", shell_complete=cli_common.complete_jobs)
@click.option("--env", "environment", is_flag=True, help="With the environment that it gets.")
def show(job_id: str, environment: bool) -> None:
    """Show one job in full, with its last run."""
    from lnmt_scheduler.supervisor import tables, views

    invocation = cli_common.current()
    source = invocation.source()
    found = source.request(control.Show(job_id=job_id, environment=environment))
    job, origins, last = found["job"], found["origins"], found["last"]
    variables = found["environment"] if environment else None
    if invocation.json:
        more = {"environment": variables} if environment else {}
        run = None if last is None else cli_common.run_in_full(source, last)
        cli_common.print_json({**views.job_json(job), "origins": origins, "last": run, **more})
    else:
        print(tables.job(job, origins, last, variables))


@click.command("remove", cls=cli_common.Command)
@click.argument("job_id", metavar="JOB", shell_complete=cli_common.complete_jobs)
@click.option("--purge", is_flag=True, help="Its history, output and state directory too.")
def remove(job_id: str, purge: bool) -> None:
    """Remove a job. A run of it that is under way ends by itself."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        daemon.request(control.Remove(job_id=job_id, purge=purge))
    if invocation.json:
        cli_common.print_json({"job_id": job_id, "removed": True})
    else:
        print(f"Job '{job_id}' removed.")


@click.command("enable", cls=cli_common.Command)
@click.argument("job_id", metavar="JOB", shell_complete=cli_common.complete_jobs)
def enable(job_id: str) -> None:
    """Let a job's schedule start it."""
    _switch(control.Enable(job_id=job_id), job_id, "enabled")


@click.command("disable", cls=cli_common.Command)
@click.argument("job_id", metavar="JOB", shell_complete=cli_common.complete_jobs)
def disable(job_id: str) -> None:
    """Keep a job's schedule from starting it. Runs that wait are skipped; one that is under way goes on."""
    _switch(control.Disable(job_id=job_id), job_id, "disabled")


def _switch(request: object, job_id: str, done: str) -> None:
    invocation = cli_common.current()
    with invocation.client() as daemon:
        job = daemon.request(request)["job"]
    if invocation.json:
        from lnmt_scheduler.supervisor import views

        cli_common.print_json(views.job_json(job))
    else:
        print(f"Job '{job_id}' {done}.")


COMMANDS = {"list": list_jobs, "show": show, "remove": remove, "enable": enable, "disable": disable}
