"""Play one history again: `.venv/bin/python tests/simulation/replay.py sparse 17 [LENGTH]`.

Prints what struck and what ran, line by line (true time, wall time, event), and what the checker finds. LENGTH is in years for
sparse and in days for dense, and is that of the tests unless it is given: another length is another history.
"""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from checking import rules
from simulation import script, test_simulation, world


def main(kind: str, seed: str, length: str | None = None) -> int:
    usual = {"sparse": test_simulation.YEARS, "dense": test_simulation.DAYS}[kind]
    one = world.World(int(seed), script.KINDS[kind](float(length) if length else usual), trace=True)
    found = one.run()
    findings = rules.judge(found)
    print("\n".join(one.trace or []))
    print(f"{one.faults} faults, {len(found.tables['job_history'])} rows, {len(found.witnesses)} processes")
    print("\n".join(map(str, findings)) or "nothing is wrong")
    return 1 if findings else 0


if __name__ == "__main__":
    raise SystemExit(main(*sys.argv[1:]))
