"""The launcher: main process of the daemon, parent of the supervisor and of every box.

It alone knows the truth about a child. It starts boxes at the supervisor's word, keeps their deadlines, ends and reaps
them, and reports. It has one thread, because it forks without exec (sandbox/syscalls.py), and imports nothing that the
supervisor needs for deciding: no sqlite3, msgspec, click or croniter. It reads no payload, so it holds no secret; it keeps
the read ends of every run's pipes and every exit that the supervisor has not acknowledged, so that a supervisor may die
and its successor still learn all.

When the supervisor dies, its runs are ended (cause "lost") and a new supervisor is started, which is told of them. When
the launcher dies, the kernel ends every box and the supervisor with it.
"""

import contextlib
import errno
import os
import pwd
import signal
import socket
import sys
import threading
import time
from dataclasses import dataclass, field
from typing import NoReturn

from lnmt_scheduler.ipc import channel, codec, messages
from lnmt_scheduler.jobs import child
from lnmt_scheduler.sandbox import (
    box,
    cgroup,
    controllers,
    enter,
    init,
    namespaces,
    policy,
    probe,
    settle,
    syscalls,
    users,
)
from lnmt_scheduler.supervisor import journal, loop, notify, version

#: A cgroup in which the daemon could make others when it started, and cannot any more.
_TAKEN_AWAY = (errno.ENOENT, errno.ENODEV, errno.EROFS, errno.EACCES, errno.EPERM)
#: Seconds between a supervisor's farewell and its end.
_FAREWELL_S = 5.0
#: Seconds before each new supervisor in a crash loop; one that lived longer than the last begins at the first again.
_BACKOFF = (0.0, 0.1, 0.5, 1.0, 2.0, 5.0, 10.0)

#: Seconds after KILL from which a box that is not empty is called unkillable.
_UNKILLABLE_AFTER = 10.0
#: Seconds between two looks at what cannot be waited for.
_LOOK_AGAIN, _WATCH_MEMORY = 0.01, 1.0

Key = tuple[int, int]


@dataclass(slots=True)
class Attempt:
    """One attempt that the launcher holds: until the supervisor acknowledges its exit."""

    key: Key
    kill_grace: float
    started: float
    #: None: the box could not be made.
    boxed: box.Box | None = None
    #: Read ends of stdout, stderr and report pipe; the supervisor has duplicates.
    pipes: list[int] = field(default_factory=list)
    cause: str | None = None
    killed: list[tuple[int, str]] = field(default_factory=list)
    killed_count: int = 0
    timer: loop.Timer | None = None
    #: Runs from the kill on.
    overdue: loop.Timer | None = None
    unkillable: bool = False
    #: Ended for its memory by us, where no cgroup does it.
    over_memory: bool = False
    #: Processes that outlived its init and so are our children: until they are reaped, the pids are theirs.
    strays: set[int] = field(default_factory=set)
    exit: messages.Exited | None = None
    leaf: cgroup.Leaf | None = None
    #: Of the box, once it has one.
    uid: int | None = None
    #: layer -> what is enforced.
    enforced: dict[str, str] = field(default_factory=dict)


