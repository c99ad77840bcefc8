"""Landlock by trying what it forbids, for every ABI from none to the kernel's own."""

import array
import contextlib
import ctypes
import errno
import fcntl
import os
import select
import signal
import socket
import stat
import struct
import subprocess
import sys
import termios
import time
from functools import partial
from pathlib import Path

import attempts
import pytest

from lnmt_scheduler.sandbox import capabilities, landlock, syscalls

KERNEL = landlock.abi()
ABIS = range(KERNEL + 1)
SYSTEM = ("/usr", "/bin", "/lib", "/lib64", "/etc")

pytestmark = pytest.mark.skipif(KERNEL == 0, reason="landlock: this kernel has none, or it is switched off")


@pytest.fixture(params=ABIS, ids=lambda version: f"abi{version}")
def abi(request):
    return landlock.abi(pretend=request.param)


@pytest.fixture(params=attempts.accounts(), ids=lambda account: account or "ourselves")
def account(request):
    return request.param


@pytest.fixture
def place(folder):
    """Folders that permissions open to everybody, so that only landlock can say no."""
    for name in ("open/a", "open/b", "shown", "closed/empty"):
        (folder / name).mkdir(parents=True)
    for file in ("open/a/file", "shown/file", "closed/file"):
        (folder / file).write_text("content")
    for tool in ("open/tool", "shown/tool", "closed/tool"):
        (folder / tool).write_text("#!/bin/sh\nexit 0\n")
    for path in (folder, *folder.rglob("*")):
        path.chmod(0o777)
    return folder


def rules_for(place: Path, **more: object) -> landlock.Rules:
    given = {
        "readable": (*SYSTEM, "/dev/null", str(place / "shown")),
        "writable": (str(place / "open"),),
        "optional": frozenset(SYSTEM),
    }
    return landlock.Rules(**(given | more))


def restrict(rules: landlock.Rules, version: int = KERNEL) -> tuple[str, ...]:
    capabilities.no_new_privs()
    return landlock.apply(landlock.build(rules, version))


def under(rules: landlock.Rules, version: int, action, *arguments, account: str | None = None) -> str:
    """What comes of the action in a process that is under the rules."""

    def body():
        restrict(rules, version)
        return attempts.outcome(action, *arguments)

    return attempts.run(body, account=account)


def read(path):
    os.close(os.open(path, os.O_RDONLY))


def write(path):
    os.close(os.open(path, os.O_WRONLY))


def create(path):
    os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL))


