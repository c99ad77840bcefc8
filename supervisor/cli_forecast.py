"""forecast: what will run when, how crowded it will be, and what an expression says.

Job files need no daemon. Registered jobs come from it, or from its store while it does not run; so does how long runs take,
which for job files is asked for and can be done without.
"""

import itertools
import math
import time
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import click

from lnmt_scheduler.ipc import control
from lnmt_scheduler.jobs import model, units
from lnmt_scheduler.supervisor import (
    catalog,
    cli_common,
    cli_define,
    client,
    config,
    cron,
    direct,
    forecast,
    in_force,
    job_files,
    rehearsal,
    schedule,
    store,
    tables,
    views,
    words,
)

_DAY_MS = 86_400_000
#: Fires that are printed unless more are asked for: enough to read, and enough for a program.
_SHOWN_TABLE, _SHOWN_JSON = 100, 10_000
_NEXT = 5
#: Completed runs that durations are learnt from, and what a run is taken for if nothing is known.
_RUNS = 2_000
_UNKNOWN_S = 30.0


class _Job(NamedTuple):
    config: model.JobConfig
    schedule: cron.Schedule | None
    absence: forecast.Absence | None = None

    @property
    def is_off(self) -> bool:
        """It starts nothing by itself until somebody changes that."""
        return self.absence is not None and self.absence.until == math.inf


def _ahead(text: str) -> int | float:
    """A moment, epoch milliseconds, or as float seconds from the beginning on."""
    at = cli_common.moment(text)
    if at is not None:
        return at
    try:
        return units.duration(text)
    except ValueError:
        wanted = "a time such as 2026-01-31T12:00, nor a duration such as 36h"
        raise click.BadParameter(f"{text!r} is neither {wanted}") from None


def _given_duration(text: str) -> tuple[str, float]:
    job_id, found, duration = text.rpartition("=")
    if found and not job_id:
        raise click.BadParameter(f"{text!r} is neither a duration nor JOB=DURATION")
    return job_id, cli_common.duration(duration)


@click.command("forecast", cls=cli_common.Command)
@click.argument("job_id", metavar="[JOB]", required=False, shell_complete=cli_common.complete_jobs)
@click.option("--file", "files", metavar="F", multiple=True, help="The jobs of this job file; may be repeated.")
@click.option("--expr", "expression", metavar="E", help="This cron expression, in words, and its next fires.")
@click.option("--timezone", metavar="Z", help="Zone of jobs and expressions that name none. Default: the daemon's.")
@click.option("--from", "begin", type=_ahead, metavar="T", help="A time, or a duration from now; default: now.")
@click.option("--until", type=_ahead, metavar="T", help="A time, or a duration from --from on; default: 24h.")
@click.option(
    "--duration", "durations", type=_given_duration, multiple=True, metavar="[JOB=]D",
    help="How long a run of JOB, or of each that is not known, takes. Default: as it did, else 30s.",
)  # fmt: skip
@click.option("--limit", type=click.IntRange(1), metavar="N", help="Show at most so many fires.")
def forecast_(
    job_id: str | None,
    files: tuple[str, ...],
    expression: str | None,
    timezone: str | None,
    begin: float | None,
    until: float | None,
    durations: tuple[tuple[str, float], ...],
    limit: int | None,
) -> None:
    """Say what will run when, and how crowded it gets. Nothing is run, and job files need no daemon."""
    invocation = cli_common.current()
    first, last = _span(begin, until)
    if expression is not None:
        if files:
            raise click.UsageError("--expr and --file exclude each other")
        _tell_expression(invocation, expression, timezone or _zone(_settings(invocation)), job_id or "", first)
        return
    known = dict(durations)
    if files:
        jobs = [job for job in _of_files(invocation, files, timezone) if job_id in (None, job.config.id)]
        site = _settings(invocation)
        if job_id is not None and not jobs:
            raise cli_common.Failure(f"no job {job_id!r} in {', '.join(files)}", control.NOT_FOUND)
        learnt = _learn(_quiet_source(invocation), job_id)
    else:
        source = invocation.source()
        site = _settings(invocation, source)
        jobs = list(_of_daemon(source, job_id, timezone or _zone(site)))
        learnt = _learn(source, job_id)
    usual, host = {**learnt, **known}, config.host_name()
    subjects = [
        forecast.Subject(
            config=job.config, schedule=job.schedule,
            duration=usual.get(job.config.id, known.get("", _UNKNOWN_S)),
            offset=schedule.offset(job.config.id, job.config.jitter, host),
        )
        for job in jobs
        if not job.is_off and (job.schedule is not None or catalog.is_after(job.config))
    ]  # fmt: skip
    absences = {job.config.id: job.absence for job in jobs if job.absence is not None}
    held = {
        number: absences[each.config.id].until for number, each in enumerate(subjects) if each.config.id in absences
    }
    found = forecast.fires([each.schedule for each in subjects], first, last, not_before=held)
    peak = rehearsal.Rehearsal(subjects, site, absences).play(found.found)
    shown = found.found[: limit or (_SHOWN_JSON if invocation.json else _SHOWN_TABLE)]
    answer = {
        "from": first,
        "until": found.until,
        "fires": [_fire(subjects[each.number], each.slot) for each in shown],
        "more": len(found.found) - len(shown),
        "pileups": forecast.pileups(subjects, found.found),
        "peak": peak.to_map(),
    }
    if invocation.json:
        cli_common.print_json(_with_times(answer))
    else:
        _print(answer, cut=found.until < last, silent=_silent(jobs))


