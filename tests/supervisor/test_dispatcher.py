"""What becomes of slots and runs, decided by the real dispatcher on a real store; nothing is started and time is told."""

import deciding
import pytest

from lnmt_scheduler.supervisor import dispatcher


def by_reason(world, job_id):
    found = {}
    for slot, reason in world.told(job_id):
        found.setdefault(reason, []).append(slot)
    return found


# Slots.


def test_each_slot_is_one_row_and_starts_when_it_is_due(world):
    world.add("a")
    world.to("12:59:59")
    assert world.rows("a") == []
    world.to("13:00")
    world.end("a")
    world.to("14:00")
    assert world.told("a") == [("13:00", "completed"), ("14:00", "running")]
    assert {row.trigger for row in world.rows("a")} == {"schedule"}
    assert world.launched() == ["a", "a"]
    assert world.store.job(world.uid("a")).watermark == deciding.ms("14:00")
    assert world.runs.slots.next_fire() == (deciding.ms("15:00"), world.uid("a"))


def test_a_slot_less_than_a_minute_late_is_on_time(world):
    world.add("a")
    world.restart("13:00:59")
    assert world.told("a") == [("13:00", "running")]
    assert world.row("a").trigger == "schedule"


def test_after_a_rest_the_newest_slot_is_caught_up_and_the_others_coalesce(world):
    world.add("a")
    world.restart("16:10")
    assert world.told("a") == [
        ("13:00", "coalesced"),
        ("14:00", "coalesced"),
        ("15:00", "coalesced"),
        ("16:00", "running"),
    ]
    assert [row.trigger for row in world.rows("a")][-1] == "catch_up"
    assert world.runs.slots.next_fire() == (deciding.ms("17:00"), world.uid("a"))


def test_what_is_older_than_the_window_is_missed(world):
    world.add("daily", "0 3 * * *")
    world.add("weekly", "0 3 * * 2")
    world.restart("2026-03-05 12:00")
    assert world.told("daily") == [
        ("2026-03-03 03:00", "missed"),
        ("2026-03-04 03:00", "missed"),
        ("2026-03-05 03:00", "running"),
    ]
    assert world.told("weekly") == [("2026-03-03 03:00", "missed")]
    assert world.launched() == ["daily"]


def test_a_gap_of_more_than_a_hundred_slots_is_one_row(world):
    world.add("a", "* * * * *")
    world.restart("17:00:00")
    gap, caught_up = world.rows("a")
    assert (gap.reason, gap.slots) == ("coalesced", 299)
    assert (gap.slot, gap.slot_last) == (deciding.ms("12:01"), deciding.ms("16:59"))
    assert (caught_up.slot, caught_up.trigger, caught_up.status) == (deciding.ms("17:00"), "schedule", "running")


def test_a_hundred_slots_are_a_row_each(world):
    world.add("a", "* * * * *")
    world.restart("13:41:30")
    assert len(by_reason(world, "a")["coalesced"]) == 100
    assert all(row.slots == 1 for row in world.rows("a"))


def test_slots_that_come_while_it_runs_are_rows_that_name_the_run(world):
    world.add("a", "@every 1s")
    world.to("12:00:34")
    first, *others = world.rows("a")
    assert first.status == "running"
    assert [(row.status, row.reason) for row in others] == [("skipped", "overlap")] * 3
    assert {row.error for row in others} == {f"run {first.run_id} has not ended"}
    assert [row.slot for row in world.rows("a")] == [deciding.ms(f"12:00:3{n}") for n in range(1, 5)]


def test_a_process_that_was_stopped_for_seconds_decides_each_slot_once(world):
    world.add("a", "@every 1s")
    world.late("12:00:41")
    assert by_reason(world, "a") == {"running": ["12:00:31"], "overlap": [f"12:00:{n}" for n in range(32, 42)]}


def test_a_slot_that_has_its_row_is_not_decided_again_whatever_the_watermark_says(world):
    uid = world.add("a")
    world.to("13:00")
    world.store.update_job(uid, watermark=deciding.ms("12:00"), next_slot=deciding.ms("13:00"))
    world.end("a")
    world.restart("13:00:10")
    assert world.told("a") == [("13:00", "completed")]
    assert world.launched() == []
    assert world.store.job(uid).watermark == deciding.ms("13:00")


# The clock.


