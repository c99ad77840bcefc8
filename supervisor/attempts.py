"""From the decision "launch" to the fact "ended": the supervisor's half of an attempt's life.

Prepares the payload, hands the attempt to the launcher once its row is committed, moves its output, watches for silence
and for too much of it, and turns the launcher's Exited into an Outcome. It decides nothing about the run; the dispatcher
does, and is told by two callbacks.

The order at the end is: the row is committed, then the files are put in order, then the launcher is told that it may forget the
exit. A supervisor that dies in between leaves the exit with the launcher, and its successor does again what was left undone: it
takes the attempt over if the row still says that it runs, and else puts the files in order.
"""

import errno
import os
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from lnmt_scheduler.ipc import channel, codec, messages
from lnmt_scheduler.jobs import handed, model
from lnmt_scheduler.sandbox import policy as policies
from lnmt_scheduler.supervisor import children, clock, config, epilogue, loop, output, payload, run, segments
from lnmt_scheduler.supervisor import snapshot as snapshots

Key = tuple[int, int]
_DEFAULTS = policies.Policy().to_map()


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """What to start."""

    run_id: int
    attempt: int
    of: int
    job_uid: int
    job: model.JobConfig
    slot: int | None
    #: Of a manual run: kwargs and event.
    request: dict[str, Any]
    #: When the run was decided: names the folder of its output.
    queued: int
    #: Seconds; None: no limit.
    timeout: float | None
    #: Id of each job that its own depends on -> what it is told of that one's run.
    parents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    @property
    def profile(self) -> str:
        """The profile of its box: the job's, unless the run was asked for in another."""
        return self.request.get("profile") or payload.profile_of(self.job)


@dataclass(frozen=True, slots=True, kw_only=True)
class Facts:
    """What is known of an attempt that has ended, for its row and its run's."""

    exit_code: int | None = None
    signal: str | None = None
    error: str | None = None
    result: bytes | None = None
    output_bytes: int = 0
    truncated: bool = False
    duration: float = 0.0
    cpu_seconds: float = 0.0
    max_memory: int = 0
    processes: int | None = None
    uid: int | None = None
    #: Hash of the policy that it was started with.
    policy: str | None = None
    enforced: dict[str, str] = field(default_factory=dict)
    killed: tuple[tuple[int, str], ...] = ()
    killed_count: int = 0
    #: Remarks that are no failure: a report that made no sense, output that could not be stored.
    notes: str | None = None


@dataclass(slots=True)
class _Live:
    order: Order
    uid: int
    child: children.Child | None
    #: Hash of its policy; None: another supervisor has started it.
    policy: str | None = None
    stall: loop.Timer | None = None
    #: Where its pipes lead if its files could not be opened.
    sink: children.Sink | None = None
    #: The launcher was told to end it, so it is told no more.
    exceeded: bool = False
    #: Killed, and not gone: the launcher's word.
    unkillable: bool = False
    #: It could not be prepared, so the launcher never heard of it.
    is_refused: bool = False
    #: What it is granted is being made, so the launcher has not heard of it yet.
    is_prepared: bool = False


