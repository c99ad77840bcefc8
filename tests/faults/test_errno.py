"""Errors at the k-th system call, once and from then on: the reference scenario under each, and the daemon held to its word.

A point that is not reached, since no two rounds are alike, is not counted.
"""

import pytest
from faults import sweep

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
        "signalfd4": (*FILES, "ENOMEM"),
    },
}


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(sweep.SHARDS))
@pytest.mark.parametrize("role", ERRORS)
def test_no_error_of_a_system_call_loses_repeats_or_leaves_anything(folder, role, shard):
    said = sweep.sweep(folder, role, shard, 10, ERRORS[role])
    print(said)
    if role == "init":
        assert "started again" not in said, "a fault within one box has ended the daemon"
