"""The runs that have not ended: each in memory once, and in the place where its state has it wait.

What waits for a place is in the backlog, what waits for other jobs or for its next attempt in a heap of times, and what
runs in a set. The store has all of this too, in the rows of the runs; a supervisor that starts fills the places from there.
Nothing here decides or writes.
"""

import contextlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import attempts, backlog, catalog, heap, run, store


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
    #: Why it was decided, a word of the row.
    trigger: str = "schedule"
    facts: attempts.Facts | None = None
    started: int | None = None
    #: While it waits at its gate: uids of the jobs that it waits for.
    waits_for: tuple[int, ...] = ()
    #: Until when it must have started; None: whenever there is a place.
    deadline: int | None = None
    #: Its slot had been missed.
    caught_up: bool = False
    #: Bytes of its output on disk, once it has ended.
    stored: int = 0
    #: Called with what has happened: "life", "state" or "end".
    watchers: list[Callable[[str], None]] = field(default_factory=list)


class OpenRuns:
    def __init__(self, history: store.Store, aging: float, wake: Callable[[], None]) -> None:
        """`wake` is called when a run has come into the backlog."""
        self._store = history
        self._wake = wake
        self.backlog = backlog.Backlog(aging)
        #: When the waits at gates are over, and when retries are due.
        self.gates = heap.LazyHeap()
        self.retries = heap.LazyHeap()
        #: Until when those that have not started must have done so.
        self.deadlines = heap.LazyHeap()
        self.running: set[int] = set()
        #: How many of them each pool has.
        self.in_pool: Counter[str] = Counter()
        self._open: dict[int, OpenRun] = {}
        self._by_job: dict[int, set[int]] = {}
        self._waiting_for: dict[int, set[int]] = {}
        #: Within undoable(): runs that were touched, and what they were before; None: they were not.
        self._touched: dict[int, tuple[OpenRun, run.State | None]] | None = None

    def __iter__(self) -> Iterator[OpenRun]:
        return iter(self._open.values())

    def __contains__(self, run_id: int) -> bool:
        return run_id in self._open

    def __getitem__(self, run_id: int) -> OpenRun:
        return self._open[run_id]

    def find(self, run_id: int) -> OpenRun | None:
        """The run, while it has not ended."""
        return self._open.get(run_id)

    def active(self, job_uid: int) -> list[OpenRun]:
        """The job's open runs, oldest first."""
        return [self._open[run_id] for run_id in sorted(self._by_job.get(job_uid, ()))]

    def waiting_for(self, job_uid: int) -> list[OpenRun]:
        """The runs that wait at their gate for this job."""
        return [self._open[run_id] for run_id in self._waiting_for.get(job_uid, ())]

    def counts(self) -> dict[str, int]:
        states = [run.status_of(each.state) for each in self._open.values()]
        return {
            "running": len(self.running),
            "queued": states.count(model.JobStatus.PENDING),
            "retrying": states.count(model.JobStatus.RETRYING),
        }

    def keep(self, each: OpenRun) -> None:
        """Hold an open run in memory, at the place that its state says."""
        if self._touched is not None:
            self._touched.setdefault(each.run_id, (each, None))
        self._open[each.run_id] = each
        self._by_job.setdefault(each.job_uid, set()).add(each.run_id)
        if each.deadline is not None and run.status_of(each.state) is model.JobStatus.PENDING:
            self.deadlines.set(each.run_id, each.deadline)
        match each.state:
            case run.Gated(until=until):
                self.wait_at_gate(each, until)
            case run.Queued():
                self.line_up(each, each.queued)
            case run.Backoff(until=until):
                self.retries.set(each.run_id, until)
            case run.Running():
                self.begin(each)
            case run.InLine() | run.Ended():
                pass

    def line_up(self, each: OpenRun, now: int) -> None:
        """Let the run wait for a place, from now on."""
        self.backlog.push(
            each.run_id,
            int(each.job.priority),
            each.slot or each.queued,
            now,
            pool=each.job.pool,
            caught_up=each.caught_up and run.attempt_of(each.state) == 1,
        )
        self._wake()

    def let_go(self, each: OpenRun) -> None:
        """Take the run out of every place that keep() may have put it."""
        self._open.pop(each.run_id, None)
        self._by_job.get(each.job_uid, set()).discard(each.run_id)
        if not self._by_job.get(each.job_uid):
            self._by_job.pop(each.job_uid, None)
        self.gates.discard(each.run_id)
        self.retries.discard(each.run_id)
        self.deadlines.discard(each.run_id)
        self.leave(each)
        if each.run_id in self.backlog:
            self.backlog.remove(each.run_id)
        self.end_wait(each)

    def begin(self, each: OpenRun) -> None:
        """The run takes a place."""
        if each.run_id not in self.running:
            self.running.add(each.run_id)
            self.in_pool.update([each.job.pool] if each.job.pool is not None else [])

    def leave(self, each: OpenRun) -> None:
        """The run gives its place back, if it has one."""
        if each.run_id in self.running:
            self.running.discard(each.run_id)
            self.in_pool.subtract([each.job.pool] if each.job.pool is not None else [])

    def end_wait(self, each: OpenRun) -> None:
        """The run waits for no job any more."""
        for uid in each.waits_for:
            waiting = self._waiting_for[uid]
            waiting.discard(each.run_id)
            if not waiting:
                del self._waiting_for[uid]
        each.waits_for = ()

    def wait_at_gate(self, each: OpenRun, until: int) -> None:
        """The run waits for the jobs that it depends on, at most until then."""
        self.gates.set(each.run_id, until)
        parents = map(self._store.job_named, catalog.parents(each.job))
        # Kept as uids: until the wait ends, an id may have gone to another job.
        each.waits_for = tuple(row.uid for row in parents if row is not None)
        for uid in each.waits_for:
            self._waiting_for.setdefault(uid, set()).add(each.run_id)

    def touch(self, each: OpenRun) -> None:
        """The run is about to become another: undoable() must know what it was."""
        if self._touched is not None:
            self._touched.setdefault(each.run_id, (each, each.state))

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
                self.let_go(each)
                if before is not None:
                    each.state = before
                    self.keep(each)
            raise
        finally:
            self._touched = None
