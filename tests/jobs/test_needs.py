"""What a job says when something is missing: one line with the command that mends it, true for how it was installed."""

import importlib.util
import subprocess
import sys

import pytest

from lnmt_scheduler.jobs import needs


def said(capsys, call) -> str:
    with pytest.raises(SystemExit) as ended:
        call()
    assert ended.value.code == needs.UNAVAILABLE
    line = capsys.readouterr().err
    assert line.count("\n") == 1
    return line


def import_one_that_is_missing() -> None:
    with needs.extra("net"):
        import nonesuch_of_the_extra_net  # noqa: F401, PLC0415


def test_a_missing_extra_is_installed_by_pip_where_there_is_one(capsys):
    line = said(capsys, import_one_that_is_missing)
    assert line.startswith("needs nonesuch_of_the_extra_net, of the extra 'net'; install it: ")
    assert f"{sys.executable} -m pip install 'cryptography" in line


def test_and_by_make_where_the_interpreter_is_one_of_make_install(capsys, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda _: None)
    assert "sudo make install EXTRAS=net " in said(capsys, import_one_that_is_missing)


def test_an_extra_without_a_distribution_is_named_as_a_whole(capsys, monkeypatch):
    monkeypatch.setattr(needs, "_DISTRIBUTION", "nonesuch")
    assert "pip install 'nonesuch[net]'" in said(capsys, import_one_that_is_missing)


def test_a_missing_program_is_named_with_its_package(capsys):
    line = said(capsys, lambda: needs.program("nonesuch-program", "nonesuch"))
    assert line == "needs the program nonesuch-program; install it: apt-get install nonesuch\n"


@pytest.mark.parametrize("module", ["polling", "maintenance", "backup", "reporting"])
def test_no_job_pays_for_what_another_one_needs(module):
    program = f"import sys, lnmt_scheduler.jobs.{module}; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    heavy = {"asyncio", "http.client", "icmplib", "msgspec", "netmiko", "psutil", "pysnmp", "smtplib", "sqlite3", "ssl"}
    assert heavy & set(done.stdout.split()) == set()
