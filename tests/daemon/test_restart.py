"""What a stop, a kill -9 or a long rest makes of slots, runs and retries: one row for each, and nothing twice."""

import collections
import contextlib
import os
import signal
import sqlite3
import time

import harness
import pytest

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import client

HOUR = 3_600_000


def rows_of(daemon, job_id):
    """Oldest first."""
    return daemon.history(job_id=job_id)[::-1]


def edit_store(daemon, statement, *values):
    """Change the store of a daemon that does not run."""
    assert daemon.process is None
    with contextlib.closing(sqlite3.connect(daemon.state_dir / "lnmt.db")) as db, db:
        assert db.execute(statement, values).rowcount == 1


def set_back(daemon, job_id, to_ms):
    """As if the daemon had last been there at this moment."""
    edit_store(daemon, "UPDATE jobs SET watermark = ?, next_slot = ? WHERE job_id = ?", to_ms, to_ms + 1000, job_id)


def kill_supervisor(daemon):
    """SIGKILL, and its successor listens."""
    before = daemon.supervisor_pid
    os.kill(before, signal.SIGKILL)

    def is_another():
        try:
            return daemon.supervisor_pid != before
        except (client.Unreachable, client.RequestError, OSError):
            return False

    harness.wait_for(is_another, what="another supervisor")


def restart(daemon):
    assert daemon.stop() == 0
    daemon.start()


def kill_and_start(daemon):
    daemon.kill()
    daemon.start()


def wait_for_status(daemon, run_id, *statuses):
    def row():
        (found,) = [each for each in daemon.history() if each["run_id"] == run_id]
        return found if found["status"] in statuses else None

    return harness.wait_for(row, what=f"run {run_id} being {' or '.join(statuses)}")


# Slots.


@pytest.mark.parametrize("away", [restart, kill_and_start, kill_supervisor])
def test_every_slot_of_a_short_absence_has_its_row(daemon, away):
    daemon.add(id="a", command="true", schedule="@every 1s")
    harness.wait_for(lambda: len(rows_of(daemon, "a")) >= 2)
    if away is restart:
        daemon.stop()
        time.sleep(1.5)
        daemon.start()
    else:
        away(daemon)
    harness.wait_for(lambda: len(rows_of(daemon, "a")) >= 5)
    rows = rows_of(daemon, "a")
    slots = [row["slot"] for row in rows]
    assert slots == list(range(slots[0], slots[0] + 1000 * len(slots), 1000))
    assert {row["trigger"] for row in rows} == {"schedule"}
    assert {row["reason"] for row in rows} <= {None, "overlap", "lost", "stopped"}


def test_after_hours_the_newest_slot_is_caught_up_and_each_other_has_its_row(daemon):
    now = time.time_ns() // 1_000_000
    # Last due ten minutes ago, and not again while this test runs.
    minute = time.gmtime(now / 1000 - 600).tm_min
    newest = (now - 600_000) // 60_000 * 60_000
    daemon.add(id="hourly", command="true", schedule=f"{minute} * * * *", timezone="UTC")
    daemon.add(id="second", command="true", schedule="@every 1s", enabled=False)
    daemon.stop()
    for job_id in ("hourly", "second"):
        set_back(daemon, job_id, newest - 3 * HOUR)
    daemon.start()
    rows = harness.wait_for(lambda: [row for row in rows_of(daemon, "hourly") if row["status"] != "pending"])
    rows = rows_of(daemon, "hourly")
    assert [row["slot"] for row in rows] == [newest - 2 * HOUR, newest - HOUR, newest]
    assert [(row["reason"], row["trigger"]) for row in rows[:2]] == [("coalesced", "schedule")] * 2
    assert rows[2]["trigger"] == "catch_up"
    assert daemon.wait(rows[2]["run_id"])["status"] == "completed"
    # A disabled job has missed nothing.
    assert rows_of(daemon, "second") == []


