"""When a line of a crontab fires, found without cron.py and croniter: the second opinion of `import-crontab`.

Made of plain sets of numbers, which somebody else has read out of the line, and of looking at every day: which instants show
the times of that day in the zone. The rule for changes of the clock is that of Debian's cron(8): a schedule whose minute or
hour begins with `*` follows the clock as it is shown; any other has fixed times, which fire once, and right after a leap that
swallows them. Slow, plain and bounded. Pure functions; instants are epoch seconds.
"""

import bisect
import datetime as dt
import itertools
import zoneinfo
from collections.abc import Collection, Iterator
from dataclasses import dataclass

_DAY = dt.timedelta(days=1)
#: Days that are looked at: a 29th of February on a Monday comes every 28 years.
_DAYS = 60 * 366


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the five fields of a line name."""

    minutes: Collection[int]
    hours: Collection[int]
    dates: Collection[int]
    months: Collection[int]
    #: Sunday is 0.
    weekdays: Collection[int]
    #: A day must be of both dates and weekdays, since one of the fields begins with a star; else of either.
    both: bool
    #: Neither minute nor hour begins with a star.
    fixed: bool

    def names(self, day: dt.date) -> bool:
        if day.month not in self.months:
            return False
        date, weekday = day.day in self.dates, day.isoweekday() % 7 in self.weekdays
        return (date and weekday) if self.both else (date or weekday)


def fires(reading: Reading, zone: str, after: int, count: int) -> list[int]:
    """The first `count` instants later than `after`, or those of the next sixty years."""
    return list(itertools.islice(_fires(reading, zoneinfo.ZoneInfo(zone), after), count))


def _fires(reading: Reading, zone: zoneinfo.ZoneInfo, after: int) -> Iterator[int]:
    """Day by day; what a day of the wall names may fire on the next, so two days are held before one is given."""
    first = dt.datetime.fromtimestamp(after, zone).date() - 2 * _DAY
    times = [dt.time(hour, minute) for hour in sorted(reading.hours) for minute in sorted(reading.minutes)]
    held: set[int] = set()
    for number in range(_DAYS):
        day = first + number * _DAY
        if reading.names(day):
            for time in times:
                held |= _instants(dt.datetime.combine(day, time), zone, fixed=reading.fixed)
        # No zone is more than a day from UTC, so nothing earlier than this can come from later days.
        sure = dt.datetime.combine(day - _DAY, dt.time(), dt.UTC).timestamp()
        ready = sorted(instant for instant in held if instant < sure)
        held.difference_update(ready)
        yield from (instant for instant in ready if instant > after)


def _instants(wall: dt.datetime, zone: zoneinfo.ZoneInfo, *, fixed: bool) -> set[int]:
    """When the zone shows this wall time; of a fixed one that it leaps over, right after the leap."""
    naive = int(wall.replace(tzinfo=dt.UTC).timestamp())
    offsets = {_offset(naive + shift, zone) for shift in (-129_600, -86_400, -43_200, 0, 43_200, 86_400, 129_600)}
    shown = sorted(naive - offset for offset in offsets if _offset(naive - offset, zone) == offset)
    if shown:
        return set(shown[:1] if fixed else shown)
    if not fixed:
        return set()
    # The wall goes from before it to after it within these two days: the leap is where.
    span = range(naive - 129_600, naive + 129_600)
    return {span[bisect.bisect_right(span, naive, key=lambda instant: instant + _offset(instant, zone))]}


def _offset(instant: int, zone: zoneinfo.ZoneInfo) -> int:
    shown = dt.datetime.fromtimestamp(instant, zone)
    return int(shown.replace(tzinfo=dt.UTC).timestamp()) - instant
