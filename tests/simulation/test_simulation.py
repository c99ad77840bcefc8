"""Years and crowded days of the real decisions under faults, judged by the checker.

Each case is a seed, printed when it fails with the command that plays it again. LNMT_SIM_ROUNDS=n makes n times as many.
"""

import os

import pytest
from checking import rules
from simulation import script, world

ROUNDS = int(os.environ.get("LNMT_SIM_ROUNDS", "1"))
#: Cases of each kind; histories in each, and how long each is. In all 1,260 years and 20 crowded days.
CASES = {"sparse": 60, "dense": 20}
SPARSE, YEARS = 2, 10.5
DENSE, DAYS = 2, 0.5
#: Faults of each case at least, far below what most have: those of the years alone come to some 200,000.
FAULTS = {"sparse": 300, "dense": 30}


def cases(kind):
    """The first of them is for every run of the tests."""
    return [0, *(pytest.param(case, marks=pytest.mark.long) for case in range(1, CASES[kind] * ROUNDS))]


def play(kind, seeds):
    faults = 0
    for seed in seeds:
        one = world.World(seed, kind)
        findings = rules.judge(one.run())
        faults += one.faults
        told = "\n".join(map(str, findings[:20]))
        assert not findings, f"replay: .venv/bin/python tests/simulation/replay.py {kind.name} {seed}\n{told}"
    return faults


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", cases("sparse"))
def test_years_with_few_runs_in_odd_zones(case, record_property):
    faults = play(script.sparse(YEARS), range(case * SPARSE, (case + 1) * SPARSE))
    record_property("years", YEARS * SPARSE)
    record_property("faults", faults)
    assert faults >= FAULTS["sparse"]


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("case", cases("dense"))
def test_days_with_something_every_second(case, record_property):
    faults = play(script.dense(DAYS), range(case * DENSE, (case + 1) * DENSE))
    record_property("faults", faults)
    assert faults >= FAULTS["dense"]
