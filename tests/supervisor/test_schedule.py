"""schedule.py: which slots run, which are passed over and why; judged by a walk over every slot."""

import bisect

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lnmt_scheduler.supervisor import schedule
from lnmt_scheduler.supervisor.schedule import Skip, Slots, plan

S = 1000
MINUTE = 60 * S
HOUR = 60 * MINUTE
DAY = 24 * HOUR
#: A midnight.
T = 20_000 * DAY
WINDOW = 86_400


def every(interval):
    return lambda after: (after // interval + 1) * interval


def at(*slots):
    slots = sorted(slots)

    def next_after(after):
        place = bisect.bisect_right(slots, after)
        return slots[place] if place < len(slots) else None

    return next_after


class Counting:
    def __init__(self, next_after):
        self.next_after, self.calls = next_after, 0

    def __call__(self, after):
        self.calls += 1
        return self.next_after(after)


# ScheduleHeap


def test_due_jobs_come_in_order_of_time_and_only_once():
    waiting = schedule.ScheduleHeap()
    for uid, time in ((1, 30), (2, 10), (3, 20), (4, 10)):
        waiting.set(uid, time)
    assert waiting.first() == (10, 2)
    assert waiting.pop_due(9) == []
    assert waiting.pop_due(20) == [(10, 2), (10, 4), (20, 3)]
    assert waiting.pop_due(20) == []
    assert waiting.first() == (30, 1)
    assert len(waiting) == 1


def test_only_the_last_time_set_for_a_job_counts():
    waiting = schedule.ScheduleHeap()
    waiting.set(1, 10)
    waiting.set(1, 50)
    assert waiting.pop_due(49) == []
    assert waiting.pop_due(50) == [(50, 1)]


def test_a_job_that_is_removed_or_never_due_again_is_not_due():
    waiting = schedule.ScheduleHeap()
    for uid in (1, 2, 3):
        waiting.set(uid, 10)
    waiting.set(1, None)
    waiting.set(2, None)
    waiting.set(99, None)
    assert waiting.pop_due(100) == [(10, 3)]
    assert waiting.first() is None
    assert len(waiting) == 0


# plan


def test_before_the_first_slot_nothing_is_decided():
    assert plan(T, T + 59 * S, every(MINUTE), WINDOW) == Slots((), False, (), T, T + MINUTE)


def test_a_schedule_that_has_no_slot_left_sleeps_for_ever():
    assert plan(T, T + DAY, at(T), WINDOW) == Slots((), False, (), T, None)


def test_a_slot_runs_at_its_time():
    assert plan(T, T + MINUTE, every(MINUTE), WINDOW) == Slots((T + MINUTE,), False, (), T + MINUTE, T + 2 * MINUTE)


def test_a_slot_less_than_a_minute_late_is_no_catch_up():
    slots = plan(T - HOUR, T + MINUTE - 1, every(HOUR), WINDOW)
    assert slots == Slots((T,), False, (), T, T + HOUR)


def test_a_slot_a_minute_late_is_a_catch_up():
    slots = plan(T - HOUR, T + MINUTE, every(HOUR), WINDOW)
    assert slots == Slots((T,), True, (), T, T + HOUR)


def test_after_a_night_the_newest_slot_runs_and_stands_for_the_others():
    slots = plan(T, T + 3 * HOUR + 30 * MINUTE, every(HOUR), WINDOW)
    older = tuple(Skip(T + hours * HOUR, T + hours * HOUR, 1, "coalesced") for hours in (1, 2))
    assert slots == Slots((T + 3 * HOUR,), True, older, T + 3 * HOUR, T + 4 * HOUR)


def test_slots_older_than_the_window_are_missed():
    slots = plan(T, T + 3 * HOUR + 30 * MINUTE, every(HOUR), 1.5 * 3600)
    assert slots.runs == (T + 3 * HOUR,)
    assert slots.skips == (Skip(T + HOUR, T + HOUR, 1, "missed"), Skip(T + 2 * HOUR, T + 2 * HOUR, 1, "coalesced"))


def test_a_slot_exactly_as_old_as_the_window_is_inside():
    assert plan(T - HOUR, T + 2 * HOUR, at(T), 7200).runs == (T,)
    assert plan(T - HOUR, T + 2 * HOUR + 1, at(T), 7200).runs == ()


def test_if_all_slots_are_older_than_the_window_none_runs():
    slots = plan(T, T + 2 * DAY, at(T + HOUR, T + 2 * HOUR, T + 3 * DAY), WINDOW)
    missed = tuple(Skip(T + hours * HOUR, T + hours * HOUR, 1, "missed") for hours in (1, 2))
    assert slots == Slots((), False, missed, T + 2 * HOUR, T + 3 * DAY)


def test_without_a_window_any_slot_can_be_caught_up():
    slots = plan(T, T + 1000 * DAY, at(T + HOUR), None)
    assert slots == Slots((T + HOUR,), True, (), T + HOUR, None)


def test_a_slot_on_time_runs_though_the_window_is_zero():
    slots = plan(T - 2 * HOUR, T + 5 * S, every(HOUR), 0)
    assert slots == Slots((T,), False, (Skip(T - HOUR, T - HOUR, 1, "missed"),), T, T + HOUR)


def test_slots_of_a_busy_daemon_are_each_decided_on_their_own():
    slots = plan(T, T + 5 * S + 400, every(S), WINDOW)
    assert slots == Slots(tuple(T + n * S for n in (1, 2, 3, 4, 5)), False, (), T + 5 * S, T + 6 * S)


def test_more_than_a_hundred_skips_of_one_reason_are_one():
    one_by_one = plan(T, T + 101 * MINUTE + 30 * S, every(MINUTE), WINDOW)
    assert one_by_one.runs == (T + 101 * MINUTE,)
    assert [skip.count for skip in one_by_one.skips] == [1] * 100
    together = plan(T, T + 102 * MINUTE + 30 * S, every(MINUTE), WINDOW)
    assert together.skips == (Skip(T + MINUTE, T + 101 * MINUTE, 101, "coalesced"),)


def test_a_day_of_minutes_is_counted_exactly():
    slots = plan(T, T + 2 * DAY, every(MINUTE), WINDOW)
    assert slots.runs == (T + 2 * DAY,)
    assert slots.skips == (
        Skip(T + MINUTE, T + DAY - MINUTE, 1439, "missed"),
        Skip(T + DAY, T + 2 * DAY - MINUTE, 1440, "coalesced"),
    )


def test_years_of_seconds_cost_a_bounded_number_of_fires():
    next_after = Counting(every(S))
    now = T + 3650 * DAY
    slots = plan(T, now, next_after, WINDOW)
    assert len(slots.runs) == 60
    assert slots.runs[-1] == slots.watermark == now
    assert slots.skips == (
        Skip(T + S, now - DAY - S, schedule.COUNTED, "missed"),
        Skip(now - DAY, now - MINUTE, schedule.COUNTED, "coalesced"),
    )
    assert next_after.calls < 2 * schedule.COUNTED + 200


def test_a_slot_on_time_costs_two_fires():
    next_after = Counting(every(MINUTE))
    assert plan(T, T + MINUTE + 300, next_after, WINDOW).runs == (T + MINUTE,)
    assert next_after.calls == 2


def test_a_clock_set_forward_by_hours_passes_over_without_a_trace():
    now = T + 5 * HOUR + 7
    assert plan(T, now, every(HOUR), WINDOW, correction=True) == Slots((), False, (), now, T + 6 * HOUR)


@pytest.mark.parametrize("correction", [False, True])
def test_a_clock_set_back_repeats_no_slot(correction):
    slots = plan(T, T - 2 * HOUR, every(HOUR), WINDOW, correction=correction)
    assert slots == Slots((), False, (), T, T + HOUR)


SLOTS = st.integers(0, 400).map(lambda n: T + n * 30 * S)


@settings(derandomize=True, database=None, deadline=None, max_examples=300)
@given(
    slots=st.sets(SLOTS),
    watermark=st.integers(T - MINUTE, T + 200 * MINUTE),
    now=st.integers(T - MINUTE, T + 220 * MINUTE),
    window_s=st.none() | st.integers(0, 4 * 3600),
    catch_up=st.sampled_from(["latest", "skip", "all"]),
    offset=st.sampled_from([0, 0, 1, 45 * S, 2 * HOUR]),
)
def test_every_undecided_slot_is_decided_once_and_as_a_plain_walk_would(
    slots, watermark, now, window_s, catch_up, offset
):
    decision = plan(watermark, now, at(*slots), window_s, catch_up=catch_up, offset=offset)
    watermark = now if schedule.is_void(watermark, now) else watermark
    now -= offset
    undecided = sorted(slot for slot in slots if watermark < slot <= now)
    inside = [slot for slot in undecided if window_s is None or now - slot <= window_s * 1000]
    on_time = [slot for slot in undecided if now - slot < MINUTE]
    late = [slot for slot in inside if slot not in on_time]
    if catch_up == "skip":
        inside = on_time
    caught_up = {"latest": [] if on_time else late[-1:], "skip": [], "all": late[-100:]}[catch_up]
    runs = caught_up + on_time
    assert list(decision.runs) == runs
    assert decision.late == len(caught_up)
    assert decision.watermark == (undecided[-1] if undecided else watermark)
    assert decision.next == min((slot for slot in slots if slot > max(now, watermark)), default=None)
    for reason, expected in (
        ("missed", [slot for slot in undecided if slot not in runs and slot not in inside]),
        ("coalesced", [slot for slot in undecided if slot not in runs and slot in inside]),
    ):
        skips = [skip for skip in decision.skips if skip.reason == reason]
        assert sum(skip.count for skip in skips) == len(expected)
        assert [skip.first for skip in skips] == (expected if len(expected) <= schedule.ROWS else expected[:1])
        assert [skip.last for skip in skips] == (expected if len(expected) <= schedule.ROWS else expected[-1:])


def test_all_of_years_is_the_newest_hundred_of_the_window():
    next_after = Counting(every(S))
    slots = plan(T, T + 3650 * DAY, next_after, WINDOW, catch_up="all")
    late = [slot for slot in slots.runs if slot <= T + 3650 * DAY - MINUTE]
    assert (slots.late, len(late), late[0]) == (100, 100, T + 3650 * DAY - MINUTE - 99 * S)
    assert [(skip.reason, skip.count) for skip in slots.skips] == [("missed", 2000), ("coalesced", 2000)]
    assert slots.skips[-1].last == late[0] - S
    assert next_after.calls < 2 * schedule.COUNTED + 2000


def test_the_last_hundred_are_found_also_where_there_is_a_crowd_before_them():
    crowd = [T + n * S for n in range(5000)]
    few = [T + DAY + n * HOUR for n in range(60)]
    slots = plan(T - 1, T + 4 * DAY, at(*crowd, *few), None, catch_up="all")
    assert list(slots.runs) == [*crowd[-40:], *few]


def test_jitter_is_less_than_asked_for_always_the_same_and_another_for_other_jobs_and_hosts():
    offsets = {schedule.offset(f"job-{n}", 600, host) for n in range(50) for host in ("a", "b")}
    assert len(offsets) > 90
    assert all(0 <= each < 600_000 for each in offsets)
    assert schedule.offset("x", 600, "a") == schedule.offset("x", 600, "a")
    assert schedule.offset("x", 0, "a") == 0


def test_a_job_that_is_decided_more_than_three_hours_ahead_is_decided_anew():
    three = 3 * HOUR
    assert plan(T + three, T, every(HOUR), None) == Slots((), False, (), T + three, T + 4 * HOUR)
    assert plan(T + three + 1, T, every(HOUR), None) == Slots((), False, (), T, T + HOUR)
    assert plan(T + 3650 * DAY, T, every(HOUR), None, correction=True).watermark == T


def test_what_is_passed_over_has_one_reason_and_is_decided_up_to_now():
    decided = schedule.pass_over(T, T + 2 * HOUR + 1, every(HOUR), "quarantined")
    rows = tuple(Skip(T + n * HOUR, T + n * HOUR, 1, "quarantined") for n in (1, 2))
    assert decided == Slots((), False, rows, T + 2 * HOUR + 1, T + 3 * HOUR)
    many = schedule.pass_over(T, T + 200 * HOUR, every(HOUR), "quarantined")
    assert many.skips == (Skip(T + HOUR, T + 200 * HOUR, 200, "quarantined"),)


@settings(derandomize=True, database=None, deadline=None)
@given(watermark=st.integers(T, T + DAY), times=st.lists(st.integers(T, T + DAY), max_size=8))
def test_whatever_the_clock_does_no_slot_is_decided_twice(watermark, times):
    decided = []
    for now in times:
        if schedule.is_void(watermark, now):
            continue  # set back by hours, and so decided anew: the store refuses what has its row
        decision = plan(watermark, now, every(7 * MINUTE), None)
        # A gap of more than a hundred stands as one; its ends are enough to see an overlap.
        decided += sorted([*decision.runs, *{end for skip in decision.skips for end in (skip.first, skip.last)}])
        assert decision.watermark >= watermark
        watermark = decision.watermark
    assert decided == sorted(set(decided))
