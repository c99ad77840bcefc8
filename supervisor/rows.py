"""The rows of the store as values, and the two ways between a value and a column.

What the store's methods return and take, in the supervisor, and in schedctl as it reads the store of a stopped daemon.
A column has the same name and meaning in every table, so the columns that are not what SQLite holds (JSON, truth) are
told by their name alone. Times are epoch milliseconds in UTC, durations seconds, sizes bytes. No sqlite3 and no I/O.
"""

import dataclasses
import json
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple, TypeVar

Row = TypeVar("Row")


@dataclasses.dataclass(frozen=True, slots=True)
class JobRow:
    uid: int
    job_id: str
    #: The keys that job, file or site gave, and from where each came.
    given: dict[str, Any]
    origins: dict[str, str]
    #: Of the definition in force; Store.definition() has it too.
    hash: str
    #: cli, api or file:/path.
    source: str
    #: uid of who made it.
    owner: int
    enabled: bool
    #: The last decided slot.
    watermark: int
    #: None: none to come, no schedule, or disabled.
    next_slot: int | None
    last_success: int | None
    #: When the first of the failures since the last success ended; None: not failing.
    failing_since: int | None
    added: int
    changed: int
    #: None: it lives.
    removed: int | None
    #: Runs that failed since the last success.
    failures: int
    #: The last run that ended and was no skip.
    last_run: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class RunRow:
    run_id: int
    job_uid: int
    #: The job's label when the run was decided.
    job_id: str
    #: None: not by schedule.
    slot: int | None
    #: A gap in one row: its last slot, else None, and how many slots there were.
    slot_last: int | None
    slots: int
    trigger: str
    status: str
    reason: str | None
    priority: int
    #: When it was decided; names the folder of its output.
    queued: int
    start_time: int | None
    end_time: int | None
    duration: float | None
    gate_until: int | None
    retry_at: int | None
    #: Launched so far.
    attempts: int
    max_attempts: int
    exit_code: int | None
    #: Its name.
    signal: str | None
    #: What the job wrote.
    output_bytes: int
    #: What of it is on disk.
    output_stored: int
    truncated: bool
    cpu_seconds: float | None
    max_memory: int | None
    processes: int | None
    uid: int | None
    profile: str | None
    #: Of the definition that it was decided with.
    hash: str
    retry_of: int | None
    requested_by: str | None
    #: What a run by hand was asked with: kwargs, event, with_retries.
    request: dict[str, Any] | None
    #: layer -> state
    enforced: dict[str, str]
    killed_count: int
    #: (host pid, command), the first of them.
    killed: tuple[tuple[int, str], ...]
    error: str | None
    notes: str | None
    #: Of the result, which Store.result() reads; None: there is none.
    result_bytes: int | None


@dataclasses.dataclass(frozen=True, slots=True)
class AttemptRow:
    run_id: int
    attempt: int
    launched: int
    #: None: it runs, or nobody knows yet.
    ended: int | None
    status: str | None
    reason: str | None
    exit_code: int | None
    signal: str | None
    error: str | None
    duration: float | None
    cpu_seconds: float | None
    max_memory: int | None
    uid: int | None
    #: Hash of the policy that it was started with; None: it was not, or by another supervisor.
    policy: str | None
    enforced: dict[str, str]
    killed: tuple[tuple[int, str], ...]
    killed_count: int


@dataclasses.dataclass(frozen=True, slots=True)
class AuditRow:
    id: int
    time: int
    uid: int
    user: str
    action: str
    target: str
    before: Any
    after: Any


@dataclasses.dataclass(frozen=True, slots=True)
class Pause:
    """A job, or the whole schedule, that starts nothing by itself for a while."""

    #: 0: the whole schedule.
    job_uid: int
    since: int
    #: None: until somebody resumes it.
    until: int | None
    #: How long it is meant to be.
    seconds: float | None
    #: Who asked for it.
    user: str
    reason: str | None


