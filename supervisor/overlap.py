"""What becomes of a slot that comes while runs of its job have not ended. A pure question of the supervisor.

A run that only waits for its next attempt does not stand in the way: the new slot does its work, and supersedes it. What
else has not ended is in the way as soon as there is as much of it as the job may have at one time: one run, or with
`allow` max_instances of them. Then `skip` and `allow` let the slot go by; `queue` has it wait in line, where the newest
slot stands for those before it; `replace` ends what is in the way, and the slot waits in line until that is gone.

With `catch_up: all` every slot counts: none supersedes a run, and a slot that was caught up, or that finds another waiting,
gets in line behind it, whatever `overlap` says.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import run

#: Runs of one job that wait in line at most.
LINE = 100


@dataclass(frozen=True, slots=True)
class Other:
    """A run of the same job that has not ended."""

    run_id: int
    state: run.State


@dataclass(frozen=True, slots=True, kw_only=True)
class Verdict:
    """`start` at once, wait in `line`, or `skip` for this reason."""

    answer: Literal["start", "line", "skip"]
    reason: str = ""
    #: A sentence for people, kept as the row's error.
    why: str = ""
    #: Runs that give way to this slot, each with the word for it.
    displaced: tuple[tuple[int, run.Displacement], ...] = ()


def limit(job: model.JobConfig) -> int:
    """How many runs of the job its schedule may have at one time."""
    return job.max_instances if job.overlap == "allow" else 1


def in_order(job: model.JobConfig) -> bool:
    return job.catch_up == "all"


def _waits_for_itself(job: model.JobConfig) -> bool:
    """It asks how its previous run ended, so that this is left to come to its end."""
    return any(parent == job.id for parent, _ in model.links(job.dependencies))


def judge(job: model.JobConfig, others: Sequence[Other], *, caught_up: bool) -> Verdict:
    """`others`: oldest first. `caught_up`: the slot is late, and is run all the same."""
    in_turn = in_order(job) or _waits_for_itself(job)
    retrying = [] if in_turn else [each for each in others if run.status_of(each.state) is _RETRYING]
    ahead = [each for each in others if each not in retrying]
    waiting = [each for each in ahead if isinstance(each.state, run.InLine)]
    if len(ahead) < limit(job):
        return Verdict(answer="start", displaced=_all("superseded", retrying))
    if in_order(job) and (caught_up or any(not isinstance(each.state, run.Running) for each in ahead)):
        if len(waiting) >= LINE:
            return Verdict(answer="skip", reason="coalesced", why=f"{LINE} slots before it wait already")
        return Verdict(answer="line")
    match job.overlap:
        case "queue":
            return Verdict(answer="line", displaced=_all("superseded", retrying) + _all("coalesced", waiting))
        case "replace":
            return Verdict(answer="line", displaced=_all("superseded", retrying) + _all("replaced", ahead))
        case _:
            return Verdict(answer="skip", reason="overlap", why=_in_the_way(ahead))


def _all(reason: run.Displacement, runs: Sequence[Other]) -> tuple[tuple[int, run.Displacement], ...]:
    """The youngest first, so that none comes to its turn by the end of one before it."""
    return tuple((each.run_id, reason) for each in reversed(runs))


def has_turn(job: model.JobConfig, others: Sequence[Other]) -> bool:
    """Whether the first in line may go on, given the runs of its job that are not in line."""
    return len(others) < limit(job)


def _in_the_way(ahead: Sequence[Other]) -> str:
    if len(ahead) == 1:
        return f"run {ahead[0].run_id} has not ended"
    return f"runs {', '.join(str(each.run_id) for each in ahead[:5])} have not ended"


_RETRYING = model.JobStatus.RETRYING
