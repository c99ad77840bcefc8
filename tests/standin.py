"""A real launcher whose supervisor is the test: for what the launcher and a child do, without store or schedule.

The launcher runs in a process of its own, as always. Where it would start the supervisor it starts a small process that
hands the supervisor's end of the channel to the test and waits to be killed; the test then speaks the protocol itself.
"""

import contextlib
import os
import select
import socket
import subprocess
import sys
import time
from collections.abc import Collection
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Self

import harness

from lnmt_scheduler.ipc import channel, codec, frames, messages
from lnmt_scheduler.jobs import child
from lnmt_scheduler.sandbox import policy
from lnmt_scheduler.supervisor import payload

_LAUNCHER = """
import gc, os, signal, socket, sys
from lnmt_scheduler.sandbox import limits, probe, syscalls
from lnmt_scheduler.supervisor import launcher, pulse, successor

def hand_over(fd, arguments, service):
    signal.set_wakeup_fd(-1)
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    try:
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(sys.argv[1])
            socket.send_fds(sock, [str(os.getpid()).encode()], [fd])
    except OSError:
        os._exit(1)  # the test is gone; and a fork that went on from here would be a second launcher
    os.closerange(3, 4096)
    while True:
        signal.pause()

successor._become_supervisor = hand_over
pulse.START_LIMIT = float(10**6)  # the test never says that it is ready, and may take longer than a supervisor
syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
host = probe.probe(frozenset(sys.argv[2].split(",")))
limits.raise_open_files()
gc.collect()
gc.freeze()  # as schedd does
raise SystemExit(launcher.Launcher([], host, None).run(None))
"""

#: What a payload must say, for a job that needs nothing.
PLAIN = {
    "job_id": "job",
    "attempt": 1,
    "slot": None,
    "event": None,
    "environment": {"PATH": payload.PATH},
    "working_directory": "/",
    "umask": 0o022,
    "state_dir": "/nowhere",
    "result_limit": 1 << 20,
}


def python(
    source: str, *arguments: str, user: str | None = None, seconds: float = 30
) -> subprocess.CompletedProcess[str]:
    """Run source in a new interpreter: single-threaded, so that it may fork boxes, and whatever it breaks is its own."""
    return subprocess.run(
        [sys.executable, "-I", "-c", source, *arguments],
        capture_output=True,
        text=True,
        timeout=seconds,
        user=user,
        group=user and harness._group_of(user),
        extra_groups=[] if user else None,
    )


@dataclass
class Done:
    """What became of one attempt, and all that it said."""

    exited: messages.Exited
    stdout: bytes
    stderr: bytes
    reports: list[object] = field(default_factory=list)


