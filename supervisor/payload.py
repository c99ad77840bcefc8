"""From a job's definition to what its child is given: environment, arguments, policy, sealed.

Runs in the supervisor just before an attempt. Names become numbers here (pwd, grp), so that the launcher never asks a name
service; the payload goes into a sealed memfd, which the launcher passes on unread.
"""

import fcntl
import grp
import os
import pwd
import re
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime
from typing import Any

from lnmt_scheduler.ipc import codec
from lnmt_scheduler.jobs import bridge, child, model
from lnmt_scheduler.sandbox import policy, profiles, users
from lnmt_scheduler.supervisor import interpreter, named, views

PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_FILE_LIMIT = 256 * 1024
#: Bytes of LNMT_PARENTS; execve(2) refuses a variable of 128 KiB.
PARENTS_LIMIT = 64 * 1024
#: Bytes of one secret.
SECRET_LIMIT = 64 * 1024
#: As a shell has it; `export NAME` is none.
_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_SEALS = fcntl.F_SEAL_SEAL | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW | fcntl.F_SEAL_WRITE


#: Instead of an account's name: a user that exists for one run only.
DYNAMIC = "dynamic"
GROUP_ALONE = "it needs a 'user' beside it: a run with a user of its own has its own group"
#: Where our own package lies, for a job that runs in an interpreter of ours; its module may be a program that is a scheduler.
_OWN_CODE = [os.path.dirname(str(module.__file__)) for module in (child, codec, policy, views)]


class CannotStartError(Exception):
    """The attempt cannot be prepared: what is missing, and where it was asked for."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    """Who a job runs as. Numbers are None where that is the launcher's own user."""

    uid: int | None
    gid: int | None
    groups: tuple[int, ...]
    name: str
    home: str
    shell: str
    #: The launcher gives the run a user that has no name.
    dynamic: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Attempt:
    """What is known of one attempt besides the job's definition."""

    run_id: int
    attempt: int
    #: Epoch milliseconds; None for a run by hand.
    slot: int | None
    event: Any
    #: Instead of or besides the definition's: what a manual run gave.
    kwargs: Mapping[str, Any] | None
    state_dir: str
    result_limit: int
    #: Of the job, or what a manual run was asked with.
    profile: str
    #: Id of each job that its own depends on -> what it is told of that one's run.
    parents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Name -> content, of what the box gets besides its secrets.
    files: Mapping[str, bytes] = field(default_factory=dict)


def profile_of(job: model.JobConfig) -> str:
    """The name of the job's profile."""
    return str((job.sandbox or {"profile": profiles.DEFAULT})["profile"])


def is_dynamic(job: model.JobConfig, daemon_uid: int, profile: str) -> bool:
    """Whether each run of the job has a user of its own."""
    return daemon_uid == 0 and (job.user or (DYNAMIC if profiles.PROFILES[profile].dynamic else None)) == DYNAMIC


def account(job: model.JobConfig, daemon_uid: int, profile: str) -> Account:
    """The account that the job names, else what the profile gives, else the launcher's own.

    CannotStartError if there is no such account.
    """
    if job.user == DYNAMIC and daemon_uid != 0:
        raise CannotStartError("user: only a daemon of root can give a run a user of its own")
    if is_dynamic(job, daemon_uid, profile):
        if job.group is not None:
            raise CannotStartError(f"group: {GROUP_ALONE}")
        return Account(uid=None, gid=None, groups=(), name="lnmt-job", home="", shell="/bin/sh", dynamic=True)
    try:
        found = pwd.getpwuid(daemon_uid) if job.user is None else pwd.getpwnam(job.user)
    except KeyError:
        if job.user is None:
            return Account(uid=None, gid=None, groups=(), name=str(daemon_uid), home="/", shell="/bin/sh")
        raise CannotStartError(f"user: no account is named {job.user!r}") from None
    gid = found.pw_gid
    if job.group is not None:
        try:
            gid = grp.getgrnam(job.group).gr_gid
        except KeyError:
            raise CannotStartError(f"group: no group is named {job.group!r}") from None
    if daemon_uid != 0 and (found.pw_uid != daemon_uid or job.group is not None):
        raise CannotStartError(f"user: a daemon that is not root runs jobs as itself, not as {job.user or job.group!r}")
    switch = job.user is not None or job.group is not None
    return Account(
        uid=found.pw_uid if switch else None,
        gid=gid if switch else None,
        groups=tuple(os.getgrouplist(found.pw_name, gid)) if switch else (),
        name=found.pw_name,
        home=found.pw_dir or "/",
        shell=found.pw_shell or "/bin/sh",
    )


