"""Changes of job definitions: who may define what, what follows from it, and the audit row.

Definitions have one source each. Files (jobs.d, --jobs) are desired state: a reload adds, changes and removes what they
name and nothing else. `add`, `import` and the Python API make jobs of their own, which a reload leaves alone. A change is
planned as a whole before any of it is written, and written within one transaction.
"""

import dataclasses
import gc
import json
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from lnmt_scheduler.ipc import control
from lnmt_scheduler.jobs import load, model
from lnmt_scheduler.supervisor import (
    catalog,
    clock,
    config,
    dispatcher,
    notices,
    pauses,
    rows,
    run,
    store,
    store_jobs,
    views,
)
from lnmt_scheduler.supervisor import purge as purging
from lnmt_scheduler.supervisor.connection import RefusedError

CLI, API, FILE = "cli", "api", "file:"
#: What the audit calls the target of a pause of all jobs.
_SCHEDULE = "the schedule"
#: Jobs that are checked in one go.
_SLICE = 20
#: Keys whose change makes the past none of the job's business: it is decided from now on.
_TIMING = ("schedule", "timezone", "dst")


@dataclass(frozen=True, slots=True, kw_only=True)
class Who:
    """Who asks for a change."""

    uid: int
    user: str


@dataclass(frozen=True, slots=True)
class Document:
    """A job file's content, and where it comes from."""

    #: What messages call it: the file's name as it was given.
    label: str
    #: What its jobs are recorded to come from: CLI, API, or FILE with a path.
    source: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Change:
    """What becomes of one job."""

    action: str
    job_id: str
    before: Mapping[str, Any] | None = None
    after: Mapping[str, Any] | None = None

    def diff(self) -> list[str]:
        """Lines for people: `- key: old`, `+ key: new`. Of a secret they say that it changes, and not what it is."""
        before, after = self.before or {}, self.after or {}
        old, new = views.mask_definition(before), views.mask_definition(after)
        lines = []
        for key in dict.fromkeys([*old, *new]):
            if before.get(key) != after.get(key):
                lines += [f"- {key}: {json.dumps(old[key])}"] if key in old else []
                lines += [f"+ {key}: {json.dumps(new[key])}"] if key in new else []
        return lines


@dataclass(slots=True)
class Plan:
    """A change of many jobs, checked and ready to be written."""

    added: list[tuple[load.Definition, str]] = field(default_factory=list)
    changed: list[tuple[rows.Identity, load.Definition, str]] = field(default_factory=list)
    removed: list[rows.Identity] = field(default_factory=list)
    unchanged: int = 0
    #: The registry's count of changes that it was made at.
    basis: int = 0

    @property
    def size(self) -> int:
        """How many jobs it changes."""
        return len(self.added) + len(self.changed) + len(self.removed)

    def steps(self) -> Iterator[rows.Planned]:
        """What becomes of each job, in an order in which no job lacks its parents."""
        for definition, source in self.added:
            yield _planned("add", definition, source)
        for _, definition, source in self.changed:
            yield _planned("change", definition, source)
        for key in self.removed:
            yield rows.Planned(action="remove", job_id=key.job_id)

    @property
    def counts(self) -> dict[str, int]:
        return {
            "added": len(self.added),
            "changed": len(self.changed),
            "removed": len(self.removed),
            "unchanged": self.unchanged,
        }


def _planned(action: str, definition: load.Definition, source: str) -> rows.Planned:
    return rows.Planned(
        action=action,
        job_id=definition.config.id,
        source=source,
        given=definition.given,
        origins=definition.origins,
    )


def invalid(problems: Iterable[load.Problem | str], what: str) -> RefusedError:
    """All problems as one refusal, the first of them its message."""
    lines = [str(problem) for problem in problems]
    first = lines[0] if len(lines) == 1 else f"{what}: {len(lines)} problems"
    return RefusedError(control.INVALID, first, lines if len(lines) > 1 else [])


