"""The directory for temporary files of one box: its own, and gone afterwards, whatever a job has left in it."""

import os
import stat
from pathlib import Path

import pytest
import standin

from lnmt_scheduler.sandbox import scratch


@pytest.fixture
def made() -> Path:
    return Path(scratch.make(None, None))


def test_only_its_user_may_enter_it(made):
    found = made.stat()
    assert (stat.S_IMODE(found.st_mode), found.st_uid) == (0o700, os.geteuid())
    assert made.parent == Path("/tmp")
    scratch.remove(str(made))
    assert not made.exists()


@pytest.mark.skipif(os.geteuid() != 0, reason="giving a directory away: needs root")
def test_it_belongs_to_the_user_of_the_box():
    made = Path(scratch.make(65533, 65532))
    assert (made.stat().st_uid, made.stat().st_gid) == (65533, 65532)
    scratch.remove(str(made))


def test_a_tree_of_any_depth_is_removed_without_recursion(made):
    here = os.open(made, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    os.close(os.open("file", os.O_CREAT | os.O_WRONLY, dir_fd=here))
    os.close(here)
    scratch.remove(str(made))
    assert not made.exists()


def test_directories_that_are_closed_to_their_owner_are_removed(made):
    for name in ("a/b/c", "a/d"):
        (made / name).mkdir(parents=True)
        (made / name / "file").touch()
    for name in ("a/b/c", "a/b", "a/d", "a", "."):
        (made / name).chmod(0)
    scratch.remove(str(made))
    assert not os.path.lexists(made)


def test_links_are_removed_and_not_followed(made, tmp_path):
    (tmp_path / "kept").write_text("content")
    (made / "inner").mkdir()
    for place in (made, made / "inner"):
        (place / "folder").symlink_to(tmp_path)
        (place / "file").symlink_to(tmp_path / "kept")
        (place / "loop").symlink_to("loop")
    os.mkfifo(made / "fifo")
    scratch.remove(str(made))
    assert not made.exists()
    assert (tmp_path / "kept").read_text() == "content"


def test_names_of_any_bytes_and_any_length_are_removed(made):
    for name in (b"\xff\n", b"n" * 255, b"x/" + b"n" * 255, b"x/y/x/y"):
        os.makedirs(os.path.join(os.fsencode(made), name, b"in"))
    scratch.remove(str(made))
    assert not made.exists()


def test_what_is_no_directory_any_more_is_left_alone(made, tmp_path):
    made.rmdir()
    made.symlink_to(tmp_path)
    (tmp_path / "kept").touch()
    scratch.remove(str(made))
    assert (tmp_path / "kept").exists()
    made.unlink()


def test_the_environment_names_it_unless_the_job_chose_another():
    source = (
        "from lnmt_scheduler.sandbox import scratch; print(scratch.environment({'TMPDIR': '/tmp'})); scratch.take('/own');"
        "print(scratch.environment({'TMPDIR': '/tmp'}), scratch.environment({'TMPDIR': '/x'}), scratch.environment({}))"
    )
    done = standin.python(source)
    assert done.stdout == "{'TMPDIR': '/tmp'}\n{'TMPDIR': '/own'} {'TMPDIR': '/x'} {}\n", done.stderr
