"""How long is the schedule without a supervisor? From its kill -9 to a run that was asked for meanwhile.

With 100 live runs, and with a store of 100,000 jobs and a million runs. The limit is what any program in Python must do first:
start an interpreter that imports the daemon's modules.
"""

import os
import signal
import subprocess
import sys
import time

import bench_store
import common
import harness

from lnmt_scheduler.supervisor import client

RUNS, TIMES = 100, 3
JOBS, HISTORY = 100_000, 1_000_000
#: Seconds after which a supervisor that ends is none of a crash loop, and replaced at once.
APART = 10.5
TRUSTED = {"sandbox": {"profile": "trusted"}}


def one(running: harness.Daemon) -> float:
    """Seconds from the kill to the first start of a run after it."""
    time.sleep(APART)
    os.kill(running.supervisor_pid, signal.SIGKILL)
    began = time.time()
    # The socket stays in its place, and refuses until the next supervisor listens.
    while True:
        try:
            run_id = running.run("quick")
            break
        except (client.RequestError, OSError):
            time.sleep(0.001)
    return float(running.wait(run_id)["start_time"] / 1000 - began)


def with_runs() -> float:
    with common.daemon(f"max_concurrent_jobs = {RUNS + 10}\n") as running:
        running.add(id="quick", command="true", **TRUSTED)
        running.add(id="long", command="while :; do echo busy; sleep 1; done", kill_grace=0, max_retries=0, **TRUSTED)
        for _ in range(RUNS):
            running.run("long", allow_overlap=True)
        found = sorted(one(running) for _ in range(TIMES))
        assert running.status()["running"] == RUNS
    return found[len(found) // 2]


def with_jobs() -> float:
    with common.daemon() as running:
        running.stop()
        database = running.state_dir / "lnmt.db"
        database.unlink()
        bench_store.make(database, HISTORY)
        running.start()
        jobs = [{"id": f"more-{number}", "command": "true", "schedule": "0 3 1 1 *"} for number in range(JOBS)]
        common.import_jobs(running, jobs)
        running.add(id="quick", command="true", **TRUSTED)
        return sorted(one(running) for _ in range(TIMES))[TIMES // 2]


def main() -> None:
    importing = [sys.executable, "-I", "-c", "import lnmt_scheduler.supervisor.daemon"]
    with common.daemon() as running:
        running.add(id="quick", command="true", **TRUSTED)
        started = common.median(lambda: running.run_to_end("quick"), 3)
    limit = common.median(lambda: subprocess.run(importing, check=True), 3) + started
    for what, ours in ((f"{RUNS} live runs", with_runs()), (f"{JOBS:,} jobs, {HISTORY:,} runs", with_jobs())):
        question = f"from kill -9 of the supervisor to the next start, {what}"
        common.say(question, f"{ours * 1000:.0f} ms", f"import and run {limit * 1000:.0f} ms", ours / limit)


if __name__ == "__main__":
    main()
