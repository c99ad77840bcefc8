"""Checks of single values: what a person wrote, to its canonical form, or a ValueError in words for that person.

Called by load.py through the table in fields.py, in whichever process reads job files. A check gets a value of the
right type and returns plain values that JSON can carry and that pass the same check unchanged. Nothing here looks at
the host beyond its time zones: whether a user or a path exists is known when the job starts.
"""

import difflib
import functools
import itertools
import math
import re
import zoneinfo
from collections.abc import Iterable
from typing import Any

import msgpack  # type: ignore[import-untyped]  # ships none

from lnmt_scheduler.jobs import model, units
from lnmt_scheduler.sandbox import profiles

#: Seconds; a deadline beyond it is a mistake.
LONGEST = 3650 * 86400
#: Bytes of a command, as the kernel counts them: it refuses one argument of more (execve(2), MAX_ARG_STRLEN).
_COMMAND_MAX = 128 * 1024
#: Bytes of the arguments of a function as msgpack; bytes of an environment.
_VALUES_MAX = _ENVIRONMENT_MAX = 64 * 1024
#: Args and kwargs nest no deeper: they travel inside messages that are capped themselves.
_VALUES_DEPTH = 16
#: So many mistakes inside one value are named at once.
_SHOWN = 5
#: A suggestion is looked for among so many names: it is a courtesy, and must not hold anybody up.
_CANDIDATES = 2000

_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
#: What a dependency may ask of its parent's run.
WHENS = ("ok", "failed", "any")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]")

#: Reasons of a failed run that `retry_on` may name (`superseded` is not among them: a newer slot has taken over).
RETRIABLE = (
    "exit", "exception", "result", "signal", "timeout", "stalled", "memory", "cpu", "pids", "output", "spawn",
    "sandbox", "lost", "stopped",
)  # fmt: skip
#: What a job may be given of the daemon's own.
GRANTS = ("history",)
#: Files that one job may be given.
SECRETS_MAX = 32
_PRIORITIES = {priority.name.lower(): priority.value for priority in model.JobPriority}


