"""The ready-made jobs, killed at random points: nothing half-done is taken for good, and the next run goes on from there.

Each is called in a process of its own, which is killed with all that it has started. Where in its work that strikes is
random; the seed is printed.
"""

import contextlib
import json
import os
import random
import signal
import sqlite3
import subprocess
import sys
import time

import pytest
import router

from lnmt_scheduler.jobs import copies, retention

CALL = """
import json, sys
from lnmt_scheduler.jobs import backup
name, values = sys.argv[1], json.loads(sys.argv[2])
getattr(backup, name)(**values)
"""


@pytest.fixture
def dice():
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    return random.Random(seed)


def start(name, **values):

    return subprocess.Popen(
        [sys.executable, "-c", CALL, name, json.dumps(values)],
        start_new_session=True,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )


def whole(name, **values):
    """Seconds that one takes which is left alone."""
    began = time.monotonic()
    with start(name, **values) as running:
        _, said = running.communicate(timeout=60)
    assert running.returncode == 0, said
    return time.monotonic() - began


def killed(seconds, name, **values):
    """Kill one after so long; whether it was still at work."""
    with start(name, **values) as running:
        try:
            running.wait(seconds)
        except subprocess.TimeoutExpired:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(running.pid, signal.SIGKILL)
        running.communicate()
        return running.returncode == -signal.SIGKILL


@pytest.mark.slow
def test_no_half_written_copy_is_ever_taken_for_a_good_one(tmp_path, dice):
    source = tmp_path / "a.db"
    with contextlib.closing(sqlite3.connect(source)) as db, db:
        db.execute("CREATE TABLE t (x)")
        db.executemany("INSERT INTO t VALUES (?)", [("x" * 1000,)] * 20_000)
    to = tmp_path / "to"
    values = {"databases": [str(source)], "target": str(to)}
    longest = whole("data", **values)
    struck = sum(killed(dice.uniform(0.3 * longest, longest), "data", **values) for _ in range(15))
    assert struck >= 5
    found = [each for group in retention.groups(str(to)).values() for each in group]
    assert found
    assert [each.file for each in found if copies.fault(str(to / each.file))] == []
    whole("data", **values)
    assert [name for name in os.listdir(to) if name.endswith(".part")] == []
    # The removal of old ones, killed as well, leaves the newest whatever happens.
    newest = max(retention.groups(str(to))["a.db"], key=lambda each: each.at).file
    for _ in range(5):
        killed(dice.uniform(0.05, 0.4), "cleanup", root=str(to), keep={"last": 1})
        assert (to / newest).exists()
    whole("cleanup", root=str(to), keep={"last": 1})
    assert [name for name in os.listdir(to) if name != ".lock"] == [newest]


@pytest.mark.slow
def test_a_configuration_is_kept_whole_and_each_change_is_committed_once(folder, dice, monkeypatch):
    with router.run(folder / "router") as peer:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(peer.folder))
        one = {"name": "r1", "address": "127.0.0.1", "port": peer.port, "user": "root", "key": "key", "timeout": 10}
        values = {"devices": [one], "folder": str(folder / "configs")}
        longest = whole("device_config", **values)
        struck = 0
        for number in range(8):
            peer.configure("interface lo", f"description change {number}")
            struck += killed(dice.uniform(0.5 * longest, longest), "device_config", **values)
            text = (folder / "configs" / "r1.cfg").read_text()
            assert text.endswith("!\nend\n")
            assert "description " in text
        assert struck >= 3
        whole("device_config", **values)
    ask = ["git", "-C", str(folder / "configs"), "log", "-p", "--format=", "--", "r1.cfg"]
    log = subprocess.run(ask, capture_output=True, text=True, check=True).stdout
    added = [line for line in log.splitlines() if line.startswith("+ description")]
    assert added[0] == "+ description change 7"
    assert len(added) == len(set(added))
    subprocess.run(["git", "-C", str(folder / "configs"), "fsck", "--strict"], check=True, capture_output=True)
