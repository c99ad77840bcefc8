"""The copy of the history that a job may be granted: what is in it, its bounds, and that nothing waits for it."""

import contextlib
import json
import os
import sqlite3

import msgpack
import pytest
import stored

from lnmt_scheduler.jobs import handed, model
from lnmt_scheduler.supervisor import attempts, clock, config, loop, snapshot, store

NOW = stored.T + 400 * stored.HOUR
LARGE = "x" * snapshot.RESULT_MAX


@pytest.fixture
def db(tmp_path, monkeypatch):
    path = tmp_path / "lnmt.db"
    stored.fill(path)
    monkeypatch.setattr(clock, "now_ms", lambda: NOW)
    with contextlib.closing(store.Store.open(str(path))) as found:
        yield found


def made(db):
    """The copy as an open database, and how many slices it took."""
    making = snapshot.Making(db)
    slices = sum(1 for _ in making.slices())
    found = sqlite3.connect(":memory:")
    found.deserialize(making.image)
    return found, slices


def meta(found):
    return dict(found.execute("SELECT * FROM meta"))


def test_a_job_that_is_renamed_while_it_is_made_is_in_it_once(db):
    for number in range(100, 130):
        stored.add_job(db, number)
    making = snapshot.Making(db)
    slices = making.slices()
    next(slices)  # job-0 has been copied
    db.rename_job(db.latest_uid("job-0"), "job-0", "zuletzt")
    for _ in slices:
        pass
    with contextlib.closing(sqlite3.connect(":memory:")) as found:
        found.deserialize(making.image)
        assert found.execute("SELECT count(*), max(job_id) FROM jobs").fetchone() == (50, "zuletzt")


def test_runs_and_jobs_are_in_it_with_what_a_report_asks(db):
    db.update_run(7, result=msgpack.packb({"state": "ok", "raw": b"x"}))
    found, _ = made(db)
    with contextlib.closing(found):
        assert found.execute("SELECT count(*), min(run_id), max(run_id) FROM runs").fetchone() == (500, 1, 500)
        row = found.execute(
            "SELECT job_id, slot, status, exit_code, length(error) FROM runs WHERE run_id = 7"
        ).fetchone()
        assert row == ("job-6", stored.T + 6 * stored.HOUR, "completed", 0, 200)
        jobs = found.execute("SELECT job_id, schedule, tags FROM jobs WHERE job_id = 'job-6'").fetchone()
        assert jobs == ("job-6", "0 * * * *", '["t0"]')
        assert meta(found) == {"taken": NOW, "since": NOW - snapshot.DAYS * 86_400_000, "complete": 1}


@pytest.mark.parametrize(
    ("returned", "kept", "lacks"),
    [
        ({"state": "warn"}, {"state": "warn"}, None),
        # What a rule looks at is mostly small.
        ({"counts": {"down": 2}, "devices": LARGE, "a": "a"}, {"counts": {"down": 2}, "a": "a"}, ["devices"]),
        (LARGE, None, [""]),
        ({str(number): LARGE[:200] for number in range(1000)}, None, [""]),
        ({"state": "warn", "x": LARGE * 20}, None, [""]),
    ],
    ids=range(5),
)
def test_what_a_job_returned_last_is_in_it_without_what_is_too_large_and_that_is_said(db, returned, kept, lacks):
    for run_id, result in ((461, {"state": "ok"}), (481, returned)):
        db.update_run(run_id, result=msgpack.packb(result))  # both of job-0
    found, _ = made(db)
    with contextlib.closing(found):
        row = found.execute("SELECT result_run, result, result_lacks FROM jobs WHERE job_id = 'job-0'").fetchone()
        assert [row[0], *(each if each is None else json.loads(each) for each in row[1:])] == [481, kept, lacks]


def test_large_results_are_taken_in_slices_of_their_own(db):
    for run_id in range(481, 501):
        db.update_run(run_id, result=msgpack.packb({"x": LARGE * 10}))
    found, slices = made(db)
    found.close()
    assert slices == 10 + 2 + 1  # of two jobs, of runs, and for the file


