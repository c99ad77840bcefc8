"""The store: one SQLite file, one process, one connection, one thread. In the daemon no other module imports sqlite3.

The supervisor opens it before anything else and holds it until the end. WAL and synchronous=FULL: what is committed
survives a power cut; locking_mode=EXCLUSIVE: nobody else has it open meanwhile, so SQLite needs no shared memory, and
the bug of two connections resetting one WAL (SQLite before 3.51.3) cannot strike. Commits are grouped: the first change
of a turn of the loop begins a transaction, commit() at its end makes all of them durable at once, and nothing that
rests on them may leave the process before.

A change that fails (full disk, damage) spoils the whole transaction: SQLite may have rolled back what came before it,
so every further change and the commit are refused until rollback(). schedctl opens the file to read while no daemon
runs.

What the tables offer is in store_jobs.py, store_runs.py and store_notes.py, their statements in queries.sql, the tables
themselves in schema_NNN.sql.
"""

import contextlib
import errno
import os
import re
import sqlite3
import urllib.parse
from collections.abc import Callable, Iterable, Iterator
from typing import Any, Literal

from lnmt_scheduler.supervisor import rows, statements, store_notes, store_runs
from lnmt_scheduler.supervisor.rows import AttemptRow, AuditRow, Counts, JobRow, RunRow, Skip
from lnmt_scheduler.supervisor.statements import SQL

__all__ = ["AttemptRow", "AuditRow", "Counts", "JobRow", "Kind", "RunRow", "Skip", "Store", "StoreError"]

Kind = Literal["conflict", "damaged", "denied", "full", "io", "locked", "missing", "newer", "older", "readonly"]

#: "LNMT", in the file's header: another program's database is not taken for ours.
APPLICATION = 0x4C4E4D54
#: Seconds that an open waits for a reader of the file to let go.
_PATIENCE = 5.0
#: A file up to this size is checked whole at open, which takes well under a second.
_CHECKED_BYTES = 64 << 20
#: Of pages in memory: retention goes all over a large file.
_CACHE_KIB = 16384
#: Pages of the WAL from which a commit moves it into the file.
_CHECKPOINT_PAGES = 1000
#: The WAL is cut back to this size after it has grown, which a commit of thousands of runs can make it do.
_WAL_BYTES = 16 << 20
#: Rows of each table that are read at the open of a larger one: from either end, and spread over it.
_SAMPLE = 200
_TABLES = ("jobs", "job_history", "attempts", "definitions", "audit", "meta")
_SCHEMA = re.compile(r"schema_([0-9]{3})\.sql")


class StoreError(Exception):
    """The store could not do it; the text says why and what to do."""

    def __init__(self, kind: Kind, message: str) -> None:
        super().__init__(message)
        self.kind = kind


