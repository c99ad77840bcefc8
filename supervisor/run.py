"""The life of one run, as decisions without effect: step(state, event, terms) -> (state, actions).

    InLine --Turn--> Gated --Opened--> Queued --Admitted--> Running --AttemptEnded--> Ended
                                         ^                     |
                                         +--RetryDue-- Backoff <+ (if the attempt failed and may be repeated)

The supervisor holds a state per open run, turns what happens into events, writes the new state to the store and carries
out the actions, in this order. Every pair of state and event has an answer; one that cannot matter changes nothing. How
an attempt ended is the launcher's word (Outcome); what that means for the run is decided here alone, by classify() and
retried().

Times are epoch milliseconds, durations seconds. An attempt's deadline is kept by the launcher on the monotonic clock;
between attempts the total time is reckoned by the wall clock, since it must outlive a restart.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, assert_never

from lnmt_scheduler.jobs import model

#: Why an attempt was ended from outside. Of several the first counts.
CAUSES = ("cancelled", "replaced", "stopped", "lost", "timeout", "stalled", "output")
#: Of these the causes that somebody meant: what ends so is not tried again.
MEANT = frozenset({"cancelled", "replaced"})
#: What is tried again unless the job says otherwise.
RETRIED = frozenset({"exit", "exception", "signal", "timeout", "stalled", "spawn", "lost", "stopped"})
#: The job may have done its work, or half of it, and nobody was there to see how it ended.
UNSEEN = frozenset({"lost", "stopped"})


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """What the job's definition says about its runs. Durations are seconds."""

    #: 1 + max_retries; 1 for a manual run without retries.
    max_attempts: int
    retry_delay: float = 60
    retry_backoff: float = 2.0
    retry_max_delay: float = 3600
    retry_jitter: bool = True
    #: Reasons, also `exit:75`; None: RETRIED.
    retry_on: tuple[str, ...] | None = None
    idempotent: bool = False
    #: From the first start to the last end, and of one attempt; None: no limit.
    total_timeout: float | None = None
    timeout: float | None = 3600
    kill_grace: float = 10
    success_codes: tuple[int, ...] = (0,)
    warning_codes: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """How one attempt ended, as launcher and report pipe tell it. With nothing set, nobody knows: it is lost."""

    #: Of the main process; None if it died of a signal or never ran.
    exit_code: int | None = None
    signal: int | None = None
    #: Why it was ended from outside, a word of CAUSES; None: it ended by itself.
    cause: str | None = None
    #: A limit of the box that was met (its counter rose): memory, cpu or pids. It counts if the job ended badly.
    limit: str | None = None
    spawn_error: str | None = None
    sandbox_error: str | None = None
    #: The job is a function and came to its end; its process exits with 0.
    returned: bool = False
    #: The function raised, or what it returned cannot be carried; its process exits with 1.
    raised: bool = False
    refused: bool = False


# States. A run that waits for another attempt knows what is behind it.


@dataclass(frozen=True, slots=True, kw_only=True)
class Past:
    """The attempts behind a run that waits for another one."""

    attempts: int
    first_started: int
    #: Of the last of them, a word of the table of reasons.
    reason: str


