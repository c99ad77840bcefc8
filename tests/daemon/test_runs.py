"""What becomes of a run, by the table of reasons: every row, with a real daemon and real children."""

import os
import pwd
import signal
from pathlib import Path
from typing import Any

import harness
import pytest

from lnmt_scheduler.ipc import codec, control
from lnmt_scheduler.supervisor import client

MODULE = """
import logging, os, sys, time

def returns(n=1, context=None):
    print("printed", n)
    logging.getLogger("it").warning("logged")
    context.progress(n, 10, "half")
    context.log("said", "notice")
    return {"n": n, "run": context.run_id, "dir": context.state_dir}

def nothing(): pass
def raises(): raise ValueError("no good")
def an_object(): return object()
def too_much(): return "x" * 2_000_000
def exits(code): sys.exit(code)
def huge_int(): return 1 << 80
def flaky(context):
    path = os.path.join(context.state_dir, "count")
    count = int(open(path).read()) if os.path.exists(path) else 0
    open(path, "w").write(str(count + 1))
    if count < 2:
        raise RuntimeError(f"attempt {count + 1}")
    return count
def watches(context):
    open(os.path.join(context.state_dir, "up"), "w").close()
    context.cancelled
    print("ready", flush=True)
    while not context.cancelled:
        time.sleep(0.01)
    print("asked to end")
class Jobs:
    @staticmethod
    def inner(): return "dotted"
"""


@pytest.fixture
def jobs(folder: Path) -> dict[str, Any]:
    """Keys that make the functions above importable."""
    (folder / "the_jobs.py").write_text(MODULE)
    return {"module": "the_jobs", "python_path": [str(folder)]}


def reason(row: dict[str, Any]) -> tuple[str, str | None]:
    return row["status"], row["reason"]


def result(daemon: harness.Daemon, row: dict[str, Any]) -> object:
    return codec.unpack(daemon.request(control.Read(run_id=row["run_id"], what="result"))["data"])


def test_a_command_that_exits_with_0_completed(daemon):
    daemon.add(id="a", command="echo out; echo err >&2")
    row = daemon.run_to_end("a")
    assert reason(row) == ("completed", None)
    assert row["exit_code"] == 0
    assert row["enforced"]["tree_kill"] in ("enforced", "best effort")
    assert daemon.output(row["run_id"], "stdout") == b"out\n"
    assert daemon.output(row["run_id"], "stderr") == b"err\n"


def test_an_exit_code_among_the_warnings_is_no_failure(daemon):
    daemon.add(id="a", command="exit 4", success_codes=[0, 3], warning_codes=[4])
    assert reason(daemon.run_to_end("a")) == ("completed", "warning")


def test_another_exit_code_among_the_successes_is_one(daemon):
    daemon.add(id="a", command="exit 3", success_codes=[0, 3])
    assert reason(daemon.run_to_end("a")) == ("completed", None)


def test_any_other_exit_code_failed(daemon):
    daemon.add(id="a", command="exit 7")
    row = daemon.run_to_end("a")
    assert reason(row) == ("failed", "exit")
    assert row["exit_code"] == 7


@pytest.mark.parametrize(
    "number", [signal.SIGKILL, signal.SIGSEGV, signal.SIGPIPE, signal.SIGXFSZ, signal.SIGRTMIN + 3]
)
def test_a_signal_that_we_did_not_send_is_named(daemon, number):
    daemon.add(id="a", command=f"kill -{int(number)} $$")
    row = daemon.run_to_end("a")
    assert reason(row) == ("failed", "signal")
    assert row["exit_code"] is None
    assert row["signal"] == (number.name if isinstance(number, signal.Signals) else f"SIG{int(number)}")


def test_a_function_that_returns_is_heard_in_every_way(daemon, jobs):
    daemon.add(id="a", function="returns", kwargs={"n": 5}, **jobs)
    row = daemon.run_to_end("a")
    assert reason(row) == ("completed", None)
    value = result(daemon, row)
    assert value["n"] == 5
    assert value["run"] == row["run_id"]
    assert daemon.output(row["run_id"], "stdout") == b"printed 5\n"
    assert daemon.output(row["run_id"], "stderr") == b"WARNING it: logged\n"
    assert daemon.output(row["run_id"], "log") == b"notice: said\n"


