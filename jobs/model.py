"""What a job is: the words that files, store, daemon and Python API share.

Plain dataclasses without behaviour; the loader (load.py) checks them, nothing else does. JobConfig is mutable and may be
subclassed, so that a program can build one and change it until it is registered; a registered job is a copy of its fields.
Durations are seconds, sizes are bytes.
"""

from dataclasses import dataclass, field, fields
from datetime import datetime
from enum import Enum, IntEnum
from typing import Any


class JobPriority(IntEnum):
    LOW = 1
    NORMAL = 2
    HIGH = 3
    CRITICAL = 4


class JobStatus(Enum):
    #: Decided, and waiting for a slot or at its gate.
    PENDING = "pending"
    RUNNING = "running"
    COMPLETED = "completed"
    FAILED = "failed"
    CANCELLED = "cancelled"
    #: Waiting for its next attempt.
    RETRYING = "retrying"
    #: Decided, and not run; the reason says why.
    SKIPPED = "skipped"


#: What `list` shows for a job without a run.
NEVER_RUN = "never_run"


@dataclass(kw_only=False)
class JobConfig:
    """One job. Every key of the job file, with its built-in default."""

    #: [A-Za-z0-9][A-Za-z0-9._-]{0,63}
    id: str
    #: Empty: the id.
    name: str = ""
    #: A Python function: module and dotted name in it; or else `command`.
    module: str | None = None
    function: str | None = None
    #: Cron expression; None: by hand, by event, or after its dependencies.
    schedule: str | None = None
    priority: JobPriority = JobPriority.NORMAL
    max_retries: int = 3
    retry_delay: float = 60
    timeout: float | None = 3600
    #: Ids, and {"job": ID, "when": "failed" or "any"}; links() reads them.
    dependencies: list[Any] = field(default_factory=list)
    enabled: bool = True
    args: list[Any] = field(default_factory=list)
    kwargs: dict[str, Any] = field(default_factory=dict)
    #: An argv, or a text for /bin/sh -c.
    command: list[str] | str | None = None
    #: IANA name; None: the daemon's.
    timezone: str | None = None
    dst: str = "cron"
    #: Seconds that a slot waits at its gate; None: until the job's own next slot, at most 24 h.
    dependency_timeout: float | None = None
    retry_backoff: float = 2.0
    retry_max_delay: float = 3600
    retry_jitter: bool = True
    #: Reasons, also `exit:75`; None: the default of the table of reasons.
    retry_on: list[str] | None = None
    success_codes: list[int] = field(default_factory=lambda: [0])
    warning_codes: list[int] = field(default_factory=list)
    idempotent: bool = False
    total_timeout: float | None = None
    stall_timeout: float | None = None
    kill_grace: float = 10
    overlap: str = "skip"
    max_instances: int = 1
    catch_up: str = "latest"
    catch_up_window: float | None = 86400
    start_deadline: float | None = None
    jitter: float = 0
    pool: str | None = None
    #: Event that starts it.
    on_event: str | None = None
    user: str | None = None
    group: str | None = None
    environment: dict[str, str] = field(default_factory=dict)
    environment_file: str | None = None
    working_directory: str | None = None
    #: As in `umask 022`: a number.
    umask: int = 0o022
    #: Path of the interpreter of a function; None: the daemon's.
    python: str | None = None
    python_path: list[str] = field(default_factory=list)
    secrets: dict[str, str] = field(default_factory=dict)
    sandbox: Any = None
    limits: dict[str, Any] = field(default_factory=dict)
    output_action: str = "truncate"
    grants: list[str] = field(default_factory=list)
    #: Ids of jobs to start at the end of a run of this one.
    on_failure: list[str] = field(default_factory=list)
    on_success: list[str] = field(default_factory=list)
    on_change: list[str] = field(default_factory=list)
    #: Runs (int) or a duration (text) of failing before on_failure starts something; None: one run.
    alert_after: int | str | None = None
    mailto: str | None = None
    notify_on: str = "failure"
    run_when_full: bool = False
    tags: list[str] = field(default_factory=list)
    description: str = ""
    #: File of the `__main__` that `module` means; set by the Python API, never by a job file.
    main_file: str | None = None


#: Keys that name jobs to start at the end of a run.
HOOKS = ("on_success", "on_failure", "on_change")


def links(dependencies: list[Any]) -> list[tuple[str, str]]:
    """The jobs that these dependencies name, each with what is asked of them: ok, failed or any."""
    return [(item, "ok") if isinstance(item, str) else (item["job"], item["when"]) for item in dependencies]


def hooks(config: JobConfig) -> list[tuple[str, str]]:
    """(key, id) of each job that is to be started at the end of a run of this one."""
    return [(key, target) for key in HOOKS for target in getattr(config, key)]


#: Keys in the order of the class: the order of every listing.
KEYS = tuple(f.name for f in fields(JobConfig))


@dataclass(frozen=True, kw_only=True)
class JobResult:
    """How a run ended, for the Python API."""

    job_id: str
    status: JobStatus
    start_time: datetime | None
    end_time: datetime | None
    #: Text of what went wrong, or None.
    error: str | None
    #: The last 64 KiB of both streams.
    output: str
    retry_count: int
    run_id: int
    #: A word of the table of reasons; None: simply completed.
    reason: str | None = None
    exit_code: int | None = None
    signal: str | None = None
    #: What the function returned.
    result: Any = None
    #: Seconds.
    duration: float | None = None
