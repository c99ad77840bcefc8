"""Another version of croniter may name other days for an expression: that is told, job by job, and not done in silence.

cron.py asks croniter one question only, the first day of a date, and the store keeps what the version of then made of it:
the next slot of every job. At the first start with another version each of them is asked for again, a few a turn. What
differs is in the log and among the problems of `schedctl status`, until somebody who has seen it reloads the daemon; from
this start on the new times hold.
"""

import glob
import importlib.util
import json
import os
from collections.abc import Iterator

from lnmt_scheduler.supervisor import catalog, clock, journal, slots, store, views

#: Where the store keeps the version, and what it has moved: job -> [next run before, next run now].
_VERSION, _MOVED = "croniter", "moved"
#: Jobs that are named.
_NAMED = 20


class Almanac:
    def __init__(self, history: store.Store, jobs: catalog.Catalog, schedule: slots.Slots) -> None:
        self._store = history
        self._catalog = jobs
        self._slots = schedule

    def check(self, version: str | None = None) -> Iterator[None]:
        """Compare, if this is another version than that of the store; yields between jobs. To begin before any decision."""
        version = version or installed()
        known = self._store.meta_get(_VERSION)
        if known == version:
            return
        rows = list(self._store.schedule_rows()) if known is not None else []
        begun = clock.now_ms()
        moved = self._moved()
        for row in rows:
            job, kept = self._catalog.get(row.uid), self._store.job(row.uid)
            if job is None or job.schedule is None or kept is None or row.next_slot is None or kept.changed > begun:
                continue
            says = job.schedule.next_after(row.watermark)
            if says != row.next_slot:
                moved[row.job_id] = [views.iso(row.next_slot), None if says is None else views.iso(says)]
                self._store.meta_set(_MOVED, json.dumps(moved))
                self._slots.recheck([row.uid])
                journal.warning(f"job {row.job_id}: croniter {version}, before {known}: {_words(moved[row.job_id])}")
            yield
        self._store.meta_set(_VERSION, version)

    def problems(self) -> list[str]:
        """For `status`: what was moved, and how to say that it was seen."""
        moved = self._moved()
        if not moved:
            return []
        named = "; ".join(f"{job_id}: {_words(times)}" for job_id, times in list(moved.items())[:_NAMED])
        more = f"; and {len(moved) - _NAMED} more" if len(moved) > _NAMED else ""
        return [
            f"another version of croniter names other times for {len(moved)} jobs: {named}{more}; once seen: schedctl reload"
        ]

    def forget(self) -> None:
        """Somebody has seen it."""
        if self._store.meta_get(_MOVED) is not None:
            self._store.meta_drop(_MOVED)

    def _moved(self) -> dict[str, list[str | None]]:
        found: dict[str, list[str | None]] = json.loads(self._store.meta_get(_MOVED) or "{}")
        return found


def installed() -> str:
    """The version of croniter, by the name of its metadata: the import that reads those costs each start 30 ms and more."""
    spec = importlib.util.find_spec("croniter")
    packages = os.path.dirname(os.path.dirname(str(spec and spec.origin)))
    found = glob.glob(f"{glob.escape(packages)}/croniter-*-info")
    if len(found) == 1:
        return os.path.basename(found[0]).removesuffix(".dist-info").removesuffix(".egg-info").split("-")[1]
    from importlib import metadata  # noqa: PLC0415 (see above)

    return metadata.version("croniter")


def _words(times: list[str | None]) -> str:
    before, now = times
    return f"next run {now or 'never'}, where it was {before}"
