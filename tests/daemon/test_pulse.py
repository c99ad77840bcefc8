"""A supervisor that does not come round is replaced; one that sleeps, is busy, or was stopped with all the rest is not."""

import contextlib
import os
import signal
import socket
import time
from pathlib import Path

import harness
import pytest

from lnmt_scheduler.supervisor import client, paths

TRUSTED = {"sandbox": {"profile": "trusted"}}
#: Seconds that systemd is told to wait for a sign of life; the supervisor has half of that.
WATCHDOG_S = 2.0


@pytest.fixture
def notified(folder):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "notify.sock"))
        sock.settimeout(20)
        yield sock


@pytest.fixture
def watched(make_daemon, notified, folder):
    """A daemon under a service manager that wants signs of life."""
    environment = {
        "NOTIFY_SOCKET": str(folder / "notify.sock"),
        "WATCHDOG_USEC": str(round(WATCHDOG_S * 1e6)),
    }
    return make_daemon(environment=environment)


def pid_of(daemon):
    with contextlib.suppress(client.RequestError, OSError), client.Client(daemon.socket) as connection:
        connection.deadline = time.monotonic() + 1
        return connection.server["pid"]
    return None


def words(sock, until):
    """What the service manager was told, up to such a line."""
    found = []
    while True:
        found += sock.recv(4096).decode().splitlines()
        if until in found:
            return found


def switches(pid):
    (line,) = [line for line in Path(f"/proc/{pid}/status").read_text().splitlines() if line.startswith("voluntary")]
    return int(line.split()[1])


def test_a_stopped_supervisor_is_replaced_and_its_runs_go_on(watched, folder):
    watched.add(id="a", command=f"until [ -e {folder}/go ]; do echo more; sleep 0.05; done; exit 4", **TRUSTED)
    run_id = watched.run("a")
    before = watched.supervisor_pid
    os.kill(before, signal.SIGSTOP)
    harness.wait_for(lambda: pid_of(watched) not in (None, before), what="another supervisor")
    (folder / "go").touch()
    assert watched.wait(run_id)["exit_code"] == 4
    assert "the supervisor was stopped; it is killed and replaced" in watched.log
    assert watched.status()["quarantined"] == []


def test_signs_of_life_come_in_time_also_while_a_supervisor_is_replaced(watched, notified):
    assert "READY=1" in words(notified, "READY=1")
    words(notified, "WATCHDOG=1")
    os.kill(watched.supervisor_pid, signal.SIGSTOP)
    began = last = time.monotonic()
    longest = 0.0
    while time.monotonic() - began < 3 * WATCHDOG_S:
        words(notified, "WATCHDOG=1")
        longest, last = max(longest, time.monotonic() - last), time.monotonic()
    assert longest < WATCHDOG_S
    harness.wait_for(lambda: pid_of(watched), what="another supervisor")


def test_a_stop_of_the_whole_daemon_is_no_hang(watched):
    watched.add(id="tick", command="true", schedule="@every 1s", **TRUSTED)
    before = watched.supervisor_pid
    for pid in (before, watched.launcher_pid):
        os.kill(pid, signal.SIGSTOP)
    time.sleep(2 * WATCHDOG_S)  # longer than any limit: it is this time that the test is about
    for pid in (watched.launcher_pid, before):
        os.kill(pid, signal.SIGCONT)
    seen = watched.history()[0]["slot"] if watched.history() else 0
    harness.wait_for(lambda: (watched.history() or [{"slot": 0}])[0]["slot"] > seen + 2000)
    assert watched.supervisor_pid == before


def test_a_busy_supervisor_answers(watched):
    watched.add(id="a", command="yes | head -c 200M", max_retries=0, **TRUSTED)
    before = watched.supervisor_pid
    for _ in range(3):
        watched.run_to_end("a")
    assert watched.supervisor_pid == before


def test_an_idle_daemon_is_asked_nothing(daemon):
    daemon.add(id="daily", command="true", schedule="0 2 1 1 *", **TRUSTED)
    pids = (daemon.supervisor_pid, daemon.launcher_pid)
    # What the request before has set off is over when nothing has happened for a while.
    seen = [sum(map(switches, pids))]

    def is_quiet():
        time.sleep(0.5)
        seen.append(sum(map(switches, pids)))
        return seen[-1] == seen[-2]

    harness.wait_for(is_quiet)
    time.sleep(3)
    assert sum(map(switches, pids)) == seen[-1]


IMPATIENT = """
from lnmt_scheduler.supervisor import pulse
pulse.LIMIT = 1.0
"""


def test_without_systemd_a_hang_is_seen_as_soon_as_something_waits(make_daemon):
    daemon = make_daemon(before=IMPATIENT)
    before = daemon.supervisor_pid
    os.kill(before, signal.SIGSTOP)
    # Only that somebody wants to speak to it tells that it is stopped.
    with paths.connect(daemon.socket):
        harness.wait_for(lambda: pid_of(daemon) not in (None, before), what="another supervisor")


#: Every supervisor is stopped at once while there is this file.
STOPPED = """
import os, signal
from lnmt_scheduler.supervisor import pulse, successor
pulse.START_LIMIT = 1.0
really = successor.Process.__init__
def begin(self, *arguments):
    really(self, *arguments)
    if os.path.exists({stop!r}):
        os.kill(self.pid, signal.SIGSTOP)
successor.Process.__init__ = begin
"""


def test_one_that_hangs_before_it_is_ready_is_replaced_too(make_daemon, folder):
    stop = folder / "stop"
    daemon = make_daemon(before=STOPPED.format(stop=str(stop)))
    daemon.add(id="a", command="sleep 60", kill_grace=0, **TRUSTED)
    run_id = daemon.run("a")
    stop.touch()
    os.kill(daemon.supervisor_pid, signal.SIGKILL)
    harness.wait_for(lambda: daemon.log.count("the supervisor was stopped; it is killed and replaced") >= 2)
    stop.unlink()
    harness.wait_for(lambda: pid_of(daemon), what="a supervisor that is ready")
    assert [row["status"] for row in daemon.history() if row["run_id"] == run_id] == ["running"]
