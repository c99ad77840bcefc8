"""Job files, requests and people: who owns a definition, and what a reload makes of it, under a real daemon."""

import contextlib
import grp
import json
import os
import pwd
import signal
import sqlite3
import time

import harness
import pytest

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import client


@pytest.fixture
def site(make_daemon, folder):
    """A daemon with jobs.d and a file of its command line."""
    return Site(make_daemon, folder)


class Site:
    def __init__(self, make_daemon, folder):
        self.jobs_d = folder / "state" / "jobs.d"
        self.jobs_d.mkdir(parents=True)
        self.extra = folder / "extra.json"
        self.write(
            "10-base.json", {"id": "a", "command": "true", "schedule": "0 0 1 1 *"}, {"id": "b", "command": "true"}
        )
        self.extra.write_text(json.dumps({"jobs": [{"id": "x", "command": "true"}]}))
        self.daemon = make_daemon("--jobs", str(self.extra))

    def write(self, name, *jobs):
        (self.jobs_d / name).write_text(json.dumps({"jobs": list(jobs)}))

    def reload(self, *, dry_run=False):
        """The counts, and what was told of each change."""
        with self.daemon.client() as connection:
            stream = connection.stream(control.Reload(dry_run=dry_run))
            return list(stream), stream.value

    def jobs(self):
        return {job["id"]: job for job in self.daemon.request(control.List())["jobs"]}

    def refused(self, request):
        with pytest.raises(client.RequestError) as error:
            self.daemon.request(request)
        return error.value


def watermark(daemon, job_id):
    """As the store of a stopped daemon has it."""
    assert daemon.process is None
    with contextlib.closing(sqlite3.connect(daemon.state_dir / "lnmt.db")) as db:
        return db.execute("SELECT watermark FROM jobs WHERE job_id = ? AND removed IS NULL", [job_id]).fetchone()[0]


def audit(daemon):
    return daemon.request(control.Audit())["entries"]


def test_a_daemon_starts_with_the_jobs_of_its_files(site):
    sources = {name: job["source"] for name, job in site.jobs().items()}
    base = f"file:{site.jobs_d}/10-base.json"
    assert sources == {"a": base, "b": base, "x": f"file:{site.extra}"}


def test_reload_adds_changes_removes_and_leaves_the_rest_alone(site):
    site.daemon.add(id="mine", command="true")
    site.write("10-base.json", {"id": "a", "command": "false"})
    site.write("20-more.json", {"id": "c", "command": "true"})
    changes, counts = site.reload(dry_run=True)
    assert counts == {"added": 1, "changed": 1, "removed": 1, "unchanged": 1}
    by_id = {change["job_id"]: change for change in changes}
    assert {job_id: change["action"] for job_id, change in by_id.items()} == {"a": "change", "b": "remove", "c": "add"}
    assert by_id["a"]["diff"] == ['- schedule: "0 0 1 1 *"', '- command: "true"', '+ command: "false"']
    assert set(site.jobs()) == {"a", "b", "x", "mine"}
    changes, counts = site.reload()
    assert {change["job_id"]: change for change in changes} == by_id
    jobs = site.jobs()
    assert set(jobs) == {"a", "c", "x", "mine"}
    assert (jobs["a"]["command"], jobs["a"]["schedule"], jobs["mine"]["source"]) == ("false", None, "cli")
    assert site.reload()[1] == {"added": 0, "changed": 0, "removed": 0, "unchanged": 3}


def test_an_unchanged_job_keeps_its_watermark_and_a_new_schedule_begins_now(site):
    site.daemon.stop()
    before = watermark(site.daemon, "a")
    site.write(
        "10-base.json",
        {"id": "a", "command": "true", "schedule": "0 0 1 1 *"},
        {"id": "b", "command": "true", "schedule": "0 0 1 1 *"},
    )
    now = time.time_ns() // 1_000_000
    site.daemon.start()
    site.daemon.stop()
    assert watermark(site.daemon, "a") == before
    assert watermark(site.daemon, "b") >= now


