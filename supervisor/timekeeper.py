"""The supervisor's dealings with the host's clock and zones: may they be believed, and what if they change?

A daemon that starts with a clock that cannot be right (a dead battery's 1970, or behind what the store has seen) decides no
slot until it can; runs by hand and what is due otherwise go on. What a clock that is set does to what waits, and what is
missed, is decided by the dispatcher. Zones are looked at again at each reload and, when the loop turns anyway, once a day.
"""

from collections.abc import Callable

from lnmt_scheduler.sandbox import syscalls
from lnmt_scheduler.supervisor import catalog, clock, dispatcher, journal, loop, store

#: Where the store keeps the wall time that it has seen last, and how old that may become.
_SEEN, _SEEN_MS = "clock", 60_000
#: Where it keeps since when no slot is decided, as the clock showed it.
_HELD = "held"
#: Seconds between two looks at whether something keeps a doubted clock right by now, which nobody tells.
_DOUBT_S = 60.0
_ZONES_S = 86_400.0


class Timekeeper:
    def __init__(
        self,
        history: store.Store,
        jobs: catalog.Catalog,
        runs: dispatcher.Dispatcher,
        events: loop.Loop,
        take_zone: Callable[[], None],
    ) -> None:
        """`take_zone` looks at the daemon's own zone again."""
        self._store = history
        self._catalog = jobs
        self._runs = runs
        self._loop = events
        self._take_zone = take_zone
        #: Why the clock cannot be right, in words for people.
        self.doubt: str | None = None
        self._seen = int(history.meta_get(_SEEN) or 0)
        self._zones_at = clock.monotonic()
        #: Rings when the next thing is due, and when the clock is set. Its descriptor is for the loop to watch.
        self.alarm = clock.Alarm(self._on_step, self._tell_lateness)
        events.on_long_turn = self._tell_lateness
        #: Until when the loop is known to have stood still, on the monotonic clock.
        self._stood_until = 0.0
        runs.look_at_clock = self._look

    def start(self) -> None:
        """Before the first slot is decided."""
        self._judge(self._seen)
        self._read_zones()
        # A job without a next slot was out of schedule, unless it is one that never has any.
        self._runs.slots.recheck([each.uid for each in self._store.schedule_rows() if each.next_slot is None])
        if self.doubt is None:
            self._go_on()

    def turn(self) -> None:
        """At the end of every turn, before its commit."""
        now = clock.now_ms()
        if self._store.in_transaction and self.doubt is None and abs(now - self._seen) >= _SEEN_MS:
            self._saw(now)
        if clock.monotonic() - self._zones_at >= _ZONES_S:
            self._take_zone()
            self._read_zones()

    def on_reload(self) -> None:
        """A person looked after the daemon: zones are read anew, and a clock that can be right is believed."""
        if self.doubt is not None:
            self._judge(None)
        self._read_zones()

    def _read_zones(self) -> None:
        self._zones_at = clock.monotonic()
        if self._catalog.reread_zones():
            journal.notice("the zones have changed; every job's next run is looked up again")
            self._runs.slots.recheck([each.uid for each in self._store.schedule_rows()])

    def _look(self) -> None:
        if self.doubt is not None:
            self._judge(self._seen)
        self.alarm.look()

    def _on_step(self, step: clock.Stepped) -> None:
        if told := str(step):
            (journal.warning if step.is_correction else journal.notice)(told)
        was_held = self._runs.slots.held
        if was_held and (since := self._store.meta_get(_HELD)) is not None:
            self._store.meta_set(_HELD, str(int(since) + round(step.seconds * 1000)))
        if step.is_noticeable:
            # Whoever set it meant it: only what cannot be is still doubted.
            self._judge(None)
        # Out of doubt the daemon learns how long it was down: what came meanwhile was missed, and that is no correction.
        self._runs.on_step(step.seconds, correction=step.is_correction and not was_held)

    def _judge(self, last: int | None) -> None:
        """Hold the schedule while the clock cannot be right; `last` is the time that it cannot be far behind."""
        now = clock.now_ms()
        before, self.doubt = self.doubt, clock.doubt(now, last, synchronised=syscalls.clock_is_synchronised())
        self._runs.slots.held = self.doubt is not None
        if self.doubt is None:
            if before is not None:
                journal.notice("the clock can be right: the schedule goes on")
                self._go_on()
            if before is not None or now < self._seen:
                self._saw(now)
        elif before is None:
            since = self._store.meta_get(_HELD)
            if since is None or int(since) > now:
                self._store.meta_set(_HELD, str(now))
            journal.error(f"no slot is decided, because the clock cannot be right: {self.doubt}")
            self._loop.call_at(clock.monotonic() + _DOUBT_S, self._doubt_again)

    def _go_on(self) -> None:
        """Slots are decided from here on; what came while none was has been missed, also by who was decided ahead."""
        since = self._store.meta_get(_HELD)
        if since is not None:
            self._store.meta_drop(_HELD)
        self._runs.slots.recheck_void(None if since is None else int(since))

    def _doubt_again(self) -> None:
        if self.doubt is not None:
            self._judge(self._seen)
            self._loop.call_at(clock.monotonic() + _DOUBT_S, self._doubt_again)

    def _saw(self, now: int) -> None:
        self._seen = now
        self._store.meta_set(_SEEN, str(now))

    def _tell_lateness(self, seconds: float) -> None:
        """Once for each time that the loop stood still, of which a long turn and an alarm heard late may both tell."""
        now = clock.monotonic()
        if now - seconds >= self._stood_until:
            journal.warning(f"the daemon stood still for {seconds:.0f} s; what was due meanwhile is late")
        self._stood_until = now
