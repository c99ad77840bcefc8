"""What schedctl prints for people: tables and descriptions made of views.

Times are those of the user's own zone, which the heading names. Whatever came from a job or its definition is escaped
before it is printed. On a terminal long cells are cut and a status has its colour; a pipe gets the whole text and none.
tabulate is imported where a table is printed: it costs more than all the rest of a `list`.
"""

# ruff: noqa: PLC0415 - an import waits for the command that needs it, for each costs time at every call

import json
import os
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from typing import Any

from lnmt_scheduler.jobs import model, units
from lnmt_scheduler.supervisor import views
from lnmt_scheduler.supervisor.cli_common import printable

View = Mapping[str, Any]

#: Characters that a name and an error may have on a terminal.
_NAME_MAX, _ERROR_MAX = 25, 60
_COLORS = {"completed": 32, "failed": 31, "cancelled": 33, "skipped": 33, "retrying": 33, "running": 36}


def zone_name() -> str:
    """IANA name of the zone that local times are in; where it has none, what the C library calls it."""
    name = os.environ.get("TZ", "").removeprefix(":") or os.path.realpath("/etc/localtime").rpartition("/zoneinfo/")[2]
    is_iana = not name.startswith("/") and ("/" in name or name == "UTC")
    return name if is_iana else time.tzname[0]


