"""Retention on a real store, with a real loop that is turned until it would rest."""

import deciding
import pytest

from lnmt_scheduler.supervisor import config, housekeeping, loop, output


@pytest.fixture
def keep(world, tmp_path):
    """Run one round of retention with these settings."""
    events = loop.Loop()
    kept = {}
    folder = str(tmp_path / "output")

    def round_of(**settings):
        keeper = housekeeping.Housekeeping(world.store, events, lambda: config.Settings(**settings), output_dir=folder)
        keeper.start()
        while not events._timers:  # it rests until the next hour
            events.turn()
        events._timers.clear()
        world.store.commit()

    def make_run(job_id, size=0):
        run_id = world.start(job_id)
        path = output.path_of(folder, run_id, world.store.run(run_id).queued)
        written = output.Output(path, 1 << 20)
        written.append(b"x" * size, output.STDOUT, world.now)
        world.end(job_id)
        world.store.update_run(run_id, output_stored=written.finish())
        kept[run_id] = path
        return run_id

    round_of.make_run = make_run
    round_of.has_output = lambda run_id: b"x" in _contents(kept[run_id])
    yield round_of
    events.close()


def _contents(path):
    try:
        return output.read_stored(path, "output", 0, 100)[0]
    except FileNotFoundError:
        return b""


def ids(world, job_id):
    return [row.run_id for row in world.rows(job_id)]


def test_what_is_too_old_goes_with_its_output_and_the_newest_run_stays(world, keep):
    world.add("a", None)
    old = [keep.make_run("a", 10) for _ in range(3)]
    world.to("2026-03-05 12:00")
    keep(retention_age=86400)
    assert ids(world, "a") == old[-1:]
    assert [keep.has_output(run_id) for run_id in old] == [False, False, True]
    new = keep.make_run("a", 10)
    keep(retention_age=86400)
    assert ids(world, "a") == [new]


def test_of_each_job_so_many_runs_stay(world, keep):
    for name in ("a", "b"):
        world.add(name, None)
    runs = {name: [keep.make_run(name, 5) for _ in range(4)] for name in ("a", "b")}
    keep(retention_runs=2)
    for name in ("a", "b"):
        assert ids(world, name) == runs[name][-2:]
        assert [keep.has_output(run_id) for run_id in runs[name]] == [False, False, True, True]


def test_of_too_much_output_the_oldest_goes_and_its_rows_stay(world, keep):
    world.add("a", None)
    runs = [keep.make_run("a", 1000) for _ in range(5)]
    keep(retention_size=2500)
    assert ids(world, "a") == runs
    assert [keep.has_output(run_id) for run_id in runs] == [False, False, False, True, True]
    assert world.store.output_total() == 2000
    keep(retention_size=2500)
    assert keep.has_output(runs[3])


def test_a_round_of_many_batches_comes_to_its_end(world, keep, monkeypatch):
    monkeypatch.setattr(housekeeping, "BATCH", 3)
    world.add("a", None)
    runs = [keep.make_run("a", 100) for _ in range(20)]
    keep(retention_runs=15)
    assert ids(world, "a") == runs[5:]
    keep(retention_size=350)
    assert [keep.has_output(run_id) for run_id in runs[5:]] == [False] * 12 + [True] * 3


def test_an_open_run_stays_however_old(world, keep):
    world.add("a", None)
    run_id = world.start("a")
    world.now = deciding.ms("2026-04-05 12:00")
    keep(retention_age=86400)
    assert ids(world, "a") == [run_id]


def test_the_audit_goes_when_it_is_old_in_batches(world, keep, monkeypatch):
    monkeypatch.setattr(housekeeping, "BATCH", 3)
    for _ in range(10):
        world.add("a", None)
        world.registry.remove("a", deciding.WHO, purge=False)
    assert len(world.store.audit_page()) == 20
    world.to("2026-03-05 12:00")
    world.add("a", None)
    keep(retention_audit=86400)
    assert [(entry.action, entry.target) for entry in world.store.audit_page()] == [("add", "a")]
