import os
import subprocess
import sys

import click
import fakes
import pytest
import samples

from lnmt_scheduler.supervisor import cli, cli_common

PROGRAM = [sys.executable, "-c", "from lnmt_scheduler.supervisor.cli import main; main()"]
_JOBS = {"jobs": [], "more": None}


def test_an_unreachable_daemon_is_69_and_one_line(schedctl):
    done = schedctl("status")
    assert done.code == 69
    assert done.err == f"schedctl: the daemon is not running at {schedctl.path}; start it with: {_hint()}\n"
    assert done.out == ""


def _hint():
    return "systemctl start lnmt-scheduler" if os.geteuid() == 0 else "schedd"


def test_the_hint_names_the_state_directory(tmp_path, capsys):
    assert cli.run(["status", "--state-dir", str(tmp_path)]) == 69
    assert f"start it with: schedd --state-dir {tmp_path}\n" in capsys.readouterr().err


def test_a_socket_without_permission_is_77(schedctl, monkeypatch):
    def refuse(_):
        raise fakes.Refuse(77, "nobody has no role here; ask an administrator")

    schedctl.serve(hello=refuse)
    done = schedctl("list")
    assert (done.code, done.err) == (77, "schedctl: nobody has no role here; ask an administrator\n")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["lisst"], "No such command 'lisst'"),
        (["list", "--nope"], "No such option"),
        (["show"], "Missing argument 'JOB'"),
        (["cancel", "abc"], "Invalid value for 'RUN'"),
        (["list", "-o", "xml"], "Invalid value for '--format'"),
        (["history", "--limit", "0"], "Invalid value for '--limit'"),
        (["history", "--since", "soon"], "'soon' is neither a time"),
        (["history", "--status", "bad"], "Invalid value for '--status'"),
        (["list", "--system", "--user"], "--system and --user exclude each other"),
    ],
)
def test_a_mistake_on_the_command_line_is_2_and_one_line(schedctl, arguments, message):
    done = schedctl(*arguments)
    assert done.code == 2
    assert message in done.err
    assert done.err.startswith("schedctl: ")
    assert done.err.count("\n") == 1
    assert "see: schedctl" in done.err


def test_without_a_command_the_way_to_the_help_is_shown(schedctl):
    done = schedctl()
    assert (done.code, done.err) == (2, "schedctl: Missing command; see: schedctl --help\n")


def test_the_help_is_grouped(schedctl):
    done = schedctl("--help")
    assert done.code == 0
    daily, definitions, daemon = (done.out.index(f"{title}:") for title in ("Daily", "Definitions", "Daemon"))
    assert daily < done.out.index("  list ") < definitions < done.out.index("  add ") < daemon
    assert daemon < done.out.index("  status ")


def test_every_command_is_there_and_says_what_the_help_says():
    for section in cli.SECTIONS.values():
        for name, (_, summary) in section.items():
            command = cli.cli.get_command(click.Context(cli.cli), name)
            assert command.name == name
            assert command.help.startswith(summary.rstrip(".")) or name in ("remove", "validate", "retry", "drain")


@pytest.mark.parametrize("name", [name for section in cli.SECTIONS.values() for name in section])
def test_every_command_has_help_and_takes_the_global_options(schedctl, name):
    done = schedctl(name, "--help")
    assert done.code == 0
    assert "Global options:" in done.out
    assert "--state-dir DIR" in done.out


def test_global_options_may_stand_before_or_after_the_command(schedctl):
    schedctl.serve(list=lambda _: _JOBS)
    assert schedctl("-o", "json", "list").out == "[]\n"
    assert schedctl("list", "-o", "json").out == "[]\n"
    assert schedctl("list", "--format=json").out == "[]\n"


def test_the_version_is_the_packages(schedctl):
    from importlib import metadata  # noqa: PLC0415 - as the option does

    assert schedctl("--version").out == f"schedctl {metadata.version('lnmt-scheduler')}\n"


def test_an_error_of_the_daemon_keeps_its_code_and_details(schedctl):
    def show(_):
        raise fakes.Refuse(3, "no job 'x'; see: schedctl list", ["one", "two"])

    schedctl.serve(show=show)
    done = schedctl("show", "x")
    assert done.code == 3
    assert done.err == "schedctl: no job 'x'; see: schedctl list\n  one\n  two\n"


