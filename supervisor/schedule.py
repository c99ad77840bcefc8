"""When jobs are due, and what becomes of the slots that are due: pure decisions of the supervisor.

ScheduleHeap holds the next slot of every job, so that the daemon sleeps until the first of them. plan() looks at one
job that is due and says which of its undecided slots run, which are passed over and why, and how far the job is decided
then; the caller writes all of it in one transaction and only then starts anything. Nothing here reads a clock, knows
cron or judges overlap, and @reboot, which names no instant, is the caller's.

A job with `jitter` is due a fixed while after each of its slots, so that jobs of one minute do not all start in its first
second. The while depends on job and host alone: a slot never overtakes another of its job, and a restart moves none.

Times are epoch milliseconds, UTC; a slot is a multiple of 1000.
"""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass

from lnmt_scheduler.supervisor import heap

#: A slot less late than this is on time: the daemon was busy or the host asleep for a moment, nothing was missed.
GRACE_MS = 60_000
#: More passed-over slots than this of one reason are one row.
ROWS = 100
#: Passed-over slots are counted up to here: a day of a job that runs every minute is counted exactly, and a job that
#: runs every second does not hold up the others after a week's rest.
COUNTED = 2_000

#: A job that is decided this far ahead of the clock was decided by a clock that had been wrong (years, often): that is void,
#: or the job would sleep until then. What lies nearer is kept, so that a clock that is set back a little repeats nothing.
VOID_MS = 3 * 3600 * 1000

#: The first slot after an instant, or None if there is none.
NextAfter = Callable[[int], int | None]


def offset(job_id: str, jitter_s: float, host: str) -> int:
    """Milliseconds after its slots that a job of this `jitter` is due: anything below that, always the same."""
    if not jitter_s:
        return 0
    drawn = int.from_bytes(hashlib.sha256(f"jitter {job_id} {host}".encode()).digest()[:8])
    return drawn % round(jitter_s * 1000)


class ScheduleHeap:
    """The next slot of each job, by the job's uid."""

    def __init__(self) -> None:
        self._heap = heap.LazyHeap()

    def __len__(self) -> int:
        return len(self._heap)

    def set(self, uid: int, at_ms: int | None) -> None:
        """The job is due at `at_ms` and at no other time; None: never."""
        if at_ms is None:
            self._heap.discard(uid)
        else:
            self._heap.set(uid, at_ms)

    def first(self) -> tuple[int, int] | None:
        """(when, uid) of what is due first; None: nothing will be."""
        first = self._heap.first()
        return None if first is None else (first[0], first[1])

    def pop_due(self, now: int) -> list[tuple[int, int]]:
        """Take out what is due, as (slot, uid) in order of time. What is taken out is due again only after set()."""
        due: list[tuple[int, int]] = []
        while (first := self._heap.first()) is not None and first[0] <= now:
            at_ms, uid = first
            due.append((at_ms, uid))
            self._heap.pop()
        return due


@dataclass(frozen=True, slots=True)
class Skip:
    """Slots that are passed over for one reason: one row of history."""

    first: int
    #: The same as `first` unless count is more than 1.
    last: int
    #: How many; COUNTED means so many at least.
    count: int
    #: missed (older than the window) or coalesced (a newer slot stands for it).
    reason: str


@dataclass(frozen=True, slots=True)
class Slots:
    """What becomes of the undecided slots of one job."""

    #: Slots to run, oldest first, each decided on its own: overlap is the caller's question.
    runs: tuple[int, ...]
    #: So many of them, the first, are late by GRACE_MS or more: they are caught up.
    late: int
    skips: tuple[Skip, ...]
    #: The job is decided up to here.
    watermark: int
    #: When the job is due again; None: never.
    next: int | None


