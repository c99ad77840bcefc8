"""The control socket's server: who may speak, frames, and fair turns.

Runs in the supervisor's loop. A connection is judged by what the kernel says of its peer (SO_PEERCRED, SO_PEERGROUPS) and
of where that runs, before a byte of it is read; what runs inside a box is refused, whoever it is. Requests are validated
into the dataclasses of ipc/control.py, and answered through a Reply, at once or later. Answers leave after the commit of
the turn that they speak of.

Nothing here waits for a client. One that sends garbage, half a frame, or does not read, loses its connection and nobody
else notices: what is kept for it is bounded, all clients together get a bounded part of a turn, one request of each after
the other, and the oldest silent one goes when there are too many.
"""

import contextlib
import dataclasses
import grp
import os
import socket
import time
from collections import OrderedDict, deque
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from lnmt_scheduler.ipc import codec, control, frames
from lnmt_scheduler.supervisor import boxed, journal, loop, paths
from lnmt_scheduler.supervisor.connection import MISTAKES, Connection, Handler, Peer, RefusedError, Reply, frame

CLIENTS = 256
#: Seconds that the rest of a begun frame may take.
_PATIENCE = 5.0
_ACCEPTS = 32
#: Seconds of a turn that requests may take, and as much again one long request.
_SLICE = 0.01
#: Seconds without new clients when there is no descriptor for one.
_REST = 1.0
#: Answers remembered for repeated requests, and their bytes in all.
_REMEMBERED = 1024
_REMEMBERED_BYTES = 8 * 1024 * 1024
#: What a key is for: the other requests change nothing, so they are simply done again.
_CHANGES = frozenset(
    {"add", "edit", "remove", "enable", "disable", "run", "cancel", "retry", "import", "reload", "drain", "stop"}
)
#: What a handler's iterator gives after its last step.
_OVER = object()
_INT64 = range(-(1 << 63), 1 << 63)

ADMIN, OPERATOR = "admin", "operator"
#: Why a peer is refused for where it runs.
_ELSEWHERE = {
    "box": "the daemon takes no requests from inside a job; run schedctl outside, or report with `schedctl progress`",
    "unknown": "the daemon cannot see this process; run schedctl in the container, or pid namespace, that schedd runs in",
}


