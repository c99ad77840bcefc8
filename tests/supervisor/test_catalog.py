import deciding

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import catalog, cron


def test_a_job_comes_with_its_schedule_and_its_terms(world):
    uid = world.add("a", "*/5 * * * *", max_retries=2, timeout=7)
    job = world.catalog.get(uid)
    assert (job.config.id, job.terms.max_attempts, job.terms.timeout) == ("a", 3, 7)
    assert job.schedule.next_after(deciding.ms("12:01")) == deciding.ms("12:05")
    assert world.catalog.get(uid) is job


def test_a_job_without_schedule_has_none(world):
    assert world.catalog.get(world.add("a", None)).schedule is None


def test_a_job_that_is_not_there_or_was_removed_is_none(world):
    assert world.catalog.get(99) is None
    uid = world.add("a")
    world.catalog.get(uid)
    world.registry.remove("a", deciding.WHO, purge=False)
    assert world.catalog.get(uid) is None


def test_a_changed_job_is_read_anew_and_its_former_self_is_found_by_hash(make_world):
    world = make_world(max_concurrent_jobs=1)
    world.add("busy", None)
    world.start("busy")
    uid = world.add("a", None, command="old")
    before = world.catalog.get(uid)
    world.start("a")  # a run that refers to it keeps a definition
    world.registry.edit("a", {"command": "new"}, (), deciding.WHO)
    after = world.catalog.get(uid)
    assert (before.config.command, after.config.command) == ("old", "new")
    assert world.catalog.by_hash(uid, before.hash).config.command == "old"
    assert world.catalog.by_hash(uid, after.hash) is after
    assert world.catalog.by_hash(uid, "no such hash") is None


def test_of_many_definitions_the_lately_used_stay_in_memory(world, monkeypatch):
    monkeypatch.setattr(catalog, "_KEPT", 2)
    uids = [world.add(name) for name in ("a", "b", "c")]
    first = world.catalog.get(uids[0])
    world.catalog.get(uids[1])
    assert world.catalog.get(uids[0]) is first
    world.catalog.get(uids[2])
    assert world.catalog.get(uids[0]) is first
    assert len(world.catalog._kept) == 2


def test_parents_are_named_by_id_in_either_notation():
    assert catalog.parents(model.JobConfig("a", dependencies=["b", {"job": "c", "when": "ok"}])) == ["b", "c"]


def test_the_check_of_a_schedule_gives_its_error_as_text():
    check = catalog.checker("Europe/Berlin")
    assert check(model.JobConfig("a", schedule="0 0 * * *")) is None
    assert check(model.JobConfig("a")) is None
    text = check(model.JobConfig("a", schedule="0 0 31 2 *"))
    assert isinstance(text, str)
    assert text


def test_a_schedule_is_read_in_the_jobs_zone_else_in_the_daemons():
    own = catalog.schedule(model.JobConfig("a", schedule="0 12 * * *", timezone="Asia/Tokyo"), "Europe/Berlin")
    daemons = catalog.schedule(model.JobConfig("a", schedule="0 12 * * *"), "Europe/Berlin")
    assert isinstance(own, cron.Schedule)
    assert (own.next_after(deciding.ms("00:00")), daemons.next_after(deciding.ms("00:00"))) == (
        deciding.ms("03:00"),
        deciding.ms("11:00"),
    )
