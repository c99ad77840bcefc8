"""The real supervisor but for its edges: no sockets, no epoll, no children, and a store that may fail or see it die.

Daemon's own wiring is used as it stands: how it recovers, what it hears, and the end of a turn, where the commit comes before
everything that others may see. Between any two effects the fault plan may end it (Died), and what was not committed then is
gone: the connection outlives it and is rolled back, as the kernel and SQLite would leave it.
"""

import heapq
import itertools
import types
from collections import deque
from collections.abc import Callable
from typing import TYPE_CHECKING

from simulation import timeline

from lnmt_scheduler.ipc import messages
from lnmt_scheduler.supervisor import (
    attempts,
    bulk,
    catalog,
    clock,
    config,
    daemon,
    definitions,
    dispatcher,
    planning,
    registry,
    rows,
    run,
    store,
    timekeeper,
    vetting,
    watchers,
    whole,
)

if TYPE_CHECKING:
    from simulation.world import World

#: The world's time; a process simulates one world at a time.
TIME: timeline.Timeline = timeline.Timeline(0)
WHO = definitions.Who(uid=0, user="root")


class Died(BaseException):
    """SIGKILL: nothing may catch it."""


class Store(store.Store):
    """The real one; the world may end its user before and after each commit, and between two changes."""

    def __init__(self, world: "World") -> None:
        super().__init__(world.db, "simulated")
        self._world = world

    def commit(self) -> None:
        if not self.in_transaction:
            return
        self._world.point()
        self._world.commit_may_fail()
        super().commit()
        self._world.committed()
        self._world.point()

    def _change(self, statement: str, *values: object) -> int:
        self._world.point()
        return super()._change(statement, *values)

    def check_place(self) -> None:
        """It has no place on a disk."""

    def close(self) -> None:
        self.rollback()


class Loop:
    """What the daemon knows of its loop, without descriptors."""

    def __init__(self) -> None:
        self.soon: list[Callable[[], None]] = []
        self._timers: list[tuple[float, int, list]] = []
        self._order = itertools.count()
        self.running = True

    def call_soon(self, callback: Callable[[], None]) -> None:
        self.soon.append(callback)

    def call_at(self, when: float, callback: Callable[[], None]) -> None:
        heapq.heappush(self._timers, (when, next(self._order), callback))

    def due(self, now: float) -> list[Callable[[], None]]:
        found = []
        while self._timers and self._timers[0][0] <= now:
            found.append(heapq.heappop(self._timers)[2])
        return found

    @property
    def first_timer(self) -> float | None:
        return self._timers[0][0] if self._timers else None

    def stop(self) -> None:
        self.running = False


class Server:
    """Answers leave with flush(), which the end of a turn calls after the commit."""

    def __init__(self, world: "World") -> None:
        self._world = world
        self.answers: deque[Callable[[], None]] = deque()

    def flush(self) -> None:
        while self.answers:
            self._world.point()
            self.answers.popleft()()


class Alarm:
    """In the place of clock.Alarm: rings when the world's clock says so, and knows a step when it looks."""

    def __init__(self, on_step: Callable[[clock.Stepped], None], _: object) -> None:
        self.at: int | None = None
        self._on_step = on_step
        self._offset, self._asleep = TIME.offset, TIME.asleep

    def set(self, at_ms: int | None) -> None:
        self.at = at_ms

    def read(self) -> None:
        """Take what there is to be told; the end of the turn finds what is due."""
        if self._offset != TIME.offset:
            self._notice_step()
        if self.at is not None and self.at <= TIME.wall:
            self.at = None

    def look(self) -> None:
        if abs(TIME.offset - self._offset) >= 1000:
            self._notice_step()

    def _notice_step(self) -> None:
        before, slept = self._offset, self._asleep
        self._offset, self._asleep = TIME.offset, TIME.asleep
        self.at = None
        self._on_step(clock.Stepped(seconds=(TIME.offset - before) / 1000, slept=(TIME.asleep - slept) / 1000))

    @property
    def is_readable(self) -> bool:
        return self._offset != TIME.offset or (self.at is not None and self.at <= TIME.wall)


