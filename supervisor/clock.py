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
from datetime import datetime

from lnmt_scheduler.sandbox import syscalls

#: A step forward of more than this is a correction: the clock had been wrong, and nothing was missed (cron(8) of Debian).
CORRECTION_S = 3 * 3600


def now_ms() -> int:
    return time.time_ns() // 1_000_000


def local_text(ms: int, zone: str) -> str:
    """Hour and minute of this moment in the zone, for sentences about a run."""
    return datetime.fromtimestamp(ms / 1000, zoneinfo.ZoneInfo(zone)).strftime("%H:%M")


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


class Alarm:
    """Wakes the loop at a wall time, and whenever the clock is set. Owns its descriptor until close()."""

    def __init__(self, on_step: Callable[[Stepped], None]) -> None:
        self.fd = syscalls.timerfd_create()
        self._on_step = on_step
        self._armed: int | None = None
        self._offset = _wall_minus_boot()
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
        self._armed = -1  # expired or cancelled: the next set() must arm again

    def _notice_step(self) -> None:
        before, self._offset = self._offset, _wall_minus_boot()
        self._on_step(Stepped(self._offset - before))

    def close(self) -> None:
        os.close(self.fd)


def _wall_minus_boot() -> float:
    # The boot clock goes on through suspend, so a resume is no step (clock_gettime(2)).
    return time.clock_gettime(time.CLOCK_REALTIME) - time.clock_gettime(time.CLOCK_BOOTTIME)
