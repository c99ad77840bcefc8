"""Copies that are whole or not there, whenever a job is killed: for the ready-made jobs, in their own process.

A copy is made under a name that ends in `.part`, brought to the disk, and only then gets its name; what a killed run has left
under such a name is removed by the next. One run at a time works in a folder: a lock says so, and it ends with its process.
"""

import contextlib
import fcntl
import os
from collections.abc import Iterator

from lnmt_scheduler.jobs import needs

#: Ends the name of what is not whole yet; SQLite puts its own files beside it.
PART = ".part"
_LEFT = (PART, f"{PART}-journal", f"{PART}-wal", f"{PART}-shm")


@contextlib.contextmanager
def locked(folder: str) -> Iterator[None]:
    """Be the only one in this folder, which is made if it is not there. The job ends with one line if another is."""
    try:
        os.makedirs(folder, mode=0o700, exist_ok=True)
        fd = os.open(os.path.join(folder, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    except OSError as error:
        needs.end(f"the folder {folder!r} cannot be used: {error}")
    try:
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            needs.end(f"another run works in {folder!r}; try again when it has ended", needs.UNAVAILABLE)
        yield
    finally:
        os.close(fd)


def finish(part: str, path: str) -> None:
    """Give what is whole its name, durably: first its content, then the name (fsync(2))."""
    _sync(part, os.O_RDONLY)
    os.rename(part, path)
    _sync(os.path.dirname(path) or ".", os.O_RDONLY | os.O_DIRECTORY)


def _sync(path: str, flags: int) -> None:
    fd = os.open(path, flags | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)


def remove_parts(folder: str) -> list[str]:
    """Remove what killed runs have left; the caller holds the lock. Names of what was removed."""
    left = [name for name in os.listdir(folder) if name.endswith(_LEFT)]
    for name in left:
        os.unlink(os.path.join(folder, name))
    return left
