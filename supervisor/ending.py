"""The end of a run in the store: its row, what its job has come to by it, and one line of the log if it failed."""

from dataclasses import dataclass
from typing import Any

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import attempts, journal, open_runs, rows, store


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """What a job has come to by the end of a run."""

    status: model.JobStatus
    #: Runs that have failed since the last success, and when the first of them ended; None: it does not fail.
    failures: int = 0
    failing_since: int | None = None
    #: It fails and did not before, or the other way round.
    is_change: bool = False


def record(
    history: store.Store, each: open_runs.OpenRun, status: model.JobStatus, reason: str | None, now: int
) -> Standing:
    facts = each.facts or attempts.Facts()
    history.update_run(
        each.run_id,
        status=status.value,
        reason=reason,
        end_time=now,
        duration=None if each.started is None else max(0, now - each.started) / 1000,
        retry_at=None,
        gate_until=None,
        exit_code=facts.exit_code,
        signal=facts.signal,
        error=facts.error,
        result=facts.result,
        output_bytes=facts.output_bytes,
        output_stored=each.stored,
        truncated=facts.truncated,
        cpu_seconds=facts.cpu_seconds,
        max_memory=facts.max_memory or None,
        processes=facts.processes,
        enforced=facts.enforced,
        uid=facts.uid,
        killed=facts.killed,
        killed_count=facts.killed_count,
        notes=facts.notes,
    )
    standing = _standing(history.job(each.job_uid), status, now)
    changes: dict[str, Any] = {} if status is model.JobStatus.SKIPPED else {"last_run": each.run_id}
    if status is model.JobStatus.COMPLETED:
        changes |= {"last_success": now, "failing_since": None, "failures": 0}
    elif status is model.JobStatus.FAILED:
        changes |= {"failing_since": standing.failing_since, "failures": standing.failures}
        detail = (facts.error or "").splitlines()[-1:] or [""]
        journal.error(
            f"job {each.job.id} run {each.run_id} failed: {reason}"
            f"{f' ({facts.exit_code})' if reason == 'exit' else ''}{f': {detail[0]}' if detail[0] else ''};"
            f" see: schedctl logs {each.run_id}"
        )
    if changes:
        history.update_job(each.job_uid, **changes)
    return standing


def _standing(before: rows.JobRow | None, status: model.JobStatus, now: int) -> Standing:
    since, failures = (None, 0) if before is None else (before.failing_since, before.failures)
    match status:
        case model.JobStatus.COMPLETED:
            return Standing(status=status, is_change=since is not None)
        case model.JobStatus.FAILED:
            return Standing(
                status=status, failures=failures + 1, failing_since=now if since is None else since,
                is_change=since is None,
            )  # fmt: skip
        case _:
            return Standing(status=status, failures=failures, failing_since=since)
