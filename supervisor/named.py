"""Files that a job's definition names, and that the daemon reads with its own rights: environment_file, secrets.

A job must not choose what is read. Where it, or the user that it runs as, may put a link in the place of such a file, the next
run would be handed whatever the daemon can read. So the name is followed step by step, each step from a descriptor of the one
before (openat(2)), and through no link but root's and the daemon's own. What lies within a place that the job itself may write
to has to lie there in truth, too.
"""

import errno
import os
import stat
from collections import deque
from collections.abc import Iterable

from lnmt_scheduler.sandbox import filesystem

_LINKS_MAX = 40
_STEP = os.O_PATH | os.O_NOFOLLOW | os.O_CLOEXEC
#: A FIFO of that name must not hold up the supervisor.
_READ = os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK


def read(path: str, limit: int, writable: Iterable[str]) -> tuple[bytes, os.stat_result]:
    """The content and stat of the regular file at this absolute path. `writable` are places that its job may write to.

    OSError if it cannot be had, is no regular file, has more than `limit` bytes, or if somebody else may have laid the way.
    """
    found, links = _follow(path)
    try:
        real = os.readlink(f"/proc/self/fd/{found}")
        ways = {os.path.normpath(path), *links}
        places = {each for place in writable for each in (place, os.path.realpath(place))}
        filesystem.refuse_strays(ways, places, lambda each: real if each in ways else os.path.realpath(each))
        if not stat.S_ISREG(os.fstat(found).st_mode):
            raise OSError(errno.EINVAL, "not a regular file", path)
        with open(os.open(f"/proc/self/fd/{found}", _READ), "rb") as file:
            data = file.read(limit + 1)
            if len(data) > limit:
                raise OSError(errno.EFBIG, f"more than {limit} bytes", path)
            return data, os.fstat(file.fileno())
    finally:
        os.close(found)


def _follow(path: str) -> tuple[int, list[str]]:
    """A descriptor of what the path leads to, by O_PATH; and where the links lie that it leads through."""
    steps, links = deque(path.split("/")), list[str]()
    at = os.open("/", _STEP)
    while steps:
        name = steps.popleft()
        if name in ("", "."):
            continue
        try:
            found = os.open(name, _STEP, dir_fd=at)
        except OSError as error:
            os.close(at)
            raise OSError(error.errno, error.strerror, path) from None
        entry = os.fstat(found)
        if not stat.S_ISLNK(entry.st_mode):
            os.close(at)
            at = found
            continue
        target = os.readlink("", dir_fd=found)
        os.close(found)
        links.append(os.path.join(os.readlink(f"/proc/self/fd/{at}"), name))
        if len(links) > _LINKS_MAX or entry.st_uid not in (0, os.geteuid()):
            os.close(at)
            if len(links) > _LINKS_MAX:
                raise OSError(errno.ELOOP, os.strerror(errno.ELOOP), path)
            raise PermissionError(errno.EPERM, f"{name!r} on the way is a link of uid {entry.st_uid}", path)
        steps.extendleft(reversed(target.split("/")))
        if target.startswith("/"):
            os.close(at)
            at = os.open("/", _STEP)
    return at, links
