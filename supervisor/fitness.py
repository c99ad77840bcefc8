"""Whether this host can start what is defined: asked of a job when it is defined, and of the default at the daemon's start.

Runs in the supervisor, so that a person is told at once what would else be the end of every run. Only what is certain is
told. A user that exists for one run is in no group and on no list of access (acl(5)), so the bits for others alone decide
what it comes to; of an account the kernel knows more than its bits say, and is asked when the run starts.
"""

import os
import stat
from collections.abc import Mapping, Sequence
from typing import Any

from lnmt_scheduler.jobs import model
from lnmt_scheduler.sandbox import filesystem, namespaces, policy, probe, profiles, settle, users
from lnmt_scheduler.supervisor import payload


def refusal(sandbox: Mapping[str, Any], limits: Mapping[str, Any], host: probe.Host, *, is_root: bool) -> str | None:
    """Why a box as this `sandbox` has it cannot be had on this host; None if it can."""
    asked = profiles.build(sandbox, limits, state_directory=None, needed=(), daemon_files=())
    try:
        settle.settle(asked, host, is_root=is_root, uid=None)
    except policy.RefusedError as error:
        return str(error)
    return None


def obstacles(
    job: model.JobConfig, *, daemon_uid: int, daemon_files: Sequence[str], jobs_dir: str, mode: str
) -> list[tuple[str, str]]:
    """What keeps every run of the job from starting: (key, why). `daemon_files` are hidden, but for state directories."""
    name = payload.profile_of(job)
    root = profiles.PROFILES[name].root
    spec = job.sandbox or {}
    needed = payload.needed(job, [*spec.get("writable", ()), jobs_dir])
    needed += [("python", job.python)] if job.python is not None else []
    given = [(f"sandbox.{key}", path) for key in ("writable", "readable") for path in spec.get(key, ())]
    found: dict[tuple[str, str], str] = {}
    if root is not None:
        kept = [*map(os.path.normpath, daemon_files), *map(os.path.realpath, daemon_files)]
        own = [jobs_dir, os.path.realpath(jobs_dir)]
        for key, path in (*needed, *given):
            real = os.path.realpath(path)
            if any(filesystem.is_within(each, kept) and not filesystem.is_within(each, own) for each in (path, real)):
                found[key, path] = f"{path} is the daemon's own, and hidden from every job of profile {name!r}; move it"
    try:
        who = payload.account(job, daemon_uid, name)
    except payload.CannotStartError:
        return [(key, why) for (key, _), why in found.items()]  # it is warned of: accounts come and go
    if who.dynamic:
        # A box with mounts of its own shows what is needed wherever it lies; else the way to it must be open.
        is_boxed = root is not None and namespaces.has_mounts(mode)
        for key, path in needed:
            name, real = os.path.normpath(path), os.path.realpath(path)
            # No way is opened for what a link leads to.
            ways = users.closed_above(real) if is_boxed else [*users.closed_above(name), *users.closed_above(real)]
            shut = ways and not (is_boxed and (name == real or _is_shown(real, needed)))
            closed = ways[0] if shut else _closed(key, path)
            if closed:
                found.setdefault((key, closed), _advice(path, closed))
    return [(key, why) for (key, _), why in found.items()]


def _is_shown(real: str, needed: Sequence[tuple[str, str]]) -> bool:
    """Whether a place is shown by its own name, whatever else leads to it."""
    return filesystem.is_within(real, [path for _, path in needed if os.path.realpath(path) == os.path.normpath(path)])


def _closed(key: str, path: str) -> str | None:
    """The path, if others may not use it for what this key wants of it; None also if there is nothing to judge."""
    real = os.path.realpath(path)
    try:
        mode = os.stat(real).st_mode
    except OSError:  # not there yet, or not ours to see: the run will tell
        return None
    wanted = stat.S_IXOTH if stat.S_ISDIR(mode) or mode & 0o111 else stat.S_IROTH
    if key == "python_path" and stat.S_ISDIR(mode):
        wanted |= stat.S_IROTH  # where Python looks for modules it lists the directory
    return None if mode & wanted == wanted else real


def _advice(path: str, closed: str) -> str:
    mode = stat.S_IMODE(os.stat(closed).st_mode)
    where = "it" if closed == path else closed
    return (
        f"{path} cannot be reached by the user of its own that each run has: {where} has mode {mode:04o}; open it to others,"
        " name an account with 'user', or ask for profile 'trusted'"
    )
