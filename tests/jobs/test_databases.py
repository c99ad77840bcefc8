"""Database upkeep on real files: bloated, corrupted, locked, in use, on a full disk, killed; and a real PostgreSQL."""

import contextlib
import glob
import os
import shutil
import sqlite3
import subprocess
from collections.abc import Iterator
from pathlib import Path

import harness
import peers
import pytest

from lnmt_scheduler.jobs import databases, maintenance

EAGER = databases.Rules(free_bytes=1, free_part=0.1)


def bloated(path: Path, *pragmas: str, rows: int = 2000) -> Path:
    """A file of some 2 MiB of which almost all is free."""
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as file:
        for pragma in pragmas:
            file.execute(f"PRAGMA {pragma}")
        file.execute("CREATE TABLE t (n INTEGER PRIMARY KEY, text TEXT)")
        file.execute("BEGIN")
        file.executemany("INSERT INTO t (text) VALUES (?)", (("x" * 1000,) for _ in range(rows)))
        file.execute("COMMIT")
        file.execute("DELETE FROM t WHERE n > 50")
    return path


def count(path: Path) -> int:
    with contextlib.closing(sqlite3.connect(path)) as file:
        assert file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return int(file.execute("SELECT count(*) FROM t").fetchone()[0])


@pytest.mark.parametrize("pragmas", [(), ("journal_mode = WAL",), ("auto_vacuum = INCREMENTAL",)])
def test_a_bloated_file_gives_back_what_is_free_in_it(tmp_path, pragmas):
    path = bloated(tmp_path / "a?b %.db", *pragmas)
    found = databases.sqlite(str(path), EAGER)
    assert found.state == "ok", found
    assert found.size_before > 2_000_000
    assert found.size_after < 200_000
    assert count(path) == 50
    assert databases.sqlite(str(path), EAGER).notes == ["checked and optimized"]


def test_a_file_in_which_little_is_free_is_not_copied_for_it(tmp_path):
    path = bloated(tmp_path / "a.db")
    found = databases.sqlite(str(path), databases.Rules())
    assert found.notes == ["checked and optimized"]
    assert found.size_after == found.size_before


def test_a_damaged_file_is_told_and_left_as_it_is(tmp_path):
    path = bloated(tmp_path / "a.db")
    with path.open("r+b") as file:
        file.seek(4096)
        file.write(b"\xa5" * 8192)
    before = path.read_bytes()
    found = databases.sqlite(str(path), EAGER)
    assert found.state == "damaged"
    assert path.read_bytes() == before
    (tmp_path / "text").write_text("no database\n" * 1000)
    assert databases.sqlite(str(tmp_path / "text"), EAGER).state == "damaged"


def test_a_locked_file_is_left_for_the_next_time(tmp_path, monkeypatch):
    monkeypatch.setattr(databases, "_BUSY_SECONDS", 0.1)
    path = bloated(tmp_path / "a.db")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as other:
        other.execute("BEGIN EXCLUSIVE")
        assert databases.sqlite(str(path), EAGER).state == "locked"
        other.execute("ROLLBACK")
    assert databases.sqlite(str(path), EAGER).state == "ok"


def test_a_reader_that_stays_is_not_disturbed(tmp_path, monkeypatch):
    monkeypatch.setattr(databases, "_BUSY_SECONDS", 0.1)
    path = bloated(tmp_path / "a.db", "journal_mode = WAL")
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as reader:
        reader.execute("BEGIN")
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (50,)
        found = databases.sqlite(str(path), databases.Rules())
        assert found.state == "ok"
        assert reader.execute("SELECT count(*) FROM t").fetchone() == (50,)


def test_a_vacuum_that_the_disk_has_no_room_for_is_not_begun(tmp_path):
    with peers.small_disk(tmp_path / "small", "4m") as folder:
        path = bloated(folder / "a.db")
        (folder / "ballast").write_bytes(bytes((4 << 20) - path.stat().st_size - 65536))
        found = databases.sqlite(str(path), EAGER)
        assert found.state == "ok"
        assert "not vacuumed" in found.notes[-1]
        assert count(path) == 50


def test_a_disk_that_fills_up_in_the_middle_of_a_vacuum_leaves_the_file_whole(tmp_path, monkeypatch):
    with peers.small_disk(tmp_path / "small", "6m") as folder:
        path = bloated(folder / "a.db")
        with contextlib.closing(sqlite3.connect(path)) as file:
            file.executemany("INSERT INTO t (text) VALUES (?)", (("y" * 1000,) for _ in range(1200)))
            file.commit()
        (folder / "ballast").write_bytes(bytes((6 << 20) - path.stat().st_size - 65536))
        statvfs = os.statvfs(tmp_path)
        monkeypatch.setattr(databases.os, "statvfs", lambda _: statvfs)
        found = databases.sqlite(str(path), EAGER)
        assert (found.state, "full" in found.notes[-1]) == ("failed", True), found
        assert count(path) == 1250


