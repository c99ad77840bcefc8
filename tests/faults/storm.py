"""Load, and one death after the other: of supervisors, killed or stopped, of launchers, of boxes' inits.

Where something must be dead it is so 100 ms later: all of a box whose init was killed, all of a daemon whose launcher was.
LNMT_SEED is that of a storm to be tried again, though what the deaths meet is never quite the same.
"""

import contextlib
import os
import random
import select
import signal
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import harness
from checking import readers
from faults import scenario

from lnmt_scheduler.supervisor import client

SEED = int(os.environ.get("LNMT_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 31)
#: A daemon that takes a supervisor for hung after half a second, and waits for no other however many have died.
IMPATIENT = """
from lnmt_scheduler.supervisor import launcher, pulse
launcher._BACKOFF = (0.0,) * len(launcher._BACKOFF)
pulse.LIMIT = 0.5
"""
#: The checker looks at every run.
KEPT = "[retention]\nruns = 1000000\n"
#: Seconds after which nothing is alive where nothing may be, on a host on which nobody waits for a processor.
GONE_S = 0.1 * harness.PATIENCE
_LOOK_S = 0.005
#: Seconds between two handfuls of runs: with the job of every second some twenty starts a second.
_PACE_S = 0.25


class Load(threading.Thread):
    """Starts runs all the time, as a context."""

    def __init__(self, world: scenario.Scenario) -> None:
        super().__init__(daemon=True)
        self._world = world
        self._end = threading.Event()

    def run(self) -> None:
        while not self._end.wait(_PACE_S):
            self._world.begin_runs()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join(30)


def below(pid: int) -> Iterator[int]:
    """All descendants of a process."""
    with contextlib.suppress(OSError):
        for child in map(int, Path(f"/proc/{pid}/task/{pid}/children").read_text().split()):
            yield child
            yield from below(child)


def gone(pids: list[int], victim: int, within: float) -> float:
    """Kill one of these, and wait until all of them are dead: seconds that it took, but for those in which we were kept
    waiting ourselves, as everybody is on a host that is busy.
    """
    held: dict[int, str] = {}
    for pid in pids:
        with contextlib.suppress(OSError):
            held[os.pidfd_open(pid)] = f"{pid} {Path(f'/proc/{pid}/cmdline').read_bytes()[-200:]!r}"
    with contextlib.suppress(ProcessLookupError):
        os.kill(victim, signal.SIGKILL)
    took = 0.0
    # The dying need a processor for it, and wait for one like all others.
    limit = within * max(1.0, os.getloadavg()[0] / 2 / (os.cpu_count() or 1))
    try:
        while alive := [fd for fd in held if not select.select([fd], [], [], 0)[0]]:
            if took >= limit:
                raise AssertionError(
                    f"{took:.3f} s after the death of {victim}: {[held[fd] for fd in alive]} of {held}"
                )
            began = time.monotonic()
            select.select([alive[0]], [], [], _LOOK_S)
            took += min(time.monotonic() - began, _LOOK_S)
    finally:
        for fd in held:
            os.close(fd)
    return took


class Storm:
    def __init__(self, world: scenario.Scenario, within: float = GONE_S) -> None:
        """`within`: seconds after which nothing is alive where nothing may be."""
        self._world = world
        self._daemon = world.daemon
        self._within = within
        self._random = random.Random(SEED)
        self.longest: Counter[str] = Counter()

    def strike(self, kind: str) -> None:
        """One death of this kind, and all that must follow from it at once."""
        begin = readers.true_now()
        if kind == "launcher":
            self._launcher()
        elif kind == "init":
            self._init()
        else:
            self._supervisor(signal.SIGKILL if kind == "kill supervisor" else signal.SIGSTOP)
        self._world.fault("box" if kind == "init" else "supervisor", begin)

    def _launcher(self) -> None:
        pid = self._daemon.launcher_pid
        self._note("launcher", gone([pid, *below(pid)], pid, self._within))
        self._world.up()

    def _init(self) -> None:
        """Of any box, also of one that stands ready or is being made; which of the children is the supervisor it asks."""
        boxes = set(below(self._daemon.launcher_pid)) & set(children(self._daemon.launcher_pid)) - {self._pid()}
        if boxes:
            victim = self._random.choice(sorted(boxes))
            self._note("init", gone([victim, *below(victim)], victim, self._within))

    def _supervisor(self, number: signal.Signals) -> None:
        before = self._pid()
        os.kill(before, number)
        harness.wait_for(lambda: self._now() not in (None, before), what="another supervisor")

    def _pid(self) -> int:
        return harness.wait_for(self._now, what="a supervisor") or 0

    def _now(self) -> int | None:
        with contextlib.suppress(client.RequestError, OSError), self._daemon.client() as connection:
            return int(connection.server["pid"])
        return None

    def _note(self, kind: str, seconds: float) -> None:
        self.longest[kind] = max(self.longest[kind], seconds)  # type: ignore[assignment]  # it takes floats


def children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]
