"""The launcher: main process of the daemon, parent of the supervisor and of every box.

It alone knows the truth about a child. It starts boxes at the supervisor's word, keeps their deadlines, ends and reaps
them, and reports (boxes.py). It has one thread, because it forks without exec (sandbox/syscalls.py), and imports nothing
that the supervisor needs for deciding: no sqlite3, msgspec, click or croniter. It reads no payload, so it holds no secret.

When the supervisor dies or hangs (pulse.py), the runs go on: a new one is started and is handed every attempt, duplicates
of its pipes, and every exit that nobody has acknowledged. One that is to be replaced leaves only when its successor has
started, said Hello, and speaks our version of the protocol. When the launcher dies, the kernel ends every box and the
supervisor with it.
"""

import os
import pwd
import signal
import time

from lnmt_scheduler.ipc import codec, messages
from lnmt_scheduler.sandbox import probe, syscalls, users
from lnmt_scheduler.supervisor import boxes, journal, loop, notify, pulse, successor, version

#: Seconds between a supervisor's farewell and its end.
_FAREWELL_S = 5.0
#: Seconds in which a supervisor that is to take another's place must say Hello.
_HELLO_S = 60.0
#: Seconds before each new supervisor in a crash loop; one that lived longer than the last begins at the first again.
_BACKOFF = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0)
#: Seconds between two looks at a supervisor that is dead and cannot be reaped.
_LOOK_AGAIN = 0.1
#: Supervisors that may fail while the daemon stops; then it ends without.
_LAST_TRIES = 3


