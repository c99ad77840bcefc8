"""Database upkeep: SQLite files and PostgreSQL servers, checked first and tidied only if they are whole.

An SQLite file is opened by its owner only, since whoever else opens it leaves files beside it that the owner cannot use. What
is locked is left for the next time, what is damaged is left as it is and said, and a vacuum is done where enough would be
gained and the disk has room for the copy that it makes. SQLite's own journal makes each step whole or undone.
"""

import contextlib
import os
import sqlite3
import stat
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lnmt_scheduler.jobs import needs, programs, shown

_BUSY_SECONDS = 5.0
_PROBLEMS = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Rules:
    """When a vacuum is worth it: both, bytes that are free in the file and their part of it."""

    free_bytes: int = 16 * 1024 * 1024
    free_part: float = 0.25


@dataclass(slots=True, kw_only=True)
class Outcome:
    what: str
    #: `ok`, `locked`, `damaged` or `failed`.
    state: str = "ok"
    #: What was done, or not and why.
    notes: list[str] = field(default_factory=list)
    size_before: int = 0
    size_after: int = 0

    def packed(self) -> dict[str, Any]:
        freed = self.size_before - self.size_after
        return {"what": self.what, "state": self.state, "notes": self.notes, "size": self.size_after, "freed": freed}


def sqlite(path: str, rules: Rules) -> Outcome:
    """Look after one file; whatever goes wrong with it is its outcome."""
    outcome = Outcome(what=path)
    try:
        found = os.stat(path)
        if not stat.S_ISREG(found.st_mode):
            return _fail(outcome, "failed", "no regular file")
        if found.st_uid != os.geteuid():
            return _fail(
                outcome,
                "failed",
                f"belongs to user {found.st_uid}, the job runs as {os.geteuid()}: give it that `user`",
            )
        outcome.size_before = outcome.size_after = _size(path)
        _tend(path, outcome, rules)
        outcome.size_after = _size(path)
    except OSError as error:
        return _fail(outcome, "failed", (error.strerror or str(error)).lower())
    except sqlite3.OperationalError as error:
        if "locked" in str(error):
            return _fail(outcome, "locked", "in use; left for the next time")
        return _fail(outcome, "failed", str(error))
    except sqlite3.DatabaseError as error:
        return _fail(outcome, "damaged", str(error))
    return outcome


def _fail(outcome: Outcome, state: str, why: str) -> Outcome:
    outcome.state = state
    outcome.notes.append(shown.text(why, 1000))
    with contextlib.suppress(OSError):
        outcome.size_after = _size(outcome.what)
    return outcome


def _size(path: str) -> int:
    """Of the file and what belongs to it."""
    total = os.stat(path).st_size
    for suffix in ("-wal", "-journal"):
        with contextlib.suppress(FileNotFoundError):
            total += os.stat(path + suffix).st_size
    return total


def _tend(path: str, outcome: Outcome, rules: Rules) -> None:
    # The copy that VACUUM makes goes where the file is: the box's own /tmp may be small, and in memory.
    os.environ["SQLITE_TMPDIR"] = os.path.dirname(path)
    address = f"file:{path.replace('%', '%25').replace('?', '%3f').replace('#', '%23')}?mode=rw"
    with contextlib.closing(sqlite3.connect(address, uri=True, timeout=_BUSY_SECONDS, isolation_level=None)) as file:
        problems = [str(text) for (text,) in file.execute(f"PRAGMA quick_check({_PROBLEMS})")]
        if problems != ["ok"]:
            _fail(outcome, "damaged", "; ".join(problems))
            return
        file.execute("PRAGMA analysis_limit = 1000")
        file.execute("PRAGMA optimize")
        outcome.notes.append("checked and optimized")
        _checkpoint(file, outcome)
        _vacuum(file, path, outcome, rules)
        _checkpoint(file, outcome)


def _checkpoint(file: sqlite3.Connection, outcome: Outcome) -> None:
    (mode,) = file.execute("PRAGMA journal_mode").fetchone()
    if mode != "wal":
        return
    busy, _, _ = file.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
    if busy and "checkpoint incomplete: a reader is in the way" not in outcome.notes:
        outcome.notes.append("checkpoint incomplete: a reader is in the way")


def _vacuum(file: sqlite3.Connection, path: str, outcome: Outcome, rules: Rules) -> None:
    def pragma(name: str) -> int:
        return int(file.execute(f"PRAGMA {name}").fetchone()[0])

    free, pages, size = pragma("freelist_count"), pragma("page_count"), pragma("page_size")
    if free * size < rules.free_bytes or free < pages * rules.free_part:
        return
    if pragma("auto_vacuum") == 2:
        # A step of it frees one page, and execute() takes a single one of a statement without columns.
        file.executescript("PRAGMA incremental_vacuum")
        outcome.notes.append(f"gave back {free * size} bytes")
        return
    disk = os.statvfs(os.path.dirname(path) or ".")
    room, wanted = disk.f_bavail * disk.f_frsize, 2 * (pages - free) * size
    if room < wanted:
        outcome.notes.append(
            f"not vacuumed: {free * size} bytes are free in it, but that takes {wanted} of the disk, which has {room}"
        )
        return
    file.execute("VACUUM")
    outcome.notes.append(f"vacuumed: gave back {free * size} bytes")


def postgresql(server: Mapping[str, Any], timeout: float) -> Outcome:
    """`vacuumdb --analyze` of one database, or of all, of a server."""
    database = str(server.get("database", "all"))
    command = [needs.program("vacuumdb", "postgresql-client"), "--no-password", "--analyze"]
    command.append("--all" if database == "all" else f"--dbname={database}")
    command += [f"--{option}={server[key]}" for key, option in _OPTIONS.items() if key in server]
    environment = {}
    if "password_file" in server:
        environment["PGPASSFILE"] = os.path.join(
            os.environ.get("CREDENTIALS_DIRECTORY", "/"), str(server["password_file"])
        )
    outcome = Outcome(what=f"postgresql {server.get('host', 'here')} {database}")
    try:
        done = programs.run(command, timeout=timeout, environment=environment)
    except subprocess.TimeoutExpired:
        return _fail(outcome, "failed", f"not done after {timeout:g} s")
    if done.code:
        return _fail(outcome, "failed", done.complaint)
    outcome.notes.append("vacuumed and analyzed")
    return outcome


_OPTIONS = {"host": "host", "port": "port", "user": "username"}
SERVER_KEYS = frozenset({*_OPTIONS, "database", "password_file"})
