"""why.py, asked of what the real dispatcher has written down: every answer is a sentence that rows bear out."""

import deciding
import pytest

from lnmt_scheduler.supervisor import rows, why

SLOTS = "0 * * * *"


def ask(world, job_id, at=None, **more):
    return whole(world, job_id, at, **more)["answer"]


def whole(world, job_id, at=None, **more):
    moment, host = None if at is None else deciding.ms(at), world.catalog.host
    return why.answer(world.store, "UTC", job_id, moment, world.now, host=host, **more)


def audit(world, action, target, at="11:00", user="ada"):
    world.store.audit_add(time=deciding.ms(at), uid=1000, user=user, action=action, target=target)


# Slots that were


def test_a_slot_that_ran(world):
    world.add("a", SLOTS)
    world.to("13:00")
    world.to("13:00:03")
    world.end("a")
    assert ask(world, "a", "13:00") == "13:00 slot completed in 3s (run 1)"
    assert ask(world, "a", "13:00:30", span=1000).startswith("no slot at 13:00:30")


def test_a_slot_whose_gate_was_shut_names_the_parent_and_how_it_failed(world):
    world.add("collect_data", SLOTS, max_retries=2, retry_delay=0)
    world.add("b", SLOTS, dependencies=["collect_data"])
    world.to("13:00")
    for _ in range(3):
        world.end("collect_data", exit_code=3)
    assert (
        ask(world, "b", "13:00")
        == "13:00 slot skipped: gate on collect_data, whose 13:00 run failed (exit 3) after 3 attempts"
    )
    assert ask(world, "collect_data", "13:00") == "13:00 slot failed (exit 3) after 3 attempts in 0s (run 1)"


def test_a_slot_that_came_while_the_job_ran(world):
    world.add("a", SLOTS)
    world.to("14:00")
    assert ask(world, "a", "14:00") == "14:00 slot skipped: the run before it had not ended (run 1 has not ended)"


def test_slots_that_were_missed_and_the_one_that_ran_for_them(world):
    world.add("a", SLOTS)
    world.late("16:30")
    world.end("a")
    assert ask(world, "a", "14:00").startswith("14:00 slot skipped: several slots had been missed")
    assert ask(world, "a", "16:00") == "16:00 slot completed in 0s, caught up 30m late (run 4)"


def test_a_gap_of_slots_in_one_row_is_found_by_any_of_them(world):
    world.add("a", "* * * * *")
    world.late("20:00")
    assert ask(world, "a", "15:17").startswith("479 slots from 12:01 to 19:59 skipped: several slots had been missed")


def test_what_a_run_is_doing(world):
    world.add("a", SLOTS, max_retries=1, retry_delay=600)
    world.to("13:00")
    assert ask(world, "a", "13:00") == "13:00 slot is running since 13:00 (run 1, attempt 1 of 2)"
    assert ask(world, "a") == "13:00 slot is running since 13:00 (run 1, attempt 1 of 2)"
    world.end("a", exit_code=4)
    assert (
        ask(world, "a")
        == "13:00 slot failed in attempt 1 of 2 (exit 4); the next attempt at 13:10 (run 1)"
    )  # fmt: skip


def test_what_a_run_waits_for(make_world):
    world = make_world(max_concurrent_jobs=1)
    live = why.Live(waits_for=lambda row: world.runs.waits_for(row.run_id))
    world.add("a", SLOTS)
    world.add("b", SLOTS)
    world.add("c", SLOTS, dependencies=["a"])
    world.to("13:00")
    assert ask(world, "b", live=live) == "13:00 slot waits: for a place; 1 of 1 are taken (run 2)"
    assert ask(world, "c", live=live) == (
        "13:00 slot waits: gate on a, whose 13:00 run is still running, until 14:00 at most (run 3)"
    )
    # The rows alone know less, and nothing that is wrong.
    assert ask(world, "b") == "13:00 slot waits: for a place among the runs (run 2)"
    assert ask(world, "c") == "13:00 slot waits: for a, until 14:00 at most (run 3)"