def minute(at_ms: int) -> str:
    return time.strftime("%Y-%m-%d %H:%M", time.localtime(at_ms // 1000))


def second(at_ms: int | None) -> str:
    return "" if at_ms is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(at_ms // 1000))


def shortened(text: str, width: int) -> str:
    """At most `width` characters, cut between words where that is possible."""
    if len(text) <= width:
        return text
    cut = text[: width - 3]
    return (cut.rpartition(" ")[0] or cut).rstrip() + "..."


def cause(run: View) -> str:
    """Why a run ended as it did, in a few words; empty: it simply completed."""
    match run["reason"]:
        case None:
            return ""
        case "exit":
            return f"exit {run['exit_code']}"
        case "warning":
            return f"warning, exit {run['exit_code']}"
        case "signal":
            return f"signal {run['signal']}"
        case reason:
            return str(reason)


def _grid(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    import tabulate

    tabulate.MIN_PADDING = 0  # else a heading is two characters wider than the widest cell needs
    return tabulate.tabulate(list(rows), headers=headers, tablefmt="simple_outline", disable_numparse=True)


def plain(headers: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Any table of short texts."""
    return _grid(headers, ([printable(cell) for cell in row] for row in rows))


def _status(status: str, *, color: bool) -> str:
    code = _COLORS.get(status) if color else None
    return printable(status) if code is None else f"\033[{code}m{status}\033[0m"


def jobs(views: Iterable[View], *, terminal: bool, color: bool) -> str:
    """The table of `list`."""

    def row(job: View) -> list[str]:
        name = printable(job["name"])
        return [
            job["id"],
            shortened(name, _NAME_MAX) if terminal else name,
            printable(job["schedule"] or "-"),
            model.JobPriority(job["priority"]).name,
            _status(_held(job) or job["status"], color=color),
            _last_run(job),
            "-" if job["next_run"] is None else minute(job["next_run"]),
            "✓" if job["enabled"] else "✗",
        ]

    headers = ("ID", "Name", "Schedule", "Priority", "Status", "Last Run", f"Next Run ({zone_name()})", "Enabled")
    return _grid(headers, map(row, views))


def _held(job: View) -> str | None:
    """Where something keeps the job from starting, the word for it."""
    return next((word for word in ("quarantined", "paused") if job.get(word)), None)


def _last_run(job: View) -> str:
    if job["last_run"] is not None:
        return minute(job["last_run"])
    # A run that is queued or was skipped has not started.
    return "Never" if job["status"] == model.NEVER_RUN else "-"


def runs(views: Iterable[View], *, terminal: bool, color: bool) -> str:
    """The table of `history`."""

    def row(run: View) -> list[str]:
        error = printable(_what_went_wrong(run))
        return [
            str(run["run_id"]),
            run["job_id"],
            _status(run["status"], color=color),
            second(run["start_time"]),
            second(run["end_time"]),
            "" if run["duration"] is None else str(timedelta(seconds=run["duration"])),
            str(run["retry_count"]),
            shortened(error, _ERROR_MAX) if terminal else error,
        ]

    headers = ("Run", "Job ID", "Status", f"Started ({zone_name()})", "Ended", "Duration", "Retries", "Error")
    return _grid(headers, map(row, views))


def _what_went_wrong(run: View) -> str:
    parts = [cause(run)]
    if run["status"] == "skipped" and run["slot"] is not None:
        parts[0] += f" ({_slots(run)})"
    if run["error"]:
        # Of a traceback the last line says what happened; any other error begins with it.
        lines = run["error"].strip().splitlines() or [""]
        parts.append(lines[-1] if run["reason"] == "exception" else lines[0])
    text = ": ".join(filter(None, parts))
    if run["killed_count"]:
        names = ", ".join(dict.fromkeys(each["command"] for each in run["killed"]))
        text += f"{'; ' if text else ''}killed {run['killed_count']}: {names}"
    return text


def _slots(run: View) -> str:
    count, last = run["more"]["slots"], run["more"]["slot_last"]
    if count and count > 1:
        return f"{count} slots, {second(run['slot'])} to {second(last)}"
    return f"slot {second(run['slot'])}"


def job(view: View, origins: Mapping[str, str], last: View | None, environment: Mapping[str, str] | None) -> str:
    """What `show` prints."""
    return "\n".join(_job_lines(view, origins, last, environment))


def _job_lines(
    view: View, origins: Mapping[str, str], last: View | None, environment: Mapping[str, str] | None
) -> Iterator[str]:
    yield f"=== Job Details: {printable(view['name'])} ==="
    yield f"ID: {view['id']}"
    yield f"Name: {printable(view['name'])}"
    if view["command"] is None:
        yield f"Module: {printable(view['module'])}"
        yield f"Function: {printable(view['function'])}"
    else:
        yield f"Command: {_value(view['command'])}"
    yield f"Schedule: {printable(view['schedule'] or '-')}"
    yield f"Priority: {model.JobPriority(view['priority']).name}"
    upcoming = "-" if view["next_run"] is None else f"{second(view['next_run'])} ({zone_name()})"
    yield f"Next Run: {upcoming}"
    yield f"Status: {view['status']}"
    if view["failing_since"] is not None:
        yield f"Failing Since: {second(view['failing_since'])}"
    if why := view.get("quarantined"):
        yield f"Quarantined: {printable(why)}"
    if pause := view.get("paused"):
        yield f"Paused: {pause_words(pause)}"
    yield f"Source: {printable(view['source'])}"
    if last is not None:
        yield ""
        yield "=== Last Execution ==="
        yield from run_lines(last)
    yield ""
    yield "=== Keys ==="
    shown = [key for key in view if key in model.KEYS and (key in origins or view[key] not in (None, [], {}, ""))]
    width = max(map(len, shown))
    for key in shown:
        yield f"{key:{width}}  {_value(view[key])}  ({origins.get(key, 'built in')})"
    if environment is not None:
        yield ""
        yield "=== Environment ==="
        for name, value in sorted(environment.items()):
            yield printable(f"{name}={value}")


def run_lines(run: View) -> Iterator[str]:
    """One run, line by line."""
    yield f"Status: {run['status']}"
    yield f"Started: {second(run['start_time'])}"
    yield f"Ended: {second(run['end_time'])}"
    yield f"Retry Count: {run['retry_count']}"
    yield f"Run: {run['run_id']}"
    if wrong := cause(run):
        yield f"Reason: {wrong}"
    if run["error"]:
        first, *rest = run["error"].strip().splitlines() or [""]
        yield f"Error: {printable(first)}"
        yield from (f"  {printable(line)}" for line in rest)
    usage = run["usage"]
    if usage["cpu_seconds"] is not None and run["end_time"] is not None:
        memory = units.format_size(usage["max_memory"] or 0)
        yield f"Usage: {usage['cpu_seconds']:.3f} s of CPU time, {memory} at most"
    if run["output_bytes"]:
        cut = ", cut" if run["truncated"] else ""
        yield f"Output: {units.format_size(run['output_bytes'])}{cut}; see: schedctl logs {run['run_id']}"
    if run["killed_count"]:
        yield f"Killed: {run['killed_count']}"
        yield from (f"  {each['pid']} {printable(each['command'])}" for each in run["killed"])


def _value(value: Any) -> str:
    return printable(value) if isinstance(value, str) else json.dumps(value, ensure_ascii=True)


def state(view: View) -> str:
    """What `status` prints."""
    return "\n".join(_state_lines(view))


def _state_lines(view: View) -> Iterator[str]:
    launcher, package = view.get("launcher_version"), view.get("package")
    yield "=== Scheduler Status ==="
    yield f"Status: {'draining' if view.get('draining') else 'running'}"
    yield f"PID: {view['pid']} (launcher {view['launcher_pid']})"
    yield f"Version: {view['version']}"
    if advice := views.advice(view):
        yield f"  launcher {launcher}, installed {package}: {advice}"
    yield f"Uptime: {units.format_duration(view['uptime'])}"
    yield f"Jobs: {view['jobs']}"
    yield f"Running: {view['running']}"
    yield f"Queued: {view['queued']}"
    yield f"Retrying: {view['retrying']}"
    yield f"Store: {view['store']}"
    for job_id in view.get("quarantined") or ():
        yield f"Quarantined: {job_id}; see: schedctl show {job_id}"
    for pause in view.get("paused") or ():
        yield f"Paused: {pause['job_id'] or 'the whole schedule'}, {pause_words(pause)}"
    upcoming = view["next"]
    if upcoming is None:
        yield "Next Run: -"
    else:
        yield f"Next Run: {upcoming['job_id']} at {second(upcoming['slot'])} ({zone_name()})"
    for problem in view.get("problems", ()):
        yield f"Problem: {printable(problem)}"


def pause_words(pause: View) -> str:
    """By whom, since when, until when and why."""
    until = "" if pause["until"] is None else f" until {second(pause['until'])}"
    whole = "" if pause["job_id"] is not None else ", with the whole schedule"
    reason = f": {pause['reason']}" if pause["reason"] else ""
    return printable(f"by {pause['by']} since {second(pause['since'])}{until}{reason}") + whole


def audit(entries: Iterable[View], *, terminal: bool) -> str:
    """The table of `audit`."""

    def row(entry: View) -> list[str]:
        change = printable(_difference(entry["before"] or {}, entry["after"] or {}))
        return [
            second(entry["time"]),
            printable(entry["user"]),
            printable(entry["action"]),
            printable(entry["target"]),
            shortened(change, _ERROR_MAX) if terminal else change,
        ]

    return _grid((f"Time ({zone_name()})", "User", "Action", "Target", "Change"), map(row, entries))


def _difference(before: Any, after: Any) -> str:
    if not isinstance(before, dict) or not isinstance(after, dict):
        return json.dumps(after)
    changes = []
    for key in {**before, **after}:
        old, new = json.dumps(before.get(key)), json.dumps(after.get(key))
        if key not in before:
            changes.append(f"{key}: {new}")
        elif old != new:
            changes.append(f"{key}: {old} -> {new if key in after else 'unset'}")
    return ", ".join(changes)
