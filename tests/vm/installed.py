"""In the guest: versions in their place, and the units that we ship, as `make install` leaves them on a host.

All of it is the installer's own work but the virtual environment, which would take minutes to make there: a version is the
programs, with the libraries of the payload.
"""

import json
import os
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import assemble
import install
import versions
from vm import payload, unit

ACCOUNT_SERVICE = "lnmt-scheduler-account.service"
_SITE = f"lib/python{payload.PYTHON}/site-packages"


def make_install() -> None:
    really, assemble.make_version = assemble.make_version, _make_version
    try:
        install.install(install.Target("", "/usr/local"), None, "")
    finally:
        assemble.make_version = really


def _make_version(home: Path, work: Path, wheelhouse: str | None, extras: Sequence[str]) -> str:
    name = f"{assemble._version()}-guest"
    make_environment(home / name)
    for program, text in (("schedctl", assemble._SCHEDCTL), ("schedd", assemble._SCHEDD)):
        assemble.put(home / name / "bin" / program, text.format(version=home / name, home=home).encode(), 0o755)
    return name


def make_environment(where: Path, **edited: tuple[str, str]) -> None:
    """An environment with all of the payload's libraries. `edited` are modules of supervisor/: a text in them, and another."""
    where.joinpath("bin").mkdir(parents=True, exist_ok=True)
    where.joinpath(_SITE).mkdir(parents=True, exist_ok=True)
    where.joinpath("pyvenv.cfg").write_text(Path(payload.HOME, "pyvenv.cfg").read_text())
    versions.point(where / "bin", "python", f"/usr/bin/python{payload.PYTHON}")
    for library in Path(payload.HOME, _SITE).iterdir():
        if not (edited and library.name == "lnmt_scheduler"):
            versions.point(where / _SITE, library.name, str(library))
    if edited:
        room = where / _SITE / "lnmt_scheduler" / "supervisor"
        subprocess.run(["cp", "-r", str(Path(payload.HOME, _SITE, "lnmt_scheduler")), str(room.parent)], check=True)
        for module, (text, other) in edited.items():
            source = (room / f"{module}.py").read_text()
            assert source.count(text) == 1, f"{module}: {text!r}"
            (room / f"{module}.py").write_text(source.replace(text, other))
            for compiled in (room / "__pycache__").glob(
                f"{module}.*"
            ):  # it is not looked at whether it is of that source
                compiled.unlink()


class Shipped(unit.Unit):
    """One of the units that are installed."""

    def __init__(self, service: str = unit.SERVICE) -> None:
        super().__init__("")
        self.service = service

    def start(self) -> "Shipped":
        done = subprocess.run(["systemctl", "start", self.service], capture_output=True, text=True, timeout=200)
        assert done.returncode == 0, f"{done.stderr}\n{self.log}"
        return self

    def stop(self, seconds: float = 100) -> int:
        """As systemd stops it, which keeps what it has recorded; the exit code of the main process."""
        subprocess.run(["systemctl", "stop", self.service], check=True, timeout=seconds)
        return int(self.show("ExecMainStatus"))

    def show(self, what: str) -> str:
        return unit.show(what, self.service)

    @property
    def launcher_pid(self) -> int:
        return int(self.show("MainPID"))

    @property
    def log(self) -> str:
        return unit.systemd("journalctl", "--no-pager", "-o", "cat", "-u", self.service)

    def drop_in(self, text: str) -> None:
        """Until the next boot."""
        folder = Path("/run/systemd/system", f"{self.service}.d")
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "test.conf").write_text(f"[Service]\n{text}\n")
        unit.systemd("systemctl", "daemon-reload")


def configure(*jobs: dict[str, Any]) -> None:
    """The one job file."""
    file = Path("/etc/lnmt-scheduler/jobs.d/jobs.json")
    file.write_text(json.dumps({"jobs": list(jobs)}))
    os.chmod(file, 0o644)
