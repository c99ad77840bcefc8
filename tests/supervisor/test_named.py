"""Files that the daemon reads for a job: who may lay a link on the way to them, and what is refused."""

import errno
import os

import pytest

from lnmt_scheduler.supervisor import named

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root can make another user's link")


def read(path, writable=()):
    return named.read(str(path), 100, [str(place) for place in writable])[0]


@pytest.fixture
def secret(tmp_path):
    path = tmp_path / "secret"
    path.write_bytes(b"A=1")
    return path


def test_a_file_is_read_through_directories_and_links_of_ours(tmp_path, secret):
    (tmp_path / "d").mkdir()
    (tmp_path / "d" / "absolute").symlink_to(secret)
    (tmp_path / "d" / "relative").symlink_to("../secret")
    (tmp_path / "e").symlink_to("d")
    for way in ("secret", "d/../secret", "d/absolute", "d/relative", "e/relative", "e/./absolute"):
        assert read(tmp_path / way) == b"A=1", way


@needs_root
@pytest.mark.parametrize("link", ["last", "between"])
def test_a_link_of_somebody_else_is_refused_wherever_it_stands(tmp_path, secret, link):
    if link == "last":
        way = tmp_path / "env"
        way.symlink_to(secret)
    else:
        (tmp_path / "d").symlink_to(tmp_path)
        way = tmp_path / "d" / "secret"
    os.chown(tmp_path / ("env" if link == "last" else "d"), 1234, 1234, follow_symlinks=False)
    with pytest.raises(PermissionError, match="on the way is a link of uid 1234"):
        read(way)


def test_what_lies_where_the_job_may_write_has_to_lie_there_in_truth(tmp_path, secret):
    place = tmp_path / "app"
    place.mkdir()
    (place / "real").write_bytes(b"B=2")
    (place / "inside").symlink_to("real")
    (place / "outside").symlink_to(secret)
    assert read(place / "real", [place]) == read(place / "inside", [place]) == b"B=2"
    with pytest.raises(PermissionError, match="leads to"):
        read(place / "outside", [place])
    # Also if the place is known by another name, or the way to the link is one of ours.
    (tmp_path / "other").symlink_to(place)
    with pytest.raises(PermissionError, match="leads to"):
        read(tmp_path / "other" / "outside", [tmp_path / "other"])
    (tmp_path / "way").symlink_to(place / "outside")
    with pytest.raises(PermissionError, match="leads to"):
        read(tmp_path / "way", [place])


def test_what_is_no_file_too_large_or_missing_is_told_and_leaves_nothing_open(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "big").write_bytes(b"x" * 101)
    (tmp_path / "loop").symlink_to("loop")
    before = os.listdir("/proc/self/fd")
    for name, number in (
        ("fifo", errno.EINVAL), (".", errno.EINVAL), ("big", errno.EFBIG), ("none", errno.ENOENT), ("loop", errno.ELOOP),
        ("big/below", errno.ENOTDIR),
    ):  # fmt: skip
        with pytest.raises(OSError) as caught:
            read(tmp_path / name)
        assert (caught.value.errno, caught.value.filename) == (number, str(tmp_path / name))
    assert os.listdir("/proc/self/fd") == before
