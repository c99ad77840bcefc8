import json

import fakes
import pytest
import samples

from lnmt_scheduler.supervisor import views

LIST = """\
┌─────────────────────┬───────────────────────────┬──────────────┬──────────┬───────────┬──────────┬──────────────────┬─────────┐
│ ID                  │ Name                      │ Schedule     │ Priority │ Status    │ Last Run │ Next Run (UTC)   │ Enabled │
├─────────────────────┼───────────────────────────┼──────────────┼──────────┼───────────┼──────────┼──────────────────┼─────────┤
│ alert_processor     │ Alert Processing and...   │ */15 * * * * │ CRITICAL │ never_run │ Never    │ 2024-01-15 14:45 │ ✓       │
│ network_status_poll │ Network Status Polling    │ */2 * * * *  │ HIGH     │ never_run │ Never    │ 2024-01-15 14:32 │ ✓       │
│ system_metrics_poll │ System Metrics Collection │ */5 * * * *  │ HIGH     │ never_run │ Never    │ 2024-01-15 14:35 │ ✓       │
└─────────────────────┴───────────────────────────┴──────────────┴──────────┴───────────┴──────────┴──────────────────┴─────────┘
"""  # noqa: E501 - as wide as the seed's

SHOW = """\
=== Job Details: Network Status Polling ===
ID: network_status_poll
Name: Network Status Polling
Module: lnmt.polling
Function: LNMTPollingJobs.poll_network_status
Schedule: */2 * * * *
Priority: HIGH
Next Run: 2024-01-15 14:32:00 (UTC)
Status: completed
Source: cli

=== Last Execution ===
Status: completed
Started: 2024-01-15 14:30:15
Ended: 2024-01-15 14:30:17
Retry Count: 0
Run: 4711
"""


def _page(jobs):
    return lambda _: {"jobs": jobs, "more": None}


def _shown(**more):
    row = samples.job_row()
    return {
        "job": views.job_view(row, samples.run_row(), samples.run_row()["start_time"]),
        "origins": row["origins"],
        "last": samples.run(),
        "environment": None,
        **more,
    }


def test_the_list_looks_like_the_seeds(schedctl, monkeypatch):
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    schedctl.serve(list=_page(samples.seed_jobs()))
    done = schedctl("list", "--no-color")
    assert done.code == 0
    assert done.out == LIST


def test_a_pipe_gets_whole_names(schedctl):
    schedctl.serve(list=_page(samples.seed_jobs()))
    assert "Alert Processing and Notification" in schedctl("list").out


def test_the_zone_of_the_times_is_in_the_heading(schedctl, monkeypatch):
    monkeypatch.setenv("TZ", "Europe/Berlin")
    __import__("time").tzset()
    schedctl.serve(list=_page(samples.seed_jobs()))
    out = schedctl("list").out
    assert "Next Run (Europe/Berlin)" in out
    assert "2024-01-15 15:45" in out


