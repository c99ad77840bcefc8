"""Landlock: what a process, and all that it starts, may do with files, ports and processes outside; needs no privilege.

The launcher asks for the ABI once and makes a plan; the child carries it out after no_new_privs and before seccomp, once
every mount is in place (mounting is forbidden after it), since rules are descriptors of what the paths name there and then.
Layers stack and only ever tighten, up to 16. Where there are no namespaces (mode c) two are used: LEADER on the leader of a
run, the job's own on top, so that the leader's kill(-1) reaches all of the job and nothing else, and the job cannot reach it.

Rights that a kernel does not know are left out, never guessed at, and a plan says which promises that breaks and what it
costs. No ABI covers stat, chmod, chown, utime, extended attributes, chdir, or descriptors that are already open. Nor do
rules for TCP stop MPTCP, fast open, or listen without bind: what must have no network needs a namespace or seccomp.
landlock(7).
"""

import os
import stat
from collections.abc import Iterator
from dataclasses import dataclass

from lnmt_scheduler.sandbox import syscalls

EXECUTE, WRITE_FILE, READ_FILE, READ_DIR, REMOVE_DIR, REMOVE_FILE = (1 << n for n in range(6))
MAKE_CHAR, MAKE_DIR, MAKE_REG, MAKE_SOCK, MAKE_FIFO, MAKE_BLOCK, MAKE_SYM = (1 << n for n in range(6, 13))
REFER, TRUNCATE, IOCTL_DEV, RESOLVE_UNIX = (1 << n for n in range(13, 17))
BIND_TCP, CONNECT_TCP, BIND_UDP, CONNECT_SEND_UDP = (1 << n for n in range(4))
SCOPE_ABSTRACT_UNIX_SOCKET, SCOPE_SIGNAL = 1 << 0, 1 << 1

#: Files, not directories: a rule on a file that asks for more is refused by the kernel.
_FILE_RIGHTS = EXECUTE | WRITE_FILE | READ_FILE | TRUNCATE | IOCTL_DEV | RESOLVE_UNIX
_READ = READ_FILE | READ_DIR
#: All of writing but to make device nodes, which no path allows, and to control a device, which it must itself be named for.
_WRITE = (
    WRITE_FILE | REMOVE_DIR | REMOVE_FILE | MAKE_DIR | MAKE_REG | MAKE_SOCK | MAKE_FIFO | MAKE_SYM | REFER | TRUNCATE
)

#: The newest ABI that is known here.
NEWEST = 10
#: The first that restricts all that changes a file: without TRUNCATE any file that permissions allow can be emptied.
FILES_ABI = 3
#: What abi() says at most; see act_as().
_newest = NEWEST

ENFORCED, DEGRADED, ABSENT, OFF = "enforced", "degraded", "absent", "off"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """Three masks, as the kernel has them."""

    files: int = 0
    ports: int = 0
    scopes: int = 0

    def __or__(self, other: "Rights") -> "Rights":
        return Rights(files=self.files | other.files, ports=self.ports | other.ports, scopes=self.scopes | other.scopes)

    def __and__(self, other: "Rights") -> "Rights":
        return Rights(files=self.files & other.files, ports=self.ports & other.ports, scopes=self.scopes & other.scopes)


#: ABI -> what it added. 7 added options of the audit log, 8 one for threads: nothing to restrict.
ADDED = {
    1: Rights(files=(1 << 13) - 1),
    2: Rights(files=REFER),
    3: Rights(files=TRUNCATE),
    4: Rights(ports=BIND_TCP | CONNECT_TCP),
    5: Rights(files=IOCTL_DEV),
    6: Rights(scopes=SCOPE_ABSTRACT_UNIX_SOCKET | SCOPE_SIGNAL),
    9: Rights(files=RESOLVE_UNIX),
    10: Rights(ports=BIND_UDP | CONNECT_SEND_UDP),
}

