"""A report as one HTML file: no script, no style sheet, picture or font from elsewhere, so that it mails as it is.

Pictures are inline SVG. Every word that comes from a job is escaped. Colour never says anything alone: a number or a word
stands beside it.
"""

from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta
from html import escape

from lnmt_scheduler.jobs import figures, units

_OK, _BAD, _SKIPPED, _INK, _FAINT = "#2f8f5b", "#c93434", "#d99a2b", "#1f2933", "#7b8794"
_STYLE = f"""
body {{ margin: 0; background: #f4f6f8; color: {_INK}; font: 15px/1.45 system-ui, "Segoe UI", "DejaVu Sans", sans-serif; }}
main {{ max-width: 1000px; margin: 0 auto; padding: 24px 16px 40px; }}
h1 {{ font-size: 22px; margin: 0 0 4px; }}
h2 {{ font-size: 16px; margin: 0 0 10px; }}
section {{ background: #fff; border: 1px solid #e1e6eb; border-radius: 8px; padding: 16px 18px; margin-top: 16px; }}
.verdict {{ border-left: 6px solid {_OK}; }} .verdict.bad {{ border-left-color: {_BAD}; }}
.faint {{ color: {_FAINT}; }}
.tiles {{ display: flex; flex-wrap: wrap; gap: 12px; margin-top: 16px; }}
.tile {{ flex: 1 1 150px; background: #fff; border: 1px solid #e1e6eb; border-radius: 8px; padding: 12px 16px; }}
.tile b {{ display: block; font-size: 26px; line-height: 1.2; }}
table {{ border-collapse: collapse; width: 100%; font-size: 14px; }}
th {{ text-align: left; color: {_FAINT}; font-weight: 600; border-bottom: 1px solid #e1e6eb; padding: 4px 8px 4px 0; }}
td {{ border-bottom: 1px solid #eef1f4; padding: 6px 8px 6px 0; vertical-align: middle; }}
tr:last-child td {{ border-bottom: 0; }}
.n {{ text-align: right; font-variant-numeric: tabular-nums; white-space: nowrap; }}
.tag {{ display: inline-block; border-radius: 10px; padding: 0 8px; font-size: 12px; color: #fff; background: {_BAD}; }}
.tag.warn {{ background: #a8700c; }}
.two {{ display: flex; flex-wrap: wrap; gap: 16px; }} .two > section {{ flex: 1 1 380px; min-width: 0; }}
"""
_JOBS_MAX = 60


def html(report: figures.Report) -> str:
    """The whole page."""
    failing = [job for job in report.jobs if job.failing_since is not None]
    title = f"{'Daily' if report.period.days == 1 else 'Weekly'} report of jobs"
    parts = [
        f"<h1>{title}</h1>",
        f'<div class="faint">{escape(_span(report))}</div>',
        _verdict(report, failing),
        _tiles(report),
        _section("What became of runs", _chart(report.bars)),
        _attention(report, failing),
        _section("Jobs, those with trouble first", _jobs(report)),
        '<div class="two">',
        _section("Slowest runs", _slowest(report)),
        _section("Silent for longer than usual", _silence(report)),
        "</div>",
        _section("Disks", _disks(report.forecasts)) if report.forecasts else "",
    ]
    return (
        f'<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        f'<meta name="viewport" content="width=device-width, initial-scale=1"><title>{title}</title>'
        f"<style>{_STYLE}</style></head><body><main>\n" + "\n".join(filter(None, parts)) + "\n</main></body></html>\n"
    )


def _section(title: str, body: str) -> str:
    return f"<section><h2>{escape(title)}</h2>\n{body}</section>"


def _span(report: figures.Report) -> str:
    last = report.period.end - timedelta(days=1)
    zone = report.period.start.strftime("%Z")
    if report.period.days == 1:
        return f"{last:%A, %d %B %Y} ({zone})"
    return f"{report.period.start:%A, %d %B %Y} to {last:%A, %d %B %Y} ({zone})"


