"""Each system call once, for real; what changes a process for good does so in one of its own."""

import ctypes
import errno
import os
import socket
import time

import pytest
import standin

from lnmt_scheduler.sandbox import syscalls


def test_a_failed_call_is_an_oserror_that_names_call_and_object():
    with pytest.raises(OSError, match="mount") as failed:
        syscalls.mount("none", "/no/such/folder", "proc", 0)
    assert failed.value.errno in (errno.ENOENT, errno.EPERM)
    assert failed.value.filename == "/no/such/folder"
    with pytest.raises(OSError, match="prctl"):
        syscalls.prctl(123_456)


def test_clone3_forks_and_its_pidfd_is_the_childs():
    source = """
import os
from lnmt_scheduler.sandbox import syscalls
pid, pidfd = syscalls.clone3(0)
if pid == 0:
    os._exit(7)
assert not os.get_inheritable(pidfd)
print(os.waitid(os.P_PIDFD, pidfd, os.WEXITED).si_status, os.listdir("/proc/self/task") == [str(os.getpid())])
"""
    assert standin.python(source).stdout.split() == ["7", "True"]


def test_clone3_with_impossible_flags_fails_and_forks_nothing():
    source = """
import os
from lnmt_scheduler.sandbox import syscalls
try:
    syscalls.clone3(0x00000200 | syscalls.CLONE_NEWNS)
except OSError as error:
    print(error.strerror)
try:
    os.wait()
except ChildProcessError:
    print("no child")
"""
    assert standin.python(source).stdout == "clone3: Invalid argument\nno child\n"


def test_a_name_is_set_and_capabilities_are_gone():
    source = """
from lnmt_scheduler.sandbox import syscalls
syscalls.prctl(syscalls.PR_SET_NAME, b"a-name")
syscalls.capset(0, 0, 0)
for line in open("/proc/self/status"):
    if line.startswith(("Name", "CapInh", "CapPrm", "CapEff", "CapAmb")):
        print(line.split()[1])
"""
    assert standin.python(source).stdout.split() == ["a-name", *["0" * 16] * 4]


@pytest.mark.parametrize(("io_class", "level", "shown"), [(2, 4, 2 << 13 | 4), (3, 0, 3 << 13)])
def test_the_io_class_is_set(io_class, level, shown):
    get = {"x86_64": 252, "aarch64": 31}.get(os.uname().machine)
    if get is None:
        pytest.skip(f"the number of ioprio_get on {os.uname().machine}")
    source = "import ctypes, sys; from lnmt_scheduler.sandbox import syscalls; a, b, n = map(int, sys.argv[1:])\n"
    source += "syscalls.ioprio_set(a, b); print(ctypes.CDLL(None).syscall(n, 1, 0) & 0xfff8 | b)"
    assert int(standin.python(source, str(io_class), str(level), str(get)).stdout) == shown


def test_a_timer_of_wall_time_wakes_and_disarms():
    fd = syscalls.timerfd_create()
    try:
        assert not os.get_inheritable(fd)
        with pytest.raises(BlockingIOError):
            os.read(fd, 8)
        syscalls.timerfd_settime(fd, int(time.time() * 1000) - 5)
        os.set_blocking(fd, True)
        assert int.from_bytes(os.read(fd, 8), "little") == 1
        os.set_blocking(fd, False)
        syscalls.timerfd_settime(fd, int(time.time() * 1000) - 5)
        syscalls.timerfd_settime(fd, None)
        with pytest.raises(BlockingIOError):
            os.read(fd, 8)
    finally:
        os.close(fd)


def test_the_groups_of_a_peer_are_those_of_its_process():
    ours, theirs = socket.socketpair()
    with ours, theirs:
        assert set(syscalls.peer_groups(ours.fileno())) == set(os.getgroups())
    with pytest.raises(OSError, match="getsockopt"):
        syscalls.peer_groups(-1)


def test_the_numbers_of_newer_calls_are_those_of_the_kernel():
    # 424 and up are the same everywhere: pidfd_send_signal(self, 0) is the first of them.
    pidfd = os.pidfd_open(os.getpid())
    try:
        assert ctypes.CDLL(None).syscall(424, pidfd, 0, None, 0) == 0
    finally:
        os.close(pidfd)
    assert syscalls.SYS_clone3 == 424 + 11
