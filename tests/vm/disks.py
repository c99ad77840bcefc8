"""In the guest: parts of a scenario's disk, each with a file system of its own, and with faults to order."""

import os
import subprocess
from pathlib import Path

DISK = "/dev/vdd"
_SECTORS = 2048  # of a MiB

os.environ["DM_DISABLE_UDEV"] = "1"  # the guest has none


class Part:
    """MiB `begin` to `begin + size` of the disk, under a name of the device mapper's."""

    def __init__(self, name: str, begin: int, size: int) -> None:
        self._name = name
        self.device = f"/dev/mapper/{name}"
        self._begin, self._size = begin * _SECTORS, size * _SECTORS
        _run("dmsetup", "create", name, "--table", self._table("linear"))

    def _table(self, target: str, more: str = "") -> str:
        return f"0 {self._size} {target} {DISK} {self._begin} {more}".rstrip()

    def format(self, *options: str) -> None:
        _run("mkfs.ext4", "-q", *options, self.device)

    def mount(self, where: Path, options: str = "commit=300") -> Path:
        """Nothing is written, for minutes, that nobody asks for."""
        where.mkdir(parents=True, exist_ok=True)
        _run("mount", "-o", options, self.device, str(where))
        return where

    def fail_writes(self) -> None:
        """From now on every write is an error."""
        # up interval, down interval: never up, always down
        self._load(self._table("flakey", "0 3600 1 error_writes"))

    def mend(self) -> None:
        self._load(self._table("linear"))

    def _load(self, table: str) -> None:
        # --nolockfs: a file system is not asked to write what it has, as when a cable is pulled.
        _run("dmsetup", "suspend", "--noflush", "--nolockfs", self._name)
        _run("dmsetup", "load", self._name, "--table", table)
        _run("dmsetup", "resume", self._name)


def _run(*command: str) -> None:
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 0, f"{command}: {done.stdout}{done.stderr}"
