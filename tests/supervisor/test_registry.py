"""Who may define what, what follows from it, and what the audit says; on a real store."""

import deciding
import pytest

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import attempts, config, definitions, planning, rows, run, views
from lnmt_scheduler.supervisor.connection import RefusedError

JOBS_D = "/etc/jobs.d/site.json"


def plan(world, jobs, *, label=JOBS_D, prune=True):
    """What a reload of one file would do."""
    document = planning.Document(label, f"{definitions.FILE}{label}", {"jobs": jobs})
    return finish(world.planner.plan([document], owned=lambda source: source.startswith(definitions.FILE), prune=prune))


def finish(work):
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def reload(world, *jobs):
    made = plan(world, list(jobs))
    world.bulk.at_once(made, deciding.WHO, "reload")
    world.settle()
    return made.counts


def job(job_id, **keys):
    return {"id": job_id, "command": "true", **keys}


def refused(action, *arguments, **more):
    with pytest.raises(RefusedError) as error:
        action(*arguments, **more)
    return error.value


def audit(world):
    return [(entry.action, entry.target) for entry in world.store.audit_page()[::-1]]


def test_an_id_in_use_is_refused(world):
    world.add("a")
    error = refused(world.add, "a")
    assert (error.code, error.message) == (control.INVALID, "job 'a' is there already; change it with: schedctl edit a")


def test_an_unknown_job_is_not_found(world):
    for action in (world.job_row, lambda name: world.registry.remove(name, deciding.WHO, purge=False)):
        assert refused(action, "nope").code == control.NOT_FOUND


def test_an_edit_keeps_the_other_keys_and_unset_puts_back_the_default(world):
    world.add("a", timeout=5, max_retries=1)
    row = world.registry.edit("a", {"timeout": "1m"}, ["max_retries"], deciding.WHO)
    assert row.given["timeout"] == 60
    assert "max_retries" not in row.given
    assert world.catalog.get(row.uid).config.max_retries == 3


def test_an_edit_keeps_what_the_defaults_of_an_imported_file_gave(world):
    values = {"jobs": [job("a")], "defaults": {"max_retries": 0, "kwargs": {"n": 1}, "tags": ["night"]}}
    document = planning.Document("jobs.json", definitions.CLI, values)
    made = finish(world.planner.plan([document], owned=lambda _: True, prune=False))
    world.bulk.at_once(made, deciding.WHO, "import")
    before = world.job_row("a").given
    row = world.registry.edit("a", {"timeout": 5}, (), deciding.WHO)
    assert row.given == {**before, "timeout": 5}
    assert world.catalog.get(row.uid).config.max_retries == 0


UNTRUSTED = {"profile": "untrusted"}


def become(world, default_profile):
    """A reload of the configuration."""
    world.vetting.configure(config.parse({"default_profile": default_profile}, "C"))


def box(world, job_id):
    row = world.job_row(job_id)
    return row.given["sandbox"], row.origins.get("sandbox")


def test_the_box_of_a_job_made_by_hand_stays_whatever_the_default_becomes_and_whatever_else_is_edited(world):
    world.add("a")
    become(world, "trusted")
    assert box(world, "a") == ({"profile": "standard"}, None)
    world.registry.edit("a", {"timeout": 5}, (), deciding.WHO)
    assert box(world, "a") == ({"profile": "standard"}, None)
    world.add("b")
    become(world, "untrusted")
    world.registry.edit("b", {"timeout": 5}, (), deciding.WHO)
    assert box(world, "b") == ({"profile": "trusted"}, "site defaults")


def test_its_box_changes_by_an_edit_of_it_alone(world):
    world.add("a")
    become(world, "untrusted")
    world.registry.edit("a", {"sandbox": "trusted"}, (), deciding.WHO)
    assert box(world, "a") == ({"profile": "trusted"}, "job")
    world.registry.edit("a", {}, ["sandbox"], deciding.WHO)
    assert box(world, "a") == (UNTRUSTED, "site defaults")


def test_a_job_of_a_file_follows_the_default_at_the_next_reload(world):
    reload(world, job("a"), job("b", sandbox="standard"))
    become(world, "untrusted")
    assert reload(world, job("a"), job("b", sandbox="standard"))["changed"] == 1
    assert [box(world, each) for each in "ab"] == [(UNTRUSTED, "site defaults"), ({"profile": "standard"}, "job")]


