"""LNMTScheduler: a daemon of one's own, from a Python program.

The program never forks a job itself. start() executes a fresh `schedd` on a state directory, whose life is tied to this
object's by a pipe: when the program ends, however it ends, the daemon reads end-of-file and stops. Everything else goes over
the control socket, as schedctl's requests do. A function of the program's own `__main__` is found by its file, which the
child runs under another name; so the usual `if __name__ == "__main__":` belongs around what starts the scheduler.
"""

import contextlib
import copy
import graphlib
import os
import shutil
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from types import TracebackType
from typing import Any, Self

from lnmt_scheduler.ipc import codec, control
from lnmt_scheduler.jobs import load, model
from lnmt_scheduler.supervisor import client, paths, views

#: Seconds that a daemon may take until it listens, and until it is gone.
_START, _STOP = 30.0, 60.0


class SchedulerError(Exception):
    """The scheduler could not do what was asked; the message says why."""


class LNMTScheduler:
    """Registers jobs, runs them by schedule or at once, and tells how they are.

    Jobs may be registered before start(); they are handed over when the daemon runs. To be used by one thread at a time.
    """

    def __init__(
        self,
        max_workers: int | None = None,
        cleanup_days: int = 30,
        max_concurrent_jobs: int | None = None,
        state_dir: str | None = None,
    ) -> None:
        """`max_workers` and `max_concurrent_jobs` are the same limit, of runs at one time (20); history is kept for
        `cleanup_days`. Without a state directory everything is kept in a temporary one and gone after stop().
        """
        limits = {limit for limit in (max_workers, max_concurrent_jobs) if limit is not None}
        self._limit = min(limits, default=20)
        if self._limit < 1 or cleanup_days < 1:
            raise ValueError("max_workers, max_concurrent_jobs and cleanup_days are at least 1")
        self._cleanup_days = cleanup_days
        self._temporary = state_dir is None
        self._state_dir = tempfile.mkdtemp(prefix="lnmt-") if state_dir is None else os.path.abspath(state_dir)
        self._paths = paths.resolve(state_dir=self._state_dir)
        self._daemon: subprocess.Popen[bytes] | None = None
        self._tie = -1
        self._client: client.Client | None = None
        self._held: dict[str, dict[str, Any]] = {}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.stop()

    # Jobs.

    def register_job(self, job_config: model.JobConfig) -> bool:
        """Take a job, or its new definition if the id is known. True; SchedulerError says everything that is wrong.

        What is registered is a copy: later changes of the object change nothing.
        """
        definition = copy.deepcopy(_definition(job_config))
        if self._client is None:
            self._check(definition)
            self._held[job_config.id] = definition
            return True
        self._hand_over(definition)
        return True

    def unregister_job(self, job_id: str) -> bool:
        """Remove a job; False if there is none of this id. A run of it that is active ends by itself."""
        if self._client is None:
            return self._held.pop(job_id, None) is not None
        try:
            self._client.request(control.Remove(job_id=job_id))
        except client.RequestError as error:
            if error.code == control.NOT_FOUND:
                return False
            raise SchedulerError(_text(error)) from error
        return True

    def run_job_now(self, job_id: str) -> model.JobResult:
        """Run a job by hand, with its retries, and wait for its end. Starts the daemon if it does not run yet."""
        if self._client is None:
            self.start()
        run_id = self._request(control.Run(job_id=job_id, with_retries=True, allow_overlap=True))["run_id"]
        return self._result(self._follow(run_id))

    def get_job_status(self, job_id: str) -> dict[str, Any]:
        """The job's keys with its status, last_run, next_run and failing_since, as `schedctl list -o json` has them."""
        if self._client is None:
            if job_id not in self._held:
                raise SchedulerError(f"no job {job_id!r}")
            return {**self._held[job_id], "status": model.NEVER_RUN, "last_run": None, "next_run": None}
        return views.job_json(self._request(control.Show(job_id=job_id))["job"])

    # The daemon.

    def start(self) -> None:
        """Start the daemon and hand it the jobs; returns when it is ready. SchedulerError if it cannot be."""
        if self._client is not None:
            return
        ordered = _named_first(self._held)
        os.makedirs(self._state_dir, exist_ok=True)
        os.chmod(self._state_dir, 0o711)
        self._write_config()
        read, self._tie = os.pipe2(os.O_CLOEXEC)
        command = [sys.executable, "-I", "-m", "lnmt_scheduler.supervisor.schedd", "--state-dir", self._state_dir]
        try:
            self._daemon = subprocess.Popen(
                [*command, "--log-level", "warning", "--tied-to", str(read)], pass_fds=[read], stdin=subprocess.DEVNULL
            )
        finally:
            os.close(read)
        self._client = self._connect(self._daemon)
        try:
            for definition in ordered:
                self._hand_over(definition)
        except BaseException:
            self.stop()
            raise
        self._held = {}

    def stop(self) -> None:
        """End what runs, stop the daemon, and return when it is gone."""
        if self._client is not None:
            self._client.close()
            self._client = None
        if self._tie >= 0:
            os.close(self._tie)
            self._tie = -1
        if self._daemon is not None:
            try:
                self._daemon.wait(_STOP)
            except subprocess.TimeoutExpired:
                self._daemon.kill()  # what it runs dies with it
                self._daemon.wait()
            self._daemon = None
        if self._temporary:
            shutil.rmtree(self._state_dir, ignore_errors=True)

    def _write_config(self) -> None:
        text = f'max_concurrent_jobs = {self._limit}\n[retention]\nage = "{self._cleanup_days}d"\n'
        with open(self._paths.config_file, "w", encoding="utf-8") as file:
            file.write(text)
        os.chmod(self._paths.config_file, 0o600)

    def _connect(self, daemon: subprocess.Popen[bytes]) -> client.Client:
        until = time.monotonic() + _START
        while time.monotonic() < until:
            try:
                return client.Client(self._paths.socket)
            except client.Unreachable:
                code = daemon.poll()
                if code is not None:
                    self._daemon = None
                    raise SchedulerError(
                        f"the daemon ended at once with code {code}; see its words on stderr"
                    ) from None
                time.sleep(0.01)
        self.stop()
        raise SchedulerError(f"the daemon did not listen within {_START:g} s")

    def _hand_over(self, definition: dict[str, Any]) -> None:
        """Add the job, or replace what the daemon knows under its id."""
        job_id = definition["id"]
        try:
            known = self._request(control.Show(job_id=job_id))
        except SchedulerError:
            self._request(control.Add(definition=definition))
            return
        # What is registered is what it says now, so the default profile of now is its own too.
        given = [*(key for key, origin in known["origins"].items() if origin == load.JOB), "sandbox"]
        unset = tuple(key for key in given if key not in definition)
        self._request(control.Edit(job_id=job_id, changes=definition, unset=unset))

    def _check(self, definition: dict[str, Any]) -> None:
        from lnmt_scheduler.supervisor import catalog, config  # noqa: PLC0415 (only where no daemon can be asked)

        try:
            load.parse_one(definition, "", check_schedule=catalog.checker(config.host_zone()), allow_main_file=True)
        except load.JobsInvalid as error:
            raise SchedulerError(str(error)) from error

    def _request(self, request: object) -> Any:
        if self._client is None:
            raise SchedulerError("the scheduler is not started; call start() first")
        try:
            if self._client.is_gone:  # another supervisor has taken the place of the one that we spoke to
                self._client.reconnect()
            return self._client.request(request)
        except client.RequestError as error:
            raise SchedulerError(_text(error)) from error

    def _follow(self, run_id: int) -> dict[str, Any]:
        if self._client is None:
            raise SchedulerError("the scheduler is not started; call start() first")
        try:
            return client.last(self._client.follow(run_id))
        except client.RequestError as error:
            raise SchedulerError(_text(error)) from error

    def _result(self, run: dict[str, Any]) -> model.JobResult:
        tail = self._request(control.Read(run_id=run["run_id"], offset=-control.CHUNK))["data"]
        value = None
        if run["more"]["result_bytes"]:
            data = bytearray()
            while len(data) < run["more"]["result_bytes"]:
                piece = self._request(control.Read(run_id=run["run_id"], what="result", offset=len(data)))["data"]
                if not piece:
                    break
                data += piece
            with contextlib.suppress(codec.ProtocolError):  # a job may report what it likes
                value = codec.unpack(bytes(data))
        return model.JobResult(
            job_id=run["job_id"],
            status=model.JobStatus(run["status"]),
            start_time=_time(run["start_time"]),
            end_time=_time(run["end_time"]),
            error=run["error"],
            output=tail.decode(errors="backslashreplace"),
            retry_count=run["retry_count"],
            run_id=run["run_id"],
            reason=run["reason"],
            exit_code=run["exit_code"],
            signal=run["signal"],
            result=value,
            duration=run["duration"],
        )


