"""Cron expressions: what they say, and when they fire next.

Pure functions over numbers, called by the loader to check a job and by the supervisor to plan it; nothing here reads a
clock. Work is done in three layers, and the meaning of an expression depends on no version of a library:

1. parse() expands every field to plain numbers itself and refuses what crons disagree about.
2. croniter answers one question only: the first day at or after a day, of a date made of plain numbers. Hours, minutes
   and seconds are found in sorted tuples. All of this is naive wall time, counted in seconds as if the wall were UTC.
3. Wall time is mapped to UTC here, by the rule of Debian's cron(8). A schedule whose minute or hour starts with `*`
   follows the wall clock as it is shown, so elapsed time. Any other has fixed times: what falls into a gap fires once,
   right after the jump (with `dst: skip` not at all), and what is shown twice fires the first time. The set of fires is
   a function of expression and zone alone, so a restart in the middle of a changed hour changes nothing.

Instants are epoch milliseconds outside and epoch seconds inside.
"""

import bisect
import dataclasses
import datetime as dt
import difflib
import functools
import hashlib
import re
import zoneinfo
from typing import NamedTuple, NoReturn

import croniter

_DAY = 86400
_LONGEST_TEXT = 256
#: Nothing is asked of croniter beyond the year 9900: it looks 50 years ahead, and datetime ends with the year 9999.
_HORIZON = int(dt.datetime(9900, 1, 1, tzinfo=dt.UTC).timestamp())
#: From 2000 on, every date that exists at all comes within croniter's 50 years: 29 February on each weekday by 2024.
_PROOF_DAY = int(dt.datetime(2000, 1, 1, tzinfo=dt.UTC).timestamp()) // _DAY
_LONGEST_EVERY = 36525 * _DAY

_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}


class CronError(ValueError):
    """The expression or the zone cannot be used; the message says what is wrong and what to write instead."""


class _Field(NamedTuple):
    name: str
    low: int
    high: int
    #: Largest value that a bare H takes.
    hash_high: int
    #: What may be written in place of low, low + 1, ...
    names: tuple[str, ...] = ()


#: H as day of the month stays within the days that every month has. Day of week 7 is Sunday too: values are taken
#: modulo 7 once ranges and steps are done.
_FIELDS = _SECOND, _MINUTE, _HOUR, _DATE, _MONTH, _WEEKDAY = (
    _Field("second", 0, 59, 59),
    _Field("minute", 0, 59, 59),
    _Field("hour", 0, 23, 23),
    _Field("day of month", 1, 31, 28),
    _Field("month", 1, 12, 12, tuple("jan feb mar apr may jun jul aug sep oct nov dec".split())),  # noqa: SIM905 (reads better)
    _Field("day of week", 0, 7, 6, tuple("sun mon tue wed thu fri sat".split())),  # noqa: SIM905 (as above)
)

_ITEM = re.compile(
    r"(?:(?P<star>\*)|(?P<hash>h(?:\((?P<from>\w+)-(?P<to>\w+)\))?)|(?P<first>\w+)(?:-(?P<last>\w+))?)(?:/(?P<step>[0-9]+))?"
)
_NTH = re.compile(r"(?P<day>\w+)#(?P<nth>[0-9]+)")
_LAST = re.compile(r"l(?P<after>\w+)|(?P<before>\w+)l")
_EVERY = re.compile(r"@every\s+(?=[0-9])(?:([0-9]+)d)?(?:([0-9]+)h)?(?:([0-9]+)m)?(?:([0-9]+)s)?")
#: An H that stands for itself, and is not a letter of thu or march.
_HASHED = re.compile(r"(?<![A-Za-z])[Hh](?![A-Za-z])")
_ZONE = re.compile(r"[A-Za-z][A-Za-z0-9_+-]*(?:/[A-Za-z0-9_+-]+){0,3}")


class _Values(NamedTuple):
    #: Plain numbers, ascending.
    numbers: tuple[int, ...]
    #: What only croniter can tell: `l` (last day of the month), `1#2` (second Monday), `l5` (last Friday).
    special: tuple[str, ...]


@dataclasses.dataclass(frozen=True, slots=True)
class _Every:
    seconds: int


