"""check: one line for a monitoring system, and its exit code: 0 fine, 1 warning, 2 critical, 3 unknown.

The plugin interface of Nagios, which Icinga, Checkmk, Zabbix and others call too: words, then numbers after a bar. Whatever
keeps the question from being answered by a daemon that runs is 3, mistakes on the command line included; a daemon that
does not run is the answer.
"""

import itertools
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import click

from lnmt_scheduler.ipc import control
from lnmt_scheduler.jobs import units
from lnmt_scheduler.supervisor import cli_common, client, tables

OK, WARNING, CRITICAL, UNKNOWN = range(4)
_WORDS = ("OK", "WARNING", "CRITICAL", "UNKNOWN")
#: A slot that is due for so long and not decided is late: a busy daemon needs seconds.
_LATE_MS = 60_000
#: Things of one kind that are named.
_NAMED = 5


@dataclass(slots=True)
class _Findings:
    #: (state, words), in the order in which they were found.
    found: list[tuple[int, str]] = field(default_factory=list)
    numbers: dict[str, int] = field(default_factory=dict)

    def add(self, state: int, words: str) -> None:
        self.found.append((state, words))

    @property
    def state(self) -> int:
        return max((state for state, _ in self.found), default=OK)

    def line(self, fine: str) -> str:
        worst_first = sorted(self.found, key=lambda each: -each[0])
        words = "; ".join(words for _, words in worst_first) or fine
        numbers = " ".join(f"{name}={value}" for name, value in self.numbers.items())
        # A bar begins the numbers, so there is none in the words.
        said = cli_common.printable(f"{_WORDS[self.state]}: {words}").replace("|", "/")
        return f"{said} | {numbers}" if numbers else said


class _Check(cli_common.Command):
    """Its failures are answers too: the daemon is down, or nobody knows."""

    def make_context(self, *args: Any, **kwargs: Any) -> click.Context:
        try:
            return super().make_context(*args, **kwargs)
        except click.UsageError as error:
            raise cli_common.Failure(error.format_message(), UNKNOWN) from None

    def invoke(self, ctx: click.Context) -> Any:
        try:
            return super().invoke(ctx)
        except client.Unreachable as error:
            return _say(CRITICAL, error.message)
        except client.RequestError as error:
            return _say(UNKNOWN, error.message)


def _say(state: int, words: str) -> int:
    findings = _Findings([(state, words)])
    return _tell(findings, "")


def _tell(findings: _Findings, fine: str) -> int:
    if cli_common.current().json:
        cli_common.print_json(
            {
                "state": _WORDS[findings.state].lower(),
                "problems": [{"state": _WORDS[state].lower(), "problem": words} for state, words in findings.found],
                **findings.numbers,
            }
        )
    else:
        print(findings.line(fine))
    return findings.state


@click.command("check", cls=_Check)
@click.argument("job_id", metavar="[JOB]", required=False, shell_complete=cli_common.complete_jobs)
@click.option(
    "--max-age", type=cli_common.duration, metavar="D",
    help="Critical if the last success of JOB, or of any enabled job with a schedule, is longer ago.",
)  # fmt: skip
def check(job_id: str | None, max_age: float | None) -> int:
    """Say in one line for a monitoring system how the daemon, or a job, is; exit with 0 to 3."""
    now = time.time_ns() // 1_000_000
    findings = _Findings()
    with cli_common.current().client() as daemon:
        state = daemon.request(control.State())
        _look_at_daemon(findings, state, now)
        if state["store"] not in ("ok", "full"):
            return _tell(findings, "")  # nothing else is to be had
        if job_id is not None:
            job = daemon.request(control.Show(job_id=job_id))
            fine = _look_at_job(findings, job["job"], job["last"], now, max_age)
        else:
            _look_at_waiting(findings, state, now)
            if max_age is not None:
                _look_at_all(findings, daemon, now, max_age)
            fine = _summary(state)
    return _tell(findings, fine)


def _summary(state: dict[str, Any]) -> str:
    upcoming = state["next"]
    then = "" if upcoming is None else f", next {upcoming['job_id']} at {tables.minute(upcoming['slot'])}"
    return f"{state['jobs']} jobs, {state['running']} running, {state['queued']} queued{then}"


