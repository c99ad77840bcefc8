"""The rows of job definitions: what is written when one comes, changes or goes, and what follows from it for its runs.

Whether a change is wanted and holds water has been decided before (see: vetting, registry, planning). All of this is within the
caller's transaction, the audit row as well.
"""

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from lnmt_scheduler.ipc import control
from lnmt_scheduler.jobs import load, model
from lnmt_scheduler.supervisor import catalog, clock, dispatcher, rows, store, store_jobs
from lnmt_scheduler.supervisor.connection import RefusedError

#: Where a definition comes from; FILE with a path behind it.
CLI, API, FILE = "cli", "api", "file:"
#: Keys whose change makes the past none of the job's business: it is decided from now on.
_TIMING = ("schedule", "timezone", "dst")
#: Keys that say how long after its slot a job is due.
_OFFSET = ("jitter", "id")


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who asks for a change."""

    uid: int
    user: str


def find(history: store.Store, job_id: str) -> rows.JobRow:
    """The live job of this id; refused as not found, with its new name where it has one, if there is none."""
    row = history.job_by_id(job_id)
    if row is None:
        renamed = history.job_named(job_id)
        hint = "see: schedctl list" if renamed is None else f"it is {renamed.job_id!r} now"
        raise RefusedError(control.NOT_FOUND, f"no job {job_id!r}; {hint}")
    return row


class Definitions:
    def __init__(self, history: store.Store, jobs: catalog.Catalog, runs: dispatcher.Dispatcher) -> None:
        self._store = history
        self._catalog = jobs
        self._runs = runs
        #: Counts what is written: a plan takes several turns to make, and holds for what it began with.
        self.changes = 0
        #: A change of many jobs is under way, and no other may come between.
        self.closed = False

    def check_open(self) -> None:
        if self.closed:
            raise RefusedError(control.FAILED, "a change of many jobs is under way; try again when it is done")

    def check_unchanged(self, since: int) -> None:
        """Refused if jobs were changed since the count of changes was this, or are being changed."""
        self.check_open()
        if since != self.changes:
            raise RefusedError(control.FAILED, "jobs were changed in between and nothing was taken; try again")

    def insert(self, definition: load.Definition, source: str, who: Who) -> None:
        uid, upcoming = self.put(definition, source, who)
        if definition.config.enabled:
            self._runs.slots.set_schedule(uid, upcoming)

    def put(self, definition: load.Definition, source: str, who: Who) -> tuple[int, int | None]:
        """A new job's row: its uid, and when it is due."""
        self.changes += 1
        now = clock.now_ms()
        upcoming = self.next_slot(definition, now)
        uid = self._store.add_job(
            job_id=definition.config.id,
            given=definition.given,
            origins=definition.origins,
            hash=definition.hash,
            source=source,
            owner=who.uid,
            enabled=definition.config.enabled,
            watermark=now,
            next_slot=upcoming,
            added=now,
            dependencies=catalog.parents(definition.config),
            hooks=model.hooks(definition.config),
        )
        return uid, upcoming

    def replace(self, row: rows.JobRow, definition: load.Definition, source: str) -> None:
        self.changes += 1
        now = clock.now_ms()
        changes: dict[str, Any] = {}
        if any(row.given.get(key) != definition.given.get(key) for key in _TIMING):
            self._runs.slots.decide_due(row.uid)
            changes = {"watermark": now, "next_slot": self.next_slot(definition, now)}
        self._store.update_job(
            row.uid,
            given=definition.given,
            origins=definition.origins,
            hash=definition.hash,
            source=source,
            changed=now,
            dependencies=catalog.parents(definition.config),
            hooks=model.hooks(definition.config),
            **changes,
        )
        self._catalog.forget(row.uid)
        if any(row.given.get(key) != definition.given.get(key) for key in ("schedule", "dependencies")):
            self._store.clear_arrivals(row.uid)  # results from before are none of its business
        if changes and row.enabled:
            self._runs.slots.set_schedule(row.uid, changes["next_slot"])
        elif row.enabled and any(row.given.get(key) != definition.given.get(key) for key in _OFFSET):
            self._runs.slots.set_schedule(row.uid, row.next_slot)  # by then it is asked how long after that
        # What a person set by hand stays, unless the definition itself changes its mind.
        before, after = row.given.get("enabled", True), definition.config.enabled
        if after not in (before, row.enabled):
            self.set_enabled(dataclasses.replace(row, **changes), on=after)

    def set_enabled(self, row: rows.JobRow, *, on: bool) -> None:
        self._store.clear_arrivals(row.uid)
        self._runs.slots.decide_due(row.uid)
        self._store.update_job(row.uid, enabled=on)
        if on:
            now = clock.now_ms()
            job = self._catalog.get(row.uid)
            upcoming = job.schedule.next_after(now) if job is not None and job.schedule is not None else None
            self._store.update_job(row.uid, watermark=now, next_slot=upcoming)
            self._runs.slots.set_schedule(row.uid, upcoming)
        else:
            self._runs.slots.set_schedule(row.uid, None)
            self._runs.withdraw(row.uid, "disabled")

    def delete(self, row: rows.JobRow) -> None:
        self.changes += 1
        self._runs.slots.decide_due(row.uid)
        self._runs.slots.set_schedule(row.uid, None)
        self._runs.withdraw(row.uid, "removed")
        self._store.remove_job(row.uid, clock.now_ms())
        self._runs.pauses.reread()
        self._store.meta_drop(f"{store_jobs.RENAMED}{row.job_id}")
        self._catalog.forget(row.uid)

    def next_slot(self, definition: load.Definition, now: int) -> int | None:
        planned = self._catalog.schedule(definition.config)
        return None if planned is None else planned.next_after(now)

    def audit(
        self,
        who: Who,
        action: str,
        target: str,
        before: Mapping[str, Any] | None = None,
        after: Mapping[str, Any] | None = None,
    ) -> None:
        self._store.audit_add(
            time=clock.now_ms(), uid=who.uid, user=who.user, action=action, target=target, before=before, after=after
        )
