"""The end of a run in the store: its row, what its job has come to by it, and one line of the log if it failed."""

from typing import Any

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import attempts, journal, open_runs, store


def record(
    history: store.Store, each: open_runs.OpenRun, status: model.JobStatus, reason: str | None, now: int
) -> None:
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
    changes: dict[str, Any] = {}
    if status is model.JobStatus.COMPLETED:
        changes = {"last_success": now, "failing_since": None}
    elif status is model.JobStatus.FAILED:
        row = history.job(each.job_uid)
        if row is not None and row.failing_since is None:
            changes = {"failing_since": now}
        detail = (facts.error or "").splitlines()[-1:] or [""]
        journal.error(
            f"job {each.job.id} run {each.run_id} failed: {reason}"
            f"{f' ({facts.exit_code})' if reason == 'exit' else ''}{f': {detail[0]}' if detail[0] else ''};"
            f" see: schedctl logs {each.run_id}"
        )
    if changes:
        history.update_job(each.job_uid, **changes)
