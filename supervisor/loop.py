"""One epoll, one heap of timers: what launcher and supervisor sleep in until something happens.

No threads and no polling: a turn waits for descriptors or the next deadline, calls what is due, and ends with the
`after_turn` hook, where the supervisor commits what the turn decided before any of it takes effect. Callbacks do a bounded
amount of work and never block.
"""

import errno
import heapq
import itertools
import os
import select
import time
from collections.abc import Callable

READ, WRITE = select.EPOLLIN, select.EPOLLOUT
#: A turn of so many seconds is told of: everything that was due meanwhile has waited for it.
_LONG_TURN = 5.0
#: epoll_ctl(2) has no memory now, or too much is watched on this host; and the seconds until it is asked again.
_SHORT = {errno.ENOMEM, errno.ENOSPC}
_AGAIN = 0.05
#: Seconds of one sleep; epoll_wait(2) takes milliseconds as an int, which ends after 24 days.
_LONGEST = 86_400.0


class Timer:
    """A pending call. cancel() is enough; the heap forgets it in passing."""

    __slots__ = ("callback",)

    def __init__(self, callback: Callable[[], None]) -> None:
        self.callback: Callable[[], None] | None = callback

    def cancel(self) -> None:
        self.callback = None


class Loop:
    """Owns its epoll descriptor and nothing that is watched."""

    def __init__(self) -> None:
        self._epoll = select.epoll()
        #: Callback by descriptor, in a list of its own that unwatch() empties: the number may soon be another's.
        self._callbacks: dict[int, list[Callable[[int], object]]] = {}
        #: Events by descriptor: what is wanted, and what the kernel was told. They differ while it has no memory for that.
        self._wanted: dict[int, int] = {}
        self._told: dict[int, int] = {}
        #: Of those that differ.
        self._owed: set[int] = set()
        self._timers: list[tuple[float, int, Timer]] = []
        self._order = itertools.count()
        self._soon: list[Callable[[], None]] = []
        self._running = False
        #: Called at the end of every turn.
        self.after_turn: Callable[[], None] = lambda: None
        #: Called after a turn that took very long, with its seconds.
        self.on_long_turn: Callable[[float], None] = lambda _: None
        #: When the last turn was over, on the monotonic clock.
        self._ended = time.monotonic()
        #: Turns taken: what idle wake-ups are counted by.
        self.turns = 0

    def watch(self, fd: int, events: int, callback: Callable[[int], object]) -> None:
        """Call `callback(ready events)` whenever the descriptor is ready; watching again changes both."""
        self._callbacks.setdefault(fd, [])[:] = [callback]
        self._wanted[fd] = events
        try:
            self._tell(fd)
        except BaseException:
            del self._callbacks[fd], self._wanted[fd]
            raise

    def _tell(self, fd: int) -> None:
        events = self._wanted[fd]
        # What is watched for one time the kernel forgets as soon as that has come.
        if self._told.get(fd) == events and not events & select.EPOLLONESHOT:
            return
        try:
            if fd in self._told:
                self._epoll.modify(fd, events)
            else:
                self._epoll.register(fd, events)
        except OSError as error:
            if error.errno not in _SHORT:
                raise
            self._owed.add(fd)  # asked again before the next sleep; nobody ends for that
        else:
            self._told[fd] = events
            self._owed.discard(fd)

    def unwatch(self, fd: int) -> None:
        """Forget the descriptor; to be called before it is closed. Harmless if it is not watched."""
        if callback := self._callbacks.pop(fd, None):
            callback.clear()
            del self._wanted[fd]
            self._owed.discard(fd)
            if self._told.pop(fd, None) is not None:
                self._epoll.unregister(fd)

    def call_at(self, when: float, callback: Callable[[], None]) -> Timer:
        """Call once at CLOCK_MONOTONIC `when` (seconds), or as soon after it as the loop gets there."""
        timer = Timer(callback)
        heapq.heappush(self._timers, (when, next(self._order), timer))
        return timer

    def call_soon(self, callback: Callable[[], None]) -> None:
        """Call in the next turn, which then does not wait."""
        self._soon.append(callback)

    def stop(self) -> None:
        self._running = False

    def run(self) -> None:
        """Take turns until stop()."""
        self._running, self._ended = True, time.monotonic()
        while self._running:
            self.turn()

    def turn(self) -> None:
        self.turns += 1
        for fd in list(self._owed):
            self._tell(fd)
        wait = self._wait()
        ready = self._epoll.poll(wait, maxevents=256)
        # One that waits for nothing begins where the one before has ended: we may have been stopped in between.
        began = self._ended if wait == 0 else time.monotonic()
        # An earlier callback of this turn may unwatch a descriptor and even watch another one of the same number, which
        # these events are not for: so who is meant is looked up before the first of them is called.
        for cell, events in [(self._callbacks[fd], events) for fd, events in ready if fd in self._callbacks]:
            for callback in cell:
                callback(events)
        soon, self._soon = self._soon, []
        for call in soon:
            call()
        now = time.monotonic()
        while self._timers and self._timers[0][0] <= now:
            timer = heapq.heappop(self._timers)[2]
            if timer.callback is not None:
                timer.callback()
        self.after_turn()
        self._ended = time.monotonic()
        if self._ended - began >= _LONG_TURN:
            self.on_long_turn(self._ended - began)

    def _wait(self) -> float | None:
        while self._timers and self._timers[0][2].callback is None:
            heapq.heappop(self._timers)
        if self._soon:
            return 0
        longest = _AGAIN if self._owed else _LONGEST
        if not self._timers:
            return longest if self._owed else None
        return min(longest, max(0.0, self._timers[0][0] - time.monotonic()))

    def duplicate(self) -> int:
        """A descriptor, the caller's, that is readable while something that is watched here is ready and was not seen to."""
        return os.dup(self._epoll.fileno())

    def close(self) -> None:
        self._epoll.close()
