"""Every way to end a run, in each kind of box that this host can give: nothing is left, and the row says what was killed.

A job that kills everything that it may is started only where its box was seen to be a pid namespace.
"""

import contextlib
import os
import pwd
import secrets
import select
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import harness
import pytest

from lnmt_scheduler.ipc import control

#: Ignores every signal, leaves three daemons that do the same in sessions of their own, and waits with them for ever.
TREE = """
import os, signal, sys
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
read, write = os.pipe()
for _ in range(3):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.setsid()
            os.write(write, b".")
            while True:
                signal.pause()
        os._exit(0)
for _ in range(3):
    os.read(read, 1)
print("up", flush=True)
while True:
    signal.pause()
"""


@dataclass
class Kind:
    """One kind of box, and daemons that have it."""

    mode: str
    folder: Path
    make: Callable[..., harness.Daemon]
    user: str | None
    environment: dict[str, str]

    def daemon(self, config: str = "") -> harness.Daemon:
        state = self.folder / "state"
        state.mkdir(mode=0o711, exist_ok=True)
        if self.user is not None:
            os.chown(state, *_numbers(self.user))
        # The end of a tree is the box's matter in every profile, and this one every mode has.
        config = f'default_profile = "trusted"\n{config}'
        daemon = self.make(config=config, user=self.user, environment=self.environment)
        if daemon.status()["mode"] != self.mode:
            pytest.skip(f"boxes of mode {self.mode}: this host has {daemon.status()['mode']}: {daemon.log.strip()}")
        return daemon


#: Masked to have boxes of a mode that is not the best here.
MASKED = {"c": "pidns,userns", "d": "pidns,userns,landlock"}


@pytest.fixture(params=["a", "b", "c", "d"])
def kind(request: pytest.FixtureRequest, folder: Path, make_daemon: Callable[..., harness.Daemon]) -> Kind:
    if request.param == "a" and os.geteuid() != 0:
        pytest.skip("boxes of mode a: needs root")
    ordinary = request.param in "bc" and os.geteuid() == 0
    user = request.getfixturevalue("ordinary_user") if ordinary else None
    environment = {"LNMT_PRETEND": MASKED[request.param]} if request.param in MASKED else {}
    return Kind(request.param, folder, make_daemon, user, environment)


@pytest.fixture
def boxed(kind: Kind) -> harness.Daemon:
    """A daemon whose boxes keep signals in."""
    if kind.mode == "d":
        pytest.skip("a pid namespace, or scoped signals: masked in mode d")
    return kind.daemon()


def _numbers(user: str) -> tuple[int, int]:
    found = pwd.getpwnam(user)
    return found.pw_uid, found.pw_gid


class Job:
    """A job whose processes can be told from all others."""

    def __init__(self, daemon: harness.Daemon, source: str = TREE, *, job_id: str = "job", **more: Any) -> None:
        self.daemon = daemon
        self.marker = f"marker-{secrets.token_hex(8)}"
        self.job_id = job_id
        daemon.add(
            id=job_id,
            command=[sys.executable, "-I", "-S", "-c", source] if "import" in source else source,
            environment={"MARKER": self.marker},
            working_directory="/",
            **{"kill_grace": 0.2, **more},
        )
        self.run_id = 0

    def start(self, *, until: bytes = b"up") -> "Job":
        self.run_id = self.daemon.run(self.job_id)
        harness.wait_for(lambda: until in self.daemon.output(self.run_id), what=f"{until!r} in the output")
        return self

    @property
    def alive(self) -> list[int]:
        return harness.processes_with(self.marker)

    def cancel(self) -> dict[str, Any]:
        return dict(self.daemon.request(control.Cancel(run_id=self.run_id))["run"])


def reason(row: dict[str, Any]) -> tuple[str, str | None]:
    return row["status"], row["reason"]


def assert_names(row: dict[str, Any], pids: list[int]) -> None:
    """The row names exactly these processes, by host pid and command."""
    assert len(pids) == 4
    assert sorted(item["pid"] for item in row["killed"]) == sorted(pids)
    assert row["killed_count"] == 4
    for item in row["killed"]:
        assert item["command"].startswith(f"{sys.executable} -I -S -c")


def test_a_timeout_leaves_no_process_and_the_row_names_what_was_killed(kind):
    job = Job(kind.daemon(), timeout=1).start()
    pids = job.alive
    row = job.daemon.wait(job.run_id)
    assert job.alive == []
    assert reason(row) == ("failed", "timeout")
    assert_names(row, pids)


