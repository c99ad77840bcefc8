"""Slots that come late or not at all: what was missed (`catch_up`), put off (`jitter`), or waited too long (`start_deadline`).

Failures of other schedulers are named after the list that they come from.
"""

import deciding
import pytest
import telling
from telling import by_hand, due, edit, end, errors, launched, off, on, reload, rename, restart, to

from lnmt_scheduler.supervisor import schedule

HOURLY = {"schedule": "0 * * * *"}
ALL = {**HOURLY, "catch_up": "all"}


def past(slot, job="a"):
    """When a job with a jitter of ten minutes is due, rounded up to a second."""
    return deciding.short(deciding.ms(slot) - (-schedule.offset(job, 600, "") // 1000) * 1000)


def next_wake(text):
    def look(world):
        assert deciding.short(-(-world.runs.next_wake() // 1000) * 1000) == text

    return look


HISTORIES = {
    "latest: after a rest the newest slot runs, and stands for the others": (
        {"a": HOURLY},
        [restart("15:10"), {"a": ["13:00 coalesced", "14:00 coalesced", "15:00 running, catch_up"]}],
    ),
    "latest: what is older than the window is missed": (
        {"a": {"schedule": "0 13 * * *", "catch_up_window": "1h"}},
        [restart("14:00:01"), {"a": ["13:00 missed"]}, launched()],
    ),
    "latest: a window of a week catches up what is days old": (
        {"a": {"schedule": "0 13 * * 1", "catch_up_window": "7 days"}},
        [restart("2026-03-06 09:00"), {"a": ["13:00 running, catch_up"]}],
    ),
    "skip: nothing is caught up, and each slot says so": (
        {"a": {**HOURLY, "catch_up": "skip"}},
        [
            restart("15:10"),
            {"a": ["13:00 missed", "14:00 missed", "15:00 missed"]},
            to("16:00"),
            {"a": ["13:00 missed", "14:00 missed", "15:00 missed", "16:00 running"]},
        ],
    ),
    "skip: less than a minute late is not missed": (
        {"a": {**HOURLY, "catch_up": "skip"}},
        [restart("13:00:59"), {"a": ["13:00 running"]}],
    ),
    "all: every slot runs, one after the other, in order": (
        {"a": ALL},
        [
            restart("15:10"),
            {"a": ["13:00 running, catch_up", "14:00 pending, catch_up", "15:00 pending, catch_up"]},
            end("a"),
            {"a": ["13:00 completed, catch_up", "14:00 running, catch_up", "15:00 pending, catch_up"]},
            end("a"),
            end("a"),
            {"a": ["13:00 completed, catch_up", "14:00 completed, catch_up", "15:00 completed, catch_up"]},
        ],
    ),
    "all: a slot that comes while others wait gets in line behind them": (
        {"a": ALL},
        [
            restart("14:10"),
            to("15:00"),
            {"a": ["13:00 running, catch_up", "14:00 pending, catch_up", "15:00 pending"]},
        ],
    ),
    "all: a slot supersedes no run that waits for its next attempt, it waits for it": (
        {"a": {**ALL, "max_retries": 1, "retry_delay": 3600}},
        [
            to("13:00"),
            end("a", 1),
            to("14:00"),
            {"a": ["13:00 running", "14:00 pending"]},
            end("a"),
            {"a": ["13:00 completed", "14:00 running"]},
        ],
    ),
    "all: while one runs, and none waits, overlap decides as ever": (
        {"a": ALL},
        [to("14:00"), {"a": ["13:00 running", "14:00 overlap"]}],
    ),
    "all: who waits in line waits on after a restart": (
        {"a": ALL},
        [
            restart("15:10"),
            restart("15:11", held=[(1, 1)], same_launcher=True),
            {"a": ["13:00 running, catch_up", "14:00 pending, catch_up", "15:00 pending, catch_up"]},
            launched(),
            end("a"),
            launched("a"),
        ],
    ),
    "all: as many beside each other as the job allows": (
        {"a": {**ALL, "overlap": "allow", "max_instances": 2}},
        [
            restart("15:10"),
            {"a": ["13:00 running, catch_up", "14:00 running, catch_up", "15:00 pending, catch_up"]},
        ],
    ),
    "all: what is outside the window is missed": (
        {"a": {**ALL, "catch_up_window": "1h30m"}},
        [restart("15:10"), {"a": ["13:00 missed", "14:00 running, catch_up", "15:00 pending, catch_up"]}],
    ),
    "jitter: each start is put off by the same while": (
        {"a": {**HOURLY, "jitter": 600}},
        [
            to("13:00"),
            {"a": []},
            next_wake(past("13:00")),
            to(past("13:00")),
            {"a": ["13:00 running"]},
            end("a"),
            restart("13:59"),
            to(past("14:00")),
            {"a": ["13:00 completed", "14:00 running"]},
            due("a", "15:00"),
        ],
    ),
    "jitter: a restart in between starts it neither at once nor twice": (
        {"a": {**HOURLY, "jitter": 600}},
        [
            to("13:00"),
            restart("13:00:02"),
            {"a": []},
            to(past("13:00")),
            {"a": ["13:00 running"]},
            restart("13:59", held=[(1, 1)], same_launcher=True),
            {"a": ["13:00 running"]},
        ],
    ),
    "jitter: a slot whose job is changed in the meantime is decided as the job was, at once": (
        {"a": {**HOURLY, "jitter": 600}},
        [to("13:00:01"), edit("a", schedule="@daily"), {"a": ["13:00 running"]}],
    ),
    "jitter: nor is a slot taken for missed whose job is changed long before its while is over": (
        {"a": {"schedule": "*/2 * * * *", "jitter": 600, "overlap": "queue"}},
        [
            to("12:06:10"),
            edit("a", schedule="@daily"),
            {"a": ["12:02 running", "12:04 coalesced", "12:06 pending"]},
        ],
    ),
    "jitter: another one holds from the next slot on": (
        {"a": {**HOURLY, "jitter": 600, "start_deadline": "1s"}},
        [
            to(past("13:00")), end("a"), edit("a", jitter=0), to("14:00"),
            {"a": ["13:00 completed", "14:00 running"]}, end("a"), edit("a", jitter=600), to("15:00"), due("a", "15:00"),
            to(past("15:00")), {"a": ["13:00 completed", "14:00 completed", "15:00 running"]},
        ],
    ),
    "jitter: another name is put off by another while from the next slot on": (
        {"a": {**HOURLY, "jitter": 600, "start_deadline": "1s"}},
        [
            to(past("13:00")), end("a"), rename("a", "b"), to(past("14:00", "b")),
            {"b": ["13:00 completed", "14:00 running"]},
        ],
    ),
    "jitter: a slot whose job is switched off in the meantime does not run": (
        {"a": {**HOURLY, "jitter": 600}},
        [to("13:00:01"), off("a"), {"a": ["13:00 disabled"]}],
    ),
    "jitter: a child waits for a parent that is put off": (
        {"a": {**HOURLY, "jitter": 600}, "child": {**HOURLY, "dependencies": ["a"]}},
        [
            to("13:00"),
            {"child": ["13:00 pending"], "a": []},
            to(past("13:00")),
            end("a"),
            {"child": ["13:00 running"], "a": ["13:00 completed"]},
        ],
    ),
    "jitter: an hour of it holds also after the clock was set back by days": (
        {"a": {**HOURLY, "jitter": 600}},
        [to("12:59"), telling.clock("2026-02-20 12:59"), to("2026-02-20 13:09:59"), {"a": ["2026-02-20 13:00 running"]}],
    ),
    "start_deadline: a slot that finds no place in time is skipped, and says so": (
        {"b": {"schedule": None}, "a": {**HOURLY, "start_deadline": "5m"}},
        [
            by_hand("b"),
            to("13:04:59"),
            {"a": ["13:00 pending"]},
            to("13:05"),
            {"a": ["13:00 deadline"]},
            errors("a", "it could not start within 5m"),
            end("b"),
            launched("b"),
        ],
        {"max_concurrent_jobs": 1},
    ),
    "start_deadline: also at its gate": (
        {"p": {"schedule": "0 * * * *"}, "a": {**HOURLY, "dependencies": ["p"], "start_deadline": "5m"}},
        [to("13:05"), {"a": ["13:00 deadline"]}, end("p"), launched("p")],
    ),
    "start_deadline: also in line": (
        {"a": {**HOURLY, "overlap": "queue", "start_deadline": "5m"}},
        [to("14:05"), {"a": ["13:00 running", "14:00 deadline"]}],
    ),
    "start_deadline: a retry has started in time": (
        {"a": {**HOURLY, "start_deadline": "5m", "max_retries": 1, "retry_delay": 1800}},
        [to("13:00"), end("a", 1), to("13:30"), {"a": ["13:00 running"]}],
    ),
    "start_deadline: nothing is caught up later than that": (
        {"a": {**HOURLY, "start_deadline": "5m"}},
        [restart("13:06"), {"a": ["13:00 deadline"]}, restart("14:02"), {"a": ["13:00 deadline", "14:00 running, catch_up"]}],
    ),
    "start_deadline: it is counted on over a restart": (
        {"b": {"schedule": None}, "a": {**HOURLY, "start_deadline": "5m"}},
        [
            by_hand("b"),
            to("13:01"),
            restart("13:02", held=[(1, 1)], same_launcher=True),
            {"a": ["13:00 pending"]},
            to("13:05"),
            {"a": ["13:00 deadline"]},
        ],
        {"max_concurrent_jobs": 1},
    ),
    "start_deadline: it goes along with a clock that is set": (
        {"b": {"schedule": None}, "a": {**HOURLY, "start_deadline": "5m"}},
        [
            by_hand("b"),
            to("13:01"),
            telling.clock("13:21"),
            {"a": ["13:00 pending"]},
            to("13:25"),
            {"a": ["13:00 deadline"]},
        ],
        {"max_concurrent_jobs": 1},
    ),
    # Failures of other schedulers.
    "Cronicle 4 (#263), Dagu 2 (#1180), Dkron 5 (#256): of eight that were missed the last one runs, and all are told": (
        {"a": HOURLY},
        [
            restart("20:30"),
            {"a": [*(f"{hour}:00 coalesced" for hour in range(13, 20)), "20:00 running, catch_up"]},
        ],
    ),
    "APScheduler 3 (#292): a daemon that is busy for seconds misses nothing": (
        {"a": {**HOURLY, "catch_up": "skip"}},
        [telling.late("13:00:45"), {"a": ["13:00 running"]}],
    ),
    "systemd 3 (#16732), yacron 3 (#67): an edit of the schedule starts nothing, nor does a reload": (
        {"a": {"schedule": "0 11 * * *"}},
        [to("12:59"), edit("a", schedule="0 12 * * *"), {"a": []}, reload, {"a": []}, due("a", "2026-03-03 12:00")],
    ),
    "systemd 3 (#16732): nor does a job that is switched on again": (
        {"a": HOURLY},
        [to("12:59"), off("a"), to("15:30"), on("a"), to("15:59"), {"a": []}, to("16:00"), {"a": ["16:00 running"]}],
    ),
    "cronie 2 (#197): a day is neither left out nor run twice": (
        {"a": {"schedule": "0 0 * * *"}},
        [
            to("2026-03-03 00:00"),
            end("a"),
            telling.clock("2026-03-02 23:59"),
            to("2026-03-04 00:00"),
            {"a": ["2026-03-03 00:00 completed", "2026-03-04 00:00 running"]},
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES)
def test_history(history, tmp_path, monkeypatch):
    jobs, steps, *settings = HISTORIES[history]
    telling.play((jobs, steps), tmp_path, monkeypatch, **(settings[0] if settings else {}))


def test_more_than_a_hundred_missed_slots_are_a_hundred_runs_and_one_row(tmp_path, monkeypatch):
    world = deciding.World(tmp_path, monkeypatch, now="12:00:30")
    world.add("a", "* * * * *", catch_up="all")
    world.restart("17:00:30")
    gap, *runs = world.rows("a")
    assert (gap.reason, gap.slots, deciding.short(gap.slot_last)) == ("coalesced", 199, "15:19")
    assert [deciding.short(row.slot) for row in runs][:2] == ["15:20", "15:21"]
    assert [row.status for row in runs] == ["running", *["pending"] * 100]
    world.to("17:01")
    assert telling.says(world, "a")[-1] == "17:01 coalesced"
    assert world.row("a").error == "100 slots before it wait already"
    world.close()
