"""What a period of the history comes to: pure functions, for the reports.

A run belongs to the period in which it was decided. Its success rate is of the runs that completed or failed; what was
cancelled says nothing about a job, and what was skipped did not run. A job is flaky if it failed twice or more with successes
in between, and one run in fifty, or needed retries for one in twenty. A silence is held against the job's own rhythm: a week
is nothing for what succeeds once a week.
"""

import bisect
import itertools
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import date, datetime, time, timedelta
from typing import Any

from lnmt_scheduler.jobs import alerting, history, needs

_MS = 1000
_HOUR_MS = 3_600_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Period:
    """From the first midnight up to the last, both aware."""

    start: datetime
    end: datetime

    @property
    def ms(self) -> tuple[int, int]:
        return round(self.start.timestamp() * _MS), round(self.end.timestamp() * _MS)

    @property
    def days(self) -> int:
        return (self.end.date() - self.start.date()).days


@dataclass(frozen=True, slots=True, kw_only=True)
class Bar:
    """What became of runs in one part of the period."""

    label: str
    ok: int = 0
    failed: int = 0
    #: Slots that did not run.
    skipped: int = 0

    @property
    def rate(self) -> float | None:
        return self.ok / (self.ok + self.failed) if self.ok + self.failed else None


@dataclass(frozen=True, slots=True, kw_only=True)
class JobFigures:
    job_id: str
    name: str
    runs: int
    ok: int
    warnings: int
    failed: int
    skipped: int
    #: Attempts beyond the first of runs that completed.
    retries: int
    #: From well to failed or back.
    turns: int
    #: Seconds.
    median: float | None
    p95: float | None
    longest: float | None
    #: Longest time without a success, in seconds, up to the end of the period; None: it has no schedule, or was not there.
    silence: float | None
    #: What lies between two successes as a rule, in seconds.
    rhythm: float | None
    failing_since: int | None
    last_error: str | None
    bars: Sequence[Bar]

    @property
    def rate(self) -> float | None:
        return self.ok / (self.ok + self.failed) if self.ok + self.failed else None

    @property
    def is_flaky(self) -> bool:
        return (self.turns > 2 and self.failed * 50 > self.runs) or self.retries * 20 > self.ok > 0

    @property
    def hush(self) -> float:
        """How many times its rhythm the longest silence was."""
        return self.silence / self.rhythm if self.silence and self.rhythm else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Forecast:
    """A file system: when it will be full if it goes on like this."""

    mount: str
    total: int
    used: int
    #: Bytes a day; None: not known yet.
    growth: float | None
    #: Days; None: it does not fill up, or that is not known.
    full_in: float | None
    #: (milliseconds since the epoch, part that is used), oldest first.
    points: Sequence[tuple[int, float]] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    kind: str
    period: Period
    #: All runs, and those of the period before it.
    totals: dict[str, Any]
    before: dict[str, Any]
    bars: Sequence[Bar]
    #: Those with most trouble first.
    jobs: Sequence[JobFigures]
    #: (job, run, seconds), of each job its slowest run, the slowest first.
    slowest: Sequence[tuple[str, int, float]]
    #: (job, reason, slots).
    missed: Sequence[tuple[str, str, int]]
    forecasts: Sequence[Forecast] = field(default=())
    #: None: the history has every run of the period; else from when on.
    known_from: int | None = None


def period(now: int, days: int, zone: Any, until: str | None = None) -> Period:
    """The whole days before the last midnight, or before the day `until`."""
    try:
        last = datetime.fromtimestamp(now / _MS, zone).date() if until is None else date.fromisoformat(until)
    except ValueError:
        needs.end(f"until {until!r} is no day such as 2026-03-02")
    midnight = time.min
    return Period(
        start=datetime.combine(last - timedelta(days=days), midnight, zone), end=datetime.combine(last, midnight, zone)
    )


def report(kind: str, found: history.History, of: Period, forecasts: Sequence[Forecast] = ()) -> Report:
    start, end = of.ms
    runs = [run for run in found.runs if start <= run.queued < end]
    earlier = [run for run in found.runs if start - (end - start) <= run.queued < start]
    edges = _edges(of)
    by_job: dict[str, list[history.Run]] = {}
    for run in runs:
        by_job.setdefault(run.job_id, []).append(run)
    known = {job.job_id: job for job in found.jobs}
    last_success, rhythms = _last_successes(found.runs, start), _rhythms(found.runs)
    jobs = [
        _job(
            job_id,
            known.get(job_id),
            by_job.get(job_id, []),
            edges,
            (start, end),
            last_success.get(job_id),
            rhythms.get(job_id),
        )
        for job_id in sorted({*by_job, *(job.job_id for job in found.jobs if job.enabled and job.schedule)})
    ]
    slowest: dict[str, history.Run] = {}
    for run in runs:
        best = slowest.get(run.job_id)
        if run.duration is not None and (best is None or run.duration > (best.duration or 0)):
            slowest[run.job_id] = run
    missed: dict[tuple[str, str], int] = {}
    for run in runs:
        if run.status == "skipped" and run.reason in alerting.MISSED:
            place = (run.job_id, run.reason or "")
            missed[place] = missed.get(place, 0) + run.slots
    return Report(
        kind=kind,
        period=of,
        totals=_totals(runs),
        before=_totals(earlier),
        bars=_bars(runs, edges),
        jobs=sorted(jobs, key=_trouble),
        slowest=sorted(
            ((run.job_id, run.run_id, run.duration or 0.0) for run in slowest.values()), key=lambda each: -each[2]
        )[:8],
        missed=sorted(((*place, count) for place, count in missed.items()), key=lambda each: (-each[2], each[0])),
        forecasts=forecasts,
        known_from=found.since if found.since > start else None,
    )


