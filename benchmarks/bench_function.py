"""A Python function as a job, forked from the warm launcher: what does it cost beside a new interpreter that does nothing?"""

import sys

import common

from lnmt_scheduler.ipc import control


def main() -> None:
    with common.daemon() as running:
        running.add(id="function", module="os", function="getpid", sandbox=common.PLAIN)
        with running.client() as connection:

            def run() -> None:
                run_id = connection.request(control.Run(job_id="function"))["run_id"]
                connection.request(control.Follow(run_id=run_id))

            ours = common.median(run, 100)
    theirs = common.median(lambda: common.spawn(sys.executable, "-c", "pass"), 30)
    common.say(
        "function job, asked to recorded",
        f"{ours * 1e3:.2f} ms",
        f"`python -c pass` {theirs * 1e3:.2f} ms",
        ours / theirs,
    )


if __name__ == "__main__":
    main()
