"""What a policy says of files, as landlock rules: for boxes that can have no mounts of their own (modes c and d).

Built in the job's own process, on its way to the first line. A rule can only allow, and holds for all below a directory; so
what is hidden is left out by naming everything that lies beside it, as it is at that moment. Directories on the way to
something hidden, / and /etc among them, can be passed through and not listed.
"""

import errno
import os
from collections.abc import Iterable

from lnmt_scheduler.sandbox import filesystem, landlock, policy

#: Private where there are mounts; here a job gets a directory of its own in their place, and a few devices.
_WITHHELD = ("/tmp", "/var/tmp", "/dev")
#: Entries of one directory that rules are made for.
_SPELLED_OUT = 5000


def rules(wanted: policy.Policy, temporary: str | None) -> landlock.Rules:
    """Read all but what is hidden, write what was given, the state directory and `temporary`. OSError as without() has it."""
    own = [path for path in (wanted.state_directory, temporary) if path is not None]
    hidden = {os.path.realpath(path) for path in wanted.hidden}
    filesystem.refuse_strays((*wanted.writable, *wanted.readable), (*wanted.writable, *own))
    read = [*without(["/"], hidden | {*_WITHHELD}), *without(wanted.readable, hidden)]
    devices = [f"/dev/{name}" for name in filesystem.DEVICES]
    write = [*without(wanted.writable, hidden), *own]
    return landlock.Rules(
        readable=tuple(read),
        writable=(*write, *devices),
        # From Linux 7.1 on, what is hidden cannot be connected to either; before, the daemon's socket refuses by itself.
        sockets=(*read, *write),
        optional=frozenset(read) - set(wanted.readable),
        scope_abstract=True,
    )


def without(paths: Iterable[str], hidden: Iterable[str]) -> list[str]:
    """These paths, with one that holds something hidden replaced by all that lies beside it; links are left out.

    Hidden paths must be free of links. A directory that cannot be read is left out. OSError (E2BIG) if one that is to be
    spelled out has more than 5000 entries.
    """
    covered = {*hidden}
    found = []
    waiting = [os.path.realpath(path) for path in paths]
    while waiting:
        path = waiting.pop()
        if path in covered:
            continue
        if not any(filesystem.is_within(each, [path]) for each in covered):
            found.append(path)
            continue
        try:
            with os.scandir(path) as entries:
                names = [entry.path for entry in entries if not entry.is_symlink()]
        except OSError:
            continue
        if len(names) > _SPELLED_OUT:
            raise OSError(
                errno.E2BIG, f"what lies beside a hidden path must be named, and {path} has {len(names)} entries"
            )
        waiting += names
    return found
