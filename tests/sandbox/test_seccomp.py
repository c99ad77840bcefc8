"""What both filters say on both processors, judged by running them over every number in a machine of our own."""

import errno
import functools
import socket
import stat

import bpf_machine
import pytest
from bpf_machine import ALLOW, KILL

from lnmt_scheduler.sandbox import filters, seccomp

ARCHES = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
FOREIGN = {"i386": 0x40000003, "arm": 0x40000028, "riscv64": 0xC00000F3, "none": 0}
EVERY = [*range(1024), 0x3FFFFFFF]
EPERM, ENOSYS, EAFNOSUPPORT = (0x00050000 | number for number in (errno.EPERM, errno.ENOSYS, errno.EAFNOSUPPORT))
ONES = (0xFFFFFFFFFFFFFFFF,) * 6

# Written here once more, by what they reach: the filters' own lists must not be their only witness.
REFUSED = {
    "file systems": "mount umount2 pivot_root chroot open_by_handle_at fanotify_init quotactl acct",
    "namespaces": "unshare setns",
    "other processes": "ptrace process_vm_readv process_vm_writev process_madvise kcmp pidfd_getfd",
    "the wide kernel": "bpf perf_event_open userfaultfd lookup_dcookie nfsservctl uselib modify_ldt",
    "keys": "add_key keyctl request_key",
    "the host": "init_module finit_module delete_module kexec_load kexec_file_load reboot swapon swapoff syslog vhangup "
    "iopl ioperm sethostname setdomainname",
    "clocks": "settimeofday clock_settime adjtimex clock_adjtime",
    "memory placement": "mbind set_mempolicy migrate_pages move_pages",
}
MISSING = (
    "clone3 openat2 io_uring_setup io_uring_enter io_uring_register open_tree open_tree_attr move_mount fsopen fsconfig "
    "fsmount fspick mount_setattr statmount listmount memfd_secret quotactl_fd "
    "lsm_get_self_attr lsm_set_self_attr lsm_list_modules"
)
DEADLY = "init_module finit_module kexec_load kexec_file_load bpf open_by_handle_at setns"
BY_NAME = {name: EPERM for names in REFUSED.values() for name in names.split()} | dict.fromkeys(MISSING.split(), ENOSYS)

NEW = {"NEWNS": 1 << 17, "NEWCGROUP": 1 << 25, "NEWUTS": 1 << 26, "NEWIPC": 1 << 27, "NEWUSER": 1 << 28}
NEW |= {"NEWPID": 1 << 29, "NEWNET": 1 << 30}
THREAD, FORK, VFORK = 0x3D0F00, 0x1200011, 0x4111
CREATE, TMPFILE = 0o101, 0o20200002

