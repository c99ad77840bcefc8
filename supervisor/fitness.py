"""Whether this host can start what is defined: asked of a job when it is defined, and of the default at the daemon's start.

Runs in the supervisor, so that a person is told at once what would else be the end of every run. Only what is certain is
told. A user that exists for one run is in no group and on no list of access (acl(5)), so the bits for others alone decide
what it comes to; of an account the kernel knows more than its bits say, and is asked when the run starts.
"""

import functools
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
    profile = payload.profile_of(job)
    root = profiles.PROFILES[profile].root
    spec = job.sandbox or {}
    needed = payload.needed(job, [*spec.get("writable", ()), jobs_dir])
    needed += [("python", job.python)] if job.python is not None else []
    given = [(f"sandbox.{key}", path) for key in ("writable", "readable") for path in spec.get(key, ())]
    real = {path: os.path.realpath(path) for _, path in (*needed, *given)}
    found: dict[tuple[str, str], str] = {}
    if root is not None:
        kept, own = _names(tuple(daemon_files)), _names((jobs_dir,))
        for key, path in (*needed, *given):
            if any(
                filesystem.is_within(each, kept) and not filesystem.is_within(each, own) for each in (path, real[path])
            ):
                found[key, path] = (
                    f"{path} is the daemon's own, and hidden from every job of profile {profile!r}; move it"
                )
    if payload.is_dynamic(job, daemon_uid, profile):
        if job.group is not None:
            found["group", job.group] = payload.GROUP_ALONE
        is_boxed = root is not None and namespaces.has_mounts(mode)
        shown = [path for path in real if real[path] == os.path.normpath(path)]
        for key, path in needed:
            # A box with mounts of its own opens the way to whatever it shows by name, and not to what a link leads to.
            if is_boxed:
                ways = [] if filesystem.is_within(real[path], shown) else users.closed_above(real[path])
            else:
                ways = [*users.closed_above(path), *users.closed_above(real[path])]
            closed = ways[0] if ways else real[path] if _is_closed(key, real[path]) else None
            if closed is not None:
                found.setdefault((key, closed), _advice(path, closed))
    return [(key, why) for (key, _), why in found.items()]


@functools.lru_cache(maxsize=8)
def _names(paths: tuple[str, ...]) -> tuple[str, ...]:
    """The daemon's directories, as they are called and as they are; they stay where they are while it runs."""
    return (*map(os.path.normpath, paths), *map(os.path.realpath, paths))


def _is_closed(key: str, path: str) -> bool:
    """Whether others may not use a path for what this key wants of it; False also if there is nothing to judge."""
    try:
        mode = os.stat(path).st_mode
    except OSError:  # not there yet, or not ours to see: the run will tell
        return False
    wanted = stat.S_IXOTH if stat.S_ISDIR(mode) or mode & 0o111 else stat.S_IROTH
    if key == "python_path" and stat.S_ISDIR(mode):
        wanted |= stat.S_IROTH  # where Python looks for modules it lists the directory
    return mode & wanted != wanted


def _advice(path: str, closed: str) -> str:
    mode = stat.S_IMODE(os.stat(closed).st_mode)
    where = "it" if closed == path else closed
    return (
        f"{path} cannot be reached by the user of its own that each run has: {where} has mode {mode:04o}; open it to others,"
        " name an account with 'user', or ask for profile 'trusted'"
    )
