"""In the guest: `schedd` as a systemd unit, and the real `schedctl` that speaks to it."""

import contextlib
import json
import os
import pwd
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import harness

from lnmt_scheduler.supervisor import client

NAME = "lnmt-scheduler"
SERVICE = f"{NAME}.service"
#: Of a service account's unit.
ACCOUNT = "lnmt"
STATE, RUNTIME = Path("/var/lib", NAME), Path("/run", NAME)
TOP = Path("/sys/fs/cgroup")
CGROUP = TOP / "system.slice" / SERVICE

ROOT_UNIT = "Delegate=yes\nKillMode=mixed\n"  # TERM is for the daemon, as in the units that we ship
ACCOUNT_UNIT = f"User={ACCOUNT}\nDelegate=yes\nKillMode=mixed\nStateDirectory={NAME}\nRuntimeDirectory={NAME}\n"

_TEXT = """
[Service]
Type=notify
ExecStart={program}
StandardError=file:{log}
{settings}
"""


class Unit(harness.Daemon):
    """The unit lnmt-scheduler.service with these lines in [Service]; one at a time."""

    def __init__(self, settings: str) -> None:
        super().__init__(STATE)
        self.socket = str(RUNTIME / "control.sock")
        self.settings = settings
        self.log_path = Path("/run/lnmt-scheduler.log")

    def start(self) -> "Unit":
        """Returns when the daemon has said that it is ready."""
        assert show("ActiveState") != "active", "another is still running"
        if ACCOUNT not in {account.pw_name for account in pwd.getpwall()}:
            systemd("useradd", "--system", "--no-create-home", ACCOUNT)
        self.log_path.unlink(missing_ok=True)
        text = _TEXT.format(program=harness.BIN / "schedd", log=self.log_path, settings=self.settings)
        Path("/etc/systemd/system", SERVICE).write_text(text)
        systemd("systemctl", "daemon-reload")
        try:
            systemd("systemctl", "start", SERVICE)
        except subprocess.CalledProcessError as error:
            status = systemd("systemctl", "status", "--full", SERVICE, check=False)
            raise AssertionError(f"{error.stderr}\n{status}\n{self.log}") from None
        return self

    def stop(self, seconds: float = 60) -> int:
        """As systemd stops it; the exit code of the main process. Its state goes as well."""
        subprocess.run(["systemctl", "stop", SERVICE], check=True, timeout=seconds)
        code = int(show("ExecMainStatus"))
        for folder in (STATE, RUNTIME):
            shutil.rmtree(folder, ignore_errors=True)
        return code

    @property
    def launcher_pid(self) -> int:
        return int(show("MainPID"))

    def answers(self) -> bool:
        """Whether a supervisor serves its socket: between two of them none does."""
        with contextlib.suppress(client.Unreachable):
            return bool(self.status())
        return False

    def ctl(self, *arguments: str, stdin: str = "", environment: dict[str, str] | None = None) -> harness.Outcome:
        done = subprocess.run(
            [harness.SCHEDCTL, "--system", *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=120,
            env={**os.environ, "NO_COLOR": "1", "TZ": "UTC", **(environment or {})},
        )
        return harness.Outcome(done.returncode, done.stdout, done.stderr)

    def define(self, *jobs: dict[str, Any]) -> None:
        """By `schedctl import`: these jobs and no other of their ids."""
        file = Path("/run/jobs.json")
        plain = {"working_directory": "/", "max_retries": 0, "kill_grace": 1}
        file.write_text(json.dumps({"jobs": [{**plain, **job} for job in jobs]}))
        done = self.ctl("import", str(file))
        assert done.code == 0, done

    def row_of(self, job_id: str, *more: str) -> dict[str, Any]:
        """By `schedctl run`: one run of the job, to its end."""
        done = self.ctl("run", job_id, "--format", "json", *more)
        assert done.stdout, done
        return dict(done.json)

    def cancel(self, run_id: int) -> dict[str, Any]:
        """By `schedctl cancel`, which returns when the tree is gone; the row."""
        done = self.ctl("cancel", str(run_id))
        assert done.code == 0, done
        return self.wait(run_id)

    def leaf(self, run_id: int, top: Path = CGROUP) -> Path:
        """The cgroup of a run, which is in `top`; waits for the job in it."""
        return harness.wait_for(
            lambda: next((path for path, runs in _leaves(top) if run_id in runs), None),
            what=f"run {run_id} in a cgroup of {top}",
        )

    def leaves(self) -> list[str]:
        """Names of the cgroups that hold a run, or are another daemon's: not those of boxes that wait for a run."""
        own = f"lnmt-{self.launcher_pid}."
        return sorted(path.name for path, runs in _leaves(CGROUP) if runs or not path.name.startswith(own))


def _leaves(top: Path) -> Iterator[tuple[Path, set[int]]]:
    """Our cgroups in `top`, each with the runs whose jobs are in it."""
    for path in top.glob("lnmt-*"):
        if path.name != "lnmt-daemon":
            with contextlib.suppress(OSError):  # it has gone meanwhile
                yield path, {run for pid in read(path / "cgroup.procs").split() for run in _runs_of(pid)}


def _runs_of(pid: str) -> list[int]:
    try:
        environment = Path("/proc", pid, "environ").read_bytes()
    except OSError:
        return []
    return [int(line[12:]) for line in environment.split(b"\0") if line.startswith(b"LNMT_RUN_ID=")]


@contextlib.contextmanager
def running(settings: str) -> Iterator[Unit]:
    daemon = Unit(settings)
    daemon.start()
    try:
        yield daemon
    finally:
        daemon.stop()


def systemd(*command: str, check: bool = True) -> str:
    """Run a command of the system's; what it said."""
    return subprocess.run(command, check=check, capture_output=True, text=True, timeout=60).stdout


def show(what: str, service: str = SERVICE) -> str:
    """A property of the unit, as systemd has it."""
    return systemd("systemctl", "show", "--value", "-p", what, service).strip()


def read(path: Path) -> str:
    return path.read_text().strip()


def table(path: Path) -> dict[str, int]:
    """A control file of lines `key number`."""
    return {key: int(value) for key, value in map(str.split, path.read_text().splitlines())}
