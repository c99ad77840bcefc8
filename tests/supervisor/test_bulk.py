"""A change of many jobs: whole or not at all, wherever it is cut short, and beside everything else."""

import deciding
import pytest

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import bulk, definitions, planning
from lnmt_scheduler.supervisor.connection import RefusedError


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """What is many jobs, so that forty are."""
    monkeypatch.setattr(bulk, "_ONE_TURN", 10)
    monkeypatch.setattr(bulk, "_STEP", 4)


def plan(world, jobs, *, prune=True):
    document = planning.Document("many.json", definitions.CLI, {"jobs": jobs})
    work = world.planner.plan([document], owned=lambda _: True, prune=prune)
    while True:
        try:
            next(work)
        except StopIteration as end:
            return end.value


def change(world):
    """20 jobs that are there, and the plan that changes 5, removes 10, and adds 25, each of which needs the one before."""
    for number in range(20):
        world.add(f"old-{number:02}", "0 3 * * *", timeout=5)
    keep = [{"id": f"old-{n:02}", "command": "true", "schedule": "0 3 * * *", "retry_jitter": False} for n in range(10)]
    jobs = [each | {"timeout": 5 if number < 5 else 9} for number, each in enumerate(keep)]
    jobs += [
        {"id": f"new-{number:02}", "command": "true", "schedule": "* * * * *", "dependencies": [f"new-{number - 1:02}"]}
        if number
        else {"id": "new-00", "command": "true", "schedule": "* * * * *"}
        for number in range(25)
    ]
    return plan(world, jobs)


def given(world):
    return {row.job_id: row.given for row in world.store.jobs_page(limit=1000)}


def drive(world, work, steps=None):
    """Take so many steps, a turn each; whether it is at its end."""
    for number, _ in enumerate(work, 1):
        world.settle()
        if number == steps:
            return False
    world.settle()
    return True


def test_it_comes_to_the_same_as_in_one_turn(make_world, monkeypatch, tmp_path):
    worlds = []
    for threshold in (1000, 10):
        (tmp_path / "lnmt.db").unlink(missing_ok=True)
        world = make_world()
        made = change(world)
        monkeypatch.setattr(bulk, "_ONE_TURN", threshold)
        assert drive(world, world.bulk.carry_out(made, deciding.WHO, "import"))
        tables = ("jobs", "definitions", "dependencies", "tags", "audit", "planned", "meta")
        rows = {name: world.store._db.execute(f"SELECT * FROM {name}").fetchall() for name in tables}
        rows["audit"] = sorted(row[1:] for row in rows["audit"][20:])
        rows["next"] = [world.runs.slots.next_fire()]
        worlds.append(rows)
        world.store.close()
    assert worlds[0] == worlds[1]


def test_wherever_it_is_cut_short_nothing_or_all_of_it_happens(make_world, tmp_path):
    step, seen = 0, []
    while True:
        step += 1
        (tmp_path / "lnmt.db").unlink(missing_ok=True)
        world = make_world()
        made = change(world)
        before = given(world)
        over = drive(world, world.bulk.carry_out(made, deciding.WHO, "import"), step)
        world.restart(crash=True)
        assert drive(world, world.bulk.go_on())
        after = given(world)
        audited = sum(entry.action.startswith("import") for entry in world.store.audit_page(limit=1000))
        if after == before:
            assert audited == 0
            seen.append("nothing")
        else:
            assert len(after) == 35
            assert sum(given.get("timeout") == 9 for given in after.values()) == 5
            assert audited == 40
            seen.append("all")
        assert world.store.planned_page(1) == []
        assert world.store.meta_get("plan") is None
        world.store.close()
        if over:
            break
    assert seen == sorted(seen, reverse=True), "nothing, until it is decided; from then on all"
    assert len(set(seen)) == 2
    assert len(seen) > 20


def test_no_other_change_comes_in_between_and_runs_go_on(world):
    made = change(world)
    work = world.bulk.carry_out(made, deciding.WHO, "import")
    refused = 0
    while not drive(world, work, 1):
        for action in (
            lambda: world.registry.add({"id": "x", "command": "true"}, definitions.CLI, deciding.WHO),
            lambda: world.registry.edit("old-00", {"timeout": 1}, (), deciding.WHO),
            lambda: world.registry.remove("old-00", deciding.WHO, purge=False),
            lambda: plan(world, []),
        ):
            with pytest.raises(RefusedError, match="under way") as error:
                action()
            assert error.value.code == control.FAILED
            refused += 1
        run_id = world.start("old-01")
        world.end("old-01")
        assert world.store.run(run_id).status == "completed"
    assert refused > 40
    world.add("x")


def test_new_jobs_are_not_due_before_all_of_them_are_there(world):
    made = change(world)
    work = world.bulk.carry_out(made, deciding.WHO, "import")
    ran = []
    while not drive(world, work, 1):
        world.to("12:05")
        ran += world.launched()
        assert ran == [] or len(given(world)) == 35
    world.to("12:10")
    assert world.launched()[0] == "new-00"
    assert not [row for row in world.rows("new-24") if "removed" in (row.error or "")]


def test_a_plan_that_was_overtaken_is_refused_and_nothing_is_taken(world):
    made = change(world)
    world.add("x")
    before = given(world)
    with pytest.raises(RefusedError, match="changed in between"):
        next(world.bulk.carry_out(made, deciding.WHO, "import"))
    assert given(world) == before
