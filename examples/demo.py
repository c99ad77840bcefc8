"""`make demo`: the jobs of demo_jobs.json under a real daemon, in under 20 seconds.

This program starts `schedd` on a temporary state directory and drives it by `schedctl` alone, as a person would; every
command is shown as it is called. What the jobs need is started here too: a TCP and an HTTP server on loopback, and a
database that is written to all the time. At the end it checks what it has promised on the way, looks for processes that are
left, and exits with 0 only if all was as said. The daemon's life is tied to this program's by a pipe, so nothing stays
behind however the demo ends.
"""

import contextlib
import http.server
import json
import os
import shlex
import shutil
import signal
import socketserver
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self

import psutil

HERE = Path(__file__).resolve().parent
BIN = Path(sys.executable).parent
#: Seconds that any one command may take; all of them together take about ten.
PATIENCE = 30.0


class PromiseBrokenError(Exception):
    """Something was not as the demo says; the text says what."""


# What the jobs look at.


class Greeter(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        self.request.sendall(b"220 demo server, at your service\r\n")


class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self) -> None:
        body = b"<h1>demo</h1><p>all is well</p>"
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """The demo has enough to say."""


@contextlib.contextmanager
def serving(server: socketserver.TCPServer) -> Iterator[int]:
    """The server's port, while it serves."""
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05})
    thread.start()
    try:
        yield server.server_address[1]
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextlib.contextmanager
def live_database(path: Path) -> Iterator[None]:
    """A database with some history, to which rows are added all the time."""
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA journal_mode = WAL")
        database.execute("CREATE TABLE samples (at REAL, value BLOB)")
        database.executemany("INSERT INTO samples VALUES (?, ?)", ((n, os.urandom(400)) for n in range(30_000)))
        database.commit()
    ended = threading.Event()

    def write() -> None:
        with contextlib.closing(sqlite3.connect(path)) as database:
            database.execute("PRAGMA synchronous = NORMAL")
            while not ended.wait(0.005):
                database.execute("INSERT INTO samples VALUES (?, ?)", (time.time(), b"live"))
                database.commit()

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield
    finally:
        ended.set()
        writer.join()


# The daemon, and speaking to it.


