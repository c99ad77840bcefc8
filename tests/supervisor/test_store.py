"""The store on real files: what it keeps, what it refuses, and what a kill, a full disk and damage do to it."""

import contextlib
import os
import pathlib
import re
import shutil
import signal
import sqlite3
import stat
import subprocess
import sys

import pytest

from lnmt_scheduler.supervisor import rows, statements, store

DATA = pathlib.Path(__file__).parent.parent / "data"
T = 1_767_225_600_000
HOUR = 3_600_000
DAY = 24 * HOUR
HASH = "a" * 64


@pytest.fixture
def path(tmp_path):
    return str(tmp_path / "lnmt.db")


@pytest.fixture
def db(path):
    with contextlib.closing(store.Store.open(path)) as opened:
        yield opened


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(store, "_PATIENCE", 0.05)


def add_job(db, job_id="collect", *, digest=HASH, dependencies=(), hooks=(), **given):
    given = {"id": job_id, "command": ["/bin/true"], "schedule": "0 * * * *"} | given
    return db.add_job(
        job_id=job_id,
        given=given,
        origins={"id": "job"},
        hash=digest,
        source="cli",
        owner=0,
        enabled=given.get("enabled", True),
        watermark=T,
        next_slot=T + HOUR if given["schedule"] else None,
        added=T,
        dependencies=dependencies,
        hooks=hooks,
    )


def add_run(db, uid, slot=None, *, queued=T, status="completed", digest=HASH, **columns):
    return db.add_run(
        job_uid=uid,
        job_id="collect",
        slot=slot,
        trigger="manual" if slot is None else "schedule",
        status=status,
        priority=2,
        queued=queued,
        hash=digest,
        **columns,
    )


def retain(db, *, now=T, age=DAY, runs=1000, batch=100):
    """A whole round of retention: the ids of the runs that went."""
    gone, cursor = [], None
    while True:
        swept = db.retention(now, age, runs, batch, cursor)
        gone += [run.run_id for run in swept.gone]
        cursor = swept.cursor
        if cursor is None:
            return sorted(gone)


def holds(db, run_id):
    return db.run(run_id) is not None


# Jobs.


def test_a_job_comes_back_as_it_was_added(db):
    uid = add_job(db, tags=["net", "räck"])
    job = db.job(uid)
    assert job == db.job_by_id("collect")
    assert job == rows.JobRow(
        uid=uid,
        job_id="collect",
        given={"id": "collect", "command": ["/bin/true"], "schedule": "0 * * * *", "tags": ["net", "räck"]},
        origins={"id": "job"},
        hash=HASH,
        source="cli",
        owner=0,
        enabled=True,
        watermark=T,
        next_slot=T + HOUR,
        last_success=None,
        failing_since=None,
        added=T,
        changed=T,
        removed=None,
        failures=0,
        last_run=None,
    )


def test_an_id_belongs_to_one_living_job(db):
    first = add_job(db)
    with pytest.raises(store.StoreError) as refused:
        add_job(db)
    assert refused.value.kind == "conflict"
    db.remove_job(first, T + 1)
    second = add_job(db)
    assert second != first
    assert db.job_by_id("collect").uid == second
    assert db.job(first).removed == T + 1


def test_a_refused_job_does_not_spoil_the_transaction(db):
    uid = add_job(db)
    with pytest.raises(store.StoreError):
        add_job(db)
    add_run(db, uid, T)
    db.commit()
    assert db.newest_run(uid) is not None


def test_a_changed_job_keeps_the_definition_of_its_runs(db):
    uid = add_job(db)
    run_id = add_run(db, uid, T)
    db.update_job(uid, given={"id": "collect", "command": ["/bin/false"]}, hash="b" * 64, changed=T + 5)
    assert db.job(uid).hash == "b" * 64
    assert db.job(uid).given["command"] == ["/bin/false"]
    assert db.run(run_id).hash == HASH
    assert db.definition(HASH)["command"] == ["/bin/true"]


def test_a_definition_that_nothing_refers_to_is_forgotten(db):
    uid = add_job(db)
    db.update_job(uid, given={"id": "collect", "command": ["/bin/false"]}, hash="b" * 64)
    assert db.definition(HASH) is None
    assert db.definition("b" * 64) is not None


def test_a_definition_and_its_hash_change_together(db):
    uid = add_job(db)
    with pytest.raises(TypeError, match="given and hash"):
        db.update_job(uid, given={})


def test_a_column_that_does_not_exist_is_refused(db):
    uid = add_job(db)
    with pytest.raises(TypeError, match="statsu"):
        db.update_run(add_run(db, uid), statsu="failed")
    with pytest.raises(TypeError, match="uid"):
        db.update_job(uid, watermark=T, **{"uid = 7 --": 1})


def test_jobs_come_in_pages_by_id(db):
    for name in ("delta", "alpha", "charlie", "bravo"):
        add_job(db, name)
    first = db.jobs_page(limit=3)
    assert [job.job_id for job in first] == ["alpha", "bravo", "charlie"]
    assert [job.job_id for job in db.jobs_page("charlie", 3)] == ["delta"]


def test_jobs_are_found_by_tag_and_by_being_enabled(db):
    add_job(db, "a", tags=["x"])
    add_job(db, "b", tags=["x", "y"], enabled=False)
    add_job(db, "c", tags=["y"])
    removed = add_job(db, "d", tags=["x"])
    db.remove_job(removed, T)

    def found(**wanted):
        return [job.job_id for job in db.jobs_page(**wanted)]

    assert found(tag="x") == ["a", "b"]
    assert found(tag="x", after="a") == ["b"]
    assert found(tag="y", limit=1) == ["b"]
    assert found(enabled=False) == ["b"]
    assert found(enabled=True) == ["a", "c"]
    assert found(tag="x", enabled=True) == ["a"]
    assert found(tag="y", enabled=False) == ["b"]
    assert found(tag="z") == []


