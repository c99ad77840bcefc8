"""The functions of demo_jobs.json.

Each runs in a child process of its own, which the daemon forks for one attempt. What a function prints becomes the output of
its run, what it returns the result, and what it raises the error. A parameter named `context` is given the run itself.
"""

import os
import signal
import socket
import sqlite3
import time
import urllib.request
from typing import Any

import psutil

from lnmt_scheduler.jobs import context as job_context


def system_metrics() -> dict[str, Any]:
    """How busy this host is."""
    memory = psutil.virtual_memory()
    network = psutil.net_io_counters()
    return {
        "cpu_percent": psutil.cpu_percent(interval=0.2),
        "load": list(os.getloadavg()),
        "memory_percent": memory.percent,
        "disk_percent": psutil.disk_usage("/").percent,
        "network_bytes": 0 if network is None else network.bytes_recv + network.bytes_sent,
    }


def tcp_check(host: str, port: int, timeout: float = 3.0) -> dict[str, Any]:
    """Whether a server takes connections, how soon, and how it greets."""
    started = time.monotonic()
    with socket.create_connection((host, port), timeout) as connection:
        milliseconds = round((time.monotonic() - started) * 1000, 2)
        banner = connection.recv(200).decode(errors="backslashreplace").strip()
    return {"server": f"{host}:{port}", "milliseconds": milliseconds, "banner": banner}


def http_check(url: str, words: str = "", timeout: float = 3.0) -> dict[str, Any]:
    """Whether a page is served, how soon, and whether it holds the words that it should."""
    started = time.monotonic()
    with urllib.request.urlopen(url, timeout=timeout) as answer:
        page = answer.read(1_000_000).decode(errors="replace")
    milliseconds = round((time.monotonic() - started) * 1000, 2)
    if words not in page:
        raise AssertionError(f"{url} answers, but does not say {words!r}")
    return {"url": url, "status": answer.status, "milliseconds": milliseconds, "bytes": len(page)}


def sqlite_backup(database: str, context: job_context.JobContext, pause: float = 0.0) -> dict[str, Any]:
    """Copy a database that others are writing to, as it is at this moment, into this job's own directory.

    `pause` seconds between two steps leave the disk to others.
    """
    target = os.path.join(context.state_dir, "backup.db")
    source, copy = sqlite3.connect(database), sqlite3.connect(target)
    try:
        # An open read transaction holds the moment: without it every write by another would begin the copy anew.
        source.execute("BEGIN")
        source.execute("SELECT count(*) FROM sqlite_schema").fetchone()

        def progress(_status: int, remaining: int, total: int) -> None:
            context.progress(total - remaining, total, "pages copied")
            time.sleep(pause)

        source.backup(copy, pages=256, progress=progress)
        (verdict,) = copy.execute("PRAGMA integrity_check").fetchone()
        if verdict != "ok":
            raise AssertionError(f"the copy is damaged: {verdict}")
        (rows,) = copy.execute("SELECT count(*) FROM samples").fetchone()
    finally:
        copy.close()
        source.close()
    print(f"{target}: {os.path.getsize(target)} bytes, {rows} rows, integrity ok")
    return {"file": target, "rows": rows}


def flaky(context: job_context.JobContext) -> str:
    """Crash twice, in two ways, and work the third time."""
    print(f"attempt {context.attempt}", flush=True)
    if context.attempt == 1:
        raise ConnectionError("the remote end went away")
    if context.attempt == 2:
        os.kill(os.getpid(), signal.SIGSEGV)
    return "third time lucky"


def hold(context: job_context.JobContext) -> None:
    """Hold a slot until it is cancelled, and leave in its own way."""
    while not context.cancelled:
        time.sleep(0.02)
    print("asked to end, and done")
