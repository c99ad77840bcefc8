"""The new lines of a log file since the last look, across rotation, truncation and compression.

A mark says how far a file was read, and knows it again by its first bytes: neither its name nor its inode stays with it
(logrotate renames, or copies and truncates, or compresses). Where the file is not found again the gap is said. How much is
read at a time, and how long a line may be, is capped.
"""

import bz2
import contextlib
import glob
import gzip
import hashlib
import lzma
import os
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import IO, Any, Self

#: Bytes that a file is known by.
_KNOWN_BY = 1024
_LINE_LIMIT = 16 * 1024
_ROTATED_MAX = 30
_PACKED: dict[str, Callable[[str], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_UNREADABLE = (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError)


@dataclass(frozen=True, slots=True, kw_only=True)
class Mark:
    """How far a file was read: its inode, the offset, and a digest of its first `known_by` bytes."""

    inode: int
    offset: int
    known_by: int
    digest: str

    def packed(self) -> list[Any]:
        return [self.inode, self.offset, self.known_by, self.digest]

    @classmethod
    def unpacked(cls, values: Any) -> Self:
        """ValueError if that is not what packed() made."""
        try:
            inode, offset, known_by, digest = values
            return cls(inode=int(inode), offset=int(offset), known_by=int(known_by), digest=str(digest))
        except TypeError as error:
            raise ValueError(str(error)) from None


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    #: Whole lines without their ends; one that is too long is cut.
    lines: Sequence[bytes]
    mark: Mark
    #: Lines between the last look and this one are lost.
    gap: bool
    #: There is more than was asked for.
    behind: bool


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    file: IO[bytes]
    start: int
    #: Nobody writes to it any more.
    finished: bool


def read(path: str, mark: Mark | None, limit: int) -> Batch:
    """At most `limit` bytes of what has been added to the log since the mark; without one from its beginning. OSError."""
    lines: list[bytes] = []
    with contextlib.ExitStack() as stack:
        parts, gap = _unread(stack, path, mark)
        for part in parts:
            part.file.seek(part.start)
            data = part.file.read(limit)
            more = len(data) == limit
            whole = len(data) if part.finished and not more else data.rfind(b"\n") + 1
            if not whole and (more or len(data) >= _LINE_LIMIT):
                whole = len(data)  # a line that has no end
            lines += [line[:_LINE_LIMIT] for line in data[:whole].split(b"\n") if line]
            mark = _mark(part.file, part.start + whole)
            limit -= whole
            if more:
                return Batch(lines=lines, mark=mark, gap=gap, behind=True)
    assert mark is not None
    return Batch(lines=lines, mark=mark, gap=gap, behind=False)


def _unread(stack: contextlib.ExitStack, path: str, mark: Mark | None) -> tuple[list[_Part], bool]:
    """What holds the new lines, the oldest first, and whether some are lost."""
    current = stack.enter_context(_opened(path))
    if mark is None:
        return [_Part(file=current, start=0, finished=False)], False
    if _is(current, mark):
        size = os.fstat(current.fileno()).st_size
        return [_Part(file=current, start=min(mark.offset, size), finished=False)], size < mark.offset
    found: list[_Part] = []
    for each in _rotated(path)[:_ROTATED_MAX]:
        try:
            file = stack.enter_context(_opened(each))
            same = _is(file, mark)
        except (OSError, *_UNREADABLE):
            continue
        found.append(_Part(file=file, start=mark.offset if same else 0, finished=True))
        if same:
            return [*reversed(found), _Part(file=current, start=0, finished=False)], False
    return [_Part(file=current, start=0, finished=False)], True


def _rotated(path: str) -> list[str]:
    """What may have been this log before, the newest first."""
    found = []
    for each in glob.glob(f"{glob.escape(path)}[.-]*"):
        with contextlib.suppress(OSError):
            found.append((os.stat(each).st_mtime_ns, each))
    return [each for _, each in sorted(found, reverse=True)]


def _opened(path: str) -> IO[bytes]:
    opens = _PACKED.get(os.path.splitext(path)[1])
    return open(path, "rb") if opens is None else opens(path)


def _is(file: IO[bytes], mark: Mark) -> bool:
    if not mark.known_by:
        return os.fstat(file.fileno()).st_ino == mark.inode
    return _digest(file, mark.known_by) == mark.digest


def _mark(file: IO[bytes], offset: int) -> Mark:
    known_by = min(offset, _KNOWN_BY)
    digest = _digest(file, known_by) or ""
    return Mark(inode=os.fstat(file.fileno()).st_ino, offset=offset, known_by=known_by, digest=digest)


def _digest(file: IO[bytes], length: int) -> str | None:
    file.seek(0)
    data = file.read(length)
    return hashlib.sha256(data).hexdigest() if len(data) == length else None
