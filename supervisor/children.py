"""Run handles: an attempt as the supervisor sees it, never a pid.

A Child is made when an attempt is handed to the launcher, or taken over from a supervisor that died. It gets the read ends of
the attempt's pipes when the launcher says Started, and moves what comes through them to the run's output and report. Its end is
the launcher's word; whatever is in the pipes then is drained, and an end-of-file is waited for by nobody.

Everything that it knows is in its files: output and report go on where a predecessor left them. Our own lines come in an order
that the attempt and its report decide, so a successor says them anew from the first, and those that the output has already are
passed over.
"""

import fcntl
import os
import time
from collections.abc import Callable

from lnmt_scheduler.supervisor import loop, output, report


class Child:
    """One attempt. Owns its pipe ends until release(), and the open output and report until finish()."""

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
        before: Callable[[], None],
        on_life: Callable[[], None],
        first_line: str | None = None,
    ) -> None:
        """`before` is called before anything that the job says is looked at, `on_life` whenever the job has said something;
        `first_line` is ours, before all that it says.

        OSError if its files cannot be made.
        """
        self.run_id = run_id
        self.attempt = attempt
        self._now_ms = now_ms
        self.output = output.Output(path, output_limit)
        try:
            reported = output.report_paths(path)[attempt % 2]
            self.report = report.Report(reported, attempt, self.output.said, result_limit)
        except OSError:
            self.output.suspend()
            raise
        #: Bytes of our lines that a predecessor has said and that we are about to say again.
        self._ahead = self.output.said - self.report.base
        if first_line is not None:
            self.say(first_line)
        self._say_lines()
        #: CLOCK_MONOTONIC seconds of the last sign of life.
        self.alive_at = time.monotonic()
        self._loop = events
        self._before = before
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
        """One line of ours in the run's log, unless a predecessor has said it."""
        data = f"{text}\n".encode(errors="backslashreplace")
        known = min(self._ahead, len(data))
        self._ahead -= known
        self.output.append(data[known:], output.LOG, self._now_ms())

    def _say_lines(self) -> None:
        for line in self.report.lines:
            self.say(f"{line.level}: {line.text}")
        self.report.lines.clear()

    def _on_readable(self, fd: int) -> None:
        self._before()
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
        count = self.report.pump(fd, self.output.said)
        self._say_lines()
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

    def release(self) -> None:
        """Let go of the pipes; the files stay open until finish()."""
        for fd in list(self._pipes):
            self._close(fd)

    def finish(self, *, last: bool) -> None:
        """Close the files of an attempt whose end is durable. After the last of a run its output becomes one file."""
        self.report.remove()
        if last:
            self.output.finish()
        else:
            self.output.suspend()


class Sink:
    """In place of a Child whose files could not be opened: empties the pipes, so that the job is not held up."""

    def __init__(self, events: loop.Loop, pipes: list[int]) -> None:
        self._loop = events
        self._pipes = set(pipes)
        for fd in pipes:
            os.set_blocking(fd, False)
            events.watch(fd, loop.READ, lambda _, fd=fd: self._on_readable(fd))  # type: ignore[misc]

    def _on_readable(self, fd: int) -> None:
        if not output.discard(fd):
            self._close(fd)

    def _close(self, fd: int) -> None:
        self._loop.unwatch(fd)
        os.close(fd)
        self._pipes.discard(fd)

    def release(self) -> None:
        for fd in list(self._pipes):
            self._close(fd)