@dataclasses.dataclass(frozen=True, slots=True)
class _Calendar:
    hours: tuple[int, ...]
    minutes: tuple[int, ...]
    seconds: tuple[int, ...]
    #: Dates for _first_day; a day that one of them names is a day of the schedule.
    dates: tuple[str, ...]
    #: Neither minute nor hour starts with `*`.
    fixed: bool

    def first(self, wall: int) -> int | None:
        """Return the first wall second at or after `wall`; None: no such day in 50 years."""
        day, second = divmod(wall, _DAY)
        match = self._day(day)
        if match == day:
            time = self._time(second)
            if time is not None:
                return day * _DAY + time
            match = self._day(day + 1)
        if match is None:
            return None
        return match * _DAY + self.hours[0] * 3600 + self.minutes[0] * 60 + self.seconds[0]

    def _day(self, day: int) -> int | None:
        if len(self.dates) == 1:
            return _first_day(self.dates[0], day)
        return min((match for date in self.dates if (match := _first_day(date, day)) is not None), default=None)

    def _time(self, second: int) -> int | None:
        hour, rest = divmod(second, 3600)
        minute, second = divmod(rest, 60)
        hours, minutes, seconds = self.hours, self.minutes, self.seconds
        if hour in hours:
            if minute in minutes and second <= seconds[-1]:
                return hour * 3600 + minute * 60 + seconds[bisect.bisect_left(seconds, second)]
            if minute < minutes[-1]:
                return hour * 3600 + minutes[bisect.bisect_right(minutes, minute)] * 60 + seconds[0]
        if hour < hours[-1]:
            return hours[bisect.bisect_right(hours, hour)] * 3600 + minutes[0] * 60 + seconds[0]
        return None


