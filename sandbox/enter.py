"""From a fresh fork to a job's first line: the layers in order, no way back.

The first steps need no policy: init takes them before it forks the job's process, the second of its box, which inherits
them. The rest runs in the job's own process, once the policy is there. The plan is a list of small steps that describe
themselves; executing it is one loop, and the step that failed names itself. Order matters: signals and limits
before the user changes (they may need root), then the user, then what can only be given up (capabilities, privileges by
exec), then landlock, and seccomp last, since it forbids what the others need. The box's files and namespaces are there
already; init has made them. What the job inherits is fixed before any of this: descriptors 0, 1, 2, its report pipe, and
nothing else.
"""

import functools
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass

from lnmt_scheduler.sandbox import (
    allowlist,
    capabilities,
    landlock,
    limits,
    namespaces,
    policy,
    seccomp,
    syscalls,
)

_SCOPE = landlock.Rules(scope_signal=True)


class SandboxError(Exception):
    """A layer that the policy requires could not be had: which one, and why."""


@dataclass(frozen=True, slots=True)
class Step:
    layer: str
    describe: str
    execute: Callable[[], object]


def plan(wanted: policy.Policy, mode: str, program: bytes | None = None, temporary: str | None = None) -> list[Step]:
    """All that is done to a job's process, in order."""
    return [*first_steps(namespaces.kind(mode, wanted)), *last_steps(wanted, mode, program, temporary)]


def first_steps(kind: namespaces.Kind) -> list[Step]:
    """What needs no policy to be known: init does it to itself, and the job's process, which it then forks, inherits it."""
    steps = [Step("core_dumps", "no core dumps", limits.forbid_core_dumps)]
    if kind.closed:
        steps.append(Step("no_new_privs", "a session keyring of its own", capabilities.join_session_keyring))
    if kind.closed and (namespaces.has_mounts(kind.mode) or capabilities.holds(capabilities.CAP_SETPCAP)):
        steps.append(Step("no_new_privs", "no capability can be gained by exec", capabilities.drop_bounding))
        steps.append(Step("no_new_privs", "uid 0 means nothing", capabilities.lock_securebits))
    return steps


def last_steps(wanted: policy.Policy, mode: str, program: bytes | None, temporary: str | None) -> list[Step]:
    """What makes the process the job's.

    `program` is the compiled seccomp filter, if the policy wants one; `temporary` a directory of the box's own in place of
    /tmp, where mounts cannot make that private.
    """
    closed = wanted.wants("no_new_privs")
    steps = [
        Step("descriptors", "new session, without a terminal", os.setsid),
        Step("signals", "every signal to its default, none blocked", reset_signals),
        Step("rlimits", "resource limits", lambda: limits.apply(wanted)),
    ]
    if namespaces.hold(mode, wanted) == namespaces.SCOPE:
        # Before the user: init may have left it to a capability that this may be done.
        steps.append(Step("tree_kill", "its init is out of reach of its signals", lambda: _apply(_SCOPE)))
    if wanted.uid is not None and (wanted.uid != os.geteuid() or _may_switch(mode)):
        steps.append(Step("user", f"user {wanted.uid}, group {wanted.gid}", lambda: _become(wanted)))
    if closed or mode == namespaces.USER_NAMESPACE:
        steps.append(Step("no_new_privs", "no capabilities", capabilities.keep_only))
    if namespaces.hold(mode, wanted) != namespaces.PIDS:
        # After the user: a change of user clears it (prctl(2)).
        steps.append(Step("tree_kill", "dies with its init", _die_with_parent))
    if closed:
        steps.append(Step("no_new_privs", "no new privileges", capabilities.no_new_privs))
    if namespaces.has_mounts(mode) and wanted.wants("landlock"):
        layer = landlock.build(_rules(wanted), landlock.abi())
        steps.append(Step("landlock", "; ".join(layer.describe()), lambda: landlock.apply(layer)))
    elif not namespaces.has_mounts(mode) and wanted.root is not None and wanted.wants("filesystem"):
        rules = allowlist.rules(wanted, temporary)
        written = ", ".join(path for path in rules.writable if not path.startswith("/dev/"))
        steps.append(
            Step("filesystem", f"landlock: write {written}; read all but what is hidden", lambda: _apply(rules))
        )
    if program is not None:
        steps.append(Step("seccomp", f"system calls: {wanted.seccomp}", lambda: seccomp.load(program)))
    return steps


def carry_out(steps: list[Step]) -> None:
    """SandboxError names the step that failed."""
    for step in steps:
        try:
            step.execute()
        except (OSError, ValueError) as error:
            raise SandboxError(f"{step.layer}: {step.describe}: {error}") from error


def _rules(wanted: policy.Policy) -> landlock.Rules:
    """The mounts once more: read everything that is shown, write what was given, what is private, and pipes and devices."""
    own = () if wanted.state_directory is None else (wanted.state_directory,)
    private = ("/tmp", "/var/tmp", "/dev", "/proc")
    return landlock.Rules(
        readable=("/",), writable=(*wanted.writable, *own, *private), optional=frozenset(private), scope_abstract=True
    )


def _apply(rules: landlock.Rules) -> None:
    landlock.apply(landlock.build(rules, landlock.abi()))


def _may_switch(mode: str) -> bool:
    """Root has other groups to take on even where it stays root."""
    return os.geteuid() == 0 and mode != namespaces.USER_NAMESPACE


def reset_signals() -> None:
    """Defaults for all, none blocked. Python ignores SIGPIPE and SIGXFSZ, and both would survive exec."""
    for number in _changed_signals():
        signal.signal(number, signal.SIG_DFL)
    for number in _reserved_signals():
        syscalls.default_signal(number)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())


@functools.cache
def _changed_signals() -> tuple[int, ...]:
    """Signals that this process does not leave at their default, or may not later on.

    Asked once, by the launcher when it starts: to set all 62 again in each of two processes a run costs more than a fork.
    """
    ours = {signal.SIGCHLD, signal.SIGTERM, signal.SIGINT, signal.SIGHUP}
    return tuple(
        int(number)
        for number in signal.valid_signals()
        if number in ours or signal.getsignal(number) is not signal.SIG_DFL
    )


@functools.cache
def _reserved_signals() -> tuple[int, ...]:
    """Signals that the C library keeps from its users (32 and 33, signal(7)) and that whoever started us has ignored."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        ignored = next((int(line.split()[1], 16) for line in file if line.startswith("SigIgn:")), 0)
    hidden = set(range(1, 65)) - set(map(int, signal.valid_signals()))
    return tuple(number for number in sorted(hidden) if ignored & 1 << (number - 1))


def _die_with_parent() -> None:
    parent = os.getppid()
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:
        raise OSError(3, "init died meanwhile")


def _become(wanted: policy.Policy) -> None:
    if wanted.uid is None or wanted.gid is None:
        raise ValueError("a user needs its group")
    os.setgroups(wanted.groups)
    os.setresgid(wanted.gid, wanted.gid, wanted.gid)
    os.setresuid(wanted.uid, wanted.uid, wanted.uid)
