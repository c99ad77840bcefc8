"""The table of a job file's keys: of each its type, its check and its words; and the kinds of key it is made of.

load.py asks msgspec for the type and then calls the check (checks.py); the JSON Schema for editors (schema.py) comes
from the same table. supervisor/config.py describes the keys of config.toml with the same kinds. Everything here is
about one key alone; what keys mean together is in load.py.
"""

import functools
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from lnmt_scheduler.jobs import checks, units
from lnmt_scheduler.sandbox import policy, profiles

_LIST_MAX = 1000
DAY = 86400
_ID_PATTERN = "^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$"


@dataclass(frozen=True, slots=True, kw_only=True)
class Field:
    #: For msgspec.convert, strict: a bool is no int.
    type: Any
    #: After "must be", for a value of another type.
    expects: str
    #: Canonical form of a value of that type; ValueError otherwise.
    check: Callable[[Any], Any]
    description: str
    #: JSON Schema of the value; None: not shown to editors.
    schema: Mapping[str, Any] | None
    #: null is a value too.
    nullable: bool = False
    #: Keys of a map that are checked one by one, before `check`.
    parts: Mapping[str, "Field"] | None = None


def text(description: str, check: Callable[[str], str], *, nullable: bool = True, **schema: Any) -> Field:
    return Field(
        type=str, expects="text", check=check, description=description, schema={"type": "string", **schema},
        nullable=nullable,
    )  # fmt: skip


def line(description: str, limit: int, *, nullable: bool = True) -> Field:
    return text(description, functools.partial(checks.line, limit=limit), nullable=nullable, maxLength=limit)


def boolean(description: str) -> Field:
    return Field(type=bool, expects="true or false", check=bool, description=description, schema={"type": "boolean"})


def count(description: str, low: int, high: int) -> Field:
    return Field(
        type=int, expects="a whole number", check=functools.partial(checks.count, low=low, high=high),
        description=description, schema={"type": "integer", "minimum": low, "maximum": high},
    )  # fmt: skip


def size(description: str, low: int = 1, high: int = 1 << 50) -> Field:
    return Field(
        type=int | str, expects='a size, such as 4096 or "512M"',
        check=functools.partial(checks.size, low=low, high=high), description=description,
        schema={"type": ["integer", "string"], "minimum": low, "pattern": units.SIZE_PATTERN},
    )  # fmt: skip


def duration(description: str, low: float = 0, high: float = checks.LONGEST, *, none: bool = False) -> Field:
    """With `none`, the text "none" and null mean that there is no limit."""

    def check(value: float | str) -> float | None:
        return None if none and value == "none" else checks.seconds(value, low, high)

    return Field(
        type=float | str, expects='a number of seconds, or text such as "1h30m"', check=check, description=description,
        schema={
            "type": ["number", "string"], "minimum": 0,
            "pattern": f"{units.DURATION_PATTERN}|^none$" if none else units.DURATION_PATTERN,
        },
        nullable=none,
    )  # fmt: skip


def sequence(
    description: str,
    item: Any,
    expects: str,
    check: Callable[[Any], Any],
    items: dict[str, Any],
    *,
    nullable: bool = False,
) -> Field:
    def bounded(value: list[Any]) -> Any:
        if len(value) > _LIST_MAX:
            raise ValueError(f"has {len(value)} entries; at most {_LIST_MAX} are allowed")
        return check(value)

    return Field(
        type=list[item], expects=expects, check=bounded, description=description, nullable=nullable,
        schema={"type": "array", "items": items, "maxItems": _LIST_MAX},
    )  # fmt: skip


def choice(description: str, *words: str) -> Field:
    def check(value: str) -> str:
        if value not in words:
            raise ValueError(f"must be {' or '.join(map(repr, words))}, not {value[:80]!r}")
        return value

    return Field(type=str, expects="text", check=check, description=description, schema={"enum": list(words)})


def _codes(description: str) -> Field:
    codes = {"type": "integer", "minimum": 0, "maximum": 255}
    return sequence(description, int, "a list of exit codes", checks.codes, codes)


def _hooks(description: str) -> Field:
    return sequence(description, str, "a list of ids of jobs", checks.hooks, {"type": "string", "pattern": _ID_PATTERN})


