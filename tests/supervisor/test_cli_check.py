import json
import pathlib
import time

import fakes
import pytest
import samples

NOW = "2026-03-02T12:00:00"


@pytest.fixture(autouse=True)
def noon(monkeypatch):
    monkeypatch.setattr(time, "time_ns", lambda: samples.ms(NOW) * 1_000_000)


@pytest.fixture
def check(schedctl):
    """A healthy daemon but for what is said."""

    def ask(*arguments, jobs=(), last=None, **state):
        state = {**samples.STATE, "next": {"job_id": "a", "slot": samples.ms("2026-03-02T12:30:00")}, **state}
        schedctl.close()
        pathlib.Path(schedctl.path).unlink(missing_ok=True)
        schedctl.serve(
            state=lambda _: state,
            show=lambda _: {"job": jobs[0], "last": last},
            list=lambda _: {"jobs": list(jobs), "more": None},
        )
        return schedctl("check", *arguments)

    return ask


def job(
    job_id="a", *, success="2026-03-02T11:00:00", next_slot="2026-03-02T12:30:00", added="2026-01-01T00:00:00", **more
):
    return samples.job(
        job_id, next_slot=next_slot, last_success=success and samples.ms(success), added=samples.ms(added), **more
    )


def test_a_daemon_that_is_well(check):
    done = check()
    assert (done.code, done.err) == (0, "")
    assert done.out == (
        "OK: 3 jobs, 1 running, 0 queued, next a at 2026-03-02 12:30 | jobs=3 running=1 queued=0 retrying=0 late=0\n"
    )


def test_a_daemon_that_is_down_is_critical(schedctl):
    done = schedctl("check")
    assert done.code == 2
    assert done.out.startswith("CRITICAL: the daemon is not running at ")


@pytest.mark.parametrize(
    ("state", "code", "said"),
    [
        ({"store": "full"}, 2, "CRITICAL: the store is full"),
        ({"store": "damaged", "jobs": None, "queued": None}, 2, "CRITICAL: the store is damaged"),
        ({"clock": "held"}, 2, "CRITICAL: no slot is decided: the clock cannot be right"),
        (
            {"due": {"job_id": "a", "at": samples.ms("2026-03-02T11:50:00")}},
            2,
            "CRITICAL: a is due for 10m and not decided",
        ),
        # What comes by jitter a while after its slot is not late before that.
        ({"next": {"job_id": "a", "slot": samples.ms("2026-03-02T11:50:00")}}, 0, "OK: 3 jobs"),
        ({"next": None}, 0, "OK: 3 jobs, 1 running, 0 queued |"),
        ({"draining": True}, 1, "WARNING: the daemon drains"),
        ({"paused": [{"job_id": None, "until": None, "by": "ada"}]}, 1, "WARNING: the whole schedule is paused by ada"),
        ({"paused": [{"job_id": "a", "until": None, "by": "ada"}]}, 0, "OK: 3 jobs"),
        ({"quarantined": [f"j{n}" for n in range(7)]}, 1, "WARNING: in quarantine: j0, j1, j2, j3, j4 and 2 more"),
        ({"problems": ["a | b"]}, 1, "WARNING: a / b"),
        ({"draining": True, "store": "full"}, 2, "CRITICAL: the store is full; the daemon drains"),
    ],
)
def test_what_is_wrong_with_the_daemon(check, state, code, said):
    done = check(**state)
    assert (done.code, done.out[: len(said)]) == (code, said)
    assert done.out.count("\n") == 1


def test_runs_that_wait_long_for_a_place_are_told(check):
    waits = {"job_id": "a", "since": samples.ms(NOW) - 90 * 60_000, "count": 2}
    done = check(waits=waits)
    assert done.code == 1
    assert done.out.startswith("WARNING: a waits for a place since 1h30m, and 1 more |")
    assert done.out.endswith("late=2\n")


# A job


@pytest.mark.parametrize(
    ("columns", "options", "code", "said"),
    [
        ({}, (), 0, "OK: a last succeeded at 2026-03-02 11:00"),
        ({"success": None}, (), 0, "OK: a has not failed"),
        ({"enabled": False}, (), 1, "WARNING: a is disabled"),
        ({"next_slot": "2026-03-02T11:00:00"}, (), 2, "CRITICAL: a is due for 1h and not decided"),
        ({"next_slot": "2026-03-02T11:50:00", "given": {"jitter": 1200}}, (), 0, "OK: a last succeeded"),
        (
            {"failing_since": samples.ms("2026-03-02T11:30:00")},
            (),
            2,
            "CRITICAL: a fails since 2026-03-02 11:30 (exit 3)",
        ),
        ({"failing_since": samples.ms("2026-03-02T11:30:00")}, ("--max-age", "2h"), 1, "WARNING: a fails since"),
        ({}, ("--max-age", "2h"), 0, "OK"),
        ({}, ("--max-age", "30m"), 2, "CRITICAL: a: last success at 2026-03-02 11:00, more than 30m ago"),
        ({"success": None}, ("--max-age", "2h"), 2, "CRITICAL: a: never succeeded, and was added at 2026-01-01 00:00"),
        # One that is new has had no time yet.
        ({"success": None, "added": "2026-03-02T11:30:00"}, ("--max-age", "2h"), 0, "OK: a has not failed"),
    ],
)
def test_a_job(check, columns, options, code, said):
    last = samples.run(status="failed", reason="exit", exit_code=3)
    done = check("a", *options, jobs=[job(**columns)], last=last)
    assert (done.code, done.out[: len(said)]) == (code, said)


def test_a_job_that_is_paused(check):
    pause = {"job_id": "a", "until": samples.ms("2026-03-02T14:00:00"), "by": "ada"}
    done = check("a", jobs=[{**job(), "paused": pause}])
    assert (done.code, done.out[:55]) == (1, "WARNING: a is paused until 2026-03-02 14:00 by ada | jo")


def test_every_scheduled_job_can_be_held_to_an_age(check):
    jobs = [
        job("fresh"),
        job("old", success="2026-03-01T00:00:00"),
        job("hand", success=None, given={"schedule": None}),
    ]
    done = check("--max-age", "1d", jobs=jobs)
    assert done.code == 2
    assert done.out.startswith("CRITICAL: no success in 1d: old |")
    assert check("--max-age", "7d", jobs=jobs).code == 0


def test_what_nobody_can_say_is_unknown(schedctl):
    done = schedctl("check", "--max-age", "soon")
    assert done.code == 3
    done = schedctl("check", "--nonsense")
    assert done.code == 3

    def show(_):
        raise fakes.Refuse(3, "no job 'nobody'; see: schedctl list")

    schedctl.serve(state=lambda _: samples.STATE, show=show)
    done = schedctl("check", "nobody")
    assert (done.code, done.out) == (3, "UNKNOWN: no job 'nobody'; see: schedctl list\n")


def test_programs_get_the_findings(check):
    done = check("-o", "json", draining=True)
    assert done.code == 1
    assert json.loads(done.out) == {
        "state": "warning",
        "problems": [{"state": "warning", "problem": "the daemon drains and starts nothing new"}],
        "jobs": 3,
        "running": 1,
        "queued": 0,
        "retrying": 0,
        "late": 0,
    }