#: Call, arguments, verdict: the rules of both filters, but for sockets.
BY_ARGUMENT = [
    *(("clone", (flags,), ALLOW) for flags in (0, THREAD, FORK, VFORK)),
    *(("clone", (flag | 17,), EPERM) for flag in NEW.values()),
    *(("ioctl", (0, request), ALLOW) for request in (0x5401, 0x5411, 0x5413, 0x541B, 0x541D)),
    *(("ioctl", (0, request), EPERM) for request in (0x5412, 0x541C)),
    *(("personality", (value,), ALLOW) for value in (0, 8, 0x20000, 0x20008, 0xFFFFFFFF, -1)),
    *(("personality", (value,), EPERM) for value in (1, 0x0040000, 0x0400000, 0x0440000, 0x20009)),
    ("prlimit64", (0, 7), ALLOW),
    *(("prlimit64", (pid, 7), EPERM) for pid in (1, 2, -1)),
    *((name, (0, 0o1777), ALLOW) for name in ("chmod", "fchmod", "creat", "mkdir")),
    *((name, (0, mode), EPERM) for name in ("chmod", "fchmod", "creat", "mkdir") for mode in (0o4755, 0o2755, 0o6000)),
    *((name, (0, 0, 0o1777), ALLOW) for name in ("fchmodat", "fchmodat2", "mkdirat")),
    *((name, (0, 0, mode), EPERM) for name in ("fchmodat", "fchmodat2", "mkdirat") for mode in (0o4755, 0o2755)),
    ("open", (0, CREATE, 0o644), ALLOW),
    ("open", (0, 0, 0o6777), ALLOW),  # without O_CREAT the mode is whatever was in the register
    *(("open", (0, flags, mode), EPERM) for flags in (CREATE, TMPFILE) for mode in (0o4755, 0o2755)),
    ("openat", (0, 0, CREATE, 0o644), ALLOW),
    ("openat", (0, 0, 0, 0o6777), ALLOW),
    *(("openat", (0, 0, flags, mode), EPERM) for flags in (CREATE, TMPFILE) for mode in (0o4755, 0o2755)),
    *(("mknod", (0, kind | 0o600), ALLOW) for kind in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)),
    *(("mknod", (0, kind | 0o600), EPERM) for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFREG | stat.S_ISUID)),
    *(("mknodat", (0, 0, kind | 0o600), ALLOW) for kind in (0, stat.S_IFREG, stat.S_IFIFO, stat.S_IFSOCK)),
    *(("mknodat", (0, 0, kind | 0o600), EPERM) for kind in (stat.S_IFCHR, stat.S_IFBLK, stat.S_IFIFO | stat.S_ISGID)),
]
VSOCK, ALG, PACKET, XDP = 40, 38, 17, 44
SOCKETS = [
    *(("socket", (family, 1), ALLOW) for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6)),
    ("socket", (socket.AF_NETLINK, 3, 0), ALLOW),
    *(("socket", (socket.AF_NETLINK, 3, protocol), EAFNOSUPPORT) for protocol in (4, 6, 9, 12)),
    *(("socket", (family, 1), EAFNOSUPPORT) for family in (0, VSOCK, ALG, PACKET, XDP, -1)),
    ("socketpair", (socket.AF_UNIX, 1), ALLOW),
    ("socketpair", (30, 1), EAFNOSUPPORT),
]
ONLY_UNIX = [
    ("socket", (socket.AF_UNIX, 1), ALLOW),
    ("socketpair", (socket.AF_UNIX, 1), ALLOW),
    *(("socket", (family, 1), EAFNOSUPPORT) for family in (socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK, VSOCK)),
]
SHARED = [
    *(
        (name, arguments, EPERM)
        for name in ("shmget", "msgget", "semget", "mq_open", "mq_unlink")
        for arguments in ((), (5, 5, 0o1600))
    ),
    *(("setpriority", arguments, ALLOW) for arguments in ((0, 0, 5), (1, 0, 5))),
    *(("setpriority", arguments, EPERM) for arguments in ((0, 1, 5), (1, 1, 5), (2, 0, 5), (2, 1000, 5))),
    *(("ioprio_set", arguments, ALLOW) for arguments in ((1, 0, 5), (2, 0, 5))),
    *(("ioprio_set", arguments, EPERM) for arguments in ((1, 1, 5), (2, 7, 5), (3, 0, 5), (3, 1000, 5))),
    *((f"sched_{name}", (0,), ALLOW) for name in ("setaffinity", "setattr", "setparam", "setscheduler")),
    *((f"sched_{name}", (1,), EPERM) for name in ("setaffinity", "setattr", "setparam", "setscheduler")),
]


@functools.cache
def judge(name, arch, number, *arguments, **options):
    program = seccomp.compile(name, arch=arch, **options)
    return bpf_machine.run(program, ARCHES[arch], number, *arguments)


def hold(name, arch, table, **options):
    """Every line of a table, also with rubbish in the high halves of the arguments: the kernel does not see those."""
    numbers = seccomp.numbers(arch)
    held = 0
    for call, arguments, verdict in table:
        if call in numbers:
            rubbish = [0xBAD00000000 | argument & 0xFFFFFFFF for argument in arguments]
            assert judge(name, arch, numbers[call], *arguments, **options) == verdict, (call, arguments)
            assert judge(name, arch, numbers[call], *rubbish, **options) == verdict, (call, arguments, "high words")
            held += 1
    assert held > len(table) / 3


