"""Process 1 of a box: it starts the job, reaps what is left to it, tells how the job ended, and takes the box with it.

It is forked by the launcher, straight into the namespaces, and never runs a line of the job's. It listens to the launcher
alone: one socket, on which TERM means TERM and CONT to everything in the box, KILL (only where there is no pid namespace)
means kill until nothing is left, and end-of-file means that the launcher is dead. It answers with one Report when the main
process has ended.

How all of the box is reached depends on what holds it together (namespaces.hold()). In a pid namespace the kernel kills all
others when init ends, which is the proof that the box is empty (pid_namespaces(7)). Elsewhere init is a subreaper, so that
having no child is the proof; it kills by kill(-1) from its own landlock layer, which reaches what is in that layer or on top
of it and nobody else (landlock(7)), or by the box's cgroup, or, where there is neither, by looking for its descendants,
which is best effort.
"""

import fcntl
import os
import select
import signal
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from lnmt_scheduler.sandbox import (
    capabilities,
    cgroup,
    enter,
    filesystem,
    landlock,
    namespaces,
    policy,
    scratch,
    syscalls,
)

GO, TERM, KILL = b"G", b"T", b"K"
#: Where the job finds them: stdin, stdout and stderr are 0 to 2. Init never holds any of these.
REPORT_FD, PAYLOAD_FD, ERROR_FD = 3, 4, 5


class NotStartedError(Exception):
    """The program could not be started: what was tried, and what the system said."""


_REPORT = struct.Struct("=ii?")
_ERROR_LIMIT = 4000


@dataclass(frozen=True, slots=True)
class Report:
    """How the main process ended."""

    exit_code: int | None
    signal: int | None
    #: Others were alive in the box at that moment.
    leftovers: bool

    def pack(self) -> bytes:
        return _REPORT.pack(
            -1 if self.exit_code is None else self.exit_code, -1 if self.signal is None else self.signal, self.leftovers
        )


def unpack(data: bytes) -> Report:
    exit_code, number, leftovers = _REPORT.unpack(data)
    return Report(None if exit_code < 0 else exit_code, None if number < 0 else number, leftovers)


@dataclass(frozen=True, slots=True)
class Inside:
    """What init is given: descriptors of the launcher's, which it puts in place and closes."""

    control: int
    stdout: int
    stderr: int
    report: int
    payload: int
    errors: int
    policy: policy.Policy
    mode: str
    #: Descriptors by which the job joins its cgroups.
    cgroups: tuple[int, ...]
    #: The compiled seccomp filter, if the policy wants one.
    program: bytes | None
    #: Runs the job in its own process and never returns; the descriptors are at their fixed places then.
    body: Callable[[], NoReturn]
    #: None: /dev/null.
    stdin: int | None = None
    #: Descriptor of the file that kills the box's cgroup, where that is how it is done.
    group: int | None = None

    @property
    def hold(self) -> str:
        return namespaces.hold(self.mode, self.policy)


def report_error(fd: int, kind: bytes, text: str) -> None:
    """Write one error to the error pipe: b"S" a layer of the sandbox, b"P" the program could not be started."""
    os.write(fd, kind + text.encode(errors="backslashreplace")[:_ERROR_LIMIT])


def main(inside: Inside) -> NoReturn:
    """Init's life; called in the child of namespaces.fork(), never returns."""
    code = 1
    try:
        _run(inside)
        code = 0
    except enter.SandboxError as error:
        report_error(inside.errors, b"S", str(error))
    except BaseException as error:
        report_error(inside.errors, b"S", f"init: {error!r}")
    finally:
        os._exit(code)