def test_sighup_reloads_too(site):
    site.write("10-base.json", {"id": "c", "command": "true"})
    os.kill(site.daemon.launcher_pid, signal.SIGHUP)
    harness.wait_for(lambda: set(site.jobs()) == {"c", "x"})
    entry = audit(site.daemon)[0]
    assert (entry["action"], entry["user"]) == ("reload: remove", "schedd")


BAD = {
    "an unknown key": ({"id": "c", "command": "true", "timeuot": 5}, ("'c'", "'timeuot'", "timeout")),
    "an impossible schedule": ({"id": "c", "command": "true", "schedule": "99 * * * *"}, ("'c'", "'schedule'", "99")),
    "an unknown parent": (
        {"id": "c", "command": "true", "schedule": "@daily", "dependencies": ["nope"]},
        ("'c'", "'dependencies'", "'nope'"),
    ),
    "an id that is there already": ({"id": "a", "command": "true"}, ("'a'", "'id'", "10-base.json")),
    "the job of a person": ({"id": "mine", "command": "true"}, ("'mine'", "'id'")),
}


@pytest.mark.parametrize("case", BAD)
def test_a_bad_file_changes_nothing_and_is_named_with_job_and_key(site, case):
    site.daemon.add(id="mine", command="true")
    bad, words = BAD[case]
    site.write("20-bad.json", {"id": "good", "command": "true"}, bad)
    before = site.jobs()
    error = site.refused(control.Reload())
    assert error.code == control.INVALID
    for word in (f"{site.jobs_d}/20-bad.json", *words):
        assert word in str(error)
    os.kill(site.daemon.launcher_pid, signal.SIGHUP)
    harness.wait_for(lambda: "not reloaded" in site.daemon.log)
    assert f"not reloaded: {error}" in site.daemon.log
    assert site.jobs() == before


def test_several_problems_are_all_named_by_sighup_too(site):
    site.write("20-bad.json", {"id": "c", "command": "true", "timeuot": 5}, {"id": "d"})
    error = site.refused(control.Reload())
    assert len(error.details) >= 2
    os.kill(site.daemon.launcher_pid, signal.SIGHUP)
    harness.wait_for(lambda: all(f"not reloaded: {line}" in site.daemon.log for line in error.details))


def test_a_file_that_cannot_be_read_or_understood_changes_nothing(site):
    (site.jobs_d / "20-broken.json").write_text('{"jobs": [')
    (site.jobs_d / ".hidden.json").write_text("{")
    (site.jobs_d / "notes.txt").write_text("{")
    error = site.refused(control.Reload())
    assert error.code == control.INVALID
    assert "20-broken.json" in str(error)
    assert set(site.jobs()) == {"a", "b", "x"}


def test_bad_settings_change_nothing_either(site):
    site.write("20-more.json", {"id": "c", "command": "true"})
    (site.daemon.state_dir / "config.toml").write_text("max_concurrent_jobs = 0\n")
    error = site.refused(control.Reload())
    assert error.code == control.INVALID
    assert "max_concurrent_jobs" in str(error)
    assert "c" not in site.jobs()
    (site.daemon.state_dir / "config.toml").write_text("max_concurrent_jobs = 7\n")
    site.reload(dry_run=True)
    assert site.daemon.status()["max_concurrent_jobs"] == 20
    site.reload()
    assert site.daemon.status()["max_concurrent_jobs"] == 7


def test_new_settings_hold_for_the_jobs_of_the_same_reload(site):
    site.write("10-base.json", {"id": "a", "command": "true", "schedule": "0 3 1 7 *"})
    (site.daemon.state_dir / "config.toml").write_text(
        'timezone = "America/New_York"\noperator_group = "none"\n[defaults]\nmax_retries = 7\n'
    )
    assert site.reload(dry_run=True)[1]["changed"] == 2
    site.reload()
    assert {job["max_retries"] for job in site.jobs().values()} == {7}
    assert time.strftime("%H:%M", time.gmtime(site.jobs()["a"]["next_run"] / 1000)) == "07:00"


