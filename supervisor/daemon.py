"""The supervisor's main: opens everything, wires it, and turns the loop until the launcher may be told farewell.

It has no policy of its own. A turn of the loop ends in `_after_turn`: commit what was decided, then let it take effect
(launches, acknowledgements, answers), then sleep until the next thing is due. Should the store fail to take a decision, the
process ends: nothing that was not written down has happened, and the launcher starts a successor.
"""

import os
import resource
import signal
import socket
import sys
import time
from collections import deque
from collections.abc import Callable, Iterator
from typing import Any

from lnmt_scheduler.ipc import control, messages
from lnmt_scheduler.jobs import load
from lnmt_scheduler.sandbox import probe
from lnmt_scheduler.supervisor import (
    almanac,
    attempts,
    bulk,
    catalog,
    clock,
    config,
    connection,
    definitions,
    descriptors,
    desired,
    dispatcher,
    fitness,
    handlers,
    housekeeping,
    in_force,
    journal,
    link,
    loop,
    options,
    planning,
    purge,
    registry,
    reserve,
    restored,
    snapshot,
    state,
    store,
    timekeeper,
    trial,
    version,
    vetting,
    watchers,
    whole,
)
from lnmt_scheduler.supervisor import control as server
from lnmt_scheduler.supervisor import trouble as troubles

#: Seconds between two looks at a disk that is full.
_DISK_S = 5.0
#: Seconds of a turn for long work that nobody waits for.
_SLICE_S = 0.01
_OVER = object()


