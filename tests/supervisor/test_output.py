"""A run's output: from real pipes into real files, under the cap, over the deaths of its supervisor and on a full disk."""

import contextlib
import os
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lnmt_scheduler.supervisor import output

OUT, ERR, LOG = output.STDOUT, output.STDERR, output.LOG


@pytest.fixture
def path(tmp_path: Path) -> str:
    return str(tmp_path / "deep" / "1.log")


class Pipe:
    def __init__(self) -> None:
        self.read, self.write = os.pipe()
        os.set_blocking(self.read, False)

    def into(self, kept: output.Output, stream: int, data: bytes, now: int = 0) -> None:
        """Send the bytes through the pipe into the output, however many calls that takes."""
        view = memoryview(data)
        while view:
            view = view[os.write(self.write, view[:32768]) :]
            with contextlib.suppress(BlockingIOError):
                while True:
                    kept.splice(self.read, stream, now)


@pytest.fixture
def pipe() -> Iterator[Pipe]:
    made = Pipe()
    yield made
    os.close(made.read)
    os.close(made.write)


def whole(path: str, what: str = "output") -> bytes:
    return output.read_stored(path, what, 0, 1 << 30)[0]


def descriptors() -> int:
    return len(os.listdir("/proc/self/fd"))


def test_bytes_come_out_as_they_went_in(path, pipe):
    before = descriptors()
    data = bytes(range(256)) * 1000
    kept = output.Output(path, 1 << 20)
    pipe.into(kept, OUT, data)
    assert (kept.total, kept.truncated) == (len(data), False)
    assert kept.finish() == len(data)
    assert Path(path).read_bytes() == whole(path) == data
    assert Path(path).stat().st_mode & 0o777 == 0o600
    assert descriptors() == before


def test_an_empty_pipe_and_a_closed_one_are_told_apart(path):
    kept = output.Output(path, 100)
    read, write = os.pipe()
    os.set_blocking(read, False)
    with pytest.raises(BlockingIOError):
        kept.splice(read, OUT, 0)
    os.close(write)
    assert kept.splice(read, OUT, 0) == 0
    os.close(read)
    assert kept.finish() == 0
    assert whole(path) == b""


def test_the_streams_can_be_told_apart_again(path, pipe):
    kept = output.Output(path, 1000)
    for stream, data in ((OUT, b"one\n"), (ERR, b"two\n"), (OUT, b"three\n"), (LOG, b"said\n"), (ERR, b"four\n")):
        pipe.into(kept, stream, data)
    kept.finish()
    assert whole(path) == b"one\ntwo\nthree\nsaid\nfour\n"
    assert whole(path, "stdout") == b"one\nthree\n"
    assert whole(path, "stderr") == b"two\nfour\n"
    assert whole(path, "log") == b"said\n"


@pytest.mark.parametrize("size", [100, 101, 102, 149, 150, 151, 200, 333, 1000, 100_000])
@pytest.mark.parametrize("piece", [1, 7, 50, 4096])
def test_the_head_and_the_tail_are_kept_whatever_the_pieces(path, pipe, size, piece):
    if size // piece > 1000:
        piece = 97
    data = bytes(n * 7 % 251 for n in range(size))
    kept = output.Output(path, 101)
    for at in range(0, size, piece):
        pipe.into(kept, OUT, data[at : at + piece])
        assert _on_disk(path) <= 3 * 101
    assert (kept.total, kept.truncated) == (size, size > 101)
    told = re.split(rb"\n\[(\d+) bytes of output dropped here\]\n", whole(path))  # while the run goes on
    missing = int(told[1]) if len(told) > 1 else 0
    assert told[0] + told[-1] * (len(told) > 1) == data[: len(told[0])] + data[len(told[0]) + missing :]
    kept.finish()
    found = Path(path).read_bytes()
    if size <= 101:
        assert found == data
        return
    line = b"\n[%d bytes of output dropped here]\n" % (size - 101)
    assert found == data[:50] + line + data[-51:]
    assert whole(path, "log") == line


def _on_disk(path: str) -> int:
    return sum(each.stat().st_size for each in Path(path).parent.iterdir() if each.suffix in (".log", ".t0", ".t1"))


def test_a_stream_that_came_late_is_found_in_the_tail(path, pipe):
    kept = output.Output(path, 100)
    pipe.into(kept, OUT, b"a" * 500)
    pipe.into(kept, ERR, b"the error")
    kept.finish()
    assert whole(path, "stderr") == b"the error"
    assert whole(path, "stdout") == b"a" * 91


