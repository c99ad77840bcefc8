"""The Dockerfile, without an engine: its lines are carried out in roots of the release that it names, stage by stage.

That takes a root directory of that release as an archive, and root: LNMT_DOCKER_BASE=trixie.tar, for instance made by
`mmdebstrap --variant=minbase trixie trixie.tar`. LNMT_DOCKER_SHOW=PATH:PATH names what of this host is to be seen there, pip's
configuration for instance, or a mirror. Without an archive only what the lines refer to is looked at.
"""

import json
import os
import re
import shutil
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

import installing
import pytest

FILE = installing.ROOT / "packaging/Dockerfile"
BASE = os.environ.get("LNMT_DOCKER_BASE")
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


@dataclass
class Stage:
    base: str
    name: str
    lines: list[tuple[str, str]] = field(default_factory=list)


def stages() -> list[Stage]:
    text = re.sub(r"^#.*\n", "", FILE.read_text(), flags=re.MULTILINE).replace("\\\n", "")
    found: list[Stage] = []
    for line in filter(None, text.splitlines()):
        word, _, rest = line.partition(" ")
        if word == "FROM":
            base, _, name = rest.partition(" AS ")
            found.append(Stage(base, name))
        else:
            found[-1].lines.append((word, rest.strip()))
    return found


def ignored() -> set[str]:
    """What .dockerignore lets through."""
    lines = FILE.with_name("Dockerfile.dockerignore").read_text().splitlines()
    assert next(line for line in lines if not line.startswith("#")) == "*"
    return {line[1:] for line in lines if line.startswith("!")}


def test_the_context_is_what_an_install_reads():
    assert ignored() == set(installing.PARTS)


def test_both_stages_are_of_one_release():
    build, image = stages()
    assert build.base == image.base
    assert build.name == "build"
    assert ("COPY", "--from=build /tree/ /") in image.lines


def test_commands_are_lists_so_that_signals_reach_the_daemon():
    image = dict(stages()[-1].lines)
    assert json.loads(image["ENTRYPOINT"])[-1] == "/usr/local/bin/schedd"
    assert json.loads(image["HEALTHCHECK"].partition("CMD ")[2])[0] == "schedctl"
    assert json.loads(image["VOLUME"]) == ["/var/lib/lnmt-scheduler"]


def test_each_run_cleans_up_what_apt_has_fetched():
    for stage in stages():
        for word, rest in stage.lines:
            if word == "RUN" and "apt-get" in rest:
                assert rest.startswith("apt-get update")
                assert "--no-install-recommends" in rest
                assert "rm -rf /var/lib/apt/lists/*" in rest


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.skipif(
    not BASE or os.geteuid() != 0, reason="a root of the Dockerfile's release: LNMT_DOCKER_BASE, and root"
)
def test_its_lines_make_a_daemon_that_runs_a_job(folder):
    roots: dict[str, Path] = {}
    for stage in stages():
        root = roots[stage.name] = folder / (stage.name or "image")
        root.mkdir()
        subprocess.run(["tar", "-C", root, "-xf", BASE, "--exclude=./dev/*"], check=True)
        shutil.copy("/etc/resolv.conf", root / "etc/resolv.conf")
        for word, rest in stage.lines:
            carry_out(word, rest, root, roots)
    image = dict(stages()[-1].lines)
    entry = " ".join(json.loads(image["ENTRYPOINT"]))
    check = " ".join(json.loads(image["HEALTHCHECK"].partition("CMD ")[2]))
    script = f"""{entry} & trap 'kill $!; wait' EXIT
        until {check} > /dev/null 2>&1; do kill -0 $! || exit 1; sleep 0.1; done
        schedctl add --id hello --command 'echo hello from a job' && schedctl run hello"""
    done = enter(folder / "image", script)
    assert "hello from a job" in done.stdout, done.stdout + done.stderr


def carry_out(word: str, rest: str, root: Path, roots: dict[str, Path]) -> None:
    if word == "RUN":
        done = enter(root, rest)
        assert done.returncode == 0, f"{rest}\n{done.stdout}{done.stderr}"
    elif word == "COPY":
        *sources, target = re.sub(r"--from=\S+ ", "", rest).split()
        came_from = re.match(r"--from=(\S+)", rest)
        (source,) = sources
        if came_from:
            subprocess.run(["cp", "-a", f"{roots[came_from[1]]}{source}.", f"{root}{target}"], check=True)
        else:
            (root / target[1:]).mkdir()
            for part in installing.PARTS:
                subprocess.run(["cp", "-a", installing.ROOT / part, root / target[1:]], check=True)


def enter(root: Path, script: str) -> subprocess.CompletedProcess[str]:
    """A shell in the root, with the processes and mounts of its own that a container has."""
    mounts = f"mount -t proc proc {root}/proc; mount -t tmpfs tmpfs {root}/run; mount --rbind /dev {root}/dev"
    for path in filter(None, os.environ.get("LNMT_DOCKER_SHOW", "").split(":")):
        shown = root / path[1:]
        if os.path.isdir(path):
            shown.mkdir(parents=True, exist_ok=True)
        else:
            shown.parent.mkdir(parents=True, exist_ok=True)
            shown.touch()
        mounts += f"; mount --bind {path} {shown}"
    inside = ["unshare", "--mount", "--pid", "--fork", "--kill-child", "sh", "-ec"]
    command = [*inside, f'{mounts}; exec chroot {root} sh -ec "$0"', script]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PATH": _PATH})