def _verdict(report: figures.Report, failing: Sequence[figures.JobFigures]) -> str:
    full = [each for each in report.forecasts if each.full_in is not None and each.full_in < 30]
    bad = bool(failing or full)
    words = []
    if failing:
        words.append(
            f"<b>{_count(len(failing), 'job')} failing now</b>: {escape(', '.join(job.job_id for job in failing[:5]))}"
        )
    if full:
        words.append(f"<b>{escape(full[0].mount)} is full in {full[0].full_in:.0f} days</b> if it goes on like this")
    if not bad:
        words.append("<b>All jobs are well</b>: none is failing now")
    if report.totals["skipped"]:
        words.append(f"{_count(report.totals['skipped'], 'slot')} did not run")
    if report.known_from is not None:
        words.append(f"the history begins {_stamp(report.known_from, report)}; before that nothing is known")
    return f'<section class="verdict{" bad" if bad else ""}">{". ".join(words)}.</section>'


def _tiles(report: figures.Report) -> str:
    total, before = report.totals, report.before
    tiles = (
        (percent(total["success"]), "of runs succeeded", percent(before["success"])),
        (f"{total['runs']:,}", "runs", f"{before['runs']:,}"),
        (f"{total['failed']:,}", "failed", f"{before['failed']:,}"),
        (f"{total['skipped']:,}", "slots did not run", f"{before['skipped']:,}"),
        (f"{total['retries']:,}", "retries", f"{before['retries']:,}"),
    )
    made = (
        f'<div class="tile"><b>{value}</b>{label}<div class="faint">before: {was}</div></div>'
        for value, label, was in tiles
    )
    return f'<div class="tiles">{"".join(made)}</div>'


def _chart(bars: Sequence[figures.Bar]) -> str:
    """Stacked bars with a scale, and what the colours mean."""
    width, height, left, top, bottom = 940, 200, 44, 8, 22
    most = max((bar.ok + bar.failed + bar.skipped for bar in bars), default=0) or 1
    step = (width - left) / max(1, len(bars))
    space = height - top - bottom
    parts = []
    for part in (0.0, 0.5, 1.0):
        y = top + space * (1 - part)
        parts.append(f'<line x1="{left}" x2="{width}" y1="{y:.1f}" y2="{y:.1f}" stroke="#e6eaee"/>')
        parts.append(
            f'<text x="{left - 6}" y="{y + 4:.1f}" text-anchor="end" font-size="11" fill="{_FAINT}">{most * part:,.0f}</text>'
        )
    every = 1 if len(bars) <= 8 else 3
    for number, bar in enumerate(bars):
        x, y = left + number * step + step * 0.12, top + space
        said = f"{bar.label}: {bar.ok} succeeded, {bar.failed} failed, {bar.skipped} did not run"
        boxes = []
        for count, colour in ((bar.ok, _OK), (bar.failed, _BAD), (bar.skipped, _SKIPPED)):
            tall = max(2.0, space * count / most) if count else 0.0
            y -= tall
            boxes.append(
                f'<rect x="{x:.1f}" y="{y:.1f}" width="{step * 0.76:.1f}" height="{tall:.1f}" fill="{colour}"/>'
            )
        parts.append(f"<g><title>{escape(said)}</title>{''.join(boxes)}</g>")
        if number % every == 0:
            parts.append(
                f'<text x="{x + step * 0.38:.1f}" y="{height - 6}" text-anchor="middle" font-size="11" fill="{_FAINT}">'
                f"{escape(bar.label)}</text>"
            )
    keys = ((_OK, "succeeded"), (_BAD, "failed"), (_SKIPPED, "did not run"))
    legend = "&ensp;".join(f'<span style="color:{colour}">&#9632;</span> {words}' for colour, words in keys)
    return f'{_svg(width, height, parts, "What became of runs over time")}<div class="faint">{legend}</div>'


