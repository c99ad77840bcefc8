"""A run's stdout and stderr, from pipe to file, capped.

The supervisor moves bytes with splice(2) from the pipe straight into a file at an explicit offset: at any moment a byte is
either still in the pipe or already in the file, so a supervisor that dies loses none, and none passes through its memory.

The files of run N, while it lasts: N.log holds the head, up to half of the cap; what comes after goes in turn to the two
tail segments N.t0 and N.t1, of half the cap each, the older one being dropped when both are full. Beside every segment
lies its index (.idx: the segment's place in the whole output, then one record a piece: length, stream, time), so that the
two streams can be told apart again. When the run ends the pieces become one N.log, readable with less: the head, one line
that says how much is missing, and as much of the tail as the cap allows.

Places in the output are counted from the first byte that the job wrote, dropped bytes included.
"""

import contextlib
import errno
import os
import struct
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

STDOUT, STDERR, LOG = 1, 2, 3
STREAMS = {STDOUT: "stdout", STDERR: "stderr", LOG: "log"}

_PIECE = 1 << 20
_START = struct.Struct("=Q")
_RECORD = struct.Struct("=IBQ")
#: Pieces that an index tells apart; a job that alternates streams byte by byte blurs them after that.
_RECORDS = 8192
#: Pieces of one stream that follow each other within this time are one piece.
_SAME_MS = 1000
_FILE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW


def path_of(directory: str, run_id: int, at_ms: int) -> str:
    """Where the output of a run that was decided at this moment lies."""
    return os.path.join(directory, datetime.fromtimestamp(at_ms / 1000, UTC).strftime("%Y/%m/%d"), f"{run_id}.log")


@dataclass(frozen=True, slots=True)
class Piece:
    """Bytes of one stream at one place of the output."""

    at: int
    stream: int
    data: bytes


class Segment:
    """One file with its index. Owns both descriptors until close()."""

    def __init__(self, path: str, start: int | None = None) -> None:
        """Open or make it; a new one begins at place `start` of the output."""
        self.path = path
        with contextlib.ExitStack() as failed:
            self.fd = os.open(path, _FILE, 0o600)
            failed.callback(os.close, self.fd)
            self._index = os.open(_index_path(path), _FILE, 0o600)
            failed.callback(os.close, self._index)
            if start is not None:
                os.ftruncate(self.fd, 0)
                os.ftruncate(self._index, 0)
                os.pwrite(self._index, _START.pack(start), 0)
            self.start: int = _START.unpack(os.pread(self._index, _START.size, 0))[0]
            self.size = os.fstat(self.fd).st_size
            self._records = (os.fstat(self._index).st_size - _START.size) // _RECORD.size
            self._last = self._record(self._records - 1) if self._records else (0, 0, 0)
            failed.pop_all()

    @property
    def end(self) -> int:
        return self.start + self.size

    def note(self, stream: int, count: int, now_ms: int) -> None:
        """Say that `count` bytes of the stream were put at the end of the file."""
        length, last_stream, began = self._last
        same = stream == last_stream and now_ms - began < _SAME_MS
        if self._records and (same or self._records >= _RECORDS):
            self._last = (length + count, last_stream, began)
        else:
            self._records += 1
            self._last = (count, stream, now_ms)
        os.pwrite(self._index, _RECORD.pack(*self._last), _START.size + (self._records - 1) * _RECORD.size)
        self.size += count

    def note_rest(self) -> None:
        """Note what a supervisor moved here and did not live to note."""
        rest = self.size - sum(length for _, length, _ in self.records())
        if rest > 0:
            self.size -= rest
            self.note(LOG, rest, 0)

    def records(self) -> Iterator[tuple[int, int, int]]:
        """(place in the file, length, stream) of every piece, in order."""
        at = 0
        for number in range(self._records):
            length, stream, _ = self._record(number)
            yield at, length, stream
            at += length

    def _record(self, number: int) -> tuple[int, int, int]:
        return _RECORD.unpack(os.pread(self._index, _RECORD.size, _START.size + number * _RECORD.size))

    def stream_at(self, at: int) -> tuple[int, int]:
        """The stream of the byte at this place of the file, and how many follow it in the same piece."""
        for begin, length, stream in self.records():
            if at < begin + length:
                return stream, begin + length - at
        return LOG, self.size - at  # written and not yet noted, by a supervisor that died in between

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._index)

    def remove(self) -> None:
        self.close()
        os.unlink(self.path)
        os.unlink(_index_path(self.path))


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
            goes_on = _is_begun(path)
            self._head = Segment(path, None if goes_on else 0)
            failed.callback(self._head.close)
            self._tails: list[Segment] = []
            for name in _tail_paths(path) if goes_on else ():
                if _is_begun(name):
                    self._tails.append(Segment(name))
                    failed.callback(self._tails[-1].close)
            for segment in (self._head, *self._tails):
                segment.note_rest()
            failed.pop_all()
        self._tails.sort(key=lambda segment: segment.start)
        self.total = max(segment.end for segment in (self._head, *self._tails))
        #: What was lost because a file could not be written: the system's words.
        self.lost: str | None = None

    @property
    def truncated(self) -> bool:
        return self.lost is not None or self.total > self.head_limit + self._tail_limit

    def splice(self, pipe: int, stream: int, now_ms: int) -> int:
        """Move what the pipe holds, or a bounded part of it; the number of bytes, 0 at end-of-file.

        BlockingIOError if there is nothing. A file that cannot be written loses the bytes and never stops the job.
        """
        segment, room = self._place()
        count = 0
        if segment is not None:
            try:
                count = os.splice(
                    pipe, segment.fd, min(room, _PIECE), offset_dst=segment.size, flags=os.SPLICE_F_NONBLOCK
                )
            except BlockingIOError:
                raise
            except OSError as error:
                if error.errno == errno.EINVAL:  # a file system without splice
                    return self.append(os.read(pipe, min(room, 65536)), stream, now_ms)
                self.lost = self.lost or error.strerror
                segment = None
        if segment is None:
            count = discard(pipe)
        elif count:
            try:
                segment.note(stream, count, now_ms)
            except OSError as error:
                self.lost = error.strerror
        self.total += count
        return count

    def append(self, data: bytes, stream: int, now_ms: int) -> int:
        """Add bytes that did not come by a pipe."""
        left = data
        while left:
            segment, room = self._place()
            if segment is None:
                break
            try:
                count = os.pwrite(segment.fd, left[:room], segment.size)
                segment.note(stream, count, now_ms)
            except OSError as error:
                self.lost = error.strerror
                break
            self.total += count
            left = left[count:]
        self.total += len(left)
        return len(data)

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
                self._tails.append(Segment(free, self.total))
        except OSError as error:
            self.lost = error.strerror
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

    def finish(self) -> int:
        """Make one readable file of what was kept, and close it; its size."""
        if self._tails:
            kept = sum(segment.size for segment in self._tails)
            skip = max(0, kept - self._tail_limit)
            dropped = self._tails[0].start + skip - self._head.end
            if dropped or self.lost:
                self._join_line(dropped)
            for segment in self._tails:
                skip = self._join(segment, skip)
                segment.remove()
        elif self.lost:
            self._join_line(self.total - self._head.size)
        self._head.close()
        return self._head.size

    def _join_line(self, dropped: int) -> None:
        why = f": {self.lost}" if self.lost else ""
        line = f"\n[{dropped} bytes of output dropped here{why}]\n".encode()
        try:
            count = os.pwrite(self._head.fd, line, self._head.size)
            self._head.note(LOG, count, 0)
        except OSError:  # a full disk; the row says that output was lost
            pass

    def _join(self, segment: Segment, skip: int) -> int:
        """Put the segment after the head, but for its first `skip` bytes; what is still to be skipped of the next."""
        for begin, length, stream in segment.records():
            left_out = min(skip, length)
            skip -= left_out
            at, count = begin + left_out, length - left_out
            os.lseek(self._head.fd, self._head.size, os.SEEK_SET)
            while count:
                try:
                    sent = os.sendfile(self._head.fd, segment.fd, at, count)
                    if sent == 0:
                        break
                    self._head.note(stream, sent, 0)
                except OSError as error:
                    self.lost = self.lost or error.strerror
                    return 0
                at, count = at + sent, count - sent
        return skip


