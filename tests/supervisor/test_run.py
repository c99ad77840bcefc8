"""run.py: what each outcome means, what is tried again and when, and that every state answers every event."""

import itertools

import pytest

from lnmt_scheduler.jobs.model import JobStatus
from lnmt_scheduler.supervisor import run
from lnmt_scheduler.supervisor.run import Outcome, Terms, classify, retried, retry_delay

TERMS = Terms(max_attempts=4)
FAILED, COMPLETED, CANCELLED = JobStatus.FAILED, JobStatus.COMPLETED, JobStatus.CANCELLED


@pytest.mark.parametrize(
    ("outcome", "status", "reason"),
    [
        (Outcome(exit_code=0), COMPLETED, None),
        (Outcome(exit_code=0, returned=True), COMPLETED, None),
        (Outcome(exit_code=2), FAILED, "exit"),
        (Outcome(exit_code=1, raised=True), FAILED, "exception"),
        (Outcome(exit_code=1, refused=True), FAILED, "result"),
        (Outcome(signal=11), FAILED, "signal"),
        (Outcome(signal=15, cause="timeout"), FAILED, "timeout"),
        (Outcome(signal=9, cause="stalled"), FAILED, "stalled"),
        (Outcome(signal=9, cause="output"), FAILED, "output"),
        (Outcome(spawn_error="No such file or directory"), FAILED, "spawn"),
        (Outcome(sandbox_error="no pid namespace"), FAILED, "sandbox"),
        (Outcome(signal=9, cause="lost"), FAILED, "lost"),
        (Outcome(signal=15, cause="stopped"), FAILED, "stopped"),
        (Outcome(signal=15, cause="cancelled"), CANCELLED, "cancelled"),
        (Outcome(signal=15, cause="replaced"), CANCELLED, "replaced"),
    ],
)
def test_each_row_of_the_table_of_reasons(outcome, status, reason):
    assert classify(outcome, TERMS) == (status, reason)


def test_an_outcome_that_nobody_knows_is_lost():
    assert classify(Outcome(), TERMS) == (FAILED, "lost")


@pytest.mark.parametrize(
    ("cause", "status"), [("timeout", FAILED), ("stopped", FAILED), ("stalled", FAILED), ("cancelled", CANCELLED)]
)
def test_an_attempt_that_was_ended_does_not_complete_by_exiting_with_0_in_its_grace(cause, status):
    assert classify(Outcome(exit_code=0, returned=True, cause=cause), TERMS) == (status, cause)


def test_of_several_reasons_the_first_counts():
    everything = {"sandbox_error": "x", "spawn_error": "x", "cause": "timeout", "signal": 9, "exit_code": 3}
    everything |= {"raised": True, "refused": True}
    order = []
    for gone in everything:
        order.append(classify(Outcome(**everything), TERMS)[1])
        everything[gone] = None
    assert order == ["sandbox", "spawn", "timeout", "signal", "exit", "lost", "lost"]
    assert classify(Outcome(exit_code=0, raised=True, refused=True), TERMS) == (FAILED, "exception")


def test_codes_of_success_and_warning_are_no_failure():
    terms = Terms(max_attempts=1, success_codes=(0, 3), warning_codes=(1, 3))
    assert classify(Outcome(exit_code=3), terms) == (COMPLETED, None)
    assert classify(Outcome(exit_code=1), terms) == (COMPLETED, "warning")
    assert classify(Outcome(exit_code=2), terms) == (FAILED, "exit")


def test_zero_is_a_failure_where_it_is_not_among_the_success_codes():
    assert classify(Outcome(exit_code=0), Terms(max_attempts=1, success_codes=(1,))) == (FAILED, "exit")


def test_a_function_is_judged_by_its_report_whatever_the_codes_say():
    terms = Terms(max_attempts=1, success_codes=(1,), warning_codes=())
    assert classify(Outcome(exit_code=0, returned=True), terms) == (COMPLETED, None)
    assert classify(Outcome(exit_code=1, raised=True), terms) == (FAILED, "exception")
    assert classify(Outcome(exit_code=1, raised=True), Terms(max_attempts=1, warning_codes=(1,))) == (
        FAILED,
        "exception",
    )


def test_a_code_that_its_report_does_not_explain_is_the_functions_own():
    assert classify(Outcome(exit_code=120, raised=True), TERMS) == (FAILED, "exit")
    assert classify(Outcome(exit_code=3, returned=True), TERMS) == (FAILED, "exit")


BY_DEFAULT = {"exit", "exception", "signal", "timeout", "stalled", "spawn"}
NEVER_BY_DEFAULT = {"result", "memory", "cpu", "pids", "output", "sandbox", "superseded", "cancelled", "replaced"}


@pytest.mark.parametrize("reason", sorted(BY_DEFAULT | NEVER_BY_DEFAULT | {"lost", "stopped"}))
def test_the_default_column_of_the_table(reason):
    outcome = Outcome(exit_code=1)
    assert retried(reason, outcome, TERMS) == (reason in BY_DEFAULT)
    idempotent = Terms(max_attempts=4, idempotent=True)
    assert retried(reason, outcome, idempotent) == (reason in BY_DEFAULT | {"lost", "stopped"})


