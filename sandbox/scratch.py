"""A directory of its own for the temporary files of one box, where no mount can make /tmp private.

Init makes it, the job gets it as TMPDIR, and init removes it once nobody else is left in the box. What a job leaves there may
be hostile (directories a hundred thousand deep, or closed to their own owner), so the way down is a loop and not a recursion,
never follows a link, and never leaves the directory. It is in /tmp, so that after the death of an init the host's own
cleaning of /tmp comes by.
"""

import contextlib
import os
from collections.abc import Mapping

_PARENT = "/tmp"
#: In memory, and the box's own, wherever /tmp is.
_PRIVATE = "/dev/shm"

#: The one of the box that this process is the job of.
_mine: str | None = None


def make(uid: int | None, gid: int | None) -> str:
    """A new directory that only this user may enter (None: the caller's); its path. OSError."""
    path = f"{_PARENT}/lnmt-{os.urandom(8).hex()}"
    os.mkdir(path, 0o700)
    if uid is not None and gid is not None:
        os.chown(path, uid, gid)
    return path


def take(path: str) -> None:
    """Make it the one of this process, which is about to become the job."""
    global _mine  # noqa: PLW0603 (a process is in one box)
    _mine = path


def place() -> str:
    """Where this process, the job of a box of files, may keep what nobody outside of the box is to see."""
    return _mine or _PRIVATE


def environment(given: Mapping[str, str]) -> dict[str, str]:
    """The environment with TMPDIR for this box, unless the job has chosen another."""
    return {**given, "TMPDIR": _mine} if _mine is not None and given.get("TMPDIR") == _PARENT else dict(given)


def remove(path: str) -> None:
    """Remove it with all in it, as far as that is allowed. The caller must know that nobody works in it any more."""
    with contextlib.suppress(OSError):
        remove_tree(path)


def remove_tree(path: str) -> None:
    """Remove a directory that a job has filled; OSError says what stopped it.

    Whoever still works in it may keep it from being removed, and lead this nowhere else.
    """
    top = _open(path)
    try:
        _empty(top)
    finally:
        os.close(top)
    os.rmdir(path)


def _open(path: str, *, within: int | None = None) -> int:
    """A directory to read, which the job may have closed to its own user; so it is opened twice, and by name only once."""
    handle = os.open(path, os.O_PATH | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=within)
    try:
        os.chmod(f"/proc/self/fd/{handle}", 0o700)
        return os.open(f"/proc/self/fd/{handle}", os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    finally:
        os.close(handle)


def _empty(top: int) -> None:
    """Empty a directory of any depth with two descriptors: what is found in one of its folders is first moved up to it."""
    prefix = os.urandom(8).hex()  # that no job knew
    moved = 0
    while folders := _unlink_files(top):
        for folder in folders:
            inner = _open(folder, within=top)
            try:
                for name in _unlink_files(inner):
                    os.close(_open(name, within=inner))  # to be moved it must be open to its owner
                    moved += 1
                    os.rename(name, f"{prefix}-{moved}", src_dir_fd=inner, dst_dir_fd=top)
            finally:
                os.close(inner)
            os.rmdir(folder, dir_fd=top)


def _unlink_files(directory: int) -> list[str]:
    """Remove all that is no directory; the names of those that are."""
    folders = []
    with os.scandir(directory) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                folders.append(entry.name)
            else:
                os.unlink(entry.name, dir_fd=directory)
    return folders
