import json
import sys

import pytest
import samples

from lnmt_scheduler.supervisor import words

JOBS = {
    "jobs": [
        {"id": "night", "command": "true", "schedule": "30 2 * * *", "timezone": "Europe/Berlin"},
        {"id": "often", "command": "true", "schedule": "0 * * * *", "timezone": "UTC"},
        {"id": "boot", "command": "true", "schedule": "@reboot"},
        {"id": "hand", "command": "true"},
    ]
}
SPAN = ("--from", "2026-03-29T00:30Z", "--until", "2026-03-29T03:00Z")


@pytest.fixture
def jobs(tmp_path):
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps(JOBS))
    return str(path)


@pytest.fixture
def forecast(schedctl, tmp_path):
    """Without a daemon, on a state directory that holds nothing."""

    def ask(*arguments):
        return schedctl("--state-dir", str(tmp_path / "state"), "forecast", *arguments)

    return ask


def test_the_fires_of_job_files_need_no_daemon(forecast, jobs):
    done = forecast("--file", jobs, *SPAN, "-o", "json")
    assert done.code == 0
    answer = json.loads(done.out)
    assert answer["fires"] == [
        {
            "job_id": "night",
            "slot": "2026-03-29T01:00:00.000Z",
            "local": "2026-03-29T03:00:00+02:00",
            "remark": "02:30 does not exist that day: right after the clock was put forward",
        },
        {
            "job_id": "often",
            "slot": "2026-03-29T01:00:00.000Z",
            "local": "2026-03-29T01:00:00+00:00",
            "remark": None,
        },
        {
            "job_id": "often",
            "slot": "2026-03-29T02:00:00.000Z",
            "local": "2026-03-29T02:00:00+00:00",
            "remark": None,
        },
    ]
    assert answer["pileups"] == [{"slot": "2026-03-29T01:00:00.000Z", "fires": 2, "job_ids": ["night", "often"]}]
    assert answer["peak"]["running"] == 2
    assert answer["peak"]["at"] == "2026-03-29T01:00:00.000Z"
    assert (answer["from"], answer["until"]) == ("2026-03-29T00:30:00.000Z", "2026-03-29T03:00:00.000Z")


def test_people_get_a_table_and_what_it_comes_to(forecast, jobs):
    done = forecast("--file", jobs, *SPAN, "--limit", "2")
    assert "02:30 does not exist that day" in done.out
    assert done.out.splitlines()[-5:] == [
        "and 1 more; --limit N shows more",
        "2 at 2026-03-29 01:00:00: night, often",
        "At most 2 at one time, first at 2026-03-29 01:00:00",
        "1 job only once a boot",
        "1 job without a schedule",
    ]


def test_given_durations_make_runs_meet(forecast, jobs):
    done = forecast("--file", jobs, *SPAN, "--duration", "often=90m", "-o", "json")
    assert json.loads(done.out)["peak"]["skipped"] == {"overlap": 1}
    assert forecast("--file", jobs, "--duration", "=3").code == 2


def test_one_job_of_a_file_may_be_asked_for(forecast, jobs):
    assert {each["job_id"] for each in json.loads(forecast("--file", jobs, "night", "-o", "json").out)["fires"]} == {
        "night"
    }
    done = forecast("--file", jobs, "nigth")
    assert (done.code, done.err) == (3, f"schedctl: no job 'nigth' in {jobs}\n")


def test_a_bad_file_is_told_as_validate_tells_it(forecast, tmp_path):
    bad = tmp_path / "bad.json"
    bad.write_text('{"jobs": [{"id": "a", "command": "true", "schedule": "61 * * * *"}]}')
    done = forecast("--file", str(bad))
    assert done.code == 78
    assert 'minute "61"' in done.err


def test_a_span_that_ends_before_it_begins_is_a_mistake(forecast, jobs):
    assert forecast("--file", jobs, "--from", "2026-01-02", "--until", "2026-01-01").code == 2
    assert forecast("--file", jobs, "--from", "soon").code == 2