def test_another_zone_moves_jobs_that_nothing_else_changes_also_from_start_to_start(site):
    def due():
        return time.strftime("%H:%M", time.gmtime(site.jobs()["mine"]["next_run"] / 1000))

    config = site.daemon.state_dir / "config.toml"
    config.write_text('timezone = "America/New_York"\n')
    site.reload()
    site.daemon.add(id="mine", command="true", schedule="0 3 1 7 *")
    assert due() == "07:00"
    config.write_text('timezone = "Asia/Tokyo"\n')
    site.reload()
    harness.wait_for(lambda: due() == "18:00")
    site.daemon.stop()
    config.write_text('timezone = "UTC"\n')
    site.daemon.start()
    harness.wait_for(lambda: due() == "03:00")


@contextlib.contextmanager
def as_nobody():
    """What the kernel tells the daemon of us is what we are when we connect."""
    nobody = pwd.getpwnam("nobody")
    os.setegid(nobody.pw_gid)
    os.seteuid(nobody.pw_uid)
    try:
        yield
    finally:
        os.seteuid(0)
        os.setegid(0)


def let_nobody_operate(site):
    group = grp.getgrgid(pwd.getpwnam("nobody").pw_gid).gr_name
    (site.daemon.state_dir / "config.toml").write_text(f'operator_group = "{group}"\n')
    site.reload()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can come as another user")
def test_an_operator_runs_no_job_in_a_looser_box_than_its_own(site):
    let_nobody_operate(site)
    site.daemon.add(id="boxed", command="id -u", sandbox="standard", max_retries=0)
    with as_nobody():
        error = site.refused(control.Run(job_id="boxed", profile="trusted"))
        assert (error.code, "ask an administrator" in str(error)) == (control.NOT_ALLOWED, True)
        own = site.daemon.run("boxed", profile="standard")
    assert site.daemon.wait(own)["status"] == "completed"
    assert site.daemon.output(own) != b"0\n"
    loose = site.daemon.run("boxed", profile="trusted")
    assert site.daemon.wait(loose)["status"] == "completed"
    assert site.daemon.output(loose) == b"0\n"
    with as_nobody():
        assert site.refused(control.Retry(run_id=loose)).code == control.NOT_ALLOWED


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can come as another user")
def test_a_reload_says_anew_who_may_speak_to_the_daemon(site):
    def answer():
        try:
            with as_nobody():
                site.daemon.client().close()
        except client.RequestError as error:
            return error.code
        return control.OK

    config = site.daemon.state_dir / "config.toml"
    assert answer() == control.NOT_ALLOWED
    let_nobody_operate(site)
    assert answer() == control.OK
    config.write_text("")
    site.reload()
    assert answer() == control.NOT_ALLOWED


def test_the_job_of_a_file_is_changed_in_its_file_only(site):
    for request in (control.Edit(job_id="a", changes={"timeout": 5}), control.Remove(job_id="a")):
        error = site.refused(request)
        assert error.code == control.INVALID
        assert f"{site.jobs_d}/10-base.json" in str(error)
    outcome = site.daemon.ctl("edit", "x", "--timeout", "5")
    assert outcome.code == control.INVALID
    assert str(site.extra) in outcome.stderr


def test_enable_and_disable_survive_reload_and_restart(site):
    site.daemon.request(control.Disable(job_id="a"))
    site.write(
        "10-base.json",
        {"id": "a", "command": "true", "schedule": "0 0 1 1 *", "timeout": 5},
        {"id": "b", "command": "true", "enabled": False},
    )
    site.reload()
    assert {name: job["enabled"] for name, job in site.jobs().items()} == {"a": False, "b": False, "x": True}
    site.daemon.request(control.Enable(job_id="b"))
    site.reload()
    site.daemon.stop()
    site.daemon.start()
    assert {name: job["enabled"] for name, job in site.jobs().items()} == {"a": False, "b": True, "x": True}


def test_a_daemon_with_a_bad_file_does_not_start_and_says_why(site):
    site.daemon.stop()
    site.write("20-bad.json", {"id": "a", "command": "true"})
    with pytest.raises(AssertionError, match="ended with code 78"):
        site.daemon.start()
    assert "20-bad.json: job 'a': key 'id': is defined in" in site.daemon.log