def test_a_status_has_its_colour_on_a_terminal_only(schedctl, monkeypatch):
    schedctl.serve(list=_page([samples.job(last=samples.run_row(status="failed"))]))
    assert "\033[" not in schedctl("list").out
    monkeypatch.setattr("sys.stdout.isatty", lambda: True)
    monkeypatch.setenv("TERM", "xterm")
    assert "\033[31mfailed\033[0m" in schedctl("list").out
    assert "\033[" not in schedctl("list", "--no-color").out
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\033[" not in schedctl("list").out


def test_a_hostile_name_cannot_drive_the_terminal(schedctl):
    schedctl.serve(list=_page([samples.job(given={"name": "x\033[2J\nfake row"})]))
    out = schedctl("list").out
    assert "\033" not in out
    assert "x\\x1b[2J\\nfake row" in out


def test_the_list_in_json_has_every_key_of_a_job(schedctl):
    schedctl.serve(list=_page(samples.seed_jobs()))
    found = json.loads(schedctl("list", "--format", "json").out)
    assert [job["id"] for job in found] == ["alert_processor", "network_status_poll", "system_metrics_poll"]
    assert found[0].keys() == {*views.JOB_KEYS, *views.JOB_STATE}
    assert found[0]["next_run"] == "2024-01-15T14:45:00.000Z"
    assert found[0]["priority"] == 4


def test_all_pages_of_the_list_are_asked_for(schedctl):
    first, second, third = samples.seed_jobs()

    def page(fields):
        if fields["after"] is None:
            return {"jobs": [first, second], "more": second["id"]}
        return {"jobs": [third], "more": None}

    server = schedctl.serve(list=page)
    assert len(json.loads(schedctl("list", "-o", "json").out)) == 3
    assert [fields["after"] for fields in server.asked("list")] == [None, "network_status_poll"]


def test_the_list_can_be_narrowed(schedctl):
    server = schedctl.serve(list=_page([]))
    schedctl("list", "--enabled", "--tag", "net")
    schedctl("list")
    assert [(fields["enabled"], fields["tag"]) for fields in server.asked("list")] == [(True, "net"), (None, None)]


def test_show_looks_like_the_seeds(schedctl):
    schedctl.serve(show=lambda _: _shown())
    done = schedctl("show", "network_status_poll")
    assert done.code == 0
    assert done.out.startswith(SHOW)


def test_show_names_the_origin_of_each_value(schedctl):
    origins = {"id": "job", "max_retries": "site defaults"}
    row = samples.job_row(given={"max_retries": 1})
    schedctl.serve(show=lambda _: _shown(job=views.job_view(row), origins=origins))
    lines = [line.split() for line in schedctl("show", "x").out.splitlines()]
    assert ["max_retries", "1", "(site", "defaults)"] in lines
    assert ["timeout", "3600", "(built", "in)"] in lines


def test_show_names_what_a_run_had_to_kill(schedctl):
    last = samples.run(
        status="failed", reason="timeout", exit_code=None, killed=((17, "sleep\n9"), (18, "sh")), killed_count=2
    )
    schedctl.serve(show=lambda _: _shown(last=last))
    assert "Reason: timeout" in schedctl("show", "x").out
    assert "Killed: 2\n  17 sleep\\n9\n  18 sh\n" in schedctl("show", "x").out


def test_show_of_a_command_shows_the_command(schedctl):
    row = samples.job_row(given={"module": None, "function": None, "command": ["df", "-h"]})
    schedctl.serve(show=lambda _: _shown(job=views.job_view(row), last=None))
    out = schedctl("show", "x").out
    assert 'Command: ["df", "-h"]\n' in out
    assert "Module" not in out
    assert "Last Execution" not in out


def test_show_asks_for_the_environment_only_when_told(schedctl):
    server = schedctl.serve(show=lambda _: _shown(environment={"TOKEN": "***", "PATH": "/bin"}))
    assert "Environment" not in schedctl("show", "x").out
    assert schedctl("show", "x", "--env").out.endswith("=== Environment ===\nPATH=/bin\nTOKEN=***\n")
    assert [fields["environment"] for fields in server.asked("show")] == [False, True]


def test_show_in_json_is_the_job_its_origins_and_its_last_run(schedctl):
    schedctl.serve(show=lambda _: _shown())
    found = json.loads(schedctl("show", "x", "-o", "json").out)
    assert found.keys() == {*views.JOB_KEYS, *views.JOB_STATE, "origins", "last"}
    assert found["last"].keys() == set(views.RUN_KEYS)
    with_environment = json.loads(schedctl("show", "x", "--env", "-o", "json").out)
    assert with_environment.keys() == {*found.keys(), "environment"}


def test_a_job_that_is_not_there_is_3(schedctl):
    def show(_):
        raise fakes.Refuse(3, "no job 'x'; see: schedctl list")

    schedctl.serve(show=show)
    assert schedctl("show", "x").code == 3


def test_remove_passes_purge_on(schedctl):
    server = schedctl.serve(remove=lambda _: {})
    assert schedctl("remove", "a").out == "Job 'a' removed.\n"
    assert json.loads(schedctl("remove", "a", "--purge", "-o", "json").out) == {"job_id": "a", "removed": True}
    assert server.asked("remove") == [{"job_id": "a", "purge": False}, {"job_id": "a", "purge": True}]


def test_a_job_that_others_depend_on_is_78(schedctl):
    def remove(_):
        raise fakes.Refuse(78, "b depend on 'a'; remove them first")

    schedctl.serve(remove=remove)
    assert schedctl("remove", "a").code == 78


@pytest.mark.parametrize("word", ["enable", "disable"])
def test_enable_and_disable_say_so(schedctl, word):
    server = schedctl.serve(**{word: lambda _: {"job": samples.job(enabled=word == "enable")}})
    assert schedctl(word, "a").out == f"Job 'a' {word}d.\n"
    assert json.loads(schedctl(word, "a", "-o", "json").out)["enabled"] is (word == "enable")
    assert server.asked(word) == [{"job_id": "a"}] * 2
