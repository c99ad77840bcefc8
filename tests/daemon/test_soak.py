"""Boxes by the hundred, many at a time, of every profile, some killed and some crashing: nothing of them may be left.

The launcher is a real one; the test stands where its supervisor would and speaks the protocol to it.
"""

import contextlib
import os
import random
import signal
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
import standin

from lnmt_scheduler.ipc import messages
from lnmt_scheduler.sandbox import policy, profiles, users

FULL = bool(os.environ.get("LNMT_FULL"))
BOXES = 10_000 if FULL else 400
AT_ONCE = 200 if FULL else 60
#: Bytes. A heap that serves many at once takes about one MiB to come to rest; what is lost with each box adds up.
GROWTH = 2 << 20 if FULL else 1 << 20
#: Objects that the kernel frees a while after their last user has gone; it keeps some of a slab in reserve.
SLABS = ("net_namespace", "pid_namespace", "uts_namespace")
SLAB_RESERVE = 64
#: Uids of boxes: hardly more than are in use at one time, so that the last is soon taken if one is not given back.
UIDS = users.Range(users.DEFAULT.first, users.DEFAULT.first + AT_ONCE)
FEW_UIDS = f"""
from lnmt_scheduler.sandbox import users
users.DEFAULT = users.Range({UIDS.first}, {UIDS.last})
"""

#: Arguments of a launch, and whether it is ended from outside.
KINDS = {
    "program": ({"argv": ["/bin/true"]}, False),
    "function": ({"module": "os", "function": "getpid"}, False),
    "crash": ({"argv": ["/bin/sh", "-c", "kill -SEGV $$"]}, False),
    "crash of a function": ({"module": "os", "function": "abort"}, False),
    "leftovers": ({"argv": ["/bin/sh", "-c", "sleep 300 & setsid sleep 300 & exit 3"]}, False),
    "killed": ({"argv": ["/bin/sh", "-c", "trap '' TERM; sleep 300 & setsid sleep 300 & wait"]}, True),
    "not there": ({"argv": ["/no/such/program"]}, False),
}


def wanted(profile: str, folder: Path) -> dict[str, object]:
    built = profiles.build(
        {"profile": profile},
        {},
        state_directory=str(folder / "job"),
        needed=[sys.prefix, sys.base_prefix, str(Path(policy.__file__).parents[1])],
        daemon_files=[],
    )
    return built.to_map()


def refusal(launched: standin.Launched, wanted: dict[str, object]) -> str | None:
    """Why this host cannot have boxes of this policy; None if it can. What is refused is never started."""
    run_id = launched.launch(wanted=wanted, argv=["/bin/true"])
    exited, _ = launched.expect_of(messages.Exited, run_id)
    if exited.sandbox_error is None:
        for fd in launched.expect_of(messages.Started, run_id)[1]:
            os.close(fd)
    launched.send(messages.Ack(run_id=run_id, attempt=1))
    return str(exited.sandbox_error) if exited.sandbox_error else None


def own(launched: standin.Launched) -> tuple[int, int]:
    """Descriptors and mounts of the launcher, but for those of boxes that stand ready: pidfd, socket and error pipe of each."""
    descriptors = len(os.listdir(f"/proc/{launched.pid}/fd")) - 3 * len(ready(launched))
    return descriptors, len(Path(f"/proc/{launched.pid}/mountinfo").read_text().splitlines())


def ready(launched: standin.Launched) -> list[int]:
    """The inits of boxes that stand ready, while no other runs."""
    return [pid for pid in _children(launched.pid) if pid != launched.standin]


def _children(pid: int) -> list[int]:
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def traces(launched: standin.Launched) -> set[str]:
    """What a box could leave on the host, by name; what those that stand ready are in or hold is not left."""
    inits = ready(launched)
    alive = {*inits, *(child for init in inits for child in _children(init))}
    return {
        *Path("/proc/self/mountinfo").read_text().splitlines(),
        *_cgroups(f"lnmt-{launched.pid}."),
        *_keyrings(),
        *_namespaces(alive),
    }


def _cgroups(prefix: str) -> Iterator[str]:
    for folder, names, _ in os.walk("/sys/fs/cgroup"):
        for name in names:
            path = Path(folder, name)
            with contextlib.suppress(FileNotFoundError):  # gone meanwhile
                if name.startswith(prefix) and not (path / "cgroup.procs").read_text():
                    yield str(path)


def _keyrings() -> Iterator[str]:
    for line in Path("/proc/keys").read_text().splitlines():
        serial, *_, description = line.split(maxsplit=8)
        if description.startswith("_ses"):
            yield f"keyring {serial}"


def _namespaces(besides: set[int]) -> Iterator[str]:
    """Those that a process is in."""
    for name in os.listdir("/proc"):
        is_asked = name.isdigit() and int(name) not in besides
        for kind in ("net", "pid", "mnt", "ipc", "uts", "cgroup") if is_asked else ():
            with contextlib.suppress(OSError):
                yield os.readlink(f"/proc/{name}/ns/{kind}")


