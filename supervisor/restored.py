"""The first start on a backup that was put back: what happened since it was taken is not known, and is not done again.

`schedctl backup` writes into its copy that it is one, and when it was taken. The daemon that finds this in its store
decides every slot since then as missed, whatever its job would catch up, takes runs that were open for lost, whether or not
they may be repeated, and leaves out a million run numbers, so that none is given again to a run of the time that is gone.
"""

from collections.abc import Iterator

from lnmt_scheduler.supervisor import catalog, journal, rows, schedule, store, views

_KEY = "backup"
_RUN_IDS = 1_000_000


def take_up(history: store.Store, jobs: catalog.Catalog, *, now: int, uid: int) -> Iterator[None]:
    """Do so if the store is a backup; yields between jobs."""
    taken = history.meta_get(_KEY)
    if taken is None:
        return
    ended = [row.run_id for row in history.open_runs()]
    for run_id in ended:
        words = "the store was put back from a backup; what became of this run is not known"
        history.update_run(run_id, status="failed", reason="lost", end_time=now, error=words)
        yield
    missed = 0
    for key in list(history.schedule_rows()):
        job = jobs.get(key.uid)
        if job is not None and job.schedule is not None:
            missed += _pass_over(history, job, key.watermark, now)
        yield
    history.skip_run_ids(_RUN_IDS)
    history.meta_drop(_KEY)
    when = views.iso(int(taken))
    history.audit_add(time=now, uid=uid, user="schedd", action="restore", target="daemon", after={"taken": when})
    journal.notice(
        f"the store is a backup of {when}: {missed} slots since then are missed, {len(ended)} open runs lost"
    )


def _pass_over(history: store.Store, job: catalog.Job, watermark: int, now: int) -> int:
    """Decide the job's slots up to now as missed; how many."""
    assert job.schedule is not None
    slots = schedule.plan(watermark, now, job.schedule.next_after, 0)
    skips = [*slots.skips, *(schedule.Skip(slot, slot, 1, "missed") for slot in slots.runs)]
    history.add_skips(
        rows.Skip(
            job_uid=job.uid,
            job_id=job.config.id,
            slot=skip.first,
            slot_last=skip.last if skip.count > 1 else None,
            slots=skip.count,
            reason="missed",
            priority=int(job.config.priority),
            queued=now,
            hash=job.hash,
            error="the store was put back from a backup",
        )
        for skip in skips
    )
    history.update_job(job.uid, watermark=slots.watermark, next_slot=slots.next)
    return sum(skip.count for skip in skips)
