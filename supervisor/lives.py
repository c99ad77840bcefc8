"""Every change of a run goes one way: an event, run.step(), the new state into its row, then the actions.

The commit comes at the end of the loop's turn, and whatever others may see of it (a launch, an answer) is deferred until
after that. Here runs begin, too: the row first, then the place where it waits.
"""

from collections import deque
from collections.abc import Callable
from typing import Any

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import attempts, catalog, ending, journal, open_runs, run, store


class Lives:
    def __init__(self, history: store.Store, runs: open_runs.OpenRuns) -> None:
        self._store = history
        self._runs = runs
        #: Told whose job is in hand from here to the end of the turn.
        self.take: Callable[[int], None] = lambda _: None
        self.attempts: attempts.Attempts
        #: Called with each run that has ended, once its row says so.
        self.on_end: list[Callable[[open_runs.OpenRun, int], None]] = []
        #: Called last of all, with what its job has come to by it.
        self.on_standing: Callable[[open_runs.OpenRun, ending.Standing, int], None] = lambda *_: None
        #: Called with each run that is about to start for the first time.
        self.on_start: Callable[[open_runs.OpenRun], None] = lambda _: None
        #: What an attempt is told of the jobs that its own depends on.
        self.parents_of: Callable[[open_runs.OpenRun], dict[str, dict[str, Any]]] = lambda _: {}
        #: Ends whose consequences are still to come.
        self._ended: deque[tuple[open_runs.OpenRun, ending.Standing, int]] = deque()
        self._settling = False

    def begin(
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
        """Write the row of a new run and let it wait; its id, or 0 if the slot was decided before."""
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
        each = open_runs.OpenRun(run_id, job.uid, job.config, terms, state, slot, now, request or {}, trigger)
        each.deadline = None if slot is None else job.deadline(slot)
        each.caught_up = trigger == "catch_up"
        self._runs.keep(each)
        return run_id

    def step(self, each: open_runs.OpenRun, event: run.Event) -> None:
        """Let this happen to the run."""
        self.take(each.job_uid)
        before = each.state
        self._runs.touch(each)
        each.state, actions = run.step(before, event, each.terms)
        if type(each.state) is not type(before):
            self._leave(each, before)
            self._enter(each)
        for action in actions:
            self._act(each, action, event.now)

    def move(self, each: open_runs.OpenRun, by: int, now: int) -> None:
        """Let what the run waits for, and its times, go along with a clock that was set."""
        each.state = run.moved(each.state, by)
        changes: dict[str, Any] = {}
        match each.state:
            case run.Gated(until=until):
                if each.job.dependency_timeout is None and (row := self._store.job(each.job_uid)) and row.next_slot:
                    until = min(until, max(now, row.next_slot))  # the wait that the next slot ends
                    each.state = run.Gated(until=until)
                self._runs.gates.set(each.run_id, until)
                changes["gate_until"] = until
            case run.Backoff(until=until):
                self._runs.retries.set(each.run_id, until)
                changes["retry_at"] = until
            case run.InLine() | run.Queued() | run.Running() | run.Ended():
                pass
        if each.deadline is not None and each.run_id in self._runs.deadlines:
            each.deadline += by
            self._runs.deadlines.set(each.run_id, each.deadline)
        if each.started is not None:
            each.started += by
            changes["start_time"] = each.started
        if changes:
            self._store.update_run(each.run_id, **changes)

    def _leave(self, each: open_runs.OpenRun, before: run.State) -> None:
        """Take the run out of where its former state had it."""
        ended = isinstance(each.state, run.Ended)
        match before:
            case run.InLine() | run.Ended():
                pass
            case run.Gated():
                self._runs.gates.discard(each.run_id)
                self._runs.end_wait(each)
            case run.Queued(past=past):
                self._runs.backlog.remove(each.run_id)
                if ended and past is not None:
                    each.stored = self.attempts.finish_output(each.run_id, each.queued, each.job)
            case run.Backoff():
                self._runs.retries.discard(each.run_id)
                if ended:
                    each.stored = self.attempts.finish_output(each.run_id, each.queued, each.job)
            case run.Running():
                self._runs.leave(each)
                self._explain(each, before.attempt)
                each.stored = self.attempts.close(each.run_id, before.attempt, last=ended)

    def _explain(self, each: open_runs.OpenRun, attempt: int) -> None:
        """End the log of a run that has failed with what may help."""
        match each.state:
            case run.Ended(status=model.JobStatus.FAILED, reason=str(reason)) if each.facts is not None:
                each.facts = self.attempts.explain(each.run_id, attempt, reason, each.facts)

    def _enter(self, each: open_runs.OpenRun) -> None:
        """Write down the new state; what ends a run is written by Finish."""
        status = run.status_of(each.state).value
        match each.state:
            case run.Running(attempt=attempt, first_started=first):
                self._runs.begin(each)
                if each.started is None:
                    self.on_start(each)
                self._runs.deadlines.discard(each.run_id)
                each.started = first
                self._store.update_run(each.run_id, status=status, start_time=first, attempts=attempt, retry_at=None)
            case run.Queued():
                self._store.update_run(each.run_id, status=status, gate_until=None, retry_at=None)
            case run.Backoff(until=until):
                self._store.update_run(each.run_id, status=status, retry_at=until)
            case run.Gated(until=until):
                self._runs.wait_at_gate(each, until)
                self._store.update_run(each.run_id, gate_until=until)
            case run.InLine() | run.Ended():
                pass
        journal.debug(f"job {each.job.id} run {each.run_id}: {status}")
        tell(each, "state")

    def _act(self, each: open_runs.OpenRun, action: run.Action, now: int) -> None:
        match action:
            case run.Enqueue():
                self._runs.line_up(each, now)
            case run.Launch(attempt=attempt, timeout=timeout):
                self._store.add_attempt(each.run_id, attempt, now)
                self.attempts.launch(self.order(each, attempt, timeout))
            case run.EndAttempt(cause=cause, grace=grace):
                if isinstance(each.state, run.Running):
                    self.attempts.end(each.run_id, each.state.attempt, cause, grace)
            case run.RetryAt(at=at):
                self._runs.retries.set(each.run_id, at)
            case run.Finish(status=status, reason=reason):
                self._finish(each, status, reason, now)

    def order(self, each: open_runs.OpenRun, attempt: int, timeout: float | None) -> attempts.Order:
        """What the launcher is to be asked for."""
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
            parents=self.parents_of(each),
        )

    def _finish(self, each: open_runs.OpenRun, status: model.JobStatus, reason: str | None, now: int) -> None:
        self._runs.let_go(each)
        standing = ending.record(self._store, each, status, reason, now)
        self.attempts.defer(lambda: tell(each, "end"))
        self._ended.append((each, standing, now))
        if not self._settling:
            self._settle()

    def _settle(self) -> None:
        """What follows from ends, other ends included: one after the other, however long a line is that ends at one gate."""
        self._settling = True
        try:
            while self._ended:
                each, standing, now = self._ended.popleft()
                for call in self.on_end:
                    call(each, now)
                self.on_standing(each, standing, now)
        finally:
            self._settling = False
            self._ended.clear()


def tell(each: open_runs.OpenRun, what: str) -> None:
    """Tell those who watch the run."""
    for watcher in list(each.watchers):
        watcher(what)
