"""Virtual time: what is due is done in its order, and the time in between is leapt over.

True time runs evenly and is what all else is told from: the wall clock, which faults set, and the monotonic clock, which
stands still while the host sleeps. Whole milliseconds. `kept` puts it in the place of supervisor/clock.py, the one place
where the daemon asks.
"""

import contextlib
import heapq
from collections.abc import Callable, Iterator

from lnmt_scheduler.supervisor import clock


class Call:
    """Something to be done; cancel() is enough, the heap forgets it in passing."""

    __slots__ = ("do",)

    def __init__(self, do: Callable[[], None]) -> None:
        self.do: Callable[[], None] | None = do

    def cancel(self) -> None:
        self.do = None


class Timeline:
    def __init__(self, begin: int) -> None:
        self.true = begin
        self.offset = 0
        self.asleep = 0
        self.boot = 1
        self._count = 0
        #: By true time, and by monotonic time.
        self._calls: list[tuple[int, int, Call]] = []
        self._ticks: list[tuple[int, int, Call]] = []

    @property
    def wall(self) -> int:
        return self.true + self.offset

    @property
    def monotonic(self) -> int:
        return self.true - self.asleep

    def at(self, true: int, do: Callable[[], None]) -> Call:
        return self._push(self._calls, max(true, self.true), do)

    def after(self, ms: int, do: Callable[[], None]) -> Call:
        """In so much time that the host is awake."""
        return self._push(self._ticks, self.monotonic + ms, do)

    def _push(self, heap: list[tuple[int, int, Call]], when: int, do: Callable[[], None]) -> Call:
        self._count += 1
        call = Call(do)
        heapq.heappush(heap, (when, self._count, call))
        return call

    def next(self) -> int | None:
        """The true time of what comes next."""
        for heap in (self._calls, self._ticks):
            while heap and heap[0][2].do is None:
                heapq.heappop(heap)
        times = [heap[0][0] + shift for heap, shift in ((self._calls, 0), (self._ticks, self.asleep)) if heap]
        return min(times, default=None)

    def take(self) -> Callable[[], None] | None:
        """What is due at this time, if anything is."""
        for heap, now in ((self._calls, self.true), (self._ticks, self.monotonic)):
            while heap and heap[0][0] <= now:
                do = heapq.heappop(heap)[2].do
                if do is not None:
                    return do
        return None


@contextlib.contextmanager
def kept(time: Timeline) -> Iterator[None]:
    """The daemon's clock is this one."""
    names = {
        "now_ms": lambda: time.true + time.offset,
        "monotonic": lambda: (time.true - time.asleep) / 1000,
        "boot_id": lambda: f"boot-{time.boot}",
    }
    before = {name: getattr(clock, name) for name in names}
    try:
        for name, value in names.items():
            setattr(clock, name, value)
        yield
    finally:
        for name, value in before.items():
            setattr(clock, name, value)
