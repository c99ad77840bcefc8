"""A store with something in it, for the tests of what can happen to its file."""

import contextlib

from lnmt_scheduler.supervisor import store

T = 1_767_225_600_000
HOUR = 3_600_000
PAGE = 4096


def fill(path, *, jobs=20, runs=500):
    """Jobs with tags and dependencies, runs with attempts in turn over them, and an audit; the file is whole at the end."""
    with contextlib.closing(store.Store.open(str(path))) as db:
        uids = [add_job(db, number) for number in range(jobs)]
        for number in range(runs):
            add_run(db, uids[number % jobs], number % jobs, number)
        db.meta_set("zone", "UTC")
        db.commit()
    return uids


def add_job(db, number):
    given = {"id": f"job-{number}", "command": ["/bin/true"], "schedule": "0 * * * *", "tags": [f"t{number % 3}"]}
    if number:
        given["dependencies"] = [f"job-{number - 1}"]
    uid = db.add_job(
        job_id=given["id"],
        given=given,
        origins={"id": "job"},
        hash=f"{number:064}",
        source="cli",
        owner=0,
        enabled=True,
        watermark=T,
        next_slot=T + HOUR,
        added=T,
        dependencies=given.get("dependencies", ()),
    )
    db.audit_add(time=T, uid=0, user="root", action="add", target=given["id"], after=given)
    return uid


def add_run(db, uid, number, at):
    run_id = db.add_run(
        job_uid=uid,
        job_id=f"job-{number}",
        slot=T + at * HOUR,
        trigger="schedule",
        status="running",
        priority=2,
        queued=T + at * HOUR,
        hash=f"{number:064}",
    )
    db.add_attempt(run_id, 1, T + at * HOUR)
    db.end_attempt(run_id, 1, ended=T + at * HOUR + 1000, status="completed", exit_code=0)
    db.update_run(run_id, status="completed", attempts=1, exit_code=0, end_time=T + at * HOUR + 1000, error="x" * 200)
    return run_id


def spoil(path, page):
    """Fill a page of the file, counted from 1, with what is no page."""
    with open(path, "r+b") as file:
        file.seek((page - 1) * PAGE)
        file.write(b"\xff" * PAGE)
