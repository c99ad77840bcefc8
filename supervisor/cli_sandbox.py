"""sandbox, doctor: what keeps a job in its place, what this host offers for that, and what is missing."""

import json
import os
import subprocess
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import click

from lnmt_scheduler.ipc import control
from lnmt_scheduler.sandbox import policy, probe, profiles, settle
from lnmt_scheduler.supervisor import cli_common, client, tables

#: Exit codes of doctor: as in a Nagios check, with the wide meaning of warning and critical.
FULL, DEGRADED, REFUSED = 0, 1, 2
_WORDS = {FULL: "full", DEGRADED: "degraded", REFUSED: "refused"}
_MODES = {
    "a": "root, in namespaces",
    "b": "an ordinary account, in user namespaces",
    "c": "an ordinary account without namespaces, by landlock",
    "d": "neither namespaces nor landlock: a run's processes are ended by best effort",
}
_PROBE_TIMEOUT = 60


class Group(cli_common.Command, click.Group):
    """A command of commands; the global options may stand at each of them."""

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        self.format_commands(ctx, formatter)
        super().format_options(ctx, formatter)


@click.group("sandbox", cls=Group, no_args_is_help=False)
def sandbox() -> None:
    """Show, test or enter the sandbox of a job."""


@sandbox.command("show", cls=cli_common.Command)
@click.argument("job_id", metavar="JOB", shell_complete=cli_common.complete_jobs)
@click.option("--profile", metavar="P", help="As if the job had this profile.")
def show(job_id: str, profile: str | None) -> int:
    """Show each layer of a job's sandbox, what it comes to on this host, and what will be done, in order. 1 if refused."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        found = daemon.request(control.Sandbox(job_id=job_id, profile=profile))
    if invocation.json:
        cli_common.print_json(found)
    else:
        print(f"Job '{found['job_id']}': profile {found['profile']}, mode {found['mode']}, runs as {found['runs_as']}")
        rows = ((each["layer"], each["wanted"], each["state"], each["why"] or "") for each in found["layers"])
        print(tables.plain(("Layer", "Wanted", "Here", "Why"), rows))
        for section, lines in found["plan"].items():
            if lines:
                print(f"{section}:")
                for line in lines:
                    print(f"  {cli_common.printable(line)}")
        if found["refused"]:
            print(f"A run would be refused: {cli_common.printable(found['refused'])}")
    return control.FAILED if found["refused"] else control.OK


@sandbox.command("test", cls=cli_common.Command)
@click.argument("job_id", metavar="JOB", shell_complete=cli_common.complete_jobs)
@click.option("--profile", metavar="P", help="As if the job had this profile.")
def test(job_id: str, profile: str | None) -> int:
    """Build a job's sandbox and measure from inside what each layer keeps. The job does not run. 1 if a layer falls short."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        found = daemon.request(control.Measure(job_id=job_id, profile=profile))
    if invocation.json:
        cli_common.print_json(found)
    else:
        who = "" if found["uid"] is None else f", uid {found['uid']}"
        print(f"Job '{found['job_id']}': profile {found['profile']}, mode {found['mode']}{who}")
        rows = ((each["layer"], each["wanted"], each["state"], each["by"]) for each in found["layers"])
        print(tables.plain(("Layer", "Wanted", "Measured", "By"), rows))
        if found["attempts"]:
            rows_tried = ((each["operation"], each["outcome"]) for each in found["attempts"])
            print(tables.plain(("Tried", "Outcome"), rows_tried))
    if found["error"]:
        raise cli_common.Failure(f"the box of {job_id!r} could not be measured: {found['error'].strip()}")
    short = [each["layer"] for each in found["layers"] if each["state"] not in (policy.OFF, policy.ENFORCED)]
    return control.FAILED if short else control.OK


