"""crontab_export.py: jobs as lines of a crontab, and what becomes of them on the way back."""

import pytest

from lnmt_scheduler.supervisor import crontab, crontab_export, migration

PLACE = migration.Place(
    cron_zone="UTC", zone="UTC", account="root", is_root=True, has_mail=False, has_host_processes=True
)
TRUSTED = {"sandbox": {"profile": "trusted"}}
CRON = {**TRUSTED, "max_retries": 0, "timeout": None, "catch_up": "skip", "overlap": "allow", "max_instances": 10}


def export(*jobs, has_users=True, zone="Europe/Berlin"):
    given = [{"id": f"job{n}", "command": "true", "schedule": "0 0 * * *", **job} for n, job in enumerate(jobs)]
    return list(crontab_export.lines(given, "Europe/Berlin", zone, has_users=has_users))[4:]


def test_a_job_that_cron_can_run_is_one_line():
    assert export({**CRON, "command": "date +%F", "name": "The date"}) == [
        "",
        "# job0: The date",
        "0 0 * * * root date +\\%F",
    ]
    assert export(CRON, has_users=False)[-1] == "0 0 * * * true"


@pytest.mark.parametrize(
    ("keys", "line"),
    [
        ({"command": ["echo", "a b", "$x"]}, "0 0 * * * root echo 'a b' '$x'"),
        ({"schedule": "@reboot"}, "@reboot root true"),
        ({"schedule": "@daily"}, "0 0 * * * root true"),
        ({"schedule": "0 30 2 * * *"}, "30 2 * * * root true"),
        ({"schedule": "@every 15m"}, "*/15 * * * * root true"),
        ({"schedule": "0 0 * jul thu"}, "0 0 * jul thu root true"),
        ({"user": "ada"}, "0 0 * * * ada true"),
        ({"timezone": "Europe/Berlin"}, "0 0 * * * root true"),
        (
            {"environment": {"A": "x y"}, "working_directory": "/srv", "umask": "077"},
            "0 0 * * * root umask 077; export A='x y'; cd /srv || exit; true",
        ),
        ({"enabled": False}, "# disabled: 0 0 * * * root true"),
    ],
)
def test_what_cron_can_do_is_in_the_line(keys, line):
    assert export({**CRON, **keys})[-1] == line


def test_a_job_with_a_user_of_its_own_never_becomes_roots():
    for box in ("standard", "untrusted"):
        said = export({**CRON, "sandbox": {"profile": box}})
        assert said[-1] == "0 0 * * * nobody true"
        assert "a user of its own" in said[-2]
    assert export({**CRON, "user": "dynamic"})[-1].split()[5] == "nobody"


@pytest.mark.parametrize(
    ("keys", "why"),
    [
        ({"schedule": None}, "it has no schedule"),
        ({"command": None, "module": "m", "function": "f"}, "it is a Python function"),
        ({"timezone": "Asia/Tokyo"}, "its schedule is read in Asia/Tokyo, and cron reads all in Europe/Berlin"),
        ({"schedule": "*/10 * * * * *"}, "cron knows no seconds"),
        ({"schedule": "0 0 L * *"}, "cron knows no L"),
        ({"schedule": "0 0 * * 1#2"}, "cron knows no 1#2"),
        ({"schedule": "0 0 * * fril"}, "cron knows no FRIL"),
        ({"schedule": "@every 90s"}, "cron has no such interval: 1m30s"),
        ({"schedule": "@every 7m"}, "cron has no such interval: 7m"),
        ({"command": "a\nb"}, "a line of a crontab holds no line break"),
        ({"command": "x" * 999}, "its command has 999 characters, of which cron takes 998"),
    ],
)
def test_what_cron_cannot_do_is_a_comment(keys, why):
    assert export({**CRON, **keys})[1:] == ["# job0", f"# not exported: {why}"]


def test_jobs_without_a_zone_are_in_the_daemons_and_cron_is_in_the_hosts():
    (*_, line) = export(CRON, zone="UTC")
    assert line == "# not exported: its schedule is read in UTC, and cron reads all in Europe/Berlin"
    assert export({**CRON, "timezone": "Europe/Berlin"}, zone="UTC")[-1] == "0 0 * * * root true"
    assert export({**CRON, "schedule": "@reboot"}, zone="UTC")[-1] == "@reboot root true"


def test_a_zone_may_have_another_name():
    job = {**CRON, "id": "a", "command": "true", "schedule": "0 0 * * *"}
    assert list(crontab_export.lines([job], "Etc/UTC", "UTC", has_users=True))[-1] == "0 0 * * * root true"
    said = list(crontab_export.lines([job], "No/Zone", "Gone/Zone", has_users=True))[-1]
    assert said == "# not exported: its schedule is read in Gone/Zone, and cron reads all in No/Zone"


def test_what_is_lost_is_said():
    said = export({"dependencies": ["a"], "dst": "skip", "limits": {"memory": 1 << 20}})[2]
    assert said == (
        "# lost: timeout 1h, 3 retries, catch_up latest, dst skip, overlap skip, sandbox standard, a user of its own,"
        " dependencies, limits"
    )


def test_who_gets_the_mail_of_a_line_and_of_no_other():
    said = export({**CRON, "mailto": "ops@example.org", "notify_on": "output"}, CRON)
    assert said[1:5] == ["# job0", "MAILTO=ops@example.org", "0 0 * * * root true", 'MAILTO=""']
    assert export({**CRON, "mailto": "ops@example.org"})[2] == "# lost: notify_on failure"


def test_the_input_of_a_line_goes_back_into_it():
    line = r"0 9 * * 1 root mail 'a b' \% root%Dear all,%%100\% done"
    (entry,) = crontab.read(line, "tab", user=None, has_users=True).entries
    place = PLACE
    job = migration.Migration(place, 1_772_452_800).take(entry).job
    assert export({**job, "environment": {}, "timeout": None})[-1] == line


def test_a_name_cannot_leave_its_comment():
    said = export({**CRON, "name": "x\n* * * * * root evil"})
    assert said[1:] == ["# job0: x * * * * * root evil", "0 0 * * * root true"]


def test_what_was_exported_comes_back_and_fires_alike():
    schedules = ["*/7 3-20 * * 1-5", "H H * * *", "30 2 * * *", "@every 20m", "@weekly"]
    text = "\n".join(crontab_export.lines(
        [{**CRON, "id": f"job{n}", "command": f"run {n}", "schedule": each} for n, each in enumerate(schedules)],
        "UTC", "UTC", has_users=True,
    ))  # fmt: skip
    found = crontab.read(text, "tab", user=None, has_users=True)
    assert (found.problems, len(found.entries)) == ([], len(schedules))
    place = PLACE
    made = migration.Migration(place, 1_772_452_800)
    assert [made.take(entry).equal for entry in found.entries] == [50] * len(schedules)
