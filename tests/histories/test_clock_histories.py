"""What a clock that is set, wrong or asleep makes of slots and waits: tables of what happens, and what is told of it then.

The real store, registry, dispatcher and timekeeper; time is told, and the kernel's word that the clock was set is spoken by
set_clock. How to read a history says telling.py.
"""

import deciding
import pytest
import telling
from telling import by_hand, clock, due, end, late, reload, restart, runs_of, to

HOURLY = {"schedule": "0 * * * *"}
OFTEN = {"schedule": "*/5 * * * *"}


def synchronise(world):
    """NTP takes charge, and somebody looks."""
    world.synchronised = True
    world.time._doubt_again()
    world.settle()


def held(is_held):
    def look(world):
        assert world.runs.slots.held == is_held
        assert (world.time.doubt is not None) == is_held

    return look


def waits_until(text):
    """What waits next in the daemon: a retry, or the end of a wait at a gate."""

    def look(world):
        (each,) = world.store.open_runs()
        assert deciding.short(each.retry_at or each.gate_until) == text
        assert world.runs.next_wake() == min(deciding.ms(text), world.runs.slots.next_fire()[0])

    return look


RAN = [to("13:00"), end("a"), {"a": ["13:00 completed"]}]

HISTORIES = {
    "K1 a slew is nothing": (
        {"a": HOURLY},
        [to("12:59"), clock("12:59:00.400"), to("13:00"), {"a": ["13:00 running"]}],
    ),
    "K2 forward by less than three hours has missed slots, of which the newest runs once and late": (
        {"a": HOURLY, "fixed": {"schedule": "10 13 * * *"}, "often": OFTEN},
        [
            to("12:59"),
            clock("13:59:59"),
            {"fixed": ["13:10 running, catch_up"], "a": ["13:00 running, catch_up"]},
            runs_of("often", 1),
            to("14:00"),
            {"a": ["13:00 running, catch_up", "14:00 overlap"]},
        ],
    ),
    "K2 just three hours is still missed": (
        {"a": {"schedule": "0 14 * * *"}},
        [to("12:30"), clock("15:30"), {"a": ["14:00 running, catch_up"]}],
    ),
    "K3 forward by more was a wrong clock: nothing was missed, and nothing runs at once": (
        {"a": HOURLY, "fixed": {"schedule": "10 13 * * *"}, "often": OFTEN},
        [
            to("12:31"),
            {"often": ["12:05 running", *(f"12:{minute} overlap" for minute in ("10", "15", "20", "25", "30"))]},
            end("often"),
            clock("2029-03-02 12:31"),
            {"a": [], "fixed": []},
            runs_of("often", 1),
            due("a", "2029-03-02 13:00"),
            to("2029-03-02 13:00"),
            {"a": ["2029-03-02 13:00 running"]},
        ],
    ),
    "K4 back by less than three hours repeats nothing": (
        {"a": HOURLY},
        [
            *RAN,
            clock("12:30"),
            to("13:30"),
            {"a": ["13:00 completed"]},
            to("14:00"),
            {"a": ["13:00 completed", "14:00 running"]},
        ],
    ),
    "K4 back by less than three hours, twice, also over a restart": (
        {"a": HOURLY},
        [*RAN, clock("12:30"), clock("11:00"), restart("12:50"), to("13:40"), {"a": ["13:00 completed"]}, held(False)],
    ),
    "K5 back by more than three hours is decided anew, and what has its row is not repeated": (
        {"a": HOURLY},
        [
            *RAN,
            to("14:00"),
            end("a"),
            clock("09:30"),
            due("a", "10:00"),
            to("10:00"),
            end("a"),
            clock("12:30"),
            to("14:30"),
            {"a": ["13:00 completed", "14:00 completed", "10:00 completed", "11:00 coalesced", "12:00 running, catch_up"]},
        ],
    ),
    "K5 a clock that was years ahead leaves no job asleep": (
        {"a": HOURLY, "often": OFTEN},
        [
            clock("2036-03-02 12:58"),
            to("2036-03-02 13:00"),
            end("a"),
            end("often"),
            clock("12:01"),
            due("a", "13:00"),
            due("often", "12:05"),
            to("13:00"),
            {"a": ["2036-03-02 13:00 completed", "13:00 running"]},
            held(False),
        ],
    ),
    "K5 nor one that is disabled while the clock is ahead": (
        {"a": HOURLY},
        [
            clock("2036-03-02 12:58"),
            to("2036-03-02 13:00"),
            end("a"),
            lambda world: world.registry.enable("a", deciding.WHO, on=False),
            clock("12:30"),
            lambda world: world.registry.enable("a", deciding.WHO, on=True),
            to("13:00"),
            {"a": ["2036-03-02 13:00 completed", "13:00 running"]},
        ],
    ),
    "K5 known as right by NTP at the next start": (
        {"a": HOURLY},
        [
            clock("2036-03-02 12:58"),
            to("2036-03-02 13:00"),
            end("a"),
            lambda world: setattr(world, "synchronised", True),
            restart("12:40"),
            held(False),
            to("13:00"),
            {"a": ["2036-03-02 13:00 completed", "13:00 running"]},
        ],
    ),
    "K6 a boot in 1970 holds the schedule, not runs by hand, until the clock is set": (
        {"a": HOURLY, "hand": {"schedule": None}},
        [
            to("12:30"),
            restart("1970-01-01 00:00:20"),
            held(True),
            to("1970-01-01 03:00"),
            {"a": []},
            by_hand("hand"),
            {"hand": ["- running"]},
            reload,
            held(True),
            clock("14:10"),
            held(False),
            {"a": ["13:00 coalesced", "14:00 running, catch_up"]},
        ],
    ),
    "K6 a first start in 1970 is held too": (
        {"a": HOURLY},
        [clock("1970-01-01 00:00:20"), held(True), to("1970-01-01 02:00"), {"a": []}, due("a", "13:00")],
    ),
    "K6 a boot hours before the last time that the store has seen is held until the clock gets there": (
        {"a": HOURLY},
        [*RAN, restart("09:30"), held(True), to("09:59"), {"a": ["13:00 completed"]}, late("10:05"), held(False)],
    ),
    "K6 what came while it was doubted by weeks was missed, also by who was decided ahead": (
        {"a": HOURLY},
        [
            *RAN,
            restart("2026-02-01 12:30"),
            held(True),
            to("2026-02-01 13:30"),
            restart("2026-02-01 13:40", crash=True),
            {"a": ["13:00 completed"]},
            to("2026-02-01 14:30"),
            reload,
            held(False),
            {"a": ["13:00 completed", "2026-02-01 13:00 coalesced", "2026-02-01 14:00 running, catch_up"]},
        ],
    ),
    "K6 also if somebody sets the clock": (
        {"a": HOURLY},
        [
            *RAN,
            restart("2026-02-01 12:30"),
            to("2026-02-01 13:30"),
            clock("2026-02-05 11:50"),
            {"a": ["13:00 completed", "2026-02-05 11:00 running, catch_up"]},
        ],
    ),
    "K6 three hours are not enough for doubt": ({"a": HOURLY}, [*RAN, restart("10:01"), held(False)]),
    "K6 nor is a clock doubted that NTP keeps right": (
        {"a": HOURLY},
        [*RAN, restart("06:30"), held(True), synchronise, held(False), to("07:00"),
         {"a": ["13:00 completed", "07:00 running"]}],
    ),
    "K6 a person's word is believed": (
        {"a": HOURLY},
        [*RAN, restart("06:30"), reload, held(False), restart("06:40"), held(False), due("a", "07:00")],
    ),
    "K6 a clock that is set to what can be is believed": (
        {"a": HOURLY},
        [*RAN, restart("06:30"), held(True), clock("07:30"), held(False), restart("07:40"), held(False), due("a", "08:00")],
    ),
    "K7 after a night of suspend the newest slot runs once": (
        {"a": HOURLY, "often": OFTEN},
        [
            to("12:03"),
            late("20:02"),
            {"a": [*(f"{hour}:00 coalesced" for hour in range(13, 20)), "20:00 running, catch_up"]},
            runs_of("often", 1),
        ],
    ),
    "K15 a leap second repeats no slot": (
        {"a": {"schedule": "59,0 * * * * *"}},
        [
            to("12:59:59"),
            end("a"),
            clock("12:59:58"),
            to("12:59:59"),
            to("13:00:00"),
            end("a"),
            clock("12:59:59"),
            to("13:00:00"),
        ],
    ),
    "a retry waits as long as it was meant to, though the clock is set back": (
        {"a": {**HOURLY, "max_retries": 1, "retry_delay": 600}},
        [
            to("13:00"),
            end("a", 1),
            clock("11:00"),
            waits_until("11:10"),
            to("11:09:59"),
            {"a": ["13:00 retrying"]},
            to("11:10"),
            {"a": ["13:00 running"]},
        ],
    ),
    "a retry waits as long as it was meant to, though the clock is set forward": (
        {"a": {**HOURLY, "max_retries": 1, "retry_delay": 600}},
        [
            to("13:00"),
            end("a", 1),
            clock("2026-04-02 13:00"),
            waits_until("2026-04-02 13:10"),
            to("2026-04-02 13:09:59"),
            {"a": ["13:00 retrying"]},
            to("2026-04-02 13:10"),
            {"a": ["13:00 running"]},
        ],
    ),
    "a retry that was decided by a clock years ahead is due after its delay at the next start": (
        {"a": {**HOURLY, "max_retries": 1, "retry_delay": 600}},
        [
            clock("2036-03-02 12:59"),
            to("2036-03-02 13:00"),
            end("a", 1),
            lambda world: setattr(world, "synchronised", True),
            restart("12:40"),
            to("12:49:59"),
            {"a": ["2036-03-02 13:00 retrying"]},
            to("12:50"),
            {"a": ["2036-03-02 13:00 running"]},
        ],
    ),
    "a wait at a gate with a time of its own is as long as that": (
        {"parent": {"schedule": None}, "a": {**HOURLY, "dependencies": ["parent"], "dependency_timeout": 600}},
        [
            to("13:00"),
            clock("11:00"),
            waits_until("11:10"),
            to("11:09:59"),
            {"a": ["13:00 pending"]},
            to("11:10"),
            {"a": ["13:00 dependency"]},
        ],
    ),
    "a wait at a gate that the next slot ends still ends with it": (
        {"parent": {"schedule": None}, "a": {**HOURLY, "dependencies": ["parent"]}},
        [to("13:00"), clock("13:30"), waits_until("14:00"), to("14:00"), {"a": ["13:00 dependency", "14:00 pending"]}],
    ),
    "a wait at a gate from a clock years ahead is no longer than a day at the next start": (
        {"parent": {"schedule": None}, "a": {"schedule": "0 13 1 * *", "dependencies": ["parent"]}},
        [
            clock("2036-03-01 12:59"),
            to("2036-03-01 13:00"),
            lambda world: setattr(world, "synchronised", True),
            restart("12:40"),
            to("2026-03-03 12:40"),
            {"a": ["2036-03-01 13:00 dependency"]},
        ],
    ),
    "total time is not used up by a clock that is set": (
        {"a": {"schedule": "0 13 * * *", "max_retries": 3, "retry_delay": 60, "total_timeout": 300}},
        [to("13:00"), end("a", 1), clock("15:00"), to("15:01"), {"a": ["13:00 running"]}],
    ),
}  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES)
def test_history(history, tmp_path, monkeypatch):
    telling.play(HISTORIES[history], tmp_path, monkeypatch)