class Server:
    """Listens at a path. Owns the listening socket and the connections until close()."""

    def __init__(
        self,
        events: loop.Loop,
        path: str,
        handlers: dict[str, Handler],
        role_of: Callable[[Peer], str | None],
        *,
        patience: float = _PATIENCE,
        launcher: int | None = None,
        room: Callable[[], int] = lambda: CLIENTS,
        whole: Callable[[], contextlib.AbstractContextManager[None]] = contextlib.nullcontext,
    ) -> None:
        """`patience`: seconds that the rest of a begun frame may take; `launcher`: whose descendants are jobs; `room`:
        connections that there are descriptors for; `whole`: what a handler is called in, so that nothing of its work stays
        if it fails.

        OSError if the socket cannot be made.
        """
        self.loop = events
        self.patience = patience
        self._launcher = launcher
        self._room = room
        self._whole = whole
        self.unsent: set[Connection] = set()
        self._path = path
        self._handlers = handlers
        self._role_of = role_of
        self._connections: dict[int, Connection] = {}
        self._answers: OrderedDict[tuple[int, str], tuple[list[object], int]] = OrderedDict()
        self._answers_size = 0
        self._asked: dict[tuple[int, str], list[Reply]] = {}
        #: Clients whose requests wait to be looked at, in the order of their turns.
        self._ready: OrderedDict[Connection, None] = OrderedDict()
        self._long: deque[tuple[Iterator[None], Reply]] = deque()
        self._is_working = False
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
        self._listen()

    def _listen(self) -> None:
        if self._listener.fileno() >= 0:
            self.loop.watch(self._listener.fileno(), loop.READ, lambda _: self._accept())

    def _accept(self) -> None:
        for _ in range(_ACCEPTS):
            try:
                sock, _ = self._listener.accept()
            except BlockingIOError:
                return
            except OSError as error:
                if not self._evict(None):
                    journal.warning(f"no descriptor for another client: {error}")
                    self.loop.unwatch(self._listener.fileno())
                    self.loop.call_at(time.monotonic() + _REST, self._listen)
                return
            sock.setblocking(False)
            self._welcome(sock)

    def _welcome(self, sock: socket.socket) -> None:
        try:
            peer = Peer(sock)
            place = boxed.place_of(sock, peer.pid, self._launcher, peer.uid)
        except OSError:
            sock.close()
            return
        if place != "outside":
            _say_and_close(sock, control.NOT_ALLOWED, _ELSEWHERE[place])
            return
        role = self._role_of(peer)
        if role is None:
            message = f"{peer.user} has no role here; an administrator can add it to the operator group"
            _say_and_close(sock, control.NOT_ALLOWED, message)
            return
        limit = min(CLIENTS, self._room())
        if len(self._connections) >= limit and not self._evict(role):
            _say_and_close(sock, control.UNAVAILABLE, f"the daemon has {limit} clients already; try again")
            return
        self._connections[sock.fileno()] = Connection(self, sock, peer, role)

    def _evict(self, role: str | None) -> bool:
        """Close the connection that has been silent longest, if there is one; an administrator displaces operators too."""
        those = [each for each in self._connections.values() if each.silent]
        if not those and role == ADMIN:
            those = [each for each in self._connections.values() if each.role != ADMIN]
        if not those:
            return False
        min(those, key=lambda each: each.heard).close()
        return True

    def serve_soon(self, connection: Connection) -> None:
        """Have its requests looked at, when it is its turn."""
        if not self._ready:
            self.loop.call_soon(self._serve)
        self._ready[connection] = None

    def _serve(self) -> None:
        """Look at the requests that have come, one of each client in turn, for a slice of this turn."""
        until = time.monotonic() + _SLICE
        while self._ready and time.monotonic() < until:
            connection, _ = self._ready.popitem(last=False)
            if connection.wants_turn:
                connection.serve()
            if connection.wants_turn:
                self._ready[connection] = None
        if self._ready:
            self.loop.call_soon(self._serve)

    def handle(self, connection: Connection, tag: str, values: dict[str, Any], reply: Reply, key: str | None) -> None:
        kind = control.REQUESTS.get(tag)
        if kind is None:
            raise RefusedError(control.USAGE, f"unknown request {tag[:40]!r}; is schedctl newer than the daemon?")
        if not connection.greeted and kind is not control.Hello:
            raise RefusedError(control.USAGE, "say hello first")
        if connection.role != ADMIN and tag not in control.OPERATOR:
            raise RefusedError(
                control.NOT_ALLOWED, f"{tag} is for administrators; {connection.peer.user} is an operator"
            )
        request = _converted(kind, tag, values)
        if isinstance(request, control.Hello):
            connection.greet(request)
        if key is not None and tag in _CHANGES:
            reply.key = key
            if self._repeated(connection.peer.uid, key, reply):
                return
        with self._whole():
            work = self._handlers[tag](request, reply)
        if work is not None:
            self._long.append((work, reply))
            self._work_soon()

    def _repeated(self, uid: int, key: str, reply: Reply) -> bool:
        """A request that came before is answered as it was, or will be."""
        if (uid, key) in self._answers:
            answer, _ = self._answers[uid, key]
            reply.key = None
            reply.end(str(answer[0]), answer[1])
            return True
        waiting = self._asked.setdefault((uid, key), [])
        waiting.append(reply)
        return len(waiting) > 1

    def remember(self, uid: int, key: str, answer: list[object]) -> None:
        """Keep the answer for those who ask the same again, and give it to those who have."""
        waiting = self._asked.pop((uid, key), [])
        size = len(frame([0, *answer]))
        self._answers[uid, key] = answer, size
        self._answers_size += size
        while len(self._answers) > _REMEMBERED or self._answers_size > _REMEMBERED_BYTES:
            _, (_, size) = self._answers.popitem(last=False)
            self._answers_size -= size
        for other in waiting:
            other.key = None
            other.end(str(answer[0]), answer[1])

    def _work_soon(self) -> None:
        if not self._is_working and any(not reply.congested for _, reply in self._long):
            self._is_working = True
            self.loop.call_soon(self._work)

    def _work(self) -> None:
        """Drive a long request for a slice of this turn; they take turns, but for those whose client has to read first."""
        self._is_working = False
        for _ in range(len(self._long)):
            work, reply = self._long.popleft()
            if reply.congested:
                self._long.append((work, reply))
            else:
                if self._drive(work, reply):
                    self._long.append((work, reply))
                break
        self._work_soon()

    def _drive(self, work: Iterator[None], reply: Reply) -> bool:
        """Whether there is more to do."""
        until = time.monotonic() + _SLICE
        try:
            with self._whole():
                while time.monotonic() < until and not reply.congested:
                    if next(work, _OVER) is _OVER:
                        return False
        except RefusedError as error:
            reply.refuse(error)
            return False
        except MISTAKES as error:
            reply.stumble("request", error)
            return False
        return True

    def go_on(self, connection: Connection) -> None:
        """The client has room for answers again, or is gone."""
        if connection.wants_turn:
            self.serve_soon(connection)
        self._work_soon()

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

    def close(self, *, remove: bool = True) -> None:
        """Close all, and take the socket away, unless another server is to take its place."""
        self.loop.unwatch(self._listener.fileno())
        self._listener.close()
        for connection in list(self._connections.values()):
            connection.flush()
            connection.close()
        if remove:
            try:
                os.unlink(self._path)
            except FileNotFoundError:
                pass


def _converted(kind: type, tag: str, values: dict[str, Any]) -> Any:
    """The request, an instance of `kind`; refused if a field is not what its annotation says."""
    try:
        request: Any = msgspec.convert(values, kind)
    except msgspec.ValidationError as error:
        raise RefusedError(control.USAGE, f"{tag}: {error}") from None
    for each in dataclasses.fields(kind):
        value = getattr(request, each.name)
        # What msgpack carries and neither SQLite nor the clock does.
        if (type(value) is int and value not in _INT64) or (type(value) is float and abs(value) >= 1e9):
            raise RefusedError(control.USAGE, f"{tag}: {each.name} is out of range")
        if isinstance(value, float) and value != value:  # noqa: PLR0124 (that is what NaN is known by)
            raise RefusedError(control.USAGE, f"{tag}: {each.name} is not a number")
    return request


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
