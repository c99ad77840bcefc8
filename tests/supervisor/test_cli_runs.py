import json
import os
import pty
import signal
import subprocess
import sys
import threading
import time

import fakes
import pytest
import samples

from lnmt_scheduler.ipc import codec, frames, messages
from lnmt_scheduler.supervisor import cli_runs, client, views

PROGRAM = [sys.executable, "-c", "from lnmt_scheduler.supervisor.cli import main; main()"]
RESULT = {"router-01": {"status": "online", "response_time": 15.5}}

HISTORY = """\
┌──────┬─────────────────────┬───────────┬─────────────────────┬─────────────────────┬────────────────┬─────────┬───────┐
│ Run  │ Job ID              │ Status    │ Started (UTC)       │ Ended               │ Duration       │ Retries │ Error │
├──────┼─────────────────────┼───────────┼─────────────────────┼─────────────────────┼────────────────┼─────────┼───────┤
│ 4711 │ network_status_poll │ completed │ 2024-01-15 14:30:15 │ 2024-01-15 14:30:17 │ 0:00:02.156789 │ 0       │       │
└──────┴─────────────────────┴───────────┴─────────────────────┴─────────────────────┴────────────────┴─────────┴───────┘
"""


def output(stream, data):
    return {"kind": "output", "stream": stream, "data": data}


def following(*items, **columns):
    """An answer to Follow: these items, then the run."""

    def follow(_):
        yield from items
        return {"run": samples.run(**columns)}

    return follow


def reading(**stored):
    """An answer to Read out of these bytes."""

    def read(fields):
        data = stored.get(fields["what"], b"")
        begin = max(0, len(data) + fields["offset"]) if fields["offset"] < 0 else fields["offset"]
        return {"data": data[begin : begin + fields["limit"]], "size": len(data), "stored": len(data)}

    return read


def serve_run(schedctl, *items, stored=None, **columns):
    return schedctl.serve(
        run=lambda _: {"run_id": 4711}, follow=following(*items, **columns), read=reading(**stored or {})
    )


def paged(*runs):
    """An answer to History, as the store gives it."""

    def history(fields):
        rows = [run for run in runs if fields["before"] is None or run["run_id"] < fields["before"]]
        rows = [run for run in rows if fields["job_id"] in (None, run["job_id"])]
        page = rows[: fields["limit"]]
        return {"runs": page, "more": page[-1]["run_id"] if len(rows) > len(page) else None}

    return history


# run


def test_run_says_what_the_seed_says(schedctl):
    packed = codec.pack(RESULT)
    serve_run(schedctl, stored={"result": packed}, result_bytes=len(packed))
    done = schedctl("run", "network_status_poll")
    assert done.code == 0
    assert done.out == (
        "Running job 'network_status_poll'...\n"
        "Job 'network_status_poll' completed with status: completed\n"
        f"Output: {RESULT}\n"
    )
    assert done.err == "run 4711: exit 0 (job)\n"


def test_run_shows_each_stream_where_it_belongs(schedctl):
    serve_run(schedctl, output("stdout", b"one\n"), output("stderr", b"TWO\n"), output("log", b"three\n"))
    done = schedctl("run", "network_status_poll")
    assert "one\n" in done.out
    assert "TWO" not in done.out
    assert done.err == "TWO\nthree\nrun 4711: exit 0 (job)\n"


def test_bytes_reach_a_pipe_as_they_are(schedctl):
    serve_run(schedctl, output("stdout", b"\xff\033[31m\0"))
    command = [*PROGRAM, "run", "x", "--socket", schedctl.path]
    done = subprocess.run(command, capture_output=True, check=False)
    assert b"\xff\033[31m\0" in done.stdout


def test_dropped_output_is_told(schedctl):
    serve_run(schedctl, {"kind": "gap", "bytes": 1234})
    assert "[1234 bytes of output dropped here]" in schedctl("run", "x").err