def test_a_run_by_hand_overrides_kwargs(daemon, jobs):
    daemon.add(id="a", function="returns", kwargs={"n": 5}, **jobs)
    assert result(daemon, daemon.run_to_end("a", kwargs={"n": 6}))["n"] == 6


def test_a_dotted_function_and_one_without_result(daemon, jobs):
    daemon.add(id="dotted", function="Jobs.inner", **jobs)
    assert result(daemon, daemon.run_to_end("dotted")) == "dotted"
    daemon.add(id="none", function="nothing", **jobs)
    row = daemon.run_to_end("none")
    assert (reason(row), result(daemon, row)) == (("completed", None), None)


def test_a_function_that_raises_leaves_type_message_and_traceback(daemon, jobs):
    daemon.add(id="a", function="raises", **jobs)
    row = daemon.run_to_end("a")
    assert reason(row) == ("failed", "exception")
    assert row["error"].endswith("ValueError: no good")
    assert "the_jobs.py" in row["error"]
    assert "lnmt_scheduler" not in row["error"]
    assert "jobs/child.py" not in row["error"]


@pytest.mark.parametrize(
    ("function", "words"),
    [("an_object", "object"), ("too_much", "result_limit"), ("huge_int", "64 bits")],
)
def test_a_result_that_cannot_be_carried_is_an_error_of_its_own(daemon, jobs, function, words):
    daemon.add(id="a", function=function, **jobs)
    row = daemon.run_to_end("a", with_retries=True)
    assert reason(row) == ("failed", "result")
    assert words in row["error"]
    assert row["retry_count"] == 0


def test_sys_exit_in_a_function_is_its_exit_code(daemon, jobs):
    daemon.add(id="a", function="exits", args=[5], **jobs)
    row = daemon.run_to_end("a")
    assert (reason(row), row["exit_code"]) == (("failed", "exit"), 5)


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ({"command": ["/no/such/program"]}, "No such file or directory"),
        ({"command": ["/etc/passwd"]}, "Permission denied"),
        ({"command": "true", "working_directory": "/no/such/folder"}, "working directory"),
        ({"module": "no_such_module", "function": "f"}, "No module named 'no_such_module'"),
        ({"module": "json", "function": "no_such.thing"}, "'no_such' is missing"),
        ({"command": "true", "user": "no-such-user-here"}, "no account is named 'no-such-user-here'"),
        ({"command": "true", "environment_file": "/no/such/file"}, "environment_file"),
    ],
)
def test_what_cannot_be_started_says_why(daemon, definition, words):
    daemon.add(id="a", **definition)
    row = daemon.run_to_end("a")
    assert reason(row) == ("failed", "spawn")
    assert words in row["error"]
    assert row["exit_code"] is None


def test_silence_stalls_and_words_do_not(daemon):
    daemon.add(id="silent", command="sleep 60", stall_timeout=0.4, kill_grace=1)
    daemon.add(id="talks", command="for i in 1 2 3 4 5 6; do echo $i; sleep 0.15; done", stall_timeout=0.6)
    assert reason(daemon.run_to_end("silent")) == ("failed", "stalled")
    assert reason(daemon.run_to_end("talks")) == ("completed", None)


def test_output_over_the_limit_kills_only_where_that_is_asked(daemon):
    limits = {"output": 4096}
    daemon.add(id="kill", command="while :; do echo xxxxxxxxxxxxxxxxxxxxxxx; done", limits=limits, output_action="kill")
    row = daemon.run_to_end("kill")
    assert reason(row) == ("failed", "output")
    daemon.add(id="cut", command="seq 1 10000; echo the end", limits=limits)
    row = daemon.run_to_end("cut")
    assert reason(row) == ("completed", None)
    assert row["truncated"]
    kept = daemon.output(row["run_id"])
    assert kept.startswith(b"1\n2\n3\n")
    assert kept.endswith(b"10000\nthe end\n")
    assert b"bytes of output dropped here" in kept
    assert row["output_bytes"] == len(b"".join(b"%d\n" % n for n in range(1, 10001))) + len(b"the end\n")


