"""Durations and sizes: every notation that is taken, and what is refused."""

import math
import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lnmt_scheduler.jobs import units


@pytest.mark.parametrize(
    ("text", "seconds"),
    [
        (90, 90), (1.5, 1.5), (0, 0), ("90", 90), ("0.5", 0.5), (" 90 ", 90), ("90s", 90), ("90 sec", 90),
        ("1h30m", 5400), ("1h 30m", 5400), ("1 hour 30 minutes", 5400), ("2 days", 172800), ("1w2d", 777600),
        ("500ms", 0.5), ("1s 1ms", 1.001), ("1.5h", 5400), ("1m", 60), ("0s", 0),
    ],
)  # fmt: skip
def test_a_duration_is_seconds(text, seconds):
    found = units.duration(text)
    assert found == seconds
    assert isinstance(found, float)


@pytest.mark.parametrize(
    "wrong",
    [
        True, None, [], -1, -0.5, math.nan, math.inf, 10**400, "", " ", "none", "-5", "-1h", "+5", "1e3", "inf", "nan",
        "1x", "1M", "h", "1h30", "30m1h", "1h1h", "1,5h", "1 h 5", "٣h", "1h;2m", "9" * 65,
    ],
)  # fmt: skip
def test_what_is_no_duration_is_refused(wrong):
    with pytest.raises(ValueError):
        units.duration(wrong)


def test_a_refusal_shows_the_text_and_what_to_write_instead():
    with pytest.raises(
        ValueError, match=re.escape("'5 fortnights' is no duration: write seconds, or numbers with w, d")
    ):
        units.duration("5 fortnights")


@pytest.mark.parametrize(
    ("text", "size"),
    [
        (0, 0), (4096, 4096), ("4096", 4096), ("512 B", 512), ("1K", 1024), ("1k", 1024), ("1KB", 1024), ("1KiB", 1024),
        ("512M", 512 << 20), ("512 MiB", 512 << 20), ("1.5G", 3 << 29), ("2T", 2 << 40), ("8388607T", 8388607 << 40),
    ],
)  # fmt: skip
def test_a_size_is_bytes_in_binary_multiples(text, size):
    found = units.size(text)
    assert found == size
    assert isinstance(found, int)


@pytest.mark.parametrize(
    "wrong",
    [
        True,
        None,
        1.5,
        512.0,
        -1,
        1 << 63,
        "",
        "-1",
        "-1K",
        "M",
        "1E",
        "1 MM",
        "1iB",
        "1e3",
        "8388608T",
        "9" * 70,
        "5\u212a",
    ],
)
def test_what_is_no_size_is_refused(wrong):
    with pytest.raises(ValueError):
        units.size(wrong)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0, "0s"), (0.0004, "0s"), (0.001, "1ms"), (0.85, "850ms"), (0.9996, "1s"), (1, "1s"), (2.2, "2.2s"),
        (2.04, "2s"), (59.94, "59.9s"), (59.96, "1m"), (60, "1m"), (90, "1m30s"), (5400, "1h30m"), (3600, "1h"),
        (3605, "1h"), (86400, "1d"), (90000, "1d1h"), (86460, "1d"), (-90, "-1m30s"),
    ],
)  # fmt: skip
def test_a_duration_is_shown_in_its_two_longest_units(seconds, text):
    assert units.format_duration(seconds) == text


@pytest.mark.parametrize(
    ("size", "text"),
    [
        (0, "0 B"), (1023, "1023 B"), (1024, "1 KiB"), (1536, "1.5 KiB"), (3355443, "3.2 MiB"), (1 << 30, "1 GiB"),
        ((1 << 20) - 1, "1 MiB"), (5000 << 40, "5000 TiB"),
    ],
)  # fmt: skip
def test_a_size_is_shown_in_its_largest_unit(size, text):
    assert units.format_size(size) == text


@given(st.floats(min_value=0, max_value=1e9))
def test_a_shown_duration_can_be_read_and_is_near(seconds):
    shown = units.duration(units.format_duration(seconds))
    assert abs(shown - seconds) <= max(0.0005, seconds * 0.05)


@given(st.text(max_size=20))
def test_the_patterns_of_the_schema_take_what_is_taken(text):
    for read, pattern in ((units.duration, units.DURATION_PATTERN), (units.size, units.SIZE_PATTERN)):
        try:
            read(text)
        except ValueError:
            continue
        assert re.search(pattern, text)
