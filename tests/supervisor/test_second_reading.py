"""second_reading.py against cron.py: two ways to the same fires, of which neither knows the other."""

import zoneinfo
from datetime import datetime

import pytest

from lnmt_scheduler.supervisor import cron, crontab, second_reading

LINES = [
    "30 2 * * *",
    "*/20 1 * * *",
    "7 */2 * * *",
    "0 0-23/6 * * *",
    "0 9 1-7 * mon",
    "5 0 */2 * 0",
    "0 12 29 2 *",
    "@weekly",
]


def epoch(text, zone):
    return int(datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(zone)).timestamp())


def by_cron(text, zone, after, count):
    planned, at, found = cron.parse(text, zone, "job"), after * 1000, []
    while len(found) < count:
        at = planned.next_after(at)
        found.append(at // 1000)
    return found


@pytest.mark.parametrize(
    ("zone", "after"),
    [
        ("Europe/Berlin", "2026-03-28T12:00"),
        ("Europe/Berlin", "2026-10-24T12:00"),
        ("Australia/Lord_Howe", "2026-04-04T12:00"),
        ("Pacific/Apia", "2011-12-28T12:00"),
        ("America/Havana", "2026-10-31T12:00"),
    ],
)
@pytest.mark.parametrize("text", LINES)
def test_both_readings_agree(text, zone, after):
    at = epoch(after, zone)
    found = second_reading.fires(crontab.reading(text), zone, at, 12)
    assert found == by_cron(text, zone, at, len(found))
    assert found


def test_a_reading_that_never_fires_comes_to_its_end():
    assert second_reading.fires(crontab.reading("0 0 31 2 *"), "UTC", 0, 1) == []


def test_a_day_must_be_of_both_fields_if_one_begins_with_a_star():
    at = epoch("2026-01-01T00:00", "UTC")
    first = second_reading.fires(crontab.reading("0 0 */2 * 1"), "UTC", at, 1)[0]
    assert first == epoch("2026-01-05T00:00", "UTC")
    assert second_reading.fires(crontab.reading("0 0 2 * 1"), "UTC", at, 1)[0] == epoch("2026-01-02T00:00", "UTC")
