"""What the two seccomp filters say, as data: calls that are missing, refused, watched by argument, or deadly.

`denylist` lets arbitrary programs run and takes away what reaches past the box: new namespaces and mounts, other
processes, the keyring, and the kernel's wide and young interfaces. `strict` allows a list and refuses the rest. A call
fails with ENOSYS where programs then fall back to an older one, and with EPERM where they would only be confused; a kill
would turn harmless probing into flaky jobs, so it stays with what no honest program of a strict box tries.

Names that a processor or this version's table does not have are passed over there; a test holds that each is known somewhere.
"""

import errno
import socket
import stat
from dataclasses import dataclass

from lnmt_scheduler.sandbox import bpf


def _names(text: str) -> frozenset[str]:
    return frozenset(text.split())


#: clone3 has its flags behind a pointer, where no filter can look, and so has openat2 its mode.
ABSENT = _names("""
    clone3 openat2
    io_uring_setup io_uring_enter io_uring_register
    open_tree open_tree_attr move_mount fsopen fsconfig fsmount fspick mount_setattr statmount listmount
    memfd_secret quotactl_fd lsm_get_self_attr lsm_set_self_attr lsm_list_modules
""")

DENIED = _names("""
    mount umount2 pivot_root chroot unshare setns open_by_handle_at fanotify_init
    ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd
    bpf perf_event_open userfaultfd lookup_dcookie
    add_key keyctl request_key
    init_module finit_module delete_module kexec_load kexec_file_load reboot
    swapon swapoff acct quotactl syslog vhangup iopl ioperm modify_ldt nfsservctl uselib
    settimeofday clock_settime adjtimex clock_adjtime sethostname setdomainname
    mbind set_mempolicy migrate_pages move_pages
""")

#: In `strict` these end the process: whoever calls them there wants out.
TRIPWIRES = _names("init_module finit_module kexec_load kexec_file_load bpf open_by_handle_at setns")

#: Objects of System V and message queues stay after the box, and where the uid is shared they are everybody's.
SHARED_UID_DENIED = _names("shmget msgget semget mq_open mq_unlink")

#: Where landlock alone keeps files, this is open for all of the user's own; see settle.seals().
SEALED = _names("""
    chmod fchmod fchmodat fchmodat2 chown lchown fchown fchownat utime utimes utimensat futimesat
    setxattr lsetxattr fsetxattr setxattrat removexattr lremovexattr fremovexattr removexattrat file_setattr
""")

