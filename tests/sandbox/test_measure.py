"""What measuring finds where there is no box: if it could not tell, its findings inside one would be worth nothing."""

import json
import os
import subprocess
import sys

import pytest

from lnmt_scheduler.sandbox import policy

SOURCE = """
import json, os, socket, sys
from lnmt_scheduler.sandbox import measure, policy

folder = sys.argv[1]
place = f"{folder}/daemon.sock"
listener = socket.socket(socket.AF_UNIX)
listener.bind(place)
listener.listen()
outside = measure.outside(uid=os.getuid(), variables=["MARKER"], files=[f"{folder}/store"], socket_path=place)
os.open("/dev/null", os.O_RDONLY)
os.open("/dev/null", os.O_RDONLY)
measure._PLACES = (folder,)
print(json.dumps(measure.measure(dict.fromkeys(policy.LAYERS, "require"), {"open_files": 1, "cpu_time": None}, outside)))
"""


@pytest.fixture
def found(tmp_path):
    (tmp_path / "store").write_text("rows")
    done = subprocess.run(
        [sys.executable, "-I", "-c", SOURCE, str(tmp_path)],
        env={**os.environ, "MARKER": "daemon"},
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    )
    return json.loads(done.stdout)


def test_nothing_of_a_box_is_found_where_there_is_none(found):
    states = {layer: state for layer, (state, _) in found["layers"].items()}
    assert list(states) == list(policy.LAYERS)
    # Of the host's own doing are only what any process may have: see the three below.
    boxed = {layer for layer, state in states.items() if state == "enforced"}
    assert boxed <= {"signals", "core_dumps", "seccomp", "landlock", "no_new_privs"}


def test_what_is_open_is_named(found):
    by = {layer: by for layer, (_, by) in found["layers"].items()}
    assert by["environment"] == "the daemon's MARKER"
    assert "daemon.sock" in by["daemon_files"]
    assert "store" in by["daemon_files"]
    assert by["rlimits"] == "not as wanted: open_files"
    assert "lo" in by["network"]


def test_what_was_tried_is_listed_with_its_outcome(found, tmp_path):
    tried = dict(found["attempts"])
    assert tried[f"create a file in {tmp_path}"] == "done"
    assert tried[f"open {tmp_path}/store"] == "done"
    assert os.listdir(tmp_path).count("store") == 1
    assert [name for name in os.listdir(tmp_path) if name.startswith(".lnmt-trial")] == []
