"""A host that has run short: of descriptors, of processes, of somebody who reads the log. The daemon goes on and says so."""

import contextlib
import os
import pwd
import resource
import subprocess
import sys
import uuid
from pathlib import Path

import harness
import pytest

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import client, paths

PIDS = Path("/sys/fs/cgroup/pids")


def limited(descriptors):
    return ("prlimit", f"--nofile={descriptors}:{descriptors}", "--")


def states(daemon):
    counts = daemon.status()
    return counts["running"], counts["queued"]


def newest_beat(daemon):
    return max((row["slot"] for row in daemon.history(job_id="beat")), default=0)


def refused(daemon):
    """A run of `job` that could not be started; a box or two may have stood ready before that."""
    for _ in range(5):
        row = daemon.run_to_end("job")
        if row["status"] == "failed":
            return row
    raise AssertionError("all runs could be started")


# Descriptors.


def test_runs_that_there_are_no_descriptors_for_wait_and_none_fails(make_daemon, folder):
    daemon = make_daemon(wrapper=limited(96))
    assert "96 descriptors (RLIMIT_NOFILE) are enough for 4 runs at one time, not 20; more wait" in daemon.log
    gate = folder / "go"
    daemon.add(id="job", command=f"until [ -e {gate} ]; do sleep 0.02; done", priority=3, sandbox="trusted")
    runs = [daemon.run("job", allow_overlap=True) for _ in range(12)]
    harness.wait_for(lambda: states(daemon) == (4, 8), what="four runs, and eight that wait")
    gate.touch()
    assert {daemon.wait(run_id)["status"] for run_id in runs} == {"completed"}


def test_clients_are_turned_away_before_a_launch_suffers(make_daemon):
    daemon = make_daemon(wrapper=limited(96))
    supervisor = daemon.supervisor_pid
    daemon.add(id="beat", command="true", schedule="@every 1s")
    daemon.add(id="job", command="echo here")
    with contextlib.ExitStack() as crowd:
        for _ in range(200):
            with contextlib.suppress(OSError, client.RequestError):
                crowd.enter_context(paths.connect(daemon.socket))
        for _ in range(10):
            row = daemon.run_to_end("job")
            assert (row["status"], row["reason"]) == ("completed", None)
        newest = newest_beat(daemon)
        harness.wait_for(lambda: newest_beat(daemon) > newest, what="another beat")
    assert {row["status"] for row in daemon.history(job_id="beat")} <= {"completed", "running", "pending"}
    assert daemon.supervisor_pid == supervisor
    assert "no descriptor" not in daemon.log


@pytest.mark.parametrize("who", ["launcher", "supervisor"])
def test_a_process_without_a_descriptor_left_fails_the_run_with_the_errno_and_goes_on(daemon, who):
    """What share() cannot know: somebody lowered the limit of the running process."""
    daemon.add(id="job", command="true", max_retries=0)
    pid = daemon.launcher_pid if who == "launcher" else daemon.supervisor_pid
    launcher = daemon.launcher_pid
    before = resource.prlimit(pid, resource.RLIMIT_NOFILE)
    run_ids = []
    with daemon.client() as connection:
        taken = len(os.listdir(f"/proc/{pid}/fd"))
        resource.prlimit(pid, resource.RLIMIT_NOFILE, (taken, before[1]))
        run_ids.append(connection.request(control.Run(job_id="job"))["run_id"])
        for _ in connection.stream(control.Follow(run_id=run_ids[0])):
            pass
        resource.prlimit(pid, resource.RLIMIT_NOFILE, before)
    row = next(row for row in daemon.history() if row["run_id"] == run_ids[0])
    assert (row["status"], row["reason"]) == ("failed", "spawn")
    assert "Too many open files" in row["error"]
    assert daemon.run_to_end("job")["status"] == "completed"
    assert daemon.launcher_pid == launcher


# Processes.


