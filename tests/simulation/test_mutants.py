"""The simulation and its checker have teeth: each bug of mutants.py is found, and within a few short histories."""

import pytest
from checking import rules
from simulation import mutants, script, world

#: Days or years, and how many histories are tried one after the other.
SHORT = {"dense": (0.35, 24), "sparse": (3, 16)}
#: So many of them are good without a bug, too.
GOOD = 8


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("name", mutants.MUTANTS)
def test_it_is_found(name, monkeypatch):
    mutant = mutants.MUTANTS[name]
    mutant.apply(monkeypatch)
    length, count = SHORT[mutant.kind]
    seen = set()
    for seed in range(mutant.first, mutant.first + count):
        try:
            history = world.World(seed, script.KINDS[mutant.kind](length)).run()
        except ValueError:
            continue  # a run twice in one place of the daemon: it is seen, but not by the checker
        findings = rules.judge(history)
        seen |= {finding.rule for finding in findings}
        if seen & mutant.rules:
            return
    pytest.fail(f"{mutant.breaks}: not found in {count} histories; found were {sorted(seen)}")


def test_there_are_enough():
    assert len(mutants.MUTANTS) >= 12


@pytest.mark.slow
@pytest.mark.long
@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", SHORT)
def test_the_same_histories_are_good_without_a_bug(kind):
    length, _ = SHORT[kind]
    for seed in range(100, 100 + GOOD):
        assert rules.judge(world.World(seed, script.KINDS[kind](length)).run()) == [], seed
