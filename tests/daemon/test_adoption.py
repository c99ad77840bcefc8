"""The supervisor dies, is stopped or hangs, and the jobs do not notice: output, exit codes, results and deadlines are whole."""

import hashlib
import os
import signal
import time

import harness
import pytest

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import client

SITE = """
import os, time

def count(number, go, context):
    context.progress(1, 3, "before")
    context.log(f"line one of {number}")
    print(f"out {number}", flush=True)
    while not os.path.exists(go):
        time.sleep(0.05)
    context.log(f"line two of {number}")
    print(f"more {number}", flush=True)
    return {"number": number, "filler": "x" * 20_000}
"""


def pid_of(daemon):
    try:
        return daemon.supervisor_pid
    except (client.Unreachable, client.RequestError, OSError):
        return None


def killed(daemon, number=signal.SIGKILL):
    """End the supervisor, and wait until its successor answers."""
    before = daemon.supervisor_pid
    os.kill(before, number)
    harness.wait_for(lambda: pid_of(daemon) not in (None, before), what="another supervisor")


def row_of(daemon, run_id):
    (found,) = [row for row in daemon.history() if row["run_id"] == run_id]
    return found


def test_a_hundred_runs_outlive_three_supervisors_whole(make_daemon, folder):
    daemon = make_daemon(config="max_concurrent_jobs = 200\n")
    go, marks = folder / "go", folder / "marks"
    marks.mkdir(mode=0o777)
    marks.chmod(0o777)
    for number in range(100):
        # Each writes without end, to both streams, what can be told byte by byte; and ends in a way of its own.
        command = (
            f"echo $LNMT_ATTEMPT >> {marks}/{number}; i=0; until [ -e {go} ]; do i=$((i+1)); echo out-{number}-$i;"
            f" echo err-{number}-$i >&2; [ $((i % 50)) = 0 ] && sleep 0.2; done; echo $i > {marks}/last-{number};"
            f" exit {number % 7}"
        )
        daemon.add(id=f"j{number}", command=command, sandbox={"profile": "trusted"}, max_retries=0)
    runs = {number: daemon.run(f"j{number}") for number in range(100)}
    harness.wait_for(lambda: len(list(marks.glob("[0-9]*"))) == 100, 60)
    for _ in range(3):
        killed(daemon)
    assert daemon.status()["running"] == 100
    go.touch()
    for number, run_id in runs.items():
        row = daemon.wait(run_id)
        assert (row["status"], row["exit_code"]) == (("failed", number % 7) if number % 7 else ("completed", 0))
        assert (marks / str(number)).read_text() == "1\n"
        last = int((marks / f"last-{number}").read_text())
        for stream, word in (("stdout", "out"), ("stderr", "err")):
            expected = "".join(f"{word}-{number}-{i}\n" for i in range(1, last + 1)).encode()
            found = daemon.output(run_id, stream)
            assert hashlib.sha256(found).digest() == hashlib.sha256(expected).digest(), (number, stream)
        assert not row["truncated"]
    assert {row["reason"] for row in daemon.history()} == {None, "exit"}


def test_a_functions_progress_log_and_result_are_whole(daemon, folder):
    (folder / "counting.py").write_text(SITE)
    go = folder / "go"
    daemon.add(
        id="a", module="counting", function="count", args=[7, str(go)], python_path=[str(folder)], max_retries=0,
        sandbox={"profile": "trusted"},
    )  # fmt: skip
    run_id = daemon.run("a")
    harness.wait_for(lambda: b"out 7" in daemon.output(run_id))
    for _ in range(2):
        killed(daemon)
        with daemon.client() as connection:
            items = iter(connection.stream(control.Follow(run_id=run_id)))
            progress = next(item for item in items if item["kind"] == "progress")
        assert (progress["done"], progress["total"], progress["message"]) == (1, 3, "before")
    go.touch()
    row = daemon.wait(run_id)
    assert (row["status"], row["reason"]) == ("completed", None)
    assert daemon.output(run_id, "stdout") == b"out 7\nmore 7\n"
    assert daemon.output(run_id, "log") == b"info: line one of 7\ninfo: line two of 7\n"
    assert row["more"]["result_bytes"] > 20_000


def test_deadlines_hold_and_what_ended_meanwhile_is_recorded(daemon):
    daemon.add(id="slow", command="echo up; sleep 60", timeout=2, max_retries=0, sandbox={"profile": "trusted"})
    daemon.add(id="quick", command="echo up; sleep 1; exit 5", max_retries=0, sandbox={"profile": "trusted"})
    slow, quick = daemon.run("slow"), daemon.run("quick")
    for run_id in (slow, quick):
        harness.wait_for(lambda run_id=run_id: daemon.output(run_id) == b"up\n")
    supervisor = daemon.supervisor_pid
    os.kill(supervisor, signal.SIGSTOP)
    time.sleep(2.5)  # both end while nobody listens: it is this time that the test is about
    os.kill(supervisor, signal.SIGKILL)
    harness.wait_for(lambda: pid_of(daemon) not in (None, supervisor))
    assert daemon.wait(slow)["reason"] == "timeout"
    row = daemon.wait(quick)
    assert (row["exit_code"], row["reason"]) == (5, "exit")
    assert 0.9 < row["duration"] < 20