def test_in_json_stdout_holds_the_final_object_only(schedctl):
    packed = codec.pack(RESULT)
    serve_run(
        schedctl,
        output("stdout", b"live\n"),
        stored={"output": b"live\n", "result": packed},
        output_bytes=5,
        result_bytes=len(packed),
    )
    done = schedctl("run", "network_status_poll", "-o", "json")
    found = json.loads(done.out)
    assert found.keys() == set(views.RUN_KEYS)
    assert (found["output"], found["result"]) == ("live\n", RESULT)
    assert done.err == "Running job 'network_status_poll'...\nlive\nrun 4711: exit 0 (job)\n"


def test_the_options_of_run_reach_the_daemon(schedctl):
    server = serve_run(schedctl)
    schedctl(
        "run", "x", "--kwargs", '{"n": 1}', "--event", "[1]", "--with-retries", "--allow-overlap", "--profile", "p"
    )
    schedctl("run", "x")
    assert server.asked("run") == [
        {
            "job_id": "x",
            "kwargs": {"n": 1},
            "event": [1],
            "with_retries": True,
            "allow_overlap": True,
            "profile": "p",
        },
        {
            "job_id": "x",
            "kwargs": None,
            "event": None,
            "with_retries": False,
            "allow_overlap": False,
            "profile": None,
        },
    ]


def test_detach_prints_the_id_and_leaves(schedctl):
    server = serve_run(schedctl)
    assert schedctl("run", "x", "--detach").out == "4711\n"
    assert json.loads(schedctl("run", "x", "--detach", "-o", "json").out) == {"run_id": 4711}
    assert server.asked("follow") == []


@pytest.mark.parametrize(
    ("columns", "code", "line"),
    [
        ({}, 0, "exit 0 (job)"),
        ({"exit_code": None}, 0, "completed (job)"),
        ({"reason": "warning", "exit_code": 3}, 0, "warning, exit 3 (job)"),
        ({"status": "failed", "reason": "exit", "exit_code": 2}, 2, "exit 2 (job)"),
        ({"status": "failed", "reason": "exit", "exit_code": 255}, 255, "exit 255 (job)"),
        ({"status": "failed", "reason": "exception"}, 1, "exception (job)"),
        ({"status": "failed", "reason": "result"}, 1, "result (job)"),
        ({"status": "failed", "reason": "signal", "signal": "SIGSEGV"}, 139, "signal SIGSEGV (job)"),
        ({"status": "failed", "reason": "signal", "signal": "SIG37"}, 165, "signal SIG37 (job)"),
        ({"status": "failed", "reason": "timeout"}, 124, "timeout (schedd)"),
        ({"status": "failed", "reason": "stalled"}, 1, "stalled (schedd)"),
        ({"status": "failed", "reason": "output"}, 1, "output (schedd)"),
        ({"status": "failed", "reason": "spawn"}, 1, "spawn (schedd)"),
        ({"status": "failed", "reason": "sandbox"}, 1, "sandbox (schedd)"),
        ({"status": "failed", "reason": "lost"}, 1, "lost (schedd)"),
        ({"status": "failed", "reason": "stopped"}, 1, "stopped (schedd)"),
        ({"status": "cancelled", "reason": "cancelled"}, 1, "cancelled (schedd)"),
        ({"status": "skipped", "reason": "disabled"}, 1, "disabled (schedd)"),
    ],
)
def test_run_and_wait_leave_as_the_table_of_reasons_says(schedctl, columns, code, line):
    serve_run(schedctl, **columns)
    for command in (["run", "x"], ["wait", "4711"]):
        done = schedctl(*command)
        assert done.code == code
        assert done.err.splitlines()[-1] == f"run 4711: {line}"


def test_what_went_wrong_stands_before_the_last_line(schedctl):
    serve_run(schedctl, status="failed", reason="exception", error="Traceback\n  x\nValueError: \033no")
    assert schedctl("run", "x").err == "Traceback\n  x\nValueError: \\x1bno\nrun 4711: exception (job)\n"


