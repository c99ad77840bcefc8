"""What will run when, and how crowded it will be: the future of a set of jobs, told without running any.

Pure, for `schedctl forecast`, which needs no daemon. The fires are those of the daemon's own cron.py in the order of its own
schedule heap; rehearsal.py goes through them to find how crowded it gets.

Times are epoch milliseconds, UTC, unless said.
"""

import math
import statistics
import zoneinfo
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import cron, schedule

#: Fires that are looked at: a busy host's day, in some seconds. What comes after them is said to be left out.
FIRES = 200_000
#: Jobs of one second that are named, and seconds that are.
_NAMED = 20
#: Runs of a job that its usual duration is learnt from.
_LEARNT = 20


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A job of the forecast."""

    config: model.JobConfig
    #: None: the ends of other jobs start it.
    schedule: cron.Schedule | None
    #: How long a run of it takes, in seconds.
    duration: float
    #: Milliseconds after each slot that it is due (jitter).
    offset: int = 0


@dataclass(frozen=True, slots=True, kw_only=True)
class Absence:
    """Why and when a job that is known starts nothing by itself."""

    #: A word or two for people: "paused".
    why: str
    schedule: cron.Schedule | None
    #: Its slots from after this moment on are passed over,
    since: int
    #: and those before this one; infinite: for good.
    until: float = math.inf

    def lasts(self, now: int) -> bool:
        return self.since <= now < self.until

    def has_passed_over(self, slot: int) -> bool:
        """Whether its newest slot at or before this one is among them: for who depends on it, a run that was skipped."""
        if self.schedule is None:
            return False
        first = self.schedule.next_after(self.since)
        if first is None or first > slot or first >= self.until:
            return False
        if self.until == math.inf:
            return True
        later = self.schedule.next_after(int(self.until) - 1)
        return later is None or later > slot


@dataclass(frozen=True, slots=True)
class Fire:
    #: Of its subject, in the order in which they were given.
    number: int
    slot: int


@dataclass(frozen=True, slots=True)
class Fires:
    """In the order of time."""

    found: list[Fire]
    #: There are none but these up to here.
    until: int


def learn(runs: Iterable[Mapping[str, Any]]) -> dict[str, float]:
    """Job -> seconds that a run of it usually takes: the median of the first of these views of its completed runs."""
    found: dict[str, list[float]] = {}
    for run in runs:
        durations = found.setdefault(run["job_id"], [])
        if run["duration"] is not None and len(durations) < _LEARNT:
            durations.append(run["duration"])
    return {job_id: statistics.median(durations) for job_id, durations in found.items() if durations}


def fires(
    schedules: Sequence[cron.Schedule | None],
    begin: int,
    until: int,
    limit: int = FIRES,
    *,
    not_before: Mapping[int, float] | None = None,
) -> Fires:
    """Every fire in [begin, until), at most `limit`; of one second either all or none, unless they are more than that.

    `not_before`: number of a schedule -> a moment before which it does not fire (a pause).
    """
    order = schedule.ScheduleHeap()
    for number, each in enumerate(schedules):
        earliest = max(begin, (not_before or {}).get(number, begin))
        order.set(number, None if each is None or earliest >= until else each.next_after(int(earliest) - 1))
    found: list[Fire] = []
    while (first := order.first()) is not None and first[0] < until:
        if len(found) == limit:
            last = found[-1].slot
            if first[0] == last and found[0].slot < last:
                found = [each for each in found if each.slot < last]
                return Fires(found, last)
            return Fires(found, first[0])
        slot, number = first
        found.append(Fire(number, slot))
        planned = schedules[number]
        order.set(number, None if planned is None else planned.next_after(slot))
    return Fires(found, until)


def local(at: int, zone: str) -> str:
    """The moment as the zone's clock shows it, with its offset."""
    return _shown(at, zone).isoformat(timespec="seconds")


def remark(planned: cron.Schedule, job_id: str, at: int) -> str | None:
    """What a change of the clock has to do with this fire; None: nothing.

    Found by looking at the zone, not at how cron.py comes to its answer.
    """
    if planned.reboot or planned.text.lower().startswith("@every"):
        return None
    shown, before = _shown(at, planned.zone), _shown(at - 1000, planned.zone)
    leap = _offset(shown) - _offset(before)
    if leap > timedelta() and not planned.is_wildcard and not planned.skips_gaps:
        wall = round(before.replace(tzinfo=UTC).timestamp()) * 1000 + 1000
        meant = cron.parse(planned.text, "UTC", job_id).next_after(wall - 1)
        if meant is not None and meant < wall + leap / timedelta(milliseconds=1):
            return f"{_time(meant)} does not exist that day: right after the clock was put forward"
    if shown.replace(fold=0).utcoffset() == shown.replace(fold=1).utcoffset():
        return None
    if not planned.is_wildcard:
        return f"{shown:%H:%M} comes twice that day: the first time"
    return f"{shown:%H:%M} comes twice that day: the {'second' if shown.fold else 'first'} time"


def _shown(at: int, zone: str) -> datetime:
    return datetime.fromtimestamp(at // 1000, zoneinfo.ZoneInfo(zone))


def _offset(shown: datetime) -> timedelta:
    return shown.utcoffset() or timedelta()


def _time(wall: int) -> str:
    return datetime.fromtimestamp(wall // 1000, UTC).strftime("%H:%M")


def pileups(subjects: Sequence[Subject], found: Iterable[Fire]) -> list[dict[str, Any]]:
    """The seconds in which most jobs are due together, the most crowded first: {slot, fires, job_ids}."""
    counted = Counter(each.slot for each in found)
    crowded = sorted(((-count, slot) for slot, count in counted.items() if count > 1))[:_NAMED]
    named: dict[int, list[str]] = {slot: [] for _, slot in crowded}
    for each in found:
        names = named.get(each.slot)
        if names is not None and len(names) < _NAMED:
            names.append(subjects[each.number].config.id)
    return [{"slot": slot, "fires": -count, "job_ids": named[slot]} for count, slot in crowded]