def test_what_belongs_to_another_is_not_opened(tmp_path):
    path = bloated(tmp_path / "a.db")
    if os.geteuid() != 0:
        pytest.skip("root, to give a file away")
    shutil.chown(path, "nobody")
    found = databases.sqlite(str(path), EAGER)
    assert found.state == "failed"
    assert "give it that `user`" in found.notes[0]
    assert databases.sqlite(str(tmp_path), EAGER).notes == ["no regular file"]
    assert databases.sqlite(str(tmp_path / "gone.db"), EAGER).notes == ["no such file or directory"]


@pytest.mark.slow
def test_a_vacuum_that_is_killed_at_any_time_leaves_the_file_whole(tmp_path):
    program = (
        "import sys\nfrom lnmt_scheduler.jobs import databases\nprint('up', flush=True)\n"
        "databases.sqlite(sys.argv[1], databases.Rules(free_bytes=1, free_part=0.0))\n"
    )
    path = bloated(tmp_path / "a.db", rows=10_000)
    with contextlib.closing(sqlite3.connect(path)) as file:
        file.executemany("INSERT INTO t (text) VALUES (?)", (("y" * 1000,) for _ in range(5000)))
        file.commit()
    whole = path.read_bytes()
    for number in range(12):
        path.write_bytes(whole)
        for leftover in glob.glob(f"{path}-*"):
            os.unlink(leftover)
        with subprocess.Popen([peers.PYTHON, "-c", program, str(path)], stdout=subprocess.PIPE) as job:
            assert job.stdout is not None
            job.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(0.005 * number)
            job.kill()
        assert count(path) == 5050


@contextlib.contextmanager
def postgresql(folder: Path) -> Iterator[tuple[str, int]]:
    """A real server on a socket in `folder`; its host and port. Skips by name."""
    found = sorted(glob.glob("/usr/lib/postgresql/*/bin"))
    if not found:
        pytest.skip("PostgreSQL (apt-get install postgresql)")
    user = "postgres" if os.geteuid() == 0 else None
    common = {"user": user, "group": user, "extra_groups": [] if user else None, "cwd": "/"}
    if user:
        shutil.chown(folder, user)
    data = folder / "data"
    command = [
        f"{found[-1]}/initdb",
        "-D",
        str(data),
        "-A",
        "trust",
        "-U",
        "lnmt",
        "--no-sync",
        "-E",
        "UTF8",
        "--no-locale",
    ]
    subprocess.run(command, check=True, capture_output=True, **common)
    server = subprocess.Popen(
        [f"{found[-1]}/postgres", "-D", str(data), "-k", str(folder), "-c", "listen_addresses=", "-c", "fsync=off"],
        stderr=subprocess.DEVNULL, **common,
    )  # fmt: skip
    try:
        harness.wait_for(lambda: list(folder.glob(".s.PGSQL.5432")), what="a server that listens")
        ready = ["psql", "-h", str(folder), "-U", "lnmt", "-d", "postgres", "-c", "SELECT 1"]
        harness.wait_for(
            lambda: subprocess.run(ready, capture_output=True).returncode == 0, what="a server that answers"
        )
        yield str(folder), 5432
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_a_real_postgresql_is_vacuumed_and_analyzed(folder, monkeypatch, capsys):
    peers.program("vacuumdb", "postgresql-client")
    with postgresql(folder) as (host, port):

        def ask(statement: str) -> str:
            command = ["psql", "-h", host, "-U", "lnmt", "-d", "postgres", "-Atc", statement]
            return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()

        ask("CREATE TABLE t AS SELECT generate_series(1, 1000) AS n")
        assert ask("SELECT reltuples::int FROM pg_class WHERE relname = 't'") == "-1"
        server = {"host": host, "port": port, "user": "lnmt"}
        found = maintenance.database(postgresql=[{**server, "database": "postgres"}, server])
        assert [each["state"] for each in found["databases"]] == ["ok", "ok"]
        assert ask("SELECT reltuples::int FROM pg_class WHERE relname = 't'") == "1000"
        with pytest.raises(SystemExit):
            maintenance.database(postgresql=[{**server, "database": "nonesuch"}])
        assert 'database "nonesuch" does not exist' in capsys.readouterr().out


def test_one_that_is_bad_keeps_no_other_from_its_turn_and_fails_the_job(tmp_path, capsys):
    good = bloated(tmp_path / "good.db")
    (tmp_path / "bad.db").write_text("no database\n" * 1000)
    with pytest.raises(SystemExit) as ended:
        maintenance.database([str(tmp_path / "bad.db"), str(good)], vacuum_bytes=1)
    assert ended.value.code == 1
    said = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[1] for line in said] == ["damaged", "ok"]
    assert maintenance.database([str(good)])["databases"][0]["state"] == "ok"


@pytest.mark.parametrize(
    "wrong", [{}, {"sqlite": ["/x"], "vacuum_part": 2}, {"postgresql": ["all"]}, {"postgresql": [{"options": "-c x"}]}]
)
def test_arguments_that_make_no_sense_are_one_line(capsys, wrong):
    with pytest.raises(SystemExit) as ended:
        maintenance.database(**wrong)
    assert ended.value.code == 78
    assert capsys.readouterr().err.count("\n") == 1