def test_a_full_table_of_an_accounts_processes_fails_the_run_with_the_errno_and_the_daemon_goes_on(
    make_daemon, ordinary_user
):
    daemon = make_daemon(user=ordinary_user)
    daemon.add(id="job", command="true", max_retries=0)
    daemon.add(id="again", command="true", max_retries=50, retry_delay=0.05, retry_jitter=False, retry_backoff=1)
    status = Path(f"/proc/{daemon.launcher_pid}/limits").read_text()
    before = next(line.split()[2] for line in status.splitlines() if line.startswith("Max processes"))

    def set_limit(soft):
        # As the account itself, group and all: root may not do this to others where it has no CAP_SYS_RESOURCE.
        account = {"user": ordinary_user, "group": pwd.getpwnam(ordinary_user).pw_gid} if os.geteuid() == 0 else {}
        subprocess.run(["prlimit", "--pid", str(daemon.launcher_pid), f"--nproc={soft}:"], check=True, **account)

    set_limit(1)
    row = refused(daemon)
    again = daemon.run("again", with_retries=True)
    harness.wait_for(
        lambda: next(row for row in daemon.history(job_id="again"))["retry_count"] > 1,
        what="attempts that cannot start",
    )
    set_limit(before)
    assert (row["status"], row["reason"]) == ("failed", "spawn")
    assert "Resource temporarily unavailable" in row["error"]
    assert daemon.wait(again)["status"] == "completed"


@pytest.fixture
def pids_group():
    """A control group of our own that limits how many processes there may be; skips by name where none can be had."""
    base = PIDS if PIDS.is_dir() else Path("/sys/fs/cgroup")
    made = base / f"lnmt-test-{uuid.uuid4().hex[:8]}"
    try:
        made.mkdir()
    except OSError as error:
        pytest.skip(f"a control group that counts processes: {error}")
    if not (made / "pids.max").exists():
        made.rmdir()
        pytest.skip("a control group that counts processes: no pids controller here")
    yield made
    for pid in (made / "cgroup.procs").read_text().split():
        (base / "cgroup.procs").write_text(pid)
    made.rmdir()


def test_a_full_control_group_of_processes_fails_the_run_with_the_errno_and_the_daemon_goes_on(daemon, pids_group):
    daemon.add(id="job", command="true", max_retries=0)
    (pids_group / "cgroup.procs").write_text(str(daemon.launcher_pid))
    (pids_group / "pids.max").write_text("1")
    row = refused(daemon)
    assert (row["status"], row["reason"]) == ("failed", "spawn")
    assert "Resource temporarily unavailable" in row["error"]
    # A supervisor that dies now cannot be followed by another at once; but it is, as soon as that can be.
    os.kill(daemon.supervisor_pid, 9)
    harness.wait_for(lambda: "cannot start a supervisor" in daemon.log, what="a successor that cannot be started")
    (pids_group / "pids.max").write_text("max")
    harness.wait_for(lambda: _answers(daemon), what="a successor")
    assert daemon.run_to_end("job")["status"] == "completed"
    assert daemon.stop() == 0


def _answers(daemon):
    try:
        return daemon.status()
    except (client.RequestError, OSError):
        return None


# The log.


@pytest.mark.parametrize("gone", ["closed", "nobody reads", "no room"])
def test_a_log_that_cannot_be_written_is_no_reason_to_end(folder, gone):
    state = folder / "state"
    command = [sys.executable, "-I", "-m", "lnmt_scheduler.supervisor.schedd", "--state-dir", str(state)]
    if gone == "nobody reads":
        read, write = os.pipe()
        os.close(read)
        process = subprocess.Popen(command, stderr=write)
        os.close(write)
    else:
        redirected = {"closed": "<&- >&- 2>&-", "no room": "2>/dev/full"}[gone]
        process = subprocess.Popen(["/bin/sh", "-c", f'exec "$@" {redirected}', "sh", *command])
    daemon = harness.Daemon(state)
    daemon.process = process
    try:
        harness.wait_for(lambda: _answers(daemon), what="a daemon that listens")
        daemon.add(id="job", command="echo here; exit 3", max_retries=0)
        for _ in range(3):
            row = daemon.run_to_end("job")
            assert (row["status"], row["reason"]) == ("failed", "exit")  # each such run is a line of the log
        assert daemon.output(row["run_id"]).startswith(b"here\n")
        for pid in (daemon.launcher_pid, daemon.supervisor_pid):
            for fd in range(3):
                assert str(state) not in os.readlink(f"/proc/{pid}/fd/{fd}")
    finally:
        assert daemon.stop() == 0
