"""SIGKILL in place of the k-th system call that changes something: of the supervisor, the launcher, and a box's init.

Supervisor and launcher are met at work, at their start among what others have left, and while they stop; a box from its
first step on, each of those that a round has.
"""

import pytest
from faults import sweep


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("shard", range(sweep.SHARDS))
@pytest.mark.parametrize(
    "role", [role if " " not in role else pytest.param(role, marks=pytest.mark.long) for role in sweep.ROLES]
)
def test_no_death_at_a_system_call_loses_repeats_or_leaves_anything(folder, role, shard):
    said = sweep.sweep(folder, role, shard, 3)
    print(said)
