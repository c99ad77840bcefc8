"""What a box must be shown so that an interpreter starts in it: where it lies, and what a virtual environment was made from.

Runs in the supervisor when an attempt of a job with `python` is prepared. Links and pyvenv.cfg decide what is shown, so what
the job itself could have changed is not asked: it would choose its own view. Nothing is executed, and nothing waits.
"""

import os
import stat
from collections.abc import Iterator, Sequence

from lnmt_scheduler.sandbox import filesystem

_CONFIG_LIMIT = 64 * 1024
_HOPS = 40


def homes(python: str, free: Sequence[str]) -> set[str]:
    """Directories to show for an interpreter; `free` are those that the job may write to.

    A virtual environment is known by the name that its interpreter was called by, so each step of a chain of links counts.
    The root is no home, or everything would be shown.
    """
    found = set()
    for path in _hops(os.path.normpath(python), free):
        home = _above(path)
        found |= {home, os.path.realpath(home)}
        if base := _made_from(os.path.join(home, "pyvenv.cfg")):
            found |= {base, os.path.realpath(base)}
    return found - {"/"}


def is_of_environment(program: str) -> bool:
    """Whether this is the interpreter, or another program, of a virtual environment."""
    return os.path.exists(os.path.join(_above(os.path.normpath(program)), "pyvenv.cfg"))


def _hops(path: str, free: Sequence[str]) -> Iterator[str]:
    """The path, and what each link leads to, up to the first that the job could have made."""
    for _ in range(_HOPS):
        if filesystem.is_within(path, free) or filesystem.is_within(os.path.realpath(_above(path)), free):
            return
        yield path
        try:
            path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
        except OSError:  # no link, or nothing at all
            return


def _above(python: str) -> str:
    """What PREFIX/bin/python lies in; for one that lies elsewhere its own directory."""
    folder = os.path.dirname(python)
    return os.path.dirname(folder) if os.path.basename(folder) == "bin" else folder


def _made_from(config: str) -> str | None:
    """The prefix that `home` of a pyvenv.cfg stands for; None if there is no such file, or it does not say."""
    try:
        # O_NONBLOCK: a FIFO of that name must not hold up the supervisor.
        with open(os.open(config, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
                return None
            text = file.read(_CONFIG_LIMIT).decode(errors="surrogateescape")
    except OSError:
        return None
    for line in text.splitlines():
        key, _, value = line.partition("=")
        if key.strip() == "home" and os.path.isabs(value.strip()):
            return os.path.dirname(os.path.normpath(value.strip()))
    return None