def test_a_changed_job_is_found_by_its_new_tags(db):
    uid = add_job(db, tags=["x"])
    db.update_job(uid, given={"id": "collect", "tags": ["y"]}, hash="b" * 64)
    assert db.jobs_page(tag="x") == []
    assert [job.uid for job in db.jobs_page(tag="y")] == [uid]


def test_the_schedule_holds_living_enabled_jobs_with_a_schedule(db):
    later, sooner = add_job(db, "later"), add_job(db, "sooner")
    add_job(db, "by-hand", schedule=None)
    add_job(db, "disabled", enabled=False)
    db.remove_job(add_job(db, "removed"), T)
    db.update_job(later, next_slot=T + 2 * HOUR)
    assert list(db.schedule_rows()) == [(sooner, "sooner", T + HOUR, T), (later, "later", T + 2 * HOUR, T)]
    db.update_job(sooner, given={"id": "sooner", "command": ["/bin/true"]}, hash="b" * 64)
    assert [row.uid for row in db.schedule_rows()] == [later]


def test_dependents_are_the_living_children(db):
    add_job(db, "parent")
    child = add_job(db, "child", dependencies=["parent", "other"])
    add_job(db, "another", dependencies=["parent"])
    assert db.dependents("parent") == ["another", "child"]
    assert set(db.dependency_pairs()) == {
        ("child", "parent", True), ("child", "other", True), ("another", "parent", True),
    }  # fmt: skip
    db.update_job(child, dependencies=["other"])
    assert db.dependents("parent") == ["another"]
    db.remove_job(child, T)
    assert db.dependents("other") == []


def test_jobs_without_a_schedule_are_found_by_what_they_come_after(db):
    add_job(db, "parent")
    after = add_job(db, "after", schedule=None, dependencies=["parent"])
    add_job(db, "gated", dependencies=["parent"])
    assert db.after("parent") == [after]


def test_hooks_are_those_of_living_jobs(db):
    uid = add_job(db, "a", hooks=[("on_failure", "tell"), ("on_change", "tell"), ("on_failure", "repair")])
    assert db.hooks(uid) == [("on_change", "tell"), ("on_failure", "repair"), ("on_failure", "tell")]
    assert db.hooked_by("tell") == ["a"]
    db.update_job(uid, hooks=[("on_success", "report")])
    assert list(db.all_hooks()) == [("a", "on_success", "report")]
    db.remove_job(uid, T)
    assert (db.hooks(uid), db.hooked_by("report")) == ([], [])


def test_of_each_parent_the_newest_result_has_arrived_until_the_child_starts(db):
    for parent, run_id in ((1, 10), (2, 11), (1, 12)):
        db.arrive(9, parent, run_id)
    db.arrive(8, 1, 12)
    assert db.arrivals(9) == [(1, 12), (2, 11)]
    db.clear_arrivals(9)
    assert (db.arrivals(9), db.arrivals(8)) == ([], [(1, 12)])


def test_a_pause_takes_the_place_of_the_one_before_and_goes_with_its_job(db):
    uid = add_job(db, "a")
    db.pause(rows.Pause(uid, T, None, None, "root", "broken disk"))
    db.pause(rows.Pause(0, T, T + HOUR, 3600.0, "eve", None))
    assert db.pause_of(0) == rows.Pause(0, T, T + HOUR, 3600.0, "eve", None)
    db.pause(rows.Pause(uid, T, T + HOUR, 3600.0, "eve", None))
    assert [(pause.job_uid, pause.user) for pause in db.pauses()] == [(0, "eve"), (uid, "eve")]
    db.resume(0)
    db.remove_job(uid, T)
    assert db.pauses() == []


def test_an_event_starts_the_living_jobs_that_name_it(db):
    for job_id in ("b", "a", "c"):
        add_job(db, job_id, on_event="up" if job_id != "c" else "down")
    assert [row.job_id for row in db.on_event("up")] == ["a", "b"]
    db.update_job(db.latest_uid("b"), given={"id": "b", "command": "true"}, hash="b" * 64)
    db.remove_job(db.latest_uid("a"), T)
    assert db.on_event("up") == []


def test_a_renamed_job_keeps_its_history_and_its_tags(db):
    uid = add_job(db, "a", tags=["net"])
    add_run(db, uid)
    db.rename_job(uid, "a", "b")
    assert [row.uid for row in db.jobs_page(tag="net")] == [uid]
    assert (db.job_by_id("a"), db.job_named("a").job_id, len(db.history("b"))) == (None, "b", 1)
    add_job(db, "c")
    with pytest.raises(store.StoreError) as caught:
        db.rename_job(uid, "b", "c")
    assert caught.value.kind == "conflict"


def test_a_reload_compares_every_living_job(db):
    uid = add_job(db, "b")
    other = add_job(db, "a", digest="b" * 64)
    db.remove_job(add_job(db, "c"), T)
    assert list(db.job_ids()) == [(other, "a", "b" * 64, "cli"), (uid, "b", HASH, "cli")]


def test_completion_knows_the_ids_that_begin_so(db):
    for name in ("net-a", "net-b", "neu"):
        add_job(db, name)
    assert db.complete("net") == ["net-a", "net-b"]
    assert db.complete("net", limit=1) == ["net-a"]
    assert db.complete("") == ["net-a", "net-b", "neu"]


def test_completion_knows_the_events_that_begin_so(db):
    for name, event in (("a", "up"), ("b", "up"), ("c", "under"), ("d", "down"), ("e", None)):
        add_job(db, name, on_event=event)
    assert db.complete_events("u") == ["under", "up"]
    assert db.complete_events("") == ["down", "under", "up"]


# Runs.


