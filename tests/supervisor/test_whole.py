"""A request that fails leaves nothing half-done: each handler that changes things fails here at each of its writes."""

from collections import deque
from types import SimpleNamespace

import deciding
import pytest

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import handlers, run, store, whole
from lnmt_scheduler.supervisor.connection import RefusedError


class Reply:
    """Who asks, and whether there was an answer."""

    peer = SimpleNamespace(uid=0, user="root")
    congested, open = False, True

    def __init__(self):
        self.answers = []

    def ok(self, value):
        self.answers.append(value)

    item = ok


class Bench:
    """The handlers of a daemon on a real store, and what they are called in."""

    def __init__(self, world):
        self.world = world
        self.effects = deque()
        self.whole = whole.Whole(world.store, world.catalog, world.runs, self.effects)
        world.attempts.end = lambda *_: self.effects.append(lambda: None)
        world.attempts.is_unkillable = lambda _: False
        self._handlers = handlers.Handlers(
            world.store,
            world.catalog,
            world.runs,
            world.vetting,
            world.registry,
            world.planner,
            world.bulk,
            SimpleNamespace(),
            world.purge,
            output_dir=f"{world.path}.output",
            jobs_dir=f"{world.path}.jobs",
            runs_as=lambda: 0,
            host=SimpleNamespace,
            default=lambda: {"profile": "trusted"},
            state=dict,
            watch=lambda _: None,
            reload=lambda *_: iter(()),
            stop=world.runs.stop,
            restart=lambda _: iter(()),
            drain=lambda *_: None,
        )

    def ask(self, request):
        tag = type(request).__name__.lower()
        reply = Reply()
        with self.whole():
            for _ in self._handlers.table()[tag](request, reply) or ():
                pass
        return reply.answers

    def ask_and_fail(self, request, patch, number):
        """The same, with a mistake in the place of the write of this number; whether it got that far."""
        writes(patch, number)
        try:
            self.ask(request)
        except LookupError:
            return True
        return False

    def state(self):
        """Everything that a half-done request could have left."""
        db, runs = self.world.store._db, self.world.runs
        tables = [name for (name,) in db.execute("SELECT name FROM sqlite_schema WHERE type = 'table' ORDER BY name")]
        return {
            "rows": {name: db.execute(f"SELECT * FROM {name}").fetchall() for name in tables},
            "open": {each.run_id: each.state for each in runs.open},
            "queue": [each.run_id for each in runs.open if each.run_id in runs.open.backlog],
            "running": set(runs.open.running),
            "by job": {uid: set(ids) for uid, ids in runs.open._by_job.items()},
            "next": runs.slots.next_fire(),
            "pauses": list(runs.pauses),
            "effects": len(self.effects),
        }


@pytest.fixture
def bench(make_world):
    """A job that runs, one that waits in the queue, one in backoff, one at its gate, and one that sleeps."""
    world = make_world(max_concurrent_jobs=1, reserved_slots=0)
    world.add("backoff", None, max_retries=3, retry_delay=3600)
    world.start("backoff", with_retries=True)
    world.end("backoff", 1)
    world.add("parent", "0 13 * * *")
    world.add("gated", "0 13 * * *", dependencies=["parent"])
    world.add("asleep", "30 4 * * *", on_event="up")
    world.add("queued", None)
    world.to("13:00")
    world.start("queued")
    states = {each.job.id: type(each.state) for each in world.runs.open}
    assert states == {"backoff": run.Backoff, "parent": run.Running, "gated": run.Gated, "queued": run.Queued}
    return Bench(world)


REQUESTS = {
    "add": control.Add(definition={"id": "new", "command": "true", "schedule": "* * * * *", "tags": ["t"]}),
    "edit": control.Edit(job_id="asleep", changes={"schedule": "* * * * *", "enabled": False}),
    "disable a queued one": control.Disable(job_id="queued"),
    "disable one in backoff": control.Disable(job_id="backoff"),
    "disable one at its gate": control.Disable(job_id="gated"),
    "disable one that runs": control.Disable(job_id="parent"),
    "remove": control.Remove(job_id="queued"),
    "purge": control.Remove(job_id="queued", purge=True),
    "run": control.Run(job_id="asleep"),
    "trigger": control.Trigger(event="up", data={"n": 1}),
    "pause": control.Pause(job_id="asleep", seconds=60, reason="no"),
    "pause the schedule": control.Pause(),
    "rename": control.Rename(job_id="parent", new_id="mother"),
    "cancel a queued one": control.Cancel(run_id=4),
    "cancel one that runs": control.Cancel(run_id=2),
}