def test_a_job_of_every_second_comes_back_after_hours_without_a_flood(daemon):
    daemon.add(id="a", command="true", schedule="@every 1s")
    daemon.stop()
    begin = time.time_ns() // 1_000_000 // 1000 * 1000 - 2 * HOUR
    set_back(daemon, "a", begin)
    daemon.start()
    harness.wait_for(lambda: [row for row in rows_of(daemon, "a") if row["status"] == "completed"])
    rows = [row for row in rows_of(daemon, "a") if row["slot"] >= begin]
    gap = next(row for row in rows if row["reason"] == "coalesced")
    assert gap["slot"] == begin + 1000
    assert gap["more"]["slots"] >= 1000
    rest = [row for row in rows if row["slot"] > gap["slot"]]
    assert rest[0]["slot"] == gap["more"]["slot_last"] + 1000
    # Those less than a minute late are on time: decided one by one.
    assert [row["slot"] for row in rest] == list(range(rest[0]["slot"], rest[0]["slot"] + 1000 * len(rest), 1000))
    assert {row["trigger"] for row in rest} == {"schedule"}


# Stop.


def test_a_stop_ends_what_runs_and_keeps_what_waits(make_daemon):
    daemon = make_daemon(config="max_concurrent_jobs = 2\nreserved_slots = 0\n")
    once = 'test -e "$LNMT_STATE_DIR/been" && exit 0; touch "$LNMT_STATE_DIR/been"; '
    daemon.add(id="plain", command="sleep 60", kill_grace=0)
    daemon.add(id="idempotent", command=f"{once} sleep 60", kill_grace=0, idempotent=True)
    daemon.add(id="fails", command=f"{once} exit 1", retry_delay=1, retry_jitter=False)
    daemon.add(id="queued", command="true")
    fails = daemon.run("fails", with_retries=True)
    wait_for_status(daemon, fails, "retrying")
    plain = daemon.run("plain")
    idempotent = daemon.run("idempotent", with_retries=True)
    harness.wait_for(lambda: (daemon.state_dir / "jobs").joinpath("2", "been").exists())
    queued = daemon.run("queued")
    assert daemon.status()["queued"] == 1
    assert daemon.stop() == 0
    daemon.start()
    assert daemon.wait(plain)["reason"] == "stopped"
    row = daemon.wait(idempotent)
    assert (row["status"], row["retry_count"]) == ("completed", 1)
    row = daemon.wait(fails)
    assert (row["status"], row["retry_count"]) == ("completed", 1)
    row = daemon.wait(queued)
    assert (row["status"], row["retry_count"]) == ("completed", 0)


@pytest.mark.parametrize("death", [kill_supervisor, kill_and_start, restart])
def test_a_pending_retry_survives(daemon, death):
    daemon.add(
        id="a",
        command='date +%s%3N >> "$LNMT_STATE_DIR/times"; test $(wc -l < "$LNMT_STATE_DIR/times") = 2',
        retry_delay=2,
        retry_jitter=False,
    )
    run_id = daemon.run("a", with_retries=True)
    wait_for_status(daemon, run_id, "retrying")
    death(daemon)
    assert daemon.history()[0]["end_time"] is None
    row = daemon.wait(run_id)
    assert (row["status"], row["retry_count"]) == ("completed", 1)
    first, second = map(int, (daemon.state_dir / "jobs" / "1" / "times").read_text().split())
    assert second - first >= 2000
    assert b"[attempt 2 of 4]" in daemon.output(run_id)


# The launcher is killed.


def test_a_launch_that_never_reached_the_launcher_is_lost_and_run_again_only_if_idempotent(daemon):
    mark = 'echo $LNMT_ATTEMPT >> "$LNMT_STATE_DIR/marks"'
    daemon.add(id="plain", command=mark)
    daemon.add(id="idempotent", command=mark, idempotent=True)
    # A launcher that is stopped hears nothing, so the decisions stand and the orders lie in its channel.
    os.kill(daemon.launcher_pid, signal.SIGSTOP)
    plain, idempotent = daemon.run("plain"), daemon.run("idempotent", with_retries=True)
    for run_id in (plain, idempotent):
        wait_for_status(daemon, run_id, "running")
    kill_and_start(daemon)
    row = daemon.wait(plain)
    assert (row["status"], row["reason"]) == ("failed", "lost")
    assert row["error"] == "launcher or host went down under it; it may have run"
    assert not (daemon.state_dir / "jobs" / "1" / "marks").exists()
    row = daemon.wait(idempotent)
    assert (row["status"], row["retry_count"]) == ("completed", 1)
    assert (daemon.state_dir / "jobs" / "2" / "marks").read_text() == "2\n"


