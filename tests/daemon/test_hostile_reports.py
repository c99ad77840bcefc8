"""Jobs that write nonsense to their report pipe: their own run notes it, and nobody else's does."""

import os
import time
from pathlib import Path

import harness
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lnmt_scheduler.ipc import codec, control, frames, messages

RESULT = messages.Result(part=1, parts=1, data=codec.pack({"n": 1}))


def framed(body):
    return len(body).to_bytes(4, "big") + body


def said(*sent):
    return b"".join(framed(codec.encode(message)) for message in sent)


@pytest.fixture
def tell(daemon, folder):
    """Run a job that writes these bytes to its report pipe; its row."""
    path = folder / "report"
    daemon.add(id="teller", command=f"cat {path} >&3; echo done", working_directory=str(folder))

    def run(data):
        path.write_bytes(data)
        path.chmod(0o644)
        row = daemon.run_to_end("teller")
        assert daemon.output(row["run_id"], "stdout") == b"done\n"
        return row

    return run


def result(daemon, row):
    data = daemon.request(control.Read(run_id=row["run_id"], what="result"))["data"]
    return codec.unpack(data) if data else None


NONSENSE = {
    "garbage": b"\xc1\xff" * 5000,
    "text": b"hello, I am a job\n" * 100,
    "a huge claim": b"\xff\xff\xff\xff",
    "a frame over PIPE_BUF": framed(b"\x80" * 4093),
    "an empty frame": b"\x00\x00\x00\x00",
    "deep nesting": framed(b"\x91" * 4000 + b"\xc0"),
    "a list that is not there": framed(b"\xdd\xff\xff\xff\xff"),
    "an extension type": framed(b"\xd4\x01\x01"),
    "numbers as keys": framed(b"\x92\xa8progress\x81\x01\x02"),
    "a request of the control socket": framed(codec.pack([1, "stop", {}, None])),
    "a message to the launcher": framed(codec.pack(["end", {"run_id": 1, "attempt": 1, "cause": "x", "grace": 0.0}])),
    "another run's number": framed(codec.pack(["heartbeat", {"run_id": 1}])),
    "an exit of its own": framed(codec.encode(messages.Exited(run_id=1, attempt=1, exit_code=0))),
    "progress that is no number": framed(codec.pack(["progress", {"done": "much"}])),
    "parts out of order": said(
        messages.Result(part=2, parts=2, data=b"x"), messages.Result(part=1, parts=2, data=b"x")
    ),
    "parts that change their count": said(
        messages.Result(part=1, parts=2, data=b"x"), messages.Result(part=2, parts=3, data=b"x")
    ),
    "a part of nothing": said(messages.Result(part=0, parts=0, data=b"")),
    "a negative part": said(messages.Raised(part=-1, parts=-1, text=b"")),
}


@pytest.mark.parametrize("data", NONSENSE.values(), ids=NONSENSE.keys())
def test_nonsense_is_noted_on_its_own_run_and_the_job_goes_on(daemon, tell, data):
    row = tell(data)
    assert (row["status"], row["reason"]) == ("completed", None)
    assert row["more"]["notes"].startswith("the report made no sense: ")
    assert result(daemon, row) is None


@pytest.mark.parametrize("nonsense", [b"\xff" * 100, said(messages.Result(part=2, parts=1, data=b"x"))])
def test_what_was_said_before_the_nonsense_counts(daemon, tell, nonsense):
    row = tell(said(messages.Log(level="info", text="before"), RESULT) + nonsense + said(RESULT))
    assert row["status"] == "completed"
    assert "made no sense" in row["more"]["notes"]
    assert result(daemon, row) == {"n": 1}
    assert daemon.output(row["run_id"], "log") == b"info: before\n"


def test_a_frame_that_is_cut_off_is_no_word(daemon, tell):
    row = tell(said(RESULT)[:-1])
    assert row["status"] == "completed"
    assert result(daemon, row) is None


def test_a_result_over_its_limit_is_not_taken(make_daemon, folder):
    daemon = make_daemon(config="result_limit = 10000\n")
    (folder / "report").write_bytes(said(*(messages.Result(part=n, parts=4, data=b"x" * 4000) for n in range(1, 5))))
    daemon.add(id="a", command=f"cat {folder}/report >&3", working_directory=str(folder))
    row = daemon.run_to_end("a")
    assert "more than 10000 bytes" in row["more"]["notes"]
    assert result(daemon, row) is None


def test_a_result_that_is_no_msgpack_is_shown_as_an_error_by_nobody(daemon, tell):
    row = tell(said(messages.Result(part=1, parts=1, data=b"\xc1\xc1")))
    assert row["status"] == "completed"
    shown = daemon.ctl("wait", str(row["run_id"]), "--format", "json")
    assert shown.code == 0, shown
    assert shown.json["result"] is None, shown


