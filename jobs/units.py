"""Durations and sizes as people write them, read and shown.

Used wherever a person's text becomes a number or the other way round: job files, config.toml, options of schedctl,
tables. Pure functions; a duration is seconds, a size is bytes.
"""

import math
import re

#: Unit -> seconds, longest first: the order in which they may be combined.
_SECONDS = {"w": 604800.0, "d": 86400.0, "h": 3600.0, "m": 60.0, "s": 1.0, "ms": 0.001}
_DURATION_UNITS = {
    **dict.fromkeys(("w", "week", "weeks"), "w"),
    **dict.fromkeys(("d", "day", "days"), "d"),
    **dict.fromkeys(("h", "hr", "hour", "hours"), "h"),
    **dict.fromkeys(("m", "min", "minute", "minutes"), "m"),
    **dict.fromkeys(("s", "sec", "second", "seconds"), "s"),
    "ms": "ms",
}
_PART = re.compile(r"([0-9]+(?:\.[0-9]+)?) *([A-Za-z]+) *")
_NUMBER = re.compile(r"[0-9]+(?:\.[0-9]+)?")

#: Binary multiples, whichever way they are written: 1K = 1 KB = 1 KiB = 1024.
_MULTIPLES = {"": 1, "k": 1 << 10, "m": 1 << 20, "g": 1 << 30, "t": 1 << 40}
_SIZE = re.compile(r"([0-9]+(?:\.[0-9]+)?) *(?:([kmgt])(?:i?b)?|b)?", re.IGNORECASE | re.ASCII)
_SIZE_MAX = (1 << 63) - 1

#: Longer text is no duration or size; it is not looked at.
_TEXT_MAX = 64

#: What duration() and size() accept as text, for JSON Schema.
DURATION_PATTERN = r"^ *([0-9]+(\.[0-9]+)?|([0-9]+(\.[0-9]+)? *(" + "|".join(_DURATION_UNITS) + r") *)+) *$"
SIZE_PATTERN = r"^ *[0-9]+(\.[0-9]+)? *([kKmMgGtT]([iI]?[bB])?|[bB])? *$"


def duration(value: object) -> float:
    """Seconds that a number, "90", "1h30m", "2 days" or "500ms" means. Raises ValueError in words for its writer."""
    match value:
        case bool():
            raise ValueError("true and false are no durations")
        case int() | float():
            try:
                seconds = float(value)
            except OverflowError:
                raise ValueError("is too long") from None
        case str():
            seconds = _duration_of_text(value)
        case _:
            raise ValueError('must be a number of seconds, or text such as "1h30m"')
    if not math.isfinite(seconds):
        raise ValueError("must be a finite number of seconds")
    if seconds < 0:
        raise ValueError("must not be negative")
    return seconds


def _duration_of_text(text: str) -> float:
    wrong = f'{text[:_TEXT_MAX]!r} is no duration: write seconds, or numbers with w, d, h, m, s, ms, as in "1h30m"'
    stripped = text.strip(" ")
    if not stripped or len(text) > _TEXT_MAX:
        raise ValueError(wrong)
    if _NUMBER.fullmatch(stripped):
        return float(stripped)
    if stripped.startswith("-"):
        raise ValueError(f"{text!r} must not be negative")
    order = list(_SECONDS)
    total, position, last = 0.0, 0, -1
    while position < len(stripped):
        part = _PART.match(stripped, position)
        unit = _DURATION_UNITS.get(part[2]) if part else None
        if part is None or unit is None:
            raise ValueError(wrong)
        if order.index(unit) <= last:
            raise ValueError(f"{text!r}: the longer unit comes first, each one once")
        last = order.index(unit)
        # Divided for milliseconds: 3 * 0.001 is 0.003, but 1001 * 0.001 is not 1.001.
        total += float(part[1]) / 1000 if unit == "ms" else float(part[1]) * _SECONDS[unit]
        position = part.end()
    return total


def size(value: object) -> int:
    """Bytes that a whole number, "512M" or "1.5 GiB" means; multiples are binary. Raises ValueError for its writer."""
    match value:
        case bool():
            raise ValueError("true and false are no sizes")
        case int():
            number = value
        case str():
            number = _size_of_text(value)
        case _:
            raise ValueError('must be a whole number of bytes, or text such as "512M"')
    if number < 0:
        raise ValueError("must not be negative")
    if number > _SIZE_MAX:
        raise ValueError("is too large")
    return number


def _size_of_text(text: str) -> int:
    stripped = text.strip(" ")
    if len(text) <= _TEXT_MAX and (parsed := _SIZE.fullmatch(stripped)):
        multiple = _MULTIPLES[(parsed[2] or "").lower()]
        # Whole numbers stay exact; a fraction of a multiple is cut to whole bytes.
        return int(float(parsed[1]) * multiple) if "." in parsed[1] else int(parsed[1]) * multiple
    if stripped.startswith("-") and len(text) <= _TEXT_MAX:
        raise ValueError(f"{text!r} must not be negative")
    raise ValueError(f'{text[:_TEXT_MAX]!r} is no size: write bytes, or a number with K, M, G or T, as in "512M"')


def format_duration(seconds: float) -> str:
    """For tables: "850ms", "2.2s", "1h30m", "3d4h"; at most the two longest units."""
    if seconds < 0:
        return "-" + format_duration(-seconds)
    milliseconds = round(seconds * 1000)
    if milliseconds == 0:
        return "0s"
    if milliseconds < 1000:
        return f"{milliseconds}ms"
    tenths = round(seconds * 10)
    if tenths < 600:
        return f"{tenths / 10:g}s"
    rest = round(seconds)
    parts: list[str] = []
    for unit, each in (("d", 86400), ("h", 3600), ("m", 60), ("s", 1)):
        count, rest = divmod(rest, each)
        if count or parts:
            parts.append(f"{count}{unit}" if count else "")
    return "".join(parts[:2])


def format_size(count: int) -> str:
    """For tables: "512 B", "3.2 MiB", "10 GiB"."""
    if count < 1024:
        return f"{count} B"
    value = float(count)
    for unit in ("KiB", "MiB", "GiB", "TiB"):
        value /= 1024
        # What would round to 1024 of this unit is 1 of the next.
        if round(value, 1) < 1024 or unit == "TiB":
            break
    return f"{value:.1f}".removesuffix(".0") + f" {unit}"