class Store(store_runs.Runs, store_notes.Notes):
    def __init__(self, connection: sqlite3.Connection, path: str, image: int = -1) -> None:
        """`image` is a descriptor of the file, which becomes the store's: for copies, and for knowing it again."""
        self._db = connection
        self.path = path
        self._image = image
        self._folder = _identity(os.path.dirname(os.path.abspath(path)))
        self._is_still = False
        self._spoilt: StoreError | None = None
        #: Called if a request is taken back; None: nobody has asked for that.
        self._on_taken_back: Callable[[], None] | None = None
        #: The savepoint of the request is made with its first change.
        self._is_marked = False

    @classmethod
    def open(cls, path: str, *, read_only: bool = False, create: bool = True) -> "Store":
        """The store in this file. Raises StoreError; then the file is as it was.

        The daemon's open makes the file if there is none and `create` says so, brings an older one to the present schema
        after a copy of it (path.before-N), and locks out everybody else. The caller sees to it that one daemon at a time
        gets here. Read-only is for a store that no daemon has open: it changes nothing, and reads what a killed daemon had
        committed too. SQLite may leave an empty -wal and a -shm beside the file, which the daemon ignores.
        """
        return _open_to_read(path) if read_only else _open_to_write(path, create=create)

    @property
    def in_transaction(self) -> bool:
        """Something was changed, or tried to be, since the last commit() or rollback()."""
        return self._db.in_transaction or self._spoilt is not None

    def commit(self) -> None:
        """Make the changes since the last commit durable; if that fails, StoreError, and rollback() is due."""
        if self._spoilt is not None:
            raise self._spoilt
        if self._db.in_transaction:
            with self._changing():
                self._db.execute("COMMIT")  # and of every savepoint within
            self._is_marked = False

    @contextlib.contextmanager
    def together(self, on_taken_back: Callable[[], None]) -> Iterator[None]:
        """What is changed in here stands or falls as a whole: an exception takes it back, and nothing from before.

        `on_taken_back` is called then, if there was anything to take back. Not to be nested.
        """
        self._on_taken_back, self._is_marked = on_taken_back, False
        try:
            yield
        except BaseException:
            if self._is_marked and self._spoilt is None:
                self._db.execute("ROLLBACK TO request")
                on_taken_back()
            raise
        finally:
            if self._is_marked and self._spoilt is None:
                self._db.execute("RELEASE request")
            self._on_taken_back, self._is_marked = None, False

    def rollback(self) -> None:
        """Take back the changes since the last commit; the store can be used again."""
        self._spoilt, self._is_marked = None, False
        if self._db.in_transaction:
            with _named(self.path):
                self._db.execute("ROLLBACK")

    def checkpoint(self) -> None:
        """Move the WAL into the file and cut it to nothing; not within a transaction."""
        with _named(self.path):
            self._db.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchall()

    def close(self) -> None:
        """What is not committed is taken back. Never raises: a WAL that stays behind is read at the next open."""
        with contextlib.suppress(StoreError, sqlite3.Error):
            self.rollback()
            self.checkpoint()
        self._db.close()
        if self._image >= 0:
            # Not before: a process that closes a file gives up all its locks on it, SQLite's too (fcntl(2)).
            os.close(self._image)
            self._image = -1

    # What is on the disk.

    def check_place(self) -> None:
        """Raise StoreError if the file is no longer the one that was opened: removed, or another put in its place."""
        found, ours = _identity(self.path), os.fstat(self._image)
        if found != (ours.st_dev, ours.st_ino):
            what = "was removed" if found is None else "was replaced"
            raise StoreError(
                "missing",
                f"{self.path} {what} under the daemon; put it back, or stop the daemon before a copy is put there",
            )

    def put_back(self) -> None:
        """If the file was removed, and its directory is still the same, write what was committed into a new one."""
        self.rollback()
        folder = _identity(os.path.dirname(os.path.abspath(self.path)))
        if folder == self._folder and not os.path.lexists(self.path):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(f"{self.path}-wal")  # its changes are in the copy
            with _named(self.path):
                _copy(self._db, self.path, self.path)

    @contextlib.contextmanager
    def still(self) -> Iterator[int]:
        """Commit, and keep the file as it is: what is committed from here on goes to the log alone. The file's size.

        So read_file() reads one moment, however long it takes. The log grows meanwhile: look at log_size().
        """
        self.commit()
        self.checkpoint()
        with _named(self.path):
            self._db.execute("PRAGMA wal_autocheckpoint=0")
        self._is_still = True
        try:
            yield os.fstat(self._image).st_size
        finally:
            self._is_still = False
            with contextlib.suppress(sqlite3.Error):
                self._db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")

    @property
    def is_still(self) -> bool:
        """A copy is being made."""
        return self._is_still

    def read_file(self, offset: int, limit: int) -> bytes:
        """A piece of the file."""
        with _named(self.path):
            return os.pread(self._image, limit, offset)

    def log_size(self) -> int:
        """Bytes of the log."""
        try:
            return os.stat(f"{self.path}-wal").st_size
        except FileNotFoundError:
            return 0

    def counts(self) -> rows.Counts:
        """For `status`."""
        return rows.Counts(
            jobs=self._count("jobs.count"),
            enabled=self._count("jobs.count_enabled"),
            pending=self._count("runs.count", "pending"),
            running=self._count("runs.count", "running"),
            retrying=self._count("runs.count", "retrying"),
        )

    def _count(self, name: str, *values: Any) -> int:
        return int(self._rows(SQL[name], *values)[0][0])

    # How statements are carried out.

    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]:
        try:
            return self._db.execute(statement, values).fetchall()
        except sqlite3.Error as error:
            raise _fault(error, self.path) from error

    def _each(self, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        with _named(self.path):
            yield from self._db.execute(statement, values)

    def _change(self, statement: str, *values: Any) -> int:
        with self._changing():
            return self._db.execute(statement, values).rowcount

    def _change_all(self, statement: str, values: Iterable[tuple[Any, ...]]) -> int:
        with self._changing():
            return max(0, self._db.executemany(statement, values).rowcount)

    def _insert(self, statement: str, *values: Any) -> int | None:
        with self._changing():
            cursor = self._db.execute(statement, values)
            return cursor.lastrowid if cursor.rowcount else None

    @contextlib.contextmanager
    def _changing(self) -> Iterator[None]:
        if self._spoilt is not None:
            raise self._spoilt
        try:
            if not self._db.in_transaction:
                self._db.execute("BEGIN IMMEDIATE")
            if self._on_taken_back is not None and not self._is_marked:
                self._db.execute("SAVEPOINT request")
                self._is_marked = True
            yield
        except sqlite3.Error as error:
            fault = _fault(error, self.path)
            if isinstance(fault, StoreError) and fault.kind != "conflict":
                self._spoilt = fault
            raise fault from error


# Opening.


def _open_to_write(path: str, *, create: bool) -> Store:
    if not os.path.exists(path):
        if not create:
            raise StoreError("missing", f"{path} is gone; put it, or a backup, back")
        _make(path)
    _refuse_empty(path)
    with contextlib.suppress(OSError):  # another's file: SQLite will say what is wrong with it
        os.chmod(path, 0o600)
    with contextlib.ExitStack() as on_failure, _named(path):
        # Opened before SQLite takes its locks: see close().
        image = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW)
        on_failure.callback(os.close, image)
        db = _connect(path, "rw", _PATIENCE)
        on_failure.callback(db.close)
        db.execute("PRAGMA locking_mode=EXCLUSIVE")
        db.execute("BEGIN IMMEDIATE")  # the lock, and whether the file is open for writing
        db.execute("ROLLBACK")
        _check_identity(db, path)
        _set_up(db)
        _check_pages(db, path)
        _migrate(db, path)
        _prove_durable(db)
        on_failure.pop_all()
    return Store(db, path, image)