@sandbox.command("shell", cls=cli_common.Command)
@click.argument("job_id", metavar="JOB", shell_complete=cli_common.complete_jobs)
@click.argument("command", nargs=-1, type=click.UNPROCESSED, metavar="[-- COMMAND...]")
@click.option("--profile", metavar="P", help="As if the job had this profile.")
def shell(job_id: str, command: tuple[str, ...], profile: str | None) -> None:
    """A shell, or a command, in a box as the job gets it: user, environment, files, network, limits.

    For the account alone that starts the jobs. The daemon says what the box is; this terminal builds it, and ends it.
    """
    with cli_common.current().client() as daemon:
        found = daemon.request(control.Shell(job_id=job_id, profile=profile))
    is_terminal = os.isatty(0) and os.isatty(1)
    environment = dict(found["environment"])
    environment.pop("LNMT_REPORT_FD", None)  # there is nobody to report to
    if is_terminal and "TERM" in os.environ:
        environment.setdefault("TERM", os.environ["TERM"])
    asked = {
        "argv": list(command) or [_shell_of(environment)],
        "environment": environment,
        "directory": found["directory"],
        "umask": found["umask"],
        "terminal": is_terminal,
    }
    order = os.memfd_create("lnmt-order", 0)  # the environment may hold secrets: neither a file nor an argument
    with open(order, "w", encoding="utf-8", closefd=False) as file:
        json.dump({"policy": found["policy"], "command": asked}, file)
    os.lseek(order, 0, os.SEEK_SET)
    program = [
        sys.executable,
        "-I",
        "-m",
        "lnmt_scheduler.sandbox",
        "--order",
        str(order),
        "--uid-range",
        found["uids"],
    ]
    # A process with one thread and nothing else in it, as boxes need to be forked from.
    os.execv(sys.executable, program)


def _shell_of(environment: Mapping[str, str]) -> str:
    """That of the account; many of a system's have none that would start."""
    found = environment.get("SHELL", "")
    return found if found and os.path.basename(found) not in ("nologin", "false") else "/bin/sh"


@click.command("doctor", cls=cli_common.Command)
def doctor() -> int:
    """Show what this host offers for sandboxes, and what is missing, with its cost and the mend.

    Exit code 0: profile standard runs in full; 1: with less than it asks for; 2: standard, untrusted or the default is
    refused.
    """
    invocation = cli_common.current()
    found = _examined(invocation)
    if invocation.json:
        cli_common.print_json(found)
    else:
        _print_diagnosis(found)
    return REFUSED if found["default"]["refused"] else verdict(found["profiles"])


def _examined(invocation: cli_common.Invocation) -> dict[str, Any]:
    try:
        with invocation.client() as daemon:
            return diagnosis(daemon.request(control.Doctor()), asked_daemon=True)
    except client.Unreachable:
        cli_common.warn(f"the daemon is not running; this is what uid {os.geteuid()} finds by itself")
    told = _found_here()
    return diagnosis({**told, "default": _default(invocation, told)}, asked_daemon=False)


def told(invocation: cli_common.Invocation) -> dict[str, Any]:
    """What the daemon has found of the host, or while it does not run, what this user finds; for probe.from_map()."""
    try:
        with invocation.client() as daemon:
            found: dict[str, Any] = daemon.request(control.Doctor())
            return found
    except client.Unreachable:
        return _found_here()


def _found_here() -> dict[str, Any]:
    command = [sys.executable, "-I", "-m", "lnmt_scheduler.sandbox", "--host"]
    try:
        # A process of its own: to probe is to fork, and may mean to move to another cgroup.
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_TIMEOUT, check=True)
        return {"uid": os.geteuid(), **json.loads(done.stdout)}
    except subprocess.CalledProcessError as error:
        raise cli_common.Failure(f"the probe failed: {error.stderr.strip()}") from None
    except subprocess.TimeoutExpired:
        raise cli_common.Failure(f"the probe has not ended in {_PROBE_TIMEOUT} s") from None