def _slices(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The document in parts of a few jobs each, so that checking a large one can be done bit by bit."""
    jobs = document.get("jobs")
    if not isinstance(jobs, list) or len(jobs) <= _SLICE:
        yield document
        return
    for at in range(0, len(jobs), _SLICE):
        yield {**document, "jobs": jobs[at : at + _SLICE]}


class Registry:
    def __init__(
        self,
        history: store.Store,
        jobs: catalog.Catalog,
        runs: dispatcher.Dispatcher,
        settings: config.Settings,
        *,
        obstacles: Callable[[model.JobConfig], Iterable[tuple[str, str]]] = lambda _: (),
    ) -> None:
        """`obstacles` tells what of this host would keep every run of a job from starting: a key, and why."""
        self._store = history
        self._catalog = jobs
        self._runs = runs
        self._settings = settings
        self._obstacles = obstacles
        #: Counts what is written: a plan takes several turns to make, and holds for what it began with.
        self._changes = 0
        #: A change of many jobs is under way, and no other may come between.
        self.closed = False

    def configure(self, settings: config.Settings) -> None:
        self._settings = settings

    def find(self, job_id: str) -> rows.JobRow:
        """The live job of this id; refused as not found, with the nearest name, if there is none."""
        row = self._store.job_by_id(job_id)
        if row is None:
            renamed = self._store.job_named(job_id)
            hint = "see: schedctl list" if renamed is None else f"it is {renamed.job_id!r} now"
            raise RefusedError(control.NOT_FOUND, f"no job {job_id!r}; {hint}")
        return row

    # One job.

    def check(self, values: Mapping[str, Any], source: str) -> load.Definition:
        """The definition that these keys make, refused with everything that is wrong with it."""
        try:
            definition = load.parse_one(
                values,
                "",
                check_schedule=catalog.checker(self._catalog.zone),
                site_defaults=self._settings.defaults,
                allow_main_file=source == API,
            )
        except load.JobsInvalid as error:
            raise invalid(error.problems, str(values.get("id", "the job"))) from None
        if problems := self._problems(definition, ""):
            raise invalid(problems, definition.config.id)
        return definition

    def _problems(
        self, definition: load.Definition, label: str, settings: config.Settings | None = None
    ) -> list[load.Problem]:
        """Why no run of it could start here."""
        job_id = definition.config.id
        found = [load.Problem(label, job_id, key, why) for key, why in self._obstacles(definition.config)]
        return [*found, *self._site_problems(definition, label, settings)]

    def stale(self, row: rows.JobRow) -> list[str]:
        """What the configuration has against a job that was registered under another one."""
        return [str(problem) for problem in self._site_problems(load.from_given(row.given, row.origins), row.source)]

    def _site_problems(
        self, definition: load.Definition, label: str, settings: config.Settings | None = None
    ) -> list[load.Problem]:
        site, job = settings or self._settings, definition.config
        found = {"pool": site.pool_problem(job.pool), "mailto": site.notify.mail_problem(job.mailto)}
        return [load.Problem(label, job.id, key, why) for key, why in found.items() if why is not None]

    def _check_open(self) -> None:
        if self.closed:
            raise RefusedError(control.FAILED, "a change of many jobs is under way; try again when it is done")

    def add(self, values: Mapping[str, Any], source: str, who: Who) -> rows.JobRow:
        self._check_open()
        definition = self.check(values, source)
        job_id = definition.config.id
        if self._store.job_by_id(job_id) is not None:
            raise RefusedError(
                control.INVALID, f"job {job_id!r} is there already; change it with: schedctl edit {job_id}"
            )
        self._check_parents(definition)
        self._insert(definition, source, who)
        self._audit(who, "add", job_id, None, definition.given)
        return self.find(job_id)

    def edit(self, job_id: str, changes: Mapping[str, Any], unset: Iterable[str], who: Who) -> rows.JobRow:
        self._check_open()
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
        definition = self.check({**values, "id": job_id}, row.source)
        if "sandbox" not in {*changes, *unset}:
            definition = _with_origin(definition, "sandbox", row.origins.get("sandbox"))
        self._check_parents(definition)
        self._replace(row, definition, row.source)
        now = self.find(job_id)
        if "enabled" in changes and now.enabled != definition.config.enabled:
            self._set_enabled(now, on=definition.config.enabled)  # said outright, it is more than a default
        self._audit(who, "edit", job_id, row.given, definition.given)
        return self.find(job_id)

    def remove(self, job_id: str, who: Who, *, purge: bool) -> int:
        """Remove the job, and return its uid; with `purge` it is decided that all it has left is to go too."""
        self._check_open()
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
        self._delete(row)
        self._audit(who, "purge" if purge else "remove", job_id, row.given, None)
        if purge:
            purging.decide(self._store, row.uid)
        return row.uid

    def enable(self, job_id: str, who: Who, *, on: bool) -> rows.JobRow:
        """Runtime state: it survives reload, also of a job that a file defines."""
        row = self.find(job_id)
        if on and self._runs.quarantine.release(row.uid):
            self._audit(who, "release", job_id, {"quarantined": True}, {"quarantined": False})
        if row.enabled != on:
            self._set_enabled(row, on=on)
            self._audit(who, "enable" if on else "disable", job_id, {"enabled": row.enabled}, {"enabled": on})
        return self.find(job_id)

    def rename(self, job_id: str, new_id: str, who: Who) -> tuple[rows.JobRow, list[str]]:
        """The job by its new id, and the jobs that named it and now name that; its history stays with it."""
        self._check_open()
        row = self._own(job_id)
        try:
            load.canonical("id", new_id)
        except ValueError as error:
            raise RefusedError(control.INVALID, str(error)) from None
        if self._store.job_by_id(new_id) is not None:
            raise RefusedError(control.INVALID, f"job {new_id!r} is there already")
        naming = sorted({*self._store.dependents(job_id), *self._store.hooked_by(job_id)} - {job_id})
        others = [self.find(other) for other in naming]
        if fixed := [other for other in others if other.source.startswith(FILE)]:
            paths = ", ".join(f"{other.job_id} ({other.source.removeprefix(FILE)})" for other in fixed[:10])
            raise RefusedError(control.INVALID, f"{job_id!r} is named by jobs of files: {paths}; change these first")
        self._runs.slots.decide_due(row.uid)
        self._store.rename_job(row.uid, job_id, new_id)
        for other in (row, *others):
            arrivals = self._store.arrivals(other.uid)
            self._replace(other, _renamed(other, job_id, new_id), other.source)
            for arrival in arrivals:  # the jobs are the same
                self._store.arrive(other.uid, *arrival)
        self._audit(who, "rename", job_id, {"id": job_id}, {"id": new_id, "followed": naming})
        renamed = self.find(new_id)
        # A schedule with H in it is another under another name.
        upcoming = self._next(_renamed(row, job_id, new_id), renamed.watermark)
        if renamed.next_slot not in (None, upcoming):
            now = max(clock.now_ms(), renamed.watermark)
            upcoming = self._next(_renamed(row, job_id, new_id), now)
            self._store.update_job(row.uid, watermark=now, next_slot=upcoming)
            if row.enabled:
                self._runs.slots.set_schedule(row.uid, upcoming)
        return self.find(new_id), naming

    def pause(self, job_id: str | None, seconds: float | None, reason: str | None, who: Who) -> rows.Pause:
        """Hold back a job, or the whole schedule, for so long, or until it is resumed."""
        uid = pauses.SCHEDULE if job_id is None else self.find(job_id).uid
        now = clock.now_ms()
        until = None if seconds is None else now + round(seconds * 1000)
        pause = rows.Pause(uid, now, until, seconds, who.user, reason)
        self._runs.slots.pause(pause)
        self._audit(who, "pause", job_id or _SCHEDULE, None, {"for": seconds, "reason": reason})
        return pause

    def resume(self, job_id: str | None, who: Who) -> rows.Pause | None:
        """Let it start by itself again; the pause that is over, or None if there was none."""
        uid = pauses.SCHEDULE if job_id is None else self.find(job_id).uid
        pause = self._runs.slots.resume(uid, clock.now_ms())
        if pause is not None:
            self._audit(who, "resume", job_id or _SCHEDULE)
        return pause

    def trigger(self, event: str, data: Any, who: Who) -> list[int]:
        """Start what this event starts; the rows of that."""
        run_ids = self._runs.triggers.fire(event, data, by=who.user, now=clock.now_ms())
        self._audit(who, "trigger", event, None, {"runs": run_ids})
        return run_ids

    def audit_run(self, who: Who, action: str, target: str, after: Mapping[str, Any] | None = None) -> None:
        self._audit(who, action, target, None, after)

    def _own(self, job_id: str) -> rows.JobRow:
        row = self.find(job_id)
        if row.source.startswith(FILE):
            path = row.source.removeprefix(FILE)
            raise RefusedError(
                control.INVALID, f"job {job_id!r} is defined in {path}; change that file, then: schedctl reload"
            )
        return row

    def _check_parents(self, definition: load.Definition) -> None:
        """Parents that are not there, and cycles through this job; only what is above it is looked at."""
        job_id = definition.config.id
        graph: dict[str, list[str]] = {job_id: catalog.parents(definition.config)}
        waiting = list(graph[job_id])
        while waiting:
            parent = waiting.pop()
            if parent in graph:
                continue
            row = self._store.job_by_id(parent)
            if row is not None:
                graph[parent] = catalog.parents(load.from_given(row.given, row.origins).config)
                waiting += graph[parent]
        problems = load.check_graph(graph)
        problems += self._check_hooks(definition)
        if problems:
            raise invalid(problems, job_id)

    def _check_hooks(self, definition: load.Definition) -> list[load.Problem]:
        """Jobs to start that are not there, and circles of starting through this job; only what it leads to is looked at."""
        job_id = definition.config.id
        own_parents = catalog.parents(definition.config) if catalog.is_after(definition.config) else []
        hooks: dict[str, list[tuple[str, str]]] = {job_id: model.hooks(definition.config)}
        after: dict[str, list[str]] = {}
        waiting = [job_id]
        for each in waiting:
            if each not in hooks:
                row = self._store.job_by_id(each)
                hooks[each] = [] if row is None else self._store.hooks(row.uid)
            rows_after = [row for uid in self._store.after(each) if (row := self._store.job(uid)) is not None]
            children = [row.job_id for row in rows_after if row.job_id != job_id]
            children += [job_id] if each in own_parents else []
            for child in children:
                after.setdefault(child, []).append(each)
            led_to = dict.fromkeys([*children, *(target for _, target in hooks[each])])
            waiting += [other for other in led_to if other not in waiting]
        known = [
            each
            for each in waiting
            if each == job_id or self._store.job_by_id(each) or self._store.job_by_id(notices.target_of(each))
        ]
        return load.check_hooks(hooks, after, known)

    # Many jobs.

    def plan(
        self,
        documents: Iterable[Document],
        *,
        owned: Callable[[str], bool],
        prune: bool,
        settings: config.Settings | None = None,
    ) -> Generator[None, None, Plan]:
        """Check documents against each other and what is there; yields while at work, and returns the plan.

        `owned` says whether a job of this source may be changed or pruned by it; `settings` are those that will hold when
        the plan is carried out, if not those of now. Refused with every problem at once.
        """
        site_defaults = (settings or self._settings).defaults
        problems: list[load.Problem] = []
        self._check_open()
        plan, seen = Plan(basis=self._changes), dict[str, str]()
        check = catalog.checker(self._catalog.zone)
        there = {key.job_id: key for key in self._store.job_ids()}
        graph: dict[str, list[str]] = {}
        hooks: dict[str, list[tuple[str, str]]] = {}
        scheduled: dict[str, bool] = {}
        for child, parent, is_scheduled in self._store.dependency_pairs():
            graph.setdefault(child, []).append(parent)
            scheduled[child] = is_scheduled
        for hook in self._store.all_hooks():
            hooks.setdefault(hook.job_id, []).append((hook.key, hook.target_id))
        for document in documents:
            for part in _slices(document.values):
                definitions, wrong = load.parse(part, document.label, check_schedule=check, site_defaults=site_defaults)
                problems += wrong
                for definition in definitions:
                    known = there.get(definition.config.id)
                    problems += self._place(definition, document, known, seen, plan, owned, settings)
                    graph[definition.config.id] = catalog.parents(definition.config)
                    hooks[definition.config.id] = model.hooks(definition.config)
                    scheduled[definition.config.id] = definition.config.schedule is not None
                yield
                # They are to stay for a while: the collector need not go through all of them again and again.
                gc.freeze()
        gc.unfreeze()
        if prune:
            plan.removed = [key for key in there.values() if owned(key.source) and key.job_id not in seen]
        gone = {key.job_id for key in plan.removed}
        if settings is not None and (lost := self._settings.pools.keys() - settings.pools.keys()):
            problems += self._in_pools(lost, settings, leaving_out=gone | seen.keys())
        left = (there.keys() | seen) - gone
        wrong = load.check_graph({job_id: graph.get(job_id, ()) for job_id in left})
        wrong += load.check_hooks(
            {job_id: targets for job_id, targets in hooks.items() if targets and job_id in left},
            {job_id: graph[job_id] for job_id in graph.keys() & left if not scheduled[job_id]},
            dict.fromkeys(
                [*left, *(each.removeprefix(notices.PREFIX) for each in left if each.startswith(notices.PREFIX))]
            ),
        )
        problems += [dataclasses.replace(problem, source=seen.get(problem.job or "", "")) for problem in wrong]
        if problems:
            raise invalid(problems, "nothing was taken")
        self.check_holds(plan)
        return plan

    def _in_pools(
        self, lost: AbstractSet[str], settings: config.Settings, *, leaving_out: AbstractSet[str]
    ) -> Iterator[load.Problem]:
        """Jobs of pools that these settings have no more."""
        after: str | None = ""
        while page := self._store.jobs_page(after):
            for row in page:
                if row.given.get("pool") in lost and row.job_id not in leaving_out:
                    yield load.Problem("", row.job_id, "pool", settings.pool_problem(row.given["pool"]) or "")
            after = page[-1].job_id

    def check_holds(self, plan: Plan) -> None:
        """Refused if jobs were changed since the plan was begun."""
        self._check_open()
        if plan.basis != self._changes:
            raise RefusedError(control.FAILED, "jobs were changed in between and nothing was taken; try again")

    def _place(
        self,
        definition: load.Definition,
        document: Document,
        there: rows.Identity | None,
        seen: dict[str, str],
        plan: Plan,
        owned: Callable[[str], bool],
        settings: config.Settings | None,
    ) -> list[load.Problem]:
        """Put one definition where it belongs in the plan, or say why it belongs nowhere."""
        job_id = definition.config.id
        if job_id in seen:
            return [
                load.Problem(document.label, job_id, "id", f"is defined in {seen[job_id] or 'the same import'} too")
            ]
        seen[job_id] = document.label
        if there is None:
            plan.added.append((definition, document.source))
        elif not owned(there.source):
            where = there.source.removeprefix(FILE) if there.source.startswith(FILE) else "schedctl or a program"
            return [load.Problem(document.label, job_id, "id", f"is defined by {where} already")]
        elif (there.hash, there.source) == (definition.hash, document.source) and self._is_as_enabled(
            there, definition
        ):
            plan.unchanged += 1
            # Whatever has become of the host since: a daemon starts with what it had.
            return self._site_problems(definition, document.label, settings)
        else:
            plan.changed.append((there, definition, document.source))
        return self._problems(definition, document.label, settings)

    def _is_as_enabled(self, there: rows.Identity, definition: load.Definition) -> bool:
        """Whether it was defined as on, or as off, before: the hash leaves that out. What a person set is no matter."""
        row = self._store.job(there.uid)
        return row is None or row.given.get("enabled", True) == definition.config.enabled

    def carry_out(self, plan: Plan, who: Who, action: str) -> None:
        """Write the whole plan; the caller's turn commits it. Bulk does so with a large one, in turns."""
        for change in self.changes(plan):
            self._audit(who, f"{action}: {change.action}", change.job_id, change.before, change.after)
        for definition, source in plan.added:
            self._insert(definition, source, who)
        for key, definition, source in plan.changed:
            self._replace(self.find(key.job_id), definition, source)
        for key in plan.removed:
            self._delete(self.find(key.job_id))

    def carry_out_one(self, planned: rows.Planned, who: Who, action: str) -> tuple[int, int | None] | None:
        """Write what becomes of one job. Of a new one that is enabled: its uid, and when it is to be due."""
        job_id, added = planned.job_id, None
        row = None if planned.action == "add" else self.find(job_id)
        self._audit(who, f"{action}: {planned.action}", job_id, None if row is None else row.given, planned.given)
        if planned.given is None or planned.origins is None or planned.source is None:
            self._delete(self.find(job_id))
            return None
        definition = load.from_given(planned.given, planned.origins)
        if row is not None:
            self._replace(row, definition, planned.source)
        else:
            added = self._put(definition, planned.source, who)
        return added if definition.config.enabled else None

    def changes(self, plan: Plan) -> Iterator[Change]:
        """What the plan would do, one job after the other; to be asked before it is carried out."""
        for definition, _ in plan.added:
            yield Change("add", definition.config.id, None, definition.given)
        for key, definition, _ in plan.changed:
            yield Change("change", key.job_id, self.find(key.job_id).given, definition.given)
        for key in plan.removed:
            yield Change("remove", key.job_id, self.find(key.job_id).given, None)

    # The rows.

    def _insert(self, definition: load.Definition, source: str, who: Who) -> None:
        uid, upcoming = self._put(definition, source, who)
        if definition.config.enabled:
            self._runs.slots.set_schedule(uid, upcoming)

    def _put(self, definition: load.Definition, source: str, who: Who) -> tuple[int, int | None]:
        """A new job's row: its uid, and when it is due."""
        self._changes += 1
        now = clock.now_ms()
        upcoming = self._next(definition, now)
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

    def _replace(self, row: rows.JobRow, definition: load.Definition, source: str) -> None:
        self._changes += 1
        now = clock.now_ms()
        changes: dict[str, Any] = {}
        if any(row.given.get(key) != definition.given.get(key) for key in _TIMING):
            self._runs.slots.decide_due(row.uid)
            changes = {"watermark": now, "next_slot": self._next(definition, now)}
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
        # What a person set by hand stays, unless the definition itself changes its mind.
        before, after = row.given.get("enabled", True), definition.config.enabled
        if after not in (before, row.enabled):
            self._set_enabled(dataclasses.replace(row, **changes), on=after)

    def _set_enabled(self, row: rows.JobRow, *, on: bool) -> None:
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

    def _delete(self, row: rows.JobRow) -> None:
        self._changes += 1
        self._runs.slots.decide_due(row.uid)
        self._runs.slots.set_schedule(row.uid, None)
        self._runs.withdraw(row.uid, "removed")
        self._store.remove_job(row.uid, clock.now_ms())
        self._runs.pauses.reread()
        self._store.meta_drop(f"{store_jobs.RENAMED}{row.job_id}")
        self._catalog.forget(row.uid)

    def _next(self, definition: load.Definition, now: int) -> int | None:
        planned = self._catalog.schedule(definition.config)
        return None if planned is None else planned.next_after(now)

    def _audit(
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
