"""What jobs name other jobs: which they depend on, and which they start by a hook. Pure."""

from collections.abc import Mapping
from collections.abc import Set as AbstractSet

from lnmt_scheduler.jobs import load, model
from lnmt_scheduler.supervisor import catalog, notices


class Links:
    def __init__(self) -> None:
        self._parents: dict[str, list[str]] = {}
        self._is_scheduled: dict[str, bool] = {}
        self._hooks: dict[str, list[tuple[str, str]]] = {}

    def add(self, job: model.JobConfig) -> None:
        """All that this job names, instead of what was told of it before."""
        self._parents[job.id] = catalog.parents(job)
        self._is_scheduled[job.id] = job.schedule is not None
        self._hooks[job.id] = model.hooks(job)

    def add_parent(self, child: str, parent: str, *, is_scheduled: bool) -> None:
        self._parents.setdefault(child, []).append(parent)
        self._is_scheduled[child] = is_scheduled

    def add_hook(self, job_id: str, key: str, target: str) -> None:
        self._hooks.setdefault(job_id, []).append((key, target))

    def problems(self, jobs: AbstractSet[str], sources: Mapping[str, str] | None = None) -> list[load.Problem]:
        """If these are all jobs: names that are not among them, and circles. A target of notices is a job, too."""
        after = {each: self._parents[each] for each in self._parents.keys() & jobs if not self._is_scheduled[each]}
        hooks = {each: targets for each, targets in self._hooks.items() if targets and each in jobs}
        targets = [each.removeprefix(notices.PREFIX) for each in jobs if each.startswith(notices.PREFIX)]
        found = load.check_graph({each: self._parents.get(each, ()) for each in jobs}, sources)
        return found + load.check_hooks(hooks, after, dict.fromkeys([*jobs, *targets]), sources)