def test_a_clock_set_forward_by_more_than_three_hours_was_wrong_and_nothing_was_missed(world):
    world.add("a")
    world.set_clock("17:30")
    assert world.rows("a") == []
    world.to("18:00")
    assert world.told("a") == [("18:00", "running")]


def test_a_clock_set_forward_by_less_has_missed_slots(world):
    world.add("a")
    world.set_clock("14:30")
    assert world.told("a") == [("13:00", "coalesced"), ("14:00", "running")]
    assert world.row("a").trigger == "catch_up"


def test_a_clock_set_back_repeats_no_slot(world):
    world.add("a")
    world.to("13:00")
    world.end("a")
    world.set_clock("12:30")
    world.to("13:30")
    assert world.told("a") == [("13:00", "completed")]
    world.to("14:00")
    assert world.told("a") == [("13:00", "completed"), ("14:00", "running")]


def test_another_zone_of_the_daemon_moves_the_jobs_that_name_none_and_starts_nothing(world):
    moved, kept = world.add("moved", "0 14 * * *"), world.add("kept", "0 14 * * *", timezone="UTC")
    world.catalog.set_zone("Asia/Tokyo")  # where it is 21:00 now
    world.runs.slots.replan([moved, kept])
    world.settle()
    assert (world.rows("moved"), world.rows("kept")) == ([], [])
    due = {uid: deciding.short(world.store.job(uid).next_slot) for uid in (moved, kept)}
    assert due == {moved: "2026-03-03 05:00", kept: "14:00"}
    world.to("2026-03-03 05:00")
    assert world.told("kept") == [("14:00", "running")]
    assert world.told("moved") == [("2026-03-03 05:00", "running")]


def test_a_job_that_is_off_while_the_zone_changes_misses_nothing_once_it_is_on_again(world):
    uid = world.add("a", "0 14 * * *")
    world.runs.slots.replan([uid])
    world.registry.enable("a", deciding.WHO, on=False)
    world.settle()
    world.registry.enable("a", deciding.WHO, on=True)
    world.to("14:00")
    assert world.told("a") == [("14:00", "running")]


def test_a_reboot_job_runs_once_a_boot(world, monkeypatch):
    world.add("a", "@reboot")
    assert world.rows("a") == []
    world.restart("12:10")
    assert [row.status for row in world.rows("a")] == ["running"]
    world.end("a")
    world.restart("12:20")
    assert len(world.rows("a")) == 1
    monkeypatch.setattr(deciding, "BOOT", "boot-2")
    world.restart("12:30")
    assert [row.status for row in world.rows("a")] == ["completed", "running"]


# Gates.


@pytest.fixture(params=["parent first", "child first"])
def gated(request, world):
    """Parent and child on one schedule, decided in either order."""
    if request.param == "parent first":
        world.add("parent", max_retries=0)
        world.add("child", dependencies=["parent"])
    else:
        world.add("child")
        world.add("parent", max_retries=0)
        world.registry.edit("child", {"dependencies": ["parent"]}, (), deciding.WHO)
    return world


def test_a_gate_waits_for_the_parent_and_opens(gated):
    gated.to("13:00")
    assert gated.launched() == ["parent"]
    assert gated.told("child") == [("13:00", "pending")]
    gated.end("parent")
    assert gated.launched() == ["parent", "child"]
    assert gated.told("child") == [("13:00", "running")]
    assert gated.row("child").gate_until is None


def test_a_warning_opens_a_gate(gated):
    gated.registry.edit("parent", {"warning_codes": [4]}, (), deciding.WHO)
    gated.to("13:00")
    gated.end("parent", 4)
    assert gated.told("child") == [("13:00", "running")]


def test_a_failed_parent_closes_the_gate_with_a_sentence(gated):
    gated.to("13:00")
    gated.end("parent", 3)
    row = gated.row("child")
    assert (row.status, row.reason) == ("skipped", "dependency")
    assert row.error == "gate on parent, whose 13:00 run failed (exit 3)"
    assert gated.launched() == ["parent"]


def test_a_gate_waits_for_the_retries_of_its_parent(gated):
    gated.registry.edit("parent", {"max_retries": 1, "retry_delay": 60}, (), deciding.WHO)
    gated.to("13:00")
    gated.end("parent", 3)
    assert gated.told("child") == [("13:00", "pending")]
    gated.to("13:01")
    gated.end("parent")
    assert gated.told("child") == [("13:00", "running")]


