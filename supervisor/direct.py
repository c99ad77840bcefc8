"""The daemon's answers without the daemon: schedctl reading the store of one that does not run.

It answers the requests that only look, as the daemon would, from the same rows through the same views; everything else
is refused. The store opens for reading only while no daemon has it open, and is not changed. Whoever may read the file
may see all that is in it, so nobody is asked for a role.
"""

from dataclasses import replace
from typing import Any

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import (
    client,
    clock,
    config,
    in_force,
    output,
    paths,
    pauses,
    quarantine,
    rows,
    store,
    views,
    why,
)


class Direct:
    """A stand-in for client.Client. Raises store.StoreError if the store cannot be read."""

    def __init__(self, where: paths.Paths) -> None:
        self._where = where
        self._store = store.Store.open(where.database, read_only=True)

    def close(self) -> None:
        self._store.close()

    def settings(self) -> config.Settings:
        """Those that the daemon held to last. Raises config.ConfigError, or client.RequestError."""
        try:
            kept, zone = in_force.kept(self._store, self._where.config_file), in_force.kept_zone(self._store)
        except store.StoreError as error:
            raise _unreadable(error) from None
        return replace(kept, timezone=zone or kept.timezone)

    def request(self, request: object) -> Any:
        """What the daemon would answer. Raises client.RequestError as it would."""
        try:
            return self._answer(request)
        except store.StoreError as error:
            raise _unreadable(error) from None

    def _answer(self, request: object) -> dict[str, Any]:
        match request:
            case control.List():
                return self._list(request)
            case control.Show():
                return self._show(request)
            case control.History():
                return self._history(request)
            case control.Read():
                return self._read(request)
            case control.Export():
                return self._export(request)
            case control.Audit():
                return self._audit(request)
            case control.Why():
                return self._why(request)
        name = type(request).__name__.lower()
        raise client.Unreachable(f"{name} needs the daemon, which is not running at {self._where.socket}")

    def _list(self, request: control.List) -> dict[str, Any]:
        found = self._store.jobs_page(request.after, request.limit, tag=request.tag, enabled=request.enabled)
        full = len(found) == request.limit
        return {"jobs": [self._job_view(row) for row in found], "more": found[-1].job_id if full else None}

    def _job_view(self, row: rows.JobRow) -> dict[str, Any]:
        last = self._store.newest_run(row.uid)
        started = None if last is None else last.start_time or self._store.last_start(row.uid)
        why = quarantine.Quarantine(self._store).why(row.uid)
        paused = self._pause_view(row)
        return views.job_view(rows.as_map(row), None if last is None else rows.as_map(last), started, why, paused)

    def _pause_view(self, row: rows.JobRow) -> dict[str, Any] | None:
        for uid, job_id in ((row.uid, row.job_id), (pauses.SCHEDULE, None)):
            pause = self._store.pause_of(uid)
            if pause is not None and (pause.until is None or clock.now_ms() < pause.until):
                return views.pause_view(rows.as_map(pause), job_id)
        return None

    def _show(self, request: control.Show) -> dict[str, Any]:
        row = self._store.job_by_id(request.job_id)
        if row is None:
            raise _no_job(request.job_id)
        if request.environment:
            raise client.Unreachable("the environment of a job is the daemon's to say, and it is not running")
        last = self._store.newest_run(row.uid)
        return {
            "job": self._job_view(row),
            "origins": views.origins(rows.as_map(row)),
            "last": None if last is None else views.run_view(rows.as_map(last)),
            "environment": None,
        }

    def _history(self, request: control.History) -> dict[str, Any]:
        if request.job_id is not None and self._store.latest_uid(request.job_id) is None:
            raise _no_job(request.job_id)
        found = self._store.history(
            request.job_id, status=request.status, since=request.since, before=request.before, limit=request.limit
        )
        full = len(found) == request.limit
        return {
            "runs": [views.run_view(rows.as_map(row)) for row in found],
            "more": found[-1].run_id if full else None,
        }

    def _read(self, request: control.Read) -> dict[str, Any]:
        row = self._store.run(request.run_id)
        if row is None:
            raise client.RequestError(control.NOT_FOUND, f"no run {request.run_id}; see: schedctl history")
        if request.what == "result":
            data = self._store.result(row.run_id) or b""
            size = len(data)
            data = data[request.offset : request.offset + request.limit]
        else:
            path = output.path_of(self._where.output_dir, row.run_id, row.queued)
            try:
                data, size = output.read_stored(path, request.what, request.offset, request.limit)
            except FileNotFoundError:
                data, size = b"", 0
        return {"data": data, "size": size, "stored": size}

    def _export(self, request: control.Export) -> dict[str, Any]:
        found = self._store.jobs_page(request.after, request.limit)
        jobs = []
        for row in found:
            switched = row.enabled != row.given.get("enabled", True)
            jobs.append({**row.given, "id": row.job_id} | ({"enabled": row.enabled} if switched else {}))
        return {"jobs": jobs, "more": found[-1].job_id if len(found) == request.limit else None}

    def _why(self, request: control.Why) -> dict[str, Any]:
        zone = in_force.kept_zone(self._store) or config.host_zone()
        try:
            return why.answer(
                self._store,
                zone,
                request.job_id,
                request.at,
                clock.now_ms(),
                host=config.host_name(),
                span=request.span,
            )
        except why.Unknown:
            raise _no_job(request.job_id) from None

    def _audit(self, request: control.Audit) -> dict[str, Any]:
        found = self._store.audit_page(request.before, request.limit)
        return {
            "entries": [views.audit_view(rows.as_map(row)) for row in found],
            "more": found[-1].id if len(found) == request.limit else None,
        }


def _unreadable(error: store.StoreError) -> client.Unreachable:
    return client.Unreachable(f"the daemon does not run, and its store cannot be read: {error}")


def _no_job(job_id: str) -> client.RequestError:
    return client.RequestError(control.NOT_FOUND, f"no job {job_id!r}; see: schedctl list")
