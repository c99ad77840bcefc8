"""Pauses: what they hold back and what goes on, how they end, and how little they leave behind."""

import deciding
import pytest
import telling
from telling import by_hand, clock, due, edit, end, errors, late, launched, off, on, pause, remove, restart, resume, to

HOURLY = {"schedule": "0 * * * *"}
OFTEN = {"schedule": "*/5 * * * *"}
RETRIES = {"max_retries": 1, "retry_delay": 600}
ROOT = "it was paused by root at 2026-03-02T12:00:30.000Z"


def rows_since(job, text, *expected):
    """(slot, last slot of a gap, how many) of its rows from this slot on."""

    def look(world):
        rows = sorted((row for row in world.rows(job) if row.slot >= deciding.ms(text)), key=lambda row: row.slot)
        last = [row.slot_last and deciding.short(row.slot_last) for row in rows]
        assert [(deciding.short(row.slot), end, row.slots) for row, end in zip(rows, last, strict=True)] == list(
            expected
        )

    return look


def paused(*jobs):
    """What is paused, `-` being the whole schedule."""

    def look(world):
        last = [each.job_uid for each in world.runs.pauses if world.runs.pauses.own(each.job_uid, world.now)]
        assert [world.store.job(uid).job_id if uid else "-" for uid in last] == list(jobs)

    return look