def _svg(width: int, height: int, parts: Iterable[str], label: str, style: str = "width:100%;height:auto") -> str:
    return (
        f'<svg viewBox="0 0 {width} {height}" role="img" aria-label="{escape(label)}" style="{style}"'
        f' xmlns="http://www.w3.org/2000/svg">{"".join(parts)}</svg>'
    )


def _strip(bars: Sequence[figures.Bar]) -> str:
    """One small square a part of the period: green, red by how much failed, amber for what did not run."""
    size, parts = 150 / max(1, len(bars)), []
    for number, bar in enumerate(bars):
        rate = bar.rate
        colour = "#e6eaee" if rate is None else _OK if rate == 1 else _BAD
        if rate is None and bar.skipped:
            colour = _SKIPPED
        tall = 16 if rate is None or rate == 1 else max(3, 16 * (1 - rate))
        if rate is not None and 0 < rate < 1:
            parts.append(f'<rect x="{number * size:.2f}" y="1" width="{size * 0.85:.2f}" height="16" fill="{_OK}"/>')
        parts.append(
            f'<rect x="{number * size:.2f}" y="{17 - tall:.1f}" width="{size * 0.85:.2f}" height="{tall:.1f}" fill="{colour}"/>'
        )
    return _svg(150, 18, parts, "its runs over the period", "width:150px;height:18px")


def _attention(report: figures.Report, failing: Sequence[figures.JobFigures]) -> str:
    rows = [
        f'<tr><td><b>{escape(job.job_id)}</b></td><td><span class="tag">failing</span> since'
        f" {_stamp(job.failing_since or 0, report)}</td><td>{escape(job.last_error or '')}</td></tr>"
        for job in failing[:20]
    ]
    rows += [
        f'<tr><td><b>{escape(job)}</b></td><td><span class="tag warn">not run</span> {_count(count, "slot")}</td>'
        f"<td>{escape(_REASONS.get(reason, reason))}</td></tr>"
        for job, reason, count in report.missed[:12]
    ]
    return _section("Needs attention", f"<table>{''.join(rows)}</table>") if rows else ""


_REASONS = {
    "overlap": "the run before had not ended",
    "missed": "the daemon or the host was down for too long",
    "coalesced": "several were missed; the newest ran for all",
    "dependency": "what it depends on had not succeeded",
    "deadline": "it could not start in time",
    "quarantined": "the job is in quarantine",
}


def _jobs(report: figures.Report) -> str:
    head = (
        "<tr><th>job</th><th>over the period</th><th class=n>success</th><th class=n>runs</th><th class=n>failed</th>"
        "<th class=n>median</th><th class=n>p95</th><th></th></tr>"
    )
    rows = []
    for job in report.jobs[:_JOBS_MAX]:
        tags = '<span class="tag">failing</span> ' if job.failing_since is not None else ""
        tags += '<span class="tag warn">flaky</span> ' if job.is_flaky else ""
        rows.append(
            f"<tr><td>{escape(job.job_id)}</td><td>{_strip(job.bars)}</td>"
            f'<td class="n">{percent(None if job.rate is None else 100 * job.rate)}</td><td class="n">{job.runs:,}</td>'
            f'<td class="n">{job.failed or ""}</td><td class="n">{seconds(job.median)}</td>'
            f'<td class="n">{seconds(job.p95)}</td>'
            f"<td>{tags}</td></tr>"
        )
    more = len(report.jobs) - _JOBS_MAX
    note = f'<div class="faint">and {more} more, with less trouble; all are in the CSV</div>' if more > 0 else ""
    return f"<table>{head}{''.join(rows)}</table>{note}" if rows else '<div class="faint">No job has run.</div>'


def _slowest(report: figures.Report) -> str:
    most = max((took for *_, took in report.slowest), default=0) or 1
    rows = "".join(
        f'<tr><td>{escape(job)}</td><td class="faint n">run {run}</td><td style="width:40%">{_bar(took / most)}</td>'
        f'<td class="n">{seconds(took)}</td></tr>'
        for job, run, took in report.slowest
    )
    return f"<table>{rows}</table>"


