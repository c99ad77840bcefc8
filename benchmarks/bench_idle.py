"""How often does an idle daemon wake up? Context switches that launcher and supervisor make of their own accord."""

import time
from pathlib import Path

import common

from lnmt_scheduler.supervisor import pulse

SECONDS = 30


def switches(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("voluntary_ctxt_switches"):
            return int(line.split()[1])
    raise LookupError(pid)


def main() -> None:
    with common.daemon() as running:
        running.add(id="daily", command="true", schedule="0 2 * * *", sandbox=common.PLAIN)
        pids = (running.supervisor_pid, running.launcher_pid)
        time.sleep(pulse.LIMIT / 2 + 1)  # the launcher looks once, so long after the last thing that happened
        before = sum(map(switches, pids))
        time.sleep(SECONDS)
        woken = sum(map(switches, pids)) - before
    common.say("wake-ups of an idle daemon", f"{woken * 60 / SECONDS:.0f} a minute", "limit 0", None)


if __name__ == "__main__":
    main()
