"""schedctl's reference pages against a real daemon: every command of theirs runs, and every shape is what is printed."""

import json
import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import harness
import pytest

from lnmt_scheduler.supervisor import views

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"
#: Maps whose keys are the job's, the user's or the host's.
OPEN = {"skipped", "kwargs", "environment", "result", "enforced", "origins", "after", "before", "limits", "secrets"}

SESSION = re.findall(r"^\$ (schedctl .*)$", (REFERENCE / "cli.md").read_text(), re.MULTILINE)
EXAMPLES = {
    name: json.loads(text)
    for name, text in re.findall(
        r"^## `([a-z]+)`$.*?^```json\n(.*?)^```$", (REFERENCE / "json.md").read_text(), re.MULTILINE | re.DOTALL
    )
}


def test_the_session_of_the_reference_runs(daemon, tmp_path):
    assert len(SESSION) > 25
    (tmp_path / "tab").write_text("0 7 * * * df -h /\n")  # as the page's own line makes it
    for line in SESSION:
        program, *arguments = shlex.split(line)
        assert program == "schedctl"
        done = subprocess.run(
            [harness.SCHEDCTL, "--state-dir", str(daemon.state_dir), *arguments],
            cwd=tmp_path,
            capture_output=True,
            text=True,
            timeout=60,
        )
        assert done.returncode == 0, f"{line}\n{done.stdout}{done.stderr}"


def test_the_session_uses_every_command():
    from lnmt_scheduler.supervisor import cli  # noqa: PLC0415 - only for the list of commands

    used = {word for line in SESSION for word in shlex.split(line)}
    commands = {name for section in cli.SECTIONS.values() for name in section}
    # `cancel` needs a run that lasts, `progress` a job around it, `notify` somebody to tell, `doctor` says by its exit code
    # what the host lacks: they have tests of their own.
    assert commands - used == {"cancel", "progress", "doctor", "backup", "store", "notify"}


def test_show_says_that_a_person_switched_a_job_off(daemon):
    daemon.add(id="a", command="true")
    assert daemon.ctl("show", "a", "-o", "json").json["origins"].get("enabled") is None
    daemon.ctl("disable", "a")
    assert "false  (schedctl disable)" in daemon.ctl("show", "a").stdout
    daemon.stop()
    assert "false  (schedctl disable)" in daemon.ctl("show", "a").stdout


def test_words_of_ours_begin_a_line_after_output_that_ends_within_one(daemon):
    daemon.add(id="a", command="printf half; printf other >&2")
    done = daemon.ctl("run", "a")
    assert done.stdout.splitlines()[1:3] == ["half", "Job 'a' completed with status: completed"]
    assert done.stderr.splitlines() == ["other", "run 1: exit 0 (job)"]
    assert daemon.ctl("logs", "1").stdout in ("halfother", "otherhalf")


@pytest.mark.parametrize("event", ["0", "false", '""', "[]", "{}"])
def test_an_event_may_be_false_or_empty(daemon, event):
    daemon.add(id="a", command='echo "$LNMT_EVENT"')
    assert daemon.ctl("run", "a", "--event", event).stdout.splitlines()[1] == event


@pytest.fixture
def polled(daemon, folder):
    """A daemon with the job of the examples, which has run once."""
    module = folder / "example_polling.py"
    module.write_text("def poll(**_):\n    print('polling 1 device')\n    return {'router-01': {'status': 'online'}}\n")
    daemon.job_file = str(folder / "jobs.json")
    definition = {
        "id": "network_poll",
        "name": "Network Device Polling",
        "module": "example_polling",
        "function": "poll",
        "schedule": "0 0 1 1 *",
        "priority": 3,
        "kwargs": {"timeout": 30, "api_token": "abc"},
        "python_path": [str(folder)],
        "tags": ["net"],
    }
    Path(daemon.job_file).write_text(json.dumps({"jobs": [definition]}))
    return daemon


def _compare(example, found, name=""):
    """Same keys, same types; null may stand for a value on either side, and one element speaks for a list."""
    match example, found:
        case (None, _) | (_, None):
            pass
        case dict(), dict() if name not in OPEN:
            assert found.keys() == example.keys(), name
            for key in example:
                _compare(example[key], found[key], key)
        case [], _:
            assert isinstance(found, list), name
        case [first, *_], [*others]:
            for each in others:
                _compare(first, each, name)
        case (bool(), _) | (_, bool()):
            assert type(example) is type(found), name
        case _:
            numbers = (int, float)
            assert type(example) is type(found) or (isinstance(example, numbers) and isinstance(found, numbers)), name


