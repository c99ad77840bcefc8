"""What time it is, and being woken when it comes: the only place where the daemon asks.

Wall time is epoch milliseconds; deadlines use the monotonic clock. The alarm is a CLOCK_REALTIME timerfd that the kernel
cancels when the clock is set, so that a step is noticed at once and not when the old time would have come.
"""

import errno
import os
import time
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import NamedTuple

from lnmt_scheduler.sandbox import syscalls
from lnmt_scheduler.supervisor import version

#: A step forward of more than this is a correction: the clock had been wrong, and nothing was missed (cron(8) of Debian).
CORRECTION_S = 3 * 3600
#: Less than this is put right by and by, and is no step worth a word.
_STEP_S = 1.0
#: Two readings of one clock further apart than this: the process was not running in between.
_APART_S = 0.01
#: An alarm that is heard so much later than it rang tells of a loop that stood still.
_LATE_S = 5.0


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def local_text(ms: int, zone: str) -> str:
    """Hour and minute of this moment in the zone, for sentences about a run; in UTC if the zone is gone."""
    try:
        info: tzinfo = zoneinfo.ZoneInfo(zone)
    except (KeyError, ValueError, OSError):
        info = UTC
    return datetime.fromtimestamp(ms / 1000, info).strftime("%H:%M")


def monotonic() -> float:
    return time.monotonic()


def boot_id() -> str:
    """A text that changes with every boot."""
    with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
        return file.read().strip()


@dataclass(frozen=True, slots=True)
class Stepped:
    """The wall clock was set."""

    #: How far it moved against the boot clock, in seconds; negative: back.
    seconds: float
    #: Seconds that the host was suspended, which is no step: both clocks went on.
    slept: float = 0.0

    @property
    def is_noticeable(self) -> bool:
        return abs(self.seconds) >= _STEP_S

    @property
    def is_correction(self) -> bool:
        """The clock had been wrong: what lies in between was not missed."""
        return self.seconds > CORRECTION_S

    def __str__(self) -> str:
        parts = []
        if self.is_noticeable:
            parts.append(f"the clock was set {_span(self.seconds)} {'forward' if self.seconds > 0 else 'back'}")
        if self.slept >= _STEP_S:
            parts.append(f"the host was suspended for {_span(self.slept)}")
        return "; ".join(parts)


def _span(seconds: float) -> str:
    seconds = abs(seconds)
    return f"{seconds:.1f} s" if seconds < 7200 else f"{seconds / 3600:.1f} h"


def doubt(now: int, last: int | None, *, synchronised: bool) -> str | None:
    """Why a clock cannot be right, in words for people; None: it may be. Epoch milliseconds.

    It is before the year in which this version was made, or, unless something keeps it right, hours before the `last` time
    that was seen. Of a clock that is ahead nobody can tell.
    """
    if now < datetime(version.YEAR, 1, 1, tzinfo=UTC).timestamp() * 1000:
        return f"it shows {_utc(now)}, and this version was made in {version.YEAR}; set it"
    if last is not None and now < last - CORRECTION_S * 1000 and not synchronised:
        return f"it shows {_utc(now)}, and {_utc(last)} has been already; set it, or if it is right: schedctl reload"
    return None


def _utc(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%d %H:%M UTC")


class Alarm:
    """Wakes the loop at a wall time, and whenever the clock is set. Owns its descriptor until close()."""

    def __init__(self, on_step: Callable[[Stepped], None], on_late: Callable[[float], None] = lambda _: None) -> None:
        """`on_late` is told the seconds between an alarm and its read(), if they are many and nobody slept."""
        self.fd = syscalls.timerfd_create()
        self._on_step = on_step
        self._on_late = on_late
        self._armed: int | None = None
        self._reading = _reading()
        syscalls.timerfd_settime(self.fd, None)

    def set(self, at_ms: int | None) -> None:
        """Wake at this time and no other; None: only when the clock is set."""
        if at_ms == self._armed:
            return
        self._armed = at_ms
        try:
            syscalls.timerfd_settime(self.fd, at_ms)
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise
            # The clock was set since the last read(), and this call takes the news; it has armed the timer all the same.
            self._notice_step()

    def read(self) -> None:
        """Take the wake-up; to be called when the descriptor is readable."""
        try:
            os.read(self.fd, 8)
        except BlockingIOError:
            return
        except OSError as error:
            if error.errno != errno.ECANCELED:
                raise
            self._notice_step()
        else:
            self._notice_lateness()
        self._armed = -1  # expired or cancelled: the next set() must arm again

    def look(self) -> None:
        """Notice a step that the descriptor has not told yet: before something is decided by the time that it is now."""
        if abs(_reading().wall_minus_boot - self._reading.wall_minus_boot) >= _STEP_S:
            self._notice_step()

    def _notice_step(self) -> None:
        before, self._reading = self._reading, _reading()
        self._on_step(
            Stepped(
                seconds=self._reading.wall_minus_boot - before.wall_minus_boot,
                slept=self._reading.boot_minus_awake - before.boot_minus_awake,
            )
        )

    def _notice_lateness(self) -> None:
        if self._armed is not None:
            late = now_ms() / 1000 - self._armed / 1000
            late -= _reading().boot_minus_awake - self._reading.boot_minus_awake
            if late >= _LATE_S:
                self._on_late(late)

    def close(self) -> None:
        os.close(self.fd)


class _Reading(NamedTuple):
    """How the clocks stand to each other, in seconds; clock_gettime(2)."""

    #: Changes when the wall clock is set. The boot clock goes on through suspend, so a resume is no step.
    wall_minus_boot: float
    #: How long the host has been suspended since boot.
    boot_minus_awake: float


def _reading() -> _Reading:
    while True:
        awake = time.clock_gettime(time.CLOCK_MONOTONIC)
        boot = time.clock_gettime(time.CLOCK_BOOTTIME)
        wall = time.clock_gettime(time.CLOCK_REALTIME)
        # Stopped in between, we would have read two times and called the difference a step.
        if time.clock_gettime(time.CLOCK_MONOTONIC) - awake < _APART_S:
            return _Reading(wall - boot, boot - awake)
