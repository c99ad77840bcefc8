"""From a checkout to a version: a wheel, a virtual environment that is made of it, and its name.

Nothing of a version names the place where it was made: it may be made below a DESTDIR, or be about to get its name, which comes
from its contents. Runs under the interpreter that the version is made of.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import versions
from versions import InstallError

SOURCE = Path(__file__).resolve().parents[1]
NAME = "lnmt-scheduler"
#: File in a version that names the extras it was made with.
_EXTRAS = "extras"
#: What the wheel is built from.
_BUILT_FROM = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "ipc", "sandbox", "jobs", "supervisor")

_SCHEDCTL = """\
#!{version}/bin/python -I
from lnmt_scheduler.supervisor.cli import main

main()
"""
_SCHEDD = """\
#!{version}/bin/python -I
import sys

from lnmt_scheduler.supervisor.schedd import main

# This process stays what it is; the supervisors that it starts are of the version that is current by then.
sys.executable = "{home}/python"
main()
"""
PYTHON = f"""\
#!/bin/sh
# The interpreter of the current version, under the name of that version and not of the link, which may change.
exec "$(readlink -f {versions.HOME}/current)/bin/python" "$@"
"""


def check_interpreter() -> None:
    """Every account that a job may run as must reach it, for as long as the version is there."""
    for path in {Path(_executable()), Path(sysconfig.get_path("stdlib")).resolve()}:
        for part in (path, *path.parents):
            if not part.stat().st_mode & 0o001:
                raise InstallError(
                    f"{_executable()} cannot be run by every account, because of {part}: jobs would not start; choose an"
                    " interpreter of the system with SYSTEM_PYTHON="
                )


def _executable() -> str:
    """With its minor version: /usr/bin/python3 is another one after an upgrade of the host, where nothing of ours is found."""
    return os.path.realpath(getattr(sys, "_base_executable", sys.executable))


def extras(given: str, home: Path) -> tuple[str, ...]:
    """The extras that are asked for, or else those of the current version, sorted. InstallError names one that there is not."""
    if not given:
        try:
            given = (home / versions.CURRENT / _EXTRAS).read_text()
        except OSError:
            return ()
    known = set(_project()["project"]["optional-dependencies"]) - {"dev"}
    names = {name.strip() for name in given.split(",")} - {"", "none"}
    if unknown := sorted(names - known):
        raise InstallError(f"there is no extra {unknown[0]!r}; there are {', '.join(sorted(known))}")
    return tuple(sorted(names))


def _with(extras: Sequence[str]) -> str:
    return f"[{','.join(extras)}]" if extras else ""


def make_version(home: Path, work: Path, wheelhouse: str | None, extras: Sequence[str]) -> str:
    """Build, and put a new version beside the others if it is not there yet; its name."""
    wheels = _build(work, wheelhouse, extras)
    unfinished = Path(tempfile.mkdtemp(prefix=versions.UNFINISHED, dir=home))
    try:
        unfinished.chmod(0o755)
        run(_executable(), "-I", "-m", "venv", "--without-pip", unfinished)
        pip, python = work / "builder/bin/pip", unfinished / "bin/python"
        # By name from what was built, so that no path of the checkout is recorded.
        wanted = f"{NAME}{_with(extras)}=={_version()}"
        run(pip, "--python", python, "install", "--quiet", "--no-compile", wanted, environment=_offline(wheels))
        if extras:
            (unfinished / _EXTRAS).write_text(",".join(extras))
        name = _finish(unfinished)
        if not (home / name).exists():
            unfinished.rename(home / name)
        return name
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _build(work: Path, wheelhouse: str | None, extras: Sequence[str], *more: str) -> Path:
    """Our wheel, those that it needs, and `more`. Built from a copy: a build leaves files behind, and those would be root's."""
    source, wheels = work / "source", work / "wheels"
    source.mkdir()
    for each in _BUILT_FROM:
        if (SOURCE / each).is_dir():
            shutil.copytree(SOURCE / each, source / each, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(SOURCE / each, source / each)
    try:
        run(_executable(), "-I", "-m", "venv", work / "builder")
    except InstallError as error:
        raise InstallError(f"{error}\nThe venv module is missing: apt-get install python3-venv") from None
    # The build itself takes its own tools from the same place.
    environment = {} if wheelhouse is None else _offline(Path(wheelhouse).absolute())
    run(
        work / "builder/bin/pip",
        "wheel",
        "--quiet",
        "--wheel-dir",
        wheels,
        f"{source}{_with(extras)}",
        *more,
        environment=environment,
    )
    return wheels


def _offline(wheels: Path) -> Mapping[str, str]:
    return {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(wheels)}


def _finish(version: Path) -> str:
    """Give a new environment its programs, its name and its bytecode; the name."""
    for path in (version / "bin").iterdir():
        if not path.name.startswith("python"):  # of pip and venv, with the paths of here and now
            path.unlink()
    settings = (version / "pyvenv.cfg").read_text().splitlines(keepends=True)
    (version / "pyvenv.cfg").write_text("".join(line for line in settings if not line.startswith("command")))
    name = f"{_version()}-{_digest(version)}"
    final = f"{versions.HOME}/{name}"
    for program, text in (("schedctl", _SCHEDCTL), ("schedd", _SCHEDD)):
        put(version / "bin" / program, text.format(version=final, home=versions.HOME).encode(), 0o755)
    # -s and -p: tracebacks name the place where it is going to be.
    python = version / "bin/python"
    run(python, "-I", "-m", "compileall", "-q", "-s", version, "-p", final, version / "lib")
    for path in version.rglob("*"):
        if not path.is_symlink():
            path.chmod(0o755 if path.is_dir() or path.stat().st_mode & 0o100 else 0o644)
    return name


def _project() -> dict[str, Any]:
    with (SOURCE / "pyproject.toml").open("rb") as file:
        return tomllib.load(file)


def _version() -> str:
    return str(_project()["project"]["version"])


def _digest(version: Path) -> str:
    """Of all that a version consists of, apart from where it is."""
    digest = hashlib.sha256(f"{sys.version}{_executable()}{_SCHEDD}{_SCHEDCTL}".encode())
    for path in sorted((version / "lib").rglob("*")):
        # RECORD has the programs in it that pip made for the place where it was.
        if path.is_file() and path.name != "RECORD":
            digest.update(f"{path.relative_to(version)}\0{hashlib.sha256(path.read_bytes()).hexdigest()}\n".encode())
    return digest.hexdigest()[:8]


def gather(wheelhouse: str, extras: Sequence[str]) -> None:
    """Put what install() needs besides the checkout into a directory: for this processor and this Python."""
    with tempfile.TemporaryDirectory(prefix="lnmt-install-") as work:
        wheels = _build(Path(work), None, extras, *_project()["build-system"]["requires"])
        Path(wheelhouse).mkdir(parents=True, exist_ok=True)
        for wheel in wheels.iterdir():
            if not wheel.name.startswith("lnmt_scheduler-"):  # that one is built where it is installed
                shutil.copy(wheel, wheelhouse)
    also = f" EXTRAS={','.join(extras)}" if extras else ""
    print(f"On the other host: sudo make install WHEELHOUSE={wheelhouse}{also}")


def put(where: Path, data: bytes, mode: int, group: str | None = None) -> None:
    """Write a file whole or not at all, with this mode."""
    where.parent.mkdir(parents=True, exist_ok=True)
    beside = where.with_name(f".{where.name}.new")
    beside.unlink(missing_ok=True)
    beside.touch(mode=0o600)
    beside.write_bytes(data)
    if group is not None:
        shutil.chown(beside, group=group)
    beside.chmod(mode)
    beside.replace(where)


def run(*command: str | Path, environment: Mapping[str, str] | None = None) -> bytes:
    """Run a program and give back what it said; InstallError with its own words if it failed."""
    # A pip of root must neither heed nor leave anything in somebody's home.
    quiet = {"PIP_NO_CACHE_DIR": "1", "PIP_DISABLE_PIP_VERSION_CHECK": "1", "PYTHONDONTWRITEBYTECODE": "1"}
    done = subprocess.run(
        [str(each) for each in command],
        capture_output=True,
        check=False,
        env={**os.environ, **quiet, **(environment or {})},
    )
    if done.returncode != 0:
        said = (done.stdout + done.stderr).decode(errors="replace").strip()
        raise InstallError(f"{' '.join(map(str, command))} failed:\n{said}")
    return done.stdout