def test_a_run_that_was_decided_before_keeps_the_box_that_it_was_decided_with(world):
    reload(world, job("a", schedule="0 * * * *"))
    world.start("a")
    old = world.row("a").hash
    become(world, "untrusted")
    reload(world, job("a", schedule="0 * * * *"))
    assert world.catalog.by_hash(world.uid("a"), old).config.sandbox == {"profile": "standard"}
    assert world.catalog.get(world.uid("a")).config.sandbox == UNTRUSTED


def test_an_obstacle_is_told_where_a_job_is_defined_and_not_where_it_stays_as_it_was(world):
    reload(world, job("old"))
    world.vetting._obstacles = lambda made: [("working_directory", f"{made.id} is in the way")]
    error = refused(world.add, "a")
    assert (error.code, error.message) == (control.INVALID, "job 'a': key 'working_directory': a is in the way")
    error = refused(plan, world, [job("old"), job("new")])
    assert error.message == f"{JOBS_D}: job 'new': key 'working_directory': new is in the way"
    assert reload(world, job("old"))["unchanged"] == 1


def test_a_plan_goes_by_the_site_defaults_that_will_hold(world):
    reload(world, job("a"))
    document = planning.Document(JOBS_D, f"{definitions.FILE}{JOBS_D}", {"jobs": [job("a")]})
    settings = config.Settings(defaults={"max_retries": 7})
    made = finish(world.planner.plan([document], owned=lambda _: True, prune=True, settings=settings))
    assert made.counts == {"added": 0, "changed": 1, "removed": 0, "unchanged": 0}
    assert [change.diff() for change in world.planner.changes(made)] == [["+ max_retries: 7"]]


def test_an_edit_of_the_schedule_decides_from_now_on_and_another_edit_keeps_the_watermark(world):
    uid = world.add("a")
    world.to("13:30")
    world.registry.edit("a", {"timeout": 5}, (), deciding.WHO)
    assert world.store.job(uid).watermark == deciding.ms("13:00")
    world.registry.edit("a", {"schedule": "*/20 * * * *"}, (), deciding.WHO)
    assert world.store.job(uid).watermark == deciding.ms("13:30")
    assert world.runs.slots.next_fire() == (deciding.ms("13:40"), uid)


def test_an_id_cannot_be_edited(world):
    world.add("a")
    assert (
        refused(world.registry.edit, "a", {"id": "b"}, (), deciding.WHO).message == "the id of a job cannot be edited"
    )


def test_a_cycle_through_an_edit_is_refused(world):
    world.add("a")
    world.add("b", dependencies=["a"])
    error = refused(world.registry.edit, "a", {"dependencies": ["b"]}, (), deciding.WHO)
    assert error.code == control.INVALID
    assert "a" in error.message
    assert "b" in error.message


def test_a_job_with_dependents_is_not_removed(world):
    world.add("a")
    world.add("b", dependencies=["a"])
    error = refused(world.registry.remove, "a", deciding.WHO, purge=False)
    assert (error.code, error.message) == (control.INVALID, "b depend on 'a'; remove them first")
    world.registry.remove("b", deciding.WHO, purge=False)
    world.registry.remove("a", deciding.WHO, purge=False)
    assert world.store.counts().jobs == 0


def test_a_removed_job_lets_its_run_end_and_a_new_one_of_its_name_has_a_history_of_its_own(world):
    old = world.add("a")
    world.to("13:00")
    (each,) = world.runs.active(old)
    world.registry.remove("a", deciding.WHO, purge=False)
    new = world.add("a")
    assert new != old
    assert world.rows("a") == []
    world.runs.on_attempt_ended(each.run_id, 1, run.Outcome(exit_code=0), attempts.Facts(exit_code=0))
    world.settle()
    assert world.store.run(each.run_id).status == "completed"
    assert world.rows("a") == []
    assert world.store.job(new).last_success is None


def test_a_renamed_job_keeps_its_history_and_who_names_it_follows(world):
    uid = world.add("a")
    world.add("b", dependencies=["a", "b"])
    world.add("c", None, on_failure=["a"], dependencies=[{"job": "b", "when": "any"}])
    world.to("13:00")
    world.end("a")
    row, followed = world.registry.rename("a", "new", deciding.WHO)
    assert (row.uid, row.given["id"], followed) == (uid, "new", ["b", "c"])
    assert [run.status for run in world.rows("new")] == ["completed"]
    assert world.job_row("b").given["dependencies"] == ["new", "b"]
    assert world.job_row("c").given["on_failure"] == ["new"]
    assert world.store.dependents("new") == ["b"]
    assert refused(world.job_row, "a").message == "no job 'a'; it is 'new' now"
    assert audit(world)[-1] == ("rename", "a")
    world.add("a")
    assert world.uid("a") != uid
    world.to("14:00")
    assert world.told("new") == [("13:00", "completed"), ("14:00", "running")]


