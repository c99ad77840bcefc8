"""A store that no daemon has open: copied, looked through from end to end, and rebuilt from what can still be read.

schedctl's half of `backup`, `store check` and `store repair`; the daemon itself never imports this. A file is looked at
read-only and is never mended in place: what is rebuilt is a new file, and the damaged one is kept.

Rebuilding reads each table by the number of its rows, and no index. Where a page cannot be read, the range is
halved again and again, from both ends, until the gap holds just the rows of that page; those are lost, and counted.
"""

import contextlib
import os
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from typing import Any

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import rows, store

#: Problems of one kind that are told one by one.
_TOLD = 20
#: Rows that are read at once, and below which a range that cannot be read is tried row by row.
_SLICE = 500
#: table -> the column that its rows are in the order of; tags, dependencies and hooks are made anew from the jobs.
_TABLES = {
    "definitions": "id",
    "jobs": "uid",
    "job_history": "run_id",
    "attempts": "run_id",
    "audit": "id",
    "planned": "seq",
}
_WORDS = {
    "definitions": "definitions", "jobs": "jobs", "job_history": "runs", "attempts": "attempts", "audit": "audit entries",
    "planned": "planned changes",
}  # fmt: skip
#: Tables of a few rows -> what it means that one was lost.
_SMALL = {
    "meta": "what the daemon remembers of its last start: an @reboot job may run once more",
    "arrivals": "which results jobs without a schedule wait to start on",
    "pauses": "pauses: what was paused is not any more",
}
_STATUSES = tuple(status.value for status in model.JobStatus)
#: (what is wrong, the rows that it is so with).
_RULES = (
    ("runs whose definition is missing", "SELECT run_id FROM job_history WHERE definition NOT IN (SELECT id FROM definitions)"),
    ("jobs whose definition is missing", "SELECT uid FROM jobs WHERE definition NOT IN (SELECT id FROM definitions)"),
    ("attempts without a run", "SELECT DISTINCT run_id FROM attempts WHERE run_id NOT IN (SELECT run_id FROM job_history)"),
    ("runs of an unknown status", f"SELECT run_id FROM job_history WHERE status NOT IN {_STATUSES}"),
    (
        "running runs without an attempt",
        ("SELECT run_id FROM job_history AS r WHERE status = 'running'"
        " AND NOT EXISTS (SELECT 1 FROM attempts AS a WHERE a.run_id = r.run_id AND a.attempt = r.attempts)"),
    ),
    ("definitions that are no JSON", "SELECT id FROM definitions WHERE NOT json_valid(given)"),
    ("jobs whose definition is no JSON", "SELECT uid FROM jobs WHERE NOT json_valid(given) OR NOT json_valid(origins)"),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Counts:
    jobs: int
    runs: int


@dataclass(slots=True)
class Rebuilt:
    """What came of a rebuild: rows by what they are, and what was lost in words."""

    kept: dict[str, int] = field(default_factory=dict)
    lost: list[str] = field(default_factory=list)


def copy(path: str, to: str) -> None:
    """Copy a stopped daemon's store, what is in its log included, into the file `to`, which is there and empty."""
    with _reading(path) as db, contextlib.closing(sqlite3.connect(to)) as target:
        db.backup(target)


def seal(path: str, taken: int) -> Counts:
    """Make one durable file of a copy, with the moment at which it was taken; the daemon that finds it knows it by that."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("PRAGMA synchronous=FULL")
        db.execute(
            "INSERT INTO meta VALUES ('backup', ?) ON CONFLICT (key) DO UPDATE SET value = excluded.value", (taken,)
        )
        (jobs,) = db.execute("SELECT count(*) FROM jobs WHERE removed IS NULL").fetchone()
        (runs,) = db.execute("SELECT count(*) FROM job_history").fetchone()
    return Counts(jobs, runs)


def check(path: str) -> list[str]:
    """Everything that is wrong with the store in this file; reads all of it. StoreError if it is no store at all."""
    problems: list[str] = []
    with _reading(path) as db:
        try:
            found = [str(text) for (text,) in db.execute("PRAGMA integrity_check(100)")]
            problems += [text for text in found if text != "ok"][:_TOLD]
            for what, query in _RULES:
                problems += _breaches(db, what, query)
        except sqlite3.DatabaseError as error:
            problems.append(str(error))
    return problems


def _breaches(db: sqlite3.Connection, what: str, query: str) -> list[str]:
    ids = [number for (number,) in db.execute(query)]
    if not ids:
        return []
    more = "" if len(ids) <= _TOLD else f" and {len(ids) - _TOLD} more"
    return [f"{what}: {', '.join(map(str, ids[:_TOLD]))}{more}"]


def known(path: str) -> tuple[set[int], Callable[[int], bool]]:
    """uids of all jobs that have a row, and a question: does this run have one? For files that belong to nobody."""
    db = _open(path)
    uids = {uid for (uid,) in db.execute("SELECT uid FROM jobs WHERE removed IS NULL")}
    return (
        uids,
        lambda run_id: db.execute("SELECT 1 FROM job_history WHERE run_id = ?", (run_id,)).fetchone() is not None,
    )


# Rebuilding.


def rebuild(path: str, to: str) -> Rebuilt:
    """Put all that can be read of the store at `path` into a new one at `to`. StoreError if nothing can."""
    result = Rebuilt()
    with contextlib.closing(store.Store.open(to)):
        pass  # of the present schema
    with _reading(path) as db, contextlib.closing(sqlite3.connect(to, isolation_level=None)) as new:
        new.execute("PRAGMA synchronous=FULL")
        new.execute("BEGIN")
        for table, key in _TABLES.items():
            columns = _columns(db, new, table)
            if columns is None:
                result.lost.append(f"all {_WORDS[table]}: the table cannot be read")
                continue
            result.kept[_WORDS[table]] = 0
            for row in _Reader(db, table, key, columns, result.lost).rows():
                result.kept[_WORDS[table]] += _put(new, table, columns, row, result.lost)
        if not any(result.kept.get(word) for word in ("jobs", "runs")):
            raise store.StoreError("damaged", f"no job and no run of {path} can be read; put back a backup")
        _mend(new, db, result)
        new.execute("COMMIT")
        new.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()
    return result


def _columns(db: sqlite3.Connection, new: sqlite3.Connection, table: str) -> list[str] | None:
    """What both have; an older store has less. None: its schema cannot be read."""
    try:
        old = [row[1] for row in db.execute(f"PRAGMA table_info({table})")]
    except sqlite3.DatabaseError:
        return None
    wanted = [row[1] for row in new.execute(f"PRAGMA table_info({table})")]
    return [name for name in wanted if name in old] if old or table == "planned" else None


def _put(new: sqlite3.Connection, table: str, columns: list[str], row: tuple[Any, ...], lost: list[str]) -> int:
    marks = ", ".join("?" * len(columns))
    try:
        new.execute(f"INSERT INTO {table} ({', '.join(columns)}) VALUES ({marks})", row)
    except sqlite3.IntegrityError as error:
        lost.append(f"{_WORDS[table]}: {row[0]} ({error})")
        return 0
    return 1


class _Reader:
    """The rows of one table, around what cannot be read."""

    def __init__(self, db: sqlite3.Connection, table: str, key: str, columns: list[str], lost: list[str]) -> None:
        self._db = db
        self._key = key
        self._select = f"SELECT {key} AS k, {', '.join(columns) or key} FROM {table}"
        self._table = table
        self._columns = columns
        self._lost = lost
        self._end = _most(db, table) + 1
        #: (first, last) of the numbers that could not be read.
        self._gaps: list[tuple[int, int]] = []

    def rows(self) -> Iterator[tuple[Any, ...]]:
        if self._columns:
            yield from self._range(1, self._end)
        for first, last in self._gaps:
            self._lost.append(f"{_WORDS[self._table]}: up to {last - first + 1}, numbers {first} to {last}")

    def _range(self, low: int, high: int) -> Iterator[tuple[Any, ...]]:
        """Rows with low <= key < high."""
        last = low - 1
        try:
            while True:
                found = self._ask("ORDER BY k LIMIT ?", last + 1, high, _SLICE)
                # All rows of the last key of a full slice may not be in it.
                whole = found if len(found) < _SLICE else [row for row in found if row[0] != found[-1][0]]
                if not whole and found:
                    whole = self._ask("ORDER BY k", found[0][0], found[0][0] + 1)
                yield from (row[1:] for row in whole)
                if len(found) < _SLICE:
                    return
                last = whole[-1][0]
        except sqlite3.DatabaseError:
            pass
        low = last + 1
        top = self._edge(low, high)
        if top - low <= _SLICE:
            yield from self._singly(low, top + 1)
            return
        # Behind the gap all is as good as before it, or there is another.
        middle = (low + top) // 2
        yield from self._range(low, middle)
        yield from self._range(middle, top + 1)

    def _edge(self, low: int, high: int) -> int:
        """A number that no row of the range is above."""
        try:
            found = self._ask("ORDER BY k DESC LIMIT 1", low, high)
        except sqlite3.DatabaseError:
            return high - 1
        return int(found[0][0]) if found else low

    def _singly(self, low: int, high: int) -> Iterator[tuple[Any, ...]]:
        for number in range(low, high):
            try:
                found = self._ask("", number, number + 1)
            except sqlite3.DatabaseError:
                first = self._gaps.pop()[0] if self._gaps and self._gaps[-1][1] == number - 1 else number
                self._gaps.append((first, number))
                continue
            yield from (row[1:] for row in found)

    def _ask(self, rest: str, low: int, high: int, *more: int) -> list[tuple[Any, ...]]:
        return self._db.execute(f"{self._select} WHERE k >= ? AND k < ? {rest}", (low, high, *more)).fetchall()


def _most(db: sqlite3.Connection, table: str) -> int:
    """No row of the table has a higher number. Jobs and runs are counted; of the rest there are as many or a little more."""
    counted = {"jobs": "jobs", "job_history": "job_history", "attempts": "job_history"}.get(table)
    try:
        seqs = dict(db.execute("SELECT name, seq FROM sqlite_sequence"))
    except sqlite3.DatabaseError:
        return 1_000_000
    return int(seqs[counted]) if counted in seqs else max(seqs.values(), default=0) + 1000


def _mend(new: sqlite3.Connection, db: sqlite3.Connection, result: Rebuilt) -> None:
    """What follows from what was lost, and what is made of jobs."""
    for (number,) in new.execute(
        "SELECT definition FROM job_history UNION SELECT definition FROM jobs EXCEPT SELECT id FROM definitions"
    ).fetchall():
        given = new.execute("SELECT given FROM jobs WHERE definition = ?", (number,)).fetchone()
        new.execute(
            "INSERT INTO definitions (id, hash, given) VALUES (?, ?, ?)",
            (number, f"lost-{number}", given[0] if given else '{"id":"lost"}'),
        )
    new.execute("DELETE FROM attempts WHERE run_id NOT IN (SELECT run_id FROM job_history)")
    ended = new.execute(
        "UPDATE job_history SET status = 'failed', reason = 'lost', end_time = queued,"
        " error = 'its attempt, its job or its definition was lost with a damaged store'"
        " WHERE status IN ('pending', 'running', 'retrying') AND ("
        "   job_uid NOT IN (SELECT uid FROM jobs)"
        "   OR definition IN (SELECT id FROM definitions WHERE hash LIKE 'lost-%')"
        "   OR status = 'running'"
        "   AND NOT EXISTS (SELECT 1 FROM attempts AS a WHERE a.run_id = job_history.run_id AND a.attempt = attempts)"
        " )"
    ).rowcount
    if ended:
        result.lost.append(f"what became of {ended} open runs; they are recorded as lost")
    for uid, job_id, given in new.execute("SELECT uid, job_id, given FROM jobs WHERE removed IS NULL").fetchall():
        keys = rows.decode("given", given)
        new.executemany("INSERT INTO tags VALUES (?, ?, ?)", {(tag, job_id, uid) for tag in keys.get("tags", ())})
        parents = {each if isinstance(each, str) else each["job"] for each in keys.get("dependencies", ())}
        new.executemany("INSERT INTO dependencies VALUES (?, ?)", [(uid, parent) for parent in parents])
        hooks = {(uid, key, target) for key in model.HOOKS for target in keys.get(key, ())}
        new.executemany("INSERT INTO hooks VALUES (?, ?, ?)", hooks)
    for table, words in _SMALL.items():
        try:
            is_there = db.execute(f"PRAGMA table_info({table})").fetchall()  # in an older store some are not
            for row in db.execute(f"SELECT * FROM {table}").fetchall() if is_there else ():
                new.execute(f"INSERT OR REPLACE INTO {table} VALUES ({', '.join('?' * len(row))})", row)
        except sqlite3.DatabaseError:
            result.lost.append(words)
    for table in ("jobs", "job_history", "audit"):
        with contextlib.suppress(sqlite3.DatabaseError, TypeError):  # no number is given twice
            (most,) = db.execute("SELECT seq FROM sqlite_sequence WHERE name = ?", (table,)).fetchone()
            new.execute("UPDATE sqlite_sequence SET seq = max(seq, ?) WHERE name = ?", (most, table))
            if not new.execute("SELECT 1 FROM sqlite_sequence WHERE name = ?", (table,)).fetchone():
                new.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, most))


@contextlib.contextmanager
def _reading(path: str) -> Iterator[sqlite3.Connection]:
    with contextlib.closing(_open(path)) as db:
        try:
            (application,) = db.execute("PRAGMA application_id").fetchone()
        except sqlite3.DatabaseError as error:
            raise store.StoreError("damaged", f"nothing of {path} can be read ({error}); put back a backup") from error
        if application != store.APPLICATION:
            raise store.StoreError("damaged", f"{path} is no store of this program; put back a backup")
        yield db


def _open(path: str) -> sqlite3.Connection:
    db = sqlite3.connect(f"file:{urllib.parse.quote(os.path.abspath(path))}?mode=ro", uri=True, isolation_level=None)
    db.text_factory = lambda data: data.decode(errors="backslashreplace")
    return db
