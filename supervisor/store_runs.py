"""The store's history: runs, attempts, and what retention takes away.

Part of store.Store. A run's row is its decision: it is written before anything is started, and the pair of job and slot
is unique, so that no slot is ever decided twice. Nothing here looks at a clock or at a file: retention is told the
time, and names the runs whose output is to be removed.
"""

from collections.abc import Iterable
from typing import Any

from lnmt_scheduler.supervisor import rows, statements, store_jobs
from lnmt_scheduler.supervisor.statements import SQL

_MOST = (1 << 63) - 1
_RUN_SETTABLE = frozenset(rows.names(rows.RunRow)) - {"run_id", "job_uid", "job_id", "slot", "hash", "result_bytes"}
_RUN_COLUMNS = _RUN_SETTABLE | {"result"}
_ATTEMPT_COLUMNS = frozenset(rows.names(rows.AttemptRow)) - {"run_id", "attempt", "launched"}
_run = rows.reader(rows.RunRow)
_attempt = rows.reader(rows.AttemptRow)


class Runs(store_jobs.Jobs):
    def add_run(
        self,
        *,
        job_uid: int,
        job_id: str,
        slot: int | None,
        trigger: str,
        status: str,
        priority: int,
        queued: int,
        hash: str,  # noqa: A002 (the column's name)
        slot_last: int | None = None,
        slots: int = 1,
        reason: str | None = None,
        end_time: int | None = None,
        gate_until: int | None = None,
        max_attempts: int = 1,
        profile: str | None = None,
        retry_of: int | None = None,
        requested_by: str | None = None,
        request: dict[str, Any] | None = None,
        error: str | None = None,
        notes: str | None = None,
    ) -> int | None:
        """The new run's id; None: this slot of this job was decided before.

        Raises StoreError `conflict` if the definition of this hash is not kept.
        """
        return self._insert(
            SQL["run.add"],
            job_uid,
            job_id,
            slot,
            slot_last,
            slots,
            trigger,
            status,
            reason,
            priority,
            queued,
            end_time,
            gate_until,
            max_attempts,
            profile,
            retry_of,
            rows.encode("requested_by", requested_by),
            rows.encode("request", request),
            rows.encode("error", error),
            rows.encode("notes", notes),
            hash,
        )

    def add_skips(self, skips: Iterable[rows.Skip]) -> int:
        """Slots that are decided and do not run; returns how many of them had not been decided before."""
        return self._change_all(
            SQL["run.skip"],
            (
                (
                    skip.job_uid, skip.job_id, skip.slot, skip.slot_last, skip.slots, skip.reason, skip.priority,
                    skip.queued, skip.queued, rows.encode("error", skip.error), skip.hash,
                )
                for skip in skips
            ),
        )  # fmt: skip

    def update_run(self, run_id: int, **columns: Any) -> None:
        """Set columns of a run; `result` is msgpack. Raises TypeError for a name that is no column that may be set."""
        statements.check_columns(columns, _RUN_COLUMNS)
        values = [rows.encode(name, value) for name, value in columns.items()]
        self._change(statements.update("job_history", ("run_id",), tuple(columns)), *values, run_id)

    def skip_run_ids(self, count: int) -> None:
        """Leave out so many numbers of runs."""
        self._change(SQL["runs.skip_ids"], count)

    def run(self, run_id: int) -> rows.RunRow | None:
        """One run."""
        found = self._first(SQL["run.get"], run_id)
        return None if found is None else _run(found)

    def result(self, run_id: int) -> bytes | None:
        """What the run's function returned, as msgpack."""
        found = self._first(SQL["run.result"], run_id)
        return None if found is None else found[0]

    def open_runs(self) -> list[rows.RunRow]:
        """Runs that are not over (pending, running, retrying), in the order of their decision."""
        return [_run(row) for row in self._rows(SQL["runs.open"])]

    def newest_run(self, job_uid: int) -> rows.RunRow | None:
        """The run that was decided last, whatever became of it."""
        found = self._first(SQL["runs.newest"], job_uid)
        return None if found is None else _run(found)

    def newest_unskipped(self, job_uid: int, before: int | None = None) -> rows.RunRow | None:
        """The run that was decided last, or last before this one, and was no skip."""
        found = self._first(SQL["runs.newest_unskipped"], job_uid, _MOST if before is None else before)
        return None if found is None else _run(found)

    def newest_reasons(self, job_uid: int, count: int) -> list[str | None]:
        """The reasons in the rows of so many of the job's newest slots, the newest first."""
        return [reason for (reason,) in self._rows(SQL["runs.newest_reasons"], job_uid, count)]

    def last_start(self, job_uid: int) -> int | None:
        """When the last of its runs that started did so; rows of slots that did not run do not count."""
        found = self._first(SQL["runs.last_start"], job_uid)
        return None if found is None else int(found[0])

    def newest_slot_row(self, job_uid: int, at_or_before_ms: int) -> rows.RunRow | None:
        """The row of the newest slot at or before this moment; of a gap its first slot counts."""
        found = self._first(SQL["runs.newest_slot"], job_uid, at_or_before_ms)
        return None if found is None else _run(found)

    def history(
        self,
        job_id: str | None = None,
        *,
        status: str | None = None,
        since: int | None = None,
        before: int | None = None,
        limit: int = 50,
    ) -> list[rows.RunRow]:
        """Runs in the reverse order of their decision, of the job that has or last had this id, or of all.

        `since` is a moment, `before` the id of the last run of the page before. Runs that were decided before the clock
        was set back to before `since` are left out.
        """
        floor = 0
        if since is not None:
            # A lower bound of the ids, so that a page with few hits does not read the whole history for more.
            first = self._first(SQL["history.floor"], since)
            if first is None:
                return []
            floor = first[0]
        page = (_MOST if before is None else before, floor, 0 if since is None else since, limit)
        if job_id is None:
            if status is None:
                found = self._rows(SQL["history.all"], *page)
            else:
                found = self._rows(SQL["history.status"], status, *page)
        else:
            uid = self.latest_uid(job_id)
            if status is None:
                found = self._rows(SQL["history.job"], uid, *page)
            else:
                found = self._rows(SQL["history.job_status"], uid, status, *page)
        return [_run(row) for row in found]

    def first_since(self, moment: int) -> int | None:
        """The first run that was decided at or after a moment; None: there is none."""
        found = self._first(SQL["history.floor"], moment)
        return None if found is None else int(found[0])

    def oldest_slot(self, job_uid: int) -> int | None:
        """The oldest slot of a job that has a row."""
        found = self._first(SQL["runs.oldest_slot"], job_uid)
        return None if found is None else int(found[0])

    def snapshot_floor(self, since: int) -> tuple[int, int]:
        """Numbers of the last run, and of the first that was decided at or after a moment; (0, 1) if there is none."""
        newest, first = self._first(SQL["snapshot.newest"]), self._first(SQL["history.floor"], since)
        if newest is None or newest[0] is None or first is None:
            return 0, 1
        return int(newest[0]), int(first[0])

    def snapshot_runs(self, newest: int, floor: int, limit: int) -> list[tuple[Any, ...]]:
        """Runs from this number on back, as snapshot.py's table `runs` has them."""
        return self._rows(SQL["snapshot.runs"], newest, floor, limit)

    def snapshot_jobs(self, after: str, limit: int) -> list[tuple[Any, ...]]:
        """Living jobs in the order of their ids: uid, id, enabled, definition as JSON, and what the schedule knows."""
        return self._rows(SQL["snapshot.jobs"], after, limit)

    def snapshot_result(self, job_uid: int, limit: int) -> tuple[int, bytes] | None:
        """The run that last returned something, and what; nothing in its place if that is more than so many bytes."""
        found = self._rows(SQL["snapshot.results"], limit, job_uid)
        return next(((int(run_id), result) for run_id, result in found if result is not None), None)

    def add_attempt(self, run_id: int, attempt: int, launched: int) -> None:
        """An attempt, to be committed before the launcher hears of it. Raises StoreError `conflict` if it exists."""
        self._change(SQL["attempt.add"], run_id, attempt, launched)

    def end_attempt(self, run_id: int, attempt: int, **columns: Any) -> None:
        """How it ended. Raises TypeError for a name that is no column that may be set."""
        statements.check_columns(columns, _ATTEMPT_COLUMNS)
        values = [rows.encode(name, value) for name, value in columns.items()]
        self._change(statements.update("attempts", ("run_id", "attempt"), tuple(columns)), *values, run_id, attempt)

    def attempts(self, run_id: int) -> list[rows.AttemptRow]:
        """The attempts of a run, in order."""
        return [_attempt(row) for row in self._rows(SQL["attempts.of"], run_id)]

    # What goes.

    def runs_with_output_oldest_first(self, limit: int, after: int = 0) -> list[rows.Stored]:
        """Runs that have output on disk (output_stored), from the one after run `after`."""
        return [rows.Stored._make(row) for row in self._rows(SQL["output.oldest"], after, limit)]

    def output_total(self) -> int:
        """Bytes of output on disk, by output_stored. Reads one index from end to end: ask once, then keep count."""
        found = self._first(SQL["output.total"])
        return 0 if found is None else int(found[0])

    def retention(
        self, now: int, age_ms: int, runs_per_job: int, batch: int, cursor: rows.Cursor | None = None
    ) -> rows.Swept:
        """Delete runs that ended longer ago than age_ms, and of each job those before its newest runs_per_job.

        Open runs stay, and of a living job its newest run and its newest slot. One call looks at `batch` runs for
        age, or deletes about `batch` runs of at most so many jobs; pass the cursor on until it is None, which ends a
        round. A removed job goes with its last run.
        """
        at_run, at_job = cursor or rows.Cursor(0, 0)
        if at_run is not None:
            return self._sweep_old(at_run, at_job, now, now - age_ms, batch)
        return self._sweep_surplus(at_job, max(1, runs_per_job), batch)

    def _sweep_old(self, after: int, at_job: int, now: int, cutoff: int, batch: int) -> rows.Swept:
        window = self._first(SQL["sweep.window"], after, batch - 1)
        last, decided = window or (_MOST, now)
        found = self._rows(SQL["sweep.old"], after, last, cutoff)
        # Ids follow the time of decision: past a young run there is nothing old. One from the future was decided before
        # the clock was set back, and says nothing.
        reached = None if cutoff <= decided <= now else last
        return rows.Swept(self._delete(found), rows.Cursor(reached, at_job))

    def _sweep_surplus(self, after: int, runs_per_job: int, batch: int) -> rows.Swept:
        gone: list[rows.Gone] = []
        jobs = self._rows(SQL["sweep.jobs"], after, batch)
        for uid, removed in jobs:
            kept = self._first(SQL["sweep.first_kept"], uid, runs_per_job - 1)
            if kept is not None:
                gone += self._delete(self._rows(SQL["sweep.surplus"], uid, kept[0], uid, batch))
            if removed is not None:
                self._forget_job(uid)
            if len(gone) >= batch:
                # There may be more of this job.
                return rows.Swept(tuple(gone), rows.Cursor(None, uid - 1))
        return rows.Swept(tuple(gone), rows.Cursor(None, jobs[-1][0]) if len(jobs) == batch else None)

    def purge_job(self, uid: int, limit: int = 1000) -> list[rows.Gone]:
        """Delete up to `limit` runs of a job, oldest first; call it again until it returns none. Open runs stay.

        A removed job goes with its last run.
        """
        gone = self._delete(self._rows(SQL["sweep.purge"], uid, limit))
        self._forget_job(uid)
        return list(gone)

    def _delete(self, found: list[tuple[Any, ...]]) -> tuple[rows.Gone, ...]:
        """Forget runs, given as (run_id, queued, definition)."""
        if found:
            ids = [(run_id,) for run_id, _, _ in found]
            self._change_all(SQL["sweep.delete"], ids)
            self._change_all(SQL["sweep.delete_attempts"], ids)
            self._drop_definitions(definition for _, _, definition in found)
        return tuple(rows.Gone(run_id, queued) for run_id, queued, _ in found)
