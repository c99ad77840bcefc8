"""A job that writes as fast as it can: the daemon's memory stays flat, the cap holds, and other jobs start on time.

LNMT_FULL=1 makes it ten gigabytes; else it is one or two, which shows the same in less time.
"""

import os
import time
from pathlib import Path

import harness
import pytest

from lnmt_scheduler.ipc import control

CAP = 8 * 1024 * 1024
#: Bytes that memory may grow by.
ROOM = 16 * 1024 * 1024

FLOODS = {
    "in large writes": (2, "head -c {size} /dev/zero"),
    "in lines, on both streams": (1, "yes | head -c {half}; yes 2>/dev/null | head -c {half} >&2"),
}


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", ["in large writes", pytest.param("in lines, on both streams", marks=pytest.mark.long)])
def test_a_flood_of_output_is_felt_by_nobody(make_daemon, kind, record_property):
    daemon = make_daemon()
    daemon.add(id="beat", command="true", schedule="@every 1s")
    gigabytes, command = FLOODS[kind]
    size = (10 if os.environ.get("LNMT_FULL") else gigabytes) * 1024**3
    daemon.add(id="flood", command=command.format(size=size, half=size // 2), limits={"output": CAP})
    supervisor, launcher = daemon.supervisor_pid, daemon.launcher_pid
    harness.wait_for(lambda: daemon.history(job_id="beat", status="completed"), what="a beat")
    before = harness.resident(supervisor), harness.resident(launcher)
    grown, kept, worst = [0, 0], 0, 0.0

    began = time.monotonic()
    run_id = daemon.run("flood")
    with daemon.client() as connection:
        while connection.request(control.State())["running"] and _is_running(daemon, run_id):
            asked = time.monotonic()
            connection.request(control.State())
            worst = max(worst, time.monotonic() - asked)
            grown = [
                max(grown[0], harness.resident(supervisor) - before[0]),
                max(grown[1], harness.resident(launcher) - before[1]),
            ]
            kept = max(kept, _stored(daemon, run_id))
    took = time.monotonic() - began

    row = daemon.history(job_id="flood")[0]
    assert (row["status"], row["output_bytes"], row["truncated"]) == ("completed", size, True)
    assert grown[0] < ROOM
    assert grown[1] < ROOM
    assert worst < 1
    assert kept <= CAP + CAP // 2 + 1024 * 1024  # the head, and two tail segments, of half the cap each
    assert CAP <= _stored(daemon, run_id) <= CAP + 64 * 1024
    beats = [each for each in daemon.history(job_id="beat") if each["slot"] > row["start_time"]]
    slots = {each["slot"] for each in beats}
    assert slots >= set(range(min(slots), row["end_time"] // 1000 * 1000, 1000))
    late = max(each["start_time"] - each["slot"] for each in beats if each["start_time"])
    assert late < 500
    assert all(each["status"] in ("completed", "running", "pending") for each in beats)
    megabytes = size / took / 1e6
    print(
        f"{kind}: {megabytes:.0f} MB/s, {took:.1f} s, status {worst * 1000:.0f} ms, latest start {late} ms, grown {grown}"
    )
    record_property("megabytes_per_second", round(megabytes))


def _is_running(daemon: harness.Daemon, run_id: int) -> bool:
    newest = daemon.request(control.History(job_id="flood", limit=1))["runs"][0]
    return bool(newest["run_id"] == run_id and newest["end_time"] is None)


def _stored(daemon: harness.Daemon, run_id: int) -> int:
    """Bytes that the run's output takes on disk, indexes included."""
    found = 0
    for path in Path(daemon.state_dir, "output").rglob(f"{run_id}.*"):
        try:
            found += path.stat().st_size
        except FileNotFoundError:
            pass  # the end has made one file of it
    return found
