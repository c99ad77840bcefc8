"""What README.md, CONTRIBUTING.md and docs/ show, works: every command is run, every program runs, every job file is valid.

How the pages are written so that this can be done:

- Commands stand in ```console blocks, each after `$ `. Those of one page are run in order in one shell, in a folder of its
  own, together with the page's other blocks. What follows a command up to the next is its output; it is compared line by
  line, numbers and widths apart, `...` standing for anything. A command may fail only if the next one is `echo $?`.
- `schedctl` and `schedd` without --state-dir mean a daemon of the page's own, which runs already unless the page starts one.
- A block with a title is a file: ```json title="jobs.json".
- ```python is run as a program, ```json and ```toml are read, and validated if they are job files. ```text, or nothing, is
  for reading, and ```sh for what a person's own shell is told; the latter is named below.

What cannot be run here is named, with the reason, in NOT_RUN.
"""

import json
import os
import re
import signal
import subprocess
import sys
import tomllib
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import harness
import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md", *sorted((ROOT / "docs").rglob("*.md"))]
LANGUAGES = {"console", "python", "json", "toml", "sh", "text", ""}

_HOST = "changes the host"
_INSTALLS = "tests/packaging does it, with a host of its own"
_ITSELF = "this test is a part of it"
NOT_RUN = {
    "sudo apt-get install python3-venv make": _HOST,
    "sudo make install": _INSTALLS,
    "sudo make install WHEELHOUSE=/srv/wheels": _INSTALLS,
    "sudo make install EXTRAS=net,words": _INSTALLS,
    "make wheelhouse WHEELHOUSE=/srv/wheels": _INSTALLS,
    "sudo lnmt-scheduler-rollback": _INSTALLS,
    "sudo make uninstall": _INSTALLS,
    "sudo systemctl enable --now lnmt-scheduler": _HOST,
    "sudo systemctl disable --now lnmt-scheduler lnmt-scheduler-account": _HOST,
    "sudo schedctl restart": "the page's daemon is not what was upgraded",
    "make demo": "tests/daemon/test_demo.py runs it",
    "make test": _ITSELF,
    "make test PYTEST='-m \"not slow\"'": _ITSELF,
    "make test PYTEST=tests/supervisor/test_run.py": _ITSELF,
    ".venv/bin/python tests/simulation/replay.py dense 3": "tests/simulation/test_replay.py runs it",
    "sudo make test-long": "takes minutes",
    "sudo LNMT_SOAK=1800 make test-long PYTEST=tests/faults": "takes half an hour",
    "LNMT_SIM_ROUNDS=10 make test-long PYTEST=tests/simulation": "takes an hour",
    "make test-faults": "takes minutes; make test tries some of it",
    "make test-faults POINTS=all": "as above",
    "make check": "tests/test_linters.py does the same",
    "make format": "changes the tree that is tested",
    "sudo make test-vm": "a machine of its own, by itself",
    "make test-vm SCENARIOS=limits": "as above",
    "PYTHONPATH=tests:packaging .venv/bin/python -m vm --pytest tests/sandbox/test_landlock.py": "as above",
    "PYTHONPATH=tests:packaging .venv/bin/python -m vm --script FILE": "as above",
    "make bench": "takes minutes, and its figures mean nothing beside other tests",
    'eval "$(schedctl completion bash)"': "cli.md prints that script in a console block; to be eaten by a person's shell",
    'eval "$(schedctl completion zsh)"': "for zsh",
    "schedctl completion fish | source": "for fish",
    "rm -f /var/lib/lnmt-scheduler/lnmt.db-wal /var/lib/lnmt-scheduler/lnmt.db-shm": "the system's daemon; test_backup.py",
    "install -m 0600 lnmt-backup.db /var/lib/lnmt-scheduler/lnmt.db": "as well",
    "chown --reference=/var/lib/lnmt-scheduler /var/lib/lnmt-scheduler/lnmt.db": "as well",
    "systemctl start lnmt-scheduler": "as well",
    ". .venv/bin/activate": "the shell of this test has the programs on its PATH",
}

#: Pages that need another box than that of the default profile.
BOXED = {"run-untrusted.md": "untrusted"}

_FENCE = re.compile(r"^( *)```(\w*)(?: +title=\"([^\"]+)\")?$")


