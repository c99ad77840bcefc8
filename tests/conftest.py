"""Fixtures for all: a folder that other accounts can reach, and a daemon in it."""

import os
import pwd
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import harness
import pytest
import standin
from escape.listed import pytest_terminal_summary  # noqa: F401 (a hook: pytest finds it here by its name)


@pytest.fixture
def folder() -> Iterator[Path]:
    """A new folder that every account may enter; pytest's own tmp_path is for one account only."""
    path = Path(tempfile.mkdtemp(prefix="lnmt-test-"))
    path.chmod(0o755)
    yield path
    shutil.rmtree(path, ignore_errors=True)


@pytest.fixture
def make_daemon(folder: Path) -> Iterator[Callable[..., harness.Daemon]]:
    """Make and start daemons, each on a state directory of its own; all are stopped at the end.

    Where the host cannot give the default profile, jobs of a test are trusted. With None as `config` a daemon has no
    configuration at all.
    """
    made: list[harness.Daemon] = []

    def make(*arguments: str, name: str = "state", config: str | None = "", **more: Any) -> harness.Daemon:
        state = folder / name
        if os.geteuid() != 0:
            more.pop("user", None)  # it is whoever tests
        user = more.get("user")
        pretend = (more.get("environment") or {}).get("LNMT_PRETEND", "")
        if config is not None and "default_profile" not in config and not harness.gives_standard(user, pretend):
            config = f'default_profile = "trusted"\n{config}'
        if config or user:
            state.mkdir(mode=0o711, exist_ok=True)
        if config:
            (state / "config.toml").write_text(config)
        if user and os.geteuid() == 0:
            shutil.chown(state, user)
        daemon = harness.Daemon(state, *arguments, **more)  # type: ignore[arg-type]  # as the caller gave them
        made.append(daemon)
        return daemon.start()

    yield make
    for daemon in made:
        daemon.stop()


@pytest.fixture
def daemon(make_daemon: Callable[..., harness.Daemon]) -> harness.Daemon:
    """A running daemon."""
    return make_daemon()


@pytest.fixture(scope="session")
def ordinary_user() -> str:
    """The name of an account without privileges that can reach the interpreter; skips by name where there is none."""
    if os.geteuid() != 0:
        return pwd.getpwuid(os.geteuid()).pw_name
    reach = [sys.executable, "-I", "-c", "import lnmt_scheduler.supervisor.daemon"]
    try:
        subprocess.run(reach, user="nobody", group="nogroup", extra_groups=[], capture_output=True, check=True)
    except (OSError, LookupError, subprocess.CalledProcessError) as error:
        pytest.skip(f"an ordinary account that reaches {sys.executable}: {error}")
    return "nobody"


@pytest.fixture(scope="session")
def launched(tmp_path_factory: pytest.TempPathFactory) -> Iterator[standin.Launched]:
    """A launcher whose supervisor is the test, in the best mode that this host gives; nobody may break it."""
    with standin.Launched(tmp_path_factory.mktemp("launcher")) as made:
        yield made
