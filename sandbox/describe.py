"""A box in words before it is built: what will be done, in order, by what it is done with.

The lines are the descriptions that the operations give of themselves, so that what is shown is what will be executed.
Printed by `schedctl sandbox show` and `python -m lnmt_scheduler.sandbox --plan`; runs nothing, and may run anywhere.
"""

from collections.abc import Iterable

from lnmt_scheduler.sandbox import (
    controllers,
    enter,
    filesystem,
    init,
    namespaces,
    policy,
    probe,
    seccomp,
    settle,
    syscalls,
)

_NAMESPACES = {
    syscalls.CLONE_NEWUSER: "user",
    syscalls.CLONE_NEWPID: "pid",
    syscalls.CLONE_NEWNS: "mount",
    syscalls.CLONE_NEWIPC: "ipc",
    syscalls.CLONE_NEWUTS: "uts",
    syscalls.CLONE_NEWCGROUP: "cgroup",
    syscalls.CLONE_NEWNET: "network",
}
#: What holds a box together where no pid namespace does.
_HOLDS = {
    namespaces.SCOPE: "a landlock layer that init leads: its kill reaches all of the box and nobody else",
    namespaces.GROUP: "the host's processes are seen; the box ends by its cgroup",
    namespaces.SEARCH: "a session of its own under an init that ends it, best effort",
}
#: Of a line of system calls.
_NAMES_SHOWN = 6

#: Section -> its lines, in the order in which they happen.
Plan = dict[str, list[str]]


def plan(settled: settle.Settled, host: probe.Host) -> Plan:
    """What building this box does."""
    wanted = settled.policy
    flags = namespaces.kind(host.mode, wanted).flags
    if namespaces.has_mounts(host.mode):
        flags |= syscalls.CLONE_NEWNS
    spaces = [f"own {name} namespace" for flag, name in _NAMESPACES.items() if flags & flag]
    version = 2 if host.cgroups.layout == "v2" else 1
    found = {
        "namespaces": spaces + [text for hold, text in _HOLDS.items() if hold == settled.hold],
        "cgroup": [f"{each.file} = {each.value}" for each in controllers.settings(version, settled.limits)],
        "files": list(_files(wanted, host.mode)),
        "process": [f"{step.layer}: {step.describe}" for step in enter.plan(wanted, host.mode, b"")],
        "system calls": [],
    }
    if wanted.seccomp is None or not wanted.wants("seccomp"):
        found["process"] = [line for line in found["process"] if not line.startswith("seccomp: ")]
    else:
        lines = seccomp.describe(
            settle.filter_of(wanted),
            shared_uid=settle.shares_uid(wanted, host.mode),
            sealed=settle.seals(wanted, host.mode),
        )
        found["system calls"] = [_shortened(line) for line in lines]
    return found


def _files(wanted: policy.Policy, mode: str) -> Iterable[str]:
    if wanted.state_directory is not None:
        yield f"{wanted.state_directory} is there and its user's own"
    view = init.view_of(wanted)
    if view is None:
        own = namespaces.hold(mode, wanted) == namespaces.PIDS
        yield f"the host's, unchanged{', but for an own /proc' if own else ''}"
    elif not namespaces.has_mounts(mode):
        yield "the host's, as landlock allows below, with a directory of its own for temporary files"
    else:
        yield from (operation.describe() for operation in filesystem.plan(view))


def _shortened(line: str) -> str:
    names, colon, verdict = line.partition(": ")
    calls = names.split(", ")
    if len(calls) <= _NAMES_SHOWN:
        return line
    return f"{', '.join(calls[:_NAMES_SHOWN])} and {len(calls) - _NAMES_SHOWN} more{colon}{verdict}"
