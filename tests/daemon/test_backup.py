"""backup, store check, store repair: with the real schedctl, while a daemon runs and works, and while none does."""

import contextlib
import os
import shutil
import threading
import time

import harness
import pytest
import stored

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import mending, store


@pytest.fixture
def backup(folder):
    return folder / "backup.db"


def opened(path):
    return contextlib.closing(store.Store.open(str(path), read_only=True))


class Changer(threading.Thread):
    """Adds jobs and runs them all the time; knows what was acknowledged."""

    def __init__(self, daemon):
        super().__init__(daemon=True)
        self._daemon = daemon
        self._end = threading.Event()
        self.added = []

    def run(self):
        with self._daemon.client() as connection:
            while not self._end.is_set():
                job_id = f"job-{len(self.added)}"
                connection.request(control.Add(definition={"id": job_id, "command": "true"}))
                connection.request(control.Run(job_id=job_id))
                self.added.append(job_id)

    def __enter__(self):
        self.start()
        return self

    def __exit__(self, *_):
        self._end.set()
        self.join(30)


def test_a_backup_of_a_busy_daemon_is_whole_and_of_one_moment(daemon, backup):
    daemon.add(id="before", command="true")
    sizes = []
    with Changer(daemon) as changer:
        for _ in range(5):
            harness.wait_for(lambda: len(changer.added) > 5 * (1 + len(sizes)), what="changes")
            acknowledged = list(changer.added)
            done = daemon.ctl("backup", str(backup), "--force", "-o", "json")
            assert done.code == 0, done
            with opened(backup) as db:
                ids = {row.job_id for row in db.jobs_page(limit=10_000)}
                assert {"before", *acknowledged} <= ids
                # Jobs are added in order, each with its run before the next.
                numbers = sorted(int(name.removeprefix("job-")) for name in ids - {"before"})
                assert numbers == list(range(len(numbers)))
                assert len(db.history(limit=10_000)) >= len(numbers) - 1
                assert done.json["jobs"] == len(ids)
            sizes.append(len(ids))
    assert sizes == sorted(set(sizes)), "each is of its own moment"
    assert backup.stat().st_mode & 0o777 == 0o600
    assert [entry["action"] for entry in daemon.request(control.Audit(limit=500))["entries"]].count("backup") == 5
    names = os.listdir(backup.parent)
    assert not [name for name in names if name.startswith(("backup.db.", "backup.db-"))]


def test_a_file_that_is_there_is_not_replaced_unless_asked(daemon, backup):
    backup.write_text("precious")
    done = daemon.ctl("backup", str(backup))
    assert (done.code, done.stdout) == (73, "")
    assert "--force" in done.stderr
    assert backup.read_text() == "precious"
    assert daemon.ctl("backup", str(backup), "--force").code == 0
    assert mending.check(str(backup)) == []


def test_a_backup_that_cannot_be_written_is_73_and_leaves_nothing(daemon, folder):
    done = daemon.ctl("backup", str(folder / "nowhere/backup.db"))
    assert done.code == 73
    assert done.stderr.startswith("schedctl: cannot write ")
    if os.path.exists("/dev/full"):
        assert daemon.ctl("backup", "/proc/backup.db").code == 73


def test_a_backup_without_the_daemon_has_what_a_killed_one_had_committed(daemon, backup):
    daemon.add(id="a", command="true")
    daemon.kill()
    harness.wait_for(lambda: daemon.ctl("backup", str(backup), "--force").code == 0, what="the end of the supervisor")
    with opened(backup) as db:
        assert db.job_by_id("a") is not None


def test_one_copy_at_a_time(daemon):
    daemon.add(id="a", command="true", description="x" * 4000)
    with daemon.client() as first:
        stored_jobs = [{"id": f"j{n}", "command": "true", "description": "x" * 4000} for n in range(200)]
        for job in stored_jobs:
            first.request(control.Add(definition=job))
        stream = first.stream(control.Backup())
        next(iter(stream))  # and does not read on
        done = daemon.ctl("backup", str(daemon.state_dir.parent / "second.db"))
        assert done.code == 1
        assert "another copy" in done.stderr
    # The first has gone away: nothing keeps the log from being cut any more.
    harness.wait_for(
        lambda: daemon.ctl("backup", str(daemon.state_dir.parent / "second.db")).code == 0, what="room for another"
    )