class Launcher:
    def __init__(
        self,
        arguments: list[str],
        host: probe.Host,
        service: pwd.struct_passwd | None,
        uids: users.Range = users.DEFAULT,
    ) -> None:
        """`arguments` are those of schedd, for the supervisor; `service` is the account that it drops to, `uids` are those of
        runs that have a user of their own.
        """
        self._loop = loop.Loop()
        self._arguments = arguments
        self._host = host
        self._service = service
        self._boxes = boxes.Boxes(self._loop, host, self._send, self._supervisor_pids, uids)
        self._pulse = pulse.Pulse(self._loop, lambda number: self._send(messages.Ping(number=number)), self._on_hung)
        #: The supervisor; and one that waits to take its place.
        self._current: successor.Process | None = None
        self._next: successor.Process | None = None
        self._next_start: loop.Timer | None = None
        #: A page that outlives a supervisor, for hand.py.
        self._page = os.memfd_create("lnmt-hand", os.MFD_CLOEXEC)
        os.ftruncate(self._page, 4096)
        self._failed = ""
        self._crashes = 0
        self._last_tries = 0
        self._was_ready = False
        self._stopping = False
        self._code: int | None = None

    def run(self, tied_to: int | None) -> int:
        """Serve until the supervisor has said farewell; the daemon's exit code."""
        self._watch_signals()
        # What outlives an init without a pid namespace is to be ours.
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
        if tied_to is not None:
            self._loop.watch(tied_to, loop.READ, lambda _: self._on_tie(tied_to))
        self._start_supervisor()
        try:
            self._loop.run()
        finally:
            self._boxes.close()
        return self._code or 0

    # Signals.

    def _watch_signals(self) -> None:
        read, write = os.pipe2(os.O_CLOEXEC | os.O_NONBLOCK)
        signal.set_wakeup_fd(write, warn_on_full_buffer=False)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, lambda *_: None)
        self._loop.watch(read, loop.READ, lambda _: self._on_signals(os.read(read, 64)))

    def _on_signals(self, numbers: bytes) -> None:
        for number in numbers:
            if number == signal.SIGHUP:
                self._send(messages.Reload())
            elif number in (signal.SIGTERM, signal.SIGINT):
                self._stop()

    def _on_tie(self, fd: int) -> None:
        self._loop.unwatch(fd)
        self._stop()

    def _stop(self) -> None:
        """Ask the supervisor to end everything; asked twice, end everything here. Where there is none, one is to record it."""
        if self._stopping:
            self._boxes.kill_all("stopped")
        self._stopping = True
        notify.send("STOPPING=1")
        self._send(messages.Stop())
        if self._next_start is not None:
            self._start_supervisor()

    def _leave(self, code: int) -> None:
        self._code = code
        self._loop.stop()

    # The supervisor's life.

    def _supervisor_pids(self) -> set[int]:
        return {process.pid for process in (self._current, self._next) if process is not None}

    def _start_supervisor(self) -> None:
        self._cancel_start()
        try:
            process = self._start([*self._arguments, *(["--successor"] if self._was_ready else [])])
        except OSError as error:  # no process or descriptor is to be had
            journal.error(f"cannot start a supervisor: {error}")
            self._start_later()
            return
        self._install(process)

    def _start(self, arguments: list[str]) -> successor.Process:
        process = successor.Process(arguments, self._service)
        self._loop.watch(process.pidfd, loop.READ, lambda _: self._on_dead(process))
        self._watch_channel(process)
        return process

    def _install(self, process: successor.Process) -> None:
        """Make this one the supervisor, and tell it all that it must know."""
        self._current = process
        process.started = time.monotonic()
        self._pulse.begin()
        self._send(
            messages.Welcome(
                version=messages.VERSION,
                minor=messages.MINOR,
                launcher_pid=os.getpid(),
                uid=os.geteuid(),
                package=version.VERSION,
                mode=self._host.mode,
                layers=self._host.layers,
                missing=self._host.missing,
                cgroups=self._host.to_map()["cgroups"],
                held=self._boxes.held,
                failed=self._failed,
            ),
            self._duplicate_page(),
        )
        self._failed = ""
        self._boxes.hand_over()
        if self._stopping:
            self._send(messages.Stop())

    def _duplicate_page(self) -> tuple[int, ...]:
        try:
            return (os.dup(self._page),)
        except OSError as error:  # it does without, and accuses nobody at its end
            journal.error(f"the supervisor cannot be given its page: {error}")
            return ()

    def _on_dead(self, process: successor.Process) -> None:
        # What it said last may be its farewell.
        while self._on_channel(process, loop.READ):
            pass
        self._loop.unwatch(process.pidfd)
        if process is self._current:
            self._pulse.end()
        code = process.reap()
        if code is None:
            # Somebody traces it, and a tracer sees the end of what it traces before the parent may (ptrace(2)).
            self._loop.call_at(time.monotonic() + _LOOK_AGAIN, lambda: self._on_dead(process))
            return
        self._close_channel(process)
        process.close()
        if process is self._next:
            self._next = None
            self._refuse_replacement(
                f"the new supervisor ended ({_words(code)}) before it was ready; see the daemon's log"
            )
        elif process is self._current:
            self._current = None
            self._succeed(process, code)

    def _succeed(self, gone: successor.Process, code: int) -> None:
        """The supervisor is gone: another takes its place."""
        if self._code is not None:
            self._loop.stop()
            return
        if self._next is not None and self._next.hello is not None:
            self._promote(self._next)
            return
        if not self._was_ready and code > 0:
            self._leave(code)  # it could not start, and has said why
            return
        self._failed = gone.fault
        runs = len(self._boxes.held)
        journal.error(f"the supervisor ended ({_words(code)}); {runs} attempts are kept for the next one")
        self._last_tries += self._stopping
        if self._last_tries >= _LAST_TRIES:
            self._leave(1)
            return
        if time.monotonic() - gone.started > _BACKOFF[-1]:
            self._crashes = 0
        self._start_later()
        self._crashes = min(self._crashes + 1, len(_BACKOFF) - 1)

    def _start_later(self) -> None:
        when = time.monotonic() + _BACKOFF[self._crashes]
        self._next_start = self._loop.call_at(when, self._start_supervisor)

    def _cancel_start(self) -> None:
        if self._next_start is not None:
            self._next_start.cancel()
            self._next_start = None

    def _on_hung(self) -> None:
        if (process := self._current) is not None:
            is_stopped = process.is_stopped
            journal.error(f"the supervisor {'was stopped' if is_stopped else 'hangs'}; it is killed and replaced")
            process.kill("" if is_stopped else "hung")
            # It may hang in the kernel and outlive that for long; from here on it is the launcher that speaks to systemd.
            self._pulse.end()

    # A supervisor that is to take the place of another.

    def _replace(self) -> None:
        if self._next is not None:
            self._refuse_replacement("another restart is under way")
            return
        try:
            process = self._next = self._start([*self._arguments, "--standby"])
        except OSError as error:
            self._refuse_replacement(f"cannot start a supervisor: {error}")
            return
        self._loop.call_at(time.monotonic() + _HELLO_S, lambda: self._on_silence(process))

    def _on_silence(self, process: successor.Process) -> None:
        if process is self._next and process.hello is None:
            process.kill()

    def _on_hello(self, process: successor.Process, hello: messages.Hello) -> None:
        if process is not self._next:
            return
        if hello.version != messages.VERSION:
            self._next = None
            process.kill()
            self._refuse_replacement(
                f"the launcher ({version.VERSION}) speaks version {messages.VERSION} of the protocol between the two, the"
                f" supervisor on disk ({hello.package}) version {hello.version}: the daemon as a whole must be restarted"
            )
            return
        process.hello = hello
        if self._current is not None:
            self._send(messages.Leave())
        else:  # which died meanwhile, and the next is not due yet
            self._promote(process)

    def _promote(self, process: successor.Process) -> None:
        """Its turn has come: there is no other any more."""
        self._next = None
        self._cancel_start()
        self._install(process)

    def _refuse_replacement(self, error: str) -> None:
        self._send(messages.Replaced(error=error))

    # The channel to the supervisor.

    def _watch_channel(self, process: successor.Process) -> None:
        if process.channel is not None:
            events = loop.READ | (loop.WRITE if process.channel.wants_write else 0)
            self._loop.watch(process.channel.fileno(), events, lambda ready: self._on_channel(process, ready))

    def _close_channel(self, process: successor.Process) -> None:
        if process.channel is not None:
            self._loop.unwatch(process.channel.fileno())
            process.channel.close()
            process.channel = None

    def _send(self, message: object, fds: tuple[int, ...] = ()) -> None:
        """To the supervisor; without one the message is dropped, since the next is told everything."""
        process = self._current
        if process is None or process.channel is None:
            for fd in fds:
                os.close(fd)
            return
        process.channel.send(message, fds)
        self._watch_channel(process)

    def _on_channel(self, process: successor.Process, events: int) -> bool:
        """Hear it out, a bounded part; whether there was anything."""
        if process.channel is None:
            return False
        try:
            if events & loop.WRITE:
                process.channel.flush()
            received = process.channel.receive()
        except (OSError, codec.ProtocolError) as error:
            # A supervisor that talks nonsense is ended like one that hangs; its successor learns everything again.
            journal.error(f"the supervisor broke the protocol: {error}")
            process.kill("broke the protocol")
            self._close_channel(process)
            return False
        for message, fds in received:
            self._handle(process, message, fds)
        if process.channel is not None and process.channel.eof:
            self._close_channel(process)
        else:
            self._watch_channel(process)
        return bool(received)

    def _handle(self, process: successor.Process, message: object, fds: list[int]) -> None:
        match message:
            case messages.Launch():
                self._boxes.launch(message, fds)
                return
            case messages.Watch() if len(fds) == 1:
                self._pulse.watch(fds[0])
                return
            case messages.Watch() if not fds:
                # There was no descriptor for it here. It is ready all the same: rather not watched than killed for a hang.
                self._pulse.end()
            case messages.End(run_id=run_id, attempt=number, cause=cause, grace=grace):
                self._boxes.end((run_id, number), cause, grace)
            case messages.Ack(run_id=run_id, attempt=number):
                self._boxes.forget((run_id, number))
            case messages.Pong(number=number):
                self._pulse.pong(number)
            case messages.Ready(status=status):
                self._was_ready = True
                notify.send("READY=1", f"STATUS={status}")
            case messages.Replace():
                self._replace()
            case messages.Hello():
                self._on_hello(process, message)
            case messages.Farewell(code=code):
                # It closes the store yet: whoever waits for our end may read it then. But it is not waited for for ever.
                notify.send("STOPPING=1")
                self._code = code
                self._loop.call_at(time.monotonic() + _FAREWELL_S, self._loop.stop)
        for fd in fds:
            os.close(fd)


def _words(code: int) -> str:
    return f"signal {-code}" if code < 0 else f"exit {code}"