def bind_by_name(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(os.fspath(path))


def execute(path):
    """execve in a child, whose errno comes back by a pipe that a successful exec closes."""
    read_end, write_end = os.pipe2(os.O_CLOEXEC)
    pid = os.fork()
    if pid == 0:
        try:
            os.execv(path, [path])
        except OSError as error:
            os.write(write_end, bytes([error.errno]))
        finally:
            os._exit(0)
    os.close(write_end)
    failed = os.read(read_end, 1)
    os.waitpid(pid, 0)
    os.close(read_end)
    if failed:
        raise OSError(failed[0], os.strerror(failed[0]))


def since(version: int, at: int, denied: str, allowed: str = "ok") -> str:
    return denied if at >= version else allowed


def each_under(rules: landlock.Rules, version: int, tries, place: Path, account: str | None) -> dict[str, str]:
    """What comes of each of the actions, one after the other, in one process that is under the rules."""

    def body():
        restrict(rules, version)
        return {f"{name} {path}": attempts.outcome(action, place / path) for name, action, path in tries}

    return attempts.run(body, account=account)


FORBIDDEN = (
    ("read", read, "closed/file"),
    ("list", os.listdir, "closed"),
    ("execute", execute, "closed/tool"),
    ("write", write, "closed/file"),
    ("write", write, "shown/file"),
    ("create", create, "closed/created"),
    ("create", create, "shown/created"),
    ("make directory", os.mkdir, "closed/directory"),
    ("make fifo", os.mkfifo, "closed/fifo"),
    ("make link", partial(os.symlink, "/"), "closed/link"),
    ("make socket", bind_by_name, "closed/socket"),
    ("remove directory", os.rmdir, "closed/empty"),
    ("remove", os.unlink, "closed/file"),
)

ALLOWED = (
    ("read", read, "shown/file"),
    ("list", os.listdir, "shown"),
    ("execute", execute, "shown/tool"),
    ("execute", execute, "open/tool"),
    ("read", read, "open/a/file"),
    ("write", write, "open/a/file"),
    ("truncate", partial(os.truncate, length=0), "open/a/file"),
    ("create", create, "open/created"),
    ("make directory", os.mkdir, "open/directory"),
    ("make fifo", os.mkfifo, "open/fifo"),
    ("make link", partial(os.symlink, "/"), "open/link"),
    ("make socket", bind_by_name, "open/socket"),
    ("remove directory", os.rmdir, "open/b"),
    ("remove", os.unlink, "open/a/file"),
)


def test_what_is_not_allowed_is_refused_by_every_abi(place, abi, account):
    results = each_under(rules_for(place), abi, FORBIDDEN, place, account)
    assert results == dict.fromkeys(results, since(1, abi, "EACCES"))
    assert len(results) == len(FORBIDDEN)


def test_what_is_allowed_works_with_every_abi(place, abi, account):
    results = each_under(rules_for(place), abi, ALLOWED, place, account)
    assert results == dict.fromkeys(results, "ok")
    assert len(results) == len(ALLOWED)


def test_a_file_moves_between_writable_directories_unless_the_abi_cannot_allow_it(place, abi, account):
    source, target = place / "open/a/file", place / "open/b/file"
    wanted = "EXDEV" if abi == 1 else "ok"
    assert under(rules_for(place), abi, os.link, source, target, account=account) == wanted
    assert under(rules_for(place), abi, os.rename, source, target.with_name("other"), account=account) == wanted


def test_a_file_never_moves_out_of_where_it_may_be_written(place, abi, account):
    for source, target in (("open/a/file", "shown/x"), ("open/a/file", "closed/x"), ("closed/file", "open/x")):
        result = under(rules_for(place), abi, os.link, place / source, place / target, account=account)
        assert result in ({"ok"} if abi == 0 else {"EACCES", "EXDEV"})
        result = under(rules_for(place), abi, os.rename, place / source, place / target, account=account)
        assert result in ({"ok"} if abi == 0 else {"EACCES", "EXDEV"})
        if abi == 0:
            (place / target).rename(place / source)


def test_truncation_outside_is_refused_from_abi_3_on(place, abi, account):
    wanted = since(3, abi, "EACCES")
    assert under(rules_for(place), abi, os.truncate, place / "shown/file", 0, account=account) == wanted
    assert under(rules_for(place), abi, os.truncate, place / "closed/file", 0, account=account) == wanted
    promised = landlock.build(rules_for(place), abi)
    assert any("truncate" in cost for cost in promised.costs) == (abi in {1, 2})


def control(path):
    with open(path, "rb") as device:
        fcntl.ioctl(device, termios.TCGETS, array.array("b", bytes(64)))


def test_ioctl_on_a_device_that_may_only_be_read_is_refused_from_abi_5_on(place, abi, account):
    # ENOTTY is the device's own answer.
    assert under(rules_for(place), abi, control, "/dev/null", account=account) == since(5, abi, "EACCES", "ENOTTY")


def test_a_device_that_is_itself_named_writable_can_be_controlled(place, abi, account):
    rules = rules_for(place, writable=("/dev/null",))
    assert under(rules, abi, control, "/dev/null", account=account) == "ENOTTY"
    assert under(rules, abi, write, "/dev/null", account=account) == "ok"


def test_a_writable_directory_gives_no_control_of_the_devices_in_it(place, abi, account):
    rules = rules_for(place, readable=SYSTEM, writable=("/dev",))
    assert under(rules, abi, control, "/dev/null", account=account) == since(5, abi, "EACCES", "ENOTTY")


def test_no_device_node_can_be_made_even_where_writing_is_allowed(place, account):
    node = place / "open/node"
    for kind in (stat.S_IFCHR, stat.S_IFBLK):
        result = under(rules_for(place), KERNEL, os.mknod, node, 0o600 | kind, os.makedev(1, 3), account=account)
        assert result == "EACCES"


def test_what_may_be_read_need_not_be_executable(place, abi, account):
    rules = rules_for(place, executable=("/bin", "/usr", "/lib", "/lib64"))
    assert under(rules, abi, read, place / "shown/tool", account=account) == "ok"
    assert under(rules, abi, execute, place / "shown/tool", account=account) == since(1, abi, "EACCES")
    assert under(rules, abi, execute, place / "open/tool", account=account) == since(1, abi, "EACCES")
    assert under(rules, abi, execute, "/bin/true", account=account) == "ok"


def test_a_file_can_be_named_as_well_as_a_directory(place, abi, account):
    file = str(place / "closed/file")
    rules = rules_for(place, writable=(file,))
    assert under(rules, abi, write, file, account=account) == "ok"
    assert under(rules, abi, os.truncate, file, 0, account=account) == "ok"
    assert under(rules, abi, os.listdir, place / "closed", account=account) == since(1, abi, "EACCES")


def test_a_link_is_followed_to_what_it_names(place):
    (place / "link").symlink_to(place / "closed")
    rules = rules_for(place, readable=(str(place / "link"),))
    assert under(rules, KERNEL, read, place / "closed/file") == "ok"
    assert under(rules, KERNEL, read, place / "shown/file") == "EACCES"


def test_a_missing_path_is_an_error_that_names_it(place):
    rules = rules_for(place, readable=(str(place / "nowhere"),))
    with pytest.raises(attempts.FailedError, match=r"FileNotFoundError.*nowhere"):
        attempts.run(partial(restrict, rules))


def test_a_failed_layer_is_not_in_force(place):
    rules = rules_for(place, readable=(str(place / "nowhere"),))

    def body():
        with contextlib.suppress(FileNotFoundError):
            restrict(rules)
        return attempts.outcome(read, place / "closed/file")

    assert attempts.run(body) == "ok"


def test_a_missing_optional_path_is_skipped_and_told(place):
    nowhere, below = str(place / "nowhere"), str(place / "closed/file/below")
    rules = rules_for(place, readable=(nowhere, below), optional=frozenset({nowhere, below}))

    def body():
        return (
            restrict(rules),
            attempts.outcome(read, place / "closed/file"),
            attempts.outcome(write, place / "open/a/file"),
        )

    assert attempts.run(body) == ((nowhere, below), "EACCES", "ok")


def test_mounting_is_over_once_a_layer_restricts_files(place):
    attempts.skip_unless_root("mounting")

    def body():
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        restrict(rules_for(place))
        return attempts.outcome(syscalls.mount, "none", str(place / "open"), "tmpfs", 0)

    assert attempts.run(body) == "EPERM"


@pytest.fixture
def listening():
    with socket.create_server(("127.0.0.1", 0)) as server:
        yield server.getsockname()[1]


def connect(port):
    socket.create_connection(("127.0.0.1", port), timeout=5).close()


def bind(port):
    with socket.socket() as made:
        made.bind(("127.0.0.1", port))


def test_tcp_outside_the_list_is_refused_from_abi_4_on(abi, account, listening):
    none = landlock.Rules(tcp_bind=(), tcp_connect=())
    assert under(none, abi, connect, listening, account=account) == since(4, abi, "EACCES")
    assert under(none, abi, bind, 0, account=account) == since(4, abi, "EACCES")


def test_tcp_ports_in_the_list_work(abi, account, listening):
    rules = landlock.Rules(tcp_bind=(0,), tcp_connect=(listening,))
    assert under(rules, abi, connect, listening, account=account) == "ok"
    assert under(rules, abi, bind, 0, account=account) == "ok"
    other = 1 if listening != 1 else 2
    assert under(rules, abi, connect, other, account=account) == since(4, abi, "EACCES", "ECONNREFUSED")


def test_one_direction_of_tcp_can_be_restricted_alone(account, listening):
    rules = landlock.Rules(tcp_connect=())
    if KERNEL < 4:
        pytest.skip("TCP: this kernel's landlock is older than ABI 4")
    assert under(rules, KERNEL, bind, 0, account=account) == "ok"
    assert under(rules, KERNEL, connect, listening, account=account) == "EACCES"


def test_tcp_is_not_promised_in_full_while_there_are_ways_round_it(listening):
    rules = landlock.Rules(tcp_bind=(), tcp_connect=())
    target = ("127.0.0.1", listening)

    def by_multipath():
        with socket.socket(socket.AF_INET, socket.SOCK_STREAM, 262) as made:
            made.connect(target)

    def by_fast_open():
        with socket.socket() as made:
            made.sendto(b"x", socket.MSG_FASTOPEN, target)

    def by_listening():
        with socket.socket() as made:
            made.listen()

    passed = [
        action.__name__ for action in (by_multipath, by_fast_open, by_listening) if under(rules, KERNEL, action) == "ok"
    ]
    assert "by_listening" in passed
    assert landlock.build(rules, KERNEL).promises["tcp"] != landlock.ENFORCED


def test_signals_outside_are_refused_from_abi_6_on(abi, account):
    rules = landlock.Rules(scope_signal=True)
    with attempts.bystander(account) as pid:
        assert under(rules, abi, os.kill, pid, 0, account=account) == since(6, abi, "EPERM")
        assert under(rules, abi, os.kill, pid, signal.SIGCONT, account=account) == since(6, abi, "EPERM")


def test_an_abstract_socket_outside_is_refused_from_abi_6_on(abi, account):
    name = f"\0lnmt-test-{os.getpid()}"

    def reach():
        with socket.socket(socket.AF_UNIX) as made:
            made.connect(name)

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(name)
        server.listen()
        rules = landlock.Rules(scope_abstract=True)
        assert under(rules, abi, reach, account=account) == since(6, abi, "EPERM")


def test_an_abstract_socket_of_the_same_layer_can_be_reached(abi, account):
    def both_ends():
        restrict(landlock.LEADER, abi)
        name = f"\0lnmt-test-{os.getpid()}"
        with socket.socket(socket.AF_UNIX) as server, socket.socket(socket.AF_UNIX) as made:
            server.bind(name)
            server.listen()
            return attempts.outcome(made.connect, name)

    assert attempts.run(both_ends, account=account) == "ok"


def test_a_socket_by_name_is_refused_from_abi_9_on(place, abi, account):
    path = place / "open/socket"

    def reach():
        with socket.socket(socket.AF_UNIX) as made:
            made.connect(os.fspath(path))

    with socket.socket(socket.AF_UNIX) as server:
        server.bind(os.fspath(path))
        path.chmod(0o777)
        server.listen(8)
        assert under(landlock.Rules(sockets=()), abi, reach, account=account) == since(9, abi, "EACCES")
        assert under(landlock.Rules(sockets=(str(path),)), abi, reach, account=account) == "ok"
        assert under(rules_for(place), abi, reach, account=account) == "ok"


def test_udp_is_refused_from_abi_10_on(abi, account):
    def send():
        with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as made:
            made.sendto(b"x", ("127.0.0.1", 9))

    assert under(landlock.Rules(udp_connect=()), abi, send, account=account) == since(10, abi, "EACCES")
    assert under(landlock.Rules(udp_bind=(0,), udp_connect=(9,)), abi, send, account=account) == "ok"


def job_under_a_leader(say: int, wait: int) -> int:
    """Fork a job of three processes, one of which is its own session; each says its pid. Returns the main one's pid."""
    pid = os.fork()
    if pid:
        return pid
    try:
        restrict(landlock.LEADER)
        leader = os.getppid()
        os.write(say, f"leader {attempts.outcome(os.kill, leader, 0)}\n".encode())
        for detached in (False, True):
            if os.fork() == 0:
                if detached:
                    os.setsid()
                break
        for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
            with contextlib.suppress(OSError):
                signal.signal(number, signal.SIG_IGN)
        os.write(say, f"pid {os.getpid()}\n".encode())
        os.close(say)
        while True:
            os.read(wait, 1)
    finally:
        os._exit(1)


def gone(pid: int) -> bool:
    """Ended, or a zombie that nobody has reaped."""
    try:
        text = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return True
    return text.rpartition(")")[2].split()[0] in "ZX"


@pytest.mark.skipif(KERNEL < 6, reason="scoped kill: this kernel's landlock is older than ABI 6")
def test_a_leaders_kill_of_all_reaches_its_layer_and_nobody_else():
    # Never as root: were the scope to fail, this would be the end of the host.
    account = attempts.NOBODY if os.geteuid() == 0 else None
    wait_read, wait_write = os.pipe()
    with attempts.bystander(account) as outside:

        def leader():
            restrict(landlock.LEADER)
            guard = attempts.outcome(os.kill, outside, 0)
            assert guard == "EPERM", "the scope does not hold: nothing is killed"
            said, say = os.pipe()
            job_under_a_leader(say, wait_read)
            os.close(say)
            with open(said) as file:  # ends when all three have spoken
                lines = [line.split() for line in file]
            os.kill(-1, signal.SIGKILL)
            return lines

        lines = attempts.run(leader, account=account)
        assert not gone(outside)
        pids = [int(value) for what, value in lines if what == "pid"]
        assert [value for what, value in lines if what == "leader"] == ["EPERM"]
        assert len(pids) == 3
        until = time.monotonic() + 10
        while not all(gone(pid) for pid in pids) and time.monotonic() < until:
            select.select([], [], [], 0.005)
        assert [pid for pid in pids if not gone(pid)] == []
    os.close(wait_read)
    os.close(wait_write)


def test_the_leaders_layer_restricts_no_file_and_no_move(place, account):
    def body():
        restrict(landlock.LEADER)
        restrict(rules_for(place))
        return (
            attempts.outcome(os.rename, place / "open/a/file", place / "open/b/file"),
            attempts.outcome(read, place / "closed/file"),
        )

    assert under(landlock.LEADER, KERNEL, os.rename, place / "closed/file", place / "open/x", account=account) == "ok"
    (place / "closed/file").write_text("content")
    assert attempts.run(body, account=account) == ("EXDEV" if KERNEL == 1 else "ok", "EACCES")


def test_a_second_layer_only_tightens(place, account):
    def body():
        restrict(rules_for(place))
        restrict(landlock.Rules(readable=("/",), writable=(str(place / "open/a"), str(place / "closed"))))
        return [
            attempts.outcome(action, place / path)
            for action, path in (
                (read, "shown/file"),
                (read, "closed/file"),
                (write, "closed/file"),
                (write, "open/a/file"),
                (create, "open/b/new"),
            )
        ]

    assert attempts.run(body, account=account) == ["ok", "EACCES", "EACCES", "ok", "EACCES"]


def test_what_is_started_later_is_under_the_layer_too(place, account):
    def body():
        restrict(rules_for(place))
        pid = os.posix_spawn(
            "/bin/cat", ["cat", str(place / "closed/file")], {}, file_actions=[(os.POSIX_SPAWN_CLOSE, 2)]
        )
        return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])

    assert attempts.run(body, account=account) == 1


