"""status, reload, drain, restart, stop, audit, completion: the daemon itself."""

import itertools
import sys

import click
from click import shell_completion

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import cli_common, tables, views

#: Seconds in which a supervisor that replaces another takes up the open runs of a large store.
_RESTART_S = 60.0


@click.command("status", cls=cli_common.Command)
def status() -> None:
    """Show the daemon's health."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        state = daemon.request(control.State())
    if invocation.json:
        cli_common.print_json(views.state_json(state))
    else:
        print(tables.state(state))


@click.command("reload", cls=cli_common.Command)
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
def reload(dry_run: bool) -> None:
    """Read configuration and job files again. All of it is checked before any of it applies."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        stream = daemon.stream(control.Reload(dry_run=dry_run))
        cli_common.print_changes(invocation, stream, dry_run=dry_run)


@click.command("drain", cls=cli_common.Command)
@click.option("--timeout", type=cli_common.duration, metavar="D", help="Wait no longer than this; 1 if runs are left.")
def drain(timeout: float | None) -> None:
    """Start nothing new and wait until nothing runs."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        running = daemon.request(control.Drain(timeout=timeout))["running"]
    if invocation.json:
        cli_common.print_json({"running": running})
    else:
        print("Nothing runs, and nothing new will start until the daemon is restarted.")


@click.command("restart", cls=cli_common.Command)
def restart() -> None:
    """Replace the supervisor while runs go on, by what is installed now, and return when the new one answers."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        before = daemon.request(control.Restart())
        daemon.reconnect(_RESTART_S)
        after = {"pid": daemon.server["pid"], "version": daemon.server["version"]}
    if invocation.json:
        cli_common.print_json({"before": before, "after": after})
    else:
        was, is_now = (f"{each['version']} (pid {each['pid']})" for each in (before, after))
        print(f"The supervisor was replaced: {was} by {is_now}. Runs go on.")


@click.command("stop", cls=cli_common.Command)
def stop() -> None:
    """Stop the daemon and what runs, and return when it has stopped."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        daemon.stop()
    if invocation.json:
        cli_common.print_json({"stopped": True})
    else:
        print("The daemon has stopped.")


@click.command("audit", cls=cli_common.Command)
@click.option("--limit", type=click.IntRange(1), default=100, metavar="N", help="At most so many; default 100.")
def audit(limit: int) -> None:
    """Show who changed or ran what, the newest first."""
    invocation = cli_common.current()
    request = control.Audit(limit=min(limit, 500))
    found = cli_common.pages(invocation.source(), request, "entries", "before")
    entries = itertools.islice(found, limit)
    if invocation.json:
        cli_common.print_json([views.with_times(entry, ("time",)) for entry in entries])
    else:
        print(tables.audit(entries, terminal=sys.stdout.isatty()))


@click.command("completion", cls=cli_common.Command)
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> None:
    """Print the completion script of a shell, to be sourced by it: eval "$(schedctl completion bash)"."""
    context = click.get_current_context()
    kind = shell_completion.get_completion_class(shell)
    if kind is None:
        raise cli_common.Failure(f"no completion for {shell}")
    print(kind(context.find_root().command, {}, "schedctl", "_SCHEDCTL_COMPLETE").source())


COMMANDS = {
    "status": status,
    "reload": reload,
    "drain": drain,
    "restart": restart,
    "stop": stop,
    "audit": audit,
    "completion": completion,
}