#: All that `strict` allows, ordered by purpose; rules on arguments (below) hold for these too.
ALLOWED = _names("""
    read write readv writev pread64 pwrite64 preadv pwritev preadv2 pwritev2 lseek close close_range dup dup2 dup3
    open openat creat mkdir mkdirat rmdir mknod mknodat link linkat symlink symlinkat unlink unlinkat
    rename renameat renameat2 readlink readlinkat chdir fchdir getcwd getdents getdents64 umask
    stat fstat lstat newfstatat statx statfs fstatfs access faccessat faccessat2 name_to_handle_at
    chmod fchmod fchmodat fchmodat2 truncate ftruncate fallocate utime utimes utimensat futimesat
    getxattr lgetxattr fgetxattr getxattrat setxattr lsetxattr fsetxattr setxattrat
    listxattr llistxattr flistxattr listxattrat removexattr lremovexattr fremovexattr removexattrat
    file_getattr file_setattr fcntl flock ioctl fadvise64 readahead copy_file_range sendfile splice tee vmsplice
    fsync fdatasync sync syncfs sync_file_range
    io_setup io_destroy io_submit io_cancel io_getevents io_pgetevents
    inotify_init inotify_init1 inotify_add_watch inotify_rm_watch

    mmap munmap mremap mprotect madvise msync brk remap_file_pages memfd_create get_mempolicy membarrier mseal
    map_shadow_stack

    execve execveat exit exit_group fork vfork clone wait4 waitid kill tkill tgkill rt_sigqueueinfo rt_tgsigqueueinfo
    pidfd_open pidfd_send_signal prctl arch_prctl capget seccomp
    landlock_create_ruleset landlock_add_rule landlock_restrict_self
    getpid getppid gettid getpgid getpgrp getsid setpgid setsid getuid geteuid getresuid getgid getegid getresgid getgroups
    setgid setregid setresgid setfsgid
    getrlimit prlimit64 getrusage times sysinfo uname personality getcpu getpriority ioprio_get
    sched_yield sched_getaffinity sched_getattr sched_getparam sched_getscheduler
    sched_get_priority_max sched_get_priority_min sched_rr_get_interval
    set_tid_address set_robust_list get_robust_list set_thread_area get_thread_area rseq restart_syscall
    futex futex_waitv futex_wake futex_wait futex_requeue uretprobe uprobe

    rt_sigaction rt_sigprocmask rt_sigpending rt_sigtimedwait rt_sigsuspend rt_sigreturn sigaltstack signalfd signalfd4
    select pselect6 poll ppoll epoll_create epoll_create1 epoll_ctl epoll_wait epoll_pwait epoll_pwait2 eventfd eventfd2
    pause alarm nanosleep clock_nanosleep clock_gettime clock_getres gettimeofday time getrandom getitimer setitimer
    timer_create timer_delete timer_gettime timer_settime timer_getoverrun timerfd_create timerfd_gettime timerfd_settime

    pipe pipe2 socket socketpair bind connect listen accept accept4 getsockname getpeername getsockopt setsockopt shutdown
    sendto recvfrom sendmsg recvmsg sendmmsg recvmmsg
    mq_open mq_unlink mq_timedsend mq_timedreceive mq_notify mq_getsetattr
    shmget shmat shmctl shmdt msgget msgsnd msgrcv msgctl semget semop semtimedop semctl
""")


@dataclass(frozen=True, slots=True)
class Check:
    """Holds if a word of an argument, under the mask, is one of the values (inside), or is none of them."""

    #: 0 for the first.
    argument: int
    values: tuple[int, ...]
    mask: int = bpf.WORD
    inside: bool = True
    #: The other word, which counts of pointers alone.
    high: bool = False


@dataclass(frozen=True, slots=True)
class Rule:
    """Calls that are judged by their arguments: allowed if all checks of any one alternative hold."""

    names: tuple[str, ...]
    #: What is allowed, for people.
    says: str
    alternatives: tuple[tuple[Check, ...], ...]
    #: errno of the rest; 0: it is feigned.
    error: int = errno.EPERM
    #: What is feigned: nothing is done, and the call says that it was, if all checks of any one hold.
    feigned: tuple[tuple[Check, ...], ...] = ()


_TIOCSTI, _TIOCLINUX = 0x5412, 0x541C
_NEW_NAMESPACE = 0x7E020000  # NEWNS, NEWCGROUP, NEWUTS, NEWIPC, NEWUSER, NEWPID, NEWNET; clone(2) has no NEWTIME
_CREATES = 0o100 | 0o20000000  # O_CREAT and O_TMPFILE's own bit: without these open(2) ignores its mode
_SET_ID = stat.S_ISUID | stat.S_ISGID
_NO_DEVICE = (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)
_NETLINK_ROUTE = 0
_PRIO_PROCESS, _PRIO_PGRP = 0, 1
_IOPRIO_WHO_PROCESS, _IOPRIO_WHO_PGRP = 1, 2
_OWN = "own process only (pid 0)"
_CORE = 4  # RLIMIT_CORE of every processor that we have a table for
_SELF = Check(0, (0,))


def _no_set_id(argument: int) -> Check:
    return Check(argument, (0,), _SET_ID)


def _mode_rule(argument: int, *names: str) -> Rule:
    return Rule(names, "no setuid or setgid bit", ((_no_set_id(argument),),))


def _open_rule(flags: int, name: str) -> Rule:
    return Rule(
        (name,), "creates no setuid or setgid file", ((Check(flags, (0,), _CREATES),), (_no_set_id(flags + 1),))
    )


