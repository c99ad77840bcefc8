"""The deciding half of a daemon, without processes and without waiting: real store, registry and dispatcher.

Time is `now`, which a test moves; attempts are fakes.FakeAttempts, which a test ends. settle() is what the loop would do:
calls until there is nothing left to call, then a commit.
"""

from collections import deque
from datetime import UTC, date, datetime

import fakes

from lnmt_scheduler.sandbox import syscalls
from lnmt_scheduler.supervisor import (
    attempts,
    bulk,
    catalog,
    clock,
    config,
    definitions,
    desired,
    dispatcher,
    loop,
    planning,
    purge,
    registry,
    restored,
    run,
    store,
    timekeeper,
    vetting,
)

WHO = definitions.Who(uid=0, user="root")
BOOT = "boot-1"


def ms(text):
    """Epoch milliseconds of "12:00", "12:00:30" (of Monday, 2 March 2026) or "2026-03-05 12:00", in UTC."""
    return int(
        datetime.fromisoformat(text if " " in text else f"2026-03-02 {text}").replace(tzinfo=UTC).timestamp() * 1000
    )


def short(at):
    """The other way round: "12:00", or with what more there is to say."""
    moment = datetime.fromtimestamp(at / 1000, UTC)
    time = moment.strftime("%H:%M:%S").removesuffix(":00")
    return time if moment.date() == date(2026, 3, 2) else f"{moment:%Y-%m-%d} {time}"


class World:
    def __init__(self, path, monkeypatch, now="12:00:30", **settings):
        self.path = str(path / "lnmt.db")
        self.settings = config.Settings(**settings)
        self.now = ms(now)
        #: Something such as NTP keeps the clock right.
        self.synchronised = False
        monkeypatch.setattr(clock, "now_ms", lambda: self.now)
        monkeypatch.setattr(syscalls, "clock_is_synchronised", lambda: self.synchronised)
        self._soon = deque()
        self._loop = loop.Loop()
        self._open()
        self.time.start()
        self.settle()

    def _open(self):
        self._soon.clear()
        self.store = store.Store.open(self.path)
        self.catalog = catalog.Catalog(self.store, "UTC")
        self.runs = dispatcher.Dispatcher(self.store, self.catalog, self.settings, self._soon.append)
        self.attempts = self.runs.lives.attempts = fakes.FakeAttempts()
        self.attempts.on_ended = self.runs.on_attempt_ended
        written = definitions.Definitions(self.store, self.catalog, self.runs)
        self.vetting = vetting.Vetting(self.store, self.catalog, self.settings)
        self.registry = registry.Registry(self.store, self.runs, written, self.vetting)
        self.planner = planning.Planner(self.store, self.catalog, written, self.vetting)
        self.purge = purge.Purge(self.store, output_dir=f"{self.path}.output", jobs_dir=f"{self.path}.jobs")
        self.time = timekeeper.Timekeeper(self.store, self.catalog, self.runs, self._loop, lambda: None)
        self.bulk = bulk.Bulk(self.store, written, self.runs)

    def close(self):
        self._close()
        self._loop.close()

    def _close(self):
        self.time.alarm.close()
        self.store.close()

    def settle(self):
        while self._soon:
            self._soon.popleft()()
        self.time.turn()
        self.store.commit()

    def to(self, text):
        """Let it be this time, and everything happen that is due by then, each thing when it is due."""
        until = ms(text)
        self.settle()
        while (wake := self.runs.next_wake()) is not None and wake <= until:
            self.now = max(self.now, wake)
            self.runs.tick()
            self.settle()
        self.now = until

    def late(self, text):
        """Let it be this time at once, as for a process that was stopped."""
        self.now = ms(text)
        self.runs.tick()
        self.settle()

    def set_clock(self, text):
        """Somebody sets the clock, and the kernel says so."""
        self.settle()
        before, self.now = self.now, ms(text)
        self.time._on_step(clock.Stepped((self.now - before) / 1000))
        self.settle()

    def restart(self, text=None, *, held=(), same_launcher=False, crash=False, files=None):
        """A supervisor anew, at this time. A crash takes back what was not committed. `files`: all jobs that are wanted."""
        if not crash:
            self.store.commit()
        self._close()
        if text is not None:
            self.now = ms(text)
        self._open()
        for _ in restored.take_up(self.store, self.catalog, now=self.now, uid=0):
            pass
        for _ in self.runs.recover(set(held), same_launcher=same_launcher):
            pass
        self.time.start()
        if files is not None:
            self.bulk.at_once(self.plan(files), WHO, "start")
        for uid, _, next_slot, _ in list(self.store.schedule_rows()):
            self.runs.slots.set_schedule(uid, next_slot)
            if next_slot is None:
                self.runs.slots.reboot(uid, BOOT)
        self.runs.tick()
        self.settle()

    # Jobs and runs.

    def plan(self, jobs):
        """For these to be all jobs that there are."""
        document = planning.Document("files", definitions.CLI, {"jobs": jobs})
        return desired.last(self.planner.plan([document], owned=lambda _: True, prune=True))

    def add(self, job_id, schedule="0 * * * *", source=definitions.CLI, **keys):
        values = {"id": job_id, "command": "true", "retry_jitter": False, **keys}
        if schedule is not None:
            values["schedule"] = schedule
        row = self.registry.add(values, source, WHO)
        self.settle()
        return row.uid

    def start(self, job_id, **request):
        """A run by hand; its id."""
        job = self.catalog.get(self.job_row(job_id).uid)
        run_id = self.runs.run_now(job, request, by="root", allow_overlap=False)
        self.settle()
        return run_id

    def end(self, job_id, exit_code=0, **outcome):
        """The job's one active run is told that its attempt has ended."""
        (each,) = [one for one in self.runs.active(self.uid(job_id)) if isinstance(one.state, run.Running)]
        facts = attempts.Facts(exit_code=exit_code)
        self.runs.on_attempt_ended(each.run_id, each.state.attempt, run.Outcome(exit_code=exit_code, **outcome), facts)
        self.settle()

    def job_row(self, job_id):
        return definitions.find(self.store, job_id)

    def uid(self, job_id):
        return self.store.latest_uid(job_id)

    def rows(self, job_id):
        """The job's runs, oldest first."""
        return self.store.history(job_id, limit=10_000)[::-1]

    def row(self, job_id):
        """Its newest."""
        return self.rows(job_id)[-1]

    def told(self, job_id):
        """(slot, how it ended or where it is) of each of its runs, oldest first."""
        return [
            (short(row.slot) if row.slot is not None else None, row.reason or row.status) for row in self.rows(job_id)
        ]

    def launched(self):
        """Ids of the jobs that were started, in order."""
        return [order.job.id for order in self.attempts.orders]
