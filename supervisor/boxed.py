"""Whether the process at the other end of a socket runs inside a box.

Asked by the control socket before it reads a byte: what runs in a box, of whatever profile and uid, has no say in the daemon
that made it. Two questions, since not every box has a pid namespace. A pidfd of the peer tells the namespace without a race
and for every account (its fdinfo lists the peer's pid in ours and in each below it; pidfd_open(2), proc(5)). And whoever
descends from the launcher is a job: the supervisor starts nobody, and the orphans of a box stay with its init.
"""

import errno
import os
import socket
from typing import Literal

#: Linux 6.5; asm-generic/socket.h. It names the peer even if its pid has been given to somebody else meanwhile.
_SO_PEERPIDFD = 77
#: A parent may end, and the walk with it, while we look.
_TRIES = 3

Place = Literal["outside", "box", "unknown"]


def place_of(sock: socket.socket, pid: int, launcher: int | None, uid: int) -> Place:
    """Where the peer of a unix socket runs; `pid` and `uid` are SO_PEERCRED's words. OSError if it has ended meanwhile.

    unknown: a pid namespace that is not below ours, as that of the host of a container.
    """
    if pid == 0:
        return "unknown"
    pids = _namespace_pids(sock, pid)
    if pids[0] == 0:
        return "unknown"
    if len(pids) > 1:
        return "box"
    try:
        return "box" if launcher is not None and _descends_from(launcher, pids[0]) else "outside"
    except ProcessLookupError:
        if os.geteuid() in (0, uid):
            raise
        # Others are hidden from an account by the mount options of /proc; and the jobs of an account are all its own.
        return "outside"


def _namespace_pids(sock: socket.socket, pid: int) -> list[int]:
    """The peer's pid in our namespace and in each below it, down to its own."""
    try:
        pidfd = sock.getsockopt(socket.SOL_SOCKET, _SO_PEERPIDFD)
    except OSError as error:
        if error.errno != errno.ENOPROTOOPT:  # it has ended; its number may be somebody else's by now
            raise
        pidfd = os.pidfd_open(pid)
    try:
        with open(f"/proc/self/fdinfo/{pidfd}", "rb") as file:
            fields = dict(line.split(b":", 1) for line in file.read().splitlines())
    finally:
        os.close(pidfd)
    pids = [int(number) for number in fields[b"NSpid"].split()]
    if pids[0] < 0:
        raise ProcessLookupError(3, "the peer has ended")
    return pids


def _descends_from(ancestor: int, pid: int) -> bool:
    for _ in range(_TRIES):
        at = pid
        try:
            while at > 1:
                at = _parent(at)
                if at == ancestor:
                    return True
        except OSError:  # a parent has ended meanwhile
            continue
        return False
    # Of one that goes while we look nothing is known: a box may have handed on its connection and ended at once.
    raise ProcessLookupError(errno.ESRCH, "the peer or a parent of it ended while it was looked at")


def _parent(pid: int) -> int:
    with open(f"/proc/{pid}/stat", "rb") as file:
        stat = file.read()
    return int(stat[stat.rindex(b")") + 2 :].split()[1])
