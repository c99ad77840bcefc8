"""What is drawn: jobs and their changes, what a run of a job does, and when something strikes.

Two kinds of history. In a *sparse* one years go by with a few runs a day at most, in every zone that is odd; in a *dense* one
a few days in which something happens every second. Both draw from one random.Random, so that a seed is a history.
"""

import random
from dataclasses import dataclass

from lnmt_scheduler.ipc import messages

SECOND, MINUTE, HOUR, DAY = 1000, 60_000, 3_600_000, 86_400_000
YEAR = 365 * DAY + 6 * HOUR

ZONES = (
    "UTC",
    "Europe/Berlin",
    "America/New_York",
    "Australia/Lord_Howe",
    "Africa/Cairo",
    "Antarctica/Troll",
    "Asia/Kolkata",
)
SPARSE = (
    "30 2 * * 0", "0 0 1 * *", "15 3 1,15 * *", "0 4 * * 1", "45 1 * * 6", "0 0 31 * *", "0 12 29 2 *", "30 1 1-7 * 0",
    "*/30 2 * * 0", "0 */6 1 * *", "0 0 1 1 *", "@monthly", "@weekly", "@every 10d", "59 23 31 12 *", "0 2 * 3,10 0",
)  # fmt: skip
DENSE = (
    "* * * * *", "*/5 * * * *", "*/2 * * * *", "*/15 * * * *", "0 * * * *", "30 2 * * *", "*/30 1-3 * * *", "*/20 * * * * *",
    "@every 45s", "@every 7m", "@every 90s", "7,37 * * * *", "@hourly",
)  # fmt: skip


EVENTS = ("up", "down")


@dataclass(frozen=True, slots=True, kw_only=True)
class Kind:
    """How a history goes."""

    name: str
    #: Of simulated time, in ms.
    length: int
    #: After the last fault and the last client: time to come to rest.
    rest: int
    schedules: tuple[str, ...]
    jobs: int
    #: Mean ms between two faults of the host and its clock, and between two requests of clients.
    faults: int
    requests: int
    #: Mean number of points passed until the supervisor dies at one.
    points: float
    #: One commit of so many fails.
    commits: int
    #: Longest ordinary run, in ms.
    longest: int
    #: How long a death, a reboot and a rest of the host may last.
    downtime: int


def sparse(years: float = 5) -> Kind:
    return Kind(
        name="sparse", length=round(years * YEAR), rest=3 * DAY, schedules=SPARSE, jobs=5, faults=32 * HOUR,
        requests=15 * DAY, points=16, commits=60, longest=2 * HOUR, downtime=2 * DAY,
    )  # fmt: skip


def dense(days: float = 1) -> Kind:
    return Kind(
        name="dense", length=round(days * DAY), rest=3 * HOUR, schedules=DENSE, jobs=7, faults=90 * SECOND,
        requests=4 * MINUTE, points=45, commits=60, longest=4 * MINUTE, downtime=20 * MINUTE,
    )  # fmt: skip


KINDS = {"sparse": sparse, "dense": dense}


@dataclass(frozen=True, slots=True, kw_only=True)
class Play:
    """What one attempt does."""

    #: ms; None: it hangs until it is ended.
    lasts: int | None
    code: int | None = 0
    signal: int | None = None
    #: (exit code, signal) on TERM; None: it takes no notice.
    heeds: tuple[int | None, int | None] | None = (None, 15)
    #: ms that it outlives its KILL.
    clings: int = 3
    spawn_error: str | None = None
    silent: bool = False


