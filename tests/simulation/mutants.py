"""Bugs put in on purpose, one small patch each: whoever judges the daemon must catch every one of them.

`apply` gets pytest's monkeypatch. `rules` are those of checking/rules.py that may find it; a finding by any of them will do.
"""

import datetime as dt
import random
import zoneinfo
from collections.abc import Callable
from dataclasses import dataclass, replace

import croniter
from simulation import supervisor, world

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import (
    attempts,
    catalog,
    clock,
    cron,
    daemon,
    definitions,
    dispatcher,
    ending,
    gatekeeper,
    gates,
    lives,
    open_runs,
    overlap,
    pauses,
    recovery,
    run,
    schedule,
    slots,
    statements,
    store,
    store_jobs,
    triggers,
)


@dataclass(frozen=True, slots=True)
class Mutant:
    breaks: str
    apply: Callable
    rules: frozenset[int]
    #: The kind of history in which it shows soonest.
    kind: str = "dense"
    #: Of the first history of these that is tried.
    first: int = 100


MUTANTS: dict[str, Mutant] = {}


def mutant(breaks: str, *rules: int, kind: str = "dense", first: int = 100) -> Callable:
    def note(apply: Callable) -> Callable:
        MUTANTS[apply.__name__] = Mutant(breaks, apply, frozenset(rules), kind, first)
        return apply

    return note


# What is durable when.


@mutant("every other commit only says that it is durable", 1, 2, 6, 8)
def fsync_is_skipped(patch):
    real = supervisor.Store.commit
    turns = iter(range(1 << 62))
    patch.setattr(supervisor.Store, "commit", lambda self: real(self) if next(turns) % 2 else self._world.point())


@mutant("a launch, an acknowledgement of an exit or an answer leaves before the commit", 2, 6, 8, 11)
def effects_come_before_the_commit(patch):
    real = daemon.Daemon._after_turn

    def early(self):
        while self._effects:
            self._effects.popleft()()
        self._server.flush()
        real(self)

    patch.setattr(daemon.Daemon, "_after_turn", early)


@mutant("a client is told 'ok' before the commit", 8)
def answers_come_before_the_commit(patch):
    real = daemon.Daemon._after_turn
    patch.setattr(daemon.Daemon, "_after_turn", lambda self: (self._server.flush(), real(self)))


@mutant("a commit that fails is logged and gone over", 1, 2, 6, 8)
def failed_commits_are_swallowed(patch):
    real = supervisor.Store.commit

    def commit(self):
        try:
            real(self)
        except store.StoreError:
            self.rollback()

    patch.setattr(supervisor.Store, "commit", commit)


@mutant("nothing in the store says that a job and a slot have one row", 2)
def slots_are_not_unique(patch):
    real = store.migrations
    without = [
        (number, text.replace("result BLOB, -- msgpack\n    UNIQUE (job_uid, slot)\n", "result BLOB\n"))
        for number, text in real()
    ]
    patch.setattr(store, "migrations", lambda: without)
    for name in ("run.add", "run.skip"):
        text = statements.SQL[name].replace("ON CONFLICT (job_uid, slot) DO NOTHING", "")
        patch.setitem(statements.SQL, name, text)


@mutant("the watermark is moved and committed before the decision is written", 1)
def watermark_moves_first(patch):
    real = slots.Slots._decide

    def decide(self, uid, now, **more):
        row = self._store.job(uid)
        if row is not None and row.enabled and row.next_slot is not None and row.next_slot <= now:
            job = self._catalog.get(uid)
            upcoming = job.schedule.next_after(now) if job is not None and job.schedule is not None else None
            self._store.update_job(uid, watermark=now, next_slot=upcoming)
            self._store.commit()
            self._store.update_job(uid, watermark=row.watermark, next_slot=row.next_slot)
        real(self, uid, now, **more)

    patch.setattr(slots.Slots, "_decide", decide)


# When something is due.