arches = pytest.mark.parametrize("arch", ARCHES)
both = pytest.mark.parametrize("name", ["denylist", "strict"])


@both
@arches
@pytest.mark.parametrize("shared_uid", [False, True])
@pytest.mark.parametrize("sockets", ["all", "unix"])
def test_every_filter_is_a_program_that_the_kernel_takes(name, arch, shared_uid, sockets):
    bpf_machine.check(seccomp.compile(name, arch=arch, shared_uid=shared_uid, sockets=sockets))


@both
@arches
@pytest.mark.parametrize("foreign", FOREIGN)
def test_calls_of_another_abi_kill(name, arch, foreign):
    program = seccomp.compile(name, arch=arch)
    assert {bpf_machine.run(program, FOREIGN[foreign], number) for number in EVERY} == {KILL}
    other = ARCHES["aarch64" if arch == "x86_64" else "x86_64"]
    assert bpf_machine.run(program, other, 0) == KILL


@both
def test_calls_of_the_x32_abi_are_missing(name):
    numbers = [0x40000000 + number for number in EVERY] + [0x7FFFFFFF, 0x80000000, 0xFFFFFFFF]
    assert {judge(name, "x86_64", number) for number in numbers} == {ENOSYS}


@arches
def test_the_denylist_refuses_its_list_and_allows_every_other_number(arch):
    names = {number: name for name, number in seccomp.numbers(arch).items()}
    judged = {rule_name for rule_name, _, _ in BY_ARGUMENT + SOCKETS}
    for number in EVERY:
        name = names.get(number, "")
        if name not in judged:
            assert {judge("denylist", arch, number), judge("denylist", arch, number, *ONES)} == {
                BY_NAME.get(name, ALLOW)
            }, name


@both
@arches
def test_arguments_decide_where_a_call_is_good_and_bad(name, arch):
    hold(name, arch, BY_ARGUMENT + SOCKETS)


#: A success without a deed.
FEIGNED = 0x00050000
CORE = 4
RUBBISH = 0xBAD00000000


@both
@arches
def test_the_limit_of_core_dumps_can_be_read_and_never_changed(name, arch):
    """Every other limit can, of the process itself; a pointer counts in both of its words, a number in its low one only."""
    number = seccomp.numbers(arch)["prlimit64"]
    for rubbish in (0, RUBBISH):
        for pointer in (1, 1 << 32, 0x7FFF_0000_0000, 0x5555_0000_1234):
            assert judge(name, arch, number, rubbish, rubbish | CORE, pointer, 0) == FEIGNED
            assert judge(name, arch, number, rubbish, rubbish | 7, pointer, 0) == ALLOW
            assert judge(name, arch, number, rubbish | 1, rubbish | CORE, pointer, 0) == EPERM
        assert judge(name, arch, number, rubbish, rubbish | CORE, 0, 0x5555_0000_1234) == ALLOW
        assert judge(name, arch, number, rubbish | 1, rubbish | CORE, 0, 0x5555_0000_1234) == EPERM
        other = judge(name, arch, seccomp.numbers(arch)["setrlimit"], rubbish | 7, 0x5555_0000_1234)
        core = judge(name, arch, seccomp.numbers(arch)["setrlimit"], rubbish | CORE, 0x5555_0000_1234)
        assert (other, core) == ((EPERM, EPERM) if name == "strict" else (ALLOW, FEIGNED))


@both
@arches
def test_a_job_without_network_gets_unix_sockets_only(name, arch):
    hold(name, arch, ONLY_UNIX, sockets="unix")


@arches
def test_a_shared_uid_takes_what_reaches_others_of_that_uid(arch):
    hold("denylist", arch, SHARED, shared_uid=True)
    numbers = seccomp.numbers(arch)
    assert {judge("denylist", arch, numbers[call], *arguments) for call, arguments, _ in SHARED} == {ALLOW}


@arches
def test_strict_with_a_shared_uid_denies_objects_that_outlive_the_box(arch):
    numbers = seccomp.numbers(arch)
    for call in ("shmget", "msgget", "semget", "mq_open"):
        assert judge("strict", arch, numbers[call]) == ALLOW
        assert judge("strict", arch, numbers[call], shared_uid=True) == EPERM


