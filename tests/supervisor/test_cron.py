"""Cron expressions against two judges that know nothing of croniter or of supervisor/cron.py.

`Vixie` below reads an expression by the rules of Debian's crontab(5), and `Walk` shows it every minute (or second) of a
span as the wall clock of a zone shows it. cronsim is the other judge. It is wrong where a clock is put by half an hour or at a
quarter to an hour (Lord Howe, Chatham, Pyongyang), and there alone may differ: cronsim 2.8 loses `7 */2` at 02:07 on
2026-04-05 in Lord Howe, because it jumps by whole hours to minute 0 and then finds the repeated half hour behind it. Nor is it
asked from inside a repeated hour, where its answers for fixed times lie in the past.

Changes of offset are taken from a sample of zones that has every kind of them, and the oddest of the past are all there.
LNMT_FULL=1 takes all changes of all zones from 2024 to 2030 and all 30 expressions, and lets Hypothesis search longer. A zone
that is another by a second name is taken once. tests/checking/oracle.py, which the daemon's checker uses, is a third judge.
"""

import bisect
import datetime as dt
import functools
import itertools
import os
import pathlib
import re
import zoneinfo

import cronsim
import pytest
from checking import oracle
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from lnmt_scheduler.supervisor import cron

FULL = bool(os.environ.get("LNMT_FULL"))
MINUTE, HOUR, DAY = 60, 3600, 86400

SAMPLE = [
    "Africa/Cairo",  # at midnight
    "Africa/Casablanca",  # back in spring, forward a month later
    "America/Havana",  # from 00:00 to 01:00, and from 01:00 to 00:00
    "America/Los_Angeles",
    "America/Nuuk",  # at 00:00 and 23:00 of the day before
    "America/Scoresbysund",  # changed its standard time in 2024
    "America/St_Johns",  # half an hour from everyone else
    "Antarctica/Troll",  # by two hours
    "Asia/Almaty",  # once, for good
    "Asia/Beirut",
    "Asia/Gaza",
    "Asia/Kolkata",  # never
    "Atlantic/Azores",
    "Australia/Lord_Howe",  # by half an hour
    "Europe/Berlin",
    "Europe/Dublin",  # its winter is the exception
    "Pacific/Chatham",  # at 02:45
    "UTC",
]


def all_zones():
    """Every zone of this host by one of its names."""
    known = {}
    for zone in sorted(zoneinfo.available_timezones() - {"Factory", "localtime"}):
        path = next(path for folder in zoneinfo.TZPATH if (path := pathlib.Path(folder, zone)).is_file())
        known.setdefault(path.read_bytes(), zone)
    return sorted(known.values())


ZONES = all_zones() if FULL else SAMPLE
YEARS = range(2024, 2031) if FULL else range(2024, 2027)

#: Those of the first part fire on every day, so also near every change; the others when their day is near.
EVERY_DAY = [
    "30 2 * * *",
    "0,30 0-3 * * *",
    "45 1 * * *",
    "5 0 * * *",
    "59 23 * * *",
    "0 0-23/2 * * *",
    "*/20 1 * * *",
    "7 */2 * * *",
    "0 * * * *",
    "*/30 * * * *",
    "0 0 * * *",
    "0 3 * * *",
    "15,45 1-2 * * *",
    "29 */1 * * *",
    "10-50/20 0,12,23 * * *",
    "* 2 * * *",
    "1-59/2 3 * * *",
    "0 23,0 * * *",
    "30 */3 * * *",
    "17 4-6,20-22 * * *",
]
EXPRESSIONS = [
    *(EVERY_DAY if FULL else EVERY_DAY[:10]),
    "0 0 */2 * *",
    "30 2 * * 0",
    "0 2 L * *",
    "45 0-2 * * 0,6",
    "0 9 * 3,10 5",
    "20 1 1-7 * */7",
    "*/15 0-3 28-31 * *",
    "0 1 * * 0#1",
    "30 0 * * 5L",
    "0 12 30 12 *",
]
#: Changes of the past that are like no other: a zone, and the years in which it had them.
HISTORY = [
    ("Pacific/Apia", 2011, 2011),  # the 30th of December never was
    ("Pacific/Kiritimati", 1994, 1995),  # nor was the 31st there
    ("Pacific/Kwajalein", 1993, 1993),  # nor the 21st of August
    ("Antarctica/Troll", 2005, 2005),  # two hours in summer
    ("Australia/Lord_Howe", 1985, 1985),  # from a whole hour to half an hour
    ("Africa/Cairo", 2010, 2010),  # summer time was off for Ramadan
    ("Africa/Cairo", 2014, 2014),  # again, and at midnight
    ("Africa/Cairo", 2023, 2023),  # summer time again, after years without
    ("Asia/Pyongyang", 2015, 2015),  # half an hour back, for good
    ("Asia/Pyongyang", 2018, 2018),  # and forward
]
MONTHS = "jan feb mar apr may jun jul aug sep oct nov dec".split()  # noqa: SIM905 (reads better)
WEEKDAYS = "sun mon tue wed thu fri sat".split()  # noqa: SIM905 (as above)


