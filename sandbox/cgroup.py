"""Control groups: one leaf for every attempt, which limits, counts and kills all that the job starts.

The launcher calls this, single-threaded, so every function is a few small file operations and none waits. The job joins
by writing to descriptors that were opened before it gave up its rights; its init stays outside, so that running out of
memory cannot take the one who reports it. Limits come from v2 or v1 controllers, whichever the host has bound;
`cgroup.kill` also from a v2 mount without any. Which of that works is tried out with a real leaf, once, by find().
Only directories named lnmt-* are made or removed, in the trees that `hierarchies` found to be ours.
"""

import contextlib
import errno
import functools
import os
import re
import signal
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from lnmt_scheduler.sandbox import controllers, hierarchies

CGROUP_KILL, FREEZER, SIGNALS = "cgroup.kill", "freezer", "signals"

_NAME = re.compile(r"[A-Za-z0-9._-]{1,128}")
_OWNED = re.compile(rf"{hierarchies.PREFIX}(\d+)\.(\d+)-")


#: Small enough for any parent that has limits itself.
_PROBE = controllers.Limits(memory=64 << 20, swap=0, pids=64, cpu=0.01, io_weight=100)


@dataclass(frozen=True, slots=True)
class Leaf:
    """The cgroups of one attempt: one directory in every tree that it needs."""

    name: str
    nodes: tuple[hierarchies.Tree, ...]
    #: CGROUP_KILL, FREEZER or SIGNALS.
    kill_by: str
    #: Swap can be limited here.
    holds_swap: bool = False

    def limit(self, limits: controllers.Limits) -> None:
        """Set these limits, also on who is in it already; memory without a word on swap means no swap.

        OSError names the file that could not be written.
        """
        if limits.memory is not None and limits.swap is None and self.holds_swap:
            limits = replace(limits, swap=0)
        for node in self.nodes:
            controllers.apply(node, limits)

    def enter_fds(self) -> list[int]:
        """Descriptors for join(), close-on-exec and the caller's to close; OSError with the path."""
        with contextlib.ExitStack() as undo:
            fds = []
            for node in self.nodes:
                fds.append(os.open(f"{node.path}/cgroup.procs", os.O_WRONLY | os.O_CLOEXEC))
                undo.callback(os.close, fds[-1])
            undo.pop_all()
            return fds

    def kill_fd(self) -> int:
        """A descriptor, the caller's, for who kills the leaf by writing "1" to it. OSError (ENOTSUP) without cgroup.kill."""
        for node in self.nodes:
            if node.version == 2 and self.kill_by == CGROUP_KILL:
                return os.open(f"{node.path}/{CGROUP_KILL}", os.O_WRONLY | os.O_CLOEXEC)
        raise OSError(errno.ENOTSUP, f"{self.name} has no {CGROUP_KILL}")

    def kill(self) -> None:
        """SIGKILL to every process in the leaf.

        With cgroup.kill one call is enough, and the kernel sees to forks. Otherwise a fork can slip through: call again
        until is_empty(). A leaf that is gone has nobody to kill.
        """
        try:
            if self.kill_by == CGROUP_KILL:
                hierarchies.write(next(f"{node.path}/cgroup.kill" for node in self.nodes if node.version == 2), "1")
            else:
                self._kill_each()
        except OSError as error:
            if error.errno not in hierarchies.GONE:
                raise

    def _kill_each(self) -> None:
        """One pass over all, frozen meanwhile where there is a freezer: a frozen process cannot fork."""
        freezers = [f"{node.path}/freezer.state" for node in self.nodes if "freezer" in node.controllers]
        for file in freezers:
            hierarchies.write(file, "FROZEN")
        try:
            # A process of a foreign pid namespace is listed as 0.
            for pid in {pid for node in self.nodes for pid in _processes(node.path)} - {0}:
                self._kill_one(pid)
        finally:
            for file in freezers:
                hierarchies.write(file, "THAWED")

    def _kill_one(self, pid: int) -> None:
        """A pid may have passed to a stranger since it was read; what the pidfd holds must still be in this leaf."""
        try:
            pidfd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        try:
            with open(f"/proc/{pid}/cgroup", "rb") as file:
                if os.fsencode(self.name) in file.read():
                    signal.pidfd_send_signal(pidfd, signal.SIGKILL)
        except (FileNotFoundError, ProcessLookupError):
            pass
        finally:
            os.close(pidfd)

    def is_empty(self) -> bool:
        """No live process is left; zombies do not count."""
        for node in self.nodes:
            if node.version == 2:
                if controllers.table(f"{node.path}/cgroup.events").get("populated", 0):
                    return False
            elif any(True for _ in _processes(node.path)):
                return False
        return True

    def usage(self) -> controllers.Usage:
        """Read the counters: at any time, and to the end after the last process has gone, before remove()."""
        return controllers.usage(self.nodes)

    def remove(self) -> bool:
        """Remove the leaf and what cgroups the job made in it; False if processes are left, and so is the leaf."""
        return all(_remove(node.path) for node in self.nodes)