@dataclass(frozen=True, slots=True, kw_only=True)
class InLine:
    """Decided, and waiting until runs of its own job that are before it have ended."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Gated:
    """Decided, and waiting for the jobs that it depends on, at most until `until`."""

    until: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Queued:
    """Waiting in the backlog for a free slot."""

    #: None: this is the first attempt.
    past: Past | None = None

    @property
    def attempt(self) -> int:
        """The number of the attempt that it waits to make, from 1."""
        return 1 if self.past is None else self.past.attempts + 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Running:
    attempt: int
    started: int
    first_started: int
    #: We have asked for its end, and why.
    ending: str | None = None
    #: The job was disabled or removed meanwhile: this attempt goes on, another is not made.
    withdrawn: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Backoff:
    """Waiting until `until` for its next attempt."""

    until: int
    past: Past


@dataclass(frozen=True, slots=True, kw_only=True)
class Ended:
    status: model.JobStatus
    reason: str | None


State = InLine | Gated | Queued | Running | Backoff | Ended


# Events. `now` is when it happened.


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """Of its own job's runs it is next."""

    now: int
    #: When its wait for the jobs that it depends on is over; None: they stand in no way.
    until: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """All parents have completed."""

    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Blocked:
    """A parent did not complete, or not in time."""

    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Admitted:
    """The backlog gave it a slot."""

    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class AttemptEnded:
    """The launcher has proven the box empty, or never will."""

    now: int
    outcome: Outcome
    #: A random number in [0, 1), for the delay before the next attempt.
    jitter: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryDue:
    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Exceeded:
    """The supervisor saw the attempt break a limit that only the supervisor can see."""

    now: int
    cause: Literal["stalled", "output"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Cancel:
    """A person wants it gone."""

    now: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stop:
    """The daemon stops. What does not run waits for the next start."""

    now: int
    #: Seconds that the daemon gives at most between TERM and KILL.
    grace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class Withdraw:
    """The job is no longer to run: a person disabled or removed it, or it brought the supervisor down too often."""

    now: int
    reason: Literal["disabled", "removed", "quarantined"]


#: How a newer slot of its job takes a run's place: it only waits for its next attempt, it waited in line, or whatever it
#: does.
Displacement = Literal["superseded", "coalesced", "replaced"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Displace:
    """A newer slot of its job takes its place, as the job's `overlap` says."""

    now: int
    reason: Displacement


@dataclass(frozen=True, slots=True, kw_only=True)
class Overdue:
    """It could not start within its start_deadline."""

    now: int


Event = (
    Turn
    | Opened
    | Blocked
    | Admitted
    | AttemptEnded
    | RetryDue
    | Exceeded
    | Cancel
    | Stop
    | Withdraw
    | Displace
    | Overdue
)


# Actions: what the caller does next.


@dataclass(frozen=True, slots=True, kw_only=True)
class Enqueue:
    """Put it into the backlog."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Launch:
    """Record the attempt, then hand it to the launcher."""

    attempt: int
    #: Seconds; None: no limit.
    timeout: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class EndAttempt:
    """Ask the launcher for the end. Where one was asked for already, the shorter grace counts."""

    cause: str
    #: Seconds between TERM and KILL.
    grace: float


@dataclass(frozen=True, slots=True, kw_only=True)
class RetryAt:
    """Wake up at `at` with RetryDue."""

    at: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Finish:
    """Record the end of the run; nothing comes after it."""

    status: model.JobStatus
    reason: str | None


Action = Enqueue | Launch | EndAttempt | RetryAt | Finish
Decision = tuple[State, tuple[Action, ...]]


def step(state: State, event: Event, terms: Terms) -> Decision:
    """What the event makes of the run, and what is to be done now."""
    match state:
        case InLine():
            return _in_line(state, event)
        case Gated():
            return _gated(state, event)
        case Queued():
            return _queued(state, event, terms)
        case Running():
            return _running(state, event, terms)
        case Backoff():
            return _backoff(state, event)
        case Ended():
            return state, ()
        case _:
            assert_never(state)


def status_of(state: State) -> model.JobStatus:
    """What people are told about a run in this state."""
    match state:
        case InLine() | Gated() | Queued(past=None):
            return model.JobStatus.PENDING
        case Queued() | Backoff():
            return model.JobStatus.RETRYING
        case Running():
            return model.JobStatus.RUNNING
        case Ended():
            return state.status
        case _:
            assert_never(state)


def attempt_of(state: State) -> int:
    """The number of the attempt that it makes or waits to make, from 1; of one that has ended, 0."""
    match state:
        case Running(attempt=attempt):
            return attempt
        case Queued():
            return state.attempt
        case Backoff(past=past):
            return past.attempts + 1
        case InLine() | Gated():
            return 1
        case Ended():
            return 0
        case _:
            assert_never(state)


def moved(state: State, by: int) -> State:
    """The same run after the wall clock was set by so many milliseconds.

    What it waits for and what its time is reckoned from are moved along, so that a wait is neither over at once nor hours
    longer: in effect it runs on a clock that nobody sets, and is still written down, and taken up after a restart, as wall
    time.
    """
    match state:
        case Gated(until=until):
            return replace(state, until=until + by)
        case Queued(past=past):
            return state if past is None else replace(state, past=_moved(past, by))
        case Running(started=started, first_started=first):
            return replace(state, started=started + by, first_started=first + by)
        case Backoff(until=until, past=past):
            return replace(state, until=until + by, past=_moved(past, by))
        case InLine() | Ended():
            return state
        case _:
            assert_never(state)


def _moved(past: Past, by: int) -> Past:
    return replace(past, first_started=past.first_started + by)


def classify(outcome: Outcome, terms: Terms) -> tuple[model.JobStatus, str | None]:
    """Status and reason of an attempt that ended so. If several reasons hold, the first in this order counts."""
    if outcome.sandbox_error is not None:
        return model.JobStatus.FAILED, "sandbox"
    if outcome.spawn_error is not None:
        return model.JobStatus.FAILED, "spawn"
    badly = outcome.signal is not None or outcome.exit_code not in terms.success_codes + terms.warning_codes
    if outcome.limit is not None and badly and outcome.cause in (None, "output"):
        return model.JobStatus.FAILED, outcome.limit
    if outcome.cause is not None:
        # Even if it then exits with 0 within its grace.
        status = model.JobStatus.CANCELLED if outcome.cause in MEANT else model.JobStatus.FAILED
        return status, outcome.cause
    if outcome.signal is not None:
        return model.JobStatus.FAILED, "signal"
    code = outcome.exit_code
    if code is None:
        return model.JobStatus.FAILED, "lost"
    # The code that only repeats what the function reported is none of the job's own.
    reported = (code == 0 and outcome.returned) or (code == 1 and (outcome.raised or outcome.refused))
    if not reported and code not in terms.success_codes and code not in terms.warning_codes:
        return model.JobStatus.FAILED, "exit"
    if outcome.raised:
        return model.JobStatus.FAILED, "exception"
    if outcome.refused:
        return model.JobStatus.FAILED, "result"
    if not reported and code not in terms.success_codes:
        return model.JobStatus.COMPLETED, "warning"
    return model.JobStatus.COMPLETED, None


def retried(reason: str, outcome: Outcome, terms: Terms) -> bool:
    """Whether an attempt that failed for this reason may be followed by another, if there is one left.

    `retry_on` replaces the whole default list. `lost` and `stopped` need `idempotent` besides: better one run too few
    than two.
    """
    if reason in UNSEEN and not terms.idempotent:
        return False
    if terms.retry_on is None:
        return reason in RETRIED
    return reason in terms.retry_on or (reason == "exit" and f"exit:{outcome.exit_code}" in terms.retry_on)


def retry_delay(attempt: int, reason: str, jitter: float, terms: Terms) -> float:
    """Seconds between the end of this attempt and the next one.

    retry_delay * retry_backoff ^ (attempt - 1), at most retry_max_delay; with retry_jitter anything from 0 to that, so
    that jobs which failed together do not come back together. After lost and stopped there is nothing to wait for.
    """
    if reason in UNSEEN or not terms.retry_delay:
        return 0.0
    try:
        delay = min(terms.retry_delay * terms.retry_backoff ** (attempt - 1), terms.retry_max_delay)
    except OverflowError:
        delay = terms.retry_max_delay
    return delay * jitter if terms.retry_jitter else delay


def _in_line(state: InLine, event: Event) -> Decision:
    match event:
        case Turn():
            return (Queued(), (Enqueue(),)) if event.until is None else (Gated(until=event.until), ())
        case Blocked():
            return _end(model.JobStatus.SKIPPED, "dependency")
        case Cancel() | Withdraw() | Displace() | Overdue():
            return _gone(state, event)
        case Opened() | Admitted() | AttemptEnded() | RetryDue() | Exceeded() | Stop():
            return state, ()
        case _:
            assert_never(event)


def _gated(state: Gated, event: Event) -> Decision:
    match event:
        case Opened():
            return Queued(), (Enqueue(),)
        case Blocked():
            return _end(model.JobStatus.SKIPPED, "dependency")
        case Cancel() | Withdraw() | Displace() | Overdue():
            return _gone(state, event)
        case Turn() | Admitted() | AttemptEnded() | RetryDue() | Exceeded() | Stop():
            return state, ()
        case _:
            assert_never(event)


def _queued(state: Queued, event: Event, terms: Terms) -> Decision:
    match event:
        case Admitted():
            first_started = event.now if state.past is None else state.past.first_started
            limit = _limit(first_started, event.now, terms)
            if limit <= 0:
                return _end(model.JobStatus.FAILED, "timeout")
            running = Running(attempt=state.attempt, started=event.now, first_started=first_started)
            return running, (Launch(attempt=state.attempt, timeout=timeout(running, event.now, terms)),)
        case Cancel() | Withdraw() | Displace() | Overdue():
            return _gone(state, event) if state.past is None else _given_up(state, state.past, event)
        case Turn() | Opened() | Blocked() | AttemptEnded() | RetryDue() | Exceeded() | Stop():
            return state, ()
        case _:
            assert_never(event)


def _running(state: Running, event: Event, terms: Terms) -> Decision:
    match event:
        case AttemptEnded():
            return _settle(state, event, terms)
        case Cancel():
            return _ask_end(state, "cancelled", terms.kill_grace)
        case Exceeded():
            return _ask_end(state, event.cause, terms.kill_grace)
        case Stop():
            grace = min(terms.kill_grace, event.grace)
            cause = _first_cause(state.ending, "stopped")
            # Also one that is ending already must be gone in the time that the daemon has left.
            return replace(state, ending=cause), (EndAttempt(cause=cause, grace=grace),)
        case Withdraw():
            return replace(state, withdrawn=True), ()
        case Displace(reason="replaced"):
            return _ask_end(state, "replaced", terms.kill_grace)
        case Turn() | Opened() | Blocked() | Admitted() | RetryDue() | Displace() | Overdue():
            return state, ()
        case _:
            assert_never(event)


def _backoff(state: Backoff, event: Event) -> Decision:
    match event:
        case RetryDue():
            return Queued(past=state.past), (Enqueue(),)
        case Cancel() | Withdraw() | Displace() | Overdue():
            return _given_up(state, state.past, event)
        case Turn() | Opened() | Blocked() | Admitted() | AttemptEnded() | Exceeded() | Stop():
            return state, ()
        case _:
            assert_never(event)


def _settle(state: Running, event: AttemptEnded, terms: Terms) -> Decision:
    """An attempt is over: the run is, or another attempt follows."""
    outcome = with_our_cause(event.outcome, state.ending)
    status, reason = classify(outcome, terms)
    last = state.attempt >= terms.max_attempts or state.withdrawn or state.ending in MEANT
    if status is not model.JobStatus.FAILED or reason is None or last or not retried(reason, outcome, terms):
        return _end(status, reason)
    delay = retry_delay(state.attempt, reason, event.jitter, terms)
    if _left(state, event.now, reason, terms) <= delay:
        return _end(status, reason)
    past = Past(attempts=state.attempt, first_started=state.first_started, reason=reason)
    if not delay:
        # If this is the end of the daemon, the run waits in the store: a daemon that stops admits nothing.
        return Queued(past=past), (Enqueue(),)
    until = event.now + round(delay * 1000)
    return Backoff(until=until, past=past), (RetryAt(at=until),)


def with_our_cause(outcome: Outcome, ending: str | None) -> Outcome:
    """The outcome, with what we know of its cause.

    An attempt that ended by itself before our word reached it has no cause: it did not stall, it was not stopped. But a
    person who cancelled it was told that it is cancelled.
    """
    if ending is None or (outcome.cause is None and ending != "cancelled"):
        return outcome
    return replace(outcome, cause=_first_cause(outcome.cause, ending))


def _first_cause(known: str | None, cause: str) -> str:
    return cause if known is None else min(known, cause, key=CAUSES.index)


def _ask_end(state: Running, cause: str, grace: float) -> Decision:
    if state.ending is not None and _first_cause(state.ending, cause) == state.ending:
        return state, ()
    return replace(state, ending=cause), (EndAttempt(cause=cause, grace=grace),)


def _total_left(first_started: int, now: int, terms: Terms) -> float:
    """Seconds of total time left, at most all of it (the clock may have been set back); infinite without a limit."""
    if terms.total_timeout is None:
        return math.inf
    return terms.total_timeout - max(0, now - first_started) / 1000


def _limit(first_started: int, started: int, terms: Terms) -> float:
    """Seconds that an attempt started then may take."""
    return min(math.inf if terms.timeout is None else terms.timeout, _total_left(first_started, started, terms))


def timeout(state: Running, started: int, terms: Terms) -> float | None:
    """Seconds that this attempt may take, if it is one that was started then; None: as long as it likes."""
    limit = _limit(state.first_started, started, terms)
    return None if math.isinf(limit) else max(0.0, limit)


def _left(state: Running, now: int, reason: str, terms: Terms) -> float:
    """Seconds in which another attempt could begin."""
    total_at_start = _total_left(state.first_started, state.started, terms)
    if reason == "timeout" and _limit(state.first_started, state.started, terms) == total_at_start < math.inf:
        # The launcher's clock says that the total time is over; ours may be some milliseconds behind.
        return 0.0
    return _total_left(state.first_started, now, terms)


def _gone(state: State, event: Cancel | Withdraw | Displace | Overdue) -> Decision:
    """The end of a run that never ran."""
    match event:
        case Cancel():
            return _end(model.JobStatus.CANCELLED, "cancelled")
        case Withdraw():
            return _end(model.JobStatus.SKIPPED, event.reason)
        case Displace(reason="replaced"):
            return _end(model.JobStatus.CANCELLED, "replaced")
        case Displace(reason="coalesced"):
            return _end(model.JobStatus.SKIPPED, "coalesced")
        case Displace():
            return state, ()
        case Overdue():
            return _end(model.JobStatus.SKIPPED, "deadline")
        case _:
            assert_never(event)


def _given_up(state: State, past: Past, event: Cancel | Withdraw | Displace | Overdue) -> Decision:
    """The end of a run that ran, failed, and waits for another attempt that it will not get."""
    match event:
        case Cancel():
            return _end(model.JobStatus.CANCELLED, "cancelled")
        case Withdraw():
            return _end(model.JobStatus.FAILED, past.reason)
        case Displace(reason="coalesced"):
            return state, ()
        case Displace():
            return _end(model.JobStatus.FAILED, "superseded")
        case Overdue():
            return state, ()  # it has started, in time
        case _:
            assert_never(event)


def _end(status: model.JobStatus, reason: str | None) -> Decision:
    return Ended(status=status, reason=reason), (Finish(status=status, reason=reason),)
