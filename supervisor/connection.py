"""One client of the control socket: who it is, what it has asked, and what is still to be sent to it.

Part of the server (control.py), which decides whose turn it is. A connection reads no more while requests wait or answers
pile up, so that what is kept for a client is bounded however it behaves; it ends itself when the peer talks nonsense,
stops in the middle of a frame, or does not read.
"""

import pwd
import socket
import struct
import time
import traceback
from collections import deque
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from lnmt_scheduler.ipc import codec, control, frames
from lnmt_scheduler.sandbox import syscalls
from lnmt_scheduler.supervisor import journal, loop

if TYPE_CHECKING:
    from lnmt_scheduler.supervisor.control import Server

#: Bytes kept for a client that does not read; a follower is asked to pause long before.
_OUTBOX = 4 * 1024 * 1024
_PAUSE_AT = 512 * 1024
_READ = 64 * 1024
#: Requests that one connection may have under way.
_UNDER_WAY = 64
#: Characters of a key.
_KEY = 64


#: What a mistake of ours in a handler raises. It costs the client its answer and nobody anything else; what the store
#: raises is not among them, since a decision that cannot be written down ends the supervisor.
MISTAKES = (
    ArithmeticError,
    AssertionError,
    AttributeError,
    LookupError,
    NameError,
    OSError,
    RuntimeError,
    TypeError,
    ValueError,
)


class RefusedError(Exception):
    """A request that cannot be done: the exit code that schedctl leaves with, and what to say."""

    def __init__(self, code: int, message: str, details: list[str] | None = None) -> None:
        super().__init__(message)
        self.code = code
        self.message = message
        self.details = details or []


class Peer:
    """Who is at the other end, by the kernel's word."""

    def __init__(self, sock: socket.socket) -> None:
        self.pid, self.uid, gid = struct.unpack("iII", sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))
        self.gids = {gid, *syscalls.peer_groups(sock.fileno())}

    @property
    def user(self) -> str:
        try:
            return pwd.getpwuid(self.uid).pw_name
        except KeyError:
            return str(self.uid)


class Reply:
    """The answer to one request; used once, now or later."""

    def __init__(self, connection: "Connection", number: int) -> None:
        self._connection = connection
        self.number = number
        #: What a repetition of the request is known by; None: it may as well be done again.
        self.key: str | None = None
        #: Somebody waits for it.
        self.open = True
        self._answered = False
        #: Called when the client goes away before the answer.
        self.on_gone: Callable[[], None] = lambda: None
        #: Called when the client has read enough for more items.
        self.on_room: Callable[[], None] = lambda: None

    @property
    def role(self) -> str:
        return self._connection.role

    @property
    def peer(self) -> Peer:
        return self._connection.peer

    @property
    def upload(self) -> bytearray:
        """What this connection has uploaded."""
        return self._connection.upload

    @property
    def congested(self) -> bool:
        """The client has much to read still: items should wait for on_room."""
        return self._connection.congested

    def item(self, value: object) -> None:
        if self.open:
            self._connection.send([self.number, "item", value])

    def ok(self, value: object) -> None:
        self.end("ok", value)

    def refuse(self, error: RefusedError) -> None:
        self.end("error", {"code": error.code, "message": error.message, "details": error.details})

    def stumble(self, what: str, error: Exception) -> None:
        """Answer with a mistake of ours, and tell the log where it was."""
        journal.error(f"{what[:40]}: " + "".join(traceback.format_exception(error)).replace("\n", "; "))
        self.refuse(RefusedError(control.FAILED, f"the daemon stumbled over this ({error}); its log says where"))

    def end(self, kind: str, value: object) -> None:
        """The answer counts also when the client is gone: it may come back and repeat the request."""
        if not self._answered:
            self._answered = True
            self.open = False
            self._connection.answered(self, [kind, value])


#: A handler answers through the reply; what it returns as an iterator is driven a slice a turn.
Handler = Callable[[Any, Reply], Iterator[None] | None]


