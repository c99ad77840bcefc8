"""What a job says on its report pipe: frames, moved to a file by splice and parsed from there.

The pipe belongs to one run, so nothing in a frame needs to be believed but what it says of that run. The first frame that
makes no sense ends the reading; the pipe is still emptied, so that the job is not held up by its own garbage.

What is known of a report is what its file says, so that a successor which reads it anew, half frames included, knows the same.
The file begins with the attempt that it is of, and with how many bytes of the supervisor's own lines the run's output held when
it was begun: log lines are said in the order of their frames, so that how many of them have been said, the output knows. A file
that has grown, and of which nothing is needed but the newest progress and the beginning of a frame, is replaced by one that
holds just that: by rename, so that at any moment there is one of the two.
"""

import os
import struct
from dataclasses import dataclass, field

from lnmt_scheduler.ipc import codec, frames, messages
from lnmt_scheduler.supervisor import output

#: PIPE_BUF with the frame's header taken off.
_FRAME = 4096 - 4
#: Bytes that are moved and parsed in one go: some 10 ms of work, if a job sends nothing but the smallest frames.
_PIECE = 16 * 1024
#: A file of this size is replaced by what is needed of it.
_REPLACED_AT = 64 * 1024
#: Text of an exception, over all its parts.
_RAISED_LIMIT = 128 * 1024
_MAGIC = b"LNR1"
#: magic, attempt, bytes of our own lines that came before.
_HEADER = struct.Struct("=4sIQ")
_NEW = os.O_RDWR | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW


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
    """The report of one attempt. Owns its file until close() or remove()."""

    def __init__(self, path: str, attempt: int, said: int, result_limit: int) -> None:
        """Begin the report of this attempt, or go on with it; `said` is Output.said, for one that begins."""
        self._path = path
        self._attempt = attempt
        self._reader = frames.FrameReader(_FRAME)
        self._result = _Parts(result_limit)
        self._raised = _Parts(_RAISED_LIMIT)
        #: Bytes of file from the first part on: framing, and what other threads say in between, included.
        self._largest = 2 * (result_limit + _RAISED_LIMIT)
        #: Output.said before the first of its lines.
        self.base = said
        #: Newest progress.
        self.progress: messages.Progress | None = None
        #: Log lines that have come since they were last taken.
        self.lines: list[messages.Log] = []
        #: Why a function's result was not carried.
        self.refused: str | None = None
        #: Why reading ended early.
        self.broken: str | None = None
        self._file = self._open()
        self._size = os.fstat(self._file).st_size
        self._parsed = _HEADER.size
        self._parse()

    def _open(self) -> int:
        """The file of this attempt, which a predecessor may have begun."""
        try:
            file = os.open(self._path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
        except FileNotFoundError:
            return self._begin(self._path, self.base, b"")
        header = os.pread(file, _HEADER.size, 0)
        if len(header) == _HEADER.size:
            magic, attempt, base = _HEADER.unpack(header)
            if (magic, attempt) == (_MAGIC, self._attempt):
                self.base = base
                return file
        os.close(file)
        return self._begin(self._path, self.base, b"")

    def _begin(self, path: str, base: int, rest: bytes) -> int:
        file = os.open(path, _NEW, 0o600)
        try:
            os.pwrite(file, _HEADER.pack(_MAGIC, self._attempt, base) + rest, 0)
        except OSError:
            os.close(file)
            raise
        return file

    @property
    def result(self) -> bytes | None:
        """msgpack of what the function returned; the job's word, to be decoded with care."""
        return bytes(self._result.data) if self._result.complete else None

    @property
    def raised(self) -> str | None:
        """Type, message and traceback of what the function raised."""
        return self._raised.data.decode(errors="backslashreplace") if self._raised.complete else None

    def pump(self, pipe: int, said: int) -> int:
        """Move a bounded part of the pipe and parse it; the number of bytes, 0 at end-of-file; BlockingIOError if none.

        `said` is Output.said now: all lines that were here have been said.
        """
        if self.broken is not None:
            return output.discard(pipe)
        try:
            if self._size > _REPLACED_AT and not (self._result.seen or self._raised.seen):
                self._replace(said)
            count = os.splice(pipe, self._file, _PIECE, offset_dst=self._size, flags=os.SPLICE_F_NONBLOCK)
        except BlockingIOError:
            raise
        except OSError as error:
            self.broken = f"the report could not be stored: {error.strerror}"
            return output.discard(pipe)
        self._size += count
        self._parse()
        return count

    def _parse(self) -> None:
        """Take in what the file holds and was not parsed yet."""
        try:
            while self._parsed < self._size and self.broken is None:
                self._parse_piece()
        except (frames.FrameError, codec.ProtocolError) as error:
            self.broken = f"the report made no sense: {error}"
        except OSError as error:
            self.broken = f"the report could not be read: {error.strerror}"

    def _parse_piece(self) -> None:
        data = os.pread(self._file, min(_PIECE, self._size - self._parsed), self._parsed)
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
        if (self._result.seen or self._raised.seen) and self._parsed > self._largest:
            raise codec.ProtocolError(f"more than {self._largest} bytes")

    def _replace(self, said: int) -> None:
        """Go on in a file that holds what is still needed, or in the old one if that cannot be made."""
        rest = os.pread(self._file, self._reader.pending, self._size - self._reader.pending)
        if self.progress is not None:
            rest = frames.pack(codec.encode(self.progress), frames.REPORT_LIMIT) + rest
        try:
            fresh = self._begin(f"{self._path}.new", said, rest)
            os.rename(f"{self._path}.new", self._path)
        except OSError:
            return
        os.close(self._file)
        self._file, self.base = fresh, said
        self._size = self._parsed = _HEADER.size + len(rest)

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
        """Leave the file to whoever comes after."""
        os.close(self._file)

    def remove(self) -> None:
        """Nobody needs it any more."""
        os.close(self._file)
        for path in (self._path, f"{self._path}.new"):
            if os.path.exists(path):
                os.unlink(path)