def test_a_disabled_parent_closes_the_gate(gated):
    gated.registry.enable("parent", deciding.WHO, on=False)
    gated.to("13:00")
    assert gated.told("child") == [("13:00", "dependency")]
    assert gated.row("child").error == "gate on parent, whose 13:00 run was skipped (disabled)"


def test_a_parent_that_is_on_again_counts_with_its_next_slot(gated):
    gated.to("13:00")
    gated.end("parent")
    gated.end("child")
    gated.registry.enable("parent", deciding.WHO, on=False)
    gated.to("14:30")
    assert gated.told("child")[-1] == ("14:00", "dependency")
    gated.registry.enable("parent", deciding.WHO, on=True)
    gated.to("15:00")
    gated.end("parent")
    assert gated.told("child")[-1] == ("15:00", "running")


def test_a_slot_waits_at_its_gate_until_its_own_next_which_is_judged_for_itself(gated):
    gated.registry.edit("parent", {"schedule": "0 13 * * *"}, (), deciding.WHO)
    gated.to("14:00")
    assert gated.told("child") == [("13:00", "dependency"), ("14:00", "pending")]
    assert gated.rows("child")[0].error == "gate on parent, whose 13:00 run is still running; its time to wait is over"
    gated.end("parent")
    assert gated.told("child")[-1] == ("14:00", "running")


def test_dependency_timeout_ends_the_wait(gated):
    gated.registry.edit("child", {"dependency_timeout": 90}, (), deciding.WHO)
    gated.to("13:01:29")
    assert gated.told("child") == [("13:00", "pending")]
    gated.to("13:01:30")
    assert gated.told("child") == [("13:00", "dependency")]
    assert gated.row("child").error == "gate on parent, whose 13:00 run is still running; its time to wait is over"
    gated.end("parent")
    assert gated.told("child") == [("13:00", "dependency")]


def test_the_success_of_an_hour_ago_does_not_open_the_gate_of_now(make_world):
    world = make_world(now="12:45")
    world.add("parent", max_retries=0)
    world.add("child", "30 * * * *", dependencies=["parent"])
    world.to("13:00")
    world.end("parent")
    world.to("13:30")
    world.end("child")
    world.to("14:00")
    world.end("parent", 1)
    world.to("14:30")
    assert world.told("child") == [("13:30", "completed"), ("14:30", "dependency")]
    assert world.row("child").error == "gate on parent, whose 14:00 run failed (exit 1)"


def test_of_a_parent_without_schedule_the_newest_run_counts(world):
    world.add("parent", None, max_retries=0)
    world.add("child", dependencies=["parent"], dependency_timeout=3000)
    world.to("13:00")
    assert world.told("child") == [("13:00", "pending")]
    world.start("parent")
    world.end("parent")
    assert world.told("child") == [("13:00", "running")]
    world.end("child")
    world.start("parent")
    world.end("parent", 1)
    world.to("14:00")
    assert world.row("child").error == "gate on parent, whose newest run failed (exit 1)"


def test_a_run_by_hand_asks_no_gate(gated):
    gated.start("child")
    assert gated.launched() == ["child"]


def test_what_waits_is_not_moved_by_an_edit_and_outlives_its_parent(world):
    world.add("parent", None)
    world.add("other", None)
    world.add("child", dependencies=["parent"])
    world.start("parent")
    world.to("13:00")
    world.registry.edit("child", {"dependencies": ["other"]}, (), deciding.WHO)
    world.registry.remove("parent", deciding.WHO, purge=False)
    world.registry.enable("child", deciding.WHO, on=False)
    assert world.told("child") == [("13:00", "disabled")]
    (each,) = world.runs.active(world.uid("parent"))
    world.end("parent")  # nobody waits for it any more
    assert world.store.run(each.run_id).status == "completed"


def test_a_waiting_run_is_skipped_when_its_parent_is_gone(world):
    world.add("parent", None)
    world.add("child", dependencies=["parent"])
    world.start("parent")
    world.to("13:00")
    world.registry.edit("child", {"dependencies": []}, (), deciding.WHO)
    world.registry.remove("parent", deciding.WHO, purge=False)
    world.end("parent")
    assert world.told("child") == [("13:00", "dependency")]
    assert world.row("child").error == "gate on parent, whose newest run was skipped (removed)"