def test_no_slot_runs_twice_however_often_the_launcher_is_killed(daemon):
    daemon.add(id="a", command='echo $LNMT_SLOT >> "$LNMT_STATE_DIR/slots"', schedule="@every 1s")
    for _ in range(3):
        seen = len(rows_of(daemon, "a"))
        harness.wait_for(lambda seen=seen: len(rows_of(daemon, "a")) > seen)  # a slot is being decided just now
        kill_and_start(daemon)
    harness.wait_for(lambda: rows_of(daemon, "a")[-1]["status"] == "completed")
    ran = collections.Counter((daemon.state_dir / "jobs" / "1" / "slots").read_text().split())
    assert set(ran.values()) == {1}
    slots = [row["slot"] for row in rows_of(daemon, "a")]
    assert slots == list(range(slots[0], slots[0] + 1000 * len(slots), 1000))


def test_what_a_lost_run_has_written_is_kept(daemon):
    daemon.add(id="a", command="echo before; sleep 60")
    run_id = daemon.run("a")
    harness.wait_for(lambda: daemon.output(run_id) == b"before\n")
    kill_and_start(daemon)
    row = daemon.wait(run_id)
    assert (row["reason"], row["output_bytes"]) == ("lost", 7)
    assert daemon.output(run_id) == b"before\n"


def test_a_stop_that_comes_while_the_supervisor_starts_anew_is_heard(daemon):
    daemon.add(id="a", command="sleep 60", kill_grace=0)
    run_id = daemon.run("a")
    wait_for_status(daemon, run_id, "running")
    os.kill(daemon.supervisor_pid, signal.SIGKILL)
    assert daemon.stop(20) == 0
    daemon.start()
    assert daemon.wait(run_id)["reason"] == "stopped"


#: Supervisors come to life only when this file is there, so that a signal can meet each phase of a start.
HELD = """
import os
from lnmt_scheduler.supervisor import successor
really = successor._become_supervisor
def become(fd, arguments, service):
    while not os.path.exists({go!r}):
        os.read(wait, 1)
    really(fd, arguments, service)
wait = os.open({fifo!r}, os.O_RDWR)
successor._become_supervisor = become
"""


def test_a_stop_before_the_successor_lives_is_heard_and_recorded(make_daemon, folder):
    go, fifo = folder / "go", folder / "fifo"
    os.mkfifo(fifo)
    go.touch()
    daemon = make_daemon(before=HELD.format(go=str(go), fifo=str(fifo)))
    daemon.add(id="a", command="sleep 60", kill_grace=0, sandbox="trusted")
    run_id = daemon.run("a")
    wait_for_status(daemon, run_id, "running")
    go.unlink()
    os.kill(daemon.supervisor_pid, signal.SIGKILL)
    assert daemon.process is not None
    daemon.process.send_signal(signal.SIGTERM)
    go.touch()
    fifo.write_bytes(b"." * 100)
    assert daemon.process.wait(30) == 0
    daemon.process = None
    daemon.start()
    assert daemon.wait(run_id)["reason"] == "stopped"


def test_a_second_term_ends_at_once_what_ignores_the_first(daemon):
    daemon.add(id="a", command="trap '' TERM; echo up; while :; do sleep 0.1; done", kill_grace=600, sandbox="trusted")
    run_id = daemon.run("a")
    harness.wait_for(lambda: daemon.output(run_id) == b"up\n")
    assert daemon.process is not None
    for _ in range(2):
        daemon.process.send_signal(signal.SIGTERM)
        harness.wait_for(lambda: "stopping" in daemon.log)
    assert daemon.process.wait(20) == 0
    daemon.process = None
    daemon.start()
    assert daemon.wait(run_id)["reason"] == "stopped"


