"""Jobs as the dispatcher needs them: definition, schedule and terms, read from the store when they are wanted.

With 100,000 jobs most are asleep at any moment, so memory holds the schedule heap and the recently used definitions; the
store holds the rest. A definition that changes is forgotten here and read anew.
"""

import json
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import dataclass

from lnmt_scheduler.jobs import load, model
from lnmt_scheduler.supervisor import cron, run, store, zonefile
from lnmt_scheduler.supervisor import schedule as schedules

#: Definitions kept in memory.
_KEPT = 2048
#: Where the store keeps _zones.
_ZONES = "zones"


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    uid: int
    config: model.JobConfig
    hash: str
    #: None: it has none, or one that cannot be read now.
    schedule: cron.Schedule | None
    terms: run.Terms
    #: Milliseconds after each slot that it is due (jitter).
    offset: int = 0
    #: Why its schedule cannot be read, so that it is out of schedule: its zone is not there any more.
    problem: str | None = None

    def deadline(self, slot: int) -> int | None:
        """Until when its run of this slot must have started; None: whenever there is a place."""
        limit = self.config.start_deadline
        return None if limit is None else slot + self.offset + round(limit * 1000)


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
    return [parent for parent, _ in model.links(config.dependencies)]


def is_after(config: model.JobConfig) -> bool:
    """Whether the ends of other jobs start this one."""
    return config.schedule is None and bool(config.dependencies)


def schedule(config: model.JobConfig, zone: str) -> cron.Schedule | None:
    """The job's schedule in its zone, else in the daemon's. Raises cron.CronError."""
    if config.schedule is None:
        return None
    return cron.parse(config.schedule, config.timezone or zone, config.id, config.dst)


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
    def __init__(self, history: store.Store, zone: str, host: str = "") -> None:
        """`host`: a name of this host that stays; jitter differs from host to host."""
        self._store = history
        self.host = host
        self.zone = zone
        self._kept: OrderedDict[int, Job] = OrderedDict()
        #: Every zone that a job was ever read in -> what its file said when that was last looked at.
        self._zones: dict[str, str | None] = json.loads(history.meta_get(_ZONES) or "{}")

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
        planned, problem = None, None
        try:
            planned = self.schedule(config)
        except cron.CronError as error:
            problem = str(error)
        job = Job(
            uid=uid,
            config=config,
            hash=row.hash,
            schedule=planned,
            terms=terms(config),
            offset=self._offset(config),
            problem=problem,
        )
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
        return Job(uid=uid, config=config, hash=digest, schedule=None, terms=terms(config), offset=self._offset(config))

    def _offset(self, config: model.JobConfig) -> int:
        return schedules.offset(config.id, config.jitter, self.host)

    def schedule(self, config: model.JobConfig) -> cron.Schedule | None:
        """As schedule(), in the zone that is the daemon's now; the zone is remembered. Raises cron.CronError."""
        planned = schedule(config, self.zone)
        if planned is not None and planned.zone not in self._zones:
            self._keep_zones({**self._zones, planned.zone: zonefile.digest(planned.zone)})
        return planned

    def reread_zones(self) -> bool:
        """Look at the files of the zones again. True: some are not what they were, and no job's next slot is sure."""
        now = {zone: zonefile.digest(zone) for zone in self._zones}
        if now == self._zones:
            return False
        self._keep_zones(now)
        cron.forget_zones()
        self._kept.clear()
        return True

    def _keep_zones(self, zones: dict[str, str | None]) -> None:
        self._zones = zones
        self._store.meta_set(_ZONES, json.dumps(zones))

    def forget(self, uid: int) -> None:
        self._kept.pop(uid, None)

    def forget_all(self) -> None:
        self._kept.clear()
