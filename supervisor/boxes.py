"""The launcher's attempts: from an order to the proof that the box is empty, and on until the supervisor knows it.

Part of launcher.py, whose process this is. A box is started at the supervisor's word, has its deadline, is ended, reaped, and
reported. Nothing of that asks for a supervisor: an attempt, the read ends of its pipes and its exit are kept until one has said
that the exit is in the store. So what is kept here is what was launched and not acknowledged yet, and a supervisor launches no
more than its limit of runs at a time, whichever of several supervisors it is; what a job writes meanwhile waits in its pipes.
"""

import contextlib
import errno
import math
import os
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

from lnmt_scheduler.ipc import messages
from lnmt_scheduler.jobs import child
from lnmt_scheduler.sandbox import (
    box,
    cgroup,
    controllers,
    enter,
    namespaces,
    orders,
    policy,
    probe,
    settle,
    users,
    warm,
)
from lnmt_scheduler.supervisor import journal, loop

#: A cgroup in which the daemon could make others when it started, and cannot any more.
_TAKEN_AWAY = (errno.ENOENT, errno.ENODEV, errno.EROFS, errno.EACCES, errno.EPERM)
#: Seconds after KILL from which a box that is not empty is called unkillable.
_UNKILLABLE_AFTER = 10.0
#: Seconds between two looks at what cannot be waited for: at what is to end now, at what does not end, at memory.
_LOOK_AGAIN, _LOOK_LATER, _WATCH_MEMORY = 0.01, 0.5, 1.0

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
    #: CLOCK_MONOTONIC seconds of its KILL, once its end was asked for.
    kill_at: float = math.inf
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


