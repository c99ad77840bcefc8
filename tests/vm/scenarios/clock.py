"""A host whose clock is set, and one that sleeps, under a running daemon.

A daemon of an hourly job and one that is due each second; the clock is set as an administrator does it, by date(1), and each
test begins from where the one before has left it.
"""

import datetime as dt
import itertools
import re
import subprocess
import time
from pathlib import Path

import harness
import pytest
from vm import scenario, unit

SCENARIO = scenario.Scenario(processors=1)
HOUR = 3600
TRUSTED = {"sandbox": {"profile": "trusted"}, "max_retries": 0}


@pytest.fixture(scope="module")
def daemon():
    """It starts at half past some hour, so that no hourly slot comes by itself."""
    set_clock(dt.datetime.now(dt.UTC).replace(minute=30, second=0).timestamp())
    with unit.running(unit.ROOT_UNIT) as made:
        made.add(id="hourly", command="true", schedule="0 * * * *", **TRUSTED)
        made.add(id="beat", command="true", schedule="* * * * * *", **TRUSTED)
        made.add(id="sleeper", command="sleep 600", timeout=4, kill_grace=0, **TRUSTED)
        harness.wait_for(lambda: beats(made), what="a beat")
        yield made


def set_clock(to):
    subprocess.run(["date", "-s", f"@{to:.3f}"], check=True, stdout=subprocess.DEVNULL)


def step(daemon, seconds):
    """Set the clock; the time before it, and the slots of `hourly` decided since, once `beat` goes on, each with its status."""
    before, known = time.time(), {row["run_id"] for row in daemon.history(job_id="hourly")}
    set_clock(before + seconds)
    harness.wait_for(lambda: newest_beat(daemon) > before + seconds, what="a beat after the step")
    rows = [row for row in daemon.history(job_id="hourly") if row["run_id"] not in known]
    return before, {row["slot"] // 1000: row["reason"] or row["status"] for row in reversed(rows)}


def told(daemon):
    """By how many seconds the clock was set, as the daemon has last said; negative back."""
    number, measure, way = re.findall(r"the clock was set ([0-9.]+) (s|min|h) (forward|back)", daemon.log)[-1]
    return float(number) * {"s": 1, "min": 60, "h": HOUR}[measure] * (1 if way == "forward" else -1)


def beats(daemon):
    return [row for row in daemon.history(job_id="beat") if row["status"] == "completed"]


def newest_beat(daemon):
    return max(row["start_time"] for row in beats(daemon)) / 1000


def hours_between(before, after):
    return list(range((int(before) // HOUR + 1) * HOUR, int(after) + 1, HOUR))


def assert_in_order(daemon, job):
    """Later runs are of later slots: none was decided again."""
    slots = [row["slot"] for row in sorted(daemon.history(job_id=job), key=lambda row: row["run_id"])]
    assert all(one < other for one, other in itertools.pairwise(slots))


def test_two_hours_forward_are_slots_missed_of_which_the_last_runs(daemon):
    before, decided = step(daemon, 2 * HOUR)
    first, last = hours_between(before, before + 2 * HOUR)
    assert decided.keys() == {first, last}
    assert decided[first] in ("missed", "coalesced")
    assert decided[last] in ("completed", "running")
    assert told(daemon) == pytest.approx(2 * HOUR, rel=0.01)


def test_five_hours_forward_are_a_correction_and_nothing_was_missed(daemon):
    _, decided = step(daemon, 5 * HOUR)
    assert decided == {}
    assert told(daemon) == pytest.approx(5 * HOUR, rel=0.01)


def test_what_was_decided_does_not_run_again_when_the_clock_goes_back(daemon):
    last = newest_beat(daemon)
    set_clock(time.time() - 12)
    # Twelve seconds come a second time.
    harness.wait_for(lambda: newest_beat(daemon) > last + 1, what="a beat beyond the last one")
    assert told(daemon) == pytest.approx(-12, abs=1)
    assert_in_order(daemon, "beat")


def test_hours_back_repeat_no_slot_either(daemon):
    before, known = time.time(), len(daemon.history(job_id="hourly"))
    set_clock(before - 2 * HOUR)
    harness.wait_for(lambda: told(daemon) == pytest.approx(-2 * HOUR, rel=0.01), what="the step to be seen")
    # Over the hours that it has decided on the way here.
    set_clock(before - HOUR)
    set_clock(before)
    harness.wait_for(lambda: newest_beat(daemon) > before + 1, what="another beat")
    assert len(daemon.history(job_id="hourly")) == known
    assert_in_order(daemon, "hourly")


def test_time_limits_do_not_ask_the_clock(daemon):
    began = time.monotonic()
    run_id = daemon.run("sleeper")
    set_clock(time.time() + HOUR / 2)
    set_clock(time.time() - HOUR / 2)
    assert daemon.wait(run_id)["reason"] == "timeout"
    assert time.monotonic() - began > 3.5


def test_a_year_that_cannot_be_holds_the_schedule_until_it_is_put_right(daemon):
    right = time.time() + HOUR  # beyond all that was decided on the way here
    set_clock(HOUR)
    harness.wait_for(lambda: daemon.status().get("clock"), what="the doubt")
    assert "no slot is decided, because the clock cannot be right" in daemon.log
    set_clock(right)
    harness.wait_for(lambda: not daemon.status().get("clock"), what="the end of the doubt")
    last = newest_beat(daemon)
    harness.wait_for(lambda: newest_beat(daemon) > last, what="another beat")
    assert_in_order(daemon, "beat")


@pytest.mark.skipif(
    not Path("/sys/class/rtc/rtc0/wakealarm").exists(), reason="suspend: a clock that wakes the machine"
)
def test_what_came_while_the_host_slept_was_missed_and_time_limits_stood_still(daemon):
    harness.wait_for(lambda: beats(daemon), what="a beat")
    before = time.time()
    slept = subprocess.run(["rtcwake", "-m", "mem", "-s", "10"], capture_output=True, text=True, timeout=100)
    assert slept.returncode == 0, slept
    harness.wait_for(lambda: newest_beat(daemon) > before + 9, what="a beat after the sleep")
    assert "the host was suspended for" in daemon.log
    slots = {row["slot"] // 1000 for row in daemon.history(job_id="beat")}
    assert set(range(int(before) + 1, int(before) + 9)) <= slots
    assert_in_order(daemon, "beat")
