"""Slots of jobs that depend on others: what opens a gate, what keeps it shut, and how long a slot waits.

What people suffered from elsewhere is named after the list of failures that it comes from.
"""

import deciding
import pytest
import telling
from telling import (
    by_hand,
    cancel,
    edit,
    end,
    errors,
    late,
    off,
    parents_of,
    pause,
    refused,
    remove,
    rename,
    restart,
    to,
)

HOURLY = {"schedule": "0 * * * *"}
HAND = {"schedule": None}
RETRIES = {"max_retries": 2, "retry_delay": 60}


def on(parent, when="ok", **keys):
    """A job whose slots are those of the parent, and depend on it."""
    return {**HOURLY, "dependencies": [{"job": parent, "when": when}], **keys}


OWN = on("a")


HISTORIES = {
    "ok: a slot starts when its parent's run of that slot has completed": (
        {"p": HOURLY, "a": on("p")},
        [to("13:00"), {"a": ["13:00 pending"]}, end("p"), {"a": ["13:00 running"]}, parents_of("a", p="13:00")],
    ),
    "ok: it waits while the parent may still succeed": (
        {"p": {**HOURLY, **RETRIES}, "a": on("p")},
        [to("13:00"), end("p", 1), to("13:01"), {"a": ["13:00 pending"]}, end("p"), {"a": ["13:00 running"]}],
    ),
    "ok: a parent that failed shuts the gate, and the row says which and how": (
        {"p": {**HOURLY, **RETRIES}, "a": on("p")},
        [
            to("13:00"), end("p", 3), to("13:01"), end("p", 3), to("13:03"), end("p", 3),
            {"a": ["13:00 dependency"]},
            errors("a", "gate on p, whose 13:00 run failed (exit 3) after 3 attempts"),
        ],
    ),
    "failed: a slot starts when its parent has failed for good": (
        {"p": {**HOURLY, **RETRIES}, "a": on("p", "failed")},
        [
            to("13:00"), end("p", 1), to("13:01"), {"a": ["13:00 pending"]}, end("p", 1), to("13:03"), end("p", 1),
            {"a": ["13:00 running"]},
        ],
    ),
    "failed: a parent that completed shuts the gate": (
        {"p": HOURLY, "a": on("p", "failed")},
        [
            to("13:00"), end("p"), {"a": ["13:00 dependency"]},
            errors("a", "gate on p, whose 13:00 run completed, and was to fail"),
        ],
    ),
    "failed: a parent that was cancelled did not fail": (
        {"p": HOURLY, "a": on("p", "failed")},
        [to("13:00"), cancel("p", "13:00"), end("p", None, cause="cancelled", signal=15), {"a": ["13:00 dependency"]}],
    ),
    "any: however the parent ends, the slot starts, and not before": (
        {"p": HOURLY, "a": on("p", "any")},
        [
            to("13:00"), {"a": ["13:00 pending"]}, end("p", 7), {"a": ["13:00 running"]}, end("a"),
            to("14:00"), end("p"), {"a": ["13:00 completed", "14:00 running"]},
        ],
    ),
    "any: a slot that the parent skipped is over, too": (
        {"p": HOURLY, "a": on("p", "any")},
        [pause("p"), to("13:00"), {"p": ["13:00 paused"], "a": ["13:00 running"]}],
    ),
    "fan-in: all parents are asked, each its own question": (
        {
            "p": HOURLY, "q": HOURLY,
            "a": {**HOURLY, "dependencies": ["p", {"job": "q", "when": "failed"}]},
        },
        [to("13:00"), end("q", 1), {"a": ["13:00 pending"]}, end("p"), {"a": ["13:00 running"]},
         parents_of("a", p="13:00", q="13:00")],
    ),
    "dependency_timeout: the wait is over after that": (
        {"p": HAND, "a": on("p", dependency_timeout=600)},
        [
            to("13:09:59"), {"a": ["13:00 pending"]}, to("13:10"), {"a": ["13:00 dependency"]},
            errors("a", "gate on p, which has not run yet; its time to wait is over"),
        ],
    ),
    "dependency_timeout: without it the wait is over at the next slot": (
        {"p": HAND, "a": on("p")},
        [to("14:00"), {"a": ["13:00 dependency", "14:00 pending"]}],
    ),
    "own run: the first slot starts, and those after a success": (
        {"a": OWN},
        [to("13:00"), end("a"), to("14:00"), {"a": ["13:00 completed", "14:00 running"]}, parents_of("a", a="13:00")],
    ),
    "Tron 3 (#853): no slot after a failure, until a run by hand has succeeded": (
        {"a": OWN},
        [
            to("13:00"), end("a", 3), to("15:00"),
            {"a": ["13:00 exit", "14:00 dependency", "15:00 dependency"]},
            errors("a", None, *["gate on a, whose previous run failed (exit 3)"] * 2),
            by_hand("a"), end("a"), to("16:00"),
            {"a": ["13:00 exit", "14:00 dependency", "15:00 dependency", "- completed", "16:00 running"]},
        ],
    ),
    "own run: also over a restart": (
        {"a": OWN},
        [to("13:00"), end("a", 3), restart("13:30"), to("14:00"), {"a": ["13:00 exit", "14:00 dependency"]}],
    ),
    "own run: a retry that it waits for is left to come to its end": (
        {"a": {**OWN, "max_retries": 1, "retry_delay": 5400, "retry_max_delay": 5400}},
        [
            to("13:00"), end("a", 1), to("14:00"), {"a": ["13:00 retrying", "14:00 overlap"]},
            to("14:30"), end("a"), to("15:00"), {"a": ["13:00 completed", "14:00 overlap", "15:00 running"]},
        ],
    ),
    "own run, any: in line it waits for the run before it, whatever becomes of that": (
        {"a": {**on("a", "any"), "overlap": "queue"}},
        [to("14:00"), {"a": ["13:00 running", "14:00 pending"]}, end("a", 1), {"a": ["13:00 exit", "14:00 running"]}],
    ),
    "own run, ok: in line, what fails shuts the gate of the next": (
        {"a": {**OWN, "overlap": "queue"}},
        [to("14:00"), {"a": ["13:00 running", "14:00 pending"]}, end("a", 1), {"a": ["13:00 exit", "14:00 dependency"]}],
    ),
    "a parent of a living job cannot be removed": (
        {"p": HOURLY, "a": on("p")},
        [refused(remove("p"), "a depend on 'p'")],
    ),
    "a parent that is disabled while a slot waits shuts the gate": (
        {"p": {**HOURLY, "overlap": "queue"}, "a": on("p")},
        [
            to("13:00"), end("p"), end("a"), to("13:59:59"), by_hand("p"), to("14:00"),
            {"p": ["13:00 completed", "- running", "14:00 pending"], "a": ["13:00 completed", "14:00 pending"]},
            off("p"),
            {"a": ["13:00 completed", "14:00 dependency"]},
            errors("a", None, "gate on p, whose 14:00 run was skipped (disabled)"),
        ],
    ),
    "the slots of a parent that is disabled were skipped": (
        {"p": HOURLY, "a": on("p")},
        [off("p"), to("13:00"), {"a": ["13:00 dependency"]}, errors("a", "gate on p, whose 13:00 run was skipped (disabled)")],
    ),
    "a parent whose schedule changes is asked for its newest slot by the new one": (
        {"p": {"schedule": "0 0 * * *"}, "a": on("p")},
        [
            edit("p", schedule="30 12 * * *"), to("12:30"), end("p"), to("13:00"),
            {"a": ["13:00 running"]}, parents_of("a", p="12:30"),
        ],
    ),
    "a slot that waits does so by the definition that it was decided with": (
        {"p": HAND, "q": HAND, "a": on("p")},
        [to("13:00"), edit("a", dependencies=["q"]), by_hand("q"), end("q"), {"a": ["13:00 pending"]},
         by_hand("p"), end("p"), {"a": ["13:00 running"]}],
    ),
    "a slot that waits follows a parent that is renamed, also over a restart": (
        {"p": HAND, "a": on("p")},
        [
            to("13:00"), rename("p", "q"), {"a": ["13:00 pending"]}, restart("13:10"), {"a": ["13:00 pending"]},
            by_hand("q"), end("q"), {"a": ["13:00 running"]},
        ],
    ),
    "cycles are refused, and named": (
        {"p": HOURLY, "a": on("p"), "b": on("a")},
        [refused(edit("p", dependencies=["b"]), "in a cycle: a -> p -> b -> a")],
    ),
    "Cronicle 3 (#584): Y at 08:30 only if X was fine today, and only after both A and B": (
        {
            "x": {"schedule": "0 8 * * *"},
            "a": {"schedule": "0 8 * * *"},
            "y": {"schedule": "30 8 * * *", "dependencies": ["x", "a"]},
        },
        [
            to("2026-03-03 08:00"), end("x"), to("2026-03-03 08:30"), {"y": ["2026-03-03 08:30 pending"]},
            end("a"), {"y": ["2026-03-03 08:30 running"]}, end("y"),
            to("2026-03-04 08:00"), end("a"), end("x", 1), to("2026-03-04 08:30"),
            {"y": ["2026-03-03 08:30 completed", "2026-03-04 08:30 dependency"]},
        ],
    ),
    "a success of yesterday opens no gate of today: the slot of today is asked for": (
        {"p": HOURLY, "a": on("p")},
        [to("13:00"), end("p"), end("a"), late("15:00"),
         {"p": ["13:00 completed", "14:00 coalesced", "15:00 running"],
          "a": ["13:00 completed", "14:00 coalesced", "15:00 pending"]}],
    ),
    "Rundeck (#2703): a parent that is run again and succeeds releases a slot that still waits": (
        {"p": HAND, "a": {**on("p"), "dependency_timeout": 3000}},
        [to("13:00"), by_hand("p"), end("p"), {"a": ["13:00 running"]}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES)
def test_history(history, tmp_path, monkeypatch):
    telling.play(HISTORIES[history], tmp_path, monkeypatch)


def test_retention_does_not_open_the_gate_on_the_own_previous_run(tmp_path, monkeypatch):
    world = deciding.World(tmp_path, monkeypatch)
    world.add("a", **OWN, max_retries=0)
    world.to("13:00")
    world.end("a", 1)
    world.to("2026-03-05 12:00")
    swept = world.store.retention(world.now, 1000, 2, 100)
    while swept.cursor is not None:
        swept = world.store.retention(world.now, 1000, 2, 100, swept.cursor)
    assert [row.reason for row in world.rows("a")] == ["exit", "dependency"]
    world.to("2026-03-05 13:00")
    assert world.told("a")[-1] == ("2026-03-05 13:00", "dependency")
    world.close()


def test_however_much_waits_behind_one_gate_it_is_told_of_its_end(tmp_path, monkeypatch):
    world = deciding.World(tmp_path, monkeypatch)
    try:
        world.add("p", "0 0 * * *", max_retries=0)
        often = {"catch_up": "all", "overlap": "queue", "dependency_timeout": "7 days"}
        world.add("a", "*/5 * * * *", dependencies=["p"], **often)
        world.add("b", "*/5 * * * *", dependencies=["a"], **often)
        world.restart("2026-03-03 08:30")
        assert world.told("p") == [("2026-03-03 00:00", "running")]
        world.end("p", 1)
        late = [row for job in ("a", "b") for row in world.rows(job) if row.slot >= deciding.ms("2026-03-03 00:10")]
        assert len(late) > 150
        assert {row.reason for row in late} == {"dependency"}
    finally:
        world.close()
