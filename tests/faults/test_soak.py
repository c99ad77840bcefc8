"""Twenty starts a second, deaths at random and clients without manners, for minutes: nothing may have grown at the end.

The launcher is the same throughout. Supervisors die, so what they hold is compared between two that are of the same age, and
between the youth and the age of the last of them. LNMT_SOAK is how many seconds it takes.
"""

import contextlib
import os
import random
import socket
import statistics
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, fields
from pathlib import Path

import harness
import pytest
from faults import scenario, storm

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import client, store

SECONDS = float(os.environ.get("LNMT_SOAK", "300"))
SEED = storm.SEED
#: Seconds between two deaths, on the average; one of four is a supervisor's.
_DEATH_S = 2.0
#: Of load alone before anything is measured.
_SETTLE_S = min(20.0, SECONDS / 10)
#: Bytes that a heap may gain without having lost anything: what serves the most at once comes to rest late.
LAUNCHER_GROWTH = 1 << 20
#: SQLite's page cache fills up as the history grows.
SUPERVISOR_GROWTH = (store._CACHE_KIB << 10) + (4 << 20)


@dataclass(frozen=True, slots=True)
class Held:
    """What the daemon holds at rest, but for boxes that stand ready."""

    launcher_bytes: int
    launcher_descriptors: int
    launcher_mounts: int
    launcher_children: int
    supervisor_bytes: int
    supervisor_descriptors: int
    empty_cgroups: int
    log_bytes: int

    def __str__(self) -> str:
        return ", ".join(f"{each.name} {getattr(self, each.name)}" for each in fields(self))


class Soak:
    def __init__(self, world: scenario.Scenario) -> None:
        self._world = world
        self._daemon = world.daemon
        self._random = random.Random(SEED)
        self.deaths = 0

    def phase(self, seconds: float, *, deaths: bool) -> Held:
        """So long under load, with deaths or without; then a while without, and what is held once all is quiet."""
        with storm.Load(self._world), Rude(self._daemon):
            if deaths:
                self._strike(time.monotonic() + seconds)
            else:
                time.sleep(seconds)
            time.sleep(_SETTLE_S)
        self._world.judge()
        return self._held()

    def _strike(self, until: float) -> None:
        blowing = storm.Storm(self._world, within=2.0)  # how soon is the storm's question
        while time.monotonic() < until:
            time.sleep(self._random.random() * 2 * _DEATH_S)
            blowing.strike(self._random.choice(("kill supervisor", "init", "init", "init")))
            self.deaths += 1

    def _held(self) -> Held:
        launcher, supervisor = self._daemon.launcher_pid, self._daemon.supervisor_pid
        boxes = [pid for pid in storm.children(launcher) if pid != supervisor]
        log = self._daemon.state_dir / "lnmt.db-wal"
        return Held(
            launcher_bytes=_anonymous(launcher),
            launcher_descriptors=_descriptors(launcher, lambda: 3 * (len(storm.children(launcher)) - 1)),
            launcher_mounts=len(Path(f"/proc/{launcher}/mountinfo").read_text().splitlines()),
            launcher_children=len([pid for pid in boxes if _is_zombie(pid)]) + 1,
            supervisor_bytes=_anonymous(supervisor),
            supervisor_descriptors=_descriptors(supervisor),
            empty_cgroups=len(_empty_cgroups(launcher)),
            log_bytes=log.stat().st_size,
        )


class Rude(threading.Thread):
    """Clients that go without a word, send halves of frames, or follow a run and read nothing; as a context."""

    def __init__(self, daemon: harness.Daemon) -> None:
        super().__init__(daemon=True)
        self._daemon = daemon
        self._end = threading.Event()
        self._random = random.Random(SEED)

    def run(self) -> None:
        while not self._end.wait(self._random.random() * 0.1):
            with contextlib.suppress(client.RequestError, OSError):
                self._random.choice((self._leave, self._stammer, self._ignore))()

    def __enter__(self) -> None:
        self.start()

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join(30)

    def _leave(self) -> None:
        self._daemon.client().close()

    def _stammer(self) -> None:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.settimeout(1)
            sock.connect(self._daemon.socket)
            sock.send(self._random.randbytes(self._random.randrange(1, 200)))

    def _ignore(self) -> None:
        with self._daemon.client() as connection:
            newest = connection.request(control.History(limit=1))["runs"][0]["run_id"]
            next(iter(connection.stream(control.Follow(run_id=newest))), None)


def _anonymous(pid: int) -> int:
    line = next(each for each in Path(f"/proc/{pid}/status").read_text().splitlines() if each.startswith("RssAnon:"))
    return int(line.split()[1]) << 10


def _descriptors(pid: int, spare: Callable[[], int] = lambda: 0) -> int:
    """But for so many. Most often within a second: a box may just be made, and what a client has left not yet closed."""

    def now() -> int:
        time.sleep(0.05)
        return len(os.listdir(f"/proc/{pid}/fd")) - spare()

    return statistics.mode(now() for _ in range(20))


def _is_zombie(pid: int) -> bool:
    with contextlib.suppress(OSError):
        return ") Z " in Path(f"/proc/{pid}/stat").read_text()
    return False


def _empty_cgroups(launcher: int) -> list[Path]:
    """Control groups of this daemon's boxes, of all hierarchies, that nobody is in."""
    found = Path("/sys/fs/cgroup").glob(f"**/lnmt-{launcher}.*")
    return [path for path in found if not (path / "cgroup.procs").read_text()]


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(SECONDS * 3 + 300)
def test_nothing_grows_under_deaths_and_clients_without_manners(make_daemon):
    print(f"LNMT_SEED={SEED}")
    scenario.bounded()
    try:
        world = scenario.Scenario(make_daemon(before=storm.IMPATIENT, config=storm.KEPT))
        world.set_up()
        world.add_tree()
        soak = Soak(world)
        first = soak.phase(SECONDS * 0.1, deaths=True)
        second = soak.phase(SECONDS * 0.6, deaths=True)
        last = soak.phase(SECONDS * 0.3, deaths=False)
        runs, deaths, restarts = world.last_run, soak.deaths, world.restarts
        found = world.verdict()
    finally:
        scenario.unbounded()
    print(f"{runs} runs, {deaths} deaths")
    print(*(f"{name}: {held}" for name, held in (("begin", first), ("deaths", second), ("end", last))), sep="\n")
    assert not found, "\n".join(found)
    assert restarts == 0, "the launcher died"
    assert runs >= SECONDS * 10
    for held in (second, last):
        assert held.launcher_bytes <= first.launcher_bytes + LAUNCHER_GROWTH
        assert held.launcher_descriptors <= first.launcher_descriptors
        assert held.launcher_mounts == first.launcher_mounts
        assert held.launcher_children == 1
        assert held.supervisor_bytes <= first.supervisor_bytes + SUPERVISOR_GROWTH
        assert held.supervisor_descriptors <= first.supervisor_descriptors
        assert held.empty_cgroups == 0
        assert held.log_bytes <= store._WAL_BYTES
