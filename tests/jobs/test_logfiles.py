"""A log that is read bit by bit while it is rotated, truncated and compressed: no line lost that is still there, none twice."""

import gzip
import os
import shutil
from pathlib import Path

import pytest

from lnmt_scheduler.jobs import logfiles

ALL = 1 << 20


class Log:
    """A log file, and who reads it."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "auth.log"
        self.mark: logfiles.Mark | None = None
        self.gap = self.behind = False
        self.path.touch()

    def write(self, *lines: str, end: str = "\n") -> None:
        with self.path.open("a") as file:
            file.write("\n".join(lines) + end)

    def read(self, limit: int = ALL) -> list[str]:
        if self.mark is not None:
            self.mark = logfiles.Mark.unpacked(self.mark.packed())
        batch = logfiles.read(str(self.path), self.mark, limit)
        self.mark, self.gap, self.behind = batch.mark, batch.gap, batch.behind
        return [line.decode() for line in batch.lines]

    def rename(self, name: str) -> None:
        self.path.rename(self.path.with_name(name))
        self.path.touch()


@pytest.fixture
def log(tmp_path):
    return Log(tmp_path)


def test_only_what_is_new_is_read_and_half_a_line_is_left_for_the_next_time(log):
    assert log.read() == []
    log.write("one", "two")
    assert log.read() == ["one", "two"]
    log.write("thr", end="")
    assert log.read() == []
    log.write("ee", "four")
    assert log.read() == ["three", "four"]
    assert log.read() == []
    assert not log.gap


def renamed(log: Log) -> None:
    log.rename("auth.log.1")


def compressed(log: Log) -> None:
    log.rename("auth.log.1")
    with log.path.with_name("auth.log.1").open("rb") as plain, gzip.open(f"{log.path}.1.gz", "wb") as packed:
        shutil.copyfileobj(plain, packed)
    log.path.with_name("auth.log.1").unlink()


def copied_and_truncated(log: Log) -> None:
    shutil.copy(log.path, f"{log.path}.1")
    os.truncate(log.path, 0)


def dated(log: Log) -> None:
    log.rename("auth.log-20261125")


@pytest.mark.parametrize("rotate", [renamed, compressed, copied_and_truncated, dated])
def test_what_was_written_before_the_rotation_is_read_after_it(log, rotate):
    log.write("one")
    assert log.read() == ["one"]
    log.write("two")
    rotate(log)
    log.write("three")
    assert log.read() == ["two", "three"]
    assert not log.gap
    assert log.read() == []


def test_two_rotations_between_two_looks(log):
    log.write("one")
    assert log.read() == ["one"]
    log.write("two")
    log.rename("auth.log.2")
    log.write("three")
    log.rename("auth.log.1")
    os.utime(log.path.with_name("auth.log.2"), (1, 1))
    log.write("four")
    assert log.read() == ["two", "three", "four"]
    assert not log.gap


def test_an_empty_log_that_was_filled_and_rotated(log):
    assert log.read() == []
    log.write("one")
    renamed(log)
    log.write("two")
    assert log.read() == ["one", "two"]


def test_what_is_gone_for_good_is_a_gap(log):
    log.write("one")
    log.read()
    os.truncate(log.path, 0)
    log.write("two")
    assert log.read() == ["two"]
    assert log.gap
    log.write("three")
    assert log.read() == ["three"]
    assert not log.gap


def test_a_log_whose_end_was_cut_off_is_a_gap_and_nothing_is_read_twice(log):
    log.write("one" * 1000, "two", "three")
    log.read()
    os.truncate(log.path, len("one" * 1000 + "\n"))
    assert log.read() == []
    assert log.gap


def test_a_damaged_archive_is_no_obstacle(log):
    log.write("one")
    log.read()
    log.path.with_name("auth.log.1.gz").write_bytes(b"\x1f\x8b\x08garbage")
    renamed(log)
    log.write("two")
    assert log.read() == ["two"]


def test_a_long_log_is_read_in_pieces_also_across_a_rotation(log):
    lines = [f"line {number}" for number in range(1000)]
    log.write(*lines[:600])
    found = log.read(1000)
    assert log.behind
    renamed(log)
    log.write(*lines[600:])
    for _ in range(20):
        found += log.read(1000)
    assert found == lines
    assert not log.behind
    assert not log.gap


def test_a_line_without_end_is_cut_and_does_not_hold_up_what_follows(log):
    log.write("x" * 100_000, end="")
    (line,) = log.read(50_000)
    assert len(line) == 16 * 1024
    log.write("", "after")
    assert log.read()[-1] == "after"
