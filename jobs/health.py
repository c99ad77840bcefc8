"""System health: what on this host is about to go wrong, each check against its thresholds.

Looks and changes nothing. What a host does not have at all (systemd, pressure, a clock service) is left out, unless the job
names that check: then it is unknown. What could not be looked at is unknown, never ok.
"""

import glob
import json
import os
import platform
import pwd
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

import psutil

from lnmt_scheduler.jobs import certificates, mounts, needs, pressure, programs, verdicts

_SECONDS = 20
_REBOOT = "/run/reboot-required"
_SYSTEMD = "/run/systemd/system"

#: Warning and critical of each check, from that value on; of certificates from that value down.
THRESHOLDS: Mapping[str, tuple[float | None, float | None]] = {
    "disk": (85, 95),  # percent in use
    "inodes": (85, 95),
    "pressure_cpu": (60, 90),  # percent of the last five minutes in which something waited
    "pressure_memory": (10, 40),
    "pressure_io": (40, 80),
    "units": (1, None),  # failed units
    "clock": (1, None),  # 1: nothing keeps it right
    "certificates": (21, 7),  # days left
    "zombies": (10, 100),
    "reboot": (0, 30),  # days since a reboot is due
}
_FALLING = {"certificates"}


class AbsentError(Exception):
    """This host has no such thing: what."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Wishes:
    limits: Mapping[str, verdicts.Limits]
    mounts: Sequence[str] = ()
    certificates: Sequence[str] = ()
    ignore_units: Sequence[str] = ()


def limits(given: Mapping[str, object]) -> dict[str, verdicts.Limits]:
    """The thresholds, with those of the job's arguments in their place. ValueError says what is wrong."""
    unknown = sorted(set(given) - set(THRESHOLDS))
    if unknown:
        raise ValueError(f"thresholds: unknown check {unknown[0]!r}; there are {', '.join(THRESHOLDS)}")
    found = {}
    for name, values in {**THRESHOLDS, **given}.items():
        try:
            found[name] = verdicts.Limits.of(values, falling=name in _FALLING)
        except ValueError as error:
            raise ValueError(f"thresholds: {name} {error}") from None
    return found


def look(wishes: Wishes, only: Sequence[str] = ()) -> tuple[list[verdicts.Check], list[str]]:
    """All checks, or only those that are named; and what was left out, with the reason."""
    found: list[verdicts.Check] = []
    absent = []
    for name in only or CHECKS:
        try:
            found += CHECKS[name](wishes)
        except AbsentError as error:
            if only:
                found.append(verdicts.unknown(name, str(error)))
            else:
                absent.append(f"{name}: {error}")
        except subprocess.TimeoutExpired as error:
            found.append(verdicts.unknown(name, f"{error.cmd[0]} did not end in time"))
        except (OSError, ValueError) as error:
            found.append(verdicts.unknown(name, str(error)[:300]))
    return found, absent


def _disk(wishes: Wishes) -> list[verdicts.Check]:
    return [
        verdicts.judged(
            f"disk {usage.path}", usage.percent, wishes.limits["disk"],
            f"{usage.percent:g} % used, {usage.free // (1 << 20)} MiB free", "%",
        )
        for usage in mounts.local(wishes.mounts)
    ]  # fmt: skip


def _inodes(wishes: Wishes) -> list[verdicts.Check]:
    return [
        verdicts.judged(
            f"inodes {usage.path}", usage.inodes_percent, wishes.limits["inodes"],
            f"{usage.inodes_percent:g} % used, {usage.inodes_free} free", "%",
        )
        for usage in mounts.local(wishes.mounts)
        if usage.inodes
    ]  # fmt: skip


def _pressure(resource: str) -> Callable[[Wishes], list[verdicts.Check]]:
    name = f"pressure_{resource}"

    def check(wishes: Wishes) -> list[verdicts.Check]:
        found = pressure.read(resource)
        if found is None:
            raise AbsentError("this kernel does not count it (CONFIG_PSI, psi=1)")
        value = found["some"]["avg300"]
        return [verdicts.judged(name, value, wishes.limits[name], f"something waited {value:g} % of five minutes", "%")]

    return check


