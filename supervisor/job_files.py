"""Job files as the daemon would take them, checked together and without it: schedctl's validate and forecast.

Files are opened with the rights of whoever calls. Defaults and notices are those of config.toml, where it can be read; zone
and pools, too, unless a daemon has said by its State which are in force.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from lnmt_scheduler.jobs import load
from lnmt_scheduler.supervisor import catalog, config, in_force, links, notices, paths


@dataclass(frozen=True, slots=True)
class Checked:
    #: The well-formed ones, in order.
    definitions: list[load.Definition]
    #: What is wrong with the others, or with all of them together.
    problems: list[str]
    #: In which jobs are read that name none.
    zone: str


def settings(where: paths.Paths, state: Mapping[str, Any] | None = None) -> config.Settings:
    """What config.toml says, but for what a daemon says that has other settings in force. Raises config.ConfigError."""
    path = where.config_file
    return in_force.as_told(config.load(path if os.path.exists(path) else None, is_root=False), state or {})


def check(
    where: paths.Paths, files: Sequence[str], zone: str | None = None, state: Mapping[str, Any] | None = None
) -> Checked:
    """All jobs of the files: one may name another of them, and no other. `zone` is asked for in place of ours."""
    try:
        site = settings(where, state)
    except config.ConfigError as error:
        return Checked([], list(error.problems), zone or config.host_zone())
    zone = zone or site.timezone or config.host_zone()
    definitions: list[load.Definition] = []
    problems: list[load.Problem] = []
    sources: dict[str, str] = {}
    for path in files:
        found, wrong = _read(path, zone, site)
        problems += wrong
        for definition in found:
            job_id = definition.config.id
            if job_id in sources:
                problems.append(load.Problem(path, job_id, "id", f"is defined in {sources[job_id]} too"))
            if (why := site.pool_problem(definition.config.pool)) is not None:
                problems.append(load.Problem(path, job_id, "pool", why))
            if (why := site.notify.mail_problem(definition.config.mailto)) is not None:
                problems.append(load.Problem(path, job_id, "mailto", why))
            sources[job_id] = path
            definitions.append(definition)
    # Jobs that are wrong by themselves are not in the graph; nothing true can be said of it without them.
    if not problems:
        named = links.Links()
        for each in definitions:
            named.add(each.config)
        targets = {f"{notices.PREFIX}{name}" for name in site.notify.targets}
        problems += named.problems(sources.keys() | targets, sources)
    return Checked(definitions, [str(problem) for problem in problems], zone)


def _read(path: str, zone: str, site: config.Settings) -> tuple[list[load.Definition], Sequence[load.Problem]]:
    try:
        document = load.read_file(path)
    except load.JobsInvalid as error:
        return [], error.problems
    return load.parse(document, path, check_schedule=catalog.checker(zone), site_defaults=site.defaults)
