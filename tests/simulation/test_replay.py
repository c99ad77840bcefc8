"""A seed is a history: the command that plays one again tells the same in another process."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

REPLAY = Path(__file__).with_name("replay.py")


@pytest.mark.slow
def test_a_seed_is_the_same_history_whatever_the_order_of_sets():
    told = [
        subprocess.run(
            [sys.executable, str(REPLAY), "dense", "3"],
            env={**os.environ, "PYTHONHASHSEED": seed},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert told[0] == told[1]
    assert told[0].endswith("nothing is wrong\n")