@dataclass(frozen=True)
class Block:
    line: int
    language: str
    title: str | None
    text: str


@dataclass(frozen=True)
class Command:
    text: str
    expected: list[str]


def blocks(page: Path) -> Iterator[Block]:
    lines = enumerate(page.read_text(encoding="utf-8").splitlines(), 1)
    for number, line in lines:
        if "```" not in line:
            continue
        fence = _FENCE.match(line)
        assert fence, f'{page.name}:{number}: a fence is ```LANGUAGE, with title="FILE" or nothing after it'
        indent, language, title = fence.groups()
        inside = []
        for _, text in lines:
            if text.strip() == "```":
                break
            inside.append(text.removeprefix(indent))
        yield Block(number, language, title, "\n".join(inside) + "\n")


def commands(block: Block) -> list[Command]:
    found: list[Command] = []
    for line in block.text.splitlines():
        if line.startswith("$ "):
            found.append(Command(line[2:], []))
        elif line.startswith("> ") and found and not found[-1].expected:
            found[-1] = Command(f"{found[-1].text}\n{line[2:]}", [])
        else:
            assert found, f"line {block.line}: a console block begins with `$ `"
            found[-1].expected.append(line)
    return found


def normal(line: str) -> str:
    """A line without what differs from run to run."""
    line = re.sub(r"\d+(\.\d+)?", "0", line.rstrip())
    return re.sub(r"─+", "─", re.sub(r" +", " ", line))


def matches(expected: list[str], actual: str) -> bool:
    while expected and not expected[-1].strip():
        expected = expected[:-1]
    pattern = ""
    for line in expected:
        if line.strip() == "...":
            pattern += r"(?:.*\n)*?"
        else:
            pattern += ".*".join(re.escape(part) for part in normal(line).split("...")) + r"\n"
    return re.fullmatch(pattern, "".join(f"{normal(line)}\n" for line in actual.splitlines())) is not None