def test_pieces_beyond_what_the_index_tells_apart_are_blurred_and_none_is_lost(path, pipe):
    kept = output.Output(path, 1 << 20)
    for n in range(9000):
        pipe.into(kept, (OUT, ERR)[n % 2], b"%d\n" % n)
    kept.finish()
    assert whole(path) == b"".join(b"%d\n" % n for n in range(9000))
    assert os.path.getsize(path.replace(".log", ".idx")) < 200_000
    assert b"\n8000\n" in whole(path, "stdout")


def test_one_stream_that_goes_on_is_a_new_piece_after_a_second(path, pipe):
    kept = output.Output(path, 1000)
    for now in (0, 500, 999, 1000, 2500):
        pipe.into(kept, OUT, b"x", now)
    assert [length for _, length, _ in kept._head.records()] == [3, 1, 1]
    kept.finish()


# Following.


def test_what_is_read_while_it_grows_says_its_place_and_stream(path, pipe):
    kept = output.Output(path, 100)
    assert kept.read(0, 10) is None
    pipe.into(kept, OUT, b"abc")
    pipe.into(kept, ERR, b"def")
    assert kept.read(0, 10) == output.Piece(0, OUT, b"abc")
    assert kept.read(1, 1) == output.Piece(1, OUT, b"b")
    assert kept.read(3, 10) == output.Piece(3, ERR, b"def")
    assert kept.read(6, 10) is None
    pipe.into(kept, OUT, b"x" * 300)
    piece = kept.read(50, 10)
    assert piece is not None
    assert piece.at >= 300 - 2 * 50  # the middle is gone, and the place says so
    kept.finish()


def test_bytes_that_came_by_no_pipe_stand_among_the_others(path, pipe):
    kept = output.Output(path, 60)
    pipe.into(kept, OUT, b"before\n")
    assert kept.append(b"[attempt 2 of 3]\n", LOG, 0) == 17
    kept.append(b"y" * 100, OUT, 0)
    assert kept.total == 124
    kept.finish()
    found = Path(path).read_bytes()
    assert found == b"before\n[attempt 2 of 3]\nyyyyyy\n[64 bytes of output dropped here]\n" + b"y" * 30


# Reading what is stored.


def test_any_part_of_what_is_stored_can_be_read(path, pipe):
    kept = output.Output(path, 1000)
    pipe.into(kept, OUT, b"0123456789")
    pipe.into(kept, ERR, b"abcdef")
    kept.finish()
    everything = b"0123456789abcdef"
    for offset in range(-20, 20):
        for limit in (0, 1, 3, 100):
            begin = max(0, 16 + offset) if offset < 0 else offset
            assert output.read_stored(path, "output", offset, limit) == (everything[begin : begin + limit], 16)
    assert output.read_stored(path, "stderr", 2, 2) == (b"cd", 6)
    assert output.read_stored(path, "stderr", -1, 9) == (b"f", 6)


def test_what_is_stored_can_be_read_while_the_run_lasts(path, pipe):
    kept = output.Output(path, 20)
    pipe.into(kept, OUT, b"0123456789")
    pipe.into(kept, OUT, b"abcdefghijklmno")
    assert whole(path) == b"0123456789abcdefghijklmno"
    kept.finish()


def test_output_that_is_gone_is_said_to_be(path, pipe):
    with pytest.raises(FileNotFoundError):
        output.read_stored(path, "output", 0, 10)
    kept = output.Output(path, 20)
    pipe.into(kept, OUT, b"x" * 50)
    kept.finish()
    assert output.remove(path) > 20
    assert os.listdir(os.path.dirname(path)) == []
    assert output.remove(path) == 0
    with pytest.raises(FileNotFoundError):
        output.read_stored(path, "output", 0, 10)


# Going on.


@pytest.mark.parametrize("size", [0, 5, 50, 60, 101, 130, 500])
def test_after_a_suspend_it_goes_on_where_it_was(path, pipe, size):
    data = bytes(n % 251 for n in range(size + 77))
    kept = output.Output(path, 101)
    pipe.into(kept, OUT, data[:size])
    kept.suspend()
    again = output.Output(path, 101)
    assert again.total == size
    pipe.into(again, ERR, data[size:])
    again.finish()
    found = Path(path).read_bytes()
    assert found.startswith(data[:50])
    assert found.endswith(data[-51:])
    assert whole(path, "stderr").endswith(data[size:][-51:])


