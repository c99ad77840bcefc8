"""`make install`, `uninstall`, `wheelhouse`: a version of its own beside those that are there, and what goes around it.

A wheel is built from the checkout and put, with all that it depends on, into a new virtual environment, which gets its name
from its contents: to install the same again changes nothing. Only when it is whole does `current` come to name it
(versions.py). After that the checkout is needed no more. What an administrator may have changed is never overwritten.

Every process is of one version from its first line to its last: the programs name their interpreter by its full path, so
what is installed meanwhile does not come into what runs. Only the next supervisor of a daemon is to be of the version that
is current then, hence `python` beside the links.

Runs as root, by the interpreter that the versions will be made of. With --destdir it works on that tree alone, as one who
makes a package wants it, as any account: no accounts are made, nothing is loaded, nobody is told.
"""

import argparse
import contextlib
import filecmp
import grp
import hashlib
import os
import pwd
import shutil
import subprocess
import sys
import sysconfig
import tempfile
import tomllib
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import versions
from versions import InstallError

SOURCE = Path(__file__).resolve().parents[1]
HERE = SOURCE / "packaging"
NAME = "lnmt-scheduler"
GROUP = "lnmt-scheduler"
#: What the wheel is built from.
_BUILT_FROM = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE", "ipc", "sandbox", "jobs", "supervisor")
PROGRAMS = ("schedd", "schedctl")
UNITS = ("lnmt-scheduler.service", "lnmt-scheduler-account.service")

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
_PYTHON = """\
#!/bin/sh
# The interpreter of the current version, under the name of that version and not of the link, which may change.
exec "$(readlink -f {home}/current)/bin/python" "$@"
"""
#: Shell -> where it looks for the completion of schedctl, below PREFIX/share.
_COMPLETIONS = {
    "bash": "bash-completion/completions/schedctl",
    "zsh": "zsh/site-functions/_schedctl",
    "fish": "fish/vendor_completions.d/schedctl.fish",
}


class Target:
    """The tree that is worked on, and where things go in it."""

    def __init__(self, destdir: str, prefix: str) -> None:
        if not os.path.isabs(prefix) or (destdir and not os.path.isabs(destdir)):
            raise InstallError("PREFIX and DESTDIR must be absolute paths")
        self.destdir = destdir.rstrip("/")
        self.prefix = self.at(prefix)
        self.home = self.at(versions.HOME)
        self.etc = self.at("/etc") / NAME
        self.doc = self.prefix / "share/doc" / NAME
        self.apparmor = self.at("/etc/apparmor.d") / NAME

    def at(self, path: str) -> Path:
        return Path(f"{self.destdir}{path}")

    @property
    def is_host(self) -> bool:
        return not self.destdir

    def ours(self) -> Mapping[Path, Path]:
        """Where -> what: files that belong to us alone, and are written again each time."""
        found = {
            self.prefix / "lib/sysusers.d/lnmt-scheduler.conf": HERE / "sysusers.d/lnmt-scheduler.conf",
            self.prefix / "lib/tmpfiles.d/lnmt-scheduler.conf": HERE / "tmpfiles.d/lnmt-scheduler.conf",
            self.prefix / "sbin/lnmt-scheduler-rollback": HERE / "versions.py",
            self.doc / "LICENSE": SOURCE / "LICENSE",
            self.doc / "config.toml": HERE / "config.toml",
            self.doc / "hardened.conf": HERE / "systemd/hardened.conf",
        }
        return found | {self.prefix / "lib/systemd/system" / unit: HERE / "systemd" / unit for unit in UNITS}

    def links(self) -> Mapping[Path, str]:
        return {self.prefix / "bin" / name: f"{versions.HOME}/current/bin/{name}" for name in PROGRAMS}

    def completions(self) -> Mapping[str, Path]:
        return {shell: self.prefix / "share" / path for shell, path in _COMPLETIONS.items()}


# Installing.


