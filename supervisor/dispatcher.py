"""Which run starts now, and the one door to slots and runs for the rest of the supervisor.

The decisions themselves are pure and live elsewhere: schedule.plan() (which slots), gates.judge() (may it start),
backlog.Backlog (who is next), run.step() (what an event makes of a run). They meet the store in slots.py (what becomes of
a slot), gatekeeper.py (what waits for other jobs), lives.py (every change of a run) and recovery.py (after a start). Here
is the turn that calls them in order, who is admitted, and what comes from outside: clients, attempts, the clock.
"""

import contextlib
import random
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any, Literal

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import (
    attempts,
    catalog,
    clock,
    config,
    gatekeeper,
    line,
    lives,
    open_runs,
    pauses,
    quarantine,
    recovery,
    rows,
    run,
    schedule,
    slots,
    store,
    triggers,
)

#: Seconds of one loop turn that deciding slots may take.
_SLICE = 0.02
#: Waiting runs whose level may rise in one turn of the loop.
_PROMOTIONS = 2000
#: Runs of this priority and above may take the reserved places.
_URGENT = model.JobPriority.HIGH


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
        self.quarantine = quarantine.Quarantine(history)
        self.open = open_runs.OpenRuns(history, settings.aging, self._wake)
        self.lives = lives.Lives(history, self.open)
        self._gates = gatekeeper.Gatekeeper(history, jobs, self.open, self.lives)
        self._line = line.Line(self.open, self.lives, self._gates)
        self.lives.on_end += [
            lambda each, now: self._line.advance(each.job_uid, now),
            lambda each, now: self._gates.tell(each.job_uid, now),
        ]
        self.pauses = pauses.Pauses(history)
        self.slots = slots.Slots(
            history, jobs, self.lives, self._gates, self._line, self.quarantine, self.pauses, self._wake
        )
        self.triggers = triggers.Triggers(
            history, jobs, self.open, self.lives, self._line, self.quarantine, self.pauses
        )
        self._recovery = recovery.Recovery(
            history, jobs, self.open, self.lives, self._gates, self._line, self.quarantine
        )
        self.triggers.notify = settings.notify
        self.stopping = False
        self.draining = False
        #: The disk is full: only jobs with run_when_full start.
        self.full = False
        #: Runs at one time that there are descriptors for; None: as many as are wanted.
        self.room: int | None = None
        #: Called before anything is decided by the time that it is.
        self.look_at_clock: Callable[[], None] = lambda: None
        #: Called when the last attempt of a stopping or draining daemon has ended.
        self.on_idle: Callable[[], None] = lambda: None

    def _wake(self) -> None:
        self._call_soon(self.tick)

    def configure(self, settings: config.Settings) -> None:
        self._settings = settings
        self.triggers.notify = settings.notify
        self.open.backlog.set_aging(settings.aging)

    def undoable(self) -> contextlib.AbstractContextManager[None]:
        """Runs are again what they were if this ends in an exception, as their rows are in the store."""
        return self.open.undoable()

    def recover(self, held: set[tuple[int, int]], *, same_launcher: bool) -> Iterator[None]:
        """Take up the open runs of the store, of which the launcher holds these attempts."""
        self.pauses.start(clock.now_ms())
        return self._recovery.recover(held, same_launcher=same_launcher)

    # What others ask.

    def find(self, run_id: int) -> open_runs.OpenRun | None:
        """The run, while it has not ended."""
        return self.open.find(run_id)

    def active(self, job_uid: int) -> list[open_runs.OpenRun]:
        """The job's open runs, oldest first."""
        return self.open.active(job_uid)

    def counts(self) -> dict[str, int]:
        return self.open.counts()

    def next_wake(self) -> int | None:
        """When something will be due: a slot, the end of a wait or a pause, a retry, a run that must have started or may."""
        slot = None if self.slots.held else self.slots.next_fire()
        waits = (self.open.gates.first(), self.open.retries.first(), self.open.deadlines.first())
        times = [first[0] for first in (slot, *waits) if first]
        if (opening := self.open.backlog.next_opening(clock.now_ms())) is not None:
            times.append(opening)
        if not self.slots.held and (end := self.pauses.first_end()) is not None:
            times.append(end)
        return min(times, default=None)

    def waits_for(self, run_id: int) -> str | None:
        """What a run that has not started waits for, in words; None: it does not wait."""
        each = self.open.find(run_id)
        if each is None:
            return None
        match each.state:
            case run.Gated() if each.slot is not None:
                verdict = self._gates.verdict(each.job, each.job_uid, each.slot, each.run_id)
                return None if verdict is None else verdict.why or None
            case run.Queued():
                if self.draining:
                    return "until the daemon, which drains, is restarted"
                if self.full and not each.job.run_when_full:
                    return "for room on the disk"
                return f"for a place; {len(self.open.running)} of {self._places} are taken"
        return None

    # A turn.

    def tick(self) -> None:
        """Decide what is due, in slices; start runs once all that is due is decided, so that priority decides."""
        self.look_at_clock()
        now = clock.now_ms()
        # First the waits that are over: most end when the job's own next slot is due, which they must not overlap.
        self._gates.close_overdue(now)
        while (first := self.open.deadlines.first()) and first[0] <= now:
            late = self.open[first[-1]]
            late.facts = attempts.Facts(error=slots.too_late(late.job))
            self.lives.step(late, run.Overdue(now=now))
        until = clock.monotonic() + _SLICE
        if not self.slots.decide(now, until):
            self._wake()
            return
        while (first := self.open.retries.first()) and first[0] <= now:
            self.open.retries.pop()
            self.lives.step(self.open[first[-1]], run.RetryDue(now=now))
        self.admit(now)
        self.slots.decide_unsure(now, until)

    def on_step(self, seconds: float, *, correction: bool) -> None:
        """The wall clock was set by so many seconds. With `correction` it had been wrong, and nothing was missed."""
        now, by = clock.now_ms(), round(seconds * 1000)
        if correction:
            self.slots.pass_over_due(now)
        if by:
            self.open.backlog.move(by, now)
            for each in self.open:
                self.lives.move(each, by, now)
            self.pauses.move(by)
        if by < -schedule.VOID_MS:
            self.slots.recheck_void()
        self._wake()

    def admit(self, now: int) -> None:
        """Fill the free slots from the backlog."""
        while not (self.stopping or self.draining or self.slots.are_due):
            if self.full:
                self._admit_urgently(now)
                return
            if not self.open.backlog.settle(now, _PROMOTIONS):
                self._wake()
                return
            free = self._places - len(self.open.running)
            urgent = sum(1 for run_id in self.open.running if self.open[run_id].job.priority >= _URGENT)
            reserved = min(self._settings.reserved_slots, self._places - 1) - urgent
            run_id = self.open.backlog.pop(now, free, max(0, reserved), self._full_pools())
            if run_id is None:
                return
            self.lives.step(self.open[run_id], run.Admitted(now=now))

    @property
    def _places(self) -> int:
        wanted = self._settings.max_concurrent_jobs
        return wanted if self.room is None else min(wanted, self.room)

    def _full_pools(self) -> set[str]:
        limits = self._settings.pools
        return {pool for pool, count in self.open.in_pool.items() if count >= limits.get(pool, config.UNKNOWN_POOL)}

    def _admit_urgently(self, now: int) -> None:
        """While the disk is full only those start that are there to mend it, or do not mind."""
        waiting = [each for each in self.open if each.run_id in self.open.backlog and each.job.run_when_full]
        for each in sorted(waiting, key=lambda each: (-each.job.priority, each.slot or each.queued, each.run_id)):
            if len(self.open.running) >= self._places:
                return
            if each.job.pool in self._full_pools():
                continue
            self.open.backlog.remove(each.run_id)
            self.lives.step(each, run.Admitted(now=now))

    # What people want.

    def run_now(
        self, job: catalog.Job, request: dict[str, Any], *, by: str, allow_overlap: bool, retry_of: int | None = None
    ) -> int:
        """A run by hand; its id. BusyError if one is active and that is not allowed. Gates are not asked."""
        active = self.open.active(job.uid)
        if active and not allow_overlap:
            raise BusyError(active[0].run_id)
        terms = job.terms if request.get("with_retries") else replace(job.terms, max_attempts=1)
        now = clock.now_ms()
        return self.lives.begin(
            job, terms, run.Queued(), slot=None, trigger="manual", now=now, request=request, by=by, retry_of=retry_of
        )

    def cancel(self, run_id: int) -> None:
        self.lives.step(self.open[run_id], run.Cancel(now=clock.now_ms()))

    def withdraw(self, job_uid: int, reason: Literal["removed", "disabled"]) -> None:
        """The job was disabled or removed: what waits is skipped, what runs ends by itself."""
        # The youngest first: none is to come to its turn by the end of one before it.
        for each in reversed(self.active(job_uid)):
            self.lives.step(each, run.Withdraw(now=clock.now_ms(), reason=reason))

    def stop(self) -> None:
        """End what runs; on_idle is called when nothing does."""
        self.stopping = True
        now = clock.now_ms()
        for run_id in list(self.open.running):
            self.lives.step(self.open[run_id], run.Stop(now=now, grace=self._settings.stop_grace))
        self._check_idle()

    def drain(self) -> None:
        self.draining = True
        self._check_idle()

    def _check_idle(self) -> None:
        if (self.stopping or self.draining) and not self.open.running:
            self._call_soon(self.on_idle)

    # Events of attempts.

    def on_exceeded(self, run_id: int, cause: str) -> None:
        if each := self.open.find(run_id):
            self.lives.step(each, run.Exceeded(now=clock.now_ms(), cause="stalled" if cause == "stalled" else "output"))

    def on_life(self, run_id: int) -> None:
        if each := self.open.find(run_id):
            lives.tell(each, "life")

    def on_attempt_ended(self, run_id: int, attempt: int, outcome: run.Outcome, facts: attempts.Facts) -> None:
        each = self.open.find(run_id)
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
        self.lives.step(each, run.AttemptEnded(now=now, outcome=outcome, jitter=self._dice()))
        self._check_idle()
        self._wake()

    def on_unknown_exit(self, run_id: int, _: int) -> None:
        """A predecessor has recorded this end, and may not have lived to put the output in order."""
        row = self._store.run(run_id)
        if row is None or run_id in self.open:
            return
        job = self._catalog.by_hash(row.job_uid, row.hash)
        if job is not None:
            self.lives.attempts.finish_output(run_id, row.queued, job.config)

    def head_limit(self, row: rows.RunRow) -> int | None:
        """How much of the beginning of a run's output was kept for certain."""
        job = self._catalog.by_hash(row.job_uid, row.hash)
        return None if job is None else self.lives.attempts.limit_of(job.config) // 2
