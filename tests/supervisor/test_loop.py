import errno
import os
import select
import time

import pytest

from lnmt_scheduler.supervisor import loop


@pytest.fixture
def events():
    made = loop.Loop()
    yield made
    made.close()


@pytest.fixture
def pipe():
    read, write = os.pipe()
    yield read, write
    for fd in (read, write):
        os.close(fd)


def test_what_is_readable_is_called(events, pipe):
    read, write = pipe
    got = []
    events.watch(read, loop.READ, lambda ready: got.append((ready & loop.READ, os.read(read, 9))))
    os.write(write, b"one")
    events.turn()
    assert got == [(loop.READ, b"one")]


def test_watching_again_changes_what_is_called(events, pipe):
    read, write = pipe
    got = []
    events.watch(read, loop.READ, lambda _: got.append("first"))
    events.watch(read, loop.READ, lambda _: got.append("second"))
    os.write(write, b"x")
    events.turn()
    assert got == ["second"]


def test_what_is_watched_for_one_time_is_called_again_once_it_is_watched_again(events, pipe):
    read, write = pipe
    got = []
    os.write(write, b"x")
    for _ in range(2):
        events.watch(read, loop.READ | select.EPOLLONESHOT, lambda _: got.append("called"))
        for _ in range(2):
            events.call_soon(lambda: None)
            events.turn()
    assert got == ["called"] * 2


def test_what_is_unwatched_in_a_turn_is_not_called_in_it(events):
    pipes = [os.pipe() for _ in range(2)]
    got = []

    def on_ready(_):
        got.append(True)
        for read, _ in pipes:
            events.unwatch(read)

    for read, write in pipes:
        events.watch(read, loop.READ, on_ready)
        os.write(write, b"x")
    events.turn()
    assert got == [True]
    events.unwatch(pipes[0][0])  # once more is harmless
    for fd in (fd for pair in pipes for fd in pair):
        os.close(fd)


def test_timers_come_in_order_of_their_time_and_then_of_their_making(events):
    got = []
    now = time.monotonic()
    events.call_at(now + 0.02, lambda: got.append("late"))
    events.call_at(now, lambda: got.append("first"))
    events.call_at(now, lambda: got.append("second"))
    while len(got) < 3:
        events.turn()
    assert got == ["first", "second", "late"]
    assert time.monotonic() >= now + 0.02


def test_a_cancelled_timer_is_not_called_and_wakes_nobody(events):
    events.call_at(time.monotonic() + 0.01, lambda: pytest.fail("was cancelled")).cancel()
    events.call_at(time.monotonic() + 0.05, events.stop)
    events.run()
    assert events.turns <= 2  # one that slept, and one more where the kernel's milliseconds round down


def test_what_is_called_soon_is_called_in_the_next_turn_and_not_in_this(events):
    got = []
    events.call_soon(lambda: (got.append(1), events.call_soon(lambda: got.append(2))))
    events.turn()
    assert got == [1]
    events.turn()
    assert got == [1, 2]


def test_every_turn_ends_with_the_hook(events):
    order = []
    events.after_turn = lambda: order.append("commit")
    events.call_soon(lambda: order.append("decide"))
    events.call_at(time.monotonic(), lambda: order.append("timer"))
    events.turn()
    assert order == ["decide", "timer", "commit"]


def test_a_loop_with_nothing_to_do_sleeps(events):
    events.call_at(time.monotonic() + 0.2, events.stop)
    before = time.process_time()
    events.run()
    assert events.turns <= 2
    assert time.process_time() - before < 0.1


