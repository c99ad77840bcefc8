"""`schedctl restart`: another supervisor takes over while jobs run and clients look on, or nothing changes at all."""

import subprocess
import time
from pathlib import Path

import harness
import pytest

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import client

TRUSTED = {"sandbox": {"profile": "trusted"}}
OLD = Path(__file__).parent.parent / "data" / "launcher_1_0.zip"


def test_runs_and_those_who_follow_them_notice_nothing(daemon, folder):
    go = folder / "go"
    daemon.add(id="a", command=f"i=0; until [ -e {go} ]; do i=$((i+1)); echo $i; sleep 0.01; done; exit 3", **TRUSTED)
    daemon.add(id="tick", command="true", schedule="@every 1s", **TRUSTED)
    with subprocess.Popen(
        [harness.SCHEDCTL, "--state-dir", str(daemon.state_dir), "run", "a"],
        stdout=subprocess.PIPE, stderr=subprocess.PIPE, stdin=subprocess.DEVNULL, text=True,
    ) as following:  # fmt: skip
        run_id = harness.wait_for(lambda: daemon.history(job_id="a"))[0]["run_id"]
        launcher = daemon.status()["launcher_pid"]
        for _ in range(3):
            before = daemon.supervisor_pid
            outcome = daemon.ctl("restart", "-o", "json")
            assert outcome.code == 0, outcome
            assert outcome.json["before"]["pid"] == before
            assert outcome.json["after"]["pid"] == daemon.supervisor_pid != before
            assert daemon.status()["launcher_pid"] == launcher
        go.touch()
        stdout, stderr = following.communicate(timeout=30)
    assert following.returncode == 3, stderr
    lines = stdout.splitlines()[1:-1]
    assert lines == [str(n) for n in range(1, len(lines) + 1)]
    assert daemon.output(run_id).decode().splitlines()[: len(lines)] == lines
    slots = [row["slot"] for row in daemon.history(job_id="tick")]
    assert slots == list(range(slots[0], slots[0] - 1000 * len(slots), -1000))
    assert {row["reason"] for row in daemon.history(job_id="tick")} <= {None, "overlap"}
    assert [entry["action"] for entry in daemon.request(control.Audit())["entries"]].count("restart") == 3
    said = daemon.ctl("restart")
    assert said.code == 0
    assert said.stdout.startswith("The supervisor was replaced: 0.1.0 (pid ")


def test_a_configuration_that_is_wrong_changes_nothing(daemon):
    (daemon.state_dir / "config.toml").write_text("max_concurrent_jobs = 'many'\n")
    before = daemon.supervisor_pid
    outcome = daemon.ctl("restart")
    assert (outcome.code, daemon.supervisor_pid) == (78, before)
    assert "max_concurrent_jobs" in outcome.stderr


def test_a_drain_holds_for_the_next_supervisor_and_not_for_the_next_daemon(daemon):
    daemon.request(control.Drain(timeout=5))
    assert daemon.ctl("restart").code == 0
    assert daemon.status()["draining"]
    daemon.stop()
    daemon.start()
    assert not daemon.status()["draining"]


def test_many_restarts_leave_no_descriptor_behind(daemon):
    def held():
        return len(list(Path(f"/proc/{daemon.launcher_pid}/fd").iterdir()))

    daemon.add(id="a", command="sleep 60", kill_grace=0, **TRUSTED)
    daemon.run("a")
    daemon.ctl("restart")
    before = held()
    for _ in range(3):
        assert daemon.ctl("restart").code == 0
    harness.wait_for(lambda: held() == before, what="as many descriptors as before")


# Under the launcher of yesterday: the code that spoke version 1.0 of the protocol, in memory as after an upgrade.

YESTERDAY = f"""
import sys
sys.path.insert(0, {str(OLD)!r})
from lnmt_scheduler.supervisor import launcher
assert ".zip" in launcher.__file__, launcher.__file__
"""


@pytest.fixture
def yesterday(make_daemon):
    return make_daemon(before=YESTERDAY)


def test_under_yesterdays_launcher_jobs_run_as_ever(yesterday):
    yesterday.add(id="a", command="echo out; echo err >&2; exit 3", max_retries=1, retry_delay=0, **TRUSTED)
    row = yesterday.wait(yesterday.run("a", with_retries=True))
    assert (row["reason"], row["exit_code"], row["retry_count"]) == ("exit", 3, 1)
    assert yesterday.output(row["run_id"], "stdout") == b"out\nout\n"
    yesterday.add(id="slow", command="sleep 60", timeout=0.2, max_retries=0, **TRUSTED)
    assert yesterday.run_to_end("slow")["reason"] == "timeout"
    yesterday.add(id="long", command="sleep 60", kill_grace=0, **TRUSTED)
    run_id = yesterday.run("long")
    yesterday.request(control.Cancel(run_id=run_id))
    assert yesterday.wait(run_id)["status"] == "cancelled"


def test_yesterdays_launcher_keeps_no_runs_so_a_restart_is_refused_before_anything_is_stopped(yesterday):
    yesterday.add(id="a", command="sleep 60", kill_grace=0, **TRUSTED)
    run_id = yesterday.run("a")
    before = yesterday.supervisor_pid
    outcome = yesterday.ctl("restart")
    assert outcome.code == 1
    assert "cannot keep runs for another supervisor; nothing was changed" in outcome.stderr
    assert yesterday.supervisor_pid == before
    assert yesterday.history()[0]["status"] == "running"
    assert yesterday.stop() == 0
    yesterday.start()
    assert yesterday.wait(run_id)["reason"] == "stopped"


def test_a_client_whose_daemon_has_stopped_is_not_kept_waiting(daemon):
    daemon.add(id="a", command="sleep 60", kill_grace=0, **TRUSTED)
    run_id = daemon.run("a")
    with daemon.client() as connection:
        following = connection.follow(run_id)
        next(following)
        assert daemon.stop() == 0
        began = time.monotonic()
        try:
            row = client.last(following)  # the end may still have been told
            assert row["reason"] == "stopped"
        except client.Unreachable:
            pass
        assert time.monotonic() - began < 5
