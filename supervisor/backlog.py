"""The runs that are ready and wait for a free slot: the supervisor's priority heap.

Order: effective level, then slot, then run id. The level is the job's priority and one more for every whole aging
interval that the run has waited, without a ceiling. A heap of the next promotions keeps the levels true: a run is moved
once an interval, and nothing is sorted anew when a run is taken. Pure: the caller starts what pop() gives.

Runs wait in lanes: of each pool one for those that are on time and one for those that are caught up. A pool that is full
closes its lanes and no others, and taking a run looks at the first of each lane only, so it costs the same however many
wait behind a full pool. What is caught up starts at most BURST times a second, all pools together: a daemon that was down
for a night has all of it due in one moment, and the host has other things to do then, too.

How long a run can wait: one of priority p is passed only by runs that are queued less than (5 - p) aging intervals
after it, for then even a CRITICAL newcomer (4) is a level lower, and stays so. A LOW run (1) that has waited 4
intervals, 40 minutes by default, has all that comes later behind it, in its pool and of all pools, and waits no longer
than it takes to work off what is before it: if these are `ahead` runs of at most `longest` seconds each, on `places`
places (its pool's, or those of the daemon that are not reserved, whichever are fewer), at most (ahead / places + 1) times
`longest` (and if it is caught up, a second more for each BURST that are before it). That holds for the slots that are not
reserved, so there must be one of these, and `reserved` must be counted as pop() says.

Times are epoch milliseconds of the caller's clock; when that is set, move() takes the waits along.
"""

from collections import deque
from collections.abc import Container
from dataclasses import dataclass, replace
from typing import NamedTuple

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import heap

#: Runs that are caught up start so many times a second at most.
BURST = 5
_SECOND = 1000


class _Name(NamedTuple):
    #: None: in no pool.
    pool: str | None
    caught_up: bool


class _Lane:
    """Those whose own priority lets them into reserved slots, and the others."""

    def __init__(self) -> None:
        self.urgent = heap.LazyHeap()
        self.ordinary = heap.LazyHeap()

    def __bool__(self) -> bool:
        return bool(len(self.urgent) or len(self.ordinary))


@dataclass(frozen=True, slots=True)
class _Waiting:
    priority: int
    slot_ms: int
    queued_ms: int
    lane: _Name


class Backlog:
    """Ready runs by run id. `aging_s` is the interval in seconds, more than 0."""

    def __init__(self, aging_s: float) -> None:
        self.set_aging(aging_s)
        self._waiting: dict[int, _Waiting] = {}
        self._promotions = heap.LazyHeap()
        #: Lanes in which somebody waits.
        self._lanes: dict[_Name, _Lane] = {}
        #: When those that were caught up were started of late.
        self._caught_up: deque[int] = deque(maxlen=BURST)

    def set_aging(self, aging_s: float) -> None:
        """Use this interval; what waits is judged by it from its next promotion on."""
        if aging_s <= 0:
            raise ValueError(f"the aging interval must be more than 0 seconds, not {aging_s}")
        self._aging_ms = max(1, round(aging_s * 1000))

    def __len__(self) -> int:
        return len(self._waiting)

    def __contains__(self, run_id: int) -> bool:
        return run_id in self._waiting

    def waiting_since(self, before: int) -> list[tuple[int, int]]:
        """(since when, run id) of those that have waited from before this moment on, the longest first."""
        return sorted((each.queued_ms, run_id) for run_id, each in self._waiting.items() if each.queued_ms < before)

    def push(
        self,
        run_id: int,
        priority: int,
        slot_ms: int,
        queued_ms: int,
        *,
        pool: str | None = None,
        caught_up: bool = False,
    ) -> None:
        """Let a run wait. `slot_ms` is its slot, or when it was asked for; it ages from `queued_ms` on.

        Raises ValueError if it waits already.
        """
        if run_id in self._waiting:
            raise ValueError(f"run {run_id} waits already")
        self._waiting[run_id] = _Waiting(priority, slot_ms, queued_ms, _Name(pool, caught_up))
        self._place(run_id, now=queued_ms)

    def move(self, by: int, now: int) -> None:
        """The clock was set by so many milliseconds, to `now`: what waits has waited as long as before."""
        for run_id, waiting in self._waiting.items():
            self._waiting[run_id] = replace(waiting, queued_ms=waiting.queued_ms + by)
            self._place(run_id, now)
        self._caught_up.clear()

    def remove(self, run_id: int) -> None:
        """Forget a run, if it waits."""
        waiting = self._waiting.pop(run_id, None)
        if waiting is not None:
            self._promotions.discard(run_id)
            lane = self._lanes[waiting.lane]
            lane.urgent.discard(run_id)
            lane.ordinary.discard(run_id)
            if not lane:
                del self._lanes[waiting.lane]

    def settle(self, now: int, most: int) -> bool:
        """Let levels rise that are to have risen by now, of at most so many runs; whether that was all."""
        for _ in range(most):
            if (due := self._promotions.first()) is None or due[0] > now:
                return True
            self._place(due[-1], now)
        return False

    def pop(self, now: int, free: int, reserved: int, full: Container[str | None] = ()) -> int | None:
        """Take out the run that may start next, or None.

        `free` slots are free at this moment. `reserved` of them are kept for runs of priority HIGH and CRITICAL: the
        configured number less the runs of these priorities that hold a slot now. (Were it not less, a steady stream of
        HIGH runs would take each slot that comes free, and the reserve would starve all others.) `full`: pools that
        have no place.
        """
        if free <= 0:
            return None
        while not self.settle(now, 1000):
            pass
        tops = []
        for name, lane in self._lanes.items():
            if name.pool in full or (name.caught_up and self._opens_at() > now):
                continue
            tops += [lane.urgent.first(), lane.ordinary.first() if free > reserved else None]
        run_id = min((top for top in tops if top is not None), default=(None,))[-1]
        if run_id is not None:
            if self._waiting[run_id].lane.caught_up:
                self._caught_up.append(now)
            self.remove(run_id)
        return run_id

    def next_opening(self, now: int) -> int | None:
        """When what is caught up may start again, if any of it waits for that."""
        opens = self._opens_at()
        return opens if opens > now and any(name.caught_up for name in self._lanes) else None

    def _opens_at(self) -> int:
        full = len(self._caught_up) == BURST
        return self._caught_up[0] + _SECOND if full else 0

    def _place(self, run_id: int, now: int) -> None:
        """Put the run where its level at `now` says, and note when that rises."""
        run = self._waiting[run_id]
        intervals = max(0, now - run.queued_ms) // self._aging_ms
        lane = self._lanes.setdefault(run.lane, _Lane())
        ready = lane.urgent if run.priority >= model.JobPriority.HIGH else lane.ordinary
        ready.set(run_id, -(run.priority + intervals), run.slot_ms)
        self._promotions.set(run_id, run.queued_ms + (intervals + 1) * self._aging_ms)