def _open_to_read(path: str) -> Store:
    if not os.path.exists(path):
        raise StoreError("missing", f"there is no store at {path}; start the daemon, or name its --state-dir")
    _refuse_empty(path)
    with contextlib.ExitStack() as on_failure, _named(path):
        db = _connect(path, "ro", 0)
        on_failure.callback(db.close)
        version = _check_identity(db, path)
        latest = migrations()[-1][0]
        if version < latest:
            raise StoreError(
                "older", f"{path} has schema {version}, older than {latest}; start the daemon once to bring it up"
            )
        on_failure.pop_all()
    return Store(db, path)


def _connect(path: str, mode: str, patience: float) -> sqlite3.Connection:
    return sqlite3.connect(
        f"file:{urllib.parse.quote(os.path.abspath(path))}?mode={mode}",
        uri=True,
        timeout=patience,
        isolation_level=None,  # transactions are begun here, not by the module
        cached_statements=256,
    )


def _set_up(db: sqlite3.Connection) -> None:
    db.execute("PRAGMA journal_mode=WAL")
    db.execute("PRAGMA synchronous=FULL")
    db.execute(f"PRAGMA journal_size_limit={_WAL_BYTES}")
    db.execute(f"PRAGMA wal_autocheckpoint={_CHECKPOINT_PAGES}")
    db.execute("PRAGMA temp_store=MEMORY")
    db.execute(f"PRAGMA cache_size=-{_CACHE_KIB}")


def _prove_durable(db: sqlite3.Connection) -> None:
    """Have a commit reach the disk: one that takes none any more is found out here, and not by the first decision."""
    db.execute("INSERT INTO meta VALUES ('opened', 1) ON CONFLICT (key) DO UPDATE SET value = value + 1")