def install(target: Target, wheelhouse: str | None) -> None:
    if target.is_host and os.geteuid() != 0:
        raise InstallError("only root can install into /: sudo make install, or give a DESTDIR")
    check_interpreter()
    with versions.locked(target.home), tempfile.TemporaryDirectory(prefix="lnmt-install-") as work:
        name = _make_version(target, Path(work), wheelhouse)
        if target.is_host:
            _make_accounts()
        for where, what in target.ours().items():
            _put(where, what.read_bytes(), 0o755 if where.parent.name == "sbin" else 0o644)
        _put_configuration(target)
        _put(target.home / "python", _PYTHON.format(home=versions.HOME).encode(), 0o755)
        before = versions.named(target.home, versions.CURRENT)
        versions.switch(target.home, name)
        for where, to in target.links().items():
            where.parent.mkdir(parents=True, exist_ok=True)
            versions.point(where.parent, where.name, to)
        _put_completions(target)
        versions.prune(target.home)
    if target.is_host:
        _tell_the_host(target)
    _say_what_next(target, before, name)


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


def _make_version(target: Target, work: Path, wheelhouse: str | None) -> str:
    """Build, and put a new version beside the others if it is not there yet; its name."""
    wheels = _build(work, wheelhouse)
    unfinished = Path(tempfile.mkdtemp(prefix=versions.UNFINISHED, dir=target.home))
    try:
        unfinished.chmod(0o755)
        _run(_executable(), "-I", "-m", "venv", "--without-pip", unfinished)
        pip, python = work / "builder/bin/pip", unfinished / "bin/python"
        # By name from what was built, so that no path of the checkout is recorded.
        wanted = f"{NAME}=={_version()}"
        _run(pip, "--python", python, "install", "--quiet", "--no-compile", wanted, environment=_offline(wheels))
        name = _finish(unfinished)
        if not (target.home / name).exists():
            unfinished.rename(target.home / name)
        return name
    finally:
        shutil.rmtree(unfinished, ignore_errors=True)


