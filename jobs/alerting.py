"""When an alert is due: pure decisions over what the history says, for reporting.alerts.

A rule looks at jobs and finds conditions: what is wrong, with which job. A condition is told when it is first seen, again after
`repeat`, twice that and so on up to a day while it lasts, and once when it is over. Each of these has a key made of the
rule, the job, the condition's beginning and which telling it is, so that no run, however often it is killed and begun anew,
tells the same again under another key.
"""

import fnmatch
import hashlib
import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from datetime import datetime, time, timedelta
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lnmt_scheduler.jobs import units

_DAY_MS = 86_400_000
MISSED = frozenset({"missed", "coalesced", "overlap", "dependency", "deadline", "quarantined"})


class Rule(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What is looked for."""

    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    #: failing: its last `runs` runs failed. warning: its last run completed with a warning. silent: no success for `after`.
    #: missed: slots that did not run within `after`. result: `key` of what it returned last is one of `values`. changed: `key`
    #: of what a run returned is not empty, each time.
    when: Literal["failing", "warning", "silent", "missed", "result", "changed"]
    #: Ids, with * and ?; and a tag that they must have.
    jobs: Annotated[list[str], Meta(min_length=1, max_length=1000)] = msgspec.field(default_factory=lambda: ["*"])
    tag: str | None = None
    runs: Annotated[int, Meta(ge=1, le=1000)] = 1
    after: str | float = "26h"
    #: Dotted: checks.disk.state.
    key: Annotated[str, Meta(max_length=200)] = ""
    values: Annotated[list[Any], Meta(max_length=100)] = []
    severity: Literal["warning", "critical"] = "warning"
    #: Names of targets; empty: all.
    targets: Annotated[list[str], Meta(max_length=100)] = []
    repeat: str | float = "4h"


class Quiet(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Hours in which only what is critical is told; the rest waits for their end."""

    start: Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")] = msgspec.field(name="from")
    until: Annotated[str, Meta(pattern=r"^([01][0-9]|2[0-3]):[0-5][0-9]$")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What the history says of one job. Times are milliseconds since the epoch."""

    job_id: str
    enabled: bool
    tags: frozenset[str]
    last_success: int | None
    added: int
    #: (run, what it returned), the newest last.
    results: Sequence[tuple[int, Any]]
    #: Runs that are over, the newest first: (run, status, reason, end, error).
    runs: Sequence[tuple[int, str, str | None, int, str | None]]
    #: When slots of it were decided not to run, by their reasons.
    missed: Sequence[tuple[int, str]] = ()
    #: Since when it fails; it is known also where `runs` do not go back so far.
    failing_since: int | None = None
    #: Keys of the newest result that were too large to be told; an empty one: all of it.
    lacks: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, kw_only=True)
class Condition:
    """Something that is wrong now."""

    rule: str
    job_id: str
    text: str
    #: Of what is told each time that it happens, which time this is.
    once: int | None = None
    #: The history does not go back far enough to say: what has been told still holds, and nothing is told anew.
    unknown: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Open:
    """A condition that has been told."""

    since: int
    told: int
    times: int
    text: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Alert:
    key: str
    rule: str
    job_id: str
    #: first, still, recovered.
    phase: str
    severity: str
    targets: tuple[str, ...]
    text: str
    since: int
    at: int
    #: Not to be told before.
    due: int


@dataclass(frozen=True, slots=True)
class State:
    """What is remembered: (rule, job) -> what has been told; (rule, job) -> the last of what happens once."""

    open: Mapping[tuple[str, str], Open] = field(default_factory=dict)
    last: Mapping[tuple[str, str], int] = field(default_factory=dict)


def conditions(rules: Iterable[Rule], jobs: Sequence[Job], now: int) -> list[Condition]:
    """What is wrong now, of all rules, and what may still be."""
    found = []
    for rule in rules:
        for job in jobs:
            if not job.enabled or (rule.tag is not None and rule.tag not in job.tags):
                continue
            if not any(fnmatch.fnmatchcase(job.job_id, pattern) for pattern in rule.jobs):
                continue
            if rule.when in ("result", "changed"):
                found += _returned(rule, job)
            elif (condition := _look(rule, job, now)) is not None:
                found.append(condition)
    return found


def _look(rule: Rule, job: Job, now: int) -> Condition | None:
    text, holds = None, False
    after = round(units.duration(rule.after) * 1000)
    match rule.when:
        case "failing":
            ended = [run for run in job.runs if run[1] in ("completed", "failed")]
            count = next((at for at, run in enumerate(ended) if run[1] != "failed"), len(ended))
            if count >= rule.runs:
                run_id, _, reason, _, error = ended[0]
                detail = (error or "").strip().splitlines()[-1:] or [""]
                text = f"failed {count} time{'s' * (count > 1)} in a row; run {run_id}: {reason}" + (
                    f": {detail[0][:150]}" if detail[0] else ""
                )
            # It has not succeeded since; earlier runs are older than what is known of them.
            holds = count == len(ended) and job.failing_since is not None
        case "warning":
            last_run = next((run for run in job.runs if run[1] in ("completed", "failed")), None)
            if last_run is not None and last_run[2] == "warning":
                text = f"run {last_run[0]} completed with a warning"
            holds = last_run is None and job.last_success is not None
        case "silent":
            last = job.last_success
            if now - (job.added if last is None else last) > after:
                text = f"no success since {_text(last)}" if last is not None else "never succeeded"
        case "missed":
            recent = [reason for at, reason in job.missed if now - at <= after]
            if recent:
                reasons = ", ".join(sorted(set(recent)))
                text = f"{len(recent)} slot{'s' * (len(recent) > 1)} did not run: {reasons}"
    if text is None and not holds:
        return None
    return Condition(rule=rule.name, job_id=job.job_id, text=text or "", unknown=text is None)


def _returned(rule: Rule, job: Job) -> list[Condition]:
    """What is wrong by what a job returned: last, or, for what is told each time, in any of its runs."""
    of, found = rule.key or "result", []
    if job.lacks and (not rule.key or job.lacks & {"", rule.key.partition(".")[0]}):
        text = f"cannot be known, since what it returned is too large for rules: {of}"
        found.append(Condition(rule=rule.name, job_id=job.job_id, text=text))
    for run_id, result in job.results if rule.when == "changed" else job.results[-1:]:
        value = _value(result, rule.key)
        said = json.dumps(value)[:200]
        if rule.when == "changed" and value:
            found.append(Condition(rule=rule.name, job_id=job.job_id, text=f"{of}: {said}", once=run_id))
        elif rule.when == "result" and value is not None and value in rule.values:
            found.append(Condition(rule=rule.name, job_id=job.job_id, text=f"{of} is {said}"))
    return found


def _value(found: Any, key: str) -> Any:
    for part in key.split(".") if key else ():
        found = found.get(part) if isinstance(found, Mapping) else None
    return found


def step(
    state: State,
    rules: Sequence[Rule],
    found: Sequence[Condition],
    now: int,
    quiet: Quiet | None = None,
    zone: Any = None,
) -> tuple[State, list[Alert]]:
    """The state after these conditions, and what is to be told of them."""
    by_name = {rule.name: rule for rule in rules}
    open_, last, alerts = dict(state.open), dict(state.last), []
    until = quiet_until(now, quiet, zone)

    def tell(rule: Rule, job_id: str, phase: str, since: int, times: int, text: str) -> None:
        due = now if rule.severity == "critical" or until is None else until
        name = json.dumps([rule.name, job_id, since, phase, times])
        alerts.append(
            Alert(
                key=hashlib.sha256(name.encode()).hexdigest()[:32], rule=rule.name, job_id=job_id, phase=phase,
                severity=rule.severity, targets=tuple(rule.targets), text=text, since=since, at=now, due=due,
            )
        )  # fmt: skip

    seen = set()
    for each in found:
        rule, place = by_name[each.rule], (each.rule, each.job_id)
        if each.once is not None:
            if each.once > last.get(place, 0):
                last[place] = each.once
                tell(rule, each.job_id, "first", each.once, 0, each.text)
            continue
        before = open_.get(place)
        if each.unknown and before is None:
            continue
        seen.add(place)
        text = before.text if each.unknown and before is not None else each.text
        if before is None:
            open_[place] = Open(since=now, told=now, times=0, text=text)
            tell(rule, each.job_id, "first", now, 0, text)
        elif now - before.told >= _wait(rule, before.times):
            open_[place] = replace(before, told=now, times=before.times + 1, text=text)
            tell(rule, each.job_id, "still", before.since, before.times + 1, text)
    for place in [place for place in open_ if place not in seen]:
        over = open_.pop(place)
        if place[0] in by_name:  # a rule that was taken away ends in silence
            tell(by_name[place[0]], place[1], "recovered", over.since, 0, f"over: {over.text}")
    return State(open_, last), alerts


def _wait(rule: Rule, times: int) -> int:
    return int(min(round(units.duration(rule.repeat) * 1000) << min(times, 20), _DAY_MS))


def quiet_until(now: int, quiet: Quiet | None, zone: Any) -> int | None:
    """The end of the quiet hours that this moment lies in, or None."""
    if quiet is None or quiet.start == quiet.until:
        return None
    start, end = time.fromisoformat(quiet.start), time.fromisoformat(quiet.until)
    local = datetime.fromtimestamp(now / 1000, zone)
    at = local.time()
    inside = start <= at < end if start < end else at >= start or at < end
    if not inside:
        return None
    day = local.date() + timedelta(days=1 if start > end and at >= start else 0)
    return round(datetime.combine(day, end, tzinfo=local.tzinfo).timestamp() * 1000)


def _text(at: int) -> str:
    return datetime.fromtimestamp(at / 1000).astimezone().strftime("%Y-%m-%d %H:%M")