def unwritable(job: model.JobConfig, who: Account, daemon_uid: int) -> list[str]:
    """What of the job's `writable` its user cannot write, in words: the mount would allow it, the owner does not."""
    uid = None if who.dynamic else daemon_uid if who.uid is None else who.uid
    groups = {who.gid, *who.groups}
    found = []
    for path in (job.sandbox or {}).get("writable", ()):
        try:
            entry = os.stat(path)
        except OSError as error:
            found.append(f"sandbox.writable: {path}: {error.strerror}")
            continue
        mine = entry.st_mode & 0o200 if entry.st_uid == uid else entry.st_gid in groups and entry.st_mode & 0o020
        if uid != 0 and not mine and not entry.st_mode & 0o002:
            whose = "a user of its own each run; name one with `user`" if who.dynamic else f"user {who.name}"
            found.append(f"sandbox.writable: {path} cannot be written by {whose}")
    return found


def environment(job: model.JobConfig, who: Account, facts: Attempt) -> dict[str, str]:
    """The clean environment of an attempt: nothing of the daemon's own is in it."""
    found = {
        "PATH": PATH,
        "HOME": facts.state_dir if who.dynamic else who.home,
        "USER": who.name,
        "LOGNAME": who.name,
        "SHELL": who.shell,
        "LANG": "C.UTF-8",
        "TMPDIR": "/tmp",
    }
    if job.timezone is not None:
        found["TZ"] = job.timezone
    if job.environment_file is not None:
        found |= _read_environment(job.environment_file, _writable(job, facts))
    found |= job.environment
    if facts.parents:
        found["LNMT_PARENTS"] = parents_text(facts.parents)
    slot = "" if facts.slot is None else _iso(facts.slot)
    return found | {
        "LNMT_JOB_ID": job.id,
        "LNMT_RUN_ID": str(facts.run_id),
        "LNMT_SLOT": slot,
        "LNMT_ATTEMPT": str(facts.attempt),
        "LNMT_EVENT": "" if facts.event is None else _json(facts.event),
        "LNMT_STATE_DIR": facts.state_dir,
        "LNMT_REPORT_FD": "3",
    }


def _writable(job: model.JobConfig, facts: Attempt) -> list[str]:
    return [*(job.sandbox or {}).get("writable", ()), facts.state_dir]


def build(job: model.JobConfig, who: Account, facts: Attempt) -> int:
    """The sealed payload as a descriptor, the caller's. CannotStartError if something that it needs is not there."""
    argv: list[str] = []
    if job.command is not None:
        argv = ["/bin/sh", "-c", job.command] if isinstance(job.command, str) else list(job.command)
    values = {
        "job_id": job.id,
        "run_id": facts.run_id,
        "attempt": facts.attempt,
        "slot": facts.slot,
        "event": facts.event,
        "environment": environment(job, who, facts),
        "working_directory": job.working_directory,
        "umask": job.umask,
        "state_dir": facts.state_dir,
        "result_limit": facts.result_limit,
        "argv": argv,
        "module": job.module or "",
        "function": job.function or "",
        "args": job.args,
        "kwargs": {**job.kwargs, **(facts.kwargs or {})},
        "python_path": job.python_path,
        "main_file": job.main_file,
        "python": None if job.command is not None else _interpreter(job, facts.profile),
    }
    if facts.parents:  # a launcher of before does not know the word
        values["parents"] = facts.parents
    if files := {**secrets(job.secrets, _writable(job, facts)), **facts.files}:
        if profiles.PROFILES[facts.profile].root is None:
            raise CannotStartError(f"secrets: profile {facts.profile!r} has no files of its own; use 'standard'")
        values["files"] = files
    try:
        data = codec.pack(values, max_depth=child.DEPTH)
    except codec.ProtocolError as error:
        raise CannotStartError(f"arguments: {error}") from error
    if len(data) > child.PAYLOAD_LIMIT:
        raise CannotStartError(f"arguments and environment have {len(data)} bytes, the limit is {child.PAYLOAD_LIMIT}")
    return seal(data)


def seal(data: bytes) -> int:
    """The bytes as a sealed memfd (memfd_create(2), fcntl(2)); the caller's."""
    fd = os.memfd_create("lnmt-payload", os.MFD_CLOEXEC | os.MFD_ALLOW_SEALING)
    try:
        view = memoryview(data)
        while view:
            view = view[os.write(fd, view) :]
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, _SEALS)
    except BaseException:
        os.close(fd)
        raise
    return fd


def policy_of(
    job: model.JobConfig, who: Account, state_dir: str, *, profile: str, daemon_files: Sequence[str]
) -> policy.Policy:
    """The policy of an attempt of this job; `profile` takes the place of the job's own, `daemon_files` is hidden from it."""
    spec = {**(job.sandbox or {}), "profile": profile}
    free = [*spec.get("writable", ()), state_dir]
    try:
        made = profiles.build(
            spec,
            job.limits,
            state_directory=state_dir,
            needed=sorted({path for _, path in needed(job, free) if os.path.exists(path)}),
            daemon_files=daemon_files,
        )
    except ValueError as error:
        raise CannotStartError(f"sandbox: {error}") from error
    if who.dynamic:
        made = users.open_ways(made)
    if job.user == DYNAMIC:
        made = replace(made, dynamic=True, layers={**made.layers, "user": policy.REQUIRE})
    elif job.user is not None or job.group is not None:
        made = replace(made, uid=who.uid, gid=who.gid, groups=who.groups, dynamic=False)
    return made


