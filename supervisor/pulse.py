"""Whether the supervisor's loop turns: asked by the launcher when there is a reason to ask, and for systemd's sake.

Nothing wakes without a cause. The supervisor gives the launcher a duplicate of its epoll descriptor, which is readable exactly
while something waits for the supervisor: an event of a job, a client, a slot that is due. The launcher sleeps on it too, once:
when it becomes readable, it looks again half a limit later. Nothing waits then: all is well, and it sleeps until the next time.
Something does: it may be another thing by then, so the supervisor is asked (Ping), and has the other half of the limit to
answer from its loop (Pong), after the commit of that turn. An idle daemon is asked nothing, and one that hangs while
nothing waits for it harms nobody.

A launcher that was not running itself (a suspended host, SIGSTOP to all of the daemon, no time left for it) notices that it
comes late, and gives the supervisor its time anew.

Where systemd wants a sign of life (WATCHDOG_USEC), the supervisor is asked four times as often as that, and its answer is
passed on. While a supervisor is being replaced the launcher answers for itself: the runs go on, and ending the daemon would
end them. sd_watchdog_enabled(3)
"""

import os
import select
import time
from collections.abc import Callable

from lnmt_scheduler.supervisor import loop, notify

#: Seconds in which something that waits for the supervisor must be served, and those from its start until it is ready.
LIMIT, START_LIMIT = 30.0, 600.0
#: Seconds that a timer of ours may be late before our own clock is no proof against another.
_LATE = 1.0


class Pulse:
    def __init__(self, events: loop.Loop, ping: Callable[[int], None], on_hung: Callable[[], None]) -> None:
        self._loop = events
        self._ping = ping
        self._on_hung = on_hung
        self._fd: int | None = None
        self._timer: loop.Timer | None = None
        self._number = 0
        #: An answer to the ping of this number is waited for.
        self._asked = False
        wanted = _watchdog()
        self._limit = LIMIT if wanted is None else min(LIMIT, wanted / 2)
        if wanted is not None:
            self._beat(wanted / 4)

    def begin(self) -> None:
        """A supervisor was started."""
        self.end()
        self._set(START_LIMIT, self.begin, self._on_hung)

    def watch(self, fd: int) -> None:
        """It is ready, and this is its epoll descriptor, ours from here on."""
        self.end()
        self._fd = fd
        self._sleep()

    def end(self) -> None:
        """There is no supervisor."""
        self._cancel()
        self._asked = False
        if self._fd is not None:
            self._loop.unwatch(self._fd)
            os.close(self._fd)
            self._fd = None

    def pong(self, number: int) -> None:
        """The supervisor has answered."""
        if self._asked and number == self._number:
            self._asked = False
            self._cancel()
            if _watchdog() is not None:
                notify.send("WATCHDOG=1")
            self._sleep()

    def _sleep(self) -> None:
        if self._fd is not None:
            self._loop.watch(self._fd, loop.READ | select.EPOLLONESHOT, lambda _: self._on_waiting())

    def _on_waiting(self) -> None:
        if self._timer is None:
            self._set(self._limit / 2, self._look, self._look)

    def _look(self) -> None:
        if self._fd is not None and _is_readable(self._fd):
            self._ask()
        else:
            self._sleep()

    def _ask(self) -> None:
        self._number += 1
        self._asked = True
        self._set(self._limit / 2, self._ask, self._on_hung)
        self._ping(self._number)

    def _beat(self, seconds: float) -> None:
        """For systemd, for ever."""
        if self._fd is None:
            notify.send("WATCHDOG=1")
        elif not self._asked:
            self._ask()
        self._loop.call_at(time.monotonic() + seconds, lambda: self._beat(seconds))

    def _set(self, seconds: float, if_late: Callable[[], None], then: Callable[[], None]) -> None:
        self._cancel()
        due = time.monotonic() + seconds

        def call() -> None:
            self._timer = None
            (if_late if time.monotonic() - due > _LATE else then)()

        self._timer = self._loop.call_at(due, call)

    def _cancel(self) -> None:
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None


def _is_readable(fd: int) -> bool:
    """By poll(2): select(2) ends at descriptor 1024, and a launcher with many runs has more."""
    poll = select.poll()
    poll.register(fd, select.POLLIN)
    return bool(poll.poll(0))


def _watchdog() -> float | None:
    """Seconds after which systemd wants to hear of us; None: it does not."""
    try:
        microseconds = int(os.environ["WATCHDOG_USEC"])
        is_ours = int(os.environ.get("WATCHDOG_PID", os.getpid())) == os.getpid()
    except (KeyError, ValueError):
        return None
    return microseconds / 1e6 if microseconds > 0 and is_ours else None