_LINUX = {1: "5.13", 2: "5.19", 3: "6.2", 4: "6.7", 5: "6.10", 6: "6.12", 9: "7.1", 10: "7.2"}

_TCP_WAYS_ROUND = "TCP: MPTCP, fast open and listen without bind are not covered"


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """What one layer allows. None: not restricted at all; empty: nothing is allowed. Paths are absolute."""

    #: Files, and directories with all in them. None: no file is restricted, and the three below must be empty too.
    readable: tuple[str, ...] | None = None
    #: Also readable. A device named here by itself may be controlled by ioctl(2) too.
    writable: tuple[str, ...] = ()
    #: Also readable. None: whatever is readable.
    executable: tuple[str, ...] | None = None
    #: Which of the paths above and of `sockets` may be missing.
    optional: frozenset[str] = frozenset()
    #: Sockets by name, of processes outside, that may be connected to; or directories of such.
    sockets: tuple[str, ...] | None = None
    #: Port numbers; bind of 0 is any that the kernel picks.
    tcp_bind: tuple[int, ...] | None = None
    tcp_connect: tuple[int, ...] | None = None
    udp_bind: tuple[int, ...] | None = None
    udp_connect: tuple[int, ...] | None = None
    #: Signals reach processes of this layer and of layers on top of it only.
    scope_signal: bool = False
    #: The same for sockets with abstract names.
    scope_abstract: bool = False


#: The lower of the two layers of a run without namespaces, for its leader.
LEADER = Rules(scope_signal=True)


@dataclass(frozen=True, slots=True)
class AllowPath:
    path: str
    rights: int
    optional: bool

    def describe(self) -> str:
        names = {"read": _READ, "write": WRITE_FILE, "execute": EXECUTE, "connect": RESOLVE_UNIX, "move": REFER}
        words = [word for word, mask in names.items() if self.rights & mask]
        return f"{', '.join(words)} {self.path}{' if it is there' if self.optional else ''}"

    def execute(self, ruleset: int) -> None:
        fd = os.open(self.path, os.O_PATH | os.O_CLOEXEC)
        try:
            mode = os.fstat(fd).st_mode
            rights = self.rights if stat.S_ISDIR(mode) else self.rights & _FILE_RIGHTS
            if not (stat.S_ISCHR(mode) or stat.S_ISBLK(mode)):
                rights &= ~IOCTL_DEV
            if rights:  # the kernel refuses a rule that allows nothing
                syscalls.landlock_allow_path(ruleset, rights, fd)
        finally:
            os.close(fd)


@dataclass(frozen=True, slots=True)
class AllowPort:
    port: int
    rights: int

    def describe(self) -> str:
        names = {"bind TCP": BIND_TCP, "connect TCP": CONNECT_TCP, "bind UDP": BIND_UDP, "send UDP": CONNECT_SEND_UDP}
        return f"{', '.join(word for word, mask in names.items() if self.rights & mask)} port {self.port}"

    def execute(self, ruleset: int) -> None:
        syscalls.landlock_allow_port(ruleset, self.rights, self.port)


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One layer, ready to be applied, and what it is worth on this kernel."""

    abi: int
    #: What is forbidden unless a step allows it.
    handled: Rights
    steps: tuple[AllowPath | AllowPort, ...]
    #: filesystem, unix sockets, tcp, udp, signals, abstract sockets -> ENFORCED, DEGRADED, ABSENT, or OFF: not asked for.
    promises: dict[str, str]
    #: What is asked for and not had: what can happen, and since which Linux it cannot.
    costs: tuple[str, ...]

    def describe(self) -> list[str]:
        """The layer in words, a line for each rule."""
        if self.handled == Rights():
            return []
        asked = ", ".join(name for name, state in self.promises.items() if state in {ENFORCED, DEGRADED})
        return [
            f"landlock (ABI {self.abi}): restrict {asked}",
            *(f"landlock: allow {step.describe()}" for step in self.steps),
        ]


def abi(pretend: int | None = None) -> int:
    """The ABI to plan for: the kernel's, but at most NEWEST; 0 if it has none. `pretend`: as if the kernel's were no newer."""
    if pretend is not None and pretend < 0:
        raise ValueError(f"landlock: an ABI is 0 or more, not {pretend}")
    return min(syscalls.landlock_abi(), _newest, NEWEST if pretend is None else pretend)


def act_as(version: int) -> None:
    """Let this process and its children act as if the kernel's ABI were no newer than this; 0: it has no landlock."""
    global _newest  # noqa: PLW0603 (a process has one kernel)
    _newest = min(version, NEWEST)