def plan(
    watermark: int,
    now: int,
    next_after: NextAfter,
    window_s: float | None,
    *,
    catch_up: str = "latest",
    offset: int = 0,
    early: bool = False,
    correction: bool = False,
) -> Slots:
    """Decide the slots in (watermark, now]; with an `offset` (jitter) each of them is due only so many ms after it.

    With `early` also those run that are not due yet for their offset: the job is about to change.

    A slot less than GRACE_MS late runs, whatever else is said. Of those before it `catch_up` says what becomes:

    - `latest`: the newest runs if there is no other, unless it is older than window_s seconds (None: no limit);
    - `all`: those inside the window run, the newest ROWS of them;
    - `skip`: none runs.

    All others are skipped: coalesced inside the window, missed outside, and with `skip` missed. Up to ROWS skips of one
    reason come one by one, more as one Skip.

    With `correction` (the clock was set forward by hours: it had been wrong, nothing was missed) undecided slots are
    passed over without a trace. A clock that was set back decides nothing again, since the watermark stays; where that is
    void, the job is decided as of now, and it is for the store to refuse a slot that it has a row of.

    The cost is bounded: at most 2 * COUNTED calls of next_after and some thousand more, however long the gap.
    """
    if is_void(watermark, now):
        watermark = now
    if correction:
        decided = max(watermark, now)
        return Slots(runs=(), late=0, skips=(), watermark=decided, next=next_after(decided))
    until = now if early else now - offset
    now -= offset
    first = next_after(watermark)
    if first is None or first > until:
        return Slots(runs=(), late=0, skips=(), watermark=watermark, next=first)

    late = now - GRACE_MS
    on_time: list[int] = []
    upcoming = first if first > late else next_after(late)
    while upcoming is not None and upcoming <= until:
        on_time.append(upcoming)
        upcoming = next_after(upcoming)
    if first > late:
        return Slots(runs=tuple(on_time), late=0, skips=(), watermark=on_time[-1], next=upcoming)

    newest = _newest(next_after, first, late)
    # Slots after this instant are inside the window.
    edge = watermark if window_s is None else max(watermark, now - int(window_s * 1000) - 1)
    caught_up: list[int] = []
    match catch_up:
        case "all":
            caught_up = _last(next_after, edge, newest, ROWS)
        case "skip":
            edge = newest
        case _:
            caught_up = [newest] if newest > edge and not on_time else []
    skipped = caught_up[0] - 1 if caught_up else newest
    return Slots(
        runs=(*caught_up, *on_time),
        late=len(caught_up),
        skips=(
            *_skips(next_after, watermark, min(edge, skipped), "missed"),
            *_skips(next_after, edge, skipped, "coalesced"),
        ),
        watermark=on_time[-1] if on_time else newest,
        next=upcoming,
    )


def is_void(watermark: int, now: int) -> bool:
    """Whether a job is decided further ahead than a clock that was right can have decided it."""
    return watermark > now + VOID_MS


def pass_over(watermark: int, now: int, next_after: NextAfter, reason: str) -> Slots:
    """Decide the slots in (watermark, now] as skipped, all of them for this reason."""
    decided = now if is_void(watermark, now) else max(watermark, now)
    return Slots(
        runs=(),
        late=0,
        skips=_skips(next_after, watermark, decided, reason),
        watermark=decided,
        next=next_after(decided),
    )


def _skips(next_after: NextAfter, after: int, until: int, reason: str) -> tuple[Skip, ...]:
    """The slots in (after, until], at most ROWS one by one, else as one."""
    slots: list[int] = []
    slot = next_after(after) if after < until else None
    while slot is not None and slot <= until and len(slots) < COUNTED:
        slots.append(slot)
        slot = next_after(slot)
    if len(slots) <= ROWS:
        return tuple(Skip(slot, slot, 1, reason) for slot in slots)
    return (Skip(slots[0], _newest(next_after, slots[-1], until), len(slots), reason),)


def _last(next_after: NextAfter, after: int, until: int, count: int) -> list[int]:
    """The last `count` slots in (after, until], or all of them if there are fewer; oldest first."""
    # Walked from further and further back, then from in between, until that finds enough of them and not many more.
    at, many = max(after, until - 1000), None
    few = until
    while True:
        slots = _walk(next_after, at, until, 2 * count)
        if len(slots) > 2 * count:
            many = at
        elif len(slots) >= count or at <= after:
            return slots[-count:]
        else:
            few = at
        at = max(after, until - 2 * (until - at)) if many is None else (many + few) // 2


def _walk(next_after: NextAfter, after: int, until: int, enough: int) -> list[int]:
    """The slots in (after, until], at most one more than enough."""
    slots: list[int] = []
    slot = next_after(after)
    while slot is not None and slot <= until and len(slots) <= enough:
        slots.append(slot)
        slot = next_after(slot)
    return slots


def _newest(next_after: NextAfter, known: int, until: int) -> int:
    """The newest slot up to `until`, given one; by bisection, since schedules can only be asked forward."""
    # No slot lies in (limit, until]. Slots are whole seconds: less than a second after one there is no other.
    limit = until
    while limit - known >= 1000:
        middle = (known + limit) // 2
        slot = next_after(middle)
        if slot is not None and slot <= until:
            known = slot
        else:
            limit = middle
    return known
