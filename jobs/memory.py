"""What a job remembers from run to run in many rows: an SQLite file of its state directory, with the statements of a .sql file.

A run may be killed at any instruction: what it changes is one transaction, so the next one finds all of it or nothing. A
file that is damaged is put aside and said, and the job begins anew; one that a newer version has written is left alone.
"""

import contextlib
import os
import re
import sqlite3
from collections.abc import Iterator

from lnmt_scheduler.jobs import keep, needs

_HERE = os.path.dirname(os.path.abspath(__file__))
_NAME = re.compile(r"-- ([a-z_]+): .+")
#: Pages of 4 KiB; what is written beyond is refused as on a full disk.
_PAGES_MAX = 64 * 1024


def statements(name: str) -> dict[str, str]:
    """The statements of NAME.sql by their names; `schema` is run on a new file."""
    with open(os.path.join(_HERE, f"{name}.sql"), encoding="utf-8") as file:
        parts = _NAME.split(file.read())
    # The words after a name are on the line that the pattern took.
    return {key: text.strip() for key, text in zip(parts[1::2], parts[2::2], strict=True)}


@contextlib.contextmanager
def opened(path: str, schema: str, version: int) -> Iterator[sqlite3.Connection]:
    """The file, made if it is not there, in a transaction that is committed if the block ends well. OSError, sqlite3.Error."""
    try:
        connection = _open(path, schema, version)
    except sqlite3.DatabaseError as error:
        if isinstance(error, sqlite3.OperationalError):  # locked, full, not to be opened: it may be whole
            raise
        keep.aside(path, str(error))
        for suffix in ("-journal", "-wal", "-shm"):
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path + suffix)
        connection = _open(path, schema, version)
    try:
        with connection:
            yield connection
    finally:
        connection.close()


def _open(path: str, schema: str, version: int) -> sqlite3.Connection:
    connection = sqlite3.connect(path, timeout=10, isolation_level=None)
    try:
        connection.execute("PRAGMA synchronous = FULL")
        connection.execute(f"PRAGMA max_page_count = {_PAGES_MAX}")
        connection.execute("BEGIN IMMEDIATE")
        (found,) = connection.execute("PRAGMA user_version").fetchone()
        if found > version:
            needs.end(f"{path} is of version {found}, from a newer program; this one knows {version}")
        _check(connection)
        if not found:
            for each in schema.split(";"):
                connection.execute(each)
            connection.execute(f"PRAGMA user_version = {version}")
    except BaseException:
        connection.close()
        raise
    return connection


def _check(connection: sqlite3.Connection) -> None:
    """Look at every page: what is damaged deep in the file would else show in the midst of a run, again and again."""
    (found,) = connection.execute("PRAGMA quick_check(1)").fetchone()
    if found != "ok":
        raise sqlite3.DatabaseError(found)