@pytest.mark.parametrize("command", [["run", "x"], ["wait", "1"]])
def test_without_a_daemon_run_and_wait_are_125(schedctl, command):
    done = schedctl(*command)
    assert done.code == 125
    assert done.err.startswith("schedctl: the daemon is not running at ")


@pytest.mark.parametrize(
    "command", [["run"], ["run", "x", "--kwargs", "1"], ["run", "x", "--event", "{"], ["wait", "x"]]
)
def test_a_mistake_on_the_command_line_of_a_runner_is_125(schedctl, command):
    done = schedctl(*command)
    assert done.code == 125
    assert done.err.startswith("schedctl: ")
    assert done.err.count("\n") == 1


@pytest.mark.parametrize("code", [1, 3, 77, 78])
def test_what_the_daemon_refuses_to_run_is_125(schedctl, code):
    def refuse(_):
        raise fakes.Refuse(code, "run 4710 of 'x' has not ended", ["4710"])

    schedctl.serve(run=refuse, follow=refuse)
    for command in (["run", "x"], ["wait", "9"]):
        done = schedctl(*command)
        assert (done.code, done.err) == (125, "schedctl: run 4710 of 'x' has not ended\n")


def test_a_daemon_that_dies_meanwhile_is_125_and_says_how_to_go_on(schedctl, monkeypatch):
    monkeypatch.setattr(client, "_PATIENCE", 0.2)

    def follow(_):
        yield output("stdout", b"so far\n")
        raise OSError

    schedctl.serve(run=lambda _: {"run_id": 4711}, follow=follow)
    done = schedctl("run", "x")
    assert done.code == 125
    assert "so far" in done.out
    assert done.err.endswith("schedctl wait 4711\n")


def _interruptible(schedctl):
    """A run that ends when it is cancelled, and never otherwise."""
    cancelled = threading.Event()

    def follow(_):
        yield output("stdout", b"running\n")
        if not cancelled.wait(20):
            raise OSError
        return {"run": samples.run(status="cancelled", reason="cancelled", exit_code=None)}

    def cancel(_):
        cancelled.set()
        return {"run": samples.run()}

    server = schedctl.serve(run=lambda _: {"run_id": 4711}, follow=follow, cancel=cancel)
    process = subprocess.Popen(
        [*PROGRAM, "run", "x", "--socket", schedctl.path], stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    while process.stdout.readline() != b"running\n":
        pass
    return server, process, cancelled


def test_ctrl_c_cancels_the_run_and_waits_for_its_end(schedctl):
    server, process, _ = _interruptible(schedctl)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=20)
    assert process.returncode == 1
    assert server.asked("cancel") == [{"run_id": 4711}]
    assert out == b"Job 'network_status_poll' completed with status: cancelled\n"
    assert err.endswith(b"run 4711: cancelled (schedd)\n")


def test_a_second_ctrl_c_leaves_at_once(schedctl):
    server, process, cancelled = _interruptible(schedctl)
    server.answers["cancel"] = lambda _: {"run": None}  # it does not help
    process.send_signal(signal.SIGINT)
    assert b"Cancelling" in process.stderr.readline()
    process.send_signal(signal.SIGINT)
    _, err = process.communicate(timeout=20)
    cancelled.set()
    assert process.returncode == 125
    assert err == b"schedctl: interrupted\n"


def _on_a_terminal(schedctl):
    """What a terminal sees of `run`."""
    ours, theirs = pty.openpty()
    command = [*PROGRAM, "run", "x", "--socket", schedctl.path]
    process = subprocess.Popen(command, stdin=theirs, stdout=theirs, stderr=theirs, start_new_session=True)
    os.close(theirs)
    seen = b""
    while True:
        try:
            data = os.read(ours, 65536)
        except OSError:  # how Linux says that the other side is closed
            break
        if not data:
            break
        seen += data
    os.close(ours)
    assert process.wait(20) == 0
    return seen.decode()


def _progress(done, total, message=""):
    return {"kind": "progress", "done": done, "total": total, "message": message}


