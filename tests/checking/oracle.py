"""When a cron expression fires, by the rules of Debian's crontab(5) and cron(8), without any of our code and any cleverness.

A day is looked at whole: does its date match, and which instants show the times of the day in the zone. A schedule whose
minute or hour starts with `*` follows the clock as it is shown, so a repeated hour counts twice. Any other has fixed times:
a repeated one counts the first time, and one that the clock leaps over counts at the leap.

Lists, ranges, steps, names of months and weekdays, the nicknames and `@every`; five fields, or six with seconds first.
tests/checking/test_oracle.py holds it against cronsim.
"""

import datetime as dt
import functools
import itertools
import zoneinfo

DAY = 86_400
NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
MONTHS = dict(zip("jan feb mar apr may jun jul aug sep oct nov dec".split(), range(1, 13), strict=True))  # noqa: SIM905 (reads better)
WEEKDAYS = dict(zip("sun mon tue wed thu fri sat".split(), range(7), strict=True))  # noqa: SIM905 (as above)
UNITS = {"d": DAY, "h": 3600, "m": 60, "s": 1}


def slots(text: str, zone: str, after: int, until: int) -> list[int]:
    """Epoch milliseconds of every fire in (after, until]; none of @reboot."""
    if until <= after:
        return []
    words = text.lower().split()
    if words[0] == "@every":
        pace = _interval(words[1]) * 1000
        return list(range((after // pace + 1) * pace, until + 1, pace))
    if words == ["@reboot"]:
        return []
    expression = NICKNAMES.get(words[0]) or " ".join(words)
    size = _chunk(expression)
    found = itertools.chain.from_iterable(
        _fires(expression, zone, first, size) for first in _chunks(after // 1000 // DAY, until // 1000 // DAY, size)
    )
    return [fire * 1000 for fire in found if after < fire * 1000 <= until]


def _chunks(first: int, last: int, size: int) -> range:
    return range(first - first % size, last + 1, size)


@functools.cache
def _chunk(expression: str) -> int:
    """Days that are worked out at once: a month where they hold few fires."""
    second, minute, hour, *_ = _sets(expression)[0]
    return 1 if len(second) * len(minute) * len(hour) > 10 else 30


@functools.lru_cache(maxsize=100_000)
def _fires(expression: str, zone: str, first: int, days: int) -> tuple[int, ...]:
    """Epoch seconds of the fires in these UTC days, given as days since 1970."""
    begin, end = first * DAY, (first + days) * DAY
    info = zoneinfo.ZoneInfo(zone)
    (second, minute, hour, date, month, weekday), both, fixed = _sets(expression)
    found = set()
    # The wall may be a day ahead or behind, and a fixed time may lie in a day that it has leapt over.
    margin = 2 if fixed else 1
    for number in range(first - margin, first + days + margin):
        day = dt.date(1970, 1, 1) + dt.timedelta(days=number)
        on_date, on_weekday = day.day in date, day.isoweekday() % 7 in weekday
        if day.month not in month or not ((on_date and on_weekday) if both else (on_date or on_weekday)):
            continue
        for h, m, s in itertools.product(hour, minute, second):
            wall = dt.datetime(day.year, day.month, day.day, h, m, s)  # noqa: DTZ001 (a wall time)
            found.update(_instants(wall, info, fixed=fixed))
    return tuple(sorted(instant for instant in found if begin <= instant < end))


def _instants(wall: dt.datetime, info: zoneinfo.ZoneInfo, *, fixed: bool) -> list[int]:
    """When the zone shows this wall time: once, twice, or never, which of a fixed time is right after the leap."""
    first, second = (int(wall.replace(tzinfo=info, fold=fold).timestamp()) for fold in (0, 1))
    if first == second:
        return [first]
    shown = [at for at in (first, second) if dt.datetime.fromtimestamp(at, info).replace(tzinfo=None, fold=0) == wall]
    if shown:
        return shown[:1] if fixed else shown
    if not fixed:
        return []
    # PEP 495: of a time that is never shown, fold 1 gives an instant before the leap and fold 0 one after it.
    before, after = second, first
    offset = dt.datetime.fromtimestamp(before, info).utcoffset()
    while after - before > 1:
        middle = (before + after) // 2
        if dt.datetime.fromtimestamp(middle, info).utcoffset() == offset:
            before = middle
        else:
            after = middle
    return [after]


@functools.cache
def _sets(expression: str) -> tuple[tuple[tuple[int, ...], ...], bool, bool]:
    """The six fields as sorted numbers; whether date and weekday must both match; whether the times are fixed."""
    words = expression.split()
    if len(words) == 5:
        words = ["0", *words]
    second, minute, hour, date, month, weekday = words
    fields = (
        _numbers(second, 0, 59),
        _numbers(minute, 0, 59),
        _numbers(hour, 0, 23),
        _numbers(date, 1, 31),
        _numbers(month, 1, 12, MONTHS),
        {number % 7 for number in _numbers(weekday, 0, 7, WEEKDAYS)},
    )
    both = date.startswith("*") or weekday.startswith("*")
    fixed = not minute.startswith("*") and not hour.startswith("*")
    return tuple(tuple(sorted(each)) for each in fields), both, fixed


def _numbers(text: str, low: int, high: int, names: dict[str, int] | None = None) -> set[int]:
    found: set[int] = set()
    for part in text.split(","):
        span, _, step = part.partition("/")
        first, _, last = span.partition("-")
        if span == "*":
            first, last = str(low), str(high)
        elif not last:
            last = str(high) if step else first
        start, stop = ((names or {}).get(each) if each in (names or {}) else int(each) for each in (first, last))
        found.update(range(start, stop + 1, int(step or 1)))
    return found


def _interval(text: str) -> int:
    total, number = 0, ""
    for letter in text:
        if letter.isdigit():
            number += letter
        else:
            total += int(number) * UNITS[letter]
            number = ""
    return total