def _trouble(job: JobFigures) -> tuple[Any, ...]:
    rate = 1.0 if job.rate is None else job.rate
    return (job.failing_since is None, rate, -job.skipped, not job.is_flaky, job.job_id)


def _totals(runs: Sequence[history.Run]) -> dict[str, Any]:
    ok = sum(run.status == "completed" for run in runs)
    failed = sum(run.status == "failed" for run in runs)
    return {
        "runs": sum(run.status != "skipped" for run in runs),
        "ok": ok,
        "failed": failed,
        "skipped": sum(run.slots for run in runs if run.status == "skipped" and run.reason in alerting.MISSED),
        "retries": sum(max(0, run.attempts - 1) for run in runs),
        "success": round(100 * ok / (ok + failed), 2) if ok + failed else None,
    }


def _edges(of: Period) -> list[tuple[str, int]]:
    """Where the parts of the period begin, with their labels: hours of a day, else days. By wall time, as people count."""
    if of.days == 1:
        start, end = of.ms
        hours = range(start, end, _HOUR_MS)
        return [(datetime.fromtimestamp(at / _MS, of.start.tzinfo).strftime("%H:%M"), at) for at in hours]
    days = [of.start.date() + timedelta(days=number) for number in range(of.days)]
    return [(f"{day:%a %d}", round(datetime.combine(day, time.min, of.start.tzinfo).timestamp() * _MS)) for day in days]


def _bars(runs: Iterable[history.Run], edges: Sequence[tuple[str, int]]) -> list[Bar]:
    counts = [[0, 0, 0] for _ in edges]
    starts = [at for _, at in edges]
    for run in runs:
        place = _place(starts, run.queued)
        if run.status == "completed":
            counts[place][0] += 1
        elif run.status == "failed":
            counts[place][1] += 1
        elif run.status == "skipped" and run.reason in alerting.MISSED:
            counts[place][2] += run.slots
    return [
        Bar(label=label, ok=ok, failed=failed, skipped=skipped)
        for (label, _), (ok, failed, skipped) in zip(edges, counts, strict=True)
    ]


def _place(starts: Sequence[int], at: int) -> int:
    return max(0, bisect.bisect_right(starts, at) - 1)


def _last_successes(runs: Iterable[history.Run], before: int) -> dict[str, int]:
    return {
        run.job_id: run.end for run in runs if run.status == "completed" and run.end is not None and run.end < before
    }


def _rhythms(runs: Iterable[history.Run]) -> dict[str, float]:
    """Seconds that lie between two successes of a job, as a rule."""
    ends: dict[str, list[int]] = {}
    for run in runs:
        if run.status == "completed" and run.end is not None:
            ends.setdefault(run.job_id, []).append(run.end)
    return {
        job: statistics.median(two - one for one, two in itertools.pairwise(sorted(times))) / _MS
        for job, times in ends.items()
        if len(times) > 2
    }


def _job(
    job_id: str,
    known: history.Job | None,
    runs: Sequence[history.Run],
    edges: Sequence[tuple[str, int]],
    span: tuple[int, int],
    last_success: int | None,
    rhythm: float | None,
) -> JobFigures:
    ended = [run for run in runs if run.status in ("completed", "failed")]
    good = [run for run in ended if run.status == "completed"]
    durations = sorted(run.duration for run in good if run.duration is not None)
    errors = [run for run in ended if run.status == "failed"]
    last = errors[-1] if errors else None
    return JobFigures(
        job_id=job_id,
        name=known.name if known is not None else job_id,
        runs=sum(run.status != "skipped" for run in runs),
        ok=len(good),
        warnings=sum(run.reason == "warning" for run in good),
        failed=len(errors),
        skipped=sum(run.slots for run in runs if run.status == "skipped" and run.reason in alerting.MISSED),
        retries=sum(max(0, run.attempts - 1) for run in good),
        turns=sum(one.status != two.status for one, two in itertools.pairwise(ended)),
        median=statistics.median(durations) if durations else None,
        p95=durations[min(len(durations) - 1, int(0.95 * len(durations)))] if durations else None,
        longest=durations[-1] if durations else None,
        silence=_silence(known, good, span, last_success),
        rhythm=rhythm,
        failing_since=known.failing_since if known is not None and known.enabled else None,
        last_error=None if last is None else _words(last),
        bars=_bars(runs, edges),
    )


def _words(run: history.Run) -> str:
    lines = (run.error or "").strip().splitlines()
    return f"run {run.run_id}: {run.reason}" + (f": {lines[-1][:120]}" if lines else "")


def _silence(
    known: history.Job | None, good: Sequence[history.Run], span: tuple[int, int], last_success: int | None
) -> float | None:
    if known is None or not known.enabled or known.schedule is None:
        return None
    begin = last_success if last_success is not None else max(known.added, span[0])
    times = [begin, *sorted(run.end for run in good if run.end is not None), span[1]]
    gaps = [two - one for one, two in itertools.pairwise(times)]
    return max(gaps) / _MS if max(gaps) > 0 else None


def fit(points: Sequence[tuple[float, float]]) -> float | None:
    """The slope of the line through the points by the median of all pairs (Theil and Sen): one clean-up does not turn it."""
    chosen = points[-200:]
    slopes = [
        (y2 - y1) / (x2 - x1) for number, (x1, y1) in enumerate(chosen) for x2, y2 in chosen[number + 1 :] if x2 > x1
    ]
    return statistics.median(slopes) if slopes else None