def _build(work: Path, wheelhouse: str | None, *more: str) -> Path:
    """Our wheel, those that it needs, and `more`. Built from a copy: a build leaves files behind, and those would be root's."""
    source, wheels = work / "source", work / "wheels"
    source.mkdir()
    for each in _BUILT_FROM:
        if (SOURCE / each).is_dir():
            shutil.copytree(SOURCE / each, source / each, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(SOURCE / each, source / each)
    try:
        _run(_executable(), "-I", "-m", "venv", work / "builder")
    except InstallError as error:
        raise InstallError(f"{error}\nThe venv module is missing: apt-get install python3-venv") from None
    # The build itself takes its own tools from the same place.
    environment = {} if wheelhouse is None else _offline(Path(wheelhouse).absolute())
    _run(work / "builder/bin/pip", "wheel", "--quiet", "--wheel-dir", wheels, source, *more, environment=environment)
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
        _put(version / "bin" / program, text.format(version=final, home=versions.HOME).encode(), 0o755)
    # -s and -p: tracebacks name the place where it is going to be.
    python = version / "bin/python"
    _run(python, "-I", "-m", "compileall", "-q", "-s", version, "-p", final, version / "lib")
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


def _put(where: Path, data: bytes, mode: int, group: str | None = None) -> None:
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


def _put_configuration(target: Target) -> None:
    """What is there stays as it is. The group reads it: the service account does, whose group it is, and so do operators."""
    group = _group() if target.is_host else None
    jobs = target.etc / "jobs.d"
    if not target.etc.exists():
        target.etc.mkdir(parents=True)
        target.etc.chmod(0o755)
    if not jobs.exists():
        jobs.mkdir()
        jobs.chmod(0o750)
        if group is not None:
            shutil.chown(jobs, group=group)
    if not (target.etc / "config.toml").exists():
        _put(target.etc / "config.toml", (HERE / "config.toml").read_bytes(), 0o640, group)
    ours = HERE / "apparmor" / NAME
    if not (target.apparmor.parent / "abi/4.0").exists():
        return  # no AppArmor, or one that knows nothing of user namespaces and so restricts none
    if not target.apparmor.exists():
        _put(target.apparmor, ours.read_bytes(), 0o644)
    elif not filecmp.cmp(target.apparmor, ours, shallow=False):
        print(f"{target.apparmor} differs from {ours} and was left as it is")


def _group() -> str | None:
    try:
        return grp.getgrnam(GROUP).gr_name
    except KeyError:
        return None


def _put_completions(target: Target) -> None:
    python = target.home / versions.CURRENT / "bin/python"
    for shell, where in target.completions().items():
        program = "from lnmt_scheduler.supervisor.cli import main; main()"
        _put(where, _run(python, "-I", "-c", program, "completion", shell), 0o644)


# The host around it.


def _make_accounts() -> None:
    if shutil.which("systemd-sysusers"):
        _run("systemd-sysusers", HERE / "sysusers.d/lnmt-scheduler.conf")
        return
    with contextlib.suppress(KeyError):
        pwd.getpwnam(NAME)
        return
    group = ["--user-group"] if _group() is None else ["--gid", GROUP]
    where = ["--no-create-home", "--home-dir", "/var/lib/lnmt-scheduler", "--shell", "/usr/sbin/nologin"]
    _run("useradd", "--system", *group, *where, NAME)


def _tell_the_host(target: Target) -> None:
    if Path("/run/systemd/system").is_dir():
        _run("systemctl", "daemon-reload")
    if target.apparmor.exists() and Path("/sys/kernel/security/apparmor").is_dir():
        _run("apparmor_parser", "--replace", target.apparmor)


def _say_what_next(target: Target, before: str | None, name: str) -> None:
    print(f"{target.home}/{name} is current." if before != name else f"{target.home}/{name} was current already.")
    if not target.is_host:
        return
    if before is None:
        print("Start it: systemctl enable --now lnmt-scheduler (as root), or lnmt-scheduler-account (as an account).")
    elif before != name:
        print(
            f"The version before, {before}, is kept: lnmt-scheduler-rollback. A daemon that runs takes up the new one by"
        )
        print("`schedctl restart`, while its jobs go on.")


# For a host without a network.


def gather(wheelhouse: str) -> None:
    """Put what install() needs besides the checkout into a directory: for this processor and this Python."""
    with tempfile.TemporaryDirectory(prefix="lnmt-install-") as work:
        wheels = _build(Path(work), None, *_project()["build-system"]["requires"])
        Path(wheelhouse).mkdir(parents=True, exist_ok=True)
        for wheel in wheels.iterdir():
            if not wheel.name.startswith("lnmt_scheduler-"):  # that one is built where it is installed
                shutil.copy(wheel, wheelhouse)
    print(f"On the other host: sudo make install WHEELHOUSE={wheelhouse}")


# Uninstalling.


def uninstall(target: Target) -> None:
    """Remove what install() has put there. Configuration, history and the account are the administrator's."""
    if target.is_host:
        if os.geteuid() != 0:
            raise InstallError("only root can uninstall: sudo make uninstall")
        if running := versions.users(target.home):
            raise InstallError(f"process {running[0]} still runs from {target.home}; stop the daemon: schedctl stop")
    for path in _removable(target):
        path.unlink(missing_ok=True)
    if target.home.exists():
        shutil.rmtree(target.home)
    with contextlib.suppress(OSError):
        target.doc.rmdir()
    if target.is_host and Path("/run/systemd/system").is_dir():
        _run("systemctl", "daemon-reload")
    print(f"Removed. Kept: {target.etc}, /var/lib/lnmt-scheduler and the account lnmt-scheduler.")


def _removable(target: Target) -> Iterator[Path]:
    yield from target.ours()
    yield from target.links()
    yield from target.completions().values()
    if target.apparmor.exists() and filecmp.cmp(target.apparmor, HERE / "apparmor" / NAME, shallow=False):
        yield target.apparmor


def _run(*command: str | Path, environment: Mapping[str, str] | None = None) -> bytes:
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


def main() -> int:
    parser = argparse.ArgumentParser(prog="install.py", allow_abbrev=False)
    parser.add_argument("goal", choices=("install", "uninstall", "wheelhouse"))
    parser.add_argument("--destdir", default="")
    parser.add_argument("--prefix", default="/usr/local")
    parser.add_argument("--wheelhouse", default="", help="a directory of wheels, in place of the network")
    options = parser.parse_args()
    os.umask(0o022)
    try:
        target = Target(options.destdir, options.prefix)
        if options.goal == "install":
            install(target, options.wheelhouse or None)
        elif options.goal == "uninstall":
            uninstall(target)
        else:
            gather(options.wheelhouse or "wheelhouse")
    except (InstallError, OSError) as error:
        print(f"make {options.goal}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
