"""The maintenance jobs: databases, log rotation, system health. What they are given and what they return is here.

Runs in the job's process, inside its box; how each does its work is in the modules that it imports when it is called.
"""
# ruff: noqa: PLC0415 - what one job needs is not loaded for the others

import functools
from collections.abc import Mapping, Sequence
from typing import Any

from lnmt_scheduler.jobs.context import JobContext, folder_of

#: Something that was looked after is bad; what, is in the output.
_BAD = 1
_MANY = 1000
_WEEKLY = ("weekly", "rotate 8", "compress", "delaycompress", "missingok", "notifempty")


def database(
    sqlite: Sequence[str] = (),
    *,
    postgresql: Sequence[Mapping[str, Any]] = (),
    vacuum_bytes: int = 16 * 1024 * 1024,
    vacuum_part: float = 0.25,
    postgresql_timeout: float = 3600,
    context: JobContext | None = None,
) -> dict[str, Any]:
    """Check SQLite files and tidy those that are whole; run `vacuumdb --analyze` on PostgreSQL servers.

    A file is vacuumed if at least `vacuum_bytes` and `vacuum_part` of it are free. If one is damaged, or could not be looked
    after, the job exits with 1 after all have had their turn; what is locked is left for the next time.
    """
    from lnmt_scheduler.jobs import databases, needs

    if not sqlite and not postgresql:
        needs.end("database wants `sqlite`, paths of files, or `postgresql`, servers")
    if len(sqlite) + len(postgresql) > _MANY or vacuum_bytes < 0 or not 0 <= vacuum_part <= 1:
        needs.end(f"database: at most {_MANY} databases; vacuum_bytes from 0, vacuum_part from 0 to 1")
    for server in postgresql:
        if not isinstance(server, Mapping) or set(server) - databases.SERVER_KEYS:
            needs.end(f"database: a server is a map of {', '.join(sorted(databases.SERVER_KEYS))}")
    rules = databases.Rules(free_bytes=vacuum_bytes, free_part=vacuum_part)
    todo = [functools.partial(databases.sqlite, path, rules) for path in sqlite]
    todo += [functools.partial(databases.postgresql, server, postgresql_timeout) for server in postgresql]
    outcomes = []
    for number, step in enumerate(todo, 1):
        outcome = step()
        print(f"{outcome.what}: {outcome.state}: {'; '.join(outcome.notes)}")
        outcomes.append(outcome)
        if context is not None:
            context.progress(number, len(todo), outcome.what)
    if any(outcome.state in ("damaged", "failed") for outcome in outcomes):
        raise SystemExit(_BAD)
    packed = [outcome.packed() for outcome in outcomes]
    return {"databases": packed, "freed": sum(each["freed"] for each in packed)}


def log_rotation(
    configuration: str | None = None,
    *,
    logs: Sequence[str] = (),
    directives: Sequence[str] = _WEEKLY,
    force: bool = False,
    context: JobContext | None = None,
) -> dict[str, Any]:
    """Rotate logs by logrotate, with a state file of the job's own: those of `configuration`, or `logs` with `directives`.

    `force` rotates also what is not due. If logrotate complains, the job exits with 1 after it has done the rest.
    """
    from lnmt_scheduler.jobs import needs, rotation

    if (configuration is None) == (not logs) or len(logs) > _MANY:
        needs.end(f"log_rotation wants either `configuration`, a file, or `logs`, at most {_MANY} paths")
    state_dir = folder_of(context)
    try:
        path = configuration or rotation.write(state_dir, logs, directives)
    except ValueError as error:
        needs.end(f"log_rotation: {error}")
    found = rotation.rotate(path, state_dir, force=force)
    print(f"{found['rotated_count']} of {found['logs']} logs rotated, {found['freed']} bytes freed")
    for line in found["errors"]:
        print(f"error: {line}")
    if found["errors"]:
        raise SystemExit(_BAD)
    return found


def health(
    *,
    checks: Sequence[str] = (),
    thresholds: Mapping[str, Any] | None = None,
    mounts: Sequence[str] = (),
    certificates: Sequence[str] = (),
    ignore_units: Sequence[str] = (),
) -> dict[str, Any]:
    """Check this host and end as a monitoring plugin does: 0 all is well, 1 a warning, 2 critical, 3 something is unknown.

    `checks` are all if none is named; `thresholds` map a check to [warning, critical]. `certificates` are paths of PEM files
    and HOST:PORT. The job's `warning_codes` should hold 1.
    """
    from lnmt_scheduler.jobs import health as checking
    from lnmt_scheduler.jobs import needs, verdicts

    unknown = sorted(set(checks) - set(checking.CHECKS))
    if unknown or len(mounts) + len(certificates) > _MANY:
        needs.end(f"health: unknown check {unknown[:1]}; there are {', '.join(checking.CHECKS)}; at most {_MANY} paths")
    try:
        limits = checking.limits(thresholds or {})
    except ValueError as error:
        needs.end(f"health: {error}")
    wishes = checking.Wishes(limits=limits, mounts=mounts, certificates=certificates, ignore_units=ignore_units)
    found, absent = checking.look(wishes, checks)
    for line in verdicts.lines("HEALTH", found):
        print(line)
    for line in absent:
        print(f"left out {line}")
    verdict = verdicts.worst(found)
    if verdict != verdicts.OK:
        raise SystemExit(verdict)
    return {
        "verdict": verdicts.WORDS[verdict],
        "checks": {each.name: {"text": each.text, "value": each.value} for each in found},
        "absent": absent,
    }


class LNMTMaintenanceJobs:
    """The same by the names of the first document."""

    maintain_database = staticmethod(database)
    rotate_logs = staticmethod(log_rotation)
    check_system_health = staticmethod(health)
