"""The simulation and its checker have teeth: each bug of mutants.py is found, and within a few short histories."""

import pytest
from checking import rules
from simulation import mutants, script, world

#: (days or years, seeds) that are tried one after the other.
SHORT = {"dense": (0.35, range(100, 124)), "sparse": (3, range(100, 116))}
#: So many of them are good without a bug, too.
GOOD = 8


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_it_is_found(name, monkeypatch):
    mutant = mutants.MUTANTS[name]
    mutant.apply(monkeypatch)
    length, seeds = SHORT[mutant.kind]
    seen = set()
    for seed in seeds:
        try:
            history = world.World(seed, script.KINDS[mutant.kind](length)).run()
        except ValueError:
            continue  # a run twice in one place of the daemon: it is seen, but not by the checker
        findings = rules.judge(history)
        seen |= {finding.rule for finding in findings}
        if seen & mutant.rules:
            return
    pytest.fail(f"{mutant.breaks}: not found in {len(seeds)} histories; found were {sorted(seen)}")


def test_there_are_enough():
    assert len(mutants.MUTANTS) >= 12


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", SHORT)
def test_the_same_histories_are_good_without_a_bug(kind):
    length, seeds = SHORT[kind]
    for seed in seeds[:GOOD]:
        assert rules.judge(world.World(seed, script.KINDS[kind](length)).run()) == [], seed
