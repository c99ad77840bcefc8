"""Changes of a job that meet its slots and its runs: the smallest histories of what the simulation found."""

import deciding
import pytest

CHANGES = {
    "disabled": (lambda world: world.registry.enable("a", deciding.WHO, on=False), "disabled"),
    "removed": (lambda world: world.registry.remove("a", deciding.WHO, purge=False), "removed"),
    "put on another schedule": (
        lambda world: world.registry.edit("a", {"schedule": "@daily"}, (), deciding.WHO),
        "running",
    ),
}


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = deciding.World(tmp_path, monkeypatch)
    yield made
    made.close()


@pytest.mark.parametrize("what", CHANGES)
def test_a_slot_that_is_due_as_its_job_is(world, what):
    # The request is read before the alarm in the same turn of the loop, or the loop was late.
    change, outcome = CHANGES[what]
    world.add("a")
    world.to("12:59:59")
    world.now = deciding.ms("13:00")
    change(world)
    world.runs.tick()
    world.settle()
    assert world.told("a") == [("13:00", outcome)]
    assert world.launched() == (["a"] if outcome == "running" else [])


def test_all_that_was_due_is_told_when_its_job_is_disabled_after_a_rest(world):
    world.add("a")
    world.now = deciding.ms("15:10")
    world.registry.enable("a", deciding.WHO, on=False)
    world.settle()
    assert world.told("a") == [("13:00", "coalesced"), ("14:00", "coalesced"), ("15:00", "disabled")]


def test_an_attempt_of_a_job_that_was_disabled_is_not_followed_by_another_after_a_restart(world):
    world.add("a", max_retries=3)
    world.to("13:00")
    world.registry.enable("a", deciding.WHO, on=False)
    world.settle()
    (run_id,) = [row.run_id for row in world.rows("a")]
    world.restart("13:05", held=[(run_id, 1)], same_launcher=True)
    world.end("a", exit_code=1)
    assert world.told("a") == [("13:00", "exit")]


def test_a_run_by_hand_of_a_job_that_is_off_keeps_its_retries_over_a_restart(world):
    world.add("a", max_retries=3)
    world.registry.enable("a", deciding.WHO, on=False)
    run_id = world.start("a", with_retries=True)
    world.restart("12:10", held=[(run_id, 1)], same_launcher=True)
    world.end("a", exit_code=1)
    assert world.told("a") == [(None, "retrying")]


def test_a_gap_whose_first_slot_has_its_row_from_before_the_clock_was_set_back_is_told_from_the_next_on(world):
    world.add("a", "* * * * *")
    world.to("12:01")
    world.end("a")
    world.now = deciding.ms("12:00:20")
    for on in (False, True):
        world.registry.enable("a", deciding.WHO, on=on)
    world.settle()
    world.restart("15:00")
    first, gap, newest = world.rows("a")
    assert (first.slot, first.status) == (deciding.ms("12:01"), "completed")
    assert (gap.slot, gap.slot_last, gap.slots) == (deciding.ms("12:02"), deciding.ms("14:59"), 178)
    assert (newest.slot, newest.status) == (deciding.ms("15:00"), "running")
