"""System calls that Python 3.11 does not wrap: the only ctypes in the product.

One function a call: it calls, raises OSError with errno and the object's name, and returns what the kernel returned.
Constants are named as in the kernel's headers; numbers below 424 differ by architecture and so are looked up by machine,
those from 424 on are the same everywhere.
"""

import ctypes
import errno
import os
import struct
import sys

_libc = ctypes.CDLL(None, use_errno=True)
# clone3 must not release the interpreter lock: its child has no thread to take it back from.
_held = ctypes.PyDLL(None, use_errno=True)

_MACHINE = os.uname().machine

SYS_clone3 = 435

CLONE_PIDFD = 0x00001000
CLONE_NEWNS = 0x00020000
CLONE_NEWCGROUP = 0x02000000
CLONE_NEWUTS = 0x04000000
CLONE_NEWIPC = 0x08000000
CLONE_NEWUSER = 0x10000000
CLONE_NEWPID = 0x20000000
CLONE_NEWNET = 0x40000000

MS_RDONLY = 0x1
MS_NOSUID = 0x2
MS_NODEV = 0x4
MS_NOEXEC = 0x8
MS_REC = 0x4000
MS_PRIVATE = 0x40000

MNT_DETACH = 2
MOUNT_ATTR_RDONLY = 0x1
MOUNT_ATTR_NOSUID = 0x2
MOUNT_ATTR_NODEV = 0x4
MOUNT_ATTR_NOEXEC = 0x8
_AT_FDCWD = -100
_AT_EMPTY_PATH = 0x1000
_AT_RECURSIVE = 0x8000
_OPEN_TREE_CLONE = 1
_MOVE_MOUNT_F_EMPTY_PATH = 4
SYS_open_tree = 428
SYS_move_mount = 429
SYS_mount_setattr = 442
_SYS_RT_SIGACTION = {"x86_64": 13, "aarch64": 134, "ppc64le": 173, "s390x": 174, "riscv64": 134}
_SYS_PIVOT_ROOT = {"x86_64": 155, "aarch64": 41, "ppc64le": 203, "s390x": 217, "riscv64": 41}

PR_SET_PDEATHSIG = 1
PR_SET_DUMPABLE = 4
PR_SET_NAME = 15
PR_GET_SECCOMP = 21
PR_SET_CHILD_SUBREAPER = 36
PR_CAP_AMBIENT = 47
PR_CAP_AMBIENT_CLEAR_ALL = 4

PR_CAPBSET_READ = 23
PR_CAPBSET_DROP = 24
PR_GET_SECUREBITS = 27
PR_SET_SECUREBITS = 28
PR_SET_NO_NEW_PRIVS = 38
PR_GET_NO_NEW_PRIVS = 39

_LINUX_CAPABILITY_VERSION_3 = 0x20080522

KEYCTL_JOIN_SESSION_KEYRING = 1
_SYS_KEYCTL = {"x86_64": 250, "aarch64": 219, "ppc64le": 271, "s390x": 280, "riscv64": 219}

SYS_landlock_create_ruleset = 444
SYS_landlock_add_rule = 445
SYS_landlock_restrict_self = 446
_LANDLOCK_CREATE_RULESET_VERSION = 1
_LANDLOCK_RULE_PATH_BENEATH = 1
_LANDLOCK_RULE_NET_PORT = 2

IOPRIO_WHO_PROCESS = 1
IOPRIO_CLASS_SHIFT = 13
_SYS_IOPRIO_SET = {"x86_64": 251, "aarch64": 30, "ppc64le": 273, "s390x": 282, "riscv64": 30}
SECCOMP_SET_MODE_FILTER = 1
_SYS_SECCOMP = {"x86_64": 317, "aarch64": 277}
_SYS_CAPSET = {"x86_64": 126, "aarch64": 91, "ppc64le": 184, "s390x": 185, "riscv64": 91}

_SOL_SOCKET = 1
_SO_PEERGROUPS = 59

TFD_NONBLOCK = os.O_NONBLOCK
TFD_CLOEXEC = os.O_CLOEXEC
TFD_TIMER_ABSTIME = 1
TFD_TIMER_CANCEL_ON_SET = 2
CLOCK_REALTIME = 0
_TIME_ERROR = 5


