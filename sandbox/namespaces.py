"""The namespaces of a box, and the modes in which a host can give them.

Mode a: root. Mode b: an ordinary account that may make user namespaces; it maps its own uid and gid onto themselves, so a
job sees itself as who it is, and set-user-id programs gain nothing. Mode d: neither; the box is then a session whose init
kills what it can find, which is best effort. (A mode c, landlock, is not there yet.)
"""

import os

from lnmt_scheduler.sandbox import syscalls

ROOT, USER_NAMESPACE, NONE = "a", "b", "d"

_FLAGS = {
    ROOT: syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS,
    USER_NAMESPACE: syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID | syscalls.CLONE_NEWNS,
}


def fork(mode: str) -> tuple[int, int]:
    """Fork into the namespaces of the mode: (pid, pidfd) in the parent, (0, -1) in the child. The pidfd is the caller's."""
    if mode in _FLAGS:
        return syscalls.clone3(_FLAGS[mode])
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
