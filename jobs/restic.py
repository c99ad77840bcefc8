"""Snapshots of folders by restic's own command, for backup.data and its drill; in the job's process, inside its box.

restic encrypts, deduplicates and verifies; here is only how it is called so that a killed run harms no later one. The
password is a file of the job's secrets, told by RESTIC_PASSWORD_FILE. A killed restic leaves a lock in the repository, which
it takes for stale only if no process has that pid: but in a box pids begin anew with each run, so the next restic would most
likely find itself. So each run takes pids that the runs before it had not, and restic's `unlock` then removes what is stale.

Several jobs may share a repository. A snapshot is tagged with the id of its job, so that none thins out what another has made,
and the drill restores the newest of each.
"""

import json
import os
import re
import shutil
import signal
import socket
import subprocess
import time
from collections.abc import Mapping, Sequence
from datetime import datetime
from typing import Any

from lnmt_scheduler.jobs import copies, needs

_RULES = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_TAG, _JOB = "lnmt-scheduler", "job="
_SQLITE = b"SQLite format 3\0"
#: restic backup's code for a snapshot in which some files are missing, since they could not be read.
_INCOMPLETE = 3


class ResticFailedError(Exception):
    """What restic said."""


class Repository:
    def __init__(self, repository: str, password_file: str, state_dir: str, job_id: str) -> None:
        self._program = needs.program("restic", "restic")
        self._repository = repository
        self._tags = f"{_TAG},{_JOB}{job_id}"
        self._state_dir = state_dir
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": state_dir,
            "TMPDIR": os.environ.get("TMPDIR", "/tmp"),
            "LANG": "C.UTF-8",
            "RESTIC_REPOSITORY": repository,
            "RESTIC_PASSWORD_FILE": password_file,
            "RESTIC_CACHE_DIR": os.path.join(state_dir, "cache"),
            # What a repository elsewhere needs; the job has them from its environment_file, or its own `environment`.
            **{
                name: os.environ[name]
                for name in os.environ
                if name.startswith(("AWS_", "B2_", "AZURE_", "GOOGLE_", "RCLONE_"))
            },
        }
        # restic asks whether a lock's process lives by sending it a hang-up, and in a box that process may be this one.
        signal.signal(signal.SIGHUP, signal.SIG_IGN)
        _take_pids()

    def back_up(self, paths: Sequence[str], exclude: Sequence[str], *, init: bool) -> dict[str, Any]:
        """A new snapshot of these paths. ResticFailedError also if files could not be read: it then exists, without them."""
        for path in paths:
            if not path.startswith("/"):
                needs.end(f"folders: {path!r} must be an absolute path")
            if not os.path.exists(path):
                raise ResticFailedError(f"{path} is not there")
        exclude = [*exclude, *_itself(self._repository, paths)]
        if self._call("unlock", check=False).returncode:
            if not init:
                raise ResticFailedError(f"the repository cannot be opened: {self._said}; `init` makes a new one")
            self._call("init")
        words = [word for pattern in exclude for word in ("--exclude", pattern)]
        done = self._call("backup", "--json", "--tag", self._tags, *words, "--", *paths, check=False)
        summary = _summary(done.stdout)
        if done.returncode not in (0, _INCOMPLETE) or not summary:
            raise ResticFailedError(f"backup: {self._said}")
        found = {
            "id": summary.get("snapshot_id"),
            "files": summary.get("total_files_processed"),
            "bytes": summary.get("total_bytes_processed"),
            "added_bytes": summary.get("data_added"),
        }
        if done.returncode == _INCOMPLETE:
            raise ResticFailedError(f"snapshot {found['id']} lacks files that could not be read: {self._said}")
        return found

    def forget(self, keep: Mapping[str, int]) -> int:
        """Remove snapshots of this job that these rules do not keep, and the data that only they had; how many."""
        unknown = sorted(set(keep) - set(_RULES))
        if unknown or not any(keep.values()):
            needs.end(f"data: keep may have {', '.join(_RULES)}, and must keep something")
        words = [word for rule, count in keep.items() if count for word in (f"--keep-{rule}", str(count))]
        done = self._call(
            "forget",
            "--json",
            "--prune",
            "--tag",
            self._tags,
            "--host",
            socket.gethostname(),
            "--group-by",
            "host,tags",
            *words,
        )
        found = _values(done.stdout)
        groups = found[0] if found and isinstance(found[0], list) else []
        return sum(len(group.get("remove") or ()) for group in groups)

    def drill(
        self, jobs: Sequence[str], oldest: float, include: Sequence[str], least_files: int, read_data: str
    ) -> list[dict[str, Any]]:
        """Restore the newest snapshot of each of these jobs, or of all, and look at what came. ResticFailedError."""
        self._call("unlock")
        newest = self._newest()
        if not newest:
            raise ResticFailedError("the repository has no snapshot of this host to restore")
        found, wrong = [], [f"job {job!r} has no snapshot of this host" for job in jobs if job not in newest]
        for job, snapshot in sorted(newest.items()):
            if jobs and job not in jobs:
                continue
            whose = f"job {job!r}" if job else f"no job (it has no tag {_JOB}ID)"
            age = time.time() - _moment(snapshot["time"])
            try:
                files, size, unsound = self._restore(snapshot["id"], include)
            except ResticFailedError as error:
                wrong.append(f"{whose}: {error}")
                continue
            wrong += unsound
            if files < least_files:
                wrong.append(f"{whose}: {files} files came back; at least {least_files} are wanted")
            if age > oldest:
                wrong.append(f"the newest snapshot of {whose} is {age / 86400:.1f} days old")
            found.append({"job": job, "id": snapshot["short_id"], "age": round(age), "files": files, "bytes": size})
        self._call("check", f"--read-data-subset={read_data}")
        if wrong:
            raise ResticFailedError("; ".join(wrong[:20]))
        return found

    def _newest(self) -> dict[str, Any]:
        """The newest snapshot of each job on this host; of "" that of those without the tag of a job."""
        found = _values(self._call("snapshots", "--json", "--tag", _TAG, "--host", socket.gethostname()).stdout)
        snapshots = found[0] or () if found else ()
        return {_job_of(each): each for each in sorted(snapshots, key=lambda each: _moment(each["time"]))}

    def _restore(self, snapshot: str, include: Sequence[str]) -> tuple[int, int, list[str]]:
        """Restore it below the state directory, look at what came, and remove it."""
        place = os.path.join(self._state_dir, "drill")
        shutil.rmtree(place, ignore_errors=True)  # of a run that was killed
        words = [word for pattern in include for word in ("--include", pattern)]
        try:
            self._call("restore", snapshot, "--target", place, "--verify", *words)
            return _look(place)
        finally:
            shutil.rmtree(place, ignore_errors=True)

    def _call(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            [self._program, "--quiet", *arguments] if "--json" not in arguments else [self._program, *arguments],
            env=self._environment,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            check=False,
        )
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        self._said = "; ".join(lines[-3:])[:500]
        if check and done.returncode:
            raise ResticFailedError(f"{arguments[0]}: {self._said}")
        return done


