"""`make bench`: every benchmark, one after the other, as the rows of one table."""

import os
import platform
import runpy
import sys
from pathlib import Path

HERE = Path(__file__).parent
EVERY = (
    "launch",
    "function",
    "box",
    "throughput",
    "list",
    "memory",
    "idle",
    "next_fire",
    "decision",
    "store",
    "recovery",
    "punctual",
)


def main() -> None:
    sys.path.insert(0, str(HERE))
    print(f"Python {platform.python_version()}, Linux {platform.release()}, {os.cpu_count()} processors\n")
    print("| question | ours | against | ratio |\n|---|---|---|---|")
    for name in sys.argv[1:] or EVERY:
        runpy.run_path(str(HERE / f"bench_{name}.py"), run_name="__main__")


if __name__ == "__main__":
    main()
