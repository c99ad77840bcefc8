"""A box that does not end when it is killed: said once, held on to, and in nobody's way.

A process that hangs in the kernel cannot be made here, so the launcher is given a fault instead: its kill reaches nobody, and
the job ends when a file is there. From the launcher's side both look the same, as a pidfd that does not become readable.
"""

import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
import standin

from lnmt_scheduler.ipc import messages
from lnmt_scheduler.sandbox import policy, users

FAULT = """
from lnmt_scheduler.sandbox import box
from lnmt_scheduler.supervisor import boxes

box.Box.kill = lambda self: None
boxes._UNKILLABLE_AFTER = 0.3
"""
#: Before the launcher is imported.
TWO_UIDS = """
from lnmt_scheduler.sandbox import users

users.DEFAULT = users.Range(users.DEFAULT.first, users.DEFAULT.first + 1)
"""
STUBBORN = ["/bin/sh", "-c", "trap '' TERM; until [ -e $GO ]; do sleep 0.05; done; exit 3"]


@pytest.fixture
def go(folder: Path) -> Path:
    """The file by which what hangs comes back to life."""
    return folder / "go"


@pytest.fixture
def faulty(folder: Path) -> Iterator[standin.Launched]:
    with standin.Launched(folder, before=TWO_UIDS + FAULT) as made:
        yield made


def hang(launched: standin.Launched, go: Path, **more: object) -> int:
    return launched.launch(argv=STUBBORN, timeout=0.1, grace=0.1, environment={"PATH": "/bin", "GO": str(go)}, **more)


def test_it_is_said_once_and_recorded_when_it_ends(faulty, go):
    run_id = hang(faulty, go)
    pipes = faulty.expect_of(messages.Started, run_id)[1]
    assert faulty.expect_of(messages.Unkillable, run_id)[0].attempt == 1
    go.touch()
    exited, _ = faulty.expect_of(messages.Exited, run_id)
    assert (exited.cause, exited.exit_code) == ("timeout", 3)
    assert exited.duration >= 0.5
    assert faulty.log.count(f"run {run_id}: not ended 0.3 s after KILL") == 1
    close(pipes)


def test_it_keeps_its_user_and_its_cgroup_while_others_run(faulty, go):
    wanted = policy.Policy(dynamic=True, pids=32, layers={**policy.Policy().layers, "pids": policy.PREFER}).to_map()
    run_id = hang(faulty, go, wanted=wanted)
    pipes = faulty.expect_of(messages.Started, run_id)[1]
    faulty.expect_of(messages.Unkillable, run_id)
    others = [faulty.run("/bin/sh", "-c", "exit 5", wanted=wanted).exited for _ in range(2)]
    assert {other.exit_code for other in others} == {5}
    groups = cgroups_of(faulty.pid)
    go.touch()
    held, _ = faulty.expect_of(messages.Exited, run_id)
    faulty.send(messages.Ack(run_id=run_id, attempt=1))
    if os.geteuid() == 0:
        assert held.uid is not None
        # Each of the two would have come by.
        assert {held.uid, *(other.uid for other in others)} == {users.DEFAULT.first, users.DEFAULT.first + 1}
        assert held.uid not in {other.uid for other in others}
        assert held.uid in {faulty.run("/bin/true", wanted=wanted).exited.uid for _ in range(2)}
    if held.enforced["pids"] == policy.ENFORCED:
        assert [path for path in groups if path.endswith("box-1")]
        assert not [path for path in cgroups_of(faulty.pid) if path.endswith("box-1")]
    close(pipes)


def test_the_next_supervisor_is_told_as_well(faulty, go):
    run_id = hang(faulty, go)
    close(faulty.expect_of(messages.Started, run_id)[1])
    faulty.expect_of(messages.Unkillable, run_id)
    os.kill(faulty.standin, 9)
    assert faulty.take_over().held == ((run_id, 1),)
    close(faulty.expect_of(messages.Started, run_id)[1])
    faulty.expect_of(messages.Unkillable, run_id)
    go.touch()
    faulty.expect_of(messages.Exited, run_id)


#: What is left to the launcher itself hangs, as long as a file is there.
HANGING = """
import os
from lnmt_scheduler.supervisor import boxes

really, me = os.kill, os.getpid()

def kill(pid, number):
    if os.getpid() != me or not os.path.exists({hangs!r}):
        really(pid, number)

os.kill = kill
boxes._UNKILLABLE_AFTER, boxes._LOOK_LATER = 0.3, 0.05
"""


def test_what_outlives_its_init_and_hangs_holds_up_no_other_run(folder):
    hangs = folder / "hangs"
    hangs.touch()
    before = HANGING.format(hangs=str(hangs))
    with standin.Launched(folder, masked="pidns,userns,landlock", before=before) as made:
        run_id = made.launch(argv=["/bin/sh", "-c", "setsid sleep 300 & echo up; wait"])
        started, pipes = made.expect_of(messages.Started, run_id)
        harness.wait_for(lambda: os.read(pipes[0], 10) if select.select([pipes[0]], [], [], 0)[0] else b"", what="'up'")
        os.kill(started.pid, signal.SIGKILL)
        made.expect_of(messages.Unkillable, run_id)
        assert made.run("/bin/sh", "-c", "exit 5").exited.exit_code == 5
        hangs.unlink()
        exited, _ = made.expect_of(messages.Exited, run_id)
        assert (exited.signal, exited.killed_count) == (signal.SIGKILL, 2)  # the shell as well
        close(pipes)


