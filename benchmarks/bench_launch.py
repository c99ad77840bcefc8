"""From the request to start /bin/true to the row that says how it ended: what does a run cost beside a bare spawn?

Our figure holds two durable commits, a box with its own pid namespace and /proc, two forks, and two messages each way.
"""

import common

from lnmt_scheduler.ipc import control


def main() -> None:
    with common.daemon() as running:
        running.add(id="true", command=["/bin/true"], sandbox=common.PLAIN)
        with running.client() as connection:

            def run() -> None:
                run_id = connection.request(control.Run(job_id="true"))["run_id"]
                connection.request(control.Follow(run_id=run_id))

            ours = common.median(run, 100)
        inside = [row["duration"] for row in running.history()]
    theirs = common.median(lambda: common.spawn("/bin/true"), 100)
    common.say(
        "run of `/bin/true`, asked to recorded",
        f"{ours * 1e3:.2f} ms",
        f"posix_spawn {theirs * 1e3:.2f} ms",
        ours / theirs,
    )
    boxed = sorted(inside)[len(inside) // 2]
    common.say("of that, box made to row written", f"{boxed * 1e3:.0f} ms", "", None)


if __name__ == "__main__":
    main()