def test_the_seventeenth_layer_is_refused():
    def body():
        results = [attempts.outcome(restrict, landlock.Rules(readable=("/",))) for _ in range(17)]
        return results[:16].count("ok"), results[16]

    assert attempts.run(body) == (16, "E2BIG")


def test_an_ordinary_account_needs_no_new_privs_first():
    plan = landlock.build(landlock.Rules(readable=()), KERNEL)
    account = attempts.NOBODY if os.geteuid() == 0 else None
    assert attempts.run(lambda: attempts.outcome(landlock.apply, plan), account=account) == "EPERM"


def test_applying_leaves_no_descriptor(place):
    def body():
        before = os.listdir("/proc/self/fd")
        restrict(rules_for(place, readable=(*SYSTEM, "/proc")))
        with contextlib.suppress(FileNotFoundError):
            restrict(landlock.Rules(readable=("/nowhere",)))
        return before == os.listdir("/proc/self/fd")

    assert attempts.run(body) is True


def test_the_table_of_rights_is_the_kernels():
    """Each bit by itself: the kernel takes exactly those that the table has for its ABI."""
    table = landlock.known(KERNEL)
    for field, size in (("files", 17), ("ports", 4), ("scopes", 2)):
        for bit in range(size):
            asked = {"files": 0, "ports": 0, "scopes": 0, field: 1 << bit}
            # A mask that an old kernel's structure does not have is E2BIG.
            result = attempts.outcome(lambda asked=asked: os.close(syscalls.landlock_create_ruleset(**asked)))
            assert result in {"ok", "EINVAL", "E2BIG"}
            assert (result == "ok") == bool(getattr(table, field) & 1 << bit), (field, bit)


