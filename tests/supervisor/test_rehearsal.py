"""rehearsal.py: how crowded it gets, by the daemon's own decisions on a clock of their own."""

from datetime import UTC, datetime

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import config, cron, forecast, rehearsal


def ms(text):
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp() * 1000)


def subject(job_id, schedule, duration=60.0, *, offset=0, **keys):
    job = model.JobConfig(job_id, command="true", schedule=schedule, **keys)
    planned = None if schedule is None else cron.parse(schedule, "UTC", job_id)
    return forecast.Subject(config=job, schedule=planned, duration=duration, offset=offset)


def play(*subjects, begin="2026-03-02T00:00", until="2026-03-03T00:00", absent=None, **settings):
    held = {
        number: absent[each.config.id].until for number, each in enumerate(subjects) if each.config.id in (absent or {})
    }
    found = forecast.fires([each.schedule for each in subjects], ms(begin), ms(until), not_before=held)
    return rehearsal.Rehearsal(subjects, config.Settings(**settings), absent).play(found.found)


def away(why, schedule, since, until=None):
    planned = None if schedule is None else cron.parse(schedule, "UTC", "away")
    end = {} if until is None else {"until": ms(until)}
    return forecast.Absence(why=why, schedule=planned, since=ms(since), **end)


def test_runs_that_overlap_in_time_are_counted_together():
    peak = play(subject("a", "0 2 * * *", 3600), subject("b", "30 2 * * *", 3600), subject("c", "0 4 * * *"))
    assert (peak.running, peak.at, peak.queued, peak.longest_wait) == (2, ms("2026-03-02T02:30"), 0, 0.0)


def test_a_run_waits_for_a_place_as_long_as_those_before_it_take():
    subjects = [subject(f"job{n}", "0 2 * * *", 600) for n in range(5)]
    peak = play(*subjects, max_concurrent_jobs=2, reserved_slots=0)
    assert (peak.running, peak.queued, peak.longest_wait) == (2, 3, 1200.0)
    assert (peak.job_id, peak.slot) == ("job4", ms("2026-03-02T02:00"))


def test_priority_decides_who_waits():
    low = subject("low", "0 2 * * *", 600, priority=model.JobPriority.LOW)
    high = [subject(f"high{n}", "0 2 * * *", 600, priority=model.JobPriority.HIGH) for n in range(3)]
    peak = play(low, *high, max_concurrent_jobs=1, reserved_slots=0)
    assert (peak.job_id, peak.longest_wait) == ("low", 1800.0)


def test_reserved_places_are_kept_for_urgent_runs():
    subjects = [subject(f"job{n}", "0 2 * * *", 600) for n in range(2)]
    assert play(*subjects, max_concurrent_jobs=2, reserved_slots=1).running == 1


def test_a_job_that_takes_longer_than_its_interval_skips_slots():
    peak = play(subject("a", "0 * * * *", 5400))
    assert peak.skipped == {"overlap": 12}


def test_a_gate_holds_a_run_until_its_parent_has_ended():
    parent, child = subject("a", "0 2 * * *", 1800), subject("b", "0 2 * * *", 600, dependencies=["a"])
    peak = play(parent, child)
    # One after the other, and the wait at the gate is none for a place.
    assert (peak.running, peak.longest_wait, peak.skipped) == (1, 0.0, {})


def test_a_gate_that_opens_too_late_skips_the_slot():
    parent = subject("a", "0 2 * * *", 7200)
    child = subject("b", "0 2 * * *", 600, dependencies=["a"], dependency_timeout=3600)
    assert play(parent, child).skipped == {"dependency": 1}


def test_a_parent_that_is_not_among_the_jobs_holds_up_nothing():
    assert play(subject("b", "0 2 * * *", dependencies=["elsewhere"])).running == 1


def test_a_full_day_of_many_jobs_is_told_in_bounded_time():
    subjects = [subject(f"job{n}", f"{n % 60} * * * *", 30) for n in range(720)]
    peak = play(*subjects, max_concurrent_jobs=10, reserved_slots=0)
    assert peak.running == 10
    assert peak.queued > 0


