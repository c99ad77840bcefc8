"""The control socket's server: who may speak, frames, and fair turns.

Runs in the supervisor's loop. A connection is judged by what the kernel says of its peer (SO_PEERCRED, SO_PEERGROUPS)
before a byte of it is read; requests are validated into the dataclasses of ipc/control.py, and answered through a Reply,
at once or later. Answers leave after the commit of the turn that they speak of.

Nothing here waits for a client. One that sends garbage, half a frame, or does not read, loses its connection and nobody
else notices: what is kept for it is bounded, each gets a bounded part of a turn, and the oldest silent one goes when there
are too many.
"""

import grp
import os
import pwd
import socket
import struct
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from lnmt_scheduler.ipc import codec, control, frames
from lnmt_scheduler.sandbox import syscalls
from lnmt_scheduler.supervisor import journal, loop, paths

CLIENTS = 256
#: Seconds that the rest of a begun frame may take.
_PATIENCE = 5.0
#: Bytes kept for a client that does not read; a follower is asked to pause long before.
_OUTBOX = 4 * 1024 * 1024
_PAUSE_AT = 512 * 1024
_ACCEPTS = 32
_READ = 64 * 1024
#: Seconds of a turn that one long request may take.
_SLICE = 0.01
#: Answers remembered for repeated requests.
_REMEMBERED = 1024

ADMIN, OPERATOR = "admin", "operator"


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

    def __init__(self, connection: "Connection", number: int, key: str | None) -> None:
        self._connection = connection
        self._number = number
        self._key = key
        self.open = True
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
        return self._connection.pending > _PAUSE_AT

    def item(self, value: object) -> None:
        if self.open:
            self._connection.send([self._number, "item", value])

    def ok(self, value: object) -> None:
        self._end("ok", value)

    def refuse(self, error: RefusedError) -> None:
        self._end("error", {"code": error.code, "message": error.message, "details": error.details})

    def _end(self, kind: str, value: object) -> None:
        if self.open:
            self.open = False
            self._connection.answered(self, self._number, self._key, [kind, value])


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
        self._sock = sock
        self._reader = frames.FrameReader(control.FRAME_LIMIT)
        self._out = bytearray()
        self._patience: loop.Timer | None = None
        self._waiting: dict[int, Reply] = {}
        self._greeted = False
        self.closed = False

    def fileno(self) -> int:
        return self._sock.fileno()

    @property
    def pending(self) -> int:
        return len(self._out)

    @property
    def silent(self) -> bool:
        """Nobody waits for an answer on it."""
        return not self._waiting

    def on_ready(self, events: int) -> None:
        if events & loop.WRITE:
            self.flush()
        if events & ~loop.WRITE and not self.closed:
            self._receive()

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
            for frame in self._reader.feed(data):
                self._request(frame)
                if self.closed:
                    return
        except (frames.FrameError, codec.ProtocolError) as error:
            self.send([0, "error", {"code": control.USAGE, "message": f"protocol: {error}", "details": []}])
            self.flush()
            self.close()
            return
        self._mind_the_rest()

    def _mind_the_rest(self) -> None:
        """Half a frame may take its time, but not for ever."""
        if self._patience is not None:
            self._patience.cancel()
            self._patience = None
        if self._reader.pending:
            self._patience = self.server.loop.call_at(time.monotonic() + _PATIENCE, self.close)

    def _request(self, frame: bytes) -> None:
        match codec.unpack(frame):
            case [int(number), str(tag), dict(values), *rest] if len(rest) <= 1:
                key = rest[0] if rest and isinstance(rest[0], str) else None
            case _:
                raise codec.ProtocolError("not of the form [id, tag, fields, key]")
        if number in self._waiting:
            raise codec.ProtocolError(f"request {number} is under way already")
        reply = Reply(self, number, key)
        self._waiting[number] = reply
        try:
            self.server.handle(self, tag, values, reply, key)
        except RefusedError as error:
            reply.refuse(error)

    def greet(self, hello: control.Hello) -> None:
        if hello.protocol != control.PROTOCOL:
            raise RefusedError(
                control.USAGE,
                f"the daemon speaks protocol {control.PROTOCOL}, this schedctl ({hello.version}) {hello.protocol};"
                " use the schedctl of the same version",
            )
        self._greeted = True

    @property
    def greeted(self) -> bool:
        return self._greeted

    def answered(self, reply: Reply, number: int, key: str | None, answer: list[object]) -> None:
        if self._waiting.pop(number, None) is reply and key is not None:
            self.server.remember(self.peer.uid, key, answer)
        self.send([number, *answer])

    def send(self, value: list[object]) -> None:
        """Queue a frame; it leaves after the commit of this turn."""
        if self.closed:
            return
        try:
            self._out += frames.pack(codec.pack(value), control.FRAME_LIMIT)
        except (frames.FrameError, codec.ProtocolError) as error:
            journal.error(f"an answer could not be sent: {error}")
            problem = {"code": control.FAILED, "message": f"the answer cannot be sent: {error}", "details": []}
            self._out += frames.pack(codec.pack([value[0], "error", problem]), control.FRAME_LIMIT)
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
        self.server.loop.watch(self.fileno(), loop.READ | (loop.WRITE if self._out else 0), self.on_ready)
        if self.pending <= _PAUSE_AT:
            for reply in list(self._waiting.values()):
                reply.on_room()

    def close(self) -> None:
        if self.closed:
            return
        self.closed = True
        if self._patience is not None:
            self._patience.cancel()
        self.server.forget(self)
        self._sock.close()
        for reply in self._waiting.values():
            reply.open = False
            reply.on_gone()


