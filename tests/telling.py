"""Histories of jobs as tables that read as sentences: steps that move a world of deciding.py, and what is told of it then.

A history is ({job id: keys}, [steps]). A step is a function of the world, whose answer is not False, or a `dict` of what
jobs have to tell at that point: of each run its slot, how it ended or where it is, and whether it was caught up. All times
are UTC, and of Monday, 2 March 2026, where they name no day.
"""

import deciding


def to(text):
    return lambda world: world.to(text)


def late(text):
    """The daemon sleeps with its host, or is stopped, until then."""
    return lambda world: world.late(text)


def clock(text):
    return lambda world: world.set_clock(text)


def restart(text, **more):
    return lambda world: world.restart(text, **more)


def end(job, code=0, **outcome):
    """The one attempt of the job that runs has ended so."""
    return lambda world: world.end(job, code, **outcome)


def by_hand(job, **request):
    return lambda world: world.start(job, **request)


def cancel(job, slot):
    """Somebody cancels the run of this slot."""

    def do(world):
        (run_id,) = [row.run_id for row in world.rows(job) if row.slot == deciding.ms(slot)]
        world.runs.cancel(run_id)

    return do


def on(job):
    return lambda world: world.registry.enable(job, deciding.WHO, on=True)


def off(job):
    return lambda world: world.registry.enable(job, deciding.WHO, on=False)


def remove(job):
    return lambda world: world.registry.remove(job, deciding.WHO, purge=False)


def edit(job, **changes):
    return lambda world: world.registry.edit(job, changes, (), deciding.WHO)


# What is told.


def errors(job, *texts):
    """What the rows of the job say was wrong, oldest first."""

    def look(world):
        assert [row.error for row in world.rows(job)] == list(texts)

    return look


def launched(*jobs):
    """What has been started since the supervisor began, in order."""

    def look(world):
        assert world.launched() == list(jobs)

    return look


def runs_of(job, count):
    """So many attempts of the job have been started since the supervisor began."""

    def look(world):
        assert world.launched().count(job) == count

    return look


def ended_with(*orders):
    """(run id, why) of every end that was asked for."""

    def look(world):
        assert [(run_id, cause) for run_id, _, cause in world.attempts.ended] == list(orders)

    return look


def reload(world):
    world.time.on_reload()
    world.runs.tick()
    world.settle()


def due(job, text):
    def look(world):
        next_slot = world.store.job(world.uid(job)).next_slot
        assert (None if next_slot is None else deciding.short(next_slot)) == text

    return look


def play(history, tmp_path, monkeypatch, **settings):
    """Live through it; it begins at 12:00:30."""
    jobs, steps = history
    world = deciding.World(tmp_path, monkeypatch, now="12:00:30", **settings)
    try:
        for job_id, keys in jobs.items():
            world.add(job_id, **{"max_retries": 0, **keys})
        for step in steps:
            if isinstance(step, dict):
                for job_id, expected in step.items():
                    assert says(world, job_id) == expected, job_id
            else:
                assert step(world) is not False
                world.settle()
        for job_id in jobs:
            all_once(world, job_id)
    finally:
        world.close()


def says(world, job_id):
    """What there is to tell of the runs of a job, oldest first."""
    return [told(row) for row in world.rows(job_id)]


def told(row):
    slot = "-" if row.slot is None else deciding.short(row.slot)
    catch_up = ", catch_up" if row.trigger == "catch_up" else ""
    return f"{slot} {row.reason or row.status}{catch_up}"


def all_once(world, job_id):
    """No slot has two rows."""
    slots = [row.slot for row in world.rows(job_id) if row.slot is not None]
    assert len(slots) == len(set(slots))