def discard(pipe: int) -> int:
    """Read and forget a bounded part of what the pipe holds; the number of bytes, 0 at end-of-file."""
    return len(os.read(pipe, 65536))


def read_stored(path: str, what: str, offset: int, limit: int) -> tuple[bytes, int]:
    """(bytes, size) of what is kept of a run's output, or of one stream of it (stdout, stderr, log; output is all).

    Offsets count kept bytes of what is asked for; a negative one counts from the end. FileNotFoundError if the output is gone.
    """
    if not _is_begun(path):
        raise FileNotFoundError(errno.ENOENT, "no output is kept", path)
    segments = [Segment(name) for name in (path, *_tail_paths(path)) if _is_begun(name)]
    try:
        return _read(sorted(segments, key=lambda segment: segment.start), what, offset, limit)
    finally:
        for segment in segments:
            segment.close()


def _read(segments: list["Segment"], what: str, offset: int, limit: int) -> tuple[bytes, int]:
    pieces = [
        (segment.fd, at, length)
        for segment in segments
        for at, length, stream in segment.records()
        if what in ("output", STREAMS.get(stream))
    ]
    size = sum(length for _, _, length in pieces)
    begin = max(0, size + offset) if offset < 0 else offset
    found = bytearray()
    for fd, at, length in pieces:
        if begin < length and len(found) < limit:
            found += os.pread(fd, min(length - begin, limit - len(found)), at + begin)
        begin = max(0, begin - length)
    return bytes(found), size


def remove(path: str) -> int:
    """Remove all files of a run's output, if they are there; the bytes that this frees."""
    freed = 0
    for name in (path, *_tail_paths(path), f"{path.removesuffix('.log')}.report"):
        for each in (name, _index_path(name)):
            try:
                freed += os.stat(each, follow_symlinks=False).st_size
                os.unlink(each)
            except FileNotFoundError:
                pass
    return freed


def _tail_paths(path: str) -> tuple[str, str]:
    base = path.removesuffix(".log")
    return f"{base}.t0", f"{base}.t1"


def _index_path(path: str) -> str:
    return f"{path}.idx" if not path.endswith(".log") else f"{path.removesuffix('.log')}.idx"


def _is_begun(path: str) -> bool:
    """Whether there is such a segment; one whose index ends before its first number was never written to."""
    try:
        return os.stat(_index_path(path)).st_size >= _START.size
    except FileNotFoundError:
        return False
