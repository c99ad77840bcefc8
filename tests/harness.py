"""A real daemon in a folder of its own, for every test that needs one: started, spoken to, ended, and looked after.

Nothing here sleeps for a time that somebody guessed: wait_for() looks until a condition holds, or fails with what it saw.
"""

import functools
import json
import os
import pwd
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Self, TypeVar

import msgpack as installed  # type: ignore[import-untyped]  # ships none

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import client, schedd

T = TypeVar("T")
#: How many times longer than usual to wait: a machine under emulation is slow.
PATIENCE = float(os.environ.get("LNMT_TEST_PATIENCE", "1"))
_SCHEDD = """
import sys
from lnmt_scheduler.supervisor import schedd
schedd.main(sys.argv[1:])
"""
BIN = Path(sys.executable).parent
SCHEDCTL = str(BIN / "schedctl")


def wait_for(condition: Callable[[], T], seconds: float = 20.0, what: str = "the condition") -> T:
    """The first true value of the condition."""
    until = time.monotonic() + seconds * PATIENCE
    while True:
        value = condition()
        if value:
            return value
        if time.monotonic() > until:
            raise AssertionError(f"{what} did not come true within {seconds} s; last seen: {value!r}")
        time.sleep(0.01)


class Daemon:
    """`schedd` on a state directory. `user` runs it as another account (root only); `environment` is added to its own.

    `wrapper` is a command that becomes that account and executes it; `before` a source that the launcher runs first: a fault,
    a shorter time.
    """

    def __init__(
        self,
        state_dir: Path,
        *arguments: str,
        user: str | None = None,
        environment: dict[str, str] | None = None,
        wrapper: tuple[str, ...] = (),
        before: str = "",
    ):
        self.before = before
        self.state_dir = state_dir
        self.socket = str(state_dir / "control.sock")
        self.arguments = list(arguments)
        self.user = user
        self.environment = environment or {}
        self.wrapper = wrapper
        self.log_path = state_dir.parent / f"{state_dir.name}.log"
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def command(self) -> list[str]:
        program = ["-c", self.before + _SCHEDD] if self.before else ["-m", "lnmt_scheduler.supervisor.schedd"]
        return [sys.executable, "-I", *program, "--state-dir", str(self.state_dir)]

    def start(self) -> "Daemon":
        starts_as = None if self.wrapper else self.user
        with self.log_path.open("ab") as log:
            self.process = subprocess.Popen(
                [*self.wrapper, *self.command, *self.arguments],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                user=starts_as,
                group=starts_as and _group_of(starts_as),
                extra_groups=[] if starts_as else None,
                # Of what is in no `environment` only what it keeps: it would start a second time to be rid of the rest.
                env={**schedd.kept(os.environ), **self.environment},
            )
        wait_for(self._is_up, what="a daemon that listens")
        return self

    def _is_up(self) -> bool:
        assert self.process is not None
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended with code {self.process.returncode}:\n{self.log}")
        try:
            client.Client(self.socket).close()
        except client.Unreachable:
            return False
        return True

    @property
    def log(self) -> str:
        return self.log_path.read_text(errors="replace") if self.log_path.exists() else ""

    @property
    def launcher_pid(self) -> int:
        assert self.process is not None
        return self.process.pid

    @property
    def supervisor_pid(self) -> int:
        return int(self.status()["pid"])

    def stop(self, seconds: float = 60) -> int:
        """SIGTERM, and the exit code."""
        if self.process is None:
            return 0
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        try:
            return self.process.wait(seconds)
        finally:
            if self.process.poll() is None:
                self.process.kill()
                self.process.wait()
            self.process = None

    def kill(self) -> None:
        """SIGKILL to the launcher."""
        assert self.process is not None
        self.process.kill()
        self.process.wait()
        self.process = None

    # Speaking to it.

    def client(self) -> client.Client:
        """A connection; the caller closes it."""
        return client.Client(self.socket)

    def request(self, request: object) -> Any:
        with self.client() as connection:
            return connection.request(request)

    def add(self, **definition: Any) -> Any:
        return self.request(control.Add(definition=definition))

    def run(self, job_id: str, **more: Any) -> int:
        """Start a run by hand; its id."""
        return int(self.request(control.Run(job_id=job_id, **more))["run_id"])

    def wait(self, run_id: int) -> dict[str, Any]:
        """The run's row, once it has ended."""
        with self.client() as connection:
            stream = connection.stream(control.Follow(run_id=run_id))
            for _ in stream:
                pass
            return dict(stream.value["run"])

    def run_to_end(self, job_id: str, **more: Any) -> dict[str, Any]:
        return self.wait(self.run(job_id, **more))

    def output(self, run_id: int, what: str = "output") -> bytes:
        """All that is kept of a run's output."""
        found = bytearray()
        with self.client() as connection:
            while True:
                piece = connection.request(control.Read(run_id=run_id, what=what, offset=len(found)))
                found += piece["data"]
                if not piece["data"]:
                    return bytes(found)

    def history(self, **what: Any) -> list[dict[str, Any]]:
        """Rows of the history, newest first, all pages."""
        found: list[dict[str, Any]] = []
        before = None
        while True:
            page = self.request(control.History(before=before, limit=500, **what))
            found += page["runs"]
            before = page["more"]
            if before is None:
                return found

    def status(self) -> dict[str, Any]:
        return dict(self.request(control.State()))

    def ctl(self, *arguments: str, stdin: str = "", environment: dict[str, str] | None = None) -> "Outcome":
        """Run the real `schedctl` against this daemon."""
        done = subprocess.run(
            [SCHEDCTL, "--state-dir", str(self.state_dir), *arguments],
            input=stdin,
            capture_output=True,
            text=True,
            timeout=60,
            env={**os.environ, "NO_COLOR": "1", "TZ": "UTC", **(environment or {})},
        )
        return Outcome(done.returncode, done.stdout, done.stderr)


