"""Random deaths under load, and nothing may come of it: the checker judges the whole history.

LNMT_FULL makes it a storm of hundreds.
"""

import os
import random
import time

import pytest
from faults import scenario, storm

FULL = bool(os.environ.get("LNMT_FULL"))
#: What is done how often.
DEATHS = (
    {"kill supervisor": 150, "stop supervisor": 150, "launcher": 100, "init": 100}
    if FULL
    else {"kill supervisor": 6, "stop supervisor": 3, "launcher": 5, "init": 10}
)


def blow(blowing):
    dice = random.Random(storm.SEED)
    deaths = [kind for kind, count in DEATHS.items() for _ in range(count)]
    dice.shuffle(deaths)
    for kind in deaths:
        time.sleep(dice.random() * 0.3)  # it is a matter of chance what is going on when it strikes
        blowing.strike(kind)


@pytest.mark.slow
@pytest.mark.timeout(3600 if FULL else 120)
def test_a_storm_of_deaths_loses_repeats_and_leaves_nothing(make_daemon):
    print(f"LNMT_SEED={storm.SEED}")
    scenario.bounded()
    try:
        world = scenario.Scenario(make_daemon(before=storm.IMPATIENT, config=storm.KEPT))
        world.set_up()
        world.add_tree()
        blowing = storm.Storm(world)
        with storm.Load(world):
            blow(blowing)
        world.judge()
        found = world.verdict()
    finally:
        scenario.unbounded()
    print(f"{world.last_run} runs, {DEATHS}; dead after at most {dict(blowing.longest)} s")
    assert not found, "\n".join(found)
