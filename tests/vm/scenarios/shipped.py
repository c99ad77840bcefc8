"""The units that we ship, installed: start, reload, stop, and what systemd does when something of the daemon dies or hangs."""

import os
import pwd
import signal
import subprocess
from pathlib import Path

import harness
import pytest
from vm import installed, scenario, unit

SCENARIO = scenario.Scenario(seconds=400, is_long=True)

MARKER = "marker-of-shipped"
LONG = {
    "id": "long",
    "command": f"until [ -e /run/go ]; do sleep 0.3; done; exit 4 # {MARKER}",
    "sandbox": "trusted",
    "max_retries": 0,
    "kill_grace": 2,
}
QUICK = {"id": "quick", "command": "id -u"}
#: Seconds that systemd waits for a sign of life, instead of a minute.
WATCHDOG = 10


@pytest.fixture(scope="module")
def host():
    """A host on which `make install` was called."""
    installed.make_install()
    installed.configure(LONG, QUICK)


@pytest.fixture
def daemon(host):
    """The unit of root, running."""
    made = installed.Shipped()
    if made.show("ActiveState") != "active":
        made.start()
    return made


@pytest.fixture
def run_id(daemon):
    """A run of `long` that is under way."""
    Path("/run/go").unlink(missing_ok=True)
    made = daemon.run("long")
    harness.wait_for(lambda: harness.processes_with(MARKER), what="the job")
    return made


def reload(daemon):
    return subprocess.run(
        ["systemctl", "reload", daemon.service], capture_output=True, text=True, timeout=120
    ).returncode


def test_it_is_started_when_the_schedule_runs(daemon):
    assert (daemon.show("Type"), daemon.show("ActiveState"), daemon.show("SubState")) == ("notify", "active", "running")
    status = daemon.status()
    assert (status["launcher_pid"], status["jobs"], status["mode"]) == (daemon.launcher_pid, 2, "a")
    done = unit.systemd("/usr/local/bin/schedctl", "run", "quick")
    assert "exit 0 (job)" not in done  # that line is of stderr
    assert "completed" in done


def test_a_reload_takes_what_is_right_and_refuses_what_is_wrong_with_the_reason(daemon):
    installed.configure(LONG, QUICK, {**QUICK, "id": "added"})
    assert reload(daemon) == 0
    assert daemon.status()["jobs"] == 3
    installed.configure(LONG, {**QUICK, "schedule": "61 * * * *"})
    try:
        assert reload(daemon) != 0
        assert "key 'schedule': minute \"61\"" in daemon.log
        assert (daemon.show("ActiveState"), daemon.status()["jobs"]) == ("active", 3)
    finally:
        installed.configure(LONG, QUICK)
    assert reload(daemon) == 0
    assert daemon.status()["jobs"] == 2


def test_a_stop_records_what_it_has_ended(daemon, run_id):
    assert daemon.stop() == 0
    assert harness.processes_with(MARKER) == []
    assert (daemon.show("Result"), daemon.show("ActiveState")) == ("success", "inactive")
    row = next(each for each in daemon.ctl("history", "--format", "json").json if each["run_id"] == run_id)
    assert (row["status"], row["reason"]) == ("failed", "stopped")


def test_a_supervisor_that_hangs_is_replaced_and_its_run_goes_on(daemon):
    daemon.drop_in(f"WatchdogSec={WATCHDOG}")
    daemon.stop()
    daemon.start()
    Path("/run/go").unlink(missing_ok=True)
    run_id, launcher, before = daemon.run("long"), daemon.launcher_pid, daemon.supervisor_pid
    os.kill(before, signal.SIGSTOP)
    harness.wait_for(lambda: daemon.log.count("it is killed and replaced"), what="the hang to be seen")
    Path("/run/go").touch()
    harness.wait_for(daemon.answers, what="another supervisor")
    assert daemon.wait(run_id)["exit_code"] == 4
    assert daemon.supervisor_pid != before
    assert (daemon.launcher_pid, daemon.show("NRestarts")) == (launcher, "0")


@pytest.mark.parametrize(("number", "result"), [(signal.SIGKILL, "signal"), (signal.SIGSTOP, "watchdog")])
def test_a_launcher_that_dies_or_hangs_is_started_anew_and_nothing_is_left(daemon, run_id, number, result):
    launcher, before = daemon.launcher_pid, set(harness.processes_with(MARKER))
    restarts = int(daemon.show("NRestarts"))
    os.kill(launcher, number)
    harness.wait_for(lambda: daemon.launcher_pid not in (0, launcher), seconds=30, what="another launcher")
    assert not before & set(harness.processes_with(MARKER))
    harness.wait_for(lambda: daemon.show("ActiveState") == "active", what="a daemon that is up")
    assert f"Failed with result '{result}'" in daemon.log
    assert int(daemon.show("NRestarts")) == restarts + 1
    assert daemon.wait(run_id)["reason"] == "lost"
    assert daemon.leaves() == []


def test_the_hardened_unit_gives_each_profile_its_box(daemon):
    plain = daemon.ctl("doctor", "--format", "json")
    daemon.drop_in(Path("/usr/local/share/doc/lnmt-scheduler/hardened.conf").read_text())
    daemon.stop()
    daemon.start()
    try:
        doctor = daemon.ctl("doctor", "--format", "json")
        assert (doctor.json["mode"], doctor.json["profiles"]) == ("a", plain.json["profiles"]), doctor
        assert doctor.json["layers"] == plain.json["layers"]
        for profile in ("trusted", "standard", "untrusted"):
            daemon.define({"id": "hardened", "command": "echo done", "sandbox": profile})
            row = daemon.row_of("hardened")
            assert (row["status"], row["output"]) == ("completed", "done\n"), row
    finally:
        daemon.ctl("remove", "hardened")
        daemon.drop_in("")
        daemon.stop()
        daemon.start()


def test_a_wrong_configuration_waits_for_somebody(daemon):
    file = Path("/etc/lnmt-scheduler/config.toml")
    right = file.read_text()
    daemon.stop()
    try:
        file.write_text("max_concurrent_jobs = 'many'\n")
        assert subprocess.run(["systemctl", "start", daemon.service], capture_output=True).returncode != 0
        harness.wait_for(lambda: daemon.show("ActiveState") == "failed", what="the unit to give up")
        assert daemon.show("ExecMainStatus") == "78"
        assert "max_concurrent_jobs" in daemon.log
    finally:
        file.write_text(right)
    unit.systemd("systemctl", "reset-failed", daemon.service)
    daemon.start()


def test_the_unit_of_the_account_takes_over_what_root_has_recorded(daemon):
    known = len(daemon.history())
    account = installed.Shipped(installed.ACCOUNT_SERVICE)
    account.start()
    assert daemon.show("ActiveState") == "inactive"
    status = account.status()
    assert (status["mode"], status["launcher_pid"]) == ("b", account.launcher_pid)
    assert len(account.history()) == known
    row = account.row_of("quick")
    assert (row["status"], row["output"]) == ("completed", f"{pwd.getpwnam('lnmt-scheduler').pw_uid}\n"), row
    writing = (
        'for d in "$TMPDIR" /tmp /var/tmp; do f=$(mktemp -p "$d") && rm "$f"; done; touch /var/lib/misc/x || echo shut'
    )
    account.define({"id": "writes", "command": writing, "sandbox": "trusted"})
    row = account.row_of("writes")
    assert (row["status"], row["output"].splitlines()[-1]) == ("completed", "shut"), row
    assert account.stop() == 0