class Shell:
    """One shell for the commands of a page, so that `cd` and variables last."""

    def __init__(self, folder: Path, programs: Path) -> None:
        self._end = f"end-{uuid.uuid4().hex}"
        path = f"{programs}:{Path(sys.executable).parent}:{os.environ.get('PATH', os.defpath)}"
        self._process = subprocess.Popen(
            ["/bin/bash", "--noprofile", "--norc"],
            cwd=folder,
            env={"PATH": path, "HOME": str(folder), "TZ": "UTC", "LANG": "C.UTF-8", "NO_COLOR": "1"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )
        self.code = 0

    def run(self, command: str) -> str:
        """What the command says; its exit code is in `code`."""
        stdin, stdout = self._process.stdin, self._process.stdout
        assert stdin is not None
        assert stdout is not None
        script = f'(exit {self.code})\n{{ {command}\n}} < /dev/null\nprintf "\\n%s %d\\n" {self._end} $?\n'
        stdin.write(script.encode())
        stdin.flush()
        said = []
        for raw in stdout:
            line = raw.decode(errors="replace")
            if line.startswith(self._end):
                self.code = int(line.split()[1])
                return "".join(said).removesuffix("\n")
            said.append(line)
        raise AssertionError(f"the shell ended in {command!r}: {''.join(said)}")

    def close(self) -> None:
        os.killpg(self._process.pid, signal.SIGTERM)
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        self._process.stdout.read()  # until the last that it had started is gone
        self._process.stdout.close()
        self._process.wait()


def _make_programs(folder: Path, state: Path) -> Path:
    """`schedctl` and `schedd` that mean the page's own daemon, and never one of this host's."""
    programs = folder / "programs"
    programs.mkdir()
    for name in ("schedctl", "schedd"):
        script = programs / name
        real = harness.BIN / name
        script.write_text(
            f'#!/bin/sh\ncase "$*" in *--state-dir*) exec {real} "$@";; *) exec {real} --state-dir {state} "$@";; esac\n'
        )
        script.chmod(0o755)
    return programs


class Reader:
    """A person who does what a page shows, in order."""

    def __init__(self, page: Path, work: Path, shell: Shell) -> None:
        self._page = page
        self._work = work
        self._shell = shell

    def do(self, block: Block) -> None:
        if block.title is not None:
            (self._work / block.title).write_text(block.text)
        match block.language:
            case "console":
                self._type(block)
            case "python":
                self._run(block)
            case "json":
                self._read(block, "json", json.loads(block.text))
            case "toml":
                self._read(block, "toml", tomllib.loads(block.text))
            case "text" | "":
                assert "\n$ " not in f"\n{block.text}", f"{self._where(block)}: commands belong into ```console"
            case "sh":
                assert set(block.text.splitlines()) <= set(NOT_RUN), self._where(block)
            case other:
                pytest.fail(f"{self._where(block)}: ```{other} is none of {sorted(LANGUAGES)}")

    def _where(self, block: Block) -> str:
        return f"{self._page.name}, block at line {block.line}"

    def _type(self, block: Block) -> None:
        typed = commands(block)
        for command, following in zip(typed, [*typed[1:], None], strict=True):
            if command.text in NOT_RUN:
                continue
            said = self._shell.run(command.text)
            where = f"{self._where(block)}: $ {command.text}\n(exit {self._shell.code})\n{said}"
            may_fail = following is not None and following.text == "echo $?"
            assert self._shell.code == 0 or may_fail, where
            if command.expected:
                assert matches(command.expected, said), where
            if command.text.startswith("schedd ") and command.text.endswith("&"):
                harness.wait_for(self._is_up, what="the daemon that the page starts")

    def _is_up(self) -> bool:
        self._shell.run("schedctl status > /dev/null 2>&1")
        return self._shell.code == 0

    def _run(self, block: Block) -> None:
        path = self._work / (block.title or "block.py")
        path.write_text(block.text)
        done = subprocess.run(
            [sys.executable, str(path)], cwd=self._work, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{self._where(block)}:\n{done.stdout}{done.stderr}"

    def _read(self, block: Block, kind: str, document: object) -> None:
        if isinstance(document, dict) and isinstance(document.get("jobs"), list):
            path = self._work / f"block.{kind}"
            path.write_text(block.text)
            said = self._shell.run(f"schedctl validate {path}")
            assert self._shell.code == 0, f"{self._where(block)}: {said}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_what_a_page_shows_works(page, folder, make_daemon):
    found = list(blocks(page))
    typed = "\n".join(block.text for block in found if block.language == "console")
    if "schedctl" in typed:
        _skip_without_a_box(BOXED.get(page.name, "standard"))
    starts_its_own = re.search(r"^\$ schedd\b", typed, re.MULTILINE)
    if "schedctl" in typed and not starts_its_own:
        make_daemon(name="state")
    work = folder / "work"
    work.mkdir()
    shell = Shell(work, _make_programs(folder, folder / "state"))
    try:
        reader = Reader(page, work, shell)
        for block in found:
            reader.do(block)
    finally:
        shell.close()


def _skip_without_a_box(profile: str) -> None:
    program = [sys.executable, "-I", "-m", "lnmt_scheduler.sandbox", "--profile", profile, "--", "true"]
    tried = subprocess.run(program, capture_output=True, text=True, check=False)
    if tried.returncode != 0:
        pytest.skip(f"a box of profile {profile}: {tried.stderr.strip()}")


def test_every_exception_is_needed():
    shown: set[str] = set()
    for page in PAGES:
        for block in blocks(page):
            if block.language == "console":
                shown |= {command.text for command in commands(block)}
            elif block.language == "sh":
                shown |= set(block.text.splitlines())
    assert set(NOT_RUN) <= shown


def test_every_link_of_the_pages_leads_somewhere():
    for page in PAGES:
        prose = re.sub(r"^( *)```.*?^ *```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
        for target in re.findall(r"\]\(([^)#\s]+)[^)]*\)", prose):
            assert target.startswith("https://") or (page.parent / target).exists(), f"{page.name}: {target}"


def test_output_is_compared_apart_from_numbers_and_widths():
    assert matches(["run 12: exit 3 (job)"], "run 4: exit 2 (job)\n")
    assert matches(["first", "...", "last"], "first\nsecond\nthird\nlast\n")
    assert matches(["at ... o'clock"], "at five o'clock\n")
    assert not matches(["completed"], "failed\n")
    assert not matches(["first"], "first\nsecond\n")