def _definition(config: model.JobConfig) -> dict[str, Any]:
    """The job's own keys; a function of `__main__` gets the file that this is."""
    if not isinstance(config, model.JobConfig):
        raise TypeError(f"a JobConfig is expected, not {type(config).__name__}")
    values = load.from_config(config)
    if config.module == "__main__" and config.main_file is None:
        path = getattr(sys.modules["__main__"], "__file__", None)
        if path is None:
            raise SchedulerError(f"job {config.id!r}: '__main__' has no file here; put the function into a module")
        values["main_file"] = os.path.abspath(path)
        values.setdefault("python_path", [os.path.dirname(values["main_file"])])
    return values


def _named_first(definitions: dict[str, dict[str, Any]]) -> list[dict[str, Any]]:
    """In an order in which each job comes after those that it names: it depends on them, or starts them."""
    graph = {}
    for job_id, each in definitions.items():
        named = [one if isinstance(one, str) else one["job"] for one in each.get("dependencies", ())]
        named += [target for key in model.HOOKS for target in each.get(key, ())]
        graph[job_id] = {other for other in named if other != job_id and other in definitions}
    try:
        order = graphlib.TopologicalSorter(graph).static_order()
        return [definitions[job_id] for job_id in order]
    except graphlib.CycleError as error:
        raise SchedulerError(f"jobs name each other in a circle: {' -> '.join(error.args[1])}") from None


def _text(error: client.RequestError) -> str:
    return "\n".join([error.message, *error.details])


def _time(ms: int | None) -> datetime | None:
    return None if ms is None else datetime.fromtimestamp(ms / 1000, UTC)
