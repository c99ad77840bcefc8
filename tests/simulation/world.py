"""One simulated history: a launcher, its supervisors, clients, and all that can befall them; and what the checker asks for.

The world does what is due in the order of virtual time, wakes the supervisor when its alarm or a message would, and strikes:
at a point between two effects (point), at a commit, or at any time. Whatever a client was told is noted when it was told.
"""

import functools
import gc
import random
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from checking import evidence, lives, readers
from simulation import launcher, script, supervisor, timeline

from lnmt_scheduler.sandbox import syscalls
from lnmt_scheduler.supervisor import (
    clock,
    config,
    daemon,
    definitions,
    desired,
    dispatcher,
    hand,
    journal,
    overlap,
    planning,
    store,
    store_jobs,
    store_runs,
    zonefile,
)
from lnmt_scheduler.supervisor.connection import RefusedError

#: 2027-01-01: well behind the year in which the version was made, before which no clock is believed.
BEGIN = 1_798_761_600_000
#: Milliseconds before each new supervisor in a crash loop, as the launcher has them.
BACKOFF = (0, 100, 500, 1000, 2000, 5000, 10_000)
#: Milliseconds after which a loop that does not turn may be taken for hung.
HUNG = 30_000
#: Runs of a job that may wait in line: a hundred of them would be taken up anew by each of thousands of supervisors.
LINE = 8
#: Turns without a millisecond going by: the loop spins.
SPINS = 5000