def _interpreter(job: model.JobConfig, profile: str) -> str | None:
    """What is to be executed for a function; None: a fork of the launcher will do."""
    return job.python or (sys.executable if profiles.PROFILES[profile].fresh else None)


def needed(job: model.JobConfig, free: Sequence[str]) -> list[tuple[str, str]]:
    """What a job cannot start without, each with the key that asks for it: interpreter, our package, its modules, its
    program, its working directory.

    `free` is what it may write to.
    """
    found = [("python_path", path) for path in job.python_path]
    if job.command is None and job.python is not None:
        found += [("python", path) for path in sorted(interpreter.homes(job.python, free))]
        found.append(("function", bridge.__file__))
    elif job.command is None:
        found += [("function", path) for path in (sys.prefix, sys.base_prefix, *_OWN_CODE)]
    elif isinstance(job.command, list) and os.path.isabs(job.command[0]):
        found.append(("command", job.command[0]))
        if interpreter.is_of_environment(job.command[0]):
            found += [("command", path) for path in sorted(interpreter.homes(job.command[0], free))]
    if job.working_directory is not None:
        found.append(("working_directory", job.working_directory))
    if job.main_file is not None:
        found.append(("function", job.main_file))
    return found


def secrets(sources: Mapping[str, str], writable: Sequence[str] = ()) -> dict[str, bytes]:
    """The contents of a job's secrets by name. CannotStartError names what cannot be read, or what others can.

    `writable` are places that the job may write to.
    """
    return {name: _secret(name, source, writable) for name, source in sources.items()}


def _secret(name: str, source: str, writable: Sequence[str]) -> bytes:
    path = source
    if not source.startswith("/"):
        directory = os.environ.get("CREDENTIALS_DIRECTORY")
        if directory is None:
            raise CannotStartError(
                f"secrets: {name}: the daemon has no systemd credentials; LoadCredential={source}:PATH in its unit gives one"
            )
        path = os.path.join(directory, source)
    try:
        data, found = named.read(path, SECRET_LIMIT, writable)
    except OSError as error:
        raise CannotStartError(f"secrets: {name}: {error}") from error
    # systemd's own are kept by their directory, and their mode may be an access list's mask.
    if path == source and (found.st_mode & 0o077 or found.st_uid not in (0, os.geteuid())):
        raise CannotStartError(
            f"secrets: {name}: {path} must be its owner's alone, mode 0600, and of root or the daemon's account"
        )
    return data


def parents_text(parents: Mapping[str, Mapping[str, Any]]) -> str:
    """LNMT_PARENTS: first the facts of each run, then as many results as there is room for, small ones first."""
    import json  # noqa: PLC0415 (only for the runs that have parents)

    to_json = json.JSONEncoder().encode
    left = PARENTS_LIMIT
    found: dict[str, dict[str, Any]] = {}
    for job_id, facts in parents.items():
        bare = {**facts, "result": None}
        if (size := len(to_json({job_id: bare}))) > left:
            break
        found[job_id] = bare
        left -= size
    for job_id in sorted(found, key=lambda job_id: parents[job_id]["result_bytes"]):
        result = views.plain(parents[job_id]["result"])
        if (size := len(to_json(result))) <= left:
            found[job_id]["result"] = result
            left -= size
    return to_json(found)


def _read_environment(path: str, writable: Sequence[str]) -> dict[str, str]:
    """NAME=VALUE lines, as systemd's EnvironmentFile= has them: # and ; begin comments, quotes around a value go."""
    try:
        data, _ = named.read(path, _FILE_LIMIT, writable)
    except OSError as error:
        raise CannotStartError(f"environment_file: {error}") from error
    found = {}
    for number, raw in enumerate(data.decode(errors="surrogateescape").splitlines(), 1):
        line = raw.strip()
        if not line or line[0] in "#;":
            continue
        name, equals, value = line.partition("=")
        name = name.strip()
        if not equals or not _NAME.fullmatch(name) or "\0" in line:
            raise CannotStartError(f"environment_file: {path}, line {number}: NAME=VALUE is expected")
        value = value.strip()
        if len(value) > 1 and value[0] == value[-1] and value[0] in "'\"":
            value = value[1:-1]
        found[name] = value
    return found


def _iso(ms: int) -> str:
    return datetime.fromtimestamp(ms / 1000, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def _json(value: Any) -> str:
    import json  # noqa: PLC0415 (only for the rare run that has an event)

    return json.dumps(value)
