"""How late does a job begin, by its own clock? An idle daemon, and one that starts 100 runs a minute.

The limit is a loop that sleeps until the second comes and starts the same program. 99th percentiles: of some hundred runs.
"""

import subprocess
import time

import common
import harness

SECONDS = 120
COMMAND = ["/bin/date", "+%s%N"]
#: 60 starts a minute, and 20 more of each other.
SCHEDULES = ("* * * * * *", "*/3 * * * * *", "1-59/3 * * * * *")


def percentile(late: list[float]) -> float:
    """The 99th, in seconds."""
    return sorted(late)[round(0.99 * (len(late) - 1))]


def by_daemon(running: harness.Daemon, schedules: tuple[str, ...]) -> list[float]:
    for number, schedule in enumerate(schedules):
        running.add(id=f"beat-{number}", command=COMMAND, schedule=schedule, sandbox=common.PLAIN, overlap="skip")
    time.sleep(SECONDS)
    late = []
    for number in range(len(schedules)):
        running.ctl("disable", f"beat-{number}")
        rows = [row for row in running.history(job_id=f"beat-{number}") if row["status"] == "completed"]
        # The first of a kind finds no box that stands ready.
        late += [int(running.output(row["run_id"])) / 1e9 - row["slot"] / 1000 for row in rows[:-1]]
        running.ctl("remove", f"beat-{number}")
    return late


def by_loop() -> list[float]:
    late = []
    for _ in range(SECONDS // 2):
        due = time.time_ns() // 1_000_000_000 + 1
        time.sleep(due - time.time())
        late.append(int(subprocess.run(COMMAND, capture_output=True, check=True).stdout) / 1e9 - due)
    return late


def main() -> None:
    limit = percentile(by_loop())
    with common.daemon() as running:
        idle = percentile(by_daemon(running, SCHEDULES[:1]))
        busy = percentile(by_daemon(running, SCHEDULES))
    for what, ours in (("one a second", idle), ("100 starts a minute", busy)):
        question = f"start after its slot, 99th percentile, {what}"
        common.say(question, f"{ours * 1000:.1f} ms", f"sleep and spawn {limit * 1000:.1f} ms", ours / limit)


if __name__ == "__main__":
    main()
