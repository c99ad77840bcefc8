"""The daemon's own log: lines on stderr, with a priority that journald understands where stderr leads there.

Logging never raises and never waits for anybody but the reader of stderr. A line is one write, past Python's own buffers, which
would keep what nobody reads and fail for it at the end. sd-daemon(3) for the prefix.
"""

import os
import time

ERR, WARNING, NOTICE, INFO, DEBUG = 3, 4, 5, 6, 7
LEVELS = {"error": ERR, "warning": WARNING, "notice": NOTICE, "info": INFO, "debug": DEBUG}


def _leads_to_journal() -> bool:
    """Whether stderr is the stream that the service manager connected; it may have been redirected since: systemd.exec(5)."""
    try:
        stderr = os.fstat(2)
    except OSError:
        return False
    return os.environ.get("JOURNAL_STREAM") == f"{stderr.st_dev}:{stderr.st_ino}"


_to_journal = _leads_to_journal()
_threshold = INFO


def set_level(name: str) -> None:
    global _threshold  # noqa: PLW0603 (a process has one log)
    _threshold = LEVELS[name]


def write(priority: int, text: str) -> None:
    """One line; control characters in it are escaped, because names and errors come from jobs."""
    if priority > _threshold:
        return
    line = "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)
    prefix = f"<{priority}>" if _to_journal else time.strftime("%Y-%m-%d %H:%M:%S ")
    try:
        os.write(2, f"{prefix}schedd: {line}\n".encode(errors="backslashreplace"))
    except OSError:  # stderr is closed, or its reader gone, or its disk full: there is nobody to tell
        pass


def error(text: str) -> None:
    write(ERR, text)


def warning(text: str) -> None:
    write(WARNING, text)


def notice(text: str) -> None:
    write(NOTICE, text)


def info(text: str) -> None:
    write(INFO, text)


def debug(text: str) -> None:
    write(DEBUG, text)
