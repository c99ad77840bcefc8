"""Room for decisions on a full disk: a file of the configured size, allocated in good times and given up in bad ones.

While the reserve is held, a file system with next to nothing left means that the disk is full: the reserve is let go, and what
it held is enough to write down how runs end, and that others did not start. It is taken back, and the disk no longer called
full, when there is room for it and some more. Output of jobs is not stored meanwhile; it would eat the reserve.
"""

import os

#: Bytes that a file system may have left before it counts as full, and files that it may still take.
LOW = 4 * 1024 * 1024
LOW_FILES = 64


class Reserve:
    """Owns the file at `path`; it is only space, and its content means nothing."""

    def __init__(self, path: str, size: int) -> None:
        self._path = path
        self.size = size
        self.full = False
        self._held = os.path.exists(path) and os.stat(path).st_size >= size

    def look(self) -> bool:
        """Whether the disk is full now; gives up or takes back the reserve accordingly."""
        found = os.statvfs(os.path.dirname(self._path))
        left = found.f_bavail * found.f_frsize
        files = found.f_favail if found.f_files else LOW_FILES * 2  # some file systems do not count them
        if self._held:
            if left < LOW or files < LOW_FILES:
                self.full = True
                self.give_up()
        elif left >= self.size + 2 * LOW and files >= 2 * LOW_FILES:
            self.full = not self._take()
        else:
            self.full = True
        return self.full

    def give_up(self) -> None:
        """Let go of the space, for what cannot be written otherwise: a quota may be used up where the disk is not full."""
        self._held = False
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass

    def _take(self) -> bool:
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if self.size:
                os.posix_fallocate(fd, 0, self.size)
            self._held = True
        except OSError:
            self.give_up()
        finally:
            os.close(fd)
        return self._held