def _job_of(snapshot: Mapping[str, Any]) -> str:
    return next((tag.removeprefix(_JOB) for tag in snapshot["tags"] if tag.startswith(_JOB)), "")


def _itself(repository: str, paths: Sequence[str]) -> list[str]:
    """Patterns that leave a repository on this host out of its own snapshots, each of which would hold those before."""
    local = repository.removeprefix("local:")
    if re.match("[a-z0-9]+:", local):
        return []
    place, found = os.path.realpath(local), []
    for path in paths:
        real = os.path.realpath(path)
        common = os.path.commonpath([real, place])
        if common == place:
            needs.end(f"data: {path!r} lies in the repository {repository!r}, which cannot go into itself")
        if common == real:
            within = os.path.join(os.path.normpath(path), os.path.relpath(place, real))
            found.append(re.sub(r"([*?\[\\])", r"\\\1", within))
    return found


def _take_pids() -> None:
    """Let pids go by, as many as make the ones to come others than those of the last few dozen runs."""
    number = int(os.environ.get("LNMT_RUN_ID") or 0) * 4 + int(os.environ.get("LNMT_ATTEMPT") or 1)
    for _ in range(number % 32 * 16):
        pid = os.fork()
        if pid == 0:
            os._exit(0)
        os.waitpid(pid, 0)


def _values(data: bytes) -> list[Any]:
    """The JSON values of an output, one a line; a line that is none is passed over."""
    found = []
    for line in data.splitlines():
        try:
            found.append(json.loads(line))
        except ValueError:
            continue
    return found


def _summary(data: bytes) -> dict[str, Any]:
    said = [each for each in _values(data) if isinstance(each, dict) and each.get("message_type") == "summary"]
    return said[-1] if said else {}


def _moment(text: str) -> float:
    """restic writes nanoseconds, which datetime does not take."""
    head, dot, rest = text.partition(".")
    digits = len(rest) - len(rest.lstrip("0123456789"))
    zone = rest[digits:] if dot else ""
    return datetime.fromisoformat(
        f"{head}{zone.replace('Z', '+00:00')}" if dot else head.replace("Z", "+00:00")
    ).timestamp()


def _look(place: str) -> tuple[int, int, list[str]]:
    """Files and bytes that came back, and databases among them that are not sound."""
    files, size, unsound = 0, 0, []
    for folder, _, names in os.walk(place):
        for name in names:
            path = os.path.join(folder, name)
            if not os.path.isfile(path) or os.path.islink(path):
                continue
            files, size = files + 1, size + os.stat(path).st_size
            with open(path, "rb") as file:
                is_database = file.read(len(_SQLITE)) == _SQLITE
            if is_database and (problem := copies.fault(path)) is not None:
                unsound.append(f"{path.removeprefix(place)}: {problem}")
    return files, size, unsound
