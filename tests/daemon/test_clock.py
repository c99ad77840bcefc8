"""A real daemon whose clock seems wrong, whose zones change, and that stands still. The clock itself is set in the VM tests."""

import contextlib
import os
import shutil
import signal
import sqlite3
import zoneinfo
from pathlib import Path

import harness
import pytest


@pytest.fixture
def zones(folder):
    """A folder of zone files of the daemon's own, in which a zone of the test's is Berlin's."""
    source = next(Path(path) for path in zoneinfo.TZPATH if (Path(path) / "Europe/Berlin").exists())
    for name in ("UTC", "Europe/Berlin", "Asia/Tokyo"):
        (folder / "zones" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(source / name, folder / "zones" / name)
    (folder / "zones" / "Test").mkdir()
    shutil.copyfile(source / "Europe/Berlin", folder / "zones" / "Test" / "Zone")
    return folder / "zones"


def listed(daemon, job_id):
    return next(job for job in daemon.ctl("list", "-o", "json").json if job["id"] == job_id)


def test_zones_are_read_anew_at_a_hangup_and_a_job_without_its_zone_is_out_of_schedule(make_daemon, zones):
    daemon = make_daemon(environment={"PYTHONTZPATH": str(zones)})
    daemon.add(id="a", command="true", schedule="30 12 15 7 *", timezone="Test/Zone")
    daemon.add(id="beat", command="true", schedule="@every 1s")
    assert listed(daemon, "a")["next_run"].endswith("-07-15T10:30:00.000Z")

    def hangup_and_see(condition, what):
        os.kill(daemon.launcher_pid, signal.SIGHUP)
        return harness.wait_for(condition, what=what)

    shutil.copyfile(zones / "Asia/Tokyo", zones / "Test/Zone")
    hangup_and_see(lambda: listed(daemon, "a")["next_run"].endswith("-07-15T03:30:00.000Z"), "the new zone")

    (zones / "Test/Zone").unlink()
    hangup_and_see(lambda: listed(daemon, "a")["next_run"] is None, "a job without a next run")
    assert "timezone 'Test/Zone': not known" in listed(daemon, "a")["quarantined"]
    assert "Quarantined: timezone 'Test/Zone'" in daemon.ctl("show", "a").stdout
    assert "job a is out of schedule" in daemon.log
    beats = len(daemon.history(job_id="beat"))
    harness.wait_for(lambda: len(daemon.history(job_id="beat")) > beats, what="another beat")
    assert daemon.run_to_end("a")["status"] == "completed"

    daemon.stop()
    daemon.start()
    assert listed(daemon, "a")["next_run"] is None

    shutil.copyfile(zones / "Europe/Berlin", zones / "Test/Zone")
    hangup_and_see(lambda: listed(daemon, "a")["next_run"], "a next run")
    assert listed(daemon, "a")["next_run"].endswith("-07-15T10:30:00.000Z")
    assert "quarantined" not in listed(daemon, "a")


def test_a_daemon_whose_clock_is_behind_what_its_store_has_seen_decides_no_slot_until_it_is_told_to(make_daemon):
    daemon = make_daemon()
    daemon.add(id="beat", command="true", schedule="@every 1s")
    harness.wait_for(lambda: daemon.history(job_id="beat"), what="a beat")
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.state_dir / "lnmt.db")) as db, db:
        assert db.execute("UPDATE meta SET value = value + 14400000 WHERE key = 'clock'").rowcount == 1
    before = len(daemon_rows(daemon))
    daemon.start()
    status = daemon.ctl("status", "-o", "json").json
    if status.get("clock") is None:
        pytest.skip("this host's clock is kept right by NTP, and so is believed")
    assert status["clock"] == "held"
    assert "Problem: no slot is decided: the clock: it shows" in daemon.ctl("status").stdout
    assert "no slot is decided, because the clock cannot be right" in daemon.log
    daemon.add(id="hand", command="echo here")
    assert daemon.run_to_end("hand")["status"] == "completed"
    daemon.run_to_end("hand")
    assert len(daemon.history(job_id="beat")) == before
    assert daemon.ctl("reload").code == 0
    harness.wait_for(lambda: len(daemon.history(job_id="beat")) > before, what="a beat")
    assert "clock" not in daemon.ctl("status", "-o", "json").json
    daemon.stop()
    daemon.start()
    assert "clock" not in daemon.ctl("status", "-o", "json").json


def daemon_rows(daemon):
    with contextlib.closing(sqlite3.connect(daemon.state_dir / "lnmt.db")) as db:
        return db.execute("SELECT slot FROM job_history WHERE job_id = 'beat'").fetchall()


@pytest.mark.slow
def test_a_daemon_that_stood_still_says_so_once_and_drops_no_slot(daemon):
    daemon.add(id="beat", command="true", schedule="@every 1s")
    first = harness.wait_for(lambda: daemon.history(job_id="beat"), what="a beat")[-1]["slot"]
    supervisor = daemon.supervisor_pid
    os.kill(supervisor, signal.SIGSTOP)
    try:
        until = harness.time.time() * 1000 + 8_000
        harness.wait_for(lambda: harness.time.time() * 1000 > until, what="seconds to pass")
    finally:
        os.kill(supervisor, signal.SIGCONT)
    harness.wait_for(lambda: daemon.history(job_id="beat")[0]["slot"] >= until, what="the beat of now")
    slots = [row["slot"] for row in daemon.history(job_id="beat")]
    assert sorted(slots) == list(range(first, max(slots) + 1000, 1000))
    assert daemon.log.count("the daemon stood still for") == 1, daemon.log