ALL = landlock.Rules(
    readable=("/",),
    sockets=(),
    tcp_bind=(),
    tcp_connect=(),
    udp_bind=(),
    udp_connect=(),
    scope_signal=True,
    scope_abstract=True,
)


def test_promises_grow_with_the_abi():
    words = {"enforced": "E", "degraded": "D", "absent": "-"}
    table = {}
    for version in range(landlock.NEWEST + 1):
        promises = landlock.build(ALL, version).promises
        table[version] = "".join(words[state] for state in promises.values())
    assert list(promises) == ["filesystem", "unix sockets", "tcp", "udp", "signals", "abstract sockets"]
    assert table == {
        0: "------",
        1: "D-----",
        2: "D-----",
        3: "D-----",
        4: "D-D---",
        5: "E-D---",
        6: "E-D-EE",
        7: "E-D-EE",
        8: "E-D-EE",
        9: "EED-EE",
        10: "EEDEEE",
    }


def test_what_is_missing_says_what_it_costs_and_which_linux_has_it():
    costs = landlock.build(landlock.Rules(readable=(), scope_signal=True), 4).costs
    assert costs == (
        "devices that can be opened can be controlled by ioctl(2) (not so from Linux 6.10)",
        "processes outside can be signalled, if the user is the same (not so from Linux 6.12)",
    )


