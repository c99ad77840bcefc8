"""The new entries of systemd's journal since the last look, by `journalctl --output=json` and its cursor.

What the journal adds to an entry by itself (`_UID`, `_EXE`) cannot be forged by who writes it: a message that says it comes
from sshd, and was written by somebody else, is told apart here, which no file of text can do. How much is read at a time is
capped; the rest is for the next run.
"""

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import IO, Any

from lnmt_scheduler.jobs import needs

_LINE_LIMIT = 256 * 1024
_FIELDS = "MESSAGE,SYSLOG_IDENTIFIER,_UID,_EXE"
#: Where programs lie that only root can put there.
_SYSTEM = ("/usr/", "/bin/", "/sbin/", "/lib/")
_DENIED = ("insufficient permissions", "not seeing messages", "Permission denied")


@dataclass(frozen=True, slots=True, kw_only=True)
class Entry:
    program: str
    message: str
    #: It claims to be another's than it is.
    forged: bool
    cursor: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Batch:
    entries: Sequence[Entry]
    cursor: str | None
    gap: bool
    behind: bool


def read(programs: Sequence[str], cursor: str | None, since: str, limit: int, directory: str | None = None) -> Batch:
    """Entries of these programs after the cursor, or without one from `since` on (words of journalctl).

    The job ends with one line if the journal may not be read, or journalctl is not there.
    """
    batch = _read(programs, [f"--after-cursor={cursor}"] if cursor else [f"--since={since}"], limit, directory)
    if batch is None and cursor:
        # The journal that it is of is gone, or the cursor is no cursor.
        batch = _read(programs, [f"--since={since}"], limit, directory)
        if batch is not None:
            return Batch(entries=batch.entries, cursor=batch.cursor, gap=True, behind=batch.behind)
    if batch is None:
        needs.end("the journal cannot be read; what journalctl said is above", needs.UNAVAILABLE)
    return batch if batch.cursor else Batch(entries=(), cursor=cursor, gap=batch.gap, behind=False)


def _read(programs: Sequence[str], where: Sequence[str], limit: int, directory: str | None) -> Batch | None:
    command = [
        needs.program("journalctl", "systemd"), "--output=json", f"--output-fields={_FIELDS}", "--no-pager", "--all",
        *(["--directory", directory] if directory else ["--system"]), *where,
        *(f"SYSLOG_IDENTIFIER={each}" for each in programs),
    ]  # fmt: skip
    found: list[Entry] = []
    last: str | None = None
    # Into a file, since a pipe that nobody reads while it fills would hold up the other one.
    with tempfile.TemporaryFile() as errors:
        with subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=errors) as reader:
            assert reader.stdout is not None
            for line in _lines(reader.stdout):
                limit -= len(line)
                if limit < 0 and last is not None:
                    reader.kill()
                    return Batch(entries=found, cursor=last, gap=False, behind=True)
                values = _values(line)
                last = values.get("__CURSOR", last)
                entry = _entry(values)
                if entry is not None:
                    found.append(entry)
        errors.seek(0)
        said = errors.read(4000).decode(errors="backslashreplace").strip()
    if any(each in said for each in _DENIED):
        needs.end(
            f"the journal cannot be read by {os.geteuid()}: give the job the group systemd-journal or adm, "
            "and with it a `user` by name",
            needs.UNAVAILABLE,
        )
    if reader.returncode:
        print(said)
        return None
    return Batch(entries=found, cursor=last, gap=False, behind=False)


def _lines(stream: IO[bytes]) -> Iterator[bytes]:
    """Lines; of one that is too long nothing."""
    while line := stream.readline(_LINE_LIMIT):
        if line.endswith(b"\n"):
            yield line
            continue
        while rest := stream.readline(_LINE_LIMIT):
            if rest.endswith(b"\n"):
                break


def _values(line: bytes) -> dict[str, Any]:
    try:
        found = json.loads(line)
    except (ValueError, RecursionError):
        return {}
    return found if isinstance(found, dict) else {}


def _entry(values: dict[str, Any]) -> Entry | None:
    program, message = values.get("SYSLOG_IDENTIFIER"), values.get("MESSAGE")
    if isinstance(message, list):  # bytes that are no text
        try:
            message = bytes(message).decode(errors="backslashreplace")
        except (ValueError, TypeError):
            return None
    if not isinstance(program, str) or not isinstance(message, str):
        return None
    path = values.get("_EXE")
    # sudo and su are run by others, so who runs them says nothing; who runs as root may write what he likes.
    genuine = values.get("_UID") == "0" or (
        isinstance(path, str) and path.startswith(_SYSTEM) and os.path.basename(path) == program
    )
    return Entry(program=program, message=message, forged=not genuine, cursor=str(values.get("__CURSOR", "")))