class World:
    def __init__(self, seed: int, kind: script.Kind, *, trace: bool = False) -> None:
        self.rng = random.Random(f"{kind.name} {seed}")
        self.kind = kind
        self.script = script.Script(self.rng, kind)
        begin = BEGIN + self.rng.randrange(3 * 365) * script.DAY
        self.time = timeline.Timeline(begin)
        self.settings = config.Settings(
            max_concurrent_jobs=self.rng.choice((2, 3, 20)), timezone="UTC", aging=60, stop_grace=30,
            pools={"disk": 1, "net": 2},
        )  # fmt: skip
        self.db = _new_database()
        self.evidence = evidence.Evidence(
            begin=begin, end=0, places=self.settings.max_concurrent_jobs, reserved=self.settings.reserved_slots,
            pools=dict(self.settings.pools), aging=self.settings.aging, line=LINE,
        )  # fmt: skip
        #: As in life, one page for all supervisors. Here nobody is accused: a death has no job to blame.
        self.hand = hand.Hand(None)
        self.full = False
        self.launcher: launcher.Launcher | None = None
        self.supervisor: supervisor.Supervisor | None = None
        #: Boxes that nobody holds any more; only a bug makes them.
        self.strays: list[launcher.Key] = []
        self._pids = 1000
        self._crashes = 0
        self._started = 0
        #: (kind, begin) of what struck and is not over.
        self._striking: list[tuple[str, int]] = []
        self._full_since: int | None = None
        self._held_since: int | None = None
        #: What clients wait for; and what they know of the jobs.
        self._pending: list[dict] = []
        self._jobs: dict[str, dict] = {}
        self._enabled: dict[str, bool] = {}
        #: What may be paused, for all that they know.
        self._paused: set[str] = set()
        #: Names that were given to jobs that had another.
        self._renamed: set[str] = set()
        #: Who changes job files draws from a source of his own.
        self._editor = script.Script(random.Random(f"files {kind.name} {seed}"), kind)
        self._points = self.rng.expovariate(1 / kind.points)
        self.faults = 0
        self.trace: list[str] | None = [] if trace else None

    def run(self) -> evidence.Evidence:
        """Live through it, and give what the checker is to judge."""
        with timeline.kept(self.time), _quiet():
            supervisor.TIME = self.time
            self._start_launcher()
            for _ in range(self.kind.jobs):
                self._add()
            self._every(self.kind.faults, self._strike)
            self._every(self.kind.requests, self._ask)
            self._live(self.evidence.begin + self.kind.length)
            self.script.calm = True
            self._resume_all()
            if self.full:
                self._empty_disk()
            self._live(self.time.true + self.kind.rest)
            self._close()
        return self.evidence

    def _close(self) -> None:
        found = self.evidence
        found.end = self.time.true
        found.tables = readers.tables(self.db)
        living = [*(self.launcher.living if self.launcher is not None else []), *self.strays]
        found.alive = [evidence.Alive(run_id=run_id, attempt=attempt) for run_id, attempt in living]
        if self._striking or self.supervisor is None:
            found.broken.append(f"the daemon never came back from {self._striking}")

    # Time.

    def _live(self, until: int) -> None:
        spins, last = 0, -1
        while True:
            times = [self.time.next()]
            if self.supervisor is not None and self.supervisor.is_up and not self._is_busy():
                times.append(self.time.true if self.supervisor.has_work else self.supervisor.next_true())
            upcoming = min((at for at in times if at is not None), default=None)
            if upcoming is None or upcoming > until:
                self.time.true = max(self.time.true, until)
                return
            self.time.true = max(self.time.true, upcoming)
            spins = spins + 1 if self.time.true == last else 0
            last = self.time.true
            if spins > SPINS:
                self.evidence.broken.append(f"the supervisor spins at {self.time.true}")
                return
            while (do := self.time.take()) is not None:
                do()
            self._serve()

    def _is_busy(self) -> bool:
        return self.supervisor is not None and self.supervisor.busy > self.time.monotonic

    def _serve(self) -> None:
        """Let the supervisor take a turn, if it has something to do."""
        mine = self.supervisor
        if mine is None or not mine.is_up or self._is_busy() or not mine.is_due:
            return
        try:
            mine.turn()
        except supervisor.Died:
            self._supervisor_died("supervisor")
        except store.StoreError:
            self._supervisor_died("store")
        else:
            self._look_at_doubt()
            if not mine._loop.running:
                self._has_left()

    def _every(self, mean: int, do: Callable[[], None]) -> None:
        def again() -> None:
            if not self.script.calm:
                do()
                self._every(mean, do)

        ms = self.script.between(mean)
        upcoming = None if self.supervisor is None else self.supervisor.next_true()
        if upcoming is not None and self.rng.random() < 0.3:
            # Just when something is due, or a moment before or after.
            ms = upcoming - self.time.true + self.rng.choice((0, 0, -1, 1, 3))
        self.time.at(self.time.true + max(1, ms), again)

    # What strikes.

    def point(self) -> None:
        """Between two effects of the supervisor."""
        self._points -= 1
        if self._points < 0 and not self.script.calm:
            self._points = self.rng.expovariate(1 / self.kind.points)
            raise supervisor.Died

    def commit_may_fail(self) -> None:
        if not self.script.calm and self.rng.randrange(self.kind.commits) == 0:
            if self.rng.random() < 0.3:
                self.db.execute("COMMIT")  # it is done, and fsync said that it was not
            raise store.StoreError("io", "simulated: disk I/O error")

    def committed(self) -> None:
        """For a mutant that needs to know."""

    def _strike(self) -> None:
        rng = self.rng
        what = rng.choices(
            ("supervisor", "launcher", "reboot", "step", "suspend", "slow", "full", "drain", "stop"),
            (30, 8, 6, 14, 8, 12, 8, 2, 5),
        )[0]
        match what:
            case "supervisor":
                if self.supervisor is not None:
                    self._supervisor_died("supervisor")
            case "launcher" | "reboot":
                self._launcher_died(what)
            case "step":
                self._step(self.script.step())
            case "suspend":
                self._suspend(1 + self.script.downtime())
            case "slow":
                self._be_slow(rng.choice((50, 3000, 40_000, 70_000, 300_000)))
            case "full":
                self._empty_disk() if self.full else self._fill_disk()
            case "drain":
                self._drain()
            case "stop":
                self._stop()

    def _note(self, text: str) -> None:
        if self.trace is not None:
            self.trace.append(f"{self.time.true} (wall {self.time.wall}) {text}")

    def _log(self, kind: str, begin: int, end: int, by: int = 0) -> None:
        self.evidence.faults.append(evidence.Fault(kind=kind, begin=begin, end=end, by=by))

    def _struck(self, kind: str) -> None:
        self.faults += 1
        self._striking.append((kind, self.time.true))
        self._note(kind)

    def _step(self, by: int) -> None:
        self.faults += 1
        self._note(f"the clock is set by {by} ms")
        self.time.offset += by
        self._log("step", self.time.true, self.time.true, by)

    def _suspend(self, ms: int) -> None:
        self.faults += 1
        self._note(f"the host sleeps for {ms} ms")
        begin = self.time.true
        self.time.true += ms
        self.time.asleep += ms
        self._log("suspend", begin, self.time.true)

    def _be_slow(self, ms: int) -> None:
        if self.supervisor is None or not self.supervisor.is_up:
            return
        self.faults += 1
        self._note(f"the loop stands still for {ms} ms")
        mine = self.supervisor
        mine.busy = max(mine.busy, self.time.monotonic + ms)
        begin = self.time.true
        if ms > HUNG and self.rng.random() < 0.5:
            self.time.after(HUNG, lambda: self._hung(mine))
        self.time.after(ms, lambda: self._log("slow", begin, self.time.true))

    def _hung(self, mine: supervisor.Supervisor) -> None:
        """The launcher replaces one that does not answer."""
        if self.supervisor is mine and self._is_busy():
            self._supervisor_died("supervisor")

    def _fill_disk(self) -> None:
        self.faults += 1
        self._note("the disk is full")
        self.full = True
        self._full_since = self.time.true

    def _empty_disk(self) -> None:
        self.faults += 1
        self._note("the disk has room")
        self.full = False
        self._log("full", self._full_since or self.time.true, self.time.true + 10)
        mine = self.supervisor
        if mine is not None and mine.is_up:
            mine.inbox.append(mine._watch_disk)

    def _drain(self) -> None:
        mine = self.supervisor
        if mine is not None and mine.is_up and not any(kind == "drain" for kind, _ in self._striking):
            self._struck("drain")
            mine.inbox.append(mine.drain)
            self._stop_later()

    def _stop_later(self) -> None:
        """A drained daemon starts nothing until it is started anew, also not by another supervisor."""
        master = self.launcher

        def stop() -> None:
            self._stop()
            if self.launcher is master and not master.stopping:
                self._stop_later()

        self.time.after(1 + self.script.downtime(), stop)

    def _stop(self) -> None:
        if self.launcher is not None and self.supervisor is not None and not self.launcher.stopping:
            self._struck("stop")
            self.launcher.stop()

    # Lives and deaths.

    def _start_launcher(self) -> None:
        self._pids += 1
        self._crashes = 0
        self.launcher = launcher.Launcher(self, self._pids)
        self._start_supervisor()

    def _start_supervisor(self) -> None:
        if self.launcher is None or self.supervisor is not None:
            return
        welcome, *told = self.launcher.welcome()
        self.supervisor = supervisor.Supervisor(self, welcome)
        self.supervisor.inbox.extend(told)
        self._started = self.time.true
        try:
            self.supervisor.start()
        except supervisor.Died:
            self._supervisor_died("supervisor")
            return
        except store.StoreError:
            self._supervisor_died("store")
            return
        for kind, begin in self._striking:
            self._log(kind, begin, self.time.true)
        self._striking.clear()
        self._look_at_doubt()
        if self.supervisor.runs.draining:
            self._striking.append(("drain", self.time.true))
        self._note("a supervisor is up")

    def _look_at_doubt(self) -> None:
        """A daemon that holds its schedule says so, and somebody who sees it asks for a reload, sooner or later."""
        mine = self.supervisor
        held = mine is not None and mine.is_held
        if held and self._held_since is None:
            self._note("the clock is doubted")
            self._held_since = self.time.true
            self.time.after(self.script.downtime(), self._reload)
        elif not held and self._held_since is not None:
            self._note("the clock is believed")
            self._log("held", self._held_since, self.time.true)
            self._held_since = None

    def _reload(self) -> None:
        mine = self.supervisor
        if mine is not None and mine.is_up:
            mine.inbox.append(mine.reload)
        if self._held_since is not None:
            self.time.after(5000, self._reload)

    def _gone(self) -> None:
        """No supervisor any more: what it had not committed is gone, and who waited for it knows nothing."""
        self.db.rollback()
        self.supervisor = None
        for asked in self._pending:
            self._record(asked, acked=False)
        self._pending.clear()

    def _supervisor_died(self, kind: str) -> None:
        self._struck(kind)
        self._gone()
        master = self.launcher
        if master is None:
            return
        master.drain()
        if master.stopping or master.farewell:
            self._launcher_died("launcher")  # it waits for no other, and the boxes go with it
            return
        lived = self.time.true - self._started
        self._crashes = 0 if lived > BACKOFF[-1] else min(self._crashes + 1, len(BACKOFF) - 1)
        self.time.after(BACKOFF[self._crashes], lambda: self._successor(master))

    def _successor(self, master: launcher.Launcher) -> None:
        if self.launcher is master:
            self._start_supervisor()

    def _launcher_died(self, kind: str) -> None:
        if self.launcher is None:
            return
        self._struck(kind)
        self._gone()
        self.launcher.die()
        self.launcher = None
        # A launcher takes time to start, so that what began in this millisecond was ended by this.
        ms = max(1, self.script.downtime())
        if kind == "reboot":
            self.time.boot += 1
            if self.rng.random() < 0.2:
                self._step(self.script.step())
        self.time.at(self.time.true + ms, self._start_launcher)

    def _has_left(self) -> None:
        """The supervisor has said farewell; the launcher follows, and somebody starts the daemon again."""
        master = self.launcher
        self.supervisor._store.commit()
        self._gone()
        self._note("the daemon has stopped")
        if master is not None:
            master.drain()
            if master.living:
                self.evidence.broken.append(f"the daemon has left at {self.time.true}, and there are {master.living}")
            master.die()
        self.launcher = None
        self.time.at(self.time.true + self.script.downtime(), self._start_launcher)

    # Between launcher and supervisor, and what jobs leave behind.

    def tell(self, message: object) -> None:
        """To the supervisor of now; one that is dead hears nothing."""
        mine = self.supervisor
        if mine is None:
            return

        def arrive() -> None:
            if self.supervisor is mine:
                mine.inbox.append(message)

        self.time.after(self.rng.randrange(2), arrive)

    def began(self, key: launcher.Key) -> int:
        """A job has come to its first line; the place of its witness."""
        row = self.db.execute("SELECT job_id, slot FROM job_history WHERE run_id = ?", key[:1]).fetchone()
        job, slot = row or ("?", None)
        witness = evidence.Witness(job=job, run_id=key[0], attempt=key[1], slot=slot, start=self.time.true)
        self.evidence.witnesses.append(witness)
        self._note(f"attempt {key} of {job} begins")
        return len(self.evidence.witnesses) - 1

    def ended(self, place: int, code: int | None) -> None:
        """It came to its last line, if it was not ended from outside."""
        before = self.evidence.witnesses[place]
        self._note(f"attempt {before.run_id, before.attempt} ends with {code}")
        if code is not None:
            self.evidence.witnesses[place] = evidence.Witness(
                job=before.job,
                run_id=before.run_id,
                attempt=before.attempt,
                slot=before.slot,
                start=before.start,
                end=self.time.true,
                code=code,
            )

    def stuck(self, since: int) -> None:
        self._log("stuck", since, self.time.true)

    def is_silent(self, key: launcher.Key) -> bool:
        box = self.launcher.boxes.get(key) if self.launcher is not None else None
        return box is not None and box.exit is None and box.play.silent

    # Clients.

    def _ask(self) -> None:
        if self.supervisor is None or not self.supervisor.is_up:
            return
        ids = sorted(self._jobs)
        what = self.rng.choices(
            ("run", "cancel", "edit", "disable", "enable", "again", "add", "remove", "import", "trigger", "pause", "resume",
             "rename"),
            (8, 5, 6, 6, 7, 2, 2, 2, 1, 4, 2, 4, 1),
        )[0]  # fmt: skip
        if what == "add" or not ids:
            self._add()
            return
        job_id = self.rng.choice(ids)
        match what:
            case "run":
                self._run(job_id)
            case "cancel":
                self._cancel()
            case "edit":
                changes = self.script.edit(self._jobs[job_id], [each for each in ids if each != job_id])
                self._request(
                    "edit",
                    job_id,
                    lambda mine: mine.registry.edit(job_id, changes, (), supervisor.WHO),
                    changes=changes,
                )
            case "disable" | "enable":
                on = what == "enable"
                if self._enabled[job_id] != on:
                    self._switch(job_id, on=on)
            case "again":
                if self._enabled[job_id]:
                    for on in (False, True):
                        self._switch(job_id, on=on)
            case "remove":
                self._request("remove", job_id, lambda mine: mine.registry.remove(job_id, supervisor.WHO, purge=False))
            case "import":
                self._import(job_id)
            case "trigger":
                self._trigger(self.rng.choice(script.EVENTS))
            case "pause":
                self._pause(evidence.SCHEDULE if self.rng.random() < 0.15 else job_id)
            case "resume":
                if self._paused:
                    self._resume(self.rng.choice(sorted(self._paused)))
            case "rename":
                self._rename(job_id)

    def _trigger(self, event: str) -> None:
        asked = self._asked("trigger", event)

        def fire(mine: supervisor.Supervisor) -> None:
            asked["run_ids"] = tuple(mine.registry.trigger(event, {"n": self.time.true}, supervisor.WHO))

        self._send([asked], fire)

    def _pause(self, target: str) -> None:
        seconds = self.rng.choice((None, 60, 900, 7200))
        self._paused.add(target)
        job_id = None if target == evidence.SCHEDULE else target
        self._request(
            "pause",
            target,
            lambda mine: mine.registry.pause(job_id, seconds, None, supervisor.WHO),
            seconds=seconds,
        )

    def _resume(self, target: str) -> None:
        job_id = None if target == evidence.SCHEDULE else target
        self._request("resume", target, lambda mine: mine.registry.resume(job_id, supervisor.WHO))

    def _resume_all(self) -> None:
        """Nobody is to forget a pause."""
        for target in sorted(self._paused):
            self._resume(target)
        if self._paused:
            self.time.after(5000, self._resume_all)

    def _rename(self, job_id: str) -> None:
        new = self.script.new_id()
        self._renamed.add(new)
        self._request("rename", job_id, lambda mine: mine.registry.rename(job_id, new, supervisor.WHO), new=new)

    def _add(self) -> None:
        job_id = self.script.new_id()
        if self.rng.random() < 0.2 and (gone := sorted(set(self._enabled) - set(self._jobs) - self._renamed)):
            job_id = self.rng.choice(gone)  # a name that was another's
        # The first of all are asked for together: who is answered later names those that were sent before.
        known = self._jobs or [asked["job"] for asked in self._pending]
        definition = self.script.definition(job_id, sorted(known))
        self._request(
            "add",
            job_id,
            lambda mine: mine.registry.add(definition, definitions.CLI, supervisor.WHO),
            definition=definition,
        )

    def _switch(self, job_id: str, *, on: bool) -> None:
        verb = "enable" if on else "disable"
        self._request(verb, job_id, lambda mine: mine.registry.enable(job_id, supervisor.WHO, on=on))

    def load_files(self, mine: supervisor.Supervisor) -> None:
        """As a supervisor starts: all jobs as they are known, but for one that somebody has changed in its file meanwhile."""
        rng = self._editor.rng
        changes = self.evidence.changes
        is_at_once = bool(changes) and changes[-1].until == self.time.true  # which of two was done nobody could tell
        if self.script.calm or not self._jobs or is_at_once or rng.random() >= 0.1:
            return
        job_id, wanted = rng.choice(sorted(self._jobs)), dict(self._jobs)
        definition = wanted.pop(job_id)
        match rng.choice(("edit", "switch", "remove")):
            case "edit":
                wanted[job_id] = {**definition, **self._editor.edit(definition, [])}
            case "switch":
                wanted[job_id] = {**definition, "enabled": not definition.get("enabled", True)}
            case "remove":
                pass
        document = planning.Document("files", definitions.CLI, {"jobs": list(wanted.values())})
        try:
            plan = desired.last(mine.planner.plan([document], owned=lambda _: True, prune=True))
        except RefusedError:
            return  # others depend on it
        if len(plan.steps) != 1:
            return  # what is known is not quite so
        action = "import" if job_id in wanted else "remove"
        asked = self._asked(action, job_id, definition=wanted.get(job_id))
        self._pending.append(asked)
        mine.bulk.at_once(plan, supervisor.WHO, "import")
        mine.server.answers.append(lambda: self._answer([asked]))

    def _import(self, job_id: str) -> None:
        """One document that changes a job and adds another: all or nothing."""
        added = self.script.definition(self.script.new_id(), [])
        changed = {
            **self._jobs[job_id],
            **self.script.edit(self._jobs[job_id], []),
            "description": f"beside {added['id']}",
        }
        document = planning.Document("file", definitions.CLI, {"jobs": [changed, added]})

        def carry_out(mine: supervisor.Supervisor) -> None:
            work = mine.planner.plan([document], owned=lambda _: True, prune=False)
            while True:
                try:
                    next(work)
                except StopIteration as end:
                    mine.bulk.at_once(end.value, supervisor.WHO, "import")
                    return

        asked = [
            self._asked("import", job_id, definition=changed),
            self._asked("import", added["id"], definition=added),
        ]
        self._send(asked, carry_out)

    def _run(self, job_id: str) -> None:
        overlap, retries = self.rng.random() < 0.2, self.rng.random() < 0.3
        asked = self._asked("run", job_id, allow_overlap=overlap)

        def start(mine: supervisor.Supervisor) -> None:
            job = mine.catalog.get(mine.job_row(job_id).uid)
            request = {"with_retries": True} if retries else {}
            if mine._runs.stopping or mine._runs.draining:
                raise RefusedError(69, "stopping")
            asked["run_id"] = mine.runs.run_now(job, request, by="root", allow_overlap=overlap)
            mine.registry.audit_run(supervisor.WHO, "run", job_id, {"run_id": asked["run_id"]})

        self._send([asked], start)

    def _cancel(self) -> None:
        mine = self.supervisor
        run_ids = sorted(each.run_id for each in mine.runs.open) if mine is not None else []
        if not run_ids:
            return
        run_id = self.rng.choice(run_ids)
        asked = self._asked("cancel", mine.runs.open[run_id].job.id, run_id=run_id)

        def cancel(mine: supervisor.Supervisor) -> None:
            each = mine.runs.find(run_id)
            if each is None:
                raise RefusedError(3, "it has ended")
            mine.registry.audit_run(supervisor.WHO, "cancel", each.job.id, {"run_id": run_id})

            def on_event(what: str) -> None:
                if what == "end":
                    mine.server.answers.append(lambda: self._answer([asked]))

            each.watchers.append(on_event)
            mine.runs.cancel(run_id)

        self._send([asked], cancel, answers=False)

    def _request(self, action: str, job_id: str, do: Callable[[supervisor.Supervisor], object], **more: object) -> None:
        self._send([self._asked(action, job_id, **more)], do)

    def _asked(self, action: str, job_id: str, **more: object) -> dict:
        (audited,) = self.db.execute("SELECT coalesce(max(id), 0) FROM audit").fetchone()
        return {
            "action": action,
            "job": job_id,
            "sent": self.time.true,
            "definition": None,
            "audited": audited,
            **more,
        }

    def _send(self, asked: list[dict], do: Callable[[supervisor.Supervisor], object], *, answers: bool = True) -> None:
        mine = self.supervisor
        if mine is None:
            return
        self._pending += asked

        def handle() -> None:
            try:
                with mine.whole():
                    do(mine)
            except (RefusedError, dispatcher.BusyError) as refused:
                self._note(f"refused: {asked[0]['action']} {asked[0]['job']}: {refused}")
                if asked[0]["action"] == "resume":
                    self._paused.discard(asked[0]["job"])  # there is no such job any more
                self._pending = [each for each in self._pending if not any(each is one for one in asked)]
                return
            if answers:
                mine.server.answers.append(lambda: self._answer(asked))

        mine.inbox.append(handle)

    def _answer(self, asked: list[dict]) -> None:
        for each in asked:
            self._record(each, acked=True)
        self._pending = [each for each in self._pending if not any(each is one for one in asked)]

    def _record(self, asked: dict, *, acked: bool) -> None:
        """A client knows, or will never know. What it does not know it looks up, as a person would."""
        values = {**asked, "until": self.time.true, "acked": acked}
        changes, audited = values.pop("changes", None), values.pop("audited")
        action, job_id = values["action"], values["job"]
        if action == "edit" and changes is not None:
            values["definition"] = {**self._jobs.get(job_id, {"id": job_id}), **changes}
        if action not in ("run", "cancel"):
            self._note(f"{'done' if acked else 'unknown'}: {action} {job_id} {values['definition'] or ''}")
        self.evidence.changes.append(evidence.Change(**values))
        if acked or self._was_done(values, audited):
            self._know(action, job_id, values["definition"], values.get("new"))

    def _was_done(self, values: dict, audited: int) -> bool:
        of_plans = {"import": ("import: add", "import: change"), "remove": ("remove", "import: remove")}
        names = of_plans.get(values["action"], (values["action"],) * 2)
        text = "SELECT count(*) FROM audit WHERE target = ? AND id > ? AND action IN (?, ?)"
        return bool(self.db.execute(text, (values["job"], audited, *names)).fetchone()[0])

    def _know(self, action: str, job_id: str, definition: dict | None, new: str | None) -> None:
        match action:
            case "add":
                self._jobs[job_id] = definition
                self._enabled[job_id] = True
            case "edit":
                self._jobs[job_id] = definition
            case "import":
                is_on = definition.get("enabled", True)
                if job_id not in self._jobs or is_on != self._jobs[job_id].get("enabled", True):
                    self._enabled[job_id] = is_on
                self._jobs[job_id] = definition
            case "enable" | "disable":
                self._enabled[job_id] = action == "enable"
            case "remove":
                self._jobs.pop(job_id, None)
                self._paused.discard(job_id)
            case "resume":
                self._paused.discard(job_id)
            case "rename":
                self._jobs = {
                    definition["id"]: definition
                    for definition in (lives.renamed(each, job_id, new) for each in self._jobs.values())
                }
                self._enabled[new] = self._enabled.pop(job_id)
                if job_id in self._paused:
                    self._paused.add(new)
                    self._paused.discard(job_id)