class Vixie:
    """The rules of crontab(5), with L and n#k: day by day and minute by minute, without any cleverness."""

    def __init__(self, text):
        words = text.lower().split()
        if len(words) == 5:
            words = ["0", *words]
        second, minute, hour, self.date_text, month, self.weekday_text = words
        self.seconds = self.numbers(second, 0, 59)
        self.minutes = self.numbers(minute, 0, 59)
        self.hours = self.numbers(hour, 0, 23)
        self.months = self.numbers(month, 1, 12, dict(zip(MONTHS, range(1, 13), strict=True)))
        self.both = self.date_text.startswith("*") or self.weekday_text.startswith("*")
        self.fixed = not minute.startswith("*") and not hour.startswith("*")
        self.on = functools.cache(self._on)

    @staticmethod
    def numbers(text, low, high, names=None):
        values = set()
        for part in text.split(","):
            span, _, step = part.partition("/")
            first, _, last = span.partition("-")
            if span == "*":
                first, last = low, high
            elif not last:
                last = high if step else first
            first, last = ((names or {}).get(end, end) for end in (first, last))
            values.update(range(int(first), int(last) + 1, int(step or 1)))
        assert all(low <= value <= high for value in values)
        return values

    def _on(self, day):
        if day.month not in self.months:
            return False
        matches = [self.date_matches(day), self.weekday_matches(day)]
        return all(matches) if self.both else any(matches)

    def date_matches(self, day):
        parts = self.date_text.split(",")
        if "l" in parts and (day + dt.timedelta(days=1)).day == 1:
            return True
        return any(day.day in self.numbers(part, 1, 31) for part in parts if part != "l")

    def weekday_matches(self, day):
        weekday = day.isoweekday()
        names = dict(zip(WEEKDAYS, range(7), strict=True))
        for part in self.weekday_text.split(","):
            if "#" in part:
                name, nth = part.split("#")
                if weekday % 7 == int(names.get(name, name)) % 7 and (day.day - 1) // 7 + 1 == int(nth):
                    return True
            elif "l" in part:
                name = part.replace("l", "")
                last = (day + dt.timedelta(days=7)).month != day.month
                if last and weekday % 7 == int(names.get(name, name)) % 7:
                    return True
            elif {weekday, weekday % 7} & self.numbers(part, 0, 7, names):
                return True
        return False

    def matches(self, wall):
        return (
            wall.minute in self.minutes
            and wall.hour in self.hours
            and wall.second in self.seconds
            and self.on(wall.date())
        )

    def naive(self, after, days):
        """Yield the wall times later than `after`, in a place without changes, for this many days."""
        midnight = after.replace(hour=0, minute=0, second=0)
        for number in range(days):
            day = midnight + dt.timedelta(days=number)
            if self.on(day.date()):
                for hour in sorted(self.hours):
                    for minute in sorted(self.minutes):
                        for second in sorted(self.seconds):
                            wall = day.replace(hour=hour, minute=minute, second=second)
                            if wall > after:
                                yield wall


