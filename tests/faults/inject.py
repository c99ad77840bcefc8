"""Faults at the k-th system call of one process of a daemon: SIGKILL in place of the call, or an error as its answer.

strace does it (`-e inject`), attached to a running process, or, through paused.py, from the first step of the supervisor or
of a box's init on. A Point says which process, which call, which time, and what; a Tracer carries it out and counts what was
called meanwhile. How many points there are is found out by a run without a fault: see points().
"""

import contextlib
import os
import re
import select
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import harness
import pytest

#: Calls that change something outside of the process. Opening a file is among them only as the state before the next one.
CHANGES = (
    "write", "pwrite64", "writev", "fsync", "fdatasync", "ftruncate", "fallocate", "rename", "renameat", "unlink", "unlinkat",
    "mkdir", "rmdir", "chmod", "fchmod", "chown", "fchown", "link", "symlink", "mknod", "sendmsg", "sendto", "splice", "clone",
    "clone3", "fork", "vfork", "execve", "kill", "pidfd_send_signal", "wait4", "waitid", "mount", "umount2", "pivot_root",
    "chroot", "setresuid", "setresgid", "setgroups", "capset", "prctl", "unshare", "setns", "setsid", "seccomp",
    "landlock_restrict_self", "memfd_create", "bind", "listen", "accept4", "epoll_ctl", "timerfd_settime", "flock",
    "setsockopt", "exit_group",
)  # fmt: skip


#: Seconds in which a process that was killed is seen to be dead.
_MOMENT = 0.1
#: Call -> what it may fail with.
Errors = Mapping[str, Iterable[str]]


@dataclass(frozen=True, slots=True)
class Point:
    """The `when`-th such call of the `process`-th process of this role."""

    role: str
    call: str
    when: int
    #: Name of an errno; None: SIGKILL, and the call is not made.
    error: str | None = None
    #: Not this once, but from then on.
    sticky: bool = False
    process: int = 1

    def __str__(self) -> str:
        what = "KILL" if self.error is None else self.error
        number = f"-{self.process}" if self.process > 1 else ""
        return f"{self.role}{number}:{self.call}:{self.when}{'+' if self.sticky else ''}:{what}"

    @property
    def rule(self) -> str:
        what = "signal=KILL:retval=0" if self.error is None else f"error={self.error}"
        return f"inject={self.call}:{what}:when={self.when}{'+' if self.sticky else ''}"


def points(role: str, counts: Counter[str], errors: Errors | None, process: int = 1) -> list[Point]:
    """All points of a process whose calls were counted so: `errors` are what each call may fail with; None: it is killed."""
    found = []
    for call, when in ((name, n) for name in sorted(counts) if name != "!" for n in range(1, counts[name] + 1)):
        if errors is None:
            found.append(Point(role, call, when, process=process))
        for error in () if errors is None else errors[call]:
            found += [Point(role, call, when, error, sticky, process) for sticky in (False, True)]
    return found