def test_a_slot_is_decided_once(db):
    uid, other = add_job(db), add_job(db, "other")
    assert add_run(db, uid, T) is not None
    assert add_run(db, uid, T, status="skipped") is None
    assert add_run(db, other, T) is not None
    assert db.newest_run(uid).status == "completed"


def test_runs_by_hand_have_no_slot_and_never_collide(db):
    uid = add_job(db)
    assert add_run(db, uid) != add_run(db, uid)


def test_a_run_needs_a_definition_that_is_kept(db):
    uid = add_job(db)
    with pytest.raises(store.StoreError) as refused:
        add_run(db, uid, T, digest="f" * 64)
    assert refused.value.kind == "conflict"
    db.put_definition("f" * 64, {"id": "collect"})
    assert db.run(add_run(db, uid, T, digest="f" * 64)).hash == "f" * 64


def test_skips_are_added_where_nothing_was_decided(db):
    uid = add_job(db)
    add_run(db, uid, T)

    def skip(slot, **rest):
        return rows.Skip(
            job_uid=uid, job_id="collect", slot=slot, reason="missed", priority=2, queued=T + DAY, hash=HASH, **rest
        )

    assert db.add_skips([skip(T), skip(T + HOUR), skip(T + 2 * HOUR, slot_last=T + 9 * HOUR, slots=8)]) == 2
    gap = db.newest_run(uid)
    assert (gap.status, gap.reason, gap.trigger) == ("skipped", "missed", "schedule")
    assert (gap.slot, gap.slot_last, gap.slots) == (T + 2 * HOUR, T + 9 * HOUR, 8)
    assert (gap.queued, gap.end_time, gap.start_time) == (T + DAY, T + DAY, None)
    assert db.add_skips([]) == 0


def test_a_run_comes_back_with_everything_that_was_set(db):
    uid = add_job(db)
    run_id = add_run(
        db, uid, status="pending", request={"kwargs": {"n": 1}}, requested_by="root", retry_of=7, gate_until=T + 9
    )
    values = {
        "status": "failed",
        "reason": "timeout",
        "start_time": T + 1,
        "end_time": T + 2,
        "duration": 0.5,
        "gate_until": None,
        "attempts": 1,
        "signal": "SIGKILL",
        "output_bytes": 10,
        "output_stored": 9,
        "truncated": True,
        "cpu_seconds": 0.25,
        "max_memory": 4096,
        "processes": 3,
        "uid": 1000,
        "enforced": {"kill": "enforced"},
        "killed": ((4711, "sleep 1000"), (4712, "sh")),
        "killed_count": 2,
        "error": "ended after 60 s",
        "notes": "x",
    }
    db.update_run(run_id, result=b"\x2a\x00", **values)
    run = db.run(run_id)
    assert {name: getattr(run, name) for name in values} == values
    assert (run.request, run.requested_by, run.retry_of) == ({"kwargs": {"n": 1}}, "root", 7)
    assert run.truncated is True
    assert run.result_bytes == 2
    assert db.result(run_id) == b"\x2a\x00"
    assert rows.as_map(run)["killed"] == ((4711, "sleep 1000"), (4712, "sh"))


def test_words_that_utf8_cannot_hold_are_escaped(db):
    uid = add_job(db)
    run_id = add_run(db, uid, error="no such file: caf\udce9")
    db.update_run(run_id, notes="\ud800", killed=((1, "caf\udce9"),))
    run = db.run(run_id)
    assert run.error == "no such file: caf\\udce9"
    assert run.notes == "\\ud800"
    assert run.killed == ((1, "caf\udce9"),)


def test_open_runs_are_those_that_are_not_over(db):
    uid, other = add_job(db), add_job(db, "other")
    for status in ("completed", "failed", "cancelled", "skipped"):
        add_run(db, uid, status=status)
    opened = [add_run(db, uid, status=status) for status in ("retrying", "pending", "running")]
    theirs = add_run(db, other, status="pending")
    assert [run.run_id for run in db.open_runs()] == [*opened, theirs]
    assert db.counts() == rows.Counts(jobs=2, enabled=2, pending=2, running=1, retrying=1)


def test_the_newest_slot_is_not_the_newest_run(db):
    uid = add_job(db)
    second, first = add_run(db, uid, T + HOUR), add_run(db, uid, T)
    by_hand = add_run(db, uid)
    assert db.newest_run(uid).run_id == by_hand
    assert db.newest_slot_row(uid, T + DAY).run_id == second
    assert db.newest_slot_row(uid, T + HOUR).run_id == second
    assert db.newest_slot_row(uid, T + HOUR - 1).run_id == first
    assert db.newest_slot_row(uid, T - 1) is None


def test_history_is_newest_first_and_pages_by_run_id(db):
    uid = add_job(db)
    ids = [add_run(db, uid, queued=T + n) for n in range(5)]
    assert [run.run_id for run in db.history(limit=3)] == ids[:1:-1]
    assert [run.run_id for run in db.history(limit=3, before=ids[2])] == [ids[1], ids[0]]


def test_history_is_narrowed_by_job_status_and_time(db):
    uid, other = add_job(db), add_job(db, "other")
    a = add_run(db, uid, queued=T, status="failed")
    b = add_run(db, uid, queued=T + 10)
    c = add_run(db, other, queued=T + 20, status="failed")

    def found(*job, **wanted):
        return [run.run_id for run in db.history(*job, **wanted)]

    assert found("collect") == [b, a]
    assert found("nobody") == []
    assert found(status="failed") == [c, a]
    assert found("collect", status="failed") == [a]
    assert found(since=T + 10) == [c, b]
    assert found("collect", since=T + 10) == [b]
    assert found(status="failed", since=T + 1) == [c]
    assert found("other", status="completed", since=T) == []
    assert found(since=T + 21) == []


