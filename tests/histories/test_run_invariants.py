"""Any sequence of events, however odd: what must hold of a run at every moment."""

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, rule

from lnmt_scheduler.jobs.model import JobStatus
from lnmt_scheduler.supervisor import run

SECONDS = st.sampled_from([0.0, 1.0, 60.0, 3600.0])
TERMS = st.builds(
    run.Terms,
    max_attempts=st.integers(1, 4),
    retry_delay=SECONDS,
    retry_backoff=st.sampled_from([0.5, 1.0, 2.0]),
    retry_max_delay=SECONDS,
    retry_jitter=st.booleans(),
    retry_on=st.none() | st.tuples(st.sampled_from(["exit", "exit:75", "timeout", "lost", "cancelled"])),
    idempotent=st.booleans(),
    total_timeout=st.none() | st.sampled_from([10.0, 100.0]),
    timeout=st.none() | st.sampled_from([5.0, 50.0]),
    warning_codes=st.sampled_from([(), (75,)]),
)
OUTCOMES = st.builds(
    run.Outcome,
    exit_code=st.none() | st.sampled_from([0, 1, 75]),
    signal=st.none() | st.sampled_from([9, 11]),
    cause=st.none() | st.sampled_from(run.CAUSES),
    spawn_error=st.none() | st.just("no such file"),
    sandbox_error=st.none() | st.just("no pid namespace"),
    returned=st.booleans(),
    raised=st.booleans(),
    refused=st.booleans(),
)
PAST = run.Past(attempts=1, first_started=0, reason="exit")


class Run(RuleBasedStateMachine):
    @initialize(terms=TERMS, waits=st.sampled_from(["in line", "gated", "queued"]))
    def begin(self, terms, waits):
        self.terms = terms
        self.now = 1_700_000_000_000
        gated = run.Gated(until=self.now + 1000)
        self.state = {"in line": run.InLine(), "gated": gated, "queued": run.Queued()}[waits]
        self.launched = 0
        self.first_launch = None
        self.finished = []
        self.cancelled = self.withdrawn = False

    def tell(self, event):
        before = self.state
        self.state, actions = run.step(before, event, self.terms)
        assert len(actions) <= 1
        for action in actions:
            self.check(before, event, action)

    def check(self, before, event, action):
        match action:
            case run.Launch():
                assert isinstance(before, run.Queued), "an attempt begins only from the queue, never beside another"
                self.launched += 1
                self.first_launch = self.first_launch or self.now
                assert action.attempt == self.launched
                assert not self.cancelled
                assert not self.withdrawn
                self.check_timeout(action.timeout)
            case run.EndAttempt():
                assert isinstance(before, run.Running)
                assert action.grace <= self.terms.kill_grace
            case run.RetryAt():
                assert action.at >= self.now
                assert isinstance(self.state, run.Backoff)
                assert self.state.until == action.at
            case run.Enqueue():
                assert isinstance(self.state, run.Queued)
            case run.Finish():
                self.finished.append(action)
                assert self.state == run.Ended(status=action.status, reason=action.reason)
        if isinstance(event, run.AttemptEnded) and event.outcome.cause == "lost" and not self.terms.idempotent:
            assert isinstance(action, run.Finish) or event.outcome.spawn_error, "one too few rather than two"

    def check_timeout(self, timeout):
        total = self.terms.total_timeout
        if total is None:
            assert timeout == self.terms.timeout
            return
        left = total - max(0, self.now - self.first_launch) / 1000
        assert 0 < timeout <= left
        assert timeout in (left, self.terms.timeout)

    @rule(seconds=st.integers(-5, 50))
    def time_passes(self, seconds):
        self.now += seconds * 1000

    @rule(waits=st.booleans())
    def its_turn_has_come(self, waits):
        self.tell(run.Turn(now=self.now, until=self.now + 1000 if waits else None))

    @rule(reason=st.sampled_from(["superseded", "coalesced", "replaced"]))
    def a_newer_slot_takes_its_place(self, reason):
        self.tell(run.Displace(now=self.now, reason=reason))

    @rule()
    def it_is_too_late_to_start(self):
        self.tell(run.Overdue(now=self.now))

    @rule()
    def the_gate_opens(self):
        self.tell(run.Opened(now=self.now))

    @rule()
    def the_gate_stays_closed(self):
        self.tell(run.Blocked(now=self.now))

    @rule()
    def a_slot_is_free(self):
        self.tell(run.Admitted(now=self.now))

    @rule(outcome=OUTCOMES, jitter=st.floats(0, 1, exclude_max=True))
    def the_attempt_ends(self, outcome, jitter):
        self.tell(run.AttemptEnded(now=self.now, outcome=outcome, jitter=jitter))

    @rule()
    def the_delay_is_over(self):
        self.tell(run.RetryDue(now=self.now))

    @rule(cause=st.sampled_from(["stalled", "output"]))
    def a_limit_is_exceeded(self, cause):
        self.tell(run.Exceeded(now=self.now, cause=cause))

    @rule()
    def a_person_cancels(self):
        self.cancelled = True
        self.tell(run.Cancel(now=self.now))

    @rule(grace=SECONDS)
    def the_daemon_stops(self, grace):
        self.tell(run.Stop(now=self.now, grace=grace))

    @rule(reason=st.sampled_from(["disabled", "removed"]))
    def the_job_goes(self, reason):
        self.withdrawn = True
        self.tell(run.Withdraw(now=self.now, reason=reason))

    @invariant()
    def attempts_are_limited(self):
        assert self.launched <= self.terms.max_attempts

    @invariant()
    def a_run_ends_exactly_once(self):
        assert len(self.finished) == isinstance(self.state, run.Ended)

    @invariant()
    def a_skipped_run_never_ran_and_a_completed_one_did(self):
        for action in self.finished:
            assert (action.status is not JobStatus.SKIPPED) or self.launched == 0
            assert (action.status is not JobStatus.COMPLETED) or self.launched > 0
            assert action.reason is not None or action.status is JobStatus.COMPLETED


TestRun = Run.TestCase
TestRun.settings = settings(derandomize=True, database=None, deadline=None, max_examples=300, stateful_step_count=25)