def _span(begin: float | None, until: float | None) -> tuple[int, int]:
    now = time.time_ns() // 1_000_000
    first = now if begin is None else begin if isinstance(begin, int) else now + round(begin * 1000)
    last = first + _DAY_MS if until is None else until if isinstance(until, int) else first + round(until * 1000)
    if last <= first:
        raise click.UsageError("--until must be later than --from")
    return first, last


# Where the jobs come from.


def _settings(invocation: cli_common.Invocation, source: cli_common.Source | None = None) -> config.Settings:
    """Those by which it will be decided: of the daemon, of its store where that is the source, or else of config.toml."""
    try:
        if isinstance(source, direct.Direct):
            return source.settings()
        state = invocation.state()
        if "zone" in state:
            # All that counts here is in it; a config.toml that the daemon has not taken may say what it likes.
            return in_force.as_told(config.Settings(), state)
        return job_files.settings(invocation.paths(), state)
    except config.ConfigError as error:
        raise cli_define.invalid(error.problems) from None


def _zone(site: config.Settings) -> str:
    return site.timezone or config.host_zone()


def _of_files(invocation: cli_common.Invocation, files: Sequence[str], timezone: str | None) -> Iterator[_Job]:
    checked = job_files.check(invocation.paths(), files, timezone, invocation.state())
    if checked.problems:
        raise cli_define.invalid(checked.problems)
    for definition in checked.definitions:
        job, planned = definition.config, catalog.schedule(definition.config, checked.zone)
        yield _Job(job, planned, None if job.enabled else forecast.Absence(why="disabled", schedule=planned, since=0))


def _of_daemon(source: cli_common.Source, job_id: str | None, zone: str) -> Iterator[_Job]:
    if job_id is None:
        found = cli_common.pages(source, control.List(), "jobs", "after")
    else:
        found = iter([source.request(control.Show(job_id=job_id))["job"]])
    for view in found:
        values = {key: view[key] for key in views.JOB_KEYS}
        values |= {"priority": model.JobPriority(view["priority"]), "umask": int(view["umask"], 8)}
        job = model.JobConfig(**values)
        try:
            planned = catalog.schedule(job, zone)
            yield _Job(job, planned, _absence(view, planned))
        except cron.CronError as error:
            cli_common.warn(f"job {job.id} is left out: {error}")


def _absence(view: views.View, planned: cron.Schedule | None) -> forecast.Absence | None:
    # When it was switched off is not in the view. It has been since its last run, or never ran: slots after that have none.
    since = max(view["added"], view["last_run"] or 0)
    if not view["enabled"]:
        return forecast.Absence(why="disabled", schedule=planned, since=since)
    if view.get(views.QUARANTINED):
        return forecast.Absence(why="quarantined", schedule=planned, since=since)
    if (pause := view.get(views.PAUSED)) is not None:
        until = pause["until"] or math.inf
        return forecast.Absence(why="paused", schedule=planned, since=pause["since"], until=until)
    return None


def _quiet_source(invocation: cli_common.Invocation) -> cli_common.Source | None:
    """Who may know how long runs take; None: nobody. Closed when the command ends."""
    found: cli_common.Source
    try:
        found = invocation.client()
    except client.RequestError:
        try:
            found = direct.Direct(invocation.paths())
        except (store.StoreError, OSError):
            return None
    click.get_current_context().call_on_close(found.close)
    return found


