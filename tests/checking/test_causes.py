"""Spans of time, and questions about them."""

import pytest
from checking import causes

SLEEPS = causes.Spans([(10, 20), (15, 30), (50, 1_000_000_000)])


@pytest.mark.parametrize(
    ("begin", "ms", "end"),
    [
        (0, 10, 10),  # over before it sleeps
        (0, 11, 31),
        (15, 5, 35),
        (30, 20, 50),
        (30, 21, 1_000_000_001),  # asleep for days when all but one millisecond was over
    ],
)
def test_time_in_which_the_host_sleeps_does_not_count(begin, ms, end):
    assert SLEEPS.stretch(begin, ms) == end
