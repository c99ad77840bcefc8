"""Why a job ran, runs or will run, or did not, at a moment: one answer in words, taken from the rows of the store.

For `schedctl why`, asked of the daemon or of the store of one that does not run: both give the same answer, but for what only
a running daemon knows of a run that waits (`Live`). Nothing here decides or changes anything. What the rows say counts; where
a slot has none, the audit and the job's own row say why. Cost is bounded: some pages of history and audit at most.

Times are epoch milliseconds, and in words those of the job's own zone.
"""

import functools
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from lnmt_scheduler.jobs import load, model, units
from lnmt_scheduler.supervisor import catalog, cron, pauses, quarantine, rows, schedule, store

#: Runs before a moment among which one is looked for that was under way then.
_BEFORE = 50
#: A run that starts so much later than its slot has its wait told.
_LATE_MS = 60_000

_SKIPPED = {
    "overlap": "the run before it had not ended",
    "dependency": "a job that it depends on did not complete",
    "missed": "the daemon did not run then, or stood still, and catch_up does not take it up",
    "coalesced": "several slots had been missed, and a later one ran in place of them",
    "disabled": "the job was disabled",
    "removed": "the job was removed",
    "quarantined": "the job was out of schedule",
    "deadline": "it could not start within start_deadline",
    "paused": "the job was paused",
}


@dataclass(frozen=True, slots=True)
class Live:
    """What a running daemon knows besides the rows."""

    #: What a run waits for that has not started, in words; None: it cannot say.
    waits_for: Callable[[rows.RunRow], str | None] = lambda _: None


class Unknown(LookupError):  # noqa: N818 - reads as what it says
    """No job has this id, and none had."""


def answer(
    history: store.Store,
    zone: str,
    job_id: str,
    at: int | None,
    now: int,
    *,
    host: str,
    span: int = 60_000,
    live: Live | None = None,
) -> dict[str, Any]:
    """{job_id, time, answer, run_id, slot, status, reason}: of the run that the answer is about, else None.

    `at` is the moment, and with `span` what follows and is meant too; None: now. `zone` is the daemon's, `host` what
    the catalog calls this host. Raises Unknown.
    """
    uid = history.latest_uid(job_id)
    row = None if uid is None else history.job(uid)
    if row is None:
        raise Unknown(job_id)
    case = _Case(history, zone, host, row, now if at is None else at, now, span, live or Live())
    run, text = case.now_() if at is None else case.then()
    return {
        "job_id": job_id,
        "time": case.at,
        "answer": text,
        "run_id": None if run is None else run.run_id,
        "slot": None if run is None else run.slot,
        "status": None if run is None else run.status,
        "reason": None if run is None else run.reason,
    }


#: The run that an answer is about, and the answer.
_Answer = tuple[rows.RunRow | None, str]


