"""Which slot becomes a run, which run starts now, and what follows from how it ended.

The decisions themselves are pure and live elsewhere: schedule.plan() (which slots), gates.judge() (may it start),
backlog.Backlog (who is next), run.step() (what an event makes of a run). Here they meet the store. Every change of a run
goes one way: an event, step(), the new state into its row, then the actions; the commit comes at the end of the loop's
turn, and whatever others may see of it (a launch, an answer) is deferred until after that.
"""

import contextlib
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import Any

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import (
    attempts,
    backlog,
    catalog,
    clock,
    config,
    gates,
    heap,
    journal,
    quarantine,
    rows,
    run,
    schedule,
    store,
)

#: Seconds of one loop turn that deciding slots may take.
_SLICE = 0.02
_DAY_MS = 86_400_000
#: Runs of this priority and above may take the reserved places.
_URGENT = model.JobPriority.HIGH


@dataclass(slots=True)
class OpenRun:
    """A run that has not ended."""

    run_id: int
    job_uid: int
    job: model.JobConfig
    terms: run.Terms
    state: run.State
    slot: int | None
    queued: int
    request: dict[str, Any]
    facts: attempts.Facts | None = None
    started: int | None = None
    #: While it waits at its gate: uids of the jobs that it waits for.
    waits_for: tuple[int, ...] = ()
    #: Bytes of its output on disk, once it has ended.
    stored: int = 0
    #: Called with what has happened: "life", "state" or "end".
    watchers: list[Callable[[str], None]] = field(default_factory=list)


class BusyError(Exception):
    """The job has an active run already."""

    def __init__(self, run_id: int) -> None:
        super().__init__(f"run {run_id} of it is active")
        self.run_id = run_id


