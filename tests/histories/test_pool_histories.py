"""Who gets a place: pools, priorities, what was caught up; and definitions that change meanwhile."""

import deciding
import pytest
import telling
from telling import by_hand, edit, end, launched, off, remove, restart, runs_of, to

from lnmt_scheduler.supervisor import config, definitions, planning
from lnmt_scheduler.supervisor.connection import RefusedError

NOON = {"schedule": "5 12 * * *"}
DISK = {**NOON, "pool": "disk"}
POOLS = {"pools": {"disk": 1, "net": 2}}

HISTORIES = {
    "a pool has as many runs as it has places, and a full one holds up nobody else": (
        {"a": {**DISK, "priority": 4}, "b": DISK, "c": {**NOON, "priority": 1}, "d": {**NOON, "pool": "net"}},
        [to("12:05"), launched("a", "d", "c"), {"b": ["12:05 pending"]}, end("a"), launched("a", "d", "c", "b")],
        POOLS,
    ),
    "of a pool the most urgent goes first": (
        {"a": DISK, "b": {**DISK, "priority": 1}, "c": {**DISK, "priority": 3}},
        [to("12:05"), launched("c"), end("c"), end("a"), launched("c", "a", "b")],
        POOLS,
    ),
    "a run by hand takes its place in the pool, too": (
        {"a": DISK, "b": {**DISK, "schedule": None}},
        [by_hand("b"), to("12:05"), launched("b"), end("b"), launched("b", "a")],
        POOLS,
    ),
    "a pool is as full as it was after a restart": (
        {"a": {**DISK, "priority": 4}, "b": DISK},
        [
            to("12:05"),
            restart("12:06", held=[(1, 1)], same_launcher=True),
            launched(),
            end("a"),
            launched("b"),
        ],
        POOLS,
    ),
    "a run that waits for its next attempt has no place": (
        {"a": {**DISK, "priority": 4, "max_retries": 1, "retry_delay": 600}, "b": DISK},
        [to("12:05"), end("a", 1), launched("a", "b"), to("12:15"), launched("a", "b"), end("b"), launched("a", "b", "a")],
        POOLS,
    ),
    "what was caught up starts five a second, and holds up nothing that is on time": (
        {**{f"job-{n:02}": NOON for n in range(12)}, "now": {"schedule": "10 12 * * *", "priority": 1}},
        [
            restart("12:10"),
            lambda world: len(world.launched()) == 6 and "now" in world.launched(),
            to("12:10:01"),
            lambda world: len(world.launched()) == 11,
            to("12:10:02"),
            lambda world: len(world.launched()) == 13,
        ],
        {"max_concurrent_jobs": 50},
    ),
    "cron (systemd 5, #5659): a thousand that were missed do not come all at once": (
        {f"job-{n}": NOON for n in range(60)},
        [restart("12:10"), runs_of("job-0", 1), lambda world: len(world.launched()) == 5],
        {"max_concurrent_jobs": 50},
    ),
    # Definitions that change while something runs or waits.
    "a run keeps the pool, the priority and the command that it was decided with": (
        {"b": {**DISK, "priority": 4}, "a": {**DISK, "command": "old"}},
        [
            to("12:05"),
            edit("a", command="new", pool="net", priority=4),
            launched("b"),
            end("b"),
            lambda world: world.attempts.orders[-1].job.command == "old",
            end("a"),
            by_hand("a"),
            lambda world: world.attempts.orders[-1].job.command == "new",
        ],
        POOLS,
    ),
    "Tron 4 (#40): an edit of a job that runs leaves its run alone, and its next slot is as it is now": (
        {"a": {"schedule": "*/5 * * * *", "command": "old"}},
        [
            to("12:05"),
            edit("a", command="new", timeout=5),
            {"a": ["12:05 running"]},
            end("a"),
            to("12:10"),
            lambda world: [order.job.command for order in world.attempts.orders] == ["old", "new"],
        ],
    ),
    "its retries are those that it was decided with": (
        {"a": {**NOON, "max_retries": 1, "retry_delay": 60}},
        [to("12:05"), edit("a", max_retries=0, retry_delay=0), end("a", 1), to("12:06"), runs_of("a", 2)],
    ),
    "xyOps 5 (#34): a job that is switched off or removed while it waits for a place never starts": (
        {"b": {**DISK, "priority": 4}, "a": DISK, "c": DISK},
        [
            to("12:05"),
            off("a"),
            remove("c"),
            end("b"),
            {"a": ["12:05 disabled"], "c": ["12:05 removed"]},
            launched("b"),
        ],
        POOLS,
    ),
    "a job of the same name that is added after the removal is another one": (
        {"b": {**DISK, "priority": 4}, "a": DISK},
        [
            to("12:05"),
            remove("a"),
            lambda world: world.add("a", "6 12 * * *", pool="disk"),
            {"a": []},
            end("b"),
            to("12:06"),
            {"a": ["12:06 running"]},
        ],
        POOLS,
    ),
}  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES)
def test_history(history, tmp_path, monkeypatch):
    jobs, steps, *settings = HISTORIES[history]
    telling.play((jobs, steps), tmp_path, monkeypatch, **(settings[0] if settings else {}))


@pytest.fixture
def world(tmp_path, monkeypatch):
    made = deciding.World(tmp_path, monkeypatch, **POOLS)
    yield made
    made.close()


def test_a_pool_that_is_not_there_is_an_error_that_names_those_that_are(world):
    with pytest.raises(RefusedError) as refused:
        world.add("a", pool="dsk")
    assert "unknown pool 'dsk'; there are disk, net in [pools] of config.toml; did you mean 'disk'?" in str(
        refused.value
    )


def test_a_configuration_without_the_pool_of_a_job_is_not_taken(world):
    world.add("a", pool="disk")
    document = planning.Document("F", definitions.CLI, {"jobs": []})
    work = world.planner.plan([document], owned=lambda _: False, prune=False, settings=config.Settings())
    with pytest.raises(RefusedError) as refused:
        for _ in work:
            pass
    assert "job 'a': key 'pool': unknown pool 'disk'; there is none" in str(refused.value)


def test_a_daemon_that_starts_without_the_pool_runs_one_job_of_it_at_a_time(world):
    for job_id in ("a", "b"):
        world.add(job_id, None, pool="net")
    world.settings = config.Settings()
    world.restart()
    world.start("a")
    world.start("b")
    assert world.launched() == ["a"]
