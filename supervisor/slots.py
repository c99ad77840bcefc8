"""When each job is due, and what becomes of the slots that are: each is one row, a run or a skip with its reason.

schedule.plan() says which slots run and which are passed over; here its answer meets the store, and each slot that is to
run is held against what the job is doing at that moment. The rows and how far the job is decided go into one transaction.
"""

from collections import OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import replace

from lnmt_scheduler.jobs import model, units
from lnmt_scheduler.supervisor import (
    catalog,
    clock,
    gatekeeper,
    journal,
    line,
    lives,
    pauses,
    quarantine,
    rows,
    run,
    schedule,
    store,
)


class Slots:
    def __init__(
        self,
        history: store.Store,
        jobs: catalog.Catalog,
        changes: lives.Lives,
        gates: gatekeeper.Gatekeeper,
        queue: line.Line,
        held_back: quarantine.Quarantine,
        paused: pauses.Pauses,
        wake: Callable[[], None],
    ) -> None:
        """`wake` is called when there is something to decide at the next turn."""
        self._store = history
        self._catalog = jobs
        self._lives = changes
        self._gates = gates
        self._line = queue
        self._quarantine = held_back
        self._pauses = paused
        self._wake = wake
        self._schedule = schedule.ScheduleHeap()
        self._due: OrderedDict[int, int] = OrderedDict()
        #: Jobs whose next slot may be another than was thought; they hold up nobody.
        self._unsure: OrderedDict[int, None] = OrderedDict()
        #: Of those in _due: jobs of which nothing was missed up to a moment (epoch ms), for the clock had been wrong; and jobs
        #: of which this holds if they name no zone, for it is the daemon's that was another.
        self._passed: dict[int, int] = {}
        self._replanned: dict[int, int] = {}
        #: As of when those are decided that a clock which was years ahead has decided; None: as of now.
        self._void_as_of: int | None = None
        #: The clock cannot be right: no slot is decided.
        self.held = False

    def next_fire(self) -> tuple[int, int] | None:
        """(epoch ms, job uid) of what is due first."""
        return self._schedule.first()

    def upcoming(self, limit: int, now: int) -> list[rows.Scheduled]:
        """What comes next, by slot, of the jobs that nobody has paused."""
        found = self._store.next_slots(limit + len(self._pauses))
        return [each for each in found if self._pauses.of(each.uid, now) is None][:limit]

    def set_schedule(self, uid: int, next_slot: int | None) -> None:
        """The job is due then or, with jitter, a while later, and at no other time; None: never."""
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
            self._due[uid] = self._replanned[uid] = now
        self._wake()

    def decide_due(self, uid: int) -> None:
        """Decide what of this job is due by now, before it is changed: its slots were due as it was."""
        if not self.held:
            self._decide(uid, clock.now_ms(), early=True)

    def recheck(self, uids: Iterable[int]) -> None:
        """Ask these jobs for their next slot again, a few a turn."""
        self._unsure.update(dict.fromkeys(uids))
        self._wake()

    def recheck_void(self, since: int | None = None) -> None:
        """Take back into the schedule those that a clock which was years ahead has decided until then.

        They are decided as of now, or as of `since`, since when no slot was decided for doubt of the clock.
        """
        now = clock.now_ms()
        self._void_as_of = since
        rows_of_all = list(self._store.schedule_rows())
        self.recheck(each.uid for each in rows_of_all if schedule.is_void(each.watermark, now))

    @property
    def are_due(self) -> bool:
        """Whether slots are due that are not decided yet."""
        return bool(self._due)

    def decide(self, now: int, until: float) -> bool:
        """Decide what is due, at most until this moment of the monotonic clock; whether all of it is decided."""
        if not self.held:
            self._due.update((uid, at) for at, uid in self._schedule.pop_due(now))
        while self._due and clock.monotonic() < until:
            self._decide(next(iter(self._due)), now)
        if not self._due and not self.held:
            # What they held back is decided, and what comes after them is not held back.
            for pause in self._pauses.over(now):
                self._pauses.end(pause.job_uid)
                journal.info(f"a pause is over: {pauses.words(pause)}")
        return not self._due

    def decide_unsure(self, now: int, until: float) -> None:
        """Look at jobs whose next slot may be another, at most until this moment; the rest next turn."""
        while self._unsure and not self.held and clock.monotonic() < until:
            self._decide(self._unsure.popitem(last=False)[0], now)
        if self._unsure and not self.held:
            self._wake()

    def pass_over_due(self, now: int) -> None:
        """The clock had been wrong: what is due by the new time was not missed."""
        self._due.update((uid, at) for at, uid in self._schedule.pop_due(now))
        self._passed.update(dict.fromkeys(self._due, now))
        self._wake()

    def _decide(self, uid: int, now: int, *, early: bool = False) -> None:
        """Decide the job's slots up to now; with `early` also those whose jitter is not over."""
        self._lives.take(uid)
        self._due.pop(uid, None)
        passed, replanned = self._passed.pop(uid, None), self._replanned.pop(uid, None)
        job, row = self._catalog.get(uid), self._store.job(uid)
        if job is None or row is None or not row.enabled:
            return
        if job.problem is not None:
            self._take_out(job, row.next_slot)
            return
        if job.schedule is None or job.schedule.reboot:
            return
        if replanned is not None and job.config.timezone is None:
            passed = max(replanned, passed or 0)
        watermark, next_slot = row.watermark, row.next_slot
        if self._void_as_of is not None and schedule.is_void(watermark, now):
            watermark = min(self._void_as_of, now)
        if passed is not None:
            corrected = schedule.plan(watermark, passed, job.schedule.next_after, 0, correction=True)
            watermark, next_slot = corrected.watermark, corrected.next
        for until, pause in self._pauses.pieces(uid, watermark, now):
            plan = self._plan(job, watermark, next_slot, until, pause, early=early)
            for skip in plan.skips:
                if skip.reason != "paused" or pause is None or not self._lengthen(uid, skip):
                    why = None if pause is None else pauses.words(pause)
                    self._skip(job, skip.first, skip.reason, now, last=skip.last, count=skip.count, error=why)
            for place, slot in enumerate(plan.runs):
                self._decide_slot(job, slot, "catch_up" if place < plan.late else "schedule", now)
            watermark, next_slot = plan.watermark, plan.next
        if (watermark, next_slot) != (row.watermark, row.next_slot):
            self._store.update_job(uid, watermark=watermark, next_slot=next_slot)
        self._schedule.set(uid, None if next_slot is None else next_slot + job.offset)
        self._gates.tell(uid, now)

    def _plan(
        self,
        job: catalog.Job,
        watermark: int,
        next_slot: int | None,
        until: int,
        pause: rows.Pause | None,
        *,
        early: bool,
    ) -> schedule.Slots:
        """What becomes of the slots up to `until`."""
        assert job.schedule is not None
        after = job.schedule.next_after
        if next_slot is None:
            # It was out of schedule, and what came meanwhile is passed over.
            return schedule.pass_over(watermark, until, after, "quarantined")
        if pause is not None:
            return schedule.pass_over(watermark, until, after, "paused")
        return schedule.plan(
            watermark,
            until,
            after,
            job.config.catch_up_window,
            catch_up=job.config.catch_up,
            offset=job.offset,
            early=early,
        )

    def _lengthen(self, uid: int, skip: schedule.Skip) -> bool:
        """Let the last of many rows of a pause stand for these slots, too; whether there is one."""
        newest = self._store.newest_slot_row(uid, skip.first - 1)
        if newest is None or (newest.slot_last or newest.slot or 0) >= skip.first:
            return False  # of before a clock that was ahead was set back
        if self._store.newest_reasons(uid, schedule.ROWS) != ["paused"] * schedule.ROWS:
            return False
        self._store.update_run(newest.run_id, slot_last=skip.last, slots=newest.slots + skip.count)
        return True

    def pause(self, pause: rows.Pause) -> None:
        """From now on nothing of it, or of the whole schedule, starts by itself; what is due already is decided as it was."""
        self._pauses.set(pause)
        self._wake()

    def resume(self, uid: int, now: int) -> rows.Pause | None:
        """The pause of the job, or of the whole schedule, ends now; what it was, or None if there is none."""
        pause = self._pauses.own(uid, now)
        if pause is not None:
            self._pauses.set(replace(pause, until=now, seconds=None))
            self._wake()
        return pause

    def _take_out(self, job: catalog.Job, next_slot: int | None) -> None:
        """Take a job out of the schedule until what is wrong with it is mended."""
        self._schedule.set(job.uid, None)
        if next_slot is not None:
            self._store.update_job(job.uid, next_slot=None)
            journal.error(f"job {job.config.id} is out of schedule: {job.problem}; then: schedctl reload")

    def _decide_slot(self, job: catalog.Job, slot: int, trigger: str, now: int) -> None:
        if why := self._quarantine.why(job.uid):
            self._skip(job, slot, "quarantined", now, error=why)
            return
        if (deadline := job.deadline(slot)) is not None and now >= deadline:
            self._skip(job, slot, "deadline", now, error=too_late(job.config))
            return
        place = self._line.judge(job, caught_up=trigger == "catch_up")
        if place.answer == "skip":
            self._skip(job, slot, place.reason, now, error=place.why)
            return
        gate = self._gates.verdict(job.config, job.uid, slot)
        if gate is not None and gate.answer == "closed":
            self._skip(job, slot, "dependency", now, error=gate.why)
            return
        state: run.State = run.Queued()
        if place.answer == "line":
            state = run.InLine()
        elif gate is not None and gate.answer == "wait":
            state = run.Gated(until=self._gates.until(job.config, job.uid, slot, now))
        if self._lives.begin(job, job.terms, state, slot=slot, trigger=trigger, now=now):
            self._line.displace(place, f"the {self._time(job, slot)} slot", now)
            self._line.advance(job.uid, now)

    def _time(self, job: catalog.Job, slot: int) -> str:
        return clock.local_text(slot, job.config.timezone or self._catalog.zone)

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
            if (pause := self._pauses.of(uid, now)) is not None:
                self._skip(job, slot, "paused", now, error=pauses.words(pause))
            else:
                self._decide_slot(job, slot, "schedule", now)

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


def too_late(job: model.JobConfig) -> str:
    """Why a slot is skipped that its start_deadline has passed by."""
    return f"it could not start within {units.format_duration(job.start_deadline or 0)}"
