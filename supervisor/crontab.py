"""Lines of crontabs: what each says, by the rules of crontab(5) of Debian and cronie.

For `import-crontab`. python-crontab, an extra, says what kind of line it is and which times its fields name; everything that
it is known to get wrong is read here: it cuts a command at " #", wants no blanks around the `=` of a variable, stumbles over an
empty value, and loses itself in a crontab of a thousand jobs. So it is shown one line at a time. Pure but for that import.
"""

# ruff: noqa: PLC0415 - python-crontab is an extra, and brings half of the standard library

import logging
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lnmt_scheduler.supervisor import second_reading

#: What has the import name crontab.
PACKAGE = "python-crontab"

#: What cron itself sets; a line may say otherwise.
SHELL, PATH = "/bin/sh", "/usr/bin:/bin"
#: What gives a command its input. It is a program of its own, so that nothing of a line can be taken for a part of it.
INPUT = ("/bin/sh", "-c", 'printf %s "$1" | "$2" -c "$3"', "sh")
_LINE_MAX = 128 * 1024
#: A list of its own: the second reading shares nothing with cron.py.
_NICKNAMES = {
    "@yearly": "0 0 1 1 *",
    "@annually": "0 0 1 1 *",
    "@monthly": "0 0 1 * *",
    "@weekly": "0 0 * * 0",
    "@daily": "0 0 * * *",
    "@midnight": "0 0 * * *",
    "@hourly": "0 * * * *",
}
#: As load_env() of cron has it: a name, quoted or not, an equals sign, a value, quoted or not.
_VARIABLE = re.compile(r"""\s*(?P<quote>["']?)(?P<name>[^\s"'=]+)(?P=quote)\s*=\s*(?P<value>.*?)\s*""")
_ENTRY = re.compile(r"\s*(?P<time>@\S+|(?:\S+\s+){4}\S+)\s+(?P<rest>\S.*?)\s*")
_RANDOM = re.compile(r"(?P<low>\d*)~(?P<high>\d*)")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    """A line that runs something."""

    #: Where it stands: file and number of the line, from 1.
    path: str
    line: int
    #: The line itself.
    text: str
    #: The five fields as they stand there, or a nickname; a random time (`~`) is still in it.
    time: str
    #: Account that it runs as; None: whoever's crontab it is, and nobody said who that is.
    user: str | None
    #: For the shell, percent signs resolved.
    command: str
    #: What the command reads; None: nothing.
    stdin: str | None
    #: Variables that were set above it, in order.
    variables: Mapping[str, str]
    #: A comment right above it.
    comment: str = ""


@dataclass(slots=True)
class Crontab:
    """What a file holds."""

    entries: list[Entry] = field(default_factory=list)
    #: (number of the line, the line) that is commented out, and would run something.
    disabled: list[tuple[int, str]] = field(default_factory=list)
    #: (number of the line, what is wrong with it)
    problems: list[tuple[int, str]] = field(default_factory=list)


def _library() -> Any:
    import crontab  # type: ignore[import-untyped]  # ships none

    # It would print what it thinks of a line on stderr.
    logging.getLogger("crontab").setLevel(logging.CRITICAL + 1)
    return crontab


def read(text: str, path: str, *, user: str | None, has_users: bool) -> Crontab:
    """The lines of a crontab; with `has_users` each names its user, as in /etc/crontab. Raises ImportError."""
    library = _library()
    found = Crontab()
    variables: dict[str, str] = {}
    comment = ""
    for number, line in enumerate(text.split("\n"), 1):
        before, comment = comment, ""
        stripped = line.strip()
        if not stripped:
            continue
        if len(line) > _LINE_MAX:
            found.problems.append((number, f"longer than {_LINE_MAX} characters"))
        elif stripped.startswith("#"):
            if _is_entry(library, stripped.lstrip("# \t"), has_users=has_users):
                found.disabled.append((number, stripped))
            else:
                comment = stripped.lstrip("# \t")
        elif (variable := _VARIABLE.fullmatch(line)) and not _ENTRY_LIKE.match(stripped):
            variables[variable["name"]] = _unquoted(variable["value"])
        else:
            _take(library, found, path, number, line, user, variables, before, has_users=has_users)
    return found


