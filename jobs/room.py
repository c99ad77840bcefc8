"""How full file systems are and will be, for the reports: looked at with each report, and as a metrics job said last."""

import os
import shutil
import sys
from collections.abc import Mapping, Sequence
from typing import Any

from lnmt_scheduler.jobs import figures, history, memory

_SQL = memory.statements("room")
_VERSION = 1
_DAY_MS = 86_400_000
_KEPT_DAYS = 400
#: A forecast from less would be one from noise.
_LEAST_DAYS = 2
_MOUNTS_MAX = 50


def look(state_dir: str, found: history.History, disks: Sequence[str]) -> list[figures.Forecast]:
    """Remember how full each is now, and say when it will be full."""
    seen = _of_results(found)
    for path in disks:
        try:
            usage = shutil.disk_usage(path)
        except OSError as error:
            print(f"disks: {path}: {error.strerror}", file=sys.stderr)
            continue
        seen.setdefault(path, (usage.total, usage.used))
    with memory.opened(os.path.join(state_dir, "room.db"), _SQL["schema"], _VERSION) as db:
        for mount, (total, used) in list(seen.items())[:_MOUNTS_MAX]:
            db.execute(_SQL["put"], (mount, found.taken, total, used))
        db.execute(_SQL["forget"], (found.taken - _KEPT_DAYS * _DAY_MS,))
        return [forecast(mount, db.execute(_SQL["of"], (mount,)).fetchall()) for mount in list(seen)[:_MOUNTS_MAX]]


def forecast(mount: str, looks: Sequence[tuple[int, int, int]]) -> figures.Forecast:
    """From looks (milliseconds since the epoch, total, used), oldest first; those of another size are left out."""
    _, total, used = looks[-1]
    same = [(at, used) for at, size, used in looks if size == total]
    points = [(at / _DAY_MS, float(used)) for at, used in same]
    growth = figures.fit(points) if points[-1][0] - points[0][0] >= _LEAST_DAYS else None
    full_in = (total - used) / growth if growth is not None and growth > 0 else None
    return figures.Forecast(
        mount=mount,
        total=total,
        used=used,
        growth=growth,
        full_in=full_in if full_in is not None and full_in < 3650 else None,
        points=[(at, used / total) for at, used in same if total][-120:],
    )


def _of_results(found: history.History) -> dict[str, tuple[int, int]]:
    """What metrics jobs returned last (metrics.py): mount -> (total, used)."""
    seen: dict[str, tuple[int, int]] = {}
    for job in found.jobs:
        mounts: Any = job.result.get("mounts") if isinstance(job.result, Mapping) else None
        for mount, usage in mounts.items() if isinstance(mounts, Mapping) else ():
            if isinstance(usage, Mapping) and all(isinstance(usage.get(key), int) for key in ("total", "used")):
                seen[str(mount)] = (usage["total"], usage["used"])
    return seen
