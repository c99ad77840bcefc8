"""When the supervisor is asked whether its loop turns, with a real loop; all of a daemon: daemon/test_pulse.py."""

import fcntl
import os
import resource
import select
from collections.abc import Iterator

import pytest

from lnmt_scheduler.supervisor import loop, pulse


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
