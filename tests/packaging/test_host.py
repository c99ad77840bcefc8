"""`sudo make install` on a host, whole: account, daemon at its real place, upgrade under it, uninstall.

The host is this one, seen through overlays that keep every change to themselves, with processes of its own; so it takes root,
and what is changed is gone with the last process of it. There is no systemd in it: tests/packaging/test_files.py has its tools
judge the units.
"""

import json
import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import harness
import installing
import pytest

pytestmark = [
    pytest.mark.slow,
    pytest.mark.long,
    pytest.mark.timeout(400),
    pytest.mark.skipif(os.geteuid() != 0, reason="a host to install on: root, for mounts of its own"),
]

#: What an install changes, or a daemon.
_COVERED = ("/etc", "/opt", "/usr/local", "/var/lib")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class Host:
    def __init__(self, folder: Path) -> None:
        mounts = [f"mount -t tmpfs tmpfs {folder}"]
        for number, path in enumerate(_COVERED):
            parts = [f"{folder}/{number}/{part}" for part in ("upper", "work")]
            mounts.append(f"mkdir -p {' '.join(parts)}")
            mounts.append(f"mount -t overlay overlay -o lowerdir={path},upperdir={parts[0]},workdir={parts[1]} {path}")
        mounts.append("mount -t tmpfs tmpfs /run")
        script = f"{'; '.join(mounts)}; echo ready; exec sleep infinity"
        self._process = subprocess.Popen(
            ["unshare", "--mount", "--pid", "--fork", "--mount-proc", "--kill-child", "sh", "-ec", script],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        assert self._process.stdout is not None
        self.is_ready = self._process.stdout.readline() == "ready\n"

    def close(self) -> None:
        self._process.kill()  # and with it, --kill-child, whatever runs there
        self._process.communicate()

    def why_not(self) -> str:
        return self._process.communicate()[1].strip()

    def _command(self, *command: object) -> list[str]:
        (first,) = Path(f"/proc/{self._process.pid}/task/{self._process.pid}/children").read_text().split()
        return ["nsenter", "--target", first, "--mount", "--pid", *map(str, command)]

    def run(self, *command: object, code: int | None = 0) -> str:
        done = subprocess.run(
            self._command(*command),
            capture_output=True,
            text=True,
            env={"PATH": _PATH, "HOME": "/root", "NO_COLOR": "1"},
        )
        assert code is None or done.returncode == code, f"{command}: {done.returncode}\n{done.stdout}{done.stderr}"
        return done.stdout + done.stderr

    def make(self, goal: str, at: Path, *, code: int = 0, **variables: str) -> str:
        return self.run("make", "-C", at, goal, *(f"{name}={value}" for name, value in variables.items()), code=code)

    def start(self, log: Path, *wrapper: str, **environment: str) -> "subprocess.Popen[bytes]":
        with log.open("ab") as file:
            return subprocess.Popen(
                self._command(*wrapper, "schedd"), stdout=file, stderr=file, env={"PATH": _PATH, **environment}
            )

    def status(self) -> dict[str, object]:
        return dict(json.loads(self.run("schedctl", "status", "-o", "json")))

    def is_up(self) -> bool:
        return '"pid"' in self.run("schedctl", "status", "-o", "json", code=None)


@pytest.fixture(scope="module")
def host(offline) -> Iterator[Host]:
    """One with this version on it."""
    changes = Path(tempfile.mkdtemp(prefix="lnmt-host-"))
    made = Host(changes)
    try:
        if not made.is_ready:
            pytest.skip(f"a host to install on: {made.why_not()}")
        assert "systemctl enable --now" in made.make("install", installing.ROOT, **offline)
        yield made
    finally:
        made.close()
        shutil.rmtree(changes)


def test_the_account_and_the_configuration_are_there(host):
    assert "lnmt-scheduler" in host.run("getent", "passwd", "lnmt-scheduler")
    paths = [f"/etc/lnmt-scheduler{below}" for below in ("", "/config.toml", "/jobs.d")]
    assert host.run("stat", "-c", "%a %U %G %n", *paths).splitlines() == [
        "755 root root /etc/lnmt-scheduler",
        "640 root lnmt-scheduler /etc/lnmt-scheduler/config.toml",
        "750 root lnmt-scheduler /etc/lnmt-scheduler/jobs.d",
    ]


def test_the_account_of_the_unit_runs_a_daemon(host, folder):
    # What the unit has systemd make.
    for directory, mode in (("/var/lib/lnmt-scheduler", "711"), ("/run/lnmt-scheduler", "755")):
        host.run("install", "-d", "-o", "lnmt-scheduler", "-g", "lnmt-scheduler", "-m", mode, directory)
    # Readable by its group alone, and yet by this daemon.
    job = '{"jobs": [{"id": "who", "command": "id -un"}]}'
    host.run(
        "sh",
        "-c",
        f"cd /etc/lnmt-scheduler/jobs.d && echo '{job}' > a.json && chgrp lnmt-scheduler a.json && chmod 640 a.json",
    )
    account = [
        "--reuid=lnmt-scheduler",
        "--regid=lnmt-scheduler",
        "--init-groups",
        "--no-new-privs",
        "--bounding-set=-all",
    ]
    daemon = host.start(
        folder / "log",
        "setpriv",
        *account,
        STATE_DIRECTORY="/var/lib/lnmt-scheduler",
        RUNTIME_DIRECTORY="/run/lnmt-scheduler",
        CONFIGURATION_DIRECTORY="/etc/lnmt-scheduler",
    )
    harness.wait_for(host.is_up, 60, "the daemon of the account")
    assert "lnmt-scheduler\n" in host.run("schedctl", "run", "who")
    host.run("schedctl", "stop")
    assert daemon.wait(60) == 0
    host.run("rm", "-r", "/var/lib/lnmt-scheduler", "/run/lnmt-scheduler", "/etc/lnmt-scheduler/jobs.d/a.json")


def test_upgrade_under_a_daemon_the_way_back_and_uninstall(host, folder, offline, checkout):
    first = host.run("readlink", "/opt/lnmt-scheduler/current").strip()
    daemon = host.start(folder / "log")
    harness.wait_for(host.is_up, 60, "the installed daemon")
    host.run("schedctl", "add", "--id", "here", "--command", "echo $LNMT_JOB_ID", "--sandbox", "standard")
    assert "exit 0 (job)" in host.run("schedctl", "run", "here")
    host.run("schedctl", "add", "--id", "fresh", "--module", "platform", "--function", "python_version")
    assert "exit 0 (job)" in host.run("schedctl", "run", "fresh")

    # An upgrade changes nothing that runs; the next supervisor is of the new version, under the launcher of the old one.
    host.make("install", checkout("0.2.0"), **offline)
    before = host.status()
    assert before["version"] == "0.1.0"
    host.run("kill", "-KILL", before["pid"])
    harness.wait_for(
        lambda: host.is_up() and host.status()["version"] == "0.2.0", 60, "a supervisor of the new version"
    )
    assert host.status()["launcher_pid"] == before["launcher_pid"]
    assert "launcher" in host.run("schedctl", "status").partition("Version: 0.2.0")[2].partition("Uptime")[0].lower()
    assert first in host.run("cat", f"/proc/{before['launcher_pid']}/cmdline")
    assert "exit 0 (job)" in host.run("schedctl", "run", "here")
    assert "exit 0 (job)" in host.run("schedctl", "run", "fresh")

    # The way back, by the installed command.
    assert first in host.run("lnmt-scheduler-rollback")
    host.run("kill", "-KILL", host.status()["pid"])
    harness.wait_for(
        lambda: host.is_up() and host.status()["version"] == "0.1.0", 60, "a supervisor of the old version"
    )

    assert "still runs" in host.make("uninstall", installing.ROOT, code=2)
    host.run("schedctl", "stop")
    assert daemon.wait(60) == 0
    host.make("uninstall", installing.ROOT)
    left = "/etc/lnmt-scheduler/config.toml", "/var/lib/lnmt-scheduler/lnmt.db"
    host.run("ls", *left)
    for gone in ("/opt/lnmt-scheduler", "/usr/local/bin/schedd", "/usr/local/sbin/lnmt-scheduler-rollback"):
        host.run("ls", gone, code=2)
