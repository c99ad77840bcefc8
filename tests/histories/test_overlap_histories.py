"""Slots that come while their job has runs that have not ended: what `overlap` makes of them, and of those runs.

What people suffered from elsewhere is named after the list of failures that it comes from.
"""

import deciding
import pytest
import telling
from telling import by_hand, cancel, end, ended_with, errors, launched, off, on, remove, restart, runs_of, to

OFTEN = {"schedule": "*/5 * * * *"}
SKIP = {**OFTEN, "overlap": "skip"}
QUEUE = {**OFTEN, "overlap": "queue"}
REPLACE = {**OFTEN, "overlap": "replace"}
TWO = {**OFTEN, "overlap": "allow", "max_instances": 2}
RETRIES = {"max_retries": 2, "retry_delay": 600}

HISTORIES = {
    "skip: a slot that comes while a run has not ended goes by, and its row names the run": (
        {"a": SKIP},
        [
            to("12:15"),
            {"a": ["12:05 running", "12:10 overlap", "12:15 overlap"]},
            errors("a", None, "run 1 has not ended", "run 1 has not ended"),
            end("a"),
            to("12:20"),
            {"a": ["12:05 completed", "12:10 overlap", "12:15 overlap", "12:20 running"]},
        ],
    ),
    "skip: also if it has not started": (
        {"b": {"schedule": None}, "a": SKIP},
        [by_hand("b"), to("12:10"), {"a": ["12:05 pending", "12:10 overlap"]}],
        {"max_concurrent_jobs": 1},
    ),
    "queue: a slot waits for the run before it, and starts when that has ended": (
        {"a": QUEUE},
        [
            to("12:12"),
            {"a": ["12:05 running", "12:10 pending"]},
            runs_of("a", 1),
            end("a"),
            {"a": ["12:05 completed", "12:10 running"]},
            end("a"),
            to("12:15"),
            {"a": ["12:05 completed", "12:10 completed", "12:15 running"]},
        ],
    ),
    "queue: of several that wait the newest stands for the others": (
        {"a": QUEUE},
        [
            to("12:21"),
            {"a": ["12:05 running", "12:10 coalesced", "12:15 coalesced", "12:20 pending"]},
            errors(
                "a",
                None,
                "the 12:15 slot came while it waited in line, and stands for it",
                "the 12:20 slot came while it waited in line, and stands for it",
                None,
            ),
            end("a"),
            {"a": ["12:05 completed", "12:10 coalesced", "12:15 coalesced", "12:20 running"]},
            runs_of("a", 2),
        ],
    ),
    "queue: what waits in line outlives the supervisor, and waits on": (
        {"a": QUEUE},
        [
            to("12:11"),
            restart("12:12", held=[(1, 1)], same_launcher=True),
            {"a": ["12:05 running", "12:10 pending"]},
            runs_of("a", 0),
            end("a"),
            {"a": ["12:05 completed", "12:10 running"]},
        ],
    ),
    "queue: it starts at once after a launcher that took the run before it along": (
        {"a": QUEUE},
        [to("12:11"), restart("12:12"), {"a": ["12:05 lost", "12:10 running"]}],
    ),
    "queue: who waited in line comes to its gate also after a launcher that took the run before it along": (
        {"a": {**QUEUE, "dependencies": ["a"]}},
        [to("12:11"), restart("12:12"), {"a": ["12:05 lost", "12:10 dependency"]}],
    ),
    "queue: what waits in line is cancelled, and what runs is not": (
        {"a": QUEUE},
        [to("12:11"), cancel("a", "12:10"), {"a": ["12:05 running", "12:10 cancelled"]}],
    ),
    "queue: a job that is switched off ends what waits in line": (
        {"a": QUEUE},
        [
            to("12:11"),
            off("a"),
            {"a": ["12:05 running", "12:10 disabled"]},
            end("a"),
            on("a"),
            to("12:15"),
            {"a": ["12:05 completed", "12:10 disabled", "12:15 running"]},
        ],
    ),
    "queue: a job that is removed ends what waits in line, and what runs ends by itself": (
        {"a": QUEUE},
        [
            to("12:11"),
            remove("a"),
            {"a": ["12:05 running", "12:10 removed"]},
            end("a"),
            {"a": ["12:05 completed", "12:10 removed"]},
        ],
    ),
    "queue: a slot whose gate is shut does not wait": (
        {"parent": {"schedule": "1-59/5 * * * *"}, "a": {**QUEUE, "dependencies": ["parent"]}},
        [
            to("12:01"),
            end("parent"),
            to("12:06"),
            end("parent", 1),
            to("12:10"),
            {"a": ["12:05 running", "12:10 dependency"]},
        ],
    ),
    "queue: a slot comes to its gate when it comes to its turn": (
        {"parent": {"schedule": "10 12 * * *"}, "a": {**QUEUE, "dependencies": ["parent"], "dependency_timeout": 600}},
        [
            by_hand("a"),
            to("12:10"),
            {"a": ["- running", "12:05 coalesced", "12:10 pending"]},
            end("a"),
            {"a": ["- completed", "12:05 coalesced", "12:10 pending"], "parent": ["12:10 running"]},
            end("parent"),
            {"a": ["- completed", "12:05 coalesced", "12:10 running"]},
        ],
    ),
    "replace: the run is ended, and the slot starts when nothing of it is left": (
        {"a": REPLACE},
        [
            to("12:10"),
            {"a": ["12:05 running", "12:10 pending"]},
            ended_with((1, "replaced")),
            runs_of("a", 1),
            end("a", None, cause="replaced", signal=15),
            {"a": ["12:05 replaced", "12:10 running"]},
            runs_of("a", 2),
        ],
    ),
    "replace: a run that ends by itself before its TERM has come has ended so": (
        {"a": {**REPLACE, **RETRIES}},
        [
            to("12:10"),
            end("a", 3),
            {"a": ["12:05 exit", "12:10 running"]},
        ],
    ),
    "replace: what had not started yet is replaced at once": (
        {"b": {"schedule": None}, "a": REPLACE},
        [
            by_hand("b"),
            to("12:10"),
            {"a": ["12:05 replaced", "12:10 pending"]},
            errors("a", "the 12:10 slot came before it had started", None),
            end("b"),
            {"a": ["12:05 replaced", "12:10 running"]},
        ],
        {"max_concurrent_jobs": 1},
    ),
    "replace: one that takes its grace is followed by the newest slot alone": (
        {"a": {**REPLACE, "kill_grace": "8m"}},
        [
            to("12:16"),
            {"a": ["12:05 running", "12:10 replaced", "12:15 pending"]},
            end("a", None, cause="replaced", signal=9),
            {"a": ["12:05 replaced", "12:10 replaced", "12:15 running"]},
        ],
    ),
    "allow: so many run beside each other as the job says": (
        {"a": TWO},
        [
            to("12:15"),
            {"a": ["12:05 running", "12:10 running", "12:15 overlap"]},
            errors("a", None, None, "runs 1, 2 have not ended"),
        ],
    ),
    "a run that waits for its next attempt gives way to the next slot": (
        {"a": {**SKIP, **RETRIES}},
        [
            to("12:05"),
            end("a", 3),
            {"a": ["12:05 retrying"]},
            to("12:10"),
            {"a": ["12:05 superseded", "12:10 running"]},
            errors("a", "the 12:10 slot came while it waited for attempt 2 of 3", None),
            to("12:15"),
            launched("a", "a"),
        ],
    ),
    "a slot whose gate is shut supersedes nothing": (
        {"parent": {"schedule": "*/10 * * * *"}, "a": {**SKIP, **RETRIES, "dependencies": ["parent"]}},
        [
            by_hand("a", with_retries=True),
            end("a", 1),
            {"a": ["- retrying"]},
            to("12:05"),
            {"a": ["- superseded", "12:05 pending"]},
        ],
    ),
    "a retry that is due at the very moment of the slot gives way, too": (
        {"a": {**SKIP, "max_retries": 2, "retry_delay": 300}},
        [
            to("12:05"),
            end("a", 3),
            to("12:10"),
            {"a": ["12:05 superseded", "12:10 running"]},
            launched("a", "a"),
        ],
    ),
    "a retry that runs is no wait: overlap decides": (
        {"a": {**SKIP, "max_retries": 2, "retry_delay": 60}},
        [to("12:05"), end("a", 3), to("12:06"), to("12:10"), {"a": ["12:05 running", "12:10 overlap"]}],
    ),
    "a retry that outlived the supervisor gives way to the next slot": (
        {"a": {**SKIP, **RETRIES}},
        [to("12:05"), end("a", 3), restart("12:06"), to("12:10"), {"a": ["12:05 superseded", "12:10 running"]}],
    ),
    "a run that was superseded has failed, so that a job that always fails is heard": (
        {"a": {**SKIP, **RETRIES}},
        [
            to("12:05"),
            end("a", 3),
            to("12:10"),
            end("a", 3),
            to("12:15"),
            {"a": ["12:05 superseded", "12:10 superseded", "12:15 running"]},
            lambda world: world.store.job(world.uid("a")).failing_since == deciding.ms("12:10"),
        ],
    ),
    # Failures of other schedulers.
    "Dkron 1 (#349), Dagu 1 (#1103): a run that was lost with its launcher blocks no later one": (
        {"a": SKIP},
        [to("12:05"), restart("12:09"), {"a": ["12:05 lost"]}, to("12:10"), {"a": ["12:05 lost", "12:10 running"]}],
    ),
    "Dkron 2 (#1569): no two at a time, also over a restart": (
        {"a": SKIP},
        [
            to("12:05"),
            restart("12:10:30", held=[(1, 1)], same_launcher=True),
            {"a": ["12:05 running", "12:10 overlap"]},
        ],
    ),
    "APScheduler 2 (#423): one that hangs is ended by the next slot, where the job says so": (
        {"a": REPLACE},
        [
            to("12:10"),
            end("a", None, cause="replaced", signal=9),
            to("12:15"),
            end("a", None, cause="replaced", signal=9),
            {"a": ["12:05 replaced", "12:10 replaced", "12:15 running"]},
        ],
    ),
    "supercronic 1 (#88): what cannot be killed holds its own job, and nothing else": (
        {"a": QUEUE, "b": OFTEN},
        [
            to("12:05"),
            end("b"),
            to("12:10"),
            {"a": ["12:05 running", "12:10 pending"], "b": ["12:05 completed", "12:10 running"]},
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("history", HISTORIES)
def test_history(history, tmp_path, monkeypatch):
    jobs, steps, *settings = HISTORIES[history]
    telling.play((jobs, steps), tmp_path, monkeypatch, **(settings[0] if settings else {}))
