"""Jobs as the dispatcher needs them: definition, schedule and terms, read from the store when they are wanted.

With 100,000 jobs most are asleep at any moment, so memory holds the schedule heap and the recently used definitions; the
store holds the rest. A definition that changes is forgotten here and read anew.
"""

from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from lnmt_scheduler.jobs import load, model
from lnmt_scheduler.supervisor import cron, run, store

#: Definitions kept in memory.
_KEPT = 2048


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    uid: int
    config: model.JobConfig
    hash: str
    schedule: cron.Schedule | None
    terms: run.Terms


def terms(config: model.JobConfig) -> run.Terms:
    """What the definition says about its runs."""
    return run.Terms(
        max_attempts=1 + config.max_retries,
        retry_delay=config.retry_delay,
        retry_backoff=config.retry_backoff,
        retry_max_delay=config.retry_max_delay,
        retry_jitter=config.retry_jitter,
        retry_on=None if config.retry_on is None else tuple(config.retry_on),
        idempotent=config.idempotent,
        total_timeout=config.total_timeout,
        timeout=config.timeout,
        kill_grace=config.kill_grace,
        success_codes=tuple(config.success_codes),
        warning_codes=tuple(config.warning_codes),
    )


def parents(config: model.JobConfig) -> list[str]:
    """Ids of the jobs that this one depends on."""
    return [item if isinstance(item, str) else item["job"] for item in config.dependencies]


def schedule(config: model.JobConfig, zone: str) -> cron.Schedule | None:
    """The job's schedule in its zone, else in the daemon's. Raises cron.CronError."""
    return None if config.schedule is None else cron.parse(config.schedule, config.timezone or zone, config.id)


def checker(zone: str) -> Callable[[model.JobConfig], str | None]:
    """The loader's question whether a schedule can be: the error's text, or None."""

    def check(config: model.JobConfig) -> str | None:
        try:
            schedule(config, zone)
        except cron.CronError as error:
            return str(error)
        return None

    return check


class Catalog:
    def __init__(self, history: store.Store, zone: str) -> None:
        self._store = history
        self.zone = zone
        self._kept: OrderedDict[int, Job] = OrderedDict()

    def set_zone(self, zone: str) -> None:
        """The zone of jobs that name none."""
        if zone != self.zone:
            self.zone = zone
            self._kept.clear()

    def get(self, uid: int) -> Job | None:
        """The job as it is defined now; None if there is none, or none any more."""
        job = self._kept.get(uid)
        if job is not None:
            self._kept.move_to_end(uid)
            return job
        row = self._store.job(uid)
        if row is None or row.removed is not None:
            return None
        config = load.from_given(row.given, row.origins).config
        job = Job(uid=uid, config=config, hash=row.hash, schedule=schedule(config, self.zone), terms=terms(config))
        self._kept[uid] = job
        if len(self._kept) > _KEPT:
            self._kept.popitem(last=False)
        return job

    def by_hash(self, uid: int, digest: str) -> Job | None:
        """The job as it was defined when a run was decided; None if that is known no more."""
        job = self.get(uid)
        if job is not None and job.hash == digest:
            return job
        given = self._store.definition(digest)
        if given is None:
            return None
        config = load.from_given(given, {}).config
        return Job(uid=uid, config=config, hash=digest, schedule=None, terms=terms(config))

    def forget(self, uid: int) -> None:
        self._kept.pop(uid, None)
