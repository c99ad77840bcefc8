"""Slots and gates under a real daemon: one daemon with jobs of every kind lives for some seconds, then its history is read.

Nothing is timed closely but what is promised: a slot starts within 200 ms.
"""

import re
import shutil
import statistics
import tempfile
import time
from pathlib import Path

import harness
import pytest

from lnmt_scheduler.ipc import control


@pytest.fixture(scope="module")
def lived():
    """Jobs that are due every second or two, after a handful of slots: their rows by job, oldest first."""
    folder = Path(tempfile.mkdtemp(prefix="lnmt-test-"))
    folder.chmod(0o755)
    daemon = harness.Daemon(folder / "state").start()
    try:
        _add_jobs(daemon)
        harness.wait_for(lambda: len(_ended(daemon, "tick")) >= 4 and len(_ended(daemon, "child")) >= 2)
        for job_id in ("long", "child", "early_child", "after_bad", "waits"):
            harness.wait_for(lambda job_id=job_id: _ended(daemon, job_id), what=f"a run of {job_id}")
        rows = {}
        for row in reversed(daemon.history()):
            rows.setdefault(row["job_id"], []).append(row)
        rows["tick output"] = [daemon.output(row["run_id"]) for row in _ended(daemon, "tick")]
        yield rows
    finally:
        daemon.stop()
        shutil.rmtree(folder)


def _add_jobs(daemon):
    # A child that is older than its parent is decided before it.
    daemon.add(id="early_child", command="true", schedule="@every 2s")
    daemon.add(id="late_parent", command="sleep 0.2", schedule="@every 2s")
    daemon.request(control.Edit(job_id="early_child", changes={"dependencies": ["late_parent"]}))
    daemon.add(id="parent", command="sleep 0.2", schedule="@every 2s")
    daemon.add(id="child", command="true", schedule="@every 2s", dependencies=["parent"])
    daemon.add(id="bad", command="exit 3", schedule="@every 2s", max_retries=0)
    daemon.add(id="after_bad", command="true", schedule="@every 2s", dependencies=["bad"])
    daemon.add(id="never", command="true")
    daemon.add(id="waits", command="true", schedule="@every 2s", dependencies=["never"], dependency_timeout=0.3)
    daemon.add(id="tick", command="date +%s%3N", schedule="@every 1s")
    daemon.add(id="long", command="sleep 2.2", schedule="@every 1s")


def _ended(daemon, job_id):
    return [row for row in daemon.history(job_id=job_id)[::-1] if row["status"] not in ("pending", "running")]


def test_every_slot_has_one_row(lived):
    for job_id, seconds in (("tick", 1), ("long", 1), ("child", 2), ("parent", 2)):
        slots = [row["slot"] for row in lived[job_id]]
        assert slots == list(range(slots[0], slots[0] + 1000 * seconds * len(slots), 1000 * seconds))


def test_a_slot_is_decided_and_has_started_within_200_ms(lived):
    rows = [row for row in lived["tick"] if row["status"] == "completed"]
    assert all(row["trigger"] == "schedule" for row in rows)
    decided = [row["start_time"] - row["slot"] for row in rows]
    begun = [int(text) - row["slot"] for row, text in zip(rows, lived["tick output"], strict=False)]
    assert min(decided) >= 0
    # The median: another program of this host may have had the processor at one of the slots.
    assert statistics.median(decided) < 200
    assert statistics.median(begun) < 200


def test_slots_that_come_while_it_runs_are_overlap_rows(lived):
    first, second, third, *_ = lived["long"]
    assert first["status"] == "completed"
    for row in (second, third):
        assert (row["status"], row["reason"]) == ("skipped", "overlap")
        assert row["error"] == f"run {first['run_id']} has not ended"
        assert row["start_time"] is None


@pytest.mark.parametrize(("parent", "child"), [("parent", "child"), ("late_parent", "early_child")])
def test_a_gated_slot_starts_when_its_parents_slot_has_completed(lived, parent, child):
    ended = {row["slot"]: row["end_time"] for row in lived[parent] if row["status"] == "completed"}
    ran = [row for row in lived[child] if row["status"] == "completed" and row["slot"] in ended]
    assert ran
    for row in ran:
        assert 0 <= row["start_time"] - ended[row["slot"]] < 1000


def test_a_failed_parent_skips_its_child_with_a_sentence(lived):
    rows = [row for row in lived["after_bad"] if row["status"] != "pending"]
    assert rows
    for row in rows:
        assert (row["status"], row["reason"], row["start_time"]) == ("skipped", "dependency", None)
        assert re.fullmatch(r"gate on bad, whose \d\d:\d\d run failed \(exit 3\)", row["error"])


def test_a_wait_at_a_gate_ends_after_dependency_timeout(lived):
    row = lived["waits"][0]
    assert (row["status"], row["reason"]) == ("skipped", "dependency")
    assert row["error"] == "gate on never, which has not run yet; its time to wait is over"
    assert 300 <= row["end_time"] - row["slot"] < 1900


def _switches(pid):
    """How often the process went to sleep by itself: once for every time that it was awake."""
    return int(
        re.search(r"^voluntary_ctxt_switches:\s+(\d+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)[1]
    )


def test_a_daemon_with_nothing_to_do_sleeps(daemon):
    daemon.add(id="a", command="true", schedule="0 0 1 1 *")
    daemon.run_to_end("a")
    pids = (daemon.launcher_pid, daemon.supervisor_pid)
    with daemon.client() as connection:

        def slept_for_two_seconds():
            # Another test may set the clock meanwhile, which wakes every daemon once; one that polls is always awake.
            before = (connection.request(control.State())["turns"], *map(_switches, pids))
            time.sleep(2)
            after = (*map(_switches, pids), connection.request(control.State())["turns"])
            # The answer to the first question ends in a turn, and the second one begins one.
            return after[:2] == before[1:] and after[2] - before[0] <= 2

        harness.wait_for(slept_for_two_seconds, what="two seconds of sleep")
