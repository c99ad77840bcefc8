"""Clients that watch the daemon: what runs, what waits, what comes next and what has ended, whenever that has changed.

Part of the supervisor. A turn that has written something down, and a job that says how far it is, are a change. However many
there are, a picture is made and sent at most once a second, one for all who watch, and none while nobody does, so watching
costs the daemon nothing while nothing happens. What a picture holds is bounded.
"""

import itertools
import statistics
from collections.abc import Callable
from typing import Any

from lnmt_scheduler.ipc import messages
from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import clock, dispatcher, loop, open_runs, rows, run, store
from lnmt_scheduler.supervisor.connection import Reply

#: Seconds between two pictures at least.
_PACE = 1.0
_RUNNING, _WAITING, _NEXT, _ENDED = 50, 20, 10, 10
#: Completed runs that say how long one takes.
_LEARNT = 10


class Watchers:
    def __init__(self, turns: loop.Loop, picture: Callable[[], dict[str, Any]]) -> None:
        self._loop = turns
        self._picture = picture
        self._replies: list[Reply] = []
        #: Those of them that had not read the picture before, and were left out of one.
        self._behind: list[Reply] = []
        self._timer: loop.Timer | None = None
        self._sent = 0.0

    def add(self, reply: Reply) -> None:
        """Send pictures to this client until it goes away, the first now."""
        reply.on_gone = lambda: self._forget(reply)
        reply.on_room = lambda: self._catch_up(reply)
        self._replies.append(reply)
        reply.item(self._picture())

    def _forget(self, reply: Reply) -> None:
        self._replies.remove(reply)
        self._behind = [each for each in self._behind if each is not reply]

    def _catch_up(self, reply: Reply) -> None:
        if any(each is reply for each in self._behind):
            self.change()

    def change(self) -> None:
        """Something may look different now."""
        if self._replies and self._timer is None:
            self._timer = self._loop.call_at(max(clock.monotonic(), self._sent + _PACE), self._send)

    def _send(self) -> None:
        self._timer = None
        self._sent = clock.monotonic()
        ready = [reply for reply in self._replies if not reply.congested]
        self._behind = [reply for reply in self._replies if reply.congested]
        if ready:
            picture = self._picture()
            for reply in ready:
                reply.item(picture)


class Painter:
    """Makes the picture."""

    def __init__(
        self,
        history: store.Store,
        runs: dispatcher.Dispatcher,
        progress: Callable[[int, int], messages.Progress | None],
    ) -> None:
        """`progress` gives what an attempt of a run has said last of how far it is."""
        self._store = history
        self._runs = runs
        self._progress = progress
        #: Running run -> how long it may take.
        self._usual: dict[int, float | None] = {}

    def __call__(self) -> dict[str, Any]:
        """{time, counts, running, waiting, next, ended}; times are epoch milliseconds."""
        ids = sorted(self._runs.open.running)[:_RUNNING]
        running = [self._runs.open[run_id] for run_id in ids]
        self._usual = {each.run_id: self._usually(each) for each in running}
        newest = self._store.history(limit=_ENDED + _RUNNING)
        return {
            "time": clock.now_ms(),
            "counts": self._runs.counts(),
            "running": [self._is_running(each) for each in running],
            "waiting": self._waiting(),
            "next": [
                {"job_id": each.job_id, "slot": each.next_slot}
                for each in self._runs.slots.upcoming(_NEXT, clock.now_ms())
            ],
            "ended": [_has_ended(row) for row in newest if row.end_time is not None][:_ENDED],
        }

    def _is_running(self, each: open_runs.OpenRun) -> dict[str, Any]:
        attempt = run.attempt_of(each.state)
        said = self._progress(each.run_id, attempt)
        return {
            "run_id": each.run_id,
            "job_id": each.job.id,
            "slot": each.slot,
            "start_time": each.state.started if isinstance(each.state, run.Running) else None,
            "attempt": attempt,
            "attempts": each.terms.max_attempts,
            "progress": None if said is None else {"done": said.done, "total": said.total, "message": said.message},
            "usual": self._usual[each.run_id],
        }

    def _usually(self, each: open_runs.OpenRun) -> float | None:
        if each.run_id in self._usual:
            return self._usual[each.run_id]
        past = self._store.history(each.job.id, status=model.JobStatus.COMPLETED.value, limit=_LEARNT)
        durations = [row.duration for row in past if row.duration is not None]
        return statistics.median(durations) if durations else None

    def _waiting(self) -> list[dict[str, Any]]:
        waiting = (each for each in self._runs.open if not isinstance(each.state, run.Running))
        return [
            {
                "run_id": each.run_id,
                "job_id": each.job.id,
                "slot": each.slot,
                "status": run.status_of(each.state).value,
                "until": each.state.until if isinstance(each.state, run.Gated | run.Backoff) else None,
                "why": self._runs.waits_for(each.run_id),
            }
            for each in itertools.islice(waiting, _WAITING)
        ]


def _has_ended(row: rows.RunRow) -> dict[str, Any]:
    return {
        "run_id": row.run_id,
        "job_id": row.job_id,
        "slot": row.slot,
        "status": row.status,
        "reason": row.reason,
        "exit_code": row.exit_code,
        "signal": row.signal,
        "end_time": row.end_time,
        "duration": row.duration,
    }
