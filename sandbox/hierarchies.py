"""Where on this host the daemon may make control groups: cgroups(7), Documentation/admin-guide/cgroup-v2.rst.

The launcher asks once, at its start, before it has a child. What /proc says is parsed by pure functions; claiming a
hierarchy means to find a directory in which we may make others: the cgroup that we are in, or for root the top. On v2 a
cgroup cannot both hold processes and share out its controllers, so in a delegated one the launcher first moves itself to
a leaf of its own. It never moves anyone else, never changes the owner of a file, and never enables a controller where
others have their cgroups too.

A limit must not vanish under a job that runs. systemd takes controllers back from cgroups that it has not delegated: at the
next daemon-reload from a unit's own, and from the top as soon as no unit needs one there. So under systemd root does without
its own cgroup unless that is delegated, and counts at the top only on what systemd needs for every unit.
"""

import errno
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass

#: The leaf that the daemon itself lives in once it shares out the controllers of a delegated v2 cgroup.
DAEMON = "lnmt-daemon"
PREFIX = "lnmt-"

#: Controllers that a box can use, by our names; `blkio` of v1 is `io`, as on v2.
CONTROLLERS = frozenset({"memory", "pids", "cpu", "cpuacct", "io", "freezer"})
_OLD_NAMES = {"blkio": "io"}

#: What the kernel says of a cgroup that was removed, by path or by an open file.
GONE = (errno.ENOENT, errno.ENODEV)

_SYSTEMD_RUNS = "/run/systemd/system"
#: What systemd keeps on at the top: DefaultMemoryAccounting= and DefaultTasksAccounting= are on, systemd-system.conf(5).
_SYSTEMD_KEEPS = frozenset({"memory", "pids"})


@dataclass(frozen=True, slots=True)
class Hierarchy:
    """One mounted tree of cgroups."""

    #: 1 or 2.
    version: int
    #: Where it is mounted.
    top: str
    #: The directory of this process in it; None if the mount does not show it.
    own: str | None
    #: v1: the controllers bound to it. v2: none here, since they differ by directory.
    controllers: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Tree:
    """A directory in which we may make cgroups (or one such cgroup), and the controllers that work there."""

    version: int
    path: str
    controllers: frozenset[str] = frozenset()


def here() -> list[Hierarchy]:
    """The hierarchies that this process sees; none where /proc has no cgroups."""
    try:
        with open("/proc/self/cgroup") as cgroups, open("/proc/self/mountinfo") as mounts:
            return parse(cgroups.read(), mounts.read())
    except FileNotFoundError:
        return []


def parse(cgroups: str, mounts: str) -> list[Hierarchy]:
    """Join /proc/self/cgroup and /proc/self/mountinfo: every hierarchy of use once, where it shows us if it does."""
    paths = {}
    for line in cgroups.splitlines():
        _, names, path = line.split(":", 2)
        paths[frozenset(names.split(",")) - {""}] = path
    found: dict[frozenset[str], Hierarchy] = {}
    for line in mounts.splitlines():
        fields = line.split()
        kind, _, options = fields[fields.index("-") + 1 :][:3]
        if kind not in {"cgroup", "cgroup2"}:
            continue
        bound = frozenset(options.split(",")) if kind == "cgroup" else frozenset[str]()
        key = next((names for names in paths if names <= bound and bool(names) == (kind == "cgroup")), None)
        controllers = frozenset(_OLD_NAMES.get(name, name) for name in key or ()) & CONTROLLERS
        if key is None or (kind == "cgroup" and not controllers):
            continue
        top = _unescape(fields[4])
        own = _below(paths[key], _unescape(fields[3]), top)
        if key not in found or found[key].own is None:
            found[key] = Hierarchy(1 if key else 2, top, own, controllers)
    return list(found.values())