def kill_supervisor(daemon):
    """And wait for its successor."""
    before = daemon.supervisor_pid
    os.kill(before, signal.SIGKILL)

    def is_another():
        with contextlib.suppress(client.RequestError, OSError):
            return daemon.supervisor_pid != before
        return False

    harness.wait_for(is_another, what="another supervisor")


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        (lambda site: site.write("20-bad.json", {"id": "a", "command": "true"}), "20-bad.json: job 'a': key 'id'"),
        (
            lambda site: (site.daemon.state_dir / "config.toml").write_text("max_concurrent_jobs = 0\n"),
            "key 'max_concurrent_jobs'",
        ),
    ],
    ids=["a job file", "the configuration"],
)
def test_a_supervisor_that_takes_over_goes_on_although_a_file_is_wrong(site, wrong, said):
    (site.daemon.state_dir / "config.toml").write_text("max_concurrent_jobs = 3\n")
    site.reload()
    known = site.jobs()
    wrong(site)
    kill_supervisor(site.daemon)
    status = site.daemon.status()
    assert (site.jobs(), status["max_concurrent_jobs"]) == (known, 3)
    (problem,) = status["problems"]
    assert problem.startswith("not taken, so that what was before holds: ")
    assert said in problem
    assert site.daemon.wait(site.daemon.run("b"))["status"] == "completed"
    assert site.refused(control.Reload()).code == control.INVALID
    (site.jobs_d / "20-bad.json").unlink(missing_ok=True)
    (site.daemon.state_dir / "config.toml").write_text("max_concurrent_jobs = 4\n")
    site.reload()
    status = site.daemon.status()
    assert (status["max_concurrent_jobs"], status["problems"]) == (4, [])


def test_a_directory_of_jobs_that_cannot_be_read_ends_nobody(site):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    site.jobs_d.chmod(0o000)
    try:
        assert "Permission denied" in str(site.refused(control.Reload()))
        os.kill(site.daemon.launcher_pid, signal.SIGHUP)
        harness.wait_for(lambda: "not reloaded: " in site.daemon.log)
        kill_supervisor(site.daemon)
        assert len(site.daemon.status()["problems"]) == 1
    finally:
        site.jobs_d.chmod(0o700)


def test_a_daemon_comes_up_on_a_changed_schedule_with_a_slot_that_was_missed(site):
    site.write("20-more.json", {"id": "c", "command": "true", "schedule": "@every 1m"})
    site.reload()
    site.daemon.stop()
    with contextlib.closing(sqlite3.connect(site.daemon.state_dir / "lnmt.db")) as db, db:
        statement = "UPDATE jobs SET watermark = watermark - 120000, next_slot = next_slot - 120000 WHERE job_id = 'c'"
        assert db.execute(statement).rowcount == 1
    site.write("20-more.json", {"id": "c", "command": "true", "schedule": "@yearly"})
    site.daemon.start()
    assert site.jobs()["c"]["schedule"] == "@yearly"
    newest = site.daemon.history(job_id="c")[0]
    assert site.daemon.wait(newest["run_id"])["status"] == "completed"


# Remove and purge.


def test_a_job_that_others_depend_on_is_not_removed(daemon):
    daemon.add(id="a", command="true")
    daemon.add(id="b", command="true", schedule="@daily", dependencies=["a"])
    outcome = daemon.ctl("remove", "a")
    assert outcome.code == control.INVALID
    assert "b depend on 'a'" in outcome.stderr


def test_a_removed_job_lets_its_run_end_and_its_name_begins_anew(daemon):
    daemon.add(id="a", command='while ! test -e "$LNMT_STATE_DIR/go"; do sleep 0.02; done; echo done')
    run_id = daemon.run("a")
    daemon.request(control.Remove(job_id="a"))
    daemon.add(id="a", command="true")
    assert daemon.history(job_id="a") == []
    newer = daemon.run("a")
    assert daemon.wait(newer)["status"] == "completed"
    (daemon.state_dir / "jobs" / "1" / "go").touch()
    assert daemon.wait(run_id)["status"] == "completed"
    assert daemon.output(run_id) == b"done\n"
    assert [row["run_id"] for row in daemon.history(job_id="a")] == [newer]
    assert [row["run_id"] for row in daemon.history()] == [newer, run_id]


