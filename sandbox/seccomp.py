"""Seccomp: which system calls a job may make, with which arguments.

The launcher compiles a filter once for each combination that jobs use (compile() is pure and cached) and hands the bytes
down; the job loads them as its very last step before exec (load()), since the filter denies most of what building a box
needs. Filters are inherited by all that the job starts, cannot be taken off, and hold for the calling thread only, so load()
belongs into a process with one thread. What the filters say is data in filters.py; here it is laid out over the numbers of a
processor's calls. Calls of another ABI (32-bit programs, int 0x80) end the process: their numbers mean other things.
"""

import errno
import functools
import os
import platform
import signal
from typing import Literal

from lnmt_scheduler.sandbox import bpf, filters, syscall_table, syscalls

Filter = Literal["denylist", "strict"]
Sockets = Literal["all", "unix"]

_AUDIT_ARCH = {"x86_64": 0xC000003E, "aarch64": 0xC00000B7}
#: Calls of the x32 ABI have the architecture of x86-64 and this bit in their number.
_X32_BIT = 0x40000000
_SECCOMP_MODE_FILTER = 2
_NOT_IN_FORCE = 255

_MISSING = bpf.errno_verdict(errno.ENOSYS)
_REFUSED = bpf.errno_verdict(errno.EPERM)
_VERDICTS = {
    bpf.ALLOW: "allowed",
    bpf.KILL_PROCESS: "the process is killed (SIGSYS)",
    _MISSING: "ENOSYS",
    _REFUSED: "EPERM",
}


@functools.cache
def numbers(arch: str) -> dict[str, int]:
    """Name to number of every system call that we know of a processor; ValueError if we have no table for it."""
    if arch not in syscall_table.TABLES:
        known = " and ".join(syscall_table.TABLES)
        raise ValueError(f"no table of system calls for {arch}: seccomp filters exist for {known}")
    found = {}
    for line in syscall_table.TABLES[arch].splitlines():
        first, *names = line.split()
        found.update({name: number for number, name in enumerate(names, int(first))})
    return found


@functools.cache
def compile(  # noqa: A001 - always called as seccomp.compile
    filter: Filter,  # noqa: A002 - the policy's word
    *,
    arch: str | None = None,
    shared_uid: bool = False,
    sealed: bool = False,
    sockets: Sockets = "all",
) -> bytes:
    """The filter as raw `struct sock_filter`s for load(); `arch` is a processor as uname names it, by default this one.

    `shared_uid`: processes outside the box have the job's uid, so what the kernel grants among those is filtered too.
    `sealed`: no mode, owner, date or attribute of any file can be changed.
    `sockets`: "unix" forbids every other family, for a job without network where there is no network namespace.
    ValueError: no such filter, or no table for the processor.
    """
    machine = arch or platform.machine()
    known = numbers(machine)
    verdicts, unknown = _verdicts(filter, machine, shared_uid=shared_uid, sealed=sealed, sockets=sockets)
    by_number = {known[name]: verdict for name, verdict in verdicts.items()}
    cases: list[tuple[int, bpf.Code]] = []
    for number in range(max(by_number) + 2):
        code = _code(by_number.get(number, unknown))
        if not cases or cases[-1][1] != code:
            cases.append((number, code))
    if machine == "x86_64":
        cases.append((_X32_BIT, bpf.verdict(_MISSING)))
    return bpf.program(_AUDIT_ARCH[machine], cases)