HISTORIES = {
    "slots that come meanwhile are told with who and why, and do not run": (
        {"a": HOURLY},
        [
            pause("a", reason="disk is replaced"), to("14:00"), {"a": ["13:00 paused", "14:00 paused"]},
            errors("a", *[f"{ROOT}: disk is replaced"] * 2), launched(),
        ],
    ),
    "resume: what comes from then on runs, and what came does not": (
        {"a": HOURLY},
        [pause("a"), to("14:30"), resume("a"), paused(), {"a": ["13:00 paused", "14:00 paused"]},
         to("15:00"), {"a": ["13:00 paused", "14:00 paused", "15:00 running"]}],
    ),
    "a pause that has an end is ended by the daemon": (
        {"a": OFTEN},
        [
            pause("a", 600), paused("a"), to("12:10"), {"a": ["12:05 paused", "12:10 paused"]}, to("12:10:30"), paused(),
            to("12:15"), {"a": ["12:05 paused", "12:10 paused", "12:15 running"]},
            errors("a", *[f"{ROOT} until 2026-03-02T12:10:30.000Z"] * 2, None),
        ],
    ),
    "the whole schedule": (
        {"a": HOURLY, "b": OFTEN},
        [
            pause(reason="moving"), paused("-"), to("12:05"), {"b": ["12:05 paused"], "a": []},
            errors("b", "the whole schedule was paused by root at 2026-03-02T12:00:30.000Z: moving"),
            resume(), to("13:00"), {"a": ["13:00 running"]}, lambda world: world.launched().count("b") == 1,
        ],
    ),
    "the whole schedule, for so long": (
        {"a": OFTEN, "b": HOURLY},
        [pause(seconds=3600), to("13:00:30"), paused(), to("13:05"), {"b": ["13:00 paused"]},
         lambda world: world.told("a")[-2:] == [("13:00", "paused"), ("13:05", "running")]],
    ),
    "a job stays paused when the schedule is resumed, and the other way round": (
        {"a": OFTEN, "b": OFTEN},
        [
            pause("a"), pause(), to("12:05"), resume(), to("12:10"),
            {"a": ["12:05 paused", "12:10 paused"], "b": ["12:05 paused", "12:10 running"]}, end("b"),
            pause(), resume("a"), paused("-"), to("12:15"),
            {"a": ["12:05 paused", "12:10 paused", "12:15 paused"]},
        ],
    ),
    "what was due when it was paused is decided as it was": (
        {"a": HOURLY, "b": HOURLY},
        [
            to("12:59:59"), lambda world: setattr(world, "now", deciding.ms("13:00")), pause("a"), pause(),
            lambda world: world.runs.tick(), {"a": ["13:00 running"], "b": ["13:00 running"]},
            to("14:00"), {"a": ["13:00 running", "14:00 paused"]},
        ],
    ),
    "what runs, waits and retries goes on": (
        {"a": {**OFTEN, **RETRIES}, "q": {**OFTEN, "overlap": "queue"}},
        [
            to("12:10"), pause(), end("q"), {"q": ["12:05 completed", "12:10 running"]},
            end("a", 1), {"a": ["12:05 retrying", "12:10 overlap"]}, to("12:20"),
            {"a": ["12:05 running", "12:10 overlap", "12:15 paused", "12:20 paused"]},
        ],
    ),
    "a person may run it": ({"a": HOURLY}, [pause("a"), by_hand("a"), {"a": ["- running"]}]),
    "a restart changes nothing": (
        {"a": OFTEN},
        [pause("a"), restart("12:20"), paused("a"), {"a": ["12:05 paused", "12:10 paused", "12:15 paused", "12:20 paused"]},
         resume("a"), to("12:25"), lambda world: world.told("a")[-1] == ("12:25", "running")],
    ),
    "a pause that ended while no daemon ran ended then": (
        {"a": OFTEN},
        [
            pause("a", 900), restart("12:31"), paused(),
            {"a": ["12:05 paused", "12:10 paused", "12:15 paused", "12:20 coalesced", "12:25 coalesced",
                   "12:30 running, catch_up"]},
        ],
    ),
    "one that began after a rest of the host does not hide what was missed before": (
        {"a": HOURLY},
        [
            lambda world: setattr(world, "now", deciding.ms("15:10")), pause("a"), lambda world: world.runs.tick(),
            {"a": ["13:00 coalesced", "14:00 coalesced", "15:00 running, catch_up"]},
            late("17:30"), lambda world: world.told("a")[-2:] == [("16:00", "paused"), ("17:00", "paused")],
        ],
    ),
    "a reload and an edit do not end it": (
        {"a": HOURLY},
        [pause("a"), telling.reload, edit("a", schedule="*/30 * * * *"), paused("a"), to("12:30"), {"a": ["12:30 paused"]}],
    ),
    "a job may be off besides, and leaves no rows then": (
        {"a": HOURLY},
        [pause("a"), off("a"), to("13:00"), {"a": []}, on("a"), to("14:00"), {"a": ["14:00 paused"]}],
    ),
    "a job that is removed takes its pause along": (
        {"a": HOURLY},
        [pause("a"), remove("a"), paused(), lambda world: world.add("a", **HOURLY), paused(), to("13:00"),
         {"a": ["13:00 running"]}],
    ),
    "a new pause takes the place of the one before": (
        {"a": OFTEN},
        [pause("a", 300), to("12:05"), pause("a", 900), to("12:15"), {"a": ["12:05 paused", "12:10 paused", "12:15 paused"]},
         to("12:20"), lambda world: world.told("a")[-1] == ("12:20", "paused"), to("12:25"),
         lambda world: world.told("a")[-1] == ("12:25", "running")],
    ),
    "it lasts as long as it was meant to, though the clock is set": (
        {"a": {"schedule": "*/30 * * * *"}},
        [pause("a", 3600), clock("14:00:30"), to("14:30"), paused("a"), to("15:00:30"), paused(), due("a", "15:30")],
    ),
    "from a clock years ahead it is no longer than that at the next start": (
        {"a": OFTEN},
        [
            clock("2036-03-02 12:00:30"), pause("a", 600), lambda world: setattr(world, "synchronised", True),
            restart("12:30:30"), paused("a"), to("12:40:30"), paused(), to("12:45"),
            lambda world: world.told("a")[-1] == ("12:45", "running"),
        ],
    ),
    "an @reboot job that is paused does not run": (
        {"a": {"schedule": "@reboot"}}, [pause("a"), restart("12:10"), {"a": ["12:10 paused"]}],
    ),
    "a long pause of a job that is due often leaves a hundred rows, of which the last stands for the rest": (
        {"a": {"schedule": "* * * * *"}},
        [
            pause("a"), to("15:00"),
            lambda world: len(world.rows("a")) == 100,
            lambda world: (world.row("a").slot, world.row("a").slot_last, world.row("a").slots)
            == (deciding.ms("13:40"), deciding.ms("15:00"), 81),
            resume("a"), to("15:01"), lambda world: world.told("a")[-1] == ("15:01", "running"),
        ],
    ),
    "and no slot of it is told twice or not at all when a clock that was ahead meanwhile is set back": (
        {"a": {"schedule": "* * * * *"}},
        [
            pause("a"), to("13:45"), clock("2027-03-02 13:45"), to("2027-03-02 14:00"), clock("13:50"), to("13:59"),
            rows_since("a", "13:40", ("13:40", "2027-03-02 14:00", 21), ("13:51", "13:59", 9)),
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES)
def test_history(history, tmp_path, monkeypatch):
    telling.play(HISTORIES[history], tmp_path, monkeypatch)
