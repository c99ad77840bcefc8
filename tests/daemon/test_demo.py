"""`make demo` does what it says, for root and for an ordinary account, with and without pid namespaces."""

import os
import subprocess
import sys
from pathlib import Path

import harness
import pytest

DEMO = Path(__file__).parents[2] / "examples/demo.py"


@pytest.mark.slow
@pytest.mark.parametrize(
    "masked",
    [pytest.param("", id="with the best box"), pytest.param("pidns", id="without namespaces", marks=pytest.mark.long)],
)
@pytest.mark.parametrize("who", ["whoever tests", "an ordinary account"])
def test_the_demo_keeps_its_promises_and_leaves_nothing(folder, request, who, masked):
    if who == "an ordinary account" and os.geteuid() != 0:
        pytest.skip("whoever tests is an ordinary account")
    other = request.getfixturevalue("ordinary_user") if who == "an ordinary account" else None
    as_other = {"user": other, "group": harness._group_of(other), "extra_groups": []} if other else {}
    folder.chmod(0o777)
    done = subprocess.run(
        [sys.executable, "-I", str(DEMO)],
        env={"PATH": os.defpath, "TMPDIR": str(folder), "HOME": str(folder), "LNMT_PRETEND": masked},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
        **as_other,
    )
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
    for words in ("critical, high, normal, low", "had to be killed", "no process is left", "no file is left"):
        assert words in done.stdout
    assert list(folder.iterdir()) == []
    assert harness.processes_with(str(folder)) == []
