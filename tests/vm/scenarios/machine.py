"""The machine itself: what it is, and that a power cut and a reboot are what they are called. Others build on it."""

import os
import subprocess
from pathlib import Path

import pytest
from vm import scenario, unit
from vm.guest import report

SCENARIO = scenario.Scenario(
    boots=(
        scenario.Boot("first", end=scenario.CUT),
        scenario.Boot("second", end=scenario.REBOOT),
        scenario.Boot("third"),
    ),
    disk=64,
)
DISK, PLACE = "/dev/vdd", Path("/mnt")
BOOT_ID = Path("/proc/sys/kernel/random/boot_id")


@pytest.fixture
def place():
    """Where the disk is mounted. Nothing is written to it that nobody asks for, for minutes."""
    subprocess.run(["mount", "-o", "commit=300", DISK, str(PLACE)], check=True)
    return PLACE


def test_first_it_is_an_older_kernel_with_cgroup_v2_and_systemd():
    assert os.uname().release.startswith("6.1.")
    assert Path("/proc/1/comm").read_text() == "systemd\n"
    assert Path("/proc/self/cgroup").read_text().startswith("0::/system.slice/vm.service")
    assert {"cpu", "io", "memory", "pids"} <= set((unit.TOP / "cgroup.controllers").read_text().split())


def test_first_then_power_is_cut():
    subprocess.run(["mkfs.ext4", "-q", DISK], check=True)
    subprocess.run(["mount", "-o", "commit=300", DISK, str(PLACE)], check=True)
    (PLACE / "synced").write_text("synced")
    (PLACE / "boot").write_text(BOOT_ID.read_text())
    os.sync()
    (PLACE / "unsynced").write_text("unsynced")
    report.cut_power()


def test_second_only_what_was_synced_is_there(place):
    assert (place / "synced").read_text() == "synced"
    assert not (place / "unsynced").exists()
    assert (place / "boot").read_text() != BOOT_ID.read_text()
    (place / "boot").write_text(BOOT_ID.read_text())


def test_third_a_reboot_has_written_all(place):
    assert len((place / "boot").read_text()) == len(BOOT_ID.read_text())
    assert (place / "boot").read_text() != BOOT_ID.read_text()