def test_the_history_of_a_removed_job_is_its_own(db):
    first = add_job(db)
    old = add_run(db, first)
    db.remove_job(first, T)
    assert [run.run_id for run in db.history("collect")] == [old]
    new = add_run(db, add_job(db))
    assert [run.run_id for run in db.history("collect")] == [new]


def test_runs_decided_before_the_clock_was_set_back_do_not_hide_later_ones(db):
    uid = add_job(db)
    add_run(db, uid, queued=T + 1000 * DAY)
    now = add_run(db, uid, queued=T)
    assert [run.run_id for run in db.history(since=T - HOUR)] == [now]


def test_an_attempt_is_open_until_its_end_is_known(db):
    run_id = add_run(db, add_job(db), status="running")
    db.add_attempt(run_id, 1, T)
    db.end_attempt(
        run_id, 1, ended=T + 5, status="failed", reason="signal", signal="SIGSEGV", uid=7, killed=((9, "x"),),
        policy="b" * 64, enforced={"seccomp": "enforced", "landlock": "absent"},
    )  # fmt: skip
    db.add_attempt(run_id, 2, T + 60)
    ended, running = db.attempts(run_id)
    assert (ended.ended, ended.reason, ended.signal, ended.killed) == (T + 5, "signal", "SIGSEGV", ((9, "x"),))
    assert (ended.policy, ended.enforced) == ("b" * 64, {"seccomp": "enforced", "landlock": "absent"})
    assert running.policy is None
    assert (running.attempt, running.launched, running.ended, running.enforced) == (2, T + 60, None, {})
    with pytest.raises(store.StoreError) as refused:
        db.add_attempt(run_id, 2, T + 61)
    assert refused.value.kind == "conflict"


def test_the_audit_is_read_newest_first(db):
    for n in range(3):
        db.audit_add(time=T + n, uid=0, user="root", action="edit", target=f"job{n}", before={"n": n}, after=None)
    newest, middle = db.audit_page(limit=2)
    assert (newest.target, newest.before, newest.after) == ("job2", {"n": 2}, None)
    assert [entry.target for entry in db.audit_page(before=middle.id)] == ["job0"]


def test_a_remembered_word_is_replaced(db):
    assert db.meta_get("boot") is None
    db.meta_set("boot", "a")
    db.meta_set("boot", "b")
    assert db.meta_get("boot") == "b"


# Retention.


def test_old_runs_go_with_their_attempts(db):
    uid = add_job(db)
    old = add_run(db, uid, T - 3 * DAY, queued=T - 3 * DAY, end_time=T - 3 * DAY)
    db.add_attempt(old, 1, T - 3 * DAY)
    young = add_run(db, uid, T - HOUR, queued=T - HOUR, end_time=T - HOUR)
    assert retain(db) == [old]
    assert db.attempts(old) == []
    assert holds(db, young)


def test_retention_names_the_time_that_the_output_lies_under(db):
    uid = add_job(db)
    old = add_run(db, uid, T - 3 * DAY, queued=T - 3 * DAY, end_time=T - 2 * DAY)
    add_run(db, uid, T)
    assert db.retention(T, DAY, 1000, 100).gone == ((old, T - 3 * DAY),)


def test_a_run_is_as_old_as_its_end(db):
    uid = add_job(db)
    long = add_run(db, uid, T - 3 * DAY, queued=T - 3 * DAY, end_time=T - HOUR)
    add_run(db, uid, T)
    assert retain(db) == []
    assert holds(db, long)


def test_retention_leaves_open_runs_and_the_newest_of_each_job(db):
    uid, by_hand = add_job(db), add_job(db, "by-hand", schedule=None)
    long_ago = {"queued": T - 9 * DAY, "end_time": T - 9 * DAY}
    gone = add_run(db, uid, T - 9 * DAY, **long_ago)
    newest_slot = add_run(db, uid, T - 8 * DAY, **long_ago)
    opened = add_run(db, uid, status="retrying", queued=T - 9 * DAY)
    manual = add_run(db, uid, **long_ago)
    newest = add_run(db, uid, **long_ago)
    gone_too, theirs = add_run(db, by_hand, **long_ago), add_run(db, by_hand, **long_ago)
    assert retain(db, runs=1) == [gone, manual, gone_too]
    assert all(holds(db, run_id) for run_id in (newest_slot, opened, newest, theirs))


@pytest.mark.parametrize("runs", [1, 1000])
def test_retention_leaves_the_last_run_that_was_no_skip(db, runs):
    uid = add_job(db, "a")
    last = add_run(db, uid, slot=T)
    db.update_run(last, status="failed", end_time=T)
    db.update_job(uid, last_run=last)
    for slot in range(T + 1000, T + 5000, 1000):
        add_run(db, uid, slot, status="skipped", end_time=T)
    retain(db, now=T + 100 * HOUR, age=HOUR, runs=runs)
    assert [row.run_id for row in db.history("a")] == [last + 4, last]


def test_a_job_keeps_so_many_of_its_newest_runs(db):
    uid, other = add_job(db), add_job(db, "other")
    ids = [add_run(db, uid, T + n * 1000) for n in range(10)]
    theirs = [add_run(db, other, T + n * 1000) for n in range(3)]
    by_hand = [add_run(db, add_job(db, "by-hand", schedule=None)) for _ in range(1)]
    assert retain(db, runs=3, batch=2) == ids[:-3]
    assert all(holds(db, run_id) for run_id in (*theirs, *by_hand))


def test_surplus_runs_by_hand_go_though_the_job_has_no_slot(db):
    uid = add_job(db, schedule=None)
    ids = [add_run(db, uid) for _ in range(5)]
    assert retain(db, runs=2) == ids[:3]


