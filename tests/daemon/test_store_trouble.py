"""What can happen to the store of a running daemon, done to it by real file systems and a real kernel.

Of each: what was acknowledged stays, nothing starts that could not be written down, no slot runs twice, `status` says what
is wrong, and all goes on by itself once it is mended.
"""

import contextlib
import fcntl
import os
import shutil
import signal
import sqlite3
import subprocess
import sys
import time
from pathlib import Path

import harness
import pytest
import stored

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import client

FOREVER = '[retention]\nage = "3000d"\n'


@pytest.fixture
def witness(folder):
    """What the job `tick` leaves of each of its runs: its slots, in order."""
    path = folder / "witness"
    path.touch(0o666)
    return lambda: path.read_text().split()


@pytest.fixture
def ticking(make_daemon, folder, witness):
    """A daemon with a job that is due every second."""
    daemon = make_daemon(config=FOREVER)
    daemon.add(
        id="tick",
        command=f"echo $LNMT_SLOT >> {folder}/witness",
        schedule="* * * * * *",
        max_retries=0,
        sandbox="trusted",
    )
    harness.wait_for(lambda: len(witness()) >= 2, what="two slots")
    return daemon


def state(daemon):
    """What `status` says of the store; None while nobody answers."""
    with contextlib.suppress(client.Unreachable):
        return daemon.status()["store"]
    return None


def is_another(daemon, pid):
    """Whether a supervisor answers that is not this one."""
    with contextlib.suppress(client.Unreachable):
        return daemon.supervisor_pid != pid
    return False


def wait_for_state(daemon, wanted, seconds=40):
    return harness.wait_for(lambda: state(daemon) == wanted, seconds, f"a store that is {wanted}")


def assert_nothing_starts(daemon, witness):
    """Over three slots."""
    before = len(witness())
    until = time.time() + 3
    harness.wait_for(lambda: time.time() > until, what="three slots to go by")
    assert len(witness()) <= before + 1, "what was started before may end"


def assert_all_is_well(daemon, witness):
    before = len(witness())
    harness.wait_for(lambda: len(witness()) >= before + 2, 40, "slots that run again")
    ran = witness()
    assert len(ran) == len(set(ran)), "no slot twice"
    rows = [row for row in daemon.history(job_id="tick") if row["status"] in ("completed", "running")]
    assert len({row["slot"] for row in rows}) == len(rows)
    assert daemon.ctl("store", "check").code == 0