def _default(invocation: cli_common.Invocation, told: Mapping[str, Any]) -> dict[str, Any]:
    """As the daemon would answer, by the configuration as far as it can be read here."""
    from lnmt_scheduler.supervisor import config, fitness  # noqa: PLC0415 (half of the daemon, only where none runs)

    path = invocation.paths().config_file
    try:
        settings = config.load(path if os.path.exists(path) else None, is_root=False)
    except config.ConfigError as error:
        cli_common.warn(f"{error.problems[0]}; the built-in default is judged")
        settings = config.Settings()
    box, limits = settings.default_sandbox, settings.defaults.get("limits", {})
    refused = fitness.refusal(box, limits, probe.from_map(told), is_root=told["uid"] == 0)
    return {"profile": box["profile"], "refused": refused}


def diagnosis(told: Mapping[str, Any], *, asked_daemon: bool) -> dict[str, Any]:
    """What `doctor -o json` holds, made of control.Doctor's answer."""
    host = probe.from_map(told)
    return {
        "daemon": asked_daemon,
        "uid": told["uid"],
        "mode": host.mode,
        "layers": [
            {
                "layer": layer,
                "state": host.layers.get(layer, policy.ABSENT),
                "keeps_from": keeps_from,
                "why": host.missing.get(layer),
            }
            for layer, keeps_from in policy.LAYERS.items()
        ],
        "cgroups": told["cgroups"],
        "default": dict(told["default"]),
        "profiles": [_judged(name, host, is_root=told["uid"] == 0) for name in profiles.PROFILES],
    }


def _judged(name: str, host: probe.Host, *, is_root: bool) -> dict[str, Any]:
    asked = profiles.build({"profile": name}, {}, state_directory=None, needed=(), daemon_files=())
    standings = settle.standings(asked, host, is_root=is_root)
    refused = [each.layer for each in standings if each.refuses]
    degraded = [each.layer for each in standings if each.degrades]
    state = REFUSED if refused else DEGRADED if degraded else FULL
    return {"profile": name, "state": _WORDS[state], "refused_for": refused, "degraded_in": degraded}


def verdict(judged: Iterable[Mapping[str, Any]]) -> int:
    """The exit code."""
    states = {each["profile"]: each["state"] for each in judged}
    if "refused" in (states["standard"], states["untrusted"]):
        return REFUSED
    return FULL if states["standard"] == "full" else DEGRADED


def _print_diagnosis(found: Mapping[str, Any]) -> None:
    whom = "The daemon" if found["daemon"] else "A daemon started here"
    print(f"{whom} runs as uid {found['uid']} in mode {found['mode']}: {_MODES[found['mode']]}.")
    rows = ((each["layer"], each["state"], each["keeps_from"]) for each in found["layers"])
    print(tables.plain(("Layer", "Here", "Keeps a job from"), rows))
    groups = found["cgroups"]
    limits = ", ".join(groups["limits"]) or "none"
    print(f"Control groups: {groups['layout']}; limits: {limits}; killed by: {groups['kill'] or 'nothing'}")
    for each in found["profiles"]:
        costs = [f"without {', '.join(each['degraded_in'])}"] if each["degraded_in"] else []
        costs += [f"for want of {', '.join(each['refused_for'])}"] if each["refused_for"] else []
        print(f"Profile {each['profile']}: {each['state']}", *(f"({cost})" for cost in costs))
    default = found["default"]
    print(f"Jobs that name no profile get {default['profile']}.")
    if default["refused"]:
        print(f"ALL OF THEM FAIL HERE: {cli_common.printable(default['refused'])}")
    reasons: dict[str, list[str]] = {}
    for each in found["layers"]:
        if each["why"]:
            reasons.setdefault(each["why"], []).append(each["layer"])
    for why in groups["missing"]:
        if not any(why in reason for reason in reasons):
            reasons.setdefault(why, []).append("cgroup")
    if reasons:
        print("Missing, and the mend:")
    for why, layers in reasons.items():
        print(f"  {', '.join(layers)}: {cli_common.printable(why)}")


COMMANDS = {"sandbox": sandbox, "doctor": doctor}
