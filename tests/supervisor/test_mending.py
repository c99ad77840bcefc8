"""Stores that are damaged for real: what the check finds, what a rebuild keeps, and that it says what it does not."""

import contextlib
import os
import pathlib
import shutil
import sqlite3

import pytest
import stored

from lnmt_scheduler.supervisor import mending, store

DATA = pathlib.Path(__file__).parent.parent / "data"


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    path = tmp_path_factory.mktemp("whole") / "lnmt.db"
    stored.fill(path)
    return path


@pytest.fixture
def path(whole, tmp_path):
    shutil.copy(whole, tmp_path / "lnmt.db")
    return str(tmp_path / "lnmt.db")


def rebuild(path):
    """The rebuilt store, open, and what was said of it."""
    to = f"{path}.rebuilt"
    result = mending.rebuild(path, to)
    assert mending.check(to) == []
    return contextlib.closing(store.Store.open(to)), result


def pages_of(path, name):
    """Numbers of the leaf pages of a table or index."""
    with contextlib.closing(sqlite3.connect(path)) as db:
        try:
            found = db.execute("SELECT pageno FROM dbstat WHERE name = ? AND pagetype = 'leaf'", (name,))
        except sqlite3.OperationalError:
            pytest.skip("SQLite here is built without dbstat")
        return [number for (number,) in found]


def alter(path, statement, *values):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute(statement, values)


def test_a_whole_store_is_found_whole_and_is_not_changed(path):
    before = pathlib.Path(path).read_bytes()
    assert mending.check(path) == []
    assert pathlib.Path(path).read_bytes() == before


def test_the_check_finds_a_damaged_page(path):
    stored.spoil(path, pages_of(path, "job_history")[5])
    assert mending.check(path)


def test_the_check_finds_an_index_that_lacks_a_row(path):
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        (root,) = db.execute("SELECT rootpage FROM sqlite_schema WHERE name = 'history_status'").fetchone()
        db.execute("PRAGMA writable_schema=ON")
        db.execute("UPDATE sqlite_schema SET rootpage = ? WHERE name = 'history_job'", (root,))
    assert mending.check(path)


@pytest.mark.parametrize(
    ("statement", "words"),
    [
        ("DELETE FROM definitions WHERE id = 3", "runs whose definition is missing: 3, 23"),
        ("DELETE FROM job_history WHERE run_id = 7", "attempts without a run: 7"),
        ("UPDATE job_history SET status = 'dreaming' WHERE run_id = 9", "runs of an unknown status: 9"),
        ("UPDATE job_history SET status = 'running', attempts = 4 WHERE run_id = 9", "without an attempt: 9"),
        ("UPDATE jobs SET given = '{' WHERE uid = 2", "jobs whose definition is no JSON: 2"),
    ],
)
def test_the_check_finds_rows_that_make_no_sense_together(path, statement, words):
    alter(path, statement)
    assert any(words in problem for problem in mending.check(path))


def test_what_is_no_store_is_refused(tmp_path):
    path = tmp_path / "lnmt.db"
    path.write_bytes(b"nothing of the kind" * 1000)
    for action in (mending.check, lambda path: mending.rebuild(path, f"{path}.rebuilt")):
        with pytest.raises(store.StoreError) as error:
            action(str(path))
        assert error.value.kind == "damaged"


def test_a_rebuild_of_a_whole_store_loses_nothing(path):
    opened, result = rebuild(path)
    assert result.lost == []
    assert result.kept == {
        "definitions": 20, "jobs": 20, "runs": 500, "attempts": 500, "audit entries": 20, "planned changes": 0,
    }  # fmt: skip
    tables = ("jobs", "job_history", "attempts", "definitions", "audit", "meta", "tags", "dependencies")
    opened.thing.close()
    with (
        contextlib.closing(sqlite3.connect(path)) as old,
        contextlib.closing(sqlite3.connect(f"{path}.rebuilt")) as new,
    ):
        for table in tables:
            opens = "WHERE key <> 'opened'" if table == "meta" else ""  # it is open
            rows = f"SELECT * FROM {table} {opens} ORDER BY 1, 2"
            assert new.execute(rows).fetchall() == old.execute(rows).fetchall(), table


