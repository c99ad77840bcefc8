"""Whole lives of runs: each history is a list of events and what is done about each, and reads as a sentence.

Times are seconds in the tables and milliseconds in the machine; every history begins at its first event's state.
"""

import pytest

from lnmt_scheduler.jobs.model import JobStatus
from lnmt_scheduler.supervisor import run
from lnmt_scheduler.supervisor.run import Terms

GATED = run.Gated(until=3_600_000)
QUEUED = run.Queued()

# Terms. Without jitter, so that a history has one outcome.
THRICE = Terms(max_attempts=3, retry_delay=60, retry_jitter=False)
ONCE = Terms(max_attempts=1)
IDEMPOTENT = Terms(max_attempts=3, retry_delay=60, retry_jitter=False, idempotent=True)


# Events.


def opened(at):
    return run.Opened(now=at * 1000)


def blocked(at):
    return run.Blocked(now=at * 1000)


def admitted(at):
    return run.Admitted(now=at * 1000)


def due(at):
    return run.RetryDue(now=at * 1000)


def cancelled(at):
    return run.Cancel(now=at * 1000)


def stopped(at, grace=30):
    return run.Stop(now=at * 1000, grace=grace)


def disabled(at):
    return run.Withdraw(now=at * 1000, reason="disabled")


def removed(at):
    return run.Withdraw(now=at * 1000, reason="removed")


def silent(at):
    return run.Exceeded(now=at * 1000, cause="stalled")


def flooding(at):
    return run.Exceeded(now=at * 1000, cause="output")


def ended(at, jitter=0.5, **outcome):
    return run.AttemptEnded(now=at * 1000, outcome=run.Outcome(**outcome), jitter=jitter)


# What is done.

ENQUEUE = run.Enqueue()


def launch(attempt, timeout=3600):
    return run.Launch(attempt=attempt, timeout=timeout)


def end(cause, grace=10):
    return run.EndAttempt(cause=cause, grace=grace)


def retry_at(at):
    return run.RetryAt(at=at * 1000)


def finish(status, reason=None):
    return run.Finish(status=JobStatus(status), reason=reason)


