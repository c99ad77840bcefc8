"""A run as it happens, on the terminal or pipe of whoever follows it: its output, its progress, what becomes of it.

schedctl's side of a Follow stream. Output reaches a terminal with its control characters escaped, since it comes from a
job, and a pipe as it is. Everything else goes to stderr, and the progress line only where that is a terminal.
"""

import codecs
import shutil
import sys
from collections.abc import Generator, Mapping
from typing import Any, TextIO

from lnmt_scheduler.supervisor.cli_common import printable

_BAR = 24
Row = dict[str, Any]


class Writer:
    """Bytes of a job to one of our own streams."""

    def __init__(self, target: TextIO) -> None:
        self._target = target
        self._decoder = codecs.getincrementaldecoder("utf-8")("backslashreplace") if target.isatty() else None
        self._is_mid_line = False

    def write(self, data: bytes) -> None:
        self._is_mid_line = not data.endswith(b"\n")
        if self._decoder is None:
            self._target.flush()
            self._target.buffer.write(data)
            self._target.buffer.flush()
        else:
            self._write_text(self._decoder.decode(data))

    def finish(self) -> None:
        """Half a character at the end is shown as the bytes that it is."""
        if self._decoder is not None:
            self._write_text(self._decoder.decode(b"", final=True))

    def end_line(self) -> None:
        """Words of ours come next."""
        if self._is_mid_line:
            self._write_text("\n")
            self._is_mid_line = False

    def _write_text(self, text: str) -> None:
        self._target.write("".join(c if c in "\n\t" else printable(c) for c in text))
        self._target.flush()


class _Progress:
    """One line on a terminal that is written over; none elsewhere."""

    def __init__(self, target: TextIO) -> None:
        self._target = target
        self._is_shown = target.isatty()
        self._text = ""

    def show(self, done: float, total: float | None, message: str) -> None:
        if total:
            share = min(1.0, max(0.0, done / total))
            text = f"[{'#' * round(share * _BAR):-<{_BAR}}] {share:4.0%}"
        else:
            text = f"{done:g}"
        if message:
            text += f"  {printable(message)}"
        self.clear()
        self._text = text[: shutil.get_terminal_size().columns - 1]
        self.redraw()

    def clear(self) -> None:
        """Before anything else is written to the terminal."""
        if self._is_shown and self._text:
            self._target.write(f"\r{' ' * len(self._text)}\r")
            self._target.flush()

    def redraw(self) -> None:
        """After something else was, and the cursor is at the start of a line."""
        if self._is_shown:
            self._target.write(f"\r{self._text}")
            self._target.flush()


class Follower:
    """Shows the items of a Follow stream; the job's stdout goes to `stdout`, the rest to our stderr."""

    def __init__(self, stdout: TextIO) -> None:
        out, err = Writer(stdout), Writer(sys.stderr)
        self._writers = {"stdout": out, "stderr": err, "log": err}
        self._progress = _Progress(sys.stderr)

    def show(self, items: Generator[Mapping[str, Any], None, Row]) -> Row:
        """Show all of them; what they come to."""
        while True:
            try:
                item = next(items)
            except StopIteration as end:
                row: Row = end.value
                break
            if item["kind"] == "progress":
                self._progress.show(item["done"], item["total"], item["message"])
                continue
            self._progress.clear()
            match item["kind"]:
                case "output":
                    self._writers[item["stream"]].write(item["data"])
                    if item["data"].endswith(b"\n"):
                        self._progress.redraw()
                case "gap":
                    say_gap(item["bytes"])
                case "state" if item["status"] == "retrying":
                    print("The attempt failed; it will be tried again.", file=sys.stderr, flush=True)
        self._progress.clear()
        for writer in self._writers.values():
            writer.finish()
            writer.end_line()
        return row


def say_gap(count: int) -> None:
    print(f"[{count} bytes of output dropped here]", file=sys.stderr, flush=True)