def writes(monkeypatch, fails_at):
    """Have the write of this number fail."""
    seen = []
    real = store.Store._changing

    def changing(self):
        seen.append(1)
        if len(seen) == fails_at:
            raise LookupError("a mistake")
        return real(self)

    monkeypatch.setattr(store.Store, "_changing", changing)


@pytest.mark.parametrize("name", REQUESTS)
def test_a_request_that_fails_at_any_write_leaves_nothing(bench, monkeypatch, name):
    before = bench.state()
    number = 0
    while True:
        number += 1
        with monkeypatch.context() as patch:
            if not bench.ask_and_fail(REQUESTS[name], patch, number):
                break
        assert bench.state() == before, f"write {number}"
    assert number > 1, "it writes nothing"
    assert bench.state() != before


def test_what_others_did_in_the_same_turn_stays(bench, monkeypatch):
    bench.ask(control.Disable(job_id="asleep"))
    before = bench.state()
    with monkeypatch.context() as patch:
        assert bench.ask_and_fail(REQUESTS["add"], patch, 2)
    assert bench.state() == before
    bench.world.settle()
    assert not bench.world.job_row("asleep").enabled
    assert bench.ask(REQUESTS["add"]), "and the same request works when the mistake is mended"


@pytest.mark.parametrize(
    ("request_", "code", "words"),
    [
        (control.Trigger(event="left"), control.NOT_FOUND, "no job has on_event 'left'"),
        (control.Trigger(event="a b"), control.INVALID, "no name of an event"),
        (control.Trigger(event="up", data="x" * control.EVENT_LIMIT), control.INVALID, "at most 65536"),
        (control.Trigger(event="up", data=1 << 70), control.INVALID, "64 bits"),
        (control.Pause(job_id="nobody"), control.NOT_FOUND, "no job 'nobody'"),
        (control.Pause(seconds=0), control.USAGE, "more than 0 seconds"),
        (control.Pause(seconds=1e12), control.USAGE, "at most 3650 days"),
        (control.Pause(reason="two\nlines"), control.USAGE, "one line"),
        (control.Pause(reason="x" * 501), control.USAGE, "at most 500"),
        (control.Rename(job_id="parent", new_id="gated"), control.INVALID, "is there already"),
        (control.Rename(job_id="parent", new_id="../x"), control.INVALID, "is no id"),
        (control.Rename(job_id="nobody", new_id="x"), control.NOT_FOUND, "no job 'nobody'"),
    ],
)
def test_what_cannot_be_is_refused_and_changes_nothing(bench, request_, code, words):
    before = bench.state()
    with pytest.raises(RefusedError) as caught:
        bench.ask(request_)
    assert caught.value.code == code
    assert words in caught.value.message
    assert bench.state() == before


def test_a_refusal_after_a_write_takes_it_back(bench):
    before = bench.state()

    def refuse():
        with bench.whole():
            bench.world.registry.enable("asleep", deciding.WHO, on=False)
            raise RefusedError(1, "no")

    with pytest.raises(RefusedError):
        refuse()
    assert bench.state() == before


def test_a_conflict_in_the_store_is_a_mistake_of_the_handler_and_costs_nobody_else_anything(bench):
    before = bench.state()

    def collide():
        with bench.whole():
            bench.world.store.meta_set("a", "b")
            bench.world.store.add_attempt(2, 1, 0)

    with pytest.raises(RuntimeError, match="the store refused it"):
        collide()
    assert bench.state() == before
    bench.world.settle()


def test_runs_that_were_taken_back_to_go_on_as_if_nothing_had_been(bench, monkeypatch):
    world = bench.world
    for name in ("disable a queued one", "disable one in backoff", "disable one at its gate"):
        with monkeypatch.context() as patch:
            assert bench.ask_and_fail(REQUESTS[name], patch, 3)
    world.settle()
    world.end("parent")
    world.end("gated")
    world.end("queued")
    world.to("13:59")
    assert [world.row(name).status for name in ("parent", "gated", "queued", "backoff")] == [
        "completed", "completed", "completed", "running",
    ]  # fmt: skip
