"""schedctl sandbox, doctor, the hint and the replay against a real daemon."""

import os
import shlex
import subprocess

import harness
import pytest


@pytest.fixture
def boxed(daemon):
    """A daemon that gives boxes with files of their own; skips where this host does not."""
    found = daemon.ctl("doctor", "-o", "json").json
    states = {each["profile"]: each["state"] for each in found["profiles"]}
    if states["standard"] == "refused" or found["mode"] not in "ab":
        pytest.skip(f"profile standard: {[each for each in found['profiles'] if each['state'] == 'refused']}")
    return daemon


def test_every_layer_of_standard_that_this_host_gives_is_measured_as_enforced(boxed):
    boxed.add(id="job", command="false", sandbox="standard")
    shown = boxed.ctl("sandbox", "show", "job", "-o", "json").json
    given = {each["layer"] for each in shown["layers"] if each["state"] == "enforced"}
    done = boxed.ctl("sandbox", "test", "job", "-o", "json")
    measured = {each["layer"]: each for each in done.json["layers"]}
    assert done.json["error"] is None
    assert {"filesystem", "seccomp", "no_new_privs", "daemon_files", "namespaces"} <= given
    assert {layer for layer in given if measured[layer]["state"] != "enforced"} == set()
    tried = {each["operation"]: each["outcome"] for each in done.json["attempts"]}
    assert tried["create a file in /etc"] == "EROFS"
    assert tried[f"connect to {boxed.socket}"] in ("ENOENT", "EACCES")


def test_a_test_leaves_nothing_behind(boxed):
    boxed.add(id="job", command="false", sandbox="standard")
    before = sorted(os.listdir(boxed.state_dir))
    assert boxed.ctl("sandbox", "test", "job").code in (0, 1)
    assert sorted(os.listdir(boxed.state_dir)) == before
    assert boxed.history() == []
    assert boxed.ctl("show", "job", "-o", "json").json["status"] == "never_run"


def test_a_test_disturbs_no_run_of_the_job(boxed):
    script = 'cd "$LNMT_STATE_DIR"; echo mine > kept; mkfifo go; echo ready; read x < go; cat kept; echo more > other'
    boxed.add(id="job", command=script, sandbox="standard", max_retries=0)
    number = boxed.run("job")
    harness.wait_for(lambda: boxed.output(number) == b"ready\n", what="the run")
    assert boxed.ctl("sandbox", "test", "job").code in (0, 1)
    (fifo,) = boxed.state_dir.glob("jobs/*/go")
    fifo.write_text("go\n")
    assert boxed.wait(number)["status"] == "completed"
    assert boxed.output(number) == b"ready\nmine\n"


def test_a_layer_that_is_masked_is_told_by_show_and_test_and_doctor(make_daemon):
    daemon = make_daemon(environment={"LNMT_PRETEND": "landlock,seccomp"})
    daemon.add(id="job", command="true", sandbox="standard")
    shown = daemon.ctl("sandbox", "show", "job", "-o", "json")
    assert shown.code == 1
    assert "seccomp" in shown.json["refused"]
    assert shown.json["plan"] == {}
    tested = daemon.ctl("sandbox", "test", "job")
    assert tested.code == 1
    assert "seccomp: required by profile 'standard'" in tested.stderr
    doctor = daemon.ctl("doctor", "-o", "json")
    assert doctor.code == 2
    judged = {each["profile"]: each for each in doctor.json["profiles"]}
    assert "seccomp" in judged["standard"]["refused_for"]
    assert "landlock" in judged["standard"]["degraded_in"]
    assert judged["trusted"]["refused_for"] == []


def test_a_profile_can_be_asked_for_and_must_exist(daemon):
    daemon.add(id="job", command="true")
    assert daemon.ctl("sandbox", "show", "job", "--profile", "untrusted", "-o", "json").json["profile"] == "untrusted"
    assert daemon.ctl("sandbox", "test", "job", "--profile", "nonesuch").code == 78
    assert daemon.ctl("sandbox", "show", "nonesuch").code == 3


def test_a_test_is_in_the_audit(daemon):
    daemon.add(id="job", command="true")
    daemon.ctl("sandbox", "test", "job")
    newest = daemon.ctl("audit", "--limit", "1", "-o", "json").json[0]
    assert (newest["action"], newest["target"]) == ("sandbox test", "job")


