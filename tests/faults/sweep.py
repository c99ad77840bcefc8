"""One point after the other on one daemon: how each role is met, how many of its points are tried, and what came of it.

LNMT_FAULT_POINTS is how many points each role gets, evenly spread over all that there are; `all` takes every one. They are
parted into SHARDS, each with a daemon and a state directory of its own, so that all processors have work.
"""

import os
import signal
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from checking import readers
from faults import inject, scenario

_WANTED = os.environ.get("LNMT_FAULT_POINTS", "")
#: Parts of the points of one role.
SHARDS = 6 if _WANTED else 1
#: Boxes of a round, each a process of the role `init`.
_BOXES = 7


@dataclass(frozen=True, slots=True)
class Role:
    #: Which processes wait for a tracer at their first step.
    pauses: str
    #: From a daemon at rest to the end of a round, with this process of the daemon traced meanwhile.
    meet: Callable[["Sweep", inject.Point | None, int], None]
    processes: int = 1


class Sweep:
    """A daemon, its scenario, and what was counted."""

    def __init__(self, daemon: inject.Daemon, name: str, errors: inject.Errors | None) -> None:
        self.daemon = daemon
        self.name = name
        self.role = ROLES[name]
        self._errors = errors
        self.calls = inject.CHANGES if errors is None else tuple(errors)
        self.world = scenario.Scenario(daemon)
        daemon.start()
        self.world.set_up()
        self.reached: Counter[str] = Counter()
        self.failed: dict[str, str] = {}

    def trace(self, role: str, point: inject.Point | None, process: int = 1, *, from_start: bool = False) -> None:
        calls = self.calls if point is None else ()
        if from_start:
            self.daemon.plan(role, calls, point, process)
        else:
            self.daemon.attach(role, calls, point)

    def run(self, default: int, shard: int) -> str:
        """Try this part of the points; what to say of it."""
        everything = [point for number in range(1, self.role.processes + 1) for point in self._count(number)]
        wanted = len(everything) if _WANTED == "all" else int(_WANTED or default)
        chosen = inject.strided(everything, wanted)[shard::SHARDS]
        for point in chosen:
            self._try(point)
        found = self.world.verdict()
        if found:
            self.failed["the checker, of all points"] = "\n".join(found)
        reached = sum(self.reached.values())
        assert not self.failed, "\n".join(f"{point}: {error[:4000]}" for point, error in self.failed.items())
        # No two rounds are alike, and of a few points all may be out of reach.
        assert reached > len(chosen) / 2 or len(chosen) < 20, f"{reached} of {len(chosen)} were reached"
        return f"{self.name}: {len(chosen)} of {len(everything)} points, {reached} reached: {dict(self.reached)}"

    def _count(self, number: int) -> list[inject.Point]:
        begin = readers.true_now()
        self.role.meet(self, None, number)
        counts = self.daemon.detach()
        self._judge(begin)
        return inject.points(self.name, counts, self._errors, number)

    def _try(self, point: inject.Point) -> None:
        begin = readers.true_now()
        before, restarts = self.daemon.supervisor_pid, self.world.restarts
        first = self.world.last_run + 1
        self.role.meet(self, point, point.process)
        came = self.daemon.detach()["!"]
        try:
            self._judge(begin)
        except AssertionError as error:
            self.failed[f"{point}, from run {first} on"] = str(error)
            self.world.go_on()
        if came:
            gone = self.daemon.supervisor_pid != before
            again = self.world.restarts > restarts
            kind = "the daemon was started again" if again else "another supervisor" if gone else "it went on"
            self.reached[kind] += 1

    def _judge(self, begin: int) -> None:
        try:
            self.world.judge()
        finally:
            self.world.fault("box" if self.name == "init" else "supervisor", begin)
            if self._errors is not None:
                self.world.fault("stuck", begin)  # a process may outlive its end for as long as a call fails


def _at_work(role: str) -> Callable[[Sweep, inject.Point | None, int], None]:
    def meet(sweep: Sweep, point: inject.Point | None, _: int) -> None:
        sweep.trace(role, point)
        sweep.world.round()

    return meet


def _box(sweep: Sweep, point: inject.Point | None, number: int) -> None:
    sweep.trace("init", point, number, from_start=True)
    sweep.world.round()


def _successor(sweep: Sweep, point: inject.Point | None, _: int) -> None:
    """It takes up what the one before has left."""
    sweep.trace("supervisor", point, from_start=True)
    sweep.world.begin_runs()
    os.kill(sweep.daemon.supervisor_pid, signal.SIGKILL)
    sweep.world.up()
    sweep.world.round()


def _starting(role: str) -> Callable[[Sweep, inject.Point | None, int], None]:
    """A daemon whose launcher has died among its runs is started again."""

    def meet(sweep: Sweep, point: inject.Point | None, _: int) -> None:
        sweep.world.begin_runs()
        sweep.daemon.kill()
        begin = readers.true_now()
        sweep.trace(role, point, from_start=True)
        try:
            sweep.daemon.start()
        except AssertionError:
            return  # the fault has ended it
        finally:
            sweep.world.fault("launcher", begin)
        sweep.world.round()

    return meet


def _stopping(role: str) -> Callable[[Sweep, inject.Point | None, int], None]:
    def meet(sweep: Sweep, point: inject.Point | None, _: int) -> None:
        sweep.world.begin_runs()
        sweep.trace(role, point)
        begin = readers.true_now()
        sweep.daemon.process.send_signal(signal.SIGTERM)
        sweep.daemon.process.wait(scenario.QUIET)
        sweep.world.fault("stop", begin)

    return meet


ROLES = {
    "supervisor": Role("", _at_work("supervisor")),
    "launcher": Role("", _at_work("launcher")),
    "init": Role("init", _box, _BOXES),
    "successor": Role("supervisor", _successor),
    "starting supervisor": Role("supervisor", _starting("supervisor")),
    "starting launcher": Role("launcher", _starting("launcher")),
    "stopping supervisor": Role("", _stopping("supervisor")),
    "stopping launcher": Role("", _stopping("launcher")),
}


def sweep(folder: Path, name: str, shard: int, default: int, errors: inject.Errors | None = None) -> str:
    """Try a part of the points of this role: SIGKILL, or these errors. `default` is how many the whole role gets."""
    inject.require()
    scenario.bounded()
    try:
        with inject.daemon(folder, ROLES[name].pauses) as daemon:
            return Sweep(daemon, name, errors).run(default, shard)
    finally:
        scenario.unbounded()
