"""What every benchmark needs: a daemon in a folder of its own, medians, and one line to print."""

import contextlib
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "tests"))

import harness

from lnmt_scheduler.ipc import codec, control

#: The profile of what is measured beside a bare spawn, in all versions the same; what boxes cost is bench_box.py's question.
PLAIN = "trusted"


@contextlib.contextmanager
def daemon(config: str = "") -> Iterator[harness.Daemon]:
    """A daemon on a new state directory; both are gone afterwards."""
    folder = Path(tempfile.mkdtemp(prefix="lnmt-bench-"))
    folder.chmod(0o755)
    state = folder / "state"
    if config:
        state.mkdir(mode=0o711)
        (state / "config.toml").write_text(config)
    running = harness.Daemon(state).start()
    try:
        yield running
    finally:
        running.stop()
        shutil.rmtree(folder)


def import_jobs(running: harness.Daemon, jobs: list[dict[str, object]]) -> None:
    """Hand over many jobs at once, as `schedctl import` does."""
    data = codec.pack([["benchmark", {"jobs": jobs}]], max_depth=64)
    with running.client() as connection:
        for at in range(0, len(data), control.CHUNK):
            connection.request(control.Upload(data=data[at : at + control.CHUNK]))
        connection.request(control.Import())


def median(action: Callable[[], object], times: int, pause: float = 0.0) -> float:
    """Median seconds of one call, after one that does not count; `pause` seconds lie before each and do not count either."""
    action()
    found = []
    for _ in range(times):
        time.sleep(pause)
        began = time.perf_counter()
        action()
        found.append(time.perf_counter() - began)
    return statistics.median(found)


def spawn(*argv: str) -> None:
    """The limit: posix_spawn and wait, without a shell, a log or a limit."""
    pid = os.posix_spawn(argv[0], list(argv), {"PATH": "/usr/bin:/bin"})
    os.waitpid(pid, 0)


def memory(pid: int, field: str = "VmRSS") -> int:
    """Bytes of a process's memory, by its status."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(f"{field}:"):
            return int(line.split()[1]) * 1024
    raise LookupError(field)


def say(question: str, ours: str, theirs: str, ratio: float | None) -> None:
    """One row: what was asked, our figure, the figure to compare with, and ours as a multiple of it."""
    shown = "" if ratio is None else f"{ratio:.2f} x"
    print(f"| {question} | {ours} | {theirs} | {shown} |")
