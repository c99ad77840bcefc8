"""The store's jobs: their definitions, and what the schedule remembers of each.

Part of store.Store, which the supervisor holds; schedctl reads it while no daemon runs. A job's row outlives its
removal until retention has deleted its last run. Its tags and dependencies are kept beside it, to be found by, for as
long as it lives.
"""

from collections.abc import Iterable, Iterator
from typing import Any

from lnmt_scheduler.supervisor import rows, statements
from lnmt_scheduler.supervisor.statements import SQL

_SETTABLE = frozenset(
    {
        "given", "origins", "hash", "source", "owner", "enabled", "watermark", "next_slot", "last_success",
        "failing_since", "changed", "failures", "last_run",
    }
)  # fmt: skip
#: Where the ids that were another's are remembered.
RENAMED = "renamed:"
_job = rows.reader(rows.JobRow)
_pause = rows.reader(rows.Pause)


class Jobs(statements.Statements):
    def add_job(
        self,
        *,
        job_id: str,
        given: dict[str, Any],
        origins: dict[str, str],
        hash: str,  # noqa: A002 (the column's name)
        source: str,
        owner: int,
        enabled: bool,
        watermark: int,
        next_slot: int | None,
        added: int,
        dependencies: Iterable[str] = (),
        hooks: Iterable[tuple[str, str]] = (),
    ) -> int:
        """A new job's uid. Raises StoreError `conflict` if a living job has this id."""
        self._put_definition(hash, given)
        uid = self._insert(
            SQL["job.add"],
            job_id,
            source,
            owner,
            enabled,
            given.get("schedule") is not None,
            given.get("on_event"),
            watermark,
            next_slot,
            added,
            added,
            rows.encode("given", given),
            rows.encode("origins", origins),
            hash,
        )
        assert uid is not None  # the statement allows no conflict
        # A new uid has none yet, so there is nothing to clear: an import of many jobs feels that.
        self._add_tags(uid, job_id, given)
        self._add_dependencies(uid, dependencies)
        self._add_hooks(uid, hooks)
        return uid

    def update_job(
        self,
        uid: int,
        *,
        dependencies: Iterable[str] | None = None,
        hooks: Iterable[tuple[str, str]] | None = None,
        **columns: Any,
    ) -> None:
        """Set columns of a job. A new definition is `given` and `hash` together; its dependencies and hooks go with it.

        Raises TypeError for a name that is no column that may be set.
        """
        statements.check_columns(columns, _SETTABLE)
        digest = columns.pop("hash", None)
        given = columns.get("given")
        if (digest is None) != (given is None):
            raise TypeError("given and hash are set together")
        if digest is not None and given is not None:
            columns["scheduled"] = given.get("schedule") is not None
            columns["on_event"] = given.get("on_event")
            self._define(uid, digest, given)
        if dependencies is not None:
            self._set_dependencies(uid, dependencies)
        if hooks is not None:
            self._change(SQL["hooks.clear"], uid)
            self._add_hooks(uid, hooks)
        if columns:
            values = [rows.encode(name, value) for name, value in columns.items()]
            self._change(statements.update("jobs", ("uid",), tuple(columns)), *values, uid)

    def _define(self, uid: int, digest: str, given: dict[str, Any]) -> None:
        before = self._first(SQL["job.definition"], uid)
        if before is None:
            return
        self._put_definition(digest, given)
        self._change(SQL["job.define"], digest, uid)
        self._drop_definitions([before[0]])
        self._set_tags(uid, before[1], given)

    def _set_tags(self, uid: int, job_id: str, given: dict[str, Any]) -> None:
        self._change(SQL["tags.clear"], uid)
        self._add_tags(uid, job_id, given)

    def _add_tags(self, uid: int, job_id: str, given: dict[str, Any]) -> None:
        if tags := given.get("tags"):
            self._change_all(SQL["tags.add"], ((rows.text(tag), job_id, uid) for tag in tags))

    def _set_dependencies(self, uid: int, parents: Iterable[str]) -> None:
        self._change(SQL["dependencies.clear"], uid)
        self._add_dependencies(uid, parents)

    def _add_dependencies(self, uid: int, parents: Iterable[str]) -> None:
        if pairs := [(uid, parent) for parent in parents]:
            self._change_all(SQL["dependencies.add"], pairs)

    def _add_hooks(self, uid: int, hooks: Iterable[tuple[str, str]]) -> None:
        if triples := [(uid, key, target) for key, target in hooks]:
            self._change_all(SQL["hooks.add"], triples)

    def remove_job(self, uid: int, when: int) -> None:
        """The job lives no more; its id is free. Its history stays."""
        self._change(SQL["job.remove"], when, uid)
        for clear in ("tags.clear", "dependencies.clear", "hooks.clear", "arrivals.clear", "pauses.drop"):
            self._change(SQL[clear], uid)

    def rename_job(self, uid: int, old: str, job_id: str) -> None:
        """Give the job another id; its definition is the caller's to change. StoreError `conflict` if it is in use."""
        self._change(SQL["job.rename"], job_id, uid)
        self._change(SQL["tags.rename"], job_id, uid)
        self._change(SQL["meta.set"], f"{RENAMED}{old}", str(uid))
        self._change(SQL["meta.drop"], f"{RENAMED}{job_id}")

    def _forget_job(self, uid: int) -> None:
        """Drop the row of a removed job without history."""
        found = self._first(SQL["job.definition"], uid)
        if found is not None and self._change(SQL["job.forget"], uid):
            self._drop_definitions([found[0]])

    def put_definition(self, hash: str, given: dict[str, Any]) -> None:  # noqa: A002 (the column's name)
        """Keep a definition that no job has, for a run to refer to; add_job and update_job keep those of jobs."""
        self._put_definition(hash, given)

    def definition(self, hash: str) -> dict[str, Any] | None:  # noqa: A002 (the column's name)
        """What was given in the definition of this hash; None if nothing refers to it any more."""
        found = self._first(SQL["definition.get"], hash)
        return None if found is None else rows.decode("given", found[0])

    def job(self, uid: int) -> rows.JobRow | None:
        """The job of this uid, removed or not."""
        found = self._first(SQL["job.get"], uid)
        return None if found is None else _job(found)

    def job_by_id(self, job_id: str) -> rows.JobRow | None:
        """The living job of this id."""
        found = self._first(SQL["job.live"], job_id)
        return None if found is None else _job(found)

    def job_named(self, job_id: str) -> rows.JobRow | None:
        """The living job of this id, else the one that had it before it was renamed."""
        found = self.job_by_id(job_id)
        if found is None and (renamed := self._first(SQL["meta.get"], f"{RENAMED}{job_id}")) is not None:
            found = self.job(int(renamed[0]))
        return None if found is None or found.removed is not None else found

    def latest_uid(self, job_id: str) -> int | None:
        """uid of the living job of this id, else of the one that had it last and still has history."""
        found = self._first(SQL["job.latest"], job_id)
        return None if found is None else int(found[0])

    def jobs_page(
        self, after: str | None = None, limit: int = 200, *, tag: str | None = None, enabled: bool | None = None
    ) -> list[rows.JobRow]:
        """Living jobs by id, from the one after `after`."""
        start = after or ""
        match tag, enabled:
            case None, None:
                found = self._rows(SQL["jobs.page"], start, limit)
            case None, _:
                found = self._rows(SQL["jobs.page_enabled"], enabled, start, limit)
            case _, None:
                found = self._rows(SQL["jobs.page_tag"], tag, start, limit)
            case _:
                found = self._rows(SQL["jobs.page_tag_enabled"], tag, enabled, start, limit)
        return [_job(row) for row in found]

    def job_ids(self) -> Iterator[rows.Identity]:
        """Every living job, by id."""
        return map(rows.Identity._make, self._each(SQL["jobs.ids"]))

    def complete(self, prefix: str, limit: int = 200) -> list[str]:
        """Ids of living jobs that begin so."""
        # Ids are ASCII: U+FFFF comes after every one that begins with the prefix.
        return [job_id for (job_id,) in self._rows(SQL["jobs.complete"], prefix, f"{prefix}\uffff", limit)]

    def complete_events(self, prefix: str, limit: int = 200) -> list[str]:
        """Events that begin so and start a living job."""
        return [event for (event,) in self._rows(SQL["jobs.complete_events"], prefix, f"{prefix}\uffff", limit)]

    def schedule_rows(self) -> Iterator[rows.Scheduled]:
        """Every living, enabled job with a schedule: first those without a next slot, then by it."""
        return map(rows.Scheduled._make, self._each(SQL["jobs.schedule"]))

    def next_slots(self, limit: int) -> list[rows.Scheduled]:
        """The jobs that are due next, by when."""
        return list(map(rows.Scheduled._make, self._rows(SQL["jobs.next"], limit)))

    def dependents(self, job_id: str) -> list[str]:
        """Ids of the living jobs that depend on this one."""
        return [child for (child,) in self._rows(SQL["dependencies.children"], job_id)]

    def dependency_pairs(self) -> Iterator[tuple[str, str, bool]]:
        """(child, parent, whether the child has a schedule) of every dependency of living jobs."""
        return ((child, parent, bool(scheduled)) for child, parent, scheduled in self._each(SQL["dependencies.all"]))

    def after(self, job_id: str) -> list[int]:
        """uids of the living jobs without a schedule that depend on this one: its end may start them."""
        return [uid for (uid,) in self._rows(SQL["dependencies.after"], job_id)]

    def on_event(self, event: str) -> list[rows.JobRow]:
        """The living jobs that this event starts, by id."""
        return [_job(row) for row in self._rows(SQL["jobs.event"], event)]

    # Hooks.

    def hooks(self, job_uid: int) -> list[tuple[str, str]]:
        """(key, id of the job to start) of each hook of a job."""
        return [(key, target) for key, target in self._rows(SQL["hooks.of"], job_uid)]

    def hooked_by(self, job_id: str) -> list[str]:
        """Ids of the living jobs that have this one in a hook."""
        return [found for (found,) in self._rows(SQL["hooks.sources"], job_id)]

    def all_hooks(self) -> Iterator[rows.Hook]:
        """Every hook of living jobs."""
        return map(rows.Hook._make, self._each(SQL["hooks.all"]))

    # What has arrived from parents.

    def arrive(self, child_uid: int, parent_uid: int, run_id: int) -> None:
        """The parent's run has the result that the child waits for; it takes the place of an older one."""
        self._change(SQL["arrivals.put"], child_uid, parent_uid, run_id)

    def arrivals(self, child_uid: int) -> list[rows.Arrival]:
        """What has come from its parents since its last start."""
        return list(map(rows.Arrival._make, self._rows(SQL["arrivals.of"], child_uid)))

    def clear_arrivals(self, child_uid: int) -> None:
        """It starts, or what came so far is no longer its business."""
        self._change(SQL["arrivals.clear"], child_uid)

    # Pauses.

    def pause(self, pause: rows.Pause) -> None:
        """Keep a pause; it takes the place of an older one."""
        self._change(
            SQL["pauses.put"],
            pause.job_uid,
            pause.since,
            pause.until,
            pause.seconds,
            rows.text(pause.user),
            rows.encode("reason", pause.reason),
        )

    def resume(self, job_uid: int) -> None:
        """Its pause is over."""
        self._change(SQL["pauses.drop"], job_uid)

    def pauses(self) -> list[rows.Pause]:
        """All that there are."""
        return [_pause(row) for row in self._rows(SQL["pauses.all"])]

    def pause_of(self, job_uid: int) -> rows.Pause | None:
        """The pause of a job, or with 0 of the whole schedule."""
        found = self._first(SQL["pauses.get"], job_uid)
        return None if found is None else _pause(found)
