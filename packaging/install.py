"""`make install`, `uninstall`, `wheelhouse`: a version of its own beside those that are there, and what goes around it.

A wheel is built from the checkout and put, with all that it depends on, into a new virtual environment, which gets its name
from its contents (assemble.py): to install the same again changes nothing. Only when it is whole does `current` come to name it
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
import os
import pwd
import shutil
import sys
import tempfile
from collections.abc import Iterator, Mapping
from pathlib import Path

import assemble
import versions
from versions import InstallError

HERE = assemble.SOURCE / "packaging"
NAME = assemble.NAME
_PAGES = assemble.SOURCE / "docs"
GROUP = "lnmt-scheduler"
PROGRAMS = ("schedd", "schedctl")
UNITS = ("lnmt-scheduler.service", "lnmt-scheduler-account.service")

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
            self.doc / "LICENSE": assemble.SOURCE / "LICENSE",
            self.doc / "config.toml": HERE / "config.toml",
            self.doc / "hardened.conf": HERE / "systemd/hardened.conf",
        }
        found |= {self.doc / page.relative_to(_PAGES): page for page in _PAGES.rglob("*") if page.is_file()}
        return found | {self.prefix / "lib/systemd/system" / unit: HERE / "systemd" / unit for unit in UNITS}

    def links(self) -> Mapping[Path, str]:
        return {self.prefix / "bin" / name: f"{versions.HOME}/current/bin/{name}" for name in PROGRAMS}

    def completions(self) -> Mapping[str, Path]:
        return {shell: self.prefix / "share" / path for shell, path in _COMPLETIONS.items()}


# Installing.


def install(target: Target, wheelhouse: str | None, extras: str) -> None:
    if target.is_host and os.geteuid() != 0:
        raise InstallError("only root can install into /: sudo make install, or give a DESTDIR")
    assemble.check_interpreter()
    with versions.locked(target.home), tempfile.TemporaryDirectory(prefix="lnmt-install-") as work:
        wanted = assemble.extras(extras, target.home)
        name = assemble.make_version(target.home, Path(work), wheelhouse, wanted)
        if target.is_host:
            _make_accounts()
        for where, what in target.ours().items():
            assemble.put(where, what.read_bytes(), 0o755 if where.parent.name == "sbin" else 0o644)
        _put_configuration(target)
        assemble.put(target.home / "python", assemble.PYTHON.encode(), 0o755)
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
        assemble.put(target.etc / "config.toml", (HERE / "config.toml").read_bytes(), 0o640, group)
    ours = HERE / "apparmor" / NAME
    if not (target.apparmor.parent / "abi/4.0").exists():
        return  # no AppArmor, or one that knows nothing of user namespaces and so restricts none
    if not target.apparmor.exists():
        assemble.put(target.apparmor, ours.read_bytes(), 0o644)
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
        assemble.put(where, assemble.run(python, "-I", "-c", program, "completion", shell), 0o644)


# The host around it.


def _make_accounts() -> None:
    if shutil.which("systemd-sysusers"):
        assemble.run("systemd-sysusers", HERE / "sysusers.d/lnmt-scheduler.conf")
        return
    with contextlib.suppress(KeyError):
        pwd.getpwnam(NAME)
        return
    group = ["--user-group"] if _group() is None else ["--gid", GROUP]
    where = ["--no-create-home", "--home-dir", "/var/lib/lnmt-scheduler", "--shell", "/usr/sbin/nologin"]
    assemble.run("useradd", "--system", *group, *where, NAME)


def _tell_the_host(target: Target) -> None:
    if Path("/run/systemd/system").is_dir():
        assemble.run("systemctl", "daemon-reload")
    if target.apparmor.exists() and Path("/sys/kernel/security/apparmor").is_dir():
        assemble.run("apparmor_parser", "--replace", target.apparmor)


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
    shutil.rmtree(target.doc, ignore_errors=True)
    if target.is_host and Path("/run/systemd/system").is_dir():
        assemble.run("systemctl", "daemon-reload")
    print(f"Removed. Kept: {target.etc}, /var/lib/lnmt-scheduler and the account lnmt-scheduler.")


def _removable(target: Target) -> Iterator[Path]:
    yield from target.ours()
    yield from target.links()
    yield from target.completions().values()
    if target.apparmor.exists() and filecmp.cmp(target.apparmor, HERE / "apparmor" / NAME, shallow=False):
        yield target.apparmor


def main() -> int:
    parser = argparse.ArgumentParser(prog="install.py", allow_abbrev=False)
    parser.add_argument("goal", choices=("install", "uninstall", "wheelhouse"))
    parser.add_argument("--destdir", default="")
    parser.add_argument("--prefix", default="/usr/local")
    parser.add_argument("--wheelhouse", default="", help="a directory of wheels, in place of the network")
    parser.add_argument(
        "--extras", default="", help="names with commas; nothing: those of the current version; none: none"
    )
    options = parser.parse_args()
    os.umask(0o022)
    try:
        target = Target(options.destdir, options.prefix)
        if options.goal == "install":
            install(target, options.wheelhouse or None, options.extras)
        elif options.goal == "uninstall":
            uninstall(target)
        else:
            assemble.gather(options.wheelhouse or "wheelhouse", assemble.extras(options.extras, target.home))
    except (InstallError, OSError) as error:
        print(f"make {options.goal}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
