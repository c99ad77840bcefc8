"""The namespaces of a box, and the modes in which a host can give them.

Mode a: root. Mode b: an ordinary account that may make user namespaces; it maps its own uid and gid onto themselves, so a
job sees itself as who it is, and set-user-id programs gain nothing. Mode c: no namespaces, but a landlock that scopes
signals; init then leads a landlock layer, and its kill(-1) reaches all that it has started and nobody else. Mode d: neither;
the box is then a session whose init kills what it can find, which is best effort.
"""

import fcntl
import os
import socket
import struct
from dataclasses import dataclass

from lnmt_scheduler.sandbox import policy, syscalls

ROOT, USER_NAMESPACE, LANDLOCK, NONE = "a", "b", "c", "d"
#: What holds the processes of a box together, so that all of them can be ended.
PIDS, SCOPE, GROUP, SEARCH = "pid namespace", "landlock scope", "cgroup", "search"

_SIOCSIFFLAGS = 0x8914
_IFF_UP, _IFF_RUNNING = 0x1, 0x40

_MODES = {ROOT: 0, USER_NAMESPACE: syscalls.CLONE_NEWUSER}


@dataclass(frozen=True, slots=True)
class Kind:
    """What of a box is settled when it is forked: boxes of one kind can be exchanged until one is given its policy."""

    mode: str
    #: What holds its processes together: PIDS, SCOPE, GROUP or SEARCH.
    hold: str
    #: CLONE_NEW* of its namespaces, but for its mounts: those are copied when the policy comes, as they are then.
    flags: int
    #: It will have no privileges (policy layer no_new_privs).
    closed: bool


def kind(mode: str, wanted: policy.Policy) -> Kind:
    """The kind of a box of this mode and policy."""
    held = hold(mode, wanted)
    flags = 0
    if has_mounts(mode):
        flags = _MODES[mode] | _extra(wanted) | (syscalls.CLONE_NEWPID if held == PIDS else 0)
    return Kind(mode, held, flags, wanted.wants("no_new_privs"))


def has_mounts(mode: str) -> bool:
    """Whether a box has mounts, and so a file system, of its own; where not, landlock restricts the host's."""
    return mode in _MODES


def hold(mode: str, wanted: policy.Policy) -> str:
    """What holds a box of this mode and policy together."""
    if wanted.processes == "host":
        return GROUP
    return {ROOT: PIDS, USER_NAMESPACE: PIDS, LANDLOCK: SCOPE}.get(mode, SEARCH)


def _extra(wanted: policy.Policy) -> int:
    """Flags of the namespaces that a policy wants besides those of its mode."""
    flags = 0
    if wanted.wants("namespaces"):
        flags |= syscalls.CLONE_NEWIPC | syscalls.CLONE_NEWUTS | syscalls.CLONE_NEWCGROUP
    if wanted.wants("network") and wanted.network != "host":
        flags |= syscalls.CLONE_NEWNET
    return flags


def fork(flags: int) -> tuple[int, int]:
    """Fork into new namespaces (CLONE_NEW*; 0: none): (pid, pidfd) in the parent, (0, -1) in the child.

    The pidfd is the caller's.
    """
    if flags:
        return syscalls.clone3(flags)
    pid = os.fork()
    return (pid, os.pidfd_open(pid)) if pid else (0, -1)


def map_own_ids(pid: int) -> None:
    """Map the caller's uid and gid onto themselves in the new user namespace of `pid`; user_namespaces(7).

    setgroups must be denied first, or an ordinary account may not write gid_map.
    """
    for name, line in (
        ("setgroups", "deny"),
        ("gid_map", f"{os.getegid()} {os.getegid()} 1"),
        ("uid_map", f"{os.geteuid()} {os.geteuid()} 1"),
    ):
        fd = os.open(f"/proc/{pid}/{name}", os.O_WRONLY | os.O_CLOEXEC)
        try:
            os.write(fd, line.encode())
        finally:
            os.close(fd)


def own_proc() -> None:
    """Mount a /proc that shows this pid namespace only.

    Only /proc is made private: elsewhere the mounts of a trusted job reach the host as they would from cron.
    """
    syscalls.mount(None, "/proc", None, syscalls.MS_REC | syscalls.MS_PRIVATE)
    syscalls.mount("proc", "/proc", "proc", syscalls.MS_NOSUID | syscalls.MS_NODEV | syscalls.MS_NOEXEC)


def loopback_up() -> None:
    """Bring `lo` up in this network namespace, which has nothing else; netdevice(7)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sock:
        request = struct.pack("16sh14x", b"lo", _IFF_UP | _IFF_RUNNING)
        fcntl.ioctl(sock, _SIOCSIFFLAGS, request)
