"""Rows of the store as a client sees them: what the daemon sends, and what schedctl builds from the store by itself.

Both call the same functions, so that a list looks the same with and without a daemon. A view is a plain map of values
that msgpack and JSON carry. On the socket its times are epoch milliseconds and secrets are already masked; `job_json`
and `run_json` are schedctl's last step: exactly the documented keys, times as text. Pure functions.
"""

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import MISSING, fields
from datetime import UTC, datetime, timedelta
from typing import Any

from lnmt_scheduler.jobs import model

#: The fields of a row of the store (rows.py) by name.
Row = Mapping[str, Any]
View = Mapping[str, Any]

MASK = "***"
_SECRET = re.compile(
    r"passw|passphrase|passcode|secret|token|credential|(api|access|private|auth|signing)[_.-]?key"
    r"|(^|[_.-])(pass|pw|pwd|auth|key)($|[_.-])",
    re.IGNORECASE,
)
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

#: `main_file` belongs to the Python API; no job file has it.
JOB_KEYS = tuple(key for key in model.KEYS if key != "main_file")
#: What a listed job has besides its own keys.
JOB_STATE = ("status", "last_run", "next_run", "failing_since", "source")
#: Only where it is so: why the job is out of schedule; who has paused it, or the whole schedule.
QUARANTINED, PAUSED = "quarantined", "paused"
PAUSE_KEYS = ("job_id", "since", "until", "by", "reason")
JOB_TIMES = ("last_run", "next_run", "failing_since")
RUN_KEYS = (
    "run_id", "job_id", "slot", "trigger", "status", "reason", "exit_code", "signal", "start_time", "end_time",
    "duration", "retry_count", "output", "output_bytes", "truncated", "result", "error", "usage", "profile", "enforced",
    "uid", "killed", "killed_count",
)  # fmt: skip
#: Only where it is so: its processes were killed, and have not ended.
UNKILLABLE = "unkillable"
RUN_TIMES = ("slot", "start_time", "end_time")
#: Only where it is so: "held", because the clock cannot be right.
CLOCK, DRAINING = "clock", "draining"
STATE_KEYS = (
    "pid", "launcher_pid", "version", "launcher_version", "package", "advice", "uptime", "jobs", "running", "queued",
    "retrying", "store", "quarantined", "paused", "next", "default_profile",
    "problems",
)  # fmt: skip

_DEFAULTS = {
    field.name: (field.default_factory if field.default_factory is not MISSING else lambda value=field.default: value)
    for field in fields(model.JobConfig)
    if field.name in JOB_KEYS
}


def job_view(
    row: Row,
    last: Row | None = None,
    last_start: int | None = None,
    quarantined: str | None = None,
    paused: View | None = None,
) -> dict[str, Any]:
    """A job, with its newest row of history if it has one, when it last ran, and what keeps it from starting, if that is so.

    `paused` is a pause_view(): its own, or that of the whole schedule.

    Every key of the job with the value in force, secrets masked, then JOB_STATE. Times are epoch milliseconds.
    """
    given = row["given"]
    view = {key: given[key] if key in given else default() for key, default in _DEFAULTS.items()}
    view["id"] = row["job_id"]
    view["name"] = view["name"] or row["job_id"]
    view["priority"] = int(view["priority"])
    view["enabled"] = row["enabled"]
    if isinstance(view["umask"], int):
        view["umask"] = f"{view['umask']:03o}"
    return mask_definition(view) | {
        "status": last["status"] if last else model.NEVER_RUN,
        "last_run": last_start,
        "next_run": row["next_slot"] if row["enabled"] and paused is None else None,
        "failing_since": row["failing_since"],
        "source": row["source"],
        QUARANTINED: quarantined,
        # For `check` alone.
        "last_success": row["last_success"],
        "added": row["added"],
        PAUSED: paused,
    }


def pause_view(row: Row, job_id: str | None) -> dict[str, Any]:
    """A pause, of this job or with None of the whole schedule."""
    return {
        "job_id": job_id,
        "since": row["since"],
        "until": row["until"],
        "by": row["user"],
        "reason": row["reason"],
    }


def origins(row: Row) -> dict[str, str]:
    """Key of a job -> where its value comes from; a key that is absent has the built-in default."""
    if row["enabled"] == row["given"].get("enabled", True):
        return dict(row["origins"])
    return {**row["origins"], "enabled": "schedctl enable" if row["enabled"] else "schedctl disable"}


def run_view(row: Row) -> dict[str, Any]:
    """A run: RUN_KEYS without output and result, which a client reads by itself, and `more`.

    `more` is for tables, and for knowing what there is to read: {slot_last, slots, attempts, retry_of, queued,
    gate_until, retry_at, notes, result_bytes}. Times are epoch milliseconds.
    """
    return {
        "run_id": row["run_id"],
        "job_id": row["job_id"],
        "slot": row["slot"],
        "trigger": row["trigger"],
        "status": row["status"],
        "reason": row["reason"],
        "exit_code": row["exit_code"],
        "signal": row["signal"],
        "start_time": row["start_time"],
        "end_time": row["end_time"],
        "duration": row["duration"],
        "retry_count": max(0, row["attempts"] - 1),
        "output_bytes": row["output_bytes"],
        "truncated": row["truncated"],
        "error": row["error"],
        "usage": {
            "cpu_seconds": row["cpu_seconds"],
            "max_memory": row["max_memory"],
            "processes": row["processes"],
        },
        "profile": row["profile"],
        "enforced": dict(row["enforced"]),
        "uid": row["uid"],
        "killed": [{"pid": pid, "command": command} for pid, command in row["killed"]],
        "killed_count": row["killed_count"],
        "more": {
            "slot_last": row["slot_last"],
            "slots": row["slots"],
            "attempts": row["attempts"],
            "retry_of": row["retry_of"],
            "queued": row["queued"],
            "gate_until": row["gate_until"],
            "retry_at": row["retry_at"],
            "notes": row["notes"],
            "result_bytes": row["result_bytes"] or 0,
        },
    }


