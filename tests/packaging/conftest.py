"""What installs are made from: a wheelhouse that is filled once, so that all that follows needs no network, and checkouts."""

import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

import installing
import pytest


@pytest.fixture(scope="session")
def offline() -> Iterator[dict[str, str]]:
    """Variables of an install that takes what it needs from a wheelhouse; skips by name where that cannot be filled."""
    if not installing.can_make_a_version():
        pytest.skip(f"an install needs {installing.SYSTEM_PYTHON} of 3.11 or newer with its venv module")
    wheelhouse = tempfile.mkdtemp(prefix="lnmt-wheelhouse-")  # every account may enter it, unlike pytest's own folders
    Path(wheelhouse).chmod(0o755)
    try:
        done = installing.make("wheelhouse", WHEELHOUSE=wheelhouse)
        if done.returncode != 0 and any(words in done.stderr for words in installing.UNREACHABLE):
            pytest.skip(f"the packages that an install needs cannot be reached: {done.stderr.strip()[-200:]}")
        assert done.returncode == 0, done.stderr
        yield {"WHEELHOUSE": wheelhouse}
    finally:
        shutil.rmtree(wheelhouse)


@pytest.fixture
def checkout(folder: Path) -> Callable[..., Path]:
    """Make a checkout of another version, with more files in its room supervisor/."""

    def copy(version: str, more: dict[str, str] | None = None) -> Path:
        to = folder / f"checkout-{version}"
        to.mkdir()
        for part in installing.PARTS:
            if (installing.ROOT / part).is_dir():
                shutil.copytree(installing.ROOT / part, to / part, ignore=shutil.ignore_patterns("__pycache__"))
            else:
                shutil.copy(installing.ROOT / part, to / part)
        for path in (to / "pyproject.toml", to / "supervisor/version.py"):
            text = path.read_text()
            assert '"0.1.0"' in text
            path.write_text(text.replace('"0.1.0"', f'"{version}"'))
        for name, text in (more or {}).items():
            (to / "supervisor" / name).write_text(text)
        return to

    return copy
