"""Which copies stay: the rules as a table, what is never removed, and that nothing outside of the folder is touched."""

import sqlite3
from datetime import UTC, datetime, timedelta

import pytest

from lnmt_scheduler.jobs import retention

T = datetime(2026, 3, 31, 4, tzinfo=UTC)


def name(at, of="db", suffix=".db"):
    return f"{of}-{at.strftime(retention.STAMP)}{suffix}"


def copies(days):
    return [retention.Copy(name(at), at) for at in (T - timedelta(days=day) for day in days)]


def good(_):
    return True


def days_kept(days, keep, is_good=good):
    found = retention.plan(copies(days), keep, is_good)
    return [day for day, copy in zip(days, copies(days), strict=True) if copy.file in found]


@pytest.mark.parametrize(
    ("keep", "kept"),
    [
        ({"last": 2}, [0, 1]),
        ({"daily": 3}, [0, 1, 2]),
        # 31 March 2026 is a Tuesday: the newest of each of three weeks.
        ({"weekly": 3}, [0, 2, 9]),
        # The newest of March, of February, of January.
        ({"monthly": 3}, [0, 31, 59]),
        ({"daily": 2, "weekly": 2, "monthly": 2}, [0, 1, 2, 31]),
        ({"daily": 0, "last": 1}, [0]),
    ],
)
def test_rules_keep_the_newest_of_so_many_periods(keep, kept):
    assert days_kept(list(range(100)), keep) == kept


def test_days_without_a_copy_use_nothing_up():
    assert days_kept([0, 10, 20, 30], {"daily": 3}) == [0, 10, 20]


def test_the_newest_good_one_stays_if_the_rules_keep_none_that_is_good():
    broken = {copy.file for copy in copies([0, 1, 2])}
    kept = retention.plan(copies(range(6)), {"daily": 3}, lambda copy: copy.file not in broken)
    assert [kept.get(copy.file) for copy in copies(range(6))] == ["daily"] * 3 + ["last good one", None, None]


def test_where_none_is_good_none_goes():
    assert days_kept([0, 1, 2, 3], {"last": 1}, lambda _: False) == [0, 1, 2, 3]


def database(path, rows=10):
    with sqlite3.connect(path) as db:
        db.execute("CREATE TABLE t (x)")
        db.executemany("INSERT INTO t VALUES (?)", [("x" * 100,)] * rows)
    db.close()


def damage(path):
    data = bytearray(path.read_bytes())
    data[4096:5000] = b"\xff" * 904
    path.write_bytes(data)


@pytest.fixture
def root(tmp_path):
    root = tmp_path / "copies"
    root.mkdir()
    for day in range(5):
        database(root / name(T - timedelta(days=day)), rows=200)
    return root


def listed(root):
    return sorted(path.name for path in root.iterdir() if path.name != ".lock")


def test_a_dry_run_says_what_would_go_and_removes_nothing(root, capsys):
    before = listed(root)
    found = retention.clean(str(root), {"daily": 2}, dry_run=True)
    assert (found["removed_count"], listed(root)) == (3, before)
    assert capsys.readouterr().out.count("would remove") == 3
    assert retention.clean(str(root), {"daily": 2}, dry_run=False)["removed"] == found["removed"]
    assert len(listed(root)) == 2


def test_a_damaged_newest_copy_does_not_cost_the_last_good_one(root):
    damage(root / name(T))
    found = retention.clean(str(root), {"last": 1}, dry_run=False)
    assert listed(root) == sorted([name(T), name(T - timedelta(days=1))])
    assert found["removed_count"] == 3


def test_what_is_no_copy_is_never_touched(root, tmp_path):
    outside = tmp_path / name(T - timedelta(days=900))
    outside.write_text("precious")
    link = root / name(T - timedelta(days=901))
    link.symlink_to(outside)
    others = [
        root / "README",
        root / name(T - timedelta(days=902), of="..", suffix=""),
        root / f"{name(T - timedelta(days=903))}.part",
        root / "db-20269999T999999Z.db",
    ]
    for path in others:
        path.write_text("x")
    folder = root / name(T - timedelta(days=904))
    folder.mkdir()
    retention.clean(str(root), {"last": 1}, dry_run=False)
    assert outside.read_text() == "precious"
    assert link.is_symlink()
    assert folder.is_dir()
    assert [path.exists() for path in others] == [True] * 4


@pytest.mark.parametrize("path", ["/", "//", "relative", "/srv/../etc", ""])
def test_a_root_that_could_be_anything_is_refused(path, capsys):
    with pytest.raises(SystemExit):
        retention.clean(path, {"last": 1}, dry_run=False)
    assert "must be an absolute path" in capsys.readouterr().err


def test_a_root_that_is_a_link_is_refused(root, tmp_path, capsys):
    (tmp_path / "link").symlink_to(root)
    before = listed(root)
    with pytest.raises(SystemExit):
        retention.clean(str(tmp_path / "link"), {"last": 1}, dry_run=False)
    assert "cannot be cleaned" in capsys.readouterr().err
    assert listed(root) == before


@pytest.mark.parametrize("keep", [{}, {"daily": 0}, {"dialy": 3}, {"daily": -1}, {"daily": "3"}])
def test_rules_that_would_keep_nothing_or_make_no_sense_are_refused(root, keep):
    with pytest.raises(SystemExit):
        retention.clean(str(root), keep, dry_run=False)
    assert len(listed(root)) == 5
