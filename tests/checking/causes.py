"""What a fault or a crowd excuses: spans of true time, laid together so that a question about them costs a bisection."""

import bisect
from collections.abc import Iterable

from checking import evidence

#: While one of these lasts, or if one strikes, a slot may be decided late.
LATE_DECISIONS = frozenset({"supervisor", "launcher", "reboot", "store", "suspend", "slow", "stop", "step", "held"})


class Spans:
    """A union of closed spans."""

    def __init__(self, spans: Iterable[tuple[int, int]]) -> None:
        self._begins: list[int] = []
        self._ends: list[int] = []
        for begin, end in sorted(spans):
            if self._ends and begin <= self._ends[-1]:
                self._ends[-1] = max(self._ends[-1], end)
            else:
                self._begins.append(begin)
                self._ends.append(end)

    def touches(self, begin: int, end: int) -> bool:
        place = bisect.bisect_right(self._begins, end)
        return place > 0 and self._ends[place - 1] >= begin

    def begin_of(self, true: int) -> int:
        """Where the span that this time lies in begins; the time itself if it lies in none."""
        place = bisect.bisect_right(self._begins, true)
        return self._begins[place - 1] if place and self._ends[place - 1] >= true else true

    def end_of(self, true: int) -> int:
        """Where the span that this time lies in ends; the time itself if it lies in none."""
        place = bisect.bisect_right(self._begins, true)
        return max(true, self._ends[place - 1]) if place else true

    def within(self, begin: int, end: int) -> int:
        """How much of it lies between these."""
        place = max(0, bisect.bisect_right(self._begins, begin) - 1)
        total = 0
        while place < len(self._begins) and self._begins[place] < end:
            total += max(0, min(end, self._ends[place]) - max(begin, self._begins[place]))
            place += 1
        return total

    def stretch(self, begin: int, ms: int) -> int:
        """When so much time outside of it has gone by."""
        end = begin + ms
        for place in range(max(0, bisect.bisect_right(self._begins, begin) - 1), len(self._begins)):
            if self._begins[place] >= end:
                break
            end += max(0, self._ends[place] - max(begin, self._begins[place]))
        return end

    def after(self, true: int, bound: int) -> int:
        """When all is over that lasts at this time, or begins within `bound` of the end of what does."""
        while True:
            place = bisect.bisect_right(self._begins, true + bound)
            if place == 0 or self._ends[place - 1] <= true:
                return true
            true = self._ends[place - 1]


def of(faults: Iterable[evidence.Fault], kinds: Iterable[str]) -> Spans:
    wanted = set(kinds)
    return Spans((fault.begin, fault.end) for fault in faults if fault.kind in wanted)


def crowded(spans: Iterable[tuple[int, int]], places: int) -> list[tuple[int, int]]:
    """When at least so many of these were at once."""
    edges = sorted([(begin, 1) for begin, _ in spans] + [(end, -1) for _, end in spans])
    found, count, since = [], 0, 0
    for at, change in edges:
        if count < places <= count + change:
            since = at
        elif count + change < places <= count:
            found.append((since, at))
        count += change
    return found