def _run(inside: Inside) -> None:
    enter.reset_signals()
    os.setsid()
    if inside.hold == namespaces.PIDS:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    control = socket.socket(fileno=inside.control)
    if control.recv(1) != GO:  # the launcher died, or gave up
        return
    _furnish(inside)
    if inside.hold == namespaces.SCOPE:
        _lead()
    temporary = _make_temporary(inside)
    syscalls.prctl(syscalls.PR_SET_NAME, b"lnmt-init")
    # Before the fork: a SIGCHLD that comes at once must be seen.
    wake_read, wake_write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    signal.set_wakeup_fd(wake_write, warn_on_full_buffer=False)
    signal.signal(signal.SIGCHLD, lambda *_: None)
    main_pid = os.fork()
    if main_pid == 0:
        _start_job(inside, temporary)
    kept = (control.fileno(), wake_read, wake_write, inside.group)
    _close_all_but({fd for fd in kept if fd is not None})
    if inside.policy.wants("no_new_privs"):
        _give_up(inside.mode)
    _watch(control, wake_read, main_pid, inside)
    if temporary is not None:
        scratch.remove(temporary)


def _furnish(inside: Inside) -> None:
    """Network, state directory and files of the box, while init still may."""
    wanted = inside.policy
    layer = "network"
    try:
        if wanted.wants("network") and wanted.network == "loopback":
            namespaces.loopback_up()
        layer = "state directory"
        if wanted.state_directory is not None:
            enter.own_directory(wanted.state_directory, wanted)
        layer = "filesystem"
        view = view_of(wanted)
        if view is not None and namespaces.has_mounts(inside.mode):
            filesystem.enter(filesystem.plan(view))
        elif inside.hold == namespaces.PIDS:
            layer = "tree_kill"
            namespaces.own_proc()
    except OSError as error:
        raise enter.SandboxError(f"{layer}: {error}") from error


def view_of(wanted: policy.Policy) -> filesystem.View | None:
    """What the policy says of files; None: they are the host's."""
    if wanted.root is None or not wanted.wants("filesystem"):
        return None
    own = () if wanted.state_directory is None else (wanted.state_directory,)
    return filesystem.View(
        root=wanted.root,
        writable=(*wanted.writable, *own),
        readable=wanted.readable,
        hidden=wanted.hidden,
        tmp_size=wanted.tmp_size,
        proc="host" if wanted.processes == "host" else wanted.proc,
    )


def _make_temporary(inside: Inside) -> str | None:
    """A directory for temporary files, where the policy wants private ones and there are no mounts to make /tmp private."""
    wanted = inside.policy
    if view_of(wanted) is None or namespaces.has_mounts(inside.mode):
        return None
    try:
        return scratch.make(wanted.uid, wanted.gid)
    except OSError as error:
        raise enter.SandboxError(f"filesystem: a directory for temporary files: {error}") from error


def _lead() -> None:
    """Enter the layer from which a signal to all reaches what init starts, and nobody else.

    That it holds is seen before anything relies on it: without it, kill(-1) would reach the whole host.
    """
    try:
        if not capabilities.holds(capabilities.CAP_SYS_ADMIN):
            capabilities.no_new_privs()
        landlock.apply(landlock.build(landlock.LEADER, landlock.abi()))
    except OSError as error:
        raise enter.SandboxError(f"tree_kill: {error}") from error
    try:
        os.kill(os.getppid() or 1, 0)
    except PermissionError:
        return
    raise enter.SandboxError("tree_kill: landlock does not keep signals within the box (it takes Linux 6.12)")


def _give_up(mode: str) -> None:
    """Leave init nothing but the power to signal what is in the box; and nobody in it may look into init."""
    kept: list[int] = []
    if namespaces.has_mounts(mode) or capabilities.holds(capabilities.CAP_SETPCAP):
        capabilities.drop_bounding()
        capabilities.lock_securebits()
    if os.geteuid() == 0 and mode != namespaces.USER_NAMESPACE:
        kept.append(capabilities.CAP_KILL)
        if not namespaces.has_mounts(mode):  # temporary files of another user are to be removed at the end
            kept += [capabilities.CAP_DAC_OVERRIDE, capabilities.CAP_FOWNER]
    capabilities.keep_only(kept)
    capabilities.no_new_privs()
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)


