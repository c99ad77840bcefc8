"""Copies of databases that are in use, locked, damaged, or too large for the disk: whole, or not there."""

import contextlib
import os
import sqlite3
import subprocess
import sys
import threading
from datetime import UTC, datetime, timedelta

import peers
import pytest

from lnmt_scheduler.jobs import atomic, backup, copies, retention

#: A writer in rollback mode whose transaction is half in the file, and the other half in its memory.
HALF_WRITTEN = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("PRAGMA cache_size = 5")
db.execute("BEGIN")
db.execute("UPDATE t SET x = -1 WHERE rowid <= 1000")
print("half", flush=True)
sys.stdin.read()
"""


def database(path, rows=2000, wal=True):
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        if wal:
            db.execute("PRAGMA journal_mode=WAL")
        db.execute("CREATE TABLE t (x, y)")
        db.executemany("INSERT INTO t VALUES (?, ?)", [(number, "y" * 200) for number in range(rows)])
    return str(path)


def back_up(*sources, to):
    return copies.copy_all(sources, str(to), lambda *_: None)


def kept(folder):
    return sorted(name for name in os.listdir(folder) if name != ".lock")


def test_a_copy_is_whole_while_another_writes_all_the_time(tmp_path):
    source = database(tmp_path / "a.db")
    end = threading.Event()

    def write():
        with contextlib.closing(sqlite3.connect(source, timeout=30)) as db:
            while not end.is_set():
                with db:  # two rows at a time: a copy has both of them or none
                    db.executemany("INSERT INTO t VALUES (?, 'pair')", [(1,), (1,)])

    writer = threading.Thread(target=write)
    writer.start()
    try:
        (made,) = back_up(source, to=tmp_path / "to")
    finally:
        end.set()
        writer.join()
    with contextlib.closing(sqlite3.connect(made["copy"])) as db:
        count = db.execute("SELECT count(*) FROM t").fetchone()[0]
        assert count >= 2000
        assert db.execute("SELECT count(*) % 2 FROM t WHERE y = 'pair'").fetchone()[0] == 0
    assert kept(tmp_path / "to") == [os.path.basename(made["copy"])]


def test_a_damaged_database_leaves_no_copy_and_the_others_are_copied(tmp_path):
    bad, good = database(tmp_path / "bad.db", wal=False), database(tmp_path / "good.db")
    with open(bad, "r+b") as file:
        file.seek(3 * 4096)
        file.write(b"\xff" * 2000)
    with pytest.raises(
        copies.CopiesFailedError, match=r"1 of 2 .*bad\.db: the copy is not sound, so its source is damaged"
    ):
        back_up(bad, good, to=tmp_path / "to")
    assert [name.partition("-")[0] for name in kept(tmp_path / "to")] == ["good"]


def test_a_locked_database_is_waited_for_and_then_named(tmp_path, monkeypatch):
    monkeypatch.setattr(copies, "_PATIENCE", 0.1)
    source = database(tmp_path / "a.db", wal=False)
    with contextlib.closing(sqlite3.connect(source, isolation_level=None)) as db:
        db.execute("BEGIN EXCLUSIVE")
        with pytest.raises(copies.CopiesFailedError, match=r"a\.db: database is locked"):
            back_up(source, to=tmp_path / "to")
    assert kept(tmp_path / "to") == []
    assert back_up(source, to=tmp_path / "to")


@pytest.mark.parametrize("killed", [False, True])
def test_a_transaction_that_is_half_written_is_in_no_copy_also_where_nothing_may_be_written(
    tmp_path, monkeypatch, killed
):
    monkeypatch.setattr(copies, "_PATIENCE", 0.1)
    (tmp_path / "from").mkdir()
    source = database(tmp_path / "from" / "a.db", wal=False)
    with subprocess.Popen(
        [sys.executable, "-c", HALF_WRITTEN, source], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as writer:
        assert writer.stdout.readline() == b"half\n"
        if killed:
            writer.kill()
            writer.wait()
        assert os.path.getsize(f"{source}-journal")
        words = "a writer was killed in a transaction" if killed else "database is locked"
        with peers.read_only(tmp_path / "from"), pytest.raises(copies.CopiesFailedError, match=words):
            back_up(source, to=tmp_path / "to")
        assert kept(tmp_path / "to") == []
    with contextlib.closing(sqlite3.connect(source)) as db:
        assert db.execute("SELECT count(*) FROM t WHERE x < 0").fetchone() == (0,)  # and this undid it
    with peers.read_only(tmp_path / "from"):
        (made,) = back_up(source, to=tmp_path / "to")
    assert copies.fault(made["copy"]) is None


def test_a_database_in_wal_mode_that_nobody_has_open_is_copied_where_nothing_may_be_written(tmp_path):
    (tmp_path / "from").mkdir()
    source = database(tmp_path / "from" / "a.db")
    with peers.read_only(tmp_path / "from"):
        assert back_up(source, to=tmp_path / "to")
    assert os.listdir(tmp_path / "from") == ["a.db"]


def test_an_empty_file_in_the_place_of_a_database_is_no_copy_and_pushes_none_out(tmp_path):
    to = tmp_path / "to"
    source = database(tmp_path / "a.db")
    (real,) = back_up(source, to=to)
    day = datetime.now(UTC) + timedelta(days=1)
    os.unlink(source)
    (tmp_path / "a.db").touch()  # as `sqlite3 a.db` makes one
    with pytest.raises(copies.CopiesFailedError, match=r"a\.db: it holds no table"):
        back_up(source, to=to)
    assert kept(to) == [os.path.basename(real["copy"])]
    # What had been taken for a copy before counts neither in the drill nor when old ones go.
    with contextlib.closing(sqlite3.connect(to / f"a-{day.strftime(retention.STAMP)}.db")) as db:
        db.execute("VACUUM")
    with pytest.raises(copies.CopiesFailedError, match="it holds no table"):
        copies.drill(str(to), 1e9)
    backup.cleanup(str(to), keep={"last": 1})
    assert os.path.exists(real["copy"])


def test_what_is_no_database_is_no_backup(tmp_path):
    (tmp_path / "a.db").write_text("x" * 10_000)
    with pytest.raises(copies.CopiesFailedError, match="file is not a database"):
        back_up(str(tmp_path / "a.db"), to=tmp_path / "to")
    with pytest.raises(copies.CopiesFailedError, match=r"missing\.db"):
        back_up(str(tmp_path / "missing.db"), to=tmp_path / "to")
    assert kept(tmp_path / "to") == []


def test_a_full_disk_leaves_no_half_copy(tmp_path):
    source = database(tmp_path / "a.db", rows=20_000)
    (tmp_path / "to").mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=512k", "tmpfs", str(tmp_path / "to")]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("a small file system: this account may mount none")
    try:
        with pytest.raises(copies.CopiesFailedError, match=r"disk is full|No space left"):
            back_up(source, to=tmp_path / "to")
        assert kept(tmp_path / "to") == []
    finally:
        subprocess.run(["umount", str(tmp_path / "to")], check=True)


def test_what_a_killed_run_has_left_is_removed_and_never_taken_for_a_copy(tmp_path):
    source = database(tmp_path / "a.db")
    (tmp_path / "to").mkdir()
    part = tmp_path / "to" / "a-20260301T000000Z.db.part"
    part.write_bytes(b"SQLite format 3\0half")
    with pytest.raises(copies.CopiesFailedError, match="holds no copy"):
        copies.drill(str(tmp_path / "to"), 1e9)
    back_up(source, to=tmp_path / "to")
    assert not part.exists()


def test_the_drill_opens_the_newest_of_each_and_minds_its_age(tmp_path):
    (made,) = back_up(database(tmp_path / "a.db"), to=tmp_path / "to")
    assert copies.drill(str(tmp_path / "to"), 60)[0]["sound"]
    with pytest.raises(copies.CopiesFailedError, match=r"the newest of a\.db is 0\.0 days old"):
        copies.drill(str(tmp_path / "to"), -1)
    with open(made["copy"], "r+b") as file:
        file.seek(2 * 4096)
        file.write(b"\xff" * 5000)
    with pytest.raises(copies.CopiesFailedError, match=os.path.basename(made["copy"])):
        copies.drill(str(tmp_path / "to"), 60)


def test_one_run_at_a_time_works_in_a_folder(tmp_path, capsys):
    with atomic.locked(str(tmp_path / "to")), pytest.raises(SystemExit) as left:
        back_up(database(tmp_path / "a.db"), to=tmp_path / "to")
    assert left.value.code == 69
    assert "another run works in" in capsys.readouterr().err