class Launcher:
    def __init__(self, arguments: list[str], host: probe.Host, service: pwd.struct_passwd | None) -> None:
        """`arguments` are those of schedd, for the supervisor; `service` is the account that it drops to."""
        self._loop = loop.Loop()
        self._arguments = arguments
        self._host = host
        self._service = service
        self._attempts: dict[Key, Attempt] = {}
        self._uids = users.Pool()
        self._channel: channel.PacketChannel | None = None
        self._supervisor = (0, -1)
        self._supervisor_started = 0.0
        self._crashes = 0
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
        self._loop.run()
        return self._code or 0

    # Signals and the supervisor's life.

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
        """Ask the supervisor to end everything; asked twice, end everything here."""
        if self._stopping or self._channel is None:
            for attempt in self._attempts.values():
                attempt.cause = attempt.cause or "stopped"
                self._kill(attempt)
            if self._channel is None:
                self._leave(0)
        self._stopping = True
        notify.send("STOPPING=1")
        self._send(messages.Stop())

    def _leave(self, code: int) -> None:
        self._code = code
        self._loop.stop()

    def _start_supervisor(self) -> None:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        pid = os.fork()
        if pid == 0:
            _become_supervisor(theirs.fileno(), self._arguments, self._service)
        theirs.close()
        pidfd = os.pidfd_open(pid)
        self._supervisor = (pid, pidfd)
        self._supervisor_started = time.monotonic()
        self._channel = channel.PacketChannel(ours, messages.TO_LAUNCHER)
        self._loop.watch(pidfd, loop.READ, lambda _: self._on_supervisor_dead())
        self._watch_channel()
        self._send(
            messages.Welcome(
                version=messages.VERSION,
                launcher_pid=os.getpid(),
                uid=os.geteuid(),
                package=version.VERSION,
                mode=self._host.mode,
                layers=self._host.layers,
                missing=self._host.missing,
                cgroups=self._host.to_map()["cgroups"],
                held=tuple(self._attempts),
            )
        )
        for attempt in self._attempts.values():
            self._send_started(attempt)
            if attempt.exit is not None:
                self._send(attempt.exit)
            elif attempt.unkillable:
                self._send_unkillable(attempt)

    def _on_supervisor_dead(self) -> None:
        # What it said last may be its farewell.
        if self._channel is not None:
            self._on_channel(loop.READ)
        pid, pidfd = self._supervisor
        status = os.waitpid(pid, 0)[1]
        self._loop.unwatch(pidfd)
        os.close(pidfd)
        self._close_channel()
        if self._code is not None:
            self._loop.stop()
            return
        code = os.waitstatus_to_exitcode(status)
        if not self._was_ready and code > 0:
            self._leave(code)  # it could not start, and has said why
            return
        journal.error(f"the supervisor ended ({'signal' if code < 0 else 'exit'} {abs(code)}); ending its runs")
        for attempt in self._attempts.values():
            self._end(attempt, "lost", attempt.kill_grace)
        if self._stopping:
            self._leave(1)
            return
        lived = time.monotonic() - self._supervisor_started
        self._crashes = 0 if lived > _BACKOFF[-1] else min(self._crashes + 1, len(_BACKOFF) - 1)
        self._loop.call_at(time.monotonic() + _BACKOFF[self._crashes], self._start_supervisor)

    # The channel to the supervisor.

    def _watch_channel(self) -> None:
        if self._channel is not None:
            events = loop.READ | (loop.WRITE if self._channel.wants_write else 0)
            self._loop.watch(self._channel.fileno(), events, self._on_channel)

    def _close_channel(self) -> None:
        if self._channel is not None:
            self._loop.unwatch(self._channel.fileno())
            self._channel.close()
            self._channel = None

    def _send(self, message: object, fds: tuple[int, ...] = ()) -> None:
        if self._channel is None:
            for fd in fds:
                os.close(fd)
            return
        self._channel.send(message, fds)
        self._watch_channel()

    def _on_channel(self, events: int) -> None:
        if self._channel is None:
            return
        try:
            if events & loop.WRITE:
                self._channel.flush()
            received = self._channel.receive()
        except (OSError, codec.ProtocolError) as error:
            # A supervisor that talks nonsense is ended like one that hangs; its successor learns everything again.
            journal.error(f"the supervisor broke the protocol: {error}")
            signal.pidfd_send_signal(self._supervisor[1], signal.SIGKILL)
            self._close_channel()
            return
        for message, fds in received:
            self._handle(message, fds)
        if self._channel.eof:
            self._close_channel()
        else:
            self._watch_channel()

    def _handle(self, message: object, fds: list[int]) -> None:
        match message:
            case messages.Launch():
                self._launch(message, fds)
            case messages.End(run_id=run_id, attempt=number, cause=cause, grace=grace):
                if attempt := self._attempts.get((run_id, number)):
                    self._end(attempt, cause, grace)
            case messages.Ack(run_id=run_id, attempt=number):
                self._forget((run_id, number))
            case messages.Ready(status=status):
                self._was_ready = True
                notify.send("READY=1", f"STATUS={status}")
            case messages.Farewell(code=code):
                # It closes the store yet: whoever waits for our end may read it then. But it is not waited for for ever.
                notify.send("STOPPING=1")
                self._code = code
                self._loop.call_at(time.monotonic() + _FAREWELL_S, self._loop.stop)
        if not isinstance(message, messages.Launch):
            for fd in fds:
                os.close(fd)

    # Attempts.

    def _launch(self, order: messages.Launch, fds: list[int]) -> None:
        key = (order.run_id, order.attempt)
        if key in self._attempts:  # handed over twice: the first counts
            for fd in fds:
                os.close(fd)
            return
        attempt = Attempt(key, order.kill_grace, time.monotonic())
        self._attempts[key] = attempt
        try:
            self._fork(attempt, policy.from_map(order.policy), fds)
        except (enter.SandboxError, policy.RefusedError) as error:
            self._finish(attempt, sandbox_error=str(error))
        except (OSError, ValueError, TypeError, OverflowError) as error:  # the last two: a policy that makes no sense
            self._finish(attempt, spawn_error=str(error))
        finally:
            for fd in fds:
                os.close(fd)
        if attempt.boxed is None:
            return
        self._send_started(attempt)
        self._loop.watch(attempt.boxed.control.fileno(), loop.READ, lambda _: self._on_report(attempt))
        self._loop.watch(attempt.boxed.pidfd, loop.READ, lambda _: self._on_empty(attempt))
        if order.timeout is not None:
            deadline = attempt.started + order.timeout
            attempt.timer = self._loop.call_at(deadline, lambda: self._end(attempt, "timeout", attempt.kill_grace))

    def _fork(self, attempt: Attempt, asked: policy.Policy, fds: list[int]) -> None:
        if len(fds) != 1:
            raise ValueError("the launch came without its payload")
        wanted = self._settle(attempt, asked)
        with contextlib.ExitStack() as opened:
            writes: list[int] = []
            for _ in range(3):
                read, write = os.pipe2(os.O_CLOEXEC)
                attempt.pipes.append(read)
                opened.callback(os.close, write)
                writes.append(write)
                os.set_blocking(read, False)
                if wanted.uid is not None and os.geteuid() == 0:
                    os.fchown(write, wanted.uid, -1)  # so that it may open /dev/stdout
            groups = tuple(attempt.leaf.enter_fds()) if attempt.leaf is not None else ()
            for fd in groups:
                opened.callback(os.close, fd)
            group = None
            if attempt.leaf is not None and namespaces.hold(self._host.mode, wanted) == namespaces.GROUP:
                group = attempt.leaf.kill_fd()
                opened.callback(os.close, group)
            attempt.boxed = box.start(
                wanted,
                self._host.mode,
                stdout=writes[0],
                stderr=writes[1],
                report=writes[2],
                payload=fds[0],
                body=child.main,
                cgroups=groups,
                program=settle.program(wanted, self._host.mode),
                group=group,
            )
        if attempt.enforced.get("memory") == policy.BEST_EFFORT and wanted.memory is not None:
            self._watch_memory(attempt, wanted.memory)

    def _settle(self, attempt: Attempt, asked: policy.Policy) -> policy.Policy:
        """What the policy comes to on this host: its user, its cgroup, without layers that are preferred and not there.

        RefusedError if a required one is not there; OSError if its cgroup cannot be made.
        """
        is_root = os.geteuid() == 0
        if asked.dynamic and is_root:
            attempt.uid = self._uids.take()
        settled = settle.settle(asked, self._host, is_root=is_root, uid=attempt.uid)
        if settled.needs_cgroup:
            try:
                attempt.leaf = cgroup.create(self._host.cgroups, f"{attempt.key[0]}.{attempt.key[1]}", settled.limits)
            except OSError as error:
                if error.errno not in _TAKEN_AWAY:
                    raise
                why = f"{error}: the daemon had this cgroup when it started; it takes a restart"
                bare = probe.without_cgroups(self._host, why)
                settled = settle.settle(asked, bare, is_root=is_root, uid=attempt.uid)
        attempt.enforced = settled.enforced
        return settled.policy

    def _send_started(self, attempt: Attempt) -> None:
        pid = attempt.boxed.pid if attempt.boxed is not None else 0
        run_id, number = attempt.key
        try:
            duplicates = tuple(os.dup(fd) for fd in attempt.pipes)
        except OSError as error:
            journal.error(f"run {run_id}: its output cannot be handed over: {error}")
            duplicates = ()
        self._send(messages.Started(run_id=run_id, attempt=number, pid=pid, at=attempt.started), duplicates)

    def _on_report(self, attempt: Attempt) -> None:
        if attempt.boxed is None:
            return
        if not attempt.boxed.read_report():
            self._loop.unwatch(attempt.boxed.control.fileno())
        elif attempt.boxed.report is not None and attempt.boxed.report.leftovers and attempt.cause is None:
            # The main process ended by itself, so the run is over; what it left has no business here.
            self._kill(attempt)

    def _end(self, attempt: Attempt, cause: str, grace: float) -> None:
        """TERM now, KILL after `grace` seconds. The first cause counts; a second order may only shorten the grace."""
        if attempt.boxed is None or attempt.exit is not None:
            return
        if attempt.timer is not None:
            attempt.timer.cancel()
        if attempt.cause is None:
            attempt.cause = cause
            attempt.boxed.terminate()
        attempt.timer = self._loop.call_at(time.monotonic() + grace, lambda: self._kill(attempt))

    def _kill(self, attempt: Attempt) -> None:
        if attempt.boxed is None or attempt.exit is not None:
            return
        if attempt.timer is not None:
            attempt.timer.cancel()
        named, count = attempt.boxed.processes()
        if count > attempt.killed_count:
            attempt.killed, attempt.killed_count = named, count
        attempt.boxed.kill()
        self._begin_overdue(attempt)

    def _begin_overdue(self, attempt: Attempt) -> None:
        if attempt.overdue is None:
            due = time.monotonic() + _UNKILLABLE_AFTER
            attempt.overdue = self._loop.call_at(due, lambda: self._on_overdue(attempt))

    def _on_overdue(self, attempt: Attempt) -> None:
        """It keeps its user, its cgroup and its place among the attempts until its end comes; nobody waits for it here."""
        attempt.unkillable = True
        journal.error(
            f"run {attempt.key[0]}: not ended {_UNKILLABLE_AFTER:g} s after KILL; a process of it hangs in the kernel (a device"
            " or a file system that does not answer). The run stays `running` until it is gone"
        )
        self._send_unkillable(attempt)

    def _send_unkillable(self, attempt: Attempt) -> None:
        self._send(messages.Unkillable(run_id=attempt.key[0], attempt=attempt.key[1]))

    def _watch_memory(self, attempt: Attempt, limit: int) -> None:
        """Look at what the box has in memory, again and again; for a host without a cgroup that limits it."""
        if attempt.boxed is None:
            return
        if attempt.boxed.private_memory() > limit:
            attempt.over_memory = True
            self._kill(attempt)
        else:
            self._loop.call_at(time.monotonic() + _WATCH_MEMORY, lambda: self._watch_memory(attempt, limit))

    def _on_empty(self, attempt: Attempt) -> None:
        if attempt.boxed is None:
            return
        control, pidfd = attempt.boxed.control.fileno(), attempt.boxed.pidfd
        attempt.boxed.read_report()
        self._loop.unwatch(control)
        self._loop.unwatch(pidfd)
        ending = attempt.boxed.reap()
        if ending is None:
            raise RuntimeError("a pidfd was readable before its process had ended")
        hold = attempt.boxed.hold
        attempt.boxed = None
        self._when_empty(attempt, hold, ending)

    def _when_empty(self, attempt: Attempt, hold: str, ending: box.Ending) -> None:
        """Without a pid namespace, init's end is not yet the box's: look again until nobody is left of it."""
        if hold != namespaces.PIDS and self._kill_strays(attempt, hold):
            self._begin_overdue(attempt)
            again = time.monotonic() + _LOOK_AGAIN
            self._loop.call_at(again, lambda: self._when_empty(attempt, hold, ending))
            return
        for timer in (attempt.timer, attempt.overdue):
            if timer is not None:
                timer.cancel()
        report = ending.report
        if report is None and ending.sandbox_error is None:
            # Init was killed before it could speak, and its box with it: by us, or from outside.
            report = init.Report(None, signal.SIGKILL, leftovers=True)
        self._finish(
            attempt,
            report=report,
            sandbox_error=ending.sandbox_error,
            spawn_error=ending.spawn_error,
            cpu_seconds=ending.cpu_seconds,
            max_memory=ending.max_memory,
        )

    def _kill_strays(self, attempt: Attempt, hold: str) -> bool:
        """Kill what outlived its init, and so has become our child: nothing else can be. Whether some may be left.

        One that hangs in the kernel is this attempt's, and holds up no other.
        """
        group = attempt.leaf if hold == namespaces.GROUP else None
        if group is not None and not group.is_empty():
            group.kill()
        attempt.strays |= self._unclaimed()
        for pid in list(attempt.strays):
            os.kill(pid, signal.SIGKILL)
            if os.waitpid(pid, os.WNOHANG)[0]:
                attempt.strays.discard(pid)
                attempt.killed_count += 1
        attempt.strays |= self._unclaimed()  # the children of those
        return bool(attempt.strays) or (group is not None and not group.is_empty())

    def _unclaimed(self) -> set[int]:
        """Our children that are no init, not the supervisor, and nobody's strays yet."""
        known = {self._supervisor[0]}
        for other in self._attempts.values():
            known |= other.strays
            if other.boxed is not None:
                known.add(other.boxed.pid)
        return set(_children()) - known

    def _finish(
        self,
        attempt: Attempt,
        *,
        report: init.Report | None = None,
        sandbox_error: str | None = None,
        spawn_error: str | None = None,
        cpu_seconds: float = 0.0,
        max_memory: int = 0,
    ) -> None:
        attempt.boxed = None
        run_id, number = attempt.key
        used = self._clear_away(attempt)
        attempt.exit = messages.Exited(
            run_id=run_id,
            attempt=number,
            exit_code=report.exit_code if report else None,
            signal=report.signal if report else None,
            cause=attempt.cause,
            spawn_error=spawn_error,
            sandbox_error=sandbox_error,
            killed=tuple(attempt.killed),
            killed_count=attempt.killed_count,
            duration=time.monotonic() - attempt.started,
            cpu_seconds=cpu_seconds if used.cpu_seconds is None else used.cpu_seconds,
            max_memory=max_memory if used.max_memory is None else used.max_memory,
            processes=used.max_processes,
            oom_kills=used.oom_kills + attempt.over_memory,
            pids_denied=used.pids_denied,
            uid=attempt.uid,
            enforced=attempt.enforced,
        )
        self._send(attempt.exit)

    def _clear_away(self, attempt: Attempt) -> controllers.Usage:
        """Give back the cgroup and the uid of a box that is empty; what its cgroup has counted."""
        used = controllers.Usage()
        if attempt.leaf is not None:
            try:
                used = attempt.leaf.usage()
                if not attempt.leaf.remove():
                    journal.warning(f"run {attempt.key[0]}: its cgroup {attempt.leaf.name} is not empty and stays")
            except OSError as error:
                journal.warning(f"run {attempt.key[0]}: its cgroup: {error}")
        if attempt.uid is not None:
            self._uids.give_back(attempt.uid)
        return used

    def _forget(self, key: Key) -> None:
        attempt = self._attempts.get(key)
        if attempt is not None and attempt.exit is not None:
            del self._attempts[key]
            for fd in attempt.pipes:
                os.close(fd)


def _children() -> list[int]:
    with open(f"/proc/self/task/{threading.get_native_id()}/children", "rb") as file:
        return [int(pid) for pid in file.read().split()]


def _become_supervisor(fd: int, arguments: list[str], service: pwd.struct_passwd | None) -> NoReturn:
    try:
        enter.reset_signals()
        if service is not None:
            os.initgroups(service.pw_name, service.pw_gid)
            os.setresgid(service.pw_gid, service.pw_gid, service.pw_gid)
            os.setresuid(service.pw_uid, service.pw_uid, service.pw_uid)
        os.set_inheritable(fd, True)
        program = [sys.executable, "-I", "-m", "lnmt_scheduler.supervisor.daemon", "--channel", str(fd), *arguments]
        os.execv(sys.executable, program)
    except BaseException as error:
        journal.error(f"cannot start the supervisor: {error}")
    finally:
        os._exit(71)
