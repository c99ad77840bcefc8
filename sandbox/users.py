"""Users of their own for boxes: numbers that no account has and no two living boxes share.

The range is left unused by systemd's table of uids and gids, and by Debian's; an administrator may name another, of which
nothing may belong to the host. A number is used again only when its box is empty, and when all others have had their turn: what
it owned outside its box stays its own, such as the state directory until the job's next run, and whoever has the number next
may read and change that.
"""

import errno
import grp
import os
import pwd
import re
import socket
import stat
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from lnmt_scheduler.sandbox import filesystem, policy

#: Below are the accounts of a system; the highest number but one means "no change" to the kernel (setresuid(2)).
_LOWEST, _HIGHEST = 1000, (1 << 32) - 2
#: What an older program makes of -1 (credentials(7)).
_NOBODYS = 65535


@dataclass(frozen=True, slots=True)
class Range:
    first: int
    last: int

    def __str__(self) -> str:
        return f"{self.first}-{self.last}"

    def __len__(self) -> int:
        return self.last - self.first + 1

    def __contains__(self, number: int) -> bool:
        return self.first <= number <= self.last


DEFAULT = Range(1879048192, 1879052287)


def parse(text: str) -> Range:
    """The range that FIRST-LAST means. ValueError if it is none, or cannot be one of users."""
    found = re.fullmatch(r"\s*(\d{1,10})\s*-\s*(\d{1,10})\s*", text, re.ASCII)
    if found is None:
        raise ValueError(f"{text[:80]!r} is no range of uids, such as {DEFAULT}")
    numbers = Range(int(found[1]), int(found[2]))
    if numbers.last < numbers.first:
        raise ValueError(f"{numbers} ends before it begins")
    if numbers.first < _LOWEST or numbers.last > _HIGHEST:
        raise ValueError(f"{numbers} must lie in {_LOWEST}-{_HIGHEST}")
    if _NOBODYS in numbers:
        raise ValueError(f"{numbers} has {_NOBODYS} in it, which stands for no user")
    return numbers


def owners(numbers: Range, *, subordinate: tuple[str, ...] = ("/etc/subuid", "/etc/subgid")) -> list[str]:
    """Who on this host has a number of the range, in words: accounts, groups, and those that were lent numbers (subuid(5))."""
    found = [f"account {each.pw_name} ({each.pw_uid})" for each in pwd.getpwall() if each.pw_uid in numbers]
    found += [f"group {each.gr_name} ({each.gr_gid})" for each in grp.getgrall() if each.gr_gid in numbers]
    for path in subordinate:
        for name, lent in _lent(path):
            if lent.first <= numbers.last and numbers.first <= lent.last:
                found.append(f"{name} by {path} ({lent})")
    return found


def _lent(path: str) -> Iterator[tuple[str, Range]]:
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines()
    except OSError:
        return
    for line in lines:
        match = re.fullmatch(r"([^:#]+):(\d{1,10}):(\d{1,10})", line.strip(), re.ASCII)
        if match is not None and int(match[3]):
            yield match[1], Range(int(match[2]), int(match[2]) + int(match[3]) - 1)


def closed_above(path: str) -> list[str]:
    """The directories on the way to a path that a user of its own may not pass, from the root on; links are not followed up.

    Such a user is in no group and on no list of access (acl(5)), so the bits for others decide.
    """
    found = []
    place = "/"
    for part in os.path.normpath(path).split("/")[1:]:
        try:
            if not os.stat(place, follow_symlinks=False).st_mode & stat.S_IXOTH:
                found.append(place)
        except OSError:  # not there, or not ours to see: the run will tell
            break
        place = os.path.join(place, part)
    return found


def open_ways(wanted: policy.Policy) -> policy.Policy:
    """The same, for a user of its own: what is shown it also reaches in a directory that is closed to it, such as a home.

    An empty one stands in its place, in which nothing else is seen. (An empty root has no others.) Only names count, not
    what they lead to: a link may be the job's own work, and must open nothing.
    """
    if wanted.root != filesystem.HOST:
        return wanted
    own = () if wanted.state_directory is None else (wanted.state_directory,)
    closed = {place for path in (*wanted.readable, *wanted.writable, *own) for place in closed_above(path)}
    # A link of the host's own tree needs no showing where what it leads to is shown by its name.
    readable = tuple(path for path in wanted.readable if not (closed and _leads_to_another(path, wanted.readable)))
    return replace(wanted, hidden=tuple(sorted({*wanted.hidden, *closed})), readable=readable)


def _leads_to_another(path: str, shown: Iterable[str]) -> bool:
    real = os.path.realpath(path)
    covered = filesystem.is_within(path, ("/tmp", "/var/tmp", "/dev"))
    return real != path and not covered and filesystem.is_within(real, [each for each in shown if each != path])


class Pool:
    """The launcher's; not shared between daemons, whose boxes cannot see each other."""

    def __init__(self, numbers: Range = DEFAULT) -> None:
        self._numbers = numbers
        self._held: set[int] = set()
        # From anywhere on: from the first on, the runs after a restart would be given what belonged to those before it.
        self._next = numbers.first + int.from_bytes(os.urandom(8)) % len(numbers)

    def take(self) -> int:
        """The next number, round and round, that no living box has. OSError (EAGAIN) if all are taken."""
        if len(self._held) == len(self._numbers):
            raise BlockingIOError(errno.EAGAIN, f"all {len(self._numbers)} uids for boxes, {self._numbers}, are in use")
        while (uid := self._step()) in self._held:
            pass
        self._held.add(uid)
        return uid

    def give_back(self, uid: int) -> None:
        self._held.discard(uid)

    def _step(self) -> int:
        uid = self._next
        self._next = uid + 1 if uid < self._numbers.last else self._numbers.first
        return uid


def reserve(numbers: Range = DEFAULT) -> tuple[int, socket.socket]:
    """A number for a box that no daemon starts, and what holds it for this host until it is closed; from the range's end.

    One that an account has is passed over. OSError (EAGAIN) if none is free.
    """
    for uid in range(numbers.last, numbers.first - 1, -1):
        holder = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC)
        try:
            holder.bind(f"\0lnmt-uid-{uid}")
            if not _has_account(uid):
                return uid, holder
        except OSError:
            pass
        holder.close()
    raise BlockingIOError(errno.EAGAIN, f"all uids for boxes, {numbers}, are in use")


def _has_account(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True