def test_what_is_not_asked_for_is_off_and_costs_nothing():
    for version in range(landlock.NEWEST + 1):
        plan = landlock.build(landlock.Rules(), version)
        assert set(plan.promises.values()) == {"off"}
        assert (plan.costs, plan.steps, plan.describe()) == ((), (), [])


def test_a_plan_describes_itself():
    rules = landlock.Rules(
        readable=("/usr",),
        writable=("/var/tmp",),
        optional=frozenset({"/var/tmp"}),
        tcp_connect=(443,),
        scope_signal=True,
    )
    assert landlock.build(rules, 6).describe() == [
        "landlock (ABI 6): restrict filesystem, tcp, signals",
        "landlock: allow read, execute /usr",
        "landlock: allow read, write, execute, move /var/tmp if it is there",
        "landlock: allow connect TCP port 443",
    ]
    assert landlock.build(rules, 0).describe() == []


def test_an_older_abi_can_be_pretended_but_not_a_newer_one():
    assert [landlock.abi(pretend=version) for version in (0, 1)] == [0, 1]
    assert landlock.abi(pretend=1000) == KERNEL <= landlock.NEWEST
    with pytest.raises(ValueError, match="0 or more"):
        landlock.abi(pretend=-1)


@pytest.mark.parametrize(
    ("given", "problem"),
    [
        ({"writable": ("/tmp",)}, "need readable"),
        ({"executable": ()}, "need readable"),
        ({"readable": ("tmp",)}, "'tmp' is not an absolute path"),
        ({"sockets": ("run/x",)}, "'run/x' is not an absolute path"),
        ({"tcp_bind": (65536,)}, "65536 is not a port"),
        ({"udp_connect": (-1,)}, "-1 is not a port"),
    ],
)
def test_rules_that_make_no_sense_are_refused(given, problem):
    with pytest.raises(ValueError, match=problem):
        landlock.build(landlock.Rules(**given), KERNEL)


