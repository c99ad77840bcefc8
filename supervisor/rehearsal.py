"""How crowded a time to come gets: its fires, decided one after the other on a clock of their own.

Pure, for `schedctl forecast`. The decisions are the daemon's (overlap.py, gates.py, backlog.py) and so are the states of the
runs; only the rows and the processes are missing: each run takes as long as the job usually does, and completes. What runs when
the time begins is not counted, and neither are retries, runs by hand, events, and what nobody can foresee. A job that is off or
paused starts nothing, and shuts the gates of those that depend on it, as it will.

Times are epoch milliseconds, UTC.
"""

import itertools
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import backlog, config, forecast, gates, heap, overlap, run

_DAY_MS = 86_400_000
_URGENT = model.JobPriority.HIGH
#: What a run that ended for this reason has come to, where it is not `skipped`.
_STATUS = {None: model.JobStatus.COMPLETED, "replaced": model.JobStatus.CANCELLED}


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
    #: Slots that would not be run to their end, by reason.
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


@dataclass(slots=True)
class _Run:
    run_id: int
    subject: forecast.Subject
    slot: int
    state: run.State
    #: Since when it waits for a place.
    queued: int = 0


class Rehearsal:
    def __init__(
        self,
        subjects: Sequence[forecast.Subject],
        settings: config.Settings,
        absences: Mapping[str, forecast.Absence] | None = None,
    ) -> None:
        """`absences`: by id, of subjects and of jobs that are none."""
        self._subjects = subjects
        self._settings = settings
        self._absences = absences or {}
        self._ids = itertools.count()
        self._open: dict[int, _Run] = {}
        #: Of each job, its open runs, oldest first, and its newest slot's, whether that has ended or not.
        self._of_job: dict[str, dict[int, _Run]] = {}
        self._newest: dict[str, _Run] = {}
        #: Jobs of which a run has completed.
        self._completed: set[str] = set()
        #: Parent -> the jobs without a schedule that its ends start; and what has come to each since its last start.
        self._after: dict[str, list[tuple[forecast.Subject, str]]] = {}
        self._arrived: dict[str, set[str]] = {}
        for each in subjects:
            if each.schedule is None:
                for parent, when in model.links(each.config.dependencies):
                    self._after.setdefault(parent, []).append((each, when))
        #: Those at a gate.
        self._at_gate: set[int] = set()
        self._running: set[int] = set()
        self._in_pool: Counter[str] = Counter()
        self._backlog = backlog.Backlog(settings.aging)
        #: When runs end, waits at gates are over, and it is too late to start.
        self._ends = heap.LazyHeap()
        self._gates = heap.LazyHeap()
        self._deadlines = heap.LazyHeap()
        self.peak = Peak()

    def play(self, found: Iterable[forecast.Fire]) -> Peak:
        """Go through the fires, and to the end of the last run."""
        due = sorted((fire.slot + self._subjects[fire.number].offset, fire.slot, fire.number) for fire in found)
        position = 0
        while True:
            heaps = (self._ends, self._gates, self._deadlines)
            times = [first[0] for each in heaps if (first := each.first())]
            times += [due[position][0]] if position < len(due) else []
            if not times:
                return self.peak
            now = min(times)
            self._let_end(now)
            fresh = []
            while position < len(due) and due[position][0] == now:
                _, slot, number = due[position]
                fresh += self._decide(self._subjects[number], slot, now)
                position += 1
            # A gate asks for slots of the same second, so all of them are decided first.
            for each in [*(self._open[run_id] for run_id in sorted(self._at_gate)), *fresh]:
                self._judge(each, now)
            self._admit(now)

    # What is over.

    def _let_end(self, now: int) -> None:
        while (first := self._ends.first()) and first[0] <= now:
            self._end(self._open[first[-1]], now, None)
        # Whose parents end as the wait does was not too late.
        for run_id in sorted(self._at_gate):
            self._judge(self._open[run_id], now)
        while (first := self._gates.first()) and first[0] <= now:
            self._end(self._open[first[-1]], now, "dependency")
        while (first := self._deadlines.first()) and first[0] <= now:
            self._end(self._open[first[-1]], now, "deadline")

    def _end(self, each: _Run, now: int, reason: str | None) -> None:
        """None: it has completed."""
        if reason is None:
            self._completed.add(each.subject.config.id)
        else:
            self.peak.skipped[reason] = self.peak.skipped.get(reason, 0) + 1
        for place in (self._ends, self._gates, self._deadlines):
            place.discard(each.run_id)
        self._backlog.remove(each.run_id)
        self._at_gate.discard(each.run_id)
        if each.run_id in self._running:
            self._running.discard(each.run_id)
            if each.subject.config.pool is not None:
                self._in_pool[each.subject.config.pool] -= 1
        status = _STATUS.get(reason, model.JobStatus.SKIPPED)
        each.state = run.Ended(status=status, reason=reason)
        del self._open[each.run_id]
        siblings = self._of_job[each.subject.config.id]
        del siblings[each.run_id]
        self._advance(each.subject, now)
        self._start_after(each.subject.config.id, status, now)

    def _start_after(self, parent_id: str, status: model.JobStatus, now: int) -> None:
        """Start the jobs that have waited for this end alone. What was skipped brings them nothing, whatever they ask for."""
        if status is model.JobStatus.SKIPPED:
            return
        for subject, when in self._after.get(parent_id, ()):
            if not gates.satisfies(status, when):
                continue
            arrived = self._arrived.setdefault(subject.config.id, set())
            arrived.add(parent_id)
            if len(arrived) == len(subject.config.dependencies):
                arrived.clear()  # used up also by a job that is paused
                absence = self._absences.get(subject.config.id)
                if absence is not None and absence.lasts(now):
                    continue
                for each in self._decide(subject, now, now):
                    self._judge(each, now)

    def _advance(self, subject: forecast.Subject, now: int) -> None:
        """Let those go on whose turn has come: a run of their job has ended."""
        while True:
            runs = list(self._of_job[subject.config.id].values())
            first = next((each for each in runs if isinstance(each.state, run.InLine)), None)
            others = [each for each in runs if not isinstance(each.state, run.InLine)]
            if first is None or not overlap.has_turn(subject.config, _others(others)):
                return
            first.state = run.Gated(until=now)
            self._judge(first, now)

    # What is due.

    def _decide(self, subject: forecast.Subject, slot: int, now: int) -> list[_Run]:
        """The run of this slot, if it is to be judged at its gate now."""
        job = subject.config
        siblings = self._of_job.setdefault(job.id, {})
        place = overlap.judge(job, _others(siblings.values()), caught_up=False)
        each = self._newest[job.id] = _Run(next(self._ids), subject, slot, run.Gated(until=now))
        if place.answer == "skip":
            each.state = run.Ended(status=model.JobStatus.SKIPPED, reason=place.reason)
            self.peak.skipped[place.reason] = self.peak.skipped.get(place.reason, 0) + 1
            return []
        self._open[each.run_id] = siblings[each.run_id] = each
        if job.start_deadline is not None:
            self._deadlines.set(each.run_id, slot + subject.offset + round(job.start_deadline * 1000))
        if place.answer == "line":
            each.state = run.InLine()
        for run_id, reason in place.displaced:
            if run_id in self._open:
                self._end(self._open[run_id], now, reason)
        return [each] if isinstance(each.state, run.Gated) and each.run_id not in self._at_gate else []

    def _judge(self, each: _Run, now: int) -> None:
        if not isinstance(each.state, run.Gated):
            return
        job = each.subject.config
        parents = [
            self._own(each, when) if parent == job.id else self._parent(parent, when, each.slot)
            for parent, when in (() if each.subject.schedule is None else model.links(job.dependencies))
        ]
        verdict = gates.judge(parent for parent in parents if parent is not None)
        match verdict.answer:
            case "open":
                self._at_gate.discard(each.run_id)
                self._gates.discard(each.run_id)
                each.state, each.queued = run.Queued(), now
                self._backlog.push(each.run_id, int(job.priority), each.slot, now, pool=job.pool)
            case "wait" if each.run_id not in self._at_gate:
                self._at_gate.add(each.run_id)
                each.state = run.Gated(until=self._gate_until(each, now))
                self._gates.set(each.run_id, each.state.until)
            case "closed":
                self._end(each, now, "dependency")

    def _parent(self, job_id: str, when: str, slot: int) -> gates.Parent | None:
        """None: nothing is known of it here, and it is taken for one that ends in time, as it should."""
        if (newest := self._newest.get(job_id)) is not None:
            return gates.Parent(job_id=job_id, when=when, status=run.status_of(newest.state).value)
        absence = self._absences.get(job_id)
        if absence is None or not absence.has_passed_over(slot):
            return None
        return gates.Parent(job_id=job_id, when=when, status=model.JobStatus.SKIPPED.value, reason=absence.why)

    def _own(self, each: _Run, when: str) -> gates.Parent | None:
        """The run of its own job before it; None: there was none."""
        job_id = each.subject.config.id
        before = [other for other in self._of_job[job_id].values() if other.run_id < each.run_id]
        if before:
            return gates.Parent(job_id=job_id, when=when, status=run.status_of(before[-1].state).value)
        status = model.JobStatus.COMPLETED.value
        return gates.Parent(job_id=job_id, when=when, status=status) if job_id in self._completed else None

    def _gate_until(self, each: _Run, now: int) -> int:
        patience = each.subject.config.dependency_timeout
        if patience is not None:
            return max(each.slot, now) + round(patience * 1000)
        planned = each.subject.schedule
        own_next = None if planned is None else planned.next_after(each.slot)
        return min(own_next or now + _DAY_MS, now + _DAY_MS)

    # What starts.

    def _admit(self, now: int) -> None:
        places = self._settings.max_concurrent_jobs
        while True:
            urgent = sum(1 for run_id in self._running if self._open[run_id].subject.config.priority >= _URGENT)
            reserved = max(0, min(self._settings.reserved_slots, places - 1) - urgent)
            run_id = self._backlog.pop(now, places - len(self._running), reserved, self._full_pools())
            if run_id is None:
                break
            self._start(self._open[run_id], now)
        self.peak.queued = max(self.peak.queued, len(self._backlog))
        if len(self._running) > self.peak.running:
            self.peak.running, self.peak.at = len(self._running), now

    def _full_pools(self) -> set[str]:
        limits = self._settings.pools
        return {pool for pool, count in self._in_pool.items() if count >= limits.get(pool, config.UNKNOWN_POOL)}

    def _start(self, each: _Run, now: int) -> None:
        each.state = run.Running(attempt=1, started=now, first_started=now)
        self._running.add(each.run_id)
        if each.subject.config.pool is not None:
            self._in_pool[each.subject.config.pool] += 1
        self._deadlines.discard(each.run_id)
        self._ends.set(each.run_id, now + max(1, round(each.subject.duration * 1000)))
        waited = (now - each.queued) / 1000
        if waited > self.peak.longest_wait:
            self.peak.longest_wait, self.peak.job_id, self.peak.slot = waited, each.subject.config.id, each.slot


def _others(runs: Iterable[_Run]) -> list[overlap.Other]:
    return [overlap.Other(each.run_id, each.state) for each in runs]
