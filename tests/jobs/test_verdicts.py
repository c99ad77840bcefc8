"""Thresholds, and the words of a monitoring plugin."""

import re

import pytest

from lnmt_scheduler.jobs import health, verdicts

FULL = verdicts.Limits(warning=80, critical=90)
DAYS = verdicts.Limits(warning=21, critical=7, falling=True)


@pytest.mark.parametrize(
    ("limits", "value", "verdict"),
    [
        (FULL, 79.9, verdicts.OK),
        (FULL, 80, verdicts.WARNING),
        (FULL, 90, verdicts.CRITICAL),
        (DAYS, 21.1, verdicts.OK),
        (DAYS, 21, verdicts.WARNING),
        (DAYS, -3, verdicts.CRITICAL),
        (verdicts.Limits(warning=1, critical=None), 1000, verdicts.WARNING),
        (verdicts.Limits(warning=None, critical=None), 1000, verdicts.OK),
    ],
)
def test_a_value_is_judged_by_the_threshold_that_it_has_reached(limits, value, verdict):
    assert limits.judge(value) == verdict


def check(name: str, verdict: int) -> verdicts.Check:
    return verdicts.Check(name=name, verdict=verdict, text="text")


def test_the_worst_decides_and_unknown_is_better_than_a_warning_and_worse_than_ok():
    kinds = [
        check("o", verdicts.OK),
        check("u", verdicts.UNKNOWN),
        check("w", verdicts.WARNING),
        check("c", verdicts.CRITICAL),
    ]
    assert [verdicts.worst(kinds[:end]) for end in range(5)] == [3, 0, 3, 1, 2]


def test_the_first_line_is_one_that_monitoring_understands():
    checks = [
        verdicts.judged("disk /a|b", 81.25, FULL, "81.25 % | used", "%"),
        verdicts.judged("certificate it's", 30, DAYS, "fine", "d"),
        check("units", verdicts.CRITICAL),
    ]
    first, *rest = verdicts.lines("HEALTH", checks)
    assert first == (
        "HEALTH CRITICAL - units: text; disk /a/b: 81.25 % / used | 'disk /a|b'=81.25%;80;90 'certificate its'=30d;21:;7:"
    )
    assert [line.split()[0] for line in rest] == ["CRITICAL", "WARNING", "OK"]
    assert all(re.fullmatch(r"'[^'=]+'=[-\d.]+[%d]?;[\d.:]*;[\d.:]*", each.performance) for each in checks[:2])


def test_many_that_are_bad_make_a_line_that_can_be_read():
    first = verdicts.lines("HEALTH", [check(str(number), verdicts.WARNING) for number in range(100)])[0]
    assert first.endswith("; and 95 more")


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"dsik": [1, 2]}, "unknown check 'dsik'"),
        ({"disk": 5}, "disk must be [warning, critical]"),
        ({"disk": [True, 2]}, "disk must be two numbers"),
        ({"disk": [90, 80]}, "disk has a critical threshold"),
        ({"certificates": [7, 21]}, "certificates has a critical threshold"),
    ],
)
def test_thresholds_that_make_no_sense_are_refused(given, words):
    with pytest.raises(ValueError) as raised:
        health.limits(given)
    assert words in str(raised.value)


def test_thresholds_take_the_place_of_the_defaults_one_by_one():
    found = health.limits({"disk": [None, 99]})
    assert found["disk"] == verdicts.Limits(warning=None, critical=99)
    assert found["certificates"].falling
    assert found["inodes"].warning == health.THRESHOLDS["inodes"][0]