@dataclasses.dataclass(frozen=True, slots=True)
class Schedule:
    """What parse() made of an expression; equal texts may share one."""

    text: str
    #: IANA name of the zone that the text is read in.
    zone: str
    #: None: @reboot.
    _rule: _Calendar | _Every | None
    #: A fixed time that a change of the offset leaps over does not fire.
    skips_gaps: bool = False

    @property
    def reboot(self) -> bool:
        """Fires once per boot, never by time."""
        return self._rule is None

    @property
    def is_wildcard(self) -> bool:
        """Follows elapsed time through a change of the zone's offset."""
        match self._rule:
            case _Calendar(fixed=fixed):
                return not fixed
            case _Every():
                return True
            case None:
                return False

    def next_after(self, after_ms: int) -> int | None:
        """Return the first slot later than `after_ms`, a multiple of 1000; None: there is none."""
        after = after_ms // 1000
        if after >= _HORIZON:
            return None
        match self._rule:
            case None:
                return None
            case _Every(seconds):
                return (after // seconds + 1) * seconds * 1000
            case rule:
                fire = _next_fire(rule, self.zone, after, skips_gaps=self.skips_gaps)
                return None if fire is None else fire * 1000


def parse(text: str, zone: str, job_id: str, dst: str = "cron") -> Schedule:
    """Read a cron expression of a job in an IANA zone. Raises CronError.

    `dst`, where the clocks change: `cron`, or `skip` for times that do not exist.
    """
    parsed = _parse(text, zone, job_id if _HASHED.search(text) else "")
    return dataclasses.replace(parsed, skips_gaps=True) if dst == "skip" else parsed


def plain(text: str, job_id: str) -> list[str]:
    """The words of a valid expression in lower case, nicknames and H written out as what they are for this job."""
    words = text.lower().split()
    words = _NICKNAMES.get(words[0], " ".join(words)).split()
    if words[0].startswith("@"):
        return words
    return [
        _written(field, word, job_id) if _HASHED.search(word) else word
        for field, word in zip(_FIELDS[-len(words) :], words, strict=True)
    ]


def _written(field: _Field, word: str, job_id: str) -> str:
    values = _expand(field, word, job_id)
    return ",".join([*map(str, values.numbers), *values.special])


@functools.lru_cache(maxsize=4096)
def _parse(text: str, zone: str, job_id: str) -> Schedule:
    if problem := _zone_problem(zone):
        raise CronError(problem)
    if len(text) > _LONGEST_TEXT:
        raise CronError(f"schedule: {len(text)} characters, at most {_LONGEST_TEXT} are read; split the job in two")
    if not text.isascii() or not text.replace("\t", " ").isprintable():
        raise CronError(f"schedule {text!r}: only printable ASCII is read; was it copied from a formatted page?")
    words = text.lower().split()
    match words:
        case ["@reboot"]:
            return Schedule(text, zone, None)
        case ["@every", _]:
            return Schedule(text, zone, _every(" ".join(words)))
        case [nickname] if nickname in _NICKNAMES:
            words = _NICKNAMES[nickname].split()
        case [first, *_] if first.startswith("@"):
            known = [*_NICKNAMES, "@reboot", "@every"]
            near = difflib.get_close_matches(first, known, 1)
            hint = f"write {near[0]}" if near else f"known are {', '.join(known)}"
            raise CronError(f'schedule "{text}": {hint}{" 90s" if near == ["@every"] else ""}')
        case [first, *_] if "=" in first:
            raise CronError(f'schedule "{text}": put the zone into the key `timezone`')
    return Schedule(text, zone, _calendar(text, words, job_id))


def _every(text: str) -> _Every:
    found = _EVERY.fullmatch(text)
    if found is None:
        raise CronError(f'schedule "{text}": write the interval as @every 90s, @every 5m or @every 1h30m')
    days, hours, minutes, seconds = (int(part or 0) for part in found.groups())
    interval = days * _DAY + hours * 3600 + minutes * 60 + seconds
    if not 1 <= interval <= _LONGEST_EVERY:
        raise CronError(f'schedule "{text}": write an interval between 1s and {_LONGEST_EVERY // _DAY}d')
    return _Every(interval)


def _calendar(text: str, words: list[str], job_id: str) -> _Calendar:
    if len(words) == 7:
        raise CronError(f'schedule "{text}": 7 fields; a year cannot be given, write 5 fields, or 6 with seconds first')
    if len(words) not in (5, 6):
        raise CronError(
            f'schedule "{text}": {len(words)} fields; write 5 (minute, hour, day of month, month, day of week), '
            "or 6 with seconds first"
        )
    words = ["0", *words][-6:]
    second, minute, hour, date, month, weekday = (
        _expand(field, word, job_id if _HASHED.search(word) else "") for field, word in zip(_FIELDS, words, strict=True)
    )
    minute_stars, hour_stars, date_stars, _, weekday_stars = (word.startswith("*") for word in words[1:])
    dates = _dates(date, month, weekday, both=date_stars or weekday_stars)
    dates = [each for each in dates if _first_day(each, _PROOF_DAY) is not None]
    if not dates:
        raise CronError(f'schedule "{text}": no such date exists; check the day of month against the months')
    return _Calendar(
        hours=hour.numbers,
        minutes=minute.numbers,
        seconds=second.numbers,
        dates=tuple(dates),
        fixed=not (minute_stars or hour_stars),
    )


def _dates(date: _Values, month: _Values, weekday: _Values, *, both: bool) -> list[str]:
    """Return the expressions of croniter whose days together are the days of the schedule.

    `both` is Debian's rule: if day of month or day of week starts with `*`, a day must satisfy both, else either. The
    split leaves croniter nothing to decide: its own "either" loses n#k, and it refuses plain weekdays beside n#k.
    """
    dates = _plain(_DATE, date)
    months = _plain(_MONTH, month)
    weekdays = [
        _plain(_WEEKDAY, part) for part in (_Values(weekday.numbers, ()), _Values((), weekday.special)) if any(part)
    ]
    if both:
        return [f"0 0 {dates} {months} {days}" for days in weekdays]
    return [f"0 0 {dates} {months} *"] + [f"0 0 * {months} {days}" for days in weekdays]


def _plain(field: _Field, values: _Values) -> str:
    everything = 7 if field is _WEEKDAY else field.high - field.low + 1
    if len(values.numbers) == everything:
        return "*"
    return ",".join([*map(str, values.numbers), *values.special])


@functools.lru_cache(maxsize=4096)
def _expand(field: _Field, text: str, job_id: str) -> _Values:
    numbers: set[int] = set()
    special: set[str] = set()
    items = text.split(",")
    for item in items:
        if item.startswith("*") and len(items) > 1:
            _refuse(field, text, "* cannot be one of a list; write * alone, or the numbers")
        rare = _special(field, item)
        if rare is None:
            numbers.update(_numbers(field, item, job_id))
        else:
            special.add(rare)
    if field is _WEEKDAY:
        numbers = {number % 7 for number in numbers}
    return _Values(tuple(sorted(numbers)), tuple(sorted(special)))


def _special(field: _Field, item: str) -> str | None:
    if field is _DATE and item == "l":
        return "l"
    if field is _WEEKDAY and (found := _NTH.fullmatch(item)):
        if not 1 <= int(found["nth"]) <= 5:
            _refuse(field, item, "a month has at most five of a weekday; write #1 to #5")
        return f"{_number(field, item, found['day']) % 7}#{int(found['nth'])}"
    if field is _WEEKDAY and (found := _LAST.fullmatch(item)):
        return f"l{_number(field, item, found['after'] or found['before']) % 7}"
    return None


def _numbers(field: _Field, item: str, job_id: str) -> range:
    found = _ITEM.fullmatch(item)
    if found is None:
        _refuse(field, item, _hint(field, item))
    step = int(found["step"] or 1)
    if step == 0:
        _refuse(field, item, "a step of 0 never moves; write 1 or more")
    if found["hash"]:
        low, high = field.low, field.hash_high
        if found["from"]:
            low, high = _bounds(field, item, found["from"], found["to"], 1)
        hashed = int.from_bytes(hashlib.sha256(f"{field.name} {job_id}".encode()).digest()[:8])
        if found["step"] is None:
            return range(low + hashed % (high - low + 1), high + 1)[:1]
        return range(low + hashed % min(step, high - low + 1), high + 1, step)
    if found["star"]:
        return range(field.low, field.high + 1, step)
    if found["last"]:
        low, high = _bounds(field, item, found["first"], found["last"], step)
        return range(low, high + 1, step)
    low = _number(field, item, found["first"])
    return range(low, field.high + 1, step) if found["step"] else range(low, low + 1)


def _bounds(field: _Field, item: str, first: str, last: str, step: int) -> tuple[int, int]:
    low, high = _number(field, item, first), _number(field, item, last)
    if low > high:
        top = 6 if field is _WEEKDAY else field.high
        if item.startswith("h("):
            instead = f"H({first}-{top}) or H({field.low}-{last})"
        elif step == 1:
            parts = [(a, b) for a, b in ((low, top), (field.low, high)) if a <= b]
            instead = ",".join(str(a) if a == b else f"{a}-{b}" for a, b in parts)
        else:
            around = [*range(low, top + 1), *range(field.low, high + 1)]
            instead = ",".join(map(str, around[::step]))
        _refuse(field, item, f"a range runs upwards; write {instead}")
    return low, high


def _number(field: _Field, item: str, text: str) -> int:
    if text in field.names:
        return field.low + field.names.index(text)
    if not text.isdigit():
        _refuse(field, item, _hint(field, item))
    number = int(text)
    if not field.low <= number <= field.high:
        _refuse(field, item, f"write a number from {field.low} to {field.high}")
    return number


def _hint(field: _Field, item: str) -> str:
    if item == "":
        return "an item of the list is empty; remove the comma"
    if "?" in item:
        return "write * in place of ?"
    if "~" in item or re.fullmatch(r"r(\(.*\))?(/.*)?", item):
        return "a random time would move at each restart; write H, or H(10-20), which stays the same for a job"
    if field is _DATE and re.fullmatch(r"l?w|[0-9]+w|w[0-9]+", item):
        return "the nearest weekday (W) is not known here; write a day, or weekdays (1-5) in the last field"
    if field is _WEEKDAY and item == "l":
        return "write L with its day, as in L5 for the last Friday"
    names = f" or {' '.join(field.names)}" if field.names else ""
    return f"write a number from {field.low} to {field.high}{names}, a range (1-5), a list (1,3), a step (*/5) or H"


def _refuse(field: _Field, item: str, problem: str) -> NoReturn:
    raise CronError(f'{field.name} "{item}": {problem}')


@functools.lru_cache(maxsize=16384)
def _first_day(date: str, day: int) -> int | None:
    """Return the first day at or after `day` (days since 1970-01-01) that croniter finds; None: none in 50 years."""
    try:
        # day_or decides nothing here, where a date names one kind of day; False keeps `*/2 * 1` an intersection.
        found = croniter.croniter(date, start_time=float(day * _DAY - 60), day_or=False).get_next(float)
    except croniter.CroniterBadDateError:
        return None
    return int(found) // _DAY


class _Segment(NamedTuple):
    """A span in which the zone's offset stays the same."""

    #: The instant after its last.
    end: int
    #: Wall seconds minus UTC seconds.
    offset: int
    #: What the wall shows below this was shown before: the second pass of a repeated hour.
    floor: int


#: Offsets are looked up in blocks of about a year, and sampled once a day: since 1970, and by the zones' own rules ever
#: after, no zone has changed twice within six days.
_BLOCK = 1 << 25
#: A repeated span began at most this long before it: the wall went back by no more than a day (Kwajalein, 1969).
_MARGIN = 2 * _DAY


@functools.lru_cache(maxsize=4096)
def _segments(zone: str, block: int) -> tuple[_Segment, ...]:
    info = _info(zone)
    at, last = block * _BLOCK - _MARGIN, (block + 1) * _BLOCK
    offset = _offset(info, at)
    floor = at + offset
    segments = []
    while at < last:
        until = min(at + _DAY, last)
        if _offset(info, until) != offset:
            change = _change(info, at, until)
            segments.append(_Segment(change, offset, floor))
            floor = max(floor, change + offset)
            offset = _offset(info, until)
        at = until
    segments.append(_Segment(last, offset, floor))
    return tuple(segments)


def _change(info: zoneinfo.ZoneInfo, at: int, until: int) -> int:
    """Return the first instant after `at` that has the offset of `until`."""
    offset = _offset(info, until)
    return at + 1 + bisect.bisect_left(range(at + 1, until), 1, key=lambda instant: _offset(info, instant) == offset)


def _offset(info: zoneinfo.ZoneInfo, at: int) -> int:
    shown = dt.datetime.fromtimestamp(at, info)
    return int(shown.replace(tzinfo=dt.UTC).timestamp()) - at


def _segment(zone: str, at: int) -> _Segment:
    return next(segment for segment in _segments(zone, at // _BLOCK) if at < segment.end)


def _next_fire(rule: _Calendar, zone: str, after: int, *, skips_gaps: bool) -> int | None:
    begin, here = after + 1, _segment(zone, after)
    while True:
        wall = begin + here.offset
        match = rule.first(max(wall, here.floor) if rule.fixed else wall)
        if match is None:
            return None
        fire = match - here.offset
        if fire < here.end:
            return fire
        # The wall never shows `match` in this segment. Fixed times that the change leaps over fire right after it.
        change, there = here.end, _segment(zone, here.end)
        if rule.fixed and not skips_gaps and match < change + there.offset:
            return change
        begin, here = change, there


@functools.cache
def _info(zone: str) -> zoneinfo.ZoneInfo:
    """The zone as it was when it was first asked for: one that is replaced, or removed, counts from forget_zones() on."""
    return zoneinfo.ZoneInfo(zone)


def forget_zones() -> None:
    """Read every zone anew when it is next asked for. A Schedule that was made before may be of a zone that is no more."""
    zoneinfo.ZoneInfo.clear_cache()
    for cache in (_info, _segments, _zone_problem, _parse):
        cache.cache_clear()


@functools.lru_cache(maxsize=1024)
def _zone_problem(zone: str) -> str | None:
    try:
        # Zones of the folder `right` count leap seconds, which epoch time does not.
        if _ZONE.fullmatch(zone) and not zone.startswith("right/"):
            _info(zone)
            return None
    except (KeyError, ValueError, OSError):
        pass
    near = difflib.get_close_matches(zone[:64], zoneinfo.available_timezones(), 1)
    return f"timezone {zone[:64]!r}: not known; write {near[0] if near else 'a name such as Europe/Berlin'}"
