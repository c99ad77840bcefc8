"""One file of a run's output with its index, so made that a supervisor may die between any two system calls.

The invariant: **the files alone say what was moved, and of whom it is.** An index record says where a piece begins, and is
written before the first byte of that piece; how long the piece is, the next record or the size of the file says. So a death
between record and bytes leaves an empty piece, a death after the bytes nothing at all, and no byte is lost, doubled or given to
another stream. Bytes come by splice(2) at the end of the file, and the kernel takes from the pipe what it has put there.

Lines of our own ("log") are not in a pipe, so a successor could say them twice. The header counts them: before such bytes are
written it says at which place they go and how many had been said before; how many of them arrived, the size of the file says.

A new segment begins by emptying its index, and a segment without a whole header is none.
"""

import bisect
import contextlib
import errno
import os
import stat
import struct
from collections.abc import Iterator

STDOUT, STDERR, LOG = 1, 2, 3

_MAGIC = b"LNM1"
#: magic; place in the whole output of the first byte; our own lines: place here, length, and how many bytes of them had been
#: said in all before; bytes that could not be stored, and the errno; size before the joining of the tails.
_HEADER = struct.Struct("=4sQQIQQIQ")
#: Place in the file at which the piece begins, stream, epoch milliseconds.
_RECORD = struct.Struct("=QBQ")
#: Pieces that an index tells apart; a job that alternates streams byte by byte blurs them after that.
_RECORDS = 8192
#: Pieces of one stream that follow each other within this time are one piece.
_SAME_MS = 1000
_FILE = os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW
#: In place of a size: the tails are joined, and what is left of them is rubbish.
_JOINED = (1 << 64) - 1


def index_path(path: str) -> str:
    return f"{path}.idx" if not path.endswith(".log") else f"{path.removesuffix('.log')}.idx"


def _open(path: str, flags: int) -> int:
    """The file, which nobody has put a link, a pipe or a device in the place of; OSError if somebody has."""
    fd = os.open(path, flags | os.O_NONBLOCK, 0o600)
    if not stat.S_ISREG(os.fstat(fd).st_mode):
        os.close(fd)
        raise OSError(errno.EINVAL, "not a regular file", path)
    return fd


