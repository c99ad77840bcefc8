"""The reporting jobs: a report of each day, a summary of each week, and alerts.

Runs in the job's process, inside its box, with a copy of the history (`"grants": ["history"]`); how each does its work is in
the modules that it imports when it is called.
"""
# ruff: noqa: PLC0415 - what one job needs is not loaded for the others

import os
import socket
import time
from collections.abc import Mapping, Sequence
from typing import Any

from lnmt_scheduler.jobs.context import JobContext, folder_of


def daily(
    *,
    timezone: str = "UTC",
    until: str | None = None,
    folder: str | None = None,
    keep: int = 90,
    disks: Sequence[str] = ("/",),
    targets: Mapping[str, Any] | None = None,
    context: JobContext | None = None,
) -> dict[str, Any]:
    """Report the last whole day in `timezone`: as HTML, text and CSV in `folder`, and to each of `targets`.

    `until` (2026-03-02) reports the day before that one. The `keep` newest reports stay. The text is printed.
    """
    return _report("daily", 1, timezone, until, folder, keep, disks, targets or {}, context)


def weekly(
    *,
    timezone: str = "UTC",
    until: str | None = None,
    folder: str | None = None,
    keep: int = 60,
    disks: Sequence[str] = ("/",),
    targets: Mapping[str, Any] | None = None,
    context: JobContext | None = None,
) -> dict[str, Any]:
    """The same of the seven days before the last midnight."""
    return _report("weekly", 7, timezone, until, folder, keep, disks, targets or {}, context)


def alerts(
    rules: Sequence[Any],
    targets: Mapping[str, Any],
    *,
    quiet: Mapping[str, str] | None = None,
    timezone: str = "UTC",
    context: JobContext | None = None,
) -> dict[str, Any]:
    """Tell what is newly wrong, is still wrong, or is over, to `targets`, as `rules` have it (alerting.Rule).

    Each target gets one message for all that is to be told now. In `quiet` hours ({"from": "22:00", "until": "07:00"}) only
    what is critical is told, the rest at their end. What could not be delivered fails the run, and is sent by the next.
    """
    from lnmt_scheduler.jobs import alerting, atomic, history, needs, outbox

    zone = _zone(timezone)
    checked, where = _rules(rules, targets), _targets(targets)
    hours = _convert(dict(quiet), alerting.Quiet, "quiet") if quiet is not None else None
    found = history.load()
    jobs = history.for_rules(found)
    now = round(time.time() * 1000)
    box = outbox.Outbox(folder_of(context))
    with atomic.locked(folder_of(context)):
        conditions = alerting.conditions(checked, jobs, now)
        count, new = box.decide(
            lambda state: alerting.step(state, checked, conditions, now, hours, zone), now, sorted(where)
        )
        for each in new:
            print(f"{each.phase}: {each.job_id}: {each.text} ({each.rule})")
        sent, failed = box.deliver(where, needs.secret, now)
        unsent, waiting = box.pending()
    if failed:
        raise outbox.NotDeliveredError(f"{unsent} messages are still to be sent: {'; '.join(failed)}")
    return {"open": count, "new": len(new), "sent": sent, "unsent": unsent, "waiting": waiting}


def _report(
    kind: str,
    days: int,
    timezone: str,
    until: str | None,
    folder: str | None,
    keep: int,
    disks: Sequence[str],
    targets: Mapping[str, Any],
    context: JobContext | None,
) -> dict[str, Any]:
    from lnmt_scheduler.jobs import atomic, delivery, figures, history, needs, pages, reports, room

    where = _targets(targets)
    state_dir = folder_of(context)
    found = history.load()
    period = figures.period(found.taken, days, _zone(timezone), until)
    with atomic.locked(state_dir):
        forecasts = room.look(state_dir, found, disks)
    report = figures.report(kind, found, period, forecasts)
    name = f"{kind}-{period.start:%Y-%m-%d}"
    made = {"html": pages.html(report), "txt": pages.text(report), "csv": pages.csv(report)}
    paths = reports.put(folder or os.path.join(state_dir, "reports"), name, made, keep)
    print(made["txt"])
    host = socket.gethostname()  # others of a fleet have the same job, and send to the same people
    message = delivery.Message(
        key=f"{host} {context.job_id if context is not None else kind} {name}",
        subject=f"[{host}] {pages.subject(report)}",
        text=made["txt"],
        html=made["html"],
        files=[(f"{name}.csv", "text/csv", made["csv"].encode())],
        facts={"report": name, **report.totals},
    )
    with atomic.locked(state_dir):
        failed = reports.send_once(state_dir, message, where, needs.secret)
    if failed:
        raise delivery.FailedError(f"the report is made, and was not delivered: {'; '.join(failed)}")
    return {"report": name, "files": paths, **report.totals}


def _rules(rules: Sequence[Any], targets: Mapping[str, Any]) -> list[Any]:
    from lnmt_scheduler.jobs import alerting, needs, units

    found: list[Any] = []
    for number, each in enumerate(rules, 1):
        rule = _convert(each, alerting.Rule, f"rules, number {number}")
        for value in (rule.after, rule.repeat):
            try:
                units.duration(value)
            except ValueError as error:
                needs.end(f"rules, number {number}: {error}")
        if unknown := sorted(set(rule.targets) - targets.keys()):
            needs.end(f"rules, number {number}: there is no target {unknown[0]!r}")
        if rule.name in {other.name for other in found}:
            needs.end(f"rules, number {number}: a rule is named {rule.name!r} already")
        found.append(rule)
    if not found or not targets:
        needs.end("alerts wants `rules`, and `targets` to tell")
    return found


def _targets(targets: Mapping[str, Any]) -> dict[str, Any]:
    from lnmt_scheduler.jobs import delivery, needs

    found = {}
    for name, value in targets.items():
        try:
            found[name] = delivery.target(value)
        except ValueError as error:
            needs.end(f"target {name!r}: {error}")
    return found


def _convert(value: object, kind: Any, what: str) -> Any:
    from lnmt_scheduler.jobs import delivery, needs

    try:
        return delivery.convert(value, kind)
    except ValueError as error:
        needs.end(f"{what}: {error}")


def _zone(name: str) -> Any:
    import zoneinfo

    from lnmt_scheduler.jobs import needs

    try:
        return zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        needs.end(f"{name!r} is no time zone of this host")


class LNMTReportingJobs:
    """The same by the names of the first document."""

    generate_daily_report = staticmethod(daily)
    generate_weekly_summary = staticmethod(weekly)
    process_alerts = staticmethod(alerts)
