"""A copy of the history for jobs that are granted it: a small SQLite file that says what a report or an alert asks about.

Made by the supervisor, a slice a turn of its loop, in memory; it travels inside the sealed payload of the run and is written
in the job's box (jobs/handed.py). So no job opens the store, and none holds up the schedule, however large the history is:
there is a bound for its age, its rows and its bytes, and what was left out is said in `meta`. Definitions are not in it, but
for what a report prints; neither are arguments, environments or output.
"""

import contextlib
import json
import sqlite3
from collections.abc import Callable, Iterator
from typing import Any

from lnmt_scheduler.ipc import codec
from lnmt_scheduler.supervisor import clock, store

#: Longer than a month, so that a report of one can look back beyond its beginning.
DAYS = 40
RUNS_MAX = 100_000
JOBS_MAX = 20_000
BYTES_MAX = 16 * 1024 * 1024
#: Of what one run returned.
RESULT_MAX = 16 * 1024
#: The last result of a job is looked at up to here: of what is too large for the copy, what is small of it is in it.
LARGE_MAX = 256 * 1024
#: Of what runs returned, all together, so that it takes little of the room for runs.
RESULTS_MAX = 2 * 1024 * 1024
_RUNS_A_SLICE, _JOBS_A_SLICE = 250, 25
#: Keys that a large result lacks are named up to so many.
_LACKS_MAX = 100
_DAY_MS = 86_400_000

_TABLES = """
CREATE TABLE meta (key TEXT PRIMARY KEY, value) WITHOUT ROWID;
CREATE TABLE jobs (
    uid INTEGER PRIMARY KEY, job_id TEXT NOT NULL, name TEXT NOT NULL, enabled INTEGER NOT NULL, schedule TEXT, timezone TEXT,
    tags TEXT NOT NULL, next_slot INTEGER, last_success INTEGER, failing_since INTEGER, added INTEGER NOT NULL,
    result_run INTEGER, result TEXT, result_lacks TEXT
);
CREATE TABLE runs (
    run_id INTEGER PRIMARY KEY, job_uid INTEGER NOT NULL, job_id TEXT NOT NULL, slot INTEGER, slots INTEGER NOT NULL,
    "trigger" TEXT NOT NULL, status TEXT NOT NULL, reason TEXT, queued INTEGER NOT NULL, start_time INTEGER,
    end_time INTEGER, duration REAL, attempts INTEGER NOT NULL, exit_code INTEGER, signal TEXT, error TEXT,
    result TEXT
);
"""


class Making:
    """One copy while it is made: take slices() to their end, and then `image` is the file."""

    def __init__(self, history: store.Store) -> None:
        self._store = history
        self.image = b""
        #: Of the runs so far: how many, and when the last of them, the oldest, was decided.
        self._count, self._oldest = 0, 0
        #: Bytes of results: that this slice has looked at, and of all runs.
        self._looked_at, self._results = 0, 0

    def slices(self) -> Iterator[None]:
        now = clock.now_ms()
        since = now - DAYS * _DAY_MS
        with contextlib.closing(sqlite3.connect(":memory:", isolation_level=None)) as db:
            db.executescript(f"PRAGMA max_page_count = {BYTES_MAX // 4096}; {_TABLES}")
            complete = True
            try:
                yield from self._jobs(db)
                yield from self._runs(db, since)
            except sqlite3.OperationalError:  # its bound is reached
                complete = False
            complete = complete and self._count < RUNS_MAX
            facts = {
                "taken": now,
                # From when on it is complete.
                "since": since if complete else self._oldest or now,
                "complete": int(complete),
            }
            with contextlib.suppress(sqlite3.OperationalError):
                db.executemany("INSERT INTO meta VALUES (?, ?)", facts.items())
            self.image = db.serialize()
        yield  # what is done with it is a turn of its own

    def _jobs(self, db: sqlite3.Connection) -> Iterator[None]:
        after, count = "", 0
        while count < JOBS_MAX and (page := self._store.snapshot_jobs(after, _JOBS_A_SLICE)):
            made = self._of_a_slice(page, self._job)
            with _together(db):  # a job that is renamed meanwhile may come twice
                db.executemany(f"INSERT OR REPLACE INTO jobs VALUES ({', '.join('?' * 14)})", made)
            after, count = made[-1][1], count + len(made)
            yield

    def _job(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        uid, job_id, enabled, text, next_slot, last_success, failing_since, added = row
        given = json.loads(text)
        run_id, result, lacks = None, None, None
        found = self._store.snapshot_result(uid, LARGE_MAX)
        if found is not None:
            run_id, data = found
            self._looked_at += len(data)
            with contextlib.suppress(codec.ProtocolError):
                result, lacks = _shortened(data)
        tags = json.dumps(given.get("tags", []))
        return (
            uid, job_id, given.get("name") or job_id, enabled, given.get("schedule"), given.get("timezone"), tags,
            next_slot, last_success, failing_since, added, run_id, result, lacks,
        )  # fmt: skip

    def _runs(self, db: sqlite3.Connection, since: int) -> Iterator[None]:
        newest, floor = self._store.snapshot_floor(since)
        while self._count < RUNS_MAX and (page := self._store.snapshot_runs(newest, floor, _RUNS_A_SLICE)):
            made = self._of_a_slice(page, self._run)
            with _together(db):
                db.executemany(f"INSERT INTO runs VALUES ({', '.join('?' * 17)})", made)
            newest, self._oldest, self._count = made[-1][0] - 1, made[-1][8], self._count + len(made)
            yield

    def _run(self, row: tuple[Any, ...]) -> tuple[Any, ...]:
        data, result = row[-1], None
        if data is not None and self._results + len(data) <= RESULTS_MAX:
            self._looked_at += len(data)
            self._results += len(data)
            with contextlib.suppress(codec.ProtocolError):
                result = json.dumps(codec.unpack(data), default=repr)
        return (*row[:-1], result)

    def _of_a_slice(
        self, page: list[tuple[Any, ...]], make: Callable[[tuple[Any, ...]], tuple[Any, ...]]
    ) -> list[tuple[Any, ...]]:
        """Of these rows, in the copy's form, as many from the first on as are not too much work for one slice."""
        made: list[tuple[Any, ...]] = []
        self._looked_at = 0
        for row in page:
            made.append(make(row))
            if self._looked_at > LARGE_MAX:
                break
        return made


def _shortened(data: bytes) -> tuple[str | None, str | None]:
    """A result as JSON, and if it is too large without its largest keys, and which these are; an empty key is all of it."""
    nothing = None, json.dumps([""])
    if not data:
        return nothing
    value = codec.unpack(data)
    if len(data) <= RESULT_MAX:
        return json.dumps(value, default=repr), None
    if not isinstance(value, dict):
        return nothing
    sizes = {key: len(json.dumps({key: each}, default=repr)) for key, each in value.items()}
    kept, size = {}, 0
    for key in sorted(sizes, key=sizes.__getitem__):
        size += sizes[key]
        if size > RESULT_MAX:
            break
        kept[key] = value[key]
    lacks = sorted(value.keys() - kept.keys())
    return nothing if len(lacks) > _LACKS_MAX else (json.dumps(kept, default=repr), json.dumps(lacks))


@contextlib.contextmanager
def _together(db: sqlite3.Connection) -> Iterator[None]:
    db.execute("BEGIN")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")