@dataclass(frozen=True, slots=True)
class Host:
    """What control groups can do here."""

    #: v2, v1, hybrid or none.
    layout: str
    #: Where our leaves are made.
    trees: tuple[hierarchies.Tree, ...] = ()
    #: Names of Limits that can really be set.
    limits: frozenset[str] = frozenset()
    #: CGROUP_KILL, FREEZER, SIGNALS (best effort), or None where no leaf can be made at all.
    kill: str | None = None
    #: What does not work, why, and the mend: a sentence each.
    missing: tuple[str, ...] = ()


def find(masked: frozenset[str] = frozenset()) -> Host:
    """Find out by making a leaf and trying; never raises for what a host lacks.

    Call once, before there are threads or children: it may move this process (see `hierarchies`). `masked` names what to
    act without: cgroup, cgroup1, cgroup2, cgroup.kill, or a controller (memory, pids, cpu, cpuacct, io, freezer).
    """
    trees: list[hierarchies.Tree] = []
    missing: list[str] = []
    for hierarchy in hierarchies.here():
        if masked & {"cgroup", f"cgroup{hierarchy.version}"}:
            continue
        try:
            tree, notes = hierarchies.claim(hierarchy, _leaf_name("claim"))
        except OSError as error:
            missing.append(f"cgroup v{hierarchy.version}: {error.strerror}")
            continue
        missing += notes
        tree = replace(tree, controllers=tree.controllers - masked)
        if tree.version == 2 or tree.controllers:
            trees.append(tree)
    if not trees:
        why = missing or ["cgroup: none is mounted or all are masked: mount cgroup2 at /sys/fs/cgroup"]
        return Host("none", missing=tuple(why))
    layout = {frozenset({1}): "v1", frozenset({2}): "v2"}.get(frozenset(tree.version for tree in trees), "hybrid")
    settable, kill, problems = _try_out(trees, masked)
    return Host(layout, tuple(trees), settable, kill, (*missing, *problems))


def _try_out(trees: list[hierarchies.Tree], masked: frozenset[str]) -> tuple[frozenset[str], str | None, list[str]]:
    """Which limits can be set in a real leaf, how one is killed, and what fails."""
    try:
        leaf = Leaf(_leaf_name("probe"), _make(_leaf_name("probe"), trees), SIGNALS)
    except OSError as error:
        return frozenset(), None, [f"cgroup: {error}"]
    try:
        failed = dict.fromkeys(
            _PROBE.names(),
            "no cgroup that we may use has its controller: Delegate=yes in the daemon's unit, or cgroup_enable=NAME on the"
            " kernel's command line",
        )
        for node in leaf.nodes:
            every = controllers.settings(node.version, _PROBE)
            tried = [setting for setting in every if setting.controller in node.controllers]
            for setting in tried:
                failed.pop(setting.limit, None)
            for setting in tried:
                try:
                    hierarchies.write(f"{node.path}/{setting.file}", setting.value)
                except OSError as error:
                    failed[setting.limit] = str(error)
        problems = [f"{name}: {why}" for name, why in sorted(failed.items())]
        kill, problem = _how_to_kill(leaf, masked)
        return _PROBE.names() - failed.keys(), kill, problems + problem
    finally:
        leaf.remove()


def _how_to_kill(leaf: Leaf, masked: frozenset[str]) -> tuple[str, list[str]]:
    why = "cgroup.kill: needs Linux 5.14 and a cgroup2 mount (it may be empty): mount -t cgroup2 none /sys/fs/cgroup/unified"
    for node in leaf.nodes:
        if node.version == 2 and CGROUP_KILL not in masked:
            try:
                hierarchies.write(f"{node.path}/cgroup.kill", "1")
            except OSError as error:
                why = f"cgroup.kill: {error}"
            else:
                return CGROUP_KILL, []
    return (FREEZER if any("freezer" in node.controllers for node in leaf.nodes) else SIGNALS), [why]


