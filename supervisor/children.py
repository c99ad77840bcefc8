"""Run handles: an attempt as the supervisor sees it, never a pid.

A Child is made when an attempt is handed to the launcher, gets the read ends of its pipes when the launcher says Started,
and moves what comes through them to the run's output and report. Its end is the launcher's word; whatever is in the pipes
then is drained, and an end-of-file is waited for by nobody.
"""

import fcntl
import os
import time
from collections.abc import Callable

from lnmt_scheduler.supervisor import loop, output, report


class Child:
    """One attempt. Owns its pipe ends, and the open output and report, until end()."""

    def __init__(
        self,
        run_id: int,
        attempt: int,
        events: loop.Loop,
        *,
        path: str,
        output_limit: int,
        result_limit: int,
        now_ms: Callable[[], int],
        on_life: Callable[[], None],
    ) -> None:
        """`on_life` is called whenever the job has said something. OSError if its files cannot be made."""
        self.run_id = run_id
        self.attempt = attempt
        self.output = output.Output(path, output_limit)
        try:
            self.report = report.Report(path.removesuffix(".log") + ".report", result_limit)
        except OSError:
            self.output.suspend()
            raise
        #: CLOCK_MONOTONIC seconds of the last sign of life.
        self.alive_at = time.monotonic()
        self._loop = events
        self._now_ms = now_ms
        self._on_life = on_life
        self._pipes: dict[int, int] = {}

    def attach(self, pipes: list[int]) -> None:
        """Take over the read ends of stdout, stderr and report pipe."""
        for stream, fd in zip((output.STDOUT, output.STDERR, output.LOG), pipes, strict=False):
            os.set_blocking(fd, False)
            self._pipes[fd] = stream
            self._loop.watch(fd, loop.READ, lambda _, fd=fd: self._on_readable(fd))  # type: ignore[misc]
        self.alive_at = time.monotonic()

    def say(self, text: str) -> None:
        """One line of ours in the run's log."""
        self.output.append(f"{text}\n".encode(errors="backslashreplace"), output.LOG, self._now_ms())

    def _on_readable(self, fd: int) -> None:
        try:
            if self._move(fd):
                self.alive_at = time.monotonic()
                self._on_life()
            else:
                self._close(fd)
        except BlockingIOError:
            pass

    def _move(self, fd: int) -> int:
        stream = self._pipes[fd]
        if stream != output.LOG:
            return self.output.splice(fd, stream, self._now_ms())
        count = self.report.pump(fd)
        for line in self.report.lines:
            self.say(f"{line.level}: {line.text}")
        self.report.lines.clear()
        return count

    def _close(self, fd: int) -> None:
        self._loop.unwatch(fd)
        os.close(fd)
        del self._pipes[fd]

    def drain(self) -> None:
        """Take what the pipes still hold, at most one pipe's capacity each, and close them: the box is empty."""
        for fd in list(self._pipes):
            left = fcntl.fcntl(fd, fcntl.F_GETPIPE_SZ)
            try:
                while left > 0 and (count := self._move(fd)):
                    left -= count
            except BlockingIOError:
                pass
            self._close(fd)

    def end(self, *, last: bool) -> int:
        """Close everything. After the last attempt of the run its output becomes one file: its size, else 0."""
        for fd in list(self._pipes):
            self._close(fd)
        self.report.close()
        if last:
            return self.output.finish()
        self.output.suspend()
        return 0