def _start_job(inside: Inside, temporary: str | None) -> NoReturn:
    code = 1
    errors = inside.errors
    try:
        signal.set_wakeup_fd(-1)
        cgroup.join(inside.cgroups)
        syscalls.prctl(syscalls.PR_SET_NAME, b"lnmt-job")  # what ps calls a function; a program brings its own name
        errors = _place_descriptors(inside)
        enter.enter(inside.policy, inside.mode, inside.program, temporary)
        inside.body()
    except enter.SandboxError as error:
        report_error(errors, b"S", str(error))
    except NotStartedError as error:
        report_error(errors, b"P", str(error))
    except BaseException as error:
        report_error(errors, b"P", f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _place_descriptors(inside: Inside) -> int:
    """Put the job's descriptors at 0 to ERROR_FD and close all others; the last two do not survive exec."""
    stdin = os.open("/dev/null", os.O_RDONLY) if inside.stdin is None else inside.stdin
    # First out of the way of the places themselves, then into them.
    wanted = (stdin, inside.stdout, inside.stderr, inside.report, inside.payload, inside.errors)
    high = [fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, len(wanted)) for fd in wanted]
    for place, fd in enumerate(high):
        os.dup2(fd, place, inheritable=place <= REPORT_FD)
    os.closerange(len(wanted), 2**31 - 1)
    return ERROR_FD


def _close_all_but(kept: set[int]) -> None:
    null = os.open("/dev/null", os.O_RDWR)
    for place in range(3):
        os.dup2(null, place)
    low = 3
    for fd in sorted(kept):
        os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 2**31 - 1)


def _watch(control: socket.socket, wake: int, main_pid: int, inside: Inside) -> None:
    hold = inside.hold
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(wake, select.POLLIN)
    reported = False
    while True:
        ended, others = _reap(main_pid)
        if ended is not None:
            control.send(Report(*ended, leftovers=others).pack())
            reported = True
        if reported and not others:
            return
        for fd, _ in poll.poll():
            if fd == wake:
                os.read(wake, 4096)
                continue
            order = control.recv(1)
            if order == TERM:
                _signal_box(hold, signal.SIGTERM)
                _signal_box(hold, signal.SIGCONT)
            elif hold != namespaces.PIDS:  # KILL, or the launcher is dead
                _kill_until_empty(control, main_pid, inside, reported=reported)
                return
            elif not order:
                return


def _reap(main_pid: int) -> tuple[tuple[int | None, int | None] | None, bool]:
    """Reap all that have ended: (how the main process ended, if it did now; whether children are left)."""
    ended = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        if pid == main_pid:
            code = os.waitstatus_to_exitcode(status)
            ended = (code, None) if code >= 0 else (None, -code)


def _signal_box(hold: str, number: int) -> None:
    if hold in (namespaces.PIDS, namespaces.SCOPE):
        try:
            os.kill(-1, number)  # all of this pid namespace, or landlock layer, but init itself
        except ProcessLookupError:
            pass
        return
    for pid in descendants(os.getpid()):
        try:
            os.kill(pid, number)
        except ProcessLookupError:
            pass


def _kill_until_empty(control: socket.socket, main_pid: int, inside: Inside, *, reported: bool) -> None:
    while True:
        if inside.group is not None:
            os.write(inside.group, b"1")
        _signal_box(inside.hold, signal.SIGKILL)
        try:
            pid, status = os.waitpid(-1, 0)  # a kill ends at least one of ours, so this returns
        except ChildProcessError:
            return
        if pid == main_pid and not reported:
            code = os.waitstatus_to_exitcode(status)
            try:
                control.send(Report(code if code >= 0 else None, -code if code < 0 else None, leftovers=True).pack())
            except OSError:  # nobody is left to be told
                pass


def descendants(pid: int, limit: int = 10_000) -> list[int]:
    """Pids below `pid`, parents first, by /proc/PID/task/TID/children (proc(5)), at most `limit`.

    A process that forks meanwhile may be missed, and a pid may be gone when it is looked at.
    """
    found: list[int] = []
    waiting = [pid]
    while waiting and len(found) < limit:
        parent = waiting.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for thread in threads:
            try:
                with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:
                    children = [int(child) for child in file.read().split()]
            except OSError:
                continue
            found += children
            waiting += children
    return found[:limit]
