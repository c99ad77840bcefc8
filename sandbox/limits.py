"""Resource limits of the calling process and what it starts: setrlimit(2), nice(2), ioprio_set(2), core(5)."""

import os
import resource

from lnmt_scheduler.sandbox import policy, syscalls

_IO_CLASSES = {"realtime": (1, 4), "best-effort": (2, 4), "idle": (3, 0)}


#: Soft limit of descriptors that this process was started with, if raise_open_files() has raised it.
_started_with: int | None = None


def raise_open_files() -> None:
    """Let this process and its daemons have as many descriptors as they may; jobs get the former limit back."""
    global _started_with  # noqa: PLW0603 (a process has one such limit)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    _started_with = soft
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def apply(wanted: policy.Policy) -> None:
    """Set every limit of the policy, soft and hard alike; OSError or ValueError if one cannot be set."""
    if _started_with is not None:
        most = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
        if os.geteuid() != 0:
            # Descriptors on their way through unix sockets are counted for the whole account, and held against the limit of
            # whoever sends one more (unix(7)): a job that could fill ours would keep the launcher from starting any other.
            most -= most // 4
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(_started_with, most), most))
    for limit, value in (
        (resource.RLIMIT_CPU, wanted.cpu_time),
        (resource.RLIMIT_NOFILE, wanted.open_files),
        (resource.RLIMIT_FSIZE, wanted.file_size),
    ):
        if value is not None:
            resource.setrlimit(limit, (value, value))
    if wanted.nice is not None:
        os.setpriority(os.PRIO_PROCESS, 0, wanted.nice)
    if wanted.io_class is not None:
        syscalls.ioprio_set(*_IO_CLASSES[wanted.io_class])


def forbid_core_dumps() -> None:
    """No core file, and no core piped to a handler either.

    A limit of 0 stops files only; of exactly 1 the kernel also refuses to start a `|handler` of core_pattern (core(5)), which
    would run as root and outside of the box. That a job does not lower 1 to 0 is a matter of its seccomp filter. Where it has
    none nothing is left to dump, unless it wants to: coredump_filter 0 is inherited over fork and exec.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
    try:
        fd = os.open("/proc/self/coredump_filter", os.O_WRONLY | os.O_CLOEXEC)
    except FileNotFoundError:  # a kernel without CONFIG_ELF_CORE dumps nothing
        return
    try:
        os.write(fd, b"0\n")
    finally:
        os.close(fd)