class Boxes:
    """`send` owns the descriptors that it is given; `others` are children of ours that are no box's."""

    def __init__(
        self,
        events: loop.Loop,
        host: probe.Host,
        send: Callable[[object, tuple[int, ...]], None],
        others: Callable[[], set[int]],
        uids: users.Range = users.DEFAULT,
    ) -> None:
        self._loop = events
        self._host = host
        self._to_supervisor = send
        self._others = others
        self._attempts: dict[Key, Attempt] = {}
        self._uids = users.Pool(uids)
        self._warm = warm.Pool(host.cgroups, host.mode, child.main)
        self._refilling = False

    @property
    def held(self) -> tuple[Key, ...]:
        """Attempts whose exit nobody has acknowledged, those that run included."""
        return tuple(self._attempts)

    def hand_over(self) -> None:
        """Tell a new supervisor all that it must know of them."""
        for attempt in self._attempts.values():
            self._send_started(attempt)
            if attempt.exit is not None:
                self._send(attempt.exit)
            elif attempt.unkillable:
                self._send_unkillable(attempt)

    def kill_all(self, cause: str) -> None:
        for attempt in self._attempts.values():
            attempt.cause = attempt.cause or cause
            self._kill(attempt)

    def close(self) -> None:
        """Let go of the boxes that stand ready; those that have a job end with this process."""
        self._warm.close()

    def _send(self, message: object, fds: tuple[int, ...] = ()) -> None:
        self._to_supervisor(message, fds)

    def launch(self, order: messages.Launch, fds: list[int]) -> None:
        """Start one attempt; the descriptors are closed here."""
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
        if not fds:
            # Sent or not, a payload that there is no descriptor for does not arrive (unix(7)).
            raise OSError(errno.EMFILE, f"the launch came without its payload: {os.strerror(errno.EMFILE)}")
        is_root = os.geteuid() == 0
        if asked.dynamic and is_root:
            attempt.uid = self._uids.take()
        settled, ready = self._ready_for(asked, attempt.uid, is_root=is_root)
        attempt.enforced, attempt.leaf = settled.enforced, ready.leaf
        wanted = settled.policy
        with contextlib.ExitStack() as undo, contextlib.ExitStack() as opened:
            undo.callback(ready.boxed.abandon)
            writes: list[int] = []
            for _ in range(3):
                read, write = os.pipe2(os.O_CLOEXEC)
                attempt.pipes.append(read)
                opened.callback(os.close, write)
                writes.append(write)
                os.set_blocking(read, False)
                if wanted.uid is not None and is_root:
                    os.fchown(write, wanted.uid, -1)  # so that it may open /dev/stdout
            group = None
            if ready.leaf is not None and settled.hold == namespaces.GROUP:
                group = ready.leaf.kill_fd()
                opened.callback(os.close, group)
            program = settle.program(wanted, self._host.mode)
            stdout, stderr, report = writes
            ready.boxed.begin(orders.Order(wanted, program, stdout, stderr, report, fds[0], group=group))
            undo.pop_all()
            attempt.boxed = ready.boxed
        if attempt.enforced.get("memory") == policy.BEST_EFFORT and wanted.memory is not None:
            self._watch_memory(attempt, wanted.memory)
        self._refill_soon()

    def _ready_for(self, asked: policy.Policy, uid: int | None, *, is_root: bool) -> tuple[settle.Settled, warm.Ready]:
        """What the policy comes to here, and a box of that kind, with its limits.

        RefusedError if a required layer is not there; SandboxError or OSError if the box cannot be made.
        """
        settled = settle.settle(asked, self._host, is_root=is_root, uid=uid)
        try:
            return settled, self._limited(settled)
        except warm.GroupError as error:
            if error.errno not in _TAKEN_AWAY:
                raise
            why = f"{error}: the daemon had this cgroup when it started; it takes a restart"
        bare = settle.settle(asked, probe.without_cgroups(self._host, why), is_root=is_root, uid=uid)
        return bare, self._limited(bare)

    def _limited(self, settled: settle.Settled) -> warm.Ready:
        ready = self._warm.take(settled)
        try:
            ready.limit(settled.limits)
        except OSError:
            ready.abandon()
            raise
        return ready

    def _refill_soon(self) -> None:
        """Make the next box of a kind while this one works, but after all that has been ordered in this turn."""
        if not self._refilling:
            self._refilling = True
            self._loop.call_soon(self._refill)

    def _refill(self) -> None:
        self._refilling = False
        try:
            more = self._warm.refill()
        except OSError:  # who needs a box makes it, and hears why it cannot be made
            more = False
        if more:
            self._refill_soon()

    def _send_started(self, attempt: Attempt) -> None:
        pid = attempt.boxed.pid if attempt.boxed is not None else 0
        run_id, number = attempt.key
        try:
            duplicates = _duplicate(attempt.pipes)
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

    def end(self, key: Key, cause: str, grace: float) -> None:
        """End an attempt, if it is there: TERM now, KILL after `grace` seconds."""
        if attempt := self._attempts.get(key):
            self._end(attempt, cause, grace)

    def _end(self, attempt: Attempt, cause: str, grace: float) -> None:
        """TERM now, KILL after `grace` seconds. The first cause counts; a second order may only shorten the grace."""
        if attempt.boxed is None or attempt.exit is not None:
            return
        if attempt.timer is not None:
            attempt.timer.cancel()
        if attempt.cause is None:
            attempt.cause = cause
            attempt.boxed.terminate()
        attempt.kill_at = min(attempt.kill_at, time.monotonic() + grace)
        attempt.timer = self._loop.call_at(attempt.kill_at, lambda: self._kill(attempt))

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
            " or a file system that does not answer), or has become a user whom this daemon may not kill. The run stays"
            " `running` until it is gone"
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
            # Somebody traces init, and a tracer sees the end of what it traces before the parent may (ptrace(2)).
            self._loop.call_at(time.monotonic() + _LOOK_AGAIN, lambda: self._on_empty(attempt))
            return
        hold = attempt.boxed.hold
        attempt.boxed = None
        self._when_empty(attempt, hold, ending)

    def _when_empty(self, attempt: Attempt, hold: str, ending: box.Ending) -> None:
        """Without a pid namespace, init's end is not yet the box's: look again until nobody is left of it."""
        if hold != namespaces.PIDS and self._has_strays(attempt, hold):
            self._begin_overdue(attempt)
            again = time.monotonic() + (_LOOK_LATER if attempt.unkillable else _LOOK_AGAIN)
            self._loop.call_at(again, lambda: self._when_empty(attempt, hold, ending))
            return
        for timer in (attempt.timer, attempt.overdue):
            if timer is not None:
                timer.cancel()
        report = ending.report
        if report is None and ending.sandbox_error is None:
            # Init was killed before it could speak, and its box with it: by us, or from outside.
            report = orders.Report(None, signal.SIGKILL, leftovers=True)
        self._finish(
            attempt,
            report=report,
            sandbox_error=ending.sandbox_error,
            spawn_error=ending.spawn_error,
            cpu_seconds=ending.cpu_seconds,
            max_memory=ending.max_memory,
        )

    def _has_strays(self, attempt: Attempt, hold: str) -> bool:
        try:
            return self._kill_strays(attempt, hold)
        except OSError:  # no descriptor to look with: some may be left, and all other runs depend on us
            return True

    def _kill_strays(self, attempt: Attempt, hold: str) -> bool:
        """Kill what outlived its init, and so has become our child: nothing else can be. Whether some may be left.

        One that hangs in the kernel is this attempt's, and holds up no other; so is one that has become another user's (by
        sudo), where we are an ordinary account.
        """
        group = attempt.leaf if hold == namespaces.GROUP else None
        if group is not None and not group.is_empty():
            group.kill()
        attempt.strays |= self._unclaimed()
        for pid in list(attempt.strays):
            with contextlib.suppress(PermissionError):
                os.kill(pid, signal.SIGKILL)
            if os.waitpid(pid, os.WNOHANG)[0]:
                attempt.strays.discard(pid)
                attempt.killed_count += 1
        attempt.strays |= self._unclaimed()  # the children of those
        return bool(attempt.strays) or (group is not None and not group.is_empty())

    def _unclaimed(self) -> set[int]:
        """Our children that are no init, no supervisor, and nobody's strays yet."""
        known = self._others() | self._warm.pids
        for other in self._attempts.values():
            known |= other.strays
            if other.boxed is not None:
                known.add(other.boxed.pid)
        return set(_children()) - known

    def _finish(
        self,
        attempt: Attempt,
        *,
        report: orders.Report | None = None,
        sandbox_error: str | None = None,
        spawn_error: str | None = None,
        cpu_seconds: float = 0.0,
        max_memory: int = 0,
    ) -> None:
        attempt.boxed = None
        run_id, number = attempt.key
        used = self._usage(attempt)
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
        self._clear_away(attempt)

    def _usage(self, attempt: Attempt) -> controllers.Usage:
        """What the cgroup of a box that is empty has counted."""
        if attempt.leaf is not None:
            try:
                return attempt.leaf.usage()
            except OSError as error:
                journal.warning(f"run {attempt.key[0]}: its cgroup: {error}")
        return controllers.Usage()

    def _clear_away(self, attempt: Attempt) -> None:
        """Give back the cgroup and the uid of a box that is empty."""
        if attempt.leaf is not None:
            try:
                if not attempt.leaf.remove():
                    journal.warning(f"run {attempt.key[0]}: its cgroup {attempt.leaf.name} is not empty and stays")
            except OSError as error:
                journal.warning(f"run {attempt.key[0]}: its cgroup: {error}")
        if attempt.uid is not None:
            self._uids.give_back(attempt.uid)

    def forget(self, key: Key) -> None:
        """Its exit is in the store."""
        attempt = self._attempts.get(key)
        if attempt is not None and attempt.exit is not None:
            del self._attempts[key]
            for fd in attempt.pipes:
                os.close(fd)


def _duplicate(fds: list[int]) -> tuple[int, ...]:
    """All of them, the caller's, or none: OSError."""
    with contextlib.ExitStack() as undo:
        made = []
        for fd in fds:
            made.append(os.dup(fd))
            undo.callback(os.close, made[-1])
        undo.pop_all()
        return tuple(made)


def _children() -> list[int]:
    with open(f"/proc/self/task/{threading.get_native_id()}/children", "rb") as file:
        return [int(pid) for pid in file.read().split()]