@arches
@pytest.mark.parametrize("shared_uid", [False, True])
def test_strict_never_allows_what_the_denylist_refuses(arch, shared_uid):
    trials = [(), ONES, (0, 0x5412), (0, CREATE, 0o4755, 0o4755), (1, 1, 1), (16, 3, 0)]
    for number in EVERY:
        for arguments in trials:
            if judge("strict", arch, number, *arguments, shared_uid=shared_uid) == ALLOW:
                assert judge("denylist", arch, number, *arguments, shared_uid=shared_uid) == ALLOW


@arches
def test_strict_says_enosys_to_every_number_that_nobody_has_a_name_for(arch):
    named = set(seccomp.numbers(arch).values())
    assert {judge("strict", arch, number) for number in EVERY if number not in named} == {ENOSYS}
    assert 470 not in named


@arches
def test_strict_too_lets_programs_fall_back_from_calls_that_no_filter_can_look_into(arch):
    numbers = seccomp.numbers(arch)
    assert {judge("strict", arch, numbers[call]) for call in MISSING.split()} == {ENOSYS}


@arches
def test_strict_kills_where_only_an_escape_would_call(arch):
    numbers = seccomp.numbers(arch)
    killed = {call for call, number in numbers.items() if judge("strict", arch, number) == KILL}
    assert killed == set(DEADLY.split())
    assert not any(judge("denylist", arch, number) == KILL for number in numbers.values())


@arches
def test_strict_refuses_privilege_resources_keys_and_locked_memory(arch):
    groups = """
        chown lchown fchown fchownat setuid setreuid setresuid setfsuid setgroups capset fanotify_mark vhangup
        ioprio_set sched_setaffinity sched_setattr sched_setparam sched_setscheduler set_mempolicy setpriority setrlimit mbind
        add_key keyctl request_key mlock mlock2 mlockall munlock munlockall ptrace mount
    """
    numbers = seccomp.numbers(arch)
    found = {judge("strict", arch, numbers[call]) for call in groups.split() if call in numbers}
    assert found == {EPERM}


@arches
def test_strict_allows_what_every_program_needs(arch):
    needed = """
        read write close openat newfstatat mmap munmap mprotect brk execve exit_group clone wait4 futex rt_sigaction
        rt_sigreturn getrandom clock_gettime epoll_pwait pipe2 dup3 fcntl ioctl sendto recvfrom connect unlinkat renameat2
        seccomp landlock_restrict_self set_robust_list rseq prlimit64
    """
    numbers = seccomp.numbers(arch)
    assert {judge("strict", arch, numbers[call]) for call in needed.split()} == {ALLOW}


def test_every_name_in_a_filter_exists_on_some_processor():
    known = {name for arch in ARCHES for name in seccomp.numbers(arch)}
    ruled = {name for rule in filters.RULES + filters.SHARED_UID_RULES for name in rule.names}
    named = filters.ABSENT | filters.DENIED | filters.TRIPWIRES | filters.SHARED_UID_DENIED | filters.ALLOWED | ruled
    assert named - known == set()


def test_no_call_is_in_two_lists_that_contradict_each_other():
    assert filters.ABSENT.isdisjoint(filters.DENIED | filters.ALLOWED)
    assert filters.DENIED.isdisjoint(filters.ALLOWED)
    assert filters.TRIPWIRES <= filters.DENIED


@arches
def test_the_table_agrees_with_libseccomp(arch):
    try:
        import pyseccomp  # noqa: PLC0415 - looks for libseccomp as it is imported
    except (ImportError, OSError, RuntimeError) as error:
        pytest.skip(f"libseccomp2 is not installed: {error}")
    theirs = {}
    for number in range(1024):
        try:
            name = pyseccomp.resolve_syscall(
                {"x86_64": pyseccomp.Arch.X86_64, "aarch64": pyseccomp.Arch.AARCH64}[arch], number
            )
        except ValueError:
            continue
        theirs[name.decode()] = number
    assert len(theirs) > 300
    ours = seccomp.numbers(arch)
    assert len(set(ours.values())) == len(ours)
    # Either may know calls that are newer than the other; none may call one number two names.
    newest = min(max(theirs.values()), max(ours.values()))
    younger = {"uretprobe", "uprobe"}
    assert {n: i for n, i in ours.items() if i <= newest and n not in younger} == {
        n: i for n, i in theirs.items() if i <= newest and n not in younger
    }


