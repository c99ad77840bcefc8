"""What is shown to a box for the sake of an interpreter, and what is not."""

import os
from pathlib import Path

import pytest

from lnmt_scheduler.supervisor import interpreter


@pytest.fixture
def base(tmp_path: Path) -> Path:
    """A tree with an installation and a virtual environment that was made from it."""
    for name in ("base", "venv", "free", "secret"):
        (tmp_path / name / "bin").mkdir(parents=True)
    (tmp_path / "base/bin/python3").touch()
    (tmp_path / "venv/pyvenv.cfg").write_text(f"home = {tmp_path}/base/bin\nversion = 3.11\n")
    (tmp_path / "venv/bin/python").symlink_to("python3")
    (tmp_path / "venv/bin/python3").symlink_to(tmp_path / "base/bin/python3")
    return tmp_path


def shown(base: Path, python: str) -> set[str]:
    """Names below the base that are shown; the job may write to `free`."""
    found = interpreter.homes(f"{base}/{python}", [f"{base}/free"])
    return {os.path.relpath(path, base) for path in found}


def test_a_virtual_environment_is_shown_with_what_it_was_made_from(base):
    assert shown(base, "venv/bin/python") == {"venv", "base"}


def test_a_program_of_a_virtual_environment_is_known_by_where_it_lies(base):
    assert interpreter.is_of_environment(f"{base}/venv/bin/python")
    assert interpreter.is_of_environment(f"{base}/venv/bin/tool")
    assert not interpreter.is_of_environment(f"{base}/base/bin/python3")
    assert not interpreter.is_of_environment("/bin/sh")


def test_a_link_to_an_environment_is_shown_by_both_names(base):
    (base / "current").symlink_to("venv")
    assert shown(base, "current/bin/python") == {"current", "venv", "base"}


def test_an_installation_behind_links_is_shown_without_a_pyvenv_cfg(base):
    (base / "venv/pyvenv.cfg").unlink()
    assert shown(base, "venv/bin/python") == {"venv", "base"}


def test_an_interpreter_outside_of_a_bin_directory_is_shown_with_its_own_directory_only(base):
    (base / "base/python-static").touch()
    assert shown(base, "base/python-static") == {"base"}


@pytest.mark.parametrize("python", ["/bin/python3", "/python3", "//bin/../bin/python3"])
def test_the_root_is_never_shown(python):
    assert "/" not in interpreter.homes(python, [])


def test_what_the_job_could_have_written_does_not_choose_what_it_sees(base):
    (base / "free/pyvenv.cfg").write_text(f"home = {base}/secret/bin\n")
    (base / "free/bin/python").symlink_to(base / "secret/bin/python")
    assert shown(base, "free/bin/python") == set()
    (base / "by_link").symlink_to("free")
    assert shown(base, "by_link/bin/python") == set()
    (base / "venv/bin/mine").symlink_to(base / "free/bin/python")
    assert shown(base, "venv/bin/mine") == {"venv", "base"}


def test_links_in_a_circle_and_files_that_are_no_files_hold_up_nothing(base):
    (base / "venv/bin/a").symlink_to("b")
    (base / "venv/bin/b").symlink_to("a")
    (base / "venv/pyvenv.cfg").unlink()
    os.mkfifo(base / "venv/pyvenv.cfg")
    assert shown(base, "venv/bin/a") == {"venv"}


def test_an_interpreter_that_is_not_there_is_no_error_of_ours(base):
    assert shown(base, "none/bin/python") == {"none"}