def test_output_of_any_bytes_is_kept_as_it_is(daemon):
    data = bytes(range(256)) * 40
    program = "import sys; sys.stdout.buffer.write(bytes(range(256)) * 40)"
    daemon.add(id="a", command=["python3", "-c", program])
    row = daemon.run_to_end("a")
    assert daemon.output(row["run_id"]) == data


def test_a_crash_is_retried_until_it_works(daemon, jobs):
    daemon.add(id="a", function="flaky", retry_delay=0.05, max_retries=3, **jobs)
    row = daemon.run_to_end("a", with_retries=True)
    assert reason(row) == ("completed", None)
    assert row["retry_count"] == 2
    assert result(daemon, row) == 2
    assert b"[attempt 3 of 4]" in daemon.output(row["run_id"])


def test_a_run_by_hand_is_one_attempt(daemon):
    daemon.add(id="a", command="exit 1", retry_delay=0)
    assert daemon.run_to_end("a")["retry_count"] == 0


def test_retry_on_names_what_is_tried_again(daemon):
    daemon.add(id="a", command="exit 75", retry_on=["exit:75"], retry_delay=0, max_retries=2)
    assert daemon.run_to_end("a", with_retries=True)["retry_count"] == 2
    daemon.add(id="b", command="exit 1", retry_on=["exit:75"], retry_delay=0, max_retries=2)
    assert daemon.run_to_end("b", with_retries=True)["retry_count"] == 0


def test_total_timeout_ends_the_attempts_too(daemon):
    daemon.add(id="a", command="sleep 0.3; exit 1", retry_delay=0, max_retries=50, total_timeout=1)
    row = daemon.run_to_end("a", with_retries=True)
    assert row["status"] == "failed"
    assert 0 < row["retry_count"] < 10


def test_a_run_that_exits_0_within_the_grace_timed_out_all_the_same(daemon):
    daemon.add(id="a", command="trap 'exit 0' TERM; while :; do sleep 0.05; done", timeout=0.3, kill_grace=5)
    row = daemon.run_to_end("a")
    assert reason(row) == ("failed", "timeout")
    assert row["exit_code"] == 0


def test_a_cancelled_function_may_end_in_its_own_way(daemon, jobs):
    daemon.add(id="a", function="watches", kill_grace=10, **jobs)
    run_id = daemon.run("a")
    harness.wait_for(lambda: b"ready" in daemon.output(run_id))
    row = daemon.request(control.Cancel(run_id=run_id))["run"]
    assert reason(row) == ("cancelled", "cancelled")
    assert daemon.output(run_id).endswith(b"asked to end\n")


def test_a_second_run_by_hand_is_refused_with_the_id_of_the_first(daemon):
    daemon.add(id="a", command="sleep 30", kill_grace=0)
    first = daemon.run("a")
    with pytest.raises(client.RequestError) as refused:
        daemon.run("a")
    assert refused.value.code == control.FAILED
    assert refused.value.details == (str(first),)
    second = daemon.run("a", allow_overlap=True)
    for run_id in (first, second):
        assert reason(daemon.request(control.Cancel(run_id=run_id))["run"]) == ("cancelled", "cancelled")


def test_a_queued_run_that_is_cancelled_never_starts(make_daemon):
    daemon = make_daemon(config="max_concurrent_jobs = 1\n")
    daemon.add(id="first", command="sleep 30", kill_grace=0)
    daemon.add(id="second", command="true")
    first = daemon.run("first")
    second = daemon.run("second")
    row = daemon.request(control.Cancel(run_id=second))["run"]
    assert reason(row) == ("cancelled", "cancelled")
    assert row["start_time"] is None
    daemon.request(control.Cancel(run_id=first))
    with pytest.raises(client.RequestError) as refused:
        daemon.request(control.Cancel(run_id=second))
    assert refused.value.code == control.NOT_FOUND


def test_what_is_queued_when_its_job_is_disabled_or_removed_is_skipped_with_that_reason(make_daemon):
    daemon = make_daemon(config="max_concurrent_jobs = 1\n")
    daemon.add(id="first", command="sleep 30", kill_grace=0)
    daemon.add(id="off", command="true")
    daemon.add(id="gone", command="true")
    first = daemon.run("first")
    off, gone = daemon.run("off"), daemon.run("gone")
    daemon.request(control.Disable(job_id="off"))
    daemon.request(control.Remove(job_id="gone"))
    assert reason(daemon.wait(off)) == ("skipped", "disabled")
    assert reason(daemon.wait(gone)) == ("skipped", "removed")
    daemon.request(control.Cancel(run_id=first))


