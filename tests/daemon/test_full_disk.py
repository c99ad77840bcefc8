"""A full disk, for real: a small file system under the state directory, filled and emptied again."""

import contextlib
import os
import signal
import subprocess
from pathlib import Path

import harness
import pytest

from lnmt_scheduler.supervisor import client, reserve

MIB = 1024 * 1024


@pytest.fixture
def small_disk(folder):
    """A file system of 32 MiB in memory."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = folder / "disk"
    disk.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=32m,mode=755", "tmpfs", disk], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"mounting a small file system: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def fill(disk: Path) -> Path:
    """Leave less than the low mark."""
    left = os.statvfs(disk).f_bavail * os.statvfs(disk).f_frsize
    path = disk / "filler"
    path.write_bytes(b"x" * (left - MIB))
    return path


def another(daemon, before):
    with contextlib.suppress(client.RequestError, OSError):
        return daemon.supervisor_pid != before
    return False


def test_decisions_go_on_while_the_disk_is_full_and_all_is_as_before_when_it_has_room(small_disk):
    (small_disk / "state").mkdir(mode=0o711)
    (small_disk / "state/config.toml").write_text('reserve = "8M"\n')
    daemon = harness.Daemon(small_disk / "state").start()
    try:
        daemon.add(id="plain", command="echo ran")
        daemon.add(id="mends", command="echo ran", run_when_full=True)
        daemon.add(id="long", command="echo begun; sleep 1.5; echo ended")
        assert daemon.status()["store"] == "ok"
        assert (small_disk / "state/reserve").stat().st_size == 8 * MIB
        long = daemon.run("long")
        filler = fill(small_disk)
        mends = daemon.run("mends")  # the first thing that is written notices
        assert daemon.wait(mends)["status"] == "completed"
        assert daemon.status()["store"] == "full"
        assert not (small_disk / "state/reserve").exists()
        plain = daemon.run("plain")
        row = daemon.wait(long)
        assert row["status"] == "completed", "what runs is recorded"
        assert row["truncated"]
        assert daemon.history(job_id="plain")[0]["status"] == "pending", "and nothing else starts"
        before = daemon.supervisor_pid
        os.kill(before, signal.SIGKILL)
        harness.wait_for(lambda: another(daemon, before), what="another supervisor")
        mends = daemon.run("mends")
        assert daemon.wait(mends)["status"] == "completed"
        assert daemon.history(job_id="plain")[0]["status"] == "pending", "also when another supervisor begins"
        filler.unlink()
        assert daemon.wait(plain)["status"] == "completed"
        assert daemon.status()["store"] == "ok"
        assert daemon.output(plain) == b"ran\n"
        assert "is full" in daemon.log
        assert "has room again" in daemon.log
    finally:
        daemon.stop()


def test_the_reserve_is_real_space(small_disk):
    held = reserve.Reserve(str(small_disk / "reserve"), 8 * MIB)
    before = os.statvfs(small_disk).f_bavail
    assert held.look() is False
    assert (before - os.statvfs(small_disk).f_bavail) * os.statvfs(small_disk).f_frsize >= 8 * MIB
    filler = fill(small_disk)
    assert held.look() is True
    assert os.statvfs(small_disk).f_bavail * os.statvfs(small_disk).f_frsize >= 8 * MIB
    assert held.look() is True, "giving up the reserve makes no room"
    filler.unlink()
    assert held.look() is False


def test_a_disk_that_never_had_room_for_the_reserve_counts_as_full(small_disk):
    assert reserve.Reserve(str(small_disk / "reserve"), 64 * MIB).look() is True
