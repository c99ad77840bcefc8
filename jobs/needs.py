"""What a job of ours ends with before it has begun: something is missing, or its arguments are wrong.

Both are said in one line that tells what to do, on stderr, and by an exit code of their own, so that "could not look" is
never taken for "looked, and it is bad". A traceback would bury the line.
"""

import contextlib
import importlib.util
import os
import shutil
import sys
from collections.abc import Iterator, Sequence
from importlib import metadata
from typing import NoReturn

#: A package, a program, a permission or a device is not there; a file or an argument is wrong (sysexits.h).
UNAVAILABLE, WRONG = 69, 78
_DISTRIBUTION = "lnmt-scheduler"


def end(line: str, code: int = WRONG) -> NoReturn:
    """End the job with one line."""
    print(line, file=sys.stderr)
    raise SystemExit(code)


@contextlib.contextmanager
def extra(name: str) -> Iterator[None]:
    """Around the import of what belongs to the extra `name`: where it is not installed the job ends with the command."""
    try:
        yield
    except ModuleNotFoundError as error:
        wanted = [f"'{each}'" for each in _requirements(name)] or [f"'{_DISTRIBUTION}[{name}]'"]
        end(f"needs {error.name}, of the extra {name!r}; install it: {how_to_get(name, wanted)}", UNAVAILABLE)


def how_to_get(name: str, packages: Sequence[str]) -> str:
    """The command that installs packages of the extra `name` for this interpreter; one of `make install` has no pip."""
    if importlib.util.find_spec("pip") is None:
        return f"sudo make install EXTRAS={name} (in a checkout; with the others that are wanted, after commas)"
    return f"{sys.executable} -m pip install {' '.join(packages)}"


def _requirements(name: str) -> list[str]:
    """What the extra consists of, so that the command works also where the package itself came from no index."""
    try:
        found = metadata.requires(_DISTRIBUTION) or []
    except metadata.PackageNotFoundError:
        return []
    parts = (each.partition(";") for each in found)
    return [what.strip() for what, _, when in parts if when.replace('"', "'").strip() == f"extra == '{name}'"]


def secret_file(name: str) -> str:
    """Path of one of the job's secrets; where it has none of that name the job ends with the key that gives it one."""
    path = os.path.join(os.environ.get("CREDENTIALS_DIRECTORY", "/nonexistent"), name)
    if not os.path.exists(path):
        end(f"the job has no secret {name!r}: name its file under `secrets`")
    return path


def secret(name: str) -> str:
    """The text of one of the job's secrets, without white space at its end."""
    with open(secret_file(name), encoding="utf-8") as file:
        return file.read().rstrip()


def program(name: str, package: str) -> str:
    """Path of a program; where it is not there the job ends with the command that installs it on Debian."""
    path = shutil.which(name)
    if path is None:
        end(f"needs the program {name}; install it: apt-get install {package}", UNAVAILABLE)
    return path
