"""Another version of croniter that names other days: told, job by job, until somebody has seen it."""

import importlib.metadata
import subprocess
import sys

import deciding
import pytest

from lnmt_scheduler.supervisor import almanac, cron, journal


@pytest.fixture
def log(monkeypatch):
    lines = []
    monkeypatch.setattr(journal, "warning", lines.append)
    return lines


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = deciding.World(tmp_path, monkeypatch)
    yield made
    made.close()


def opened(world):
    return almanac.Almanac(world.store, world.catalog, world.runs.slots)


def check(world, version):
    checked = opened(world)
    for _ in checked.check(version):
        pass
    world.settle()
    return checked


def days_are_others(monkeypatch):
    """A croniter that takes the second Tuesday for the second Monday."""
    real = cron._first_day.__wrapped__
    monkeypatch.setattr(cron, "_first_day", lambda date, day: real(date.replace("1#2", "2#2"), day))
    cron._parse.cache_clear()


@pytest.fixture(autouse=True)
def _anew():
    yield
    cron._parse.cache_clear()


def test_the_version_is_that_of_the_installed_package():
    assert almanac.installed() == importlib.metadata.version("croniter")


def test_a_start_does_not_import_what_reads_metadata():
    look = (
        "import sys, lnmt_scheduler.supervisor.daemon as d; d.almanac.installed();"
        " sys.exit('importlib.metadata' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-I", "-c", look]).returncode == 0


def test_the_same_version_is_asked_nothing(world, monkeypatch):
    world.add("second_monday", "0 3 * * 1#2")
    check(world, "6.0")
    days_are_others(monkeypatch)
    assert check(world, "6.0").problems() == []


def test_another_version_that_says_the_same_is_nobodys_matter(world, log):
    world.add("second_monday", "0 3 * * 1#2")
    check(world, "6.0")
    assert check(world, "7.0").problems() == []
    assert log == []


def test_what_it_moves_is_told_and_holds_until_it_was_seen(world, monkeypatch, log):
    world.add("second_monday", "0 3 * * 1#2")
    world.add("daily", "0 3 * * *")
    check(world, "6.0")
    days_are_others(monkeypatch)
    world.restart()
    checked = check(world, "7.0")
    words = "next run 2026-03-10T03:00:00.000Z, where it was 2026-03-09T03:00:00.000Z"
    assert log[-1] == f"job second_monday: croniter 7.0, before 6.0: {words}"
    assert checked.problems() == [
        f"another version of croniter names other times for 1 jobs: second_monday: {words}; once seen: schedctl reload"
    ]
    assert deciding.short(world.store.job(world.uid("second_monday")).next_slot) == "2026-03-10 03:00"
    assert check(world, "7.0").problems() == checked.problems()
    checked.forget()
    assert check(world, "7.0").problems() == []


def test_a_job_that_is_changed_meanwhile_is_not_taken_for_moved(world, monkeypatch):
    world.add("a", "0 3 * * 1#2")
    world.add("b", "0 3 * * 1#2")
    check(world, "6.0")
    days_are_others(monkeypatch)
    world.restart()
    checked = opened(world)
    work = checked.check("7.0")
    next(work)
    world.now += 1
    world.registry.edit("b", {"schedule": "0 4 * * *"}, (), deciding.WHO)
    for _ in work:
        pass
    assert [text.count("next run") for text in checked.problems()] == [1]