class Launched:
    """A launcher, and the test's end of its channel. A context; leaving it ends the launcher and all its boxes."""

    def __init__(
        self,
        folder: Path,
        *,
        masked: str = "",
        user: str | None = None,
        environment: dict[str, str] | None = None,
        before: str = "",
        wrapper: tuple[str, ...] = (),
    ) -> None:
        """`user` runs it as another account (root only), `before` is a source that the launcher runs first, `wrapper` a
        command that becomes that account and executes it.
        """
        starts_as = None if wrapper else user
        self._where = str(folder / "standin.sock")
        self._masked = masked
        self._listener = socket.socket(socket.AF_UNIX)
        self._listener.bind(self._where)
        os.chmod(self._where, 0o666)
        self._listener.listen(4)
        self._log = (folder / "launcher.log").open("w+b")
        self._run_id = 0
        self._inbox: list[tuple[object, list[int]]] = []
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, "-I", "-c", before + _LAUNCHER, self._where, masked],
            stdin=subprocess.DEVNULL,
            stderr=self._log,
            user=starts_as,
            group=starts_as and harness._group_of(starts_as),
            extra_groups=[] if starts_as else None,
            env={**os.environ, **(environment or {})},
        )
        self.channel: channel.PacketChannel
        #: Pid of the process that stands where the supervisor would.
        self.standin = 0
        self.welcome = self.take_over()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        self.channel.close()
        for _, fds in self._inbox:
            for fd in fds:
                os.close(fd)
        self._listener.close()
        self._log.close()

    @property
    def pid(self) -> int:
        return self.process.pid

    @property
    def log(self) -> str:
        self._log.seek(0)
        return self._log.read().decode()

    def take_over(self) -> messages.Welcome:
        """Become the (next) supervisor; what the launcher says first."""
        if self.standin:
            self.channel.close()
        self.standin, self.channel = self.accept()
        welcome, fds = self.expect(messages.Welcome)
        for fd in fds:
            os.close(fd)
        return welcome  # type: ignore[no-any-return]  # asked for by class

    def accept(self) -> tuple[int, channel.PacketChannel]:
        """Pid and channel of the next supervisor that the launcher starts."""
        self._listener.settimeout(20)
        connection, _ = self._listener.accept()
        with connection:
            pid, fds, _, _ = socket.recv_fds(connection, 32, 1)
        return int(pid), channel.PacketChannel(socket.socket(fileno=fds[0]), messages.TO_SUPERVISOR)

    def send(self, message: object, fds: tuple[int, ...] = ()) -> None:
        self.channel.send(message, fds)

    def expect(self, kind: type, seconds: float = 20) -> tuple[Any, list[int]]:
        """The next message of this kind, with its descriptors; others wait for their turn."""
        return self.expect_of(kind, None, seconds)

    def expect_of(self, kind: type, run_id: int | None, seconds: float = 20) -> tuple[Any, list[int]]:
        until = time.monotonic() + seconds
        while not (found := self._take(kind, run_id)):
            if self.channel.eof or time.monotonic() > until:
                raise AssertionError(f"no {kind.__name__} came (eof: {self.channel.eof}); the launcher: {self.log}")
            self._wait(seconds)
        return found

    def _take(self, kind: type, run_id: int | None) -> tuple[object, list[int]] | None:
        for number, (message, _) in enumerate(self._inbox):
            if isinstance(message, kind) and run_id in (None, getattr(message, "run_id", None)):
                return self._inbox.pop(number)
        return None

    def _wait(self, seconds: float, pipes: Collection[int] = ()) -> None:
        poll = select.poll()
        for fd in (self.channel.fileno(), *pipes):
            poll.register(fd, select.POLLIN)
        if not poll.poll(seconds * 1000):
            raise AssertionError(f"nothing came within {seconds} s; the launcher: {self.log}")
        self._inbox += self.channel.receive()

    def launch(
        self, *, wanted: dict[str, object] | None = None, timeout: float | None = 30, grace: float = 5, **more: object
    ) -> int:
        """Have an attempt started with a payload of these keys; its run id."""
        self._run_id += 1
        sealed = payload.seal(codec.pack({**PLAIN, "run_id": self._run_id, **more}, max_depth=child.DEPTH))
        order = messages.Launch(
            run_id=self._run_id,
            attempt=1,
            policy=policy.Policy().to_map() if wanted is None else wanted,
            timeout=timeout,
            kill_grace=grace,
        )
        self.send(order, (sealed,))
        return self._run_id

    def run(self, *argv: str, **more: object) -> Done:
        """Launch, wait for the end, read what it said, acknowledge."""
        run_id = self.launch(argv=argv, **more) if argv else self.launch(**more)
        return self.finish(run_id)

    def finish(self, run_id: int) -> Done:
        """Wait for the end of an attempt that was launched, reading its pipes meanwhile."""
        _, pipes = self.expect_of(messages.Started, run_id)
        said = {fd: bytearray() for fd in pipes}
        waiting = set(pipes)
        try:
            while not (exited := self._take(messages.Exited, run_id)):
                self._wait(30, waiting)
                waiting -= _pump(said)
            _pump(said)
        finally:
            for fd in pipes:
                os.close(fd)
        self.send(messages.Ack(run_id=run_id, attempt=1))
        stdout, stderr, report = (bytes(data) for data in said.values())
        reports = [codec.decode(body, messages.REPORT) for body in frames.FrameReader(frames.REPORT_LIMIT).feed(report)]
        return Done(exited[0], stdout, stderr, reports)  # type: ignore[arg-type]  # asked for by class


def _pump(said: dict[int, bytearray]) -> set[int]:
    """Read what the pipes hold now; those that are at their end."""
    ended = set()
    for fd, data in said.items():
        with contextlib.suppress(BlockingIOError):
            while piece := os.read(fd, 65536):
                data.extend(piece)
            ended.add(fd)
    return ended
