"""Any command in a box, by hand: what the launcher does for an attempt, for a person at a terminal.

Runs in a process of its own with one thread (`python -m lnmt_scheduler.sandbox`), which is the parent of the box as the
launcher is of a job's. The command gets this process's stdin, stdout and stderr, or a terminal of its own that is relayed to
this one's. The first INT or TERM is passed on to the whole box, the second kills it; when this process dies, so does the box.
"""

import contextlib
import fcntl
import os
import select
import shutil
import signal
import sys
import tempfile
import termios
import tty
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NoReturn

from lnmt_scheduler.sandbox import (
    box,
    cgroup,
    enter,
    namespaces,
    orders,
    policy,
    probe,
    scratch,
    settle,
    syscalls,
    users,
)

#: The sandbox could not be had; the program could not be started.
REFUSED, NOT_STARTED = 125, 127


@dataclass(frozen=True, slots=True, kw_only=True)
class Command:
    argv: Sequence[str]
    environment: Mapping[str, str]
    #: None: HOME, or / if there is none.
    directory: str | None = None
    umask: int = 0o022
    #: Give it a terminal of its own, relayed to ours.
    terminal: bool = False


def run(command: Command, asked: policy.Policy, host: probe.Host, uids: users.Range = users.DEFAULT) -> int:
    """Run it to its end; its exit code, 128 + N for signal N. `uids` are those of a user of its own.

    RefusedError or SandboxError if a layer cannot be had, NotStartedError if the program cannot be executed, OSError if the
    box cannot be made.
    """
    syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)  # of what outlives an init without a pid namespace
    with contextlib.ExitStack() as undo:
        uid = None
        if asked.dynamic and os.geteuid() == 0:
            uid, holder = users.reserve(uids)
            undo.callback(holder.close)
        if asked.state_directory is None:
            directory = undo.enter_context(_temporary_directory())
            asked = replace(asked, state_directory=directory)
            if asked.dynamic:
                command = replace(command, environment={**command.environment, "HOME": directory})
        settled = settle.settle(asked, host, is_root=os.geteuid() == 0, uid=uid)
        groups: tuple[int, ...] = ()
        group = None
        if settled.needs_cgroup:
            leaf = cgroup.create(host.cgroups, "by-hand", settled.limits)
            undo.callback(leaf.remove)
            groups = tuple(leaf.enter_fds())
            if settled.hold == namespaces.GROUP:
                group = leaf.kill_fd()
                undo.callback(os.close, group)
        null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
        undo.callback(os.close, null)
        stdin, stdout, stderr, relay = 0, 1, 2, None
        if command.terminal:
            relay, stdin = os.openpty()
            stdout = stderr = stdin
            undo.callback(os.close, relay)
        try:
            boxed = box.start(
                settled.policy,
                host.mode,
                stdin=stdin,
                stdout=stdout,
                stderr=stderr,
                report=null,
                payload=null,
                body=lambda: _become(command),
                cgroups=groups,
                program=settle.program(settled.policy, host.mode),
                group=group,
            )
        finally:
            for fd in (*groups, *((stdin,) if relay is not None else ())):
                os.close(fd)
        return _result(_attend(boxed, relay))


@contextlib.contextmanager
def _temporary_directory() -> Iterator[str]:
    """A state directory for one box; others may pass through it to what the box's user has made of it."""
    path = tempfile.mkdtemp(prefix="lnmt-state-", dir="/var/tmp")
    try:
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)


def _become(command: Command) -> NoReturn:
    """In the box: the program. It has no use for the descriptors of a job."""
    os.close(orders.REPORT_FD)
    os.umask(command.umask)
    if command.terminal:
        fcntl.ioctl(0, termios.TIOCSCTTY, 0)
    if command.directory is not None:
        try:
            os.chdir(command.directory)
        except OSError as error:
            raise orders.NotStartedError(f"working directory: {error}") from error
    else:
        try:
            os.chdir(command.environment["HOME"])
        except (KeyError, OSError):
            os.chdir("/")
    try:
        os.execvpe(command.argv[0], list(command.argv), scratch.environment(command.environment))
    except (OSError, ValueError) as error:
        raise orders.NotStartedError(f"cannot execute {command.argv[0]!r}: {error}") from error


def _attend(boxed: box.Box, relay: int | None) -> box.Ending:
    """Pass on signals, and keys and output where the box has a terminal, until the box is empty."""
    read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
    poll = select.poll()
    for fd in (read, boxed.pidfd, boxed.control.fileno()):
        poll.register(fd, select.POLLIN)
    # For good: this process ends with the box, and how it ends is the command's to say, not a late signal's.
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGWINCH):
        signal.signal(number, lambda *_: None)
    signal.set_wakeup_fd(write, warn_on_full_buffer=False)
    told = False
    with contextlib.ExitStack() as undo:
        undo.callback(os.close, read)
        undo.callback(os.close, write)
        undo.callback(signal.set_wakeup_fd, -1)
        if relay is not None:
            undo.enter_context(_raw_terminal(relay))
            poll.register(0, select.POLLIN)
            poll.register(relay, select.POLLIN)
        while True:
            for fd, _ in poll.poll():
                if fd == read:
                    for byte in os.read(read, 64):
                        if byte == signal.SIGWINCH:
                            _take_size(relay)
                            continue
                        (boxed.kill if told else boxed.terminate)()
                        told = True
                elif fd == boxed.pidfd:
                    boxed.read_report()
                    if relay is not None:
                        _empty(relay)
                    ending = boxed.reap()
                    if ending is not None:
                        return ending
                elif fd == boxed.control.fileno():
                    if not boxed.read_report():
                        poll.unregister(fd)
                    elif boxed.report is not None and boxed.report.leftovers:
                        boxed.kill()  # the command has ended; what it left has no business here
                elif fd == relay:
                    if not _copy(relay, 1):
                        poll.unregister(relay)
                elif relay is not None and not _copy(0, relay):
                    poll.unregister(0)


def _copy(source: int, target: int) -> bool:
    """Whether there may be more."""
    try:
        data = os.read(source, 16384)
    except OSError:  # EIO: nobody has the other end of the terminal
        return False
    view = memoryview(data)
    while view:
        view = view[os.write(target, view) :]
    return bool(data)


def _empty(relay: int) -> None:
    """Show what the box wrote last."""
    os.set_blocking(relay, False)
    while _copy(relay, 1):
        pass


@contextlib.contextmanager
def _raw_terminal(relay: int) -> Iterator[None]:
    """Keys go to the box as they are: its own terminal makes lines and signals of them."""
    if not os.isatty(0):
        yield
        return
    _take_size(relay)
    before = termios.tcgetattr(0)
    tty.setraw(0)
    try:
        yield
    finally:
        termios.tcsetattr(0, termios.TCSAFLUSH, before)


def _take_size(relay: int | None) -> None:
    if relay is not None and os.isatty(0):
        termios.tcsetwinsize(relay, termios.tcgetwinsize(0))


def _result(ending: box.Ending) -> int:
    if ending.sandbox_error is not None:
        raise enter.SandboxError(ending.sandbox_error)
    if ending.spawn_error is not None:
        raise orders.NotStartedError(ending.spawn_error)
    if ending.report is None or ending.report.signal is not None:
        return 128 + (signal.SIGKILL if ending.report is None else ending.report.signal or 0)
    return ending.report.exit_code or 0


def complain(text: str) -> None:
    """One line on stderr, as everything of this program's own."""
    print(f"sandbox: {text}", file=sys.stderr, flush=True)