def silent(report: figures.Report) -> list[figures.JobFigures]:
    """Jobs that were without a success for longer than usual, the worst first."""
    return sorted((job for job in report.jobs if job.hush > 2.5), key=lambda job: -job.hush)[:8]


def _silence(report: figures.Report) -> str:
    found = silent(report)
    if not found:
        return '<div class="faint">None: every job succeeded as often as it does.</div>'
    rows = "".join(
        f'<tr><td>{escape(job.job_id)}</td><td class="n"><b>{seconds(job.silence)}</b></td>'
        f'<td class="faint">usually {seconds(job.rhythm)}</td></tr>'
        for job in found
    )
    return f"<table>{rows}</table>"


def _bar(part: float, colour: str = "#5b7fa6") -> str:
    box = f'<rect width="{max(1.0, 100 * min(1.0, part)):.1f}" height="8" rx="2" fill="{colour}"/>'
    return f'<svg viewBox="0 0 100 8" preserveAspectRatio="none" style="width:100%;height:8px" aria-hidden="true">{box}</svg>'


def _disks(forecasts: Sequence[figures.Forecast]) -> str:
    rows = []
    for each in forecasts:
        part = each.used / each.total if each.total else 0.0
        colour = _BAD if part > 0.95 or (each.full_in or 999) < 30 else _SKIPPED if part > 0.85 else _OK
        rows.append(
            f'<tr><td>{escape(each.mount)}</td><td style="width:22%">{_bar(part, colour)}</td><td>{_line(each.points)}</td>'
            f"<td>{escape(outlook(each))}</td></tr>"
        )
    return f"<table><tr><th>file system</th><th>used</th><th>before</th><th>outlook</th></tr>{''.join(rows)}</table>"


def _line(points: Sequence[tuple[int, float]]) -> str:
    if len(points) < 2:
        return ""
    first, last = points[0][0], points[-1][0]
    low, high = min(y for _, y in points), max(y for _, y in points)
    span = max(high - low, 0.02)
    places = " ".join(
        f"{1 + 148 * (x - first) / max(1, last - first):.1f},{27 - 24 * (y - low) / span:.1f}" for x, y in points
    )
    shape = f'<polyline points="{places}" fill="none" stroke="#5b7fa6" stroke-width="1.5"/>'
    return _svg(150, 30, [shape], "how it was used", "width:150px;height:30px")


def outlook(each: figures.Forecast) -> str:
    """How full it is, and will be."""
    now = f"{percent(100 * each.used / each.total if each.total else 0)} of {units.format_size(each.total)}"
    if each.growth is None:
        return f"{now}; no forecast yet"
    if abs(each.growth) * 100_000 < each.total:
        return f"{now}; steady"
    change = f"{'+' if each.growth >= 0 else '-'}{units.format_size(round(abs(each.growth)))} a day"
    return f"{now}; {change}" + (f"; full in {each.full_in:,.0f} days" if each.full_in is not None else "")


def percent(value: float | None) -> str:
    if value is None:
        return "-"
    # 99.96 is not all.
    return f"{min(value, 99.9) if value < 100 else value:.1f} %"


def seconds(value: float | None) -> str:
    """A duration of two places: 85 ms, 3.2 s, 4 m 10 s, 2 h 5 m, 3 d 4 h."""
    if value is None:
        return "-"
    if value < 1:
        return f"{1000 * value:.0f} ms"
    if value < 60:
        return f"{value:.1f} s"
    whole = round(value)
    for size, unit, small, less in ((86400, "d", 3600, "h"), (3600, "h", 60, "m"), (60, "m", 1, "s")):
        if whole >= size:
            rest = whole % size // small
            return f"{whole // size} {unit}" + (f" {rest} {less}" if rest else "")
    return f"{whole} s"


def _count(number: int, what: str) -> str:
    return f"{number:,} {what}{'' if number == 1 else 's'}"


def _stamp(at: int, report: figures.Report) -> str:
    return datetime.fromtimestamp(at / 1000, report.period.start.tzinfo).strftime("%d %b %H:%M")