def known(version: int) -> Rights:
    """All rights of an ABI."""
    rights = Rights()
    for added, more in ADDED.items():
        if added <= version:
            rights |= more
    return rights


def build(rules: Rules, version: int) -> Plan:
    """The layer for a kernel of this ABI, as of abi(); with 0 it does nothing. ValueError if the rules contradict themselves.

    Pure: paths are looked up when the plan is applied.
    """
    _check(rules)
    wanted = _wanted(rules)
    handled = wanted & known(version)
    steps: list[AllowPath | AllowPort] = [*_paths(rules, handled), *_ports(rules, handled)]
    if handled != Rights() and not handled.files and version >= 2:
        # The kernel refuses to move a file between directories in every layer that does not allow it, also in one that knows
        # nothing of files, as soon as another layer does (EXDEV, seen up to Linux 6.18). So allow it here.
        handled |= Rights(files=REFER)
        steps.append(AllowPath("/", REFER, optional=False))
    promises, costs = _worth(wanted, handled)
    return Plan(abi=version, handled=handled, steps=tuple(steps), promises=promises, costs=costs)


def apply(plan: Plan) -> tuple[str, ...]:
    """Put the calling thread under the plan, for good; returns the optional paths that were not there.

    After no_new_privs (OSError EPERM otherwise, without CAP_SYS_ADMIN), in a single-threaded process, after the last mount.
    A path that the user cannot reach counts as missing: the layer is the tighter for it.
    OSError names a path that is missing and not optional, or says E2BIG after 16 layers; nothing is in force then.
    """
    if plan.handled == Rights():
        return ()
    missing: list[str] = []
    handled = plan.handled
    ruleset = syscalls.landlock_create_ruleset(handled.files, handled.ports, handled.scopes)
    try:
        for step in plan.steps:
            try:
                step.execute(ruleset)
            except (FileNotFoundError, NotADirectoryError, PermissionError):
                if not (isinstance(step, AllowPath) and step.optional):
                    raise
                missing.append(step.path)
        syscalls.landlock_restrict_self(ruleset)
    finally:
        os.close(ruleset)
    return tuple(missing)


def _check(rules: Rules) -> None:
    if rules.readable is None and (rules.writable or rules.executable is not None):
        raise ValueError("landlock: writable and executable paths need readable ones, if only an empty list")
    for path in (*(rules.readable or ()), *rules.writable, *(rules.executable or ()), *(rules.sockets or ())):
        if not os.path.isabs(path):
            raise ValueError(f"landlock: {path!r} is not an absolute path")
    for ports in (rules.tcp_bind, rules.tcp_connect, rules.udp_bind, rules.udp_connect):
        for port in ports or ():
            if not 0 <= port <= 65535:
                raise ValueError(f"landlock: {port} is not a port number (0 to 65535)")


def _wanted(rules: Rules) -> Rights:
    """What a kernel that knows everything would be asked to handle."""
    files = 0 if rules.readable is None else known(NEWEST).files & ~RESOLVE_UNIX
    if rules.sockets is not None:
        files |= RESOLVE_UNIX
    ports = sum(right for right, allowed in _by_port_right(rules).items() if allowed is not None)
    scopes = SCOPE_SIGNAL * rules.scope_signal | SCOPE_ABSTRACT_UNIX_SOCKET * rules.scope_abstract
    return Rights(files=files, ports=ports, scopes=scopes)


