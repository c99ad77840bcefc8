import pytest

from lnmt_scheduler.supervisor import config, in_force, store

DOCUMENT = {"max_concurrent_jobs": 4, "reserved_slots": 2, "aging": "5m", "pools": {"disk": 1}, "result_limit": "2M"}


@pytest.fixture
def history(tmp_path):
    opened = store.Store.open(str(tmp_path / "scheduler.db"))
    yield opened
    opened.close()


def test_what_was_kept_is_what_held(history):
    assert (in_force.kept(history, "C"), in_force.kept_zone(history)) == (config.Settings(), None)
    settings = config.parse(DOCUMENT, "C")
    in_force.keep(history, settings)
    in_force.keep_zone(history, "Asia/Tokyo")
    assert (in_force.kept(history, "C"), in_force.kept_zone(history)) == (settings, "Asia/Tokyo")
    in_force.keep(history, config.Settings())
    assert in_force.kept(history, "C") == config.Settings()


def test_what_a_daemon_tells_goes_before_what_a_file_says(history):
    in_force.keep_zone(history, "Asia/Tokyo")
    told = in_force.told(history, config.parse(DOCUMENT, "C"))
    assert told == {
        "zone": "Asia/Tokyo", "max_concurrent_jobs": 4, "reserved_slots": 2, "aging": 300, "pools": {"disk": 1},
    }  # fmt: skip
    file = config.parse({"timezone": "UTC", "result_limit": "3M", "pools": {"other": 1}}, "C")
    taken = in_force.as_told(file, told)
    assert (taken.timezone, taken.pools, taken.aging) == ("Asia/Tokyo", {"disk": 1}, 300)
    assert (taken.max_concurrent_jobs, taken.reserved_slots, taken.result_limit) == (4, 2, file.result_limit)


def test_a_daemon_that_tells_nothing_leaves_the_file_as_it_is():
    file = config.parse({"timezone": "UTC", "max_concurrent_jobs": 3}, "C")
    assert in_force.as_told(file, {"store": "full"}) == file