@dataclasses.dataclass(frozen=True, slots=True)
class Planned:
    """What is to become of one job, in a change of many."""

    #: add, change or remove.
    action: str
    job_id: str
    #: None: it is removed; so with the other two.
    source: str | None = None
    given: dict[str, Any] | None = None
    origins: dict[str, str] | None = None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Skip:
    """A slot, or a gap of them, that is decided and does not run."""

    job_uid: int
    job_id: str
    slot: int
    slot_last: int | None = None
    slots: int = 1
    reason: str
    priority: int
    #: When this was decided.
    queued: int
    hash: str
    error: str | None = None


class Scheduled(NamedTuple):
    """What the schedule needs of a job."""

    uid: int
    job_id: str
    next_slot: int | None
    watermark: int


class Identity(NamedTuple):
    """What a reload compares of a job."""

    uid: int
    job_id: str
    hash: str
    source: str


class Arrival(NamedTuple):
    """A result of a parent that its child has not started on yet."""

    parent_uid: int
    run_id: int


class Hook(NamedTuple):
    """A job that is to be started at the end of another one's run."""

    job_id: str
    #: on_success, on_failure or on_change.
    key: str
    target_id: str


class Gone(NamedTuple):
    """A run that was deleted, for the removal of its output (output.path_of)."""

    run_id: int
    queued: int


class Stored(NamedTuple):
    """A run whose output is on disk."""

    run_id: int
    queued: int
    output_stored: int


class Cursor(NamedTuple):
    """How far a round of retention is."""

    #: All runs up to this one have been looked at for their age; None: all that are old enough.
    run_id: int | None
    #: All jobs up to this one have been looked at for the number of their runs.
    job_uid: int


@dataclasses.dataclass(frozen=True, slots=True)
class Swept:
    """One call's worth of retention."""

    gone: tuple[Gone, ...]
    #: For the next call; None: the round is over.
    cursor: Cursor | None


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Counts:
    #: Living ones.
    jobs: int
    enabled: int
    pending: int
    running: int
    retrying: int


#: Columns that are worked out, for the fields that are no columns.
_WORKED_OUT = {
    "hash": "(SELECT hash FROM definitions WHERE id = definition)",
    "result_bytes": "length(result)",
}

_to_json = json.JSONEncoder(separators=(",", ":")).encode


def _killed(text: str) -> tuple[tuple[int, str], ...]:
    return tuple((pid, command) for pid, command in json.loads(text))


_DECODE: dict[str, Callable[[Any], Any]] = {
    **dict.fromkeys(("given", "origins", "request", "enforced", "before", "after"), json.loads),
    **dict.fromkeys(("enabled", "truncated"), bool),
    "killed": _killed,
}
_JSON = {name for name, decode in _DECODE.items() if decode is not bool}


def names(row: type) -> tuple[str, ...]:
    """The fields of a row class."""
    return tuple(field.name for field in dataclasses.fields(row))


def columns(row: type) -> str:
    """What to SELECT for reader(row)."""
    return ", ".join(_WORKED_OUT.get(name, name) for name in names(row))


def reader(row: type[Row]) -> Callable[[Sequence[Any]], Row]:
    """The function that makes a `row` of what SQLite returns for its columns()."""
    decoded = [(place, _DECODE[name]) for place, name in enumerate(names(row)) if name in _DECODE]

    def read(values: Sequence[Any]) -> Row:
        found = list(values)
        for place, decode in decoded:
            if found[place] is not None:
                found[place] = decode(found[place])
        return row(*found)

    return read


def encode(column: str, value: Any) -> Any:
    """The value as SQLite is to hold it. Raises TypeError for what JSON cannot hold."""
    if value is not None and column in _JSON:
        return _to_json(value)
    if isinstance(value, str):
        return text(value)
    return value


def decode(column: str, value: Any) -> Any:
    """The value of a column that reader() is not asked for."""
    return value if value is None else _DECODE[column](value)


def text(value: str) -> str:
    """The text itself; half a surrogate pair, which a job's words may hold and UTF-8 cannot, is escaped."""
    return value if value.isascii() else value.encode(errors="backslashreplace").decode()


def as_map(row: Any) -> Mapping[str, Any]:
    """The row's fields by name."""
    return {name: getattr(row, name) for name in names(type(row))}
