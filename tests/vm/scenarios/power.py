"""Reboots and power cuts: what was acknowledged is there afterwards, and each slot is decided once.

Two daemons, each on a part of the disk of its own: the one under test, and a copy in which one word is changed, so that
SQLite does not sync each commit (`synchronous=NORMAL`). Both are asked the same, and the power is cut as soon as the last
answer is there. If the copy had lost nothing either, the test would prove nothing. The guest's kernel keeps what nobody syncs
for 30 seconds, and here the journal of the file system for minutes.
"""

import contextlib
import os
import signal
import sqlite3
import subprocess
from pathlib import Path

import harness
import pytest
from vm import disks, installed, scenario, unit
from vm.guest import report

SCENARIO = scenario.Scenario(
    boots=(
        scenario.Boot("first", end=scenario.REBOOT),
        scenario.Boot("second", end=scenario.CUT),
        scenario.Boot("third", end=scenario.CUT),
        scenario.Boot("fourth"),
    ),
    disk=256,
)
ASKED = range(12)
#: Seconds; slots run that are up to 60 late.
DOWN = 150
WITNESS = unit.STATE / "witness"
#: What a run leaves of itself, and of its slot, is on the disk before it ends.
BEAT = f"echo $LNMT_SLOT >> {WITNESS}; sync {WITNESS}"
TRUSTED = {"sandbox": {"profile": "trusted"}, "max_retries": 0}
LOOSE = Path("/run/loose")


class Loose(harness.Daemon):
    """The one that does not sync."""

    @property
    def command(self) -> list[str]:
        return [str(LOOSE / "bin/python"), *super().command[1:]]


@pytest.fixture(scope="module")
def places():
    """The two parts of the disk, mounted: of the daemon under test, and of the other."""
    return disks.Part("tested", 0, 128), disks.Part("loose", 128, 128)


@pytest.fixture(scope="module")
def daemon(places):
    """Started minutes after the last time that the disk knows of, as if the host had been off for so long."""
    tested, loose = places
    tested.mount(unit.STATE)
    subprocess.run(["date", "-s", f"@{WITNESS.stat().st_mtime + DOWN}"], check=True)
    loose.mount(Path("/mnt/loose"))
    return unit.Unit(unit.ROOT_UNIT).start()


@pytest.fixture
def loose(daemon):
    installed.make_environment(LOOSE, store=("PRAGMA synchronous=FULL", "PRAGMA synchronous=NORMAL"))
    return Loose(Path("/mnt/loose/state")).start()


def ask(daemon, prefix):
    """Define a job and have it run, again and again, then see one end; all of it is acknowledged when this returns."""
    ids = [f"{prefix}-{number}" for number in ASKED]
    for job_id in ids:
        daemon.add(id=job_id, command="true", **TRUSTED)
        run_id = daemon.run(job_id)
    assert daemon.wait(run_id)["status"] == "completed"
    return ids


def rows(database):
    """By job, of a store that no daemon has open; none of one that never came to the disk."""
    with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(database)) as db:
        return dict(db.execute("SELECT job_id, status FROM job_history ORDER BY run_id").fetchall())
    return {}


def assert_all_there(daemon, prefix):
    found = {row["job_id"]: row["status"] for row in daemon.history()}
    defined = {job["id"] for job in daemon.ctl("list", "--format", "json").json}
    asked = [f"{prefix}-{number}" for number in ASKED]
    assert [job_id for job_id in asked if job_id not in found or job_id not in defined] == []
    assert found[asked[-1]] == "completed"


def assert_slots_in_a_row(daemon):
    """Of `beat`: no slot is missing, also of those while the host was down, and none ran twice."""
    harness.wait_for(
        lambda: all(row["status"] != "running" for row in daemon.history(job_id="beat")[1:]), what="runs to end"
    )
    found = sorted(row["slot"] for row in daemon.history(job_id="beat"))
    assert found == list(range(found[0], found[-1] + 1, 2000))
    ran = WITNESS.read_text().split()
    assert len(ran) == len(set(ran))


def beats(daemon, count):
    """Wait for so many more runs of `beat`."""
    before = len(WITNESS.read_text().split()) if WITNESS.exists() else 0
    harness.wait_for(lambda: WITNESS.exists() and len(WITNESS.read_text().split()) >= before + count, what="beats")


def test_first_jobs_run_when_the_host_reboots(places):
    for part in places:
        part.format()
    tested, _ = places
    tested.mount(unit.STATE)
    daemon = unit.Unit(unit.ROOT_UNIT).start()
    daemon.add(id="beat", command=BEAT, schedule="@every 2s", **TRUSTED)
    daemon.add(id="long", command="sleep 600", kill_grace=1, **TRUSTED)
    daemon.run("long")
    beats(daemon, 2)


def test_second_a_reboot_has_stopped_the_run_and_slots_were_made_up_for(daemon):
    (row,) = daemon.history(job_id="long")
    assert (row["status"], row["reason"]) == ("failed", "stopped")
    beats(daemon, 2)
    assert_slots_in_a_row(daemon)
    skipped = [row for row in daemon.history(job_id="beat") if row["reason"] == "coalesced"]
    assert len(skipped) > (DOWN - 60) / 2 - 5


def test_second_then_power_is_cut_in_the_middle_of_runs(daemon, loose):
    daemon.run("long")
    ask(daemon, "second")
    ask(loose, "second")
    report.cut_power()


def test_third_a_power_cut_has_lost_nothing_that_was_acknowledged(daemon):
    row = daemon.history(job_id="long")[0]
    assert (row["status"], row["reason"]) == ("failed", "lost")
    assert_all_there(daemon, "second")
    beats(daemon, 2)
    assert_slots_in_a_row(daemon)


def test_third_without_a_sync_it_would_have():
    kept = rows("/mnt/loose/state/lnmt.db")
    assert len([job_id for job_id in kept if job_id.startswith("second")]) < len(ASKED), kept


def test_third_then_power_is_cut_while_a_supervisor_is_replaced(daemon):
    os.kill(daemon.supervisor_pid, signal.SIGKILL)
    harness.wait_for(daemon.answers, what="another supervisor")
    ask(daemon, "third")
    report.cut_power()


def test_fourth_nothing_is_lost_then_either(daemon):
    assert_all_there(daemon, "second")
    assert_all_there(daemon, "third")
    beats(daemon, 2)
    assert_slots_in_a_row(daemon)
    daemon.stop()