class Server:
    """Listens at a path. Owns the listening socket and the connections until close()."""

    def __init__(
        self, events: loop.Loop, path: str, handlers: dict[str, Handler], role_of: Callable[[Peer], str | None]
    ) -> None:
        """OSError if the socket cannot be made."""
        self.loop = events
        self.unsent: set[Connection] = set()
        self._path = path
        self._handlers = handlers
        self._role_of = role_of
        self._connections: dict[int, Connection] = {}
        self._answers: OrderedDict[tuple[int, str], list[object]] = OrderedDict()
        self._asked: dict[tuple[int, str], list[Reply]] = {}
        self._long: list[tuple[Iterator[None], Reply]] = []
        # Bound beside its place and moved there: a socket left by a dead daemon is replaced in one step.
        beside = f"{path}.new"
        try:
            os.unlink(beside)
        except FileNotFoundError:
            pass
        self._listener = paths.bind(beside)
        os.chmod(beside, 0o666)
        os.rename(beside, path)
        self._listener.listen(512)
        self._listener.setblocking(False)
        self.loop.watch(self._listener.fileno(), loop.READ, lambda _: self._accept())

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if not self._evict():
                    journal.warning(f"no descriptor for another client: {error}")
                return
            sock.setblocking(False)
            self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        try:
            peer = Peer(sock)
        except OSError:
            sock.close()
            return
        role = self._role_of(peer)
        if role is None:
            message = f"{peer.user} has no role here; an administrator can add it to the operator group"
            _say_and_close(sock, control.NOT_ALLOWED, message)
            return
        if len(self._connections) >= CLIENTS and not self._evict():
            _say_and_close(sock, control.UNAVAILABLE, f"the daemon has {CLIENTS} clients already; try again")
            return
        connection = Connection(self, sock, peer, role)
        self._connections[sock.fileno()] = connection
        self.loop.watch(sock.fileno(), loop.READ, connection.on_ready)

    def _evict(self) -> bool:
        """Close the connection that has been silent longest, if there is a silent one."""
        silent = [each for each in self._connections.values() if each.silent]
        if not silent:
            return False
        min(silent, key=lambda each: each.heard).close()
        return True

    def handle(self, connection: Connection, tag: str, values: dict[str, Any], reply: Reply, key: str | None) -> None:
        kind = control.REQUESTS.get(tag)
        if kind is None:
            raise RefusedError(control.USAGE, f"unknown request {tag[:40]!r}; is schedctl newer than the daemon?")
        if not connection.greeted and kind is not control.Hello:
            raise RefusedError(control.USAGE, "say hello first")
        if connection.role != ADMIN and tag not in control.OPERATOR:
            raise RefusedError(control.NOT_ALLOWED, f"{tag} is for administrators; {connection.peer.user} is an operator")
        try:
            request: object = msgspec.convert(values, kind)
        except msgspec.ValidationError as error:
            raise RefusedError(control.USAGE, f"{tag}: {error}") from None
        if isinstance(request, control.Hello):
            connection.greet(request)
        if key is not None and self._repeated(connection.peer.uid, key, reply):
            return
        work = self._handlers[tag](request, reply)
        if work is not None:
            self._long.append((work, reply))
            self.loop.call_soon(self._work)

    def _repeated(self, uid: int, key: str, reply: Reply) -> bool:
        """A request that came before is answered as it was, or will be."""
        answer = self._answers.get((uid, key))
        if answer is not None:
            reply._end(*answer)  # type: ignore[arg-type]  # noqa: SLF001 (server and reply are one)
            return True
        waiting = self._asked.setdefault((uid, key), [])
        waiting.append(reply)
        return len(waiting) > 1

    def remember(self, uid: int, key: str, answer: list[object]) -> None:
        self._answers[uid, key] = answer
        if len(self._answers) > _REMEMBERED:
            self._answers.popitem(last=False)
        for other in self._asked.pop((uid, key), []):
            other._end(*answer)  # type: ignore[arg-type]  # noqa: SLF001 (as above)

    def _work(self) -> None:
        """Drive each long request for a slice of this turn."""
        going, self._long = self._long, []
        for work, reply in going:
            until = time.monotonic() + _SLICE
            try:
                while time.monotonic() < until:
                    next(work)
            except StopIteration:
                continue
            except RefusedError as error:
                reply.refuse(error)
                continue
            self._long.append((work, reply))
        if self._long:
            self.loop.call_soon(self._work)

    def flush(self) -> None:
        """Send what has been queued; called after the commit of a turn."""
        unsent, self.unsent = self.unsent, set()
        for connection in unsent:
            connection.flush()
        if self.unsent:  # what was made room for is to be sent too
            self.loop.call_soon(lambda: None)

    def forget(self, connection: Connection) -> None:
        self.loop.unwatch(connection.fileno())
        self._connections.pop(connection.fileno(), None)
        self.unsent.discard(connection)

    def close(self) -> None:
        """Close all, and take the socket away."""
        self.loop.unwatch(self._listener.fileno())
        self._listener.close()
        for connection in list(self._connections.values()):
            connection.flush()
            connection.close()
        try:
            os.unlink(self._path)
        except FileNotFoundError:
            pass


def _say_and_close(sock: socket.socket, code: int, message: str) -> None:
    error = {"code": code, "message": message, "details": []}
    try:
        sock.send(frames.pack(codec.pack([0, "error", error]), control.FRAME_LIMIT))
    except OSError:
        pass
    sock.close()


def role_by(admin_group: str | None, operator_group: str | None, daemon_uid: int) -> Callable[[Peer], str | None]:
    """The rule of roles: root and the daemon's own account are admins, the rest is by group; None: no role."""

    def role_of(peer: Peer) -> str | None:
        if peer.uid in (0, daemon_uid) or _gid(admin_group) in peer.gids:
            return ADMIN
        return OPERATOR if _gid(operator_group) in peer.gids else None

    return role_of


def _gid(name: str | None) -> int | None:
    """The group's number; looked up at each connection, since groups come and go while a daemon runs."""
    if name is None:
        return None
    try:
        return grp.getgrnam(name).gr_gid
    except KeyError:
        return None
