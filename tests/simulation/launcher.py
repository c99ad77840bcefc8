"""A launcher without processes: it keeps the truth about every attempt as the real one does, and a supervisor may die on it.

Held is what was launched and whose exit nobody has acknowledged. Orders are taken in the order in which they were sent, and
what a supervisor had sent before its death is taken before its successor is welcomed. Deadlines run on the monotonic clock.
What a job does is drawn when it begins (script.Play), and the job is its own witness.
"""

from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from simulation import timeline

from lnmt_scheduler.ipc import messages

if TYPE_CHECKING:
    from simulation.world import World

Key = tuple[int, int]


@dataclass(slots=True)
class Box:
    key: Key
    grace: float
    play: "object"
    #: Monotonic.
    started: int
    #: Place of its witness in the evidence; None: it never came to its first line.
    witness: int | None = None
    cause: str | None = None
    #: Monotonic.
    kill_at: int = 1 << 62
    calls: list[timeline.Call] = field(default_factory=list)
    kill: timeline.Call | None = None
    exit: messages.Exited | None = None
    #: True: it was killed, and is not gone.
    stuck_since: int | None = None


class Launcher:
    def __init__(self, world: "World", pid: int) -> None:
        self.world = world
        self.pid = pid
        self.boxes: dict[Key, Box] = {}
        #: What is on its way to us.
        self.orders: deque[object] = deque()
        self.stopping = False
        self.farewell = False

    def hear(self, message: object) -> None:
        """Something was sent; it is taken a moment later."""
        self.orders.append(message)
        self.world.time.after(self.world.rng.randrange(3), self.take)

    def take(self) -> None:
        if self.orders and self.world.launcher is self:
            self._obey(self.orders.popleft())

    def drain(self) -> None:
        """The supervisor is dead: take all that it said."""
        while self.orders:
            self._obey(self.orders.popleft())

    def welcome(self) -> list[object]:
        """What a new supervisor is told first."""
        held = tuple(self.boxes)
        told: list[object] = [
            messages.Welcome(
                version=messages.VERSION,
                launcher_pid=self.pid,
                uid=0,
                package="simulated",
                mode="a",
                layers={},
                missing={},
                held=held,
            )
        ]
        for box in self.boxes.values():
            told.append(messages.Started(run_id=box.key[0], attempt=box.key[1], pid=1, at=box.started / 1000))
            if box.exit is not None:
                told.append(box.exit)
        if self.stopping:
            told.append(messages.Stop())
        return told

    def stop(self) -> None:
        """SIGTERM came."""
        self.stopping = True
        self.world.tell(messages.Stop())

    def _obey(self, message: object) -> None:
        match message:
            case messages.Launch():
                self._launch(message)
            case messages.End(run_id=run_id, attempt=number, cause=cause, grace=grace):
                if box := self.boxes.get((run_id, number)):
                    self._end(box, cause, grace)
            case messages.Ack(run_id=run_id, attempt=number):
                self.boxes.pop((run_id, number), None)
            case messages.Farewell():
                self.farewell = True

    def _launch(self, order: messages.Launch) -> None:
        key = (order.run_id, order.attempt)
        if key in self.boxes:
            return
        world = self.world
        play = world.script.play(order)
        box = self.boxes[key] = Box(key, order.kill_grace, play, world.time.monotonic)
        if play.spawn_error is not None:
            box.exit = messages.Exited(run_id=key[0], attempt=key[1], spawn_error=play.spawn_error)
            world.tell(box.exit)
            return
        box.witness = world.began(key)
        world.tell(messages.Started(run_id=key[0], attempt=key[1], pid=1, at=world.time.monotonic / 1000))
        if play.lasts is not None:
            box.calls.append(
                world.time.after(play.lasts, lambda: self._done(box, exit_code=play.code, signal=play.signal))
            )
        if order.timeout is not None:
            deadline = round(order.timeout * 1000)
            box.calls.append(world.time.after(deadline, lambda: self._end(box, "timeout", box.grace)))

    def _end(self, box: Box, cause: str, grace: float) -> None:
        """TERM now, KILL after the grace; the first cause counts."""
        if box.exit is not None or box.witness is None:
            return
        world = self.world
        if box.cause is None:
            box.cause = cause
            if box.play.heeds is not None:
                code, signal = box.play.heeds
                box.calls.append(world.time.after(5, lambda: self._done(box, exit_code=code, signal=signal)))
        if box.kill is not None:
            box.kill.cancel()
        box.kill_at = min(box.kill_at, world.time.monotonic + round(grace * 1000))
        box.kill = world.time.after(box.kill_at - world.time.monotonic, lambda: self._kill(box))

    def _kill(self, box: Box) -> None:
        if box.exit is None and box.stuck_since is None:
            # A process in an uninterruptible wait outlives its KILL.
            box.stuck_since = self.world.time.true
            box.calls.append(self.world.time.after(box.play.clings, lambda: self._done(box, signal=9)))

    def _done(self, box: Box, *, exit_code: int | None = None, signal: int | None = None) -> None:
        if box.exit is not None:
            return
        world = self.world
        self._hush(box)
        box.exit = messages.Exited(
            run_id=box.key[0],
            attempt=box.key[1],
            exit_code=exit_code,
            signal=signal,
            cause=box.cause,
            duration=(world.time.monotonic - box.started) / 1000,
        )
        world.ended(box.witness, exit_code)
        world.tell(box.exit)

    def _hush(self, box: Box) -> None:
        for call in (*box.calls, box.kill):
            if call is not None:
                call.cancel()
        if box.stuck_since is not None:
            self.world.stuck(box.stuck_since)
            box.stuck_since = None

    def die(self) -> None:
        """All boxes go with it."""
        for box in self.boxes.values():
            self._hush(box)
        self.boxes.clear()
        self.orders.clear()

    @property
    def living(self) -> list[Key]:
        return [box.key for box in self.boxes.values() if box.exit is None]