def test_a_job_is_not_renamed_if_a_file_would_go_on_to_name_it(world):
    world.add("a")
    reload(world, job("b", schedule="0 * * * *", dependencies=["a"]))
    error = refused(world.registry.rename, "a", "new", deciding.WHO)
    assert error.message == f"'a' is named by jobs of files: b ({JOBS_D}); change these first"
    error = refused(world.registry.rename, "b", "new", deciding.WHO)
    assert error.message == f"job 'b' is defined in {JOBS_D}; change that file, then: schedctl reload"


def test_a_schedule_with_h_is_decided_anew_under_another_name(world):
    uid = world.add("a", "H * * * *")
    world.to("13:59:59")
    world.registry.rename("a", "quite-another", deciding.WHO)
    row = world.store.job(uid)
    assert row.next_slot == world.catalog.get(uid).schedule.next_after(row.watermark)
    assert world.runs.slots.next_fire() == (row.next_slot, uid)
    assert row.next_slot > world.now


def test_a_job_that_others_start_is_not_removed_by_a_file_either(world):
    reload(world, job("a"), job("b", on_success=["a"]))
    error = refused(plan, world, [job("b", on_success=["a"])])
    assert error.message == f"{JOBS_D}: job 'b': key 'on_success': unknown job 'a'"
    error = refused(plan, world, [job("a", on_failure=["b"]), job("b", on_success=["a"])])
    assert error.message == f"{JOBS_D}: job 'a': starts itself again and again: a -> b -> a"


def test_purge_leaves_nothing_of_a_job(world):
    uid = world.add("a")
    world.to("13:00")
    world.end("a")
    assert world.registry.remove("a", deciding.WHO, purge=True) == uid
    assert list(world.purge.job(uid))
    assert world.store.job(uid) is None
    assert world.store.history() == []
    assert world.store.meta_keys("purge:") == []
    assert audit(world) == [("add", "a"), ("purge", "a")]


def test_purge_of_a_running_job_is_refused_and_changes_nothing(world):
    uid = world.add("a")
    world.to("13:00")
    error = refused(world.registry.remove, "a", deciding.WHO, purge=True)
    assert (error.code, error.message) == (control.FAILED, "run 1 of 'a' has not ended; cancel it first, then purge")
    world.settle()
    assert world.store.job_by_id("a").uid == uid
    assert audit(world) == [("add", "a")]


def test_enable_decides_from_now_on(world):
    uid = world.add("a")
    world.registry.enable("a", deciding.WHO, on=False)
    assert world.runs.slots.next_fire() is None
    world.to("15:30")
    world.registry.enable("a", deciding.WHO, on=True)
    assert world.rows("a") == []
    assert world.runs.slots.next_fire() == (deciding.ms("16:00"), uid)


def test_a_reload_adds_changes_removes_and_leaves_alone(world):
    world.add("mine")
    assert reload(world, job("a"), job("b", schedule="0 * * * *"), job("c")) == {
        "added": 3,
        "changed": 0,
        "removed": 0,
        "unchanged": 0,
    }
    world.to("13:30")
    counts = reload(world, job("a", timeout=5), job("b", schedule="0 * * * *"), job("d"))
    assert counts == {"added": 1, "changed": 1, "removed": 1, "unchanged": 1}
    assert [row.job_id for row in world.store.jobs_page()] == ["a", "b", "d", "mine"]
    assert world.store.job_by_id("b").watermark == deciding.ms("13:00")
    assert audit(world)[-3:] == [("reload: add", "d"), ("reload: change", "a"), ("reload: remove", "c")]


def test_the_same_content_in_another_notation_is_unchanged(world):
    reload(world, job("a", timeout=60))
    assert reload(world, {"timeout": "1m", "command": "true", "id": "a", "priority": "normal"})["unchanged"] == 1


def test_a_file_that_turns_a_job_off_or_on_is_heard_and_otherwise_a_person_is(world):
    reload(world, job("a"))
    world.registry.enable("a", deciding.WHO, on=False)
    assert reload(world, job("a"))["unchanged"] == 1
    assert not world.store.job_by_id("a").enabled
    assert reload(world, job("a", timeout=5))["changed"] == 1
    assert not world.store.job_by_id("a").enabled
    world.registry.enable("a", deciding.WHO, on=True)
    assert reload(world, job("a", timeout=5, enabled=False))["changed"] == 1
    assert not world.store.job_by_id("a").enabled
    assert reload(world, job("a", timeout=5))["changed"] == 1
    assert world.store.job_by_id("a").enabled