def test_progress_is_a_bar_on_a_terminal(schedctl):
    serve_run(schedctl, _progress(5, 10, "half\033[2J"), _progress(7, None), output("stdout", b"x\n"), _progress(1, 1))
    seen = _on_a_terminal(schedctl)
    assert "[############------------]  50%  half\\x1b[2J" in seen
    assert "\r7" in seen
    assert "100%" in seen
    assert seen.endswith("run 4711: exit 0 (job)\r\n")


def test_progress_that_makes_no_sense_is_shown_as_none(schedctl):
    serve_run(schedctl, _progress(float("nan"), 10), _progress(-5, 10), _progress(1, float("nan")), _progress(99, 10))
    assert "  0%" in _on_a_terminal(schedctl)


def test_progress_is_not_shown_in_a_pipe(schedctl):
    serve_run(schedctl, _progress(5, 10, "half"))
    done = schedctl("run", "x")
    assert "half" not in done.out + done.err
    assert "%" not in done.out + done.err


def test_output_is_escaped_on_a_terminal(schedctl):
    serve_run(schedctl, output("stdout", b"a\tb\033[2J\xff \xc3"), output("stdout", b"\xa4\n"))
    assert "a\tb\\x1b[2J\\xff ä\r\n" in _on_a_terminal(schedctl)


def test_half_a_character_at_the_end_is_shown_as_its_bytes(schedctl):
    serve_run(schedctl, output("stdout", b"x\xc3"))
    assert "x\\xc3" in _on_a_terminal(schedctl)


# wait, cancel, retry


def test_wait_prints_the_end_of_the_run(schedctl):
    server = serve_run(schedctl)
    assert schedctl("wait", "4711").out == "Job 'network_status_poll' completed with status: completed\n"
    assert json.loads(schedctl("wait", "4711", "-o", "json").out).keys() == set(views.RUN_KEYS)
    assert server.asked("follow") == [{"run_id": 4711, "output": False, "from_start": True, "at": 0}] * 2


def test_wait_gives_up_after_its_timeout(schedctl):
    release = threading.Event()

    def follow(_):
        release.wait(20)
        return {"run": samples.run()}

    schedctl.serve(follow=follow)
    done = schedctl("wait", "4711", "--timeout", "50ms")
    release.set()
    assert done.code == 125
    assert done.err == "schedctl: run 4711 has not ended in 0.05 s; it goes on\n"


def test_cancel_returns_what_became_of_the_run(schedctl):
    server = schedctl.serve(cancel=lambda _: {"run": samples.run(status="cancelled", reason="cancelled")})
    done = schedctl("cancel", "4711")
    assert (done.code, done.out) == (0, "Run 4711 of job 'network_status_poll' ended with status: cancelled\n")
    assert json.loads(schedctl("cancel", "4711", "-o", "json").out)["reason"] == "cancelled"
    assert server.asked("cancel") == [{"run_id": 4711}] * 2


def test_a_run_that_has_ended_cannot_be_cancelled(schedctl):
    def cancel(_):
        raise fakes.Refuse(3, "run 4711 has ended already (completed)")

    schedctl.serve(cancel=cancel)
    assert schedctl("cancel", "4711").code == 3


def test_retry_prints_the_new_run(schedctl):
    server = schedctl.serve(retry=lambda _: {"run_id": 4712})
    assert schedctl("retry", "4711").out == "4712\n"
    assert json.loads(schedctl("retry", "4711", "-o", "json").out) == {"run_id": 4712}
    assert server.asked("retry") == [{"run_id": 4711}] * 2


# history


def test_the_history_looks_like_the_seeds(schedctl):
    schedctl.serve(history=paged(samples.run()))
    done = schedctl("history", "--limit", "5")
    assert (done.code, done.out) == (0, HISTORY)