def _new_database() -> sqlite3.Connection:
    db = sqlite3.connect(":memory:", isolation_level=None, cached_statements=256)
    for version, text in store.migrations():
        db.executescript(f"BEGIN;\n{text}\nPRAGMA user_version={version};\nCOMMIT;")
    return db


def _remembering(read: Callable) -> Callable:
    """Makes the same row of the same values. Each of thousands of supervisors reads the same rows, and changes none."""
    return functools.lru_cache(maxsize=10_000)(read)


@contextmanager
def _quiet() -> Iterator[None]:
    """What the daemon asks of the host is answered by the world, and its log is read by nobody.

    A fifth of the time would go into looking for garbage, which is small: it is looked for between histories.
    """
    places = (
        (store_jobs, "_job", _remembering(store_jobs._job)),
        (store_runs, "_run", _remembering(store_runs._run)),
        (store_runs, "_attempt", _remembering(store_runs._attempt)),
        (journal, "write", lambda *_: None),
        (daemon, "_start_time", str),
        (clock, "Alarm", supervisor.Alarm),
        (syscalls, "clock_is_synchronised", lambda: False),
        (overlap, "LINE", LINE),
        (zonefile, "digest", functools.cache(zonefile.digest)),
    )
    before = [(module, name, getattr(module, name)) for module, name, _ in places]
    for module, name, value in places:
        setattr(module, name, value)
    gc.disable()
    try:
        yield
    finally:
        gc.enable()
        for module, name, value in before:
            setattr(module, name, value)