def _units(wishes: Wishes) -> list[verdicts.Check]:
    if not os.path.isdir(_SYSTEMD):
        raise AbsentError("systemd does not run here")
    done = programs.run(
        [needs.program("systemctl", "systemd"), "list-units", "--state=failed", "--output=json", "--no-pager"],
        timeout=_SECONDS,
    )
    if done.code:
        raise ValueError(f"systemctl: {done.complaint}{_of_nobody()}")
    names = sorted(
        str(each["unit"]) for each in json.loads(done.output or "[]") if each["unit"] not in wishes.ignore_units
    )
    text = ", ".join(names[:10]) + (f" and {len(names) - 10} more" if len(names) > 10 else "")
    return [verdicts.judged("units", len(names), wishes.limits["units"], (text and f"failed: {text}") or "none failed")]


def _of_nobody() -> str:
    """What mends it where it is the message bus that hangs up: it talks to nobody whose number has no account."""
    try:
        pwd.getpwuid(os.geteuid())
    except KeyError:
        return "; the message bus talks to accounts only: give the job a `user` by name, such as nobody"
    return ""


def _clock(wishes: Wishes) -> list[verdicts.Check]:
    if not os.path.isdir(_SYSTEMD):
        raise AbsentError("systemd, which tells whether the clock is kept right, does not run here")
    command = [needs.program("timedatectl", "systemd"), "show", "--property=NTPSynchronized", "--value"]
    done = programs.run(command, timeout=_SECONDS)
    if done.code or done.output.strip() not in ("yes", "no"):
        raise ValueError(f"timedatectl: {done.complaint}{_of_nobody()}")
    wrong = done.output.strip() == "no"
    text = "nothing keeps it right (no NTP)" if wrong else "kept right"
    return [verdicts.judged("clock", int(wrong), wishes.limits["clock"], text)]


def _certificates(wishes: Wishes) -> list[verdicts.Check]:
    if not wishes.certificates:
        raise AbsentError("the job names none")
    found = []
    for where in wishes.certificates:
        name = f"certificate {where}"
        try:
            days, subject = certificates.days_left(where, time.time())
        except (OSError, ValueError) as error:
            found.append(verdicts.unknown(name, str(error)[:300]))
            continue
        text = f"{subject} has ended" if days < 0 else f"{subject} ends in {days:g} days"
        found.append(verdicts.judged(name, days, wishes.limits["certificates"], text, "d"))
    return found


def _zombies(wishes: Wishes) -> list[verdicts.Check]:
    if os.getppid() == 1:  # init of a box with a pid namespace of its own
        raise AbsentError('the box shows no processes of the host; its job says "processes": "host" in `sandbox`')
    dead = [each for each in psutil.process_iter(["status", "ppid"]) if each.info["status"] == psutil.STATUS_ZOMBIE]
    parents = sorted({each.info["ppid"] for each in dead if each.info["ppid"]})
    text = f"{len(dead)}, left by processes {', '.join(map(str, parents[:10]))}" if dead else "none"
    return [verdicts.judged("zombies", len(dead), wishes.limits["zombies"], text)]


def _reboot(wishes: Wishes) -> list[verdicts.Check]:
    """Debian says so in a file; elsewhere a kernel was installed after the last boot."""
    now, running = time.time(), platform.release()
    since = [(os.stat(path).st_mtime, "packages ask for it") for path in (_REBOOT,) if os.path.exists(path)]
    for path in glob.glob("/boot/vmlinuz-*"):
        when = os.stat(path).st_ctime
        if when > psutil.boot_time() and not path.endswith(f"-{running}"):
            since.append((when, f"{os.path.basename(path)} is installed, {running} runs"))
    if not since:
        return [verdicts.judged("reboot", -1, wishes.limits["reboot"], "none is due", "d")]
    when, why = min(since)
    days = round((now - when) / 86400, 1)
    return [verdicts.judged("reboot", max(days, 0), wishes.limits["reboot"], f"due for {days:g} days: {why}", "d")]


CHECKS: Mapping[str, Callable[[Wishes], list[verdicts.Check]]] = {
    "disk": _disk,
    "inodes": _inodes,
    "pressure_cpu": _pressure("cpu"),
    "pressure_memory": _pressure("memory"),
    "pressure_io": _pressure("io"),
    "units": _units,
    "clock": _clock,
    "certificates": _certificates,
    "zombies": _zombies,
    "reboot": _reboot,
}