def hint(word: str, names: Iterable[str]) -> str:
    """ "; did you mean 'timeout'?", or nothing."""
    near = difflib.get_close_matches(word[:100], itertools.islice(names, _CANDIDATES), n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


def _encode(value: str) -> bytes:
    try:
        return value.encode()
    except UnicodeEncodeError:
        raise ValueError("holds half a surrogate pair, which is no text") from None


def text(value: str, limit: int) -> str:
    """Up to `limit` bytes as UTF-8, without NUL."""
    if (length := len(_encode(value))) > limit:
        raise ValueError(f"has {length} bytes; at most {limit} are allowed")
    if "\0" in value:
        raise ValueError("must not contain NUL")
    return value


def line(value: str, limit: int) -> str:
    """One line without control characters, not blank."""
    if not value or value.isspace():
        raise ValueError("must not be empty")
    if _CONTROL.search(text(value, limit)):
        raise ValueError("must be one line without control characters")
    return value


def identifier(value: str) -> str:
    """A job's id."""
    if not _ID.fullmatch(value):
        raise ValueError(
            f"{value[:80]!r} is no id: letters, digits, '.', '_' and '-', the first a letter or digit, at most 64"
        )
    return value


def dotted(value: str) -> str:
    if not all(part.isidentifier() for part in line(value, 500).split(".")):
        raise ValueError(f"{value[:80]!r} is no dotted Python name")
    return value


def absolute(value: str) -> str:
    if not text(value, 4096).startswith("/"):
        raise ValueError(f"{value[:80]!r} must be an absolute path")
    return value


def account(value: str) -> str:
    if value.isdigit():
        raise ValueError("must be a name, not a number")
    if value.startswith("-") or re.search(r"[:/\s]", line(value, 256)):
        raise ValueError(f"{value[:80]!r} is no name of an account")
    return value


@functools.lru_cache(maxsize=256)
def zone(value: str) -> str:
    try:
        zoneinfo.ZoneInfo(value)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        near = hint(value, sorted(zoneinfo.available_timezones()))
        raise ValueError(f"{value[:80]!r} is no time zone of this host{near}") from None
    return value


def command(value: list[str] | str) -> list[str] | str:
    words = [value] if isinstance(value, str) else value
    # The text's own NUL at the end counts, as it does for the kernel.
    length = sum(len(text(word, _COMMAND_MAX).encode()) + 1 for word in words)
    if length > _COMMAND_MAX:
        raise ValueError(f"has {length} bytes; at most {_COMMAND_MAX} are allowed")
    if not words or not words[0].strip():
        raise ValueError("names no program")
    return value


def priority(value: int | str) -> int:
    found = _PRIORITIES.get(value.lower()) if isinstance(value, str) else value
    if found is None or found not in _PRIORITIES.values():
        near = hint(value.lower(), _PRIORITIES) if isinstance(value, str) else ""
        raise ValueError(f"must be 1 to 4, or low, normal, high or critical{near}")
    return found


def umask(value: int | str) -> str:
    """Octal text, the form that every person knows; a number means itself, as TOML's 0o022 does."""
    if isinstance(value, str):
        value = int(value, 8) if re.fullmatch("(0o)?[0-7]{1,4}", value) else -1
    if not 0 <= value <= 0o777:
        raise ValueError('must be octal text from "000" to "777"')
    return f"{value:03o}"


def plain(value: object, depth: int = _VALUES_DEPTH) -> Any:
    """A copy in plain types, which JSON and msgpack both carry. Raises ValueError for anything else or too deep."""
    match value:
        case None | bool():
            return value
        case str():
            _encode(value)
            return str.__str__(value)
        case int():
            if not -(1 << 63) <= value < 1 << 64:
                raise ValueError("holds an integer of more than 64 bits")
            return int(value)
        case float():
            if not math.isfinite(value):
                raise ValueError("holds a number that is not finite")
            return float(value)
        case list() | tuple() | dict() if depth == 0:
            raise ValueError(f"is nested deeper than {_VALUES_DEPTH}")
        case list() | tuple():
            return [plain(item, depth - 1) for item in value]
        case dict():
            if not all(isinstance(key, str) for key in value):
                raise ValueError("holds a map with a key that is not text")
            return {plain(key, depth): plain(item, depth - 1) for key, item in value.items()}
    raise ValueError(f"holds a {type(value).__name__}, which JSON cannot carry; write it as text")


def values(value: list[Any] | dict[str, Any]) -> Any:
    copy = plain(value)
    if (length := len(msgpack.packb(copy))) > _VALUES_MAX:
        raise ValueError(f"has {length} bytes as msgpack; at most {_VALUES_MAX} are allowed")
    return copy


def environment(value: dict[str, Any]) -> dict[str, str]:
    problems, length = [], 0
    for name, word in value.items():
        try:
            length += _variable(name, word)
        except ValueError as error:
            problems.append(f"{name[:80]!r} {error}")
    if problems:
        raise ValueError("; ".join(problems[:_SHOWN]))
    if length > _ENVIRONMENT_MAX:
        raise ValueError(f"has {length} bytes; at most {_ENVIRONMENT_MAX} are allowed")
    return dict(value)


def _variable(name: str, word: object) -> int:
    """Bytes that it takes in an environment, with its '=' and NUL."""
    if not name or "=" in name:
        raise ValueError("is no name of a variable: it is empty or has a '='")
    if not isinstance(word, str):
        raise ValueError("must be text, in quotes")  # noqa: TRY004 - every refusal of a value is a ValueError
    return len(_encode(text(name, _ENVIRONMENT_MAX))) + len(_encode(text(word, _ENVIRONMENT_MAX))) + 2


def secrets(value: dict[str, Any]) -> dict[str, str]:
    """Name of a file in the box -> an absolute path on the host, or the name of a systemd credential."""
    if len(value) > SECRETS_MAX:
        raise ValueError(f"has {len(value)} entries; at most {SECRETS_MAX} are allowed")
    problems = []
    for name, source in value.items():
        if not _ID.fullmatch(name):
            problems.append(f"{name[:80]!r} is no name of a secret: letters, digits, '.', '_' and '-', at most 64")
        elif not isinstance(source, str):
            problems.append(f"{name!r} must be a path, or the name of a systemd credential")
        elif not _ID.fullmatch(source) and not (source.startswith("/") and len(source) < 4096 and "\0" not in source):
            problems.append(f"{name!r} must be an absolute path, or the name of a systemd credential")
    if problems:
        raise ValueError("; ".join(problems[:_SHOWN]))
    return dict(value)


def grants(value: list[str]) -> list[str]:
    if wrong := [word for word in value if word not in GRANTS]:
        raise ValueError(f"{wrong[0][:80]!r} is nothing that can be granted{hint(wrong[0], GRANTS)}; there is: history")
    return sorted(set(value))


def dependencies(value: list[str | dict[str, str]]) -> list[str | dict[str, str]]:
    """Ids, and {"job": ID, "when": WHEN} where that is not `ok`, which an id alone means."""
    found: dict[str, str] = {}
    for entry in value:
        parent, when = _dependency(entry) if isinstance(entry, dict) else (entry, "ok")
        if identifier(parent) in found:
            raise ValueError(f"names {parent!r} twice")
        found[parent] = when
    return [parent if when == "ok" else {"job": parent, "when": when} for parent, when in found.items()]


def _dependency(entry: dict[str, str]) -> tuple[str, str]:
    if unknown := entry.keys() - {"job", "when"}:
        raise ValueError(f"unknown key {min(unknown)[:80]!r} in a dependency; it has 'job' and 'when'")
    if "job" not in entry:
        raise ValueError("a dependency without 'job'")
    when = entry.get("when", "ok")
    if when not in WHENS:
        raise ValueError(f"unknown 'when' {when[:80]!r}; it is 'ok', 'failed' or 'any'{hint(when, WHENS)}")
    return entry["job"], when


def event(value: str) -> str:
    """The name of an event."""
    if not _ID.fullmatch(value):
        raise ValueError(
            f"{value[:80]!r} is no name of an event: letters, digits, '.', '_' and '-', the first a letter or digit, at"
            " most 64"
        )
    return value


def mailto(value: str) -> str | None:
    """An address, or `none`."""
    if value == "none":
        return None
    if not re.fullmatch(r"[^\s<>,;:\"\x00-\x1f\x7f]{1,250}", text(value, 250)):
        raise ValueError(f"{value[:80]!r} is no address of one person")
    return value


def hooks(value: list[str]) -> list[str]:
    """Ids of the jobs to start."""
    for entry in value:
        if not _ID.fullmatch(entry):
            raise ValueError(f"{entry[:80]!r} is no id of a job, nor the name of a target of [notify]")
    return list(dict.fromkeys(value))


def alert_after(value: int | str | None) -> int | str | None:
    """So many runs, a whole number; or so long, text with a unit. One run is the default, None."""
    if isinstance(value, str) and not value.strip().isdigit():
        return units.format_duration(seconds(value, 1))
    runs = None if value is None else count(int(value), 1, 10_000)
    return None if runs == 1 else runs


def retry_on(value: list[str]) -> list[str]:
    return sorted({_reason(word) for word in value})


def _reason(word: str) -> str:
    if word in RETRIABLE:
        return word
    code = re.fullmatch("exit:([0-9]{1,3})", word)
    if code is None or int(code[1]) > 255:
        raise ValueError(f"{word[:80]!r} is no reason of a failed run, nor exit:CODE{hint(word, RETRIABLE)}")
    return f"exit:{int(code[1])}"


def codes(value: list[int]) -> list[int]:
    if wrong := [code for code in value if not 0 <= code <= 255]:
        raise ValueError(f"{wrong[0]} is no exit code; they are 0 to 255")
    return sorted(set(value))


def unique_lines(value: list[str], limit: int) -> list[str]:
    return list(dict.fromkeys(line(item, limit) for item in value))


def sandbox(value: str | dict[str, Any] | None, default: str = profiles.DEFAULT) -> dict[str, Any]:
    """Stored explicitly with every job, so that a later default cannot change what it may do."""
    return profiles.canonical(value, default)


def number(value: float) -> float:
    """60.0 as 60: one value has one canonical form."""
    return int(value) if value == int(value) else value


def seconds(value: object, low: float = 0, high: float = LONGEST) -> float:
    """A duration in bounds, in seconds."""
    found = units.duration(value)
    if not low <= found <= high:
        bounds = f"{units.format_duration(low)} to {units.format_duration(high)}"
        raise ValueError(f"must be {bounds}, not {units.format_duration(found)}")
    return number(found)


def cores(value: float) -> float:
    if not 0.01 <= value <= 4096:
        raise ValueError("must be 0.01 to 4096 cores")
    return number(value)


def count(value: int, low: int, high: int) -> int:
    if not low <= value <= high:
        raise ValueError(f"must be {low} to {high}, not {value if abs(value) < 1 << 64 else 'that'}")
    return value


def size(value: object, low: int = 1, high: int = 1 << 50) -> int:
    """A size in bounds, in bytes."""
    found = units.size(value)
    if not low <= found <= high:
        raise ValueError(f"must be {units.format_size(low)} to {units.format_size(high)}")
    return found


def backoff(value: float) -> float:
    if not 1 <= value <= 100:
        raise ValueError(f"must be 1 to 100, not {value:g}")
    return number(value)
