import zoneinfo
from datetime import datetime

import pytest

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import cron, forecast

DAY = 86_400_000


def ms(text, zone="UTC"):
    return int(datetime.fromisoformat(text).replace(tzinfo=zoneinfo.ZoneInfo(zone)).timestamp() * 1000)


def subject(job_id, schedule, duration=60.0, **keys):
    job = model.JobConfig(job_id, command="true", schedule=schedule, **keys)
    return forecast.Subject(config=job, schedule=cron.parse(schedule, "UTC", job_id), duration=duration)


# Fires


def test_fires_come_in_order_of_time_and_the_end_is_not_among_them():
    schedules = [cron.parse(text, "UTC", "job") for text in ("0 */2 * * *", "0 3 * * *")]
    found = forecast.fires(schedules, ms("2026-03-02T02:00"), ms("2026-03-02T06:00"))
    assert [(each.number, each.slot) for each in found.found] == [
        (0, ms("2026-03-02T02:00")), (1, ms("2026-03-02T03:00")), (0, ms("2026-03-02T04:00")),
    ]  # fmt: skip
    assert found.until == ms("2026-03-02T06:00")


def test_what_is_too_much_is_cut_between_two_seconds():
    schedules = [cron.parse("* * * * *", "UTC", "job")] * 3
    found = forecast.fires(schedules, 0, DAY, limit=10)
    assert [each.slot for each in found.found] == [0, 0, 0, 60_000, 60_000, 60_000, 120_000, 120_000, 120_000]
    assert found.until == 180_000
    # One second that holds more than the limit is cut all the same.
    assert len(forecast.fires(schedules, 0, DAY, limit=2).found) == 2


@pytest.mark.parametrize(
    ("text", "after", "remarks"),
    [
        ("30 2 * * *", "2026-03-28T12:00", ["02:30 does not exist that day: right after the clock was put forward"]),
        # Its own time, though it is the first second after the leap.
        ("0 3 * * *", "2026-03-28T12:00", [None]),
        ("*/30 * * * *", "2026-03-29T01:00", [None, None]),
        ("30 2 * * *", "2026-10-24T12:00", ["02:30 comes twice that day: the first time"]),
        (
            "30 * * * *",
            "2026-10-25T01:00",
            [None, "02:30 comes twice that day: the first time", "02:30 comes twice that day: the second time", None],
        ),
        ("@every 30m", "2026-10-25T01:50", [None, None]),
        ("0 4 * * *", "2026-03-28T12:00", [None]),
    ],
)
def test_a_fire_that_a_change_of_the_clock_moves_says_so(text, after, remarks):
    if text == "30 * * * *":
        text = "30 */1 * * *"  # an hour that begins with a star follows elapsed time
    planned = cron.parse(text, "Europe/Berlin", "job")
    at, said = ms(after, "Europe/Berlin"), []
    for _ in remarks:
        at = planned.next_after(at)
        said.append(forecast.remark(planned, "job", at))
    assert said == remarks


def test_a_time_that_is_skipped_in_the_gap_moves_nothing():
    planned = cron.parse("30 2 * * *", "Europe/Berlin", "job", "skip")
    at = planned.next_after(ms("2026-03-28T12:00", "Europe/Berlin"))
    assert forecast.local(at, "Europe/Berlin") == "2026-03-30T02:30:00+02:00"
    assert forecast.remark(planned, "job", at) is None
    both = cron.parse("30 2,3 * * *", "Europe/Berlin", "job", "skip")
    assert forecast.remark(both, "job", both.next_after(ms("2026-03-29T01:00", "Europe/Berlin"))) is None


def test_the_local_time_of_a_fire_has_its_offset():
    assert forecast.local(ms("2026-03-29T01:00"), "Europe/Berlin") == "2026-03-29T03:00:00+02:00"


def test_pileups_are_the_seconds_that_most_jobs_share():
    subjects = [subject(f"job{n}", "0 0 * * *") for n in range(30)] + [subject("b", "0 1 * * *")] * 2
    found = forecast.fires([each.schedule for each in subjects], 0, DAY)
    first, second = forecast.pileups(subjects, found.found)
    assert (first["slot"], first["fires"], len(first["job_ids"])) == (0, 30, 20)
    assert (second["slot"], second["fires"]) == (3_600_000, 2)


# Durations


def test_a_run_takes_what_the_last_runs_took_in_the_middle():
    runs = [{"job_id": "a", "duration": each} for each in (3.0, 1.0, 200.0)] + [{"job_id": "b", "duration": None}]
    assert forecast.learn(runs) == {"a": 3.0}


def test_only_the_newest_runs_count():
    runs = [{"job_id": "a", "duration": 1.0}] * 20 + [{"job_id": "a", "duration": 100.0}] * 100
    assert forecast.learn(runs) == {"a": 1.0}