class _Case:
    """One question."""

    def __init__(
        self,
        history: store.Store,
        zone: str,
        host: str,
        row: rows.JobRow,
        at: int,
        now: int,
        span: int,
        live: Live,
    ) -> None:
        self._store = history
        self._host = host
        self._row = row
        self.at, self._now, self._end = at, now, at + span
        self._live = live
        self._config = load.from_given(row.given, row.origins).config
        self._zone = self._config.timezone or zone
        self._offset = self._offset_of(self._config)
        #: Up to here the daemon decides no slot any more, as schedule.plan() sees it.
        self._decided = now if schedule.is_void(row.watermark, now) else row.watermark
        self._planned: cron.Schedule | None = None
        self._problem: str | None = None
        try:
            self._planned = catalog.schedule(self._config, zone)
        except cron.CronError as error:
            self._problem = str(error)

    # The present.

    def now_(self) -> _Answer:
        for status in ("running", "retrying", "pending"):
            found = self._store.history(self._row.job_id, status=status, limit=1)
            if found:
                return found[0], self._of_run(found[0])
        last = self._store.newest_run(self._row.uid)
        text = "it has not run yet" if last is None else f"last: {self._of_run(last)}"
        return last, f"does not run now; {text}; {self._coming(self._now)}"

    # Another moment.

    def then(self) -> _Answer:
        row = self._slot_row()
        if row is not None:
            return row, self._of_run(row)
        slot = self._slot_after(self.at - 1)
        if slot is not None and slot < self._end:
            due = slot + self._offset
            if due > self._now and slot > self._decided:
                coming = f"is to come, in {self._span(due - self._now)}{self._put_off(slot)}{self._but(due)}"
                return None, f"{self._text(slot)} slot {coming}"
            return None, f"{self._text(slot)} slot {self._why_no_row(slot)}"
        active = self._active()
        if active is not None:
            return active, f"no slot at {self._text(self.at)}; {self._of_run(active)}"
        return None, self._no_slot()

    def _slot_row(self) -> rows.RunRow | None:
        """The row whose slot, or one of whose slots, is meant."""
        row = self._store.newest_slot_row(self._row.uid, self._end - 1)
        if row is None or row.slot is None or (row.slot_last or row.slot) < self.at:
            return None
        return row

    def _slot_after(self, after: int) -> int | None:
        return None if self._planned is None else self._planned.next_after(after)

    def _active(self) -> rows.RunRow | None:
        """The newest run that was under way then, by hand or of an earlier slot, or that was asked for then and kept back."""
        floor = self._store.first_since(self._end)
        for row in self._store.history(self._row.job_id, before=floor, limit=_BEFORE):
            begun = row.start_time if row.start_time is not None else row.queued
            is_other_slot = row.status == "skipped" and row.slot is not None
            if not is_other_slot and begun < self._end and (row.end_time is None or row.end_time >= self.at):
                return row
        return None

    def _no_slot(self) -> str:
        if self._config.schedule is None:
            return f"nothing at {self._text(self.at)}: {self._unscheduled()}, and no run of it was under way"
        if self._planned is not None and self._planned.reboot:
            return f"nothing at {self._text(self.at)}: the job runs once a boot, and no run of it was under way"
        parts = [f"no slot at {self._text(self.at)}: the schedule {self._config.schedule} names none then"]
        before = self._store.newest_slot_row(self._row.uid, self.at)
        if before is not None:
            parts.append(f"before it: {self._of_run(before)}")
        return "; ".join([*parts, f"after it: {self._coming(self.at)}"])

    def _offset_of(self, config: model.JobConfig) -> int:
        return schedule.offset(config.id, config.jitter, self._host)

    def _put_off(self, slot: int) -> str:
        return f", due at {self._text(slot + self._offset)} (jitter)" if self._offset else ""

    def _next(self, moment: int) -> int | None:
        """The first slot that is due after a moment; unless that has passed, of those that are not decided yet."""
        # Before an edit also slots are decided whose jitter is not over: what is decided comes no more.
        decided = self._decided if moment >= self._now else min(self._decided, moment)
        return self._slot_after(max(moment - self._offset, decided))

    def _coming(self, after: int) -> str:
        if self._problem is not None:
            return f"out of schedule: {self._problem}"
        if self._config.schedule is None:
            return f"{self._unscheduled()}{self._but(self._now)}"
        if self._planned is not None and self._planned.reboot:
            return "it runs when the daemon starts, once a boot"
        slot = self._next(after)
        if slot is None:
            return "the schedule names no time to come"
        return f"next slot {self._text(slot)}{self._put_off(slot)}{self._but(slot + self._offset)}"

    def _unscheduled(self) -> str:
        """What starts a job without a schedule."""
        parents, event = catalog.parents(self._config), self._config.on_event
        starts = ([f"when {', '.join(parents)} {'has' if len(parents) == 1 else 'have'} ended"] if parents else []) + (
            [f"at the event {event}"] if event else []
        )
        return f"it starts {' or '.join(starts)}" if starts else "it has no schedule"

    def _but(self, due: int) -> str:
        """What keeps from running what is due then."""
        why = self._why_off(due)
        if why is not None:
            return f", but {why}"
        parents = catalog.parents(self._config) if self._config.schedule is not None else []
        return f", after {', '.join(self._parent(each, due) for each in parents)}" if parents else ""

    def _parent(self, job_id: str, due: int) -> str:
        """Its id, and what keeps it from running by itself: our gate may stay shut for that."""
        row = self._store.job_named(job_id)
        if row is None:
            return f"{job_id} (removed)"
        pause = self._store.pause_of(row.uid)
        off = "disabled" if not row.enabled else "paused" if pause is not None and pauses.holds(pause, due) else None
        return f"{job_id} ({off})" if off else job_id

    def _why_off(self, due: int) -> str | None:
        if self._row.removed is not None:
            return f"the job was removed at {self._text(self._row.removed)}{self._who('remove')}"
        if not self._row.enabled:
            entry = self._last(self._now, ("disable",))
            since = "" if entry is None else f", since {self._text(entry.time)} by {entry.user}"
            return f"the job is disabled{since}"
        for pause in (self._store.pause_of(self._row.uid), self._store.pause_of(pauses.SCHEDULE)):
            if pause is not None and pauses.holds(pause, due):
                until = "until somebody resumes it" if pause.until is None else f"until {self._text(pause.until)}"
                why = f": {pause.reason}" if pause.reason else ""
                what = "the job" if pause.job_uid else "the whole schedule"
                is_over = pause.until is not None and pause.until <= self._now
                return f"{what} {'was' if is_over else 'is'} paused {until} by {pause.user}{why}"
        return quarantine.Quarantine(self._store).why(self._row.uid)

    def _who(self, action: str) -> str:
        """Who did it last, by the audit."""
        entry = self._last(self._now, (action,))
        return "" if entry is None else f" by {entry.user}"

    @functools.cached_property
    def _audit(self) -> list[rows.AuditRow]:
        """What was done to the job of late, newest first."""
        return self._store.audit_of(self._row.job_id)

    def _last(self, until: int, actions: tuple[str, ...]) -> rows.AuditRow | None:
        return next(
            (entry for entry in self._audit if entry.action in actions and entry.time <= until),
            None,
        )

    def _why_no_row(self, slot: int) -> str:
        """Of a slot that the schedule of today names, and that has passed without a trace."""
        if slot <= self._row.added:
            return f"is from before the job was added, at {self._text(self._row.added)}{self._who('add')}"
        switched = self._last(slot, ("enable", "disable"))
        if switched is not None and switched.action == "disable":
            return f"had no run: the job was disabled by {switched.user} at {self._text(switched.time)}"
        if slot > self._decided:
            off = self._why_off(slot + self._offset)
            if off is not None:
                return f"had no run: {off}"
            return "is not decided yet: the daemon does not run, has just begun, or doubts its clock (schedctl status)"
        changed = self._first_after(slot, ("edit", "import", "reload", "enable", "resume", "add"))
        if changed is not None:
            return (
                f"has no row: the job was changed later, at {self._text(changed.time)} by {changed.user}"
                f" ({changed.action}), and slots before that are of what it was"
            )
        if self._row.changed > slot:
            return f"has no row: the job was changed later, at {self._text(self._row.changed)}"
        oldest = self._store.oldest_slot(self._row.uid)
        if oldest is None or slot < oldest:
            return "has no row any more: it is older than what is kept (retention)"
        return "has no row: it was passed over when the clock was set forward, or the job was out of schedule"

    def _first_after(self, at: int, actions: tuple[str, ...]) -> rows.AuditRow | None:
        found = [entry for entry in self._audit if entry.action in actions and entry.time > at]
        return found[-1] if found else None

    # A run in words.

    def _of_run(self, row: rows.RunRow) -> str:
        return f"{self._which(row)} {self._what(row)}"

    def _which(self, row: rows.RunRow) -> str:
        if row.slot is None:
            how = {"manual": f"by hand{f' by {row.requested_by}' if row.requested_by else ''}"}.get(
                row.trigger, f"by {row.trigger}"
            )
            return f"run {row.run_id} ({how}, {self._text(row.queued)})"
        if row.slots > 1 and row.slot_last is not None:
            return f"{row.slots} slots from {self._text(row.slot)} to {self._text(row.slot_last)}"
        return f"{self._text(row.slot)} slot"

    def _what(self, row: rows.RunRow) -> str:
        match model.JobStatus(row.status):
            case model.JobStatus.SKIPPED:
                return f"skipped: {self._why_skipped(row)}"
            case model.JobStatus.PENDING:
                return f"waits: {self._why_waiting(row)}"
            case model.JobStatus.RETRYING:
                return self._retrying(row)
            case model.JobStatus.RUNNING:
                of = f", attempt {row.attempts} of {row.max_attempts}" if row.max_attempts > 1 else ""
                return f"is running since {self._text(row.start_time or row.queued)} (run {row.run_id}{of})"
        tried = f" after {row.attempts} attempts" if row.attempts > 1 else ""
        took = "" if row.duration is None else f" in {self._span(round(row.duration * 1000))}"
        return f"{self._ended(row)}{tried}{took}{self._late(row)} (run {row.run_id}){self._error(row)}"

    def _ended(self, row: rows.RunRow) -> str:
        match row.status, row.reason:
            case "completed", "warning":
                return f"completed with a warning (exit {row.exit_code})"
            case "completed", _:
                return "completed"
            case "cancelled", "replaced":
                return "was ended for a newer slot (replaced)"
            case "cancelled", _:
                return "was cancelled"
        return f"failed ({self._cause(row)})"

    def _error(self, row: rows.RunRow) -> str:
        """The last line of what is known of a failure."""
        lines = (row.error or "").strip().splitlines() if row.status == "failed" else []
        return f": {lines[-1]}" if lines else ""

    def _cause(self, row: rows.RunRow) -> str:
        match row.reason:
            case "exit":
                return f"exit {row.exit_code}"
            case "signal":
                return f"signal {row.signal}"
        return str(row.reason)

    def _late(self, row: rows.RunRow) -> str:
        if row.slot is None or row.start_time is None:
            return ""
        given = self._store.definition(row.hash)  # its jitter may have been another than today's
        config = self._config if given is None else load.from_given(given, {}).config
        by = row.start_time - row.slot - self._offset_of(config)
        if by < _LATE_MS:
            return ""
        late = self._span(by)
        if row.trigger == "catch_up":
            return f", caught up {late} late"
        return f", started {late} late, having waited for a place or another job"

    def _why_skipped(self, row: rows.RunRow) -> str:
        words = _SKIPPED.get(row.reason or "", str(row.reason))
        if row.reason in ("dependency", "deadline", "disabled", "paused") and row.error:
            return row.error
        return f"{words} ({row.error})" if row.error else words

    def _why_waiting(self, row: rows.RunRow) -> str:
        known = self._live.waits_for(row)
        if row.gate_until is not None:
            known = known or f"for {', '.join(catalog.parents(self._config))}"
            return f"{known}, until {self._text(row.gate_until)} at most (run {row.run_id})"
        return f"{known or 'for a place among the runs'} (run {row.run_id})"

    def _retrying(self, row: rows.RunRow) -> str:
        made = self._store.attempts(row.run_id)
        why = f" ({made[-1].reason}{f' {made[-1].exit_code}' if made[-1].reason == 'exit' else ''})" if made else ""
        then = "is queued" if row.retry_at is None else f"at {self._text(row.retry_at)}"
        return (
            f"failed in attempt {row.attempts} of {row.max_attempts}{why}; the next attempt {then} (run {row.run_id})"
        )

    # Times.

    def _text(self, at: int) -> str:
        """With the date where it is not that of the moment in question."""
        moment, asked = self._local(at), self._local(self.at)
        time = moment.strftime("%H:%M:%S" if moment.second else "%H:%M")
        return time if moment.date() == asked.date() else f"{moment:%Y-%m-%d} {time}"

    def _local(self, at: int) -> datetime:
        try:
            info: tzinfo = zoneinfo.ZoneInfo(self._zone)
        except (KeyError, ValueError, OSError):
            info = UTC
        return datetime.fromtimestamp(at // 1000, info)

    def _span(self, milliseconds: int) -> str:
        seconds = milliseconds / 1000
        return units.format_duration(round(seconds) if seconds >= 10 else round(seconds, 1))