def test_a_cancel_returns_when_the_tree_is_gone(kind):
    job = Job(kind.daemon()).start()
    pids = job.alive
    row = job.cancel()
    assert job.alive == []
    assert reason(row) == ("cancelled", "cancelled")
    assert_names(row, pids)


def test_a_stop_of_the_daemon_ends_the_tree_and_is_recorded(kind):
    job = Job(kind.daemon(), max_retries=0).start()
    pids = job.alive
    assert job.daemon.stop() == 0
    assert job.alive == []
    row = job.daemon.start().wait(job.run_id)
    assert reason(row) == ("failed", "stopped")
    assert_names(row, pids)


def test_when_the_launcher_is_killed_everything_dies_with_it_and_the_next_daemon_records_it_as_lost(kind):
    daemon = kind.daemon()
    job = Job(daemon, max_retries=0).start()
    supervisor = os.pidfd_open(daemon.supervisor_pid)
    with _owned(supervisor):
        daemon.kill()
        harness.wait_for(lambda: not job.alive, 5, "the end of every process of the job")
        assert _has_ended(supervisor)
    row = daemon.start().wait(job.run_id)
    assert reason(row) == ("failed", "lost")
    assert job.alive == []


def test_when_init_is_killed_its_box_dies_and_the_run_failed_by_a_signal(kind):
    daemon = kind.daemon()
    job = Job(daemon, max_retries=0).start()
    os.kill(_init_of(daemon, job), signal.SIGKILL)
    row = daemon.wait(job.run_id)
    assert job.alive == []
    assert (*reason(row), row["signal"]) == ("failed", "signal", "SIGKILL")
    assert _goes_on(daemon)


def test_when_the_supervisor_is_killed_its_runs_go_on_and_can_still_be_ended(kind):
    daemon = kind.daemon()
    job = Job(daemon, max_retries=0).start()
    pids, launcher, supervisor = job.alive, daemon.launcher_pid, daemon.supervisor_pid
    os.kill(supervisor, signal.SIGKILL)
    harness.wait_for(lambda: _supervisor_of(daemon) not in (None, supervisor), what="a new supervisor")
    assert job.alive == pids
    assert daemon.status()["launcher_pid"] == launcher
    row = job.cancel()
    assert job.alive == []
    assert reason(row) == ("cancelled", "cancelled")
    assert_names(row, pids)
    assert _goes_on(daemon)


def test_a_grandchild_that_keeps_stdout_open_does_not_delay_the_end(kind):
    job = Job(kind.daemon(), "sleep 300 & sleep 0.2; echo up; exit 0").start()
    row = job.daemon.wait(job.run_id)
    assert job.alive == []
    assert reason(row) == ("completed", None)
    assert row["duration"] < 30
    assert [item["command"] for item in row["killed"]] == ["sleep 300"]


def test_deadlines_hold_while_the_supervisor_is_stopped(kind):
    daemon = kind.daemon()
    job = Job(daemon, timeout=1, max_retries=0).start()
    supervisor = daemon.supervisor_pid
    os.kill(supervisor, signal.SIGSTOP)
    try:
        harness.wait_for(lambda: not job.alive, what="the end of the tree")
    finally:
        os.kill(supervisor, signal.SIGCONT)
    assert reason(daemon.wait(job.run_id)) == ("failed", "timeout")


def test_a_stopped_job_hears_term_and_may_still_end_in_its_own_way(kind):
    source = "trap 'echo heard; exit 0' TERM; echo up; kill -STOP $$; sleep 300"
    job = Job(kind.daemon(), source, kill_grace=10).start()
    row = job.cancel()
    assert row["exit_code"] == 0
    assert job.daemon.output(job.run_id) == b"up\nheard\n"


def test_a_term_handler_that_takes_longer_than_the_grace_is_cut_short(kind):
    source = "trap 'sleep 300' TERM; echo up; while :; do sleep 0.05; done"
    job = Job(kind.daemon(), source).start()
    assert reason(job.cancel()) == ("cancelled", "cancelled")
    assert job.alive == []


#: A process that forks itself and ends, for ever: there are few at any moment, and never the same.
STORM = """
import os, signal
for _ in range(5):
    if os.fork() == 0:
        while True:
            if os.fork():
                os._exit(0)
print("up", flush=True)
signal.pause()
"""


