"""What does a decision cost, and how does that grow with the number of jobs? The deciding half of a supervisor, store included.

With 1,000 jobs and with 100,000, each in a process of its own: what it costs to have them, to start with them, a turn in which
nothing is due, a slot that falls due by itself, and each of 1,000 that fall due in one second. A decision is over when it is
durable and the launch may leave; there are no processes here.
"""

import gc
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections import deque
from collections.abc import Callable

import common
import fakes

from lnmt_scheduler.supervisor import attempts, catalog, clock, config, dispatcher, run, store

FEW, MANY = 1_000, 100_000
#: Jobs that are due each in a second of its own, and those that share one; the others are due later.
ALONE, TOGETHER = 200, 1_000
#: Monday, 2 March 2026, midnight in UTC.
BEGIN = 1_772_409_600_000
TURNS, STARTS = 5_000, 5


class Half:
    """The deciding half, on a clock that stands where it is put."""

    def __init__(self, path: str) -> None:
        self.now = BEGIN - 500
        clock.now_ms = lambda: self.now
        self._soon: deque[Callable[[], None]] = deque()
        self.store = store.Store.open(path)
        jobs = catalog.Catalog(self.store, "UTC")
        settings = config.Settings(max_concurrent_jobs=10_000)
        self.runs = dispatcher.Dispatcher(self.store, jobs, settings, self._soon.append)
        self.runs.lives.attempts = fakes.FakeAttempts()
        for uid, _, next_slot, _ in self.store.schedule_rows():
            self.runs.slots.set_schedule(uid, next_slot)

    def settle(self) -> None:
        """What a loop does: all that is to be called, then one commit."""
        while self._soon:
            self._soon.popleft()()
        self.store.commit()

    def idle(self) -> float:
        """Seconds of a turn in which nothing is due."""
        began = time.perf_counter()
        for _ in range(TURNS):
            self.runs.tick()
        return (time.perf_counter() - began) / TURNS

    def decide_next(self) -> tuple[int, float, float]:
        """Go to when something is due, and decide it: how many slots, in how many seconds, and those of the commit."""
        wake = self.runs.next_wake()
        assert wake is not None
        self.now = wake
        began = time.perf_counter()
        self.runs.tick()
        while self._soon:
            self._soon.popleft()()
        decided = time.perf_counter()
        self.store.commit()
        committed = time.perf_counter()
        running = [each for each in self.runs.open if isinstance(each.state, run.Running)]
        for each in running:
            facts = attempts.Facts(exit_code=0)
            self.runs.on_attempt_ended(each.run_id, 1, run.Outcome(exit_code=0), facts)
        self.settle()
        return len(running), committed - began, committed - decided


def fill(path: str, jobs: int) -> None:
    made = store.Store.open(path)
    for number in range(jobs):
        second = number if number < ALONE else 600 * (1 + (number - ALONE) // TOGETHER)
        given = {
            "id": f"job{number}",
            "command": "true",
            "schedule": f"{second % 60} {second // 60 % 60} {second // 3600 % 24} * * *",
            "sandbox": {"profile": "trusted"},
        }
        made.add_job(
            job_id=f"job{number}", given=given, origins={}, hash=f"job{number}", source="cli", owner=0, enabled=True,
            watermark=BEGIN - 1000, next_slot=BEGIN + second * 1000, added=BEGIN - 1000,
        )  # fmt: skip
    made.commit()
    made.close()


def measure(jobs: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory(prefix="lnmt-bench-") as folder:
        path = os.path.join(folder, "lnmt.db")
        filled = subprocess.run([sys.executable, __file__, "fill", path, str(jobs)], check=True)
        assert filled.returncode == 0
        gc.collect()
        before = common.memory(os.getpid())
        half = Half(path)
        held = common.memory(os.getpid()) - before
        starts = []
        for _ in range(STARTS):
            half.store.close()
            began = time.perf_counter()
            half = Half(path)
            starts.append(time.perf_counter() - began)
        idle = half.idle()
        alone = [half.decide_next() for _ in range(ALONE)]
        assert [count for count, _, _ in alone] == [1] * ALONE
        count, together, _ = half.decide_next()
        assert count == min(TOGETHER, jobs - ALONE)
    return {
        "held": held,
        "started": statistics.median(starts),
        "idle": idle,
        "alone": statistics.median(took for _, took, _ in alone),
        "commit": statistics.median(commit for _, _, commit in alone),
        "together": together / count,
    }


def main() -> None:
    few, many = (
        json.loads(subprocess.check_output([sys.executable, __file__, "measure", str(jobs)])) for jobs in (FEW, MANY)
    )
    for question, key, unit, scale in (
        (f"memory of the deciding half for {MANY} jobs", "held", "MiB", 1 / (1 << 20)),
        (f"its start with {MANY} jobs", "started", "ms", 1e3),
        (f"a turn in which nothing is due, {MANY} jobs", "idle", "µs", 1e6),
        (f"a slot decided by itself, {MANY} jobs", "alone", "ms", 1e3),
        (f"of that, the commit, {MANY} jobs", "commit", "ms", 1e3),
        (f"each of {TOGETHER} slots of one second, {MANY} jobs", "together", "ms", 1e3),
    ):
        theirs = f"{FEW} jobs {few[key] * scale:.3g} {unit}"
        common.say(question, f"{many[key] * scale:.3g} {unit}", theirs, many[key] / few[key])
    a_job = (many["held"] - few["held"]) / (MANY - FEW)
    common.say("memory of the deciding half, a job", f"{a_job:.0f} bytes", "", None)


if __name__ == "__main__":
    match sys.argv[1:]:
        case ["fill", path, jobs]:
            fill(path, int(jobs))
        case ["measure", jobs]:
            print(json.dumps(measure(int(jobs))))
        case _:
            main()