def test_a_run_by_hand_that_was_under_way(world):
    world.add("a", SLOTS)
    world.start("a")
    world.to("12:30")
    world.end("a")
    assert ask(world, "a", "12:20") == "no slot at 12:20; run 1 (by hand by root, 12:00:30) completed in 29m30s (run 1)"
    assert ask(world, "a", "12:40").startswith("no slot at 12:40: the schedule 0 * * * * names none then")


def test_what_was_asked_for_by_others_and_did_not_start_says_why(world):
    world.add("a", None, on_event="link")
    world.add("b", SLOTS, on_event="link")
    world.add("c", None, dependencies=["b"])
    pause(world, "a", None)
    pause(world, "c", None)
    world.to("13:00")
    world.registry.trigger("link", None, deciding.WHO)
    world.settle()
    world.to("13:20")
    world.end("b")
    world.registry.enable("a", deciding.WHO, on=False)
    world.to("14:10")
    world.registry.trigger("link", None, deciding.WHO)
    world.settle()
    paused = "it was paused by root at 2026-03-02T12:00:30.000Z"
    assert ask(world, "a", "13:00") == f"no slot at 13:00; run 2 (by event, 13:00) skipped: {paused}"
    assert ask(world, "c", "13:20") == f"no slot at 13:20; run 4 (by dependency, 13:20) skipped: {paused}"
    assert ask(world, "a", "14:10") == "no slot at 14:10; run 6 (by event, 14:10) skipped: its job is disabled"
    assert whole(world, "a", "14:10")["reason"] == "disabled"
    assert ask(world, "a", "13:30") == "nothing at 13:30: it starts at the event link, and no run of it was under way"
    assert ask(world, "b", "14:10").endswith("skipped: the run before it had not ended (run 5 has not ended)")
    assert ask(world, "b", "14:05") == "no slot at 14:05; 14:00 slot is running since 14:00 (run 5, attempt 1 of 4)"


# Slots without a row


def test_a_slot_from_before_the_job(world):
    world.add("a", SLOTS)
    audit(world, "add", "a", at="12:00:30")
    world.to("12:30")
    said = ask(world, "a", "11:00")
    assert said == "11:00 slot is from before the job was added, at 12:00:30 by ada"


def test_a_slot_while_the_job_was_disabled_names_who_did_it(world):
    world.add("a", SLOTS)
    world.to("12:30")
    world.registry.enable("a", deciding.WHO, on=False)
    world.settle()
    world.to("14:30")
    assert ask(world, "a", "14:00") == "14:00 slot had no run: the job was disabled by root at 12:30"
    assert ask(world, "a").endswith("next slot 15:00, but the job is disabled, since 12:30 by root")
    world.registry.enable("a", deciding.WHO, on=True)
    world.settle()
    assert ask(world, "a", "14:00") == "14:00 slot had no run: the job was disabled by root at 12:30"


def test_a_slot_that_the_schedule_did_not_have_then(world):
    world.add("a", "30 * * * *")
    world.to("13:45")
    world.registry.edit("a", {"schedule": SLOTS}, (), deciding.WHO)
    world.settle()
    world.to("13:50")
    assert ask(world, "a", "13:00") == (
        "13:00 slot has no row: the job was changed later, at 13:45 by root (edit), and slots before that are of what it was"
    )


def test_a_slot_that_is_not_decided_yet(world):
    world.add("a", SLOTS)
    world.now = deciding.ms("13:05")
    assert "not decided yet: the daemon does not run" in ask(world, "a", "13:00")


def test_a_row_that_retention_took(world):
    world.add("a", SLOTS)
    world.to("15:00")
    for row in world.rows("a"):
        if row.slot == deciding.ms("13:00"):
            world.store._change("DELETE FROM job_history WHERE run_id = ?", row.run_id)
    assert "older than what is kept" in ask(world, "a", "13:00")


# The future


def test_a_slot_to_come(world):
    world.add("a", SLOTS)
    assert ask(world, "a", "15:00") == "15:00 slot is to come, in 2h59m"
    assert ask(world, "a", "15:20") == (
        "no slot at 15:20: the schedule 0 * * * * names none then; after it: next slot 16:00"
    )


def test_a_slot_to_come_of_a_job_that_is_off(world):
    world.add("a", SLOTS, dependencies=[])
    world.add("b", SLOTS, dependencies=["a"])
    assert ask(world, "b", "15:00") == "15:00 slot is to come, in 2h59m, after a"
    world.registry.enable("b", deciding.WHO, on=False)
    world.settle()
    assert ask(world, "b", "15:00").endswith("but the job is disabled, since 12:00:30 by root")