def test_a_storm_of_forks_that_change_their_parents_ends(boxed):
    job = Job(boxed, STORM).start()
    assert reason(job.cancel()) == ("cancelled", "cancelled")
    assert job.alive == []
    assert _goes_on(boxed)


def test_a_flood_of_zombies_and_orphans_is_no_burden(kind):
    source = """
import os
for _ in range(300):
    if os.fork() == 0:
        if os.fork() == 0:
            os._exit(0)
        os._exit(0)
"""
    job = Job(kind.daemon(), source)
    row = job.daemon.run_to_end("job")
    assert reason(row) == ("completed", None)
    assert job.alive == []


def test_a_job_that_kills_all_that_it_may_reaches_only_its_own_box(boxed):
    source = """
import os, signal, subprocess
init = os.getppid()
if os.getpid() != 2:  # not in a pid namespace, so see first that signals are scoped
    try:
        os.kill(init, 0)
        raise SystemExit("init can be reached, and so can the host")
    except PermissionError:
        pass
child = subprocess.Popen(["sleep", "300"])
os.kill(-1, signal.SIGKILL)
print(child.wait())
for number in signal.valid_signals():
    try:
        os.kill(init, number)
    except PermissionError:
        pass
print(os.getppid() == init)
"""
    bystander = Job(boxed, "echo up; sleep 300", job_id="bystander").start()
    row = Job(boxed, source).daemon.run_to_end("job")
    assert boxed.output(row["run_id"]) == b"-9\nTrue\n"
    assert reason(row) == ("completed", None)
    assert bystander.alive
    bystander.cancel()


def test_an_exit_code_like_that_of_a_kill_is_still_an_exit_code(daemon):
    for code in (124, 137, 143, 255):
        daemon.add(id=f"exit-{code}", command=f"exit {code}", working_directory="/")
        row = daemon.run_to_end(f"exit-{code}")
        assert (*reason(row), row["exit_code"], row["signal"]) == ("failed", "exit", code, None)


def test_the_row_of_a_run_that_has_ended_has_all_of_its_output(kind):
    daemon = kind.daemon()
    daemon.add(id="job", command="seq 1 20000", working_directory="/")
    for _ in range(5):
        row = daemon.run_to_end("job")
        assert daemon.output(row["run_id"]) == b"".join(b"%d\n" % n for n in range(1, 20001))


def test_after_many_runs_the_launcher_holds_no_more_than_before(kind):
    daemon = kind.daemon()
    daemon.add(id="job", command="true", working_directory="/", limits={"output": 4096})
    descriptors, children = _held(daemon.launcher_pid)
    daemon.run_to_end("job")
    # The next box of this kind stands ready from now on: its pidfd, its socket, its error pipe.
    rest = (descriptors + 3, children + 1)
    harness.wait_for(lambda: _held(daemon.launcher_pid) == rest, what="a box that stands ready")
    for _ in range(10):
        runs = [daemon.run("job", allow_overlap=True) for _ in range(20)]
        for run_id in runs:
            assert reason(daemon.wait(run_id)) == ("completed", None)
    harness.wait_for(lambda: _held(daemon.launcher_pid) == rest, what="what the launcher held before")


# Helpers that look at processes.


def _goes_on(daemon: harness.Daemon) -> bool:
    daemon.add(id="next", command="true", working_directory="/")
    return reason(daemon.run_to_end("next")) == ("completed", None)


def _supervisor_of(daemon: harness.Daemon) -> int | None:
    try:
        return daemon.supervisor_pid
    except Exception:
        return None


def _parent(pid: int) -> int:
    return int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1])


def _init_of(daemon: harness.Daemon, job: Job) -> int:
    """The one parent of the job's processes that is a child of the launcher."""
    inits = {_parent(pid) for pid in job.alive}
    (found,) = {pid for pid in inits if pid not in job.alive}
    assert _parent(found) == daemon.launcher_pid
    return found


def _held(pid: int) -> tuple[int, int]:
    """Descriptors and children."""
    children = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return len(os.listdir(f"/proc/{pid}/fd")), len(children)


@contextlib.contextmanager
def _owned(fd: int) -> Iterator[None]:
    try:
        yield
    finally:
        os.close(fd)


def _has_ended(pidfd: int) -> bool:
    poll = select.poll()
    poll.register(pidfd, select.POLLIN)
    return bool(poll.poll(5000))