class Daemon:
    def __init__(self, chosen: Any, to_launcher: link.Link) -> None:
        """Open and wire everything. ConfigError, StoreError, JobsInvalid or OSError if it cannot be."""
        self._options = chosen
        self._paths = options.resolve(chosen)
        self._link = to_launcher
        self._welcome = to_launcher.welcome
        self._started = time.monotonic()
        self._desired = desired.Desired(self._paths, named=chosen.config is not None, job_files=chosen.jobs)
        #: It takes the place of another, whose jobs run: no mistake in a file may keep it from that.
        self._follows = chosen.successor or chosen.standby
        #: What is wrong with files that were therefore not taken.
        self._mistakes: list[str] = []
        found = self._read_settings()
        self._settings = found or config.Settings()
        self._loop = loop.Loop()
        self._effects: deque[Callable[[], None]] = deque()
        self._farewell: int | None = None
        #: What the launcher said while the store could not be used.
        self._kept: list[tuple[object, list[int]]] = []
        self._drains: list[connection.Reply] = []
        self._restarts: list[connection.Reply] = []
        self._leaves = False
        self._store = self._open_store()
        if found is None:
            self._settings = in_force.kept(self._store, self._paths.config_file)
        jobs_dir = os.path.join(self._paths.state_dir, "jobs")
        os.makedirs(jobs_dir, mode=0o711, exist_ok=True)
        os.makedirs(self._paths.output_dir, mode=0o700, exist_ok=True)
        self._reserve = reserve.Reserve(os.path.join(self._paths.state_dir, "reserve"), self._settings.reserve)
        zone = self._settings.timezone or config.host_zone()
        self._catalog = catalog.Catalog(self._store, zone, config.host_name())
        self._runs = dispatcher.Dispatcher(self._store, self._catalog, self._settings, self._loop.call_soon)
        self._runs.on_idle = self._on_idle
        self._runs.lives.take = to_launcher.hand.take
        self._attempts = attempts.Attempts(
            self._loop,
            self._settings,
            output_dir=self._paths.output_dir,
            jobs_dir=jobs_dir,
            daemon_files=self._daemon_files(),
            runs_as=self._runs_as,
            send=to_launcher.send,
            defer=self._effects.append,
            on_ended=self._runs.on_attempt_ended,
            on_exceeded=self._runs.on_exceeded,
            on_life=self._on_life,
            on_unknown=self._runs.on_unknown_exit,
            snapshot=lambda: snapshot.Making(self._store),
        )
        self._runs.lives.attempts = self._attempts
        self._attempts.take = to_launcher.hand.take
        self._definitions = definitions.Definitions(self._store, self._catalog, self._runs)
        self._vetting = vetting.Vetting(
            self._store,
            self._catalog,
            self._settings,
            obstacles=lambda job: fitness.obstacles(
                job,
                daemon_uid=self._runs_as(),
                daemon_files=self._daemon_files(),
                jobs_dir=jobs_dir,
                mode=self._host().mode,
            ),
        )
        self._registry = registry.Registry(self._store, self._runs, self._definitions, self._vetting)
        self._planner = planning.Planner(self._store, self._catalog, self._definitions, self._vetting)
        self._bulk = bulk.Bulk(self._store, self._definitions, self._runs)
        self._trials = trial.Trials(
            self._loop,
            self._settings,
            directory=os.path.join(self._paths.state_dir, "trials"),
            jobs_dir=jobs_dir,
            daemon_files=self._daemon_files(),
            own_files=[self._paths.database, self._paths.config_file, self._paths.lock, self._paths.output_dir],
            socket=self._paths.socket,
            host=self._host,
            runs_as=self._runs_as,
            send=to_launcher.send,
            defer=self._effects.append,
        )
        self._purge = purge.Purge(self._store, output_dir=self._paths.output_dir, jobs_dir=jobs_dir)
        self._watchers = watchers.Watchers(self._loop, watchers.Painter(self._store, self._runs, self._progress))
        self._time = timekeeper.Timekeeper(self._store, self._catalog, self._runs, self._loop, self._take_zone)
        self._almanac = almanac.Almanac(self._store, self._catalog, self._runs.slots)
        self._state = state.State(
            self._welcome,
            self._store,
            self._runs,
            self._reserve,
            self._time,
            self._almanac,
            self._loop,
            lambda: self._settings,
            self._mistakes,
        )
        self._handlers = handlers.Handlers(
            self._store,
            self._catalog,
            self._runs,
            self._vetting,
            self._registry,
            self._planner,
            self._bulk,
            self._trials,
            self._purge,
            output_dir=self._paths.output_dir,
            jobs_dir=jobs_dir,
            runs_as=self._runs_as,
            host=self._host,
            default=self._state.default,
            state=self._state.view,
            watch=self._watchers.add,
            reload=self._on_reload,
            stop=self._stop,
            restart=self._restart,
            drain=self._drain,
        )
        self._share = self._share_descriptors()
        self._reload = desired.Reload(
            self._desired,
            self._planner,
            self._bulk,
            self._handlers.carry_out,
            settings=lambda: self._settings,
            configure=self._configure,
            in_turns=self._in_turns,
        )
        self._housekeeping = housekeeping.Housekeeping(
            self._store, self._loop, lambda: self._settings, output_dir=self._paths.output_dir
        )
        self._server: server.Server

    def _read_settings(self) -> config.Settings | None:
        """What config.toml says; None if there is something wrong with it, and what it said before is to hold."""
        try:
            return self._desired.settings()
        except config.ConfigError as error:
            if not self._follows:
                raise
            self._mistakes += error.problems
            return None

    def _open_store(self) -> store.Store:
        """The store; a successor waits for it where the first supervisor of a daemon would say what is wrong and end."""
        try:
            return store.Store.open(self._paths.database, create=not self._follows)
        except store.StoreError as error:
            if not self._follows:
                raise
            return self._wait_for_store(error)

    def _wait_for_store(self, error: store.StoreError) -> store.Store:
        """What the launcher says meanwhile is kept, and heard when the open runs are taken up."""
        told = self._welcome
        self._link.listen(self._loop, self._keep)
        if self._link.can_replace:
            self._link.send(messages.Watch(), (self._loop.duplicate(),))
        facts = {
            "pid": os.getpid(),
            "launcher_pid": told.launcher_pid,
            "version": version.VERSION,
            "launcher_version": told.package,
            **dict.fromkeys(("jobs", "queued", "retrying", "enabled")),
            "running": len(told.held),
            "next": None,
            "max_concurrent_jobs": self._settings.max_concurrent_jobs,
            "draining": False,
            "default_profile": self._settings.default_sandbox["profile"],
            "mode": told.mode,
            "layers": told.layers,
        }
        trouble = troubles.Trouble(
            self._loop,
            self._paths,
            self._role_of,
            launcher=told.launcher_pid,
            facts=lambda: {
                **facts,
                "uptime": round(time.monotonic() - self._started, 3),
                "turns": self._loop.turns,
            },
        )
        opened = trouble.wait(error, lambda: any(isinstance(message, messages.Stop) for message, _ in self._kept))
        if opened is None:
            self._link.send(messages.Farewell(code=0))
            raise SystemExit(0)
        return opened

    def _keep(self, message: object, fds: list[int]) -> None:
        if isinstance(message, messages.Ping):
            self._link.send(messages.Pong(number=message.number))
        else:
            self._kept.append((message, fds))

    def run(self) -> int:
        """Serve until the end; the daemon's exit code."""
        # Nothing is heard before the loop turns, when the open runs are taken up and it means something.
        self._link.listen(self._loop, self._hear)
        self._accuse()
        self._begin()
        self._state.tell_problems()
        self._in_turns(self._almanac.check())
        for message, fds in self._kept:
            self._hear(message, fds)
        self._kept.clear()
        self._link.hand.free()
        self._server = server.Server(
            self._loop,
            self._paths.socket,
            self._handlers.table(),
            self._role_of,
            launcher=self._welcome.launcher_pid,
            room=lambda: self._share.clients,
            whole=whole.Whole(self._store, self._catalog, self._runs, self._effects),
        )
        self._loop.watch(self._time.alarm.fd, loop.READ, lambda _: self._time.alarm.read())
        self._loop.after_turn = self._after_turn
        self._housekeeping.start()
        self._in_turns(self._purge.all())
        text = f"{self._store.counts().jobs} jobs, listening at {self._paths.socket}"
        if self._link.can_replace:
            self._link.send(messages.Watch(), (self._loop.duplicate(),))
        self._link.send(messages.Ready(version=messages.VERSION, status=text))
        journal.info(f"schedd {version.VERSION}: {text}")
        try:
            self._loop.run()
        except store.StoreError as error:
            self._prepare_successor(error)
            raise
        # A successor puts its socket in the place of this one; where there will be none, nobody is to look for it.
        self._server.close(remove=not self._leaves)
        self._store.commit()
        self._store.close()
        return self._farewell or 0

    def _prepare_successor(self, error: store.StoreError) -> None:
        """Nothing of this turn has happened. What can be done so that the store will open again."""
        match error.kind:
            case "full":
                self._reserve.give_up()
            case "io":
                # SQLite calls a quota that is used up an error of the disk, too.
                self._reserve.give_up()
                store.suspect(self._paths.database, str(error))
            case "damaged":
                store.suspect(self._paths.database, str(error))
            case "missing":
                try:
                    self._store.put_back()
                except (store.StoreError, OSError) as failure:
                    journal.error(f"nor could it be put back: {failure}")

    def _after_turn(self) -> None:
        self._time.turn()
        self._link.hand.free()
        if self._store.in_transaction:
            self._watch_disk()
            self._watchers.change()
        self._store.commit()
        while self._effects:
            self._effects.popleft()()
        self._server.flush()
        wake = self._runs.next_wake()
        if wake is not None and wake <= clock.now_ms():
            self._loop.call_soon(self._runs.tick)
        else:
            self._time.alarm.set(wake)
        if self._store.in_transaction:
            self._loop.call_soon(lambda: None)

    def _on_life(self, run_id: int) -> None:
        self._runs.on_life(run_id)
        self._watchers.change()

    def _progress(self, run_id: int, attempt: int) -> messages.Progress | None:
        child = self._attempts.child(run_id, attempt)
        return None if child is None else child.report.progress

    def _share_descriptors(self) -> descriptors.Share:
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        wanted = self._settings.max_concurrent_jobs
        share = descriptors.share(limit, wanted, server.CLIENTS)
        self._runs.room = share.runs
        if share.runs < wanted:
            journal.warning(
                f"{limit} descriptors (RLIMIT_NOFILE) are enough for {share.runs} runs at one time, not {wanted}; more wait"
            )
        return share

    def _watch_disk(self) -> None:
        """Look whether the store is in its place and the disk full, before something is written."""
        self._store.check_place()
        self._look_at_disk()

    def _look_at_disk(self) -> None:
        """Say that the disk is full, or has room again, if that is so since the last look; while it is full, look again."""
        was_full = self._reserve.full
        full = self._reserve.look()
        if full == was_full:
            return
        self._runs.full = full
        self._attempts.set_full(full=full)
        if full:
            journal.error(f"the disk of {self._paths.state_dir} is full: only jobs with run_when_full start")
            self._loop.call_at(time.monotonic() + _DISK_S, self._watch_full_disk)
        else:
            journal.notice(f"the disk of {self._paths.state_dir} has room again")
            self._loop.call_soon(self._runs.tick)

    def _watch_full_disk(self) -> None:
        self._watch_disk()
        if self._reserve.full:
            self._loop.call_at(time.monotonic() + _DISK_S, self._watch_full_disk)

    # The launcher.

    def _daemon_files(self) -> list[str]:
        """What is ours and no boxed job's business: state, configuration, socket, credentials."""
        where = self._paths
        # systemd's credentials are given job by job, as `secrets`.
        credentials = [path] if (path := os.environ.get("CREDENTIALS_DIRECTORY")) else []
        return [
            *credentials,
            where.state_dir,
            where.runtime_dir,
            where.config_file,
            where.jobs_d,
            os.path.dirname(where.config_file),
        ]

    def _runs_as(self) -> int:
        return self._welcome.uid

    def _host(self) -> probe.Host:
        return state.host_of(self._welcome)

    def _hear(self, message: object, fds: list[int]) -> None:
        match message:
            case messages.Started():
                self._holder(message.run_id).on_started(message, fds)
            case messages.Unkillable():
                self._attempts.on_unkillable(message)
            case messages.Exited():
                self._holder(message.run_id).on_exited(message)
            case messages.Stop():
                self._stop()
            case messages.Reload():
                self._reload.on_signal()
            case messages.Leave():
                self._leaves = True
                self._effects.append(self._leave)
            case messages.Replaced(error=error):
                for reply in self._restarts:
                    reply.refuse(connection.RefusedError(control.FAILED, f"{error}; nothing was changed"))
                self._restarts.clear()
            case messages.Ping(number=number):
                # After the commit: it is the whole turn that has come round.
                self._effects.append(lambda: self._link.send(messages.Pong(number=number)))

    def _holder(self, run_id: int) -> attempts.Attempts | trial.Trials:
        return self._trials if run_id < 0 else self._attempts

    # Starting.

    def _begin(self) -> None:
        """Everything that is so before the first thing is decided: what runs and waits, whether the clock can be right, the
        jobs, when they are due, and whether there is room on the disk.
        """
        self._recover()
        self._take_zone()
        self._time.start()
        self._load_files()
        self._fill_schedule()
        self._look_at_disk()
        self._loop.call_soon(self._runs.tick)

    def _fill_schedule(self) -> None:
        for uid, _, next_slot, _ in list(self._store.schedule_rows()):
            self._runs.slots.set_schedule(uid, next_slot)
            if next_slot is None:
                self._runs.slots.reboot(uid, clock.boot_id())

    def _accuse(self) -> None:
        """Write down with which job in hand the supervisor before us failed, before the same can happen to us."""
        uid, how = self._link.hand.left, self._welcome.failed
        row = self._store.job(uid) if uid and how else None
        if row is None:
            return
        times = self._runs.quarantine.accuse(uid, how)
        self._store.commit()
        journal.error(f"the supervisor failed ({how}) with job {row.job_id} in hand, for the {times}. time")
        if self._runs.quarantine.why(uid):
            journal.error(f"job {row.job_id} is in quarantine; see: schedctl show {row.job_id}")

    def _recover(self) -> None:
        welcome = self._welcome
        identity = self._identity()
        for _ in restored.take_up(self._store, self._catalog, now=clock.now_ms(), uid=os.geteuid()):
            pass
        same = self._store.meta_get("launcher") == identity
        self._store.meta_set("launcher", identity)
        self._runs.draining = self._store.meta_get("draining") == identity
        held = set(welcome.held)
        for _ in self._runs.recover(held, same_launcher=same):
            pass
        for run_id, attempt in held:
            if not self._attempts.holds(run_id, attempt):
                # A trial of a client that is gone, or of a run that is over: its exit is all that is wanted of it.
                self._link.send(messages.End(run_id=run_id, attempt=attempt, cause="lost", grace=0))

    def _identity(self) -> str:
        """Names this launcher and no other, also after a reboot."""
        pid = self._welcome.launcher_pid
        return f"{clock.boot_id()} {pid} {_start_time(pid)}"

    def _load_files(self) -> None:
        for number, _ in enumerate(self._bulk.go_on()):  # what a daemon before this one had decided
            if number % 100 == 0:
                self._store.commit()
        try:
            plan = desired.last(self._desired.plan(self._planner, self._settings))
        except (load.JobsInvalid, connection.RefusedError) as error:
            if not self._follows:
                raise
            self._mistakes += desired.lines(error)
        else:
            self._bulk.at_once(plan, definitions.Who(uid=os.geteuid(), user="schedd"), "start")
        in_force.keep(self._store, self._settings)

    def _role_of(self, peer: connection.Peer) -> str | None:
        # By the groups of now: a reload may have named others.
        return server.role_by(self._settings.admin_group, self._settings.operator_group, os.geteuid())(peer)

    # Another configuration, stop, drain.

    def _on_reload(self, reply: connection.Reply, dry_run: bool) -> Iterator[None]:
        return self._reload.on_request(reply, dry_run)

    def _in_turns(self, work: Iterator[None]) -> None:
        """Drive this, a slice a turn."""
        until = time.monotonic() + _SLICE_S
        while time.monotonic() < until:
            if next(work, _OVER) is _OVER:
                return
        self._loop.call_soon(lambda: self._in_turns(work))

    def _configure(self, settings: config.Settings) -> None:
        for key in settings.waiting(self._settings):
            journal.notice(f"{key} of the configuration holds from the daemon's next start on")
        self._settings = settings
        in_force.keep(self._store, settings)
        self._mistakes.clear()
        self._almanac.forget()
        self._reserve.size = settings.reserve
        for each in (self._runs, self._vetting, self._attempts):
            each.configure(settings)
        self._state.tell_problems()
        self._take_zone()
        self._share = self._share_descriptors()
        self._time.on_reload()

    def _take_zone(self) -> None:
        """Jobs without a zone of their own are due anew where the daemon's is another than it was, also at its last start."""
        zone = self._settings.timezone or config.host_zone()
        self._catalog.set_zone(zone)
        if in_force.kept_zone(self._store) not in (None, zone):
            self._runs.slots.replan([uid for uid, *_ in self._store.schedule_rows()])
        in_force.keep_zone(self._store, zone)

    def _stop(self) -> None:
        if not self._runs.stopping:
            journal.info("stopping")
            self._runs.stop()

    def _restart(self, reply: connection.Reply) -> Iterator[None]:
        """Have another supervisor take our place. Whatever speaks against it is found while this one is at work."""
        if self._runs.stopping:
            raise connection.RefusedError(control.UNAVAILABLE, "the daemon is stopping")
        if not self._link.can_replace:
            raise connection.RefusedError(
                control.FAILED,
                f"the launcher ({self._welcome.package}) cannot keep runs for another supervisor; nothing was changed."
                " Restart the daemon as a whole, after: schedctl drain",
            )
        try:
            yield from self._desired.plan(self._planner, self._desired.settings())
        except (config.ConfigError, load.JobsInvalid) as error:
            raise vetting.invalid(error.problems, "nothing was changed") from None
        self._restarts.append(reply)
        self._link.send(messages.Replace())

    def _leave(self) -> None:
        for reply in self._restarts:
            reply.ok({"pid": os.getpid(), "version": version.VERSION})
        self._server.flush()
        self._loop.stop()

    def _drain(self, reply: connection.Reply, timeout: float | None) -> None:
        self._drains.append(reply)

        def give_up() -> None:
            running = self._runs.counts()["running"]
            reply.refuse(connection.RefusedError(control.FAILED, f"{running} runs have not ended in {timeout:g} s"))

        if timeout is not None:
            self._loop.call_at(time.monotonic() + timeout, give_up)
        self._store.meta_set("draining", self._identity())
        self._runs.drain()

    def _on_idle(self) -> None:
        if self._runs.counts()["running"]:
            return
        for reply in self._drains:
            reply.ok({"running": 0})
        self._drains.clear()
        if self._runs.stopping and self._farewell is None:
            self._farewell = 0
            self._effects.append(self._say_farewell)

    def _say_farewell(self) -> None:
        self._server.flush()
        self._link.send(messages.Farewell(code=0))
        self._loop.stop()


