"""Reads what a history has left behind: witness files, the database, processes.

The database is read with plain sqlite3 and no code of the daemon's; it must not be open in a daemon (ask for a stop, or read
a copy). WITNESS is what a job of a real daemon runs so that there is a word of its own about each of its processes.
"""

import contextlib
import dataclasses
import datetime as dt
import hashlib
import json
import os
import sqlite3
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path

from checking import evidence

TABLES = ("jobs", "definitions", "job_history", "attempts", "audit")
#: For `python -I -c`, with the witness file and seconds to last; writes `lines` of output. One write(2) with O_APPEND a line,
#: so that no line tears another and none is lost with the process.
WITNESS = """
import hashlib, json, os, sys, time
path, seconds, code, lines = sys.argv[1], float(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
fd = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o666)
e = os.environ
who = {"job": e["LNMT_JOB_ID"], "run_id": int(e["LNMT_RUN_ID"]), "attempt": int(e["LNMT_ATTEMPT"]), "slot": e.get("LNMT_SLOT")}
def tell(what, **more):
    at = round(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)
    os.write(fd, (json.dumps({**who, "what": what, "at": at, **more}) + "\\n").encode())
tell("start")
out = "".join(f"{who['run_id']}.{who['attempt']} line {n}\\n" for n in range(lines)).encode()
half = len(out) // 2
os.write(1, out[:half]); time.sleep(seconds); os.write(1, out[half:])
tell("end", code=code, sha=hashlib.sha256(out).hexdigest(), size=len(out))
sys.exit(code)
"""


def true_now() -> int:
    """Now on the axis of the witness files: CLOCK_BOOTTIME in milliseconds."""
    return round(time.clock_gettime(time.CLOCK_BOOTTIME) * 1000)


def true_zero() -> int:
    """What makes wall time of true_now(), while nobody sets the clock."""
    return round((time.time() - time.clock_gettime(time.CLOCK_BOOTTIME)) * 1000)


def witnesses(path: Path, zero: int = 0) -> list[evidence.Witness]:
    """The witnesses of a file of lines; `zero` is added to their times. A line that is not whole belongs to nobody."""
    started: dict[tuple, list[dict]] = {}
    for line in path.read_bytes().splitlines() if path.exists() else []:
        try:
            told = json.loads(line)
        except ValueError:
            continue
        key = (told["job"], told["run_id"], told["attempt"])
        if told["what"] == "start":
            started.setdefault(key, []).append(told)
        else:
            started[key][-1]["ending"] = told
    return [_witness(told, zero) for each in started.values() for told in each]


def _witness(told: dict, zero: int) -> evidence.Witness:
    ending = told.get("ending", {})
    end = ending.get("at")
    return evidence.Witness(
        job=told["job"],
        run_id=told["run_id"],
        attempt=told["attempt"],
        slot=slot_of(told["slot"]),
        start=told["at"] + zero,
        end=None if end is None else end + zero,
        code=ending.get("code"),
        sha=ending.get("sha"),
        size=ending.get("size"),
    )


def slot_of(text: str | None) -> int | None:
    """Epoch milliseconds of LNMT_SLOT."""
    if not text:
        return None
    if text.isdigit():
        return int(text)
    return round(dt.datetime.fromisoformat(text).timestamp() * 1000)


def database(path: Path) -> dict[str, list[dict]]:
    """All rows of the tables that the checker reads."""
    with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as db:
        return tables(db)


def tables(db: sqlite3.Connection) -> dict[str, list[dict]]:
    found = {}
    for name in TABLES:
        cursor = db.execute(f"SELECT * FROM {name}")
        columns = [column[0] for column in cursor.description]
        found[name] = [dict(zip(columns, row, strict=True)) for row in cursor]
    return found


def outputs(folder: Path, runs: Iterable[dict]) -> dict[int, tuple[str, int]]:
    """Hash and size of what is stored of each run's output."""
    found = {}
    for path in folder.rglob("*.log"):
        data = path.read_bytes()
        found[int(path.stem)] = (hashlib.sha256(data).hexdigest(), len(data))
    wanted = {row["run_id"] for row in runs}
    return {run_id: value for run_id, value in found.items() if run_id in wanted}


def alive(marker: str) -> list[evidence.Alive]:
    """Living processes that carry this text in their environment or command line, with the run that they belong to."""
    return list(_alive(marker.encode()))


def _alive(marker: bytes) -> Iterator[evidence.Alive]:
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        folder = Path("/proc") / name
        try:
            environment = folder.joinpath("environ").read_bytes()
            found = folder.joinpath("cmdline").read_bytes() + environment
            state = folder.joinpath("stat").read_bytes().rsplit(b")", 1)[1].split()[0]
        except OSError:
            continue  # it has gone
        if marker not in found or state in b"ZX":
            continue
        values = dict(part.split(b"=", 1) for part in environment.split(b"\0") if b"=" in part)
        if b"LNMT_RUN_ID" in values:
            run_id, attempt = int(values[b"LNMT_RUN_ID"]), int(values[b"LNMT_ATTEMPT"])
            yield evidence.Alive(run_id=run_id, attempt=attempt, pid=int(name))


def witness_command(path: Path, *, seconds: float = 0, code: int = 0, lines: int = 1) -> list[str]:
    """The argv of a job that is its own witness in this file, which must be there and open to the job's user."""
    return [sys.executable, "-I", "-c", WITNESS, str(path), str(seconds), str(code), str(lines)]


def gather(
    state_dir: Path,
    witness_file: Path,
    *,
    begin: int,
    stopped: int,
    changes: list[evidence.Change],
    faults: Iterable[evidence.Fault] = (),
    places: int = 20,
) -> evidence.Evidence:
    """What a daemon that is stopped has left behind. All times that are given are true_now()."""
    zero, rows = true_zero(), database(state_dir / "lnmt.db")

    def moved(record, *names: str):
        return dataclasses.replace(record, **{name: getattr(record, name) + zero for name in names})

    return evidence.Evidence(
        begin=begin + zero,
        end=true_now() + zero,
        stopped=stopped + zero,
        places=places,
        changes=[moved(each, "sent", "until") for each in changes],
        faults=[moved(each, "begin", "end") for each in faults],
        witnesses=witnesses(witness_file, zero),
        alive=alive(str(witness_file)),
        outputs=outputs(state_dir / "output", rows["job_history"]),
        tables=rows,
    )
