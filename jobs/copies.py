"""Copies of SQLite files that are in use, each checked as a whole before it counts.

Runs in the job's process, inside its box, for backup.data and its drill. SQLite's own backup makes the copy in one go: in
small steps it starts anew with every write of another process, and under a steady writer never ends. The copy is opened and
checked while its name still says that it is none. A source that is locked for too long, damaged, or that the disk has no room
for, fails the run after the others were copied, and leaves no copy.
"""

import contextlib
import os
import sqlite3
import time
from collections.abc import Callable, Sequence
from datetime import UTC, datetime
from typing import Any

from lnmt_scheduler.jobs import atomic, needs, retention

#: Seconds that a copy waits for whoever holds the source.
_PATIENCE = 30
_TRIES = 3
#: Who opens a database that is gone makes an empty one: a copy of that must not count, and then push out the real ones.
_EMPTY = "it holds no table"


class CopiesFailedError(Exception):
    """Some databases could not be copied, or a copy is not what it should be."""


def copy_all(databases: Sequence[str], target: str, tick: Callable[[int, int], None]) -> list[dict[str, Any]]:
    """A copy of each, named after it and the time: what was made. CopiesFailedError after those that could be."""
    names = [os.path.basename(path) for path in databases]
    for path, name in zip(databases, names, strict=True):
        if not path.startswith("/") or names.count(name) > 1:
            needs.end(f"databases: {path!r}: an absolute path, with a name of its own, is wanted")
    made, failed = [], []
    with atomic.locked(target):
        atomic.remove_parts(target)
        for done, path in enumerate(databases, 1):
            try:
                made.append(_copy(path, target))
            except (sqlite3.Error, OSError, ValueError) as error:
                failed.append(f"{path}: {error}")
            tick(done, len(databases))
    if failed:
        raise CopiesFailedError(f"{len(failed)} of {len(databases)} databases were not copied: {'; '.join(failed)}")
    return made


def _copy(path: str, target: str) -> dict[str, Any]:
    began = time.monotonic()
    stem, suffix = os.path.splitext(os.path.basename(path))
    stamp = datetime.now(UTC).strftime(retention.STAMP)
    final = os.path.join(target, f"{stem}-{stamp}{suffix or '.db'}")
    part = final + atomic.PART
    try:
        _hot_copy(path, part)
        _refuse_unsound(part)
        atomic.finish(part, final)
    except BaseException:
        for left in (part, f"{part}-journal", f"{part}-wal", f"{part}-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(left)
        raise
    size = os.stat(final).st_size
    return {"source": path, "copy": final, "bytes": size, "seconds": round(time.monotonic() - began, 3)}


def _refuse_unsound(part: str) -> None:
    if (problem := copy_fault(part)) is not None:
        raise ValueError(f"the copy is not sound, so its source is damaged: {problem}")


def _hot_copy(path: str, part: str) -> None:
    for _ in range(_TRIES):
        before = _state(path)
        # A database in WAL mode that nobody has open cannot be opened where nothing may be written, unless it is said to be
        # still; that it was is looked at afterwards. Any other takes locks there as everywhere, and must: to say that one
        # in rollback mode is still would show a transaction that is half written, or that a killed writer left behind.
        still = not os.access(os.path.dirname(path), os.W_OK) and _in_wal_mode(path) and _alone(path)
        with contextlib.suppress(FileNotFoundError):
            os.unlink(part)
        with (
            contextlib.closing(_opened(path, "immutable=1" if still else "mode=ro")) as source,
            contextlib.closing(sqlite3.connect(part)) as copy,
        ):
            os.chmod(part, 0o600)
            _lock(source)
            source.backup(copy, progress=_give_up_after(_PATIENCE))
        if not still or (_alone(path) and _state(path) == before):
            return
    raise OSError("it was written to each time that it was copied; let the job write beside it, with sandbox.writable")


def _opened(path: str, mode: str) -> sqlite3.Connection:
    return sqlite3.connect(f"{_uri(path)}?{mode}", uri=True, timeout=_PATIENCE)


def _lock(source: sqlite3.Connection) -> None:
    """Take a reader's lock, for which SQLite waits so long and no longer.

    Of a source that is locked, backup() itself asks again for ever, deaf to signals.
    """
    source.execute("BEGIN")
    try:
        (entries,) = source.execute("SELECT count(*) FROM sqlite_schema").fetchone()
    except sqlite3.OperationalError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_READONLY_ROLLBACK:
            raise OSError(
                "a writer was killed in a transaction; open it once with its program, which undoes that"
            ) from None
        raise
    if not entries:
        raise ValueError(_EMPTY)


def _in_wal_mode(path: str) -> bool:
    with open(path, "rb") as file:
        return file.read(20)[18:] == b"\2\2"  # https://sqlite.org/fileformat.html, 1.3.3


def _alone(path: str) -> bool:
    """Whether all of it is in the one file."""
    return not any(os.path.exists(path + suffix) for suffix in ("-wal", "-journal"))


def _give_up_after(seconds: float) -> Callable[[int, int, int], None]:
    until = time.monotonic() + seconds

    def look(status: int, _left: int, _all: int) -> None:
        if status in (sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED) and time.monotonic() > until:
            raise OSError("it is locked")

    return look


def _uri(path: str) -> str:
    return "file:" + "".join(
        c if c.isalnum() or c in "/._-" else "".join(f"%{b:02x}" for b in os.fsencode(c)) for c in path
    )


def _state(path: str) -> tuple[int, ...]:
    found = os.stat(path)
    return found.st_mtime_ns, found.st_size, found.st_ino


def fault(path: str) -> str | None:
    """What is wrong with a database that nobody else has open; None: it is sound."""
    try:
        with contextlib.closing(_opened(path, "mode=ro&immutable=1")) as db:
            (said,) = db.execute("PRAGMA integrity_check(1)").fetchone()
            return None if said == "ok" else str(said)
    except sqlite3.Error as error:
        return str(error)


def copy_fault(path: str) -> str | None:
    """What is wrong with a copy; None: it is sound, and there is something in it."""
    if (problem := fault(path)) is not None:
        return problem
    with contextlib.closing(_opened(path, "mode=ro&immutable=1")) as db:
        (entries,) = db.execute("SELECT count(*) FROM sqlite_schema").fetchone()
        return None if entries else _EMPTY


def drill(target: str, oldest: float) -> list[dict[str, Any]]:
    """Open and check the newest copy of each database. CopiesFailedError if one is unsound or older than `oldest` seconds."""
    found, wrong = [], []
    with atomic.locked(target):
        groups = retention.groups(target)
        for name, files in sorted(groups.items()):
            newest = files[0]
            age = time.time() - newest.at.timestamp()
            problem = copy_fault(os.path.join(target, newest.file))
            if problem is not None:
                wrong.append(f"{newest.file}: {problem}")
            elif age > oldest:
                wrong.append(f"{newest.file}: the newest of {name} is {age / 86400:.1f} days old")
            found.append({"name": name, "copy": newest.file, "age": round(age), "sound": problem is None})
    if not groups:
        wrong.append(f"{target} holds no copy")
    if wrong:
        raise CopiesFailedError("; ".join(wrong))
    return found
