"""schedctl: the command line of the daemon.

This module is the list of commands and the way out: every error becomes one line on stderr and an exit code. The
commands themselves are in cli_*.py, and only the module of the one that was called is imported.
"""

# ruff: noqa: PLC0415 - an import waits for the command that needs it, for each costs time at every call

import importlib
import sys
from typing import Any, NoReturn

import click

from lnmt_scheduler.supervisor import cli_common, version

_JOBS, _DEFINE, _RUNS, _FLOW, _FORECAST, _WHY, _CHECK, _CRONTAB, _WATCH, _SANDBOX, _DAEMON, _STORE, _NOTIFY = (
    f"lnmt_scheduler.supervisor.cli_{name}"
    for name in (
        "jobs",
        "define",
        "runs",
        "flow",
        "forecast",
        "why",
        "check",
        "crontab",
        "watch",
        "sandbox",
        "daemon",
        "store",
        "notify",
    )
)

#: Section -> command -> (module, what it does), in the order of the help. A module's COMMANDS has the command itself.
SECTIONS: dict[str, dict[str, tuple[str, str]]] = {
    "Daily": {
        "list": (_JOBS, "List the jobs."),
        "show": (_JOBS, "Show one job in full, with its last run."),
        "run": (_RUNS, "Run a job now and show its output."),
        "wait": (_RUNS, "Wait for a run to end."),
        "cancel": (_RUNS, "End a run with all its processes."),
        "retry": (_RUNS, "Run again what a run was."),
        "history": (_RUNS, "Show past runs, the newest first."),
        "logs": (_RUNS, "Show the output of a run, or of a job's last run."),
        "why": (_WHY, "Say why a job runs or not, now or at a time."),
        "forecast": (_FORECAST, "Say what will run when, and how crowded it gets."),
        "pause": (_FLOW, "Keep a job, or all of them, from starting by itself for a while."),
        "resume": (_FLOW, "End a pause."),
        "trigger": (_FLOW, "Start the jobs of an event."),
        "progress": (_RUNS, "In a job: say how far it is."),
    },
    "Definitions": {
        "add": (_DEFINE, "Add a job."),
        "edit": (_DEFINE, "Change a job."),
        "rename": (_FLOW, "Give a job another id."),
        "remove": (_JOBS, "Remove a job."),
        "enable": (_JOBS, "Let a job's schedule start it."),
        "disable": (_JOBS, "Keep a job's schedule from starting it."),
        "export": (_DEFINE, "Write all jobs as a job file."),
        "import": (_DEFINE, "Add or replace the jobs of job files, all or none."),
        "import-crontab": (_CRONTAB, "Make jobs of the lines of crontabs."),
        "validate": (_DEFINE, "Check job files, or the registered jobs."),
    },
    "Sandbox": {
        "sandbox": (_SANDBOX, "Show, test or enter the sandbox of a job."),
        "doctor": (_SANDBOX, "Show what this host offers for sandboxes, and what is missing."),
    },
    "Daemon": {
        "status": (_DAEMON, "Show the daemon's health."),
        "watch": (_WATCH, "Show what runs, waits, comes next and has ended, live."),
        "check": (_CHECK, "Say in one line for a monitoring system how the daemon, or a job, is."),
        "reload": (_DAEMON, "Read configuration and job files again."),
        "drain": (_DAEMON, "Start nothing new and wait for what runs."),
        "restart": (_DAEMON, "Replace the supervisor while runs go on."),
        "stop": (_DAEMON, "Stop the daemon and what runs."),
        "backup": (_STORE, "Copy the store into a file, checked."),
        "store": (_STORE, "Check or rebuild the store."),
        "notify": (_NOTIFY, "Try the targets of notices."),
        "audit": (_DAEMON, "Show who changed or ran what, the newest first."),
        "completion": (_DAEMON, "Print the completion script of a shell."),
    },
}
_COMMANDS = {name: entry for section in SECTIONS.values() for name, entry in section.items()}


class _Group(click.Group):
    def list_commands(self, _ctx: click.Context) -> list[str]:
        return list(_COMMANDS)

    def get_command(self, _ctx: click.Context, name: str) -> click.Command | None:
        if name not in _COMMANDS:
            return None
        command: click.Command = importlib.import_module(_COMMANDS[name][0]).COMMANDS[name]
        return command

    def format_commands(self, _ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, commands in SECTIONS.items():
            with formatter.section(title):
                formatter.write_dl([(name, text) for name, (_, text) in commands.items()])


def _print_version(context: click.Context, _parameter: click.Parameter, value: bool) -> None:
    if value and not context.resilient_parsing:
        print(f"schedctl {version.VERSION}")
        context.exit()


cli = _Group(
    "schedctl",
    no_args_is_help=False,
    help="Control schedd, the job scheduler.\n\nOptions may stand before or after the command.",
    params=[
        *cli_common.global_options(),
        click.Option(
            ["--version"], is_flag=True, expose_value=False, is_eager=True, callback=_print_version,
            help="Show the version.",
        ),
    ],
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
)  # fmt: skip


def run(arguments: list[str]) -> int:
    """Do what the arguments say; the exit code."""
    invocation = cli_common.Invocation()
    try:
        code: Any = cli.main(arguments, prog_name="schedctl", standalone_mode=False, obj=invocation)
    except click.exceptions.Abort:
        print(file=sys.stderr)
        return 130  # as a shell says that SIGINT ended it
    except click.UsageError as error:
        path = error.ctx.command_path if error.ctx else "schedctl"
        words = error.format_message().rstrip(".")
        return _fail(error.exit_code, f"{words}; see: {path} --help")
    except cli_common.Failure as error:
        return _fail(error.code, error.message, error.details)
    except click.ClickException as error:
        return _fail(error.exit_code, error.format_message())
    except Exception as error:
        from lnmt_scheduler.supervisor import client

        if not isinstance(error, client.RequestError):
            raise
        return _fail(error.code, error.message, error.details)
    return int(code or 0)


def _fail(code: int, message: str, details: tuple[str, ...] = ()) -> int:
    for line in (f"schedctl: {message}", *(f"  {detail}" for detail in details)):
        print(cli_common.printable(line), file=sys.stderr)
    return code


def main() -> NoReturn:
    # Neither a terminal's encoding nor a name from elsewhere is a reason to fail.
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]  # they are text files at this point
    sys.exit(run(sys.argv[1:]))
