"""What is said to the two processes of a box, and by them: between launcher, init and the job's process until it is the job.

All of it passes between parent and child of one program over sockets that nobody else has, so no side has to doubt the
other; what a job itself says goes other ways. An Order is one packet with its descriptors (unix(7), SCM_RIGHTS), sent by the
launcher to init and handed on by init to the job's process. Where an Order's descriptors end up is fixed here too.
"""

import marshal
import os
import socket
import struct
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from lnmt_scheduler.sandbox import namespaces, policy

#: Launcher to init.
GO, ORDER, TERM, KILL = b"G", b"O", b"T", b"K"
#: Init to the job's process: the box is furnished.
READY = b"R"
#: Where the job finds them: stdin, stdout and stderr are 0 to 2. Init never holds any of these.
REPORT_FD, PAYLOAD_FD, ERROR_FD = 3, 4, 5
#: Where the job's process hears from init, until it is the job.
ORDERS_FD = 6

_DESCRIPTORS = ("stdout", "stderr", "report", "payload", "stdin", "group")
#: Bytes.
_ORDER_LIMIT, _ERROR_LIMIT = 1 << 18, 4000
_REPORT = struct.Struct("=ii?")


class NotStartedError(Exception):
    """The program could not be started: what was tried, and what the system said."""


@dataclass(frozen=True, slots=True)
class Report:
    """How the main process ended: init to launcher."""

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
    """What init is forked with: descriptors of the launcher's, which it puts in place and closes."""

    control: int
    errors: int
    kind: namespaces.Kind
    #: Descriptors by which the job joins its cgroups.
    cgroups: tuple[int, ...]
    #: Runs the job in its own process and never returns; the descriptors are at their fixed places then.
    body: Callable[[], NoReturn]


@dataclass(frozen=True, slots=True)
class Order:
    """What makes a box that stands ready the box of one job. The descriptors are those of whoever holds it."""

    policy: policy.Policy
    #: The compiled seccomp filter, if the policy wants one.
    program: bytes | None
    stdout: int
    stderr: int
    report: int
    payload: int
    #: None: /dev/null.
    stdin: int | None = None
    #: Descriptor of the file that kills the box's cgroup, where that is how it is done.
    group: int | None = None

    def send(self, sock: socket.socket, temporary: str | None = None) -> None:
        """`temporary` is the box's directory for temporary files. OSError if nobody takes it, or it is over one packet."""
        fds = {name: fd for name in _DESCRIPTORS if (fd := getattr(self, name)) is not None}
        text = marshal.dumps((self.policy.to_map(), self.program, tuple(fds), temporary))
        socket.send_fds(sock, [ORDER + text], list(fds.values()))

    def close(self) -> None:
        """What init has no use for once it has handed it on; `group` stays."""
        for name in _DESCRIPTORS:
            fd = getattr(self, name)
            if fd is not None and name != "group":
                os.close(fd)


def receive(sock: socket.socket) -> tuple[Order, str | None] | None:
    """The next packet as an order, with descriptors of the caller's, and its `temporary`; None: it was another, or the end."""
    data, fds, _, _ = socket.recv_fds(sock, _ORDER_LIMIT, len(_DESCRIPTORS))
    if data[:1] != ORDER:
        return None
    wanted, program, names, temporary = marshal.loads(data[1:])
    return Order(policy.from_map(wanted), program, **dict(zip(names, fds, strict=True))), temporary


def report_error(fd: int, kind: bytes, text: str) -> None:
    """Write one error to the error pipe: b"S" a layer of the sandbox, b"P" the program could not be started."""
    os.write(fd, kind + text.encode(errors="backslashreplace")[:_ERROR_LIMIT])
