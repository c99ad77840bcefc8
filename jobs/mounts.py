"""How full the file systems of this host are: those on disks, each once, and what else somebody names.

In a box the host's mounts show up by themselves and once more for each path that the job was given, so what counts is the
device. Network file systems are looked at only where they are named: a server that is gone would hold up the job for ever.
"""

import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import psutil

_MAX = 256
#: Made full, and so no news.
_ALWAYS_FULL = frozenset({"squashfs", "iso9660", "udf", "erofs", "cramfs"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Usage:
    path: str
    #: Bytes; `free` is what users other than root may still take.
    total: int
    used: int
    free: int
    inodes: int
    inodes_free: int

    @property
    def percent(self) -> float:
        """As df(1) counts it: of what users may have."""
        usable = self.used + self.free
        return round(100 * self.used / usable, 2) if usable else 0.0

    @property
    def inodes_percent(self) -> float:
        """0 where the file system has no fixed number of them."""
        return round(100 * (self.inodes - self.inodes_free) / self.inodes, 2) if self.inodes else 0.0


def local(also: Sequence[str] = ()) -> list[Usage]:
    """Of every disk the shortest path that it is mounted at, and of `also`; OSError if one of the latter is not there."""
    found: dict[int, Usage] = {}
    for path in sorted(_on_disks(), key=lambda path: (path.count("/"), path)):
        try:
            found.setdefault(os.stat(path).st_dev, usage(path))
        except OSError:
            continue  # unmounted since, or not for this user's eyes
        if len(found) == _MAX:
            break
    return [*found.values(), *(usage(path) for path in also)]


def usage(path: str) -> Usage:
    """OSError if there is no such path."""
    found = os.statvfs(path)
    return Usage(
        path=path,
        total=found.f_blocks * found.f_frsize,
        used=(found.f_blocks - found.f_bfree) * found.f_frsize,
        free=found.f_bavail * found.f_frsize,
        inodes=found.f_files,
        inodes_free=found.f_ffree,
    )


def _on_disks() -> Iterator[str]:
    yield "/"  # also where it is an overlay
    for part in psutil.disk_partitions(all=False):
        if part.fstype not in _ALWAYS_FULL:
            yield part.mountpoint