_PATHS = {"type": "array", "items": {"type": "string", "pattern": "^/"}, "maxItems": profiles.PATHS_MAX}
_SANDBOX = {
    "profile": {"enum": list(profiles.PROFILES)},
    "network": {"enum": list(profiles.NETWORKS)},
    "writable": _PATHS,
    "readable": _PATHS,
    "hidden": _PATHS,
    "require": {"type": "array", "items": {"enum": list(policy.LAYERS)}},
    "proc": {"enum": ["own", "full"]},
    "processes": {"enum": ["own", "host"]},
}
LIMITS = {
    "cpu_time": duration("CPU seconds that each process may use, in whole seconds (RLIMIT_CPU).", 1),
    "open_files": count("Descriptors that each process may hold open (RLIMIT_NOFILE).", 16, 1 << 20),
    "file_size": size("Bytes that a file may have for a process to write to it (RLIMIT_FSIZE)."),
    "output": size("Bytes of output kept of a run; see output_action. Default: limits.output of config.toml.", 1024),
    "nice": count("Niceness, nice(2).", -20, 19),
    "io_class": choice("Scheduling class of its input and output, ioprio_set(2).", "idle", "best-effort", "realtime"),
    "memory": size("Bytes of memory of the whole run.", 4 << 20),
    "swap": size("Bytes of swap besides; none unless given. Needs memory.", 0),
    "cpu": Field(
        type=int | float,
        expects="a number of cores",
        check=checks.cores,
        description="Processors of the whole run: 0.5 is half of one.",
        schema={"type": "number", "minimum": 0.01, "maximum": 4096},
    ),
    "pids": count("Processes and threads of the whole run.", 1, 1 << 22),
    "tmp_size": size("Bytes of its private temporary files.", 4096),
}

