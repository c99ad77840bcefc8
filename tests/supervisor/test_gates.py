"""gates.py: what opens a gate, what is waited for, what closes it, and in which words."""

import pytest

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor.gates import Parent, Verdict, judge


def parent(status, job_id="collect_data", **more):
    return Parent(job_id=job_id, status=status, **more)


def test_a_job_without_parents_may_start():
    assert judge([]) == Verdict("open")


def test_all_parents_completed_open_the_gate():
    assert judge([parent("completed"), parent("completed", "other")]) == Verdict("open")


def test_a_warning_satisfies():
    assert judge([parent("completed", reason="warning")]).answer == "open"


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (None, "gate on collect_data, which has not run yet"),
        ("pending", "gate on collect_data, whose newest run has not started yet"),
        ("running", "gate on collect_data, whose newest run is still running"),
        ("retrying", "gate on collect_data, whose newest run waits for its next attempt"),
    ],
)
def test_a_parent_that_may_still_complete_is_waited_for(status, why):
    assert judge([parent(status)]) == Verdict("wait", "collect_data", why)


@pytest.mark.parametrize("status", [None, "completed", "failed"])
def test_an_undecided_slot_is_waited_for_whatever_the_run_before_it_did(status):
    verdict = judge([parent(status, undecided=True)])
    assert verdict == Verdict("wait", "collect_data", "gate on collect_data, whose slot is not decided yet")


@pytest.mark.parametrize(
    ("status", "reason", "why"),
    [
        ("failed", "exit", "gate on collect_data, whose 02:00 run failed (exit 3)"),
        ("failed", None, "gate on collect_data, whose 02:00 run failed"),
        ("failed", "timeout", "gate on collect_data, whose 02:00 run failed (timeout)"),
        ("cancelled", "cancelled", "gate on collect_data, whose 02:00 run was cancelled"),
        ("skipped", "missed", "gate on collect_data, whose 02:00 run was skipped (missed)"),
    ],
)
def test_a_parent_that_did_not_complete_closes_the_gate_and_is_named(status, reason, why):
    exit_code = 3 if reason == "exit" else None
    verdict = judge([parent(status, reason=reason, exit_code=exit_code, run="02:00 run")])
    assert verdict == Verdict("closed", "collect_data", why)


def test_a_parent_that_was_tried_again_and_again_is_said_so():
    said = judge([parent("failed", reason="exit", exit_code=3, attempts=3, run="02:00 run")]).why
    assert said == "gate on collect_data, whose 02:00 run failed (exit 3) after 3 attempts"
    assert "attempts" not in judge([parent("failed", reason="exit", exit_code=3, attempts=1)]).why


def test_a_closed_gate_outweighs_one_that_waits_and_the_first_is_named():
    parents = [parent("completed", "a"), parent("running", "b"), parent("failed", "c"), parent("failed", "d")]
    assert judge(parents).parent == "c"
    assert judge([*parents[:2], parent("pending", "e")]).parent == "b"


def test_every_status_of_a_run_has_an_answer():
    assert {judge([parent(status.value)]).answer for status in model.JobStatus} == {"open", "wait", "closed"}


def test_a_word_that_is_no_status_is_refused():
    with pytest.raises(ValueError, match="never_run"):
        judge([parent("never_run")])
