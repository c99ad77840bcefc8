"""What a box sees of the file system: a plan of small mounts, carried out in its own mount namespace, and a new root.

Runs in init of a box, before the job is forked (modes a and b). First everything that will be shown is cloned (open_tree(2))
into detached mounts, so that nothing laid over the old tree can hide it; then the new root is put together on a staging
directory, parents before what lies in them; last pivot_root(2) makes it the root and the old one is detached. Every mount is
made read-only, nosuid and nodev as a whole tree (mount_setattr(2), since Linux 5.12) before it can be seen.

Two kinds of root. `host`: the host's own tree, read-only, with private /tmp, /var/tmp, /dev and /dev/shm, and what is hidden
covered. `system`: an empty root with the system's read-only trees and nothing else of the host.
"""

import errno
import functools
import os
import stat
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Protocol

from lnmt_scheduler.sandbox import syscalls

HOST, SYSTEM = "host", "system"
#: realpath(), asked once for each path while a plan is made.
_Resolve = Callable[[str], str]
#: Where the new root is put together: a directory that every system has, in a mount namespace where nobody misses it.
STAGE = "/tmp"

_SYSTEM_TREES = ("/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/etc", "/opt")
#: Entries of one directory that rules are made for.
_SPELLED_OUT = 5000
DEVICES = ("null", "zero", "full", "random", "urandom")
_DEV_LINKS = {"fd": "/proc/self/fd", "stdin": "fd/0", "stdout": "fd/1", "stderr": "fd/2"}
_LOCKED_DOWN = syscalls.MOUNT_ATTR_RDONLY | syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV
#: What of a /proc that is shown in full is only to be read, and what not even that.
_PROC_READ_ONLY = ("sys", "sysrq-trigger", "irq", "bus", "fs")
_PROC_COVERED = ("kcore", "keys", "timer_list", "sched_debug", "kallsyms", "kmsg")


@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """What a policy says of files. Absolute paths; a link is followed, and its name leads to the same place in the box."""

    root: str = HOST
    writable: tuple[str, ...] = ()
    #: Shown although the root would not have it, or something private covers it.
    readable: tuple[str, ...] = ()
    #: Covered. What is listed above and lies in it is shown all the same.
    hidden: tuple[str, ...] = ()
    #: Bytes of /tmp, /var/tmp and /dev/shm together, roughly; None: the kernel's default, half of the memory.
    tmp_size: int | None = None
    #: own: the box's processes and nothing of the kernel's settings; full: as a container has it; host: with its processes.
    proc: str = "full"


@dataclass(slots=True)
class Workshop:
    """What the operations share while they are carried out: detached mounts, by the path that they are of."""

    clones: dict[str, int] = field(default_factory=dict)


class Operation(Protocol):
    def describe(self) -> str: ...

    def execute(self, shop: Workshop) -> None: ...


@dataclass(frozen=True, slots=True)
class Private:
    """Nothing that is mounted here reaches the host, nor the other way."""

    def describe(self) -> str:
        return "own mounts"

    def execute(self, _: Workshop) -> None:
        syscalls.mount(None, "/", None, syscalls.MS_REC | syscalls.MS_PRIVATE)


@dataclass(frozen=True, slots=True)
class Clone:
    """Take hold of a path with all that is mounted in it, before anything can cover it."""

    path: str
    writable: bool = False
    devices: bool = False

    def describe(self) -> str:
        return f"take {self.path}{'' if self.writable else ' read-only'}"

    def execute(self, shop: Workshop) -> None:
        fd = syscalls.open_tree(self.path)
        shop.clones[self.path] = fd
        attributes = _LOCKED_DOWN
        if self.writable:
            attributes &= ~syscalls.MOUNT_ATTR_RDONLY
        if self.devices:
            attributes &= ~syscalls.MOUNT_ATTR_NODEV
        syscalls.mount_setattr(fd, attributes)


@dataclass(frozen=True, slots=True)
class Attach:
    """Show what was taken, at its place in the new root."""

    path: str
    at: str

    def describe(self) -> str:
        return f"show {self.path}"

    def execute(self, shop: Workshop) -> None:
        fd = shop.clones.pop(self.path)
        try:
            _make_mount_point(self.at, directory=stat.S_ISDIR(os.fstat(fd).st_mode))
            syscalls.move_mount(fd, self.at)
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Tmpfs:
    """An empty file system in memory."""

    at: str
    what: str
    mode: int = 0o755
    size: int | None = None
    devices: bool = False

    def describe(self) -> str:
        return f"empty {self.what}"

    def execute(self, _: Workshop) -> None:
        _make_mount_point(self.at, directory=True)
        flags = syscalls.MS_NOSUID | (0 if self.devices else syscalls.MS_NODEV)
        options = f"mode={self.mode:o}"
        if self.size is not None:
            # An inode costs memory too: one for every 4 KiB, as the kernel's own default has it.
            options += f",size={self.size},nr_inodes={max(64, self.size // 4096)}"
        syscalls.mount("tmpfs", self.at, "tmpfs", flags, options)


