"""Installs, as a person makes them: by `make`, in a checkout."""

import os
import subprocess
from pathlib import Path

ROOT = Path(__file__).parents[1]
SYSTEM_PYTHON = "/usr/bin/python3"
#: What an install needs of a checkout.
PARTS = (
    "Makefile",
    "pyproject.toml",
    "setup.cfg",
    "README.md",
    "LICENSE",
    "packaging",
    "ipc",
    "sandbox",
    "jobs",
    "supervisor",
)
#: What pip says where there is neither network nor cache.
UNREACHABLE = ("No matching distribution", "Could not find a version", "ConnectionError")


def make(
    goal: str,
    *,
    at: Path = ROOT,
    environment: dict[str, str] | None = None,
    user: str | None = None,
    **variables: object,
) -> subprocess.CompletedProcess[str]:
    """`make GOAL NAME=VALUE...` in a checkout."""
    return subprocess.run(
        ["make", "--no-print-directory", "-C", at, goal, *(f"{name}={value}" for name, value in variables.items())],
        capture_output=True,
        text=True,
        user=user,
        extra_groups=[] if user else None,
        env={**os.environ, **(environment or {})},
    )


def can_make_a_version() -> bool:
    """Whether the system's interpreter will do."""
    program = "import sys, ensurepip, venv; assert sys.version_info >= (3, 11)"
    try:
        subprocess.run([SYSTEM_PYTHON, "-I", "-c", program], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return False
    return True
