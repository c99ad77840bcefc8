"""What each request of the control socket does: one method per dataclass of ipc/control.py.

Runs in the supervisor. A method answers through its Reply, now or when the thing has happened ("cancel" when the tree is
gone); a long one is a generator that is driven a slice a turn. Whoever changes something is written into the audit.
"""

import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

from lnmt_scheduler.ipc import codec, control
from lnmt_scheduler.jobs import checks, load, model
from lnmt_scheduler.sandbox import probe, profiles
from lnmt_scheduler.supervisor import (
    bulk,
    catalog,
    clock,
    definitions,
    dispatcher,
    follower,
    output,
    payload,
    planning,
    purge,
    registry,
    rows,
    run,
    store,
    trial,
    version,
    vetting,
    views,
    why,
)
from lnmt_scheduler.supervisor.connection import RefusedError, Reply
from lnmt_scheduler.supervisor.control import ADMIN

#: Bytes of rows in one page; a row more may go over it, and still fit a frame.
_PAGE = 128 * 1024
#: Rows of one page, whatever is asked.
_ROWS = 500
_DEPTH = 64
#: Milliseconds that one moment may stand for.
_WHY_SPAN = 86_400_000
#: Bytes that the store's log may have grown to by the end of a copy, which keeps it from being cut.
_LOG_LIMIT = 256 << 20


def _who(reply: Reply) -> definitions.Who:
    return definitions.Who(uid=reply.peer.uid, user=reply.peer.user)