def _make(path: str) -> None:
    """A new store, put in its place whole, so that a file that is there is never half of one."""
    if os.path.exists(f"{path}-wal") and os.path.getsize(f"{path}-wal"):
        raise StoreError(
            "damaged",
            f"{path} is gone but its log {path}-wal is not; put it back, or move the log away to start anew",
        )
    fresh = f"{path}.new"
    with _named(path):
        _make_private(fresh)
        with contextlib.closing(_connect(fresh, "rw", 0)) as db:
            db.execute(f"PRAGMA application_id={APPLICATION}")
            for version, script in migrations():
                _apply(db, version, script)
            db.execute("PRAGMA journal_mode=WAL")
        os.rename(fresh, path)
        _sync_directory(path)


def _migrate(db: sqlite3.Connection, path: str) -> None:
    (version,) = db.execute("PRAGMA user_version").fetchone()
    todo = [(number, script) for number, script in migrations() if number > version]
    if todo:
        _copy(db, path, f"{path}.before-{todo[0][0]}")
    for number, script in todo:
        _apply(db, number, script)


def migrations() -> list[tuple[int, str]]:
    """(version, script) of every schema file, in order."""
    found = []
    for name in sorted(os.listdir(statements.HERE)):
        if match := _SCHEMA.fullmatch(name):
            with open(os.path.join(statements.HERE, name), encoding="utf-8") as file:
                found.append((int(match[1]), file.read()))
    return found


def _apply(db: sqlite3.Connection, version: int, script: str) -> None:
    try:
        db.executescript(f"BEGIN IMMEDIATE;\n{script}\nPRAGMA user_version={version};\nCOMMIT;")
    except sqlite3.Error:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def _copy(db: sqlite3.Connection, path: str, to: str) -> None:
    """A copy of the whole database, put in its place when it is complete and durable."""
    part = f"{to}.part"
    _make_private(part)
    with contextlib.closing(_connect(part, "rw", 0)) as copy:
        db.backup(copy)
    os.rename(part, to)
    _sync_directory(path)


def _make_private(path: str) -> None:
    """An empty file of 0600; what a start that was cut short left behind makes room."""
    for leftover in (path, f"{path}-journal", f"{path}-wal"):
        with contextlib.suppress(FileNotFoundError):
            os.unlink(leftover)
    os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))


def _identity(path: str) -> tuple[int, int] | None:
    try:
        found = os.stat(path)
    except OSError:
        return None
    return found.st_dev, found.st_ino