# Jitter; of ten minutes it puts "a" off by 8m49s on this host.


def test_a_slot_whose_jitter_is_not_over_is_to_come(world):
    world.add("a", SLOTS, jitter=600)
    world.to("13:05")
    assert ask(world, "a", "13:00") == "13:00 slot is to come, in 3m50s, due at 13:08:49 (jitter)"
    assert ask(world, "a").endswith("; next slot 13:00, due at 13:08:49 (jitter)")
    assert ask(world, "a", "13:05").endswith("; after it: next slot 13:00, due at 13:08:49 (jitter)")
    world.now = deciding.ms("13:09")
    assert "not decided yet" in ask(world, "a", "13:00")


def test_a_run_is_not_late_by_its_jitter(world):
    world.add("a", SLOTS, jitter=600)
    world.to("13:20")
    world.end("a")
    assert ask(world, "a", "13:00") == "13:00 slot completed in 11m10s (run 1)"
    assert ask(world, "a", "13:05").endswith("(run 1); after it: next slot 14:00, due at 14:08:49 (jitter)")
    world.late("14:20:50")
    world.end("a")
    assert ask(world, "a", "14:00") == "14:00 slot completed in 0s, caught up 12m late (run 2)"


def test_a_run_is_as_late_as_the_jitter_of_its_time_says(world):
    world.add("a", SLOTS)
    world.late("13:20")
    world.end("a")
    world.registry.edit("a", {"jitter": 3600}, (), deciding.WHO)
    world.settle()
    assert ask(world, "a", "13:00") == "13:00 slot completed in 0s, caught up 20m late (run 1)"


def test_a_slot_that_was_decided_before_its_jitter_was_over_does_not_come_again(world):
    world.add("a", SLOTS, jitter=600)
    world.to("13:05")
    world.registry.edit("a", {"schedule": "0 * * * 1-5"}, (), deciding.WHO)
    world.settle()
    world.end("a")
    assert ask(world, "a") == (
        "does not run now; last: 13:00 slot completed in 0s (run 1); next slot 14:00, due at 14:08:49 (jitter)"
    )


def test_a_slot_from_before_the_job_does_not_come_for_its_jitter(world):
    world.to("13:05")
    world.add("a", SLOTS, jitter=600)
    assert ask(world, "a", "13:00").startswith("13:00 slot is from before the job was added, at 13:05")
    assert ask(world, "a").endswith("; next slot 14:00, due at 14:08:49 (jitter)")


def test_a_pause_is_told_with_who_and_why(world):
    world.add("a", SLOTS)
    uid = world.uid("a")
    world.store.pause(
        rows.Pause(
            job_uid=uid, since=world.now, until=deciding.ms("15:30"), seconds=12_570.0, user="ada", reason="move"
        )
    )
    assert ask(world, "a").endswith("next slot 13:00, but the job is paused until 15:30 by ada: move")


def pause(world, job_id, seconds):
    world.registry.pause(job_id, seconds, None, deciding.WHO)
    world.settle()


def test_a_pause_that_will_be_over_keeps_no_later_slot_from_running(world):
    world.add("a", "0 15 * * *")
    pause(world, "a", 3600)
    assert ask(world, "a") == "does not run now; it has not run yet; next slot 15:00"
    assert ask(world, "a", "15:00") == "15:00 slot is to come, in 2h59m"
    pause(world, None, None)
    assert ask(world, "a", "15:00").endswith("but the whole schedule is paused until somebody resumes it by root")
    world.to("15:00")
    assert world.told("a") == [("15:00", "paused")]


def test_a_slot_that_comes_after_a_job_which_is_off_says_so(world):
    world.add("a", SLOTS)
    world.add("b", SLOTS)
    world.add("c", SLOTS, dependencies=["a", "b"])
    pause(world, "a", 7200)
    world.registry.enable("b", deciding.WHO, on=False)
    world.settle()
    assert ask(world, "c", "14:00") == "14:00 slot is to come, in 1h59m, after a (paused), b (disabled)"
    assert ask(world, "c", "15:00") == "15:00 slot is to come, in 2h59m, after a, b (disabled)"
    world.to("13:00")
    assert world.row("c").error == "gate on a, whose 13:00 run was skipped (paused)"


