"""The copy of the history that a job is granted, as values; see supervisor/snapshot.py for what is in it."""

import contextlib
import json
import os
import sqlite3
from dataclasses import dataclass
from typing import Any

from lnmt_scheduler.jobs import alerting, handed, needs

#: Of each job, the newest runs that rules look at.
_RUNS = 1000


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """One run; times are milliseconds since the epoch, of `duration` seconds."""

    run_id: int
    job_id: str
    slot: int | None
    slots: int
    trigger: str
    status: str
    reason: str | None
    queued: int
    start: int | None
    end: int | None
    duration: float | None
    attempts: int
    error: str | None
    #: What it returned, if that is small and of the last day.
    result: Any = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    job_id: str
    name: str
    enabled: bool
    schedule: str | None
    tags: frozenset[str]
    next_slot: int | None
    last_success: int | None
    failing_since: int | None
    added: int
    #: Of the run that last returned something.
    result_run: int | None
    result: Any
    #: Keys that were too large to be in it; an empty one: all of it.
    result_lacks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    taken: int
    #: From when on it has every run.
    since: int
    complete: bool
    jobs: list[Job]
    #: In the order of their decision.
    runs: list[Run]


def load(path: str | None = None) -> History:
    """The whole copy. The job ends with one line if it has none."""
    path = path or os.environ.get(handed.HISTORY_VARIABLE)
    if path is None:
        needs.end('this job needs the history: give it "grants": ["history"]')
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro&immutable=1", uri=True)) as db:
        meta = dict(db.execute("SELECT key, value FROM meta"))
        jobs = [
            Job(
                job_id=row[0], name=row[1], enabled=bool(row[2]), schedule=row[3], tags=frozenset(json.loads(row[4])),
                next_slot=row[5], last_success=row[6], failing_since=row[7], added=row[8], result_run=row[9],
                result=_json(row[10]), result_lacks=frozenset(_json(row[11]) or ()),
            )
            for row in db.execute(
                "SELECT job_id, name, enabled, schedule, tags, next_slot, last_success, failing_since, added, result_run,"
                " result, result_lacks FROM jobs ORDER BY job_id"
            )
        ]  # fmt: skip
        runs = [
            Run(
                run_id=row[0], job_id=row[1], slot=row[2], slots=row[3], trigger=row[4], status=row[5], reason=row[6],
                queued=row[7], start=row[8], end=row[9], duration=row[10], attempts=row[11], error=row[12],
                result=_json(row[13]),
            )
            for row in db.execute(
                'SELECT run_id, job_id, slot, slots, "trigger", status, reason, queued, start_time, end_time, duration,'
                " attempts, error, result FROM runs ORDER BY run_id"
            )
        ]  # fmt: skip
    return History(
        taken=meta.get("taken", 0),
        since=meta.get("since", 0),
        complete=bool(meta.get("complete")),
        jobs=jobs,
        runs=runs,
    )


def _json(text: str | None) -> Any:
    return None if text is None else json.loads(text)


def for_rules(found: History) -> list[alerting.Job]:
    """The same as alerting.py looks at it."""
    ended: dict[str, list[tuple[int, str, str | None, int, str | None]]] = {}
    missed: dict[str, list[tuple[int, str]]] = {}
    results: dict[str, dict[int, Any]] = {}
    for run in found.runs:
        if run.result is not None:
            results.setdefault(run.job_id, {})[run.run_id] = run.result
    for job in found.jobs:
        if job.result_run is not None:
            results.setdefault(job.job_id, {})[job.result_run] = job.result
    for run in reversed(found.runs):
        if run.status == "skipped" and run.reason in alerting.MISSED:
            missed.setdefault(run.job_id, []).append((run.queued, run.reason or ""))
        elif run.end is not None and len(of := ended.setdefault(run.job_id, [])) < _RUNS:
            of.append((run.run_id, run.status, run.reason, run.end, run.error))
    return [
        alerting.Job(
            job_id=job.job_id,
            enabled=job.enabled,
            tags=job.tags,
            last_success=job.last_success,
            added=job.added,
            results=sorted(results.get(job.job_id, {}).items()),
            lacks=job.result_lacks,
            runs=ended.get(job.job_id, ()),
            missed=missed.get(job.job_id, ()),
            failing_since=job.failing_since,
        )
        for job in found.jobs
    ]
