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


@as_root
def test_a_look_notices_a_step_that_nobody_has_told(alarm, steps, monkeypatch):
    alarm.look()
    assert steps == []
    reading = clock._reading()
    monkeypatch.setattr(clock, "_reading", lambda: reading._replace(wall_minus_boot=reading.wall_minus_boot + 7200))
    alarm.look()
    alarm.look()
    assert [round(step.seconds) for step in steps] == [7200]


def test_the_alarm_can_be_set_for_the_last_slot_that_a_schedule_can_have(alarm):
    alarm.set(9_899 * 366 * 86_400_000)
    assert not is_ringing(alarm)


def test_an_alarm_that_is_heard_late_is_told_once_unless_the_host_slept(monkeypatch):
    late = []
    alarm = clock.Alarm(lambda _: None, late.append)
    for slept in (0, 60):
        reading = alarm._reading
        at = clock.now_ms()
        alarm.set(at)
        assert is_ringing(alarm, 5)
        with monkeypatch.context() as patched:
            patched.setattr(clock, "now_ms", lambda at=at: at + 60_000)
            patched.setattr(
                clock, "_reading", lambda r=reading, s=slept: r._replace(boot_minus_awake=r.boot_minus_awake + s)
            )
            alarm.read()
    alarm.close()
    assert late == [60]


@pytest.mark.parametrize(
    ("step", "words", "correction"),
    [
        (clock.Stepped(0.4), "", False),
        (clock.Stepped(-90.0), "the clock was set 90.0 s back", False),
        (clock.Stepped(3 * 3600), "the clock was set 3.0 h forward", False),
        (clock.Stepped(3 * 3600 + 1), "the clock was set 3.0 h forward", True),
        (clock.Stepped(0.0, 28_800), "the host was suspended for 8.0 h", False),
        (clock.Stepped(60, 60), "the clock was set 60.0 s forward; the host was suspended for 60.0 s", False),
    ],
)
def test_a_step_is_told_in_words(step, words, correction):
    assert (str(step), step.is_correction) == (words, correction)


NOW = 1_790_000_000_000
HOUR = 3_600_000


@pytest.mark.parametrize(
    ("now", "last", "synchronised", "words"),
    [
        (NOW, None, False, None),
        (NOW, NOW - HOUR, False, None),
        (NOW, NOW + 3 * HOUR, False, None),
        (NOW, NOW + 3 * HOUR + 1, False, "it shows 2026-09-21 14:13 UTC, and 2026-09-21 17:13 UTC has been already"),
        (NOW, NOW + 3 * HOUR + 1, True, None),
        (NOW, 10 * NOW, True, None),
        (0, None, True, "it shows 1970-01-01 00:00 UTC, and this version was made in 2026; set it"),
        (-5 * HOUR, None, False, "it shows 1969-12-31"),
    ],
)
def test_a_clock_is_doubted_for_a_reason(now, last, synchronised, words):
    doubt = clock.doubt(now, last, synchronised=synchronised)
    assert (doubt or "None").startswith(str(words))


def test_a_zone_that_is_gone_is_no_reason_to_be_silent():
    assert clock.local_text(0, "Mars/Olympus") == "00:00"
