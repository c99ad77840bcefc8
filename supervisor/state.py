"""What `status` says of the daemon, and what an administrator should know before the first job fails for it."""

import os
import time
from collections.abc import Callable, Sequence
from typing import Any

from lnmt_scheduler.ipc import messages
from lnmt_scheduler.sandbox import probe
from lnmt_scheduler.supervisor import (
    almanac,
    clock,
    config,
    dispatcher,
    fitness,
    in_force,
    journal,
    loop,
    reserve,
    rows,
    store,
    timekeeper,
    version,
    views,
)

#: Milliseconds after which a run waits for a place for long: that it waits for another job is its own affair.
_LONG_MS = 600_000


class State:
    def __init__(
        self,
        welcome: messages.Welcome,
        history: store.Store,
        runs: dispatcher.Dispatcher,
        room: reserve.Reserve,
        keeper: timekeeper.Timekeeper,
        fires: almanac.Almanac,
        turns: loop.Loop,
        settings: Callable[[], config.Settings],
        mistakes: Sequence[str],
    ) -> None:
        """`welcome` is what the launcher has told, `settings` those of now, `mistakes` those of files that were not taken."""
        self._welcome = welcome
        self._store = history
        self._runs = runs
        self._reserve = room
        self._time = keeper
        self._almanac = fires
        self._loop = turns
        self._settings = settings
        self._mistakes = mistakes
        self._started = time.monotonic()

    def default(self) -> dict[str, Any]:
        """The profile of jobs that name none, and why it cannot be had here; None if it can."""
        settings, host = self._settings(), host_of(self._welcome)
        box, limits = settings.default_sandbox, settings.defaults.get("limits", {})
        refused = fitness.refusal(box, limits, host, is_root=self._welcome.uid == 0)
        return {"profile": box["profile"], "refused": refused}

    def tell_problems(self) -> None:
        for problem in self._problems():
            journal.error(problem)

    def _problems(self) -> list[str]:
        found = [f"not taken, so that what was before holds: {line}" for line in self._mistakes]
        found += self._almanac.problems()
        default = self.default()
        if default["refused"] is not None:
            found.append(
                f"every job of the default profile, {default['profile']!r}, is refused on this host: {default['refused']}"
            )
        return found

    def view(self) -> dict[str, Any]:
        counts, doubt = self._store.counts(), self._time.doubt
        return {
            "pid": os.getpid(),
            "launcher_pid": self._welcome.launcher_pid,
            "version": version.VERSION,
            "uptime": round(time.monotonic() - self._started, 3),
            "jobs": counts.jobs,
            **self._runs.counts(),
            "store": "full" if self._reserve.full else "ok",
            "next": self._next(),
            "due": self._due(),
            "waits": self._waits(),
            "clock": None if doubt is None else "held",
            "enabled": counts.enabled,
            "draining": self._runs.draining,
            "launcher_version": self._welcome.package,
            "package": version.on_disk(),
            "quarantined": self._quarantined(),
            "paused": self._paused(),
            "mode": self._welcome.mode,
            "layers": self._welcome.layers,
            "default_profile": self._settings().default_sandbox["profile"],
            "problems": [
                *self._problems(),
                *([] if doubt is None else [f"no slot is decided: the clock: {doubt}"]),
            ],
            "turns": self._loop.turns,
            **in_force.told(self._store, self._settings()),
        }

    def _next(self) -> dict[str, Any] | None:
        upcoming = self._runs.slots.upcoming(1, clock.now_ms())
        return {"job_id": upcoming[0].job_id, "slot": upcoming[0].next_slot} if upcoming else None

    def _due(self) -> dict[str, Any] | None:
        """What is decided next, also that a job is paused; after its slot by its jitter. For `check` alone."""
        first = self._runs.slots.next_fire()
        job = None if first is None else self._store.job(first[1])
        return None if first is None or job is None else {"job_id": job.job_id, "at": first[0]}

    def _waits(self) -> dict[str, Any] | None:
        """The run that has waited longest for a place, if for long, and how many have waited for long. For `check` alone."""
        found = self._runs.open.backlog.waiting_since(clock.now_ms() - _LONG_MS)
        if not found:
            return None
        since, run_id = found[0]
        return {"job_id": self._runs.open[run_id].job.id, "since": since, "count": len(found)}

    def _quarantined(self) -> list[str]:
        held = map(self._store.job, self._runs.quarantine.held())
        return sorted(row.job_id for row in held if row is not None and row.removed is None)

    def _paused(self) -> list[dict[str, Any]]:
        """The pauses that last, that of the whole schedule first."""
        now, found = clock.now_ms(), []
        for pause in self._runs.pauses:
            row = self._store.job(pause.job_uid)
            if self._runs.pauses.own(pause.job_uid, now) is not None and (row is not None or not pause.job_uid):
                found.append(views.pause_view(rows.as_map(pause), None if row is None else row.job_id))
        return found


def host_of(welcome: messages.Welcome) -> probe.Host:
    """What the launcher has found this host to offer."""
    values = {
        "mode": welcome.mode, "layers": welcome.layers, "missing": welcome.missing, "cgroups": welcome.cgroups,
    }  # fmt: skip
    return probe.from_map(values)