def _sync_directory(path: str) -> None:
    directory = os.open(os.path.dirname(os.path.abspath(path)), os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


# What can be wrong.


def _refuse_empty(path: str) -> None:
    # SQLite takes an empty file for a new database; ours are never empty, so something has emptied it.
    if os.path.getsize(path) == 0:
        raise StoreError("damaged", f"{path} is empty; put a copy back, or move it away to start anew")


def _check_identity(db: sqlite3.Connection, path: str) -> int:
    """The version of the schema; StoreError if it is another program's file, or that of a later version of this one."""
    (application,) = db.execute("PRAGMA application_id").fetchone()
    if application != APPLICATION:
        raise StoreError(
            "damaged", f"{path} is no store of this program; put a copy back, or move it away to start anew"
        )
    (version,) = db.execute("PRAGMA user_version").fetchone()
    latest = migrations()[-1][0]
    if version > latest:
        raise StoreError(
            "newer",
            f"{path} has schema {version}, this version of LNMT Scheduler knows up to {latest};"
            f" install the version that wrote it, or put back the copy {path}.before-{latest + 1}",
        )
    return int(version)


def _check_pages(db: sqlite3.Connection, path: str) -> None:
    """Look for damage: everywhere in a file that is small or suspected, else in samples of each table, so that a start
    takes no longer for a large one.
    """
    suspect = f"{path}.suspect"
    if os.path.getsize(path) > _CHECKED_BYTES and not os.path.exists(suspect):
        for table in _TABLES:
            for order in ("ASC", "DESC"):
                db.execute(f"SELECT * FROM {table} ORDER BY 1 {order} LIMIT {_SAMPLE}").fetchall()
            _sample(db, table)
        return
    (verdict,) = db.execute("PRAGMA quick_check(1)").fetchone()
    if verdict != "ok":
        raise StoreError("damaged", _damaged(path, verdict))
    with contextlib.suppress(FileNotFoundError):
        os.unlink(suspect)


def _sample(db: sqlite3.Connection, table: str) -> None:
    """Read rows spread over the whole table, as far as its rows have numbers."""
    key = {"job_history": "run_id", "attempts": "run_id", "audit": "id", "definitions": "id"}.get(table)
    if key is None:
        return
    (last,) = db.execute(f"SELECT {key} FROM {table} ORDER BY {key} DESC LIMIT 1").fetchone() or (0,)
    for number in range(_SAMPLE):
        at = last * number // _SAMPLE
        db.execute(f"SELECT * FROM {table} WHERE {key} >= ? ORDER BY {key} LIMIT 1", (at,)).fetchall()


def suspect(path: str, why: str) -> None:
    """Have the next open look at the whole file, however large: an error was met that the disk may be behind."""
    with contextlib.suppress(OSError), open(f"{path}.suspect", "w", encoding="utf-8") as file:
        file.write(f"{why}\n")


def _damaged(path: str, why: object) -> str:
    return f"{path} is damaged ({why}); keep the file, and put a copy back or move it away to start anew"


def _denied(path: str) -> str:
    return f"{path} cannot be opened by uid {os.geteuid()}; use the daemon's account or root"


def _full(path: str) -> str:
    return f"no room to write {path}; free some space on its file system"


def _readonly(path: str) -> str:
    return f"{path} cannot be written; mend its permissions or remount its file system"


@contextlib.contextmanager
def _named(path: str) -> Iterator[None]:
    """What goes wrong in here with this file is a StoreError."""
    try:
        yield
    except sqlite3.Error as error:
        raise _fault(error, path) from error
    except OSError as error:
        match error.errno:
            case errno.ENOSPC | errno.EDQUOT:
                raise StoreError("full", _full(path)) from error
            case errno.EROFS:
                raise StoreError("readonly", _readonly(path)) from error
            case errno.EACCES | errno.EPERM:
                raise StoreError("denied", _denied(path)) from error
        raise StoreError("io", f"{path}: {error.strerror}; look at its directory and the kernel's log") from error


def _is_unwritable(path: str) -> bool:
    """Read-only file systems, and files that are immutable: nothing else keeps root from writing."""
    try:
        if os.statvfs(os.path.dirname(os.path.abspath(path))).f_flag & os.ST_RDONLY:
            return True
    except OSError:
        return False
    return os.geteuid() == 0 and os.path.exists(path) and not os.access(path, os.W_OK)


def _fault(error: sqlite3.Error, path: str) -> Exception:
    """What SQLite's error means for us; a mistake of ours is left as it is."""
    # The lowest byte is the kind of error, what is above it says more (sqlite.org/rescode.html).
    match getattr(error, "sqlite_errorcode", sqlite3.SQLITE_MISUSE) & 0xFF:
        case sqlite3.SQLITE_CORRUPT | sqlite3.SQLITE_NOTADB:
            return StoreError("damaged", _damaged(path, error))
        case sqlite3.SQLITE_FULL:
            return StoreError("full", _full(path))
        case sqlite3.SQLITE_READONLY:
            return StoreError("readonly", _readonly(path))
        case sqlite3.SQLITE_BUSY | sqlite3.SQLITE_LOCKED:
            return StoreError("locked", f"another process, such as a daemon, has {path} open; see: fuser {path}")
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_IOERR if _is_unwritable(path):
            return StoreError("readonly", _readonly(path))
        case sqlite3.SQLITE_CANTOPEN | sqlite3.SQLITE_PERM | sqlite3.SQLITE_AUTH:
            return StoreError("denied", _denied(path))
        case sqlite3.SQLITE_IOERR:
            name = getattr(error, "sqlite_errorname", "")
            return StoreError("io", f"{path}: {error} ({name}); look at the kernel's log and check the disk")
        case sqlite3.SQLITE_CONSTRAINT:
            return StoreError("conflict", f"{path}: {error}")
    return error