# Who is next.


def test_priority_decides_who_starts_first_of_those_that_are_due_together(make_world):
    world = make_world(max_concurrent_jobs=1)
    for priority in (1, 2, 4, 3):
        world.add(f"p{priority}", priority=priority)
    world.to("13:00")
    for _ in range(3):
        world.end(world.launched()[-1])
    assert world.launched() == ["p4", "p3", "p2", "p1"]


def test_the_reserved_slot_is_for_high_and_critical(make_world):
    world = make_world(max_concurrent_jobs=2, reserved_slots=1)
    for job_id in ("normal1", "normal2"):
        world.add(job_id, None)
        world.start(job_id)
    assert world.launched() == ["normal1"]
    world.add("high", None, priority=3)
    world.start("high")
    assert world.launched() == ["normal1", "high"]
    world.end("high")
    assert world.launched() == ["normal1", "high"]
    world.end("normal1")
    assert world.launched() == ["normal1", "high", "normal2"]
    assert world.runs.counts() == {"running": 1, "queued": 0, "retrying": 0}


def test_a_second_run_by_hand_is_refused_with_the_id_of_the_first(world):
    world.add("a", None)
    first = world.start("a")
    with pytest.raises(dispatcher.BusyError) as busy:
        world.start("a")
    assert busy.value.run_id == first


def test_a_disabled_job_ends_what_waits_and_not_what_runs(make_world):
    world = make_world(max_concurrent_jobs=1)
    world.add("a")
    world.add("b")
    world.to("13:00")
    for job_id in ("a", "b"):
        world.registry.enable(job_id, deciding.WHO, on=False)
    assert (world.told("a"), world.told("b")) == ([("13:00", "running")], [("13:00", "disabled")])
    world.end("a", 1)
    assert world.row("a").status == "failed"  # no second attempt, though three are allowed
    world.to("15:00")
    assert len(world.rows("a") + world.rows("b")) == 2


# Stop and drain.


def test_a_stopping_daemon_decides_and_starts_nothing(world):
    idle = []
    world.runs.on_idle = lambda: idle.append(True)
    world.add("a")
    world.add("b", "30 13 * * *")
    world.to("13:00")
    run_id = world.row("a").run_id
    world.runs.stop()
    world.to("13:30")
    assert world.attempts.ended == [(run_id, 1, "stopped")]
    assert world.told("b") == [("13:30", "pending")]
    assert idle == []
    world.end("a", None, cause="stopped")
    assert world.told("a") == [("13:00", "stopped")]
    assert idle == [True]
    world.restart("13:40", same_launcher=False)
    assert world.launched() == ["b"]


def test_what_was_stopped_and_is_idempotent_runs_again_at_the_next_start(world):
    world.add("a", idempotent=True, max_retries=1)
    world.to("13:00")
    world.runs.stop()
    world.end("a", None, cause="stopped")
    assert world.told("a") == [("13:00", "retrying")]
    world.restart("13:10")
    assert world.attempts.launched == [(world.row("a").run_id, 2)]


def test_a_draining_daemon_lets_runs_end_and_starts_no_other(world):
    idle = []
    world.runs.on_idle = lambda: idle.append(True)
    world.add("a")
    world.add("b", None)
    world.to("13:00")
    world.runs.drain()
    world.start("b")
    assert (world.launched(), idle) == (["a"], [])
    world.end("a")
    assert (world.launched(), idle) == (["a"], [True])


# After a start.


def test_an_attempt_that_the_launcher_holds_is_awaited(world):
    world.add("a")
    world.to("13:00")
    run_id = world.row("a").run_id
    world.restart("13:05", held=[(run_id, 1)], same_launcher=True)
    assert (world.attempts.adopted, world.attempts.launched) == ([(run_id, 1)], [])
    world.end("a")
    assert world.told("a") == [("13:00", "completed")]


def test_an_attempt_that_was_never_handed_over_is_started(world):
    world.add("a")
    world.to("13:00")
    run_id = world.row("a").run_id
    world.restart("13:05", same_launcher=True)
    assert (world.attempts.adopted, world.attempts.launched) == ([], [(run_id, 1)])
    assert len(world.store.attempts(run_id)) == 1