def _check(result: int, call: str, name: str | None = None) -> int:
    if result < 0:
        number = ctypes.get_errno()
        raise OSError(number, f"{call}: {os.strerror(number)}", name)
    return result


def _number(table: dict[str, int], call: str) -> int:
    try:
        return table[_MACHINE]
    except KeyError:
        raise OSError(38, f"{call}: number unknown on {_MACHINE}") from None


class _CloneArgs(ctypes.Structure):
    _fields_ = [
        (name, ctypes.c_uint64)
        for name in (
            "flags", "pidfd", "child_tid", "parent_tid", "exit_signal", "stack", "stack_size", "tls",
            "set_tid", "set_tid_size", "cgroup",
        )
    ]  # fmt: skip


def clone3(flags: int) -> tuple[int, int]:
    """Fork into new namespaces; (pid, pidfd) in the parent, (0, -1) in the child. The pidfd is close-on-exec.

    The caller must be single-threaded: a child of a threaded interpreter can hang for ever before it runs a line. Python's
    own fork hooks run around the call. clone3(2), since Linux 5.3.
    """
    pidfd = ctypes.c_int(-1)
    args = _CloneArgs(flags=flags | CLONE_PIDFD, pidfd=ctypes.addressof(pidfd), exit_signal=17)
    api = ctypes.pythonapi
    api.PyOS_BeforeFork()
    pid = _held.syscall(SYS_clone3, ctypes.byref(args), ctypes.c_size_t(ctypes.sizeof(args)))
    error = ctypes.get_errno()
    if pid == 0:
        api.PyOS_AfterFork_Child()
        return 0, -1
    api.PyOS_AfterFork_Parent()
    if pid < 0:
        raise OSError(error, f"clone3: {os.strerror(error)}")
    return pid, pidfd.value


def unshare(flags: int) -> None:
    """Move the caller into new namespaces; unshare(2)."""
    _check(_libc.unshare(flags), "unshare")


def setns(fd: int, kinds: int) -> None:
    """Move the caller into the namespace of a descriptor; one of mounts brings its root along; setns(2)."""
    _check(_libc.setns(fd, kinds), "setns")


def mount(source: str | None, target: str, kind: str | None, flags: int, options: str | None = None) -> None:
    """mount(2); `options` are the file system's own."""
    encoded = [None if text is None else os.fsencode(text) for text in (source, target, kind)]
    data = None if options is None else options.encode()
    _check(_libc.mount(*encoded, ctypes.c_ulong(flags), data), "mount", target)


def umount2(target: str, flags: int) -> None:
    """umount2(2)"""
    _check(_libc.umount2(os.fsencode(target), flags), "umount2", target)


def pivot_root(new_root: str, put_old: str) -> None:
    """pivot_root(2)"""
    number = ctypes.c_long(_number(_SYS_PIVOT_ROOT, "pivot_root"))
    _check(_libc.syscall(number, os.fsencode(new_root), os.fsencode(put_old)), "pivot_root", new_root)


def open_tree(path: str) -> int:
    """A detached copy of the mount at `path` with all that is mounted in it, as a descriptor: the caller's; open_tree(2)."""
    flags = _OPEN_TREE_CLONE | _AT_RECURSIVE | os.O_CLOEXEC
    arguments = (ctypes.c_int(_AT_FDCWD), os.fsencode(path), ctypes.c_uint(flags))
    return _check(_libc.syscall(ctypes.c_long(SYS_open_tree), *arguments), "open_tree", path)


def move_mount(fd: int, target: str) -> None:
    """Attach a detached mount at `target`; move_mount(2)."""
    arguments = (ctypes.c_int(fd), b"", ctypes.c_int(_AT_FDCWD), os.fsencode(target))
    flags = ctypes.c_uint(_MOVE_MOUNT_F_EMPTY_PATH)
    _check(_libc.syscall(ctypes.c_long(SYS_move_mount), *arguments, flags), "move_mount", target)