def test_the_log_of_a_boxed_run_that_was_denied_ends_with_the_key_and_the_replay(boxed):
    script = "printf before; echo x > /etc/lnmt-no"
    boxed.add(id="job", command=script, sandbox="standard", max_retries=0)
    run = boxed.run_to_end("job")
    lines = boxed.output(run["run_id"]).decode().splitlines()
    assert lines[-2].startswith("hint: '/etc/lnmt-no' is read-only in profile 'standard'")
    assert lines[-1].startswith("replay: ")
    assert boxed.output(run["run_id"], "log").decode().splitlines()[-2:] == lines[-2:]
    assert boxed.output(run["run_id"], "stdout") == b"before"
    assert run["output_bytes"] == len(boxed.output(run["run_id"]))
    again = subprocess.run(shlex.split(lines[-1])[1:], capture_output=True, text=True, timeout=60)
    assert again.returncode == run["exit_code"]
    assert "/etc/lnmt-no: Read-only file system" in again.stderr


def test_a_run_that_did_not_fail_and_one_that_is_retried_say_nothing(daemon):
    daemon.add(id="good", command="echo fine")
    assert daemon.output(daemon.run_to_end("good")["run_id"]) == b"fine\n"
    daemon.add(id="bad", command="exit 1", max_retries=1, retry_delay=0.01)
    run = daemon.run_to_end("bad", with_retries=True)
    assert daemon.output(run["run_id"]).count(b"replay: ") == 1


def test_a_run_that_was_cancelled_says_nothing(daemon):
    daemon.add(id="long", command="echo on; sleep 1000")
    number = daemon.run("long")
    assert daemon.ctl("cancel", str(number)).code == 0
    assert b"replay" not in daemon.output(number)


def test_a_shell_is_in_the_very_box_of_the_job(boxed):
    script = "id -u; pwd; cat /proc/self/limits | grep -c 'Max open files *77 '; echo $MINE; touch /etc/no"
    boxed.add(
        id="job",
        command=script,
        sandbox="standard",
        max_retries=0,
        environment={"MINE": "own"},
        working_directory="/usr",
        limits={"open_files": 77},
    )
    run = boxed.run_to_end("job")
    done = boxed.ctl("sandbox", "shell", "job", "--", "sh", "-c", script)
    wanted = boxed.output(run["run_id"], "stdout").decode().splitlines()
    assert done.stdout.splitlines()[1:] == wanted[1:] == ["/usr", "1", "own"]
    assert "Read-only file system" in done.stderr
    assert done.code == run["exit_code"] == 1
    uid = int(done.stdout.splitlines()[0])
    assert (uid not in (0, int(wanted[0]))) if os.geteuid() == 0 else uid == os.geteuid()


def test_a_shell_keeps_what_is_in_the_state_directory(boxed):
    boxed.add(id="job", command='cat kept >> "$LNMT_STATE_DIR/kept"; cat "$LNMT_STATE_DIR/kept"', sandbox="standard")
    done = boxed.ctl("sandbox", "shell", "job", "--", "sh", "-c", 'cat > "$LNMT_STATE_DIR/kept"', stdin="by hand\n")
    assert done.code == 0, done
    run = boxed.run_to_end("job", allow_overlap=True)
    assert boxed.output(run["run_id"], "stdout") == b"by hand\n"


def test_a_shell_reads_commands_from_a_pipe(daemon):
    daemon.add(id="job", command="true", sandbox="trusted")
    done = daemon.ctl("sandbox", "shell", "job", stdin="echo $LNMT_JOB_ID\nexit 5\n")
    assert (done.stdout, done.code) == ("job\n", 5)


def test_there_is_no_shell_beside_a_run(daemon):
    daemon.add(id="job", command="sleep 1000")
    number = daemon.run("job")
    done = daemon.ctl("sandbox", "shell", "job", "--", "true")
    assert done.code == 1
    assert f"run {number} of 'job' has not ended" in done.stderr


def test_a_shell_is_for_the_account_that_starts_the_jobs(make_daemon, ordinary_user):
    if os.geteuid() != 0:
        pytest.skip("root, to be another than the daemon's account")
    daemon = make_daemon(user=ordinary_user, name="theirs")
    daemon.add(id="job", command="true")
    done = daemon.ctl("sandbox", "shell", "job", "--", "true")
    assert done.code == 77
    assert "which starts the jobs" in done.stderr
