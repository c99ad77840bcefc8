"""Requests of the control socket, one dataclass per command, and the envelope they travel in.

A connection carries frames (frames.py) of at most FRAME_LIMIT bytes. The client sends [id, tag, fields, key]: `id` is its
own number for the request, `tag` the class name in lower case, `fields` a map, `key` a random text that makes a repeated
request have one effect (the server answers the second as it answered the first), or None where repeating is harmless.
The server sends [id, kind, value]: any number of kind "item", then one "ok" or "error". An error's value is a map
{code, message, details}: code is the exit code that schedctl leaves with, details a list of lines.

The first request is hello. What is larger than a frame goes in pages (List, History, Read, Export) or is handed over
beforehand with Upload.
"""

from dataclasses import dataclass, field

PROTOCOL = 1
FRAME_LIMIT = 256 * 1024
MAX_DEPTH = 32
#: Bytes in one Read reply or one Upload.
CHUNK = 64 * 1024
#: Bytes of an event's data as JSON: it travels in a variable of the environment, too.
EVENT_LIMIT = 64 * 1024
#: Bytes that one connection may have uploaded and not yet used.
UPLOAD_LIMIT = 256 * 1024 * 1024

# What schedctl exits with (sysexits(3) where there is one).
OK, FAILED, USAGE, NOT_FOUND, UNAVAILABLE, CANNOT_WRITE, NOT_ALLOWED, INVALID = 0, 1, 2, 3, 69, 73, 77, 78
#: Failure of `run` and `wait` themselves, as against the job's.
RUN_FAILED = 125


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """-> {protocol, version, pid, role}. A protocol that the server does not speak is refused with both named."""

    protocol: int
    version: str


@dataclass(frozen=True, slots=True, kw_only=True)
class List:
    """-> {jobs: [job row], more: id to pass as `after`, or None}, by id."""

    tag: str | None = None
    enabled: bool | None = None
    after: str | None = None
    limit: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Show:
    """-> {job: job row, origins: {key: where from}, last: run row or None, environment: {...} if asked}."""

    job_id: str
    environment: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Add:
    """-> {job: job row, runs_as, next: [ms], warnings: [text]}. An id in use is INVALID."""

    definition: dict[str, object]


@dataclass(frozen=True, slots=True, kw_only=True)
class Edit:
    """As Add. `changes` holds the keys to set; None as value of a key in `unset` puts back the default."""

    job_id: str
    changes: dict[str, object] = field(default_factory=dict)
    unset: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Remove:
    """-> {}. Dependents make it INVALID."""

    job_id: str
    purge: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Enable:
    """-> {job: job row}"""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Disable:
    """-> {job: job row}; queued runs of it are skipped with reason disabled."""

    job_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Rename:
    """-> {job: job row, followed: [id of a job that names it]}. An id in use, or a file's job that names it, is INVALID."""

    job_id: str
    new_id: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Pause:
    """-> {pause: {job_id, since, until, by, reason}}. Without job_id the whole schedule; `seconds` is how long."""

    job_id: str | None = None
    seconds: float | None = None
    reason: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Resume:
    """-> {pause: what it was, or None if nothing was paused}. Without job_id the whole schedule."""

    job_id: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Trigger:
    """-> {runs: [{job_id, run_id, status, reason, error}]}, one for each job of this event; `data` is JSON-like.

    Data of more than EVENT_LIMIT bytes as JSON is INVALID.
    """

    event: str
    data: object = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Run:
    """-> {run_id}. If a run of the job is active: FAILED, with its id in `details`, unless allow_overlap."""

    job_id: str
    kwargs: dict[str, object] | None = None
    event: object = None
    with_retries: bool = False
    allow_overlap: bool = False
    profile: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Follow:
    """Items while the run lasts; ok: {run: run row}.

    Items: {kind: "output", stream: "stdout"|"stderr"|"log", data: bytes} if output is asked, {kind: "progress", done, total,
    message}, {kind: "state", status, attempt}, {kind: "gap", bytes} where output was dropped under the cap.
    """

    run_id: int
    output: bool = False
    #: Output that exists already is sent too, from this place on; places count what was dropped.
    from_start: bool = True
    at: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """-> {run: run row}, once the tree is gone. A run that has ended is NOT_FOUND."""

    run_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Retry:
    """-> {run_id}: a new run with retry_of."""

    run_id: int


@dataclass(frozen=True, slots=True, kw_only=True)
class History:
    """-> {runs: [run row], more: run id to pass as `before`, or None}, newest first. `since` is epoch milliseconds."""

    job_id: str | None = None
    status: str | None = None
    since: int | None = None
    before: int | None = None
    limit: int = 50


@dataclass(frozen=True, slots=True, kw_only=True)
class Read:
    """-> {data: bytes, size: total bytes, stored: bytes}. `what`: output, stdout, stderr, log or result (msgpack).

    A negative offset counts from the end. Output is as stored: head, then a marker line where bytes were dropped, then tail.
    """

    run_id: int
    what: str = "output"
    offset: int = 0
    limit: int = CHUNK


