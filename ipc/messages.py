"""Every message between supervisor, launcher and job, one frozen dataclass each.

Two conversations share this file. Supervisor and launcher speak over a SOCK_SEQPACKET socketpair, one message a packet,
file descriptors beside it (SCM_RIGHTS) where the docstring says so. A job speaks over its report pipe, one way, in frames
of at most PIPE_BUF bytes, so that several writers cannot tear each other's (pipe(7)); it can speak of its own run only,
because a message names no run: the pipe does.

Requests of the control socket are in control.py. Nothing here opens, sends or decides.
"""

from dataclasses import dataclass, field

#: What supervisor and launcher speak, who may be of different versions of the package after an upgrade. Within one VERSION
#: fields are only added, each with a default that means what its absence meant, and messages are only added, and sent only to
#: an end whose MINOR has them; whoever receives a field or a message that it does not know leaves it. Anything else raises
#: VERSION, and the two do not work together. tests/data/launcher_1_0.zip is a launcher of 1.0.
VERSION = 1
#: 1: Hello, Watch, Ping, Pong, Replace, Replaced, Leave; Welcome.minor, .failed and its descriptor.
MINOR = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Ready:
    """Supervisor to launcher, once: the store is open, the sockets listen, the schedule is loaded."""

    version: int
    #: The control socket's path, for the service manager's status line.
    status: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """Supervisor to launcher, first, if it was started to take the place of another: everything is imported.

    What it is to do comes with Welcome, once the other has left; until then it has opened nothing.
    """

    version: int
    minor: int
    #: Version of the package.
    package: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Watch:
    """Supervisor to launcher, when it is ready. One descriptor: its epoll, readable while something waits for it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Pong:
    """Supervisor to launcher: this Ping has come round my loop."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replace:
    """Supervisor to launcher: start another one in my place. Answered by Replaced, if it cannot be, or by Leave."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Supervisor to launcher: start one attempt. One descriptor: the sealed payload, which becomes the launcher's."""

    #: Below 0: a trial, of which the store knows nothing.
    run_id: int
    attempt: int
    #: sandbox.policy.Policy as a map.
    policy: dict[str, object]
    #: Seconds from the start to TERM; None: no limit.
    timeout: float | None
    #: Seconds between TERM and KILL.
    kill_grace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class End:
    """Supervisor to launcher: end this attempt now, for this cause (cancelled, stalled, output, stopped, lost)."""

    run_id: int
    attempt: int
    cause: str
    #: Seconds between TERM and KILL.
    grace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Ack:
    """Supervisor to launcher: the exit of this attempt is in the store; forget it and close its pipes."""

    run_id: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Farewell:
    """Supervisor to launcher: everything is recorded; the daemon may exit with this code."""

    code: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Welcome:
    """Launcher to supervisor, first message: who starts the children, and in what kind of box."""

    version: int
    launcher_pid: int
    #: Who a job is unless it names another: the launcher's own uid, also where the supervisor has dropped to an account.
    uid: int
    #: Version of the package that the launcher runs; it may be older than the supervisor's after an upgrade.
    package: str
    #: a (root), b (user namespaces), c (landlock with scoped signals), d (none of these): sandbox/namespaces.py.
    mode: str
    #: layer -> what the probe boxes showed: "enforced" or "best effort".
    layers: dict[str, str]
    #: layer -> why it is not to be had, and the mend.
    missing: dict[str, str]
    #: layout, limits, kill and missing of sandbox.cgroup.Host.
    cgroups: dict[str, object] = field(default_factory=dict)
    #: Attempts that the launcher holds: (run_id, attempt). Started and Exited of each follow.
    held: tuple[tuple[int, int], ...] = ()
    #: Of `version`. From 1 on there is a descriptor beside this message: the page of supervisor/hand.py.
    minor: int = 0
    #: How the supervisor before this one failed by its own doing: exit 1, signal SIGSEGV, hung; empty: it did not.
    failed: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Started:
    """Launcher to supervisor: the box exists. Three descriptors, the supervisor's own: stdout, stderr, report (read ends)."""

    run_id: int
    attempt: int
    #: Host pid of the box's init, for people only; never signal it.
    pid: int
    #: CLOCK_MONOTONIC seconds.
    at: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Unkillable:
    """Launcher to supervisor: killed a while ago, and there is still somebody in the box. Exited follows once nobody is."""

    run_id: int
    attempt: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exited:
    """Launcher to supervisor: the box is empty, proven; sent again to the next supervisor until acknowledged."""

    run_id: int
    attempt: int
    #: Exit code of the main process; None if it died of a signal or never ran.
    exit_code: int | None = None
    #: Number of the signal that ended the main process.
    signal: int | None = None
    #: Why the launcher ended it: timeout, the cause of an End, stopped; None: it ended by itself.
    cause: str | None = None
    #: It could not be started: what failed, with the errno's words.
    spawn_error: str | None = None
    #: A required layer could not be had: which, and why.
    sandbox_error: str | None = None
    #: What had to be killed: (host pid, command), at most 100.
    killed: tuple[tuple[int, str], ...] = ()
    killed_count: int = 0
    #: Seconds of wall clock (monotonic) from start to empty.
    duration: float = 0.0
    #: Seconds of user and system time of the whole box.
    cpu_seconds: float = 0.0
    #: Bytes at the highest, of the whole box; where no cgroup counts it, the largest resident set of any one process.
    max_memory: int = 0
    #: Processes at the most; None: not counted.
    processes: int | None = None
    #: Processes that the kernel killed for memory, and forks that it refused, inside the box.
    oom_kills: int = 0
    pids_denied: int = 0
    #: Number of the user that it ran as; None: it never came to that.
    uid: int | None = None
    #: layer -> enforced, degraded or best effort.
    enforced: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ping:
    """Launcher to supervisor: something has waited for you long; answer if you live."""

    number: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Replaced:
    """Launcher to supervisor: there is nobody to take your place, for this reason; go on."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Leave:
    """Launcher to supervisor: another waits to take your place; close the store and go."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """Launcher to supervisor: SIGTERM or SIGINT came; end everything and say Farewell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Reload:
    """Launcher to supervisor: SIGHUP came."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Progress:
    """Job to supervisor: how far it is. total None: unknown."""

    done: float
    total: float | None = None
    message: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Heartbeat:
    """Job to supervisor: alive; resets stall_timeout."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Log:
    """Job to supervisor: one line for the run's log."""

    level: str
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """Job to supervisor: part `part` of `parts` of the msgpack of what the function returned."""

    part: int
    parts: int
    data: bytes


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """Job to supervisor: the function returned something that cannot be carried, and why."""

    error: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Raised:
    """Job to supervisor: the function raised. Part `part` of `parts` of the text: type, message, traceback."""

    part: int
    parts: int
    text: bytes


TO_LAUNCHER = (Ready, Launch, End, Ack, Farewell, Hello, Watch, Pong, Replace)
TO_SUPERVISOR = (Welcome, Started, Unkillable, Exited, Stop, Reload, Ping, Replaced, Leave)
REPORT = (Progress, Heartbeat, Log, Result, Refused, Raised)