HISTORIES = {
    "a run that succeeds": (
        QUEUED,
        ONCE,
        [(admitted(1), launch(1)), (ended(5, exit_code=0), finish("completed"))],
    ),
    "a gate that opens": (
        GATED,
        ONCE,
        [(opened(1), ENQUEUE), (admitted(2), launch(1)), (ended(3, exit_code=0), finish("completed"))],
    ),
    "a gate that does not open": (
        GATED,
        ONCE,
        [(blocked(3600), finish("skipped", "dependency")), (opened(3601), None)],
    ),
    "a run that fails and succeeds at its third attempt": (
        QUEUED,
        THRICE,
        [
            (admitted(0), launch(1)),
            (ended(10, exit_code=1), retry_at(70)),
            (due(70), ENQUEUE),
            (admitted(71), launch(2)),
            (ended(80, signal=11), retry_at(200)),
            (due(200), ENQUEUE),
            (admitted(200), launch(3)),
            (ended(201, exit_code=0), finish("completed")),
        ],
    ),
    "a run that uses up its attempts fails with the last reason": (
        QUEUED,
        Terms(max_attempts=2, retry_delay=60, retry_jitter=False),
        [
            (admitted(0), launch(1)),
            (ended(10, exit_code=1), retry_at(70)),
            (due(70), ENQUEUE),
            (admitted(71), launch(2)),
            (ended(80, cause="timeout", signal=15), finish("failed", "timeout")),
        ],
    ),
    "a retry without delay goes straight back": (
        QUEUED,
        Terms(max_attempts=2, retry_delay=0),
        [(admitted(0), launch(1)), (ended(10, exit_code=1), ENQUEUE), (admitted(10), launch(2))],
    ),
    "jitter draws the retry forward": (
        QUEUED,
        Terms(max_attempts=2, retry_delay=60),
        [(admitted(0), launch(1)), (ended(10, jitter=0.25, exit_code=1), retry_at(25))],
    ),
    "a result that cannot be carried is not tried again": (
        QUEUED,
        THRICE,
        [(admitted(0), launch(1)), (ended(10, exit_code=1, refused=True), finish("failed", "result"))],
    ),
    "a box that cannot be built is not tried again": (
        QUEUED,
        THRICE,
        [(admitted(0), launch(1)), (ended(0, sandbox_error="no pid namespace"), finish("failed", "sandbox"))],
    ),
    "a timeout counts though the job then exits with 0, and is tried again": (
        QUEUED,
        THRICE,
        [(admitted(0), launch(1)), (ended(3600, cause="timeout", exit_code=0), retry_at(3660))],
    ),
    "total time shortens the last attempt, whose timeout is not tried again": (
        QUEUED,
        Terms(max_attempts=9, retry_delay=60, retry_jitter=False, timeout=100, total_timeout=200),
        [
            (admitted(0), launch(1, timeout=100)),
            (ended(90, exit_code=1), retry_at(150)),
            (due(150), ENQUEUE),
            (admitted(150), launch(2, timeout=50)),
            # The daemon's clock is a second behind the launcher's: the total time is over all the same.
            (ended(199, cause="timeout", signal=15), finish("failed", "timeout")),
        ],
    ),
    "a timeout of one attempt leaves the total time for another": (
        QUEUED,
        Terms(max_attempts=9, retry_delay=10, retry_jitter=False, timeout=100, total_timeout=200),
        [(admitted(0), launch(1, timeout=100)), (ended(100, cause="timeout", signal=15), retry_at(110))],
    ),
    "total time alone is a limit too": (
        QUEUED,
        Terms(max_attempts=1, timeout=None, total_timeout=200),
        [(admitted(0), launch(1, timeout=200))],
    ),
    "without limits an attempt has none": (
        QUEUED,
        Terms(max_attempts=1, timeout=None),
        [(admitted(0), launch(1, timeout=None))],
    ),
    "a retry that could not begin within the total time is not waited for": (
        QUEUED,
        Terms(max_attempts=9, retry_delay=60, retry_jitter=False, total_timeout=200),
        [(admitted(0), launch(1, timeout=200)), (ended(150, exit_code=7), finish("failed", "exit"))],
    ),
    "a retry that would begin just as the total time ends is not waited for either": (
        QUEUED,
        Terms(max_attempts=9, retry_delay=60, retry_jitter=False, total_timeout=200),
        [(admitted(0), launch(1, timeout=200)), (ended(140, exit_code=7), finish("failed", "exit"))],
    ),
    "the last second of the total time is worth an attempt": (
        QUEUED,
        Terms(max_attempts=9, retry_delay=60, retry_jitter=False, total_timeout=200),
        [
            (admitted(0), launch(1, timeout=200)),
            (ended(139, exit_code=7), retry_at(199)),
            (due(199), ENQUEUE),
            (admitted(199), launch(2, timeout=1)),
        ],
    ),
    "total time that runs out in the queue ends the run without another launch": (
        QUEUED,
        Terms(max_attempts=9, retry_delay=60, retry_jitter=False, total_timeout=200),
        [
            (admitted(0), launch(1, timeout=200)),
            (ended(10, exit_code=7), retry_at(70)),
            (due(70), ENQUEUE),
            (admitted(200), finish("failed", "timeout")),
        ],
    ),
    "waiting for the first start costs no total time": (
        QUEUED,
        Terms(max_attempts=1, total_timeout=200),
        [(admitted(100_000), launch(1, timeout=200))],
    ),
    "a gated run that is cancelled": (GATED, THRICE, [(cancelled(1), finish("cancelled", "cancelled"))]),
    "a queued run that is cancelled": (
        QUEUED,
        THRICE,
        [(cancelled(1), finish("cancelled", "cancelled")), (admitted(2), None)],
    ),
    "a running run that is cancelled is not tried again": (
        QUEUED,
        THRICE,
        [
            (admitted(0), launch(1)),
            (cancelled(5), end("cancelled")),
            (ended(6, cause="cancelled", signal=15), finish("cancelled", "cancelled")),
        ],
    ),
    "a cancelled run that exits with 0 is cancelled": (
        QUEUED,
        THRICE,
        [
            (admitted(0), launch(1)),
            (cancelled(5), end("cancelled")),
            (ended(6, cause="cancelled", exit_code=0), finish("cancelled", "cancelled")),
        ],
    ),
    "a cancelled run that ended by itself a moment before is cancelled": (
        QUEUED,
        THRICE,
        [
            (admitted(0), launch(1)),
            (cancelled(5), end("cancelled")),
            (ended(5, exit_code=1), finish("cancelled", "cancelled")),
        ],
    ),
    "a cancelled run that could not be started is not tried again": (
        QUEUED,
        THRICE,
        [
            (admitted(0), launch(1)),
            (cancelled(5), end("cancelled")),
            (ended(5, spawn_error="fork: out of memory"), finish("failed", "spawn")),
        ],
    ),
    "cancelling twice asks once": (
        QUEUED,
        THRICE,
        [(admitted(0), launch(1)), (cancelled(5), end("cancelled")), (cancelled(6), None), (silent(7), None)],
    ),
    "a run that is cancelled in its backoff": (
        QUEUED,
        THRICE,
        [
            (admitted(0), launch(1)),
            (ended(10, exit_code=1), retry_at(70)),
            (cancelled(20), finish("cancelled", "cancelled")),
            (due(70), None),
        ],
    ),
    "silence ends an attempt, and it is tried again": (
        QUEUED,
        THRICE,
        [(admitted(0), launch(1)), (silent(5), end("stalled")), (ended(6, cause="stalled", signal=9), retry_at(66))],
    ),
    "an attempt that ended by itself did not stall": (
        QUEUED,
        THRICE,
        [(admitted(0), launch(1)), (silent(5), end("stalled")), (ended(5, exit_code=0), finish("completed"))],
    ),
    "a flood ends the run": (
        QUEUED,
        THRICE,
        [
            (admitted(0), launch(1)),
            (flooding(5), end("output")),
            (ended(6, cause="output", signal=9), finish("failed", "output")),
        ],
    ),
    "a person overrules a stall": (
        QUEUED,
        THRICE,
        [
            (admitted(0), launch(1)),
            (silent(5), end("stalled")),
            (cancelled(6), end("cancelled")),
            (ended(7, cause="stalled", signal=9), finish("cancelled", "cancelled")),
        ],
    ),
    "the daemon's stop ends what runs, in the shorter grace": (
        QUEUED,
        Terms(max_attempts=3, kill_grace=600),
        [
            (admitted(0), launch(1)),
            (stopped(5, grace=30), end("stopped", grace=30)),
            (ended(6, cause="stopped", signal=15), finish("failed", "stopped")),
        ],
    ),
    "the daemon's stop hastens what is being cancelled": (
        QUEUED,
        Terms(max_attempts=3, kill_grace=600),
        [
            (admitted(0), launch(1)),
            (cancelled(5), end("cancelled", grace=600)),
            (stopped(6, grace=30), end("cancelled", grace=30)),
            (ended(36, cause="cancelled", signal=9), finish("cancelled", "cancelled")),
        ],
    ),
    "a stopped run that may be repeated waits for the next start": (
        QUEUED,
        IDEMPOTENT,
        [
            (admitted(0), launch(1)),
            (stopped(5), end("stopped")),
            (ended(6, cause="stopped", signal=15), ENQUEUE),
            (stopped(6), None),
            (admitted(900), launch(2)),
        ],
    ),
    "a run that was done before the stop reached it has completed": (
        QUEUED,
        IDEMPOTENT,
        [(admitted(0), launch(1)), (stopped(5), end("stopped")), (ended(5, exit_code=0), finish("completed"))],
    ),
    "a run in backoff outlives the daemon": (
        QUEUED,
        THRICE,
        [
            (admitted(0), launch(1)),
            (ended(10, exit_code=1), retry_at(70)),
            (stopped(20), None),
            (due(500), ENQUEUE),
            (admitted(500), launch(2)),
        ],
    ),
    "queued and gated runs outlive the daemon": (
        GATED,
        THRICE,
        [(stopped(1), None), (opened(2), ENQUEUE), (stopped(3), None), (admitted(4), launch(1))],
    ),
    "a lost attempt is not repeated": (
        QUEUED,
        THRICE,
        [(admitted(0), launch(1)), (ended(10, cause="lost"), finish("failed", "lost"))],
    ),
    "a lost attempt that may be repeated is, at once": (
        QUEUED,
        IDEMPOTENT,
        [(admitted(0), launch(1)), (ended(10, cause="lost"), ENQUEUE), (admitted(11), launch(2))],
    ),
    "even an idempotent run has only its attempts": (
        QUEUED,
        Terms(max_attempts=1, idempotent=True),
        [(admitted(0), launch(1)), (ended(10, cause="lost"), finish("failed", "lost"))],
    ),
    "a lost attempt that somebody wanted gone stays gone": (
        QUEUED,
        IDEMPOTENT,
        [
            (admitted(0), launch(1)),
            (cancelled(5), end("cancelled")),
            (ended(10, cause="lost"), finish("cancelled", "cancelled")),
        ],
    ),
    "a gated run of a job that is disabled": (GATED, THRICE, [(disabled(1), finish("skipped", "disabled"))]),
    "a queued run of a job that is removed": (QUEUED, THRICE, [(removed(1), finish("skipped", "removed"))]),
    "a run of a removed job goes on, but is not tried again": (
        QUEUED,
        THRICE,
        [(admitted(0), launch(1)), (removed(5), None), (ended(10, exit_code=3), finish("failed", "exit"))],
    ),
    "a run of a removed job may succeed": (
        QUEUED,
        THRICE,
        [(admitted(0), launch(1)), (removed(5), None), (ended(10, exit_code=0), finish("completed"))],
    ),
    "a run in backoff of a job that is disabled has failed as it did last": (
        QUEUED,
        THRICE,
        [
            (admitted(0), launch(1)),
            (ended(10, cause="timeout", signal=15), retry_at(70)),
            (disabled(20), finish("failed", "timeout")),
        ],
    ),
    "a run queued for its second attempt has failed as it did at its first": (
        QUEUED,
        THRICE,
        [
            (admitted(0), launch(1)),
            (ended(10, signal=11), retry_at(70)),
            (due(70), ENQUEUE),
            (removed(71), finish("failed", "signal")),
        ],
    ),
    "an exit that is told twice counts once": (
        QUEUED,
        THRICE,
        [
            (admitted(0), launch(1)),
            (ended(10, exit_code=1), retry_at(70)),
            (ended(11, exit_code=1), None),
            (due(70), ENQUEUE),
            (ended(71, exit_code=0), None),
        ],
    ),
}


@pytest.mark.parametrize(("state", "terms", "history"), HISTORIES.values(), ids=HISTORIES)
def test_the_history_of(state, terms, history):
    for event, action in history:
        state, actions = run.step(state, event, terms)
        assert actions == (() if action is None else (action,)), event
