"""A client that follows a run: output, progress and state as they come, at the pace at which the client reads.

The follower holds a place in the output and asks for more when the client has room, so nothing is kept for one that is
slow; what falls out of the cap meanwhile is told as a gap.
"""

import os
from collections.abc import Callable
from typing import Any

from lnmt_scheduler.supervisor import children, open_runs, output, run
from lnmt_scheduler.supervisor.connection import Reply

_PIECE = 32 * 1024
#: Pieces sent in one go; then other clients have their turn.
_BURST = 8


class Follower:
    def __init__(
        self,
        each: open_runs.OpenRun | None,
        reply: Reply,
        path: str,
        *,
        wants_output: bool,
        from_start: bool,
        at: int = 0,
        head: int | None = None,
        child: Callable[[], children.Child | None],
        view: Callable[[], dict[str, Any]],
    ) -> None:
        """`each` is None if the run has ended; `child` gives its running attempt.

        `at` is where a client goes on that was cut off, and `head` where the head of the output ended then.
        """
        self._each = each
        self._reply = reply
        self._path = path
        self._wants_output = wants_output
        self._child = child
        self._view = view
        self._at = at
        self._skip = not from_start
        self._ended = each is None
        self._told: object = None
        self._state: tuple[str, int] | None = None
        #: Where the head of the output ends, once it is known.
        self._head = head if at else None

    def start(self) -> None:
        if self._each is not None:
            self._each.watchers.append(self._on_event)
        self._reply.on_gone = self._leave
        self._reply.on_room = lambda: self._on_event("room")
        live = self._child()
        if self._skip and live is not None:
            self._at = live.output.total
        self._tell_state()
        self._more()

    def _leave(self) -> None:
        if self._each is not None and self._on_event in self._each.watchers:
            self._each.watchers.remove(self._on_event)

    def _on_event(self, what: str) -> None:
        if what == "end":
            self._ended = True
            self._leave()
        if what == "state":
            self._tell_state()
        self._tell_progress()
        self._more()

    def _tell_state(self) -> None:
        if self._each is not None and not self._ended:
            now = (run.status_of(self._each.state).value, run.attempt_of(self._each.state))
            if now != self._state:
                self._state = now
                self._reply.item({"kind": "state", "status": now[0], "attempt": now[1]})

    def _tell_progress(self) -> None:
        if self._reply.congested:
            return  # the newest is told when there is room
        live = self._child()
        progress = live.report.progress if live is not None else None
        if progress is not None and progress is not self._told:
            self._told = progress
            self._reply.item(
                {"kind": "progress", "done": progress.done, "total": progress.total, "message": progress.message}
            )

    def _more(self) -> None:
        """Send what there is, while the client reads; the end comes after the last byte."""
        if not self._reply.open or self._reply.congested:
            return
        if self._wants_output and not self._send_output():
            return
        if self._ended:
            self._reply.ok({"run": self._view()})

    def _send_output(self) -> bool:
        """Whether everything that is there has been sent."""
        live = self._child()
        if live is not None:
            self._head = live.output.head_limit
            return self._send_from(live.output.read)
        if not os.path.exists(self._path):
            return True
        stored = output.Output(self._path, 2)
        try:
            if self._ended and self._head is not None:
                self._move_into_file(stored.total)
            return self._send_from(stored.read)
        finally:
            stored.suspend()

    def _move_into_file(self, stored: int) -> None:
        """The output became one file when the run ended: what was dropped is no longer counted in it."""
        head, self._head = self._head or 0, None
        left = self._view()["output_bytes"] - self._at
        if self._at > head:
            self._at = max(head, stored - left)

    def _send_from(self, read: Callable[[int, int], output.Piece | None]) -> bool:
        for _ in range(_BURST):
            piece = read(self._at, _PIECE)
            if piece is None:
                return True
            if piece.at > self._at:
                self._reply.item({"kind": "gap", "bytes": piece.at - self._at})
            self._at = piece.at + len(piece.data)
            self._reply.item({"kind": "output", "stream": output.STREAMS[piece.stream], "data": piece.data})
        return False