def mount_setattr(fd: int, attributes: int, *, recursive: bool = True) -> None:
    """Add attributes (MOUNT_ATTR_*) to the mount of `fd`, and to all in it; mount_setattr(2), since Linux 5.12."""
    change = ctypes.create_string_buffer(struct.pack("=QQQQ", attributes, 0, 0, 0))
    flags = ctypes.c_uint(_AT_EMPTY_PATH | (_AT_RECURSIVE if recursive else 0))
    arguments = (ctypes.c_int(fd), b"", flags, change, ctypes.c_size_t(32))
    _check(_libc.syscall(ctypes.c_long(SYS_mount_setattr), *arguments), "mount_setattr")


def default_signal(number: int) -> None:
    """Give a signal its default disposition, also one that the C library keeps to itself; rt_sigaction(2)."""
    action = ctypes.create_string_buffer(64)  # zeros: SIG_DFL, no flags, an empty mask
    size = ctypes.c_size_t(8)
    _check(
        _libc.syscall(ctypes.c_long(_number(_SYS_RT_SIGACTION, "rt_sigaction")), number, action, None, size),
        "rt_sigaction",
    )


def prctl(option: int, value: int | bytes = 0, third: int = 0) -> int:
    """prctl(2)"""
    argument: ctypes.c_ulong | ctypes.c_char_p
    argument = ctypes.c_char_p(value) if isinstance(value, bytes) else ctypes.c_ulong(value)
    zero = ctypes.c_ulong(0)
    return _check(_libc.prctl(option, argument, ctypes.c_ulong(third), zero, zero), "prctl", str(option))


def capset(effective: int, permitted: int, inheritable: int) -> None:
    """Set the calling thread's sets, each a mask of 1 << capability; capset(2)."""
    header = ctypes.create_string_buffer(struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0))
    sets = (effective, permitted, inheritable)
    halves = [mask >> shift & 0xFFFFFFFF for shift in (0, 32) for mask in sets]
    data = ctypes.create_string_buffer(struct.pack("=6I", *halves))
    _check(_libc.syscall(ctypes.c_long(_number(_SYS_CAPSET, "capset")), header, data), "capset")


def keyctl_join_session_keyring() -> int:
    """Replace the session keyring with a new, empty one without a name, and return its serial number; keyctl(2)."""
    number = ctypes.c_long(_number(_SYS_KEYCTL, "keyctl"))
    return _check(_libc.syscall(number, ctypes.c_long(KEYCTL_JOIN_SESSION_KEYRING), None), "keyctl")


def landlock_abi() -> int:
    """The ABI of the kernel's landlock, 0 if it has none, it is switched off, or a container's filter keeps it from us.

    landlock_create_ruleset(2).
    """
    flags = ctypes.c_uint32(_LANDLOCK_CREATE_RULESET_VERSION)
    found = _libc.syscall(ctypes.c_long(SYS_landlock_create_ruleset), None, ctypes.c_size_t(0), flags)
    if found < 0 and ctypes.get_errno() in {errno.ENOSYS, errno.EOPNOTSUPP, errno.EPERM}:
        return 0
    return _check(found, "landlock_create_ruleset")


def landlock_create_ruleset(files: int, ports: int, scopes: int) -> int:
    """A ruleset that handles these rights, as a descriptor (close-on-exec): the caller's. Zeroes may exceed an old ABI."""
    attributes = ctypes.create_string_buffer(struct.pack("=QQQ", files, ports, scopes), 24)
    size, flags = ctypes.c_size_t(24), ctypes.c_uint32(0)
    number = ctypes.c_long(SYS_landlock_create_ruleset)
    return _check(_libc.syscall(number, attributes, size, flags), "landlock_create_ruleset")


def landlock_allow_path(ruleset: int, rights: int, path: int) -> None:
    """Allow `rights` on the file of a descriptor (O_PATH will do) and, if it is a directory, on all in it."""
    rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, path), 12)
    _landlock_add_rule(ruleset, _LANDLOCK_RULE_PATH_BENEATH, rule)


def landlock_allow_port(ruleset: int, rights: int, port: int) -> None:
    """Allow `rights` on a port number."""
    rule = ctypes.create_string_buffer(struct.pack("=QQ", rights, port), 16)
    _landlock_add_rule(ruleset, _LANDLOCK_RULE_NET_PORT, rule)