#: In the order of model.KEYS. `main_file` is for the Python API; load.py asks for permission.
FIELDS: dict[str, Field] = {
    "id": text(
        "The job's name in every command, unique.", checks.identifier, nullable=False, pattern=_ID_PATTERN
    ),
    "name": line("A title for people. Default: the id.", 200, nullable=False),
    "module": text("Module that holds the function, as for import.", checks.dotted),
    "function": text("Function to call, dotted if it is in a class: Polling.poll_network.", checks.dotted),
    "schedule": line("Cron expression (5 fields, or 6 with seconds first), @daily and its like, or @every 90s.", 256),
    "priority": Field(
        type=int | str, expects="1 to 4, or low, normal, high or critical", check=checks.priority,
        description="Which of the runs that wait for a place goes first: 1 low, 2 normal, 3 high, 4 critical.",
        schema={
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 4},
                {"type": "string", "pattern": "^([lL][oO][wW]|[nN][oO][rR][mM][aA][lL]|[hH][iI][gG][hH]"
                                              "|[cC][rR][iI][tT][iI][cC][aA][lL])$"},
            ]
        },
    ),
    "max_retries": count("Attempts after the first, if that fails.", 0, 10_000),
    "retry_delay": duration("Wait before the first retry."),
    "timeout": duration("Longest one attempt may take.", 0.001, none=True),
    "dependencies": sequence(
        "Jobs that a slot of this one waits for, or, if it has no schedule, whose ends start it.",
        str | dict[str, str], "a list of ids", checks.dependencies,
        {
            "anyOf": [
                {"type": "string"},
                {
                    "type": "object",
                    "properties": {"job": {"type": "string"}, "when": {"enum": list(checks.WHENS)}},
                    "required": ["job"], "additionalProperties": False,
                },
            ]
        },
    ),
    "enabled": boolean("Whether its schedule starts it."),
    "args": sequence("Positional arguments of the function.", Any, "a list", checks.values, {}),
    "kwargs": Field(
        type=dict[str, Any], expects="a map", check=checks.values, description="Keyword arguments of the function.",
        schema={"type": "object"},
    ),
    "command": Field(
        type=list[str] | str, expects="text for /bin/sh, or a list of text", check=checks.command, nullable=True,
        description="Instead of module and function: a list of program and arguments, or text for /bin/sh -c.",
        schema={"type": ["string", "array"], "minLength": 1, "minItems": 1, "items": {"type": "string"}},
    ),
    "timezone": text("Time zone in which the schedule is read, an IANA name. Default: the daemon's.", checks.zone),
    "dst": choice(
        "A fixed time that does not exist because the clocks are put forward: right after that, or not at all.",
        "cron", "skip",
    ),
    "dependency_timeout": duration(
        "How long a slot waits for its dependencies. Default: until the job's next slot, at most a day.", none=True
    ),
    "retry_backoff": Field(
        type=float, expects="a number", check=checks.backoff, description="Factor on the delay from retry to retry.",
        schema={"type": "number", "minimum": 1, "maximum": 100},
    ),
    "retry_max_delay": duration("Longest wait before a retry."),
    "retry_jitter": boolean("Wait a random part of the delay, so that what failed together does not retry together."),
    "retry_on": sequence(
        "Reasons of a failure that are retried, also exit:CODE. Default: see the reference.",
        str, "a list of reasons", checks.retry_on,
        {"anyOf": [{"enum": list(checks.RETRIABLE)}, {"type": "string", "pattern": "^exit:[0-9]{1,3}$"}]},
        nullable=True,
    ),
    "success_codes": _codes("Exit codes that mean success."),
    "warning_codes": _codes("Exit codes that mean success with a warning."),
    "idempotent": boolean("A lost or stopped attempt may be run again."),
    "total_timeout": duration("Longest a run may take from its first start, retries included.", 0.001, none=True),
    "stall_timeout": duration("Longest an attempt may be silent: no output, progress or heartbeat.", 0.001, none=True),
    "kill_grace": duration("Time between TERM and KILL."),
    "overlap": choice(
        "A slot that comes while a run has not ended: it is skipped, waits for it, ends and replaces it, or starts beside"
        " it.",
        "skip", "queue", "replace", "allow",
    ),
    "max_instances": count("With overlap allow: runs at one time.", 1, 10_000),
    "catch_up": choice(
        "Of the slots that were missed while the daemon was down: the latest runs, none, or all of them, in order.",
        "latest", "skip", "all",
    ),
    "catch_up_window": duration("How old a missed slot may be to be caught up.", none=True),
    "start_deadline": duration("A slot that could not start in this time is skipped.", 1, none=True),
    "jitter": duration("Each start is put off by a part of this, always the same one of this job on this host.", high=DAY),
    "pool": text(
        "Pool of [pools] in config.toml, whose runs at one time are limited together.", checks.identifier
    ),
    "on_event": text("Event that starts it: schedctl trigger EVENT.", checks.event, pattern=_ID_PATTERN),
    "user": text(
        "Account that it runs as, or dynamic: a user of its own for each run; for a daemon of root. Default: dynamic,"
        " for profile trusted root.",
        checks.account,
    ),
    "group": text("Group that it runs as. Default: the account's.", checks.account),
    "environment": Field(
        type=dict[str, Any], expects="a map of text", check=checks.environment,
        description="Variables besides those that every job sees.",
        schema={"type": "object", "additionalProperties": {"type": "string"}},
    ),
    "environment_file": text("File of NAME=VALUE lines, read at each start.", checks.absolute, pattern="^/"),
    "working_directory": text("Absolute path. Default: the account's home.", checks.absolute, pattern="^/"),
    "umask": Field(
        type=int | str, expects='octal text such as "022"', check=checks.umask,
        description='Octal text such as "027"; a number means itself.',
        schema={"type": ["string", "integer"], "pattern": "^(0o)?[0-7]{1,4}$", "minimum": 0, "maximum": 0o777},
    ),
    "python": text(
        "Absolute path of the interpreter that calls the function, with msgpack in it. Default: the daemon's.",
        checks.absolute, pattern="^/",
    ),
    "python_path": sequence(
        "Absolute directories searched for the module first.", str, "a list of paths",
        lambda value: [checks.absolute(path) for path in value], {"type": "string", "pattern": "^/"},
    ),
    "secrets": Field(
        type=dict[str, Any], expects="a map from names to files", check=checks.secrets,
        description="Files that only this job's box gets, in $CREDENTIALS_DIRECTORY: of each name an absolute path of mode "
                    "0600, or the name of a systemd credential of the daemon.",
        schema={"type": "object", "additionalProperties": {"type": "string"}},
    ),
    "sandbox": Field(
        type=str | dict[str, Any] | None, expects="a profile, or a map with one", check=checks.sandbox,
        description="What the job may use and see: a profile, or a map. Default: default_profile of config.toml.",
        schema={
            "anyOf": [
                {"enum": [*profiles.PROFILES, None]},
                {"type": "object", "properties": _SANDBOX, "additionalProperties": False},
            ]
        },
    ),
    "limits": Field(
        type=dict[str, Any], expects="a map", check=dict, description="What a run may use.", parts=LIMITS,
        schema={"type": "object"},
    ),
    "output_action": choice("At limits.output: drop what is in the middle, or end the run.", "truncate", "kill"),
    "grants": sequence(
        "What of the daemon's own the job is given: history, a copy of the history at $LNMT_HISTORY.",
        str, "a list of words", checks.grants, {"enum": list(checks.GRANTS)},
    ),
    "on_failure": _hooks("Jobs to start when a run of this one has failed."),
    "on_success": _hooks("Jobs to start when a run of this one has completed."),
    "on_change": _hooks("Jobs to start when a run has failed and the one before had not, or the other way round."),
    "alert_after": Field(
        type=int | str, expects='a number of runs, or a duration such as "30m"', check=checks.alert_after, nullable=True,
        description="Runs that must have failed in a row, or time of failing, before on_failure starts something.",
        schema={
            "anyOf": [
                {"type": "integer", "minimum": 1, "maximum": 10_000},
                {"type": "string", "pattern": units.DURATION_PATTERN},
            ]
        },
    ),
    "mailto": Field(
        type=str, expects="an address", check=checks.mailto, nullable=True,
        description="Address that the end of runs is mailed to, as notify_on says.",
        schema={"type": "string", "maxLength": 250},
    ),
    "notify_on": choice(
        "What is mailed: runs that fail; besides them, runs that wrote something; or every run.", "failure", "output", "always"
    ),
    "run_when_full": boolean("May start while the disk is full."),
    "tags": sequence(
        "Words to find it by.", str, "a list of text", functools.partial(checks.unique_lines, limit=100),
        {"type": "string", "maxLength": 100},
    ),
    "description": text(
        "Text for people.", functools.partial(checks.text, limit=4096), nullable=False, maxLength=4096
    ),
    "main_file": Field(
        type=str, expects="text", check=checks.absolute, description="", schema=None, nullable=True
    ),
}  # fmt: skip