@pytest.mark.parametrize(
    ("columns", "shown"),
    [
        ({"status": "failed", "reason": "exit", "exit_code": 2}, "exit 2"),
        ({"status": "failed", "reason": "timeout", "error": "ended after 10 s"}, "timeout: ended after 10 s"),
        ({"status": "failed", "reason": "exception", "error": "Traceback\n  x\nE: no"}, "exception: E: no"),
        ({"reason": "warning", "exit_code": 3}, "warning, exit 3"),
        ({"status": "skipped", "reason": "overlap", "start_time": None}, "overlap (slot 2024-01-15 14:30:00)"),
        (
            {"status": "skipped", "reason": "missed", "slots": 250, "slot_last": samples.ms("2024-01-16T00:00:00")},
            "missed (250 slots, 2024-01-15 14:30:00 to 2024-01-16 00:00:00)",
        ),
        (
            {"status": "failed", "reason": "timeout", "killed": ((1, "sleep 9"), (2, "sleep 9")), "killed_count": 200},
            "timeout; killed 200: sleep 9",
        ),
        ({"killed": ((1, "x\033"),), "killed_count": 1}, "killed 1: x\\x1b"),
    ],
)
def test_the_history_says_what_went_wrong_and_what_was_killed(schedctl, columns, shown):
    schedctl.serve(history=paged(samples.run(**columns)))
    assert f"│ {shown} │" in schedctl("history").out


def test_the_history_in_json_has_the_documented_keys_and_the_output(schedctl):
    packed = codec.pack(RESULT)
    runs = (samples.run(2, output_bytes=3, result_bytes=len(packed)), samples.run(1))
    server = schedctl.serve(history=paged(*runs), read=reading(output=b"a\xff\n", result=packed))
    newest, oldest = json.loads(schedctl("history", "-o", "json").out)
    assert newest.keys() == oldest.keys() == set(views.RUN_KEYS)
    assert (newest["output"], newest["result"]) == ("a\\xff\n", RESULT)
    assert (oldest["output"], oldest["result"]) == ("", None)
    assert {fields["run_id"] for fields in server.asked("read")} == {2}


def test_the_output_in_json_is_its_last_64_kib(schedctl):
    stored = b"x" * 10 + b"y" * 65536
    schedctl.serve(history=paged(samples.run(output_bytes=len(stored))), read=reading(output=stored))
    assert json.loads(schedctl("history", "-o", "json").out)[0]["output"] == "y" * 65536


def test_the_limit_holds_over_pages(schedctl):
    server = schedctl.serve(history=paged(*(samples.run(number) for number in range(1000, 0, -1))))
    found = json.loads(schedctl("history", "--limit", "450", "-o", "json").out)
    assert [run["run_id"] for run in found] == list(range(1000, 550, -1))
    assert [fields["limit"] for fields in server.asked("history")] == [200, 200, 200]


def test_the_filters_reach_the_daemon(schedctl):
    server = schedctl.serve(history=paged())
    schedctl("history", "--job", "a", "--status", "failed", "--since", "2024-01-15T14:30:00Z", "--limit", "7")
    assert server.asked("history") == [
        {"job_id": "a", "status": "failed", "since": samples.ms("2024-01-15T14:30:00"), "before": None, "limit": 7}
    ]


@pytest.mark.parametrize(
    ("text", "at"),
    [
        ("2024-01-15", "2024-01-15T00:00:00"),
        ("2024-01-15 14:30", "2024-01-15T14:30:00"),
        ("2024-01-15T14:30:00+02:00", "2024-01-15T12:30:00"),
    ],
)
def test_a_moment_is_read_in_the_users_zone_unless_it_names_one(schedctl, text, at):
    assert cli_runs._since(text) == samples.ms(at)


def test_a_duration_is_counted_back_from_now():
    assert abs(cli_runs._since("2h") - (time.time() - 7200) * 1000) < 5000


# logs


def test_the_logs_of_a_run_come_whole(schedctl):
    stored = os.urandom(200_000)
    schedctl.serve(history=paged(samples.run(5), samples.run(4)), read=reading(output=stored))
    done = subprocess.run([*PROGRAM, "logs", "4", "--socket", schedctl.path], capture_output=True, check=False)
    assert (done.returncode, done.stdout) == (0, stored)