def test_retry_on_replaces_the_default():
    terms = Terms(max_attempts=4, retry_on=("timeout", "output"), idempotent=True)
    wanted = {reason for reason in BY_DEFAULT | NEVER_BY_DEFAULT | {"lost"} if retried(reason, Outcome(), terms)}
    assert wanted == {"timeout", "output"}


def test_retry_on_may_name_one_exit_code():
    terms = Terms(max_attempts=4, retry_on=("exit:75",))
    assert retried("exit", Outcome(exit_code=75), terms)
    assert not retried("exit", Outcome(exit_code=7), terms)
    assert not retried("signal", Outcome(signal=75), terms)
    assert retried("exit", Outcome(exit_code=7), Terms(max_attempts=4, retry_on=("exit",)))


@pytest.mark.parametrize("reason", ["lost", "stopped"])
def test_what_may_have_run_is_repeated_only_if_that_does_no_harm_also_if_retry_on_names_it(reason):
    assert not retried(reason, Outcome(), Terms(max_attempts=4, retry_on=(reason,)))
    assert retried(reason, Outcome(), Terms(max_attempts=4, retry_on=(reason,), idempotent=True))


def test_an_empty_retry_on_means_never():
    assert not any(retried(reason, Outcome(exit_code=1), Terms(max_attempts=4, retry_on=())) for reason in BY_DEFAULT)


def test_the_delay_grows_up_to_its_cap():
    terms = Terms(max_attempts=9, retry_delay=60, retry_backoff=2.0, retry_max_delay=300, retry_jitter=False)
    assert [retry_delay(n, "exit", 0.5, terms) for n in range(1, 6)] == [60, 120, 240, 300, 300]


def test_jitter_takes_any_part_of_the_delay():
    terms = Terms(max_attempts=9, retry_delay=60, retry_backoff=2.0, retry_max_delay=300)
    assert [retry_delay(2, "exit", jitter, terms) for jitter in (0.0, 0.25, 0.5)] == [0, 30, 60]


def test_a_delay_beyond_all_numbers_is_the_cap():
    terms = Terms(max_attempts=10**6, retry_delay=60, retry_jitter=False)
    assert retry_delay(5000, "exit", 0.0, terms) == 3600
    assert retry_delay(5000, "exit", 0.0, Terms(max_attempts=10**6, retry_delay=0, retry_jitter=False)) == 0


@pytest.mark.parametrize("reason", ["lost", "stopped"])
def test_what_was_interrupted_from_outside_has_nothing_to_wait_for(reason):
    assert retry_delay(3, reason, 0.9, TERMS) == 0


PAST = run.Past(attempts=1, first_started=0, reason="exit")
STATES = [
    run.InLine(),
    run.Gated(until=5000),
    run.Queued(),
    run.Queued(past=PAST),
    run.Running(attempt=1, started=0, first_started=0),
    run.Running(attempt=2, started=9, first_started=0, ending="stalled"),
    run.Backoff(until=5000, past=PAST),
    run.Ended(status=COMPLETED, reason=None),
]
EVENTS = [
    run.Turn(now=10, until=None),
    run.Turn(now=10, until=50),
    run.Opened(now=10),
    run.Blocked(now=10),
    run.Admitted(now=10),
    run.AttemptEnded(now=10, outcome=Outcome(exit_code=0), jitter=0.5),
    run.RetryDue(now=10),
    run.Exceeded(now=10, cause="output"),
    run.Cancel(now=10),
    run.Stop(now=10, grace=30),
    run.Withdraw(now=10, reason="disabled"),
    run.Displace(now=10, reason="superseded"),
    run.Displace(now=10, reason="coalesced"),
    run.Displace(now=10, reason="replaced"),
    run.Overdue(now=10),
]
#: Where something happens: all other pairs change nothing.
WAITS = {"Cancel", "Withdraw", "coalesced", "replaced", "Overdue"}
ANSWERS = {
    "InLine": {"Turn", "Blocked", *WAITS},
    "Gated": {"Opened", "Blocked", *WAITS},
    "Queued": {"Admitted", *WAITS},
    "Queued again": {"Admitted", "Cancel", "Withdraw", "superseded", "replaced"},
    "Running": {"AttemptEnded", "Exceeded", "Cancel", "Stop", "Withdraw", "replaced"},
    "Backoff": {"RetryDue", "Cancel", "Withdraw", "superseded", "replaced"},
    "Ended": set(),
}


@pytest.mark.parametrize(
    ("state", "event"),
    list(itertools.product(STATES, EVENTS)),
    ids=lambda value: type(value).__name__,
)
def test_every_state_answers_every_event(state, event):
    after, actions = run.step(state, event, TERMS)
    again = " again" if isinstance(state, run.Queued) and state.past else ""
    word = event.reason if isinstance(event, run.Displace) else type(event).__name__
    if word not in ANSWERS[type(state).__name__ + again]:
        assert (after, actions) == (state, ())
    elif getattr(state, "ending", None) is None or not isinstance(event, run.Exceeded):
        assert after != state


def test_what_people_are_told_about_each_state():
    told = [run.status_of(state).value for state in STATES]
    assert told == ["pending", "pending", "pending", "retrying", "running", "running", "retrying", "completed"]