def _learn(source: cli_common.Source | None, job_id: str | None) -> dict[str, float]:
    if source is None:
        return {}
    request = control.History(job_id=job_id, status=model.JobStatus.COMPLETED.value, limit=200)
    try:
        return forecast.learn(itertools.islice(cli_common.pages(source, request, "runs", "before"), _RUNS))
    except client.RequestError:
        return {}


# What is said.


def _fire(subject: forecast.Subject, slot: int) -> dict[str, Any]:
    assert subject.schedule is not None  # it fires
    told = _told(subject.schedule, subject.config.id, slot)
    if subject.offset:
        later = f"due {units.format_duration(subject.offset / 1000)} later (jitter)"
        told["remark"] = f"{told['remark']}; {later}" if told["remark"] else later
    return told


def _told(planned: cron.Schedule, job_id: str, slot: int) -> dict[str, Any]:
    return {
        "job_id": job_id or None,
        "slot": slot,
        "local": forecast.local(slot, planned.zone),
        "remark": forecast.remark(planned, job_id, slot),
    }


def _with_times(answer: dict[str, Any]) -> dict[str, Any]:
    return views.with_times(answer, ("from", "until")) | {
        "fires": [views.with_times(each, ("slot",)) for each in answer["fires"]],
        "pileups": [views.with_times(each, ("slot",)) for each in answer["pileups"]],
        "peak": views.with_times(answer["peak"], ("at", "slot")),
    }


def _silent(jobs: Sequence[_Job]) -> dict[str, int]:
    """Jobs that never fire by time, by why."""
    found: dict[str, int] = {}
    for job in jobs:
        if job.absence is not None and job.is_off:
            why = job.absence.why
        elif catalog.is_after(job.config):
            why = "started by others"
        elif job.schedule is None:
            why = "without a schedule"
        elif job.schedule.reboot:
            why = "only once a boot"
        else:
            continue
        found[why] = found.get(why, 0) + 1
    return found


def _print(answer: dict[str, Any], *, cut: bool, silent: dict[str, int]) -> None:
    rows = [
        [tables.second(each["slot"]), each["job_id"], each["local"], each["remark"] or ""] for each in answer["fires"]
    ]
    print(tables.plain((f"Slot ({tables.zone_name()})", "Job ID", "In its zone", "Remark"), rows))
    if answer["more"]:
        print(f"and {answer['more']} more; --limit N shows more")
    if cut:
        print(f"Looked at until {tables.second(answer['until'])} only: {forecast.FIRES} fires are enough")
    for each in answer["pileups"][:5]:
        names = ", ".join(each["job_ids"][:5]) + (", ..." if each["fires"] > 5 else "")
        print(f"{each['fires']} at {tables.second(each['slot'])}: {names}")
    peak = answer["peak"]
    if peak["at"] is not None:
        print(f"At most {peak['running']} at one time, first at {tables.second(peak['at'])}")
    if peak["job_id"] is not None:
        wait = units.format_duration(peak["longest_wait"])
        print(f"Longest wait for a place: {wait}, {peak['job_id']} at {tables.second(peak['slot'])}")
    for reason, count in sorted(peak["skipped"].items()):
        print(f"Skipped: {count} ({reason})")
    for why, count in silent.items():
        print(f"{count} {'job' if count == 1 else 'jobs'} {why}")


def _tell_expression(invocation: cli_common.Invocation, text: str, zone: str, job_id: str, begin: int) -> None:
    try:
        planned = cron.parse(text, zone, job_id)
    except cron.CronError as error:
        raise cli_common.Failure(str(error), control.INVALID) from None
    slots: list[int] = []
    at: int | None = begin - 1
    while len(slots) < _NEXT and at is not None and (at := planned.next_after(at)) is not None:
        slots.append(at)
    try:
        said = words.describe(text, job_id)
    except ImportError:
        said = None
        cli_common.warn(f"for the expression in words: {cli_common.how_to_get(words.PACKAGE, 'words')}")
    told = [_told(planned, job_id, slot) for slot in slots]
    if invocation.json:
        fires = [views.with_times(each, ("slot",)) for each in told]
        cli_common.print_json({"expression": text, "timezone": zone, "words": said, "fires": fires})
        return
    if said is not None:
        print(said)
    for each in told:
        print(f"{each['local']}{'  ' if each['remark'] else ''}{each['remark'] or ''}")
    if not told:
        print("It names no time to come.")


COMMANDS = {"forecast": forecast_}
