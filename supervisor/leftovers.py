"""Files in the state directory that belong to nobody: output of runs that are no more, directories of jobs that are removed.

Retention and purge take files with their rows; what they leave are the state directories of jobs that were removed without
`--purge`, on purpose, and what a crash between a row and its file left. Read by schedctl, removed only while no daemon runs.
"""

import os
import re
from collections.abc import Callable, Iterator

from lnmt_scheduler.supervisor import output, trees

_RUN = re.compile(r"([0-9]+)\.(log|t0|t1|report|idx)(\.idx)?")
_DAY = re.compile(r"[0-9]{4}/[0-9]{2}/[0-9]{2}")


def find(output_dir: str, jobs_dir: str, uids: set[int], has_run: Callable[[int], bool]) -> Iterator[str]:
    """Paths of what belongs to no living job and no run, directories of jobs first."""
    for name in _names(jobs_dir):
        if name.isascii() and name.isdigit() and int(name) not in uids:
            yield os.path.join(jobs_dir, name)
    for folder, _, files in os.walk(output_dir):
        if _DAY.fullmatch(os.path.relpath(folder, output_dir)):
            runs = {int(match[1]) for name in files if (match := _RUN.fullmatch(name))}
            yield from (os.path.join(folder, f"{run}.log") for run in sorted(runs) if not has_run(run))


def remove(path: str, tell: Callable[[str], None]) -> None:
    """Remove one of them."""
    if path.endswith(".log"):
        try:
            output.remove(path)
        except OSError as error:
            tell(f"{path} stays: {error.strerror}")
    else:
        for _ in trees.remove(path, tell):
            pass


def _names(directory: str) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except FileNotFoundError:
        return []