@dataclass(frozen=True, slots=True)
class Seal:
    """Make a file system of ours read-only, now that everything is in it."""

    at: str
    what: str

    def describe(self) -> str:
        return f"{self.what} read-only"

    def execute(self, _: Workshop) -> None:
        fd = os.open(self.at, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            syscalls.mount_setattr(fd, syscalls.MOUNT_ATTR_RDONLY, recursive=False)
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class Link:
    target: str
    at: str

    def describe(self) -> str:
        return f"link {os.path.basename(self.at)} -> {self.target}"

    def execute(self, _: Workshop) -> None:
        os.makedirs(os.path.dirname(self.at), mode=0o755, exist_ok=True)
        os.symlink(self.target, self.at)


@dataclass(frozen=True, slots=True)
class Proc:
    """A /proc of the box's own pid namespace, or the host's; what could change the kernel in it is read-only or covered."""

    at: str
    kind: str

    def describe(self) -> str:
        return "the host's /proc" if self.kind == "host" else f"own /proc ({self.kind})"

    def execute(self, _: Workshop) -> None:
        _make_mount_point(self.at, directory=True)
        flags = syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        if self.kind == "host":
            _attach(
                "/proc", self.at, syscalls.MOUNT_ATTR_NOSUID | syscalls.MOUNT_ATTR_NODEV | syscalls.MOUNT_ATTR_NOEXEC
            )
        else:
            syscalls.mount("proc", self.at, "proc", flags, "subset=pid" if self.kind == "own" else None)
        if self.kind == "own":
            return
        for name in _PROC_READ_ONLY:
            path = os.path.join(self.at, name)
            if os.path.exists(path):
                _attach(path, path, _LOCKED_DOWN | syscalls.MOUNT_ATTR_NOEXEC)
        for name in _PROC_COVERED:
            path = os.path.join(self.at, name)
            if os.path.exists(path):
                _cover(path)


@dataclass(frozen=True, slots=True)
class Cover:
    """Put nothing in the place of a path."""

    path: str
    at: str

    def describe(self) -> str:
        return f"hide {self.path}"

    def execute(self, _: Workshop) -> None:
        _cover(self.at)


@dataclass(frozen=True, slots=True)
class Pivot:
    """Make the staging directory the root, and let go of the old one."""

    stage: str

    def describe(self) -> str:
        return "the new root"

    def execute(self, _: Workshop) -> None:
        os.chdir(self.stage)
        # Old and new root at one place: no directory in the new root is needed for the old one (pivot_root(2)).
        syscalls.pivot_root(".", ".")
        syscalls.umount2(".", syscalls.MNT_DETACH)
        os.chdir("/")


def plan(view: View) -> list[Operation]:
    """The operations that make this view, in order. OSError if a link leads into what is hidden."""
    real = functools.cache(os.path.realpath)
    roots = ["/"] if view.root == HOST else [path for path in _SYSTEM_TREES if os.path.isdir(path)]
    root_links = {path: os.readlink(path) for path in roots if os.path.islink(path)}
    trees = [path for path in roots if path not in root_links]
    private = ["/tmp", "/var/tmp"] if view.root == HOST else ["/tmp"]
    # All by their real names: a link in the new root would lead back into the old one while that is still the root.
    hidden = {real(path) for path in view.hidden}
    bare = [*private, "/dev", *hidden]
    shown = {each for each in _shown(view, trees, bare, real) if each[0] not in hidden}
    seen = [*trees, *(path for path, _ in shown)]
    # /bin is a link to a tree itself on most systems, so what is named by it is seen too.
    names = [*seen, *root_links]
    links = {name: real for name, real in _links(view, hidden, real).items() if not _is_seen(name, names, bare)}
    covered = {path for path in hidden if os.path.lexists(path) and _is_seen(path, seen, bare)}
    devices = [f"/dev/{name}" for name in DEVICES]
    operations: list[Operation] = [Private()]
    operations += [Clone(path) for path in trees]
    operations += [Clone(path, devices=True) for path in devices]
    operations += [Clone(path, writable=writable) for path, writable in sorted(shown)]
    if view.root == HOST:
        operations.append(Attach("/", STAGE))
    else:
        operations.append(Tmpfs(STAGE, "root"))
        operations += [Attach(path, STAGE + path) for path in trees]
        operations += [Link(target, STAGE + path) for path, target in root_links.items()]
    share = None if view.tmp_size is None else max(4096, view.tmp_size // 2)
    operations += [Tmpfs(STAGE + path, path, mode=0o1777, size=share) for path in private]
    operations += [Tmpfs(f"{STAGE}/dev", "/dev", devices=True)]
    operations += [Attach(path, STAGE + path) for path in devices]
    operations += [Link(target, f"{STAGE}/dev/{name}") for name, target in _DEV_LINKS.items()]
    operations += [Tmpfs(f"{STAGE}/dev/shm", "/dev/shm", mode=0o1777, size=share), Seal(f"{STAGE}/dev", "/dev")]
    operations.append(Proc(f"{STAGE}/proc", view.proc))
    operations += _lay_out({path for path, _ in shown}, hidden, covered, links)
    if view.root == SYSTEM:
        operations.append(Seal(STAGE, "root"))
    operations.append(Pivot(STAGE))
    return operations


def _shown(view: View, trees: Iterable[str], covers: Iterable[str], real: _Resolve) -> set[tuple[str, bool]]:
    """(path, writable) of what takes a mount of its own: what is only to be read and is in a tree anyway does not."""
    writable = {real(path) for path in view.writable}
    readable = {real(path) for path in view.readable} - writable
    needed = {path for path in readable if not is_within(path, trees) or is_within(path, [*covers, *writable])}
    return {(path, True) for path in writable} | {(path, False) for path in needed}


def _links(view: View, hidden: set[str], real: _Resolve) -> dict[str, str]:
    """name -> where it leads, of the links among the names of what is shown.

    A job may have made such a link. It must not show what is hidden, unless the name itself says so.
    """
    found = {}
    refuse_strays((*view.writable, *view.readable), view.writable, real)
    for name in map(os.path.normpath, (*view.writable, *view.readable)):
        there = real(name)
        if is_within(there, hidden) and not is_within(name, (*hidden, *view.hidden)):
            raise PermissionError(errno.EPERM, f"leads to {there}, which is hidden", name)
        if there != name:
            found[name] = there
    return found


def refuse_strays(names: Iterable[str], writable: Iterable[str], real: _Resolve = os.path.realpath) -> None:
    """PermissionError if a name within what the job may write to leads out of it: a run before may have made that link."""
    places = {os.path.normpath(place): real(place) for place in writable}
    for name in map(os.path.normpath, names):
        target = real(name)
        for place, there in places.items():
            if is_within(name, [place]) and not is_within(target, [there]):
                raise PermissionError(
                    errno.EPERM, f"leads to {target}, out of {place}, which the job may write to", name
                )


def _is_seen(path: str, seen: list[str], bare: list[str]) -> bool:
    """Whether what the host has at a path is in the new root: of the places that it lies in, the deepest decides."""
    parent = os.path.dirname(path)
    deepest = max((place for place in (*seen, *bare) if is_within(parent, [place])), key=len, default="")
    return deepest in seen


def _lay_out(shown: set[str], hidden: set[str], covered: set[str], links: dict[str, str]) -> list[Operation]:
    """Show and hide from the root down, so that of two paths the deeper one decides; and close what was left open for it.

    Of what is hidden only `covered` would be seen.
    """
    operations: list[Operation] = []
    seals: list[Operation] = []
    for path in sorted({*shown, *hidden, *links}):
        if path in links:
            operations.append(Link(links[path], STAGE + path))
        elif path in shown:
            operations.append(Attach(path, STAGE + path))
        elif any(inside.startswith(f"{path}/") for inside in (*shown, *links)):
            operations.append(Tmpfs(STAGE + path, f"{path} (hidden)", mode=0o111))
            seals.append(Seal(STAGE + path, path))
        elif path in covered:
            operations.append(Cover(path, STAGE + path))
    return [*operations, *seals]


def is_within(path: str, trees: Iterable[str]) -> bool:
    """Whether a path is one of the trees or lies in one."""
    return any(path == tree or path.startswith(f"{tree.rstrip('/')}/") for tree in trees)


def enter(operations: Iterable[Operation]) -> None:
    """Carry out a plan. OSError says which operation failed."""
    shop = Workshop()
    # What is made must be open to whoever the job runs as; the daemon's own mask may be strict.
    mask = os.umask(0o022)
    try:
        for operation in operations:
            try:
                operation.execute(shop)
            except OSError as error:
                raise OSError(error.errno, f"{operation.describe()}: {error.strerror or error}") from error
    finally:
        os.umask(mask)
        for fd in shop.clones.values():
            os.close(fd)


def _make_mount_point(path: str, *, directory: bool) -> None:
    """Make the place if it is not there; in a read-only tree it has to be."""
    if os.path.lexists(path):
        return
    if directory:
        os.makedirs(path, mode=0o755)
    else:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.close(os.open(path, os.O_CREAT | os.O_WRONLY | os.O_CLOEXEC, 0o644))


def _cover(path: str) -> None:
    """An empty directory that nobody can enter, or nothing to read, in the place of what is there."""
    if os.path.isdir(path):
        flags = syscalls.MS_RDONLY | syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC
        syscalls.mount("tmpfs", path, "tmpfs", flags, "mode=000,size=4k,nr_inodes=2")
    else:
        _attach("/dev/null", path, _LOCKED_DOWN)


def _attach(path: str, at: str, attributes: int) -> None:
    """Show a path of the old tree at a place, which may be its own, with these attributes."""
    fd = syscalls.open_tree(path)
    try:
        syscalls.mount_setattr(fd, attributes)
        syscalls.move_mount(fd, at)
    finally:
        os.close(fd)
