"""The rule of ageing, held against histories of two runs; the other rules of order.py have their mutants in the simulation."""

import types

import pytest
from checking import causes, evidence, lives, order

MINUTE = 60_000
#: A run of priority normal that became ready at 0 and began after an hour; ageing is ten minutes a level.
WAITED = {"run_id": 1, "priority": 2, "queued": 0, "slot": 1, "trigger": "schedule"}


def judged(holds=(), **other):
    """What is found if another run came 31 minutes after it, and began before it."""
    other = {"run_id": 2, "priority": 2, "queued": 31 * MINUTE, "slot": 2, "trigger": "schedule", **other}
    runs = {1: WAITED, 2: other}
    definitions = {1: {}, 2: {"pool": other.pop("pool", None)}}
    starts = {1: 60 * MINUTE, 2: 40 * MINUTE}
    found = evidence.Evidence(begin=0, end=120 * MINUTE, aging=600)
    case = types.SimpleNamespace(
        found=found,
        clock=lives.Clock(found),
        late=2000,
        runs=runs,
        definition=lambda run: definitions[run["run_id"]],
        name=lambda run: f"run {run['run_id']}",
        holds=causes.Spans(holds),
        witnesses={
            run_id: [evidence.Witness(job="a", run_id=run_id, attempt=1, slot=1, start=start)]
            for run_id, start in starts.items()
        },
    )
    return [finding.rule for finding in order._aging(case)]


def test_a_run_that_is_passed_by_what_came_after_its_bound_is_found():
    assert judged() == [19]
    assert judged(pool="disk") == [19]


@pytest.mark.parametrize(
    "other",
    [{"queued": 29 * MINUTE}, {"priority": 4}, {"holds": [(10 * MINUTE, 11 * MINUTE)]}],
    ids=["it came before the bound", "it took a reserved place", "nothing was admitted for a while"],
)
def test_what_may_pass_it_is_not(other):
    assert judged(**other) == []