def test_the_numbers_of_some_calls_that_everybody_knows():
    assert {name: seccomp.numbers("x86_64")[name] for name in ("read", "execve", "ptrace", "rseq", "clone3", "openat2")} == {
        "read": 0, "execve": 59, "ptrace": 101, "rseq": 334, "clone3": 435, "openat2": 437,
    }  # fmt: skip
    assert {name: seccomp.numbers("aarch64")[name] for name in ("read", "execve", "ptrace", "rseq", "clone3", "seccomp")} == {
        "read": 63, "execve": 221, "ptrace": 117, "rseq": 293, "clone3": 435, "seccomp": 277,
    }  # fmt: skip


def test_a_filter_is_compiled_once():
    assert seccomp.compile("strict", arch="aarch64") is seccomp.compile("strict", arch="aarch64")


def test_a_processor_without_a_table_is_named():
    with pytest.raises(ValueError) as caught:
        seccomp.compile("strict", arch="s390x")
    assert str(caught.value) == "no table of system calls for s390x: seccomp filters exist for x86_64 and aarch64"


def test_an_unknown_filter_is_refused():
    with pytest.raises(ValueError) as caught:
        seccomp.compile("lenient")
    assert str(caught.value) == "no seccomp filter is called 'lenient': denylist, strict"


@arches
@pytest.mark.parametrize("shared_uid", [False, True])
def test_the_description_names_every_call_of_the_denylist_with_its_fate(arch, shared_uid):
    fates = {}
    for line in seccomp.describe("denylist", arch=arch, shared_uid=shared_uid):
        calls, _, fate = line.partition(": ")
        fates |= dict.fromkeys(calls.split(", "), fate)
    words = {EPERM: "EPERM", ENOSYS: "ENOSYS", EAFNOSUPPORT: "EAFNOSUPPORT"}
    for call, number in seccomp.numbers(arch).items():
        for arguments in ((), ONES):
            verdict = judge("denylist", arch, number, *arguments, shared_uid=shared_uid)
            if verdict != ALLOW:
                assert fates[call].endswith(words[verdict]), call
    assert fates["all others"] == "allowed"


def test_the_description_of_strict_says_what_it_allows_and_kills():
    lines = seccomp.describe("strict", arch="x86_64", sockets="unix")
    assert lines[:2] == [
        "calls of another ABI than x86_64: the process is killed (SIGSYS)",
        "calls of the x32 ABI: ENOSYS",
    ]
    assert "socket, socketpair: unix, else EAFNOSUPPORT" in lines
    assert "prlimit64: own process only (pid 0), where the limit of core dumps stays, else EPERM" in lines
    stays = "setrlimit: the limit of core dumps stays, else a success that is feigned"
    assert stays in seccomp.describe("denylist", arch="x86_64")
    assert f"{', '.join(sorted(DEADLY.split()))}: the process is killed (SIGSYS)" in lines
    assert lines[-2:] == ["all others: EPERM", "calls newer than this version: ENOSYS"]


@arches
@pytest.mark.parametrize("name", ["denylist", "strict"])
def test_a_sealed_filter_lets_no_mode_owner_date_or_attribute_be_changed(name, arch):
    numbers = seccomp.numbers(arch)
    for call in filters.SEALED & numbers.keys() - filters.ABSENT:
        assert judge(name, arch, numbers[call], sealed=True) == EPERM
    for flags in (0x40086602, 0x40046602, 0x401C5820, 0x5412):
        assert judge(name, arch, numbers["ioctl"], 0, flags, sealed=True) == EPERM
    assert (
        judge(name, arch, numbers["ioctl"], 0, 0x40086602) == judge(name, arch, numbers["openat"], sealed=True) == ALLOW
    )
