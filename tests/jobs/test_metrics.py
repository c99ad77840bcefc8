"""System metrics: what is made of two readings, and a real one held against /proc and statvfs."""

import json
import os
import sqlite3
from dataclasses import replace
from pathlib import Path

import pytest

from lnmt_scheduler.jobs import metrics, mounts, polling, pressure

DISK = mounts.Usage(path="/srv", total=1000, used=600, free=300, inodes=10, inodes_free=5)
COUNTERS = {
    "cpu.total": 100_000,
    "cpu.idle": 60_000,
    **{f"pressure.{each}.{kind}": 5_000_000 for each in pressure.RESOURCES for kind in ("some", "full")},
    **{f"interface.eth0.{each}": 1000 for each in ("received", "sent", "errors", "drops")},
    "mount./srv.used": 600,
}
NOW = metrics.Reading(
    at=1_000_000,
    boot="one",
    counters=COUNTERS,
    load=[1.0, 2.0, 3.0],
    memory_percent=50.0,
    memory_available=4096,
    swap_percent=0.0,
    file_systems=[DISK],
    interfaces=["eth0"],
)


def later(**counters: int) -> metrics.Reading:
    """Ten seconds later."""
    named = {name.replace("__", "."): value for name, value in counters.items()}
    return replace(NOW, at=NOW.at + 10_000, counters={**COUNTERS, **named})


LAST = metrics.Last(at=NOW.at, boot="one", counters=COUNTERS)


def test_a_first_sample_knows_nothing_of_before():
    found = metrics.compare(None, NOW)
    assert (found["seconds"], found["cpu_percent"]) == (None, None)
    assert found["mounts"]["/srv"] == {
        "total": 1000, "used": 600, "free": 300, "percent": 66.67, "inodes_percent": 50.0, "grown": None,
    }  # fmt: skip
    assert set(found["interfaces"]["eth0"].values()) == {None}


def test_what_was_added_is_told_by_the_time_that_it_took():
    found = metrics.compare(
        LAST,
        later(cpu__total=120_000, cpu__idle=65_000, pressure__io__some=7_500_000, interface__eth0__received=51_000),
    )
    assert found["seconds"] == 10
    assert found["cpu_percent"] == 75
    assert found["pressure"]["io"] == {"some": 25, "full": 0}
    assert found["interfaces"]["eth0"] == {"received_per_second": 5000, "sent_per_second": 0, "errors": 0, "drops": 0}


def test_a_boot_and_a_counter_that_went_back_are_no_flood():
    found = metrics.compare(replace_boot(LAST), later(interface__eth0__received=5))
    assert (found["cpu_percent"], found["interfaces"]["eth0"]["received_per_second"]) == (None, None)
    assert found["mounts"]["/srv"]["grown"] == 0
    found = metrics.compare(LAST, later(interface__eth0__received=5))
    assert found["interfaces"]["eth0"]["received_per_second"] is None
    assert found["interfaces"]["eth0"]["sent_per_second"] == 0


def replace_boot(last: metrics.Last) -> metrics.Last:
    return replace(last, boot="another")


def test_a_clock_that_was_set_back_makes_no_rates():
    found = metrics.compare(replace(LAST, at=NOW.at + 60_000), later(cpu__total=120_000))
    assert (found["seconds"], found["cpu_percent"]) == (None, None)


def test_a_file_that_was_removed_is_told_as_less():
    smaller = replace(later(), file_systems=[replace(DISK, used=100)])
    assert metrics.compare(LAST, smaller)["mounts"]["/srv"]["grown"] == -500


def test_an_interface_and_a_mount_that_are_new_have_no_before():
    new = replace(later(), interfaces=["eth0", "eth1"], counters={
        **COUNTERS, **{f"interface.eth1.{each}": 7 for each in ("received", "sent", "errors", "drops")},
    })  # fmt: skip
    assert metrics.compare(LAST, new)["interfaces"]["eth1"]["received_per_second"] is None


def test_a_real_reading_says_what_the_host_says(tmp_path):
    host = os.statvfs("/")
    found = metrics.sample(str(tmp_path), 30, [str(tmp_path)])
    assert found["mounts"]["/"]["total"] == host.f_blocks * host.f_frsize
    assert str(tmp_path) in found["mounts"]
    again = metrics.sample(str(tmp_path), 30)
    assert again["cpu_percent"] is None or 0 <= again["cpu_percent"] <= 100
    for name in again["interfaces"]:
        shown = Path("/proc/net/dev").read_text()
        assert f"{name}:" in shown
    if os.path.exists("/proc/pressure/cpu"):
        assert again["pressure"]["cpu"]["some"] is not None


def test_samples_become_a_series_and_old_ones_go_with_their_names(tmp_path, monkeypatch):
    readings = iter([NOW, later(), replace(later(), at=NOW.at + 86_400_000, interfaces=["eth0"], file_systems=[])])
    monkeypatch.setattr(metrics, "read", lambda _: next(readings))
    counts = [metrics.sample(str(tmp_path), 0.5)["points"] for _ in range(3)]
    assert counts[0] < counts[1]
    with sqlite3.connect(tmp_path / "metrics.db") as file:
        names = {name for (name,) in file.execute("SELECT name FROM series")}
        times = {at for (at,) in file.execute("SELECT at FROM points")}
    assert times == {NOW.at + 86_400_000}
    assert "load.0" in names
    assert not any(name.startswith("mounts.") for name in names)


def test_every_number_of_a_result_has_a_name():
    found = metrics.series(metrics.compare(LAST, later()))
    assert found["mounts./srv.used"] == 600
    assert (found["load.0"], found["load.2"]) == (1.0, 3.0)
    assert "at" not in found
    assert json.loads(json.dumps(found)) == found


def test_pressure_that_a_kernel_does_not_tell_is_left_out(tmp_path):
    assert pressure.read("cpu", str(tmp_path)) is None
    (tmp_path / "io").write_text(
        "some avg10=1.50 avg60=0.00 avg300=2.25 total=77\nfull avg10=0.00 avg60=0.00 avg300=0.00 total=5\n"
    )
    assert pressure.read("io", str(tmp_path)) == {
        "some": {"avg10": 1.5, "avg60": 0, "avg300": 2.25, "total": 77},
        "full": {"avg10": 0, "avg60": 0, "avg300": 0, "total": 5},
    }


@pytest.mark.parametrize("wrong", [{"keep_days": 0}, {"mounts": ["/nowhere/at/all"]}, {"mounts": ["/"] * 101}])
def test_arguments_that_make_no_sense_are_one_line(tmp_path, capsys, monkeypatch, wrong):
    monkeypatch.setenv("LNMT_STATE_DIR", str(tmp_path))
    with pytest.raises(SystemExit) as ended:
        polling.system_metrics(**wrong)
    assert ended.value.code == 78
    assert capsys.readouterr().err.count("\n") == 1
