"""Log rotation: logrotate with a state file of the job's own, and what it has given back.

The job names a configuration, or logs and directives of which one is written. What logrotate would look at it says itself,
without doing anything (`--debug`); the logs that it names, and their older versions, are measured before and after.

A logrotate that is killed while it packs a version leaves both, the version whole and its packed copy not, and the next one
would rename the log over the whole one. So what would be overwritten is packed before, under the name by which logrotate
then moves it on. With `delaycompress` it packs that version itself before anything is renamed, and is let do so.
"""

import bz2
import glob
import gzip
import lzma
import os
import re
import shutil
import zlib
from collections.abc import Callable, Iterable, Sequence
from typing import Any

from lnmt_scheduler.jobs import atomic, keep, needs, programs, shown

_CONSIDERED = re.compile(r"^considering log (/.*)$", re.MULTILINE)
_OLD = re.compile(r"^olddir is (/[^,\n]*),", re.MULTILINE)
_ROTATED = re.compile(r"^renaming (/.*?) to |^copying (/.*?) to ", re.MULTILINE)
_RENAMING = re.compile(r"^renaming (/.*?) to (/.*?)(?: \(rotatecount .*)?$", re.MULTILINE)
_DELAYED = re.compile(
    r"^rotating log (/.*), log->rotateCount .*\n(?:(?!renaming |rotating ).*\n)*?compressing log with", re.MULTILINE
)
_PACKERS: dict[str, Callable[[str, str], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}
_DAMAGED = (EOFError, zlib.error, lzma.LZMAError)
_ERROR = re.compile(r"^error: (.*)$", re.MULTILINE)
_NAMED = 50
#: What logrotate says, a line for each version of each log.
_SAID_LIMIT = 16 * 1024 * 1024
_PIECE = 1 << 20


def configuration(logs: Sequence[str], directives: Sequence[str]) -> str:
    """The text of a configuration. ValueError for what would be another text than it seems."""
    for each in logs:
        if not each.startswith("/") or any(character in each for character in '"\n{}'):
            raise ValueError(f"{each!r:.100} is not the absolute path of a log, or a pattern of such")
    for each in directives:
        if "{" in each or "}" in each:
            raise ValueError(f"{each!r:.100} holds a brace; a list of directives is for one set of logs")
    paths = " ".join(f'"{each}"' for each in logs)
    return f"{paths} {{\n" + "".join(f"    {each}\n" for each in directives) + "}\n"


def rotate(path: str, state_dir: str, *, force: bool = False) -> dict[str, Any]:
    """Rotate what the configuration at `path` says is due. What logrotate complained about is `errors`."""
    command = [
        needs.program("logrotate", "logrotate"), "--state", os.path.join(state_dir, "logrotate.status"), "--verbose",
        *(["--force"] if force else []), path,
    ]  # fmt: skip
    would = programs.run([*command, "--debug"], limit=_SAID_LIMIT + 1)
    said = would.output + would.errors
    if len(said.encode()) > _SAID_LIMIT:  # of what is not read nobody knows what would be overwritten
        needs.end(f"log_rotation: logrotate says more than {_SAID_LIMIT} bytes about these logs; name fewer in one job")
    logs = sorted(set(_CONSIDERED.findall(said)))
    folders = sorted(set(_OLD.findall(said)))
    before = _sizes(logs, folders)
    renames = _RENAMING.findall(said)
    delayed = set(_DELAYED.findall(said))
    for version in _overwritten(rename for rename in renames if rename[0] not in delayed):
        if (suffix := _suffix(version, renames)) is not None:
            _pack(version, suffix)
    done = programs.run(command, limit=_SAID_LIMIT)
    after = _sizes(logs, folders)
    told = done.output + done.errors
    # Each log by its name now: of what is renamed in a row, the last step is of the log itself.
    moved = {first or second for first, second in _ROTATED.findall(told)}
    rotated = [log for log in logs if log in moved]
    errors = [shown.text(each, 300) for each in _ERROR.findall(told)]
    if done.code and not errors:
        errors = [done.complaint]
    return {
        "logs": len(logs),
        "rotated": rotated[:_NAMED],
        "rotated_count": len(rotated),
        "bytes_before": sum(before.values()),
        "bytes_after": sum(after.values()),
        "freed": sum(before.values()) - sum(after.values()),
        "errors": errors[:_NAMED],
    }


def _overwritten(renames: Iterable[tuple[str, str]]) -> list[str]:
    """What is there, and would be lost if these were renamed one after the other."""
    there: dict[str, bool] = {}
    found = []
    for path, to in renames:
        if not there.setdefault(path, os.path.lexists(path)):
            continue
        if there.setdefault(to, os.path.lexists(to)):
            found.append(to)
        there[path], there[to] = False, True
    return found


def _suffix(version: str, renames: Iterable[tuple[str, str]]) -> str | None:
    """What logrotate adds to this version's name when it packs it; None: it is not one that is packed, but one that goes."""
    of_it = (path.removeprefix(version) for path, _ in renames if path.startswith(version))
    return next((suffix for suffix in of_it if suffix and not suffix[0].isdigit()), None)


def _pack(version: str, suffix: str) -> None:
    """Put its packed copy, whole, in the place of one that may not be, and remove the version. The job ends if it cannot be."""
    what = f"{version!r} is left of a rotation that was killed, or that did not pack"
    if (opens := _PACKERS.get(suffix)) is None:
        needs.end(f"{what}; pack it as {version + suffix!r}, or move it away; nothing was rotated")
    if _holds_another(version, version + suffix, opens):
        needs.end(f"{what}, and {version + suffix!r} is another; move one of them away; nothing was rotated")
    part = os.path.join(os.path.dirname(version), f".{os.path.basename(version)}{suffix}{atomic.PART}")
    try:
        with open(version, "rb") as source, opens(part, "wb") as packed:
            os.chmod(part, os.fstat(source.fileno()).st_mode & 0o7777)
            shutil.copyfileobj(source, packed)
        atomic.finish(part, version + suffix)
        os.unlink(version)
    except OSError as error:
        needs.end(f"{what}, and cannot be packed: {error}; nothing was rotated")


def _holds_another(version: str, packed: str, opens: Callable[[str, str], Any]) -> bool:
    """Whether what is packed is whole, or cannot be read, and of something else than this version."""
    try:
        if not os.path.getsize(packed):
            return False
        with open(version, "rb") as one, opens(packed, "rb") as other:
            same = True
            while piece := other.read(_PIECE):
                same = same and one.read(len(piece)) == piece
            return not same or bool(one.read(1))
    except (FileNotFoundError, *_DAMAGED):
        return False
    except OSError as error:
        return error.errno is not None  # without a number gzip and bz2 say by it that the data is damaged


def _sizes(logs: Iterable[str], folders: Iterable[str]) -> dict[tuple[int, int], int]:
    """Bytes on disk of each log and its older versions, each file once."""
    found = {}
    for log in logs:
        patterns = [f"{glob.escape(log)}*", *(f"{glob.escape(f'{each}/{os.path.basename(log)}')}*" for each in folders)]
        for path in (path for pattern in patterns for path in glob.iglob(pattern)):
            try:
                status = os.lstat(path)
            except OSError:
                continue
            found[(status.st_dev, status.st_ino)] = status.st_blocks * 512
    return found


def write(state_dir: str, logs: Sequence[str], directives: Sequence[str]) -> str:
    """Path of a configuration for these, in the state directory."""
    path = os.path.join(state_dir, "logrotate.conf")
    keep.write_bytes(path, configuration(logs, directives).encode())
    return path