def _start_time(pid: int) -> str:
    """When the process started, in clock ticks after boot: with pid and boot id this names one process; proc(5)."""
    with open(f"/proc/{pid}/stat", "rb") as file:
        return file.read().rsplit(b")", 1)[1].split()[19].decode()


def main() -> None:
    """Started by the launcher, with the channel's descriptor."""
    chosen = options.parse(sys.argv[1:])
    journal.set_level(chosen.log_level)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)  # the launcher's to hear, and to pass on
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(
        resource.RLIMIT_NOFILE, (most, most)
    )  # ten a run, one a client; it starts nobody who inherits it
    os.set_inheritable(chosen.channel, False)
    to_launcher = link.Link(socket.socket(fileno=chosen.channel), standby=chosen.standby)
    try:
        code = _serve(chosen, to_launcher)
    except config.ConfigError as error:
        _fail(error.problems, 78)
    except load.JobsInvalid as error:
        _fail([str(problem) for problem in error.problems], 78)
    except connection.RefusedError as error:
        _fail(error.details or [error.message], 78)
    except store.StoreError as error:
        _fail([str(error)], 73)
    raise SystemExit(code)


def _serve(chosen: Any, to_launcher: link.Link) -> int:
    try:
        return Daemon(chosen, to_launcher).run()
    except BaseException as error:
        to_launcher.hand.forgive(error)
        raise


def _fail(lines: Any, code: int) -> None:
    for line in lines:
        journal.error(line)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
