"""Run a program of the host for a job, and take what it says: no more than a cap, and no longer than a time.

Its output goes to files without a name, so neither stream can hold up the other and nothing is kept in memory that nobody
asked for; what it starts dies with the job's box.
"""

import os
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import IO

from lnmt_scheduler.jobs import shown

_LIMIT = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Done:
    code: int
    #: As much of each as was asked for, from the beginning.
    output: str
    errors: str

    @property
    def complaint(self) -> str:
        """What it said when it failed, in a line."""
        said = (self.errors or self.output).strip().splitlines()
        return shown.text(said[-1], 300) if said else f"exit code {self.code}"


def run(
    argv: Sequence[str],
    *,
    timeout: float | None = None,
    stdin: bytes = b"",
    environment: Mapping[str, str] | None = None,
    limit: int = _LIMIT,
) -> Done:
    """Run it to its end, and take `limit` bytes of each stream.

    OSError; subprocess.TimeoutExpired after `timeout` seconds, and then it is dead.
    """
    with tempfile.TemporaryFile() as given, tempfile.TemporaryFile() as output, tempfile.TemporaryFile() as errors:
        given.write(stdin)
        given.seek(0)
        done = subprocess.run(
            argv, stdin=given, stdout=output, stderr=errors, timeout=timeout, check=False,
            env={**os.environ, "LC_ALL": "C.UTF-8", **(environment or {})},
        )  # fmt: skip
        return Done(code=done.returncode, output=_read(output, limit), errors=_read(errors, limit))


def _read(file: IO[bytes], limit: int) -> str:
    file.seek(0)
    return file.read(limit).decode(errors="backslashreplace")