def _mknod_rule(mode: int, name: str) -> Rule:
    alternative = (_no_set_id(mode), Check(mode, _NO_DEVICE, stat.S_IFMT(bpf.WORD)))
    return Rule((name,), "no device, no setuid or setgid bit", (alternative,))


RULES = (
    Rule(("clone",), "no new namespace", ((Check(0, (0,), _NEW_NAMESPACE),),)),
    Rule(("ioctl",), "no TIOCSTI or TIOCLINUX", ((Check(1, (_TIOCSTI, _TIOCLINUX), inside=False),),)),
    # Linux and 32-bit Linux, each also with UNAME26, and the question which it is.
    Rule(("personality",), "ordinary ones", ((Check(0, (0, 8, 0x20000, 0x20008, bpf.WORD)),),)),
    # A core is kept from a handler of core_pattern, which runs outside of the box, by a limit of exactly 1 (core(5)); a job may
    # not lower that. It is told that it has: gpg and ssh-agent set 0, and end if they cannot.
    Rule(("setrlimit",), "the limit of core dumps stays", ((Check(0, (_CORE,), inside=False),),), error=0),
    Rule(
        ("prlimit64",),
        f"{_OWN}, where the limit of core dumps stays",
        (
            (_SELF, Check(1, (_CORE,), inside=False)),
            (_SELF, Check(2, (0,)), Check(2, (0,), high=True)),  # asks only
        ),
        feigned=((_SELF,),),
    ),
    _mode_rule(1, "chmod", "fchmod", "creat", "mkdir"),
    _mode_rule(2, "fchmodat", "fchmodat2", "mkdirat"),
    _open_rule(1, "open"),
    _open_rule(2, "openat"),
    _mknod_rule(1, "mknod"),
    _mknod_rule(2, "mknodat"),
)

#: Where others have the same uid, the kernel would let a job slow them down or take their processors away.
SHARED_UID_RULES = (
    Rule(
        ("setpriority",),
        "own process or process group only (0)",
        ((Check(0, (_PRIO_PROCESS, _PRIO_PGRP)), Check(1, (0,))),),
    ),
    Rule(
        ("ioprio_set",),
        "own process or process group only (0)",
        ((Check(0, (_IOPRIO_WHO_PROCESS, _IOPRIO_WHO_PGRP)), Check(1, (0,))),),
    ),
    Rule(
        ("sched_setaffinity", "sched_setattr", "sched_setparam", "sched_setscheduler"),
        _OWN,
        ((Check(0, (0,)),),),
    ),
)

_SET_FLAGS, _SET_FLAGS_32, _SET_EXTENDED = 0x40086602, 0x40046602, 0x401C5820  # FS_IOC_SETFLAGS, FS_IOC_FSSETXATTR
#: With SEALED; in place of the rule above on the same call.
SEALED_RULES = (
    Rule(
        ("ioctl",),
        "no TIOCSTI, TIOCLINUX or flags of files",
        ((Check(1, (_TIOCSTI, _TIOCLINUX, _SET_FLAGS, _SET_FLAGS_32, _SET_EXTENDED), inside=False),),),
    ),
)

_ONLY_UNIX = Check(0, (socket.AF_UNIX,))
#: VSOCK is in no namespace and ALG reaches kernel code that few need; a pair exists for unix sockets, and for TIPC.
SOCKET_RULES = {
    "all": (
        Rule(
            ("socket",),
            "unix, inet, inet6, netlink route",
            (
                (Check(0, (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)),),
                (Check(0, (socket.AF_NETLINK,)), Check(2, (_NETLINK_ROUTE,))),
            ),
            errno.EAFNOSUPPORT,
        ),
        Rule(("socketpair",), "unix", ((_ONLY_UNIX,),), errno.EAFNOSUPPORT),
    ),
    "unix": (Rule(("socket", "socketpair"), "unix", ((_ONLY_UNIX,),), errno.EAFNOSUPPORT),),
}