def test_what_json_prints_is_what_the_reference_shows(polled):
    def ctl(*arguments):
        done = polled.ctl(*arguments, "-o", "json")
        assert done.code == 0, done
        return done.json

    _compare(EXAMPLES["add"], ctl("add", "--file", polled.job_file))
    ctl("remove", "network_poll")
    _compare(EXAMPLES["import"], ctl("import", polled.job_file))
    _compare(EXAMPLES["run"], ctl("run", "network_poll"))
    _compare(EXAMPLES["run"], ctl("wait", "1"))
    _compare([EXAMPLES["run"]], ctl("history"))
    _compare(EXAMPLES["list"], ctl("list"))
    show = ctl("show", "network_poll", "--env")
    _compare(EXAMPLES["show"], show)
    assert show["kwargs"] == {"timeout": 30, "api_token": "***"}
    assert ctl("export")["jobs"][0]["kwargs"]["api_token"] == "abc"
    assert ctl("export").keys() == EXAMPLES["export"].keys()
    _compare(EXAMPLES["validate"], ctl("validate"))
    _compare(EXAMPLES["status"], ctl("status"))
    _compare(EXAMPLES["pause"], ctl("pause", "network_poll", "--for", "2h", "--reason", "no"))
    assert ctl("list")[0]["paused"] == ctl("status")["paused"][0] == ctl("resume", "network_poll")["resumed"]
    polled.add(id="on_link", command="true", on_event="link")
    _compare(EXAMPLES["trigger"], ctl("trigger", "link"))
    assert ctl("rename", "on_link", "linked")["followed"] == []
    _compare(EXAMPLES["sandbox"], ctl("sandbox", "show", "network_poll"))
    _compare(EXAMPLES["measure"], polled.ctl("sandbox", "test", "network_poll", "-o", "json").json)
    _compare(EXAMPLES["doctor"], polled.ctl("doctor", "-o", "json").json)
    _compare(EXAMPLES["forecast"], ctl("forecast", "--until", "370d"))
    _compare(EXAMPLES["why"], ctl("why", "network_poll"))
    _compare(EXAMPLES["check"], ctl("check", "--max-age", "1d"))
    _compare(EXAMPLES["watch"], ctl("watch", "--once"))
    _compare(EXAMPLES["audit"], ctl("audit", "--limit", "1"))
    _compare(EXAMPLES["restart"], ctl("restart"))
    _compare(EXAMPLES["drain"], ctl("drain"))
    _compare(EXAMPLES["remove"], ctl("remove", "network_poll"))
    _compare(EXAMPLES["stop"], ctl("stop"))


def test_every_example_of_the_reference_is_looked_at():
    assert EXAMPLES.keys() == {
        "list", "run", "show", "add", "import", "export", "validate", "status", "sandbox", "measure", "doctor", "audit",
        "remove", "restart", "drain", "stop", "pause", "trigger",
        "forecast", "why", "check", "watch",
    }  # fmt: skip


def test_a_forecast_goes_by_the_configuration_that_the_daemon_holds_to(make_daemon, folder):
    # Not the config.toml of its state directory.
    path = folder / "elsewhere.toml"
    path.write_text('timezone = "Asia/Tokyo"\nmax_concurrent_jobs = 3\nreserved_slots = 2\n[pools]\nslow = 1\n')
    daemon = make_daemon("--config", str(path), config=None)
    for job_id in ("a", "b"):
        daemon.add(id=job_id, command="true", schedule="0 2 * * *")

    def told():
        done = daemon.ctl("forecast", "--from", "2027-02-01T00:00Z", "-o", "json")
        assert done.code == 0, done
        return {each["local"] for each in done.json["fires"]}, done.json["peak"]["running"]

    expected = {"2027-02-02T02:00:00+09:00"}, 1
    assert told() == expected
    assert daemon.ctl("status", "-o", "json").json.keys() == set(views.STATE_KEYS)
    state = daemon.status()
    assert {key: state[key] for key in ("zone", "reserved_slots", "aging", "pools")} == {
        "zone": "Asia/Tokyo", "reserved_slots": 2, "aging": 600, "pools": {"slow": 1},
    }  # fmt: skip
    path.write_text('timezone = "UTC"\n')  # and not taken
    assert told() == expected
    daemon.stop()
    assert told() == expected


