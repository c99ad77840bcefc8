import os
import select
import time

import pytest

from lnmt_scheduler.supervisor import clock

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root may set the clock")


@pytest.fixture
def steps():
    return []


@pytest.fixture
def alarm(steps):
    made = clock.Alarm(steps.append)
    yield made
    made.close()


def set_the_clock_to_what_it_says():
    """No time passes or comes back, and the kernel tells every timer that asked for it that the clock was set."""
    try:
        time.clock_settime(time.CLOCK_REALTIME, time.time())
    except PermissionError:
        pytest.skip("root without CAP_SYS_TIME may not set the clock")


def is_ringing(alarm, seconds=0.0):
    return bool(select.select([alarm.fd], [], [], seconds)[0])


def test_now_is_wall_time_in_milliseconds():
    before = time.time()
    now = clock.now_ms()
    assert before - 0.002 <= now / 1000 <= time.time() + 0.002


def test_a_moment_is_called_by_its_hour_and_minute_in_the_zone():
    assert clock.local_text(0, "UTC") == "00:00"
    assert clock.local_text(0, "Asia/Tokyo") == "09:00"


def test_the_boot_id_stays():
    assert clock.boot_id() == clock.boot_id() != ""


def test_the_alarm_rings_when_it_is_time_and_not_before(alarm, steps):
    at = clock.now_ms() + 60
    alarm.set(at)
    assert not is_ringing(alarm)
    assert is_ringing(alarm, 5)
    assert clock.now_ms() >= at
    alarm.read()
    assert not is_ringing(alarm)
    assert steps == []


def test_the_same_time_can_be_set_again_after_it_rang(alarm):
    at = clock.now_ms()
    for _ in range(2):
        alarm.set(at)
        assert is_ringing(alarm, 5)
        alarm.read()


def test_the_alarm_can_be_put_off(alarm):
    alarm.set(clock.now_ms() + 20)
    alarm.set(None)
    assert not is_ringing(alarm, 0.05)


def test_a_read_too_many_does_no_harm(alarm, steps):
    alarm.read()
    assert steps == []


@as_root
@pytest.mark.parametrize("at", [None, 3_600_000], ids=["nothing is due", "something is due"])
def test_a_set_clock_is_noticed_at_once(alarm, steps, at):
    alarm.set(None if at is None else clock.now_ms() + at)
    set_the_clock_to_what_it_says()
    assert is_ringing(alarm)
    alarm.read()
    assert [abs(step.seconds) < 0.5 for step in steps] == [True]
    assert not is_ringing(alarm)


@as_root
def test_a_clock_that_is_set_just_before_the_alarm_is_noticed_too(alarm, steps):
    set_the_clock_to_what_it_says()
    at = clock.now_ms() + 30
    alarm.set(at)
    assert len(steps) == 1
    assert is_ringing(alarm, 5)
    assert clock.now_ms() >= at