def _look_at_daemon(findings: _Findings, state: dict[str, Any], now: int) -> None:
    findings.numbers |= {key: state[key] or 0 for key in ("jobs", "running", "queued", "retrying")}
    if state["store"] != "ok":
        findings.add(CRITICAL, f"the store is {state['store']}")
    if state.get("clock") == "held":
        findings.add(CRITICAL, "no slot is decided: the clock cannot be right")
    elif (due := state.get("due")) is not None and due["at"] < now - _LATE_MS:
        late = units.format_duration((now - due["at"]) / 1000)
        findings.add(CRITICAL, f"{due['job_id']} is due for {late} and not decided")
    if state.get("draining"):
        findings.add(WARNING, "the daemon drains and starts nothing new")
    for pause in state.get("paused") or ():
        if pause["job_id"] is None:
            findings.add(WARNING, f"the whole schedule is {_paused(pause)}")
    if quarantined := state.get("quarantined"):
        findings.add(WARNING, f"in quarantine: {_names(quarantined)}")
    for problem in itertools.islice(state.get("problems") or (), _NAMED):
        findings.add(WARNING, problem)


def _look_at_waiting(findings: _Findings, state: dict[str, Any], now: int) -> None:
    waits = state.get("waits")
    findings.numbers["late"] = waits["count"] if waits else 0
    if waits:
        since = units.format_duration((now - waits["since"]) / 1000)
        more = "" if waits["count"] == 1 else f", and {waits['count'] - 1} more"
        findings.add(WARNING, f"{waits['job_id']} waits for a place since {since}{more}")


def _look_at_all(findings: _Findings, daemon: client.Client, now: int, max_age: float) -> None:
    jobs: Iterator[dict[str, Any]] = cli_common.pages(daemon, control.List(enabled=True), "jobs", "after")
    stale = [job["id"] for job in jobs if job["schedule"] is not None and _stale(job, now, max_age) is not None]
    findings.numbers["stale"] = len(stale)
    if stale:
        findings.add(CRITICAL, f"no success in {units.format_duration(max_age)}: {_names(stale)}")


def _look_at_job(
    findings: _Findings, job: dict[str, Any], last: dict[str, Any] | None, now: int, max_age: float | None
) -> str:
    """What is to be said if all is well."""
    name = job["id"]
    if job.get("quarantined"):
        findings.add(CRITICAL, f"{name} is out of schedule: {job['quarantined']}")
    elif not job["enabled"]:
        findings.add(WARNING, f"{name} is disabled")
    elif job.get("paused") and job["paused"]["job_id"] is not None:
        findings.add(WARNING, f"{name} is {_paused(job['paused'])}")
    due = None if job["next_run"] is None else job["next_run"] + job["jitter"] * 1000  # at the latest
    if due is not None and due < now - _LATE_MS:
        late = units.format_duration((now - due) / 1000)
        findings.add(CRITICAL, f"{name} is due for {late} and not decided")
    if job["failing_since"] is not None:
        # Whoever names an age minds that it is met, and not how.
        cause = "" if last is None or last["status"] != "failed" else f" ({tables.cause(last)})"
        state = CRITICAL if max_age is None else WARNING
        findings.add(state, f"{name} fails since {tables.minute(job['failing_since'])}{cause}")
    if max_age is not None and (stale := _stale(job, now, max_age)) is not None:
        findings.add(CRITICAL, f"{name}: {stale}, more than {units.format_duration(max_age)} ago")
    if job["last_success"] is None:
        return f"{name} has not failed"
    return f"{name} last succeeded at {tables.minute(job['last_success'])}"


def _stale(job: dict[str, Any], now: int, max_age: float) -> str | None:
    """Since when it has not succeeded, if that is too long; one that never did has had time since it was added."""
    since = job["last_success"]
    if now - (job["added"] if since is None else since) <= max_age * 1000:
        return None
    if since is None:
        return f"never succeeded, and was added at {tables.minute(job['added'])}"
    return f"last success at {tables.minute(since)}"


def _paused(pause: dict[str, Any]) -> str:
    until = "" if pause["until"] is None else f" until {tables.minute(pause['until'])}"
    return f"paused{until} by {pause['by']}"


def _names(names: list[str]) -> str:
    return ", ".join(names[:_NAMED]) + (f" and {len(names) - _NAMED} more" if len(names) > _NAMED else "")


COMMANDS = {"check": check}
