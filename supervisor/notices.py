"""Who is told of the end of a run: `[notify]` of config.toml, as values, as jobs, and as answers at the end of each run.

A target is a job: `notify.NAME`, defined by config.toml as other jobs are by job files, which delivers one message a run
(jobs/notices.py). So a notice is a run in a box of its own, decided in the same transaction as the end that it tells of,
retried, and in the history; the supervisor never speaks to a mail server, and no target can hold it up. Notices tell of jobs,
and never of notices. Pure, but for the check of the file.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lnmt_scheduler.jobs import checks, model

PREFIX = "notify."
MODULE = "lnmt_scheduler.jobs.notices"
#: Bytes of the end of a run's output in a notice; cron would mail all of it.
TAIL, MAIL_TAIL = 4 * 1024, 32 * 1024
_TARGETS_MAX = 50
#: What a target's table has besides the keys of its kind.
_OWN = ("secrets", "user", "sandbox")


@dataclass(frozen=True, slots=True, kw_only=True)
class Notify:
    #: Name -> keys of its kind.
    targets: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    #: Told when a job without hooks of its own begins to fail, and when it is well again.
    default: tuple[str, ...] = ()
    #: Delivers what goes to a job's `mailto`.
    mail: str | None = None

    def mail_problem(self, mailto: str | None) -> str | None:
        """What is wrong with a job's `mailto`; None: nothing."""
        if mailto is None or self.mail is not None:
            return None
        return 'takes a target that mails: [notify] with `mail = "NAME"` in config.toml, and [notify.targets.NAME]'


def parse(value: dict[str, Any]) -> Notify:
    """The table of config.toml. ValueError says everything that is wrong with it."""
    problems = [f"unknown key {key[:80]!r}" for key in sorted(value.keys() - {"default", "mail", "targets"})]
    targets = value.get("targets", {})
    default, mail = value.get("default", []), value.get("mail")
    if not isinstance(targets, dict) or len(targets) > _TARGETS_MAX:
        raise ValueError(f"targets must be a table of at most {_TARGETS_MAX} targets")
    for name, keys in targets.items():
        try:
            _check(name, keys)
        except ValueError as error:
            problems.append(f"targets.{name[:80]}: {error}")
    if not isinstance(default, list) or not all(isinstance(name, str) for name in default):
        problems.append("default must be a list of names")
        default = []
    for key, name in [*(("default", name) for name in default), *([("mail", mail)] if mail is not None else [])]:
        if name not in targets:
            problems.append(f"{key}: there is no target {name!r}{checks.hint(str(name), targets)}")
        elif key == "mail" and targets[name].get("type") not in ("sendmail", "smtp"):
            problems.append(f"mail: target {name!r} sends no mail; its type is to be sendmail or smtp")
    if problems:
        raise ValueError("; ".join(problems))
    return Notify(targets=targets, default=tuple(dict.fromkeys(default)), mail=mail)


def _check(name: str, keys: object) -> None:
    from lnmt_scheduler.jobs import delivery  # noqa: PLC0415 (with all of the standard library's mail, for those who have any)

    checks.identifier(PREFIX + name)
    if not isinstance(keys, dict):
        raise ValueError("must be a table")  # noqa: TRY004 (every refusal of a value is a ValueError)
    found = delivery.target({key: value for key, value in keys.items() if key not in _OWN})
    given = checks.secrets(keys["secrets"] if isinstance(keys.get("secrets"), dict) else {})
    if missing := sorted(delivery.secrets_of(found) - given.keys()):
        raise ValueError(f'secret {missing[0]!r} is not given: secrets = {{ {missing[0]} = "/etc/..." }}')


def document(notify: Notify) -> dict[str, Any]:
    """Its targets as a job file has jobs."""
    return {"jobs": [_job(name, keys) for name, keys in sorted(notify.targets.items())]}


def _job(name: str, keys: Mapping[str, Any]) -> dict[str, Any]:
    # The programs that sendmail stands for put mail into a queue with privileges that a box takes away.
    by_program = keys.get("type") == "sendmail"
    found = {
        "id": PREFIX + name,
        "name": f"Notices to {name}",
        "module": MODULE,
        "function": "deliver",
        "kwargs": {"target": {key: value for key, value in keys.items() if key not in _OWN}},
        "sandbox": keys.get("sandbox", {"profile": "trusted" if by_program else "standard"}),
        "secrets": keys.get("secrets", {}),
        "priority": "high",
        "timeout": 120,
        "max_retries": 10,
        "retry_delay": 30,
        "retry_max_delay": 1800,
        "retry_on": ["exit:75", "timeout", "signal", "spawn", "lost", "stopped", "memory", "pids"],
        # Told twice, with the same key, is better than not at all.
        "idempotent": True,
        "overlap": "allow",
        "max_instances": 4,
        "tags": ["notify"],
        "description": f"Defined by [notify.targets.{name}] of config.toml.",
        # Whatever [defaults] has for jobs.
        **{key: [] for key in model.HOOKS},
        "dependencies": [],
        "grants": [],
        "mailto": None,
        "pool": None,
        "jitter": 0,
        "start_deadline": None,
        "on_event": None,
    }
    return found | ({"user": keys["user"]} if "user" in keys else {})


def is_notice(job: model.JobConfig) -> bool:
    return job.module == MODULE


def target_of(name: str) -> str:
    """The job that a target is, as hooks may call it."""
    return name if name.startswith(PREFIX) else PREFIX + name


def asked(
    job: model.JobConfig, status: model.JobStatus, notify: Notify, *, is_change: bool, has_output: bool
) -> dict[str, str]:
    """Id of each target's job to start for `mailto` and `[notify] default` -> the key that asks for it.

    `is_change`: the job begins or ceases to fail by this run.
    """
    if is_notice(job) or status not in (model.JobStatus.COMPLETED, model.JobStatus.FAILED):
        return {}
    if job.mailto is not None:
        failed = status is model.JobStatus.FAILED
        wanted = failed or job.notify_on == "always" or (job.notify_on == "output" and has_output)
        return {PREFIX + notify.mail: "mailto"} if wanted and notify.mail is not None else {}
    if is_change and not any(getattr(job, key) for key in ("on_failure", "on_change")):
        return {PREFIX + name: "default" for name in notify.default}
    return {}
