"""SIGKILL in place of the k-th system call that changes something: of the supervisor, the launcher, and a box's init.

The supervisor and a box are met from their first step on, the launcher in the middle of its work. A start of the daemon is
part of each point of the launcher, and of the supervisor wherever it dies before it has begun.
"""

import pytest
from faults import inject, scenario
from faults.test_errno import budget


@pytest.fixture(autouse=True)
def _answers_are_not_waited_for_for_ever():
    inject.require()
    scenario.bounded()
    yield
    scenario.unbounded()


@pytest.mark.slow
@pytest.mark.timeout(3600)
@pytest.mark.parametrize("role", ["supervisor", "successor", "launcher", "init"])
def test_no_death_at_a_system_call_loses_repeats_or_leaves_anything(folder, role, capsys):
    """`successor`: a supervisor that starts, and takes up what the one before has left."""
    with inject.daemon(folder, {"init": "init", "successor": "supervisor"}.get(role, "")) as daemon:
        daemon.start()
        world = scenario.Scenario(daemon)
        world.set_up()

        def trace(calls, point=None):
            if role == "successor":
                daemon.plan("supervisor", calls, point)
                world.kill_supervisor()
            elif role == "init":
                daemon.plan("init", calls, point)
            else:
                daemon.attach(role, calls, point)

        trace(inject.CHANGES)
        world.round()
        world.judge()
        everything = inject.points(role, daemon.detach(), {}, kill=True)
        chosen = inject.strided(everything, budget(12))
        reached, failed = 0, {}
        for point in chosen:
            before = daemon.supervisor_pid
            trace((), point)
            world.round()
            try:
                world.judge()
            except AssertionError as error:
                failed[str(point)] = str(error)
                world = scenario.Scenario.after(world)
            reached += daemon.detach()["!"] > 0
            if daemon.supervisor_pid != before and role != "launcher":
                world.refresh()
        with capsys.disabled():
            print(f"\n{role}: {len(chosen)} of {len(everything)} points, {reached} reached")
        assert not failed, "\n".join(f"{point}: {error}" for point, error in failed.items())
        assert reached > len(chosen) / 2