def test_every_page_but_the_first_may_be_damaged_and_the_rest_is_kept(tmp_path):
    """Each page in turn: the rebuild ends, its store is whole, and it loses no more than a page can hold."""
    path = str(tmp_path / "lnmt.db")
    stored.fill(path, jobs=5, runs=80)
    pages = os.path.getsize(path) // stored.PAGE
    assert pages > 25
    unreadable = schema = 0
    for page in range(2, pages + 1):
        copy = tmp_path / "spoilt.db"
        shutil.copy(path, copy)
        stored.spoil(copy, page)
        for name in (f"{copy}.rebuilt", f"{copy}.rebuilt-wal"):
            if os.path.exists(name):
                os.unlink(name)
        try:
            result = mending.rebuild(str(copy), f"{copy}.rebuilt")
        except store.StoreError as error:
            schema += "no job and no run" in str(error)  # of the tables themselves
            continue
        assert mending.check(f"{copy}.rebuilt") == [], f"page {page}"
        full = {"runs": 80, "attempts": 80, "jobs": 5}
        lost = {word: count - result.kept.get(word, 0) for word, count in full.items()}
        unreadable += any(lost[word] == full[word] for word in full)  # the root of a table
        assert not any(lost.values()) or result.lost, f"page {page}: {lost} and not said"
    assert unreadable <= 3
    assert schema <= 2


def test_damage_in_several_places_costs_just_those(path):
    leaves = pages_of(path, "job_history")
    for place in (3, 10, 11, 20, len(leaves) - 1):
        stored.spoil(path, leaves[place])
    opened, result = rebuild(path)
    with opened as db:
        assert 500 - 5 * 20 <= result.kept["runs"] < 500
        assert sum(word.startswith("runs: up to") for word in result.lost) >= 3
        with contextlib.suppress(StopIteration):
            assert db.history(limit=1)[0].run_id <= 500
        new = db.add_run(
            job_uid=1, job_id="job-0", slot=None, trigger="manual", status="pending", priority=2, queued=stored.T,
            hash=f"{0:064}",
        )  # fmt: skip
        assert new == 501, "no number is given twice, though the last page of runs is lost"


def test_a_run_that_was_open_and_lost_its_definition_is_not_run_again(path):
    alter(path, "UPDATE job_history SET status = 'pending' WHERE run_id IN (3, 4)")
    alter(path, "DELETE FROM definitions WHERE id = 3")
    opened, result = rebuild(path)
    with opened as db:
        assert (db.run(3).status, db.run(3).reason) == ("failed", "lost")
        assert db.run(4).status == "pending"
        assert db.run(3).hash == "lost-3"
        assert db.definition("lost-3")["id"] == "job-2", "what its job still knows of it"
    assert any("1 open runs" in words for words in result.lost)


def test_the_first_schema_is_rebuilt_as_the_present_one(tmp_path):
    path = str(tmp_path / "lnmt.db")
    shutil.copy(DATA / "store_v1.db", path)
    opened, result = rebuild(path)
    with opened as db:
        assert result.lost == []
        assert [row.job_id for row in db.jobs_page()] == ["collect", "report"]
        assert len(db.history()) == 4


def test_a_copy_is_sealed_with_the_time_that_it_was_taken_at(path, tmp_path):
    copy = str(tmp_path / "copy.db")
    pathlib.Path(copy).touch()
    mending.copy(path, copy)
    assert mending.seal(copy, 4711) == mending.Counts(20, 500)
    assert not [name for name in os.listdir(tmp_path) if name.startswith("copy.db-")], "one file is all"
    with contextlib.closing(store.Store.open(copy)) as db:
        assert db.meta_get("backup") == "4711"
        assert len(db.history(limit=1000)) == 500