def test_a_slot_waits_in_line_and_a_newer_one_stands_for_it():
    # The runs of 0:00, 2:00, 4:00 and 5:00 take turns; 1:00 and 3:00 gave way in line.
    peak = play(subject("a", "0 * * * *", 9000, overlap="queue"), until="2026-03-02T06:00")
    assert peak.running == 1
    assert peak.skipped == {"coalesced": 2}


def test_a_newer_slot_takes_the_place_of_a_run():
    peak = play(subject("a", "0 * * * *", 5400, overlap="replace"), until="2026-03-02T06:00")
    assert (peak.running, peak.skipped) == (1, {"replaced": 5})


def test_runs_beside_each_other_are_as_many_as_are_allowed():
    peak = play(subject("a", "0 * * * *", 9000, overlap="allow", max_instances=2))
    assert (peak.running, peak.skipped) == (2, {"overlap": 8})


def test_a_pool_lets_in_so_many():
    subjects = [subject(f"job{n}", "0 2 * * *", 600, pool="disk") for n in range(4)]
    peak = play(*subjects, subject("b", "0 2 * * *", 600), pools={"disk": 2})
    assert (peak.running, peak.queued, peak.longest_wait) == (3, 2, 600.0)


def test_what_could_not_start_in_time_is_skipped():
    subjects = [subject(f"job{n}", "0 2 * * *", 600, start_deadline=300) for n in range(3)]
    assert play(*subjects, max_concurrent_jobs=1, reserved_slots=0).skipped == {"deadline": 2}


def test_jitter_keeps_apart_what_is_due_together():
    subjects = [subject(f"job{n}", "0 2 * * *", 60, offset=n * 120_000) for n in range(3)]
    assert play(*subjects).running == 1


def test_the_queue_of_a_job_goes_through_its_gate():
    parent = subject("a", "0 * * * *", 1800)
    child = subject("b", "0 * * * *", 4000, dependencies=["a"], overlap="queue")
    peak = play(parent, child, until="2026-03-02T04:00")
    assert peak.running == 2
    assert set(peak.skipped) <= {"coalesced"}


def test_a_gate_asks_for_what_its_dependency_wants():
    parent = subject("a", "0 2 * * *", 600)
    for when, skipped in (("any", {}), ("failed", {"dependency": 1})):
        child = subject("b", "0 2 * * *", 600, dependencies=[{"job": "a", "when": when}])
        assert play(parent, child).skipped == skipped


def test_a_jobs_own_previous_run_is_waited_for():
    each = subject(
        "a", "0 * * * *", 5400, dependencies=["a"], overlap="allow", max_instances=3, dependency_timeout=7200
    )
    peak = play(each, until="2026-03-02T04:00")
    assert (peak.running, peak.skipped) == (1, {})


def test_a_parent_that_ends_as_the_wait_does_is_not_too_late():
    parent = subject("a", "*/5 * * * *", 60)
    child = subject("b", "*/5 * * * *", 1, dependencies=["a"], dependency_timeout=60)
    assert play(parent, child, until="2026-03-02T01:00").skipped == {}


def test_a_job_without_a_schedule_starts_when_all_its_parents_have_ended():
    parents = [subject("a", "0 2 * * *", 600), subject("b", "0 3 * * *", 600)]
    child = subject("c", None, 7200, dependencies=["a", "b"])
    other = subject("d", "30 3 * * *", 600)
    # From 3:10 on, beside the one of 3:30.
    peak = play(*parents, child, other)
    assert (peak.running, peak.at) == (2, ms("2026-03-02T03:30"))
    assert play(*parents, other).running == 1


def test_a_chain_runs_to_its_end():
    chain = [
        subject("collect", "0 2 * * *", 600),
        subject("process", None, 600, dependencies=["collect"]),
        subject("report", None, 600, dependencies=["process"]),
        subject("alarm", None, 600, dependencies=[{"job": "collect", "when": "failed"}]),
    ]
    peak = play(*chain, subject("late", "25 2 * * *", 60), max_concurrent_jobs=1, reserved_slots=0)
    # 2:00, 2:10, 2:20; the one of 2:25 waits for the report.
    assert (peak.job_id, peak.longest_wait, peak.skipped) == ("late", 300.0, {})


# Jobs that are off or paused


def test_a_parent_that_is_off_shuts_the_gate_of_each_slot():
    absent = {"a": away("disabled", "0 * * * *", "2026-03-01T12:00")}
    peak = play(subject("b", "5 * * * *", dependencies=["a"]), absent=absent)
    assert (peak.running, peak.skipped) == (0, {"dependency": 24})