def test_a_pause_has_the_slot_of_its_last_moment(world):
    world.add("a", SLOTS)
    pause(world, "a", 7170)
    assert ask(world, "a", "13:00").endswith("but the job is paused until 14:00 by root")
    assert ask(world, "a", "14:00").endswith("but the job is paused until 14:00 by root")
    assert ask(world, "a", "15:00") == "15:00 slot is to come, in 2h59m"
    world.to("15:00")
    assert world.told("a") == [("13:00", "paused"), ("14:00", "paused"), ("15:00", "running")]


def test_a_slot_with_jitter_is_held_back_by_a_pause_that_lasts_until_it_is_due(world):
    world.add("a", SLOTS, jitter=600)
    world.to("13:30")
    world.end("a")
    pause(world, "a", 2100)
    assert ask(world, "a", "14:00") == "14:00 slot is to come, in 38m50s, due at 14:08:49 (jitter)"
    world.to("14:10")
    assert world.told("a")[1] == ("14:00", "running")
    world.end("a")
    world.to("15:03")
    pause(world, "a", 360)
    assert ask(world, "a", "15:00").endswith("due at 15:08:49 (jitter), but the job is paused until 15:09 by root")
    world.to("15:10")
    assert world.told("a")[2] == ("15:00", "paused")


def test_a_slot_without_a_row_is_put_down_to_the_pause_of_its_time_alone(world):
    world.add("a", SLOTS)
    since, until = deciding.ms("13:30"), deciding.ms("14:30")
    world.store.pause(
        rows.Pause(job_uid=world.uid("a"), since=since, until=until, seconds=3600, user="root", reason=None)
    )
    world.now = deciding.ms("15:30")  # and no daemon has run since
    assert "not decided yet" in ask(world, "a", "13:00")
    assert ask(world, "a", "14:00") == "14:00 slot had no run: the job was paused until 14:30 by root"
    assert "not decided yet" in ask(world, "a", "15:00")


def test_a_job_that_never_ran_says_when_it_will(world):
    world.add("a", SLOTS)
    world.add("hand", None)
    world.add("boot", "@reboot")
    assert ask(world, "a") == "does not run now; it has not run yet; next slot 13:00"
    assert ask(world, "hand") == "does not run now; it has not run yet; it has no schedule"
    assert ask(world, "boot").endswith("it runs when the daemon starts, once a boot")
    assert ask(world, "hand", "15:00").startswith("nothing at 15:00: it has no schedule")


def test_a_job_that_others_start_says_who(world):
    world.add("a", SLOTS)
    world.add("b", None, dependencies=["a"])
    world.add("c", None, on_event="link")
    assert ask(world, "b").endswith("it starts when a has ended")
    assert ask(world, "c").endswith("it starts at the event link")


def test_times_are_those_of_the_jobs_zone_and_say_another_day(world):
    world.add("a", "0 9 * * *", timezone="Asia/Tokyo")
    # 2 March, 21:00:30 there.
    assert ask(world, "a") == "does not run now; it has not run yet; next slot 2026-03-03 09:00"


def test_a_removed_job_is_remembered(world):
    world.add("a", SLOTS)
    world.to("13:00")
    world.end("a")
    world.to("13:30")
    world.registry.remove("a", deciding.WHO, purge=False)
    world.settle()
    assert ask(world, "a", "13:00") == "13:00 slot completed in 0s (run 1)"
    assert ask(world, "a", "16:00").endswith("but the job was removed at 13:30 by root")


def test_a_job_that_nobody_knows(world):
    with pytest.raises(why.Unknown):
        ask(world, "nobody")


def test_the_answer_says_which_run_it_is_about(world):
    world.add("a", SLOTS)
    world.to("13:00")
    found = whole(world, "a", "13:00")
    assert {key: found[key] for key in ("job_id", "time", "run_id", "slot", "status", "reason")} == {
        "job_id": "a",
        "time": deciding.ms("13:00"),
        "run_id": 1,
        "slot": deciding.ms("13:00"),
        "status": "running",
        "reason": None,
    }
