"""A reload: nothing of it holds unless all of it does, and the last signal is never the one that is forgotten."""

import deciding
import pytest

from lnmt_scheduler.supervisor import config, desired
from lnmt_scheduler.supervisor.connection import RefusedError


class Wanted:
    """In the place of desired.Desired: these jobs, and settings."""

    def __init__(self, world, *jobs):
        self._world = world
        self.jobs = list(jobs)
        self.found = config.Settings(max_concurrent_jobs=7)
        self.read = 0

    def settings(self):
        self.read += 1
        return self.found

    def plan(self, planner, settings):
        yield
        return self._world.plan(self.jobs)


class Site:
    def __init__(self, world):
        self.wanted = Wanted(world, {"id": "a", "command": "true"})
        self.taken = []
        #: What a signal has begun, driven by the tests.
        self.at_work = []
        self._bulk = world.bulk
        self.reload = desired.Reload(
            self.wanted,
            world.planner,
            world.bulk,
            self._carry_out,
            settings=config.Settings,
            configure=self.taken.append,
            in_turns=self.at_work.append,
        )

    def _carry_out(self, plan, reply, action, *, dry_run, notes, first):
        yield  # the changes are told bit by bit
        if not dry_run:
            yield from self._bulk.carry_out(plan, deciding.WHO, action, first=first)


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = deciding.World(tmp_path, monkeypatch)
    yield made
    made.close()


@pytest.fixture
def site(world):
    return Site(world)


def ids(world):
    return [row.job_id for row in world.store.jobs_page()]


def test_a_reload_takes_settings_and_jobs(world, site):
    for _ in site.reload.on_request(None, dry_run=False):
        pass
    assert (site.taken, ids(world)) == ([site.wanted.found], ["a"])


def test_a_dry_run_takes_neither(world, site):
    for _ in site.reload.on_request(None, dry_run=True):
        pass
    assert (site.taken, ids(world)) == ([], [])


def test_if_jobs_are_changed_in_between_the_settings_are_not_taken_either(world, site):
    work = site.reload.on_request(None, dry_run=False)
    next(work)
    next(work)
    world.add("x")
    with pytest.raises(RefusedError, match="changed in between"):
        next(work)
    assert (site.taken, ids(world)) == ([], ["x"])


def test_a_signal_during_the_reload_of_another_is_heard(world, site, capfd):
    site.reload.on_signal()
    (work,) = site.at_work
    next(work)
    site.wanted.jobs.append({"id": "b", "command": "true"})
    site.reload.on_signal()
    assert len(site.at_work) == 1, "one after the other"
    for _ in work:
        pass
    assert (site.wanted.read, ids(world)) == (2, ["a", "b"])
    site.wanted.jobs = [{"id": "c"}]
    site.reload.on_signal()
    for _ in site.at_work[-1]:
        pass
    assert "not reloaded: " in capfd.readouterr().err
    assert ids(world) == ["a", "b"]