def test_a_job_of_a_file_is_the_files(world):
    reload(world, job("a"))
    for action in (
        lambda: world.registry.edit("a", {"timeout": 5}, (), deciding.WHO),
        lambda: world.registry.remove("a", deciding.WHO, purge=False),
    ):
        error = refused(action)
        assert error.code == control.INVALID
        assert error.message == f"job 'a' is defined in {JOBS_D}; change that file, then: schedctl reload"


def test_a_file_cannot_take_the_job_of_a_person(world):
    world.add("a")
    error = refused(plan, world, [job("a")])
    assert error.message == f"{JOBS_D}: job 'a': key 'id': is defined by schedctl or a program already"


def test_one_id_in_two_files_is_refused(world):
    documents = [planning.Document(name, f"file:{name}", {"jobs": [job("a")]}) for name in ("/one.json", "/two.json")]
    error = refused(finish, world.planner.plan(documents, owned=lambda _: True, prune=True))
    assert error.message == "/two.json: job 'a': key 'id': is defined in /one.json too"


def test_every_problem_is_named_and_nothing_is_taken(world):
    error = refused(plan, world, [job("a", timeuot=5), job("b", schedule="@daily", dependencies=["c"]), job("d")])
    assert error.code == control.INVALID
    assert error.message == "nothing was taken: 2 problems"
    assert len(error.details) == 2
    assert all(JOBS_D in error.details[0] and word in error.details[0] for word in ("'a'", "timeuot", "timeout"))
    assert all(word in error.details[1] for word in (JOBS_D, "'b'", "'dependencies'", "'c'"))
    assert world.store.counts().jobs == 0


def test_a_parent_cannot_vanish_from_its_file(world):
    child = job("b", schedule="@daily", dependencies=["a"])
    reload(world, job("a"), child)
    message = refused(plan, world, [child]).message
    assert message.startswith(f"{JOBS_D}: job 'b': key 'dependencies': ")
    assert "'a'" in message


def test_a_plan_that_others_have_overtaken_is_not_carried_out(world):
    jobs = [job(f"j{number}") for number in range(60)]
    work = world.planner.plan(
        [planning.Document("jobs.json", definitions.CLI, {"jobs": jobs})], owned=lambda _: True, prune=False
    )
    next(work)
    world.add("j59")
    error = refused(finish, work)
    assert error.code == control.FAILED
    assert "try again" in error.message
    assert world.store.counts().jobs == 1


def test_a_diff_shows_what_changes_and_no_secret(world):
    reload(world, job("a", timeout=5, environment={"API_TOKEN": "old"}))
    made = plan(world, [job("a", environment={"API_TOKEN": "new", "LANG": "C"}), job("b")])
    added, changed = world.planner.changes(made)
    assert (added.action, added.job_id, changed.action) == ("add", "b", "change")
    assert "- timeout: 5" in [line.replace("5.0", "5") for line in changed.diff()]
    text = "\n".join(changed.diff())
    assert "LANG" in text
    assert "old" not in text
    assert "new" not in text


def test_a_diff_shows_that_a_secret_changes(world):
    reload(world, job("a", environment={"API_TOKEN": "old"}))
    (changed,) = world.planner.changes(plan(world, [job("a", environment={"API_TOKEN": "new"})]))
    shown = 'environment: {"API_TOKEN": "***"}'
    assert changed.diff() == [f"- {shown}", f"+ {shown}"]


def test_the_audit_says_who_what_before_and_after_and_shows_no_secret(world):
    world.add("a", environment={"DB_PASSWORD": "hunter2"})
    world.registry.edit("a", {"timeout": 9}, (), definitions.Who(uid=1000, user="ann"))
    entry, added = world.store.audit_page()
    assert (entry.uid, entry.user, entry.action, entry.target, entry.time) == (1000, "ann", "edit", "a", world.now)
    assert "timeout" not in entry.before
    assert entry.after["timeout"] == 9
    assert added.before is None
    shown = views.audit_view(rows.as_map(entry))
    assert shown["after"]["environment"] == {"DB_PASSWORD": views.MASK}
    assert "hunter2" not in str(shown)
