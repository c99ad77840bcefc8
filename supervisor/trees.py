"""Removal of a directory that a job has filled, a few entries a step.

It may hold millions of files, be deep enough to exhaust descriptors or the length of a path, and be full of links to
elsewhere. So names are only ever taken relative to an open directory and never followed, and a directory within a
directory is first moved up to the top: three descriptors are enough for any depth.
"""

import os
from collections.abc import Callable, Generator, Iterator

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Entries of one step.
_STEP = 20


def remove(path: str, tell: Callable[[str], None]) -> Iterator[None]:
    """Remove the directory and everything in it. What cannot be removed stays, and `tell` is called with why."""
    try:
        parent = os.open(os.path.dirname(path), _DIRECTORY)
    except FileNotFoundError:
        return
    try:
        yield from _Removal(path, tell).of(os.path.basename(path), parent)
    finally:
        os.close(parent)


class _Removal:
    def __init__(self, path: str, tell: Callable[[str], None]) -> None:
        self._path = path
        self._tell = tell
        #: Names at the top that cannot be removed.
        self._kept: set[str] = set()

    def of(self, name: str, parent: int) -> Iterator[None]:
        try:
            top = _open(name, parent)
        except FileNotFoundError:
            return
        except OSError:  # a link or a file in its place
            self._try("", os.unlink, name, parent)
            return
        try:
            # A pass may miss what was moved up meanwhile.
            while (yield from self._clear_top(top)):
                pass
        finally:
            os.close(top)
        self._try("", os.rmdir, name, parent)

    def _clear_top(self, top: int) -> Generator[None, None, bool]:
        """Remove what is at the top; whether there was anything to try."""
        tried = 0
        with os.scandir(top) as entries:
            for entry in entries:
                if entry.name in self._kept:
                    continue
                tried += 1
                if entry.is_dir(follow_symlinks=False):
                    yield from self._lift(entry.name, top)
                    gone = self._try(entry.name, os.rmdir, entry.name, top)
                else:
                    gone = self._try(entry.name, os.unlink, entry.name, top)
                if not gone:
                    self._kept.add(entry.name)
                if tried % _STEP == 0:
                    yield
        return tried > 0

    def _lift(self, name: str, top: int) -> Iterator[None]:
        """Empty a directory at the top: its files go, its directories come to the top."""
        try:
            inner = _open(name, top)
        except OSError as error:
            self._tell(f"{self._path}/{name} stays: {error.strerror}")
            return
        try:
            with os.scandir(inner) as entries:
                for number, entry in enumerate(entries, 1):
                    if entry.is_dir(follow_symlinks=False):
                        self._try(f"{name}/{entry.name}", _move_up, entry.name, inner, top)
                    else:
                        self._try(f"{name}/{entry.name}", os.unlink, entry.name, inner)
                    if number % _STEP == 0:
                        yield
        finally:
            os.close(inner)

    def _try(self, what: str, call: Callable[..., None], name: str, directory: int, *more: int) -> bool:
        try:
            call(name, *more, dir_fd=directory)
        except FileNotFoundError:
            pass
        except OSError as error:
            self._tell(f"{os.path.join(self._path, what)} stays: {error.strerror}")
            return False
        return True


def _move_up(name: str, top: int, *, dir_fd: int) -> None:
    os.rename(name, f".{os.urandom(8).hex()}", src_dir_fd=dir_fd, dst_dir_fd=top)


def _open(name: str, parent: int) -> int:
    """The directory itself; one that its owner has closed to himself is opened first."""
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except PermissionError:
        os.chmod(name, 0o700, dir_fd=parent)
        return os.open(name, _DIRECTORY, dir_fd=parent)
