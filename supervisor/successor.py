"""One supervisor as the launcher sees it: a process, its pidfd, and the channel to it.

Runs in the launcher, which forks and execs it, so that each one runs the code that is on the disk at that moment. Whatever
is done to it is done by pidfd.
"""

import os
import pwd
import signal
import socket
import sys
import time
from typing import NoReturn

from lnmt_scheduler.ipc import channel, messages
from lnmt_scheduler.sandbox import enter, syscalls
from lnmt_scheduler.supervisor import journal

#: Signals by which a process ends through its own doing. KILL and TERM are somebody else's.
_OWN = frozenset(
    {
        signal.SIGABRT, signal.SIGBUS, signal.SIGFPE, signal.SIGILL, signal.SIGSEGV, signal.SIGSYS, signal.SIGTRAP,
        signal.SIGXCPU, signal.SIGXFSZ,
    }
)  # fmt: skip


class Process:
    """A supervisor that was started; owns its descriptors until close()."""

    def __init__(self, arguments: list[str], service: pwd.struct_passwd | None) -> None:
        """`arguments` are those of schedd; `service` is the account that it drops to. OSError if it cannot be started."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        with theirs:
            self.pid = os.fork()
            if self.pid == 0:
                _become_supervisor(theirs.fileno(), arguments, service)
        try:
            self.pidfd = os.pidfd_open(self.pid)
        except OSError:
            os.kill(self.pid, signal.SIGKILL)
            os.waitpid(self.pid, 0)
            raise
        self.channel: channel.PacketChannel | None = channel.PacketChannel(ours, messages.TO_LAUNCHER)
        #: CLOCK_MONOTONIC seconds.
        self.started = time.monotonic()
        #: Set if it waits to take the place of another, and has said so.
        self.hello: messages.Hello | None = None
        #: Why the launcher has killed it, if that was the supervisor's own fault.
        self.fault = ""

    def kill(self, fault: str = "") -> None:
        self.fault = self.fault or fault
        signal.pidfd_send_signal(self.pidfd, signal.SIGKILL)

    @property
    def is_stopped(self) -> bool:
        """Somebody has stopped it (SIGSTOP, a debugger): that it does nothing is not its fault."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:  # our own child, not reaped yet: the pid is its
                return file.read().rsplit(b")", 1)[1].split()[0] in b"Tt"
        except OSError:  # no descriptor is to be had: then nobody is accused
            return True

    def reap(self) -> int | None:
        """Its exit code, below 0 a signal's number; None: not to be had yet, though the pidfd may be readable."""
        pid, status = os.waitpid(self.pid, os.WNOHANG)
        if pid == 0:
            return None
        code = os.waitstatus_to_exitcode(status)
        if not self.fault and code > 0:
            self.fault = f"exit {code}"
        elif not self.fault and -code in _OWN:
            self.fault = f"signal {signal.Signals(-code).name}"
        return code

    def close(self) -> None:
        os.close(self.pidfd)
        if self.channel is not None:
            self.channel.close()
            self.channel = None


def _become_supervisor(fd: int, arguments: list[str], service: pwd.struct_passwd | None) -> NoReturn:
    try:
        enter.reset_signals()
        if service is not None:
            os.initgroups(service.pw_name, service.pw_gid)
            os.setresgid(service.pw_gid, service.pw_gid, service.pw_gid)
            os.setresuid(service.pw_uid, service.pw_uid, service.pw_uid)
        # After the change of user, which clears it; it survives exec (prctl(2)). If the launcher has died before this line the
        # channel is at its end, which the supervisor sees when it first listens.
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
        os.set_inheritable(fd, True)
        program = [sys.executable, "-I", "-m", "lnmt_scheduler.supervisor.daemon", "--channel", str(fd), *arguments]
        os.execv(sys.executable, program)
    except BaseException as error:
        journal.error(f"cannot start the supervisor: {error}")
    finally:
        os._exit(71)