def test_stop_grace_bounds_what_a_job_asks_for(make_daemon):
    daemon = make_daemon(config="stop_grace = 1\n")
    daemon.add(id="a", command="trap '' TERM; echo up; while :; do sleep 0.1; done", kill_grace=600, sandbox="trusted")
    run_id = daemon.run("a")
    harness.wait_for(lambda: daemon.output(run_id) == b"up\n")
    began = time.monotonic()
    assert daemon.stop(30) == 0
    assert time.monotonic() - began < 20
    assert daemon.start().wait(run_id)["reason"] == "stopped"


def test_an_order_that_a_dead_supervisor_never_sent_is_given_by_its_successor(make_daemon, folder):
    stuck = folder / "stuck"
    daemon = make_daemon(before=UNSENT.format(stuck=str(stuck)))
    daemon.add(id="a", command='echo $LNMT_ATTEMPT >> "$LNMT_STATE_DIR/marks"', sandbox="trusted")
    stuck.touch()
    with contextlib.suppress(client.RequestError):
        daemon.run("a")
    harness.wait_for(lambda: daemon.log.count("jobs, listening at") == 2, what="another supervisor")
    harness.wait_for(lambda: daemon.history()[0]["status"] == "completed")
    assert (daemon.state_dir / "jobs" / "1" / "marks").read_text() == "1\n"


#: The supervisor dies between the commit of an attempt's row and the order to start it, while there is the file.
UNSENT = """
import os, sys
from lnmt_scheduler.sandbox import enter
from lnmt_scheduler.supervisor import successor

SUPERVISOR = '''
import os, signal
from lnmt_scheduler.ipc import messages
from lnmt_scheduler.supervisor import daemon, link
really = link.Link.send
def send(self, message, fds=()):
    if isinstance(message, messages.Launch) and os.path.exists({stuck!r}):
        os.unlink({stuck!r})
        os.kill(os.getpid(), signal.SIGKILL)
    really(self, message, fds)
link.Link.send = send
daemon.main()
'''

def become(fd, arguments, service):
    enter.reset_signals()
    os.set_inheritable(fd, True)
    os.execv(sys.executable, [sys.executable, "-I", "-c", SUPERVISOR, "--channel", str(fd), *arguments])

successor._become_supervisor = become
"""


def test_a_reboot_job_runs_once_however_often_the_daemon_starts(daemon):
    daemon.add(id="a", command="true", schedule="@reboot")
    for _ in range(2):
        restart(daemon)
    harness.wait_for(lambda: rows_of(daemon, "a"))
    kill_supervisor(daemon)
    assert len(rows_of(daemon, "a")) == 1


# Drain.


def test_drain_waits_answers_and_starts_nothing_new(daemon):
    daemon.add(id="a", command='while ! test -e "$LNMT_STATE_DIR/go"; do sleep 0.02; done')
    daemon.add(id="tick", command="true", schedule="@every 1s", enabled=False)
    run_id = daemon.run("a")
    with pytest.raises(client.RequestError) as refused:
        daemon.request(control.Drain(timeout=0.2))
    assert (refused.value.code, str(refused.value)) == (control.FAILED, "1 runs have not ended in 0.2 s")
    with pytest.raises(client.RequestError) as refused:
        daemon.run("tick")
    assert refused.value.code == control.UNAVAILABLE
    daemon.request(control.Enable(job_id="tick"))
    harness.wait_for(lambda: rows_of(daemon, "tick"))
    assert {row["status"] for row in rows_of(daemon, "tick")} <= {"pending", "skipped"}
    (daemon.state_dir / "jobs" / "1" / "go").touch()
    assert daemon.request(control.Drain(timeout=20)) == {"running": 0}
    assert daemon.wait(run_id)["status"] == "completed"
    assert {row["status"] for row in rows_of(daemon, "tick")} <= {"pending", "skipped"}
    assert daemon.status()["draining"]
