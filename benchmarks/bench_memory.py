"""What does the daemon keep in memory for a job that sleeps? Launcher and supervisor, with no jobs and with 100,000."""

import time

import common
import harness

JOBS = 100_000


def main() -> None:
    with common.daemon() as running:
        empty, launcher = common.memory(running.supervisor_pid), common.memory(running.launcher_pid)
        jobs = [
            {
                "id": f"job{n}",
                "command": ["/bin/true"],
                "schedule": f"{n % 60} {n % 24} * * *",
                "tags": [f"t{n % 50}"],
                "sandbox": common.PLAIN,
            }
            for n in range(JOBS)
        ]
        began = time.perf_counter()
        common.import_jobs(running, jobs)
        imported = time.perf_counter() - began
        running.stop()
        began = time.perf_counter()
        running.start()
        started = time.perf_counter() - began
        full = harness.wait_for(lambda: common.memory(running.supervisor_pid))
    mib = 1024 * 1024
    common.say("memory of the supervisor, 0 jobs", f"{empty / mib:.1f} MiB", "", None)
    common.say("memory of the launcher", f"{launcher / mib:.1f} MiB", "", None)
    common.say(
        f"memory of the supervisor, {JOBS} jobs", f"{full / mib:.1f} MiB", f"0 jobs {empty / mib:.1f} MiB", full / empty
    )
    common.say("of that, a job", f"{(full - empty) / JOBS:.0f} bytes", "", None)
    common.say(f"import of {JOBS} jobs", f"{imported:.1f} s", "", None)
    common.say(f"start with {JOBS} jobs, to the first answer", f"{started:.2f} s", "", None)


if __name__ == "__main__":
    main()