def test_one_call_of_retention_is_bounded_and_a_round_reaches_everything(db):
    uid = add_job(db)
    ids = [add_run(db, uid, T - 9 * DAY + n * 1000, queued=T - 9 * DAY, end_time=T - 9 * DAY) for n in range(95)]
    first = db.retention(T, DAY, 1000, 10)
    assert [run.run_id for run in first.gone] == ids[:10]
    assert first.cursor is not None
    assert retain(db, batch=10) == ids[10:-1]


def test_a_run_from_the_future_does_not_keep_retention_from_what_follows(db):
    uid = add_job(db)
    add_run(db, uid, T + 1000 * DAY, queued=T + 1000 * DAY, end_time=T + 1000 * DAY)
    old = add_run(db, uid, T - 9 * DAY, queued=T - 9 * DAY, end_time=T - 9 * DAY)
    add_run(db, uid, T - HOUR, queued=T - HOUR)
    assert retain(db, batch=1) == [old]


def test_a_removed_job_goes_with_its_last_run(db):
    uid = add_job(db)
    run_id = add_run(db, uid, T - 9 * DAY, queued=T - 9 * DAY, end_time=T - 9 * DAY)
    db.remove_job(uid, T - 8 * DAY)
    assert retain(db) == [run_id]
    assert db.job(uid) is None
    assert db.definition(HASH) is None
    assert add_job(db) > uid


def test_purge_deletes_what_is_over_in_batches(db):
    uid, other = add_job(db), add_job(db, "other")
    ids = [add_run(db, uid, T + n * 1000, queued=T + n) for n in range(5)]
    opened = add_run(db, uid, status="running")
    theirs = add_run(db, other, T)
    db.remove_job(uid, T)
    assert db.purge_job(uid, limit=3) == [(ids[n], T + n) for n in range(3)]
    assert [run.run_id for run in db.purge_job(uid, limit=3)] == ids[3:]
    assert db.purge_job(uid) == []
    assert db.job(uid) is not None, "it has an open run"
    db.update_run(opened, status="completed")
    assert [run.run_id for run in db.purge_job(uid)] == [opened]
    assert db.job(uid) is None
    assert holds(db, theirs)


def test_run_ids_are_never_used_again(db):
    uid = add_job(db)
    last = add_run(db, uid)
    db.remove_job(uid, T)
    db.purge_job(uid)
    assert add_run(db, add_job(db)) > last


def test_output_on_disk_is_known_oldest_first(db):
    uid = add_job(db)
    ids = [add_run(db, uid, queued=T + n) for n in range(4)]
    for run_id in ids[1:]:
        db.update_run(run_id, output_bytes=1000, output_stored=100)
    assert db.output_total() == 300
    assert db.runs_with_output_oldest_first(2) == [(ids[1], T + 1, 100), (ids[2], T + 2, 100)]
    assert db.runs_with_output_oldest_first(2, after=ids[2]) == [(ids[3], T + 3, 100)]
    db.update_run(ids[1], output_stored=0)
    assert db.output_total() == 200
    assert db.run(ids[1]).output_bytes == 1000


# Transactions.


def test_a_change_begins_a_transaction_and_commit_ends_it(db):
    assert not db.in_transaction
    db.meta_set("a", "b")
    assert db.in_transaction
    db.commit()
    assert not db.in_transaction
    db.commit()


def test_rollback_takes_back_what_was_not_committed(db):
    db.meta_set("a", "1")
    db.commit()
    db.meta_set("a", "2")
    uid = add_job(db)
    db.rollback()
    assert db.meta_get("a") == "1"
    assert db.job(uid) is None


def test_a_closed_store_has_what_was_committed_and_no_log(path):
    with contextlib.closing(store.Store.open(path)) as db:
        db.meta_set("a", "1")
        db.commit()
        db.meta_set("a", "2")
    assert os.listdir(os.path.dirname(path)) == ["lnmt.db"]
    with contextlib.closing(store.Store.open(path)) as db:
        assert db.meta_get("a") == "1"


def test_a_checkpoint_empties_the_log(db, path):
    uid = add_job(db)
    for n in range(200):
        add_run(db, uid, T + n * 1000)
    db.commit()
    assert os.path.getsize(f"{path}-wal") > 0
    db.checkpoint()
    assert os.path.getsize(f"{path}-wal") == 0


def test_the_log_is_cut_again_after_a_long_transaction(db, path):
    uid = add_job(db)
    for number in range(1, 12_000):
        add_run(db, uid, T + number * 1000, error="x" * 4000)
    db.commit()
    assert db.log_size() > store._WAL_BYTES, "one transaction is in the log as a whole"
    for number in range(3):
        db.meta_set("a", str(number))
        db.commit()
    assert db.log_size() <= store._WAL_BYTES


def test_the_log_stays_small_under_many_small_transactions(db):
    uid = add_job(db)
    most = 0
    for number in range(1, 3000):
        add_run(db, uid, T + number * 1000, error="x" * 1000)
        db.commit()
        most = max(most, db.log_size())
    assert most < 2 * store._CHECKPOINT_PAGES * 4096


def test_while_a_copy_is_made_the_file_stays_as_it_was(db, path):
    uid = add_job(db)
    db.commit()
    with db.still() as size:
        before = pathlib.Path(path).read_bytes()
        for number in range(1, 3000):
            add_run(db, uid, T + number * 1000, error="x" * 1000)
            if number % 10 == 0:
                db.commit()
        assert b"".join(db.read_file(at, 65536) for at in range(0, size, 65536)) == before
        assert db.log_size() > 1000 * 4096
    db.meta_set("a", "b")
    db.commit()
    assert pathlib.Path(path).stat().st_size > len(before)


