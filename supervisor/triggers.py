"""Runs that no schedule asks for: those of events, those that the end of another job's run starts, and those after jobs.

An event starts the jobs that name it. A hook of a job starts another one at the end of a run (hooks.py says which), once
for each such run: the row of the run that ended and the row of the run that it starts are one transaction, so that no
death of the daemon loses or doubles it, and what is started while another run of its job has not ended waits in line. A
job without a schedule that depends on others starts once each of them has come to what it asks for since its own last
start; what has come so far is in the store (`arrivals`), and is used up when it starts.

Whatever is asked for and does not start has a row that says why: the job is paused, off, in quarantine, or at work.
"""

from typing import Any

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import (
    catalog,
    ending,
    gates,
    hooks,
    journal,
    line,
    lives,
    notices,
    open_runs,
    overlap,
    parents,
    pauses,
    quarantine,
    run,
    store,
)


class Triggers:
    def __init__(
        self,
        history: store.Store,
        jobs: catalog.Catalog,
        runs: open_runs.OpenRuns,
        changes: lives.Lives,
        queue: line.Line,
        held_back: quarantine.Quarantine,
        paused: pauses.Pauses,
    ) -> None:
        self._store = history
        self._catalog = jobs
        self._runs = runs
        self._lives = changes
        self._line = queue
        self._quarantine = held_back
        self._pauses = paused
        #: Whom the ends of runs are told, besides what jobs name themselves.
        self.notify = notices.Notify()
        changes.on_standing = self._on_end
        changes.on_start = self._on_start
        changes.parents_of = self._parents_of

    # Events.

    def fire(self, event: str, data: Any, *, by: str, now: int) -> list[int]:
        """Start the jobs that this event starts; the run that each gets, or the row that says why it gets none."""
        found = (self._catalog.get(row.uid) for row in self._store.on_event(event))
        return [self._on_event(job, event, data, by=by, now=now) for job in found if job is not None]

    def _on_event(self, job: catalog.Job, event: str, data: Any, *, by: str, now: int) -> int:
        request = {"event": data}
        if (skip := self._held(job, now)) is not None:
            return self._skip(job, "event", request, *skip, now=now, by=by)
        place = self._line.judge(job, caught_up=False)
        if place.answer == "skip":
            return self._skip(job, "event", request, place.reason, place.why, now=now, by=by)
        state = run.InLine() if place.answer == "line" else run.Queued()
        run_id = self._begin(job, "event", request, state, now=now, by=by)
        self._line.displace(place, f"event {event}", now)
        self._line.advance(job.uid, now)
        return run_id

    # Hooks.

    def _hook(self, each: open_runs.OpenRun, standing: ending.Standing, now: int) -> None:
        asked = hooks.asked(each.job, standing, now)
        has_output = each.facts is not None and each.facts.output_bytes > 0
        told = notices.asked(
            each.job, standing.status, self.notify, is_change=standing.is_change, has_output=has_output
        )
        row = self._store.run(each.run_id) if asked or told else None
        if row is None:
            return
        for target, key in (told | asked).items():
            found = self._store.job_named(target) or self._store.job_named(notices.target_of(target))
            job = None if found is None else self._catalog.get(found.uid)
            if job is None:
                journal.warning(f"job {each.job.id}: {key} names {target!r}, which is gone")
                continue
            request = {"event": hooks.facts(row, key, standing)}
            if notices.is_notice(job.config):
                request["event"] |= self._for_people(each, key, standing)
            if (skip := self._held(job, now)) is not None:
                self._skip(job, "hook", request, *skip, now=now)
            elif self._waiting(job.uid) >= overlap.LINE:
                why = f"{overlap.LINE} runs of it wait in line already"
                self._skip(job, "hook", request, "coalesced", why, now=now)
            else:
                self._begin(job, "hook", request, run.InLine(), now=now)
                self._line.advance(job.uid, now)

    def _for_people(self, each: open_runs.OpenRun, key: str, standing: ending.Standing) -> dict[str, Any]:
        """What a notice has besides: the end of the output, and to whom it goes."""
        limit = notices.MAIL_TAIL if key == "mailto" else notices.TAIL
        found: dict[str, Any] = {"output": self._lives.attempts.tail(each.run_id, each.queued, limit)}
        if standing.is_change:
            found["is_change"] = True
        if key == "mailto":
            found["to"] = [each.job.mailto]
        return found

    def _waiting(self, job_uid: int) -> int:
        return sum(isinstance(each.state, run.InLine) for each in self._runs.active(job_uid))

    # Jobs that come after others.

    def _arrive(self, each: open_runs.OpenRun, status: model.JobStatus, now: int) -> None:
        """The jobs without a schedule that depend on this one have a result more, if it is what they ask for."""
        parent = self._store.job(each.job_uid)
        if parent is None or parent.removed is not None or status is model.JobStatus.SKIPPED:
            return
        for uid in self._store.after(parent.job_id):
            job = self._catalog.get(uid)
            when = None if job is None else dict(model.links(job.config.dependencies)).get(parent.job_id)
            if when is not None and gates.satisfies(status, when):
                self._store.arrive(uid, each.job_uid, each.run_id)
                self._start_after(uid, now)

    def _start_after(self, uid: int, now: int) -> None:
        """Start the job if it comes after others and all of them have come to what it asks for."""
        job, row = self._catalog.get(uid), self._store.job(uid)
        if job is None or row is None or not catalog.is_after(job.config) or not self._is_complete(job):
            return
        if not row.enabled:
            self._store.clear_arrivals(uid)
        elif (skip := self._held(job, now)) is not None:
            self._store.clear_arrivals(uid)
            self._skip(job, "dependency", {}, *skip, now=now)
        elif any(each.trigger == "dependency" and each.started is None for each in self._runs.active(uid)):
            pass  # what has come is in time for that one
        elif (place := self._line.judge(job, caught_up=False)).answer == "start":
            self._begin(job, "dependency", {"parents": self._arrived(job)}, run.Queued(), now=now)
            self._line.displace(place, "a newer result of each parent", now)
        # Else it is at work, and looked at again when that is over.

    def _is_complete(self, job: catalog.Job) -> bool:
        return self._arrived(job).keys() == set(catalog.parents(job.config))

    def _arrived(self, job: catalog.Job) -> dict[str, int]:
        """Id of each parent that has come to what the job asks for -> the run by which it did."""
        arrivals = dict(self._store.arrivals(job.uid))
        found = {}
        for name in catalog.parents(job.config) if arrivals else ():
            parent = self._store.job_named(name)
            if parent is not None and parent.uid in arrivals:
                found[name] = arrivals[parent.uid]
        return found

    # Starts and ends.

    def _on_start(self, each: open_runs.OpenRun) -> None:
        """Settle which runs of its parents it builds on; what has come up to now is used up by it."""
        if not each.job.dependencies:
            return
        if found := self._building_on(each):
            each.request = {**each.request, "parents": found}
            self._store.update_run(each.run_id, request=each.request)
        if catalog.is_after(each.job):
            self._store.clear_arrivals(each.job_uid)

    def _building_on(self, each: open_runs.OpenRun) -> dict[str, int]:
        found = {}
        if each.trigger == "dependency":
            # What it was begun for, and what has come since.
            job = self._catalog.get(each.job_uid)
            found = {**each.request.get("parents", {}), **({} if job is None else self._arrived(job))}
        for parent in catalog.parents(each.job):
            if parent not in found and (run_id := self._run_of(parent, each)) is not None:
                found[parent] = run_id
        return {parent: found[parent] for parent in catalog.parents(each.job) if parent in found}

    def _run_of(self, parent: str, each: open_runs.OpenRun) -> int | None:
        """The run of this parent that counts for a slot, or else its last one that is over."""
        if parent == each.job.id:
            previous = self._store.newest_unskipped(each.job_uid, each.run_id)
            return None if previous is None else previous.run_id
        job = self._store.job_named(parent)
        if job is None:
            return None
        if each.slot is None or job.given.get("schedule") is None:
            return job.last_run
        counted = self._store.newest_slot_row(job.uid, each.slot)
        return None if counted is None else counted.run_id

    def _parents_of(self, each: open_runs.OpenRun) -> dict[str, dict[str, Any]]:
        return parents.told(self._store, each.request.get("parents", {}))

    def _on_end(self, each: open_runs.OpenRun, standing: ending.Standing, now: int) -> None:
        self._hook(each, standing, now)
        self._arrive(each, standing.status, now)
        if each.trigger == "dependency" and each.started is None:
            self._store.clear_arrivals(each.job_uid)  # somebody did not want it to start on these
        if catalog.is_after(each.job):
            self._start_after(each.job_uid, now)

    # Rows.

    def _held(self, job: catalog.Job, now: int) -> tuple[str, str] | None:
        """Why nothing of this job may start by itself: the reason and a sentence."""
        if why := self._quarantine.why(job.uid):
            return "quarantined", why
        row = self._store.job(job.uid)
        if row is not None and not row.enabled:
            return "disabled", "its job is disabled"
        if (pause := self._pauses.of(job.uid, now)) is not None:
            return "paused", pauses.words(pause)
        return None

    def _begin(
        self,
        job: catalog.Job,
        trigger: str,
        request: dict[str, Any],
        state: run.State,
        *,
        now: int,
        by: str | None = None,
    ) -> int:
        return self._lives.begin(
            job, job.terms, state, slot=None, trigger=trigger, now=now, request=request or None, by=by
        )

    def _skip(
        self,
        job: catalog.Job,
        trigger: str,
        request: dict[str, Any],
        reason: str,
        why: str,
        *,
        now: int,
        by: str | None = None,
    ) -> int:
        run_id = self._store.add_run(
            job_uid=job.uid,
            job_id=job.config.id,
            slot=None,
            trigger=trigger,
            status=model.JobStatus.SKIPPED.value,
            reason=reason,
            priority=int(job.config.priority),
            queued=now,
            end_time=now,
            hash=job.hash,
            error=why,
            request=request or None,
            requested_by=by,
        )
        assert run_id is not None  # only slots can have been decided before
        return run_id
