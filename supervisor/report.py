"""What a job says on its report pipe: frames, moved to a scratch file by splice and parsed from there.

The pipe belongs to one run, so nothing in a frame needs to be believed but what it says of that run. The first frame that
makes no sense ends the reading; the pipe is still emptied, so that the job is not held up by its own garbage.
"""

import os
from dataclasses import dataclass, field

from lnmt_scheduler.ipc import codec, frames, messages
from lnmt_scheduler.supervisor import output

#: PIPE_BUF with the frame's header taken off.
_FRAME = 4096 - 4
#: Bytes that are moved and parsed in one go: some 10 ms of work, if a job sends nothing but the smallest frames.
_PIECE = 16 * 1024
#: Text of an exception, over all its parts.
_RAISED_LIMIT = 128 * 1024


@dataclass(slots=True)
class _Parts:
    """A value that comes in numbered parts."""

    limit: int
    data: bytearray = field(default_factory=bytearray)
    seen: int = 0
    total: int = 0

    def add(self, part: int, parts: int, data: bytes) -> None:
        if part != self.seen + 1 or part > parts or (self.seen and parts != self.total):
            raise codec.ProtocolError(f"part {part} of {parts} came after part {self.seen} of {self.total}")
        if len(self.data) + len(data) > self.limit:
            raise codec.ProtocolError(f"more than {self.limit} bytes")
        self.data += data
        self.seen, self.total = part, parts

    @property
    def complete(self) -> bool:
        return self.seen > 0 and self.seen == self.total


class Report:
    """The report of one attempt. Owns the scratch file until close()."""

    def __init__(self, path: str, result_limit: int) -> None:
        self._path = path
        self._file = os.open(path, os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        self._size = 0
        self._parsed = 0
        self._reader = frames.FrameReader(_FRAME)
        self._result = _Parts(result_limit)
        self._raised = _Parts(_RAISED_LIMIT)
        #: Bytes of file from the first part on: framing, and what other threads say in between, included.
        self._largest = 2 * (result_limit + _RAISED_LIMIT)
        #: Newest progress.
        self.progress: messages.Progress | None = None
        #: Log lines that have come since they were last taken.
        self.lines: list[messages.Log] = []
        #: Why a function's result was not carried.
        self.refused: str | None = None
        #: Why reading ended early.
        self.broken: str | None = None

    @property
    def result(self) -> bytes | None:
        """msgpack of what the function returned; the job's word, to be decoded with care."""
        return bytes(self._result.data) if self._result.complete else None

    @property
    def raised(self) -> str | None:
        """Type, message and traceback of what the function raised."""
        return self._raised.data.decode(errors="backslashreplace") if self._raised.complete else None

    def pump(self, pipe: int) -> int:
        """Move a bounded part of the pipe and parse it; the number of bytes, 0 at end-of-file; BlockingIOError if none."""
        if self.broken is not None:
            return output.discard(pipe)
        try:
            count = os.splice(pipe, self._file, _PIECE, offset_dst=self._size, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError as error:
            self.broken = f"the report could not be stored: {error.strerror}"
            return output.discard(pipe)
        self._size += count
        try:
            self._parse()
        except (frames.FrameError, codec.ProtocolError) as error:
            self.broken = f"the report made no sense: {error}"
        except OSError as error:
            self.broken = f"the report could not be stored: {error.strerror}"
        return count

    def _parse(self) -> None:
        data = os.pread(self._file, self._size - self._parsed, self._parsed)
        self._parsed += len(data)
        fault = None
        try:
            found = self._reader.feed(data)
        except frames.FrameError as error:
            found, fault = error.frames, error
        for frame in found:
            self._take(codec.decode(frame, messages.REPORT))
        if fault is not None:
            raise fault
        if not (self._result.seen or self._raised.seen):
            self._forget_parsed()
        elif self._size > self._largest:
            raise codec.ProtocolError(f"more than {self._largest} bytes")

    def _forget_parsed(self) -> None:
        """Nothing of it is needed any more but the frame that is not whole yet."""
        rest = os.pread(self._file, self._reader.pending, self._size - self._reader.pending)
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, rest, 0)
        self._size = self._parsed = len(rest)

    def _take(self, message: object) -> None:
        match message:
            case messages.Progress():
                self.progress = message
            case messages.Log():
                self.lines.append(message)
            case messages.Result(part=part, parts=parts, data=data):
                self._result.add(part, parts, data)
            case messages.Raised(part=part, parts=parts, text=text):
                self._raised.add(part, parts, text)
            case messages.Refused(error=error):
                self.refused = error

    def close(self) -> None:
        os.close(self._file)
        os.unlink(self._path)