def test_words_meant_for_a_terminal_reach_it_harmless(daemon, tell):
    row = tell(
        said(messages.Log(level="info", text="\x1b[2J\x1b]0;owned\x07"), messages.Progress(done=1, message="\x1b[31m"))
    )
    shown = daemon.ctl("history", "--job", "teller")
    assert "\x1b" not in shown.stdout
    assert daemon.output(row["run_id"], "log") == b"info: \x1b[2J\x1b]0;owned\x07\n"


REPORTS = st.one_of(
    st.builds(messages.Progress, done=st.floats() | st.integers(-(1 << 63), (1 << 64) - 1), total=st.none() | st.floats()),
    st.just(messages.Heartbeat()),
    st.builds(messages.Log, level=st.text(max_size=5), text=st.text(max_size=50)),
    st.builds(
        messages.Result, part=st.integers(-1, 3), parts=st.integers(-1, 1 << 40), data=st.binary(max_size=100)
    ),
    st.builds(messages.Raised, part=st.integers(1, 2), parts=st.integers(1, 2), text=st.binary(max_size=100)),
    st.builds(messages.Refused, error=st.text(max_size=50)),
).map(lambda message: framed(codec.encode(message)))  # fmt: skip
STREAMS = st.lists(REPORTS | st.binary(max_size=50) | st.binary(min_size=1, max_size=200).map(framed), max_size=6)


def test_no_bytes_on_a_report_pipe_harm_anything_else(daemon, folder):
    daemon.add(id="bystander", command="sleep 300")
    bystander = daemon.run("bystander")
    path = folder / "report"
    daemon.add(id="teller", command=f"cat {path} >&3", working_directory=str(folder))
    supervisor = daemon.supervisor_pid

    @settings(max_examples=60, deadline=None, suppress_health_check=list(HealthCheck), database=None)
    @given(STREAMS.map(b"".join))
    def storm(data):
        path.write_bytes(data)
        row = daemon.run_to_end("teller")
        assert row["exit_code"] == 0
        assert row["status"] in ("completed", "failed")
        assert daemon.supervisor_pid == supervisor

    storm()
    assert "Traceback" not in daemon.log
    assert daemon.history(job_id="bystander")[0] == next(
        row for row in daemon.history() if row["run_id"] == bystander and row["status"] == "running"
    )


FLOODS = {
    "progress": said(messages.Progress(done=1, total=2, message="m" * 50)),
    "the smallest words": said(messages.Heartbeat()),
    "log lines": said(messages.Log(level="i", text="x")),
    "half frames in line": said(RESULT) + said(messages.Progress(done=1))[:7],
    "a part and then progress": None,
    "garbage": b"\xff" * 64,
}


@pytest.mark.parametrize("kind", FLOODS)
def test_a_flood_of_reports_costs_neither_time_nor_room(daemon, folder, kind):
    piece = FLOODS[kind] or said(messages.Progress(done=1))
    first = said(messages.Result(part=1, parts=9, data=b"x")) if FLOODS[kind] is None else b""
    path = folder / "piece"
    path.write_bytes(piece * (65536 // len(piece)))
    (folder / "first").write_bytes(first)
    daemon.add(
        id="flood",
        command=f"cat {folder}/first >&3; while :; do cat {path}; done >&3",
        limits={"output": "1M"},
        working_directory=str(folder),
    )
    daemon.add(id="beat", command="true", schedule="@every 1s")
    supervisor = daemon.supervisor_pid
    before = harness.resident(supervisor)
    runs = [daemon.run("flood", allow_overlap=True) for _ in range(3)]
    worst, sizes = 0.0, [0]
    until = time.monotonic() + 1.5
    while time.monotonic() < until:
        began = time.monotonic()
        daemon.status()
        worst = max(worst, time.monotonic() - began)
        sizes += [os.stat(each).st_size for each in Path(daemon.state_dir, "output").rglob("*.report")]
    for run_id in runs:
        daemon.request(control.Cancel(run_id=run_id))
    assert worst < 1
    assert max(sizes) < 4 * 1024 * 1024
    assert harness.resident(supervisor) - before < 24 * 1024 * 1024
    beats = [row for row in daemon.history(job_id="beat") if row["start_time"]]
    assert beats
    assert max(row["start_time"] - row["slot"] for row in beats) < 1000
    for run_id in runs:
        row = next(row for row in daemon.history(job_id="flood") if row["run_id"] == run_id)
        assert (row["status"], row["reason"]) == ("cancelled", "cancelled")
        assert row["output_bytes"] == 0 or kind == "log lines"


def test_a_word_of_the_largest_size_is_taken(daemon, tell):
    text = "x" * frames.REPORT_DATA
    row = tell(said(messages.Log(level="info", text=text)))
    assert row["more"]["notes"] is None
    assert daemon.output(row["run_id"], "log") == f"info: {text}\n".encode()
