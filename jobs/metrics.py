"""System metrics: how busy this host is and has been since the last sample, and a series of that.

Counters (bytes of interfaces, time of processors, time lost to pressure) are kept with each sample, and what is told is what
was added since; after a boot, or where a counter went back, nothing is. All that a run writes is one transaction.
"""

import json
import os
import sqlite3
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import psutil

from lnmt_scheduler.jobs import memory, mounts, pressure

_INTERFACES_MAX = 256
_SQL = memory.statements("metrics")
_VERSION = 1
_DAY = 86_400_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Reading:
    """What the host said at one instant."""

    #: Milliseconds since the epoch.
    at: int
    #: Another one after each boot.
    boot: str
    #: What only ever grows, until the next boot.
    counters: Mapping[str, int]
    load: Sequence[float]
    #: Percent in use, and bytes that can still be had.
    memory_percent: float
    memory_available: int
    swap_percent: float
    file_systems: Sequence[mounts.Usage]
    interfaces: Sequence[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Last:
    at: int
    boot: str
    counters: Mapping[str, int]


def sample(state_dir: str, keep_days: float, also: Sequence[str] = ()) -> dict[str, Any]:
    """Take a reading, add it to metrics.db, and return what it comes to."""
    now = read(also)
    with memory.opened(os.path.join(state_dir, "metrics.db"), _SQL["schema"], _VERSION) as file:
        kept = file.execute(_SQL["last"]).fetchone()
        last = None if kept is None else Last(at=kept[0], boot=kept[1], counters=json.loads(kept[2]))
        found = compare(last, now)
        _append(file, now, found, keep_days)
        (found["points"],) = file.execute(_SQL["count"]).fetchone()
    return found


def read(also: Sequence[str] = ()) -> Reading:
    """OSError if one of the mounts that were asked for is not there."""
    times = psutil.cpu_times()
    # The time of guests is in that of users, too.
    total = sum(times) - getattr(times, "guest", 0.0) - getattr(times, "guest_nice", 0.0)
    counters = {"cpu.total": _ms(total), "cpu.idle": _ms(times.idle + getattr(times, "iowait", 0.0))}
    for resource in pressure.RESOURCES:
        for kind, values in (pressure.read(resource) or {}).items():
            counters[f"pressure.{resource}.{kind}"] = int(values["total"])
    nics = {name: each for name, each in sorted(psutil.net_io_counters(pernic=True).items()) if name != "lo"}
    interfaces = list(nics)[:_INTERFACES_MAX]
    for name in interfaces:
        each = nics[name]
        counters |= {
            f"interface.{name}.received": each.bytes_recv,
            f"interface.{name}.sent": each.bytes_sent,
            f"interface.{name}.errors": each.errin + each.errout,
            f"interface.{name}.drops": each.dropin + each.dropout,
        }
    file_systems = mounts.local(also)
    for usage in file_systems:
        counters[f"mount.{usage.path}.used"] = usage.used
    ram = psutil.virtual_memory()
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        boot = file.read().strip()
    return Reading(
        at=time.time_ns() // 1_000_000,
        boot=boot,
        counters=counters,
        load=[round(each, 2) for each in os.getloadavg()],
        memory_percent=ram.percent,
        memory_available=ram.available,
        swap_percent=psutil.swap_memory().percent,
        file_systems=file_systems,
        interfaces=interfaces,
    )


def _ms(seconds: float) -> int:
    return round(seconds * 1000)


def compare(last: Last | None, now: Reading) -> dict[str, Any]:
    """The result: values of now, and what was added since the last sample, None where that cannot be told."""
    seconds = None if last is None or now.at <= last.at else (now.at - last.at) / 1000
    same_boot = last is not None and last.boot == now.boot

    def added(name: str) -> int | None:
        if last is None or seconds is None or not same_boot or name not in last.counters:
            return None
        more = now.counters[name] - last.counters[name]
        return more if more >= 0 else None

    def rate(name: str) -> float | None:
        more = added(name)
        return None if more is None or seconds is None else round(more / seconds, 1)

    def lost(name: str) -> float | None:
        """Percent of the time, of a counter in microseconds."""
        more = added(name) if name in now.counters else None
        return None if more is None or seconds is None else min(round(more / seconds / 10_000, 2), 100.0)

    total, idle = added("cpu.total"), added("cpu.idle")
    return {
        "at": now.at,
        "seconds": seconds,
        "cpu_percent": None if not total or idle is None else round(100 * (1 - min(idle / total, 1)), 1),
        "load": list(now.load),
        "memory": {"percent": now.memory_percent, "available": now.memory_available},
        "swap_percent": now.swap_percent,
        "pressure": {
            each: {"some": lost(f"pressure.{each}.some"), "full": lost(f"pressure.{each}.full")}
            for each in pressure.RESOURCES
        },
        "mounts": {
            usage.path: {
                "total": usage.total,
                "used": usage.used,
                "free": usage.free,
                "percent": usage.percent,
                "inodes_percent": usage.inodes_percent,
                # Files go away, too, and a boot changes nothing.
                "grown": None
                if last is None or f"mount.{usage.path}.used" not in last.counters
                else usage.used - last.counters[f"mount.{usage.path}.used"],
            }
            for usage in now.file_systems
        },
        "interfaces": {
            name: {
                "received_per_second": rate(f"interface.{name}.received"),
                "sent_per_second": rate(f"interface.{name}.sent"),
                "errors": added(f"interface.{name}.errors"),
                "drops": added(f"interface.{name}.drops"),
            }
            for name in now.interfaces
        },
    }


def series(found: Any, name: str = "") -> dict[str, float]:
    """All numbers of a result, a map, by dotted names: `mounts./srv.used`, `load.0`; a list is walked by its numbers."""
    flat: dict[str, float] = {}
    items = found.items() if isinstance(found, dict) else enumerate(found)
    for key, value in items:
        path = f"{name}.{key}" if name else str(key)
        if isinstance(value, (dict, list)):
            flat |= series(value, path)
        elif value is not None and path not in ("at", "seconds"):
            flat[path] = value
    return flat


def _append(file: sqlite3.Connection, now: Reading, found: Mapping[str, Any], keep_days: float) -> None:
    values = series(found)
    file.executemany(_SQL["put_series"], ((name,) for name in values))
    file.executemany(_SQL["put_point"], ((name, now.at, value) for name, value in values.items()))
    file.execute(_SQL["put_last"], (now.at, now.boot, json.dumps(now.counters)))
    before = now.at - round(keep_days * _DAY)
    known = file.execute(_SQL["all_series"]).fetchall()
    file.executemany(_SQL["drop_old"], ((number, before) for (number,) in known))
    file.execute(_SQL["drop_empty"])
