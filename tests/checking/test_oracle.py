"""The checker's own cron against cronsim, an author whom we do not know, and against what the manual says in words."""

import datetime as dt
import random
import zoneinfo

import cronsim
import pytest
from checking import oracle

ZONES = ["UTC", "Europe/Berlin", "America/New_York", "Asia/Kolkata", "Africa/Cairo", "Antarctica/Troll", "Asia/Tehran"]
TEXTS = [
    "0 3 * * *", "30 2 * * *", "0 * * * *", "7 */2 * * *", "0 0 1 * *", "0 0 29 2 *", "15 4 * * mon-fri",
    "0 12 13 * 5", "0 0 */2 * 1", "59 23 31 12 *", "0 0-23 * * *", "*/30 1 * * *", "5,35 2 * jan-jun 0", "0 1 * * 7",
]  # fmt: skip


def ms(text, zone="UTC"):
    return int(dt.datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(zone)).timestamp() * 1000)


@pytest.mark.parametrize("zone", ZONES)
def test_a_year_is_as_cronsim_says(zone):
    info = zoneinfo.ZoneInfo(zone)
    begin, end = ms("2026-01-01"), ms("2026-11-15")
    for text in TEXTS:
        judge = cronsim.CronSim(text, dt.datetime.fromtimestamp(begin / 1000, info))
        expected = []
        for fire in judge:
            at = int(fire.timestamp()) * 1000
            if at > end:
                break
            expected.append(at)
        assert oracle.slots(text, zone, begin, end) == expected, text


def test_it_does_not_matter_where_one_begins_to_ask():
    rng = random.Random(1)
    for _ in range(200):
        text, zone = rng.choice(TEXTS), rng.choice(ZONES)
        begin = ms("2026-01-01") + rng.randrange(300 * 86400) * 1000
        middle = begin + rng.randrange(40 * 86400) * 1000
        end = middle + rng.randrange(40 * 86400) * 1000
        parts = oracle.slots(text, zone, begin, middle) + oracle.slots(text, zone, middle, end)
        assert parts == oracle.slots(text, zone, begin, end)


def test_a_fixed_time_in_the_half_hour_that_lord_howe_leaps_over_fires_at_the_leap():
    zone = "Australia/Lord_Howe"
    assert oracle.slots("15 2 * * *", zone, ms("2026-10-03 12:00", zone), ms("2026-10-04 12:00", zone)) == [
        ms("2026-10-04 02:30", zone)
    ]


def test_every_is_anchored_at_the_epoch():
    assert oracle.slots("@every 1h30m", "UTC", 0, 4 * 3_600_000) == [5_400_000, 10_800_000]
    assert oracle.slots("@every 1h30m", "UTC", 5_400_000, 10_800_000) == [10_800_000]


def test_nicknames_and_six_fields():
    assert oracle.slots("@daily", "UTC", 0, 86_400_000) == [86_400_000]
    assert oracle.slots("*/20 0 0 * * *", "UTC", 0, 86_400_000) == [20_000, 40_000, 86_400_000]
    assert oracle.slots("@reboot", "UTC", 0, 86_400_000) == []
