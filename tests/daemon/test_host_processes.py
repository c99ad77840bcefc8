"""`processes: host`: a job that sees and signals the host's processes, held together by its cgroup instead."""

import os
import pwd
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import pytest

from lnmt_scheduler.ipc import control

#: Leaves a process in a session of its own, and waits with it; both ignore TERM.
TREE = "trap '' TERM; setsid sh -c 'echo up; exec sleep 300' & wait"
PROFILES = ["trusted", "standard"]


@pytest.fixture(params=["", "pidns,userns", "pidns,userns,landlock"], ids=["best", "c", "d"])
def host(make_daemon: Callable[..., harness.Daemon], request: pytest.FixtureRequest) -> harness.Daemon:
    """A daemon that can kill a cgroup, in this kind of box."""
    daemon = make_daemon(environment={"LNMT_PRETEND": request.param})
    row = run(daemon, "trusted", command="true")
    if row["reason"] == "sandbox":
        pytest.skip(f"processes: host: {row['error']}")
    return daemon


@pytest.fixture
def bystander() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "300"]) as process:
        yield process
        process.kill()


def add(daemon: harness.Daemon, profile: str, **definition: Any) -> str:
    job_id = f"job{len(daemon.history())}"
    sandbox = {"profile": profile, "processes": "host"}
    daemon.add(
        **{
            "id": job_id,
            "working_directory": "/",
            "max_retries": 0,
            "sandbox": sandbox,
            "kill_grace": 0.2,
            **definition,
        }
    )
    return job_id


def run(daemon: harness.Daemon, profile: str, **definition: Any) -> dict[str, Any]:
    return daemon.run_to_end(add(daemon, profile, **definition))


def start(daemon: harness.Daemon, profile: str, marker: str) -> int:
    job_id = add(daemon, profile, command=TREE, environment={"MARKER": marker})
    run_id = daemon.run(job_id)
    harness.wait_for(lambda: b"up" in daemon.output(run_id).splitlines(), what="'up' in the output")
    return run_id


def skip_refused(row: dict[str, Any]) -> None:
    if row["reason"] == "sandbox":
        pytest.skip(f"this profile: {row['error']}")


@pytest.mark.parametrize("profile", PROFILES)
def test_the_hosts_processes_are_seen(host, bystander, profile):
    row = run(host, profile, command=f"cat /proc/{bystander.pid}/comm; echo x > /proc/self/oom_score_adj")
    skip_refused(row)
    assert host.output(row["run_id"]).startswith(b"sleep\n")
    assert row["enforced"]["tree_kill"] == "enforced"


def test_a_trusted_job_may_signal_them(host, bystander):
    row = run(host, "trusted", command=f"kill -USR1 {bystander.pid}")
    assert row["status"] == "completed"
    assert bystander.wait(10) == -signal.SIGUSR1


@pytest.mark.skipif(os.geteuid() != 0, reason="mounts over the host's /proc: needs root")
def test_what_of_proc_could_change_the_kernel_is_read_only_in_standard(host):
    if host.status()["mode"] != "a":
        pytest.skip("mounts of its own: masked")
    row = run(
        host, "standard", command="echo 1 > /proc/sys/kernel/panic; cat /proc/kcore; ls /proc/self/fd > /dev/null"
    )
    skip_refused(row)
    assert b"Read-only file system" in host.output(row["run_id"])


@pytest.mark.parametrize("profile", PROFILES)
def test_a_cancel_ends_the_whole_tree_and_nobody_else(host, bystander, profile):
    skip_refused(run(host, profile, command="true"))
    marker = f"marker-{os.urandom(8).hex()}"
    run_id = start(host, profile, marker)
    assert len(harness.processes_with(marker)) == 2
    row = host.request(control.Cancel(run_id=run_id))["run"]
    assert harness.processes_with(marker) == []
    assert (row["reason"], row["killed_count"]) == ("cancelled", 2)
    assert bystander.poll() is None


def test_what_is_left_after_a_normal_end_is_killed(host):
    marker = f"marker-{os.urandom(8).hex()}"
    row = run(host, "trusted", command="setsid sleep 300 & sleep 0.2", environment={"MARKER": marker})
    assert (row["status"], row["killed_count"]) == ("completed", 1)
    assert harness.processes_with(marker) == []


def test_when_init_is_killed_the_launcher_ends_its_cgroup(host):
    marker = f"marker-{os.urandom(8).hex()}"
    run_id = start(host, "trusted", marker)
    (init,) = {parent(pid) for pid in harness.processes_with(marker)} - {*harness.processes_with(marker)}
    assert parent(init) == host.launcher_pid
    os.kill(init, signal.SIGKILL)
    row = host.wait(run_id)
    assert harness.processes_with(marker) == []
    assert (row["reason"], row["signal"]) == ("signal", "SIGKILL")


def test_when_the_launcher_is_killed_init_ends_its_cgroup(host):
    marker = f"marker-{os.urandom(8).hex()}"
    start(host, "trusted", marker)
    host.kill()
    harness.wait_for(lambda: not harness.processes_with(marker), 5, "the end of the tree")


@pytest.mark.parametrize("masked", ["cgroup", "cgroup2", "cgroup.kill"])
def test_without_a_cgroup_that_can_be_killed_it_is_refused(make_daemon, masked):
    daemon = make_daemon(environment={"LNMT_PRETEND": masked})
    row = run(daemon, "trusted", command="echo ran")
    assert (row["status"], row["reason"]) == ("failed", "sandbox")
    assert "processes: host takes a cgroup of its own with cgroup.kill" in row["error"]


@pytest.fixture
def of_another_user(ordinary_user: str) -> Iterator[subprocess.Popen[bytes]]:
    group = pwd.getpwnam(ordinary_user).pw_gid
    with subprocess.Popen(["sleep", "300"], user=ordinary_user, group=group, extra_groups=[]) as process:
        yield process
        process.kill()


@pytest.mark.skipif(os.geteuid() != 0, reason="a job of another user: needs root")
@pytest.mark.parametrize("masked", ["", "landlock"])
def test_the_root_of_another_process_of_its_user_is_no_way_out(
    make_daemon, folder, ordinary_user, of_another_user, masked
):
    """The kernel lets a user through /proc/PID/root of whatever is its own, unless landlock does not."""
    theirs = folder / "theirs"
    theirs.write_text("secret")
    shutil.chown(theirs, ordinary_user)
    theirs.chmod(0o600)
    daemon = make_daemon(environment={"LNMT_PRETEND": masked})
    if daemon.status()["mode"] != "a":
        pytest.skip("mounts of its own: this host gives none")
    skip_refused(run(daemon, "standard", command="true"))  # its user has no other processes
    command = f"cat /proc/{of_another_user.pid}/root{theirs}"
    row = run(daemon, "standard", user=ordinary_user, command=command)
    assert row["status"] == "failed", row
    assert b"secret" not in daemon.output(row["run_id"])
    if masked:
        assert (row["reason"], "/proc/PID/root" in row["error"]) == ("sandbox", True), row


def parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])
