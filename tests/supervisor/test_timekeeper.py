"""Zones that change under a daemon, and the time that it remembers; clocks that are set have histories of their own."""

import shutil
import zoneinfo
from pathlib import Path

import deciding
import pytest

from lnmt_scheduler.supervisor import clock, cron, rows, views, zonefile

BERLIN, TOKYO = "Europe/Berlin", "Asia/Tokyo"


class Zones:
    """A folder of zone files in place of the host's."""

    def __init__(self, folder: Path):
        self.folder = folder
        self._from = next(Path(path) for path in zoneinfo.TZPATH if (Path(path) / BERLIN).exists())
        for name in ("UTC", BERLIN, TOKYO):
            self.put(name, name)

    def put(self, name, content):
        """A new tzdata, in which this zone is what another one was."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(self._from / content, path)

    def remove(self, name):
        (self.folder / name).unlink()


@pytest.fixture
def zones(tmp_path):
    made = Zones(tmp_path / "zoneinfo")
    before = zoneinfo.TZPATH
    zoneinfo.reset_tzpath(to=[str(made.folder)])
    cron.forget_zones()
    yield made
    zoneinfo.reset_tzpath(to=before)
    cron.forget_zones()


@pytest.fixture
def no_package(monkeypatch):
    """The package tzdata, which zoneinfo falls back to, is not there."""

    def missing(name):
        raise ModuleNotFoundError(name)

    monkeypatch.setattr("importlib.resources.files", missing)
    monkeypatch.setattr("importlib.resources.open_binary", missing)


def reload(world):
    world.time.on_reload()
    world.runs.tick()
    world.settle()


def next_of(world, job_id):
    at = world.store.job(world.uid(job_id)).next_slot
    return None if at is None else deciding.short(at)


def test_a_zone_that_is_replaced_counts_from_the_next_reload_on(zones, world):
    world.add("berlin", "0 14 * * *", timezone=BERLIN)
    world.add("tokyo", "0 23 * * *", timezone=TOKYO)
    assert (next_of(world, "berlin"), next_of(world, "tokyo")) == ("13:00", "14:00")
    zones.put(BERLIN, TOKYO)
    assert next_of(world, "berlin") == "13:00"
    reload(world)
    assert (next_of(world, "berlin"), next_of(world, "tokyo")) == ("2026-03-03 05:00", "14:00")
    world.to("2026-03-03 05:00")
    assert world.told("berlin") == [("2026-03-03 05:00", "running")]


def test_a_slot_that_the_new_zone_has_had_already_is_caught_up(zones, world):
    world.add("a", "45 14 * * *", timezone=BERLIN)
    world.to("13:00")
    zones.put(BERLIN, "Europe/Athens")
    reload(world)
    assert world.told("a") == [("12:45", "running")]
    assert world.row("a").trigger == "catch_up"
    assert next_of(world, "a") == "2026-03-03 12:45"


def test_a_zone_that_was_replaced_while_the_daemon_was_down_counts_from_its_start(zones, world):
    world.add("a", "0 14 * * *", timezone=BERLIN)
    zones.put(BERLIN, TOKYO)
    cron.forget_zones()
    world.restart("12:10")
    assert next_of(world, "a") == "2026-03-03 05:00"


def test_zones_are_looked_at_once_a_day_when_the_loop_turns(zones, world, monkeypatch):
    world.add("a", "0 14 * * *", timezone=BERLIN)
    zones.put(BERLIN, TOKYO)
    world.settle()
    assert next_of(world, "a") == "13:00"
    now = clock.monotonic()
    monkeypatch.setattr(clock, "monotonic", lambda: now + 86_401)
    world.settle()
    world.settle()
    assert next_of(world, "a") == "2026-03-03 05:00"


def test_nothing_is_looked_up_again_while_no_zone_has_changed(zones, world):
    world.add("a", "0 14 * * *", timezone=BERLIN)
    kept = world.catalog.get(world.uid("a"))
    reload(world)
    assert world.catalog.get(world.uid("a")) is kept


@pytest.mark.usefixtures("no_package")
def test_a_job_whose_zone_is_gone_is_out_of_schedule_and_the_others_go_on(zones, world, capfd):
    uid = world.add("a", "0 * * * *", timezone=BERLIN)
    world.add("b", "0 * * * *", timezone=TOKYO)
    zones.remove(BERLIN)
    reload(world)
    assert (next_of(world, "a"), next_of(world, "b")) == (None, "13:00")
    assert "job a is out of schedule: timezone 'Europe/Berlin': not known" in capfd.readouterr().err
    assert "not known" in world.catalog.get(uid).problem
    world.to("13:00")
    assert (world.told("a"), world.told("b")) == ([], [("13:00", "running")])
    reload(world)
    assert capfd.readouterr().err == ""  # said once
    world.end("b")

    world.restart("13:30")
    assert (next_of(world, "a"), next_of(world, "b")) == (None, "14:00")
    world.to("15:00")
    assert world.told("a") == []

    zones.put(BERLIN, BERLIN)
    reload(world)
    assert world.told("a") == [(slot, "quarantined") for slot in ("13:00", "14:00", "15:00")]
    world.to("16:00")
    assert world.told("a")[-1] == ("16:00", "running")


@pytest.mark.usefixtures("no_package")
def test_a_zone_that_went_while_the_daemon_was_down_stops_no_start(zones, world):
    world.add("a", "0 * * * *", timezone=BERLIN)
    world.add("parent", "0 * * * *", timezone=BERLIN)
    world.add("b", "0 * * * *", dependencies=["parent"])
    zones.remove(BERLIN)
    cron.forget_zones()
    world.restart("13:10")
    assert (next_of(world, "a"), next_of(world, "b")) == (None, "14:00")
    assert world.told("b") == [("13:00", "pending")]
    world.start("a")
    assert world.told("a") == [(None, "running")]


def test_a_view_says_why_a_job_is_out_of_schedule(world):
    uid = world.add("a")
    view = views.job_view(rows.as_map(world.store.job(uid)), quarantined="its zone is gone")
    assert views.job_json(view)["quarantined"] == "its zone is gone"


def test_the_digest_of_a_zone_is_of_what_its_file_says(zones):
    before = zonefile.digest(BERLIN)
    assert before is not None
    zones.put(BERLIN, TOKYO)
    assert zonefile.digest(BERLIN) == zonefile.digest(TOKYO) != before
    assert zonefile.digest("Mars/Olympus") is None


def test_the_time_that_was_seen_is_written_down_at_most_once_a_minute_and_never_for_itself(world):
    def seen():
        return int(world.store.meta_get("clock"))

    world.add("a", "@every 1s")
    first = seen()
    world.to("12:01:20")
    assert seen() == first
    world.to("12:01:40")
    assert seen() > first
    world.registry.enable("a", deciding.WHO, on=False)
    world.settle()
    before = seen()
    world.to("18:00")
    world.settle()
    assert seen() == before


def test_one_second_of_a_boot_in_1970_is_no_reason_to_lose_a_reboot_job(world, monkeypatch):
    world.add("a", "@reboot")
    for boot in ("boot-2", "boot-3"):
        monkeypatch.setattr(deciding, "BOOT", boot)
        world.restart("1970-01-01 00:00:20")
        world.end("a")
    assert world.told("a") == [(f"1970-01-01 00:00:{second}", "completed") for second in (20, 21)]
