"""The directory of versions: which is current, which is kept, and when there is no way back."""

import os
import subprocess
import sys

import harness
import pytest
import versions


@pytest.fixture
def home(tmp_path):
    for name in ("1", "2", "3", "4", ".new-left-by-a-power-cut"):
        (tmp_path / name / "supervisor").mkdir(parents=True)
        (tmp_path / name / "supervisor/schema_001.sql").touch()
    return tmp_path


def links(home):
    return versions.named(home, "current"), versions.named(home, "previous")


def test_a_switch_keeps_the_one_before(home):
    versions.switch(home, "1")
    assert links(home) == ("1", None)
    versions.switch(home, "2")
    versions.switch(home, "2")
    assert links(home) == ("2", "1")


def test_a_link_is_replaced_in_one_step(home):
    versions.point(home, "current", "1")
    held = os.open(home, os.O_PATH)
    try:
        (home / ".current.new").symlink_to("left by a power cut")
        versions.point(home, "current", "2")
        assert os.readlink("current", dir_fd=held) == "2"
    finally:
        os.close(held)
    assert not (home / ".current.new").is_symlink()


def test_the_way_back_goes_both_ways(home):
    versions.switch(home, "1")
    versions.switch(home, "2")
    assert versions.roll_back(home, force=False) == ("2", "1")
    assert links(home) == ("1", "2")
    assert versions.roll_back(home, force=False) == ("1", "2")


def test_a_link_that_leads_nowhere_names_nothing(home):
    versions.point(home, "current", "2")
    versions.point(home, "previous", "gone")
    with pytest.raises(versions.InstallError, match="no version before 2"):
        versions.roll_back(home, force=True)


def test_there_is_no_way_back_from_nothing(home):
    with pytest.raises(versions.InstallError, match="nothing is installed"):
        versions.roll_back(home, force=True)


def test_a_rollback_below_the_schema_of_the_store_is_refused(home):
    (home / "2/supervisor/schema_002.sql").touch()
    versions.switch(home, "1")
    versions.switch(home, "2")
    with pytest.raises(versions.InstallError, match=r"lnmt\.db\.before-2 .*--force"):
        versions.roll_back(home, force=False)
    assert links(home) == ("2", "1")
    assert versions.roll_back(home, force=True) == ("2", "1")
    assert versions.roll_back(home, force=False) == ("1", "2")  # upwards there is nothing to refuse


def test_two_versions_are_kept_and_those_that_a_process_runs_from(home):
    versions.switch(home, "2")
    versions.switch(home, "3")
    (home / "1/python").symlink_to(sys.executable)
    with subprocess.Popen([home / "1/python", "-I", "-c", "input()"], stdin=subprocess.PIPE) as running:
        harness.wait_for(lambda: versions.users(home / "1") == [running.pid], what="its command line")
        versions.prune(home)
        assert {path.name for path in home.iterdir()} == {"1", "2", "3", "current", "previous"}
        running.communicate(b"\n")
    versions.prune(home)
    assert {path.name for path in home.iterdir()} == {"2", "3", "current", "previous"}


def test_one_at_a_time(home):
    with versions.locked(home), pytest.raises(versions.InstallError, match="another"), versions.locked(home):
        pytest.fail("two at a time")