class Attempts:
    def __init__(
        self,
        events: loop.Loop,
        settings: config.Settings,
        *,
        output_dir: str,
        jobs_dir: str,
        daemon_files: Sequence[str],
        runs_as: Callable[[], int],
        send: Callable[[object, tuple[int, ...]], None],
        defer: Callable[[Callable[[], None]], None],
        on_ended: Callable[[int, int, run.Outcome, Facts], None],
        on_exceeded: Callable[[int, str], None],
        on_life: Callable[[int], None],
        on_unknown: Callable[[int, int], None] = lambda *_: None,
        snapshot: Callable[[], snapshots.Making] | None = None,
    ) -> None:
        """`on_unknown` is told of the exit of an attempt that is not held here: its row says already how it ended.

        `snapshot` begins a copy of the history, for jobs that are granted it.
        `daemon_files` are hidden from boxed jobs. `runs_as` is the uid of a job that names no user. `defer` runs a call
        after the commit of this turn; `send` owns the descriptors that it is given.
        """
        self._loop = events
        self._settings = settings
        self._output_dir = output_dir
        self._jobs_dir = jobs_dir
        self._daemon_files = daemon_files
        self._runs_as = runs_as
        self._send = send
        self.defer = defer
        self._on_ended = on_ended
        self._on_exceeded = on_exceeded
        self._on_life = on_life
        self._on_unknown = on_unknown
        self._snapshot = snapshot
        self._live: dict[Key, _Live] = {}
        #: Told whose job is in hand from here to the end of the turn.
        self.take: Callable[[int], None] = lambda _: None
        self._full = False

    def configure(self, settings: config.Settings) -> None:
        """Use these settings from the next attempt on."""
        self._settings = settings

    def set_full(self, *, full: bool) -> None:
        """While the disk is full no output is stored, neither of what runs nor of what starts."""
        self._full = full
        if full:
            for live in self._live.values():
                if live.child is not None:
                    live.child.output.give_up(errno.ENOSPC)

    def child(self, run_id: int, attempt: int) -> children.Child | None:
        live = self._live.get((run_id, attempt))
        return live.child if live is not None else None

    def holds(self, run_id: int, attempt: int) -> bool:
        return (run_id, attempt) in self._live

    def is_unkillable(self, run_id: int) -> bool:
        """Whether this run was killed and has a process that does not end."""
        return any(live.unkillable for (owner, _), live in self._live.items() if owner == run_id)

    def on_unkillable(self, message: messages.Unkillable) -> None:
        if live := self._live.get((message.run_id, message.attempt)):
            live.unkillable = True

    def launch(self, order: Order) -> None:
        """Hand the attempt over after the commit of this turn. What cannot be prepared has ended already, as `spawn`."""
        key = (order.run_id, order.attempt)
        uid = self._runs_as()
        try:
            child = self._make_child(order)
        except OSError as error:
            self._refuse(order, uid, f"output: {error}")
            return
        if self._full:
            child.output.give_up(errno.ENOSPC)
        if "history" in order.job.grants and self._snapshot is not None:
            live = self._live[key] = _Live(order, uid, child, is_prepared=True)
            making = self._snapshot()
            self._prepare(live, making, making.slices())
        else:
            self._hand_over(order, uid, child, {})

    def _prepare(self, live: _Live, making: snapshots.Making, slices: Iterator[None]) -> None:
        """Make what the job is granted, a slice a turn, and then hand the attempt over; unless it was ended meanwhile."""
        if not live.is_prepared:
            return
        self.take(live.order.job_uid)
        if next(slices, self) is None:
            self._loop.call_soon(lambda: self._prepare(live, making, slices))
        elif live.child is not None:
            self._hand_over(live.order, live.uid, live.child, {handed.HISTORY: making.image})

    def _hand_over(self, order: Order, uid: int, child: children.Child, files: dict[str, bytes]) -> None:
        key = (order.run_id, order.attempt)
        try:
            who = payload.account(order.job, self._runs_as(), order.profile)
            uid = uid if who.uid is None else who.uid
            state_dir = os.path.join(self._jobs_dir, str(order.job_uid))
            facts = payload.Attempt(
                run_id=order.run_id,
                attempt=order.attempt,
                slot=order.slot,
                event=order.request.get("event"),
                kwargs=order.request.get("kwargs"),
                state_dir=state_dir,
                result_limit=self._settings.result_limit,
                profile=order.profile,
                parents=order.parents,
                files=files,
            )
            policy = payload.policy_of(
                order.job, who, state_dir, profile=order.profile, daemon_files=self._daemon_files
            )
            launch = messages.Launch(
                run_id=order.run_id,
                attempt=order.attempt,
                policy=_told(policy),
                timeout=order.timeout,
                kill_grace=order.job.kill_grace,
            )
            channel.packet(launch, ())  # here it is this attempt's fault alone if it cannot be sent
            sealed = payload.build(order.job, who, facts)
        except (payload.CannotStartError, codec.ProtocolError, OSError) as error:
            self._live[key] = _Live(order, uid, child, is_refused=True)
            self._refuse(order, uid, str(error))
            return
        self._live[key] = _Live(order, uid, child, policy.hash)
        self.defer(lambda: self._send(launch, (sealed,)))

    def _make_child(self, order: Order) -> children.Child:
        key = (order.run_id, order.attempt)
        return children.Child(
            order.run_id,
            order.attempt,
            self._loop,
            path=output.path_of(self._output_dir, order.run_id, order.queued),
            output_limit=self.limit_of(order.job),
            result_limit=self._settings.result_limit,
            now_ms=clock.now_ms,
            before=lambda: self.take(order.job_uid),
            on_life=lambda: self._on_said(key),
            first_line=f"[attempt {order.attempt} of {order.of}]" if order.attempt > 1 else None,
        )

    def _refuse(self, order: Order, uid: int, error: str) -> None:
        # Not from within the caller's step: the dispatcher is in the middle of one.
        outcome = run.Outcome(spawn_error=error)
        self._loop.call_soon(lambda: self._on_ended(order.run_id, order.attempt, outcome, Facts(error=error, uid=uid)))

    def adopt(self, order: Order) -> None:
        """Go on with an attempt that the launcher holds: its pipes and its exit will come.

        Its stall_timeout begins anew with its pipes, since for all that is known it could not be heard until then.
        """
        self._take_up(order)

    def lose(self, order: Order, error: str) -> None:
        """Say that an attempt has ended with a launcher that is gone: no more than what is on disk will be known."""
        live = self._take_up(order)
        found = live.child.output if live.child is not None else None
        facts = Facts(
            error=error,
            uid=live.uid,
            output_bytes=found.total if found is not None else 0,
            truncated=found is not None and found.truncated,
        )
        self._on_ended(order.run_id, order.attempt, run.Outcome(cause="lost"), facts)

    def abandon(self, order: Order) -> None:
        """Have an attempt of a job in quarantine ended; nothing that it says is looked at."""
        self._live[order.run_id, order.attempt] = _Live(order, self._runs_as(), None)
        self.end(order.run_id, order.attempt, "lost", order.job.kill_grace)

    def _take_up(self, order: Order) -> _Live:
        """Go on with an attempt that another supervisor has handed over."""
        try:
            uid = payload.account(order.job, self._runs_as(), order.profile).uid
        except payload.CannotStartError:  # an account that has gone since
            uid = None
        try:
            child = self._make_child(order)
        except OSError:
            child = None
        live = _Live(order, self._runs_as() if uid is None else uid, child)
        self._live[order.run_id, order.attempt] = live
        return live

    def end(self, run_id: int, attempt: int, cause: str, grace: float) -> None:
        """Have it ended after the commit of this turn."""
        live = self._live.get((run_id, attempt))
        if live is not None and live.is_prepared:
            live.is_prepared, live.is_refused = False, True
            facts = Facts(error="ended before it was started", uid=live.uid)
            self._loop.call_soon(lambda: self._on_ended(run_id, attempt, run.Outcome(cause=cause), facts))
            return
        order = messages.End(run_id=run_id, attempt=attempt, cause=cause, grace=grace)
        self.defer(lambda: self._send(order, ()))

    def on_started(self, message: messages.Started, pipes: list[int]) -> None:
        live = self._live.get((message.run_id, message.attempt))
        if live is None:
            for fd in pipes:
                os.close(fd)
            return
        if live.child is None:
            live.sink = children.Sink(self._loop, pipes)
            return
        live.child.attach(pipes)
        if not pipes:
            live.child.output.lost = live.child.output.lost or os.strerror(errno.EMFILE)
        if live.order.job.stall_timeout is not None:
            self._watch_for_silence(live, live.order.job.stall_timeout)

    def _watch_for_silence(self, live: _Live, limit: float) -> None:
        def look() -> None:
            if live.child is None or (live.order.run_id, live.order.attempt) not in self._live:
                return
            if live.child.alive_at + limit <= clock.monotonic():
                self._exceed(live, "stalled")
            else:
                self._watch_for_silence(live, limit)

        if live.child is not None:
            live.stall = self._loop.call_at(live.child.alive_at + limit, look)

    def _on_said(self, key: Key) -> None:
        live = self._live.get(key)
        if live is None or live.child is None:
            return
        if live.order.job.output_action == "kill" and live.child.output.truncated:
            self._exceed(live, "output")
        self._on_life(live.order.run_id)

    def _exceed(self, live: _Live, cause: str) -> None:
        if not live.exceeded:
            live.exceeded = True
            self._on_exceeded(live.order.run_id, cause)

    def on_exited(self, message: messages.Exited) -> None:
        """Tell the dispatcher how it ended, and the launcher, after the commit, that this is known."""
        live = self._live.get((message.run_id, message.attempt))
        if live is None:  # told twice, or of a run that a predecessor has recorded
            self._on_unknown(message.run_id, message.attempt)
        else:
            self._take_end(live, message)
        ack = messages.Ack(run_id=message.run_id, attempt=message.attempt)
        self.defer(lambda: self._send(ack, ()))

    def _take_end(self, live: _Live, message: messages.Exited) -> None:
        self.take(live.order.job_uid)
        if live.stall is not None:
            live.stall.cancel()
        report = None
        if live.child is not None:
            live.child.drain()
            report = live.child.report
        outcome = run.Outcome(
            exit_code=message.exit_code,
            signal=message.signal,
            cause=message.cause,
            limit=_limit_met(message),
            spawn_error=message.spawn_error,
            sandbox_error=message.sandbox_error,
            returned=report is not None and report.result is not None,
            raised=report is not None and report.raised is not None,
            refused=report is not None and report.refused is not None,
        )
        ran = message.spawn_error is None and message.sandbox_error is None
        facts = Facts(
            exit_code=message.exit_code if ran else None,
            signal=_signal_name(message.signal) if ran and message.signal is not None else None,
            error=_error(message, live),
            result=report.result if report is not None else None,
            output_bytes=live.child.output.total if live.child is not None else 0,
            truncated=live.child.output.truncated if live.child is not None else False,
            duration=message.duration,
            cpu_seconds=round(message.cpu_seconds, 6),
            max_memory=message.max_memory,
            processes=message.processes,
            uid=live.uid if message.uid is None else message.uid,
            policy=live.policy,
            enforced=message.enforced,
            killed=message.killed,
            killed_count=message.killed_count,
            notes=_notes(live),
        )
        self._on_ended(message.run_id, message.attempt, outcome, facts)

    def explain(self, run_id: int, attempt: int, reason: str, facts: Facts) -> Facts:
        """End the log of a run that failed for this reason with what may help; the facts with these lines counted."""
        live = self._live.get((run_id, attempt))
        if live is None or live.child is None or live.is_refused:
            return facts
        written = live.child.output
        text = written.tail(epilogue.SEARCHED).decode(errors="backslashreplace")
        job = replace(live.order.job, kwargs={**live.order.job.kwargs, **(live.order.request.get("kwargs") or {})})
        said = epilogue.lines(job, live.order.profile, reason, f"{text}\n{facts.error or ''}")
        if said and text and not text.endswith("\n"):
            said.insert(0, "")
        for line in said:
            live.child.say(line)
        return replace(facts, output_bytes=written.total, truncated=written.truncated)

    def close(self, run_id: int, attempt: int, *, last: bool) -> int:
        """Forget an attempt that has ended. After the last one the run's output becomes one file: the size it will have.

        The files are put in order after the commit; until then they say all that a successor would need.
        """
        live = self._live.pop((run_id, attempt), None)
        if live is None:
            return 0
        if live.sink is not None:
            live.sink.release()
        if live.child is None:
            return 0
        child = live.child
        child.release()
        self.defer(lambda: child.finish(last=last))
        return child.output.finished_size() if last else 0

    def finish_output(self, run_id: int, queued: int, job: model.JobConfig) -> int:
        """Make, after the commit, one file of the output of a run that has ended; the size it will have."""
        path = output.path_of(self._output_dir, run_id, queued)
        if not os.path.exists(path):
            return 0
        found = output.Output(path, self.limit_of(job))
        self.defer(lambda: _finish(found))
        return found.finished_size()

    def tail(self, run_id: int, queued: int, limit: int) -> str:
        """The end of what is kept of a run's output."""
        path = output.path_of(self._output_dir, run_id, queued)
        try:
            return output.read_stored(path, "output", -limit, limit)[0].decode(errors="backslashreplace")
        except OSError:
            return ""

    def limit_of(self, job: model.JobConfig) -> int:
        """Bytes of output that are kept of a run of this job."""
        return int(job.limits.get("output", self._settings.output_limit))