class Asker(threading.Thread):
    """Asks a daemon for its status all the time, as a context: how long the longest answer took."""

    def __init__(self, daemon: Daemon) -> None:
        super().__init__(daemon=True)
        self._daemon = daemon
        self._end = threading.Event()
        self.worst = 0.0
        self.times = 0

    def run(self) -> None:
        with self._daemon.client() as connection:
            while not self._end.wait(0.02):
                began = time.monotonic()
                connection.request(control.State())
                self.worst = max(self.worst, time.monotonic() - began)
                self.times += 1

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._end.set()
        self.join(30)


class Outcome:
    """How a command ended."""

    def __init__(self, code: int, stdout: str, stderr: str) -> None:
        self.code = code
        self.stdout = stdout
        self.stderr = stderr

    @property
    def json(self) -> Any:
        return json.loads(self.stdout)

    def __repr__(self) -> str:
        return f"exit {self.code}\nstdout:\n{self.stdout}\nstderr:\n{self.stderr}"


@functools.lru_cache(maxsize=32)
def gives_standard(user: str | None, pretend: str) -> bool:
    """Whether this host gives boxes of the default profile to a daemon of this account, acting as without `pretend`."""
    done = subprocess.run(
        [sys.executable, "-I", "-m", "lnmt_scheduler.sandbox", "--profile", "standard", "--chdir", "/", "--", "true"],
        capture_output=True,
        user=user,
        group=user and _group_of(user),
        extra_groups=[] if user else None,
        env={**os.environ, "LNMT_PRETEND": pretend},
    )
    return done.returncode == 0


def _group_of(user: str) -> int:
    return pwd.getpwnam(user).pw_gid


def make_python(where: Path, *, msgpack: bool = True) -> str:
    """A virtual environment without our package, and with msgpack as it is in this one; path of its interpreter."""
    subprocess.run([sys.executable, "-I", "-m", "venv", "--without-pip", str(where)], check=True)
    if msgpack:
        (site,) = where.glob("lib/python*/site-packages")
        shutil.copytree(os.path.dirname(str(installed.__file__)), site / "msgpack")
    return str(where / "bin" / "python")


def resident(pid: int) -> int:
    """Bytes of memory that the process has now."""
    return int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def processes_with(marker: str) -> list[int]:
    """Pids of living processes whose command line or environment holds the marker; zombies are dead."""
    return list(_processes_with(marker.encode()))


def _processes_with(marker: bytes) -> Iterator[int]:
    for name in os.listdir("/proc"):
        if not name.isdigit() or int(name) == os.getpid():
            continue
        try:
            found = Path(f"/proc/{name}/cmdline").read_bytes() + Path(f"/proc/{name}/environ").read_bytes()
            state = Path(f"/proc/{name}/stat").read_bytes().rsplit(b")", 1)[1].split()[0]
        except OSError:
            continue
        if marker in found and state not in b"ZX":
            yield int(name)