@dataclass(frozen=True, slots=True, kw_only=True)
class Why:
    """-> {job_id, time, answer: text, run_id, slot, status, reason}: of the run that the answer is about, or None.

    `at` is a moment, epoch milliseconds, None for now; a slot less than `span` milliseconds after it is meant, too.
    """

    job_id: str
    at: int | None = None
    span: int = 60_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Items, without end: {time, counts, running, waiting, next, ended}, now and whenever they change, at most one a second.

    running: {run_id, job_id, slot, start_time, attempt, attempts, progress: {done, total, message} or None, usual: seconds or
    None}; waiting: {run_id, job_id, slot, status, until, why}; next: {job_id, slot}; ended: {run_id, job_id, slot, status,
    reason, exit_code, signal, end_time, duration}. The first of each: 50, 20, 10, 10.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class State:
    """-> the daemon's health, for `schedctl status`."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Sandbox:
    """-> {job_id, profile, mode, runs_as, refused, layers: [{layer, wanted, state, why}], plan: {section: [line]}}.

    What a run of the job would get here; `refused` is None, or why it would get nothing, and then the plan is empty.
    """

    job_id: str
    profile: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Measure:
    """-> {job_id, profile, mode, uid, error, layers: [{layer, wanted, state, by}], attempts: [{operation, outcome}]}.

    Builds the job's box and looks from inside. The job itself does not run, and history knows nothing of it.
    """

    job_id: str
    profile: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Shell:
    """-> {policy, environment, directory, umask, uids}: what a run of the job would get, secrets included.

    For whoever has the user that jobs are started by, who then builds the same box himself; others are NOT_ALLOWED. FAILED
    while a run of the job is active: the state directory can have one user at a time.
    """

    job_id: str
    profile: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Doctor:
    """-> {uid, mode, layers, missing, cgroups: {layout, limits, kill, missing}, default: {profile, refused}}.

    What the launcher found at its start. `default` is the profile of jobs that name none; `refused` is None, or why it cannot
    be had.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Export:
    """-> {jobs: [definition], more}, pages as List: only the keys that were given."""

    after: str | None = None
    limit: int = 200


@dataclass(frozen=True, slots=True, kw_only=True)
class Upload:
    """-> {}. Bytes for the Import that follows on this connection; CHUNK at most each."""

    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Import:
    """Takes what was uploaded: msgpack of [[name of the file, its document {jobs, defaults}], ...].

    Items: {kind: "change", action, job_id, diff: [line]}, {kind: "note", text}; ok: counts of added, changed, removed,
    unchanged.

    All or nothing: errors come as one INVALID with every problem in `details`. With `prune` jobs of source cli that the
    upload does not name are removed.
    """

    dry_run: bool = False
    prune: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Validate:
    """-> {jobs: count, problems: [text]}: the registered jobs, checked again."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """As Import, for jobs.d, --jobs files and config.toml."""

    dry_run: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Drain:
    """-> {running}: starts nothing new, answers when nothing runs, or FAILED after `timeout` seconds."""

    timeout: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """-> {}: the daemon has begun to stop. The connection ends when it has."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Restart:
    """-> {pid, version} of this supervisor, as it leaves for another one that has started; runs go on.

    FAILED, with nothing changed, if that one cannot start or does not fit the launcher; INVALID if the configuration that it
    would read is wrong.
    """


@dataclass(frozen=True, slots=True, kw_only=True)
class Audit:
    """-> {entries: [{id, time, uid, user, action, target, before, after}], more}, newest first."""

    before: int | None = None
    limit: int = 100


@dataclass(frozen=True, slots=True, kw_only=True)
class Backup:
    """Items: {data: bytes}, the store's file as it is now, in order; ok: {bytes: how many}. One at a time, else FAILED."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Complete:
    """-> {values: [text]}, at most 200. `what`: job, run or event."""

    what: str
    prefix: str = ""


REQUESTS: dict[str, type] = {
    request.__name__.lower(): request
    for request in (
        Hello, List, Show, Add, Edit, Remove, Enable, Disable, Run, Follow, Cancel, Retry, History, Read, State, Export,
        Upload, Import, Validate, Reload, Drain, Stop, Audit, Complete, Sandbox, Measure, Shell,
        Doctor, Backup, Restart, Why, Rename, Pause, Resume, Trigger, Watch,
    )
}  # fmt: skip

#: What an operator may ask: see, run, cancel, enable, disable, pause. The rest is for admins; so is export, which holds the
#: secrets that everything else masks.
OPERATOR = frozenset(
    {
        "hello", "list", "show", "enable", "disable", "run", "follow", "cancel", "retry", "history", "read", "state",
        "validate", "audit", "complete", "sandbox", "measure", "doctor", "why", "pause", "resume",
        "trigger", "watch",
    }
)  # fmt: skip
