"""schedctl pause, resume, trigger, rename: what they ask and what they say."""

import json

import pytest
import samples

PAUSE = {"job_id": "a", "since": 1_700_000_000_000, "until": 1_700_000_600_000, "by": "ada", "reason": "a new disk"}


def test_pause_says_until_when(schedctl):
    server = schedctl.serve(pause=lambda fields: {"pause": {**PAUSE, "job_id": fields["job_id"]}})
    assert schedctl("pause", "a", "--for", "10m", "--reason", "a new disk").out == (
        "Job 'a' paused until 2023-11-14 22:23:20.\n"
    )
    assert json.loads(schedctl("pause", "-o", "json").out) == {
        "job_id": None,
        "since": "2023-11-14T22:13:20.000Z",
        "until": "2023-11-14T22:23:20.000Z",
        "by": "ada",
        "reason": "a new disk",
    }
    assert server.asked("pause") == [
        {"job_id": "a", "seconds": 600.0, "reason": "a new disk"},
        {"job_id": None, "seconds": None, "reason": None},
    ]


def test_a_pause_without_an_end_says_how_it_ends(schedctl):
    schedctl.serve(pause=lambda _: {"pause": {**PAUSE, "job_id": None, "until": None}})
    assert schedctl("pause").out == "The whole schedule paused until it is resumed.\n"


@pytest.mark.parametrize(("pause", "said"), [(PAUSE, "resumed"), (None, "was not paused")])
def test_resume_says_whether_there_was_something_to_resume(schedctl, pause, said):
    schedctl.serve(resume=lambda _: {"pause": pause})
    assert schedctl("resume", "a").out == f"Job 'a' {said}.\n"
    assert (json.loads(schedctl("resume", "-o", "json").out)["resumed"] is None) == (pause is None)


def test_trigger_says_of_each_job_what_becomes_of_it(schedctl):
    runs = [
        {"job_id": "a", "run_id": 7, "status": "pending", "reason": None, "error": None},
        {"job_id": "b", "run_id": 8, "status": "skipped", "reason": "overlap", "error": "run 3 has not\nended"},
    ]
    server = schedctl.serve(trigger=lambda _: {"runs": runs})
    assert schedctl("trigger", "up", "--data", '{"n": [1]}').out == (
        "Job 'a' started: run 7\nJob 'b' skipped: overlap: run 3 has not\\nended\n"
    )
    assert json.loads(schedctl("trigger", "up", "-o", "json").out) == runs
    assert server.asked("trigger") == [{"event": "up", "data": {"n": [1]}}, {"event": "up", "data": None}]


def test_data_that_is_no_json_is_2(schedctl):
    done = schedctl("trigger", "up", "--data", "{no")
    assert done.code == 2
    assert "'{no' is not JSON" in done.err


def test_rename_says_who_follows(schedctl):
    schedctl.serve(rename=lambda _: {"job": samples.job(), "followed": ["b"]})
    assert schedctl("rename", "a", "new").out == "Job 'a' is now 'new'.\nJob 'b' names it by its new id.\n"
    assert json.loads(schedctl("rename", "a", "new", "-o", "json").out)["followed"] == ["b"]


def test_a_paused_job_is_shown_as_such(schedctl):
    paused = {**samples.job(), "paused": {**PAUSE, "reason": "a\tdisk"}}
    schedctl.serve(
        list=lambda _: {"jobs": [paused], "more": None},
        show=lambda _: {"job": paused, "origins": {}, "last": None, "environment": None},
        state=lambda _: {**samples.STATE, "paused": [PAUSE, {**PAUSE, "job_id": None, "until": None, "reason": None}]},
    )
    assert "│ paused " in schedctl("list").out
    assert "Paused: by ada since 2023-11-14 22:13:20 until 2023-11-14 22:23:20: a\\tdisk\n" in schedctl("show", "a").out
    status = schedctl("status").out
    assert "Paused: a, by ada since 2023-11-14 22:13:20 until 2023-11-14 22:23:20: a new disk\n" in status
    assert "Paused: the whole schedule, by ada since 2023-11-14 22:13:20" in status
    assert json.loads(schedctl("list", "-o", "json").out)[0]["paused"]["until"] == "2023-11-14T22:23:20.000Z"