def test_the_daemons_jobs_run_as_long_as_they_did(schedctl):
    job = samples.job("often", given={"command": "true", "schedule": "0 * * * *", "timezone": "UTC"})
    runs = [samples.run(job_id="often", status="completed", duration=5400.0)]
    schedctl.serve(list=lambda _: {"jobs": [job], "more": None}, history=lambda _: {"runs": runs, "more": None})
    answer = json.loads(schedctl("forecast", *SPAN, "-o", "json").out)
    assert [each["slot"][11:16] for each in answer["fires"]] == ["01:00", "02:00"]
    assert answer["peak"]["skipped"] == {"overlap": 1}


def test_the_daemons_zone_and_places_count_and_not_those_of_a_file_that_it_has_not_taken(schedctl, tmp_path):
    (tmp_path / "config.toml").write_text('timezone = "Asia/Tokyo"\nmax_concurrent_jobs = 50\nnope = 1\n')
    given = {"command": "true", "schedule": "0 2 * * *", "pool": "p", "priority": 2}
    jobs = [samples.job(f"job{n}", given=given) for n in range(4)]
    state = {"zone": "America/New_York", "max_concurrent_jobs": 5, "reserved_slots": 3, "aging": 60, "pools": {"p": 4}}
    schedctl.serve(
        list=lambda _: {"jobs": jobs, "more": None},
        history=lambda _: {"runs": [], "more": None},
        state=lambda _: {**samples.STATE, **state},
    )
    here = ("--state-dir", str(tmp_path), "--from", "2026-02-01T00:00Z", "-o", "json")
    found = json.loads(schedctl("forecast", *here).out)
    assert {each["local"] for each in found["fires"]} == {"2026-02-01T02:00:00-05:00"}
    # Two places of five are for runs that are not urgent, and the pool has four.
    assert (found["peak"]["running"], found["peak"]["queued"]) == (2, 2)
    assert json.loads(schedctl("forecast", "--expr", "@daily", *here).out)["timezone"] == "America/New_York"
    (tmp_path / "config.toml").unlink()
    path = tmp_path / "jobs.json"
    path.write_text(json.dumps({"jobs": [{"id": "a", "command": "true", "schedule": "0 2 * * *", "pool": "p"}]}))
    found = json.loads(schedctl("forecast", "--file", str(path), *here).out)
    assert [each["local"] for each in found["fires"]] == ["2026-02-01T02:00:00-05:00"]


def test_a_daemon_that_does_not_say_its_settings_has_those_of_the_file(schedctl, tmp_path):
    (tmp_path / "config.toml").write_text('timezone = "Asia/Tokyo"\n')
    schedctl.serve(state=lambda _: samples.STATE)
    done = schedctl("forecast", "--state-dir", str(tmp_path), "--expr", "@daily", "-o", "json")
    assert json.loads(done.out)["timezone"] == "Asia/Tokyo"


def test_a_disabled_job_has_no_future(schedctl):
    job = samples.job("often", given={"command": "true", "schedule": "0 * * * *"}, enabled=False)
    schedctl.serve(show=lambda _: {"job": job}, history=lambda _: {"runs": [], "more": None})
    done = schedctl("forecast", "often", *SPAN)
    assert done.out.splitlines()[-1] == "1 job disabled"


@pytest.mark.parametrize(
    ("until", "slots", "said"), [(None, [], "1 job paused"), ("2026-03-29T01:30:00", ["02:00"], "At most 1")]
)
def test_a_paused_job_fires_when_its_pause_is_over(schedctl, until, slots, said):
    pause = {"job_id": "often", "since": 0, "until": until and samples.ms(until), "by": "ada", "reason": None}
    job = samples.job("often", given={"command": "true", "schedule": "0 * * * *", "timezone": "UTC"})
    schedctl.serve(show=lambda _: {"job": {**job, "paused": pause}}, history=lambda _: {"runs": [], "more": None})
    found = json.loads(schedctl("forecast", "often", *SPAN, "-o", "json").out)
    assert [each["slot"][11:16] for each in found["fires"]] == slots
    assert said in schedctl("forecast", "often", *SPAN).out


