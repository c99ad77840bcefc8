"""watchers.py: who watches gets a picture when something has changed, and nobody costs anything otherwise."""

import deciding
import pytest

from lnmt_scheduler.ipc import messages
from lnmt_scheduler.supervisor import clock, loop, watchers


class Reply:
    def __init__(self):
        self.items = []
        self.congested = False

    def item(self, value):
        self.items.append(value)

    def flush(self):
        """As a connection does once all has been sent: there is room for more."""
        self.on_room()


class Turns:
    """A loop on a clock that the test moves."""

    def __init__(self):
        self.now = 100.0
        self.timers = []

    def call_at(self, when, callback):
        self.timers.append((when, callback))
        return loop.Timer(callback)

    def to(self, now):
        self.now = now
        due, self.timers = (
            [each for each in self.timers if each[0] <= now],
            [each for each in self.timers if each[0] > now],
        )
        for _, callback in due:
            callback()


@pytest.fixture
def turns(monkeypatch):
    made = Turns()
    monkeypatch.setattr(clock, "monotonic", lambda: made.now)
    return made


@pytest.fixture
def painted():
    return []


@pytest.fixture
def watching(turns, painted):
    def paint():
        painted.append(turns.now)
        return {"time": turns.now}

    return watchers.Watchers(turns, paint)


def test_the_first_picture_comes_at_once(watching):
    reply = Reply()
    watching.add(reply)
    assert len(reply.items) == 1


def test_a_client_that_reads_in_time_gets_none_without_a_change(watching, turns):
    reply = Reply()
    watching.add(reply)
    reply.flush()
    watching.change()
    turns.to(200)
    reply.flush()
    assert (len(reply.items), turns.timers) == (2, [])


def test_many_changes_are_one_picture_a_second_for_all_who_watch(watching, turns, painted):
    first, second = Reply(), Reply()
    watching.add(first)
    watching.add(second)
    for step in range(50):
        turns.to(100.0 + step / 10)
        watching.change()
    turns.to(110.0)
    assert len(first.items) == len(second.items) == len(painted) - 1
    assert 5 <= len(first.items) <= 7


def test_nothing_is_painted_while_nobody_watches_or_nothing_changes(watching, turns, painted):
    watching.change()
    assert (painted, turns.timers) == ([], [])
    reply = Reply()
    watching.add(reply)
    turns.to(1000.0)
    assert len(painted) == 1
    reply.on_gone()
    watching.change()
    turns.to(2000.0)
    assert len(painted) == 1


def test_who_does_not_read_gets_the_newest_when_there_is_room(watching, turns):
    slow, quick = Reply(), Reply()
    watching.add(slow)
    watching.add(quick)
    slow.congested = True
    for at in (102.0, 104.0):
        watching.change()
        turns.to(at)
    assert (len(slow.items), len(quick.items)) == (1, 3)
    slow.congested = False
    slow.on_room()
    turns.to(106.0)
    assert slow.items[-1] == {"time": 106.0}


# The picture


def test_the_picture_shows_what_runs_waits_comes_and_has_ended(make_world):
    world = make_world(max_concurrent_jobs=1)
    said = messages.Progress(done=1, total=4, message="one")
    paint = watchers.Painter(world.store, world.runs, lambda run_id, attempt: said)
    world.add("a", "0 * * * *")
    world.add("b", "0 * * * *")
    world.add("later", "0 0 * * *")
    world.to("13:00")
    world.to("13:00:04")
    world.end("a")
    world.to("13:00:10")
    world.end("b")
    world.to("14:00")
    picture = paint()
    assert picture["counts"] == {"running": 1, "queued": 1, "retrying": 0}
    assert picture["running"] == [
        {
            "run_id": 3,
            "job_id": "a",
            "slot": deciding.ms("14:00"),
            "start_time": deciding.ms("14:00"),
            "attempt": 1,
            "attempts": 4,
            "progress": {"done": 1, "total": 4, "message": "one"},
            "usual": 4.0,
        }
    ]
    (waiting,) = picture["waiting"]
    assert (waiting["job_id"], waiting["status"], waiting["why"]) == ("b", "pending", "for a place; 1 of 1 are taken")
    assert [each["job_id"] for each in picture["next"]] == ["a", "b", "later"]
    assert [(each["job_id"], each["status"]) for each in picture["ended"]] == [("b", "completed"), ("a", "completed")]


def test_a_job_that_is_paused_is_not_what_comes_next(make_world):
    world = make_world()
    for number in range(12):
        world.add(f"job{number:02}", f"{number} 14 * * *")
    paint = watchers.Painter(world.store, world.runs, lambda *_: None)
    world.registry.pause("job00", 60, None, deciding.WHO)
    assert [each["job_id"] for each in paint()["next"]] == [f"job{number:02}" for number in range(1, 11)]
    world.registry.pause(None, None, None, deciding.WHO)
    assert paint()["next"] == []
    world.registry.resume(None, deciding.WHO)
    world.to("13:00")
    assert paint()["next"][0]["job_id"] == "job00"


def test_a_picture_is_bounded(make_world):
    world = make_world(max_concurrent_jobs=60)
    for number in range(100):
        world.add(f"job{number}", "0 13 * * *")
    world.to("13:00")
    picture = watchers.Painter(world.store, world.runs, lambda *_: None)()
    assert [len(picture[key]) for key in ("running", "waiting", "next")] == [50, 20, 10]
