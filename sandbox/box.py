"""One box seen from outside: the launcher starts it, has it ended, lists what is in it, and knows when it is empty.

The box is its init's pidfd. In a pid namespace that descriptor becomes readable only when every process of the box is
gone, so reaping it is the proof (pidfd_open(2), pid_namespaces(7)). Nothing here ever signals a pid that was written down:
init is signalled by pidfd, the rest by init or by the kernel.
"""

import os
import resource
import signal
import socket
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from lnmt_scheduler.sandbox import enter, init, namespaces, orders, policy

#: Commands that a report of killed processes names; the rest are counted.
LISTED = 100
_COMMAND_LIMIT = 200


@dataclass(frozen=True, slots=True)
class Ending:
    """What is known of a box once it is empty."""

    report: orders.Report | None
    #: Text of a layer that could not be had.
    sandbox_error: str | None
    #: Text of why the program could not be started.
    spawn_error: str | None
    #: Seconds of user and system time of all its processes.
    cpu_seconds: float
    #: Bytes: the largest resident set of any one of them. Never less than the launcher's own, which it was forked from.
    max_memory: int


class Box:
    """A running box. Owns its three descriptors until reap() has returned an Ending, which closes them."""

    def __init__(self, pid: int, pidfd: int, control: socket.socket, errors: int, hold: str) -> None:
        self.pid = pid
        self.pidfd = pidfd
        self.control = control
        #: namespaces.hold() of it.
        self.hold = hold
        self.report: orders.Report | None = None
        self._errors = errors

    def begin(self, order: orders.Order) -> None:
        """Make it the box of one job. The order's descriptors stay the caller's.

        OSError if the order cannot be sent: abandon it. One whose init has died tells so by its Ending.
        """
        try:
            order.send(self.control)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def abandon(self) -> None:
        """End a box that has no job yet, and wait for that."""
        self.control.close()  # init reads end-of-file instead of an order, and goes
        os.waitid(os.P_PIDFD, self.pidfd, os.WEXITED)
        os.close(self.pidfd)
        os.close(self._errors)

    def read_report(self) -> bool:
        """Take init's report if it has come; False at end-of-file, when there is nothing more to read."""
        try:
            data = self.control.recv(64)
        except BlockingIOError:
            return True
        except ConnectionResetError:
            data = b""
        if data:
            self.report = orders.unpack(data)
        return bool(data)

    def terminate(self) -> None:
        """TERM, then CONT, to every process of the box."""
        self._order(orders.TERM)

    def kill(self) -> None:
        """End all processes of the box, at once and without appeal."""
        if self.hold != namespaces.PIDS:
            self._order(orders.KILL)
        else:
            try:
                signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)
            except ProcessLookupError:
                pass

    def _order(self, order: bytes) -> None:
        try:
            self.control.send(order)
        except OSError:  # init has ended; so has, or will, the box
            pass

    def processes(self) -> tuple[list[tuple[int, str]], int]:
        """Who is in the box now, but for init: (host pid, command) of at most LISTED of them, and how many there are."""
        pids = init.descendants(self.pid)
        named: list[tuple[int, str]] = []
        dead = 0
        for pid in pids:
            if len(named) == LISTED:
                break
            command = _command(pid)
            if command is None:
                dead += 1
            else:
                named.append((pid, command))
        return named, len(pids) - dead

    def private_memory(self) -> int:
        """Bytes of memory that the box's processes have and no file backs; what a fork still shares counts for both."""
        return sum(_private_memory(pid) for pid in init.descendants(self.pid))

    def reap(self) -> Ending | None:
        """The box's end if it is empty, else None. Closes everything the box holds."""
        pid, _, usage = os.wait4(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        while self.report is None and self.read_report():
            if self.report is None:
                break
        kind, text = _read_error(self._errors)
        for close in (self.control.close, lambda: os.close(self.pidfd), lambda: os.close(self._errors)):
            close()
        return Ending(
            report=self.report,
            sandbox_error=text if kind == b"S" else None,
            spawn_error=text if kind == b"P" else None,
            cpu_seconds=usage.ru_utime + usage.ru_stime,
            max_memory=usage.ru_maxrss * 1024,
        )


def prepare(kind: namespaces.Kind, body: Callable[[], NoReturn], *, cgroups: tuple[int, ...] = ()) -> Box:
    """Fork a box in which `body` will run as the job once begin() has been called. `cgroups` are what cgroup.join() writes to.

    OSError if the box could not be made; the caller must be single-threaded.
    """
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        try:
            errors, errors_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        except OSError:
            ours.close()
            raise
        try:
            pid, pidfd = namespaces.fork(kind.flags)
            if pid == 0:
                ours.close()
                init.main(orders.Inside(theirs.fileno(), errors_write, kind, cgroups, body))
        except OSError:
            ours.close()
            os.close(errors)
            raise
        finally:
            os.close(errors_write)
    ours.setblocking(False)
    box = Box(pid, pidfd, ours, errors, kind.hold)
    try:
        if kind.mode == namespaces.USER_NAMESPACE:
            namespaces.map_own_ids(pid)
        ours.send(orders.GO)
    except OSError:
        box.abandon()
        raise
    return box


def start(
    wanted: policy.Policy,
    mode: str,
    *,
    stdout: int,
    stderr: int,
    report: int,
    payload: int,
    body: Callable[[], NoReturn],
    cgroups: tuple[int, ...] = (),
    program: bytes | None = None,
    stdin: int | None = None,
    group: int | None = None,
) -> Box:
    """prepare() and begin() in one, for who has an order already."""
    check_user(wanted, mode)
    box = prepare(namespaces.kind(mode, wanted), body, cgroups=cgroups)
    try:
        box.begin(orders.Order(wanted, program, stdout, stderr, report, payload, stdin, group))
    except OSError:
        box.abandon()
        raise
    return box


def check_user(wanted: policy.Policy, mode: str) -> None:
    """SandboxError for a user that no box of this mode can be given."""
    if mode == namespaces.USER_NAMESPACE and wanted.uid is not None and wanted.uid != os.geteuid():
        raise enter.SandboxError(f"user: only root can run a job as another user ({wanted.uid})")


def _read_error(fd: int) -> tuple[bytes, str]:
    try:
        data = os.read(fd, resource.getpagesize())
    except BlockingIOError:  # a process that still holds the other end; it cannot be in the box
        data = b""
    return data[:1], data[1:].decode(errors="backslashreplace")


def _command(pid: int) -> str | None:
    """The command line of a live process, or its name where it has none; None if it is dead."""
    try:
        with open(f"/proc/{pid}/stat", "rb") as file:
            stat = file.read(512)
        with open(f"/proc/{pid}/cmdline", "rb") as file:
            line = file.read(_COMMAND_LIMIT)
    except OSError:
        return None
    name, state = stat[stat.index(b"(") + 1 : stat.rindex(b")")], stat[stat.rindex(b")") + 2 : stat.rindex(b")") + 3]
    if state in b"ZX":
        return None
    if not line or line.startswith(_OWN_COMMAND):  # a fork of ours has our command line; its name says more
        line = name
    return line.rstrip(b"\0").replace(b"\0", b" ").decode(errors="backslashreplace")


def _private_memory(pid: int) -> int:
    try:
        with open(f"/proc/{pid}/statm", "rb") as file:
            _, resident, shared, *_ = map(int, file.read().split())
    except (OSError, ValueError):  # it has ended
        return 0
    return (resident - shared) * resource.getpagesize()


def _own_command() -> bytes:
    with open("/proc/self/cmdline", "rb") as file:
        return file.read(_COMMAND_LIMIT)


_OWN_COMMAND = _own_command()