@mutant("the alarm rings a minute after what it was set for", 9)
def alarms_ring_late(patch):
    real = dispatcher.Dispatcher.next_wake

    def next_wake(self):
        wake = real(self)
        return None if wake is None else wake + 59_000

    patch.setattr(dispatcher.Dispatcher, "next_wake", next_wake)


@mutant("the library for cron is given times with a zone, and repeats fixed times", 1, 2, kind="sparse", first=116)
def croniter_knows_the_zone(patch):
    def next_after(self, after_ms):
        if self.text.startswith("@"):
            return real(self, after_ms)
        begin = dt.datetime.fromtimestamp(after_ms // 1000, zoneinfo.ZoneInfo(self.zone))
        found = croniter.croniter(self.text, begin, implement_cron_bug=True).get_next(dt.datetime)
        return int(found.timestamp()) * 1000

    real = cron.Schedule.next_after
    patch.setattr(cron.Schedule, "next_after", next_after)


@mutant("slots that were missed leave no row", 1)
def missed_slots_have_no_row(patch):
    real = schedule.plan
    patch.setattr(schedule, "plan", lambda *given, **more: replace(real(*given, **more), skips=()))


@mutant("a change of a job forgets what was due at that moment", 1)
def changes_forget_what_is_due(patch):
    patch.setattr(slots.Slots, "decide_due", lambda self, uid: None)


# What may run.


@mutant("a slot that comes while its job runs starts another", 4)
def overlap_is_not_judged(patch):
    real = slots.Slots._decide_slot

    def decide_slot(self, job, slot, trigger, now):
        by_job = self._line._runs._by_job
        hidden = by_job.pop(job.uid, set())
        real(self, job, slot, trigger, now)
        if hidden:
            by_job[job.uid] = hidden | by_job.get(job.uid, set())

    patch.setattr(slots.Slots, "_decide_slot", decide_slot)


@mutant("a parent that has failed opens the gate", 5)
def failed_parents_open_the_gate(patch):
    real = gates._ask

    def ask(parent):
        return gates.Verdict("open") if parent.status in ("failed", "cancelled", "skipped") else real(parent)

    patch.setattr(gates, "_ask", ask)


@mutant("what waits of a job that is disabled or removed is started all the same", 12)
def disabled_jobs_are_not_withdrawn(patch):
    patch.setattr(dispatcher.Dispatcher, "withdraw", lambda self, uid, reason: None)


@mutant("job files are read before the runs are taken up, which so miss what has become of their jobs", 12)
def files_come_before_runs(patch):
    def begin(self):
        self._take_zone()
        self._time.start()
        self._load_files()
        self._recover()
        self._fill_schedule()
        self._look_at_disk()
        self._loop.call_soon(self._runs.tick)

    patch.setattr(daemon.Daemon, "_begin", begin)


@mutant("a new supervisor does not know that a job was disabled while it ran", 12, first=168)
def recovery_forgets_the_withdrawal(patch):
    real = recovery.Recovery._recovered_state

    def recovered(self, *given):
        state = real(self, *given)
        return replace(state, withdrawn=False) if isinstance(state, run.Running) else state

    patch.setattr(recovery.Recovery, "_recovered_state", recovered)


@mutant("who waits in line goes on while the run before it still runs", 4)
def lines_are_jumped(patch):
    patch.setattr(overlap, "has_turn", lambda *_: True)


@mutant("a run that waits for its next attempt does not give way: it goes on beside its successor", 4)
def retries_are_not_superseded(patch):
    real = lives.Lives.step

    def step(self, each, event):
        if not (isinstance(event, run.Displace) and event.reason == "superseded"):
            real(self, each, event)

    patch.setattr(lives.Lives, "step", step)


@mutant("a slot that replaces a run does not wait until nothing is left of it", 4)
def replacement_does_not_wait(patch):
    real = overlap.judge

    def judge(job, others, **more):
        verdict = real(job, others, **more)
        return replace(verdict, answer="start") if job.overlap == "replace" and verdict.answer == "line" else verdict

    patch.setattr(overlap, "judge", judge)


@mutant("a pool is never full", 17)
def pools_have_no_end(patch):
    patch.setattr(dispatcher.Dispatcher, "_full_pools", lambda _: set())


@mutant("whatever a job says, the latest of its missed slots is caught up", 1, 18)
def catch_up_is_always_the_latest(patch):
    real = schedule.plan
    patch.setattr(schedule, "plan", lambda *given, **more: real(*given, **{**more, "catch_up": "latest"}))


@mutant("a slot starts however late it is", 18)
def deadlines_of_starts_are_not_kept(patch):
    patch.setattr(catalog.Job, "deadline", lambda *_: None)


@mutant("jitter is drawn anew by every supervisor", 18)
def jitter_is_drawn_anew(patch):
    drawn = random.Random(0)
    real = catalog.Catalog.__init__
    patch.setattr(catalog.Catalog, "__init__", lambda self, *given: real(self, *given[:2], str(drawn.random())))


# Attempts.


@mutant("a run is tried for ever", 3)
def retries_have_no_end(patch):
    real = catalog.terms
    patch.setattr(catalog, "terms", lambda config: replace(real(config), max_attempts=99, retry_delay=0))
    recovered = open_runs.OpenRuns.keep

    def keep(self, each):
        if each.slot is not None:
            each.terms = replace(each.terms, max_attempts=99)
        recovered(self, each)

    patch.setattr(open_runs.OpenRuns, "keep", keep)


@mutant("a retry does not wait", 3)
def back_off_is_ignored(patch):
    patch.setattr(run, "retry_delay", lambda *_: 0.0)


@mutant("a new supervisor retries at once what waited", 3)
def recovery_forgets_the_back_off(patch):
    real = recovery.Recovery._recovered_state

    def recovered(self, *given):
        state = real(self, *given)
        return run.Queued(past=state.past) if isinstance(state, run.Backoff) else state

    patch.setattr(recovery.Recovery, "_recovered_state", recovered)


@mutant("an attempt that was lost is made again, whatever the job says", 10)
def lost_attempts_are_rerun(patch):
    real = run.retried
    patch.setattr(run, "retried", lambda reason, outcome, terms: real(reason, outcome, replace(terms, idempotent=True)))


@mutant("the launcher is told of no deadline", 11)
def deadlines_are_not_kept(patch):
    real = lives.Lives.order
    patch.setattr(lives.Lives, "order", lambda self, *given: replace(real(self, *given), timeout=None))


@mutant("the exit code in the row is another's", 6)
def exit_codes_are_mixed_up(patch):
    real = attempts.Facts

    def facts(**more):
        return real(**{**more, "exit_code": 0 if more.get("exit_code") == 3 else more.get("exit_code")})

    patch.setattr(supervisor.attempts, "Facts", facts)


# A new supervisor.


@mutant("an attempt that the launcher holds is given up, and made again where that is allowed", 1, 4, 6)
def held_attempts_are_given_up(patch):
    real = dispatcher.Dispatcher.recover
    patch.setattr(
        dispatcher.Dispatcher,
        "recover",
        lambda self, held, *, same_launcher: real(self, set(), same_launcher=False),
    )


@mutant("what a launcher that is gone had held is started as if it had never begun", 2)
def attempts_of_a_dead_launcher_are_started_again(patch):
    real = dispatcher.Dispatcher.recover
    patch.setattr(
        dispatcher.Dispatcher, "recover", lambda self, held, *, same_launcher: real(self, held, same_launcher=True)
    )


@mutant("an attempt that was decided and not handed over is waited for", 9, 11)
def unsent_attempts_are_waited_for(patch):
    real = recovery.Recovery._recover_running

    def recover(self, each, state, held, *, same_launcher):
        held = {*held, (each.run_id, state.attempt)} if same_launcher else held
        real(self, each, state, held, same_launcher=same_launcher)

    patch.setattr(recovery.Recovery, "_recover_running", recover)


@mutant("a run that waited for a place is not put into the heap again", 1, 11)
def recovery_forgets_the_queue(patch):
    real = recovery.Recovery._recovered_state

    def recovered(self, row, *more):
        state = real(self, row, *more)
        never = run.Past(attempts=0, first_started=row.queued, reason="lost")
        return run.Backoff(until=1 << 60, past=never) if isinstance(state, run.Queued) else state

    patch.setattr(recovery.Recovery, "_recovered_state", recovered)


@mutant("an edit is acknowledged and changes nothing", 8)
def edits_change_nothing(patch):
    def replace_nothing(self, row, definition, source):
        self.changes += 1

    patch.setattr(definitions.Definitions, "replace", replace_nothing)


@mutant("the supervisor says farewell and leaves its jobs behind", 7, 11)
def stop_leaves_jobs_behind(patch):
    real = world.World._has_left

    def has_left(self):
        # A launcher that does not wait either: the boxes live on, and nobody holds them.
        left = [box for box in self.launcher.boxes.values() if box.exit is None] if self.launcher else []
        if self.launcher is not None:
            self.launcher.boxes.clear()
        self.strays += [box.key for box in left]
        real(self)

    def stop(self):
        self.stopping = True
        self._call_soon(self.on_idle)

    patch.setattr(world.World, "_has_left", has_left)
    patch.setattr(dispatcher.Dispatcher, "stop", stop)
    patch.setattr(dispatcher.Dispatcher, "counts", lambda self: {"running": 0, "queued": 0, "retrying": 0})


# What others start, and pauses.


@mutant("what the end of a run starts is written after the end of the run is durable", 13)
def hooks_come_after_the_commit(patch):
    real = triggers.Triggers._hook

    def hook(self, *given):
        self._lives.attempts.defer(lambda: real(self, *given))

    patch.setattr(triggers.Triggers, "_hook", hook)


@mutant("the end of a run starts its hooks, and the next supervisor starts them again", 13)
def hooks_are_started_again(patch):
    real = recovery.Recovery.recover

    def recover(self, held, *, same_launcher):
        ended = [row for row in self._store.history(limit=20) if row.status in ("completed", "failed")]
        yield from real(self, held, same_launcher=same_launcher)
        for row in ended:
            job = self._catalog.by_hash(row.job_uid, row.hash)
            each = open_runs.OpenRun(row.run_id, row.job_uid, job.config, job.terms, run.Queued(), row.slot, 0, {})
            self._lives.on_standing(each, ending.Standing(status=model.JobStatus(row.status)), clock.now_ms())

    patch.setattr(recovery.Recovery, "recover", recover)


@mutant("whatever a parent ends with is taken for what a dependency asks for", 5, 14)
def any_end_satisfies(patch):
    real = gates.satisfies
    patch.setattr(gates, "satisfies", lambda status, when: real(status, "any"))


@mutant("a job that comes after others does not use up what it has started on", 14)
def results_are_not_used_up(patch):
    patch.setattr(store_jobs.Jobs, "clear_arrivals", lambda self, uid: None)


@mutant("how the own previous run ended is not asked", 5)
def own_runs_are_not_asked(patch):
    patch.setattr(gatekeeper.Gatekeeper, "_own", lambda *_: None)


@mutant("a new supervisor knows of no pause, but when it ends", 11, 16)
def recovery_forgets_pauses(patch):
    real = pauses.Pauses.__init__

    def init(self, history):
        real(self, history)
        self._all.clear()

    patch.setattr(pauses.Pauses, "__init__", init)


@mutant("an event starts the first of the jobs that name it alone", 15)
def events_reach_one_job(patch):
    real = store_jobs.Jobs.on_event
    patch.setattr(store_jobs.Jobs, "on_event", lambda self, event: real(self, event)[:1])