def test_silence_is_counted_anew_by_the_successor(daemon):
    daemon.add(id="a", command="echo up; sleep 60", stall_timeout="2s", max_retries=0, sandbox={"profile": "trusted"})
    run_id = daemon.run("a")
    harness.wait_for(lambda: daemon.output(run_id) == b"up\n")
    killed(daemon)
    began = time.monotonic()
    assert daemon.wait(run_id)["reason"] == "stalled"
    assert time.monotonic() - began > 1


def test_a_retry_that_a_dead_supervisor_began_says_its_line_once(daemon):
    daemon.add(
        id="a", command='echo run; [ "$LNMT_ATTEMPT" = 2 ] && until [ -e go ]; do sleep 0.05; done; exit 1',
        max_retries=1, retry_delay=0, working_directory=str(daemon.state_dir.parent), sandbox={"profile": "trusted"},
    )  # fmt: skip
    run_id = daemon.run("a", with_retries=True)
    harness.wait_for(lambda: daemon.output(run_id).count(b"run\n") == 2)
    for _ in range(2):
        killed(daemon)
    (daemon.state_dir.parent / "go").touch()
    row = daemon.wait(run_id)
    assert (row["reason"], row["retry_count"]) == ("exit", 1)
    said = daemon.output(run_id).decode().splitlines()
    assert said[:3] == ["run", "[attempt 2 of 2]", "run"]
    assert len([line for line in said if line.startswith("replay: ")]) == 1


def test_a_cancel_is_heard_after_an_adoption_and_nothing_is_left(daemon):
    daemon.add(id="a", command="echo up; sleep 61.5", sandbox={"profile": "trusted"})
    run_id = daemon.run("a")
    harness.wait_for(lambda: daemon.output(run_id) == b"up\n")
    killed(daemon)
    row = daemon.request(control.Cancel(run_id=run_id))["run"]
    assert (row["status"], row["reason"]) == ("cancelled", "cancelled")
    assert not harness.processes_with("sleep\x0061.5")


def test_output_over_the_cap_is_the_same_as_without_a_death(daemon, folder):
    daemon.add(
        id="a", command=f"seq 1 30000; until [ -e {folder}/go ]; do sleep 0.05; done; seq 30001 60000", max_retries=0,
        limits={"output": "64K"}, sandbox={"profile": "trusted"},
    )  # fmt: skip
    (folder / "go").touch()
    whole = daemon.output(daemon.run_to_end("a")["run_id"])
    (folder / "go").unlink()
    run_id = daemon.run("a")
    harness.wait_for(lambda: daemon.output(run_id).endswith(b"\n30000\n"))
    killed(daemon)
    (folder / "go").touch()
    row = daemon.wait(run_id)
    assert daemon.output(run_id) == whole
    assert row["truncated"]
    assert row["output_bytes"] == sum(len(f"{n}\n") for n in range(1, 60001))


@pytest.mark.parametrize("phase", ["queued", "gated", "retrying"])
def test_a_run_that_waits_goes_on_waiting(make_daemon, phase):
    daemon = make_daemon(config="max_concurrent_jobs = 1\nreserved_slots = 0\n")
    trusted = {"sandbox": {"profile": "trusted"}}
    hold = f"until [ -e {daemon.state_dir.parent}/go ]; do sleep 0.05; done"
    daemon.add(id="hold", command=hold, schedule="@every 1s" if phase == "gated" else None, **trusted)
    if phase == "queued":
        daemon.run("hold")
        daemon.add(id="a", command="true", **trusted)
        run_id = daemon.run("a")
    elif phase == "gated":
        daemon.add(
            id="a", command="true", schedule="@every 1s", dependencies=["hold"], dependency_timeout=60, **trusted
        )
        harness.wait_for(lambda: daemon.history(job_id="hold") and daemon.history(job_id="a"))
        run_id = daemon.history(job_id="a")[-1]["run_id"]
        daemon.request(control.Disable(job_id="hold"))
    else:
        daemon.add(id="a", command="test $LNMT_ATTEMPT = 2", retry_delay=1, retry_jitter=False, **trusted)
        run_id = daemon.run("a", with_retries=True)
        harness.wait_for(lambda: row_of(daemon, run_id)["status"] == "retrying")
    killed(daemon)
    (daemon.state_dir.parent / "go").touch()
    assert daemon.wait(run_id)["status"] in ("completed", "skipped")