@contextlib.contextmanager
def immutable(*paths):
    """Files that the kernel lets nobody write, not even through a descriptor that is open."""
    paths = [str(path) for path in paths if os.path.exists(path)]
    done = subprocess.run(["chattr", "+i", *paths], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"chattr +i: {done.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["chattr", "-i", *paths], check=True)


@contextlib.contextmanager
def failing(daemon, call, error, when="1+"):
    """System calls of the supervisor that fail."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    pid = daemon.supervisor_pid
    injection = f"inject={call}:error={error}:when={when}"
    command = ["strace", "-qq", "-p", str(pid), "-e", f"trace={call}", "-e", injection]
    tracer = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    status = Path(f"/proc/{pid}/status")

    def traced():
        if tracer.poll() is not None:
            pytest.skip(f"strace: {tracer.stderr.read().decode().strip()}")
        return f"TracerPid:\t{tracer.pid}\n" in status.read_text()

    try:
        harness.wait_for(traced, what="strace")
        yield
    finally:
        tracer.terminate()
        tracer.communicate()


def test_a_store_that_becomes_read_only_and_writable_again(ticking, witness):
    acknowledged = ticking.add(id="kept", command="true")["job"]["id"]
    ticking.add(id="long", command="echo begun; sleep 4; echo ended")
    long = ticking.run("long")
    with immutable(ticking.state_dir / "lnmt.db", ticking.state_dir / "lnmt.db-wal"):
        wait_for_state(ticking, "readonly")
        assert_nothing_starts(ticking, witness)
        refused = ticking.ctl("add", "--id", "new", "--command", "true")
        assert refused.code == 69
        assert "cannot be written" in refused.stderr
        shown = ticking.ctl("status")
        assert "Store: readonly" in shown.stdout
        assert "Problem: " in shown.stdout
        assert ticking.ctl("list", "-o", "json").code in (0, 69)
    wait_for_state(ticking, "ok")
    assert_all_is_well(ticking, witness)
    assert ticking.request(control.Show(job_id=acknowledged))
    assert ticking.wait(long)["status"] == "completed", "what ran went on, and its end was kept for this"
    assert ticking.output(long) == b"begun\nended\n"
    assert "can be used again" in ticking.log


def test_an_error_at_fsync_is_not_trusted_away(ticking, witness):
    """The file is closed, opened anew and read from end to end before anything else is decided."""
    before = ticking.supervisor_pid
    ticking.add(id="kept", command="true")
    with failing(ticking, "fdatasync,fsync", "EIO", "1"):
        harness.wait_for(lambda: is_another(ticking, before), 40, "a successor")
    wait_for_state(ticking, "ok")
    assert_all_is_well(ticking, witness)
    assert ticking.request(control.Show(job_id="kept"))
    assert not (ticking.state_dir / "lnmt.db.suspect").exists()


@pytest.mark.parametrize("error", ["ENOSPC", "EDQUOT", "EROFS"])
def test_a_write_that_fails_costs_what_was_not_acknowledged_and_nothing_else(ticking, witness, error):
    before = ticking.supervisor_pid
    ticking.add(id="kept", command="true")
    with failing(ticking, "pwrite64", error):
        with contextlib.suppress(client.RequestError):
            ticking.add(id="maybe", command="true")
        harness.wait_for(lambda: is_another(ticking, before), 40, "a successor")
    wait_for_state(ticking, "ok")
    assert ticking.request(control.Show(job_id="kept"))
    assert_all_is_well(ticking, witness)


def test_a_store_that_was_removed_is_put_back(ticking, witness):
    ticking.add(id="kept", command="true")
    before = len(ticking.history(job_id="tick"))
    (ticking.state_dir / "lnmt.db").unlink()
    harness.wait_for((ticking.state_dir / "lnmt.db").exists, 40, "the store")
    wait_for_state(ticking, "ok")
    assert ticking.request(control.Show(job_id="kept"))
    assert len(ticking.history(job_id="tick")) >= before
    assert "was removed under the daemon" in ticking.log
    assert_all_is_well(ticking, witness)


def test_a_state_directory_that_goes_away_and_comes_back(ticking, witness):
    away = ticking.state_dir.with_name("away")
    os.rename(ticking.state_dir, away)
    harness.wait_for(lambda: "nothing starts before" in ticking.log, 40, "the daemon to notice")
    assert_nothing_starts(ticking, witness)
    assert not (ticking.state_dir / "lnmt.db").exists(), "it begins no new one"
    shutil.rmtree(ticking.state_dir, ignore_errors=True)  # folders for the output of what was about to start
    os.rename(away, ticking.state_dir)
    wait_for_state(ticking, "ok")
    assert_all_is_well(ticking, witness)


def test_damage_that_a_successor_meets_stops_everything_and_repair_mends_it(ticking, witness):
    ticking.stop()
    path = ticking.state_dir / "lnmt.db"
    path.unlink()
    stored.fill(path, runs=2000)
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("UPDATE jobs SET enabled = 0")
        db.commit()
    ticking.start()
    pages = path.stat().st_size // stored.PAGE
    for page in range(pages // 3, pages // 2):
        stored.spoil(path, page)
    os.kill(ticking.supervisor_pid, signal.SIGKILL)  # whoever opens it next meets the damage
    wait_for_state(ticking, "damaged")
    assert "is damaged" in ticking.ctl("status").stdout
    assert ticking.ctl("run", "job-1").code in (69, 125)
    assert path.read_bytes().count(b"\xff" * stored.PAGE) >= pages // 2 - pages // 3 - 1, "nothing is deleted"
    assert ticking.stop() == 0, "it can be stopped"
    assert ticking.ctl("store", "repair").code == 0
    ticking.start()
    assert ticking.status()["store"] == "ok"
    assert ticking.status()["jobs"] == 20


@pytest.fixture
def few_files(folder):
    """A file system with room for some hundred files."""
    if os.geteuid() != 0:
        pytest.skip("mounting a small file system needs root")
    disk = folder / "disk"
    disk.mkdir()
    options = "size=32m,nr_inodes=400,mode=755"
    done = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", disk], capture_output=True, text=True)
    if done.returncode:
        pytest.skip(f"mounting a small file system: {done.stderr.strip()}")
    yield disk
    subprocess.run(["umount", "--lazy", disk], check=True)


def test_a_disk_without_inodes_is_a_full_one(few_files):
    (few_files / "state").mkdir(mode=0o711)
    (few_files / "state/config.toml").write_text('reserve = "4M"\n')
    daemon = harness.Daemon(few_files / "state").start()
    try:
        daemon.add(id="plain", command="echo ran")
        daemon.add(id="mends", command="echo ran", run_when_full=True)
        assert daemon.run_to_end("plain")["status"] == "completed"
        fillers = [few_files / f"f{number}" for number in range(os.statvfs(few_files).f_favail - 20)]
        for each in fillers:
            each.touch()
        plain = daemon.run("plain")
        assert daemon.run_to_end("mends")["status"] == "completed"
        assert daemon.status()["store"] == "full"
        assert daemon.history(job_id="plain")[0]["status"] == "pending"
        for each in fillers:
            each.unlink()
        assert daemon.wait(plain)["status"] == "completed"
        assert daemon.status()["store"] == "ok"
    finally:
        daemon.stop()


# At a start.


def start_refused(daemon):
    """What it says, and its exit code."""
    with pytest.raises(AssertionError, match="ended with code") as error:
        daemon.start()
    daemon.process = None
    return str(error.value)


def test_a_second_daemon_on_the_same_directory_is_refused(daemon):
    command = [sys.executable, "-I", "-m", "lnmt_scheduler.supervisor.schedd", "--state-dir", str(daemon.state_dir)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60)
    assert done.returncode == 1
    assert "another daemon runs on" in done.stderr
    assert daemon.status()["store"] == "ok"


def test_a_store_that_another_process_has_open_is_refused_in_time(daemon):
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.state_dir / "lnmt.db", isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        began = time.monotonic()
        said = start_refused(daemon)
        assert "code 73" in said
        assert "another process" in said
        assert time.monotonic() - began < 20
    daemon.start()


def test_an_emptied_store_is_refused_and_kept(daemon):
    daemon.stop()
    os.truncate(daemon.state_dir / "lnmt.db", 0)
    assert "is empty" in start_refused(daemon)
    assert (daemon.state_dir / "lnmt.db").stat().st_size == 0


def test_a_store_of_a_later_version_is_refused_and_kept(daemon):
    daemon.stop()
    path = daemon.state_dir / "lnmt.db"
    with contextlib.closing(sqlite3.connect(path)) as db:
        db.execute("PRAGMA user_version=99")
    before = path.read_bytes()
    said = start_refused(daemon)
    assert "schema 99" in said
    assert path.read_bytes() == before


@pytest.mark.parametrize("what", ["mode", "owner"])
def test_a_state_directory_of_others_is_refused(daemon, what):
    if os.geteuid() != 0:
        pytest.skip("giving files to others needs root")
    daemon.stop()
    if what == "mode":
        daemon.state_dir.chmod(0o777)
    else:
        os.chown(daemon.state_dir, 65534, 65534)
    said = start_refused(daemon)
    assert "code 73" in said
    assert "it belongs to others, or others can write to it" in said


def test_the_lock_outlives_a_supervisor_and_not_the_launcher(daemon):
    lock = os.open(daemon.state_dir / "lock", os.O_RDONLY)
    try:
        os.kill(daemon.supervisor_pid, signal.SIGKILL)
        with pytest.raises(BlockingIOError):
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        daemon.kill()
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    finally:
        os.close(lock)
