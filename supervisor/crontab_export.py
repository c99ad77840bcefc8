"""Jobs as lines of a crontab: the way out. What cron cannot do is left out of a line and said in a comment above it; a job that
cron cannot run at all, or would run at another time, is a comment alone.

For `export --crontab`. Definitions in, lines out; nothing is read but the files of zones. A job that would run as a user of its
own is given to nobody, and never to root.
"""

import re
import shlex
from collections.abc import Iterator, Mapping
from typing import Any

from lnmt_scheduler.jobs import load, model, units
from lnmt_scheduler.sandbox import profiles
from lnmt_scheduler.supervisor import cron, crontab, zonefile

#: Of a line, in Debian's cron (MAX_COMMAND); it cuts what is longer.
_COMMAND_MAX = 998
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"

#: Keys that cron has nothing like.
_UNKNOWN = (
    "dependencies", "environment_file", "jitter", "limits", "on_change", "on_event", "on_failure", "on_success", "pool",
    "secrets", "stall_timeout", "start_deadline", "total_timeout",
)  # fmt: skip


class _Lost(ValueError):  # noqa: N818 - reads as what it says
    """Cron cannot do that; why."""


def lines(jobs: list[dict[str, Any]], cron_zone: str, zone: str, *, has_users: bool) -> Iterator[str]:
    """A crontab of these definitions; with `has_users` each line names a user, as in /etc/cron.d.

    `cron_zone` is the host's, in which cron reads it, and `zone` the daemon's, for jobs that name none.
    """
    yield f"# Of {len(jobs)} jobs. Schedules are read in {cron_zone}."
    yield "SHELL=/bin/sh"
    yield f"PATH={_PATH}"
    yield 'MAILTO=""'
    for given in jobs:
        job = load.from_given({"sandbox": {"profile": profiles.DEFAULT}, **given}, {}).config
        yield ""
        yield _comment(job.name if job.name == job.id else f"{job.id}: {job.name}")
        try:
            line = _line(job, cron_zone, job.timezone or zone, has_users=has_users)
        except _Lost as why:
            yield _comment(f"not exported: {why}")
            continue
        if lost := _lost(job, has_users=has_users):
            yield _comment(f"lost: {', '.join(lost)}")
        if job.mailto is not None:
            yield f"MAILTO={job.mailto}"
        yield line if job.enabled else _comment(f"disabled: {line}")
        if job.mailto is not None:
            yield 'MAILTO=""'


def _comment(text: str) -> str:
    return "# " + " ".join(text.split())


def _line(job: model.JobConfig, cron_zone: str, zone: str, *, has_users: bool) -> str:
    time = _time(job, cron_zone, zone)
    user = f" {_user(job)}" if has_users else ""
    command = _command(job)
    if len(command) > _COMMAND_MAX:
        raise _Lost(f"its command has {len(command)} characters, of which cron takes {_COMMAND_MAX}")
    return f"{time}{user} {command}"


def _time(job: model.JobConfig, cron_zone: str, zone: str) -> str:
    if job.schedule is None:
        raise _Lost("it has no schedule")
    words = cron.plain(job.schedule, job.id)
    if words != ["@reboot"] and not _is_same(zone, cron_zone):
        raise _Lost(f"its schedule is read in {zone}, and cron reads all in {cron_zone}")
    match words:
        case ["@reboot"]:
            return "@reboot"
        case ["@every", interval]:
            return _every(round(units.duration(interval)))
        case [second, *fields] if len(words) == 6:
            if second != "0":
                raise _Lost("cron knows no seconds")
            words = fields
    for word in (words[2], words[4]):
        if any(re.fullmatch(r"l|l.+|.+l|.+#.+", item) for item in word.split(",")):
            raise _Lost(f"cron knows no {word.upper()}")
    return " ".join(words)


def _is_same(zone: str, other: str) -> bool:
    """One zone has many names: a host in UTC is in Etc/UTC."""
    return zone == other or zonefile.digest(zone) == zonefile.digest(other) is not None


def _every(seconds: int) -> str:
    minutes, rest = divmod(seconds, 60)
    if not rest and minutes < 60 and 60 % minutes == 0:
        return f"*/{minutes} * * * *"
    raise _Lost(f"cron has no such interval: {units.format_duration(seconds)}")


def _user(job: model.JobConfig) -> str:
    """As whom a daemon of root runs it."""
    profile = (job.sandbox or {})["profile"]
    if job.user is None:
        return "root" if profile == "trusted" else "nobody"
    return "nobody" if job.user == "dynamic" else job.user


def _command(job: model.JobConfig) -> str:
    if job.command is None:
        raise _Lost("it is a Python function")
    text, after = _text(job.command)
    before = []
    if job.umask != 0o022:
        before.append(f"umask {job.umask:03o};")
    if job.environment:
        before.append(f"export {' '.join(f'{name}={shlex.quote(value)}' for name, value in job.environment.items())};")
    if job.working_directory is not None:
        before.append(f"cd {shlex.quote(job.working_directory)} || exit;")
    text = " ".join([*before, text])
    if "\n" in text:
        raise _Lost("a line of a crontab holds no line break")
    return text.replace("%", "\\%") + after


def _text(command: list[str] | str) -> tuple[str, str]:
    """What the shell of cron is given, and the input that follows it."""
    if isinstance(command, str):
        return command, ""
    match command[len(crontab.INPUT) :]:
        case [stdin, crontab.SHELL, text] if tuple(command[: len(crontab.INPUT)]) == crontab.INPUT:
            return text, "%" + stdin.removesuffix("\n").replace("%", "\\%").replace("\n", "%")
    return shlex.join(command), ""


def _lost(job: model.JobConfig, *, has_users: bool) -> list[str]:
    """What cron does not do of it."""
    box: Mapping[str, Any] = job.sandbox or {}
    found = []
    if job.timeout is not None:
        found.append(f"timeout {units.format_duration(job.timeout)}")
    if job.max_retries:
        found.append(f"{job.max_retries} retries")
    if job.catch_up != "skip":
        found.append(f"catch_up {job.catch_up}")
    if job.dst != "cron":
        found.append(f"dst {job.dst}")
    if job.mailto is not None and job.notify_on != "output":
        found.append(f"notify_on {job.notify_on}")
    if job.overlap != "allow":
        found.append(f"overlap {job.overlap}")
    if box["profile"] != "trusted":
        found.append(f"sandbox {box['profile']}")
    if has_users and job.user in (None, "dynamic") and box["profile"] != "trusted":
        found.append("a user of its own")
    return found + [key for key in _UNKNOWN if getattr(job, key)]