def test_what_was_ready_of_a_closed_descriptor_is_not_told_to_the_next_of_its_number(events):
    pipes = [os.pipe(), os.pipe()]
    told: list[int] = []

    def close_the_other(mine: int, other: int) -> None:
        told.append(mine)
        for each in (mine, other):
            events.unwatch(each)
        # Number by number the same again, with nothing to read.
        idle, idle_write = os.pipe()
        os.dup2(idle, other)
        for fd in (idle, idle_write):
            os.close(fd)
        events.watch(other, loop.READ, lambda _: told.append(-other))

    for (read, _), (other, _) in zip(pipes, reversed(pipes), strict=True):
        events.watch(read, loop.READ, lambda _, read=read, other=other: close_the_other(read, other))
    for _, write in pipes:
        os.write(write, b"x")
    events.turn()
    assert len(told) == 1
    assert told[0] > 0
    for each in pipes:
        for fd in each:
            os.close(fd)


def test_a_timer_that_is_due_in_years_can_be_waited_for(events, pipe):
    # epoll_wait(2) counts in milliseconds and ends after 24 days.
    read, write = pipe
    got = []
    events.call_at(time.monotonic() + 3650 * 86400, lambda: got.append("late"))
    events.watch(read, loop.READ, lambda _: got.append(os.read(read, 9)))
    os.write(write, b"one")
    events.turn()
    assert got == [b"one"]


def test_a_turn_that_takes_very_long_is_told_once_and_drops_no_timer(events, monkeypatch):
    told, done = [], []
    events.on_long_turn = told.append
    now = time.monotonic()
    real = time.monotonic
    for _ in range(3):
        events.call_at(now, lambda: done.append(True))
    events.call_soon(lambda: monkeypatch.setattr(time, "monotonic", lambda: real() + 30))
    events.turn()
    events.call_soon(lambda: None)
    events.turn()
    assert [round(seconds) for seconds in told] == [30]
    assert len(done) == 3


def test_who_is_stopped_between_two_turns_is_told_as_well(events, monkeypatch):
    told, real = [], time.monotonic
    events.on_long_turn = told.append
    events.after_turn = lambda: events.call_soon(lambda: None)
    events.call_soon(lambda: None)
    events.turn()
    monkeypatch.setattr(time, "monotonic", lambda: real() + 30)
    events.turn()
    events.turn()
    assert [round(seconds) for seconds in told] == [30]


class Short:
    """An epoll that has no memory for so many calls."""

    def __init__(self, real, times, error):
        self._real, self.times, self._error = real, times, error

    def _fail(self):
        self.times -= 1
        if self.times >= 0:
            raise OSError(self._error, os.strerror(self._error))

    def register(self, fd, events):
        self._fail()
        self._real.register(fd, events)

    def modify(self, fd, events):
        self._fail()
        self._real.modify(fd, events)

    def __getattr__(self, name):
        return getattr(self._real, name)


@pytest.mark.parametrize("error", [errno.ENOMEM, errno.ENOSPC])
def test_a_kernel_without_memory_to_watch_is_asked_again(events, pipe, error):
    read, write = pipe
    got = []
    short = events._epoll = Short(events._epoll, 2, error)
    os.write(write, b"one")
    events.watch(read, loop.READ, lambda _: got.append(os.read(read, 9)))
    while not got:
        events.turn()
    assert (got, short.times) == ([b"one"], -1)
    short.times = 1
    events.watch(read, loop.READ | loop.WRITE, lambda _: None)
    events.unwatch(read)
    assert short.times == 0
    events.call_at(time.monotonic() + 0.01, lambda: got.append(b"timer"))
    while len(got) < 2:
        events.turn()
    assert got == [b"one", b"timer"]


def test_what_cannot_be_watched_at_all_is_an_error_and_leaves_nothing(events):
    with pytest.raises(OSError):
        events.watch(9_999, loop.READ, lambda _: None)
    events.unwatch(9_999)


def test_the_kernel_is_told_only_what_it_does_not_know(events, pipe):
    read, write = pipe
    got = []
    events.watch(read, loop.READ, lambda _: got.append(1))
    short = events._epoll = Short(events._epoll, 0, errno.ENOMEM)
    events.watch(read, loop.READ, lambda _: got.append(2))
    assert short.times == 0
    os.write(write, b"x")
    events.turn()
    assert got == [2]