class Daemon:
    """`schedd` on a state directory; its end is ours."""

    def __init__(self, state: Path, programs: Path) -> None:
        self.state = state
        self._programs = programs
        self._profile = "standard"
        self._started = time.monotonic()
        self._lock = threading.Lock()
        self._broken: list[str] = []

    def judge_host(self) -> None:
        """A host that cannot give the default profile would refuse most jobs: say so, and ask for less."""
        found = json.loads(self._quiet("doctor", "-o", "json").stdout)
        if refused := found["default"]["refused"]:
            print(f"This host cannot give profile {found['default']['profile']}: {refused}")
            print("So the jobs of this demo run as trusted, which is what cron gives.")
            self._profile = "trusted"

    def configure(self, slots: int) -> None:
        """Write config.toml: how many runs at once, and what all jobs of the demo have in common."""
        path = f"/usr/local/bin:/usr/bin:/bin:{BIN}"  # the host's python3, which every box shows, if it has one
        config = self.state / "config.toml"
        config.write_text(
            f"max_concurrent_jobs = {slots}\n"
            f"default_profile = {json.dumps(self._profile)}\n"
            "[defaults]\n"
            f"python_path = [{json.dumps(str(self._programs))}]\n"
            f"working_directory = {json.dumps(str(self._programs))}\n"
            f"environment = {{ PATH = {json.dumps(path)} }}\n"
        )
        config.chmod(0o600)

    def __enter__(self) -> Self:
        read, self._tie = os.pipe2(os.O_CLOEXEC)
        command = [str(BIN / "schedd"), "--state-dir", str(self.state), "--log-level", "warning"]
        # In a group of its own: Ctrl-C is for the demo, which then lets go of the pipe.
        self._process = subprocess.Popen(
            [*command, "--tied-to", str(read)], pass_fds=[read], stdin=subprocess.DEVNULL, process_group=0
        )
        os.close(read)
        self._until_true("the daemon listens", lambda: self._quiet("status").returncode == 0)
        return self

    def __exit__(self, *_: object) -> None:
        os.close(self._tie)
        self._process.wait(PATIENCE)

    def say(self, text: str) -> None:
        with self._lock:
            print(f"{time.monotonic() - self._started:5.1f}  {text}", flush=True)

    def title(self, text: str) -> None:
        with self._lock:
            print(f"\n--- {text}", flush=True)

    def _command(self, *arguments: str) -> list[str]:
        return [str(BIN / "schedctl"), "--state-dir", str(self.state), *arguments]

    def _quiet(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(self._command(*arguments), capture_output=True, text=True, timeout=PATIENCE, check=False)

    def ask(self, *arguments: str) -> Any:
        """What the command says as JSON, unshown."""
        done = self._quiet(*arguments, "-o", "json")
        if done.returncode:
            raise PromiseBrokenError(f"schedctl {shlex.join(arguments)}: {done.stderr.strip()}")
        return json.loads(done.stdout)

    def show(self, *arguments: str) -> None:
        """Run the command on this terminal, as a person would."""
        self.say(f"$ schedctl {shlex.join(arguments)}")
        done = subprocess.run(self._command(*arguments), timeout=PATIENCE, check=False)
        if done.returncode != 0:
            raise PromiseBrokenError(f"schedctl {arguments[0]} exited with {done.returncode}")

    def import_jobs(self, path: Path) -> None:
        """Import the file; of what changes only the jobs are shown, without their keys."""
        self.say(f"$ schedctl import {path}")
        done = self._quiet("import", str(path))
        if done.returncode != 0:
            raise PromiseBrokenError(done.stderr)
        print(*(line for line in done.stdout.splitlines() if not line.startswith(" ")), sep="\n", flush=True)

    def detach(self, *arguments: str) -> int:
        """Start a run, and return its id at once."""
        run_id = int(self.ask("run", *arguments, "--detach")["run_id"])
        self.say(f"$ schedctl run {shlex.join(arguments)} --detach   -> run {run_id}")
        return run_id

    def follow(self, job_id: str, *arguments: str, code: int) -> threading.Thread:
        """Run a job and pass on what is said as it comes, beside others; the thread ends with it."""
        command = ("run", job_id, *arguments)
        self.say(f"$ schedctl {shlex.join(command)} &")

        def run() -> None:
            with subprocess.Popen(
                self._command(*command), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
            ) as process:
                for line in process.stdout or ():
                    self.say(f"{job_id} | {line.rstrip()}")
            if process.returncode != code:
                self._broken.append(f"schedctl run {job_id} exited with {process.returncode}, not with {code}")

        thread = threading.Thread(target=run)
        thread.start()
        return thread

    def join(self, following: list[threading.Thread]) -> None:
        for thread in following:
            thread.join()
        if self._broken:
            raise PromiseBrokenError("; ".join(self._broken))

    def _until_true(self, what: str, condition: Callable[[], object]) -> None:
        until = time.monotonic() + PATIENCE
        while not condition():
            if time.monotonic() > until or self._process.poll() is not None:
                raise PromiseBrokenError(f"in vain: {what}")
            time.sleep(0.05)

    def wait_until(self, what: str, condition: Callable[[], object]) -> None:
        self.say(f"(waiting until {what})")
        self._until_true(what, condition)

    def memory(self) -> int:
        """MiB that launcher and supervisor hold together."""
        status = self.ask("status")
        return sum(psutil.Process(status[key]).memory_info().rss for key in ("pid", "launcher_pid")) >> 20


# The four acts.


def promise(kept: object, text: str) -> None:
    """Show the promise as kept, or end the demo."""
    if not kept:
        raise PromiseBrokenError(text)
    print(f"  ok  {text}", flush=True)


def definitions(daemon: Daemon) -> None:
    daemon.title("One file of jobs, taken whole or not at all")
    daemon.import_jobs(HERE / "demo_jobs.json")
    daemon.show("list")


def backup(daemon: Daemon, database: str) -> None:
    daemon.title("A backup of a database while it is being written, with progress")
    daemon.show("run", "sqlite_backup", "--kwargs", json.dumps({"database": database, "pause": 0.02}))
    promise(daemon.ask("history", "--job", "sqlite_backup")[0]["result"]["rows"] >= 30_000, "the copy is whole")


def priorities(daemon: Daemon, database: str, tcp_port: int, http_port: int) -> None:
    daemon.title("One slot, and it is taken; four jobs queue up behind it, the least important first")
    holding = daemon.detach("hold")
    jobs: tuple[tuple[str, dict[str, object]], ...] = (
        ("system_metrics", {}),
        ("sqlite_backup", {"database": database}),
        ("tcp_check", {"port": tcp_port}),
        ("http_check", {"url": f"http://127.0.0.1:{http_port}/"}),
    )
    runs = [daemon.detach(job_id, *(("--kwargs", json.dumps(kwargs)) if kwargs else ())) for job_id, kwargs in jobs]
    daemon.show("cancel", str(holding))
    for run_id in reversed(runs):
        daemon.show("wait", str(run_id))
    started = {run["run_id"]: run["start_time"] for run in daemon.ask("history")}
    order = sorted(runs, key=lambda run_id: started[run_id])
    promise(order == runs[::-1], "they started as critical, high, normal, low")


def trouble(daemon: Daemon) -> None:
    daemon.title("Twenty slots, and trouble: a flood, crashes, and a script that nothing ends; a schedule beside them")
    daemon.configure(slots=20)
    daemon.show("reload")
    daemon.show("enable", "load_average")
    before = daemon.memory()
    following = [daemon.follow("stubborn", code=124), daemon.follow("flaky", "--with-retries", code=0)]
    daemon.show("wait", str(daemon.detach("flood")))
    after = daemon.memory()
    daemon.join(following)
    daemon.wait_until("the schedule has run its job three times", lambda: len(scheduled(daemon)) >= 3)
    daemon.show("disable", "load_average")
    daemon.title("What became of it")
    daemon.show("history")
    judge(daemon, before, after)


def scheduled(daemon: Daemon) -> list[dict[str, Any]]:
    """Runs by schedule that completed."""
    return list(daemon.ask("history", "--job", "load_average", "--status", "completed"))


def judge(daemon: Daemon, before: int, after: int) -> None:
    newest = {run["job_id"]: run for run in reversed(daemon.ask("history"))}
    stubborn, flaky, flood = (newest[job_id] for job_id in ("stubborn", "flaky", "flood"))
    promise(stubborn["reason"] == "timeout", f"stubborn was ended by its timeout after {stubborn['duration']} s")
    promise(stubborn["killed_count"] == 3, "all three of its processes had to be killed:")
    for each in stubborn["killed"]:
        print(f"        {each['pid']}  {each['command']}")
    promise(flaky["status"] == "completed" and flaky["retry_count"] == 2, "flaky crashed twice, then completed")
    promise(
        flood["truncated"], f"of flood's {flood['output_bytes'] >> 20} MiB of output the head and the tail are kept"
    )
    # Not all growth is the flood's: the daemon has served other requests meanwhile.
    promise(after - before < 20, f"the daemon held {before} MiB before the flood and {after} MiB after it")
    slots = [run["slot"] for run in scheduled(daemon)]
    promise(len(set(slots)) == len(slots), f"{len(slots)} slots of load_average ran, each of them once")
    promise(newest["hold"]["status"] == "cancelled", "hold was cancelled and ended in its own way")


def leftovers(state: Path) -> list[str]:
    """Processes that run for this daemon."""
    found = []
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            words = [*process.cmdline(), *process.environ().values()]
            if process.pid != os.getpid() and any(str(state) in word for word in words):
                found.append(f"{process.pid} {shlex.join(process.cmdline())}")
    return found


def demo(folder: Path) -> None:
    state = folder / "state"
    state.mkdir(mode=0o711)
    # A copy, because importing a module leaves a cache beside it.
    programs = folder / "programs"
    programs.mkdir()
    for name in ("demo_jobs.py", "stubborn.py"):
        shutil.copy(HERE / name, programs)
    database = folder / "samples.db"
    with (
        live_database(database),
        serving(socketserver.ThreadingTCPServer(("127.0.0.1", 0), Greeter)) as tcp_port,
        serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)) as http_port,
    ):
        daemon = Daemon(state, programs)
        daemon.judge_host()
        daemon.configure(slots=1)
        with daemon:
            print(f"A daemon of its own runs in {state}; every command below has --state-dir {state}.")
            definitions(daemon)
            backup(daemon, str(database))
            priorities(daemon, str(database), tcp_port, http_port)
            trouble(daemon)
            daemon.title("The end")
            daemon.show("status")
            daemon.show("stop")
    promise(not leftovers(state), "no process is left")


def main() -> int:
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    started = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="lnmt-demo-"))
    folder.chmod(0o711)  # runs have users of their own
    try:
        demo(folder)
    except PromiseBrokenError as error:
        print(f"\nThe demo failed: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    finally:
        shutil.rmtree(folder, ignore_errors=True)
    promise(not folder.exists(), f"no file is left; that took {time.monotonic() - started:.1f} s")
    return 0


if __name__ == "__main__":
    sys.exit(main())
