"""What the store's tables are written on: named statements, and the few ways to carry one out.

store_jobs.py and store_runs.py say which statements make up an answer; store.py, which alone imports sqlite3, carries
them out, begins transactions and names what went wrong. Statements are read from queries.sql once; their text never
changes, so that SQLite's cache holds each one prepared.
"""

import abc
import functools
import os
import re
from collections.abc import Iterable, Iterator
from typing import Any

from lnmt_scheduler.supervisor import rows

HERE = os.path.dirname(os.path.abspath(__file__))
_NAME = re.compile(r"-- ([a-z]+\.[a-z_]+): .+")
_COLUMNS = {
    "{job}": rows.columns(rows.JobRow),
    "{run}": rows.columns(rows.RunRow),
    "{attempt}": rows.columns(rows.AttemptRow),
    "{audit}": rows.columns(rows.AuditRow),
    "{planned}": rows.columns(rows.Planned),
    "{pause}": rows.columns(rows.Pause),
}


def load(path: str) -> dict[str, str]:
    """The statements of a .sql file by name."""
    with open(path, encoding="utf-8") as file:
        lines = file.read().splitlines()
    found: dict[str, list[str]] = {}
    statement: list[str] = []  # what stands before the first name belongs to nobody
    for line in lines:
        if name := _NAME.fullmatch(line):
            statement = found[name[1]] = []
        elif not line.startswith("--"):
            statement.append(line)
    return {name: _with_columns("\n".join(text).strip()) for name, text in found.items()}


def _with_columns(statement: str) -> str:
    for placeholder, columns in _COLUMNS.items():
        statement = statement.replace(placeholder, columns)
    return statement


SQL = load(os.path.join(HERE, "queries.sql"))


@functools.cache
def update(table: str, key: tuple[str, ...], columns: tuple[str, ...]) -> str:
    """UPDATE of these columns of the row with this key."""
    values = ", ".join(f"{column} = ?" for column in columns)
    where = " AND ".join(f"{column} = ?" for column in key)
    return f"UPDATE {table} SET {values} WHERE {where}"


def check_columns(given: Iterable[str], allowed: frozenset[str]) -> None:
    """Raises TypeError for a name that is no column, or none that may be set."""
    if unknown := sorted(set(given) - allowed):
        raise TypeError(f"not columns that may be set: {', '.join(unknown)}")


class Statements(abc.ABC):
    """Carries out statements. Every method raises StoreError; the changing ones begin a transaction if none is open."""

    @abc.abstractmethod
    def _rows(self, statement: str, *values: Any) -> list[tuple[Any, ...]]: ...

    @abc.abstractmethod
    def _each(self, statement: str, *values: Any) -> Iterator[tuple[Any, ...]]:
        """One row at a time, for answers that may be long; a rollback ends it early."""

    @abc.abstractmethod
    def _change(self, statement: str, *values: Any) -> int:
        """Returns how many rows it changed."""

    @abc.abstractmethod
    def _change_all(self, statement: str, values: Iterable[tuple[Any, ...]]) -> int:
        """The same statement for each of these; returns how many rows were changed in all."""

    @abc.abstractmethod
    def _insert(self, statement: str, *values: Any) -> int | None:
        """Returns the new row's number, or None where a conflict that the statement allows added nothing."""

    def _first(self, statement: str, *values: Any) -> tuple[Any, ...] | None:
        found = self._rows(statement, *values)
        return found[0] if found else None

    def _put_definition(self, digest: str, given: dict[str, Any]) -> None:
        self._change(SQL["definition.put"], digest, rows.encode("given", given))

    def _drop_definitions(self, numbers: Iterable[int]) -> None:
        self._change_all(SQL["definition.drop"], ((number,) for number in sorted(set(numbers))))
