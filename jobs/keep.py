"""What a job remembers from run to run in a small file, whole or not at all.

A run may be killed at any instruction, and the host may lose power: a value is written to a file beside the one that is
there, synced, and put in its place by rename(2), so a reader finds the old one or the new one. What is found damaged all
the same (somebody edited it, a disk lied) is put aside and said, and the job begins anew. Nothing is read that is longer
than its cap.
"""

import contextlib
import json
import os
import sys
import tempfile
from typing import Any

from lnmt_scheduler.jobs import atomic


def read_bytes(path: str, limit: int) -> bytes:
    """A whole file of at most `limit` bytes. OSError, and ValueError if it is longer."""
    with open(path, "rb") as file:
        data = file.read(limit + 1)
    if len(data) > limit:
        raise ValueError(f"{path} has more than {limit} bytes")
    return data


def read(path: str, limit: int = 16 * 1024 * 1024) -> dict[str, Any]:
    """The map that was kept; an empty one if there is none, or if it is damaged (it is then `PATH.damaged`)."""
    try:
        found = json.loads(read_bytes(path, limit))
        if isinstance(found, dict):
            return found
        problem = "it is no map"
    except FileNotFoundError:
        return {}
    except (ValueError, RecursionError) as error:
        problem = str(error)
    aside(path, problem)
    return {}


def aside(path: str, problem: str) -> None:
    """Put a damaged file out of the way, for people to look at, and say so."""
    os.replace(path, f"{path}.damaged")
    print(f"{path} cannot be used ({problem}); it is now {path}.damaged, and the job begins anew", file=sys.stderr)


def write(path: str, value: dict[str, Any]) -> None:
    """Put a map that JSON can carry in the place of `path`."""
    write_bytes(path, json.dumps(value).encode())


def write_bytes(path: str, data: bytes) -> None:
    """Put these bytes in the place of `path`. OSError, and then what was there is there."""
    folder = os.path.dirname(path) or "."
    fd, part = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", suffix=atomic.PART, dir=folder)
    try:
        with open(fd, "wb") as file:
            file.write(data)
        atomic.finish(part, path)
    except BaseException:
        with contextlib.suppress(FileNotFoundError):  # it has its name, and only the folder could not be synced
            os.unlink(part)
        raise
    _sweep(folder, os.path.basename(path))


def _sweep(folder: str, name: str) -> None:
    """Remove what runs that were killed in mid-write have left: nobody else writes this file at the same time."""
    for each in os.listdir(folder):
        if each.startswith(f".{name}.") and each.endswith(atomic.PART):
            os.unlink(os.path.join(folder, each))