def create(host: Host, name: str, limits: controllers.Limits) -> Leaf:
    """make() and limit() in one: the leaf has all its limits, and nobody in it. If one cannot be set nothing is left."""
    leaf = make(host, name, limits.names())
    try:
        leaf.limit(limits)
    except OSError:
        leaf.remove()
        raise
    return leaf


def make(host: Host, name: str, limits: frozenset[str]) -> Leaf:
    """Make the leaf `name` (unique in this daemon's life), for limits of these names, with none set and nobody in it.

    OSError names the file if it cannot be had, and then nothing is left; a limit that the host cannot set is such an error:
    ask for `limits.only(host.limits)` to do without. ValueError for a name that is no file name.
    """
    if not _NAME.fullmatch(name):
        raise ValueError(f"{name!r} is no name for a cgroup: letters, digits, dot, dash, at most 128")
    if lacking := sorted(limits - host.limits):
        raise OSError(errno.ENOTSUP, f"no cgroup here can limit {', '.join(lacking)}: {'; '.join(host.missing)}")
    if host.kill is None:
        raise OSError(errno.ENOTSUP, f"no cgroup can be made here: {'; '.join(host.missing)}")
    full_name = _leaf_name(name)
    return Leaf(full_name, _make(full_name, _needed(host, limits)), host.kill, holds_swap="swap" in host.limits)


def join(fds: Iterable[int]) -> None:
    """Enter a leaf, in the job's own process, and close its descriptors; OSError if the leaf has been removed.

    The kernel asks for the rights of whoever opened them, so this works after a change of user as well.
    """
    for fd in fds:
        os.write(fd, b"0")
        os.close(fd)


def sweep(host: Host) -> list[str]:
    """Remove the leaves that dead daemons left in our trees; the paths of those that could not be removed."""
    busy = []
    for tree in host.trees:
        for entry in list(os.scandir(tree.path)):
            owned = _OWNED.match(entry.name)
            if owned is None or _started(int(owned[1])) == int(owned[2]):
                continue
            try:
                removed = _remove(entry.path)
            except OSError:  # another account's
                removed = False
            if not removed:
                busy.append(entry.path)
    return busy


def _needed(host: Host, limits: frozenset[str]) -> list[hierarchies.Tree]:
    """The trees that count, limit or kill for this leaf; every directory costs time, most of all in `memory`."""
    uses = {"memory", "pids"} | {controllers.CONTROLLER[name] for name in limits}
    if not any(tree.version == 2 for tree in host.trees):  # every v2 cgroup counts the processor's time by itself
        uses.add("cpuacct")
    if host.kill == FREEZER:
        uses.add("freezer")
    return [tree for tree in host.trees if tree.version == 2 or tree.controllers & uses] or list(host.trees)


def _make(name: str, trees: list[hierarchies.Tree]) -> tuple[hierarchies.Tree, ...]:
    nodes: list[hierarchies.Tree] = []
    try:
        for tree in trees:
            path = f"{tree.path}/{name}"
            os.mkdir(path)
            nodes.append(replace(tree, path=path))
    except OSError:
        for node in nodes:
            _remove(node.path)
        raise
    return tuple(nodes)


def _leaf_name(name: str) -> str:
    """Whose it is can be told from the name: several daemons may share a tree, and one sweeps it."""
    return f"{hierarchies.PREFIX}{_owner(os.getpid())}-{name}"


@functools.cache
def _owner(pid: int) -> str:
    return f"{pid}.{_started(pid)}"


def _started(pid: int) -> int | None:
    """Clock ticks from boot to the start of a process, which tells it from a later one of that number; proc(5)."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[19])
    except (FileNotFoundError, ProcessLookupError):
        return None


def _remove(path: str) -> bool:
    """Remove a cgroup and those below it; False if one holds processes."""
    try:
        os.rmdir(path)
    except FileNotFoundError:
        return True
    except OSError as error:
        if error.errno != errno.EBUSY:
            raise
        below = _all_below(path)
        return bool(below) and all(_remove(each) for each in reversed(below)) and _remove(path)
    return True


def _all_below(path: str) -> list[str]:
    """The cgroups in a cgroup, parents first."""
    found = [path]
    for directory in found:  # which grows on the way
        try:
            found += [entry.path for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)]
        except FileNotFoundError:
            pass
    return found[1:]


def _processes(path: str) -> Iterator[int]:
    """Processes of a cgroup and of those that the job made below it."""
    for directory in [path, *_all_below(path)]:
        yield from (int(line) for line in hierarchies.read(f"{directory}/cgroup.procs").splitlines())
