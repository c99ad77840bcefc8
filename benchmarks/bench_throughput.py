"""Many short runs due at once: how many a second, each decided and recorded durably, beside bare forks of the same program?"""

import os
import time

import common
import harness

RUNS = 1000


def bare(count: int) -> float:
    """Seconds for `count` fork and exec of /bin/true, one after the other."""
    began = time.perf_counter()
    for _ in range(count):
        pid = os.fork()
        if pid == 0:
            os.execv("/bin/true", ["true"])
        os.waitpid(pid, 0)
    return time.perf_counter() - began


def main() -> None:
    with common.daemon() as running:
        # All are due at one instant, far enough ahead for the import.
        due = time.gmtime(time.time() + 20)
        fires = f"{due.tm_sec} {due.tm_min} {due.tm_hour} {due.tm_mday} {due.tm_mon} *"
        same = {"command": ["/bin/true"], "schedule": fires, "timezone": "UTC", "sandbox": common.PLAIN}
        jobs = [{"id": f"j{n}", **same} for n in range(RUNS)]
        common.import_jobs(running, jobs)
        harness.wait_for(lambda: len(running.history(status="completed")) == RUNS, 120, "all runs")
        rows = running.history(status="completed")
    took = (max(row["end_time"] for row in rows) - min(row["slot"] for row in rows)) / 1000
    limit = bare(RUNS)
    common.say(
        f"{RUNS} runs due in one second, 20 at a time",
        f"{RUNS / took:.0f} runs/s",
        f"fork and exec one by one {RUNS / limit:.0f}/s",
        took / limit,
    )


if __name__ == "__main__":
    main()
