"""A run's stdout and stderr, from pipe to file, capped.

The supervisor moves bytes with splice(2) from the pipe straight into a file at an explicit offset: at any moment a byte is
either still in the pipe or already in the file, so a supervisor that dies loses none, and none passes through its memory.
segments.py says how a file and its index stay true to each other whatever happens in between.

The files of run N, while it lasts: N.log holds the head, up to half of the cap; what comes after goes in turn to the two
tail segments N.t0 and N.t1, of half the cap each, the older one being dropped when both are full. Beside every segment
lies its index (.idx), so that the two streams can be told apart again. When the run has ended the pieces become one N.log,
readable with less: the head, one line that says how much is missing, and as much of the tail as the cap allows. That is done
after the run's row is durable, and done again if it was cut short: as long as the tails are there, nothing of them is lost.

Places in the output are counted from the first byte that the job wrote, dropped bytes included.
"""

import contextlib
import errno
import functools
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime

from lnmt_scheduler.supervisor import segments
from lnmt_scheduler.supervisor.segments import LOG, STDERR, STDOUT, Segment

__all__ = ["LOG", "STDERR", "STDOUT", "STREAMS", "Output", "Piece", "discard", "path_of", "read_stored", "remove"]

STREAMS = {STDOUT: "stdout", STDERR: "stderr", LOG: "log"}

_PIECE = 1 << 20


