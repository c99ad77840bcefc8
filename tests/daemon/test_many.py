"""Thousands of jobs: taken in one import, a thousand of them due in the same second."""

import contextlib
import threading
import time
from collections import Counter

import harness
import pytest

from lnmt_scheduler.ipc import codec, control
from lnmt_scheduler.supervisor import client

JOBS, DUE, SLOTS = 5000, 1000, 20
PRIORITIES = ["low", "normal", "high", "critical"]


def take(daemon, jobs, **more):
    """Import them as schedctl does."""
    data = codec.pack([["many.json", {"jobs": jobs}]], 64)
    with daemon.client() as connection:
        for at in range(0, len(data), control.CHUNK):
            connection.request(control.Upload(data=data[at : at + control.CHUNK]))
        return connection.request(control.Import(**more))


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_a_thousand_jobs_due_at_once_start_by_priority_and_are_recorded_once(make_daemon):
    daemon = make_daemon(config=f"max_concurrent_jobs = {SLOTS}\n")
    due = time.gmtime(time.time() + 10)  # the import is over by then
    jobs = [
        {
            "id": f"due-{number:04}",
            "command": ["/bin/true"],
            "schedule": f"{due.tm_sec} {due.tm_min} {due.tm_hour} {due.tm_mday} {due.tm_mon} *",
            "timezone": "UTC",
            "priority": PRIORITIES[number % 4],
        }
        for number in range(DUE)
    ]
    jobs += [
        {"id": f"idle-{number:04}", "command": ["/bin/true"], "schedule": f"{number % 60} 3 1 1 *", "tags": ["idle"]}
        for number in range(JOBS - DUE)
    ]
    began = time.monotonic()
    with harness.Asker(daemon) as during_import:
        assert take(daemon, jobs)["added"] == JOBS
    imported = time.monotonic() - began
    assert daemon.status()["jobs"] == JOBS
    assert not daemon.history(), "the import took too long for this test"

    with harness.Asker(daemon) as asker:
        harness.wait_for(daemon.history, 20, what="the second in which they are due")
        began = time.monotonic()
        harness.wait_for(lambda: _ended(daemon) == DUE, 60, what="the end of all")
        took = time.monotonic() - began

    rows = daemon.history()
    assert len(rows) == DUE
    assert Counter((row["job_id"], row["slot"]) for row in rows).most_common(1)[0][1] == 1
    assert len({row["slot"] for row in rows}) == 1
    assert {row["status"] for row in rows} == {"completed"}

    names = [job["priority"] for job in jobs[:DUE]]
    rank = {row["run_id"]: PRIORITIES.index(names[int(row["job_id"].removeprefix("due-"))]) for row in rows}
    # What started in the same millisecond has no order to be seen.
    started = sorted(rows, key=lambda row: (row["start_time"], -rank[row["run_id"]], row["run_id"]))
    order = [rank[row["run_id"]] for row in started]
    assert order == sorted(order, reverse=True)
    for same in _by_priority(started, names).values():
        assert [row["run_id"] for row in same] == sorted(row["run_id"] for row in same)
    assert _most_at_once(rows) <= SLOTS
    assert asker.times > 50
    assert asker.worst < 1
    assert during_import.worst < 1
    print(
        f"import of {JOBS}: {imported:.1f} s, status at worst {during_import.worst * 1000:.0f} ms;"
        f" {DUE} runs: {took:.1f} s, status at worst {asker.worst * 1000:.0f} ms"
    )


def _ended(daemon):
    counts = daemon.status()
    if counts["running"] or counts["queued"]:
        return 0
    return sum(row["end_time"] is not None for row in daemon.history())


def _by_priority(rows, names):
    found = {}
    for row in rows:
        found.setdefault(names[int(row["job_id"].removeprefix("due-"))], []).append(row)
    return found


def _most_at_once(rows):
    # An end counts before a start of the same millisecond: the slot was free again.
    events = sorted([(row["start_time"], 1) for row in rows] + [(row["end_time"], -1) for row in rows])
    most = now = 0
    for _, change in events:
        now += change
        most = max(most, now)
    return most


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_an_import_that_the_daemon_is_killed_over_happens_whole_or_not_at_all(make_daemon):
    daemon = make_daemon()
    jobs = [{"id": f"job-{number:04}", "command": ["/bin/true"], "schedule": "0 3 1 1 *"} for number in range(3000)]
    ends = set()
    for seen in (0, 1, 1500):
        importer = threading.Thread(target=_take_or_fail, args=(daemon, jobs))
        importer.start()
        harness.wait_for(lambda seen=seen: daemon.status()["jobs"] >= seen, 60, "a part of the import")
        daemon.kill()
        importer.join(30)
        assert not importer.is_alive()
        daemon.start()
        ends.add(count := daemon.status()["jobs"])
        assert count in (0, 3000)
        assert (seen == 0) or count == 3000, "what was begun is finished before anything else"
        assert len(daemon.request(control.Audit(limit=500))["entries"]) == (500 if count else 0)
        if count:
            assert take(daemon, [], prune=True)["removed"] == 3000
    assert 3000 in ends


def _take_or_fail(daemon, jobs):
    with contextlib.suppress(client.RequestError, OSError):
        take(daemon, jobs)