def test_control_characters_of_an_error_are_escaped(schedctl):
    def show(_):
        raise fakes.Refuse(3, "no job '\033[31mx'")

    schedctl.serve(show=show)
    assert schedctl("show", "x").err == "schedctl: no job '\\x1b[31mx'\n"


@pytest.mark.parametrize(
    ("text", "shown"),
    [("plain ü", "plain ü"), ("a\tb\n", "a\\tb\\n"), ("\033]0;x\007", "\\x1b]0;x\\x07"), ("\u202egpj", "\\u202egpj")],
)
def test_what_a_terminal_would_obey_is_escaped(text, shown):
    assert cli_common.printable(text) == shown


def test_only_what_a_command_needs_is_imported(schedctl):
    """`list` over the socket: nothing of the daemon, no sqlite3 and no validation."""
    schedctl.serve(list=lambda _: _JOBS)
    code = """
import sys
from lnmt_scheduler.supervisor import cli
code = cli.run(sys.argv[1:])
heavy = {"sqlite3", "msgspec", "croniter", "psutil", "asyncio", "tabulate", "importlib.metadata"} & sys.modules.keys()
assert not heavy, heavy
sys.exit(code)
"""
    command = [sys.executable, "-c", code, "list", "-o", "json", "--socket", schedctl.path]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "[]\n", "")


def test_a_reader_that_goes_away_is_no_error(schedctl):
    many = {"jobs": [samples.job(f"job-{n}") for n in range(50)], "more": None}
    schedctl.serve(list=lambda _: many)
    done = subprocess.run(
        ["sh", "-c", '"$@" | head -n 1', "sh", *PROGRAM, "list", "--socket", schedctl.path],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.stderr == ""
    assert done.stdout.startswith("┌")


def test_a_narrow_encoding_does_not_fail(schedctl):
    schedctl.serve(list=lambda _: {"jobs": samples.seed_jobs(), "more": None})
    done = subprocess.run(
        [*PROGRAM, "list", "--socket", schedctl.path],
        capture_output=True,
        check=False,
        env={**os.environ, "PYTHONIOENCODING": "ascii"},
    )
    assert (done.returncode, done.stderr) == (0, b"")


def _completed(schedctl, *words):
    environment = {
        **os.environ,
        "_SCHEDCTL_COMPLETE": "bash_complete",
        "COMP_WORDS": " ".join(["schedctl", *words]),
        "COMP_CWORD": str(len(words)),
    }
    code = "import sys; sys.argv[0] = 'schedctl'; from lnmt_scheduler.supervisor.cli import main; main()"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, env=environment)
    assert done.stderr == ""
    return [line.partition(",")[2] for line in done.stdout.splitlines() if line]


def test_commands_are_completed(schedctl):
    assert _completed(schedctl, "ex") == ["export"]


def test_job_ids_are_completed_from_the_daemon(schedctl):
    server = schedctl.serve(complete=lambda _: {"values": ["net-a", "net-b"]})
    assert _completed(schedctl, "--socket", schedctl.path, "show", "net") == ["net-a", "net-b"]
    assert server.asked("complete") == [{"what": "job", "prefix": "net"}]


def test_events_are_completed_from_the_daemon(schedctl):
    schedctl.serve(complete=lambda fields: {"values": ["up"] if fields["what"] == "event" else []})
    assert _completed(schedctl, "--socket", schedctl.path, "trigger", "u") == ["up"]


def test_runs_are_completed_from_the_daemon(schedctl):
    schedctl.serve(complete=lambda fields: {"values": ["12"] if fields["what"] == "run" else []})
    assert _completed(schedctl, "--socket", schedctl.path, "cancel", "1") == ["12"]


def test_completion_is_silent_while_the_daemon_is_down(schedctl):
    assert _completed(schedctl, "--socket", schedctl.path, "show", "net") == []


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_script_calls_schedctl(schedctl, shell):
    done = schedctl("completion", shell)
    assert done.code == 0
    assert "_SCHEDCTL_COMPLETE" in done.out
