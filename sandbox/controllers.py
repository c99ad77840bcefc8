"""What the controllers of cgroups can limit and count, by our names and by those of the files of v1 and v2.

Used by the launcher through `cgroup`. A table in two columns: limits become lines for control files, counters become a
Usage. Nothing here makes or removes a cgroup.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace

from lnmt_scheduler.sandbox import hierarchies

_CPU_PERIOD_US = 100_000
#: Limit -> the controller that sets it.
CONTROLLER = {"memory": "memory", "swap": "memory", "pids": "pids", "cpu": "cpu", "io_weight": "io"}


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """What all processes of a leaf may use together; None: no limit."""

    #: Bytes, page cache and tmpfs included.
    memory: int | None = None
    #: Bytes of swap besides `memory`, which must be given too; None: none at all, where the kernel can hold to that.
    swap: int | None = None
    #: Processes and threads.
    pids: int | None = None
    #: Cores, at least 0.01.
    cpu: float | None = None
    #: 1 to 1000; others have 100.
    io_weight: int | None = None

    def __post_init__(self) -> None:
        if self.swap is not None and self.memory is None:
            raise ValueError("a limit for swap needs one for memory")

    def names(self) -> frozenset[str]:
        """The limits that are given."""
        return frozenset(field.name for field in fields(self) if getattr(self, field.name) is not None)

    def only(self, names: frozenset[str]) -> "Limits":
        """Without those that are not in `names`; swap goes with memory."""
        kept = (self.names() & names) - (frozenset() if "memory" in names else {"swap"})
        return Limits(**{name: getattr(self, name) for name in kept})


@dataclass(frozen=True, slots=True)
class Setting:
    """One line for one control file."""

    limit: str
    controller: str
    file: str
    value: str


def settings(version: int, limits: Limits) -> Iterator[Setting]:
    """What has to be written, in order, for the limits that are given."""
    new = version == 2
    if limits.memory is not None:
        yield Setting("memory", "memory", "memory.max" if new else "memory.limit_in_bytes", str(limits.memory))
        if new:  # a job that lost one process of many to the kernel may go on in an odd state; v1 cannot do this
            yield Setting("memory", "memory", "memory.oom.group", "1")
        if limits.swap is not None and new:
            yield Setting("swap", "memory", "memory.swap.max", str(limits.swap))
        elif limits.swap is not None:  # v1 counts both in one
            yield Setting("swap", "memory", "memory.memsw.limit_in_bytes", str(limits.memory + limits.swap))
    if limits.pids is not None:
        yield Setting("pids", "pids", "pids.max", str(limits.pids))
    if limits.cpu is not None:
        quota = round(limits.cpu * _CPU_PERIOD_US)
        if new:
            yield Setting("cpu", "cpu", "cpu.max", f"{quota} {_CPU_PERIOD_US}")
        else:
            yield Setting("cpu", "cpu", "cpu.cfs_period_us", str(_CPU_PERIOD_US))
            yield Setting("cpu", "cpu", "cpu.cfs_quota_us", str(quota))
    if limits.io_weight is not None:
        yield Setting("io_weight", "io", "io.weight" if new else "blkio.bfq.weight", str(limits.io_weight))


def apply(node: hierarchies.Tree, limits: Limits) -> None:
    """Set the limits that this node has the controllers for; OSError with path and value."""
    for setting in settings(node.version, limits):
        if setting.controller in node.controllers:
            hierarchies.write(f"{node.path}/{setting.file}", setting.value)


@dataclass(frozen=True, slots=True)
class Usage:
    """What all that ever was in a leaf has used; None: not counted on this host."""

    cpu_seconds: float | None = None
    #: Bytes at the highest.
    max_memory: int | None = None
    #: Processes and threads at the most; older kernels have no pids.peak.
    max_processes: int | None = None
    #: Processes that the kernel killed for memory; 0 also where not counted, as in the two below.
    oom_kills: int = 0
    #: Forks refused by `pids`.
    pids_denied: int = 0
    #: Seconds for which `cpu` held threads back.
    cpu_throttled: float = 0.0


def usage(nodes: Iterable[hierarchies.Tree]) -> Usage:
    """The counters of one leaf, from all the trees that it is in."""
    used = Usage()
    for node in nodes:
        used = (_usage_v2 if node.version == 2 else _usage_v1)(node, used)
    return used


def _usage_v2(node: hierarchies.Tree, used: Usage) -> Usage:
    cpu = table(f"{node.path}/cpu.stat")
    if "usage_usec" in cpu:
        used = replace(used, cpu_seconds=cpu["usage_usec"] / 1e6)
    if "cpu" in node.controllers:
        used = replace(used, cpu_throttled=cpu.get("throttled_usec", 0) / 1e6)
    if "memory" in node.controllers:
        kills = table(f"{node.path}/memory.events").get("oom_kill", 0)
        used = replace(used, max_memory=_number(f"{node.path}/memory.peak"), oom_kills=kills)
    return _count_pids(node, used)


def _usage_v1(node: hierarchies.Tree, used: Usage) -> Usage:
    if "cpuacct" in node.controllers and (total := _number(f"{node.path}/cpuacct.usage")) is not None:
        used = replace(used, cpu_seconds=total / 1e9)
    if "cpu" in node.controllers:
        used = replace(used, cpu_throttled=table(f"{node.path}/cpu.stat").get("throttled_time", 0) / 1e9)
    if "memory" in node.controllers:
        kills = table(f"{node.path}/memory.oom_control").get("oom_kill", 0)
        used = replace(used, max_memory=_number(f"{node.path}/memory.max_usage_in_bytes"), oom_kills=kills)
    return _count_pids(node, used)


def _count_pids(node: hierarchies.Tree, used: Usage) -> Usage:
    if "pids" not in node.controllers:
        return used
    denied = table(f"{node.path}/pids.events").get("max", 0)
    return replace(used, max_processes=_number(f"{node.path}/pids.peak"), pids_denied=denied)


def _number(path: str) -> int | None:
    text = hierarchies.read(path)
    return int(text) if text else None


def table(path: str) -> dict[str, int]:
    """A file of lines `key number`."""
    return {key: int(value) for key, value in (line.split() for line in hierarchies.read(path).splitlines())}