def _unescape(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _below(path: str, root: str, top: str) -> str | None:
    """Where `path` of a hierarchy is seen, if its directory `root` is mounted at `top`."""
    relative = os.path.relpath(path, root)
    if relative.startswith(".."):
        return None
    return os.path.normpath(os.path.join(top, relative))


def claim(hierarchy: Hierarchy, probe: str) -> tuple[Tree, list[str]]:
    """The directory for our cgroups, and in words what is wrong with it; OSError says why there is none.

    `probe` is the name of a directory that is made and removed to see whether one can be. May move this process to
    the leaf lnmt-daemon of its own v2 cgroup.
    """
    refusals: list[str] = []
    for home in _candidates(hierarchy):
        try:
            os.mkdir(os.path.join(home, probe))
            os.rmdir(os.path.join(home, probe))
            if hierarchy.version == 1:
                return Tree(1, home, hierarchy.controllers), []
            tree, notes = _share_out(home)
        except OSError as error:
            refusals.append(f"{home}: {_mend(hierarchy, error)}")
        else:
            return tree, [*refusals, *notes]
    where = f"{hierarchy.top} does not show the cgroup of this process: mount it inside the daemon's own container"
    raise OSError(errno.EACCES, "; ".join(refusals) or where)


def _candidates(hierarchy: Hierarchy) -> Iterator[str]:
    if hierarchy.own is not None:
        # A daemon that was started by itself is in its leaf already.
        yield hierarchy.own.removesuffix(f"/{DAEMON}")
    if os.geteuid() == 0 and hierarchy.own != hierarchy.top:
        yield hierarchy.top


def _share_out(home: str) -> tuple[Tree, list[str]]:
    """Let the cgroups below `home` of a v2 hierarchy have its controllers; OSError if no one of them can be had."""
    offered = _words(f"{home}/cgroup.controllers") & CONTROLLERS
    enabled = _words(f"{home}/cgroup.subtree_control") & CONTROLLERS
    kept = _SYSTEMD_KEEPS if _is_top(home) and os.path.isdir(_SYSTEMD_RUNS) else CONTROLLERS
    if not _is_top(home) and _may_be_taken_back(home):
        raise OSError(
            errno.ENOTSUP, "systemd takes limits back there when it reloads: Delegate=yes in the daemon's unit"
        )
    notes = []
    if unsure := sorted((offered & enabled) - kept):
        notes.append(f"{home}: {', '.join(unsure)}: systemd may take these back at any time: start with Delegate=yes")
    lacking = sorted((offered - enabled) & kept)
    if lacking and _is_top(home) and (other := _not_ours(home)):
        notes.append(f"{home}: {', '.join(lacking)}: off, and {other} is not ours to disturb: start with Delegate=yes")
    elif lacking:
        if not _is_top(home):
            _move_to_leaf(home)
        for name in lacking:  # each by itself, since the kernel takes all of one line or nothing
            try:
                write(f"{home}/cgroup.subtree_control", f"+{name}")
                enabled |= {name}
            except OSError as error:
                notes.append(f"{name}: {error}")
    if offered and not enabled & kept:
        raise OSError(errno.ENOTSUP, "; ".join(notes))
    return Tree(2, home, enabled & kept), notes


def _move_to_leaf(home: str) -> None:
    """Leave `home` to its children; OSError EBUSY if we are not alone in it."""
    with open(f"{home}/cgroup.procs") as file:
        others = {int(line) for line in file} - {os.getpid()}
    if others:
        raise OSError(errno.EBUSY, f"{len(others)} other processes are in it, such as {min(others)}")
    os.makedirs(f"{home}/{DAEMON}", exist_ok=True)
    write(f"{home}/{DAEMON}/cgroup.procs", "0")


def _is_top(directory: str) -> bool:
    """The true top of a v2 hierarchy (not of a cgroup namespace) is no cgroup like the others and has no type."""
    return not os.path.exists(f"{directory}/cgroup.type")


def _not_ours(directory: str) -> str | None:
    """A cgroup of somebody else in a directory."""
    with os.scandir(directory) as entries:
        return next((each.name for each in entries if each.is_dir() and not each.name.startswith(PREFIX)), None)


def _may_be_taken_back(home: str) -> bool:
    """For root every cgroup is writable; systemd marks those that it has handed over, with all that lies in them."""
    if os.geteuid() != 0 or not os.path.isdir(_SYSTEMD_RUNS):
        return False
    while not _is_top(home):
        for mark in ("trusted.delegate", "user.delegate"):
            try:
                if os.getxattr(home, mark) == b"1":
                    return False
            except OSError:
                continue
        home = os.path.dirname(home)
    return True


def _mend(hierarchy: Hierarchy, error: OSError) -> str:
    match error.errno:
        case errno.EACCES | errno.EPERM if hierarchy.version == 2:
            return (
                f"uid {os.geteuid()} may not make cgroups there: Delegate=yes in the daemon's systemd unit, or"
                " `systemd-run --user --scope -p Delegate=yes schedd` for a daemon of your own"
            )
        case errno.EACCES | errno.EPERM:
            return f"uid {os.geteuid()} may not make cgroups there: cgroup v1 wants root; boot with cgroup v2, or run as root"
        case errno.EROFS:
            return "mounted read-only: mount it writable for the daemon's container"
        case errno.EBUSY:
            return f"{error.strerror}: start the daemon as a systemd service with Delegate=yes, alone in its cgroup"
        case _:
            return str(error.strerror)


def _words(path: str) -> frozenset[str]:
    with open(path) as file:
        return frozenset(file.read().split())


def write(path: str, text: str) -> None:
    """One write(2) to a control file that is there; OSError names the path and what was written."""
    try:
        fd = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, text.encode())
        finally:
            os.close(fd)
    except OSError as error:
        raise OSError(error.errno, f"cannot write {text!r}: {os.strerror(error.errno or 0)}", path) from error


def read(path: str) -> str:
    """A control file; empty if this kernel has none of that name, or the cgroup is gone."""
    try:
        with open(path) as file:
            return file.read()
    except OSError as error:
        if error.errno not in GONE:
            raise
        return ""