class Link:
    """To the launcher."""

    can_replace = False

    def __init__(self, world: "World") -> None:
        self._world = world
        self.hand = world.hand

    def send(self, message: object, fds: tuple[int, ...] = ()) -> None:
        self._world.point()
        self._world.launcher.hear(message)


class Reserve:
    def __init__(self, world: "World") -> None:
        self._world = world
        self.full = False
        self.size = 0

    def look(self) -> bool:
        self.full = self._world.full
        return self.full


class Attempts:
    """The supervisor's half of an attempt, without payloads, pipes and output."""

    def __init__(self, world: "World", owner: "Supervisor") -> None:
        self._world = world
        self._owner = owner
        self._live: dict[tuple[int, int], attempts.Order] = {}

    def defer(self, call: Callable[[], None]) -> None:
        self._owner._effects.append(call)

    def _send(self, message: object) -> None:
        self.defer(lambda: self._owner._link.send(message))

    def holds(self, run_id: int, attempt: int) -> bool:
        return (run_id, attempt) in self._live

    def configure(self, settings: config.Settings) -> None:
        pass

    def set_full(self, *, full: bool) -> None:
        pass

    def child(self, run_id: int, attempt: int) -> None:
        return None

    def is_unkillable(self, run_id: int) -> bool:
        return False

    def on_unkillable(self, message: messages.Unkillable) -> None:
        pass

    def launch(self, order: attempts.Order) -> None:
        self._live[order.run_id, order.attempt] = order
        self._send(
            messages.Launch(
                run_id=order.run_id,
                attempt=order.attempt,
                policy={},
                timeout=order.timeout,
                kill_grace=order.job.kill_grace,
            )
        )

    def adopt(self, order: attempts.Order) -> None:
        self._live[order.run_id, order.attempt] = order

    def lose(self, order: attempts.Order, error: str) -> None:
        self._live[order.run_id, order.attempt] = order
        facts = attempts.Facts(error=error)
        self._owner._runs.on_attempt_ended(order.run_id, order.attempt, run.Outcome(cause="lost"), facts)

    def end(self, run_id: int, attempt: int, cause: str, grace: float) -> None:
        self._send(messages.End(run_id=run_id, attempt=attempt, cause=cause, grace=grace))

    def on_started(self, message: messages.Started, _: list[int]) -> None:
        order = self._live.get((message.run_id, message.attempt))
        if order is not None and order.job.stall_timeout is not None:
            self._owner._loop.call_at(
                message.at + order.job.stall_timeout,
                lambda: self._look(message.run_id, message.attempt),
            )

    def _look(self, run_id: int, attempt: int) -> None:
        if (run_id, attempt) in self._live and self._world.is_silent((run_id, attempt)):
            self._owner._runs.on_exceeded(run_id, "stalled")

    def on_exited(self, message: messages.Exited) -> None:
        if (message.run_id, message.attempt) in self._live:
            self._take_end(message)
        else:
            self._owner._runs.on_unknown_exit(message.run_id, message.attempt)
        self._send(messages.Ack(run_id=message.run_id, attempt=message.attempt))

    def _take_end(self, message: messages.Exited) -> None:
        outcome = run.Outcome(
            exit_code=message.exit_code,
            signal=message.signal,
            cause=message.cause,
            spawn_error=message.spawn_error,
        )
        facts = attempts.Facts(exit_code=message.exit_code, duration=message.duration, error=message.spawn_error)
        self._owner._runs.on_attempt_ended(message.run_id, message.attempt, outcome, facts)

    def explain(self, run_id: int, attempt: int, reason: str, facts: attempts.Facts) -> attempts.Facts:
        return facts

    def close(self, run_id: int, attempt: int, *, last: bool) -> int:
        self._live.pop((run_id, attempt), None)
        return 0

    def finish_output(self, run_id: int, queued: int, job: object) -> int:
        return 0


