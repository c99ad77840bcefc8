"""After a start: the runs that the store says are open are taken up, each where it was."""

from collections.abc import Iterator
from dataclasses import replace

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import catalog, clock, gatekeeper, line, lives, open_runs, quarantine, rows, run, store

_DAY_MS = 86_400_000


class Recovery:
    def __init__(
        self,
        history: store.Store,
        jobs: catalog.Catalog,
        runs: open_runs.OpenRuns,
        changes: lives.Lives,
        gates: gatekeeper.Gatekeeper,
        queue: line.Line,
        held_back: quarantine.Quarantine,
    ) -> None:
        self._store = history
        self._catalog = jobs
        self._runs = runs
        self._lives = changes
        self._gates = gates
        self._line = queue
        self._quarantine = held_back

    def recover(self, held: set[tuple[int, int]], *, same_launcher: bool) -> Iterator[None]:
        """Take up the open runs of the store; yields between runs, so that many of them hold up nothing.

        An attempt that the launcher holds is awaited. One that it does not hold was never handed over, if it is still the
        launcher of then, and is started now; if that launcher is gone, nobody knows, and the attempt is lost.
        """
        # All of them first: what follows from the end of one asks what others are open.
        found = []
        for row in self._store.open_runs():
            self._lives.take(row.job_uid)
            job = self._catalog.by_hash(row.job_uid, row.hash)
            if job is None:
                self._store.update_run(
                    row.run_id, status="failed", reason="lost", end_time=clock.now_ms(), error="its definition is gone"
                )
                continue
            found.append(self._take_up(row, job))
            yield
        for uid in {each.job_uid for each in found}:
            self._line.recover(uid)
        for each in found:
            self._lives.take(each.job_uid)
            if self._runs.find(each.run_id) is not each:
                continue  # another has taken its place
            if isinstance(each.state, run.Running):
                self._recover_running(each, each.state, held, same_launcher=same_launcher)
            elif self._quarantine.why(each.job_uid):
                self._lives.step(each, run.Withdraw(now=clock.now_ms(), reason="quarantined"))
            yield
        for uid in {each.job_uid for each in self._runs}:
            self._line.advance(uid, clock.now_ms())
        for each in list(self._runs):
            self._gates.judge(each, clock.now_ms())

    def _take_up(self, row: rows.RunRow, job: catalog.Job) -> open_runs.OpenRun:
        """Hold the run in memory again, as it was."""
        each = open_runs.OpenRun(
            row.run_id,
            row.job_uid,
            job.config,
            replace(job.terms, max_attempts=row.max_attempts),
            run.Queued(),
            row.slot,
            row.queued,
            row.request or {},
            row.trigger,
        )
        each.started = row.start_time
        each.deadline = None if row.slot is None else job.deadline(row.slot)
        each.caught_up = row.trigger == "catch_up"
        each.state = self._recovered_state(row, job)
        self._runs.keep(each)
        return each

    def _recovered_state(self, row: rows.RunRow, job: catalog.Job) -> run.State:
        first = row.start_time or row.queued
        if row.status == model.JobStatus.RUNNING.value:
            started = self._store.attempts(row.run_id)[-1].launched
            # What a person runs by hand may be of a disabled job.
            kept = self._store.job(row.job_uid)
            gone = kept is None or kept.removed is not None or (row.trigger != "manual" and not kept.enabled)
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
        self, each: open_runs.OpenRun, state: run.Running, held: set[tuple[int, int]], *, same_launcher: bool
    ) -> None:
        order = self._lives.order(each, state.attempt, run.timeout(state, state.started, each.terms))
        if why := self._quarantine.why(each.job_uid):
            each.state = replace(state, withdrawn=True)
            if (each.run_id, state.attempt) in held:
                self._lives.attempts.abandon(order)
            else:
                self._lives.attempts.lose(order, why)
        elif (each.run_id, state.attempt) in held:
            self._lives.attempts.adopt(order)
        elif same_launcher:
            left = run.timeout(state, clock.now_ms(), each.terms)  # it has not begun yet
            self._lives.attempts.launch(self._lives.order(each, state.attempt, left))
        else:
            self._lives.attempts.lose(order, "launcher or host went down under it; it may have run")