def test_what_asks_for_any_end_runs_after_a_parent_that_is_off():
    absent = {"a": away("disabled", "0 * * * *", "2026-03-01T12:00")}
    peak = play(subject("b", "5 * * * *", dependencies=[{"job": "a", "when": "any"}]), absent=absent)
    assert (peak.running, peak.skipped) == (1, {})


def test_what_ran_before_a_parent_was_switched_off_still_counts():
    # A Monday; the parent's last slot was on Sunday, and its next is on Wednesday.
    absent = {"a": away("disabled", "0 0 * * 0,3", "2026-03-01T12:00")}
    peak = play(subject("b", "5 0 * * *", dependencies=["a"]), until="2026-03-06T00:00", absent=absent)
    assert peak.skipped == {"dependency": 2}


def test_what_is_shut_out_shuts_out_what_depends_on_it():
    absent = {"a": away("quarantined", "0 2 * * *", "2026-03-01T12:00")}
    chain = [subject("b", "0 2 * * *", dependencies=["a"]), subject("c", "0 3 * * *", dependencies=["b"])]
    assert play(*chain, absent=absent).skipped == {"dependency": 2}


def test_a_paused_parent_shuts_the_gate_until_its_first_run_afterwards():
    absent = {"a": away("paused", "0 * * * *", "2026-03-01T23:30", "2026-03-02T03:30")}
    subjects = [subject("a", "0 * * * *", 60), subject("b", "5 * * * *", 60, dependencies=["a"])]
    # Of 0:05 to 3:05; at 4:00 the parent runs again.
    assert play(*subjects, absent=absent).skipped == {"dependency": 4}


def test_a_pause_that_held_no_slot_back_shuts_no_gate():
    absent = {"a": away("paused", "0 * * * *", "2026-03-01T23:10", "2026-03-01T23:50")}
    # The parent's slot of midnight is before the time that is looked at.
    subjects = [subject("a", "0 * * * *", 60), subject("b", "5 * * * *", 60, dependencies=["a"])]
    assert play(*subjects, begin="2026-03-02T00:01", absent=absent).skipped == {}
    absent = {"a": away("paused", "0 * * * *", "2026-03-01T21:10", "2026-03-01T23:50")}
    assert play(*subjects, begin="2026-03-02T00:01", absent=absent).skipped == {}


def test_a_paused_job_without_a_schedule_is_not_started_until_its_pause_is_over():
    parent, child = subject("a", "0 2,4 * * *", 600), subject("b", None, 600, dependencies=["a"])
    # Beside the one of 2:15 it would run, and beside that of 4:15 it does.
    other = subject("c", "15 2,4 * * *", 600)
    assert play(parent, child, other).at == ms("2026-03-02T02:15")
    absent = {"b": away("paused", None, "2026-03-01T12:00", "2026-03-02T03:00")}
    peak = play(parent, child, other, absent=absent)
    assert (peak.running, peak.at) == (2, ms("2026-03-02T04:15"))


def test_what_was_skipped_starts_no_job_whatever_that_asks_for():
    # Both slots of the parent are skipped at its gate, the one at once and the other after a wait.
    absent = {"gate": away("disabled", "0 1 * * *", "2026-03-01T12:00")}
    slow = subject("slow", "0 2 * * *", 7200)
    for dependency in ("gate", "slow"):
        parent = subject("a", "0 2 * * *", 60, dependencies=[dependency], dependency_timeout=600)
        child = subject("b", None, 60, dependencies=[{"job": "a", "when": "any"}])
        peak = play(slow, parent, child, absent=absent)
        # Nothing has run beside the slow one.
        assert (peak.running, peak.skipped) == (1, {"dependency": 1})


def test_a_run_that_a_newer_one_has_replaced_was_cancelled():
    parent = subject("a", "0 * * * *", 5400, overlap="replace")
    child = subject("b", None, 60, dependencies=[{"job": "a", "when": "any"}])
    peak = play(parent, child, until="2026-03-02T03:00")
    # It starts beside the one that took the place, which a skipped run would not bring about.
    assert (peak.running, peak.at) == (2, ms("2026-03-02T01:00"))