class Walk:
    """Every step of the wall clock between two instants: what it shows, what it repeats, what it leaps over."""

    def __init__(self, zone, start, end, step=MINUTE):
        info = zoneinfo.ZoneInfo(zone)
        self.start, self.end = start, end
        self.shown = []
        self.leaps = []
        pace = dt.timedelta(seconds=step)
        # Two days more before, to know what was shown already.
        latest = last = dt.datetime.fromtimestamp(start - 2 * DAY - step, info).replace(tzinfo=None)
        for instant in range(start - 2 * DAY, end, step):
            wall = dt.datetime.fromtimestamp(instant, info).replace(tzinfo=None, fold=0)
            if instant >= start:
                self.shown.append((instant, wall, wall <= latest))
                if wall > last + pace:
                    self.leaps.append((instant, [last + pace * n for n in range(1, (wall - last) // pace)]))
            last, latest = wall, max(wall, latest)

    def fires(self, judge):
        fires = {
            instant
            for instant, wall, repeated in self.shown
            if wall.minute in judge.minutes and not (repeated and judge.fixed) and judge.matches(wall)
        }
        if judge.fixed:
            fires |= {instant for instant, walls in self.leaps if any(map(judge.matches, walls))}
        return sorted(fires)


@functools.cache
def changes(zone, first=YEARS[0], last=YEARS[-1]):
    """Instants in the years under test, to the minute, at which the zone changes its offset."""
    info = zoneinfo.ZoneInfo(zone)
    start, end = (int(dt.datetime(year, 1, 1, tzinfo=dt.UTC).timestamp()) for year in (first, last + 1))

    def offset(instant):
        return dt.datetime.fromtimestamp(instant, info).utcoffset()

    return [
        next(minute for minute in range(hour, hour + HOUR + 1, MINUTE) if offset(minute) == offset(hour + HOUR))
        for hour in range(start, end, HOUR)
        if offset(hour) != offset(hour + HOUR)
    ]


@functools.cache
def walk(zone, start, end, step=MINUTE):
    return Walk(zone, start, end, step)


def fires(text, zone, start, end, job_id="job"):
    """Return the epoch seconds in [start, end) at which ours fires."""
    schedule = cron.parse(text, zone, job_id)
    found = []
    at = schedule.next_after(start * 1000 - 1)
    while at is not None and at < end * 1000:
        assert at % 1000 == 0
        assert not found or at > found[-1] * 1000
        found.append(at // 1000)
        at = schedule.next_after(at)
    return found


def epoch(text):
    return int(dt.datetime.fromisoformat(text).timestamp())


def local(text, zone, after, count):
    """Return the next fires as the zone's clock shows them, with the offset."""
    schedule = cron.parse(text, zone, "job")
    at, shown = epoch(after) * 1000, []
    for _ in range(count):
        at = schedule.next_after(at)
        shown.append(dt.datetime.fromtimestamp(at / 1000, zoneinfo.ZoneInfo(zone)).strftime("%Y-%m-%dT%H:%M%z"))
    return shown


def utc(text, after, count):
    return [shown.removesuffix("+0000") for shown in local(text, "UTC", after + "+00:00", count)]


def refusal(text, zone="UTC"):
    with pytest.raises(cron.CronError) as caught:
        cron.parse(text, zone, "job")
    return str(caught.value)


# All offset changes against both judges


@pytest.mark.parametrize("zone", ZONES)
def test_every_change_of_the_clock_is_as_a_walk_over_its_minutes_sees_it(zone):
    for change in changes(zone) or [epoch("2026-03-29T01:00Z")]:
        start, end = change - 30 * HOUR, change + 30 * HOUR
        seen = Walk(zone, start, end)
        for text in EXPRESSIONS:
            expected = seen.fires(Vixie(text))
            assert expected or text not in EVERY_DAY
            assert fires(text, zone, start, end) == expected, (text, zone, change)


def seen_by_cronsim(text, zone, start, end):
    expected = []
    for fire in cronsim.CronSim(text, dt.datetime.fromtimestamp(start - 1, zoneinfo.ZoneInfo(zone))):
        if fire.timestamp() >= end:
            break
        expected.append(int(fire.timestamp()))
    return expected


def is_odd(zone, change):
    """The clock is not put by whole hours, or not at a full one."""
    before, after = (dt.datetime.fromtimestamp(at, zoneinfo.ZoneInfo(zone)) for at in (change - 1, change))
    return (after.utcoffset() - before.utcoffset()) % dt.timedelta(hours=1) != dt.timedelta() or after.minute != 0


def assert_as_cronsim(text, zone, change, start, end):
    ours, other = fires(text, zone, start, end), seen_by_cronsim(text, zone, start, end)
    if ours != other:
        # cronsim jumps by whole hours to minute 0, and so loses what a wildcard has in the odd part of an hour.
        assert is_odd(zone, change), (text, zone, change)
        assert any(word.startswith("*") for word in text.split()[:2]), (text, zone, change)
        assert all(abs(at - change) <= HOUR for at in set(ours) ^ set(other)), (text, zone, change)


@pytest.mark.parametrize("zone", ZONES)
def test_every_change_of_the_clock_is_as_cronsim_sees_it(zone):
    for change in changes(zone) or [epoch("2026-03-29T01:00Z")]:
        for text in EXPRESSIONS:
            assert_as_cronsim(text, zone, change, change - 30 * HOUR, change + 30 * HOUR)


@pytest.mark.parametrize(("zone", "first", "last"), HISTORY)
def test_the_oddest_changes_of_the_past_are_as_all_judges_see_them(zone, first, last):
    found = changes(zone, first, last)
    assert found
    for change in found:
        start, end = change - 30 * HOUR, change + 30 * HOUR
        seen = Walk(zone, start, end)
        for text in EXPRESSIONS:
            ours = fires(text, zone, start, end)
            assert ours == seen.fires(Vixie(text)), (text, zone, change)
            if not set("#L") & set(text):
                assert ours == [at // 1000 for at in oracle.slots(text, zone, start * 1000 - 1, end * 1000 - 1)]
            assert_as_cronsim(text, zone, change, start, end)


def test_a_day_that_never_was_has_its_fixed_times_right_after_it():
    # Apia went from the end of the 29th of December 2011 to the 31st.
    assert local("0 12 30 12 *", "Pacific/Apia", "2011-12-29T12:00-10:00", 1) == ["2011-12-31T00:00+1400"]
    assert local("0 */6 30 12 *", "Pacific/Apia", "2011-12-29T12:00-10:00", 1) == ["2012-12-30T00:00+1400"]


@pytest.mark.parametrize("zone", ZONES)
def test_the_answer_does_not_depend_on_where_the_question_is_asked(zone):
    for change in changes(zone) or [epoch("2026-03-29T01:00Z")]:
        for text in EVERY_DAY[: len(EXPRESSIONS) - 10]:
            schedule = cron.parse(text, zone, "job")
            sequence = fires(text, zone, change - 30 * HOUR, change + 60 * HOUR)
            for after in [*range(change - 4 * HOUR, change + 4 * HOUR, 7 * MINUTE + 1), change - 1, change, change + 1]:
                expected = sequence[bisect.bisect_right(sequence, after)]
                assert schedule.next_after(after * 1000) == expected * 1000, (text, after)
                assert schedule.next_after(after * 1000 + 999) == expected * 1000, (text, after)


@pytest.mark.parametrize("zone", ["Europe/Berlin", "Australia/Lord_Howe", "Antarctica/Troll"])
@pytest.mark.parametrize("text", ["*/10 30 2 * * *", "30 59 1 * * *", "5,45 */20 * * * *", "1-59/29 45 1,2 * * *"])
def test_seconds_pass_through_a_change_as_a_walk_over_the_seconds_sees_it(zone, text):
    for change in changes(zone)[:2]:
        start, end = change - 3 * HOUR, change + 3 * HOUR
        expected = walk(zone, start, end, 1).fires(Vixie(text))
        assert expected
        assert fires(text, zone, start, end) == expected


# Random expressions


def spans(low, high, names=()):
    number = st.integers(low, high)
    value = number.map(str)
    if names:
        value |= st.sampled_from(names)
    pair = st.tuples(number, number).map(lambda ends: f"{min(ends)}-{max(ends)}")
    step = st.integers(1, high + 3)
    item = st.one_of(value, value, pair, st.builds("{}/{}".format, pair, step), st.builds("{}/{}".format, number, step))
    return st.one_of(
        st.just("*"), st.builds("*/{}".format, step), item, st.lists(item, min_size=2, max_size=4).map(",".join)
    )


def with_rare(plain, rare):
    listed = st.lists(rare, min_size=1, max_size=2).map(",".join)
    beside = st.builds("{},{}".format, plain.filter(lambda text: not text.startswith("*")), listed)
    return st.one_of(plain, plain, plain, listed, beside)


minutes, hours = spans(0, 59), spans(0, 23)
dates = with_rare(spans(1, 31), st.sampled_from(["L", "l"]))
months = spans(1, 12, MONTHS)
weekdays = with_rare(
    spans(0, 7, WEEKDAYS),
    st.builds("{}#{}".format, st.integers(0, 7), st.integers(1, 5))
    | st.sampled_from(["L5", "5L", "fril", "Lsun", "7L"]),
)
expressions = st.builds("{} {} {} {} {}".format, minutes, hours, dates, months, weekdays)
walls = st.datetimes(dt.datetime(2015, 1, 1), dt.datetime(2060, 1, 1))  # noqa: DTZ001 (of no zone)
thorough = settings(max_examples=20_000 if FULL else 1_000, derandomize=not FULL, deadline=None, database=None)
quick = settings(thorough, max_examples=2_000 if FULL else 100)


@thorough
@given(expressions, walls)
def test_a_random_expression_fires_when_crontab_5_says(text, after):
    after = after.replace(microsecond=0)
    judge = Vixie(text)
    expected = [wall for wall, _ in zip(judge.naive(after, 366 * 5), range(4), strict=False)]
    try:
        schedule = cron.parse(text, "UTC", "job")
    except cron.CronError:
        # What exists at all exists once in 28 years.
        assert next(judge.naive(dt.datetime(2000, 1, 1), 366 * 28), None) is None  # noqa: DTZ001 (of no zone)
        return
    at = int(after.replace(tzinfo=dt.UTC).timestamp()) * 1000
    for wall in expected:
        at = schedule.next_after(at)
        assert at == int(wall.replace(tzinfo=dt.UTC).timestamp()) * 1000


@thorough
@given(expressions, walls)
def test_a_random_expression_fires_when_cronsim_says(text, after):
    # cronsim writes the last Friday as 5L only, and reads 5-5/2 as 5/2.
    text = re.sub(r"\b(\d+)-\1/\d+", r"\1", text)
    text = text.replace("L5", "5L").replace("fril", "5L").replace("Lsun", "0L")
    try:
        schedule = cron.parse(text, "UTC", "job")
    except cron.CronError:
        assume(False)
    judge = cronsim.CronSim(text, after.replace(microsecond=0, tzinfo=dt.UTC))
    at = int(after.replace(microsecond=0, tzinfo=dt.UTC).timestamp()) * 1000
    for _ in range(4):
        at = schedule.next_after(at)
        assert at == int(next(judge).timestamp()) * 1000


@quick
@given(
    st.sampled_from([zone for zone in SAMPLE if zone not in ("Asia/Kolkata", "UTC")]),
    st.integers(0, 1),
    minutes,
    spans(0, 4) | hours,
)
def test_random_times_pass_through_a_change_as_a_walk_sees_it(zone, number, minute, hour):
    change = changes(zone)[-1 - number % len(changes(zone))]
    start, end = change - 30 * HOUR, change + 30 * HOUR
    text = f"{minute} {hour} * * *"
    assert fires(text, zone, start, end) == walk(zone, start, end).fires(Vixie(text))


@thorough
@given(st.text("0123456789*/-,#LHWRlhw() \t@?~=monjavery.\n\xe9", max_size=40) | st.text(max_size=20))
def test_any_text_is_a_schedule_or_a_cron_error(text):
    try:
        schedule = cron.parse(text, "Europe/Berlin", "job")
    except cron.CronError:
        return
    at = schedule.next_after(1_790_000_000_000)
    assert schedule.reboot if at is None else at > 1_790_000_000_000


# What croniter, cronsim or other crons get wrong


@pytest.mark.parametrize(
    ("text", "zone", "after", "shown"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-10-25T00:00+02:00", ["2026-10-25T02:30+0200", "2026-10-26T02:30+0100"]),
        (
            "30 1 * * *",
            "America/New_York",
            "2026-11-01T00:00-04:00",
            ["2026-11-01T01:30-0400", "2026-11-02T01:30-0500"],
        ),
        (
            "45 1 * * *",
            "Australia/Lord_Howe",
            "2026-04-05T00:00+11:00",
            ["2026-04-05T01:45+1100", "2026-04-06T01:45+1030"],
        ),
    ],
)
def test_a_fixed_time_in_a_repeated_hour_runs_in_its_first_pass_only(text, zone, after, shown):
    assert local(text, zone, after, 2) == shown


def test_a_repeated_hour_is_known_across_the_blocks_in_which_offsets_are_looked_up():
    boundary = 6811549696
    assert boundary % cron._BLOCK == 0
    # Eight minutes into the second pass, by the rule of today.
    assert dt.datetime.fromtimestamp(boundary, dt.UTC).isoformat() == "2185-11-06T09:08:16+00:00"
    start, end = epoch("2185-11-05T00:00Z"), epoch("2185-11-08T00:00Z")
    for text in EVERY_DAY:
        expected = walk("America/Los_Angeles", start, end).fires(Vixie(text))
        assert fires(text, "America/Los_Angeles", start, end) == expected
        after = cron.parse(text, "America/Los_Angeles", "job").next_after(boundary * 1000)
        assert after // 1000 == expected[bisect.bisect_right(expected, boundary)]


def test_a_fixed_time_is_not_run_again_when_asked_inside_the_second_pass():
    assert local("45 1 * * *", "America/Los_Angeles", "2025-11-02T01:30-08:00", 1) == ["2025-11-03T01:45-0800"]


def test_a_wildcard_hour_is_found_in_the_half_hour_that_lord_howe_repeats():
    assert local("7 */2 * * *", "Australia/Lord_Howe", "2026-04-05T00:00+11:00", 3) == [
        "2026-04-05T00:07+1100",
        "2026-04-05T02:07+1030",
        "2026-04-05T04:07+1030",
    ]


def test_a_wildcard_follows_elapsed_time_through_a_repeated_hour():
    assert local("*/30 * * * *", "Europe/Berlin", "2026-10-25T01:30+02:00", 5) == [
        "2026-10-25T02:00+0200",
        "2026-10-25T02:30+0200",
        "2026-10-25T02:00+0100",
        "2026-10-25T02:30+0100",
        "2026-10-25T03:00+0100",
    ]
    assert local("0 */2 * * *", "Europe/Berlin", "2026-10-25T00:30+02:00", 3) == [
        "2026-10-25T02:00+0200",
        "2026-10-25T02:00+0100",
        "2026-10-25T04:00+0100",
    ]


def test_a_wildcard_in_the_gap_is_not_made_up_for():
    assert local("15 */2 * * *", "Europe/Berlin", "2026-03-29T00:30+01:00", 1) == ["2026-03-29T04:15+0200"]


@pytest.mark.parametrize(
    ("text", "zone", "after", "shown"),
    [
        ("30 2 * * *", "Europe/Berlin", "2026-03-29T00:00+01:00", ["2026-03-29T03:00+0200", "2026-03-30T02:30+0200"]),
        (
            "30 2 * * *",
            "Antarctica/Troll",
            "2026-03-29T00:00+00:00",
            ["2026-03-29T03:00+0200", "2026-03-30T02:30+0200"],
        ),
        ("30 0 * * *", "Africa/Cairo", "2026-04-23T12:00+02:00", ["2026-04-24T01:00+0300", "2026-04-25T00:30+0300"]),
        ("30 2 * * *", "Pacific/Apia", "2011-12-29T12:00-10:00", ["2011-12-31T00:00+1400", "2011-12-31T02:30+1400"]),
        (
            "0,20,40 2 * * *",
            "Europe/Berlin",
            "2026-03-29T00:00+01:00",
            ["2026-03-29T03:00+0200", "2026-03-30T02:00+0200"],
        ),
        ("0 2,3 * * *", "Europe/Berlin", "2026-03-29T00:00+01:00", ["2026-03-29T03:00+0200", "2026-03-30T02:00+0200"]),
    ],
)
def test_fixed_times_in_a_gap_run_once_right_after_it(text, zone, after, shown):
    assert local(text, zone, after, 2) == shown


@pytest.mark.parametrize(
    "zone", ["Europe/Berlin", "Africa/Cairo", "Antarctica/Troll", "Australia/Lord_Howe", "Asia/Tokyo"]
)
@pytest.mark.parametrize("text", ["30 2 * * *", "0,15,30 0,2 * * *", "0 2,3 * * *", "*/30 * * * *", "45 59 23 * * *"])
def test_with_skip_a_fixed_time_that_does_not_exist_does_not_run_and_all_others_do(zone, text):
    begin, end = epoch("2026-01-01T00:00+00:00"), epoch("2027-01-01T00:00+00:00")
    info, plain = zoneinfo.ZoneInfo(zone), cron.parse(text, "UTC", "job")

    def exists(fire):
        wall = int(dt.datetime.fromtimestamp(fire, info).replace(tzinfo=dt.UTC).timestamp()) * 1000
        return plain.next_after(wall - 1000) == wall

    told, at = [], begin * 1000 - 1
    planned = cron.parse(text, zone, "job", "skip")
    while (at := planned.next_after(at)) < end * 1000:
        told.append(at // 1000)
    assert told == [fire for fire in fires(text, zone, begin, end) if exists(fire)]


def test_skip_is_another_schedule_of_the_same_text():
    cron.parse("30 2 * * *", "Europe/Berlin", "job", "skip")
    assert not cron.parse("30 2 * * *", "Europe/Berlin", "job").skips_gaps


def test_a_fixed_time_after_a_change_keeps_its_hour():
    assert local("0 6 * * *", "Europe/Berlin", "2026-03-28T07:00+01:00", 2) == [
        "2026-03-29T06:00+0200",
        "2026-03-30T06:00+0200",
    ]


def test_a_range_of_all_hours_is_fixed_and_a_star_is_not():
    assert [
        cron.parse(text, "UTC", "job").is_wildcard for text in ("0 * * * *", "*/5 3 * * *", "@hourly", "@every 1h")
    ] == [True] * 4
    assert [
        cron.parse(text, "UTC", "job").is_wildcard for text in ("0 0-23 * * *", "H H * * *", "@daily", "@reboot")
    ] == [False] * 4


def test_days_must_satisfy_both_fields_if_one_starts_with_a_star():
    assert utc("0 0 */2 * 1", "2026-01-01T00:00", 3) == ["2026-01-05T00:00", "2026-01-19T00:00", "2026-02-09T00:00"]
    assert utc("0 0 */9 1 4-5", "2026-01-01T00:00", 2) == ["2027-01-01T00:00", "2027-01-28T00:00"]


def test_days_may_satisfy_either_field_if_none_starts_with_a_star():
    assert utc("0 0 13 * 5", "2026-01-01T00:00", 3) == ["2026-01-02T00:00", "2026-01-09T00:00", "2026-01-13T00:00"]
    assert utc("0 0 31 2 0", "2026-01-01T00:00", 2) == ["2026-02-01T00:00", "2026-02-08T00:00"]
    assert utc("0 0 1-31 * 1", "2026-01-01T00:00", 2) == ["2026-01-02T00:00", "2026-01-03T00:00"]
    assert utc("0 0 1 1 1#2", "2026-01-01T00:00", 2) == ["2026-01-12T00:00", "2027-01-01T00:00"]
    assert utc("0 0 29 2 1#1", "2026-01-01T00:00", 3) == ["2026-02-02T00:00", "2027-02-01T00:00", "2028-02-07T00:00"]


def test_plain_weekdays_may_stand_beside_numbered_ones():
    assert utc("0 0 * * 3,mon#1,L5", "2026-01-20T00:00", 5) == [
        "2026-01-21T00:00",
        "2026-01-28T00:00",
        "2026-01-30T00:00",
        "2026-02-02T00:00",
        "2026-02-04T00:00",
    ]


@pytest.mark.parametrize("text", ["* * 14 * 6-7/2,4,*", "*,5 * * * *", "* */2,3 * * *"])
def test_a_star_in_a_list_is_refused(text):
    assert "cannot be one of a list" in refusal(text)


@pytest.mark.parametrize(
    ("text", "same"),
    [
        ("5-5 * * * *", "5 * * * *"),
        ("9-9 * * * *", "9 * * * *"),
        ("0 0 * jan-jan *", "0 0 * 1 *"),
        ("0 0 * * sun-sun", "0 0 * * 0"),
        ("0 2 5-5 * *", "0 2 5 * *"),
        ("59/15 * * * *", "59 * * * *"),
        ("*/61 * * * *", "0 * * * *"),
        ("*/100 * * * *", "0 * * * *"),
        ("*/45 * * * *", "0,45 * * * *"),
        ("10/20 * * * *", "10,30,50 * * * *"),
        ("0 0 * * 7", "0 0 * * 0"),
        ("0 0 * * 5-7", "0 0 * * fri,SAT,sun"),
        ("0 0 * * 0-7", "0 0 * * *"),
        ("0 0 * * 1L", "0 0 * * L1"),
        ("0 0 * * monl", "0 0 * * l1"),
        ("05 08 * * *", "5 8 * * *"),
        ("\t5   8 * * * ", "5 8 * * *"),
        ("@yearly", "0 0 1 1 *"),
        ("@annually", "0 0 1 1 *"),
        ("@monthly", "0 0 1 * *"),
        ("@weekly", "0 0 * * 0"),
        ("@daily", "0 0 * * *"),
        ("@midnight", "0 0 * * *"),
        ("@Hourly", "0 * * * *"),
        ("0 5 8 * * *", "5 8 * * *"),
    ],
)
def test_two_ways_to_write_one_schedule_fire_alike(text, same):
    start = epoch("2026-01-01T00:00Z")
    span = 800 * DAY if "0 0 " in same else 3 * DAY if same.startswith(("0 *", "5 *", "9 *")) else 40 * DAY
    assert fires(text, "UTC", start, start + span) == fires(same, "UTC", start, start + span) != []


@pytest.mark.parametrize("text", ["0 0 30 2 *", "0 0 31 4,6,9,11 *", "0 0 30-31 feb *", "0 0 */30 2 1#3"])
def test_a_date_that_never_comes_is_refused(text):
    assert "no such date exists" in refusal(text)


def test_the_rarest_dates_are_found():
    assert utc("0 0 29 2 *", "2096-03-01T00:00", 1) == ["2104-02-29T00:00"]
    # A Sunday, across the year 2100 that has no 29 February: 40 years.
    assert utc("0 0 29 2 */7", "2026-01-01T00:00", 3) == ["2032-02-29T00:00", "2060-02-29T00:00", "2088-02-29T00:00"]
    assert utc("0 0 */28 2 0#5", "2088-03-01T00:00", 1) == ["2128-02-29T00:00"]


def test_six_fields_begin_with_the_seconds():
    start = epoch("2026-01-01T00:00Z")
    assert fires("*/10 * * * * *", "UTC", start, start + 60) == [start + second for second in range(0, 60, 10)]
    assert fires("30 15 4 * * *", "UTC", start, start + DAY) == [start + 4 * HOUR + 15 * MINUTE + 30]


@pytest.mark.parametrize("text", ["* * * * * * 2099", "0 0 1 1 * 0 2020"])
def test_a_year_is_refused(text):
    assert "a year cannot be given" in refusal(text)


@pytest.mark.parametrize("text", ["", "   ", "5", "* * * *", "* * * * * * * *"])
def test_a_wrong_count_of_fields_is_refused_with_the_right_ones(text):
    assert "write 5 (minute, hour, day of month, month, day of week), or 6 with seconds first" in refusal(text)


def test_the_last_day_and_the_fifth_weekday_are_known():
    assert utc("0 0 L * *", "2026-01-31T12:00", 2) == ["2026-02-28T00:00", "2026-03-31T00:00"]
    assert utc("0 0 15,L 2 *", "2028-02-01T00:00", 2) == ["2028-02-15T00:00", "2028-02-29T00:00"]
    assert utc("0 0 * * 1#5", "2026-01-01T00:00", 2) == ["2026-03-30T00:00", "2026-06-29T00:00"]
    assert utc("0 0 * * L1", "2026-01-01T00:00", 2) == ["2026-01-26T00:00", "2026-02-23T00:00"]


@pytest.mark.parametrize("text", ["0 0 15W * *", "0 0 1w * *", "0 0 31W 2 *", "0 0 LW * *"])
def test_the_nearest_weekday_is_refused(text):
    assert "nearest weekday" in refusal(text)


@pytest.mark.parametrize("text", ["R * * * *", "R(0-10) * * * *", "R/5 * * * *", "5~10 * * * *"])
def test_a_random_time_is_refused_and_h_proposed(text):
    assert "write H" in refusal(text)


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("50-10 * * * *", "50-59,0-10"),
        ("1-0 * * * *", "1-59,0"),
        ("0 22-2 * * *", "22-23,0-2"),
        ("0 22-2/2 * * *", "22,0,2"),
        ("0 0 * nov-feb *", "11-12,1-2"),
        ("0 0 * * sat-sun", "6,0"),
        ("0 0 * * fri-mon", "5-6,0-1"),
        ("0 0 * * 7-3", "0-3"),
    ],
)
def test_a_reversed_range_is_refused_and_the_way_to_write_it_works(text, instead):
    message = refusal(text)
    assert message.endswith(f"a range runs upwards; write {instead}")
    reversed_range = next(word for word in text.split() if "-" in word)
    cron.parse(text.replace(reversed_range, instead), "UTC", "job")


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("60 * * * *", 'minute "60": write a number from 0 to 59'),
        ("0 24 * * *", 'hour "24": write a number from 0 to 23'),
        ("0 0 0 * *", 'day of month "0": write a number from 1 to 31'),
        ("0 0 * 13 *", 'month "13": write a number from 1 to 12'),
        ("0 0 * * 8", 'day of week "8": write a number from 0 to 7'),
        ("0 0 * * 1#6", "write #1 to #5"),
        ("0 0 * * 1#0", "write #1 to #5"),
        ("0 0 * january *", "jan feb mar"),
        ("mon * * * *", 'minute "mon": write a number'),
        ("*/0 * * * *", "a step of 0"),
        ("1,,2 * * * *", "remove the comma"),
        ("0 0 ? * *", "write * in place of ?"),
        ("0 0 * * L", "L5"),
        ("0 0 L-3 * *", 'day of month "l-3"'),
        ("-5 * * * *", 'minute "-5"'),
        ("5- * * * *", 'minute "5-"'),
        ("H(40-10) * * * *", "write H(40-59) or H(0-10)"),
        ("TZ=UTC * * * * *", "key `timezone`"),
        ("@dayly", "write @daily"),
        ("@evry 5m", "write @every 90s"),
        ("@nonsense", "known are @yearly"),
        ("@every 90", "@every 90s"),
        ("@every", "@every 90s"),
        ("@every 1.5s", "@every 90s"),
        ("@every 0s", "between 1s and"),
        ("@every 99999999h", "between 1s and"),
        ("\uff15 * * * *", "only printable ASCII"),
        ("5 *\u00a0* * * *", "only printable ASCII"),
        ("5 * * *\x1c*", "only printable ASCII"),
        ("5 * * *\n*", "only printable ASCII"),
        ("9" * 5000 + " * * * *", "at most 256"),
        (",".join(["1"] * 100_000) + " * * * *", "at most 256"),
        ("9" * 200 + " * * * *", "write a number from 0 to 59"),
    ],
)
def test_what_is_wrong_is_said_with_what_to_write(text, said):
    assert said in refusal(text)


def test_a_schedule_of_256_characters_is_read():
    text = "1" + ",1" * 123 + " * * * *"
    assert len(text + " ") == 256
    assert fires(text + " ", "UTC", 0, DAY) == fires("1 * * * *", "UTC", 0, DAY)
    assert "257 characters" in refusal(text + "  ")


@pytest.mark.parametrize(
    "zone", ["Europe/Berln", "Europe", "../../etc/passwd", "/etc/localtime", "", "right/UTC", "Z" * 5000, "UTC\0"]
)
def test_a_zone_that_does_not_exist_is_refused_for_any_schedule(zone):
    for text in ("@daily", "@reboot", "@every 5m"):
        assert "timezone" in refusal(text, zone)
    assert len(refusal("@daily", zone)) < 200


def test_a_mistyped_zone_is_refused_with_the_nearest_one():
    assert refusal("@daily", "Europe/Berln").endswith("write Europe/Berlin")


# Own words


def test_reboot_never_fires_by_time():
    schedule = cron.parse("@reboot", "UTC", "job")
    assert schedule.reboot
    assert schedule.next_after(0) is None
    assert not cron.parse("@daily", "UTC", "job").reboot


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("@every 90s", 90), ("@every 5m", 300), ("@every 1h30m", 5400), ("@every 1d", DAY), ("@EVERY 1d2h3m4s", 93784)],
)
def test_every_is_anchored_at_the_epoch(text, seconds):
    start = epoch("2026-03-29T00:00Z")
    found = fires(text, "Europe/Berlin", start, start + 3 * seconds)
    assert [at % seconds for at in found] == [0, 0, 0]
    assert {after - before for before, after in itertools.pairwise(found)} == {seconds}


def test_nothing_fires_at_the_end_of_time():
    for text in ("* * * * *", "0 0 29 2 *", "@every 1s"):
        schedule = cron.parse(text, "Europe/Berlin", "job")
        assert schedule.next_after(epoch("9999-12-31T23:59Z") * 1000) is None
        assert schedule.next_after(10**30) is None
    schedule = cron.parse("0 0 29 2 */7", "Europe/Berlin", "job")
    assert schedule.next_after(epoch("9899-12-31T23:59Z") * 1000) is not None


def test_the_epoch_itself_is_a_place_to_ask_from():
    assert fires("0 0 * * *", "UTC", 0, DAY + 1) == [0, DAY]
    assert cron.parse("0 0 * * *", "UTC", "job").next_after(-1) == 0


# H


@pytest.mark.parametrize(
    ("text", "low", "high", "step"),
    [
        ("H", 0, 59, None),
        ("H(10-20)", 10, 20, None),
        ("H/15", 0, 59, 15),
        ("H(10-29)/5", 10, 29, 5),
        ("H/100", 0, 59, 100),
        ("h(7-7)", 7, 7, None),
    ],
)
def test_h_takes_every_place_in_its_range_and_no_other(text, low, high, step):
    firsts = set()
    for number in range(1500):
        minutes_of_job = [at // MINUTE for at in fires(f"{text} 0 * * *", "UTC", 0, DAY, f"job-{number}")]
        assert low <= minutes_of_job[0] <= minutes_of_job[-1] <= high
        if step is None:
            assert len(minutes_of_job) == 1
        else:
            assert minutes_of_job == list(range(minutes_of_job[0], high + 1, step))
            assert minutes_of_job[0] - low < step
        firsts.add(minutes_of_job[0])
    assert firsts == set(range(low, min(high, low + (step or 100) - 1) + 1))


def test_h_is_the_same_for_a_job_for_ever():
    # A change of these numbers moves the jobs of everyone who upgrades.
    assert utc("H H * * *", "2026-01-01T00:00", 1) == ["2026-01-01T18:54"]
    assert utc("H H H H *", "2026-01-01T00:00", 1) == ["2026-06-01T18:54"]
    assert utc("0 0 * * H", "2026-01-01T00:00", 1) == ["2026-01-02T00:00"]


def test_h_is_independent_from_field_to_field():
    pairs = set()
    for number in range(200):
        at = cron.parse("H H * * *", "UTC", f"job-{number}").next_after(-1) // 1000
        pairs.add((at // HOUR, at // MINUTE % 60))
    assert len(pairs) > 150
    assert len({hour for hour, _ in pairs}) == 24


def test_h_as_day_of_the_month_comes_every_month():
    for number in range(100):
        assert len(fires("0 0 H * *", "UTC", 0, 365 * DAY, f"job-{number}")) == 12


def test_a_name_with_an_h_in_it_is_no_h():
    assert fires("0 0 * mar thu", "UTC", 0, 365 * DAY, "a") == fires("0 0 * mar thu", "UTC", 0, 365 * DAY, "b")
    assert cron.parse("0 0 * * thu", "UTC", "a") is cron.parse("0 0 * * thu", "UTC", "b")


def test_nicknames_stay_where_they_are_for_every_job():
    assert fires("@daily", "UTC", 0, 2 * DAY, "a") == fires("@daily", "UTC", 0, 2 * DAY, "b") == [0, DAY]


# The calendar's odd places


@pytest.mark.parametrize(
    ("text", "after", "shown"),
    [
        ("0 12 29 2 *", "2096-02-29T12:00", ["2104-02-29T12:00", "2108-02-29T12:00"]),
        ("0 0 28-31 2 *", "2100-02-27T12:00", ["2100-02-28T00:00", "2101-02-28T00:00"]),
        ("0 0 L 2 *", "2099-03-01T00:00", ["2100-02-28T00:00", "2101-02-28T00:00"]),
        ("0 0 31 * *", "2026-03-31T00:00", ["2026-05-31T00:00", "2026-07-31T00:00", "2026-08-31T00:00"]),
        ("59 23 31 12 *", "2026-12-31T00:00", ["2026-12-31T23:59", "2027-12-31T23:59"]),
        # ISO week 53 is no matter for a day of the week.
        ("0 0 * * 1", "2026-12-28T00:00", ["2027-01-04T00:00"]),
        # 2^31 and 2^32 seconds after the epoch.
        ("14 3 19 1 *", "2038-01-19T03:13", ["2038-01-19T03:14", "2039-01-19T03:14"]),
        ("*/5 * * * *", "2038-01-19T03:10", ["2038-01-19T03:15", "2038-01-19T03:20"]),
        ("*/5 * * * *", "2106-02-07T06:25", ["2106-02-07T06:30", "2106-02-07T06:35"]),
        ("0 0 1 1 *", "9897-06-01T00:00", ["9898-01-01T00:00", "9899-01-01T00:00"]),
    ],
)
def test_the_calendars_odd_places(text, after, shown):
    assert utc(text, after, len(shown)) == shown


@pytest.mark.parametrize("zone", ["Europe/Berlin", "America/Los_Angeles", "Asia/Kolkata"])
def test_after_2038_a_zone_goes_on_by_its_rule(zone):
    for year in (2037, 2038, 2106, 2300):
        start = epoch(f"{year}-03-01T00:00Z")
        expected = walk(zone, start, start + 60 * DAY).fires(Vixie("30 2 * * *"))
        assert fires("30 2 * * *", zone, start, start + 60 * DAY) == expected


@pytest.mark.parametrize(
    ("zone", "after", "shown"),
    [
        # The day began at 01:00.
        ("America/Sao_Paulo", "2018-11-03T12:00-03:00", ["2018-11-04T01:00-0200", "2018-11-05T00:30-0200"]),
        ("America/Nuuk", "2024-03-30T12:00-02:00", ["2024-03-31T00:30-0100", "2024-04-01T00:30-0100"]),
        # Half an hour forward, for good.
        ("Asia/Pyongyang", "2018-05-04T12:00+08:30", ["2018-05-05T00:30+0900", "2018-05-06T00:30+0900"]),
    ],
)
def test_a_change_at_midnight_leaves_one_run_a_date(zone, after, shown):
    assert local("30 0 * * *", zone, after, 2) == shown


def test_a_zone_is_what_it_was_until_all_are_forgotten():
    before = cron._info("Europe/Berlin")
    zoneinfo.ZoneInfo.clear_cache()
    assert cron._info("Europe/Berlin") is before
    cron.forget_zones()
    assert cron._info("Europe/Berlin") is not before
