"""A month of a made-up host's history in a real store, and the copy of it that a report is given: always the same."""

import contextlib
import random
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgpack

from lnmt_scheduler.supervisor import snapshot, store

END = datetime(2026, 3, 31, 6, tzinfo=UTC)
_DAY, _MINUTE = 86_400_000, 60_000
#: id, schedule, minutes between slots, seconds a run, part that fails, part that needs a retry.
JOBS = (
    ("network_status", "*/10 * * * *", 10, 4.0, 0.004, 0.01),
    ("system_metrics", "*/15 * * * *", 15, 0.3, 0.0, 0.0),
    ("security_log", "*/30 * * * *", 30, 1.1, 0.0, 0.0),
    ("device_config", "0 */6 * * *", 360, 38.0, 0.06, 0.1),
    ("backup_data", "30 2 * * *", 1440, 1850.0, 0.0, 0.0),
    ("backup_cleanup", "0 5 * * *", 1440, 2.2, 0.0, 0.0),
    ("restore_drill", "0 6 * * 0", 10080, 640.0, 0.0, 0.0),
    ("health", "*/20 * * * *", 20, 0.9, 0.01, 0.0),
    ("database", "15 3 * * *", 1440, 95.0, 0.0, 0.0),
    ("log_rotation", "10 0 * * *", 1440, 3.5, 0.0, 0.0),
    ("flaky_sync", "5 * * * *", 60, 12.0, 0.15, 0.2),
    ("vendor_export", "45 1 * * *", 1440, 410.0, 0.0, 0.0),
)


def make(path: Path, *, days: int = 31, monkeypatch_now: Callable[[int], Any]) -> Path:
    """Write the copy to `path`; `monkeypatch_now` is told the time that it is made at."""
    end = round(END.timestamp() * 1000)
    monkeypatch_now(end)
    with contextlib.closing(store.Store.open(str(path.parent / "month-store.db"))) as db:
        for number, (job_id, schedule, *_) in enumerate(JOBS):
            _add_job(db, number, job_id, schedule, end - 60 * _DAY)
        for at, number, slot in _slots(end, days):
            _add_run(db, number, slot, at, end)
        db.commit()
        making = snapshot.Making(db)
        for _ in making.slices():
            pass
    path.write_bytes(making.image)
    return path


def _slots(end: int, days: int) -> list[tuple[int, int, int]]:
    found = []
    for number, (_, _, every, *_) in enumerate(JOBS):
        step = every * _MINUTE
        found += [(slot, number, slot) for slot in range(end - days * _DAY - (end - days * _DAY) % step, end, step)]
    return sorted(found)


def _add_job(db: store.Store, number: int, job_id: str, schedule: str, added: int) -> None:
    given = {"id": job_id, "command": ["/bin/true"], "schedule": schedule}
    db.add_job(
        job_id=job_id, given=given, origins={"id": "job"}, hash=f"{number:064}", source="cli", owner=0, enabled=True,
        watermark=added, next_slot=None, added=added,
    )  # fmt: skip


def _add_run(db: store.Store, number: int, slot: int, at: int, end: int) -> None:
    job_id, _, _, seconds, fails, retries = JOBS[number]
    dice = random.Random(f"{job_id} {slot}")
    row = db.job_by_id(job_id)
    assert row is not None
    base = {"job_uid": row.uid, "job_id": job_id, "slot": slot, "priority": 2, "queued": at, "hash": f"{number:064}"}
    if dice.random() < (0.03 if job_id == "device_config" else 0.001):
        db.add_run(**base, trigger="schedule", status="skipped", reason="overlap", end_time=at)
        return
    run_id = db.add_run(**base, trigger="schedule", status="running")
    assert run_id is not None
    took = seconds * dice.lognormvariate(0, 0.25)
    over = min(end, at + round(took * 1000))
    # The export has failed for three days.
    failed = dice.random() < fails or (job_id == "vendor_export" and slot > end - 3 * _DAY)
    attempts = 2 if not failed and dice.random() < retries else 1
    values = {"start_time": at, "end_time": over, "duration": took, "attempts": attempts}
    if failed:
        error = "Traceback ...\nConnectionError: export.example.net: no route to <host>"
        db.update_run(run_id, status="failed", reason="exit", exit_code=1, error=error, **values)
        if row.failing_since is None:
            db.update_job(row.uid, failing_since=over)
        return
    db.update_run(run_id, status="completed", exit_code=0, **values)
    db.update_job(row.uid, last_success=over, failing_since=None)
    if job_id == "system_metrics":
        mounts = {"/": {"total": 80 << 30, "used": 41 << 30}, "/srv": {"total": 400 << 30, "used": 371 << 30}}
        db.update_run(run_id, result=msgpack.packb({"mounts": mounts}))