class Dispatcher:
    def __init__(
        self,
        history: store.Store,
        jobs: catalog.Catalog,
        settings: config.Settings,
        call_soon: Callable[[Callable[[], None]], None],
        dice: Callable[[], float] = random.random,
    ) -> None:
        """`dice` gives a number in [0, 1), for the delay before a retry."""
        self._store = history
        self._catalog = jobs
        self._settings = settings
        self._call_soon = call_soon
        self._dice = dice
        self._schedule = schedule.ScheduleHeap()
        self._backlog = backlog.Backlog(settings.aging)
        self._gates = heap.LazyHeap()
        self._retries = heap.LazyHeap()
        self._due: OrderedDict[int, int] = OrderedDict()
        #: Jobs whose next slot may be another than was thought; they hold up nobody.
        self._unsure: OrderedDict[int, None] = OrderedDict()
        #: Of those in _due: jobs that may be due at other times than was thought.
        self._replanned: set[int] = set()
        self._open: dict[int, OpenRun] = {}
        self._by_job: dict[int, set[int]] = {}
        self._waiting_for: dict[int, set[int]] = {}
        self._running: set[int] = set()
        #: Within undoable(): runs that were touched, and what they were before; None: they were not.
        self._touched: dict[int, tuple[OpenRun, run.State | None]] | None = None
        self.quarantine = quarantine.Quarantine(history)
        #: Told whose job is in hand from here to the end of the turn.
        self.take: Callable[[int], None] = lambda _: None
        self.attempts: attempts.Attempts
        self.stopping = False
        self.draining = False
        #: The disk is full: only jobs with run_when_full start.
        self.full = False
        #: Runs at one time that there are descriptors for; None: as many as are wanted.
        self.room: int | None = None
        #: The clock cannot be right: no slot is decided.
        self.held = False
        #: Called before anything is decided by the time that it is.
        self.look_at_clock: Callable[[], None] = lambda: None
        #: Called when the last attempt of a stopping or draining daemon has ended.
        self.on_idle: Callable[[], None] = lambda: None

    def configure(self, settings: config.Settings) -> None:
        self._settings = settings
        self._backlog.set_aging(settings.aging)

    @contextlib.contextmanager
    def undoable(self) -> Iterator[None]:
        """Runs are again what they were if this ends in an exception, as their rows are in the store."""
        touched: dict[int, tuple[OpenRun, run.State | None]] = {}
        self._touched = touched
        try:
            yield
        except BaseException:
            self._touched = None
            for each, before in touched.values():
                self._let_go(each)
                if before is not None:
                    each.state = before
                    self._keep(each)
            raise
        finally:
            self._touched = None

    def _let_go(self, each: OpenRun) -> None:
        """Take the run out of every place that _keep() may have put it."""
        self._open.pop(each.run_id, None)
        self._by_job.get(each.job_uid, set()).discard(each.run_id)
        if not self._by_job.get(each.job_uid):
            self._by_job.pop(each.job_uid, None)
        self._gates.discard(each.run_id)
        self._retries.discard(each.run_id)
        self._running.discard(each.run_id)
        if each.run_id in self._backlog:
            self._backlog.remove(each.run_id)
        self._end_wait(each)

    # What others ask.

    def find(self, run_id: int) -> OpenRun | None:
        """The run, while it has not ended."""
        return self._open.get(run_id)

    def active(self, job_uid: int) -> list[OpenRun]:
        return [self._open[run_id] for run_id in sorted(self._by_job.get(job_uid, ()))]

    def counts(self) -> dict[str, int]:
        states = [run.status_of(each.state) for each in self._open.values()]
        return {
            "running": len(self._running),
            "queued": states.count(model.JobStatus.PENDING),
            "retrying": states.count(model.JobStatus.RETRYING),
        }

    def next_fire(self) -> tuple[int, int] | None:
        """(epoch ms, job uid) of what is due first."""
        return self._schedule.first()

    def next_wake(self) -> int | None:
        """When something will be due: a slot, the end of a wait at a gate, a retry."""
        slot = None if self.held else self._schedule.first()
        times = [first[0] for first in (slot, self._gates.first(), self._retries.first()) if first]
        return min(times, default=None)

    # The schedule.

    def set_schedule(self, uid: int, next_slot: int | None) -> None:
        self._schedule.set(uid, next_slot)

    def reread_schedule(self) -> None:
        """Forget when jobs are due, and learn it from the store."""
        self._schedule = schedule.ScheduleHeap()
        for uid, _, next_slot, _ in self._store.schedule_rows():
            self._schedule.set(uid, next_slot)

    def replan(self, uids: Iterable[int]) -> None:
        """The daemon's zone has changed. Those of these jobs that name none are decided as of now, and found due anew."""
        now = clock.now_ms()
        for uid in uids:
            self._due[uid] = now
            self._replanned.add(uid)
        self._call_soon(self.tick)

    def decide_due(self, uid: int) -> None:
        """Decide what of this job is due by now, before it is changed: its slots were due as it was."""
        if not self.held:
            self._decide(uid, clock.now_ms())

    def recheck(self, uids: Iterable[int]) -> None:
        """Ask these jobs for their next slot again, a few a turn."""
        self._unsure.update(dict.fromkeys(uids))
        self._call_soon(self.tick)

    def recheck_void(self) -> None:
        """Take back into the schedule those that a clock which was years ahead has decided until then."""
        now = clock.now_ms()
        rows_of_all = list(self._store.schedule_rows())
        self.recheck(each.uid for each in rows_of_all if schedule.is_void(each.watermark, now))

    def tick(self) -> None:
        """Decide what is due, in slices; start runs once all that is due is decided, so that priority decides."""
        self.look_at_clock()
        now = clock.now_ms()
        # First the waits that are over: most end when the job's own next slot is due, which they must not overlap.
        while (first := self._gates.first()) and first[0] <= now:
            self._blocked(self._open[first[-1]], "its time to wait is over", now)
        if not self.held:
            self._due.update((uid, at) for at, uid in self._schedule.pop_due(now))
        until = clock.monotonic() + _SLICE
        while self._due and clock.monotonic() < until:
            uid = next(iter(self._due))
            self._decide(uid, now)
        if self._due:
            self._call_soon(self.tick)
            return
        while (first := self._retries.first()) and first[0] <= now:
            self._retries.pop()
            self._step(self._open[first[-1]], run.RetryDue(now=now))
        self.admit(now)
        while self._unsure and not self.held and clock.monotonic() < until:
            self._decide(self._unsure.popitem(last=False)[0], now)
        if self._unsure and not self.held:
            self._call_soon(self.tick)

    def _decide(self, uid: int, now: int, *, correction: bool = False) -> None:
        self.take(uid)
        self._due.pop(uid, None)
        replanned = uid in self._replanned
        self._replanned.discard(uid)
        job, row = self._catalog.get(uid), self._store.job(uid)
        if job is None or row is None or not row.enabled:
            return
        if job.problem is not None:
            self._quarantine(job, row.next_slot)
            return
        if job.schedule is None or job.schedule.reboot:
            return
        if replanned and job.config.timezone is None:
            correction = True
        after = job.schedule.next_after
        if row.next_slot is None and not correction:
            # It was out of schedule, and what came meanwhile is passed over.
            plan = schedule.pass_over(row.watermark, now, after, "quarantined")
        else:
            plan = schedule.plan(row.watermark, now, after, job.config.catch_up_window, correction=correction)
        for skip in plan.skips:
            self._skip(job, skip.first, skip.reason, now, last=skip.last, count=skip.count)
        for slot in plan.runs:
            self._decide_slot(job, slot, "catch_up" if plan.catch_up else "schedule", now)
        if (plan.watermark, plan.next) != (row.watermark, row.next_slot):
            self._store.update_job(uid, watermark=plan.watermark, next_slot=plan.next)
        self._schedule.set(uid, plan.next)
        for run_id in list(self._waiting_for.get(uid, ())):
            self._judge(self._open[run_id], now)

    def _quarantine(self, job: catalog.Job, next_slot: int | None) -> None:
        """Take a job out of the schedule until what is wrong with it is mended."""
        self._schedule.set(job.uid, None)
        if next_slot is not None:
            self._store.update_job(job.uid, next_slot=None)
            journal.error(f"job {job.config.id} is out of schedule: {job.problem}; then: schedctl reload")

    def _decide_slot(self, job: catalog.Job, slot: int, trigger: str, now: int) -> None:
        if why := self.quarantine.why(job.uid):
            self._skip(job, slot, "quarantined", now, error=why)
            return
        active = self._by_job.get(job.uid)
        if active:
            self._skip(job, slot, "overlap", now, error=f"run {min(active)} has not ended")
            return
        state: run.State = run.Queued()
        verdict = self._verdict(job.config, slot)
        if verdict is not None:
            if verdict.answer == "closed":
                self._skip(job, slot, "dependency", now, error=verdict.why)
                return
            if verdict.answer == "wait":
                state = run.Gated(until=self._gate_until(job, slot, now))
        self._open_run(job, job.terms, state, slot=slot, trigger=trigger, now=now)

    def reboot(self, uid: int, boot: str) -> None:
        """Run an @reboot job, once per boot id."""
        job = self._catalog.get(uid)
        if job is None or job.schedule is None or not job.schedule.reboot:
            return
        if self._store.meta_get(f"reboot:{uid}") != boot:
            self._store.meta_set(f"reboot:{uid}", boot)
            now = clock.now_ms()
            slot = now - now % 1000
            # A clock that begins anew with every boot shows the same second again.
            while (row := self._store.newest_slot_row(uid, slot)) is not None and row.slot == slot:
                slot += 1000
            self._decide_slot(job, slot, "schedule", now)

    def on_step(self, seconds: float, *, correction: bool) -> None:
        """The wall clock was set by so many seconds. With `correction` it had been wrong, and nothing was missed."""
        now, by = clock.now_ms(), round(seconds * 1000)
        if correction:
            for uid in [*self._due, *(uid for _, uid in self._schedule.pop_due(now))]:
                self._decide(uid, now, correction=True)
        if by:
            self._backlog.move(by, now)
            for each in self._open.values():
                self._move(each, by)
        if by < -schedule.VOID_MS:
            self.recheck_void()
        self._call_soon(self.tick)

    def _move(self, each: OpenRun, by: int) -> None:
        """Let what the run waits for, and its times, go along with a clock that was set."""
        each.state = run.moved(each.state, by)
        changes: dict[str, Any] = {}
        match each.state:
            case run.Gated(until=until):
                if each.job.dependency_timeout is None and (row := self._store.job(each.job_uid)) and row.next_slot:
                    until = min(until, row.next_slot)  # the wait that the next slot ends
                    each.state = run.Gated(until=until)
                self._gates.set(each.run_id, until)
                changes["gate_until"] = until
            case run.Backoff(until=until):
                self._retries.set(each.run_id, until)
                changes["retry_at"] = until
            case run.Queued() | run.Running() | run.Ended():
                pass
        if each.started is not None:
            each.started += by
            changes["start_time"] = each.started
        if changes:
            self._store.update_run(each.run_id, **changes)

    def _skip(
        self,
        job: catalog.Job,
        slot: int,
        reason: str,
        now: int,
        *,
        last: int | None = None,
        count: int = 1,
        error: str | None = None,
    ) -> None:
        first: int | None = slot
        while first is not None:
            skip = rows.Skip(
                job_uid=job.uid,
                job_id=job.config.id,
                slot=first,
                slot_last=last if count > 1 else None,
                slots=count,
                reason=reason,
                priority=int(job.config.priority),
                queued=now,
                hash=job.hash,
                error=error,
            )
            if self._store.add_skips([skip]) or count == 1 or job.schedule is None:
                return
            # The first of a gap has its row, from before the clock was set back: the others are told from the next on.
            first, count = job.schedule.next_after(first), count - 1

    # Gates.

    def _verdict(self, job: model.JobConfig, slot: int) -> gates.Verdict | None:
        """What the job's parents say of this slot; None if it depends on nothing."""
        ids = catalog.parents(job)
        return gates.judge(self._parent(parent, slot) for parent in ids) if ids else None

    def _parent(self, job_id: str, slot: int) -> gates.Parent:
        row = self._store.job_by_id(job_id)
        parent = None if row is None else self._catalog.get(row.uid)
        if row is None or parent is None:
            return gates.Parent(job_id=job_id, status="skipped", reason="removed")
        if parent.schedule is None:
            newest = self._store.newest_run(row.uid)
            return gates.Parent(job_id=job_id) if newest is None else _counted(job_id, newest, "newest run")
        newest = self._store.newest_slot_row(row.uid, slot)
        zone = self._zone(parent)
        known = row.added if newest is None else newest.slot_last or newest.slot or 0
        due = parent.schedule.next_after(max(known, row.watermark)) if row.enabled else None
        if due is not None and due <= slot:
            return gates.Parent(job_id=job_id, undecided=True)
        missing = parent.schedule.next_after(known)
        if missing is not None and missing <= slot:
            # Its schedule names a slot that has no row: it was passed over while the job was off.
            which = f"{clock.local_text(missing, zone)} run"
            return gates.Parent(job_id=job_id, status="skipped", reason="disabled", run=which)
        if newest is None or newest.slot is None:
            return gates.Parent(job_id=job_id)
        return _counted(job_id, newest, f"{clock.local_text(newest.slot, zone)} run")

    def _zone(self, job: catalog.Job) -> str:
        return job.config.timezone or self._catalog.zone

    def _gate_until(self, job: catalog.Job, slot: int, now: int) -> int:
        if job.config.dependency_timeout is not None:
            return max(slot, now) + round(job.config.dependency_timeout * 1000)
        own_next = None if job.schedule is None else job.schedule.next_after(now)
        return min(own_next or now + _DAY_MS, now + _DAY_MS)

    def _judge(self, each: OpenRun, now: int) -> None:
        """Ask a waiting run's parents again: one of them has a new run, or one that ended."""
        if not isinstance(each.state, run.Gated) or each.slot is None:
            return
        verdict = self._verdict(each.job, each.slot)
        if verdict is None or verdict.answer == "open":
            self._step(each, run.Opened(now=now))
        elif verdict.answer == "closed":
            self._blocked(each, verdict.why, now)

    def _blocked(self, each: OpenRun, why: str, now: int) -> None:
        if each.slot is not None and why.startswith("its time"):
            verdict = self._verdict(each.job, each.slot)
            why = f"{verdict.why}; {why}" if verdict is not None and verdict.why else why
        each.facts = attempts.Facts(error=why)
        self._step(each, run.Blocked(now=now))

    def _begin_wait(self, each: OpenRun) -> None:
        parents = map(self._store.job_by_id, catalog.parents(each.job))
        # Kept as uids: until the wait ends, an id may have gone to another job.
        each.waits_for = tuple(row.uid for row in parents if row is not None)
        for uid in each.waits_for:
            self._waiting_for.setdefault(uid, set()).add(each.run_id)

    def _end_wait(self, each: OpenRun) -> None:
        for uid in each.waits_for:
            waiting = self._waiting_for[uid]
            waiting.discard(each.run_id)
            if not waiting:
                del self._waiting_for[uid]
        each.waits_for = ()

    # Runs.

    def run_now(
        self, job: catalog.Job, request: dict[str, Any], *, by: str, allow_overlap: bool, retry_of: int | None = None
    ) -> int:
        """A run by hand; its id. BusyError if one is active and that is not allowed. Gates are not asked."""
        active = self._by_job.get(job.uid)
        if active and not allow_overlap:
            raise BusyError(min(active))
        terms = job.terms if request.get("with_retries") else replace(job.terms, max_attempts=1)
        now = clock.now_ms()
        return self._open_run(
            job, terms, run.Queued(), slot=None, trigger="manual", now=now, request=request, by=by, retry_of=retry_of
        )

    def _open_run(
        self,
        job: catalog.Job,
        terms: run.Terms,
        state: run.State,
        *,
        slot: int | None,
        trigger: str,
        now: int,
        request: dict[str, Any] | None = None,
        by: str | None = None,
        retry_of: int | None = None,
    ) -> int:
        run_id = self._store.add_run(
            job_uid=job.uid,
            job_id=job.config.id,
            slot=slot,
            trigger=trigger,
            status=run.status_of(state).value,
            priority=int(job.config.priority),
            queued=now,
            max_attempts=terms.max_attempts,
            gate_until=state.until if isinstance(state, run.Gated) else None,
            hash=job.hash,
            profile=(request or {}).get("profile") or job.config.sandbox["profile"],
            request=request,
            requested_by=by,
            retry_of=retry_of,
        )
        if run_id is None:
            return 0  # the slot was decided before: UNIQUE(job_uid, slot)
        self._keep(OpenRun(run_id, job.uid, job.config, terms, state, slot, now, request or {}))
        return run_id

    def _keep(self, each: OpenRun) -> None:
        """Hold an open run in memory, at the place that its state says."""
        if self._touched is not None:
            self._touched.setdefault(each.run_id, (each, None))
        self._open[each.run_id] = each
        self._by_job.setdefault(each.job_uid, set()).add(each.run_id)
        match each.state:
            case run.Gated(until=until):
                self._gates.set(each.run_id, until)
                self._begin_wait(each)
            case run.Queued():
                self._backlog.push(each.run_id, int(each.job.priority), each.slot or each.queued, each.queued)
                self._call_soon(self.tick)
            case run.Backoff(until=until):
                self._retries.set(each.run_id, until)
            case run.Running():
                self._running.add(each.run_id)

    def admit(self, now: int) -> None:
        """Fill the free slots from the backlog."""
        while not (self.stopping or self.draining or self._due):
            if self.full:
                self._admit_urgently(now)
                return
            free = self._places - len(self._running)
            urgent = sum(1 for run_id in self._running if self._open[run_id].job.priority >= _URGENT)
            reserved = min(self._settings.reserved_slots, self._places - 1) - urgent
            run_id = self._backlog.pop(now, free, max(0, reserved))
            if run_id is None:
                return
            self._step(self._open[run_id], run.Admitted(now=now))

    @property
    def _places(self) -> int:
        wanted = self._settings.max_concurrent_jobs
        return wanted if self.room is None else min(wanted, self.room)

    def _admit_urgently(self, now: int) -> None:
        """While the disk is full only those start that are there to mend it, or do not mind."""
        waiting = [each for each in self._open.values() if each.run_id in self._backlog and each.job.run_when_full]
        for each in sorted(waiting, key=lambda each: (-each.job.priority, each.slot or each.queued, each.run_id)):
            if len(self._running) >= self._places:
                return
            self._backlog.remove(each.run_id)
            self._step(each, run.Admitted(now=now))

    def cancel(self, run_id: int) -> None:
        self._step(self._open[run_id], run.Cancel(now=clock.now_ms()))

    def withdraw(self, job_uid: int, reason: str) -> None:
        """The job was disabled or removed: what waits is skipped, what runs ends by itself."""
        for each in self.active(job_uid):
            self._step(each, run.Withdraw(now=clock.now_ms(), reason="removed" if reason == "removed" else "disabled"))

    def stop(self) -> None:
        """End what runs; on_idle is called when nothing does."""
        self.stopping = True
        now = clock.now_ms()
        for run_id in list(self._running):
            self._step(self._open[run_id], run.Stop(now=now, grace=self._settings.stop_grace))
        self._check_idle()

    def drain(self) -> None:
        self.draining = True
        self._check_idle()

    def _check_idle(self) -> None:
        if (self.stopping or self.draining) and not self._running:
            self._call_soon(self.on_idle)

    # Events of attempts.

    def on_exceeded(self, run_id: int, cause: str) -> None:
        if each := self._open.get(run_id):
            self._step(each, run.Exceeded(now=clock.now_ms(), cause="stalled" if cause == "stalled" else "output"))

    def on_life(self, run_id: int) -> None:
        if each := self._open.get(run_id):
            _tell(each, "life")

    def on_attempt_ended(self, run_id: int, attempt: int, outcome: run.Outcome, facts: attempts.Facts) -> None:
        each = self._open.get(run_id)
        if each is None or not isinstance(each.state, run.Running) or each.state.attempt != attempt:
            return
        each.facts = facts
        now = clock.now_ms()
        status, reason = run.classify(run.with_our_cause(outcome, each.state.ending), each.terms)
        self._store.end_attempt(
            run_id,
            attempt,
            ended=now,
            status=status.value,
            reason=reason,
            exit_code=facts.exit_code,
            signal=facts.signal,
            error=facts.error,
            duration=facts.duration,
            cpu_seconds=facts.cpu_seconds,
            max_memory=facts.max_memory,
            uid=facts.uid,
            policy=facts.policy,
            enforced=facts.enforced,
            killed=facts.killed,
            killed_count=facts.killed_count,
        )
        self._step(each, run.AttemptEnded(now=now, outcome=outcome, jitter=self._dice()))
        self._check_idle()
        self._call_soon(self.tick)

    def on_unknown_exit(self, run_id: int, _: int) -> None:
        """A predecessor has recorded this end, and may not have lived to put the output in order."""
        row = self._store.run(run_id)
        if row is None or run_id in self._open:
            return
        job = self._catalog.by_hash(row.job_uid, row.hash)
        if job is not None:
            self.attempts.finish_output(run_id, row.queued, job.config)

    def head_limit(self, row: rows.RunRow) -> int | None:
        """How much of the beginning of a run's output was kept for certain."""
        job = self._catalog.by_hash(row.job_uid, row.hash)
        return None if job is None else self.attempts.limit_of(job.config) // 2

    # One step.

    def _step(self, each: OpenRun, event: run.Event) -> None:
        self.take(each.job_uid)
        before = each.state
        if self._touched is not None:
            self._touched.setdefault(each.run_id, (each, before))
        each.state, actions = run.step(before, event, each.terms)
        if type(each.state) is not type(before):
            self._leave(each, before)
            self._enter(each)
        for action in actions:
            self._act(each, action, event.now)

    def _leave(self, each: OpenRun, before: run.State) -> None:
        """Take the run out of where its former state had it."""
        ended = isinstance(each.state, run.Ended)
        match before:
            case run.Gated():
                self._gates.discard(each.run_id)
                self._end_wait(each)
            case run.Queued(past=past):
                self._backlog.remove(each.run_id)
                if ended and past is not None:
                    each.stored = self.attempts.finish_output(each.run_id, each.queued, each.job)
            case run.Backoff():
                self._retries.discard(each.run_id)
                if ended:
                    each.stored = self.attempts.finish_output(each.run_id, each.queued, each.job)
            case run.Running():
                self._running.discard(each.run_id)
                self._explain(each, before.attempt)
                each.stored = self.attempts.close(each.run_id, before.attempt, last=ended)

    def _explain(self, each: OpenRun, attempt: int) -> None:
        """End the log of a run that has failed with what may help."""
        match each.state:
            case run.Ended(status=model.JobStatus.FAILED, reason=str(reason)) if each.facts is not None:
                each.facts = self.attempts.explain(each.run_id, attempt, reason, each.facts)

    def _enter(self, each: OpenRun) -> None:
        """Write down the new state; what ends a run is written by Finish."""
        status = run.status_of(each.state).value
        match each.state:
            case run.Running(attempt=attempt, first_started=first):
                self._running.add(each.run_id)
                each.started = first
                self._store.update_run(each.run_id, status=status, start_time=first, attempts=attempt, retry_at=None)
            case run.Queued():
                self._store.update_run(each.run_id, status=status, gate_until=None, retry_at=None)
            case run.Backoff(until=until):
                self._store.update_run(each.run_id, status=status, retry_at=until)
            case run.Gated() | run.Ended():
                pass
        journal.debug(f"job {each.job.id} run {each.run_id}: {status}")
        _tell(each, "state")

    def _act(self, each: OpenRun, action: run.Action, now: int) -> None:
        match action:
            case run.Enqueue():
                self._backlog.push(each.run_id, int(each.job.priority), each.slot or each.queued, now)
                self._call_soon(self.tick)
            case run.Launch(attempt=attempt, timeout=timeout):
                self._store.add_attempt(each.run_id, attempt, now)
                self.attempts.launch(self._order(each, attempt, timeout))
            case run.EndAttempt(cause=cause, grace=grace):
                if isinstance(each.state, run.Running):
                    self.attempts.end(each.run_id, each.state.attempt, cause, grace)
            case run.RetryAt(at=at):
                self._retries.set(each.run_id, at)
            case run.Finish(status=status, reason=reason):
                self._finish(each, status, reason, now)

    def _order(self, each: OpenRun, attempt: int, timeout: float | None) -> attempts.Order:
        return attempts.Order(
            run_id=each.run_id,
            attempt=attempt,
            of=each.terms.max_attempts,
            job_uid=each.job_uid,
            job=each.job,
            slot=each.slot,
            request=each.request,
            queued=each.queued,
            timeout=timeout,
        )

    def _finish(self, each: OpenRun, status: model.JobStatus, reason: str | None, now: int) -> None:
        del self._open[each.run_id]
        siblings = self._by_job[each.job_uid]
        siblings.discard(each.run_id)
        if not siblings:
            del self._by_job[each.job_uid]
        self._record_end(each, status, reason, now)
        self.attempts.defer(lambda: _tell(each, "end"))
        for run_id in list(self._waiting_for.get(each.job_uid, ())):
            self._judge(self._open[run_id], now)

    def _record_end(self, each: OpenRun, status: model.JobStatus, reason: str | None, now: int) -> None:
        facts = each.facts or attempts.Facts()
        self._store.update_run(
            each.run_id,
            status=status.value,
            reason=reason,
            end_time=now,
            duration=None if each.started is None else max(0, now - each.started) / 1000,
            retry_at=None,
            gate_until=None,
            exit_code=facts.exit_code,
            signal=facts.signal,
            error=facts.error,
            result=facts.result,
            output_bytes=facts.output_bytes,
            output_stored=each.stored,
            truncated=facts.truncated,
            cpu_seconds=facts.cpu_seconds,
            max_memory=facts.max_memory or None,
            processes=facts.processes,
            enforced=facts.enforced,
            uid=facts.uid,
            killed=facts.killed,
            killed_count=facts.killed_count,
            notes=facts.notes,
        )
        changes: dict[str, Any] = {}
        if status is model.JobStatus.COMPLETED:
            changes = {"last_success": now, "failing_since": None}
        elif status is model.JobStatus.FAILED:
            row = self._store.job(each.job_uid)
            if row is not None and row.failing_since is None:
                changes = {"failing_since": now}
            detail = (facts.error or "").splitlines()[-1:] or [""]
            journal.error(
                f"job {each.job.id} run {each.run_id} failed: {reason}"
                f"{f' ({facts.exit_code})' if reason == 'exit' else ''}{f': {detail[0]}' if detail[0] else ''};"
                f" see: schedctl logs {each.run_id}"
            )
        if changes:
            self._store.update_job(each.job_uid, **changes)

    # After a start.

    def recover(self, held: set[tuple[int, int]], *, same_launcher: bool) -> Iterator[None]:
        """Take up the open runs of the store; yields between runs, so that many of them hold up nothing.

        An attempt that the launcher holds is awaited. One that it does not hold was never handed over, if it is still the
        launcher of then, and is started now; if that launcher is gone, nobody knows, and the attempt is lost.
        """
        for row in self._store.open_runs():
            self.take(row.job_uid)
            job = self._catalog.by_hash(row.job_uid, row.hash)
            if job is None:
                self._store.update_run(
                    row.run_id, status="failed", reason="lost", end_time=clock.now_ms(), error="its definition is gone"
                )
                continue
            terms = replace(job.terms, max_attempts=row.max_attempts)
            each = OpenRun(
                row.run_id, row.job_uid, job.config, terms, run.Queued(), row.slot, row.queued, row.request or {}
            )
            each.started = row.start_time
            each.state = self._recovered_state(row, job)
            self._keep(each)
            if isinstance(each.state, run.Running):
                self._recover_running(each, each.state, held, same_launcher=same_launcher)
            elif self.quarantine.why(each.job_uid):
                self._step(each, run.Withdraw(now=clock.now_ms(), reason="quarantined"))
            yield
        # A parent may have ended, as lost, before the run that waits for it was taken up.
        for each in list(self._open.values()):
            self._judge(each, clock.now_ms())

    def _recovered_state(self, row: rows.RunRow, job: catalog.Job) -> run.State:
        first = row.start_time or row.queued
        if row.status == model.JobStatus.RUNNING.value:
            started = self._store.attempts(row.run_id)[-1].launched
            # What a person runs by hand may be of a disabled job.
            kept = self._store.job(row.job_uid)
            gone = kept is None or kept.removed is not None or (row.slot is not None and not kept.enabled)
            return run.Running(attempt=row.attempts, started=started, first_started=first, withdrawn=gone)
        # No wait is longer than it can have been meant to be: the clock may have been years ahead when it began.
        now = clock.now_ms()
        if row.gate_until is not None:
            patience = job.config.dependency_timeout
            longest = _DAY_MS if patience is None else round(patience * 1000)
            return run.Gated(until=min(row.gate_until, now + longest))
        if not row.attempts:
            return run.Queued()
        made = self._store.attempts(row.run_id)
        reason = (made[-1].reason if made else None) or "lost"
        past = run.Past(attempts=row.attempts, first_started=first, reason=reason)
        if row.retry_at is None:
            return run.Queued(past=past)
        longest = round(run.retry_delay(row.attempts, reason, 1.0, job.terms) * 1000)
        return run.Backoff(until=min(row.retry_at, now + longest), past=past)

    def _recover_running(
        self, each: OpenRun, state: run.Running, held: set[tuple[int, int]], *, same_launcher: bool
    ) -> None:
        order = self._order(each, state.attempt, each.terms.timeout)
        if why := self.quarantine.why(each.job_uid):
            each.state = replace(state, withdrawn=True)
            if (each.run_id, state.attempt) in held:
                self.attempts.abandon(order)
            else:
                self.attempts.lose(order, why)
        elif (each.run_id, state.attempt) in held:
            self.attempts.adopt(order)
        elif same_launcher:
            self.attempts.launch(order)
        else:
            self.attempts.lose(order, "launcher or host went down under it; it may have run")


def _counted(job_id: str, row: rows.RunRow, which: str) -> gates.Parent:
    return gates.Parent(job_id=job_id, status=row.status, reason=row.reason, exit_code=row.exit_code, run=which)


def _tell(each: OpenRun, what: str) -> None:
    for watcher in list(each.watchers):
        watcher(what)
