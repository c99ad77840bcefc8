"""The blocking end of the control socket, for schedctl and the Python API.

One connection, one request after the other. Whoever calls waits for the answer; nothing is sent twice that may have had its
effect although its answer is missing. A run that is followed is followed on when the supervisor was replaced meanwhile.
Imported when a command needs it, so it pulls in the standard library and msgpack alone.
"""

import errno
import os
import select
import socket
import struct
import time
from collections.abc import Generator, Iterator
from dataclasses import fields
from typing import Any, Self

from lnmt_scheduler.ipc import channel, codec, control, frames
from lnmt_scheduler.supervisor import paths, version

#: Repeating these changes nothing, so they carry no key.
_HARMLESS = (
    control.Hello, control.List, control.Show, control.Follow, control.History, control.Read, control.State,
    control.Export, control.Upload, control.Validate, control.Audit, control.Complete, control.Sandbox, control.Measure,
    control.Shell, control.Doctor, control.Backup, control.Why, control.Watch,
)  # fmt: skip
#: Seconds in which another supervisor takes the place of one that went away, and those between two looks for it.
_PATIENCE, _LOOK_AGAIN = 10.0, 0.05


class RequestError(Exception):
    """The daemon answered with an error."""

    def __init__(self, code: int, message: str, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        #: What schedctl exits with.
        self.code = code
        self.message = message
        #: Further lines: one problem each, or what the message is about.
        self.details = details


class Unreachable(RequestError):  # noqa: N818 - reads as what it says
    """There is no daemon at the socket, or it went away; nothing is known of a request that was under way."""

    def __init__(self, message: str) -> None:
        super().__init__(control.UNAVAILABLE, message)


class Client:
    """A connection, made at once. Close it, or use it as a context.

    Unreachable if nobody answers at the path, RequestError if this user may not use it.
    """

    def __init__(self, path: str, *, start_hint: str = "schedd") -> None:
        self._path = path
        self._start_hint = start_hint
        self._last = 0
        #: Monotonic seconds at which waiting for an answer ends with TimeoutError; None: never.
        self.deadline: float | None = None
        self._connect()

    def _connect(self) -> None:
        path = self._path
        try:
            self._socket = paths.connect(path)
        except PermissionError:
            raise RequestError(
                control.NOT_ALLOWED, f"not allowed to open {path}; ask for membership of the daemon's operator group"
            ) from None
        except OSError as error:
            if error.errno not in (errno.ENOENT, errno.ECONNREFUSED, errno.ENOTDIR):
                raise Unreachable(f"cannot reach the daemon at {path}: {error.strerror}") from None
            raise Unreachable(f"the daemon is not running at {path}; start it with: {self._start_hint}") from None
        try:
            #: {protocol, version, pid, role} of the daemon.
            self.server = self.request(control.Hello(protocol=control.PROTOCOL, version=version.VERSION))
        except BaseException:
            self.close()
            raise

    @property
    def is_gone(self) -> bool:
        """The daemon has closed this connection."""
        try:
            return not self._socket.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT)
        except BlockingIOError:
            return False
        except OSError:
            return True

    def reconnect(self, seconds: float | None = None) -> None:
        """Connect to the supervisor that takes the place of the one that went away.

        Unreachable if there is none in this time (10 s), or the daemon has stopped in good order and taken its socket away.
        """
        before = self.server["pid"]
        until = time.monotonic() + (_PATIENCE if seconds is None else seconds)
        while True:
            self.close()
            try:
                self._connect()
            except Unreachable:
                if time.monotonic() > until or not os.path.exists(self._path):
                    raise
            else:
                if self.server["pid"] != before:
                    return
                if time.monotonic() > until:
                    raise Unreachable(f"the daemon at {self._path} closed the connection; look at its log")
            time.sleep(_LOOK_AGAIN)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        self._socket.close()

    def request(self, request: object, key: str | None = None) -> Any:
        """The value that the daemon answers with. RequestError if it refuses, Unreachable if it goes away."""
        stream = self.stream(request, key)
        for _ in stream:
            pass
        return stream.value

    def stream(self, request: object, key: str | None = None) -> "Stream":
        """Send the request now; its items come as they are iterated over, and its value is there at their end.

        `key` is made anew for a request that changes something; give the same again to repeat one.
        """
        if key is None and not isinstance(request, _HARMLESS):
            key = os.urandom(16).hex()
        self._last += 1
        tag = type(request).__name__.lower()
        values = {field.name: getattr(request, field.name) for field in fields(request)}  # type: ignore[arg-type]  # any of control's requests
        try:
            channel.write_frame(self._socket, codec.pack([self._last, tag, values, key]), control.FRAME_LIMIT)
        except (codec.ProtocolError, frames.FrameError) as error:
            raise RequestError(control.INVALID, f"this cannot be sent to the daemon: {error}") from None
        except OSError as error:
            # The daemon may have said why before it hung up; what it said is read below, in place of this.
            if error.errno not in (errno.EPIPE, errno.ECONNRESET):
                raise Unreachable(f"the connection to the daemon broke: {error.strerror}") from None
        return Stream(self, self._last)

    def follow(self, run_id: int, *, output: bool = False) -> Generator[Any, None, dict[str, Any]]:
        """The items of control.Follow until the run has ended, whatever becomes of the supervisor; returns its row."""
        at = 0
        while True:
            try:
                stream = self.stream(control.Follow(run_id=run_id, output=output, at=at))
                for item in stream:
                    if item["kind"] in ("output", "gap"):
                        at += item["bytes"] if item["kind"] == "gap" else len(item["data"])
                    yield item
                return dict(stream.value["run"])
            except Unreachable as error:
                try:
                    self.reconnect()
                except Unreachable:
                    raise error from None

    def stop(self) -> None:
        """Have the daemon stop; returns when its last process has gone, and with it the lock of its state directory."""
        launcher = self._launcher()
        try:
            self.request(control.Stop())
            self.wait_for_end()
            if launcher is not None:
                select.select([launcher], [], [])
        finally:
            if launcher is not None:
                os.close(launcher)

    def _launcher(self) -> int | None:
        """A descriptor of the daemon's main process; None if it cannot be had, as from another pid namespace."""
        told = self.request(control.State())
        pid, _, _ = struct.unpack("3i", self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        if pid != told["pid"]:
            return None  # it counts its processes otherwise
        try:
            return os.pidfd_open(told["launcher_pid"])
        except OSError:
            return None

    def wait_for_end(self) -> None:
        """Return when the daemon has closed the connection."""
        try:
            while self._socket.recv(4096):
                pass
        except ConnectionResetError:
            pass

    def reply(self) -> tuple[int, str, Any]:
        """The daemon's next message: (id, kind, value). TimeoutError at the deadline, which ends the connection."""
        if self.deadline is not None:
            self._socket.settimeout(max(0.001, self.deadline - time.monotonic()))
        try:
            body = channel.read_frame(self._socket, control.FRAME_LIMIT)
            if body is None:
                raise Unreachable(f"the daemon at {self._path} closed the connection; look at its log")
            match codec.unpack(body):
                case [int() | None as number, "item" | "ok" | "error" as kind, value]:
                    return number or 0, str(kind), value
        except TimeoutError:
            raise
        except OSError as error:
            raise Unreachable(f"the connection to the daemon broke: {error.strerror}") from None
        except (codec.ProtocolError, frames.FrameError) as error:
            raise Unreachable(f"{self._path} does not speak schedd's protocol: {error}") from None
        raise Unreachable(f"{self._path} does not speak schedd's protocol")


class Stream:
    """The answer to one request. Iterate to the end, then look at `value`."""

    def __init__(self, client: Client, number: int) -> None:
        self._client = client
        self._number = number
        self._ended = False
        #: What the request came to; None before its end.
        self.value: Any = None

    def __iter__(self) -> Iterator[Any]:
        return self

    def __next__(self) -> Any:
        while not self._ended:
            number, kind, value = self._client.reply()
            # 0: the daemon speaks of the connection itself, not of one request.
            if number not in (0, self._number):
                continue
            if kind == "item":
                return value
            self._ended = True
            if kind == "error":
                raise _error(value)
            self.value = value
        raise StopIteration


def _error(value: Any) -> RequestError:
    match value:
        case {"code": int(code), "message": str(message), "details": list(details)}:
            return RequestError(code, message, tuple(map(str, details)))
    return Unreachable("the daemon answered with an error that makes no sense")


def last(following: Generator[Any, None, dict[str, Any]]) -> dict[str, Any]:
    """The row of a followed run, once it has ended."""
    while True:
        try:
            next(following)
        except StopIteration as end:
            row: dict[str, Any] = end.value
            return row