def path_of(directory: str, run_id: int, at_ms: int) -> str:
    """Where the output of a run that was decided at this moment lies."""
    return os.path.join(directory, datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y/%m/%d"), f"{run_id}.log")


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of one stream at one place of the output."""

    at: int
    stream: int
    data: bytes


class Output:
    """The growing output of one run. Owns its files until suspend() or finish()."""

    def __init__(self, path: str, limit: int) -> None:
        """Begin, or go on with, the output at `path`; at most `limit` bytes of it are kept. OSError if it cannot be."""
        os.makedirs(os.path.dirname(path), mode=0o700, exist_ok=True)
        self.path = path
        #: Bytes of the beginning that are kept whatever comes.
        self.head_limit = limit // 2
        self._tail_limit = limit - self.head_limit
        with contextlib.ExitStack() as failed:
            self._head = Segment(path) if segments.is_begun(path) else Segment(path, 0)
            failed.callback(self._head.close)
            self._tails: list[Segment] = []
            for name in () if self._head.is_joined else _tail_paths(path):
                if segments.is_begun(name):
                    self._tails.append(Segment(name))
                    failed.callback(self._tails[-1].close)
            failed.pop_all()
        self._tails.sort(key=lambda segment: segment.start)
        newest = (self._tails or [self._head])[-1]
        self.total = newest.end + self._head.lost
        #: Bytes of our own lines, of all attempts of the run.
        self.said = newest.said
        #: What was lost because a file could not be written: the system's words.
        self.lost: str | None = os.strerror(self._head.errno) if self._head.errno else None

    @property
    def truncated(self) -> bool:
        return self.lost is not None or self.total > self.head_limit + self._tail_limit

    def splice(self, pipe: int, stream: int, now_ms: int) -> int:
        """Move what the pipe holds, or a bounded part of it; the number of bytes, 0 at end-of-file.

        BlockingIOError if there is nothing. A file that cannot be written loses the bytes and never stops the job.
        """
        segment, room = self._place()
        if segment is not None:
            try:
                segment.expect(stream, now_ms)
                size, flags = min(room, _PIECE), os.SPLICE_F_NONBLOCK
                count = os.splice(pipe, segment.fd, size, offset_dst=segment.size, flags=flags)
            except BlockingIOError:
                raise
            except OSError as error:
                if error.errno == errno.EINVAL:  # a file system without splice
                    return self.append(os.read(pipe, min(room, 65536)), stream, now_ms)
                self._fail(error)
            else:
                segment.size += count
                self.total += count
                return count
        return self._lose(discard(pipe))

    def append(self, data: bytes, stream: int, now_ms: int) -> int:
        """Add bytes that did not come by a pipe."""
        left = data
        while left:
            segment, room = self._place()
            if segment is None:
                break
            try:
                count = segment.write(left[:room], stream, now_ms)
            except OSError as error:
                self._fail(error)
                break
            self.total += count
            self.said += count if stream == LOG else 0
            left = left[count:]
        self.said += len(left) if stream == LOG else 0
        self._lose(len(left))
        return len(data)

    def give_up(self, number: int) -> None:
        """Store nothing more, for the reason of this errno; what comes is counted."""
        if self.lost is None:
            self.lost = os.strerror(number)
            self._head.errno = number

    def _fail(self, error: OSError) -> None:
        self.give_up(error.errno or errno.EIO)

    def _lose(self, count: int) -> int:
        self.total += count
        if count:
            try:
                self._head.lose(count, self._head.errno)
            except OSError:  # it goes uncounted should we die
                pass
        return count

    def _place(self) -> tuple[Segment | None, int]:
        """The segment that the next byte goes to, and how many have room there."""
        if self.lost is not None:
            return None, 0
        if not self._tails and self._head.size < self.head_limit:
            return self._head, self.head_limit - self._head.size
        try:
            if not self._tails or self._tails[-1].size >= self._tail_limit:
                used = {segment.path for segment in self._tails[-1:]}
                if len(self._tails) == 2:
                    self._tails.pop(0).close()
                free = next(path for path in _tail_paths(self.path) if path not in used)
                self._tails.append(Segment(free, self.total, self.said))
        except OSError as error:
            self._fail(error)
            return None, 0
        return self._tails[-1], self._tail_limit - self._tails[-1].size

    def read(self, at: int, limit: int) -> Piece | None:
        """What is kept at place `at`, or first after it; None at the end. One stream only, at most `limit` bytes."""
        for segment in (self._head, *self._tails):
            if at < segment.end:
                begin = max(at, segment.start)
                stream, follow = segment.stream_at(begin - segment.start)
                data = os.pread(segment.fd, min(limit, follow), begin - segment.start)
                return Piece(begin, stream, data) if data else None
        return None

    def tail(self, limit: int) -> bytes:
        """The last `limit` bytes of what is kept, or less."""
        found = bytearray()
        at = max(0, self.total - limit)
        while piece := self.read(at, limit):
            found += piece.data
            at = piece.at + len(piece.data)
        return bytes(found)

    def suspend(self) -> None:
        """Close the files; Output(path, limit) goes on with them."""
        for segment in (self._head, *self._tails):
            segment.close()

    def finished_size(self) -> int:
        """Bytes that finish() will leave."""
        kept = sum(segment.size for segment in self._tails)
        return self._head.size + min(kept, self._tail_limit) + len(self._gap_line() or b"")

    def finish(self) -> int:
        """Make one readable file of what was kept, and close it; its size. To be repeated should it be cut short."""
        if not self._head.is_joined:
            line = self._gap_line()
            skip = max(0, sum(segment.size for segment in self._tails) - self._tail_limit)
            if line or self._tails:
                self._join(line, skip)
        self.suspend()
        for name in _tail_paths(self.path):
            segments.remove(name)
        return self._head.size

    def _gap_line(self) -> bytes | None:
        """What stands where bytes are missing; None if none are."""
        if self._tails:
            skip = max(0, sum(segment.size for segment in self._tails) - self._tail_limit)
            dropped = self._tails[0].start + skip - self._head.end
        else:
            dropped = self.total - self._head.size
        if not (dropped or self.lost):
            return None
        why = f": {self.lost}" if self.lost else ""
        return _dropped(dropped, why).encode()

    def _join(self, line: bytes | None, skip: int) -> None:
        """Put the line and the tails, but for their first `skip` bytes, after the head."""
        try:
            self._head.begin_joining()
            if line:
                self._head.write(line, LOG, 0)
            for segment in self._tails:
                for begin, length, stream in segment.records():
                    left_out = min(skip, length)
                    skip -= left_out
                    at, end = begin + left_out, begin + length
                    while at < end and (count := self._head.take_in(segment, at, end - at, stream)):
                        at += count
        except OSError as error:  # a full disk; the row says that output was lost
            self._fail(error)
        with contextlib.suppress(OSError):
            self._head.end_joining()


def discard(pipe: int) -> int:
    """Read and forget a bounded part of what the pipe holds; the number of bytes, 0 at end-of-file."""
    return len(os.read(pipe, 65536))


def read_stored(path: str, what: str, offset: int, limit: int) -> tuple[bytes, int]:
    """(bytes, size) of what is kept of a run's output, or of one stream of it (stdout, stderr, log; output is all).

    Offsets count kept bytes of what is asked for; a negative one counts from the end. FileNotFoundError if the output is gone.
    """
    if not segments.is_begun(path):
        raise FileNotFoundError(errno.ENOENT, "no output is kept", path)
    head = Segment(path)
    found = [head, *(Segment(name) for name in _tail_paths(path) if not head.is_joined and segments.is_begun(name))]
    try:
        return _read(sorted(found, key=lambda segment: segment.start), what, offset, limit)
    finally:
        for segment in found:
            segment.close()


def _read(found: Sequence[Segment], what: str, offset: int, limit: int) -> tuple[bytes, int]:
    #: (length, and what gives so many bytes of it from there on).
    pieces: list[tuple[int, Callable[[int, int], bytes]]] = []
    end = 0
    for segment in found:
        if segment.start > end and what in ("output", STREAMS[LOG]):
            line = _dropped(segment.start - end).encode()
            pieces.append((len(line), functools.partial(_cut, line)))
        end = segment.end
        for at, length, stream in segment.records():
            if what in ("output", STREAMS.get(stream)):
                pieces.append((length, functools.partial(_pread, segment.fd, at)))
    size = sum(length for length, _ in pieces)
    begin = max(0, size + offset) if offset < 0 else offset
    data = bytearray()
    for length, read in pieces:
        if begin < length and len(data) < limit:
            data += read(begin, min(length - begin, limit - len(data)))
        begin = max(0, begin - length)
    return bytes(data), size


def _cut(line: bytes, at: int, count: int) -> bytes:
    return line[at : at + count]


def _pread(fd: int, begin: int, at: int, count: int) -> bytes:
    return os.pread(fd, count, begin + at)


def _dropped(count: int, why: str = "") -> str:
    """The line that stands where bytes are missing."""
    return f"\n[{count} bytes of output dropped here{why}]\n"


def remove(path: str) -> int:
    """Remove all files of a run's output, if they are there; the bytes that this frees."""
    return sum(segments.remove(name) for name in (path, *_tail_paths(path), *report_paths(path)))


def report_paths(path: str) -> tuple[str, str]:
    """Where what the run's attempts report is kept, of attempts with an even number and with an odd one."""
    base = path.removesuffix(".log")
    return f"{base}.r0", f"{base}.r1"


def _tail_paths(path: str) -> tuple[str, str]:
    base = path.removesuffix(".log")
    return f"{base}.t0", f"{base}.t1"
