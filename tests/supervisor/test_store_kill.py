"""A process that works on a store, killed at every system call that changes a file, one after the other.

strace kills it in the place of the call, so that the call does not happen. What the worker has acknowledged, by a byte on
its stdout after the commit, must be there when the store is opened again; what it has not may be, whole; and nothing else.
"""

import contextlib
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import stored

from lnmt_scheduler.supervisor import mending, store

DATA = Path(__file__).parent.parent / "data"
#: What may change a file; strace knows no more of them by these names on every machine, so those are marked with "?".
CALLS = "?pwrite64,?write,?fsync,?fdatasync,?ftruncate,?unlink,?rename,?renameat,?openat,?fallocate"
TESTS = str(Path(__file__).parent.parent)

#: The call of this number kills a worker, which makes so many idle ones first that it is the one that is wanted.
KILLED_AT = 500
#: Runs under strace, and forks a worker for each point: into the folder `w`, which then becomes the folder of its number.
DRIVER = """
import os, shutil, sys
tests, top, data, scenario = sys.argv[1:]
sys.path.insert(0, tests)
import stored
from lnmt_scheduler.supervisor import store
store._CHECKPOINT_PAGES = 8

def worker(point):
    idle = os.open("w/idle", os.O_WRONLY | os.O_CREAT)
    os.dup2(os.open("w/said", os.O_WRONLY | os.O_CREAT), 1)
    for _ in range({killed_at} - point - 1):
        os.pwrite(idle, b"", 0)
    os.close(idle)
    def said(word):
        os.writev(1, [word.encode() + b"\\n"])
    said("begun")
    db = store.Store.open("w/lnmt.db")
    exec(scenario, {{"db": db, "said": said, "stored": stored}})

os.chdir(top)
status, point = 1, 0
while status:
    point += 1
    os.mkdir("w")
    if data:
        shutil.copy(data, "w/lnmt.db")
    pid = os.fork()
    if pid == 0:
        worker(point)
        os._exit(0)
    status = os.waitpid(pid, 0)[1]
    if status not in (0, 9):
        sys.exit(f"point {{point}}: status {{status}}")
    os.rename("w", str(point))
"""
#: Name -> what the worker does. Each `said` follows a commit.
SCENARIOS = {
    "create": "db.close(); said('closed')",
    "decide": """
uid = stored.add_job(db, 0)
db.commit(); said('job')
for number in range(4):
    run = stored.add_run(db, uid, 0, number)
    db.update_job(uid, watermark=stored.T + number * stored.HOUR)
    db.commit(); said(f'run {run}')
db.close(); said('closed')
""",
    "many at once": """
for number in range(12):
    stored.add_job(db, number)
db.commit(); said('job')
db.retention(stored.T, 1, 1, 100)
db.remove_job(5, stored.T)
db.commit(); said('removed')
db.close(); said('closed')
""",
    "migrate": "db.close(); said('closed')",
}


def run_all(name, top):
    """Run the scenario once for every call, and once without a kill; how many there were."""
    files = ["lnmt.db", "idle", *(f"lnmt.db{suffix}" for suffix in ("-wal", "-journal", ".before-2", ".before-2.part"))]
    files += ["lnmt.db.new", "lnmt.db.new-wal", "lnmt.db.new-journal", "lnmt.db.before-2.part-journal", ""]
    only = [word for each in files for path in (f"{top}/w/{each}".rstrip("/"),) for word in ("-P", path)]
    inject = f"inject={CALLS}:signal=KILL:when={KILLED_AT}"
    data = str(DATA / "store_v1.db") if name == "migrate" else ""
    program = [sys.executable, "-c", DRIVER.format(killed_at=KILLED_AT), TESTS, str(top), data, SCENARIOS[name]]
    command = [
        "strace",
        "-f",
        "-qq",
        "-o",
        "/dev/null",
        *only,
        "-e",
        f"trace={CALLS}",
        "-e",
        inject,
        *program,
    ]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return len(os.listdir(top))


def assert_nothing_is_lost(name, path, said):
    with contextlib.closing(store.Store.open(str(path))) as db:
        if "job" in said:
            assert db.job(1) is not None
        jobs = len(db.jobs_page(limit=100))
        match name:
            case "decide":
                runs = [row.run_id for row in db.history(limit=100)]
                acknowledged = [int(word.removeprefix("run ")) for word in said if word.startswith("run")]
                assert sorted(runs)[: len(acknowledged)] == acknowledged
                assert len(runs) <= len(acknowledged) + 1, "at most the one that was being committed"
                for run_id in runs:
                    assert [each.status for each in db.attempts(run_id)] == ["completed"], "no half of a turn"
                if runs:
                    assert db.job(1).watermark == stored.T + (len(runs) - 1) * stored.HOUR
            case "many at once":
                assert jobs in ((11,) if "removed" in said else (12, 11) if "job" in said else (0, 12))
                assert len(list(db.dependency_pairs())) in (0, 10, 11)
            case "migrate":
                assert [row.job_id for row in db.jobs_page()] == ["collect", "report"]
                assert len(db.history()) == 4
                assert db.meta_get("boot") == "7c1d"
                assert db.planned_page(1) == []
    assert mending.check(str(path)) == []
    if name == "migrate":
        before = f"{path}.before-2"
        if os.path.exists(before):
            shutil.copy(before, f"{path}.old")
            with contextlib.closing(store.Store.open(f"{path}.old")) as db:
                assert len(db.history()) == 4, "a copy that is there is whole"


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize(
    "name", [name if name == "create" else pytest.param(name, marks=pytest.mark.long) for name in SCENARIOS]
)
def test_killed_at_every_call_that_changes_a_file(name, tmp_path):
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    points = run_all(name, tmp_path)
    for point in range(1, points + 1):
        folder = tmp_path / str(point)
        said = (folder / "said").read_text().splitlines()
        assert said[:1] == ["begun"]
        assert ("closed" in said) == (point == points)
        assert_nothing_is_lost(name, folder / "lnmt.db", said)
    print(f"{name}: killed at {points - 1} points")
    assert {"create": 30, "decide": 60, "many at once": 60, "migrate": 50}[name] < points < KILLED_AT