def _page(found: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    """The first of these rows that fit a frame together."""
    page: list[dict[str, Any]] = []
    size = 0
    for row in found:
        page.append(row)
        size += len(codec.pack(row))
        if size > _PAGE:
            break
    return page


def _is_more(page: Sequence[object], found: Sequence[object], limit: int) -> bool:
    """Whether rows may follow the page: some did not fit, or there may be others behind those that were found."""
    return bool(page) and (len(page) < len(found) or len(found) == limit)


def _limit(asked: int) -> int:
    # SQLite takes a negative limit for none.
    return max(0, min(asked, _ROWS))


def _exported(row: rows.JobRow) -> dict[str, Any]:
    """What was given for the job, with its runtime state where that differs."""
    given = {**row.given, "id": row.job_id}
    if row.enabled != given.get("enabled", True):
        given["enabled"] = row.enabled
    return given


class Handlers:
    def __init__(
        self,
        history: store.Store,
        jobs: catalog.Catalog,
        runs: dispatcher.Dispatcher,
        rules: vetting.Vetting,
        single: registry.Registry,
        planner: planning.Planner,
        many: bulk.Bulk,
        trials: trial.Trials,
        leavings: purge.Purge,
        *,
        output_dir: str,
        jobs_dir: str,
        runs_as: Callable[[], int],
        host: Callable[[], probe.Host],
        default: Callable[[], dict[str, Any]],
        state: Callable[[], dict[str, Any]],
        watch: Callable[[Reply], None],
        reload: Callable[[Reply, bool], Iterator[None]],
        stop: Callable[[], None],
        restart: Callable[[Reply], Iterator[None]],
        drain: Callable[[Reply, float | None], None],
    ) -> None:
        self._store = history
        self._catalog = jobs
        self._runs = runs
        self._vetting = rules
        self._registry = single
        self._planner = planner
        self._bulk = many
        self._trials = trials
        self._purge = leavings
        self._output_dir = output_dir
        self._jobs_dir = jobs_dir
        self._runs_as = runs_as
        self._host = host
        self._default = default
        self._state = state
        self._watch = watch
        self._reload = reload
        self._stop = stop
        self._restart = restart
        self._drain = drain

    def table(self) -> dict[str, Callable[[Any, Reply], Iterator[None] | None]]:
        """Tag -> method."""
        return {tag: getattr(self, {"import": "import_"}.get(tag, tag)) for tag in control.REQUESTS}

    # Looking.

    def hello(self, _: control.Hello, reply: Reply) -> None:
        role = reply.role
        reply.ok({"protocol": control.PROTOCOL, "version": version.VERSION, "pid": os.getpid(), "role": role})

    def list(self, request: control.List, reply: Reply) -> None:
        limit = _limit(request.limit)
        found = self._store.jobs_page(request.after, limit, tag=request.tag, enabled=request.enabled)
        page = _page(map(self._job_view, found))
        reply.ok({"jobs": page, "more": page[-1]["id"] if _is_more(page, found, limit) else None})

    def _job_view(self, row: rows.JobRow) -> dict[str, Any]:
        last = self._store.newest_run(row.uid)
        job = self._catalog.get(row.uid) if row.enabled and row.next_slot is None else None
        why = self._runs.quarantine.why(row.uid) or (None if job is None else job.problem)
        pause = self._runs.pauses.of(row.uid, clock.now_ms())
        paused = None if pause is None else views.pause_view(rows.as_map(pause), row.job_id if pause.job_uid else None)
        if last is None:
            return views.job_view(rows.as_map(row), quarantined=why, paused=paused)
        started = last.start_time or self._store.last_start(row.uid)
        return views.job_view(rows.as_map(row), rows.as_map(last), started, why, paused)

    def show(self, request: control.Show, reply: Reply) -> None:
        row = definitions.find(self._store, request.job_id)
        last = self._store.newest_run(row.uid)
        reply.ok(
            {
                "job": self._job_view(row),
                "origins": views.origins(rows.as_map(row)),
                "last": None if last is None else self._view(last),
                "environment": self._environment(row) if request.environment else None,
            }
        )

    def _environment(self, row: rows.JobRow) -> dict[str, str]:
        job = load.from_given(row.given, row.origins).config
        facts = payload.Attempt(
            run_id=0,
            attempt=1,
            slot=None,
            event=None,
            kwargs=None,
            state_dir=os.path.join(self._jobs_dir, str(row.uid)),
            result_limit=0,
            profile=payload.profile_of(job),
        )
        try:
            found = payload.environment(job, payload.account(job, self._runs_as(), facts.profile), facts)
        except payload.CannotStartError as error:
            raise RefusedError(control.FAILED, str(error)) from None
        masked = views.mask(found)
        return {name: value for name, value in masked.items() if name not in ("LNMT_RUN_ID", "LNMT_SLOT")}

    def why(self, request: control.Why, reply: Reply) -> None:
        span = max(1, min(request.span, _WHY_SPAN))
        live = why.Live(waits_for=lambda row: self._runs.waits_for(row.run_id))
        try:
            reply.ok(
                why.answer(
                    self._store,
                    self._catalog.zone,
                    request.job_id,
                    request.at,
                    clock.now_ms(),
                    host=self._catalog.host,
                    span=span,
                    live=live,
                )
            )
        except why.Unknown:
            raise RefusedError(control.NOT_FOUND, f"no job {request.job_id!r}; see: schedctl list") from None

    def history(self, request: control.History, reply: Reply) -> None:
        if request.job_id is not None and self._store.latest_uid(request.job_id) is None:
            raise RefusedError(control.NOT_FOUND, f"no job {request.job_id!r}; see: schedctl list")
        if request.status is not None and request.status not in {status.value for status in model.JobStatus}:
            words = ", ".join(status.value for status in model.JobStatus)
            raise RefusedError(control.USAGE, f"no status {request.status!r}; there are: {words}")
        limit = _limit(request.limit)
        found = self._store.history(
            request.job_id, status=request.status, since=request.since, before=request.before, limit=limit
        )
        page = _page(map(self._view, found))
        reply.ok({"runs": page, "more": page[-1]["run_id"] if _is_more(page, found, limit) else None})

    def read(self, request: control.Read, reply: Reply) -> None:
        row = self._row(request.run_id)
        limit = min(request.limit, control.CHUNK)
        if request.what == "result":
            data = self._store.result(row.run_id) or b""
            begin = max(0, len(data) + request.offset) if request.offset < 0 else request.offset
            reply.ok({"data": data[begin : begin + limit], "size": len(data), "stored": len(data)})
            return
        if request.what not in ("output", *output.STREAMS.values()):
            raise RefusedError(control.USAGE, f"nothing to read is called {request.what!r}")
        path = output.path_of(self._output_dir, row.run_id, row.queued)
        try:
            data, size = output.read_stored(path, request.what, request.offset, limit)
        except FileNotFoundError:
            data, size = b"", 0
        reply.ok({"data": data, "size": size, "stored": size})

    def _row(self, run_id: int) -> rows.RunRow:
        row = self._store.run(run_id)
        if row is None:
            raise RefusedError(control.NOT_FOUND, f"no run {run_id}; see: schedctl history")
        return row

    def state(self, _: control.State, reply: Reply) -> None:
        reply.ok(self._state())

    def export(self, request: control.Export, reply: Reply) -> None:
        limit = _limit(request.limit)
        found = self._store.jobs_page(request.after, limit)
        page = _page(map(_exported, found))
        reply.ok({"jobs": page, "more": page[-1]["id"] if _is_more(page, found, limit) else None})

    def validate(self, _: control.Validate, reply: Reply) -> Iterator[None]:
        problems, count = [], 0
        check = catalog.checker(self._catalog.zone)
        for identity in list(self._store.job_ids()):
            row = self._store.job(identity.uid)
            if row is None or row.removed is not None:
                continue  # removed meanwhile
            count += 1
            own = {key: value for key, value in row.given.items() if key != "main_file"}
            try:
                load.parse_one({**own, "id": row.job_id}, row.source, check_schedule=check, allow_main_file=True)
            except load.JobsInvalid as error:
                problems += [str(problem) for problem in error.problems][:20]
            problems += self._vetting.stale(row)
            if len(problems) > 500:
                break
            yield
        reply.ok({"jobs": count, "problems": problems})

    def audit(self, request: control.Audit, reply: Reply) -> None:
        limit = _limit(request.limit)
        found = self._store.audit_page(request.before, limit)
        page = _page(views.audit_view(rows.as_map(row)) for row in found)
        reply.ok({"entries": page, "more": page[-1]["id"] if _is_more(page, found, limit) else None})

    def complete(self, request: control.Complete, reply: Reply) -> None:
        if request.what == "run":
            newest = self._store.history(limit=200)
            values = [str(row.run_id) for row in newest if str(row.run_id).startswith(request.prefix)]
        elif request.what == "event":
            values = self._store.complete_events(request.prefix, 200)
        else:
            values = self._store.complete(request.prefix, 200)
        reply.ok({"values": values})

    # Definitions.

    def _described(self, row: rows.JobRow, reply: Reply) -> None:
        job = load.from_given(row.given, row.origins).config
        warnings = []
        try:
            who = payload.account(job, self._runs_as(), payload.profile_of(job))
            runs_as = "a user of its own" if who.dynamic else who.name
            warnings += payload.unwritable(job, who, self._runs_as())
        except payload.CannotStartError as error:
            runs_as = job.user or "?"
            warnings.append(str(error))
        fires: list[int] = []
        planned = catalog.schedule(job, self._catalog.zone)
        at = clock.now_ms()
        while planned is not None and row.enabled and len(fires) < 3:
            upcoming = planned.next_after(at)
            if upcoming is None:
                break
            fires.append(at := upcoming)
        reply.ok({"job": self._job_view(row), "runs_as": runs_as, "next": fires, "warnings": warnings})

    def add(self, request: control.Add, reply: Reply) -> None:
        source = definitions.API if "main_file" in request.definition else definitions.CLI
        if source == definitions.API:
            _need_program(request.definition)
        self._described(self._registry.add(request.definition, source, _who(reply)), reply)

    def edit(self, request: control.Edit, reply: Reply) -> None:
        self._described(self._registry.edit(request.job_id, request.changes, request.unset, _who(reply)), reply)

    def remove(self, request: control.Remove, reply: Reply) -> Iterator[None] | None:
        uid = self._registry.remove(request.job_id, _who(reply), purge=request.purge)
        if request.purge:
            return self._purge_job(uid, reply)
        reply.ok({})
        return None

    def _purge_job(self, uid: int, reply: Reply) -> Iterator[None]:
        yield from self._purge.job(uid)
        reply.ok({})

    def enable(self, request: control.Enable, reply: Reply) -> None:
        reply.ok({"job": self._job_view(self._registry.enable(request.job_id, _who(reply), on=True))})

    def disable(self, request: control.Disable, reply: Reply) -> None:
        reply.ok({"job": self._job_view(self._registry.enable(request.job_id, _who(reply), on=False))})

    def rename(self, request: control.Rename, reply: Reply) -> None:
        row, followed = self._registry.rename(request.job_id, request.new_id, _who(reply))
        reply.ok({"job": self._job_view(row), "followed": followed})

    def pause(self, request: control.Pause, reply: Reply) -> None:
        if request.seconds is not None and not 0 < request.seconds <= checks.LONGEST:
            raise RefusedError(control.USAGE, "a pause lasts more than 0 seconds and at most 3650 days")
        if request.reason is not None:
            try:
                checks.line(request.reason, 500)
            except ValueError as error:
                raise RefusedError(control.USAGE, f"the reason {error}") from None
        pause = self._registry.pause(request.job_id, request.seconds, request.reason, _who(reply))
        reply.ok({"pause": views.pause_view(rows.as_map(pause), request.job_id)})

    def resume(self, request: control.Resume, reply: Reply) -> None:
        pause = self._registry.resume(request.job_id, _who(reply))
        reply.ok({"pause": None if pause is None else views.pause_view(rows.as_map(pause), request.job_id)})

    def trigger(self, request: control.Trigger, reply: Reply) -> None:
        if self._runs.stopping or self._runs.draining:
            raise RefusedError(control.UNAVAILABLE, "the daemon is stopping or draining and starts nothing new")
        try:
            event, data = checks.event(request.event), checks.plain(request.data)
        except ValueError as error:
            raise RefusedError(control.INVALID, f"event: {error}") from None
        if (size := len(json.dumps(data))) > control.EVENT_LIMIT:
            raise RefusedError(
                control.INVALID, f"event: its data has {size} bytes as JSON; at most {control.EVENT_LIMIT} are allowed"
            )
        run_ids = self._registry.trigger(event, data, _who(reply))
        found = [self._row(run_id) for run_id in run_ids]
        keys = ("job_id", "run_id", "status", "reason", "error")
        reply.ok({"runs": [{key: getattr(row, key) for key in keys} for row in found]})

    def upload(self, request: control.Upload, reply: Reply) -> None:
        if len(reply.upload) + len(request.data) > control.UPLOAD_LIMIT:
            raise RefusedError(control.INVALID, f"more than {control.UPLOAD_LIMIT} bytes; import in parts")
        reply.upload.extend(request.data)
        reply.ok({})

    def import_(self, request: control.Import, reply: Reply) -> Iterator[None]:
        data = bytes(reply.upload)
        reply.upload.clear()
        try:
            uploaded = codec.unpack(data, max_depth=_DEPTH)
        except codec.ProtocolError as error:
            raise RefusedError(control.INVALID, f"the upload cannot be read: {error}") from None
        documents = []
        for each in uploaded if isinstance(uploaded, list) else [None]:
            match each:
                case [str(label), dict(values)]:
                    documents.append(planning.Document(label, definitions.CLI, values))
                case _:
                    raise RefusedError(control.INVALID, "the upload is not a list of [name, document]")
        plan = yield from self._planner.plan(documents, owned=_is_handmade, prune=request.prune)
        yield from self.carry_out(plan, reply, "import", dry_run=request.dry_run)

    def carry_out(
        self,
        plan: planning.Plan,
        reply: Reply,
        action: str,
        *,
        dry_run: bool,
        notes: Sequence[str] = (),
        first: Callable[[], None] = lambda: None,
    ) -> Iterator[None]:
        """Tell what changes, and unless it is a dry run change it. `notes` are for the person who asked; `first` as in Bulk."""
        changes: list[planning.Change] = []
        if dry_run or plan.counts["added"] <= 1000:
            for change in self._planner.changes(plan):
                changes.append(change)
                if len(changes) % 20 == 0:
                    yield
        if not dry_run:
            yield from self._bulk.carry_out(plan, _who(reply), action, first=first)
        for note in notes:
            reply.item({"kind": "note", "text": note})
        for change in changes:
            reply.item({"kind": "change", "action": change.action, "job_id": change.job_id, "diff": change.diff()})
            while reply.congested and reply.open:
                yield
        reply.ok(plan.counts)

    def reload(self, request: control.Reload, reply: Reply) -> Iterator[None]:
        return self._reload(reply, request.dry_run)

    # Runs.

    def run(self, request: control.Run, reply: Reply) -> None:
        _check_profile(request.profile)
        row = definitions.find(self._store, request.job_id)
        job = self._catalog.get(row.uid)
        if job is None:
            raise RefusedError(control.NOT_FOUND, f"no job {request.job_id!r}; see: schedctl list")
        if request.kwargs and job.config.command is not None:
            raise RefusedError(control.INVALID, f"job {request.job_id!r} runs a command, which takes no kwargs")
        asked = {"kwargs": request.kwargs, "event": request.event, "with_retries": request.with_retries}
        asked["profile"] = request.profile
        self._start(job, asked, reply, allow_overlap=request.allow_overlap, retry_of=None)

    def retry(self, request: control.Retry, reply: Reply) -> None:
        row = self._row(request.run_id)
        if self._runs.find(row.run_id) is not None:
            raise RefusedError(control.FAILED, f"run {row.run_id} has not ended; cancel it, or wait")
        job = self._catalog.get(row.job_uid)
        if job is None:
            raise RefusedError(control.NOT_FOUND, f"the job of run {row.run_id}, {row.job_id!r}, was removed")
        self._start(job, {**(row.request or {}), "with_retries": True}, reply, allow_overlap=False, retry_of=row.run_id)

    def _start(
        self, job: catalog.Job, asked: dict[str, Any], reply: Reply, *, allow_overlap: bool, retry_of: int | None
    ) -> None:
        if self._runs.stopping or self._runs.draining:
            raise RefusedError(control.UNAVAILABLE, "the daemon is stopping or draining and starts nothing new")
        if why := self._runs.quarantine.why(job.uid):
            message = f"job {job.config.id!r} is in quarantine: {why}"
            raise RefusedError(control.FAILED, message)
        _check_strictness(job.config.sandbox["profile"], asked.get("profile"), reply)
        # What was not asked for is left out; an event may be false or empty.
        kept = {key: value for key, value in asked.items() if value or (key == "event" and value is not None)}
        try:
            run_id = self._runs.run_now(job, kept, by=reply.peer.user, allow_overlap=allow_overlap, retry_of=retry_of)
        except dispatcher.BusyError as busy:
            message = f"run {busy.run_id} of {job.config.id!r} has not ended; --allow-overlap starts another beside it"
            raise RefusedError(control.FAILED, message, [str(busy.run_id)]) from None
        self._registry.audit_run(_who(reply), "run" if retry_of is None else "retry", job.config.id, {"run_id": run_id})
        reply.ok({"run_id": run_id})

    def cancel(self, request: control.Cancel, reply: Reply) -> None:
        row = self._row(request.run_id)
        each = self._runs.find(row.run_id)
        if each is None:
            raise RefusedError(control.NOT_FOUND, f"run {row.run_id} has ended already ({row.status})")
        self._registry.audit_run(_who(reply), "cancel", row.job_id, {"run_id": row.run_id})

        def on_event(what: str) -> None:
            if what == "end":
                reply.ok({"run": self._run_view(row.run_id)})

        each.watchers.append(on_event)
        self._runs.cancel(row.run_id)

    def follow(self, request: control.Follow, reply: Reply) -> None:
        row = self._row(request.run_id)
        each = self._runs.find(row.run_id)
        path = output.path_of(self._output_dir, row.run_id, row.queued)
        follower.Follower(
            each,
            reply,
            path,
            wants_output=request.output,
            from_start=request.from_start,
            at=max(0, request.at),
            head=None if each is not None else self._runs.head_limit(row),
            child=lambda: self._child(row.run_id),
            view=lambda: self._run_view(row.run_id),
        ).start()

    def _child(self, run_id: int) -> Any:
        each = self._runs.find(run_id)
        if each is None or not isinstance(each.state, run.Running):
            return None
        return self._runs.lives.attempts.child(run_id, each.state.attempt)

    def _run_view(self, run_id: int) -> dict[str, Any]:
        return self._view(self._row(run_id))

    def _view(self, row: rows.RunRow) -> dict[str, Any]:
        """The row, and what only a running daemon knows of it."""
        view = views.run_view(rows.as_map(row))
        return {**view, "unkillable": True} if self._runs.lives.attempts.is_unkillable(row.run_id) else view

    def watch(self, _: control.Watch, reply: Reply) -> None:
        self._watch(reply)

    # Sandbox.

    def sandbox(self, request: control.Sandbox, reply: Reply) -> None:
        row, job, profile = self._boxed(request.job_id, request.profile)
        try:
            reply.ok(self._trials.look(job, row.uid, profile))
        except payload.CannotStartError as error:
            raise RefusedError(control.FAILED, str(error)) from None

    def measure(self, request: control.Measure, reply: Reply) -> None:
        row, job, profile = self._boxed(request.job_id, request.profile)
        if self._runs.stopping:
            raise RefusedError(control.UNAVAILABLE, "the daemon is stopping and starts nothing new")
        try:
            self._trials.start(job, profile, reply.ok)
        except (payload.CannotStartError, OSError) as error:
            raise RefusedError(control.FAILED, str(error)) from None
        self._registry.audit_run(_who(reply), "sandbox test", row.job_id)

    def shell(self, request: control.Shell, reply: Reply) -> None:
        row, job, profile = self._boxed(request.job_id, request.profile)
        if reply.peer.uid != self._runs_as():
            raise RefusedError(
                control.NOT_ALLOWED, f"a shell in a box is for uid {self._runs_as()}, which starts the jobs, alone"
            )
        if active := self._runs.active(row.uid):
            message = f"run {active[0].run_id} of {row.job_id!r} has not ended, and has the state directory"
            raise RefusedError(control.FAILED, message)
        try:
            order = self._trials.order(job, row.uid, profile)
        except (payload.CannotStartError, OSError) as error:
            raise RefusedError(control.FAILED, str(error)) from None
        self._registry.audit_run(_who(reply), "sandbox shell", row.job_id)
        reply.ok(order)

    def _boxed(self, job_id: str, profile: str | None) -> tuple[rows.JobRow, model.JobConfig, str]:
        row = definitions.find(self._store, job_id)
        job = load.from_given(row.given, row.origins).config
        _check_profile(profile)
        return row, job, profile or payload.profile_of(job)

    def doctor(self, _: control.Doctor, reply: Reply) -> None:
        reply.ok({"uid": self._runs_as(), **self._host().to_map(), "default": self._default()})

    # The store.

    def backup(self, _: control.Backup, reply: Reply) -> Iterator[None]:
        if self._store.is_still:
            raise RefusedError(control.FAILED, "another copy of the store is being made; try again when it is done")
        self._registry.audit_run(_who(reply), "backup", "daemon")
        with self._store.still() as size:
            at = 0
            while at < size and reply.open:
                piece = self._store.read_file(at, control.CHUNK)
                reply.item({"data": piece})
                at += len(piece)
                yield
                if self._store.log_size() > _LOG_LIMIT:
                    raise RefusedError(
                        control.FAILED,
                        f"given up: {_LOG_LIMIT >> 20} MiB of changes have come while the copy was made; try again when the"
                        " daemon is less busy, or copy to a faster disk",
                    )
        reply.ok({"bytes": size})

    # The daemon.

    def drain(self, request: control.Drain, reply: Reply) -> None:
        self._registry.audit_run(_who(reply), "drain", "daemon")
        self._drain(reply, request.timeout)

    def restart(self, _: control.Restart, reply: Reply) -> Iterator[None]:
        self._registry.audit_run(_who(reply), "restart", "daemon")
        return self._restart(reply)

    def stop(self, _: control.Stop, reply: Reply) -> None:
        self._registry.audit_run(_who(reply), "stop", "daemon")
        self._stop()
        reply.ok({})


def _is_handmade(source: str) -> bool:
    """Jobs that no file defines: an import may change them."""
    return not source.startswith(definitions.FILE)


def _check_profile(name: str | None) -> None:
    if name is not None and name not in profiles.PROFILES:
        raise RefusedError(control.INVALID, f"no profile {name!r}; there are: {', '.join(profiles.PROFILES)}")


def _check_strictness(own: str, asked: str | None, reply: Reply) -> None:
    """Who may not define jobs may run one in a stricter box than its own, and in no other."""
    order = list(profiles.PROFILES)  # from the loosest on
    if asked is not None and reply.role != ADMIN and order.index(asked) < order.index(own):
        raise RefusedError(
            control.NOT_ALLOWED, f"profile {asked!r} is looser than the job's own, {own!r}: ask an administrator"
        )


def _need_program(definition: dict[str, Any]) -> None:
    if definition.get("module") != "__main__":
        raise RefusedError(control.INVALID, "main_file goes with module '__main__' only")