def _told(wanted: policies.Policy) -> dict[str, object]:
    """What the launcher must hear: an older one refuses keys that it does not know, and one at its default says nothing."""
    return {key: value for key, value in wanted.to_map().items() if value != _DEFAULTS[key]}


def _finish(found: output.Output) -> None:
    found.finish()
    for path in output.report_paths(found.path):
        segments.remove(path)


def _limit_met(message: messages.Exited) -> str | None:
    """The limit of the box that a bad end is put down to."""
    if message.oom_kills:
        return "memory"
    if message.signal == signal.SIGXCPU:
        return "cpu"
    return "pids" if message.pids_denied else None


def _signal_name(number: int) -> str:
    try:
        return signal.Signals(number).name
    except ValueError:
        return f"SIG{number}"  # a real-time signal has no name of its own


def _error(message: messages.Exited, live: _Live) -> str | None:
    """What went wrong, in words for the row."""
    report = live.child.report if live.child is not None else None
    job = live.order.job
    by_cause = {
        "timeout": f"ended after {live.order.timeout:g} s"
        if live.order.timeout is not None
        else "ended by its timeout",
        "stalled": f"ended after {job.stall_timeout} s without output, progress or heartbeat",
        "output": "ended because its output went over limits.output",
        "stopped": "ended by the stop of the daemon",
        "lost": "ended because the job is in quarantine",
    }
    if message.sandbox_error is not None:
        return message.sandbox_error
    if message.spawn_error is not None:
        return message.spawn_error
    if message.cause is not None:
        return by_cause.get(message.cause)
    if report is not None and (report.raised or report.refused):
        return report.raised or report.refused
    return None


def _notes(live: _Live) -> str | None:
    if live.child is None:
        return "the output could not be stored"
    found = [text for text in (live.child.report.broken, live.child.output.lost) if text is not None]
    return "; ".join(found) or None