#: Five fields or a nickname come first, whatever equals signs the command has.
_ENTRY_LIKE = re.compile(r"(?:@|[-\d*])\S*\s+\S")


def _take(
    library: Any,
    found: Crontab,
    path: str,
    number: int,
    line: str,
    user: str | None,
    variables: Mapping[str, str],
    comment: str,
    *,
    has_users: bool,
) -> None:
    match = _ENTRY.fullmatch(line)
    if match is None:
        found.problems.append(
            (number, "is neither five fields and a command, a nickname and a command, nor NAME=VALUE")
        )
        return
    rest = match["rest"]
    if has_users:
        user, *more = match["rest"].split(None, 1)
        rest = more[0] if more else ""
        if not rest:
            found.problems.append((number, "has no command after the name of its user"))
            return
    # A minus before the minute keeps cronie's log quiet.
    time = " ".join(match["time"].removeprefix("-").split())
    if not _is_entry(library, f"{time} x", has_users=False):
        found.problems.append((number, f"python-crontab cannot read the time {time!r}"))
        return
    command, stdin = _percent(rest)
    found.entries.append(
        Entry(
            path=path, line=number, text=line.strip(), time=time.lower() if time.startswith("@") else time, user=user,
            command=command, stdin=stdin, variables=dict(variables), comment=comment,
        )
    )  # fmt: skip


def _is_entry(library: Any, text: str, *, has_users: bool) -> bool:
    item = _item(library, text, has_users=has_users)
    return bool(item.is_valid()) and (
        not text.startswith("@") or text.split(maxsplit=1)[0].lower() in {*_NICKNAMES, "@reboot"}
    )


def _item(library: Any, text: str, *, has_users: bool) -> Any:
    item = library.CronItem()
    item.cron = library.CronTab(user=False if has_users else None, tab="")
    try:
        item.parse(text)
    except (ValueError, KeyError, IndexError):
        item.valid = False
    return item


def _unquoted(value: str) -> str:
    if len(value) >= 2 and value[0] == value[-1] and value[0] in "\"'":
        return value[1:-1].rstrip()  # Debian's cron drops blanks at the end inside quotes, too
    return value


def _percent(rest: str) -> tuple[str, str | None]:
    """Command and input: the first percent sign ends the command, others are ends of lines; \\% is a percent sign."""
    parts = re.split(r"(?<!\\)%", rest)
    command, *lines = (part.replace("\\%", "%") for part in parts)
    if not lines:
        return command.rstrip(), None
    data = "\n".join(lines)
    return command.rstrip(), data if data.endswith("\n") else f"{data}\n"


# Times.


def schedule(time: str) -> tuple[str, bool]:
    """What our schedule is for this time, and whether a random time became one that stays (`H`)."""
    if time.startswith("@"):
        return time, False
    words = [_steady(word) for word in time.split()]
    return " ".join(words), words != time.split()


def _steady(word: str) -> str:
    match = _RANDOM.fullmatch(word)
    if match is None:
        return word
    low, high = match["low"], match["high"]
    return f"H({low}-{high})" if low and high else "H"


def reading(time: str) -> second_reading.Reading | None:
    """What python-crontab reads in the fields, for the second opinion; None: @reboot fires by no time."""
    library = _library()
    fields = _NICKNAMES.get(time, time)
    if fields.startswith("@"):
        return None
    minutes, hours, dates, months, weekdays = (
        frozenset(each) for each in _item(library, f"{fields} x", has_users=False).slices
    )
    stars = [word.startswith("*") for word in fields.split()]
    return second_reading.Reading(
        minutes=minutes, hours=hours, dates=dates, months=months, weekdays=weekdays,
        both=stars[2] or stars[4], fixed=not (stars[0] or stars[1]),
    )  # fmt: skip


def is_read(name: str) -> bool:
    """Whether cron takes a file of this name in /etc/cron.d; it passes over those with a dot, such as what dpkg leaves."""
    return re.fullmatch(r"[A-Za-z0-9_-]+", name) is not None