def test_a_running_job_is_cancelled_with_its_processes(daemon):
    marker = f"cancel-me-{os.getpid()}"
    daemon.add(id="long", command=["sh", "-c", f"sleep 1000 & sleep 1000; : {marker}"])
    run_id = daemon.run("long")
    harness.wait_for(lambda: harness.processes_with(marker), what="the job")
    done = daemon.ctl("cancel", str(run_id), "-o", "json")
    assert done.code == 0, done
    assert done.json["status"] == "cancelled"
    assert harness.processes_with(marker) == []
    assert daemon.ctl("cancel", str(run_id)).code == 3


def test_a_command_reports_progress(daemon):
    # Trusted, because the interpreter of these tests may lie where no box shows it to a shell line.
    daemon.add(id="steps", command=f"{harness.SCHEDCTL} progress 3 10 working", sandbox="trusted")
    run_id = daemon.run("steps")
    with daemon.client() as connection:
        from lnmt_scheduler.ipc import control  # noqa: PLC0415 - for this one request

        items = list(connection.stream(control.Follow(run_id=run_id)))
    run = daemon.wait(run_id)
    assert run["status"] == "completed", daemon.output(run_id)
    # The job may be over before anybody looks; what must not be is an error.
    assert all(item["done"] == 3 for item in items if item["kind"] == "progress")


@pytest.mark.parametrize(
    ("command", "code", "last"),
    [
        ("exit 0", 0, "exit 0 (job)"),
        ("exit 7", 7, "exit 7 (job)"),
        ("kill -KILL $$", 137, "signal SIGKILL (job)"),
    ],
)
def test_run_leaves_as_the_job_did(daemon, command, code, last):
    daemon.add(id="x", command=command)
    done = daemon.ctl("run", "x")
    assert done.code == code
    assert done.stderr.splitlines()[-1] == f"run 1: {last}"


def test_a_job_that_takes_too_long_is_124(daemon):
    daemon.add(id="x", command="sleep 100", timeout=0.2, kill_grace=1)
    done = daemon.ctl("run", "x")
    assert done.code == 124
    assert done.stderr.splitlines()[-1] == "run 1: timeout (schedd)"


def test_an_export_can_be_imported_by_another_daemon(make_daemon, tmp_path):
    first, second = make_daemon(name="one"), make_daemon(name="two")
    first.add(id="a", command=["true"], schedule="@daily", environment={"TOKEN": "secret"}, max_retries=1)
    first.add(id="b", command="true", schedule="@daily", dependencies=["a"], enabled=False)
    path = str(tmp_path / "out.json")
    assert first.ctl("export", path).code == 0
    assert second.ctl("import", path).code == 0
    assert second.ctl("export").json == first.ctl("export").json
    assert second.ctl("import", path).stdout == "0 added, 0 changed, 0 removed, 2 unchanged\n"


def test_a_stopped_daemons_store_is_read(daemon):
    daemon.add(id="a", command="echo hello")
    daemon.run_to_end("a")
    with_daemon = daemon.ctl("list", "-o", "json"), daemon.ctl("history", "-o", "json")
    daemon.stop()
    without = daemon.ctl("list", "-o", "json"), daemon.ctl("history", "-o", "json")
    assert [done.json for done in without] == [done.json for done in with_daemon]
    assert "the daemon is not running" in without[0].stderr
    assert daemon.ctl("logs", "a").stdout == "hello\n"


def test_a_killed_daemons_store_is_read(daemon):
    daemon.add(id="a", command="echo hello")
    daemon.run_to_end("a")
    daemon.kill()
    done = harness.wait_for(lambda: (found := daemon.ctl("logs", "a")).code == 0 and found, what="the store let go")
    assert done.stdout == "hello\n"


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_the_completion_of_the_reference_can_be_sourced(shell):
    if shutil.which(shell) is None:
        pytest.skip(f"no {shell} on this host")
    (line,) = re.findall(rf"^(.*schedctl completion {shell}.*)$", (REFERENCE / "cli.md").read_text(), re.MULTILINE)[-1:]
    # zsh's completion functions are there after compinit, which a start-up file calls before.
    before = "autoload -Uz compinit; compinit -u; " if shell == "zsh" else ""
    path = f"{harness.BIN}:{os.environ['PATH']}"
    done = subprocess.run(
        [shell, "-c", before + line], capture_output=True, text=True, env={**os.environ, "PATH": path}, timeout=60
    )
    assert (done.returncode, done.stderr) == (0, ""), done