def test_a_restored_backup_does_not_replay_the_time_since(daemon, backup, make_daemon):
    daemon.add(id="tick", command="true", schedule="* * * * * *")
    daemon.add(id="waits", command="sleep 100", idempotent=True)
    daemon.run("waits")
    harness.wait_for(lambda: len(daemon.history(job_id="tick")) >= 2, what="two slots")
    assert daemon.ctl("backup", str(backup)).code == 0
    newest = daemon.history()[0]["run_id"]
    harness.wait_for(lambda: daemon.history()[0]["run_id"] >= newest + 3, what="slots that the backup does not know")
    ran = {row["slot"] for row in daemon.history(job_id="tick") if row["status"] != "skipped"}
    daemon.stop()
    for name in ("lnmt.db", "lnmt.db-wal"):
        (daemon.state_dir / name).unlink(missing_ok=True)
    shutil.copy(backup, daemon.state_dir / "lnmt.db")
    began = time.time() * 1000
    daemon.start()
    rows = harness.wait_for(
        lambda: [row for row in daemon.history(job_id="tick") if row["status"] == "completed" and row["slot"] > began],
        what="the next slot",
    )
    assert rows[-1]["run_id"] > 1_000_000, "no number is given twice"
    history = daemon.history(job_id="tick")
    again = [row for row in history if row["run_id"] > 1_000_000 and row["slot"] in ran]
    assert again == []
    missed = [row for row in history if row["reason"] == "missed"]
    assert missed
    assert "backup" in missed[0]["error"]
    (waits,) = daemon.history(job_id="waits")
    assert (waits["status"], waits["reason"]) == ("failed", "lost")
    assert "is a backup of" in daemon.log
    daemon.stop()
    daemon.start()
    assert daemon.log.count("is a backup of") == 1


def test_check_says_whole_with_and_without_the_daemon(daemon):
    daemon.add(id="a", command="true")
    done = daemon.ctl("store", "check")
    assert (done.code, done.stdout) == (0, "The store is whole.\n")
    assert daemon.ctl("store", "repair").code == 1, "not while it runs"
    daemon.stop()
    assert daemon.ctl("store", "check", "-o", "json").json == {"store": "ok", "problems": []}
    assert daemon.ctl("store", "repair").stdout == "The store is whole; nothing was rebuilt.\n"


def test_a_damaged_store_is_told_at_start_found_by_check_and_mended_by_repair(daemon):
    daemon.stop()
    path = daemon.state_dir / "lnmt.db"
    path.unlink()
    stored.fill(path)
    stored.spoil(path, path.stat().st_size // stored.PAGE - 3)
    before = path.read_bytes()
    with pytest.raises(AssertionError, match="code 73"):
        daemon.start()
    assert "is damaged" in daemon.log
    assert path.read_bytes() == before, "nothing is deleted or changed by itself"
    done = daemon.ctl("store", "check")
    assert done.code == 1
    assert "schedctl store repair" in done.stderr
    assert daemon.ctl("backup", str(path.parent / "copy")).code == 1, "a damaged store makes no backup"
    repaired = daemon.ctl("store", "repair", "-o", "json")
    assert repaired.code == 0, repaired
    assert repaired.json["kept"]["jobs"] == 20
    assert repaired.json["lost"]
    with open(repaired.json["damaged"], "rb") as kept:
        assert kept.read() == before
    daemon.start()
    assert daemon.status()["jobs"] == 20


def test_files_that_belong_to_nobody_are_found_and_removed_on_demand(daemon):
    daemon.add(id="kept", command="echo x")
    daemon.add(id="gone", command="echo x")
    kept = daemon.run_to_end("kept")
    daemon.run_to_end("gone")
    state = daemon.state_dir / "jobs"
    directories = {name: state / str(number) for number, name in ((1, "kept"), (2, "gone"))}
    (directories["gone"] / "left").write_text("x")
    daemon.request(control.Remove(job_id="gone"))
    (path,) = daemon.state_dir.glob(f"output/*/*/*/{kept['run_id']}.log")
    stray = path.with_name("999.log")
    shutil.copy(path, stray)
    shutil.copy(path.with_name(f"{kept['run_id']}.idx"), path.with_name("999.idx"))
    done = daemon.ctl("store", "check", "--orphans", "-o", "json")
    assert (done.code, done.json["orphans"]) == (1, [str(directories["gone"]), str(stray)])
    assert directories["gone"].exists(), "check removes nothing"
    daemon.stop()
    assert daemon.ctl("store", "repair", "--orphans", "-o", "json").json["orphans"] == done.json["orphans"]
    assert not directories["gone"].exists()
    assert not stray.exists()
    assert path.exists()
    assert directories["kept"].exists()
    assert daemon.ctl("store", "check", "--orphans").code == 0


def test_an_operator_gets_no_copy_of_the_secrets_in_it():
    assert "backup" not in control.OPERATOR


@pytest.mark.slow
def test_a_large_backup_does_not_hold_up_the_daemon(daemon, backup):
    daemon.stop()
    path = daemon.state_dir / "lnmt.db"
    path.unlink()
    stored.fill(path, runs=20_000)
    daemon.start()
    with harness.Asker(daemon) as asker:
        assert daemon.ctl("backup", str(backup)).code == 0
    assert backup.stat().st_size > 8 << 20
    assert asker.worst < 0.5
    print(f"{backup.stat().st_size >> 20} MiB, status at worst {asker.worst * 1000:.0f} ms")
