"""What will run when, and how crowded it will be: the future of a set of jobs, told without running any.

Pure, for `schedctl forecast`, which needs no daemon. The fires are those of the daemon's own cron.py in the order of its own
schedule heap. How crowded it gets is found by going through them with the daemon's own decisions (gates.py, backlog.py): each
run takes as long as the job usually does and completes. Whatever runs when the time begins is not counted, and neither are
retries, runs by hand and what nobody can foresee.

Times are epoch milliseconds, UTC, unless said.
"""

import itertools
import statistics
import zoneinfo
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import backlog, catalog, config, cron, gates, heap, schedule

#: Fires that are looked at: a busy host's day, in some seconds. What comes after them is said to be left out.
FIRES = 200_000
#: Jobs of one second that are named, and seconds that are.
_NAMED = 20
#: Runs of a job that its usual duration is learnt from.
_LEARNT = 20
_DAY_MS = 86_400_000
_URGENT = model.JobPriority.HIGH


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A job of the forecast."""

    config: model.JobConfig
    schedule: cron.Schedule
    #: How long a run of it takes, in seconds.
    duration: float


@dataclass(frozen=True, slots=True)
class Fire:
    #: Of its subject, in the order in which they were given.
    number: int
    slot: int


@dataclass(frozen=True, slots=True)
class Fires:
    """In the order of time."""

    found: list[Fire]
    #: There are none but these up to here.
    until: int


def learn(runs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Job -> seconds that a run of it usually takes: the median of the first of these views of its completed runs."""
    found: dict[str, list[float]] = {}
    for run in runs:
        durations = found.setdefault(run["job_id"], [])
        if run["duration"] is not None and len(durations) < _LEARNT:
            durations.append(run["duration"])
    return {job_id: statistics.median(durations) for job_id, durations in found.items() if durations}


def fires(schedules: Sequence[cron.Schedule], begin: int, until: int, limit: int = FIRES) -> Fires:
    """Every fire in [begin, until), at most `limit`; of one second either all or none, unless they are more than that."""
    order = schedule.ScheduleHeap()
    for number, each in enumerate(schedules):
        order.set(number, each.next_after(begin - 1))
    found: list[Fire] = []
    while (first := order.first()) is not None and first[0] < until:
        if len(found) == limit:
            last = found[-1].slot
            if first[0] == last and found[0].slot < last:
                found = [each for each in found if each.slot < last]
                return Fires(found, last)
            return Fires(found, first[0])
        slot, number = first
        found.append(Fire(number, slot))
        order.set(number, schedules[number].next_after(slot))
    return Fires(found, until)


def local(at: int, zone: str) -> str:
    """The moment as the zone's clock shows it, with its offset."""
    return _shown(at, zone).isoformat(timespec="seconds")


def remark(planned: cron.Schedule, job_id: str, at: int) -> str | None:
    """What a change of the clock has to do with this fire; None: nothing.

    Found by looking at the zone, not at how cron.py comes to its answer.
    """
    if planned.reboot or planned.text.lower().startswith("@every"):
        return None
    shown, before = _shown(at, planned.zone), _shown(at - 1000, planned.zone)
    leap = _offset(shown) - _offset(before)
    if leap > timedelta() and not planned.is_wildcard and not planned.skips_gaps:
        wall = round(before.replace(tzinfo=UTC).timestamp()) * 1000 + 1000
        meant = cron.parse(planned.text, "UTC", job_id).next_after(wall - 1)
        if meant is not None and meant < wall + leap / timedelta(milliseconds=1):
            return f"{_time(meant)} does not exist that day: right after the clock was put forward"
    if shown.replace(fold=0).utcoffset() == shown.replace(fold=1).utcoffset():
        return None
    if not planned.is_wildcard:
        return f"{shown:%H:%M} comes twice that day: the first time"
    return f"{shown:%H:%M} comes twice that day: the {'second' if shown.fold else 'first'} time"


