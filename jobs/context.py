"""What a job function is given as `context`: where it stands, and how it tells how far it is.

Runs in the job's process. Everything it says travels as a frame on the report pipe of its own run; a supervisor that is
away for a moment costs the job at most a wait.
"""

import signal
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from lnmt_scheduler.ipc import channel, messages


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """Which run this is."""

    job_id: str
    run_id: int
    attempt: int
    #: The instant that the schedule named, aware, in UTC; None for a run by hand.
    slot: datetime | None
    #: Data of the event, or what `schedctl run --event` gave.
    event: Any
    #: The job's own directory, kept from run to run.
    state_dir: str


class JobContext:
    """Handed to a function that has a parameter named `context`."""

    def __init__(self, facts: Facts, report_fd: int) -> None:
        self.job_id = facts.job_id
        self.run_id = facts.run_id
        self.attempt = facts.attempt
        self.slot = facts.slot
        self.event = facts.event
        self.state_dir = facts.state_dir
        self._fd = report_fd
        self._cancelled = False
        self._watching = False

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the job is; shown by schedctl, and counted as a sign of life."""
        channel.send_report(self._fd, messages.Progress(done=done, total=total, message=channel.cut(message, 1000)))

    def heartbeat(self) -> None:
        """A sign of life for `stall_timeout`, without words."""
        channel.send_report(self._fd, messages.Heartbeat())

    def log(self, text: str, level: str = "info") -> None:
        """One line for the run's log."""
        channel.send_report(self._fd, messages.Log(level=channel.cut(level, 20), text=channel.cut(text, 3000)))

    @property
    def cancelled(self) -> bool:
        """Whether the job has been asked to end (TERM). It then has `kill_grace` left.

        The first look changes what TERM does: from then on it no longer ends the process, so a function that never looks
        ends at once, and one that looks can end in its own way. To be asked in the main thread first.
        """
        if not self._watching:
            self._watching = True
            signal.signal(signal.SIGTERM, self._note)
        return self._cancelled

    def _note(self, *_: object) -> None:
        self._cancelled = True
