"""Which descriptors a process of a box holds: those at their places, and no others.

Pure moves of the caller's own descriptors, by dup2(2) and close_range(2); whatever was inherited besides is closed.
"""

import fcntl
import os
from collections.abc import Iterable, Mapping


def place(places: Mapping[int, int], *, inherited: int) -> None:
    """Put descriptors (place -> descriptor) at their places and close all others; places below `inherited` survive exec."""
    # First out of the way of the places themselves, then into them.
    above = max(places) + 1
    high = {at: fcntl.fcntl(fd, fcntl.F_DUPFD_CLOEXEC, above) for at, fd in places.items()}
    for at, fd in high.items():
        os.dup2(fd, at, inheritable=at < inherited)
    _close_from(0, places)


def close_all_but(kept: set[int]) -> None:
    """Close all but these; 0, 1 and 2 become /dev/null."""
    null = os.open("/dev/null", os.O_RDWR)
    for at in range(3):
        os.dup2(null, at)
    _close_from(3, kept)


def _close_from(low: int, kept: Iterable[int]) -> None:
    for fd in sorted(kept):
        if low < fd:  # closerange(0, 0) would close all
            os.closerange(low, fd)
        low = fd + 1
    os.closerange(low, 2**31 - 1)
