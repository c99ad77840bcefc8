"""Does a long history cost anything? A store with a million runs against one with 10,000: queries, start, retention.

`LNMT_BENCH_RUNS` sets another size; 10 million take some minutes to make, and 4 GiB.
"""

import contextlib
import os
import resource
import shutil
import sqlite3
import tempfile
import time
from pathlib import Path

import common
import harness

from lnmt_scheduler.supervisor import housekeeping, store

MANY, FEW, JOBS = int(os.environ.get("LNMT_BENCH_RUNS", "1_000_000")), 10_000, 100
#: Ten seconds between two runs, the newest of them now.
STEP_MS = 10_000
_RUN = """
INSERT INTO job_history (job_uid, job_id, slot, trigger, status, reason, priority, queued, start_time, end_time, duration,
    attempts, exit_code, output_bytes, cpu_seconds, profile, definition)
VALUES (?, ?, ?, 'schedule', ?, ?, 2, ?, ?, ?, 1.5, 1, ?, 0, 0.01, 'trusted', ?)
"""
_ATTEMPT = "INSERT INTO attempts (run_id, attempt, launched, ended, status, exit_code) VALUES (?, 1, ?, ?, ?, ?)"


def make(path: Path, runs: int) -> None:
    """A store with 100 jobs and so many runs, one in a hundred failed."""
    now = time.time_ns() // 1_000_000
    with contextlib.closing(store.Store.open(str(path))) as made:
        for number in range(JOBS):
            given = {"id": f"job-{number:04}", "command": ["/bin/true"], "schedule": "0 3 1 1 *"}
            made.add_job(
                job_id=f"job-{number:04}", given=given, origins={"id": "job"}, hash=f"{number:064}", source="cli", owner=0,
                enabled=True, watermark=now, next_slot=now + 10**10, added=now,
            )  # fmt: skip
        made.commit()
    with contextlib.closing(sqlite3.connect(path, isolation_level=None)) as db:
        db.execute("PRAGMA journal_mode=OFF")
        db.execute("PRAGMA synchronous=OFF")
        db.execute("PRAGMA cache_size=-400000")
        db.execute("BEGIN")
        rows, attempts = [], []
        for number in range(1, runs + 1):
            at = now - (runs - number) * STEP_MS
            job = number % JOBS
            failed = number % 100 == 0
            status, code = ("failed", 1) if failed else ("completed", 0)
            rows.append(
                (job + 1, f"job-{job:04}", at, status, "exit" if failed else None, at, at, at + 1500, code, job + 1)
            )
            attempts.append((number, at, at + 1500, status, code))
            if len(rows) == 50_000:
                db.executemany(_RUN, rows)
                db.executemany(_ATTEMPT, attempts)
                rows.clear()
                attempts.clear()
        db.executemany(_RUN, rows)
        db.executemany(_ATTEMPT, attempts)
        db.execute("COMMIT")


def queries(path: Path) -> dict[str, float]:
    """Median seconds of each question that a person or the daemon asks, each on a page of 50."""
    with contextlib.closing(store.Store.open(str(path))) as db:
        newest = db.history(limit=1)[0]
        middle, hour = newest.run_id // 2, newest.queued - 3_600_000
        asked = {
            "newest": db.history,
            "of a job": lambda: db.history("job-0050"),
            "that failed": lambda: db.history(status="failed"),
            "of a job, that failed": lambda: db.history("job-0050", status="failed"),
            "since an hour ago": lambda: db.history(since=hour),
            "from the middle on": lambda: db.history(before=middle),
            "one page of `list`": lambda: [db.newest_run(row.uid) for row in db.jobs_page()],
            "open runs": db.open_runs,
            "counts for `status`": db.counts,
        }
        return {name: common.median(question, 50) for name, question in asked.items()}


def start(path: Path) -> float:
    """Seconds from the start of a daemon on this store to its first answer."""
    folder = Path(tempfile.mkdtemp(prefix="lnmt-bench-", dir=path.parent))
    folder.chmod(0o755)
    state = folder / "state"
    state.mkdir(mode=0o711)
    (state / "config.toml").write_text('[retention]\nage = "3000d"\nruns = 10000000\n')
    os.rename(path, state / "lnmt.db")
    daemon = harness.Daemon(state)
    try:
        began = time.perf_counter()
        daemon.start()
        return time.perf_counter() - began
    finally:
        daemon.stop()
        os.rename(state / "lnmt.db", path)
        shutil.rmtree(folder)


def retention(path: Path) -> tuple[float, float]:
    """Seconds of the longest batch of a round that forgets the older half, and runs a second; of at most 200 batches."""
    with contextlib.closing(store.Store.open(str(path))) as db:
        newest = db.history(limit=1)[0]
        age = newest.queued - db.history(before=newest.run_id // 2, limit=1)[0].queued
        cursor, longest, gone, spent = None, 0.0, 0, 0.0
        for _ in range(200):
            began = time.perf_counter()
            swept = db.retention(newest.queued, age, 10**7, housekeeping.BATCH, cursor)
            db.commit()
            took = time.perf_counter() - began
            longest, gone, spent, cursor = max(longest, took), gone + len(swept.gone), spent + took, swept.cursor
            if cursor is None:
                break
        return longest, gone / spent


def main() -> None:
    folder = Path(tempfile.mkdtemp(prefix="lnmt-bench-"))
    try:
        large, small = folder / "large.db", folder / "small.db"
        make(small, FEW)
        make(large, MANY)
        of = f"{MANY:,} runs".replace(",", " ")
        before, after = queries(small), queries(large)
        for name in before:
            ratio = after[name] / before[name]
            common.say(
                f"history: {name}, {of}",
                f"{after[name] * 1e3:.2f} ms",
                f"{FEW} runs {before[name] * 1e3:.2f} ms",
                ratio,
            )
        few, many = start(small), start(large)
        common.say(f"start with {of}", f"{many:.2f} s", f"{FEW} runs {few:.2f} s", many / few)
        (few, few_rate), (many, many_rate) = retention(small), retention(large)
        common.say(
            f"longest batch of retention, {of}", f"{many * 1e3:.0f} ms", f"{FEW} runs {few * 1e3:.0f} ms", many / few
        )
        common.say("runs forgotten a second", f"{many_rate:.0f}", f"{few_rate:.0f}", many_rate / few_rate)
        common.say(
            "size of the store",
            f"{large.stat().st_size / 2**20:.0f} MiB",
            f"{small.stat().st_size / 2**20:.0f} MiB",
            None,
        )
        most = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        common.say("memory, all of the above", f"{most:.0f} MiB", "", None)
    finally:
        shutil.rmtree(folder)


if __name__ == "__main__":
    main()