def test_purge_removes_history_output_and_state_directory(daemon):
    daemon.add(id="a", command='echo secret; touch "$LNMT_STATE_DIR/file"')
    run_id = daemon.run_to_end("a")["run_id"]
    state = daemon.state_dir / "jobs" / "1"
    assert (state / "file").exists()
    assert list((daemon.state_dir / "output").rglob(f"{run_id}.*"))
    assert daemon.ctl("remove", "a", "--purge").code == 0
    assert daemon.history() == []
    assert not state.exists()
    assert not list((daemon.state_dir / "output").rglob(f"{run_id}.*"))


def test_purge_of_a_job_that_runs_is_refused_and_changes_nothing(daemon):
    daemon.add(id="a", command="sleep 60", kill_grace=0)
    run_id = daemon.run("a")
    with pytest.raises(client.RequestError) as refused:
        daemon.request(control.Remove(job_id="a", purge=True))
    assert refused.value.code == control.FAILED
    assert str(run_id) in str(refused.value)
    daemon.request(control.Cancel(run_id=run_id))
    daemon.request(control.Remove(job_id="a", purge=True))
    assert daemon.history() == []


def test_an_edit_is_no_rename(daemon):
    daemon.add(id="a", command="true")
    with pytest.raises(client.RequestError):
        daemon.request(control.Edit(job_id="a", changes={"id": "b"}))


# Retention and audit.


def test_retention_takes_rows_and_output_by_number_size_and_age(make_daemon):
    daemon = make_daemon(config="[retention]\nruns = 3\nsize = 2500\n")
    daemon.add(id="a", command="head -c 1000 /dev/zero")
    daemon.add(id="old", command="echo old")
    first = daemon.run_to_end("old")["run_id"]
    second = daemon.run_to_end("old")["run_id"]
    runs = [daemon.run_to_end("a")["run_id"] for _ in range(5)]
    daemon.stop()
    with contextlib.closing(sqlite3.connect(daemon.state_dir / "lnmt.db")) as db, db:
        months = 90 * 86_400_000
        for run_id in (first, second):
            # Its output lies in the folder of the day that it was decided on, so that stays.
            db.execute("UPDATE job_history SET end_time = end_time - ? WHERE run_id = ?", [months, run_id])
    daemon.start()
    harness.wait_for(lambda: [row["run_id"] for row in daemon.history()] == [*runs[:1:-1], second])
    harness.wait_for(lambda: daemon.output(runs[2]) == b"")
    assert [len(daemon.output(run_id)) for run_id in runs[3:]] == [1000, 1000]
    kept = {int(path.name.split(".")[0]) for path in (daemon.state_dir / "output").rglob("*.log")}
    assert kept == set(runs[3:])  # the oldest output went first: that of the last old run, whose row stays


def test_every_change_is_in_the_audit_with_who_and_what_and_no_secret(daemon):
    daemon.add(id="a", command="true", environment={"API_TOKEN": "hunter2"})
    daemon.request(control.Edit(job_id="a", changes={"timeout": 5, "environment": {"API_TOKEN": "hunter3"}}))
    daemon.request(control.Disable(job_id="a"))
    daemon.request(control.Enable(job_id="a"))
    run_id = daemon.run_to_end("a")["run_id"]
    again = daemon.request(control.Retry(run_id=run_id))["run_id"]
    daemon.wait(again)
    daemon.request(control.Remove(job_id="a"))
    entries = audit(daemon)[::-1]
    user = pwd.getpwuid(os.geteuid()).pw_name
    assert {(entry["uid"], entry["user"]) for entry in entries} == {(os.geteuid(), user)}
    assert [entry["action"] for entry in entries] == ["add", "edit", "disable", "enable", "run", "retry", "remove"]
    assert {entry["target"] for entry in entries} == {"a"}
    add, edit, disable, _, run, retry, remove = entries
    assert (add["before"], add["after"]["command"], remove["after"]) == (None, "true", None)
    assert ("timeout" in edit["before"], edit["after"]["timeout"]) == (False, 5)
    assert (disable["before"], disable["after"]) == ({"enabled": True}, {"enabled": False})
    assert (run["after"], retry["after"]) == ({"run_id": run_id}, {"run_id": again})
    assert "hunter" not in str(entries)
    assert "hunter" not in daemon.ctl("audit", "-o", "json").stdout