def facts(row: Row) -> dict[str, Any]:
    """What another job is told of a run; times are text."""
    return {
        "job_id": row["job_id"],
        "run_id": row["run_id"],
        "slot": iso(row["slot"]),
        "trigger": row["trigger"],
        "status": row["status"],
        "reason": row["reason"],
        "exit_code": row["exit_code"],
        "signal": row["signal"],
        "start_time": iso(row["start_time"]),
        "end_time": iso(row["end_time"]),
        "duration": row["duration"],
        "retry_count": max(0, row["attempts"] - 1),
    }


def audit_view(row: Row) -> dict[str, Any]:
    """An entry of the audit; secrets in what was and what became are masked."""
    return {
        "id": row["id"],
        "time": row["time"],
        "uid": row["uid"],
        "user": row["user"],
        "action": row["action"],
        "target": row["target"],
        "before": _masked_change(row["before"]),
        "after": _masked_change(row["after"]),
    }


def mask_definition(definition: View) -> dict[str, Any]:
    """A copy of a job's keys in which nothing of `environment` and `kwargs` whose name looks secret is left."""
    return {key: mask(value) if key in ("environment", "kwargs") else value for key, value in definition.items()}


def mask(value: Any) -> Any:
    """A copy with MASK in place of every value, at any depth, whose key looks secret."""
    match value:
        case dict():
            return {key: MASK if looks_secret(key) else mask(inner) for key, inner in value.items()}
        case list() | tuple():
            return [mask(inner) for inner in value]
    return value


def looks_secret(name: object) -> bool:
    return isinstance(name, str) and _SECRET.search(name) is not None


def _masked_change(value: Any) -> Any:
    return mask_definition(value) if isinstance(value, dict) else value


# The last step before a program reads it: schedctl's JSON.


def job_json(view: View) -> dict[str, Any]:
    """What `list -o json` holds of one job."""
    extra = {key: view[key] for key in (QUARANTINED, PAUSED) if view.get(key)}
    if PAUSED in extra:
        extra[PAUSED] = pause_json(extra[PAUSED])
    return with_times({key: view[key] for key in (*JOB_KEYS, *JOB_STATE)} | extra, JOB_TIMES)


def pause_json(view: View) -> dict[str, Any]:
    """A pause, as JSON has it."""
    return with_times({key: view[key] for key in PAUSE_KEYS}, ("since", "until"))


def run_json(view: View, output: bytes, result: Any) -> dict[str, Any]:
    """What `history`, `run` and `wait` say of one run; `output` is its end, at most 64 KiB."""
    values = {**view, "output": output.decode(errors="backslashreplace"), "result": plain(result)}
    keys = (*RUN_KEYS, UNKILLABLE) if values.get(UNKILLABLE) else RUN_KEYS
    return with_times({key: values[key] for key in keys}, RUN_TIMES)


def state_json(view: View) -> dict[str, Any]:
    """What `status -o json` holds."""
    extra = [key for key in (CLOCK, DRAINING) if view.get(key)]
    view = {**view, "advice": advice(view)}
    state = {key: view.get(key) for key in (*STATE_KEYS, *extra)}
    state["paused"] = [pause_json(pause) for pause in view.get("paused") or ()]
    if state["next"] is not None:
        state["next"] = with_times(state["next"], ("slot",))
    return state


def advice(view: View) -> str | None:
    """What to do if launcher, supervisor and the package on disk are not of one version; None if they are."""
    running, launcher, package = view["version"], view.get("launcher_version"), view.get("package")
    if package not in (None, running):
        return f"version {package} is installed: schedctl restart makes it decide, and runs go on"
    if launcher not in (None, running):
        return f"the launcher is of {launcher}, which works; to renew it, too: schedctl drain, then restart the daemon"
    return None


def with_times(values: View, names: Iterable[str]) -> dict[str, Any]:
    """A copy in which these epoch milliseconds are text."""
    return {**values, **{name: iso(values[name]) for name in names}}


def iso(at_ms: int | None) -> str | None:
    """2026-01-31T12:00:00.000Z"""
    if at_ms is None:
        return None
    return (_EPOCH + timedelta(milliseconds=at_ms)).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def plain(value: Any) -> Any:
    """What a job returned, as JSON has it: bytes as text, numbers that JSON lacks as null, every key as text."""
    match value:
        case bytes():
            return value.decode(errors="backslashreplace")
        case float() if not math.isfinite(value):
            return None
        case list():
            return [plain(inner) for inner in value]
        case dict():
            return {_key(key): plain(inner) for key, inner in value.items()}
    return value


def _key(key: Any) -> str:
    return key.decode(errors="backslashreplace") if isinstance(key, bytes) else str(key)