def strided(found: list[Point], wanted: int) -> list[Point]:
    """So many of them, evenly spread."""
    return found if wanted >= len(found) else [found[n * len(found) // wanted] for n in range(wanted)]


def require() -> None:
    """Skip by name where nothing can be injected."""
    if shutil.which("strace") is None:
        pytest.skip("strace: not installed (apt-get install strace)")
    probe = subprocess.run(
        ["strace", "-o", "/dev/null", "-e", "inject=getppid:error=EIO:when=1", "true"], capture_output=True, text=True
    )
    if probe.returncode != 0:
        pytest.skip(f"strace cannot trace here: {probe.stderr.strip()}")


class Tracer:
    """strace on one process, until stop(); the process goes on."""

    def __init__(self, pid: int, log: Path, calls: Iterable[str], point: Point | None = None) -> None:
        self._log = log
        self._pidfd = os.pidfd_open(pid)
        self._kills = point is not None and point.error is None
        log.unlink(missing_ok=True)
        names = sorted({*calls, *([point.call] if point else [])})
        rules = ["-e", f"trace={','.join('?' + name for name in names)}"]
        if point is not None:
            rules += ["-e", point.rule]
        self._process = subprocess.Popen(
            ["strace", "-qq", "-s", "0", "-o", str(log), *rules, "-p", str(pid)],
            stderr=subprocess.PIPE,
        )
        until = time.monotonic() + 10
        while not _is_traced(pid):
            if self._process.poll() is not None or time.monotonic() > until:
                break  # it is gone already, or nobody may trace it: the counts will say so
            time.sleep(0.001)

    def stop(self) -> Counter[str]:
        """How often each call was made, and under `!` how often the fault came."""
        # Whom it has killed strace sees die a moment later than those who wait for an answer, and then ends by itself.
        with open(self._pidfd, "rb"):
            is_dead = self._kills and bool(select.select([self._pidfd], [], [], _MOMENT)[0])
        if not is_dead:
            with contextlib.suppress(ProcessLookupError):
                self._process.send_signal(signal.SIGTERM)
        self._process.communicate(timeout=10)
        text = self._log.read_text(errors="replace") if self._log.exists() else ""
        counts = Counter(re.findall(r"^(\w+)\(", text, re.MULTILINE))
        counts["!"] = text.count("(INJECTED)") + text.count("+++ killed by SIGKILL")
        return counts


def _is_traced(pid: int) -> bool:
    try:
        status = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return False
    return "TracerPid:\t0\n" not in status


class Daemon(harness.Daemon):
    """A daemon whose processes of some roles wait, when they begin, for hold() to let a tracer at them."""

    def __init__(self, state_dir: Path, *arguments: str, pauses: str = "", **more: object) -> None:
        super().__init__(state_dir, *arguments, **more)  # type: ignore[arg-type]  # as the caller gave them
        self._pauses = pauses
        self._path = str(state_dir.parent / "paused.sock")
        #: Role -> how many come before, the calls to count, the fault.
        self._planned: dict[str, tuple[int, Iterable[str], Point | None]] = {}
        self._tracers: list[Tracer] = []
        self._lock = threading.Lock()
        self._server = socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._server.bind(self._path)
        os.chmod(self._path, 0o666)
        self._server.settimeout(None)  # whatever the default is: it waits for as long as the daemon lives
        self._server.listen(64)
        threading.Thread(target=self._serve, daemon=True).start()

    @property
    def command(self) -> list[str]:
        entry = str(Path(__file__).with_name("paused.py"))
        return [sys.executable, "-I", entry, self._path, self._pauses, "--state-dir", str(self.state_dir)]

    @property
    def supervisor_pid(self) -> int:
        """Asked for as long as it may take a busy host: nothing is injected yet."""
        until = time.monotonic() + 20
        while True:
            try:
                return super().supervisor_pid
            except TimeoutError:
                if time.monotonic() > until:
                    raise

    def plan(self, role: str, calls: Iterable[str], point: Point | None = None, process: int = 1) -> None:
        """The `process`-th process of this role from now on is traced from its first step on."""
        with self._lock:
            self._planned[role] = (process - 1, calls, point)

    def attach(self, role: str, calls: Iterable[str], point: Point | None = None) -> None:
        """Trace the launcher or the supervisor from here on."""
        pid = self.launcher_pid if role == "launcher" else self.supervisor_pid
        self._tracers.append(Tracer(pid, self._log_of(role), calls, point))

    def detach(self) -> Counter[str]:
        """Let go of all; what they have called."""
        with self._lock:
            self._planned.clear()
            tracers, self._tracers = self._tracers, []
        return sum((each.stop() for each in tracers), Counter())

    def _log_of(self, role: str) -> Path:
        return self.state_dir.parent / f"{role}.strace"

    def _serve(self) -> None:
        while True:
            try:
                sock, _ = self._server.accept()
            except OSError:
                return
            with sock:
                credentials = sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)
                pid, role = int.from_bytes(credentials[:4], sys.byteorder), sock.recv(64).decode()
                with self._lock:
                    before, calls, point = self._planned.pop(role, (-1, (), None))
                    if before > 0:
                        self._planned[role] = (before - 1, calls, point)
                    elif before == 0:
                        with contextlib.suppress(ProcessLookupError):  # it is dead already
                            self._tracers.append(Tracer(pid, self._log_of(role), calls, point))
                with contextlib.suppress(OSError):
                    sock.send(b"g")

    def close(self) -> None:
        self.detach()
        self.stop()
        self._server.close()


@contextlib.contextmanager
def daemon(folder: Path, pauses: str = "", **more: object) -> Iterator[Daemon]:
    """A running one."""
    made = Daemon(folder / "state", pauses=pauses, **more)
    try:
        yield made
    finally:
        made.close()
