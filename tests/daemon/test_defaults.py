"""What a job gets that asks for nothing: under each account and mode, where it is changed, and where it cannot be had."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from lnmt_scheduler.ipc import control
from lnmt_scheduler.sandbox import users
from lnmt_scheduler.supervisor import client

AS_ROOT = os.geteuid() == 0
DATA = Path(__file__).parents[1] / "data"
needs_root = pytest.mark.skipif(not AS_ROOT, reason="a user of its own for each run: needs a root daemon")


@pytest.fixture
def boxed(make_daemon):
    """A daemon that gives the default profile; skips by name where this host does not."""
    daemon = make_daemon(config=None)
    if problems := daemon.status()["problems"]:
        pytest.skip(f"the default profile: {problems[0]}")
    return daemon


def refused(daemon, **definition):
    with pytest.raises(client.RequestError) as caught:
        daemon.add(**definition)
    return caught.value


def test_a_job_that_asks_for_nothing_is_standard(boxed):
    added = boxed.add(
        id="job", command="id -u; grep NoNewPrivs /proc/self/status; touch /usr/mine 2> /dev/null || echo denied"
    )
    row = boxed.run_to_end("job")
    lines = boxed.output(row["run_id"]).decode().splitlines()
    assert (row["status"], row["profile"], row["enforced"]["seccomp"]) == ("completed", "standard", "enforced")
    assert lines[1] == "NoNewPrivs:\t1"
    assert lines[-1] == "denied"
    if AS_ROOT:
        assert int(lines[0]) == row["uid"]
        assert row["uid"] in users.DEFAULT
        assert added["runs_as"] == "a user of its own"
    else:
        assert int(lines[0]) == os.geteuid()
        assert added["runs_as"] == pwd.getpwuid(os.geteuid()).pw_name


def test_a_service_account_runs_it_as_itself_in_a_box(make_daemon, ordinary_user):
    daemon = make_daemon(config=None, **({"user": ordinary_user} if AS_ROOT else {}))
    if problems := daemon.status()["problems"]:
        pytest.skip(f"the default profile: {problems[0]}")
    daemon.add(
        id="job",
        command="id -u; touch /tmp/mine; touch /var/tmp/mine || true; touch /usr/mine 2> /dev/null || echo denied",
    )
    row = daemon.run_to_end("job")
    lines = daemon.output(row["run_id"]).decode().splitlines()
    assert (row["status"], row["profile"]) == ("completed", "standard")
    assert (int(lines[0]), lines[-1]) == (pwd.getpwnam(ordinary_user).pw_uid, "denied")


@needs_root
def test_a_function_of_a_closed_home_reads_its_own_modules_there_and_nothing_else(boxed, folder):
    home, lib = folder / "home", folder / "home" / "lib"
    lib.mkdir(parents=True)
    (home / "secret").write_text("nobody's business")
    (home / "secret").chmod(0o644)
    home.chmod(0o700)
    (lib / "looks.py").write_text(
        "import os\n"
        "def look(path):\n"
        "    return [os.getuid(), os.path.exists(path), os.access(os.path.dirname(path), os.R_OK)]\n"
    )
    boxed.add(
        id="job", module="looks", function="look", args=[str(home / "secret")], python_path=[str(lib)], max_retries=0
    )
    row = boxed.run_to_end("job")
    assert row["status"] == "completed", boxed.output(row["run_id"])
    result = boxed.ctl("history", "--job", "job", "-o", "json").json[0]["result"]
    assert result == [row["uid"], False, False]
    assert refused(boxed, id="closed", module="looks", function="look", python_path=[str(home)]).code == control.INVALID


@needs_root
def test_a_link_into_a_closed_directory_is_followed_where_what_it_leads_to_is_shown(boxed, folder):
    tools = folder / "home" / "tools"
    tools.mkdir(parents=True)
    (tools / "program").write_text("#!/bin/sh\necho ran\n")
    (tools / "program").chmod(0o755)
    tools.parent.chmod(0o700)
    place = Path(tempfile.mkdtemp(prefix="lnmt-test-", dir="/var/lib"))  # outside of /tmp, which a box has of its own
    place.chmod(0o755)
    link = place / "link"
    link.symlink_to(tools / "program")
    try:
        assert "'command'" in refused(boxed, id="job", command=[str(link)]).message
        boxed.add(id="job", command=[str(link)], sandbox={"readable": [str(tools)]})
        row = boxed.run_to_end("job")
        assert (row["status"], boxed.output(row["run_id"])) == ("completed", b"ran\n")
    finally:
        shutil.rmtree(place)


@needs_root
@pytest.mark.parametrize("key", ["python_path", "working_directory"])
def test_a_path_that_its_user_cannot_reach_is_refused_when_the_job_is_defined(boxed, folder, key):
    home = folder / "home"
    home.mkdir(mode=0o700)
    value = {"python_path": [str(home)], "working_directory": str(home)}[key]
    error = refused(boxed, id="job", module="json", function="dumps", **{key: value})
    assert error.message.startswith(f"job 'job': key '{key}': {home} cannot be reached by the user of its own")
    for more in ({"user": "root"}, {"sandbox": "trusted"}):
        boxed.add(id=f"job{len(more)}{next(iter(more))}", module="json", function="dumps", **{key: value}, **more)


def test_the_daemons_own_directory_is_refused_when_the_job_is_defined(boxed):
    error = refused(boxed, id="job", command="true", working_directory=str(boxed.state_dir))
    assert f"key 'working_directory': {boxed.state_dir} is the daemon's own" in error.message
    done = boxed.ctl("add", "--id", "job", "--working-directory", str(boxed.state_dir), "--command", "true")
    assert done.code == 78


@needs_root
def test_a_daemon_does_not_start_with_a_new_file_of_such_a_job_and_stays_up_where_one_becomes_so(make_daemon, folder):
    place = folder / "place"
    place.mkdir(mode=0o755)
    jobs = folder / "jobs.json"
    jobs.write_text(f'{{"jobs": [{{"id": "a", "command": "true", "working_directory": "{place}"}}]}}')
    daemon = make_daemon("--jobs", str(jobs), config=None)
    place.chmod(0o700)
    assert daemon.ctl("reload").code == 0
    daemon.stop()
    daemon.start()
    jobs.write_text(jobs.read_text().replace('"true"', '"false"'))
    done = daemon.ctl("reload")
    assert done.code == 78
    assert f"{jobs}: job 'a': key 'working_directory': {place} cannot be reached" in done.stderr
    daemon.stop()
    with pytest.raises(AssertionError, match="ended with code 78"):
        daemon.start()


# Where it is changed.


def test_the_default_of_the_configuration_holds_for_new_jobs_and_for_those_of_files(make_daemon, folder):
    jobs = folder / "jobs.json"
    jobs.write_text('{"jobs": [{"id": "filed", "command": "true"}]}')
    daemon = make_daemon("--jobs", str(jobs), config='default_profile = "trusted"\n')
    daemon.add(id="mine", command="true")

    def profiles():
        shown = {job: daemon.request(control.Show(job_id=job)) for job in ("filed", "mine")}
        return {job: (each["job"]["sandbox"]["profile"], each["origins"].get("sandbox")) for job, each in shown.items()}

    assert profiles() == dict.fromkeys(("filed", "mine"), ("trusted", "site defaults"))
    (daemon.state_dir / "config.toml").write_text("")
    assert daemon.ctl("reload").stdout.endswith("0 added, 1 changed, 0 removed, 0 unchanged\n")
    assert profiles() == {"filed": ("standard", None), "mine": ("trusted", "site defaults")}
    assert daemon.status()["default_profile"] == "standard"
    assert daemon.run_to_end("mine")["profile"] == "trusted"


def test_jobs_of_a_store_that_was_written_before_stay_what_they_were(folder, make_daemon):
    state = folder / "state"
    state.mkdir(mode=0o711)
    shutil.copy(DATA / "store_v1.db", state / "lnmt.db")
    daemon = make_daemon(config=None)
    jobs = {job["id"]: job for job in daemon.request(control.List())["jobs"]}
    # A job of a file that is gone goes with it; the others are not its daemon's to change.
    assert {job_id: job["sandbox"] for job_id, job in jobs.items()} == {"collect": {"profile": "trusted"}}
    daemon.request(control.Edit(job_id="collect", changes={"timeout": 5}))
    row = daemon.run_to_end("collect", allow_overlap=True)
    assert (row["status"], row["profile"], row["uid"]) == ("completed", "trusted", os.geteuid())


# Where it cannot be had.


@pytest.mark.parametrize("masked", ["seccomp", "pidns,userns,landlock"])
def test_a_host_that_cannot_give_the_default_is_told_at_once_and_everywhere(make_daemon, masked):
    daemon = make_daemon(config=None, environment={"LNMT_PRETEND": masked})
    words = "every job of the default profile, 'standard', is refused on this host: "
    assert words in daemon.log
    (problem,) = daemon.status()["problems"]
    assert problem.startswith(words)
    assert f"Problem: {words}" in daemon.ctl("status").stdout
    doctor = daemon.ctl("doctor")
    assert doctor.code == 2
    assert "Jobs that name no profile get standard.\nALL OF THEM FAIL HERE: " in doctor.stdout
    daemon.add(id="default", command="true")
    row = daemon.run_to_end("default")
    assert (row["status"], row["reason"]) == ("failed", "sandbox")
    assert row["error"] in problem
    daemon.add(id="asked", command="true", sandbox="trusted")
    assert daemon.run_to_end("asked")["status"] == "completed"


def test_another_default_mends_it_by_reload(make_daemon):
    daemon = make_daemon(config=None, environment={"LNMT_PRETEND": "seccomp"})
    assert daemon.status()["problems"]
    (daemon.state_dir / "config.toml").write_text('default_profile = "trusted"\n')
    assert daemon.ctl("reload").code == 0
    assert daemon.status()["problems"] == []
    found = daemon.ctl("doctor", "-o", "json").json
    assert found["default"] == {"profile": "trusted", "refused": None}


# The users of runs.


@needs_root
def test_runs_have_the_uids_of_the_configured_range_and_a_reload_says_that_it_waits(make_daemon):
    numbers = users.Range(3_800_000_000, 3_800_000_099)
    daemon = make_daemon(config=f'dynamic_uid_range = "{numbers}"\n')
    if problems := daemon.status()["problems"]:
        pytest.skip(f"the default profile: {problems[0]}")
    daemon.add(id="job", command="id -u")
    row = daemon.run_to_end("job")
    assert row["uid"] in numbers
    assert daemon.output(row["run_id"]) == f"{row['uid']}\n".encode()
    shell = daemon.ctl("sandbox", "shell", "job", "--", "id", "-u")
    assert int(shell.stdout) in numbers, shell
    (daemon.state_dir / "config.toml").write_text("")
    reloaded = daemon.ctl("reload")
    assert reloaded.code == 0
    assert "note: dynamic_uid_range holds from the daemon's next start on" in reloaded.stderr
    assert daemon.run_to_end("job")["uid"] in numbers
    daemon.stop()
    daemon.start()
    assert daemon.run_to_end("job")["uid"] in users.DEFAULT


@needs_root
def test_a_range_that_an_account_has_a_number_of_is_refused_at_the_start_with_its_name(folder):
    nobody = pwd.getpwnam("nobody")
    state = folder / "state"
    state.mkdir(mode=0o711)
    first, last = nobody.pw_uid - 100, nobody.pw_uid
    (state / "config.toml").write_text(f'dynamic_uid_range = "{first}-{last}"\n')
    command = [sys.executable, "-I", "-m", "lnmt_scheduler.supervisor.schedd", "--state-dir", str(state)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    assert done.returncode == 78
    assert f"key 'dynamic_uid_range': {first}-{last} is for runs alone, but has account nobody" in done.stderr
    assert not (state / "lnmt.db").exists()
    (state / "config.toml").write_text('dynamic_uid_range = "5-10"\n')
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)
    assert (done.returncode, "must lie in 1000-4294967294" in done.stderr) == (78, True)


def test_the_words_of_a_run_by_hand_are_those_of_the_daemon(boxed):
    """The replay line of a failed function works as it stands."""
    boxed.add(id="job", module="json", function="nonsense", max_retries=0)
    row = boxed.run_to_end("job")
    (line,) = [line for line in boxed.output(row["run_id"]).decode().splitlines() if line.startswith("replay: ")]
    done = subprocess.run(line.removeprefix("replay: "), shell=True, capture_output=True, text=True, timeout=60)
    assert "cannot import name 'nonsense' from 'json'" in done.stderr