#: Becomes a user whom the launcher's account may not signal, as by sudo, and ends when the file is gone.
SUDO = """
import os, sys, time
os.setresuid(64999, 64999, 64999)
print("up", flush=True)
while os.path.exists(sys.argv[1]):
    time.sleep(0.02)
"""


@pytest.fixture
def unprivileged(folder: Path) -> Iterator[standin.Launched]:
    """A launcher of an ordinary account in mode d, whose jobs may become another user and nothing else."""
    if os.geteuid() != 0:
        pytest.skip("a job that becomes another user: needs root")
    become = "--reuid=65534 --regid=65534 --clear-groups --inh-caps=-all,+setuid --ambient-caps=+setuid"
    wrapper = ("setpriv", *become.split())
    before = "from lnmt_scheduler.supervisor import boxes\nboxes._UNKILLABLE_AFTER, boxes._LOOK_LATER = 0.3, 0.05\n"
    with standin.Launched(folder, masked="pidns,userns,landlock,cgroup", before=before, wrapper=wrapper) as made:
        yield made


@pytest.mark.parametrize("who", ["init", "launcher"])
def test_what_has_become_a_user_whom_nobody_here_may_kill_is_waited_for_and_ends_no_other_run(
    unprivileged, folder, who
):
    made, there = unprivileged, folder / "there"
    there.touch()
    other = made.launch(argv=["/bin/sleep", "300"])
    close(made.expect_of(messages.Started, other)[1])
    run_id = made.launch(
        argv=["/bin/sh", "-c", '"$@" & wait', "sh", sys.executable, "-I", "-S", "-c", SUDO, str(there)]
    )
    started, pipes = made.expect_of(messages.Started, run_id)
    harness.wait_for(lambda: os.read(pipes[0], 10) if select.select([pipes[0]], [], [], 0)[0] else b"", what="'up'")
    if who == "init":
        made.send(messages.End(run_id=run_id, attempt=1, cause="cancelled", grace=0))
    else:
        os.kill(started.pid, signal.SIGKILL)  # init, so that the launcher is left with it
    made.expect_of(messages.Unkillable, run_id)
    assert os.path.exists(f"/proc/{started.pid}") == (who == "init")  # which waits for it, if it can
    assert made.run("/bin/sh", "-c", "exit 5").exited.exit_code == 5
    there.unlink()
    made.expect_of(messages.Exited, run_id)
    close(pipes)
    made.send(messages.End(run_id=other, attempt=1, cause="cancelled", grace=5))
    assert made.expect_of(messages.Exited, other)[0].cause == "cancelled"


def test_a_box_that_ends_in_time_is_not_called_so(folder):
    short = "from lnmt_scheduler.supervisor import launcher\nlauncher._UNKILLABLE_AFTER = 0.3\n"
    with standin.Launched(folder, before=short) as made:
        source = "trap '' TERM; while :; do sleep 0.05; done"
        assert made.run("/bin/sh", "-c", source, timeout=0.1, grace=0.1).exited.killed_count >= 1
        made.run("/bin/sleep", "0.5")
        assert "after KILL" not in made.log


def test_a_client_sees_it_while_it_is_so_and_the_row_when_it_has_ended(folder, go):
    state = folder / "state"
    state.mkdir(mode=0o711)
    source = f"{FAULT}\nimport sys\nfrom lnmt_scheduler.supervisor import schedd\nschedd.main(sys.argv[1:])"
    command = [sys.executable, "-I", "-c", source, "--state-dir", str(state)]
    daemon = harness.Daemon(state)
    with daemon.log_path.open("ab") as log, subprocess.Popen(command, stdin=subprocess.DEVNULL, stderr=log) as process:
        daemon.process = process
        harness.wait_for(daemon._is_up, what="a daemon that listens")
        daemon.add(
            id="job", command=STUBBORN, working_directory="/", timeout=0.2, kill_grace=0.1, max_retries=0,
            sandbox="trusted", environment={"GO": str(go)},
        )  # fmt: skip
        run_id = daemon.run("job")
        rows = harness.wait_for(
            lambda: [row for row in daemon.history(job_id="job") if row.get("unkillable")], what="an unkillable run"
        )
        assert [(row["run_id"], row["status"]) for row in rows] == [(run_id, "running")]
        (shown,) = daemon.ctl("history", "--job", "job", "-o", "json").json
        assert shown["unkillable"] is True
        go.touch()
        row = daemon.wait(run_id)
        assert (row["status"], row["reason"]) == ("failed", "timeout")
        assert "unkillable" not in row
        process.terminate()
        assert process.wait(30) == 0
    daemon.process = None


def cgroups_of(launcher: int) -> list[str]:
    """Leaves that this launcher has now."""
    found = []
    for top, folders, _ in os.walk("/sys/fs/cgroup"):
        found += [f"{top}/{name}" for name in folders if name.startswith(f"lnmt-{launcher}.")]
        folders[:] = [name for name in folders if not name.startswith("lnmt-")]
    return found


def close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)
