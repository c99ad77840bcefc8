"""What a job says on its report pipe: whole, in parts, torn, wrong, too much."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from lnmt_scheduler.ipc import channel, codec, frames, messages
from lnmt_scheduler.supervisor import report


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    os.set_blocking(read, False)
    yield read, write
    os.close(read)
    os.close(write)


@pytest.fixture
def heard(tmp_path: Path) -> Iterator[report.Report]:
    made = report.Report(str(tmp_path / "1.r1"), 1, 0, 10_000)
    yield made
    made.remove()
    assert os.listdir(tmp_path) == []


def pump(heard: report.Report, pipe: tuple[int, int]) -> None:
    try:
        while heard.pump(pipe[0], 0):
            pass
    except BlockingIOError:
        pass


def say(pipe: tuple[int, int], message: object) -> None:
    channel.send_report(pipe[1], message)


def test_the_newest_progress_counts_and_log_lines_wait_to_be_taken(heard, pipe):
    for done in (1, 2, 3):
        say(pipe, messages.Progress(done=done, total=3))
        say(pipe, messages.Log(level="info", text=f"line {done}"))
    say(pipe, messages.Heartbeat())
    pump(heard, pipe)
    assert heard.progress == messages.Progress(done=3, total=3)
    assert [line.text for line in heard.lines] == ["line 1", "line 2", "line 3"]
    assert (heard.result, heard.raised, heard.refused, heard.broken) == (None, None, None, None)


def test_a_result_in_parts_is_one_when_the_last_has_come(heard, pipe):
    data = codec.pack(list(range(3000)))
    parts = [data[at : at + 3500] for at in range(0, len(data), 3500)]
    for number, part in enumerate(parts, 1):
        assert heard.result is None
        say(pipe, messages.Result(part=number, parts=len(parts), data=part))
        say(pipe, messages.Progress(done=number))
        pump(heard, pipe)
    assert len(parts) > 1
    assert heard.result == data
    assert heard.progress == messages.Progress(done=len(parts))


def test_an_exception_in_parts_is_text_whatever_its_bytes(heard, pipe):
    say(pipe, messages.Raised(part=1, parts=2, text=b"ValueError: \xff"))
    say(pipe, messages.Raised(part=2, parts=2, text="ü".encode()))
    pump(heard, pipe)
    assert heard.raised == "ValueError: \\xffü"


def test_a_refusal_says_why(heard, pipe):
    say(pipe, messages.Refused(error="it is a socket"))
    pump(heard, pipe)
    assert heard.refused == "it is a socket"


@pytest.mark.parametrize("piece", [1, 2, 3, 5, 64])
def test_frames_may_come_torn_anywhere(heard, pipe, piece):
    body = codec.encode(messages.Log(level="info", text="x" * 50))
    stream = frames.pack(body, frames.REPORT_LIMIT) * 5
    for at in range(0, len(stream), piece):
        os.write(pipe[1], stream[at : at + piece])
        pump(heard, pipe)
    assert len(heard.lines) == 5
    assert heard.broken is None


@pytest.mark.parametrize(
    ("garbage", "words"),
    [
        (b"hello, world\n", "at most 4092 are allowed"),
        (bytes(4), "empty frame"),
        (b"\xff\xff\xff\xff", "at most 4092 are allowed"),
        (frames.pack(b"\xc1", 100), "not msgpack"),
        (frames.pack(b"\x91" * 60 + b"\x01", 100), "nested deeper"),
        (frames.pack(codec.encode(messages.Stop()), 100), "unknown message 'stop'"),
        (frames.pack(codec.pack(["progress", {"done": "much"}]), 100), "field done"),
        (
            frames.pack(codec.pack(["result", {"part": 2, "parts": 2, "data": b""}]), 100),
            "part 2 of 2 came after part 0",
        ),
        (frames.pack(codec.pack(["result", {"part": 1, "parts": 0, "data": b""}]), 100), "part 1 of 0"),
        (frames.pack(codec.pack(["result", {"part": -1, "parts": -1, "data": b""}]), 100), "part -1"),
    ],
)
def test_garbage_ends_the_reading_keeps_what_came_before_and_holds_nobody_up(heard, pipe, garbage, words):
    say(pipe, messages.Progress(done=7))
    os.write(pipe[1], garbage)
    say(pipe, messages.Progress(done=8))
    pump(heard, pipe)
    assert words in heard.broken
    assert heard.progress == messages.Progress(done=7)
    for _ in range(100):
        os.write(pipe[1], bytes(4096))
        pump(heard, pipe)
    assert words in heard.broken


def test_a_result_over_its_limit_is_refused_before_it_is_kept(heard, pipe):
    for number in range(1, 6):
        say(pipe, messages.Result(part=number, parts=5, data=bytes(3500)))
    pump(heard, pipe)
    assert heard.broken == "the report made no sense: more than 10000 bytes"
    assert heard.result is None
    assert len(heard._result.data) <= 10_000


def test_the_scratch_file_does_not_grow_with_what_was_said(heard, pipe, tmp_path):
    for n in range(20_000):
        say(pipe, messages.Progress(done=n))
        if n % 10 == 9:
            pump(heard, pipe)
    assert heard.progress == messages.Progress(done=19_999)
    assert (tmp_path / "1.r1").stat().st_size < 128 * 1024
    assert (tmp_path / "1.r1").stat().st_mode & 0o777 == 0o600


def test_end_of_file_is_told_from_nothing_yet(heard):
    read, write = os.pipe()
    os.set_blocking(read, False)
    with pytest.raises(BlockingIOError):
        heard.pump(read, 0)
    os.close(write)
    assert heard.pump(read, 0) == 0
    os.close(read)


def test_a_link_in_the_place_of_the_scratch_file_is_not_followed(tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    (tmp_path / "1.r1").symlink_to(precious)
    with pytest.raises(OSError, match="symbolic links"):
        report.Report(str(tmp_path / "1.r1"), 1, 0, 100)
    assert precious.read_text() == "precious"
