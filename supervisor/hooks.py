"""Which jobs the end of a run starts, and what they are told of it: pure answers, given at the end of a run.

A run that completed asks for `on_success`, one that failed for `on_failure`, and one by which its job begins or ceases to
fail for `on_change`; a run that was cancelled says nothing of its job and asks for none. `alert_after` holds back
`on_failure` until so many runs have failed in a row, or the job has failed for so long. Every run that fails counts, also
one that a newer slot has superseded: a job that always fails is heard however often it is due.
"""

from typing import Any

from lnmt_scheduler.jobs import model, units
from lnmt_scheduler.supervisor import ending, rows, views

#: Bytes of an error that the started job is told.
_ERROR = 4096


def asked(job: model.JobConfig, standing: ending.Standing, now: int) -> dict[str, str]:
    """Id of each job to start -> the key that asks for it, the first of them."""
    keys = []
    if standing.status is model.JobStatus.COMPLETED:
        keys.append("on_success")
    elif standing.status is model.JobStatus.FAILED and _is_alert(job.alert_after, standing, now):
        keys.append("on_failure")
    if standing.is_change:
        keys.append("on_change")
    found: dict[str, str] = {}
    for key in keys:
        for target in getattr(job, key):
            found.setdefault(target, key)
    return found


def _is_alert(after: int | str | None, standing: ending.Standing, now: int) -> bool:
    match after:
        case None:
            return True
        case int():
            return standing.failures >= after
        case _:
            return standing.failing_since is not None and now - standing.failing_since >= units.duration(after) * 1000


def facts(row: rows.RunRow, key: str, standing: ending.Standing) -> dict[str, Any]:
    """The run that ended, for `context.event` and LNMT_EVENT of the job that is started."""
    return {
        "hook": key,
        **views.facts(rows.as_map(row)),
        "error": None if row.error is None else _cut(row.error),
        "failures": standing.failures,
        "failing_since": views.iso(standing.failing_since),
    }


def _cut(text: str) -> str:
    """The end of a long error: there a traceback says what happened."""
    return text.encode(errors="backslashreplace")[-_ERROR:].decode(errors="ignore")
