"""The last lines of a failed run's log: what the box may have denied, and how to run the same by hand.

Pure functions of a job's definition and the end of its output. Neither line is a judgement: the hint says which key would
allow what the output complains about, the replay is the job's own command under the job's own profile. Environment,
arguments of functions and secrets are never in them.
"""

import os
import re
import shlex
import sys
from collections.abc import Mapping
from typing import Any

from lnmt_scheduler.jobs import model
from lnmt_scheduler.sandbox import profiles, users
from lnmt_scheduler.supervisor import payload

#: Bytes at the end of the output that are searched for a denial.
SEARCHED = 64 * 1024
#: Reasons for which a run by hand tells something: the job's own doing, or its policy's.
REPLAYED = frozenset(
    {
        "exit", "exception", "result", "signal", "timeout", "stalled", "memory", "cpu", "pids", "output", "spawn",
        "sandbox",
    }
)  # fmt: skip
_DENIED = frozenset({"exit", "exception", "signal"})
#: EROFS, EACCES and EPERM, as strerror(3) has them in the language that jobs get.
_DENIAL = re.compile(r"Read-only file system|Permission denied|Operation not permitted")
_PATH = re.compile(r"'(/[^']*)'|\"(/[^\"]*)\"|(?<![\w.])(/[^\s'\":;,()]+)")
_LINE_LIMIT = 1000
#: A line that nobody could paste is left out.
_REPLAY_LIMIT = 8000
_LIMITS = ("memory", "swap", "cpu", "cpu_time", "pids", "open_files", "file_size", "tmp_size", "nice", "io_class")


def lines(job: model.JobConfig, profile: str, reason: str, text: str) -> list[str]:
    """What is said at the end of a run that failed for this reason; `text` is the end of its output and its error."""
    found = []
    if reason in _DENIED and profiles.PROFILES[profile].root is not None and (said := hint(text, profile)):
        found.append(f"hint: {said}")
    if reason in REPLAYED and (command := replay(job, profile)):
        found.append(f"replay: {command}")
    return found


def hint(text: str, profile: str) -> str | None:
    """The key that would allow what the last denial in the text is about; None if there is none."""
    denials = [line for line in text[-SEARCHED:].splitlines() if _DENIAL.search(line)]
    if not denials:
        return None
    line = denials[-1][-_LINE_LIMIT:]
    denial = _DENIAL.search(line)
    paths = ["".join(groups) for groups in _PATH.findall(line)]
    path = repr(paths[-1]) if paths else None
    match denial and denial[0]:
        case "Read-only file system":
            if path is None:
                return f"profile {profile!r} shows the host read-only; sandbox.writable names what a job may change"
            return f"{path} is read-only in profile {profile!r}; it, or a directory above it, in sandbox.writable allows it"
        case "Permission denied":
            where = "what it tried to open" if path is None else path
            return (
                f"{where} is closed to this job; 'user' names an account that may open it, sandbox.readable or"
                f" sandbox.writable a path that profile {profile!r} hides"
            )
    about = "" if path is None else f"{path}: "
    return (
        f"{about}profile {profile!r} takes privileges and system calls from a job; sandbox.profile 'trusted' does not"
    )


def replay(job: model.JobConfig, profile: str) -> str | None:
    """The command line that runs the same by hand, on one line; None if it is too long to be of use."""
    words = [sys.executable, "-m", "lnmt_scheduler.sandbox", *_options(job, profile), "--", *_argv(job)]
    line = " ".join(map(_quoted, words))
    return line if len(line) <= _REPLAY_LIMIT else None


def _options(job: model.JobConfig, profile: str) -> list[str]:
    spec: Mapping[str, Any] = job.sandbox or {}
    found = ["--profile", profile]
    found += ["--processes", spec["processes"]] if "processes" in spec else []
    if profiles.PROFILES[profile].root is not None:
        for key in ("network", "proc"):
            found += [f"--{key}", str(spec[key])] if key in spec else []
        for key in ("writable", "readable", "hidden"):
            found += [word for path in spec.get(key, ()) for word in (f"--{key}", path)]
    found += [word for layer in spec.get("require", ()) for word in ("--require", layer)]
    for key in _LIMITS:
        if job.limits.get(key) is not None:
            found += [f"--{key.replace('_', '-')}", str(job.limits[key])]
    if job.user is not None:
        found += ["--user", job.user]
        found += ["--group", job.group] if job.group is not None else []
    if job.working_directory is not None:
        found += ["--chdir", job.working_directory]
    if job.umask != 0o022:
        found += ["--umask", f"{job.umask:03o}"]
    if job.command is None and profiles.PROFILES[profile].root is not None:
        shown = {*job.python_path, *((job.main_file,) if job.main_file else ())}
        # The interpreter's own place too, where others cannot pass to it.
        shown |= {path for _, path in payload.needed(job, ()) if os.geteuid() == 0 and users.closed_above(path)}
        found += [word for path in sorted(shown) for word in ("--readable", path)]
    return found


def _argv(job: model.JobConfig) -> list[str]:
    if isinstance(job.command, str):
        return ["/bin/sh", "-c", job.command]
    if job.command is not None:
        return list(job.command)
    # What it is called with may be secret: an ellipsis stands for it.
    arguments = "..." if job.args or job.kwargs else ""
    if job.main_file is not None:
        return [
            job.python or sys.executable,
            "-c",
            f"import runpy; runpy.run_path({job.main_file!r}, run_name='__mp_main__')[{job.function!r}]({arguments})",
        ]
    first = str(job.function).partition(".")[0]
    path = f"import sys; sys.path[:0] = {job.python_path!r}; " if job.python_path else ""
    return [
        job.python or sys.executable,
        "-c",
        f"{path}from {job.module} import {first}; {job.function}({arguments})",
    ]


def _quoted(word: str) -> str:
    """For a shell, and on one line: what cannot be shown is written as bash, zsh and ksh read it."""
    if word.isprintable():
        return shlex.quote(word)
    escaped = "".join(
        c if c.isprintable() and c not in "\\'" else "".join(f"\\x{byte:02x}" for byte in os.fsencode(c)) for c in word
    )
    return f"$'{escaped}'"