def test_the_environment_is_clean_and_says_which_run_this_is(make_daemon):
    daemon = make_daemon(environment={"LEAKED": "yes", "PYTHONPATH": "/leaked"})
    daemon.add(
        id="a",
        command="env; umask; pwd; readlink /proc/self/fd/0; ls /proc/self/fd",
        timezone="Europe/Berlin",
        environment={"OWN": "1"},
        working_directory="/",
    )
    row = daemon.run_to_end("a")
    lines = daemon.output(row["run_id"]).decode().splitlines()
    found = dict(line.split("=", 1) for line in lines if "=" in line)
    assert "LEAKED" not in found
    assert "PYTHONPATH" not in found
    assert found["PATH"] == "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
    assert (found["OWN"], found["TZ"], found["LANG"]) == ("1", "Europe/Berlin", "C.UTF-8")
    assert (found["LNMT_JOB_ID"], found["LNMT_RUN_ID"], found["LNMT_ATTEMPT"]) == ("a", str(row["run_id"]), "1")
    rest = [line for line in lines if "=" not in line]
    assert rest[:3] == ["0022", "/", "/dev/null"]
    assert rest[3:] == ["0", "1", "2", "3", "4"]  # the last is ls's own


ENVIRON = """
import ctypes

def job():
    ctypes.CDLL(None).prctl(4, 1, 0, 0, 0)  # PR_SET_DUMPABLE: without it a process whose user was changed may not read its own
    with open("/proc/self/environ", "rb") as file:
        return sorted(entry.partition(b"=")[0].decode() for entry in file.read().split(b"\\0") if entry)
"""


@pytest.mark.parametrize("profile", ["trusted", "standard"])
def test_what_the_daemon_was_started_with_is_not_in_the_memory_of_a_function(make_daemon, folder, profile):
    """Which is a fork of the launcher, and has the block that the launcher was given with its environment."""
    (folder / "looks.py").write_text(ENVIRON)
    daemon = make_daemon(environment={"LEAKED": "hunter2", "SSH_AUTH_SOCK": "/nowhere", "LNMT_LEAKED": "hunter2"})
    daemon.add(id="a", module="looks", function="job", python_path=[str(folder)], sandbox=profile, max_retries=0)
    row = daemon.run_to_end("a")
    if row["reason"] == "sandbox":
        pytest.skip(row["error"])
    assert row["status"] == "completed", row
    found = set(codec.unpack(daemon.request(control.Read(run_id=row["run_id"], what="result"))["data"]))
    assert "PATH" in found
    assert {"LEAKED", "SSH_AUTH_SOCK", "LNMT_LEAKED"}.isdisjoint(found)


def test_a_job_cannot_write_past_a_file_size_limit_in_silence(daemon):
    daemon.add(id="a", command="head -c 100000 /dev/zero > $LNMT_STATE_DIR/big", limits={"file_size": 4096})
    row = daemon.run_to_end("a")
    assert row["status"] == "failed"


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs jobs as another user")
def test_an_account_whose_home_is_not_there_starts_in_the_root_directory(daemon):
    assert not os.path.exists(pwd.getpwnam("nobody").pw_dir), "this host gives nobody a home"
    daemon.add(id="a", command="pwd; echo $HOME; id -un", user="nobody")
    row = daemon.run_to_end("a")
    assert daemon.output(row["run_id"]).decode().split() == ["/", pwd.getpwnam("nobody").pw_dir, "nobody"]


def test_edit_turns_a_job_on_that_a_person_turned_off(daemon):
    daemon.add(id="a", command="true", schedule="0 0 1 1 *")
    daemon.request(control.Disable(job_id="a"))
    assert daemon.request(control.Edit(job_id="a", changes={"description": "still off"}))["job"]["enabled"] is False
    assert daemon.request(control.Edit(job_id="a", changes={"enabled": True}))["job"]["enabled"] is True
