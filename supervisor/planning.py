"""Plans of changes of many jobs: by an import, a reload, a start.

Files (jobs.d, --jobs) are desired state: a reload adds, changes and removes what they name and nothing else. `add`, `import`
and the Python API make jobs of their own, which a reload leaves alone. All is checked, against each other and against what
is there, before any of it is written (see: bulk).
"""

import dataclasses
import gc
import json
from collections import Counter
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from collections.abc import Set as AbstractSet
from dataclasses import dataclass, field
from typing import Any

from lnmt_scheduler.jobs import load
from lnmt_scheduler.supervisor import catalog, config, definitions, links, rows, store, vetting, views
from lnmt_scheduler.supervisor.definitions import FILE

_ORDER = {"add": 0, "change": 1, "remove": 2}
#: Jobs that are checked in one go.
_SLICE = 20


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


@dataclass(frozen=True, slots=True)
class Step:
    """What is to become of one job. Without a definition, and where that comes from, it is removed."""

    action: str
    job_id: str
    definition: load.Definition | None = None
    source: str = ""


@dataclass(slots=True)
class Plan:
    """A change of many jobs, checked and ready to be written."""

    #: What becomes of each job, in an order in which no job lacks its parents.
    steps: list[Step] = field(default_factory=list)
    unchanged: int = 0
    #: The count of changes that it was made at.
    basis: int = 0

    @property
    def counts(self) -> dict[str, int]:
        actions = Counter(step.action for step in self.steps)
        return {
            "added": actions["add"],
            "changed": actions["change"],
            "removed": actions["remove"],
            "unchanged": self.unchanged,
        }


def _slices(document: Mapping[str, Any]) -> Iterator[Mapping[str, Any]]:
    """The document in parts of a few jobs each, so that checking a large one can be done bit by bit."""
    jobs = document.get("jobs")
    if not isinstance(jobs, list) or len(jobs) <= _SLICE:
        yield document
        return
    for at in range(0, len(jobs), _SLICE):
        yield {**document, "jobs": jobs[at : at + _SLICE]}


class Planner:
    def __init__(
        self,
        history: store.Store,
        jobs: catalog.Catalog,
        written: definitions.Definitions,
        rules: vetting.Vetting,
    ) -> None:
        self._store = history
        self._catalog = jobs
        self._definitions = written
        self._vetting = rules

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
        site_defaults = (settings or self._vetting.settings).defaults
        problems: list[load.Problem] = []
        self._definitions.check_open()
        plan, seen = Plan(basis=self._definitions.changes), dict[str, str]()
        check = catalog.checker(self._catalog.zone)
        there = {key.job_id: key for key in self._store.job_ids()}
        named = links.Links()
        for child, parent, is_scheduled in self._store.dependency_pairs():
            named.add_parent(child, parent, is_scheduled=is_scheduled)
        for hook in self._store.all_hooks():
            named.add_hook(hook.job_id, hook.key, hook.target_id)
        for document in documents:
            for part in _slices(document.values):
                parsed, wrong = load.parse(part, document.label, check_schedule=check, site_defaults=site_defaults)
                problems += wrong
                for definition in parsed:
                    known = there.get(definition.config.id)
                    problems += self._place(definition, document, known, seen, plan, owned, settings)
                    named.add(definition.config)
                yield
                # They are to stay for a while: the collector need not go through all of them again and again.
                gc.freeze()
        gc.unfreeze()
        if prune:
            gone = [key.job_id for key in there.values() if owned(key.source) and key.job_id not in seen]
            plan.steps += [Step("remove", job_id) for job_id in gone]
        left = (there.keys() | seen) - {step.job_id for step in plan.steps if step.action == "remove"}
        plan.steps.sort(key=lambda step: _ORDER[step.action])
        if settings is not None and (lost := self._vetting.settings.pools.keys() - settings.pools.keys()):
            problems += self._in_pools(lost, settings, leaving_out=(there.keys() - left) | seen.keys())
        wrong = named.problems(left)
        problems += [dataclasses.replace(problem, source=seen.get(problem.job or "", "")) for problem in wrong]
        if problems:
            raise vetting.invalid(problems, "nothing was taken")
        self._definitions.check_unchanged(plan.basis)
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
            plan.steps.append(Step("add", job_id, definition, document.source))
        elif not owned(there.source):
            where = there.source.removeprefix(FILE) if there.source.startswith(FILE) else "schedctl or a program"
            return [load.Problem(document.label, job_id, "id", f"is defined by {where} already")]
        elif (there.hash, there.source) == (definition.hash, document.source) and self._is_as_enabled(
            there, definition
        ):
            plan.unchanged += 1
            # Whatever has become of the host since: a daemon starts with what it had.
            return self._vetting.site_problems(definition, document.label, settings)
        else:
            plan.steps.append(Step("change", job_id, definition, document.source))
        return self._vetting.problems(definition, document.label, settings)

    def _is_as_enabled(self, there: rows.Identity, definition: load.Definition) -> bool:
        """Whether it was defined as on, or as off, before: the hash leaves that out. What a person set is no matter."""
        row = self._store.job(there.uid)
        return row is None or row.given.get("enabled", True) == definition.config.enabled

    def changes(self, plan: Plan) -> Iterator[Change]:
        """What the plan would do, one job after the other; to be asked before it is carried out."""
        for step in plan.steps:
            before = None if step.action == "add" else definitions.find(self._store, step.job_id).given
            yield Change(step.action, step.job_id, before, None if step.definition is None else step.definition.given)