@pytest.mark.parametrize(
    ("off", "skipped", "said"),
    [
        ({"enabled": False}, {"dependency": 2}, "1 job disabled"),
        ({"quarantined": "it fails"}, {"dependency": 2}, "1 job quarantined"),
        ({"paused": {"since": samples.ms("2026-03-28T12:00:00"), "until": None}}, {"dependency": 2}, "1 job paused"),
        (
            {"paused": {"since": samples.ms("2026-03-28T12:00:00"), "until": samples.ms("2026-03-29T01:30:00")}},
            {"dependency": 1},
            "At most 1",
        ),
        ({}, {}, "At most 1"),
    ],
)
def test_slots_after_a_job_that_is_off_are_told_as_skipped(schedctl, off, skipped, said):
    given = {"command": "true", "timezone": "UTC"}
    parent = samples.job("a", given={**given, "schedule": "0 * * * *"})
    child = samples.job("b", given={**given, "schedule": "5 * * * *", "dependencies": ["a"]})
    answer = {"jobs": [{**parent, **off}, child], "more": None}
    schedctl.serve(list=lambda _: answer, history=lambda _: {"runs": [], "more": None})
    found = json.loads(schedctl("forecast", *SPAN, "-o", "json").out)
    assert found["peak"]["skipped"] == skipped
    assert said in schedctl("forecast", *SPAN).out


def test_of_a_job_that_is_asked_for_alone_the_parents_are_taken_to_run(schedctl):
    job = samples.job("b", given={"command": "true", "schedule": "5 * * * *", "dependencies": ["a"], "timezone": "UTC"})
    schedctl.serve(show=lambda _: {"job": job}, history=lambda _: {"runs": [], "more": None})
    assert json.loads(schedctl("forecast", "b", *SPAN, "-o", "json").out)["peak"]["skipped"] == {}


def test_a_disabled_parent_in_a_job_file_shuts_the_gate(forecast, tmp_path):
    path = tmp_path / "jobs.json"
    jobs = [
        {"id": "a", "command": "true", "schedule": "0 * * * *", "enabled": False},
        {"id": "b", "command": "true", "schedule": "5 * * * *", "dependencies": ["a"]},
    ]
    path.write_text(json.dumps({"jobs": jobs}))
    found = json.loads(forecast("--file", str(path), *SPAN, "-o", "json").out)
    assert found["peak"]["skipped"] == {"dependency": 2}


def test_an_expression_is_told_in_words_with_its_next_five_fires(forecast):
    done = forecast("--expr", "0 0 13 * 5", "--timezone", "Europe/Berlin", "--from", "2026-02-01")
    assert done.out.splitlines() == [
        "At 00:00, on day 13 of the month, or on Friday",
        "2026-02-06T00:00:00+01:00",
        "2026-02-13T00:00:00+01:00",
        "2026-02-20T00:00:00+01:00",
        "2026-02-27T00:00:00+01:00",
        "2026-03-06T00:00:00+01:00",
    ]
    answer = json.loads(forecast("--expr", "@daily", "--timezone", "UTC", "--from", "2026-02-01", "-o", "json").out)
    assert (answer["words"], len(answer["fires"])) == ("At 00:00", 5)


def test_without_the_extra_there_are_the_fires_and_how_to_get_it(forecast, monkeypatch):
    monkeypatch.setitem(sys.modules, "cron_descriptor", None)
    done = forecast("--expr", "@daily", "--timezone", "UTC", "--from", "2026-02-01")
    assert (done.code, len(done.out.splitlines())) == (0, 5)
    assert done.err == f"schedctl: for the expression in words: {sys.executable} -m pip install {words.PACKAGE}\n"


def test_an_expression_that_is_none_is_refused_with_what_to_write(forecast):
    done = forecast("--expr", "@dayly")
    assert (done.code, done.err) == (78, 'schedctl: schedule "@dayly": write @daily\n')
    assert forecast("--expr", "@daily", "--file", "x").code == 2