def _landlock_add_rule(ruleset: int, kind: int, rule: "ctypes.Array[ctypes.c_char]") -> None:
    number = ctypes.c_long(SYS_landlock_add_rule)
    _check(
        _libc.syscall(number, ctypes.c_int(ruleset), ctypes.c_int(kind), rule, ctypes.c_uint32(0)), "landlock_add_rule"
    )


def landlock_restrict_self(ruleset: int) -> None:
    """Put the calling thread and all that it starts from now on under the ruleset; landlock_restrict_self(2)."""
    number = ctypes.c_long(SYS_landlock_restrict_self)
    _check(_libc.syscall(number, ctypes.c_int(ruleset), ctypes.c_uint32(0)), "landlock_restrict_self")


def ioprio_set(io_class: int, level: int) -> None:
    """Set the calling process's I/O class (1 realtime, 2 best-effort, 3 idle) and level; ioprio_set(2)."""
    value = io_class << IOPRIO_CLASS_SHIFT | level
    number = ctypes.c_long(_number(_SYS_IOPRIO_SET, "ioprio_set"))
    _check(_libc.syscall(number, IOPRIO_WHO_PROCESS, 0, value), "ioprio_set")


def seccomp_set_mode_filter(program: bytes) -> None:
    """Load a filter of raw `struct sock_filter`s, 8 bytes each, into the calling thread; seccomp(2)."""
    instructions = ctypes.create_string_buffer(program, len(program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program) // 8, ctypes.addressof(instructions)))
    number = ctypes.c_long(_number(_SYS_SECCOMP, "seccomp"))
    _check(_libc.syscall(number, SECCOMP_SET_MODE_FILTER, 0, header), "seccomp")


def signalfd(number: int) -> int:
    """A descriptor, the caller's, that is readable while this signal is pending, which must be blocked; signalfd(2)."""
    wanted = ctypes.create_string_buffer((1 << (number - 1)).to_bytes(8, sys.byteorder), 128)  # sigset_t
    return _check(_libc.signalfd(-1, wanted, os.O_NONBLOCK | os.O_CLOEXEC), "signalfd")


def timerfd_create() -> int:
    """A CLOCK_REALTIME timer as a descriptor (non-blocking, close-on-exec), the caller's; timerfd_create(2)."""
    return _check(_libc.timerfd_create(CLOCK_REALTIME, TFD_NONBLOCK | TFD_CLOEXEC), "timerfd_create")


def timerfd_settime(fd: int, at_ms: int | None) -> None:
    """Arm for an absolute wall time in epoch milliseconds, or disarm.

    With TFD_TIMER_CANCEL_ON_SET a read fails with ECANCELED after the clock was set, also while armed far in the future;
    so None arms for the year 2500 rather than disarming: the clock may still be set.
    """
    seconds, milliseconds = divmod(16725225600000 if at_ms is None else max(at_ms, 1), 1000)
    spec = struct.pack("=qqqq", 0, 0, seconds, milliseconds * 1_000_000)
    flags = TFD_TIMER_ABSTIME | TFD_TIMER_CANCEL_ON_SET
    _check(_libc.timerfd_settime(fd, flags, ctypes.c_char_p(spec), None), "timerfd_settime")


def clock_is_synchronised() -> bool:
    """Whether something such as NTP keeps the wall clock right, by the kernel's word: adjtimex(2)."""
    asked = ctypes.create_string_buffer(512)  # struct timex has 208 bytes; modes = 0 changes nothing
    return int(_libc.adjtimex(asked)) not in (-1, _TIME_ERROR)


def peer_groups(fd: int) -> tuple[int, ...]:
    """Supplementary groups of a unix socket's peer when it connected: SO_PEERGROUPS, unix(7).

    Python's own getsockopt ends at 1024 bytes; a user may have 65536 groups.
    """
    size = ctypes.c_uint32(0)
    if _libc.getsockopt(fd, _SOL_SOCKET, _SO_PEERGROUPS, None, ctypes.byref(size)) < 0 and ctypes.get_errno() != 34:
        _check(-1, "getsockopt")
    groups = (ctypes.c_uint32 * (size.value // 4))()
    _check(_libc.getsockopt(fd, _SOL_SOCKET, _SO_PEERGROUPS, groups, ctypes.byref(size)), "getsockopt")
    return tuple(groups)
