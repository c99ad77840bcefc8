"""heap.py: what is changed or taken out never comes up again, and garbage stays in bounds."""

from hypothesis import given, settings
from hypothesis import strategies as st

from lnmt_scheduler.supervisor import heap


def drain(waiting):
    entries = []
    while (entry := waiting.pop()) is not None:
        entries.append(entry)
    return entries


def test_entries_come_out_in_order_and_ties_by_key():
    waiting = heap.LazyHeap()
    for key, order in ((3, 20), (2, 10), (1, 20)):
        waiting.set(key, order)
    assert waiting.first() == (10, 2)
    assert drain(waiting) == [(10, 2), (20, 1), (20, 3)]
    assert waiting.first() is None
    assert waiting.pop() is None


def test_a_key_that_moves_away_and_back_comes_out_once():
    waiting = heap.LazyHeap()
    for order in (10, 20, 10):
        waiting.set(7, order)
    assert len(waiting) == 1
    assert drain(waiting) == [(10, 7)]


def test_a_removed_key_does_not_come_out():
    waiting = heap.LazyHeap()
    waiting.set(1, 10)
    waiting.set(2, 20)
    waiting.discard(1)
    waiting.discard(99)
    assert 1 not in waiting
    assert 2 in waiting
    assert drain(waiting) == [(20, 2)]


def test_keys_that_are_moved_all_the_time_leave_no_mountain_of_garbage():
    waiting = heap.LazyHeap()
    for key in range(100):
        waiting.set(key, key)
    for order in range(100_000):
        waiting.set(order % 100, 1_000_000 - order)
        assert len(waiting._heap) <= 2 * 100 + 65
    for key in range(100):
        waiting.discard(key)
    assert len(waiting._heap) <= 65


@settings(derandomize=True, database=None, deadline=None)
@given(st.lists(st.tuples(st.sampled_from(["set", "discard", "pop"]), st.integers(0, 5), st.integers(0, 3))))
def test_it_behaves_as_a_sorted_dictionary(steps):
    waiting, model = heap.LazyHeap(), {}
    for what, key, order in steps:
        if what == "set":
            waiting.set(key, order)
            model[key] = order
        elif what == "discard":
            waiting.discard(key)
            model.pop(key, None)
        else:
            smallest = min(((order, key) for key, order in model.items()), default=None)
            assert waiting.first() == smallest
            assert waiting.pop() == smallest
            if smallest:
                del model[smallest[1]]
        assert len(waiting) == len(model)
    assert drain(waiting) == sorted((order, key) for key, order in model.items())
