#!/usr/bin/python3 -IB
"""The versions that are installed, and which of them is current: /opt/lnmt-scheduler, and the way back in it.

    /opt/lnmt-scheduler/0.2.0-5c1f08aa    a virtual environment, never changed once it is there
    /opt/lnmt-scheduler/0.1.0-93e0d7b4
    /opt/lnmt-scheduler/current           link to one of them: what is started from now on
    /opt/lnmt-scheduler/previous          link to the one before
    /opt/lnmt-scheduler/python            the interpreter of `current`

install.py puts versions there. This file is installed too, as lnmt-scheduler-rollback, and then needs neither install.py
nor any version: it is what is left when a version does not start. Standard library only, and root's, like all it touches.
"""

# An interpreter that is too old for a version is to get us back all the same.
from __future__ import annotations

import argparse
import contextlib
import fcntl
import os
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

HOME = "/opt/lnmt-scheduler"
CURRENT, PREVIOUS = "current", "previous"
#: A version's directory while it is being made.
UNFINISHED = ".new-"


class InstallError(Exception):
    """It cannot be done; the text says why and what to do."""


@contextlib.contextmanager
def locked(home: Path) -> Iterator[None]:
    """One install or rollback at a time; the directory is made if it is not there."""
    home.mkdir(parents=True, exist_ok=True)
    fd = os.open(home, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        yield
    except BlockingIOError:
        raise InstallError(f"another install works on {home}; wait for its end") from None
    finally:
        os.close(fd)


def named(home: Path, link: str) -> str | None:
    """The version that `current` or `previous` names; None if there is no such link, or it leads nowhere."""
    try:
        name = os.readlink(home / link)
    except FileNotFoundError:
        return None
    return name if (home / name).is_dir() else None


def point(home: Path, link: str, name: str) -> None:
    """Make a link name this version, in one step: whoever looks sees the old one or the new one."""
    beside = home / f".{link}.new"
    beside.unlink(missing_ok=True)
    beside.symlink_to(name)
    beside.replace(home / link)


def switch(home: Path, name: str) -> None:
    """Make this version the current one, and the one that was so the previous one."""
    before = named(home, CURRENT)
    if before == name:
        return
    os.sync()  # after a power cut, too, a link must lead to a whole version
    if before is not None:
        point(home, PREVIOUS, before)
    point(home, CURRENT, name)


def prune(home: Path) -> None:
    """Remove what neither link names and no process runs from, and what an install that was cut off has left."""
    keep = {named(home, CURRENT), named(home, PREVIOUS)}
    for path in home.iterdir():
        if path.is_symlink() or not path.is_dir() or path.name in keep:
            continue
        if path.name.startswith(UNFINISHED) or not users(path):
            shutil.rmtree(path)


def users(directory: Path) -> list[int]:
    """Processes that run from this directory, by what they were started as or have mapped; those that we may look at."""
    needle = os.fsencode(f"{directory}/")
    found = []
    for entry in Path("/proc").iterdir():
        if not entry.name.isdigit():
            continue
        with contextlib.suppress(OSError):  # it has ended, or is another's
            if needle in (entry / "cmdline").read_bytes() or needle in (entry / "maps").read_bytes():
                found.append(int(entry.name))
    return found


def schema(version: Path) -> int:
    """The newest schema of the store that a version knows."""
    found = [re.fullmatch(r"schema_(\d+)\.sql", path.name) for path in version.rglob("supervisor/schema_*.sql")]
    return max((int(match[1]) for match in found if match), default=0)


def roll_back(home: Path, *, force: bool) -> tuple[str, str]:
    """Make the previous version current again, and the other way round; their names, old and new."""
    now, before = named(home, CURRENT), named(home, PREVIOUS)
    if now is None:
        raise InstallError(f"{home}: nothing is installed here")
    if before is None or before == now:
        raise InstallError(f"{home}: there is no version before {now} to go back to")
    ours, theirs = schema(home / now), schema(home / before)
    if theirs < ours and not force:
        raise InstallError(
            f"{before} knows the store up to schema {theirs}, {now} has brought it to {ours}. Stop the daemon, put the copy"
            f" lnmt.db.before-{theirs + 1} in the place of lnmt.db (without lnmt.db-wal), and call this again with --force;"
            " what was recorded since the upgrade is not in that copy"
        )
    switch(home, before)
    return now, before


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="lnmt-scheduler-rollback",
        description="Make the version of LNMT Scheduler that was installed before the current one again. Called once"
        " more, it goes forth again. What runs goes on until it is restarted.",
        allow_abbrev=False,
    )
    parser.add_argument(
        "--force", action="store_true", help="also if that version does not know the store as it is now"
    )
    parser.add_argument("--destdir", default="", metavar="DIR", help="the root of the tree to work on (default: /)")
    options = parser.parse_args()
    home = Path(f"{options.destdir}{HOME}")
    try:
        with locked(home):
            now, before = roll_back(home, force=options.force)
    except (InstallError, OSError) as error:
        print(f"lnmt-scheduler-rollback: {error}", file=sys.stderr)
        return 1
    print(f"{before} is current, and {now} the version before. A daemon that runs takes it up by `schedctl restart`.")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
