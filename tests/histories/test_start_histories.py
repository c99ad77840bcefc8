"""What a start makes of job files that were changed while nothing ran: of what is due by then, and of what waits."""

import deciding
import pytest

HOURLY = {"id": "a", "command": "true", "schedule": "0 * * * *", "retry_jitter": False}
HALF_HOURLY = {**HOURLY, "schedule": "*/30 * * * *"}


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = deciding.World(tmp_path, monkeypatch, max_concurrent_jobs=1, reserved_slots=0)
    yield made
    made.close()


def begin(world, *jobs):
    world.bulk.at_once(world.plan(list(jobs)), deciding.WHO, "start")
    world.settle()


def test_a_slot_that_was_missed_runs_once_by_the_schedule_that_it_had(world):
    begin(world, HOURLY)
    world.restart("13:10", files=[HALF_HOURLY])
    assert world.told("a") == [("13:00", "running")]
    assert world.launched() == ["a"]
    world.end("a")
    world.to("13:30")
    assert world.told("a") == [("13:00", "completed"), ("13:30", "running")]


def test_a_slot_that_was_missed_overlaps_no_run_that_goes_on(world):
    begin(world, HOURLY)
    world.to("13:00")
    (run_id,) = [row.run_id for row in world.rows("a")]
    world.restart("14:10", held=[(run_id, 1)], same_launcher=True, files=[HALF_HOURLY])
    assert world.told("a") == [("13:00", "running"), ("14:00", "overlap")]
    assert world.launched() == []


@pytest.mark.parametrize(("files", "reason"), [([], "removed"), ([{**HOURLY, "enabled": False}], "disabled")])
def test_what_waits_for_a_place_does_not_start_if_its_job_was_taken_away(world, files, reason):
    other = {"id": "other", "command": "true", "schedule": "59 12 * * *"}
    begin(world, HOURLY, other)
    world.to("13:00")
    (run_id,) = [row.run_id for row in world.rows("other")]
    world.restart("13:10", held=[(run_id, 1)], same_launcher=True, files=[other, *files])
    world.end("other")
    assert world.told("a") == [("13:00", reason)]
    assert world.launched() == []


@pytest.mark.parametrize("files", [[], [{**HOURLY, "enabled": False}]])
def test_a_run_between_two_attempts_is_not_tried_again_if_its_job_was_taken_away(world, files):
    begin(world, {**HOURLY, "retry_delay": 600})
    world.to("13:00")
    world.end("a", 1)
    world.restart("13:30", files=[each | {"retry_delay": 600} for each in files])
    assert world.told("a") == [("13:00", "exit")]
    assert world.launched() == []


def test_what_came_since_a_backup_was_taken_is_missed_also_if_its_schedule_is_another_by_now(world):
    begin(world, HOURLY)
    world.store.meta_set("backup", str(world.now))
    world.restart("14:10", files=[HALF_HOURLY])
    assert world.told("a") == [("13:00", "missed"), ("14:00", "missed")]
    assert world.launched() == []
