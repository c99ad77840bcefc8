import json
import os
import pwd
import sys

import fakes
import pytest

from lnmt_scheduler.supervisor import cli_crontab, cli_sandbox, crontab, migration

ME = pwd.getpwuid(os.geteuid()).pw_name
TAB = """\
MAILTO=""
30 2 * * * /usr/local/bin/backup
#0 3 * * * old
"""


@pytest.fixture(autouse=True)
def host(monkeypatch):
    """Nothing is probed: what the host is, other tests ask."""
    told = {"uid": 0, "mode": "a", "layers": {}, "missing": {}}
    cgroups = {"layout": "none", "limits": [], "kill": None, "missing": []}
    monkeypatch.setattr(cli_sandbox, "told", lambda _: {**told, "cgroups": cgroups})


@pytest.fixture
def tab(tmp_path):
    path = tmp_path / "tab"
    path.write_text(TAB)
    return str(path)


def test_a_dry_run_is_the_report_alone_and_needs_no_daemon(schedctl, tab):
    done = schedctl("import-crontab", tab, "--dry-run")
    assert (done.code, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[:3] == [
        f"{tab}:2: 30 2 * * * /usr/local/bin/backup",
        f"  job cron-backup: 30 2 * * *, as {ME}",
        "  fires: the next 50 are equal",
    ]
    assert any(line.startswith("  differs: it sees its own processes only") for line in lines)
    assert any(line.startswith("  could be: timeout, overlap: skip") for line in lines)
    assert f"{tab}:3: commented out, and left out: #0 3 * * * old" in lines


def test_programs_get_jobs_and_lines(schedctl, tab):
    found = json.loads(schedctl("import-crontab", tab, "--dry-run", "-o", "json").out)
    assert [job["id"] for job in found["jobs"]] == ["cron-backup"]
    (line,) = found["lines"]
    assert (line["line"], line["job_id"], line["equal_fires"], line["unequal"]) == (2, "cron-backup", 50, None)
    assert found["disabled"] == [{"file": tab, "line": 3, "text": "#0 3 * * * old"}]
    assert found["changes"] == []


def test_a_job_file_can_be_made_of_it(schedctl, tab, tmp_path):
    path = tmp_path / "jobs.json"
    done = schedctl("import-crontab", tab, "--output", str(path), "--disabled")
    assert done.code == 0
    assert path.stat().st_mode & 0o777 == 0o600
    (job,) = json.loads(path.read_text())["jobs"]
    assert (job["id"], job["enabled"]) == ("cron-backup", False)
    assert schedctl("validate", str(path)).code == 0
    done = schedctl("import-crontab", tab, "--output", "/nonexistent/jobs.json")
    assert done.code == 73


def serve(schedctl, show):
    def import_(_):
        yield {"kind": "change", "action": "add", "job_id": "cron-backup", "diff": []}
        return {"added": 1, "changed": 0, "removed": 0, "unchanged": 0}

    return schedctl.serve(show=show, upload=lambda _: {}, import_=import_)


def test_the_jobs_are_added_to_the_daemon(schedctl, tab):
    def show(_):
        raise fakes.Refuse(3, "no job 'cron-backup'; see: schedctl list")

    server = serve(schedctl, show)
    done = schedctl("import-crontab", tab)
    assert done.out.splitlines()[-1] == "1 added, 0 changed, 0 removed, 0 unchanged"
    assert len(server.asked("import")) == 1


def test_a_job_names_crons_zone_where_the_daemons_is_another(schedctl, tab):
    # The host's, and so cron's, is UTC.
    zones = ["Europe/Berlin", "UTC"]
    schedctl.serve(state=lambda _: {"zone": zones.pop(0)})
    for expected in ("UTC", None):
        (job,) = json.loads(schedctl("import-crontab", tab, "--dry-run", "-o", "json").out)["jobs"]
        assert job.get("timezone") == expected


def test_a_job_that_is_not_from_a_crontab_is_not_replaced(schedctl, tab):
    server = serve(schedctl, lambda _: {"job": {"tags": ["mine"]}})
    done = schedctl("import-crontab", tab)
    assert (done.code, server.asked("import")) == (78, [])
    assert "job 'cron-backup' is there already, and not from a crontab" in done.err


def test_one_that_is_may_be(schedctl, tab):
    server = serve(schedctl, lambda _: {"job": {"tags": ["crontab"]}})
    assert schedctl("import-crontab", tab).code == 0
    assert len(server.asked("import")) == 1


def test_a_line_that_cannot_be_read_takes_nothing(schedctl, tmp_path):
    path = tmp_path / "tab"
    path.write_text("0 0 * * * fine\nnonsense\n61 * * * * x\n")
    done = schedctl("import-crontab", str(path))
    assert done.code == 78
    assert done.err.splitlines()[0] == "schedctl: 2 problems"
    assert f"{path}:2: is neither" in done.err
    assert f"{path}:3: python-crontab cannot read" in done.err


def test_a_line_that_would_fire_at_other_times_is_not_taken(schedctl, tab, tmp_path, monkeypatch):
    compare = migration.Migration._compare

    def differ(self, found):
        compare(self, found)
        found.unequal = (1_800_000_000, 1_800_000_060)

    monkeypatch.setattr(migration.Migration, "_compare", differ)
    path = tmp_path / "jobs.json"
    done = schedctl("import-crontab", tab, "--output", str(path))
    assert (done.code, path.exists()) == (78, False)
    assert f"{tab}:2 would fire at other times here" in done.err
    done = schedctl("import-crontab", tab, "--dry-run")
    assert done.code == 0
    assert "NOT EQUAL after 50: here 2027-01-15 08:00:00, by the crontab 2027-01-15 08:01:00" in done.out


def test_files_of_cron_d_name_their_users(schedctl, tmp_path):
    folder = tmp_path / "cron.d"
    folder.mkdir()
    (folder / "mine").write_text("0 0 * * * bob run\n")
    found = json.loads(schedctl("import-crontab", str(folder / "mine"), "--dry-run", "-o", "json").out)
    assert (found["jobs"][0]["user"], found["jobs"][0]["command"]) == ("bob", "run")
    (tmp_path / "other").write_text("0 0 * * * bob run\n")
    done = schedctl("import-crontab", str(tmp_path / "other"), "--with-users", "--dry-run", "-o", "json")
    assert json.loads(done.out)["jobs"][0]["user"] == "bob"


def test_the_systems_crontabs_are_those_that_cron_reads(schedctl, tmp_path, monkeypatch):
    folder = tmp_path / "cron.d"
    folder.mkdir()
    (tmp_path / "crontab").write_text("17 * * * * root hourly\n")
    (folder / "b").write_text("0 0 * * * root nightly\n")
    (folder / "b.dpkg-old").write_text("nonsense\n")
    monkeypatch.setattr(cli_crontab, "_SYSTEM", str(tmp_path / "crontab"))
    monkeypatch.setattr(cli_crontab, "_SYSTEM_DIR", str(folder))
    done = schedctl("import-crontab", "--system-crontab", "--dry-run", "-o", "json")
    assert [job["id"] for job in json.loads(done.out)["jobs"]] == ["cron-hourly", "cron-nightly"]
    assert "b.dpkg-old is left out" in done.err


def test_a_users_crontab_is_found_in_the_spool(schedctl, tmp_path, monkeypatch):
    (tmp_path / ME).write_text("0 0 * * * mine\n")
    monkeypatch.setattr(cli_crontab, "_SPOOLS", (str(tmp_path),))
    done = schedctl("import-crontab", "--crontab-of", ME, "--dry-run", "-o", "json")
    assert json.loads(done.out)["jobs"][0]["user"] == ME
    done = schedctl("import-crontab", "--crontab-of", "nobody-at-all")
    assert (done.code, done.err) == (3, "schedctl: no user 'nobody-at-all'\n")


def test_without_the_extra_the_command_that_installs_it_is_said(schedctl, tab, monkeypatch):
    monkeypatch.setitem(sys.modules, "crontab", None)
    done = schedctl("import-crontab", tab)
    assert done.code == 1
    assert (
        done.err
        == f"schedctl: import-crontab needs {crontab.PACKAGE}: {sys.executable} -m pip install {crontab.PACKAGE}\n"
    )


@pytest.mark.parametrize(
    ("data", "said"), [(b"0 0 * * * \xff\n", "is not UTF-8"), (b"#" * (4 << 20) + b"##", "is it a crontab?")]
)
def test_a_file_that_is_no_crontab_is_refused(schedctl, tmp_path, data, said):
    path = tmp_path / "tab"
    path.write_bytes(data)
    done = schedctl("import-crontab", str(path))
    assert done.code == 78
    assert said in done.err


def test_something_must_be_named(schedctl):
    assert schedctl("import-crontab").code == 2
    assert schedctl("import-crontab", "/nonexistent").code == 78


def test_all_jobs_can_be_written_as_a_crontab(schedctl, tmp_path):
    jobs = [{"id": "a", "command": "true", "schedule": "0 0 * * *", "sandbox": {"profile": "trusted"}}]
    schedctl.serve(export=lambda _: {"jobs": jobs, "more": None})
    done = schedctl("export", "--crontab", "--state-dir", str(tmp_path))
    assert done.out.splitlines()[-2:] == [
        "# lost: timeout 1h, 3 retries, catch_up latest, overlap skip",
        "0 0 * * * root true",
    ]


def test_a_crontab_moves_no_job_to_an_hour_of_another_zone(schedctl, tmp_path):
    jobs = [{"id": "a", "command": "true", "schedule": "0 2 * * *", "sandbox": {"profile": "trusted"}}]
    schedctl.serve(export=lambda _: {"jobs": jobs, "more": None})
    path = tmp_path / "config.toml"
    path.write_text('timezone = "Europe/Berlin"\n')
    done = schedctl("export", "--crontab", "--state-dir", str(tmp_path))
    assert done.out.splitlines()[-1] == (
        "# not exported: its schedule is read in Europe/Berlin, and cron reads all in UTC"
    )
    path.write_text("timezone = \n")
    assert schedctl("export", "--crontab", "--state-dir", str(tmp_path)).code == 78
