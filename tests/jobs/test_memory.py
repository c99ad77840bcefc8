"""SQLite files of a job: whole transactions or none, damaged ones put aside, newer ones left alone."""

import os
import sqlite3
import subprocess
import sys

import harness
import peers
import pytest

from lnmt_scheduler.jobs import memory

SCHEMA = "CREATE TABLE t (n INTEGER)"


def numbers(path: str) -> list[int]:
    with memory.opened(path, SCHEMA, 1) as file:
        return [n for (n,) in file.execute("SELECT n FROM t ORDER BY n")]


def test_what_a_block_did_is_there_if_it_ended_well_and_only_then(tmp_path):
    path = str(tmp_path / "kept.db")
    with memory.opened(path, SCHEMA, 1) as file:
        file.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(KeyError), memory.opened(path, SCHEMA, 1) as file:  # noqa: PT012 (what follows the write counts)
        file.execute("INSERT INTO t VALUES (2)")
        raise KeyError
    assert numbers(path) == [1]


@pytest.mark.parametrize("where", [0, 8192])
def test_a_damaged_file_is_put_aside_and_said(tmp_path, capsys, where):
    path = str(tmp_path / "kept.db")
    with memory.opened(path, SCHEMA, 1) as file:
        file.executemany("INSERT INTO t VALUES (?)", ((n,) for n in range(10_000)))
    with open(path, "r+b") as damaged:
        damaged.seek(where)
        damaged.write(b"\xa5" * 2000)
    assert numbers(path) == []
    assert "the job begins anew" in capsys.readouterr().err
    assert os.path.exists(f"{path}.damaged")


def test_a_file_of_a_newer_version_is_left_alone(tmp_path, capsys):
    path = str(tmp_path / "kept.db")
    with memory.opened(path, SCHEMA, 2) as file:
        file.execute("INSERT INTO t VALUES (1)")
    with pytest.raises(SystemExit):
        numbers(path)
    assert "is of version 2" in capsys.readouterr().err
    with memory.opened(path, SCHEMA, 2) as file:
        assert file.execute("SELECT n FROM t").fetchall() == [(1,)]


def test_a_locked_file_is_not_taken_for_a_damaged_one(tmp_path, monkeypatch):
    path = str(tmp_path / "kept.db")
    assert numbers(path) == []
    connect = sqlite3.connect
    monkeypatch.setattr(memory.sqlite3, "connect", lambda path, **more: connect(path, **{**more, "timeout": 0.1}))
    other = connect(path, isolation_level=None)
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(sqlite3.OperationalError, match="locked"):
        numbers(path)
    other.close()
    assert numbers(path) == []


@pytest.mark.slow
def test_a_writer_that_is_killed_at_any_time_leaves_whole_transactions(tmp_path):
    path = str(tmp_path / "kept.db")
    program = (
        "import sys\nfrom lnmt_scheduler.jobs import memory\nwhile True:\n"
        f"    with memory.opened(sys.argv[1], {SCHEMA!r}, 1) as file:\n"
        "        (n,) = file.execute('SELECT count(*) FROM t').fetchone()\n"
        "        file.executemany('INSERT INTO t VALUES (?)', ((n + each,) for each in range(1000)))\n"
        "    print(n, flush=True)\n"
    )
    for _ in range(5):
        with subprocess.Popen([sys.executable, "-c", program, path], stdout=subprocess.PIPE) as writer:
            assert writer.stdout is not None
            writer.stdout.readline()
            harness.wait_for(lambda: os.path.exists(f"{path}-journal"), what="a write under way")
            writer.kill()
        found = numbers(path)
        assert found == list(range(len(found)))
        assert len(found) % 1000 == 0
    assert len(found) >= 5000


def test_a_full_disk_leaves_what_was_there(tmp_path):
    with peers.small_disk(tmp_path / "small", "1m") as folder:
        path = str(folder / "kept.db")
        with memory.opened(path, SCHEMA, 1) as file:
            file.execute("INSERT INTO t VALUES (1)")
        with pytest.raises(sqlite3.OperationalError, match="full"), memory.opened(path, SCHEMA, 1) as file:
            file.executemany("INSERT INTO t VALUES (?)", ((n,) for n in range(500_000)))
        assert numbers(path) == [1]
