"""Histories of jobs as tables that read as sentences: steps that move a world of deciding.py, and what is told of it then.

A history is ({job id: keys}, [steps]). A step is a function of the world, whose answer is not False, or a `dict` of what
jobs have to tell at that point: of each run its slot, or what else asked for it (`-`: a person), how it ended or where it is,
and whether it was caught up. All times are UTC, and of Monday, 2 March 2026, where they name no day.
"""

import deciding
import pytest

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor.connection import RefusedError


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


def pause(job=None, seconds=None, reason=None):
    """A job, or all of them."""
    return lambda world: world.registry.pause(job, seconds, reason, deciding.WHO)


def resume(job=None):
    return lambda world: world.registry.resume(job, deciding.WHO)


def trigger(event, data=None):
    return lambda world: world.registry.trigger(event, data, deciding.WHO)


def rename(job, new):
    return lambda world: world.registry.rename(job, new, deciding.WHO)


# What is told.


def refused(step, *words):
    """The step is refused, in these words."""

    def look(world):
        with pytest.raises(RefusedError) as caught:
            step(world)
        said = "\n".join([caught.value.message, *caught.value.details])
        assert all(word in said for word in words), said

    return look


def errors(job, *texts):
    """What the rows of the job say was wrong, oldest first."""

    def look(world):
        assert [row.error for row in world.rows(job)] == list(texts)

    return look


def event_of(job, **facts):
    """What the newest run of the job is told of its event, as far as it is asked for."""

    def look(world):
        event = world.row(job).request["event"]
        assert {key: event[key] for key in facts} == facts

    return look


def parents_of(job, **runs):
    """The slots of the runs that the job's last start builds on; None: by hand, or asked for otherwise."""

    def look(world):
        order = [order for order in world.attempts.orders if order.job_uid == world.uid(job)][-1]
        slots = {parent: world.store.run(told["run_id"]).slot for parent, told in order.parents.items()}
        assert {parent: slot and deciding.short(slot) for parent, slot in slots.items()} == runs

    return look


def failing(job, failures, since):
    def look(world):
        row = world.store.job(world.uid(job))
        assert (row.failures, row.failing_since and deciding.short(row.failing_since)) == (failures, since)

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
        hooks = {job_id: {key: keys[key] for key in model.HOOKS if key in keys} for job_id, keys in jobs.items()}
        for job_id, keys in jobs.items():
            world.add(job_id, **{"max_retries": 0, **{key: keys[key] for key in keys if key not in model.HOOKS}})
        for job_id, keys in hooks.items():
            if keys:  # what they start is there by now
                world.registry.edit(job_id, keys, (), deciding.WHO)
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
    asked = {"manual": "-"}.get(row.trigger, row.trigger)
    slot = asked if row.slot is None else deciding.short(row.slot)
    catch_up = ", catch_up" if row.trigger == "catch_up" else ""
    return f"{slot} {row.reason or row.status}{catch_up}"


def all_once(world, job_id):
    """No slot has two rows."""
    slots = [row.slot for row in world.rows(job_id) if row.slot is not None]
    assert len(slots) == len(set(slots))
