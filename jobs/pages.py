"""A report as text, as CSV and as the subject of a mail; page.py has it as HTML. Pure functions of its figures."""

import csv as writer
import io
from datetime import datetime, timedelta
from typing import Any

from lnmt_scheduler.jobs import figures, page

html = page.html


def subject(report: figures.Report) -> str:
    """The whole report in one line."""
    failing = [job.job_id for job in report.jobs if job.failing_since is not None]
    rate = page.percent(report.totals["success"])
    state = f"failing: {', '.join(failing[:3])}{' ...' if len(failing) > 3 else ''}" if failing else "all well"
    return f"Jobs {when(report)}: {state}; {rate} of {report.totals['ok'] + report.totals['failed']} runs succeeded"


def when(report: figures.Report) -> str:
    """The day, or the first and the last."""
    last = (report.period.end - timedelta(days=1)).date()
    return f"{last}" if report.period.days == 1 else f"{report.period.start.date()} to {last}"


def text(report: figures.Report) -> str:
    total, before = report.totals, report.before
    runs = f"Runs {total['runs']} (before: {before['runs']}), succeeded {total['ok']}, failed {total['failed']}"
    lines = [
        subject(report),
        "",
        f"{runs}, retries {total['retries']}, slots that did not run {total['skipped']}.",
        f"Success {page.percent(total['success'])} (before: {page.percent(before['success'])}).",
    ]
    if report.known_from is not None:
        lines.append(f"The history begins {stamp(report.known_from, report)}: before that nothing is known.")
    lines += _section(
        "Failing now",
        [
            f"{job.job_id}: since {stamp(job.failing_since, report)}; {job.last_error or 'see its history'}"
            for job in report.jobs
            if job.failing_since is not None
        ],
    )
    lines += _section(
        "Jobs, those with trouble first",
        [
            f"{job.job_id:24} {page.percent(None if job.rate is None else 100 * job.rate):>7} ok of {job.ok + job.failed:<6}"
            f" median {page.seconds(job.median):>9}  p95 {page.seconds(job.p95):>9}"
            + (f"  {job.skipped} not run" if job.skipped else "")
            + ("  flaky" if job.is_flaky else "")
            for job in report.jobs[:40]
        ],
    )
    lines += _section(
        "Slots that did not run", [f"{job}: {count} {reason}" for job, reason, count in report.missed[:20]]
    )
    lines += _section("Slowest", [f"{job} run {run}: {page.seconds(took)}" for job, run, took in report.slowest])
    lines += _section(
        "Silent for longer than usual",
        [
            f"{job.job_id}: {page.seconds(job.silence)}, usually {page.seconds(job.rhythm)}"
            for job in page.silent(report)
        ],
    )
    lines += _section("Disks", [f"{each.mount}: {page.outlook(each)}" for each in report.forecasts])
    return "\n".join(lines) + "\n"


def _section(title: str, lines: list[str]) -> list[str]:
    return ["", f"{title}:", *(f"  {line}" for line in lines)] if lines else []


def csv(report: figures.Report) -> str:
    """One line a job. What begins like a formula does so behind an apostrophe: spreadsheets would run it."""
    out = io.StringIO()
    table = writer.writer(out)
    table.writerow(
        [
            "job", "runs", "ok", "warnings", "failed", "skipped", "retries", "success_percent", "median_seconds", "p95_seconds",
            "longest_seconds", "silence_seconds", "failing_since", "last_error",
        ]
    )  # fmt: skip
    for job in sorted(report.jobs, key=lambda job: job.job_id):
        rate = None if job.rate is None else round(100 * job.rate, 2)
        since = None if job.failing_since is None else stamp(job.failing_since, report)
        row: list[Any] = [
            job.job_id, job.runs, job.ok, job.warnings, job.failed, job.skipped, job.retries, rate, job.median, job.p95,
            job.longest, job.silence, since, job.last_error,
        ]  # fmt: skip
        table.writerow([f"'{cell}" if isinstance(cell, str) and cell[:1] in "=+-@\t\r" else cell for cell in row])
    return out.getvalue()


def stamp(at: int | None, report: figures.Report) -> str:
    if at is None:
        return "-"
    return datetime.fromtimestamp(at / 1000, report.period.start.tzinfo).strftime("%Y-%m-%d %H:%M")
