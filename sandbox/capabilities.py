"""Giving up root's powers for good: capabilities, the bits that would bring them back, set-user-id programs, keyrings.

Each function is one step of a fork on its way to the job's first line, or of a box's init, and speaks of the calling thread
alone: the process must be single-threaded. None can be undone, and the order is theirs, not the caller's choice:

    join_session_keyring    first: no privilege needed, and later a filter of system calls will forbid it
    drop_bounding           needs CAP_SETPCAP, which keep_only() takes away
    lock_securebits         needs CAP_SETPCAP; before the user changes, or that change empties the sets that init wants kept
    (the user changes)      with the bits set this no longer drops anything, so the next is a must
    keep_only               last of what needs capabilities
    no_new_privs            before landlock and seccomp, which an ordinary account may only use after it

What this does not do: a process that may still make a user namespace has every capability in there, whatever its own sets
are (user_namespaces(7)). Only a filter of system calls stops that.
"""

import errno
from collections.abc import Iterable

from lnmt_scheduler.sandbox import syscalls

#: Number of the capability to signal processes of other users; linux/capability.h.
CAP_KILL = 5
#: To read and change files, whatever their permissions say, and whoever owns them.
CAP_DAC_OVERRIDE, CAP_FOWNER = 1, 3
CAP_SETPCAP, CAP_SYS_ADMIN = 8, 21

_NOROOT, _NO_SETUID_FIXUP, _NO_CAP_AMBIENT_RAISE = 1 << 0, 1 << 2, 1 << 6
_KEEP_CAPS_LOCKED = 1 << 5
#: Uid 0 is a uid like others, a change of uid changes no capabilities, none becomes ambient; each with its lock, which is
#: the next bit. Keep-caps stays off.
SECUREBITS = (_NOROOT | _NO_SETUID_FIXUP | _NO_CAP_AMBIENT_RAISE) * 0b11 | _KEEP_CAPS_LOCKED

SETS = ("CapInh", "CapPrm", "CapEff", "CapBnd", "CapAmb")


def read(pid: int | str = "self") -> dict[str, int]:
    """The capability sets of a process, for measuring: name in /proc/PID/status -> mask of 1 << capability.

    OSError if there is no such process, or no /proc.
    """
    with open(f"/proc/{pid}/status", "rb") as file:
        lines = dict(line.split(b":", 1) for line in file.read().splitlines())
    return {name: int(lines[name.encode()], 16) for name in SETS}


def holds(capability: int) -> bool:
    """Whether this process has a capability in force."""
    return bool(read()["CapEff"] >> capability & 1)


def join_session_keyring() -> bool:
    """Leave the session keyring that was inherited for a new, empty one; False where the kernel has no keyrings.

    Before the user changes or after it: the keyring counts as one key of the uid that makes it, and an ordinary uid may
    have 200 at a time (OSError EDQUOT; /proc/sys/kernel/keys/maxkeys). Root's are as good as unlimited, so root makes it
    first. Keyrings that belong to the uid itself stay reachable for all of that uid: a filter must forbid keyctl(2).
    """
    try:
        syscalls.keyctl_join_session_keyring()
    except OSError as error:
        # Or a filter that all of ours inherit says so; the job cannot reach a keyring then either.
        if error.errno == errno.ENOSYS:
            return False
        raise
    return True


def drop_bounding() -> None:
    """Empty the bounding set: no program that is executed later can gain a capability from its file.

    While CAP_SETPCAP is held, so before keep_only(); PermissionError without it, unless the set is empty already. An ordinary
    account outside a user namespace never holds it, and leaves this out: no_new_privs() has the same effect for it.
    """
    capability = 0
    while True:
        try:
            held = syscalls.prctl(syscalls.PR_CAPBSET_READ, capability)
        except OSError as error:
            if error.errno == errno.EINVAL:  # past the last one that this kernel knows
                return
            raise
        if held:
            syscalls.prctl(syscalls.PR_CAPBSET_DROP, capability)
        capability += 1


def lock_securebits() -> None:
    """Take the meaning from uid 0: it no longer gives capabilities, neither at exec nor by a change of user; SECUREBITS.

    While CAP_SETPCAP is held (PermissionError without), and before the user changes: init wants to keep CAP_KILL through that.
    From here on setresuid(2) drops nothing, so keep_only() must follow it.
    """
    syscalls.prctl(syscalls.PR_SET_SECUREBITS, SECUREBITS)


def keep_only(kept: Iterable[int] = ()) -> None:
    """Hold exactly these capabilities, permitted and effective, and none inheritable or ambient.

    After the change of user, which needs CAP_SETUID and CAP_SETGID. PermissionError if one is not held now. What is kept does
    not survive exec, by the locked securebits or by no_new_privs; it is for init, which never executes anything.
    """
    mask = sum(1 << capability for capability in set(kept))
    syscalls.prctl(syscalls.PR_CAP_AMBIENT, syscalls.PR_CAP_AMBIENT_CLEAR_ALL)
    syscalls.capset(mask, mask, 0)


def no_new_privs() -> None:
    """From here on no exec gives anything: set-user-id bits and capabilities of files are passed over; prctl(2).

    Needs no privilege. Before landlock.apply() and before seccomp, which demand it of those who lack CAP_SYS_ADMIN. Last among
    these functions only because the others do not care.
    """
    syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
