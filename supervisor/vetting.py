"""What speaks against a job definition: its own text, this host, the configuration, and the other jobs that it names."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from lnmt_scheduler.ipc import control
from lnmt_scheduler.jobs import load, model
from lnmt_scheduler.supervisor import catalog, config, definitions, notices, rows, store
from lnmt_scheduler.supervisor.connection import RefusedError


def invalid(problems: Iterable[load.Problem | str], what: str) -> RefusedError:
    """All problems as one refusal, the first of them its message."""
    lines = [str(problem) for problem in problems]
    first = lines[0] if len(lines) == 1 else f"{what}: {len(lines)} problems"
    return RefusedError(control.INVALID, first, lines if len(lines) > 1 else [])


class Vetting:
    def __init__(
        self,
        history: store.Store,
        jobs: catalog.Catalog,
        settings: config.Settings,
        *,
        obstacles: Callable[[model.JobConfig], Iterable[tuple[str, str]]] = lambda _: (),
    ) -> None:
        """`obstacles` tells what of this host would keep every run of a job from starting: a key, and why."""
        self._store = history
        self._catalog = jobs
        self.settings = settings
        self._obstacles = obstacles

    def configure(self, settings: config.Settings) -> None:
        self.settings = settings

    def check(self, values: Mapping[str, Any], source: str) -> load.Definition:
        """The definition that these keys make, refused with everything that is wrong with it."""
        try:
            definition = load.parse_one(
                values,
                "",
                check_schedule=catalog.checker(self._catalog.zone),
                site_defaults=self.settings.defaults,
                allow_main_file=source == definitions.API,
            )
        except load.JobsInvalid as error:
            raise invalid(error.problems, str(values.get("id", "the job"))) from None
        if problems := self.problems(definition, ""):
            raise invalid(problems, definition.config.id)
        return definition

    def problems(
        self, definition: load.Definition, label: str, settings: config.Settings | None = None
    ) -> list[load.Problem]:
        """Why no run of it could start here."""
        job_id = definition.config.id
        found = [load.Problem(label, job_id, key, why) for key, why in self._obstacles(definition.config)]
        return [*found, *self.site_problems(definition, label, settings)]

    def stale(self, row: rows.JobRow) -> list[str]:
        """What the configuration has against a job that was registered under another one."""
        return [str(problem) for problem in self.site_problems(load.from_given(row.given, row.origins), row.source)]

    def site_problems(
        self, definition: load.Definition, label: str, settings: config.Settings | None = None
    ) -> list[load.Problem]:
        site, job = settings or self.settings, definition.config
        found = {"pool": site.pool_problem(job.pool), "mailto": site.notify.mail_problem(job.mailto)}
        return [load.Problem(label, job.id, key, why) for key, why in found.items() if why is not None]

    def check_links(self, definition: load.Definition) -> None:
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