class Connection:
    """One client. Owns its socket until close()."""

    def __init__(self, server: "Server", sock: socket.socket, peer: Peer, role: str) -> None:
        self.server = server
        self.peer = peer
        self.role = role
        self.upload = bytearray()
        self.heard = time.monotonic()
        self.greeted = False
        self.closed = False
        self._sock = sock
        self._reader = frames.FrameReader(control.FRAME_LIMIT)
        #: Requests that have come and not been looked at; while there are any, no more is read.
        self._unread: deque[bytes] = deque()
        #: What is wrong with the stream behind them.
        self._fault: str | None = None
        #: Nothing more is heard; closed once what is queued was sent.
        self._ending = False
        self._out = bytearray()
        self._patience: loop.Timer | None = None
        self._waiting: dict[int, Reply] = {}
        self._watched = -1
        self._watch()

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def congested(self) -> bool:
        return len(self._out) > _PAUSE_AT

    @property
    def silent(self) -> bool:
        """Nobody waits for an answer on it."""
        return not (self._waiting or self._unread)

    def on_ready(self, events: int) -> None:
        if events & loop.WRITE:
            self.flush()
        if self.closed:
            return
        if events & loop.READ:
            self._receive()
        elif events & ~loop.WRITE:
            self.close()  # it hung up, and nobody is left to read an answer

    def _watch(self) -> None:
        hears = not (self._unread or self._fault or self._ending)
        events = (loop.READ if hears else 0) | (loop.WRITE if self._out else 0)
        if events != self._watched:
            self._watched = events
            self.server.loop.watch(self.fileno(), events, self.on_ready)
        self._mind_the_rest(hears=hears)

    def _receive(self) -> None:
        try:
            data = self._sock.recv(_READ)
        except BlockingIOError:
            return
        except OSError:
            data = b""
        if not data:
            self.close()
            return
        self.heard = time.monotonic()
        try:
            found = self._reader.feed(data)
        except frames.FrameError as error:
            found, self._fault = error.frames, str(error)
        self._unread.extend(found)
        if self.wants_turn:
            self.server.serve_soon(self)
        self._watch()

    def _mind_the_rest(self, *, hears: bool) -> None:
        """Half a frame may take its time, but not for ever, and not longer for coming byte by byte."""
        waits = hears and self._reader.pending > 0
        if self._patience is not None and not waits:
            self._patience.cancel()
            self._patience = None
        elif self._patience is None and waits:
            self._patience = self.server.loop.call_at(time.monotonic() + self.server.patience, self.close)

    @property
    def wants_turn(self) -> bool:
        """A request waits to be looked at, and the client reads what it asked for before."""
        return bool(self._unread or self._fault) and not (self.closed or self._ending or self.congested)

    def serve(self) -> None:
        """Look at one request."""
        try:
            self._request(self._next())
        except codec.ProtocolError as error:
            self._unread.clear()
            self._ending = True
            self.send([0, "error", {"code": control.USAGE, "message": f"protocol: {error}", "details": []}])
        if not self.closed:
            self._watch()

    def _next(self) -> bytes:
        if self._unread:
            return self._unread.popleft()
        raise codec.ProtocolError(self._fault)

    def _request(self, frame: bytes) -> None:
        match codec.unpack(frame):
            case [int(number), str(tag), dict(values), *rest] if len(rest) <= 1:
                key = rest[0] if rest and isinstance(rest[0], str) else None
            case _:
                raise codec.ProtocolError("not of the form [id, tag, fields, key]")
        if number in self._waiting:
            raise codec.ProtocolError(f"request {number} is under way already")
        if len(self._waiting) >= _UNDER_WAY:
            raise codec.ProtocolError(f"more than {_UNDER_WAY} requests under way")
        if key is not None and len(key) > _KEY:
            raise codec.ProtocolError(f"a key of more than {_KEY} characters")
        reply = Reply(self, number)
        self._waiting[number] = reply
        try:
            self.server.handle(self, tag, values, reply, key)
        except RefusedError as error:
            reply.refuse(error)
        except MISTAKES as error:
            reply.stumble(tag, error)

    def greet(self, hello: control.Hello) -> None:
        if hello.protocol != control.PROTOCOL:
            raise RefusedError(
                control.USAGE,
                f"the daemon speaks protocol {control.PROTOCOL}, this schedctl ({hello.version}) {hello.protocol};"
                " use the schedctl of the same version",
            )
        self.greeted = True

    def answered(self, reply: Reply, answer: list[object]) -> None:
        self._waiting.pop(reply.number, None)
        self.send([reply.number, *answer])
        if reply.key is not None:
            self.server.remember(self.peer.uid, reply.key, answer)

    def send(self, value: list[object]) -> None:
        """Queue a frame; it leaves after the commit of this turn."""
        if self.closed:
            return
        self._out += frame(value)
        if len(self._out) > _OUTBOX:
            self.close()  # it does not read
        else:
            self.server.unsent.add(self)

    def flush(self) -> None:
        if self.closed:
            return
        try:
            while self._out:
                sent = self._sock.send(memoryview(self._out)[: 256 * 1024])
                del self._out[:sent]
        except BlockingIOError:
            pass
        except OSError:
            self.close()
            return
        if self._ending and not self._out:
            self.close()
            return
        self._watch()
        if not self.congested:
            for reply in list(self._waiting.values()):
                reply.on_room()
            self.server.go_on(self)

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self._patience is not None:
            self._patience.cancel()
        self.server.forget(self)
        self._sock.close()
        self._out.clear()
        self._unread.clear()
        waiting, self._waiting = self._waiting, {}
        for reply in waiting.values():
            reply.open = False
            reply.on_gone()
        self.server.go_on(self)


def frame(value: list[object]) -> bytes:
    """The frame of [id, kind, value], or of an error in its place if that cannot be carried."""
    try:
        return frames.pack(codec.pack(value), control.FRAME_LIMIT)
    except (frames.FrameError, codec.ProtocolError) as error:
        journal.error(f"an answer could not be sent: {error}")
        problem = {"code": control.FAILED, "message": f"the answer cannot be sent: {error}", "details": []}
        return frames.pack(codec.pack([value[0], "error", problem]), control.FRAME_LIMIT)