def test_a_file_that_was_removed_or_replaced_is_missed(db, path):
    db.check_place()
    os.rename(path, f"{path}.away")
    with pytest.raises(store.StoreError, match="was removed under the daemon"):
        db.check_place()
    shutil.copy(f"{path}.away", path)
    with pytest.raises(store.StoreError, match="was replaced under the daemon"):
        db.check_place()
    os.rename(f"{path}.away", path)
    db.check_place()


def test_a_large_file_is_sampled_at_open_and_read_whole_when_it_is_suspect(path, monkeypatch):
    with contextlib.closing(store.Store.open(path)) as db:
        uid = add_job(db)
        for number in range(1, 4000):
            add_run(db, uid, T + number * 1000, error="x" * 500)
        db.commit()
    monkeypatch.setattr(store, "_CHECKED_BYTES", 0)
    monkeypatch.setattr(store, "_SAMPLE", 20)
    with contextlib.closing(sqlite3.connect(path)) as db:
        (page,) = db.execute(
            "SELECT pageno FROM dbstat WHERE name = 'job_history' AND pagetype = 'leaf' ORDER BY pageno LIMIT 1 OFFSET 101"
        ).fetchone()
    with open(path, "r+b") as file:
        file.seek((page - 1) * 4096)
        file.write(b"\xff" * 4096)
    store.Store.open(path).close()  # no sample lies on this page
    store.suspect(path, "an error at fsync")
    assert refused(path).kind == "damaged"
    assert os.path.exists(f"{path}.suspect"), "until it is mended"


def test_what_is_committed_is_durable_against_power_cuts(db):
    # FULL: the WAL is synchronised at every commit. The constants are SQLite's.
    assert db._db.execute("PRAGMA synchronous").fetchone() == (2,)
    assert db._db.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    assert db._db.execute("PRAGMA locking_mode").fetchone() == ("exclusive",)


# Faults.

HOLDER = """
import sys
from lnmt_scheduler.supervisor import store
db = store.Store.open(sys.argv[1])
uid = db.add_job(job_id="collect", given={"id": "collect"}, origins={}, hash="a" * 64, source="cli", owner=0,
                 enabled=True, watermark=0, next_slot=None, added=0)
def run(slot):
    db.add_run(job_uid=uid, job_id="collect", slot=slot, trigger="schedule", status="pending", priority=2, queued=slot,
               hash="a" * 64)
run(1000)
db.commit()
run(2000)
print("ready", flush=True)
sys.stdin.read()
db.close()
"""