def _slabs() -> dict[str, int]:
    """Namespaces that the kernel holds, also such that no process is in; nothing where we may not look."""
    try:
        lines = Path("/proc/slabinfo").read_text().splitlines()[2:]
    except OSError:
        return {}
    return {fields[0]: int(fields[1]) for fields in map(str.split, lines) if fields[0] in SLABS}


class Soak:
    """Keeps boxes running, at most `AT_ONCE`, and takes in how each ended."""

    def __init__(self, launched: standin.Launched, policies: list[dict[str, object]]) -> None:
        self._launched = launched
        self._policies = policies
        self._random = random.Random(20260101)
        self._running: dict[int, str] = {}
        self.endings: Counter[tuple[str, object]] = Counter()
        self.highest_uid = 0

    def run(self, boxes: int) -> None:
        started = 0
        while started < boxes or self._running:
            while started < boxes and len(self._running) < AT_ONCE:
                self._start(started)
                started += 1
            self._take_one()

    def _start(self, number: int) -> None:
        kind = list(KINDS)[number % len(KINDS)]
        more, killed = KINDS[kind]
        wanted = self._policies[number // len(KINDS) % len(self._policies)]
        run_id = self._launched.launch(wanted=wanted, timeout=60, **more)
        self._running[run_id] = kind
        if killed:  # at any moment of its life, its making included
            self._launched.send(
                messages.End(run_id=run_id, attempt=1, cause="cancelled", grace=self._random.choice((0, 0, 0.05)))
            )

    def _take_one(self) -> None:
        exited, _ = self._launched.expect(messages.Exited)
        _, pipes = self._launched.expect_of(messages.Started, exited.run_id)
        for fd in pipes:
            os.close(fd)
        self._launched.send(messages.Ack(run_id=exited.run_id, attempt=1))
        kind = self._running.pop(exited.run_id)
        assert exited.sandbox_error is None, exited
        how = exited.cause or ("spawn" if exited.spawn_error else exited.signal or exited.exit_code)
        self.endings[kind, how] += 1
        self.highest_uid = max(self.highest_uid, exited.uid or 0)


@pytest.mark.slow
@pytest.mark.alone
@pytest.mark.timeout(1800 if FULL else 120)
def test_nothing_is_left_of_many_boxes_and_the_launcher_does_not_grow(folder):
    with standin.Launched(folder, before=FEW_UIDS) as launched:
        policies = [wanted(name, folder) for name in profiles.PROFILES]
        tried = {str(policy["profile"]): refusal(launched, policy) for policy in policies}
        policies = [policy for policy in policies if tried[policy["profile"]] is None]
        if not policies:
            pytest.skip(f"boxes of any profile: {tried}")
        harness.wait_for(lambda: len(ready(launched)) == len(policies), what="a box of each kind that stands ready")
        kept, before = own(launched), traces(launched)
        Soak(launched, policies).run(3 * AT_ONCE)  # what grows once, such as tables and caches, has grown now
        memory, slabs = harness.resident(launched.pid), _slabs()

        soak = Soak(launched, policies)
        soak.run(BOXES)

        assert {kind for kind, _ in soak.endings} == set(KINDS)
        assert set(soak.endings) == {
            ("program", 0),
            ("function", 0),
            ("crash", signal.SIGSEGV),
            ("crash of a function", signal.SIGABRT),
            ("leftovers", 3),
            ("killed", "cancelled"),
            ("not there", "spawn"),
        }
        # The last of them may not have been acknowledged yet.
        harness.wait_for(
            lambda: all(now <= at_first for now, at_first in zip(own(launched), kept, strict=True)),
            10,
            what=f"what the launcher held at first: {kept}",
        )
        # The kernel frees keyrings and namespaces a moment later. What is left is there at every look; what others make
        # meanwhile comes and goes, under the same numbers.
        assert len(ready(launched)) <= len(policies)
        left = traces(launched) - before

        def is_gone() -> bool:
            left.intersection_update(traces(launched))
            rings = {each for each in left if each.startswith("keyring ")}  # a box that stands ready has one
            return left == rings and len(rings) <= len(ready(launched))

        harness.wait_for(is_gone, 30, what=f"the end of what the boxes left, at first {left},")
        grown = harness.resident(launched.pid) - memory
        assert grown < GROWTH, f"the launcher has grown by {grown} bytes"
        for name, count in slabs.items():
            harness.wait_for(lambda: _slabs()[name] <= count + SLAB_RESERVE, 30, what=f"{name}: {count} objects again")  # noqa: B023 (called here)
        if soak.highest_uid:
            assert soak.highest_uid in UIDS  # each of which has been given back many times
        print(
            f"{BOXES} boxes, {AT_ONCE} at a time; not tried: {tried}; launcher grew by {grown} bytes; slabs {slabs}, {_slabs()}"
        )
