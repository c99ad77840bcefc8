"""The runs that are ready and wait for a free slot: the supervisor's priority heap.

Order: effective level, then slot, then run id. The level is the job's priority and one more for every whole aging
interval that the run has waited, without a ceiling. A heap of the next promotions keeps the levels true: a run is moved
once an interval, and nothing is sorted anew when a run is taken. Pure: the caller starts what pop() gives.

How long a run can wait: one of priority p is passed only by runs that are queued less than (5 - p) aging intervals
after it, for then even a CRITICAL newcomer (4) is a level lower, and stays so. A LOW run (1) that has waited 4
intervals, 40 minutes by default, has all that comes later behind it and waits no longer than it takes to work off what
is before it. That holds for the slots that are not reserved, so there must be one of these, and `reserved` must be
counted as pop() says.

Times are epoch milliseconds of the caller's clock; when that is set, move() takes the waits along.
"""

from dataclasses import dataclass, replace

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import heap


@dataclass(frozen=True, slots=True)
class _Waiting:
    priority: int
    slot_ms: int
    queued_ms: int


class Backlog:
    """Ready runs by run id. `aging_s` is the interval in seconds, more than 0."""

    def __init__(self, aging_s: float) -> None:
        self.set_aging(aging_s)
        self._waiting: dict[int, _Waiting] = {}
        self._promotions = heap.LazyHeap()
        #: Those whose own priority lets them into reserved slots, and the others.
        self._urgent = heap.LazyHeap()
        self._ordinary = heap.LazyHeap()

    def set_aging(self, aging_s: float) -> None:
        """Use this interval; what waits is judged by it from its next promotion on."""
        if aging_s <= 0:
            raise ValueError(f"the aging interval must be more than 0 seconds, not {aging_s}")
        self._aging_ms = max(1, round(aging_s * 1000))

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, run_id: int) -> bool:
        return run_id in self._waiting

    def push(self, run_id: int, priority: int, slot_ms: int, queued_ms: int) -> None:
        """Let a run wait. `slot_ms` is its slot, or when it was asked for; it ages from `queued_ms` on.

        Raises ValueError if it waits already.
        """
        if run_id in self._waiting:
            raise ValueError(f"run {run_id} waits already")
        self._waiting[run_id] = _Waiting(priority, slot_ms, queued_ms)
        self._place(run_id, now=queued_ms)

    def move(self, by: int, now: int) -> None:
        """The clock was set by so many milliseconds, to `now`: what waits has waited as long as before."""
        for run_id, waiting in self._waiting.items():
            self._waiting[run_id] = replace(waiting, queued_ms=waiting.queued_ms + by)
            self._place(run_id, now)

    def remove(self, run_id: int) -> None:
        """Forget a run, if it waits."""
        if self._waiting.pop(run_id, None) is not None:
            self._promotions.discard(run_id)
            self._urgent.discard(run_id)
            self._ordinary.discard(run_id)

    def pop(self, now: int, free: int, reserved: int) -> int | None:
        """Take out the run that may start next, or None.

        `free` slots are free at this moment. `reserved` of them are kept for runs of priority HIGH and CRITICAL: the
        configured number less the runs of these priorities that hold a slot now. (Were it not less, a steady stream of
        HIGH runs would take each slot that comes free, and the reserve would starve all others.)
        """
        if free <= 0:
            return None
        while (due := self._promotions.first()) is not None and due[0] <= now:
            self._place(due[-1], now)
        urgent = self._urgent.first()
        ordinary = self._ordinary.first() if free > reserved else None
        tops = [top for top in (urgent, ordinary) if top is not None]
        if not tops:
            return None
        run_id = min(tops)[-1]
        self.remove(run_id)
        return run_id

    def _place(self, run_id: int, now: int) -> None:
        """Put the run where its level at `now` says, and note when that rises."""
        run = self._waiting[run_id]
        intervals = max(0, now - run.queued_ms) // self._aging_ms
        ready = self._urgent if run.priority >= model.JobPriority.HIGH else self._ordinary
        ready.set(run_id, -(run.priority + intervals), run.slot_ms)
        self._promotions.set(run_id, run.queued_ms + (intervals + 1) * self._aging_ms)