def test_an_attempt_of_a_launcher_that_is_gone_is_lost(world):
    world.add("a")
    world.to("13:00")
    world.restart("13:05")
    row = world.row("a")
    assert (row.status, row.reason) == ("failed", "lost")
    assert row.error == "launcher or host went down under it; it may have run"
    assert world.store.attempts(row.run_id)[0].reason == "lost"
    assert world.launched() == []
    assert world.store.job(world.uid("a")).failing_since == world.now


def test_a_lost_attempt_is_followed_by_another_only_if_the_job_is_idempotent(world):
    world.add("a", idempotent=True)
    world.to("13:00")
    world.restart("13:05")
    assert world.attempts.launched == [(world.row("a").run_id, 2)]


def test_a_lost_attempt_of_a_job_that_was_removed_meanwhile_is_not_followed_by_another(world):
    world.add("a", idempotent=True)
    world.to("13:00")
    world.registry.remove("a", deciding.WHO, purge=False)
    world.restart("13:05")
    assert world.launched() == []
    assert world.told("a") == [("13:00", "lost")]


def test_a_pending_retry_survives(world):
    world.add("a", max_retries=3, retry_delay=600)
    world.to("13:00")
    world.end("a", 1)
    assert world.told("a") == [("13:00", "retrying")]
    assert world.row("a").retry_at == deciding.ms("13:10")
    world.restart("13:05")
    assert world.launched() == []
    world.to("13:09:59")
    assert world.launched() == []
    world.to("13:10")
    assert world.attempts.launched == [(world.row("a").run_id, 2)]
    world.end("a", 1)
    world.restart("13:40")
    assert world.attempts.launched == [(world.row("a").run_id, 3)]
    assert world.told("a") == [("13:00", "running")]


def test_a_queued_run_survives(make_world):
    world = make_world(max_concurrent_jobs=1)
    world.add("a", None)
    world.add("b", None)
    world.start("a")
    queued = world.start("b", kwargs={"n": 1})
    world.restart("12:05")
    assert world.attempts.launched == [(queued, 1)]
    assert world.attempts.orders[0].request == {"kwargs": {"n": 1}}


def test_a_run_at_its_gate_survives_and_hears_what_became_of_its_parent(gated):
    gated.to("13:00")
    held = [(gated.row("parent").run_id, 1)]
    gated.restart("13:05", held=held)
    assert gated.told("child") == [("13:00", "pending")]
    gated.restart("13:10")
    assert gated.told("parent") == [("13:00", "lost")]
    assert gated.told("child") == [("13:00", "dependency")]
    assert gated.row("child").error == "gate on parent, whose 13:00 run failed (lost)"


def test_overlap_is_judged_after_what_is_unknown_is_settled(world):
    world.add("a")
    world.to("13:00")
    world.restart("14:00:10")
    assert world.told("a") == [("13:00", "lost"), ("14:00", "running")]


def test_a_run_keeps_the_definition_that_it_was_decided_with(make_world):
    world = make_world(max_concurrent_jobs=1)
    world.add("a", None)
    world.start("a")
    world.add("b", None, command="one")
    world.start("b")
    world.registry.edit("b", {"command": "two"}, (), deciding.WHO)
    world.end("a")
    assert world.attempts.orders[-1].job.command == "one"
    world.end("b")
    world.start("b")
    assert world.attempts.orders[-1].job.command == "two"
    world.registry.edit("b", {"command": "three"}, (), deciding.WHO)
    world.restart("12:10", same_launcher=True)
    assert world.attempts.orders[-1].job.command == "two"


def test_an_attempt_that_goes_on_over_a_restart_has_the_time_that_the_total_leaves_it(world):
    world.add("a", max_retries=3, retry_delay=60, total_timeout=300)
    world.to("13:00")
    world.restart("13:02", held=[(1, 1)], same_launcher=True)
    assert world.attempts.timeouts == [300]
    world.restart("13:03", same_launcher=True)  # it was never handed over
    assert [order.timeout for order in world.attempts.orders] == [120]


def test_total_time_is_counted_over_a_restart(world):
    world.add("a", max_retries=3, retry_delay=60, total_timeout=300)
    world.to("13:00")
    world.end("a", 1)
    world.restart("13:20")
    assert world.told("a")[0] == ("13:00", "timeout")
    assert world.launched() == []
