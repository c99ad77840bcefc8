"""Which copies stay and which go, for backup.cleanup: pure, and then the removal, which cannot leave its folder.

A copy is a regular file directly in the folder, named NAME-20260301T040000Z.EXT; nothing else is touched, whatever it is. Of
each NAME the rules keep the newest copy of so many days, weeks, months and years. Besides, the newest copy that is good stays,
whatever the rules say: without a single backup in the time that they cover, or with damaged ones only, they would else take the
last one away.
"""

import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from lnmt_scheduler.jobs import atomic, needs

STAMP = "%Y%m%dT%H%M%SZ"
_NAME = re.compile(r"(?P<name>.+)-(?P<stamp>[0-9]{8}T[0-9]{6}Z)(?P<suffix>(\.[A-Za-z0-9]+)*)")
_PERIODS: dict[str, Callable[[datetime], object]] = {
    "last": lambda at: at,
    "hourly": lambda at: (at.date(), at.hour),
    "daily": lambda at: at.date(),
    "weekly": lambda at: at.isocalendar()[:2],
    "monthly": lambda at: (at.year, at.month),
    "yearly": lambda at: at.year,
}
_SQLITE = b"SQLite format 3\0"


@dataclass(frozen=True, slots=True)
class Copy:
    file: str
    at: datetime


def groups(root: str) -> dict[str, list[Copy]]:
    """Copies in the folder by the name of what they are copies of, newest first."""
    found: dict[str, list[Copy]] = {}
    with os.scandir(root) as entries:
        for entry in entries:
            match = _NAME.fullmatch(entry.name)
            if match is None or entry.name.endswith(atomic.PART) or not entry.is_file(follow_symlinks=False):
                continue
            try:
                at = datetime.strptime(match["stamp"], STAMP).replace(tzinfo=UTC)
            except ValueError:  # digits that are no date
                continue
            found.setdefault(f"{match['name']}{match['suffix']}", []).append(Copy(entry.name, at))
    for copies in found.values():
        copies.sort(key=lambda copy: (copy.at, copy.file), reverse=True)
    return found


def plan(copies: Sequence[Copy], keep: Mapping[str, int], is_good: Callable[[Copy], bool]) -> dict[str, str]:
    """File -> why it stays, for copies of one thing, newest first. What is not in it goes."""
    kept: dict[str, str] = {}
    for rule, count in keep.items():
        seen: set[object] = set()
        for copy in copies:
            period = _PERIODS[rule](copy.at)
            if period not in seen and len(seen) < count:
                kept.setdefault(copy.file, rule)
            seen.add(period)
    if not any(copy.file in kept and is_good(copy) for copy in copies):
        for copy in copies:
            if copy.file not in kept and is_good(copy):
                kept[copy.file] = "last good one"
                break
        else:
            # None is good as far as can be seen: then none goes.
            kept |= {copy.file: "none is good" for copy in copies if copy.file not in kept}
    return kept


def clean(root: str, keep: Mapping[str, int], *, dry_run: bool) -> dict[str, Any]:
    """Remove what the rules do not keep; with `dry_run` only say it."""
    from lnmt_scheduler.jobs import copies as checking  # noqa: PLC0415 (which looks at copies by this module)

    _check(root, keep)
    try:
        folder = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError as error:
        needs.end(f"the folder {root!r} cannot be cleaned: {error.strerror}")
    removed: list[str] = []
    stay: dict[str, str] = {}
    freed = 0
    try:
        with atomic.locked(root):
            for _, copies in sorted(groups(root).items()):
                kept = plan(copies, keep, lambda copy: _is_good(root, copy, checking.copy_fault))
                stay |= kept
                for copy in copies:
                    if copy.file in kept:
                        continue
                    found = os.stat(copy.file, dir_fd=folder, follow_symlinks=False)
                    if not stat.S_ISREG(found.st_mode):
                        continue
                    if not dry_run:
                        os.unlink(copy.file, dir_fd=folder)
                    removed.append(copy.file)
                    freed += found.st_size
    finally:
        os.close(folder)
    for file in removed:
        print(f"{'would remove' if dry_run else 'removed'} {file}")
    return {
        "removed": removed[:1000],
        "removed_count": len(removed),
        "bytes": freed,
        "kept": len(stay),
        "dry_run": dry_run,
    }


def _check(root: str, keep: Mapping[str, int]) -> None:
    if not root.startswith("/") or ".." in root.split("/") or os.path.normpath(root) in {"/", "//"}:
        needs.end(f"cleanup: root {root!r} must be an absolute path below /, without '..'")
    unknown = sorted(set(keep) - _PERIODS.keys())
    if unknown:
        needs.end(f"cleanup: keep has {unknown[0]!r}; it may have {', '.join(_PERIODS)}")
    if not keep or not all(isinstance(count, int) and 0 <= count <= 100_000 for count in keep.values()):
        needs.end("cleanup: keep needs a number for at least one of " + ", ".join(_PERIODS))
    if not any(keep.values()):
        needs.end("cleanup: keep would keep nothing")


def _is_good(root: str, copy: Copy, fault: Callable[[str], str | None]) -> bool:
    """Whether a copy can be used, as far as can be told: a database is checked, anything else has some content."""
    path = os.path.join(root, copy.file)
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as file:
            head = file.read(len(_SQLITE))
    except OSError:
        return False
    if head == _SQLITE:
        return fault(path) is None
    return bool(head) and not copy.file.endswith((".db", ".sqlite", ".sqlite3"))
