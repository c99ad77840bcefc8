"""backlog.py: the order of ready runs, reserved slots, aging, and how long anybody waits."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lnmt_scheduler.supervisor import backlog

LOW, NORMAL, HIGH, CRITICAL = 1, 2, 3, 4
AGING_S = 600
INTERVAL = AGING_S * 1000


class Compared(int):
    """A slot that counts how often slots are compared."""

    times = 0

    def __eq__(self, other):
        Compared.times += 1
        return int(self) == int(other)

    __hash__ = int.__hash__


@pytest.fixture
def ready():
    return backlog.Backlog(AGING_S)


def drain(ready, now=0, free=1, reserved=0):
    order = []
    while (run_id := ready.pop(now, free, reserved)) is not None:
        order.append(run_id)
    return order


def test_higher_priority_goes_first(ready):
    for run_id, priority in ((1, LOW), (2, CRITICAL), (3, NORMAL), (4, HIGH)):
        ready.push(run_id, priority, 0, 0)
    assert drain(ready) == [2, 4, 3, 1]


def test_of_equal_priority_the_older_slot_goes_first_then_the_lower_id(ready):
    for run_id, slot in ((3, 1000), (2, 2000), (1, 2000)):
        ready.push(run_id, NORMAL, slot, 5000)
    assert drain(ready) == [3, 1, 2]


def test_nothing_starts_without_a_free_slot(ready):
    ready.push(1, CRITICAL, 0, 0)
    assert ready.pop(0, 0, 0) is None
    assert 1 in ready


def test_the_last_free_slots_are_for_high_and_critical(ready):
    for run_id, priority in ((1, NORMAL), (2, HIGH), (3, CRITICAL), (4, LOW)):
        ready.push(run_id, priority, 0, 0)
    assert drain(ready, free=2, reserved=2) == [3, 2]
    assert drain(ready, free=3, reserved=2) == [1, 4]


def test_age_lifts_a_run_in_the_order_but_not_into_reserved_slots(ready):
    ready.push(1, LOW, 0, 0)
    ready.push(2, HIGH, INTERVAL * 10, INTERVAL * 10)
    assert ready.pop(INTERVAL * 10, 1, 1) == 2
    assert ready.pop(INTERVAL * 10, 1, 1) is None
    assert ready.pop(INTERVAL * 10, 2, 1) == 1


def test_a_run_gains_one_level_for_every_whole_interval(ready):
    ready.push(1, LOW, 0, 0)
    ready.push(2, NORMAL, 0, INTERVAL)
    # Level 1 + 0 against 2: one millisecond before its promotion the low one is behind.
    assert ready.pop(INTERVAL - 1, 1, 0) == 2
    ready.push(2, NORMAL, 5000, INTERVAL)
    # Both on level 2: the older slot decides.
    assert ready.pop(INTERVAL, 1, 0) == 1


def test_after_a_long_sleep_a_run_has_all_its_levels_at_once(ready):
    ready.push(1, LOW, 9000, 0)
    ready.push(2, CRITICAL, 0, INTERVAL * 7)
    assert drain(ready, now=INTERVAL * 7) == [1, 2]


def test_a_run_that_comes_back_with_its_old_age_keeps_it(ready):
    ready.push(1, CRITICAL, 0, INTERVAL * 5)
    ready.push(2, LOW, 9000, 0)
    assert drain(ready, now=INTERVAL * 5) == [2, 1]


def test_a_clock_that_is_set_back_demotes_nobody(ready):
    ready.push(1, LOW, 9000, INTERVAL)
    ready.push(2, NORMAL, 0, INTERVAL * 3)
    assert ready.pop(INTERVAL * 3, 1, 1) is None
    assert drain(ready, now=0) == [1, 2]


def test_a_removed_run_is_gone_and_removing_it_again_is_no_error(ready):
    ready.push(1, NORMAL, 0, 0)
    ready.push(2, NORMAL, 0, 0)
    ready.remove(1)
    ready.remove(1)
    assert 1 not in ready
    assert len(ready) == 1
    assert drain(ready, now=INTERVAL * 9) == [2]


def test_a_run_cannot_wait_twice(ready):
    ready.push(1, NORMAL, 0, 0)
    with pytest.raises(ValueError, match="run 1 waits already"):
        ready.push(1, HIGH, 0, 0)
    assert drain(ready) == [1]


def test_a_run_that_was_taken_may_wait_again(ready):
    ready.push(1, LOW, 0, 0)
    assert ready.pop(0, 1, 0) == 1
    ready.push(1, CRITICAL, 0, 0)
    ready.push(2, HIGH, 0, 0)
    assert drain(ready) == [1, 2]


def test_who_has_waited_for_long_is_told_by_when_it_came_to_wait_and_not_by_its_slot():
    ready = backlog.Backlog(600)
    ready.push(1, 2, slot_ms=0, queued_ms=5000)
    ready.push(2, 2, slot_ms=0, queued_ms=1000, pool="disk")
    ready.push(3, 2, slot_ms=0, queued_ms=4999)
    assert ready.waiting_since(5000) == [(1000, 2), (4999, 3)]
    ready.remove(2)
    ready.move(-1000, 9000)
    assert ready.waiting_since(5000) == [(3999, 3), (4000, 1)]


@pytest.mark.parametrize("aging_s", [0, -1])
def test_an_aging_interval_of_nothing_is_refused(ready, aging_s):
    with pytest.raises(ValueError, match="more than 0 seconds"):
        backlog.Backlog(aging_s)
    with pytest.raises(ValueError, match="more than 0 seconds"):
        ready.set_aging(aging_s)


def test_a_new_interval_counts_from_the_next_promotion_on(ready):
    ready.push(1, LOW, 9000, 0)
    ready.set_aging(1)
    ready.push(2, CRITICAL, 0, INTERVAL - 1)
    # At its old promotion run 1 is found to have waited 600 of the new intervals.
    assert ready.pop(INTERVAL - 1, 1, 0) == 2
    ready.push(2, CRITICAL, 0, INTERVAL - 1)
    assert ready.pop(INTERVAL, 1, 0) == 1


@pytest.mark.parametrize("priority", [LOW, NORMAL, HIGH, CRITICAL])
def test_a_run_is_passed_only_by_what_came_less_than_its_bound_after_it(ready, priority):
    bound = (5 - priority) * INTERVAL
    for now in range(bound, bound + 10 * INTERVAL, INTERVAL // 4):
        ready.push(0, priority, 1000, 0)
        ready.push(1, CRITICAL, 0, bound)  # with an older slot, to win every tie
        assert drain(ready, now) == [0, 1]
    ready.push(0, priority, 1000, 0)
    ready.push(1, CRITICAL, 0, bound - 1)
    assert drain(ready, bound + INTERVAL - 1) == [1, 0]


@pytest.mark.parametrize("reserved", [0, 1])
def test_a_stream_of_high_runs_that_never_ends_does_not_starve_a_low_one(ready, reserved):
    """Two slots, never free at once, and a HIGH run every minute that takes two and a half: more than they can do."""
    minute, slots = 60_000, 2
    running = [(90_000, HIGH), (150_000, HIGH)]
    ready.push(0, LOW, 0, 0)
    for number in range(1, 200):
        now = number * minute
        running = [(end, priority) for end, priority in running if end > now]
        ready.push(number, HIGH, now, now)
        while len(running) < slots:
            held = sum(priority == HIGH for _, priority in running)
            run_id = ready.pop(now, slots - len(running), max(0, reserved - held))
            if run_id is None:
                break
            if run_id == 0:
                assert 2 * INTERVAL <= now <= 3 * INTERVAL  # a HIGH one is two levels up
                return
            running.append((now + 150_000, HIGH))
    pytest.fail("the low run never started")


# Pools.


def test_a_full_pool_holds_up_no_other(ready):
    ready.push(1, CRITICAL, 0, 0, pool="disk")
    ready.push(2, LOW, 0, 0, pool="net")
    ready.push(3, LOW, 5, 0)
    assert ready.pop(0, 9, 0, {"disk"}) == 2
    assert ready.pop(0, 9, 0, {"disk"}) == 3
    assert ready.pop(0, 9, 0, {"disk"}) is None
    assert ready.pop(0, 9, 0) == 1


def test_over_all_pools_the_first_is_the_first_of_all(ready):
    for run_id, (priority, pool) in enumerate([(LOW, "a"), (HIGH, "b"), (NORMAL, None), (CRITICAL, "a")]):
        ready.push(run_id, priority, 0, 0, pool=pool)
    assert drain(ready) == [3, 1, 2, 0]


def test_behind_a_full_pool_many_cost_no_more_than_one():
    ready = backlog.Backlog(AGING_S)
    for run_id in range(10_000):
        ready.push(run_id, NORMAL, Compared(run_id), 0, pool="full")
    Compared.times = 0
    for number in range(1000):
        ready.push(10_000 + number, LOW, Compared(0), 0, pool="free")
        assert ready.pop(0, 1, 0, {"full"}) == 10_000 + number
    assert Compared.times < 10_000


def test_levels_rise_in_pieces(ready):
    for run_id in range(10):
        ready.push(run_id, LOW, 0, 0)
    assert not ready.settle(INTERVAL, 9)
    assert ready.settle(INTERVAL, 9)
    assert ready.settle(INTERVAL, 1)


@pytest.mark.parametrize("priority", [LOW, NORMAL, HIGH])
@pytest.mark.parametrize("pool", [None, "small"])
def test_nobody_waits_longer_than_is_stated(priority, pool):
    """Three places, a pool of one of them, and far more than they can do of what is more urgent, in the pool and outside."""
    minute, ready, places, longest = 60_000, backlog.Backlog(AGING_S), 3, 3 * 60_000
    bound = (5 - priority) * INTERVAL
    running, ids, ahead = [], iter(range(1, 1 << 30)), None
    started = {}
    ready.push(0, priority, 1, 0, pool=pool)
    for now in range(0, bound + 100 * longest, minute):
        for name in (None, "small", None):
            ready.push(next(ids), CRITICAL, now, now, pool=name)
        if now == bound:
            # All that can start before it from now on: what is ready by then.
            ahead = sum(1 for _ in ready._waiting) - 1
        running = [(end, name) for end, name in running if end > now]
        while True:
            full = {"small"} if any(name == "small" for _, name in running) else set()
            run_id = ready.pop(now, places - len(running), 0, full) if len(running) < places else None
            if run_id is None:
                break
            started[run_id] = now
            running.append((now + longest, "small" if run_id and run_id % 3 == 2 else None if run_id else pool))
        if 0 in started:
            break
    worked_off = 0 if ahead is None else (ahead // (1 if pool else places) + 1) * longest
    assert bound - INTERVAL <= started[0] <= bound + worked_off


# What is caught up.


def test_of_what_is_caught_up_five_start_a_second_the_most_urgent_first(ready):
    for run_id in range(12):
        ready.push(run_id, CRITICAL if run_id == 11 else NORMAL, 0, 0, pool="abc"[run_id % 3], caught_up=True)
    assert drain(ready, 0, 99) == [11, 0, 1, 2, 3]
    assert ready.next_opening(0) == 1000
    assert drain(ready, 999, 99) == []
    assert drain(ready, 1000, 99) == [4, 5, 6, 7, 8]
    assert drain(ready, 5000, 99) == [9, 10]
    assert ready.next_opening(5000) is None


def test_what_is_on_time_does_not_wait_for_what_is_caught_up(ready):
    for run_id in range(6):
        ready.push(run_id, CRITICAL, 0, 0, caught_up=True)
    assert len(drain(ready, 0, 99)) == 5
    ready.push(9, LOW, 0, 0)
    assert drain(ready, 0, 99) == [9]


def test_a_clock_that_is_set_back_holds_up_nothing_that_is_caught_up(ready):
    for run_id in range(6):
        ready.push(run_id, NORMAL, 0, INTERVAL, caught_up=True)
    assert len(drain(ready, INTERVAL, 99)) == 5
    ready.move(-INTERVAL, 0)
    assert drain(ready, 0, 99) == [5]


@settings(derandomize=True, database=None, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.sampled_from(["push", "pop", "remove"]),
            st.integers(0, 8),
            st.integers(LOW, CRITICAL),
            st.integers(0, 3),
            st.integers(0, INTERVAL),
            st.integers(0, 3),
        )
    )
)
def test_it_gives_what_sorting_everything_each_time_would(steps):
    ready, waiting, now = backlog.Backlog(AGING_S), {}, 0
    for what, run_id, priority, slot, elapsed, free in steps:
        now += elapsed
        if what == "push" and run_id not in waiting:
            ready.push(run_id, priority, slot, now)
            waiting[run_id] = (priority, slot, now)
        elif what == "remove":
            ready.remove(run_id)
            waiting.pop(run_id, None)
        elif what == "pop":
            allowed = [
                (-(own + (now - queued) // INTERVAL), when, number)
                for number, (own, when, queued) in waiting.items()
                if free > 1 or (free == 1 and own >= HIGH)
            ]
            expected = min(allowed)[-1] if allowed else None
            assert ready.pop(now, free, 1) == expected
            waiting.pop(expected, None)
        assert len(ready) == len(waiting)


def test_the_work_for_a_run_hardly_grows_with_those_that_wait():
    def cost(runs):
        ready = backlog.Backlog(AGING_S)
        for run_id in range(runs):
            ready.push(run_id, 1 + run_id % 4, Compared(run_id * 1000), run_id)
        Compared.times = 0
        assert len(drain(ready, now=INTERVAL * 3)) == runs
        return Compared.times / runs

    assert cost(1_000) > 1
    assert cost(10_000) < 2 * cost(1_000), "a logarithm, and no sort each"
