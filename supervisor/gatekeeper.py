"""Runs at their gates: what the jobs that a slot depends on have come to, and who waits for whom.

gates.judge() decides; here it is looked up what it is to decide by. A run that waits is judged again when one of its
parents has a new run or one that ended, and blocked for good when its time is over.
"""

from collections.abc import Iterator
from dataclasses import replace

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import attempts, catalog, clock, gates, lives, open_runs, rows, run, store

_DAY_MS = 86_400_000


class Gatekeeper:
    def __init__(
        self, history: store.Store, jobs: catalog.Catalog, runs: open_runs.OpenRuns, changes: lives.Lives
    ) -> None:
        self._store = history
        self._catalog = jobs
        self._runs = runs
        self._lives = changes

    def tell(self, job_uid: int, now: int) -> None:
        """This job has a new run, or one that ended: judge those who wait for it."""
        for each in self._runs.waiting_for(job_uid):
            self.judge(each, now)

    def judge(self, each: open_runs.OpenRun, now: int) -> None:
        """Ask a waiting run's parents again: one of them has a new run, or one that ended."""
        if not isinstance(each.state, run.Gated) or each.slot is None:
            return
        verdict = self.verdict(each.job, each.job_uid, each.slot, each.run_id)
        if verdict is None or verdict.answer == "open":
            self._lives.step(each, run.Opened(now=now))
        elif verdict.answer == "closed":
            self.block(each, verdict.why, now)

    def block(self, each: open_runs.OpenRun, why: str, now: int) -> None:
        """The gate stays shut, and why."""
        if each.slot is not None and why.startswith("its time"):
            verdict = self.verdict(each.job, each.job_uid, each.slot, each.run_id)
            why = f"{verdict.why}; {why}" if verdict is not None and verdict.why else why
        each.facts = attempts.Facts(error=why)
        self._lives.step(each, run.Blocked(now=now))

    def pass_on(self, each: open_runs.OpenRun, now: int) -> None:
        """A run that stood in line is next: it starts, waits at its gate, or finds it shut."""
        verdict = None if each.slot is None else self.verdict(each.job, each.job_uid, each.slot, each.run_id)
        if verdict is None or each.slot is None or verdict.answer == "open":
            self._lives.step(each, run.Turn(now=now, until=None))
        elif verdict.answer == "closed":
            self.block(each, verdict.why, now)
        else:
            until = self.until(each.job, each.job_uid, each.slot, now)
            self._lives.step(each, run.Turn(now=now, until=until))

    def close_overdue(self, now: int) -> None:
        """End the waits whose time is over."""
        while (first := self._runs.gates.first()) and first[0] <= now:
            self.block(self._runs[first[-1]], "its time to wait is over", now)

    def until(self, config: model.JobConfig, job_uid: int, slot: int, now: int) -> int:
        """How long a slot that comes to its gate now waits at most."""
        if config.dependency_timeout is not None:
            return max(slot, now) + round(config.dependency_timeout * 1000)
        job = self._catalog.get(job_uid)
        own_next = None if job is None or job.schedule is None else job.schedule.next_after(now)
        return min(own_next or now + _DAY_MS, now + _DAY_MS)

    def verdict(self, job: model.JobConfig, job_uid: int, slot: int, run_id: int | None = None) -> gates.Verdict | None:
        """What the job's parents say of this slot, whose row is `run_id` if it has one; None if it depends on nothing."""
        links = model.links(job.dependencies)
        return gates.judge(self._parents(links, job, job_uid, slot, run_id)) if links else None

    def _parents(
        self, links: list[tuple[str, str]], job: model.JobConfig, job_uid: int, slot: int, run_id: int | None
    ) -> Iterator[gates.Parent]:
        for job_id, when in links:
            parent = self._own(job_id, job_uid, run_id) if job_id == job.id else self._parent(job_id, slot)
            if parent is not None:
                yield replace(parent, when=when)

    def _own(self, job_id: str, job_uid: int, run_id: int | None) -> gates.Parent | None:
        """The job's run before this one, skips aside; None: this is the first."""
        previous = self._store.newest_unskipped(job_uid, run_id)
        return None if previous is None else _counted(job_id, previous, "previous run")

    def _parent(self, job_id: str, slot: int) -> gates.Parent:
        row = self._store.job_named(job_id)
        parent = None if row is None else self._catalog.get(row.uid)
        if row is None or parent is None:
            return gates.Parent(job_id=job_id, status="skipped", reason="removed")
        if parent.schedule is None:
            newest = self._store.newest_unskipped(row.uid)
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


def _counted(job_id: str, row: rows.RunRow, which: str) -> gates.Parent:
    return gates.Parent(
        job_id=job_id, status=row.status, reason=row.reason, exit_code=row.exit_code, attempts=row.attempts, run=which
    )
