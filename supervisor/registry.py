"""Changes of one job that somebody asks for, and the audit row of each. (Of many at once: see planning and bulk.)

Definitions have one source each, and what a file defines is changed in that file.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from typing import Any

from lnmt_scheduler.ipc import control
from lnmt_scheduler.jobs import load, model
from lnmt_scheduler.supervisor import clock, definitions, dispatcher, pauses, rows, run, store, vetting
from lnmt_scheduler.supervisor import purge as purging
from lnmt_scheduler.supervisor.connection import RefusedError
from lnmt_scheduler.supervisor.definitions import FILE, Who

#: What the audit calls the target of a pause of all jobs.
_SCHEDULE = "the schedule"


class Registry:
    def __init__(
        self,
        history: store.Store,
        runs: dispatcher.Dispatcher,
        written: definitions.Definitions,
        rules: vetting.Vetting,
    ) -> None:
        self._store = history
        self._runs = runs
        self._definitions = written
        self._vetting = rules

    def add(self, values: Mapping[str, Any], source: str, who: Who) -> rows.JobRow:
        self._definitions.check_open()
        definition = self._vetting.check(values, source)
        job_id = definition.config.id
        if self._store.job_by_id(job_id) is not None:
            raise RefusedError(
                control.INVALID, f"job {job_id!r} is there already; change it with: schedctl edit {job_id}"
            )
        self._vetting.check_links(definition)
        self._definitions.insert(definition, source, who)
        self._definitions.audit(who, "add", job_id, None, definition.given)
        return definitions.find(self._store, job_id)

    def edit(self, job_id: str, changes: Mapping[str, Any], unset: Iterable[str], who: Who) -> rows.JobRow:
        self._definitions.check_open()
        row = self._own(job_id)
        # Defaults of a file that was imported are the job's own by now; those of the site are looked up anew. But no edit
        # of something else moves a job into another box.
        own = {
            key: value
            for key, value in row.given.items()
            if key == "sandbox" or row.origins.get(key) != load.SITE_DEFAULTS
        }
        values = {**own, **changes}
        for key in unset:
            values.pop(key, None)
        if values.get("id", job_id) != job_id:
            raise RefusedError(control.INVALID, "the id of a job cannot be edited")
        definition = self._vetting.check({**values, "id": job_id}, row.source)
        if "sandbox" not in {*changes, *unset}:
            definition = _with_origin(definition, "sandbox", row.origins.get("sandbox"))
        self._vetting.check_links(definition)
        self._definitions.replace(row, definition, row.source)
        now = definitions.find(self._store, job_id)
        if "enabled" in changes and now.enabled != definition.config.enabled:
            self._definitions.set_enabled(now, on=definition.config.enabled)  # said outright, it is more than a default
        self._definitions.audit(who, "edit", job_id, row.given, definition.given)
        return definitions.find(self._store, job_id)

    def remove(self, job_id: str, who: Who, *, purge: bool) -> int:
        """Remove the job, and return its uid; with `purge` it is decided that all it has left is to go too."""
        self._definitions.check_open()
        row = self._own(job_id)
        dependents = [other for other in self._store.dependents(job_id) if other != job_id]
        if dependents:
            raise RefusedError(
                control.INVALID, f"{', '.join(sorted(dependents)[:10])} depend on {job_id!r}; remove them first"
            )
        if hooking := [other for other in self._store.hooked_by(job_id) if other != job_id]:
            raise RefusedError(
                control.INVALID, f"{', '.join(hooking[:10])} start {job_id!r} by a hook; change them first"
            )
        running = [each.run_id for each in self._runs.active(row.uid) if isinstance(each.state, run.Running)]
        if purge and running:
            raise RefusedError(
                control.FAILED, f"run {running[0]} of {job_id!r} has not ended; cancel it first, then purge"
            )
        self._definitions.delete(row)
        self._definitions.audit(who, "purge" if purge else "remove", job_id, row.given, None)
        if purge:
            purging.decide(self._store, row.uid)
        return row.uid

    def enable(self, job_id: str, who: Who, *, on: bool) -> rows.JobRow:
        """Runtime state: it survives reload, also of a job that a file defines."""
        row = definitions.find(self._store, job_id)
        if on and self._runs.quarantine.release(row.uid):
            self._definitions.audit(who, "release", job_id, {"quarantined": True}, {"quarantined": False})
        if row.enabled != on:
            self._definitions.set_enabled(row, on=on)
            self._definitions.audit(
                who, "enable" if on else "disable", job_id, {"enabled": row.enabled}, {"enabled": on}
            )
        return definitions.find(self._store, job_id)

    def rename(self, job_id: str, new_id: str, who: Who) -> tuple[rows.JobRow, list[str]]:
        """The job by its new id, and the jobs that named it and now name that; its history stays with it."""
        self._definitions.check_open()
        row = self._own(job_id)
        try:
            load.canonical("id", new_id)
        except ValueError as error:
            raise RefusedError(control.INVALID, str(error)) from None
        if self._store.job_by_id(new_id) is not None:
            raise RefusedError(control.INVALID, f"job {new_id!r} is there already")
        naming = sorted({*self._store.dependents(job_id), *self._store.hooked_by(job_id)} - {job_id})
        others = [definitions.find(self._store, other) for other in naming]
        if fixed := [other for other in others if other.source.startswith(FILE)]:
            paths = ", ".join(f"{other.job_id} ({other.source.removeprefix(FILE)})" for other in fixed[:10])
            raise RefusedError(control.INVALID, f"{job_id!r} is named by jobs of files: {paths}; change these first")
        self._runs.slots.decide_due(row.uid)
        self._store.rename_job(row.uid, job_id, new_id)
        for other in (row, *others):
            arrivals = self._store.arrivals(other.uid)
            self._definitions.replace(other, _renamed(other, job_id, new_id), other.source)
            for arrival in arrivals:  # the jobs are the same
                self._store.arrive(other.uid, *arrival)
        self._definitions.audit(who, "rename", job_id, {"id": job_id}, {"id": new_id, "followed": naming})
        renamed = definitions.find(self._store, new_id)
        # A schedule with H in it is another under another name.
        upcoming = self._definitions.next_slot(_renamed(row, job_id, new_id), renamed.watermark)
        if renamed.next_slot not in (None, upcoming):
            now = max(clock.now_ms(), renamed.watermark)
            upcoming = self._definitions.next_slot(_renamed(row, job_id, new_id), now)
            self._store.update_job(row.uid, watermark=now, next_slot=upcoming)
            if row.enabled:
                self._runs.slots.set_schedule(row.uid, upcoming)
        return definitions.find(self._store, new_id), naming

    def pause(self, job_id: str | None, seconds: float | None, reason: str | None, who: Who) -> rows.Pause:
        """Hold back a job, or the whole schedule, for so long, or until it is resumed."""
        uid = pauses.SCHEDULE if job_id is None else definitions.find(self._store, job_id).uid
        now = clock.now_ms()
        until = None if seconds is None else now + round(seconds * 1000)
        pause = rows.Pause(uid, now, until, seconds, who.user, reason)
        self._runs.slots.pause(pause)
        self._definitions.audit(who, "pause", job_id or _SCHEDULE, None, {"for": seconds, "reason": reason})
        return pause

    def resume(self, job_id: str | None, who: Who) -> rows.Pause | None:
        """Let it start by itself again; the pause that is over, or None if there was none."""
        uid = pauses.SCHEDULE if job_id is None else definitions.find(self._store, job_id).uid
        pause = self._runs.slots.resume(uid, clock.now_ms())
        if pause is not None:
            self._definitions.audit(who, "resume", job_id or _SCHEDULE)
        return pause

    def trigger(self, event: str, data: Any, who: Who) -> list[int]:
        """Start what this event starts; the rows of that. Refused if no job names it."""
        run_ids = self._runs.triggers.fire(event, data, by=who.user, now=clock.now_ms())
        if not run_ids:
            raise RefusedError(control.NOT_FOUND, f"no job has on_event {event!r}")
        self._definitions.audit(who, "trigger", event, None, {"runs": run_ids})
        return run_ids

    def audit_run(self, who: Who, action: str, target: str, after: Mapping[str, Any] | None = None) -> None:
        self._definitions.audit(who, action, target, None, after)

    def _own(self, job_id: str) -> rows.JobRow:
        row = definitions.find(self._store, job_id)
        if row.source.startswith(FILE):
            path = row.source.removeprefix(FILE)
            raise RefusedError(
                control.INVALID, f"job {job_id!r} is defined in {path}; change that file, then: schedctl reload"
            )
        return row


def _renamed(row: rows.JobRow, old: str, new: str) -> load.Definition:
    """The definition with the new id in all places where it has the old one."""
    given = dict(row.given)
    if given["id"] == old:
        given["id"] = new
        if given.get("name") == old:
            given["name"] = new
    if "dependencies" in given:
        given["dependencies"] = [
            {**each, "job": new} if isinstance(each, dict) and each["job"] == old else new if each == old else each
            for each in given["dependencies"]
        ]
    for key in model.HOOKS:
        if key in given:
            given[key] = [new if target == old else target for target in given[key]]
    return load.from_given(given, row.origins)


def _with_origin(definition: load.Definition, key: str, origin: str | None) -> load.Definition:
    """The same with another word of where this key's value comes from; None: it is built in."""
    others = {name: word for name, word in definition.origins.items() if name != key}
    return dataclasses.replace(definition, origins=others if origin is None else {**others, key: origin})