def test_what_runs_of_the_last_day_returned_is_in_it_the_newest_first_while_there_is_room(db, monkeypatch):
    monkeypatch.setattr(snapshot, "RESULTS_MAX", 2 * snapshot.RESULT_MAX)
    small, half = msgpack.packb({"changed": ["r1"]}), msgpack.packb("x" * (snapshot.RESULT_MAX - 3))
    returned = {500: small, 499: b"\xc1", 498: msgpack.packb(LARGE), 490: half, 480: half, 479: small, 475: small}
    for run_id, result in returned.items():
        db.update_run(run_id, result=result)
    found, _ = made(db)
    with contextlib.closing(found):
        rows = found.execute("SELECT run_id FROM runs WHERE result IS NOT NULL ORDER BY run_id DESC").fetchall()
        assert [run_id for (run_id,) in rows] == [500, 490, 479]
        assert json.loads(found.execute("SELECT result FROM runs WHERE run_id = 500").fetchone()[0]) == {
            "changed": ["r1"]
        }


def test_what_is_older_than_it_looks_back_is_not_in_it(db, monkeypatch):
    monkeypatch.setattr(snapshot, "DAYS", 10)
    found, _ = made(db)
    with contextlib.closing(found):
        assert found.execute("SELECT min(queued) FROM runs").fetchone()[0] == NOW - 10 * 86_400_000


@pytest.mark.parametrize(("bound", "value"), [("RUNS_MAX", 100), ("BYTES_MAX", 96 * 1024)])
def test_over_its_bound_the_newest_are_in_it_and_it_says_from_when_on(db, monkeypatch, bound, value):
    monkeypatch.setattr(snapshot, bound, value)
    monkeypatch.setattr(snapshot, "_RUNS_A_SLICE", 50)
    found, _ = made(db)
    with contextlib.closing(found):
        count, newest, oldest = found.execute("SELECT count(*), max(run_id), min(queued) FROM runs").fetchone()
        assert 0 < count < 500
        assert newest == 500
        assert (meta(found)["complete"], meta(found)["since"]) == (0, oldest)


def test_no_arguments_no_environment_and_no_secret_names_are_in_it(db):
    row = db.job_by_id("job-1")
    db.update_job(
        row.uid, given={**row.given, "environment": {"A": "sesame"}, "kwargs": {"b": "sesame"}}, hash="f" * 64
    )
    making = snapshot.Making(db)
    list(making.slices())
    assert b"sesame" not in making.image


def test_it_is_made_in_slices_of_a_bounded_number_of_rows(db, monkeypatch):
    monkeypatch.setattr(snapshot, "_RUNS_A_SLICE", 20)
    _, slices = made(db)
    assert slices == 25 + 1 + 1  # of runs, and one of jobs, and one for the file


class Taking:
    """A copy that takes as many turns as the test wants."""

    image = b"made"

    def __init__(self):
        self.done = False

    def slices(self):
        while not self.done:
            yield


@pytest.fixture
def preparing(tmp_path):
    """Attempts of which one is being prepared, what was sent to the launcher, and what has ended."""
    sent, ended, effects, taking, turns = [], [], [], Taking(), loop.Loop()
    made = attempts.Attempts(
        turns, config.Settings(), output_dir=str(tmp_path), jobs_dir=str(tmp_path), daemon_files=[], runs_as=os.geteuid,
        send=lambda message, fds: (sent.append(message), [os.close(fd) for fd in fds]), defer=effects.append,
        on_ended=lambda *what: ended.append(what), on_exceeded=lambda *_: None, on_life=lambda _: None,
        snapshot=lambda: taking,
    )  # fmt: skip
    job = model.JobConfig(id="a", command="true", grants=["history"], sandbox={"profile": "standard"})
    order = attempts.Order(
        run_id=1, attempt=1, of=1, job_uid=1, job=job, slot=None, request={}, queued=stored.T, timeout=None
    )
    made.launch(order)
    yield made, taking, turns, sent, ended, effects
    made.close(1, 1, last=True)
    turns.close()


def turn(turns, times=3):
    for _ in range(times):
        turns.call_soon(turns.stop)
        turns.run()


def test_the_attempt_is_handed_over_once_the_copy_is_made(preparing):
    _, taking, turns, sent, _, effects = preparing
    turn(turns)
    assert (sent, effects) == ([], [])
    taking.done = True
    turn(turns)
    effects.pop()()
    assert [type(message).__name__ for message in sent] == ["Launch"]


def test_an_attempt_that_is_ended_before_that_is_never_handed_over(preparing):
    made, taking, turns, sent, ended, effects = preparing
    turn(turns)
    made.end(1, 1, "cancelled", 10)
    taking.done = True
    turn(turns)
    assert (sent, effects) == ([], [])
    ((run_id, attempt, outcome, facts),) = ended
    assert (run_id, attempt, outcome.cause) == (1, 1, "cancelled")
    assert facts.error == "ended before it was started"


def test_the_name_of_the_copy_is_none_that_a_secret_can_have():
    assert handed.HISTORY.startswith(".")
