"""Users of their own for boxes: numbers that no account has and no two living boxes share.

The range is left unused by systemd's table of uids and gids, and by Debian's. A number is used again only when its box is
empty; what it owned outside its box is the state directory, which the next run's user is given.
"""

import heapq
import socket

FIRST, LAST = 1879048192, 1879052287


class Pool:
    """The launcher's; not shared between daemons, whose boxes cannot see each other."""

    def __init__(self, first: int = FIRST, last: int = LAST) -> None:
        self._next = first
        self._last = last
        self._free: list[int] = []

    def take(self) -> int:
        """The lowest number that is free. OSError (EAGAIN) if all are taken."""
        if self._free:
            return heapq.heappop(self._free)
        if self._next > self._last:
            raise BlockingIOError(11, f"all {self._last} uids for boxes are in use")
        self._next += 1
        return self._next - 1

    def give_back(self, uid: int) -> None:
        heapq.heappush(self._free, uid)


def reserve() -> tuple[int, socket.socket]:
    """A number for a box that no daemon starts, and what holds it for this host until it is closed; from the range's end.

    OSError (EAGAIN) if none is free.
    """
    for uid in range(LAST, FIRST, -1):
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            holder.bind(f"\0lnmt-uid-{uid}")
        except OSError:
            holder.close()
        else:
            return uid, holder
    raise BlockingIOError(11, "all uids for boxes are in use")