def test_the_logs_of_a_job_are_those_of_its_last_run_that_started(schedctl):
    skipped = samples.run(6, status="skipped", reason="overlap", start_time=None)
    server = schedctl.serve(history=paged(skipped, samples.run(5), samples.run(4)), read=reading(output=b"five"))
    assert schedctl("logs", "network_status_poll").out == "five"
    assert server.asked("read")[0]["run_id"] == 5


def test_a_job_may_be_called_like_a_number(schedctl):
    server = schedctl.serve(history=paged(samples.run(9, "2024")), read=reading(output=b"x"))
    assert schedctl("logs", "2024").out == "x"
    assert server.asked("read")[0]["run_id"] == 9


def test_only_stderr_is_read_if_so_asked(schedctl):
    server = schedctl.serve(history=paged(samples.run(5)), read=reading(stderr=b"bad"))
    assert schedctl("logs", "5", "--stderr").out == "bad"
    assert {fields["what"] for fields in server.asked("read")} == {"stderr"}


def test_a_running_run_is_followed_to_its_end(schedctl):
    items = (output("stdout", b"a"), output("stderr", b"b"), {"kind": "state", "status": "running", "attempt": 1})
    running = samples.run(5, status="running", end_time=None)
    schedctl.serve(history=paged(running), follow=following(*items, output("stdout", b"c")))
    assert schedctl("logs", "5", "--follow").out == "abc"
    assert schedctl("logs", "5", "-f", "--stderr").out == "b"


def test_a_run_that_has_ended_is_not_followed(schedctl):
    server = schedctl.serve(history=paged(samples.run(5)), read=reading(output=b"all"))
    assert schedctl("logs", "5", "--follow").out == "all"
    assert server.asked("follow") == []


def test_logs_of_nothing_known_are_3(schedctl):
    def history(fields):
        if fields["job_id"] is None:
            return {"runs": [], "more": None}
        raise fakes.Refuse(3, "no job")

    schedctl.serve(history=history)
    assert schedctl("logs", "77").code == 3
    assert schedctl("logs", "nope").err == "schedctl: no run and no job 'nope'; see: schedctl history\n"


def test_a_job_that_never_ran_has_no_logs(schedctl):
    schedctl.serve(history=paged())
    assert schedctl("logs", "a").code == 3


# progress


def _reported(schedctl, monkeypatch, *arguments):
    read, write = os.pipe()
    monkeypatch.setenv("LNMT_REPORT_FD", str(write))
    done = schedctl("progress", *arguments)
    os.close(write)
    with open(read, "rb") as pipe:
        found = frames.FrameReader(frames.REPORT_LIMIT).feed(pipe.read())
    return done, [codec.decode(frame, messages.REPORT) for frame in found]


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        (["3"], messages.Progress(done=3)),
        (["3", "10"], messages.Progress(done=3, total=10)),
        (["2.5", "10", "half", "way"], messages.Progress(done=2.5, total=10, message="half way")),
    ],
)
def test_progress_is_one_frame_on_the_report_pipe(schedctl, monkeypatch, arguments, expected):
    done, found = _reported(schedctl, monkeypatch, *arguments)
    assert (done.code, done.out, found) == (0, "", [expected])


def test_progress_outside_of_a_job_says_so(schedctl, monkeypatch):
    monkeypatch.delenv("LNMT_REPORT_FD", raising=False)
    done = schedctl("progress", "1")
    assert done.code == 1
    assert "LNMT_REPORT_FD" in done.err


def test_progress_on_a_closed_pipe_says_so(schedctl, monkeypatch):
    read, write = os.pipe()
    os.close(read)
    monkeypatch.setenv("LNMT_REPORT_FD", str(write))
    done = schedctl("progress", "1")
    os.close(write)
    assert done.code == 1
    assert "could not be reported" in done.err
