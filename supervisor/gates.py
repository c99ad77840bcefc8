"""May a slot start, as far as the jobs that it depends on go? A pure question of the supervisor.

The caller looks up, for each parent, the newest run at or before our slot (its newest run, if it has no schedule), and
asks again whenever a parent's run ends. What has not ended is waited for. What has ended opens the gate if it is what the
dependency asks for: `ok` is completed, also with a warning; `failed` is failed; `any` is all that there is, a slot that was
skipped too. All else closes it for good, for a slot is decided once. A manual run asks nothing.
"""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal, assert_never

from lnmt_scheduler.jobs import model

_OPEN = frozenset({model.JobStatus.PENDING, model.JobStatus.RUNNING, model.JobStatus.RETRYING})


@dataclass(frozen=True, slots=True, kw_only=True)
class Parent:
    """A job that ours depends on, and the run of it that counts."""

    job_id: str
    #: What of it is asked for: ok, failed or any.
    when: str = "ok"
    #: A slot of it at or before ours is not yet decided, so that the run that counts is still to come.
    undecided: bool = False
    #: Of that run, a word of model.JobStatus; None: there is none yet.
    status: str | None = None
    #: Of that run, a word of the table of reasons.
    reason: str | None = None
    exit_code: int | None = None
    #: How many it made.
    attempts: int = 0
    #: What people call that run. The caller knows the zone and can say "02:00 run".
    run: str = "newest run"


@dataclass(frozen=True, slots=True)
class Verdict:
    answer: Literal["open", "wait", "closed"]
    #: The parent that stands in the way; None if the gate is open.
    parent: str | None = None
    #: A sentence for people, kept as the run's error: "gate on collect_data, whose 02:00 run failed (exit 3)".
    why: str = ""


def judge(parents: Iterable[Parent]) -> Verdict:
    """One parent that closes the gate decides, else one that must be waited for; the first of its kind is named."""
    wait: Verdict | None = None
    for parent in parents:
        verdict = _ask(parent)
        if verdict.answer == "closed":
            return verdict
        if verdict.answer == "wait" and wait is None:
            wait = verdict
    return wait or Verdict("open")


def _ask(parent: Parent) -> Verdict:
    if parent.undecided:
        return _verdict("wait", parent, "whose slot is not decided yet")
    if parent.status is None:
        return _verdict("wait", parent, "which has not run yet")
    status = model.JobStatus(parent.status)
    if satisfies(status, parent.when):
        return Verdict("open")
    match status:
        case model.JobStatus.PENDING:
            return _verdict("wait", parent, f"whose {parent.run} has not started yet")
        case model.JobStatus.RUNNING:
            return _verdict("wait", parent, f"whose {parent.run} is still running")
        case model.JobStatus.RETRYING:
            return _verdict("wait", parent, f"whose {parent.run} waits for its next attempt")
        case model.JobStatus.COMPLETED:
            return _verdict("closed", parent, f"whose {parent.run} completed, and was to fail")
        case model.JobStatus.FAILED:
            return _verdict("closed", parent, f"whose {parent.run} failed{_because(parent)}{_after(parent)}")
        case model.JobStatus.CANCELLED:
            return _verdict("closed", parent, f"whose {parent.run} was cancelled")
        case model.JobStatus.SKIPPED:
            return _verdict("closed", parent, f"whose {parent.run} was skipped{_because(parent)}")
        case _:
            assert_never(status)


def satisfies(status: model.JobStatus, when: str) -> bool:
    """Whether a run that has come to this is what a dependency asks for."""
    match when:
        case "ok":
            return status is model.JobStatus.COMPLETED
        case "failed":
            return status is model.JobStatus.FAILED
        case _:
            return status not in _OPEN


def _verdict(answer: Literal["wait", "closed"], parent: Parent, clause: str) -> Verdict:
    return Verdict(answer, parent.job_id, f"gate on {parent.job_id}, {clause}")


def _after(parent: Parent) -> str:
    return f" after {parent.attempts} attempts" if parent.attempts > 1 else ""


def _because(parent: Parent) -> str:
    if parent.reason == "exit" and parent.exit_code is not None:
        return f" (exit {parent.exit_code})"
    return f" ({parent.reason})" if parent.reason else ""
