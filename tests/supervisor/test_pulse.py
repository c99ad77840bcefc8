"""When the supervisor is asked whether its loop turns, with a real loop; all of a daemon: daemon/test_pulse.py."""

import fcntl
import os
import resource
import select
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
import standin

from lnmt_scheduler.ipc import messages
from lnmt_scheduler.sandbox import probe
from lnmt_scheduler.supervisor import launcher, loop, pulse


@pytest.fixture
def waiting() -> Iterator[select.epoll]:
    """A supervisor's epoll, for which something waits for ever."""
    read, write = os.pipe()
    with select.epoll() as made:
        made.register(read, select.EPOLLIN)
        os.close(write)
        yield made
    os.close(read)


@pytest.fixture
def many_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("many_descriptors")
def test_it_looks_at_a_descriptor_of_any_number(waiting, monkeypatch):
    """A replaced supervisor of a launcher with many runs gives it one above 1023, where select(2) ends."""
    monkeypatch.setattr(pulse, "LIMIT", 0.01)
    events = loop.Loop()
    asked: list[int] = []
    made = pulse.Pulse(events, asked.append, lambda: None)
    made.watch(fcntl.fcntl(waiting.fileno(), fcntl.F_DUPFD_CLOEXEC, 1024))
    while not asked:
        events.turn()
    made.end()
    events.close()


class Started:
    """A supervisor as the launcher sees it, without a process."""

    is_stopped = False
    channel = None

    def __init__(self) -> None:
        self.killed = False

    def kill(self, _: str) -> None:
        self.killed = True


def test_one_that_is_ready_is_not_timed_any_more_also_if_its_epoll_was_lost_on_the_way(monkeypatch):
    """There was no room for the descriptor: PacketChannel.receive()."""
    monkeypatch.setattr(pulse, "START_LIMIT", 0.01)
    made = launcher.Launcher([], probe.Host("d", {}), None)
    process = Started()
    made._current = process  # type: ignore[assignment]  # all of it that is looked at here
    made._pulse.begin()
    made._handle(process, messages.Watch(), [])  # type: ignore[arg-type]  # as above
    passed: list[bool] = []
    made._loop.call_at(time.monotonic() + 0.05, lambda: passed.append(True))
    while not passed:
        made._loop.turn()
    assert not process.killed
    made._loop.close()
    os.close(made._page)


#: A supervisor that hangs in the kernel cannot be made here; from the launcher's side it looks like one that is not killed.
FAULT = """
from lnmt_scheduler.supervisor import successor
successor.Process.kill = lambda self, fault="": None
"""


def test_the_launcher_answers_for_one_that_does_not_end_when_it_is_killed(folder: Path, waiting: select.epoll) -> None:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock:
        sock.bind(str(folder / "notify.sock"))
        sock.settimeout(20)
        environment = {"NOTIFY_SOCKET": str(folder / "notify.sock"), "WATCHDOG_USEC": "200000"}
        with standin.Launched(folder, environment=environment, before=FAULT) as made:
            made.send(messages.Watch(), (os.dup(waiting.fileno()),))
            harness.wait_for(lambda: "the supervisor hangs; it is killed" in made.log, what="a supervisor that hangs")
            sock.setblocking(False)
            harness.wait_for(lambda: _is_silent(sock), what="the end of what was said before")
            sock.settimeout(5)
            assert sock.recv(100) == b"WATCHDOG=1"


def _is_silent(sock: socket.socket) -> bool:
    try:
        sock.recv(100)
    except BlockingIOError:
        return True
    return False
