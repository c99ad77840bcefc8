"""Runs that no schedule asks for: of events, of the ends of other runs (hooks), and of jobs that come after others.

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
    event_of,
    failing,
    launched,
    off,
    on,
    parents_of,
    pause,
    refused,
    remove,
    rename,
    restart,
    resume,
    runs_of,
    to,
    trigger,
)  # fmt: skip

from lnmt_scheduler.supervisor import attempts, run

HAND = {"schedule": None}
HOURLY = {"schedule": "0 * * * *"}
EVENT = {**HAND, "on_event": "up"}
OFTEN = {"schedule": "*/2 * * * *"}
ALWAYS_FAILS = {**OFTEN, "max_retries": 3, "retry_delay": 300, "on_failure": ["tell"]}


def after(*parents, **keys):
    return {**HAND, "dependencies": list(parents), **keys}


def fails(times):
    """Its first attempt at each of so many slots; the next slot supersedes the retry."""

    def do(world):
        for number in range(times):
            world.to(f"12:{2 + 2 * number:02}")
            world.end("a", 3)
        world.to(f"12:{2 + 2 * times:02}")

    return do


def dies_before_its_commit(world):
    """The supervisor, in the turn in which the attempt of `a` has ended."""
    world.store.commit()
    facts = attempts.Facts(exit_code=1)
    world.runs.on_attempt_ended(1, 1, run.Outcome(exit_code=1), facts)
    assert telling.says(world, "tell") == ["hook pending"]
    world.restart("13:01", held=[(1, 1)], same_launcher=True, crash=True)


EVENTS = {
    "an event starts the jobs that name it, each with its data": (
        {"a": EVENT, "b": EVENT, "c": {**HAND, "on_event": "down"}},
        [trigger("up", {"link": 3}), {"a": ["event running"], "b": ["event running"], "c": []},
         event_of("a", link=3), event_of("b", link=3)],
    ),
    "a job may have a schedule besides": (
        {"a": {**HOURLY, "on_event": "up"}},
        [trigger("up"), end("a"), to("13:00"), {"a": ["event completed", "13:00 running"]}],
    ),
    "it is retried as the job says": (
        {"a": {**EVENT, "max_retries": 1, "retry_delay": 60}},
        [trigger("up"), end("a", 1), {"a": ["event retrying"]}, to("12:02"), {"a": ["event running"]}],
    ),
    "skip: one that comes while a run has not ended has a row, and nothing else": (
        {"a": EVENT},
        [trigger("up", {"n": 1}), trigger("up", {"n": 2}), {"a": ["event running", "event overlap"]},
         errors("a", None, "run 1 has not ended"), event_of("a", n=2)],
    ),
    "queue: of those that come meanwhile the newest waits, and stands for the others": (
        {"a": {**EVENT, "overlap": "queue"}},
        [
            *(trigger("up", {"n": n}) for n in (1, 2, 3)),
            {"a": ["event running", "event coalesced", "event pending"]},
            end("a"),
            {"a": ["event completed", "event coalesced", "event running"]},
            event_of("a", n=3),
        ],
    ),
    "replace: the newest ends what runs": (
        {"a": {**EVENT, "overlap": "replace"}},
        [
            trigger("up", {"n": 1}), trigger("up", {"n": 2}), end("a", None, cause="replaced", signal=15),
            {"a": ["event replaced", "event running"]}, event_of("a", n=2),
        ],
    ),
    "allow: as many run as may": (
        {"a": {**EVENT, "overlap": "allow", "max_instances": 2}},
        [*(trigger("up", {"n": n}) for n in (1, 2, 3)), {"a": ["event running", "event running", "event overlap"]}],
    ),
    "what waits in line outlives the supervisor, with its data": (
        {"a": {**EVENT, "overlap": "queue"}},
        [
            trigger("up", {"n": 1}), trigger("up", {"n": 2}),
            restart("12:10", held=[(1, 1)], same_launcher=True),
            {"a": ["event running", "event pending"]}, end("a"), event_of("a", n=2), runs_of("a", 1),
        ],
    ),
    "a job that is off, paused or in quarantine is told so, and leaves a row": (
        {"a": EVENT, "b": EVENT},
        [off("a"), pause("b", reason="moving"), trigger("up"), {"a": ["event disabled"], "b": ["event paused"]},
         errors("b", "it was paused by root at 2026-03-02T12:00:30.000Z: moving"), launched()],
    ),
    "an event that no job names starts nothing": (
        {"a": EVENT}, [refused(trigger("left"), "no job has on_event 'left'"), {"a": []}],
    ),
    "removed while queued": (
        {"a": {**EVENT, "overlap": "queue"}},
        [trigger("up"), trigger("up"), remove("a"), {"a": ["event running", "event removed"]}],
    ),
}  # fmt: skip

HOOKS = {
    "on_success: once for each run that completes, with its facts": (
        {"a": {**HOURLY, "on_success": ["report"]}, "report": HAND},
        [
            to("13:00"), end("a"), {"report": ["hook running"]},
            event_of("report", hook="on_success", job_id="a", run_id=1, status="completed", reason=None, exit_code=0,
                     slot="2026-03-02T13:00:00.000Z", trigger="schedule", failures=0, failing_since=None),
            end("report"), to("14:00"), end("a"), {"report": ["hook completed", "hook running"]},
        ],
    ),
    "a warning is a success": (
        {"a": {**HOURLY, "warning_codes": [4], "on_success": ["report"], "on_failure": ["tell"]}, "report": HAND,
         "tell": HAND},
        [to("13:00"), end("a", 4), {"report": ["hook running"], "tell": []}, event_of("report", reason="warning")],
    ),
    "on_failure: only after the last attempt": (
        {"a": {**HOURLY, "max_retries": 1, "retry_delay": 60, "on_failure": ["tell"]}, "tell": HAND},
        [
            to("13:00"), end("a", 3), {"tell": []}, to("13:01"), end("a", 3), {"tell": ["hook running"]},
            event_of("tell", hook="on_failure", exit_code=3, retry_count=1, failures=1,
                     failing_since="2026-03-02T13:01:00.000Z"),
        ],
    ),
    "a run by hand has hooks, too": (
        {"a": {**HAND, "on_failure": ["tell"]}, "tell": HAND},
        [by_hand("a"), end("a", 1), {"tell": ["hook running"]}, event_of("tell", trigger="manual", slot=None)],
    ),
    "on_change: when it begins to fail, and when it no longer does": (
        {"a": {**HOURLY, "on_change": ["tell"]}, "tell": HAND},
        [
            to("13:00"), end("a"), {"tell": []},
            to("14:00"), end("a", 1), {"tell": ["hook running"]}, end("tell"),
            to("15:00"), end("a", 1), {"tell": ["hook completed"]},
            to("16:00"), end("a"), {"tell": ["hook completed", "hook running"]}, event_of("tell", status="completed"),
        ],
    ),
    "a job that two of its hooks name is started once": (
        {"a": {**HOURLY, "on_failure": ["tell"], "on_change": ["tell"]}, "tell": HAND},
        [to("13:00"), end("a", 1), {"tell": ["hook running"]}, event_of("tell", hook="on_failure")],
    ),
    "cancelled, skipped and overlapping slots have none": (
        {"a": {**HOURLY, "on_failure": ["tell"], "on_success": ["tell"], "on_change": ["tell"]}, "tell": HAND},
        [to("14:00"), cancel("a", "13:00"), end("a", None, cause="cancelled", signal=15),
         {"a": ["13:00 cancelled", "14:00 overlap"], "tell": []}],
    ),
    "alert_after: after so many runs in a row": (
        {"a": {**HOURLY, "on_failure": ["tell"], "alert_after": 3}, "tell": HAND},
        [
            to("13:00"), end("a", 1), to("14:00"), end("a", 1), to("15:00"), end("a"), failing("a", 0, None),
            to("16:00"), end("a", 1), to("17:00"), end("a", 1), {"tell": []}, failing("a", 2, "16:00"),
            to("18:00"), end("a", 1), {"tell": ["hook running"]}, event_of("tell", failures=3), end("tell"),
            to("19:00"), end("a", 1), {"tell": ["hook completed", "hook running"]},
        ],
    ),
    "alert_after: after so long": (
        {"a": {**HOURLY, "on_failure": ["tell"], "alert_after": "2h"}, "tell": HAND},
        [
            to("13:00"), end("a", 1), to("14:00"), end("a", 1), {"tell": []}, to("15:00"), end("a", 1),
            {"tell": ["hook running"]}, event_of("tell", failing_since="2026-03-02T13:00:00.000Z"),
        ],
    ),
    "a job that always fails is heard, though each of its retries is superseded": (
        {"a": ALWAYS_FAILS, "tell": HAND},
        [
            fails(1), {"a": ["12:02 superseded", "12:04 running"], "tell": ["hook running"]}, failing("a", 1, "12:04"),
            event_of("tell", hook="on_failure", reason="superseded", status="failed"),
        ],
    ),
    "also if only a streak of failures is to be heard": (
        {"a": {**ALWAYS_FAILS, "alert_after": 3}, "tell": HAND},
        [fails(2), {"tell": []}, failing("a", 2, "12:04"), to("12:06:01"), end("a", 3), to("12:08"),
         {"tell": ["hook running"]}, failing("a", 3, "12:04")],
    ),
    "what is started while its job is at work waits in line, and none is lost": (
        {"a": {**OFTEN, "on_success": ["report"]}, "report": HAND},
        [
            to("12:02"), end("a"), to("12:04"), end("a"), to("12:06"), end("a"),
            {"report": ["hook running", "hook pending", "hook pending"]},
            end("report"), end("report"), event_of("report", run_id=5), end("report"),
            {"report": ["hook completed"] * 3}, runs_of("report", 3),
        ],
    ),
    "what waits in line outlives the supervisor, in its order": (
        {"a": {**OFTEN, "on_success": ["report"]}, "report": HAND},
        [
            to("12:02"), end("a"), to("12:04"), end("a"),
            restart("12:05", held=[(2, 1)], same_launcher=True),
            {"report": ["hook running", "hook pending"]}, runs_of("report", 0),
            end("report"), {"report": ["hook completed", "hook running"]},
        ],
    ),
    "it is started once also if the supervisor dies just then: before the commit neither row is there": (
        {"a": {**HOURLY, "on_failure": ["tell"]}, "tell": HAND},
        [
            to("13:00"), dies_before_its_commit, {"a": ["13:00 running"], "tell": []},
            end("a", 1), {"tell": ["hook running"]}, restart("13:02", same_launcher=True), {"tell": ["hook running"]},
        ],
    ),
    "a run that is lost with its launcher has failed": (
        {"a": {**HOURLY, "on_failure": ["tell"]}, "tell": HAND},
        [to("13:00"), restart("13:01"), {"a": ["13:00 lost"], "tell": ["hook running"]}, event_of("tell", reason="lost")],
    ),
    "a hook of a hook": (
        {"a": {**HAND, "on_failure": ["repair"]}, "repair": {**HAND, "on_success": ["report"]}, "report": HAND},
        [by_hand("a"), end("a", 1), end("repair"), {"report": ["hook running"]}, event_of("report", job_id="repair")],
    ),
    "a job that is off or paused is not started, and a row says so, with the event": (
        {"a": {**HOURLY, "on_success": ["b", "c"]}, "b": HAND, "c": HAND},
        [off("b"), pause("c"), to("13:00"), end("a"), {"b": ["hook disabled"], "c": ["hook paused"]},
         event_of("c", job_id="a"), launched("a")],
    ),
    "a run that was under way when its job was removed has its hooks": (
        {"a": {**HOURLY, "on_success": ["report"]}, "report": HAND},
        [to("13:00"), remove("a"), end("a"), {"report": ["hook running"]}],
    ),
    "the hooks are those of the definition that the run was decided with": (
        {"a": {**HOURLY, "on_success": ["b"]}, "b": HAND, "c": HAND},
        [to("13:00"), edit("a", on_success=["c"]), end("a"), {"b": ["hook running"], "c": []}],
    ),
    "a job that others start cannot be removed": (
        {"a": {**HOURLY, "on_failure": ["tell"]}, "tell": HAND},
        [refused(remove("tell"), "a start 'tell' by a hook")],
    ),
    "jobs that would start one another for ever are refused": (
        {"b": HAND, "a": {**HAND, "on_failure": ["b"]}},
        [
            refused(edit("b", on_success=["a"]), "starts itself again and again: a -> b -> a"),
            refused(edit("a", on_failure=["a"]), "a -> a"),
            refused(edit("a", on_failure=["nobody"]), "unknown job 'nobody'"),
            edit("b", dependencies=["a"]),
            refused(edit("b", on_failure=["a"]), "a -> b -> a"),
        ],
    ),
    "Cronicle 5 (#838): a clean-up runs also after a run that was ended": (
        {"a": {**HOURLY, "on_failure": ["clean"]}, "clean": HAND},
        [to("13:00"), end("a", None, cause="timeout", signal=9), {"clean": ["hook running"]}],
    ),
    "a row of a hundred waits, and what comes then is told as coalesced": (
        {"a": {**HAND, "on_success": ["report"]}, "report": HAND},
        [lambda world: [(by_hand("a")(world), world.end("a")) for _ in range(103)],
         lambda world: [row.reason for row in world.rows("report")].count("coalesced") == 2],
    ),
}  # fmt: skip

AFTER = {
    "a job without a schedule starts when the one before it has completed, and knows its run": (
        {"p": HOURLY, "a": after("p")},
        [to("13:00"), {"a": []}, end("p"), {"a": ["dependency running"]}, parents_of("a", p="13:00")],
    ),
    "fan-in: once all have a result": (
        {"p": HOURLY, "q": {"schedule": "30 * * * *"}, "a": after("p", "q")},
        [
            to("12:30"), end("q"), {"a": []}, to("13:00"), end("p"), {"a": ["dependency running"]},
            parents_of("a", p="13:00", q="12:30"), end("a"),
            to("13:30"), end("q"), {"a": ["dependency completed"]},
        ],
    ),
    "metronome (#382): several results of one parent start it once": (
        {"p": OFTEN, "q": HOURLY, "a": after("p", "q")},
        [
            to("12:02"), end("p"), to("12:04"), end("p"), to("13:00"), end("p"), end("q"),
            {"a": ["dependency running"]}, parents_of("a", p="12:06", q="13:00"), runs_of("a", 1),
        ],
    ),
    "ok: a failure is no result": (
        {"p": HOURLY, "a": after("p")},
        [to("13:00"), end("p", 1), {"a": []}, to("14:00"), end("p"), {"a": ["dependency running"]}],
    ),
    "failed and any: what is asked for": (
        {"p": HOURLY, "f": after({"job": "p", "when": "failed"}), "n": after({"job": "p", "when": "any"})},
        [to("13:00"), end("p"), {"f": [], "n": ["dependency running"]}, end("n"), to("14:00"), end("p", 1),
         {"f": ["dependency running"], "n": ["dependency completed", "dependency running"]}],
    ),
    "results that come while it runs start it once more when that is over": (
        {"p": OFTEN, "a": after("p")},
        [
            to("12:02"), end("p"), to("12:04"), end("p"), to("12:06"), end("p"), {"a": ["dependency running"]},
            end("a"), {"a": ["dependency completed", "dependency running"]}, parents_of("a", p="12:06"),
            end("a"), {"a": ["dependency completed"] * 2},
        ],
    ),
    "results that come before it could start are part of that start": (
        {"p": {**OFTEN, "priority": "critical"}, "a": after("p"), "long": HAND},
        [
            by_hand("long"), to("12:02"), end("p"), {"a": ["dependency running"]}, end("a"),
            to("12:04"), end("p"), {"a": ["dependency completed", "dependency running"]}, end("a"),
        ],
    ),
    "a run by hand uses up what has come": (
        {"p": HOURLY, "q": HOURLY, "a": after("p", "q")},
        [to("13:00"), end("p"), by_hand("a"), end("a"), end("q"), {"a": ["- completed"]}],
    ),
    "what has come outlives the supervisor, and starts it once": (
        {"p": HOURLY, "q": HOURLY, "a": after("p", "q")},
        [
            to("13:00"), end("p"), restart("13:10", held=[(2, 1)], same_launcher=True), {"a": []}, end("q"),
            {"a": ["dependency running"]}, restart("13:20", held=[(3, 1)], same_launcher=True), {"a": ["dependency running"]},
            end("a"), {"a": ["dependency completed"]},
        ],
    ),
    "results that came while it ran are not forgotten with the supervisor": (
        {"p": OFTEN, "a": after("p")},
        [
            to("12:02"), end("p"), to("12:04"), end("p"), restart("12:05", held=[(2, 1)], same_launcher=True),
            {"a": ["dependency running"]}, end("a"), {"a": ["dependency completed", "dependency running"]},
        ],
    ),
    "a clock that is set back loses no result, and repeats none": (
        {"p": {"schedule": "0 13 * * *"}, "a": after("p")},
        [to("13:00"), end("p"), end("a"), telling.clock("11:30"), by_hand("p"), end("p"),
         {"a": ["dependency completed", "dependency running"]}],
    ),
    "a job that is added starts on nothing that was before": (
        {"p": HOURLY},
        [to("13:00"), end("p"), lambda world: world.add("a", None, dependencies=["p"], max_retries=0), {"a": []},
         to("14:00"), end("p"), {"a": ["dependency running"]}],
    ),
    "so is one that is enabled, or depends on another job than before": (
        {"p": HOURLY, "q": HOURLY, "a": after("p", "q"), "b": after("p", "q")},
        [
            off("b"), to("13:00"), end("p"), on("b"), edit("a", dependencies=["q", "p"]), end("q"), {"a": [], "b": []},
            to("14:00"), end("p"), {"a": ["dependency running"], "b": ["dependency running"]},
        ],
    ),
    "a pause leaves a row for what would have started, and resuming starts nothing": (
        {"p": HOURLY, "a": after("p")},
        [pause("a"), to("13:00"), end("p"), {"a": ["dependency paused"]}, resume("a"), {"a": ["dependency paused"]},
         to("14:00"), end("p"), {"a": ["dependency paused", "dependency running"]}],
    ),
    "a newer result supersedes a retry that waits": (
        {"p": OFTEN, "a": after("p", max_retries=1, retry_delay=600)},
        [to("12:02"), end("p"), end("a", 1), {"a": ["dependency retrying"]}, to("12:04"), end("p"),
         {"a": ["dependency superseded", "dependency running"]}],
    ),
    "an edit while it waits for a place does not change what it builds on": (
        {"p": HAND, "a": after("p"), "long": {**HAND, "priority": "critical"}},
        [
            by_hand("p"), by_hand("long"), end("p"), edit("a", dependencies=[{"job": "p", "when": "any"}]),
            by_hand("p"), end("long"), lambda world: world.row("a").request == {"parents": {"p": 1}},
        ],
        {"max_concurrent_jobs": 1},
    ),
    "a parent that is lost with its launcher is in time for a run that waits for a place": (
        {
            "p": {**OFTEN, "overlap": "allow", "max_instances": 2, "priority": "critical"},
            "a": after({"job": "p", "when": "failed"}),
        },
        [
            to("12:02"), to("12:04"), end("p", 1), {"a": ["dependency pending"]},
            restart("12:05"), {"a": ["dependency running"]}, parents_of("a", p="12:04"),
        ],
        {"max_concurrent_jobs": 1},
    ),
    "a retry builds on the run that the first attempt built on": (
        {"p": HOURLY, "a": after("p", max_retries=1, retry_delay=60)},
        [to("13:00"), end("p"), end("a", 1), to("13:01"), parents_of("a", p="13:00")],
    ),
    "a parent that is renamed is the same job": (
        {"p": HOURLY, "q": HOURLY, "a": after("p", "q")},
        [to("13:00"), end("p"), rename("p", "r"), end("q"), {"a": ["dependency running"]},
         parents_of("a", r="13:00", q="13:00")],
    ),
    "the seed's workflow: collect, process, report, send": (
        {
            "collect_data": {"schedule": "0 13 * * *"},
            "process_data": after("collect_data"),
            "generate_report": after("process_data"),
            "send_report": after("generate_report"),
        },
        [
            to("13:00"), end("collect_data"), end("process_data"), end("generate_report"), end("send_report"),
            launched("collect_data", "process_data", "generate_report", "send_report"),
            {"send_report": ["dependency completed"]},
        ],
    ),
    "the same with a schedule for each": (
        {
            "collect_data": HOURLY,
            "process_data": {**HOURLY, "dependencies": ["collect_data"]},
            "generate_report": {**HOURLY, "dependencies": ["process_data"]},
            "send_report": {**HOURLY, "dependencies": ["generate_report"]},
        },
        [
            to("13:00"), end("collect_data"), end("process_data"), end("generate_report"), end("send_report"),
            launched("collect_data", "process_data", "generate_report", "send_report"),
            to("14:00"), end("collect_data", 1),
            {job: ["13:00 completed", "14:00 dependency"] for job in ("process_data", "generate_report", "send_report")},
        ],
    ),
}  # fmt: skip


@pytest.mark.parametrize("history", [*EVENTS, *HOOKS, *AFTER])
def test_history(history, tmp_path, monkeypatch):
    jobs, steps, *settings = (EVENTS | HOOKS | AFTER)[history]
    telling.play((jobs, steps), tmp_path, monkeypatch, **(settings[0] if settings else {}))


def test_an_after_job_that_is_cancelled_in_the_queue_does_not_start_again_on_the_same_results(tmp_path, monkeypatch):
    world = deciding.World(tmp_path, monkeypatch, max_concurrent_jobs=1)
    for job_id, keys in {"p": {}, "a": {"dependencies": ["p"]}, "long": {"priority": "critical"}}.items():
        world.add(job_id, None, max_retries=0, **keys)
    world.start("p")
    world.start("long")
    world.end("p")
    assert world.told("a") == [(None, "pending")]
    world.runs.cancel(world.row("a").run_id)
    world.settle()
    world.end("long")
    assert world.told("a") == [(None, "cancelled")]
    world.close()