def test_bytes_that_were_moved_and_not_yet_noted_when_the_supervisor_died_are_kept_in_their_place(path, pipe):
    kept = output.Output(path, 1000)
    pipe.into(kept, OUT, b"noted\n")
    os.pwrite(kept._head.fd, b"not noted\n", kept._head.size)
    kept.suspend()
    again = output.Output(path, 1000)
    pipe.into(again, ERR, b"later\n")
    again.finish()
    assert whole(path) == Path(path).read_bytes() == b"noted\nnot noted\nlater\n"
    assert whole(path, "stderr") == b"later\n"


@pytest.mark.parametrize("left", [b"", b"abc"])
def test_an_index_that_was_never_written_begins_anew(path, left):
    os.makedirs(os.path.dirname(path))
    Path(path).write_bytes(b"")
    Path(path.replace(".log", ".idx")).write_bytes(left)
    kept = output.Output(path, 100)
    kept.append(b"hello", OUT, 0)
    kept.finish()
    assert whole(path) == b"hello"


def test_a_link_in_the_place_of_the_output_is_not_followed(path, tmp_path):
    precious = tmp_path / "precious"
    precious.write_text("precious")
    os.makedirs(os.path.dirname(path))
    os.symlink(precious, path)
    before = descriptors()
    with pytest.raises(OSError, match="symbolic links"):
        output.Output(path, 100)
    assert (precious.read_text(), descriptors()) == ("precious", before)


# A full disk.


@pytest.fixture
def full(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB."""
    if os.geteuid() != 0:
        pytest.skip("a file system of its own: needs root")
    where = tmp_path / "small"
    where.mkdir()
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=64k", "none", str(where)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"a file system of its own: {done.stderr.strip()}")
    yield where
    subprocess.run(["umount", "--lazy", str(where)], check=True)


def fill(path: Path) -> None:
    fd = os.open(path, os.O_WRONLY | os.O_CREAT)
    with contextlib.suppress(OSError):  # no space is left
        while True:
            os.write(fd, bytes(4096))
    os.close(fd)


def test_on_a_full_disk_output_is_lost_and_said_to_be_and_the_job_goes_on(full, pipe):
    before = descriptors()
    path = str(full / "1.log")
    kept = output.Output(path, 1 << 20)
    data = bytes(n % 251 for n in range(300_000))
    pipe.into(kept, OUT, data)
    assert kept.lost == "No space left on device"
    assert (kept.total, kept.truncated) == (len(data), True)
    size = kept.finish()
    assert data.startswith(whole(path)[: size - 200])
    assert size > 30_000
    assert descriptors() == before


def test_on_a_disk_that_was_full_already_nothing_can_begin_and_nothing_leaks(full):
    fill(full / "big")
    before = descriptors()
    with pytest.raises(OSError, match="No space"):
        output.Output(str(full / "1.log"), 1 << 20)
    assert descriptors() == before
    (full / "big").unlink()
    kept = output.Output(str(full / "1.log"), 1 << 20)
    kept.append(b"hello", OUT, 0)
    kept.finish()
    assert whole(str(full / "1.log")) == b"hello"


def test_the_tail_cannot_be_begun_on_a_full_disk_and_the_head_stays(full, pipe):
    path = str(full / "1.log")
    kept = output.Output(path, 40_000)
    pipe.into(kept, OUT, b"h" * 20_000)
    fill(full / "big")
    pipe.into(kept, OUT, b"t" * 50_000)
    assert (kept.total, kept.lost) == (70_000, "No space left on device")
    kept.finish()
    assert whole(path).startswith(b"h" * 20_000)


@pytest.mark.parametrize("suffix", [".log", ".idx"])
@pytest.mark.parametrize("kind", ["link", "pipe", "directory"])
def test_what_is_no_file_of_ours_is_neither_followed_nor_waited_for(tmp_path, suffix, kind):
    place, elsewhere = tmp_path / f"1{suffix}", tmp_path / "elsewhere"
    elsewhere.write_text("kept")
    match kind:
        case "link":
            place.symlink_to(elsewhere)
        case "pipe":
            os.mkfifo(place)
        case "directory":
            place.mkdir()
    with pytest.raises(OSError, match="1" + suffix):
        output.Output(str(tmp_path / "1.log"), 100)
    assert elsewhere.read_text() == "kept"
