"""Errors at the k-th system call, once and from then on: the reference scenario under each, and the daemon held to its word.

LNMT_FAULT_POINTS is how many points each process gets here, evenly spread over all that there are; `all` takes every one.
A point that is not reached, since no two rounds are alike, is not counted.
"""

import os
from collections import Counter

import pytest
from faults import inject, scenario

FILES = ("EMFILE", "ENFILE")
MEMORY = ("ENOMEM",)
DISK = ("ENOSPC", "EIO")
#: Role -> call -> what it fails with.
ERRORS = {
    "supervisor": {
        "accept4": (*FILES, "ENOMEM"),
        "epoll_ctl": ("ENOMEM", "ENOSPC"),
        "fcntl": FILES[:1],
        "fdatasync": DISK,
        "fsync": DISK,
        "ftruncate": DISK,
        "memfd_create": (*FILES, "ENOMEM"),
        "mkdir": DISK,
        "mmap": MEMORY,
        "openat": (*FILES, "ENOMEM", "EIO"),
        "pread64": ("EIO",),
        "pwrite64": DISK,
        "read": ("EIO",),
        "recvmsg": MEMORY,
        "sendmsg": ("EAGAIN", "ENOMEM"),
        "sendto": ("EAGAIN", "ENOMEM"),
        "splice": (*DISK, "ENOMEM"),
        "unlink": ("EIO",),
        "write": DISK,
    },
    "launcher": {
        "clone3": ("EAGAIN", "ENOMEM"),
        "epoll_ctl": ("ENOMEM", "ENOSPC"),
        "fcntl": FILES[:1],
        "fchown": ("EIO",),
        "mkdir": ("ENOSPC", "ENOMEM"),
        "mmap": MEMORY,
        "openat": (*FILES, "ENOMEM"),
        "pipe2": FILES,
        "recvmsg": MEMORY,
        "rmdir": ("EIO",),
        "sendmsg": ("EAGAIN", "ENOMEM"),
        "sendto": ("EAGAIN", "ENOMEM"),
        "socketpair": FILES,
        "write": DISK,
    },
    "init": {
        "clone": ("EAGAIN", "ENOMEM"),
        "mkdir": ("ENOMEM",),
        "mount": ("ENOMEM",),
        "openat": FILES,
        "sendto": ("ENOMEM",),
        "write": ("EIO",),
    },
}


#: Parts of the points of one process, which may be tried at the same time.
SHARDS = 2


def budget(default: int) -> int:
    """Points of one process."""
    wanted = os.environ.get("LNMT_FAULT_POINTS", str(default))
    return 1 << 30 if wanted == "all" else int(wanted)


@pytest.fixture(autouse=True)
def _answers_are_not_waited_for_for_ever():
    inject.require()
    scenario.bounded()
    yield
    scenario.unbounded()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(SHARDS))
@pytest.mark.parametrize("role", ERRORS)
def test_no_error_of_a_system_call_loses_repeats_or_leaves_anything(folder, role, shard, capsys):
    errors = ERRORS[role]
    with inject.daemon(folder, "init" if role == "init" else "") as daemon:
        daemon.start()
        world = scenario.Scenario(daemon)
        world.set_up()
        trace = daemon.plan if role == "init" else daemon.attach
        trace(role, errors)
        world.round()
        counts = daemon.detach()
        world.judge()
        everything = inject.points(role, counts, errors, kill=False)
        chosen = inject.strided(everything, budget(24))[shard::SHARDS]
        reached, failed, ended = Counter(), {}, []
        for point in chosen:
            before = daemon.supervisor_pid
            trace(role, (), point)
            world.round()
            came = daemon.detach()["!"]
            restarts = world.restarts
            try:
                world.judge()
            except AssertionError as error:
                failed[str(point)] = str(error)
                world = scenario.Scenario.after(world)
            if came:
                kind = "the daemon was started again" if world.restarts > restarts else "it went on"
                if kind == "it went on" and daemon.supervisor_pid != before:
                    kind = "another supervisor went on"
                reached[kind] += 1
                ended += [str(point)] if kind == "the daemon was started again" else []
            if daemon.supervisor_pid != before:
                world.refresh()
        with capsys.disabled():
            print(
                f"\n{role}: {len(chosen)} of {len(everything)} points, {sum(reached.values())} reached: {dict(reached)}"
            )
        assert not failed, "\n".join(f"{point}: {error}" for point, error in failed.items())
        assert sum(reached.values()) > len(chosen) / 2
        if role == "init":
            assert not ended, "a fault within one box has ended the daemon"