@contextlib.contextmanager
def another_process(path):
    """A process that holds the store, with one run committed and one not."""
    holder = [sys.executable, "-c", HOLDER, path]
    with subprocess.Popen(holder, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as process:
        try:
            assert process.stdout.readline() == "ready\n"
            yield process
        finally:
            process.kill()


def contents(path):
    """The bytes of the database and its log; an empty log is none."""
    there = [name for name in (path, f"{path}-wal") if os.path.exists(name) and os.path.getsize(name)]
    return {name: pathlib.Path(name).read_bytes() for name in there}


def refused(path, *, read_only=False):
    """What opening it raises, having changed nothing."""
    before = contents(path)
    with pytest.raises(store.StoreError) as caught:
        store.Store.open(path, read_only=read_only)
    assert contents(path) == before
    assert path in str(caught.value)
    return caught.value


NO_WRITES = """
import resource, signal, sys
from lnmt_scheduler.supervisor import store
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (0, 0))
try:
    store.Store.open(sys.argv[1])
except store.StoreError as error:
    print(error.kind, error)
"""


def test_a_store_that_takes_no_commit_is_not_open(path):
    store.Store.open(path).close()
    done = subprocess.run([sys.executable, "-c", NO_WRITES, path], capture_output=True, text=True, check=True)
    assert done.stdout.startswith(f"io {path}")
    store.Store.open(path).close()


def test_a_kill_in_mid_transaction_loses_only_what_was_not_committed(path):
    with another_process(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    with contextlib.closing(store.Store.open(path)) as db:
        assert [run.slot for run in db.history()] == [1000]
        assert add_run(db, db.latest_uid("collect"), 1000) is None
        assert add_run(db, db.latest_uid("collect"), 2000) is not None


def test_a_store_that_another_process_holds_is_refused(path):
    with another_process(path):
        assert refused(path).kind == "locked"
        assert refused(path, read_only=True).kind == "locked"


def test_a_stopped_daemons_store_is_read_without_a_change(path):
    with another_process(path) as process:
        process.communicate()
    before = contents(path)
    with contextlib.closing(store.Store.open(path, read_only=True)) as db:
        assert [run.slot for run in db.history("collect")] == [1000]
        with pytest.raises(store.StoreError) as caught:
            db.meta_set("a", "b")
        assert caught.value.kind == "readonly"
    assert contents(path) == before


def test_a_killed_daemons_store_is_read_with_what_it_had_committed(path):
    with another_process(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    before = contents(path)
    assert before[f"{path}-wal"], "the log is what this is about"
    with contextlib.closing(store.Store.open(path, read_only=True)) as db:
        assert [run.slot for run in db.history("collect")] == [1000]
    assert contents(path) == before
    with contextlib.closing(store.Store.open(path)) as db:
        assert [run.slot for run in db.history("collect")] == [1000]


def test_a_daemon_does_not_start_over_a_reader(path):
    store.Store.open(path).close()
    with contextlib.closing(store.Store.open(path, read_only=True)) as reader:
        assert reader.history() == []
        locked = [sys.executable, "-c", OPEN, path]
        assert subprocess.run(locked, capture_output=True, text=True, check=True).stdout == "locked\n"


OPEN = """
import sys
from lnmt_scheduler.supervisor import store
store._PATIENCE = 0.05
try:
    store.Store.open(sys.argv[1])
except store.StoreError as error:
    print(error.kind)
"""


def test_there_is_nothing_to_read_before_a_daemon_ran(path):
    with pytest.raises(store.StoreError) as caught:
        store.Store.open(path, read_only=True)
    assert caught.value.kind == "missing"
    assert not os.path.exists(path)


def test_a_new_store_is_private(path):
    old = os.umask(0)
    try:
        with contextlib.closing(store.Store.open(path)) as db:
            db.meta_set("a", "b")
            db.commit()
            modes = {name: stat.S_IMODE(os.stat(name).st_mode) for name in contents(path)}
    finally:
        os.umask(old)
    assert modes == {path: 0o600, f"{path}-wal": 0o600}


def test_a_store_put_back_with_an_open_mode_is_made_private(path):
    store.Store.open(path).close()
    os.chmod(path, 0o644)
    store.Store.open(path).close()
    assert stat.S_IMODE(os.stat(path).st_mode) == 0o600


def test_any_file_name_will_do(tmp_path):
    path = str(tmp_path / "a?mode=memory#b %41.db")
    store.Store.open(path).close()
    store.Store.open(path, read_only=True).close()
    assert os.path.getsize(path) > 0


def test_what_a_cut_short_creation_left_behind_is_no_hindrance(path):
    for name in (f"{path}.new", f"{path}.new-wal", f"{path}.new-journal"):
        pathlib.Path(name).write_bytes(b"half of something")
    store.Store.open(path).close()
    assert os.listdir(os.path.dirname(path)) == ["lnmt.db"]


@pytest.mark.parametrize("read_only", [False, True])
def test_a_damaged_header_is_refused(path, read_only):
    store.Store.open(path).close()
    with open(path, "r+b") as file:
        file.write(b"SQLite format 4\0")
    assert refused(path, read_only=read_only).kind == "damaged"


@pytest.mark.parametrize("read_only", [False, True])
def test_an_emptied_store_is_refused_and_not_begun_anew(path, read_only):
    store.Store.open(path).close()
    os.truncate(path, 0)
    assert refused(path, read_only=read_only).kind == "damaged"


def test_a_store_that_was_cut_off_is_refused(path):
    store.Store.open(path).close()
    os.truncate(path, os.path.getsize(path) // 2)
    assert refused(path).kind == "damaged"


def test_a_damaged_page_is_found_at_open(path):
    with contextlib.closing(store.Store.open(path)) as db:
        uid = add_job(db)
        for n in range(500):
            add_run(db, uid, T + n * 1000)
        db.commit()
    with open(path, "r+b") as file:
        file.seek(os.path.getsize(path) - 4096)
        file.write(b"\xff" * 4096)
    assert refused(path).kind == "damaged"


def test_damage_that_is_met_later_is_said_as_such(path):
    with contextlib.closing(store.Store.open(path)) as db:
        uid = add_job(db)
        for n in range(500):
            add_run(db, uid, T + n * 1000)
        db.commit()
    with contextlib.closing(store.Store.open(path, read_only=True)) as db:
        with open(path, "r+b") as file:
            file.seek(4096)
            file.write(b"\xff" * (os.path.getsize(path) - 4096))
        with pytest.raises(store.StoreError) as caught:
            db.history("collect")
    assert caught.value.kind == "damaged"


def test_another_programs_database_is_refused(path):
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("CREATE TABLE jobs (id)")
    assert refused(path).kind == "damaged"


def test_a_log_without_its_database_is_refused(path):
    with another_process(path) as process:
        process.send_signal(signal.SIGKILL)
        process.wait()
    os.rename(path, f"{path}.elsewhere")
    assert refused(path).kind == "damaged"
    assert not os.path.exists(path)


def test_a_newer_store_is_refused_with_both_versions(path):
    store.Store.open(path).close()
    with contextlib.closing(sqlite3.connect(path)) as other:
        other.execute("PRAGMA user_version=99")
    for read_only in (False, True):
        error = refused(path, read_only=read_only)
        assert error.kind == "newer"
        assert "99" in str(error)
        assert f"up to {len(store.migrations())}" in str(error)


def fill(db, uid):
    for n in range(1, 10_000):
        add_run(db, uid, T + n * 1000)


def test_a_full_disk_costs_the_open_transaction_and_nothing_else(db):
    uid = add_job(db)
    add_run(db, uid, T)
    db.commit()
    pages = db._db.execute("PRAGMA page_count").fetchone()[0]
    db._db.execute(f"PRAGMA max_page_count={pages + 1}")
    with pytest.raises(store.StoreError) as caught:
        fill(db, uid)
    assert caught.value.kind == "full"
    assert db.in_transaction
    for spoilt in (lambda: add_run(db, uid), db.commit):
        # What came before the failure may be rolled back already: nothing may be built on it.
        with pytest.raises(store.StoreError) as caught:
            spoilt()
        assert caught.value.kind == "full"
    db.rollback()
    assert not db.in_transaction
    assert [run.slot for run in db.history()] == [T]
    db._db.execute(f"PRAGMA max_page_count={pages + 1000}")
    add_run(db, uid, T + 1000)
    db.commit()
    assert [run.slot for run in db.history()] == [T + 1000, T]


def test_no_room_for_a_new_store_leaves_none_behind(path, monkeypatch):
    def no_room(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(store.os, "rename", no_room)
    with pytest.raises(store.StoreError) as caught:
        store.Store.open(path)
    assert caught.value.kind == "full"
    assert not os.path.exists(path)


# Schemas.


@pytest.fixture
def v1(path):
    """A store as version 0.1.0 wrote it; its pages are of 512 bytes, to be small in the tree."""
    shutil.copy(DATA / "store_v1.db", path)
    return path


@pytest.mark.parametrize("read_only", [False, True])
def test_the_first_schema_always_opens(v1, read_only):
    store.Store.open(v1).close()
    with contextlib.closing(store.Store.open(v1, read_only=read_only)) as db:
        collect, report = db.jobs_page()
        assert (collect.job_id, collect.hash, collect.given["tags"]) == ("collect", "a" * 64, ["net"])
        assert (report.job_id, report.source) == ("report", "file:/etc/lnmt-scheduler/jobs.d/a.toml")
        assert db.dependents("collect") == ["report"]
        assert [row.job_id for row in db.schedule_rows()] == ["collect"]
        run, gap = db.history("collect")
        assert (run.status, run.attempts, run.exit_code, run.output_stored) == ("completed", 2, 0, 12)
        assert db.result(run.run_id) == b"\x2a"
        first, second = db.attempts(run.run_id)
        assert (first.reason, first.killed, second.status) == ("timeout", ((4711, "sleep 1000"),), "completed")
        assert (first.policy, second.policy) == (None, "b" * 64)
        assert (gap.reason, gap.slots) == ("missed", 200)
        (waiting,) = db.open_runs()
        assert waiting.request == {"kwargs": {"day": "2026-01-01"}}
        assert [entry.action for entry in db.audit_page()] == ["remove"]
        assert db.job(db.latest_uid("old")).removed is not None
        assert db.meta_get("boot") == "7c1d"


def test_a_store_brought_up_is_like_a_new_one(v1, tmp_path):
    def schema(path):
        with contextlib.closing(store.Store.open(path)) as db:
            return set(db._db.execute("SELECT type, name, sql FROM sqlite_schema"))

    assert schema(v1) == schema(str(tmp_path / "new.db"))


@pytest.fixture
def next_schema(tmp_path, monkeypatch):
    """Put a second schema beside the first, as the next version would; returns its file."""
    place = tmp_path / "schemas"
    place.mkdir()
    for name in os.listdir(statements.HERE):
        if name.startswith("schema_001"):
            shutil.copy(os.path.join(statements.HERE, name), place)
    script = place / "schema_002.sql"
    script.write_text("ALTER TABLE jobs ADD COLUMN paused INTEGER;\nCREATE TABLE pauses (id INTEGER PRIMARY KEY);\n")
    monkeypatch.setattr(statements, "HERE", str(place))
    return script


def version(path):
    with contextlib.closing(sqlite3.connect(path)) as other:
        return other.execute("PRAGMA user_version").fetchone()[0]


def test_an_older_store_is_copied_and_then_brought_up(v1, next_schema, monkeypatch):
    copy = f"{v1}.before-2"
    with contextlib.closing(store.Store.open(v1)) as db:
        assert db._db.execute("SELECT paused FROM jobs").fetchall() == [(None,)] * 3
        assert len(db.history()) == 4
    assert version(v1) == 2
    assert stat.S_IMODE(os.stat(copy).st_mode) == 0o600
    assert sorted(os.listdir(os.path.dirname(v1))) == ["lnmt.db", "lnmt.db.before-2", "schemas"]
    monkeypatch.undo()
    with contextlib.closing(store.Store.open(copy)) as db:
        assert len(db.history()) == 4


def test_a_store_of_the_present_schema_is_not_copied(path):
    store.Store.open(path).close()
    store.Store.open(path).close()
    assert os.listdir(os.path.dirname(path)) == ["lnmt.db"]


def test_a_migration_that_fails_changes_nothing(v1, next_schema):
    good = next_schema.read_text()
    next_schema.write_text(f"{good}INSERT INTO nowhere VALUES (1);\n")
    with pytest.raises(sqlite3.OperationalError, match="nowhere"):
        store.Store.open(v1)
    assert version(v1) == 1
    next_schema.write_text(good)
    store.Store.open(v1).close()
    assert version(v1) == 2


def test_an_older_store_is_not_read_before_it_is_brought_up(v1, next_schema):
    assert refused(v1, read_only=True).kind == "older"


# Cost.


def plan(db, statement):
    values = len(set(re.findall(r"\?\d+", statement))) or statement.count("?")
    found = db._db.execute(f"EXPLAIN QUERY PLAN {statement}", [None] * values)
    return [detail for *_, detail in found]


#: All of them are wanted, so all of them are read: at a start, a reload, in `status`. Never the history.
#: So is the table of the numbers given so far, of three rows.
WHOLE = {"jobs.ids", "jobs.schedule", "jobs.count", "dependencies.all", "hooks.all", "runs.skip_ids"}


@pytest.mark.parametrize("name", [name for name, text in statements.SQL.items() if not text.startswith("INSERT")])
def test_no_statement_reads_a_whole_table(db, name):
    steps = plan(db, statements.SQL[name])
    assert steps
    scans = [step for step in steps if step.startswith("SCAN")]
    if name in WHOLE:
        assert len(scans) == 1
        assert scans[0].startswith(("SCAN jobs USING", "SCAN dependencies USING", "SCAN hooks", "SCAN sqlite_sequence"))
    else:
        assert scans == []


def test_a_page_of_history_is_read_in_order_and_not_sorted(db):
    for name in ("history.all", "history.job", "history.status", "history.job_status", "runs.newest"):
        assert not [step for step in plan(db, statements.SQL[name]) if "TEMP B-TREE" in step]


def test_a_row_is_updated_by_its_key(db):
    for statement in (
        statements.update("job_history", ("run_id",), ("status", "reason")),
        statements.update("jobs", ("uid",), ("watermark", "next_slot")),
        statements.update("attempts", ("run_id", "attempt"), ("ended",)),
    ):
        (step,) = plan(db, statement)
        assert step.startswith("SEARCH")
        assert "PRIMARY KEY" in step


def test_the_schedule_is_read_from_its_index_alone(db):
    assert plan(db, statements.SQL["jobs.schedule"]) == ["SCAN jobs USING COVERING INDEX jobs_schedule"]