def test_a_kernel_without_landlock_is_abi_0():
    """The real answer of a kernel that has it switched off, made by a filter on the system call."""

    def body():
        capabilities.no_new_privs()
        _answer_with_enosys(syscalls.SYS_landlock_create_ruleset)
        return landlock.abi(), landlock.apply(landlock.build(ALL, landlock.abi()))

    assert attempts.run(body) == (0, ())


def _answer_with_enosys(number: int) -> None:
    """A seccomp filter of four instructions: load the number; ours: ENOSYS; else: allow."""

    class Program(ctypes.Structure):
        _fields_ = [("length", ctypes.c_ushort), ("code", ctypes.c_void_p)]

    code = b"".join(
        struct.pack("=HBBI", *each)
        for each in (
            (0x20, 0, 0, 0),
            (0x15, 0, 1, number),
            (0x06, 0, 0, 0x00050000 | errno.ENOSYS),
            (0x06, 0, 0, 0x7FFF0000),
        )
    )
    buffer = ctypes.create_string_buffer(code, len(code))
    program = Program(4, ctypes.addressof(buffer))
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(22, ctypes.c_ulong(2), ctypes.byref(program), ctypes.c_ulong(0), ctypes.c_ulong(0)):
        raise OSError(ctypes.get_errno(), "seccomp")


def test_a_filter_that_keeps_landlock_from_us_is_a_kernel_without_it():
    # As the filters of container engines answer: EPERM to a call that they do not know, and nothing else.
    program = """if True:
        import struct
        from lnmt_scheduler.sandbox import landlock, seccomp, syscalls
        steps = [(0x20, 0, 0, 0), (0x15, 0, 1, syscalls.SYS_landlock_create_ruleset), (6, 0, 0, 0x50001), (6, 0, 0, 0x7FFF0000)]
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.load(b"".join(struct.pack("=HBBI", *step) for step in steps))
        print(landlock.abi())
    """
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True)
    assert (done.stdout, done.stderr) == ("0\n", "")