def is_begun(path: str) -> bool:
    """Whether there is such a segment; one whose index is shorter than its header was never written to."""
    try:
        index = _open(index_path(path), os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
    except FileNotFoundError:
        return False
    try:
        header = os.pread(index, _HEADER.size, 0)
    finally:
        os.close(index)
    return len(header) == _HEADER.size and header.startswith(_MAGIC)


class Segment:
    """One file with its index. Owns both descriptors until close()."""

    def __init__(self, path: str, start: int | None = None, said: int = 0) -> None:
        """Open it; or make it anew, beginning at place `start` of the output, after `said` bytes of our own lines."""
        self.path = path
        with contextlib.ExitStack() as failed:
            self.fd = _open(path, _FILE)
            failed.callback(os.close, self.fd)
            self._index = _open(index_path(path), _FILE)
            failed.callback(os.close, self._index)
            if start is not None:
                # In this order: what is half made has no header.
                os.ftruncate(self._index, 0)
                os.ftruncate(self.fd, 0)
                os.pwrite(self._index, _HEADER.pack(_MAGIC, start, 0, 0, said, 0, 0, 0), 0)
            self.size = os.fstat(self.fd).st_size
            self._read_header()
            self._records = max(0, os.fstat(self._index).st_size - _HEADER.size) // _RECORD.size
            self._last = self._record(self._records - 1) if self._records else (0, 0, 0)
            failed.pop_all()

    def _read_header(self) -> None:
        header = _HEADER.unpack(os.pread(self._index, _HEADER.size, 0))
        self.start: int = header[1]
        place, count, before = header[2:5]
        #: Bytes of our own lines in the whole output up to the end of this segment.
        self.said: int = before + max(0, min(count, self.size - place))
        self._slot: tuple[int, int, int] = (place, count, before)
        #: Bytes that could not be stored, and why.
        self.lost: int = header[5]
        self.errno: int = header[6]
        self._joining: int = header[7]
        if 0 < self._joining < self.size:  # a joining that was cut short will be done again
            self.size = self._joining

    def _write_header(self) -> None:
        values = (_MAGIC, self.start, *self._slot, self.lost, self.errno, self._joining)
        os.pwrite(self._index, _HEADER.pack(*values), 0)

    @property
    def end(self) -> int:
        return self.start + self.size

    def expect(self, stream: int, now_ms: int) -> None:
        """Say that what comes next at the end of the file is of this stream."""
        place, last_stream, began = self._last
        if self._records:
            same = stream == last_stream and now_ms - began < _SAME_MS
            if same or self._records >= _RECORDS:
                return
            if place == self.size:  # nothing came of what was expected last
                self._records -= 1
        self._last = (self.size, stream, now_ms)
        os.pwrite(self._index, _RECORD.pack(*self._last), _HEADER.size + self._records * _RECORD.size)
        self._records += 1

    def write(self, data: bytes, stream: int, now_ms: int) -> int:
        """Put bytes that came by no pipe at the end; how many."""
        if stream == LOG:
            self._slot = (self.size, len(data), self.said)
            self._write_header()
        self.expect(stream, now_ms)
        count = os.pwrite(self.fd, data, self.size)
        self.size += count
        self.said += count if stream == LOG else 0
        return count

    def lose(self, count: int, number: int) -> None:
        """Note that so many bytes could not be stored; in place, for which a full disk has room."""
        self.lost += count
        self.errno = number
        self._write_header()

    def records(self) -> Iterator[tuple[int, int, int]]:
        """(place in the file, length, stream) of every piece, in order."""
        data = os.pread(self._index, self._records * _RECORD.size, _HEADER.size)
        found = list(_RECORD.iter_unpack(data[: len(data) // _RECORD.size * _RECORD.size]))
        for number, (place, stream, _) in enumerate(found, 1):
            upto = min(self.size, found[number][0] if number < len(found) else self.size)
            if place < upto:
                yield place, upto - place, stream

    def _record(self, number: int) -> tuple[int, int, int]:
        return _RECORD.unpack(os.pread(self._index, _RECORD.size, _HEADER.size + number * _RECORD.size))

    def stream_at(self, at: int) -> tuple[int, int]:
        """The stream of the byte at this place of the file, and how many follow it in the same piece."""
        number = bisect.bisect_right(range(self._records), at, key=lambda each: self._record(each)[0])
        upto = self._record(number)[0] if number < self._records else self.size
        return self._record(number - 1)[1], min(upto, self.size) - at

    # Joining: the head takes in its tails when the run has ended.

    @property
    def is_joined(self) -> bool:
        return self._joining == _JOINED

    def begin_joining(self) -> None:
        """From here on until end_joining() all that is added counts for nothing should we die."""
        if self._joining:  # one was cut short
            os.ftruncate(self.fd, self.size)
            self._records = bisect.bisect_left(range(self._records), self.size, key=lambda each: self._record(each)[0])
            os.ftruncate(self._index, _HEADER.size + self._records * _RECORD.size)
            self._last = self._record(self._records - 1) if self._records else (0, 0, 0)
        else:
            self._joining = self.size
            self._write_header()

    def end_joining(self) -> None:
        self._joining = _JOINED
        self._write_header()

    def take_in(self, other: "Segment", at: int, count: int, stream: int) -> int:
        """Put bytes of another segment at the end; how many."""
        self.expect(stream, 0)
        os.lseek(self.fd, self.size, os.SEEK_SET)
        sent = os.sendfile(self.fd, other.fd, at, count)
        self.size += sent
        return sent

    def close(self) -> None:
        os.close(self.fd)
        os.close(self._index)


def remove(path: str) -> int:
    """Remove a segment's files, if they are there; the bytes that this frees."""
    freed = 0
    for each in (path, index_path(path)):
        with contextlib.suppress(FileNotFoundError):
            freed += os.stat(each, follow_symlinks=False).st_size
            os.unlink(each)
    return freed
