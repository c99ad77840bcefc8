"""A job's box without the job: what it will be, told beforehand, and what it is, measured from inside.

Runs in the supervisor, for `schedctl sandbox`. A trial is an attempt like any other, by the same launcher and under the
policy that the job's next run would get, but what runs in it is sandbox/measure.py, it has a state directory of its own so
that no run of the job is disturbed, and its number is below 0: nothing of it reaches the store.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from lnmt_scheduler.ipc import codec, control, messages
from lnmt_scheduler.jobs import model
from lnmt_scheduler.sandbox import describe, measure, policy, probe, settle
from lnmt_scheduler.supervisor import attempts, clock, config, loop, output, payload, run
from lnmt_scheduler.supervisor.connection import RefusedError

#: At a time: each is a box beside those that max_concurrent_jobs allows.
_AT_ONCE = 4
#: Seconds.
_TIMEOUT, _GRACE = 30.0, 1.0


@dataclass(frozen=True, slots=True)
class _Trial:
    order: attempts.Order
    profile: str
    standings: list[settle.Standing]
    on_ended: Callable[[dict[str, Any]], None]


class Trials:
    def __init__(
        self,
        events: loop.Loop,
        settings: config.Settings,
        *,
        directory: str,
        jobs_dir: str,
        daemon_files: Sequence[str],
        own_files: Sequence[str],
        socket: str,
        host: Callable[[], probe.Host],
        runs_as: Callable[[], int],
        send: Callable[[object, tuple[int, ...]], None],
        defer: Callable[[Callable[[], None]], None],
    ) -> None:
        """`directory` is for trials alone; `own_files` and `socket` are what a trial tries to open. The rest is of Attempts."""
        self._directory = directory
        self._jobs_dir = jobs_dir
        self._daemon_files = daemon_files
        self._own_files = own_files
        self._socket = socket
        self._uids = settings.dynamic_uid_range
        self._host = host
        self._runs_as = runs_as
        self._live: dict[int, _Trial] = {}
        self._last = 0
        self._attempts = attempts.Attempts(
            events,
            settings,
            output_dir=os.path.join(directory, "output"),
            jobs_dir=directory,
            daemon_files=daemon_files,
            runs_as=runs_as,
            send=send,
            defer=defer,
            on_ended=self._on_ended,
            on_exceeded=lambda *_: None,
            on_life=lambda _: None,
        )

    def look(self, job: model.JobConfig, job_uid: int, profile: str) -> dict[str, Any]:
        """What a run of the job would get: control.Sandbox's answer. CannotStartError if it could not even be prepared."""
        host, is_root = self._host(), self._runs_as() == 0
        who = payload.account(job, self._runs_as(), profile)
        state_dir = os.path.join(self._jobs_dir, str(job_uid))
        wanted = payload.policy_of(job, who, state_dir, profile=profile, daemon_files=self._daemon_files)
        # Which number the run will get is not known before it starts.
        uid = self._uids.first if wanted.dynamic and is_root else None
        refused, plan = None, {}
        try:
            plan = describe.plan(settle.settle(wanted, host, is_root=is_root, uid=uid), host)
        except policy.RefusedError as error:
            refused = str(error)
        return {
            "job_id": job.id,
            "profile": profile,
            "mode": host.mode,
            "runs_as": "a user of its own" if uid is not None else who.name,
            "refused": refused,
            "layers": [
                {"layer": each.layer, "wanted": each.wanted, "state": each.state, "why": each.why}
                for each in settle.standings(wanted, host, is_root=is_root)
            ],
            "plan": plan,
        }

    def order(self, job: model.JobConfig, job_uid: int, profile: str) -> dict[str, Any]:
        """What a run of the job would be started with: control.Shell's answer. CannotStartError if it could not be."""
        who = payload.account(job, self._runs_as(), profile)
        state_dir = os.path.join(self._jobs_dir, str(job_uid))
        facts = payload.Attempt(
            run_id=0,
            attempt=1,
            slot=None,
            event=None,
            kwargs=None,
            state_dir=state_dir,
            result_limit=0,
            profile=profile,
        )
        wanted = payload.policy_of(job, who, state_dir, profile=profile, daemon_files=self._daemon_files)
        return {
            "policy": wanted.to_map(),
            "environment": payload.environment(job, who, facts),
            "directory": job.working_directory,
            "umask": job.umask,
            "uids": str(self._uids),
        }

    # Measuring.

    def start(self, job: model.JobConfig, profile: str, on_ended: Callable[[dict[str, Any]], None]) -> None:
        """Measure the job's box; `on_ended` gets control.Measure's answer.

        CannotStartError or OSError if it cannot be prepared, RefusedError if too many are measured.
        """
        if len(self._live) >= _AT_ONCE:
            raise RefusedError(control.FAILED, f"{_AT_ONCE} boxes are being measured; try again when they have ended")
        who = payload.account(job, self._runs_as(), profile)
        wanted = payload.policy_of(job, who, self._directory, profile=profile, daemon_files=self._daemon_files)
        is_root = self._runs_as() == 0
        standings = settle.standings(wanted, self._host(), is_root=is_root)
        layers = {each.layer: each.wanted for each in standings if each.wanted != policy.OFF}
        for path, mode in ((self._directory, 0o711), (os.path.join(self._directory, "output"), 0o700)):
            os.makedirs(path, mode, exist_ok=True)
        # Below what any trial of this daemon had, also before this supervisor.
        self._last = min(self._last - 1, -clock.now_ms())
        number = self._last
        order = attempts.Order(
            run_id=number,
            attempt=1,
            of=1,
            job_uid=number,
            job=self._measuring(job, wanted, layers),
            slot=None,
            request={"profile": profile},
            queued=clock.now_ms(),
            timeout=_TIMEOUT,
        )
        self._live[number] = _Trial(order, profile, standings, on_ended)
        self._attempts.launch(order)

    def _measuring(self, job: model.JobConfig, wanted: policy.Policy, layers: dict[str, str]) -> model.JobConfig:
        """The job with another program in it."""
        outside = measure.outside(
            uid=os.geteuid(),
            variables=sorted(os.environ.keys() - job.environment.keys() - {"PATH", "HOME", *_COMMON}),
            files=[path for path in self._own_files if os.path.exists(path)],
            socket_path=self._socket,
            processes=wanted.processes,
        )
        return replace(
            job,
            command=None,
            module=measure.__name__,
            function="measure",
            args=[layers, {name: getattr(wanted, name) for name in measure.RLIMITS}, outside],
            kwargs={},
            main_file=None,
            python=None,
            python_path=[],
            secrets={},
            grants=[],
            kill_grace=_GRACE,
            stall_timeout=None,
        )

    def on_started(self, message: messages.Started, pipes: list[int]) -> None:
        self._attempts.on_started(message, pipes)

    def on_exited(self, message: messages.Exited) -> None:
        self._attempts.on_exited(message)

    def _on_ended(self, run_id: int, attempt: int, _: run.Outcome, facts: attempts.Facts) -> None:
        trial = self._live.pop(run_id)
        self._attempts.close(run_id, attempt, last=True)
        text = self._take_output(trial)
        found: Any = {"layers": {}, "attempts": []}
        error = facts.error
        if facts.result is not None:
            found = codec.unpack(facts.result)
        elif error is None:
            error = f"the measuring program ended without a result{f': {text}' if text else ''}"
        trial.on_ended(
            {
                "job_id": trial.order.job.id,
                "profile": trial.profile,
                "mode": self._host().mode,
                "uid": facts.uid,
                "error": error,
                "layers": [_measured(each, found["layers"].get(each.layer), facts) for each in trial.standings],
                "attempts": [{"operation": name, "outcome": said} for name, said in found["attempts"]],
            }
        )
        if not self._live:
            shutil.rmtree(self._directory, ignore_errors=True)

    def _take_output(self, trial: _Trial) -> str:
        """What it printed, which nobody expects, and away with its files."""
        path = output.path_of(os.path.join(self._directory, "output"), trial.order.run_id, trial.order.queued)
        try:
            data = output.read_stored(path, "output", -1000, 1000)[0]
        except FileNotFoundError:
            data = b""
        output.remove(path)
        try:
            # Its own and empty, so this account can remove it although it belongs to another.
            os.rmdir(os.path.join(self._directory, str(trial.order.run_id)))
        except OSError:
            pass
        return data.decode(errors="backslashreplace").strip()


#: Of the daemon's environment, what a job has of its own.
_COMMON = frozenset({"LANG", "LOGNAME", "SHELL", "TMPDIR", "TZ", "USER"})


def _measured(standing: settle.Standing, found: list[str] | None, facts: attempts.Facts) -> dict[str, Any]:
    """One layer: the measured state, else what the launcher says of it."""
    if found is not None:
        state, by = found
    elif standing.wanted == policy.OFF:
        state, by = policy.OFF, ""
    else:
        state, by = measure.ABSENT, standing.why or facts.error or "not measured"
    return {"layer": standing.layer, "wanted": standing.wanted, "state": state, "by": by}
