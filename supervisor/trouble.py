"""What the supervisor does while its store cannot be used: read-only, full, damaged, gone, or held by another process.

A supervisor that cannot write down a decision ends, so that nothing has happened that is not written down. Its successor
opens the file anew and looks it through; if that fails it comes here. Nothing is decided and nothing starts; what runs is
the launcher's, which keeps its deadlines, and every end that it reports waits, unacknowledged. Clients are told: `status`
says what is wrong, requests that only look are answered as far as the file can be read, all others are refused. Every few
seconds the file is tried again, and when it opens, the supervisor starts as if it had just been born.
"""

import dataclasses
import time
from collections.abc import Callable, Iterator
from typing import Any

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import client, connection, direct, journal, loop, paths, store, version
from lnmt_scheduler.supervisor import control as server
from lnmt_scheduler.supervisor.connection import RefusedError, Reply

#: Seconds between two tries.
_AGAIN_S = 2.0
#: Kind of error -> what `status` calls the store.
_STATES = {"readonly": "readonly", "full": "full"}
#: What direct.py answers, and how much of it at once.
_LOOKS = (control.List, control.Show, control.History, control.Read, control.Export, control.Audit)
_ROWS = 50


def state_of(error: store.StoreError) -> str:
    """What `status` calls a store with which this is wrong."""
    return _STATES.get(error.kind, "damaged")


class Trouble:
    def __init__(
        self,
        events: loop.Loop,
        where: paths.Paths,
        role_of: Callable[[connection.Peer], str | None],
        *,
        launcher: int,
        facts: Callable[[], dict[str, Any]],
    ) -> None:
        """`launcher` is its pid, `facts` what `status` says besides."""
        self._loop = events
        self._where = where
        self._role_of = role_of
        self._launcher = launcher
        self._facts = facts
        self._error: store.StoreError
        self._server: server.Server | None = None

    def wait(self, error: store.StoreError, is_over: Callable[[], bool]) -> store.Store | None:
        """The store, once it can be opened; None if it is over before."""
        self._error = error
        journal.error(f"{error}; nothing starts before the store can be used again")
        self._loop.after_turn = self._flush
        opened = None
        try:
            while opened is None and not is_over():
                self._listen()
                again = self._loop.call_at(time.monotonic() + _AGAIN_S, lambda: None)
                until = time.monotonic() + _AGAIN_S
                while time.monotonic() < until and not is_over():
                    self._loop.turn()
                again.cancel()
                opened = self._try()
        finally:
            self._loop.after_turn = lambda: None
            if self._server is not None:
                self._server.close()
        if opened is not None:
            journal.notice("the store can be used again")
        return opened

    def _try(self) -> store.Store | None:
        try:
            return store.Store.open(self._where.database, create=False)
        except store.StoreError as error:
            if str(error) != str(self._error):
                journal.error(f"{error}; nothing starts before the store can be used again")
            self._error = error
            return None

    def _listen(self) -> None:
        """Take requests, as soon as there is a place for the socket."""
        if self._server is None:
            try:
                self._server = server.Server(
                    self._loop, self._where.socket, self._table(), self._role_of, launcher=self._launcher
                )
            except OSError as error:
                journal.debug(f"cannot listen at {self._where.socket}: {error.strerror}")

    def _flush(self) -> None:
        if self._server is not None:
            self._server.flush()

    def _table(self) -> dict[str, Callable[[Any, Reply], Iterator[None] | None]]:
        return {
            **dict.fromkeys(control.REQUESTS, self._refuse),
            **{kind.__name__.lower(): self._look for kind in _LOOKS},
            "hello": self._hello,
            "state": self._state,
        }

    def _hello(self, _: control.Hello, reply: Reply) -> None:
        facts = self._facts()
        reply.ok({"protocol": control.PROTOCOL, "version": version.VERSION, "pid": facts["pid"], "role": reply.role})

    def _state(self, _: control.State, reply: Reply) -> None:
        reply.ok({**self._facts(), "store": state_of(self._error), "problems": [str(self._error)]})

    def _look(self, request: Any, reply: Reply) -> None:
        if hasattr(request, "limit") and not isinstance(request, control.Read):
            request = dataclasses.replace(request, limit=max(0, min(request.limit, _ROWS)))
        try:
            source = direct.Direct(self._where)
        except store.StoreError:
            self._refuse(request, reply)
            return
        try:
            reply.ok(source.request(request))
        except client.RequestError as error:
            raise RefusedError(error.code, error.message) from None
        finally:
            source.close()

    def _refuse(self, _: Any, __: Reply) -> None:
        raise RefusedError(control.UNAVAILABLE, f"the daemon waits for its store: {self._error}")
