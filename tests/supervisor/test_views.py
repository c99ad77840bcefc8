import json

import pytest
import samples

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import views

JOB_KEYS = set(model.KEYS) - {"main_file"} | {"status", "last_run", "next_run", "failing_since", "source"}
RUN_KEYS = {
    "run_id", "job_id", "slot", "trigger", "status", "reason", "exit_code", "signal", "start_time", "end_time",
    "duration", "retry_count", "output", "output_bytes", "truncated", "result", "error", "usage", "profile", "enforced",
    "uid", "killed", "killed_count",
}  # fmt: skip


def test_a_listed_job_has_exactly_its_keys_and_its_state():
    assert views.job_json(samples.job()).keys() == JOB_KEYS


def test_a_run_has_exactly_the_documented_keys():
    assert views.run_json(samples.run(), b"", None).keys() == RUN_KEYS


def test_usage_has_three_numbers():
    usage = views.run_json(samples.run(), b"", None)["usage"]
    assert usage == {"cpu_seconds": 0.031, "max_memory": 12_582_912, "processes": None}


def test_what_was_killed_has_pid_and_command():
    run = samples.run(killed=((17, "sleep 100"),), killed_count=1)
    assert run["killed"] == [{"pid": 17, "command": "sleep 100"}]


def test_keys_that_were_not_given_have_the_built_in_value():
    job = samples.job()
    assert (job["timeout"], job["max_retries"], job["umask"], job["tags"]) == (3600, 3, "022", [])


def test_a_name_is_the_id_unless_it_is_given():
    assert samples.job(given={"name": ""})["name"] == "network_status_poll"


def test_two_views_share_no_list():
    samples.job()["tags"].append("x")
    assert samples.job()["tags"] == []


def test_a_job_without_a_run_never_ran():
    job = samples.job()
    assert (job["status"], job["last_run"]) == ("never_run", None)


def test_a_job_shows_its_last_run():
    job = samples.job(last=samples.run_row(status="failed"))
    assert (job["status"], job["last_run"]) == ("failed", samples.ms("2024-01-15T14:30:15"))


def test_a_disabled_job_has_no_next_run():
    assert samples.job(enabled=False)["next_run"] is None


@pytest.mark.parametrize(
    ("attempts", "retries"), [(0, 0), (1, 0), (4, 3)], ids=["not started", "one attempt", "four attempts"]
)
def test_retries_are_the_attempts_after_the_first(attempts, retries):
    assert samples.run(attempts=attempts)["retry_count"] == retries


@pytest.mark.parametrize(
    "name",
    [
        "password",
        "DB_PASSWORD",
        "api_key",
        "apiKey",
        "token",
        "AWS_SECRET_ACCESS_KEY",
        "smtp.pass",
        "private-key",
        "PW",
    ],
)
def test_a_name_that_looks_secret_is_one(name):
    assert views.looks_secret(name)


@pytest.mark.parametrize("name", ["timeout", "bypass", "author", "compass", "monkey", "keyboard", "devices"])
def test_an_ordinary_name_is_no_secret(name):
    assert not views.looks_secret(name)


def test_secrets_in_environment_and_kwargs_are_masked_at_any_depth():
    given = {"environment": {"DB_PASSWORD": "x", "DB_HOST": "h"}, "kwargs": {"hosts": [{"token": {"a": 1}, "ip": "i"}]}}
    job = samples.job(given=given)
    assert job["environment"] == {"DB_PASSWORD": "***", "DB_HOST": "h"}
    assert job["kwargs"] == {"hosts": [{"token": "***", "ip": "i"}]}


def test_masking_leaves_the_stored_definition_as_it_is():
    row = samples.job_row(given={"environment": {"TOKEN": "x"}})
    views.job_view(row)
    assert row["given"]["environment"] == {"TOKEN": "x"}


def test_the_audit_masks_what_was_and_what_became():
    row = {"id": 1, "time": 0, "uid": 0, "user": "root", "action": "edit", "target": "a"}
    entry = views.audit_view({**row, "before": {"kwargs": {"pw": 1}}, "after": {"kwargs": {"pw": 2, "n": 3}}})
    assert entry["before"] == {"kwargs": {"pw": "***"}}
    assert entry["after"] == {"kwargs": {"pw": "***", "n": 3}}


def test_times_are_utc_with_milliseconds():
    assert views.iso(1_705_329_015_007) == "2024-01-15T14:30:15.007Z"
    assert views.iso(None) is None


def test_the_times_of_a_run_are_text_in_json():
    run = views.run_json(samples.run(slot=None), b"", None)
    assert (run["slot"], run["start_time"]) == (None, "2024-01-15T14:30:15.000Z")


def test_invalid_bytes_of_output_are_escaped():
    assert views.run_json(samples.run(), b"a\xff\xc3\xa4", None)["output"] == "a\\xffä"


def test_a_result_becomes_valid_json():
    value = {"n": float("nan"), "b": b"\xff", "l": [float("inf"), 1.5], "m": {"x": None}}
    result = views.run_json(samples.run(), b"", value)["result"]
    assert json.loads(json.dumps(result, allow_nan=False)) == {
        "n": None, "b": "\\xff", "l": [None, 1.5], "m": {"x": None},
    }  # fmt: skip


def test_the_state_has_exactly_the_documented_keys():
    state = views.state_json(samples.STATE)
    assert state.keys() == {
        "pid", "launcher_pid", "version", "launcher_version", "package", "advice", "uptime", "jobs",
        "running", "queued", "retrying", "store",
        "quarantined", "paused", "next", "default_profile", "problems",
    }  # fmt: skip
    assert state["next"] == {"job_id": "network_status_poll", "slot": "2024-01-15T14:32:00.000Z"}


def test_an_idle_daemon_has_nothing_next():
    assert views.state_json({**samples.STATE, "next": None})["next"] is None


def test_what_is_out_of_order_is_told_only_where_it_is_so():
    assert views.job_json({**samples.job(), "quarantined": "its zone is gone"})["quarantined"] == "its zone is gone"
    assert "quarantined" not in views.job_json(samples.job())
    assert views.state_json({**samples.STATE, "clock": "held"})["clock"] == "held"
    assert "clock" not in views.state_json({**samples.STATE, "clock": None})