def _by_port_right(rules: Rules) -> dict[int, tuple[int, ...] | None]:
    return {
        BIND_TCP: rules.tcp_bind,
        CONNECT_TCP: rules.tcp_connect,
        BIND_UDP: rules.udp_bind,
        CONNECT_SEND_UDP: rules.udp_connect,
    }


def _paths(rules: Rules, handled: Rights) -> Iterator[AllowPath]:
    implied = EXECUTE if rules.executable is None else 0
    rights: dict[str, int] = {}
    for paths, allowed in (
        (rules.readable or (), _READ | implied),
        (rules.writable, _READ | implied | _WRITE | IOCTL_DEV),
        (rules.executable or (), _READ | EXECUTE),
        (rules.sockets or (), RESOLVE_UNIX),
    ):
        for path in paths:
            rights[path] = rights.get(path, 0) | allowed
    for path, wanted in rights.items():
        if wanted & handled.files:
            yield AllowPath(path, wanted & handled.files, path in rules.optional)


def _ports(rules: Rules, handled: Rights) -> Iterator[AllowPort]:
    rights: dict[int, int] = {}
    for right, ports in _by_port_right(rules).items():
        for port in ports or ():
            rights[port] = rights.get(port, 0) | right
    for port, wanted in rights.items():
        if wanted & handled.ports:
            yield AllowPort(port, wanted & handled.ports)


#: Right of a kernel that may lack it, what can happen then.
_FILE_COSTS = {
    REFER: "files cannot be moved or linked from one directory to another, also where both are writable",
    TRUNCATE: "files that are not writable can be cut short by truncate(2), if their permissions allow it",
    IOCTL_DEV: "devices that can be opened can be controlled by ioctl(2)",
}
_COSTS = {
    "unix sockets": "sockets of processes outside can be connected to by name",
    "tcp": "TCP is not restricted",
    "udp": "UDP is not restricted",
    "signals": "processes outside can be signalled, if the user is the same",
    "abstract sockets": "abstract sockets of processes outside can be connected to",
}


def _worth(wanted: Rights, handled: Rights) -> tuple[dict[str, str], tuple[str, ...]]:
    """Promises and costs of handling less than was wanted."""
    subjects = {
        "unix sockets": Rights(files=RESOLVE_UNIX),
        "tcp": Rights(ports=BIND_TCP | CONNECT_TCP),
        "udp": Rights(ports=BIND_UDP | CONNECT_SEND_UDP),
        "signals": Rights(scopes=SCOPE_SIGNAL),
        "abstract sockets": Rights(scopes=SCOPE_ABSTRACT_UNIX_SOCKET),
    }
    costs: list[str] = []
    promises = {"filesystem": OFF}
    if wanted.files & READ_FILE:
        promises["filesystem"] = ENFORCED
        if not handled.files & READ_FILE:
            promises["filesystem"] = ABSENT
            costs.append(_cost("files are not restricted", Rights(files=READ_FILE)))
        else:
            lacking = [right for right in _FILE_COSTS if not handled.files & right]
            # Without REFER more is refused than was asked for, and nothing is let through.
            if set(lacking) - {REFER}:
                promises["filesystem"] = DEGRADED
            costs += [_cost(_FILE_COSTS[right], Rights(files=right)) for right in lacking]
    for subject, rights in subjects.items():
        if wanted & rights == Rights():
            promises[subject] = OFF
        elif handled & rights == Rights():
            promises[subject] = ABSENT
            costs.append(_cost(_COSTS[subject], rights))
        elif subject == "tcp":
            promises[subject] = DEGRADED
            costs.append(_TCP_WAYS_ROUND)
        else:
            promises[subject] = ENFORCED
    return promises, tuple(costs)


def _cost(text: str, rights: Rights) -> str:
    since = next(version for version, added in ADDED.items() if added & rights != Rights())
    return f"{text} (not so from Linux {_LINUX[since]})"