def describe(
    filter: Filter,  # noqa: A002 - as in compile()
    *,
    arch: str | None = None,
    shared_uid: bool = False,
    sealed: bool = False,
    sockets: Sockets = "all",
) -> list[str]:
    """The same filter in lines for people, each "calls: what becomes of them"; ValueError as compile()."""
    machine = arch or platform.machine()
    verdicts, unknown = _verdicts(filter, machine, shared_uid=shared_uid, sealed=sealed, sockets=sockets)
    lines = [f"calls of another ABI than {machine}: {_VERDICTS[bpf.KILL_PROCESS]}"]
    if machine == "x86_64":
        lines.append(f"calls of the x32 ABI: {_VERDICTS[_MISSING]}")
    rules: dict[tuple[str, int], list[str]] = {}
    plain: dict[int, list[str]] = {}
    for name, verdict in sorted(verdicts.items()):
        if isinstance(verdict, filters.Rule):
            rules.setdefault((verdict.says, verdict.error), []).append(name)
        else:
            plain.setdefault(verdict, []).append(name)
    for (says, error), names in rules.items():
        lines.append(
            f"{', '.join(names)}: {says}, else {errno.errorcode[error] if error else 'a success that is feigned'}"
        )
    # What the filter does with most calls is a line at the end rather than some hundred names.
    usual = bpf.ALLOW if filter == "denylist" else _REFUSED
    lines += [f"{', '.join(names)}: {_VERDICTS[verdict]}" for verdict, names in plain.items() if verdict != usual]
    return [*lines, f"all others: {_VERDICTS[usual]}", f"calls newer than this version: {_VERDICTS[unknown]}"]


def load(program: bytes) -> None:
    """Put a compiled filter on the calling thread and all that it starts from now on, for good.

    OSError: EACCES without no_new_privs (or CAP_SYS_ADMIN), EINVAL or ENOSYS where the kernel has no seccomp filters.
    """
    syscalls.seccomp_set_mode_filter(program)


def available() -> str | None:
    """None if filters work here, else the reason; found out by loading one in a forked child. For one thread only."""
    try:
        program = compile("denylist")
    except ValueError as error:
        return str(error)
    pid = os.fork()
    if pid == 0:
        os._exit(_try(program))
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code == 0:
        return None
    if code < 0:
        return f"a process with a seccomp filter died of {signal.Signals(-code).name}: a kernel of another ABI?"
    if code == _NOT_IN_FORCE:
        return "the kernel took a seccomp filter and does not apply it"
    return f"seccomp: {os.strerror(code)}: a kernel without CONFIG_SECCOMP_FILTER, or a container that forbids it"


def _try(program: bytes) -> int:
    try:
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        load(program)
        return 0 if syscalls.prctl(syscalls.PR_GET_SECCOMP) == _SECCOMP_MODE_FILTER else _NOT_IN_FORCE
    except OSError as error:
        return error.errno or _NOT_IN_FORCE


def _verdicts(
    name: str, arch: str, *, shared_uid: bool, sealed: bool, sockets: Sockets
) -> tuple[dict[str, int | filters.Rule], int]:
    """What becomes of each call that the processor has, and of calls that we do not know."""
    if name not in {"denylist", "strict"}:
        raise ValueError(f"no seccomp filter is called {name!r}: denylist, strict")
    denied, rules = filters.DENIED, filters.RULES + filters.SOCKET_RULES[sockets]
    if shared_uid:
        denied, rules = denied | filters.SHARED_UID_DENIED, rules + filters.SHARED_UID_RULES
    if sealed:
        denied, rules = denied | filters.SEALED, rules + filters.SEALED_RULES
    by_name = {call: rule for rule in rules for call in rule.names}

    def judge(call: str) -> int | filters.Rule:
        if call in filters.ABSENT:
            return _MISSING
        if name == "strict" and call in filters.TRIPWIRES:
            return bpf.KILL_PROCESS
        if call in denied or (name == "strict" and call not in filters.ALLOWED):
            return _REFUSED
        return by_name.get(call, bpf.ALLOW)

    # A program that finds ENOSYS behind a call that we have never heard of falls back to what it used before.
    return {call: judge(call) for call in numbers(arch)}, _MISSING if name == "strict" else bpf.ALLOW


def _code(verdict: int | filters.Rule) -> bpf.Code:
    if isinstance(verdict, int):
        return bpf.verdict(verdict)
    code: bpf.Code = ()
    outcomes = [(checks, bpf.ALLOW) for checks in verdict.alternatives]
    outcomes += [(checks, bpf.errno_verdict(0)) for checks in verdict.feigned]
    for checks, outcome in outcomes:
        passed = bpf.verdict(outcome)
        for check in reversed(checks):
            passed = bpf.when(
                check.argument, check.values, check.mask, inside=check.inside, then=passed, high=check.high
            )
        code += passed
    return code + bpf.verdict(bpf.errno_verdict(verdict.error))
