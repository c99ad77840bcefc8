"""What the checker takes for granted of a history, and the simulation must keep."""

from simulation import script, world


def test_a_launcher_is_never_started_in_the_millisecond_in_which_another_died():
    # Else nobody could tell which of two deaths has ended what began then.
    one = world.World(3, script.dense(0.1))
    one.script.downtime = lambda: 0
    deaths = [fault for fault in one.run().faults if fault.ends_jobs]
    assert len(deaths) > 5
    assert all(fault.begin < fault.end for fault in deaths)