class Script:
    def __init__(self, rng: random.Random, kind: Kind) -> None:
        self.rng = rng
        self.kind = kind
        self._made = 0
        #: ms by which somebody has set the clock years ahead.
        self.ahead = 0
        #: Nothing odd happens any more.
        self.calm = False

    def definition(self, job_id: str, parents: list[str]) -> dict:
        """The keys of a new job, all in the form in which a store keeps them."""
        rng = self.rng
        values: dict = {"id": job_id, "command": "true", "retry_jitter": rng.random() < 0.3}
        if rng.random() < (0.75 if parents else 0.95):
            values["schedule"] = rng.choice(self.kind.schedules)
        if rng.random() < 0.6:
            values["timezone"] = rng.choice(ZONES)
        values["max_retries"] = rng.choice((0, 1, 2, 3))
        values["retry_delay"] = rng.choice((0, 5, 60, 300))
        if rng.random() < 0.3:
            values["retry_backoff"] = rng.choice((1.0, 3.0))
            values["retry_max_delay"] = rng.choice((60, 900))
        values["timeout"] = rng.choice((self.kind.longest // SECOND // 2, self.kind.longest // SECOND, 3600))
        values["kill_grace"] = rng.choice((0, 2, 10))
        values["idempotent"] = rng.random() < 0.4
        values["priority"] = rng.choice((1, 2, 3, 4))
        if rng.random() < 0.2:
            values["total_timeout"] = rng.choice((self.kind.longest // SECOND * 2, 7200))
        if rng.random() < 0.15:
            values["stall_timeout"] = 30
        if rng.random() < 0.1:
            values["run_when_full"] = True
        if rng.random() < 0.1:
            values["retry_on"] = ["exit", "lost"]
        self._policies(values)
        if parents and rng.random() < (0.3 if "schedule" in values else 0.8):
            chosen = rng.sample(parents, min(len(parents), rng.choice((1, 1, 2))))
            values["dependencies"] = [self._dependency(parent) for parent in chosen]
            if rng.random() < 0.5:
                values["dependency_timeout"] = rng.choice((30, 600, 7200))
        if "schedule" in values and rng.random() < 0.12:
            values.setdefault("dependencies", []).append(job_id)
        if rng.random() < 0.15:
            values["on_event"] = rng.choice(EVENTS)
        if parents and rng.random() < 0.3:
            values[rng.choice(("on_success", "on_failure"))] = [rng.choice(parents)]
        return values

    def _dependency(self, parent: str) -> str | dict:
        if self.rng.random() < 0.7:
            return parent
        return {"job": parent, "when": self.rng.choice(("failed", "any"))}

    def _policies(self, values: dict) -> None:
        """What becomes of slots that overlap, were missed, come together or wait."""
        rng = self.rng
        if rng.random() < 0.5:
            values["overlap"] = rng.choice(("queue", "replace", "allow"))
            if values["overlap"] == "allow":
                values["max_instances"] = rng.choice((2, 3))
        if rng.random() < 0.4:
            values["catch_up"] = rng.choice(("skip", "all", "skip"))
        if values.get("catch_up") == "all" and self.kind.name == "dense":
            values["catch_up_window"] = 300
        elif rng.random() < 0.3:
            values["catch_up_window"] = rng.choice((600, 7200, 604_800, None))
        if rng.random() < 0.15:
            values["start_deadline"] = rng.choice((60, 600, 7200))
        if rng.random() < 0.2:
            values["jitter"] = rng.choice((20, 300))
        if rng.random() < 0.3:
            values["pool"] = rng.choice(("disk", "net"))

    def new_id(self) -> str:
        self._made += 1
        return f"job-{self._made}"

    def edit(self, definition: dict, parents: list[str]) -> dict:
        """Keys to change; a circle of parents is for the daemon to refuse."""
        rng = self.rng
        fresh = self.definition(definition["id"], parents)
        keys = rng.sample(sorted(fresh.keys() - {"id", "command"}), 2)
        if "dependencies" in fresh and rng.random() < 0.7:
            keys.append("dependencies")
        if "schedule" in fresh and rng.random() < 0.4:
            keys.append("schedule")
        keys += [key for key in ("on_success", "on_failure", "on_event") if key in fresh and rng.random() < 0.5]
        return {key: fresh[key] for key in keys}

    def play(self, order: messages.Launch) -> Play:
        rng = self.rng
        lasts = round(min(self.kind.longest, rng.expovariate(6 / self.kind.longest))) + 1
        odd = 1.0 if self.calm else rng.random()
        if odd < 0.06:
            return Play(lasts=lasts, code=rng.choice((1, 3, 75)))
        if odd < 0.08:
            return Play(lasts=lasts, code=None, signal=11)
        if odd < 0.10:
            return Play(lasts=None, heeds=None, silent=True)
        if odd < 0.12:
            return Play(lasts=None, heeds=(0, None), silent=True)
        if odd < 0.13:
            return Play(lasts=0, spawn_error="fork: Resource temporarily unavailable")
        if odd < 0.14:
            return Play(lasts=None, heeds=None, silent=True, clings=15 * MINUTE)
        return Play(lasts=lasts, heeds=(None, 15) if rng.random() < 0.8 else None)

    def between(self, mean: int) -> int:
        """Until the next of what comes at any time."""
        return 1 + round(self.rng.expovariate(1 / mean))

    def downtime(self) -> int:
        """Mostly short, now and then as long as can be."""
        rng = self.rng
        longest = self.kind.downtime
        return rng.choice((0, 1, rng.randrange(2 * SECOND), rng.randrange(90 * SECOND), rng.randrange(longest)))

    def step(self) -> int:
        """ms by which the clock is set."""
        rng = self.rng
        size = rng.choice((rng.randrange(1, 2000), rng.randrange(10 * MINUTE), rng.randrange(3 * HOUR)))
        odd = rng.random()
        if odd < 0.1:
            size = rng.randrange(3 * HOUR + SECOND, 20 * HOUR)
        elif self.kind.name == "sparse" and (odd < 0.13 or (self.ahead and odd < 0.5)):
            # Years ahead, and then set right again.
            self.ahead, back = (0, self.ahead) if self.ahead else (rng.randrange(30 * DAY, 3 * YEAR), 0)
            return self.ahead - back
        return size * rng.choice((1, -1))