def _shown(at: int, zone: str) -> datetime:
    return datetime.fromtimestamp(at // 1000, zoneinfo.ZoneInfo(zone))


def _offset(shown: datetime) -> timedelta:
    return shown.utcoffset() or timedelta()


def _time(wall: int) -> str:
    return datetime.fromtimestamp(wall // 1000, UTC).strftime("%H:%M")


def pileups(subjects: Sequence[Subject], found: Iterable[Fire]) -> list[dict[str, Any]]:
    """The seconds in which most jobs are due together, the most crowded first: {slot, fires, job_ids}."""
    counted = Counter(each.slot for each in found)
    crowded = sorted(((-count, slot) for slot, count in counted.items() if count > 1))[:_NAMED]
    named: dict[int, list[str]] = {slot: [] for _, slot in crowded}
    for each in found:
        names = named.get(each.slot)
        if names is not None and len(names) < _NAMED:
            names.append(subjects[each.number].config.id)
    return [{"slot": slot, "fires": -count, "job_ids": named[slot]} for count, slot in crowded]


# How crowded it gets.


@dataclass(slots=True)
class _Run:
    number: int
    slot: int
    status: str = "pending"
    #: Since when it waits for a place.
    queued: int = 0


@dataclass(slots=True)
class Peak:
    """What a rehearsal came to."""

    #: Most runs at one time, and since when.
    running: int = 0
    at: int | None = None
    #: Most runs that waited for a place at one time.
    queued: int = 0
    #: The longest that a run waited for a place, in seconds, and whose it was.
    longest_wait: float = 0.0
    job_id: str | None = None
    slot: int | None = None
    #: Slots that would be skipped, by reason.
    skipped: dict[str, int] = field(default_factory=dict)

    def to_map(self) -> dict[str, Any]:
        return {
            "running": self.running,
            "at": self.at,
            "queued": self.queued,
            "longest_wait": self.longest_wait,
            "job_id": self.job_id,
            "slot": self.slot,
            "skipped": self.skipped,
        }


class Rehearsal:
    """The fires, decided one after the other on a clock of its own."""

    def __init__(self, subjects: Sequence[Subject], settings: config.Settings) -> None:
        self._subjects = subjects
        self._settings = settings
        self._numbers = {each.config.id: number for number, each in enumerate(subjects)}
        self._runs: dict[int, _Run] = {}
        #: Of each job, its newest slot's run, whether it has ended or not.
        self._newest: dict[int, _Run] = {}
        self._active: Counter[int] = Counter()
        self._ids = itertools.count()
        self._gated = heap.LazyHeap()
        #: Those that are in it.
        self._waiting: set[int] = set()
        self._ends = heap.LazyHeap()
        self._running: set[int] = set()
        self._backlog = backlog.Backlog(settings.aging)
        self.peak = Peak()

    def play(self, found: Sequence[Fire]) -> Peak:
        """Go through the fires, in order of time, and to the end of the last run."""
        position = 0
        while True:
            due = found[position].slot if position < len(found) else None
            times = [at for at in (due, self._next()) if at is not None]
            if not times:
                return self.peak
            now = min(times)
            self._end(now)
            fresh = []
            while position < len(found) and found[position].slot == now:
                fresh.append(self._decide(found[position]))
                position += 1
            self._open_gates(now, [run_id for run_id in fresh if run_id is not None])
            self._admit(now)

    def _next(self) -> int | None:
        return min((first[0] for first in (self._ends.first(), self._gated.first()) if first), default=None)

    def _end(self, now: int) -> None:
        while (first := self._ends.first()) and first[0] <= now:
            self._ends.pop()
            run = self._runs.pop(first[-1])
            run.status = "completed"
            self._running.discard(first[-1])
            self._active[run.number] -= 1
        while (first := self._gated.first()) and first[0] <= now:
            self._leave_gate(first[-1])
            self._skip(first[-1], "dependency")

    def _decide(self, fire: Fire) -> int | None:
        """The run of this slot; None: it is skipped."""
        run = self._newest[fire.number] = _Run(fire.number, fire.slot)
        if self._active[fire.number]:
            self._count("overlap")
            run.status = "skipped"
            return None
        run_id = next(self._ids)
        self._runs[run_id] = run
        self._active[fire.number] += 1
        return run_id

    def _open_gates(self, now: int, fresh: Sequence[int]) -> None:
        """Those of this second, once all of them are decided, and those that have waited."""
        for run_id in [*sorted(self._waiting), *fresh]:
            run = self._runs[run_id]
            job = self._subjects[run.number].config
            parents = [self._parent(parent) for parent in catalog.parents(job)]
            verdict = gates.judge(each for each in parents if each is not None)
            match verdict.answer:
                case "open":
                    self._leave_gate(run_id)
                    run.queued = now
                    self._backlog.push(run_id, int(job.priority), run.slot, now, pool=job.pool)
                case "wait" if run_id not in self._waiting:
                    self._waiting.add(run_id)
                    self._gated.set(run_id, self._gate_until(run))
                case "closed":
                    self._leave_gate(run_id)
                    self._skip(run_id, "dependency")

    def _leave_gate(self, run_id: int) -> None:
        self._waiting.discard(run_id)
        self._gated.discard(run_id)

    def _parent(self, job_id: str) -> gates.Parent | None:
        """None: it is not of the forecast, and taken for one that completes in time."""
        number = self._numbers.get(job_id)
        run = None if number is None else self._newest.get(number)
        if number is None or run is None:
            return None
        return gates.Parent(job_id=job_id, status=run.status)

    def _gate_until(self, run: _Run) -> int:
        subject = self._subjects[run.number]
        if subject.config.dependency_timeout is not None:
            return run.slot + round(subject.config.dependency_timeout * 1000)
        own_next = subject.schedule.next_after(run.slot)
        return min(own_next or run.slot + _DAY_MS, run.slot + _DAY_MS)

    def _skip(self, run_id: int, reason: str) -> None:
        run = self._runs.pop(run_id)
        run.status = "skipped"
        self._active[run.number] -= 1
        self._count(reason)

    def _count(self, reason: str) -> None:
        self.peak.skipped[reason] = self.peak.skipped.get(reason, 0) + 1

    def _admit(self, now: int) -> None:
        places, pools = self._settings.max_concurrent_jobs, self._settings.pools
        while True:
            urgent = sum(1 for each in self._running if self._priority(each) >= _URGENT)
            reserved = max(0, min(self._settings.reserved_slots, places - 1) - urgent)
            held = Counter(self._subjects[self._runs[each].number].config.pool for each in self._running)
            full = {pool for pool, count in held.items() if pool is not None and count >= pools.get(pool, 1)}
            run_id = self._backlog.pop(now, places - len(self._running), reserved, full)
            if run_id is None:
                break
            self._start(run_id, now)
        self.peak.queued = max(self.peak.queued, len(self._backlog))
        if len(self._running) > self.peak.running:
            self.peak.running, self.peak.at = len(self._running), now

    def _priority(self, run_id: int) -> int:
        return self._subjects[self._runs[run_id].number].config.priority

    def _start(self, run_id: int, now: int) -> None:
        run = self._runs[run_id]
        run.status = "running"
        self._running.add(run_id)
        self._ends.set(run_id, now + max(1, round(self._subjects[run.number].duration * 1000)))
        waited = (now - run.queued) / 1000
        if waited > self.peak.longest_wait:
            self.peak.longest_wait, self.peak.slot = waited, run.slot
            self.peak.job_id = self._subjects[run.number].config.id