class Supervisor(daemon.Daemon):
    def __init__(self, world: "World", welcome: messages.Welcome) -> None:
        self._world = world
        self._welcome = welcome
        self._link = Link(world)
        self._paths = types.SimpleNamespace(state_dir="simulated")
        self._settings = world.settings
        self._loop = Loop()
        self._effects = deque()
        self._farewell = None
        self._drains = []
        self._reserve = Reserve(world)
        self._store = Store(world)
        self._catalog = catalog.Catalog(self._store, world.evidence.zone)
        self._runs = dispatcher.Dispatcher(
            self._store, self._catalog, self._settings, self._loop.call_soon, world.rng.random
        )
        self._runs.on_idle = self._on_idle
        self._attempts = Attempts(world, self)
        self._runs.lives.attempts = self._attempts
        written = definitions.Definitions(self._store, self._catalog, self._runs)
        rules = vetting.Vetting(self._store, self._catalog, self._settings)
        self.registry = registry.Registry(self._store, self._runs, written, rules)
        self.planner = planning.Planner(self._store, self._catalog, written, rules)
        self.bulk = bulk.Bulk(self._store, written, self._runs)
        self._time = timekeeper.Timekeeper(self._store, self._catalog, self._runs, self._loop, self._take_zone)
        self._watchers = watchers.Watchers(self._loop, dict)  # nobody watches
        self._server = Server(world)
        self.whole = whole.Whole(self._store, self._catalog, self._runs, self._effects)
        #: What is to be handled in the next turn: messages of the launcher, requests of clients.
        self.inbox: deque[object] = deque()
        #: Monotonic ms until which it does something else.
        self.busy = 0
        self.is_up = False

    runs = property(lambda self: self._runs)
    catalog = property(lambda self: self._catalog)
    store = property(lambda self: self._store)
    server = property(lambda self: self._server)

    def job_row(self, job_id: str) -> rows.JobRow:
        return definitions.find(self._store, job_id)

    def start(self) -> None:
        """As Daemon.run() begins."""
        self._begin()
        self.is_up = True

    def _load_files(self) -> None:
        self._world.load_files(self)

    def drain(self) -> None:
        """A client asks for it, and does not wait."""
        self._drain(types.SimpleNamespace(ok=lambda _: None), None)

    def turn(self) -> None:
        """One turn of the loop, as loop.Loop takes it: what came, what was put off, timers, the end of the turn."""
        world = self._world
        if self._time.alarm.is_readable:
            self._time.alarm.read()
        while self.inbox:
            item = self.inbox.popleft()
            world.point()
            if callable(item):
                item()
            else:
                self._hear(item, [])
        soon, self._loop.soon = self._loop.soon, []
        for call in soon:
            world.point()
            call()
        for call in self._loop.due(clock.monotonic()):
            call()
        self._after_turn()

    @property
    def has_work(self) -> bool:
        return bool(self.inbox or self._loop.soon) or self._time.alarm.is_readable

    def next_true(self) -> int | None:
        """When it wakes by itself."""
        times = []
        if self._time.alarm.at is not None:
            times.append(self._time.alarm.at - TIME.offset)
        if (first := self._loop.first_timer) is not None:
            times.append(round(first * 1000) + TIME.asleep)
        return min(times, default=None)

    @property
    def is_due(self) -> bool:
        if self.has_work:
            return True
        upcoming = self.next_true()
        return upcoming is not None and upcoming <= TIME.true

    @property
    def is_held(self) -> bool:
        """As its status says: the clock cannot be right, and no slot is decided."""
        return self._time.doubt is not None

    def reload(self) -> None:
        """As far as the clock is concerned."""
        self._time.on_reload()

    def _watch_full_disk(self) -> None:
        # The world says when it is over; there is no need to look every few seconds of a year.
        pass
