"""add, edit, export, import, validate: the definitions of jobs.

Every key of a job is an option of `add` and `edit`; the daemon checks the values as it checks a file's. Files are
opened here, with the rights of whoever calls, and never by the daemon.
"""

# ruff: noqa: PLC0415 - job_files brings half of the daemon, for the one command that checks files itself

import json
import sys
import types
import typing
from collections.abc import Sequence
from typing import Any

import click

from lnmt_scheduler.ipc import codec, control
from lnmt_scheduler.jobs import fields, load, model
from lnmt_scheduler.supervisor import cli_common, client, tables, views

#: Documents nest deeper than messages: args and kwargs lie some levels down.
_UPLOAD_DEPTH = 64


# From the text of an option to the value of a key.


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except ValueError as error:
        raise click.BadParameter(f"{text!r} is not JSON: {error}") from None


def _json_or_text(text: str) -> Any:
    return _json(text) if text.startswith(("{", "[")) else text


def _number_or_text(text: str) -> int | float | str:
    """Durations and priorities may be words, which the daemon reads."""
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _reader(key: str, hint: Any) -> Any:
    """The type of a key's option."""
    kinds = typing.get_args(hint) if isinstance(hint, types.UnionType) else (hint,)
    match {typing.get_origin(kind) or kind for kind in kinds} - {types.NoneType}:
        case words if words == {str} or key in ("command", "umask"):
            return str
        case words if words in ({bool}, {int}):
            return words.pop()
        case words if words <= {list, dict}:
            return _json
        case words if words & {float, model.JobPriority}:
            return _number_or_text
    return _json_or_text


_METAVARS = {str: "TEXT", bool: "BOOL", int: "N", _json: "JSON"}


def _key_options(*, without: tuple[str, ...]) -> list[click.Option]:
    """One option for each key of a job. Those that have but one value are taken, and not in the help."""
    hints = typing.get_type_hints(model.JobConfig)
    options = []
    for key in views.JOB_KEYS:
        if key in without:
            continue
        kind, described = _reader(key, hints[key]), fields.FIELDS[key]
        options.append(
            click.Option(
                [f"--{key.replace('_', '-')}", key],
                type=kind,
                metavar=_METAVARS.get(kind, "VALUE"),
                help=described.description,
                hidden="const" in (described.schema or {}),
            )
        )
    return options


def _spelled(name: str) -> str:
    """Keys may be written as in a file, too: --max_retries."""
    return name.replace("_", "-")


class _Keys(cli_common.Command):
    """A command with an option for each key of a job; `--user` is one of them, so the global one goes before it."""

    def __init__(self, *args: Any, without_keys: tuple[str, ...] = (), **kwargs: Any) -> None:
        kwargs["params"] = [*kwargs.get("params", []), *_key_options(without=without_keys)]
        super().__init__(*args, without=("user",), context_settings={"token_normalize_func": _spelled}, **kwargs)


def _given(values: dict[str, Any], argv: Sequence[str]) -> dict[str, Any]:
    """The keys that were on the command line."""
    given = {key: value for key, value in values.items() if value is not None}
    if argv:
        if "command" in given:
            raise click.UsageError("--command and arguments after -- exclude each other")
        given["command"] = list(argv)
    return given


# The commands.


@click.command("add", cls=_Keys)
@click.argument("argv", metavar="[-- ARGV...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--file", "path", metavar="F", help="The jobs of this job file, in place of options.")
def add(argv: tuple[str, ...], path: str | None, **values: Any) -> None:
    """Add a job.

    \b
    schedctl add --id disk --schedule '*/5 * * * *' -- df -h /
    schedctl add --id poll --module lnmt.polling --function poll_devices --kwargs '{"retries": 3}'
    """
    invocation = cli_common.current()
    definition = _given(values, argv)
    if path is None:
        if "id" not in definition:
            raise click.UsageError("--id is missing")
        with invocation.client() as daemon:
            _print_defined(invocation, daemon.request(control.Add(definition=definition)), "added")
        return
    if definition:
        raise click.UsageError("--file and keys of a job exclude each other")
    document = _read(path)
    jobs = document.get("jobs", [document] if "id" in document else None)
    with invocation.client() as daemon:
        if isinstance(jobs, list) and len(jobs) == 1 and not document.get("defaults"):
            if not isinstance(jobs[0], dict):
                raise cli_common.Failure(f"{path}: a job must be a map of keys", control.INVALID)
            _print_defined(invocation, daemon.request(control.Add(definition=jobs[0])), "added")
            return
        for job in jobs if isinstance(jobs, list) else ():
            _refuse_known(daemon, path, job)
        _import(invocation, daemon, [(path, document)], control.Import())


def _refuse_known(daemon: client.Client, path: str, job: Any) -> None:
    """`import` would replace it."""
    if not isinstance(job, dict) or not isinstance(job.get("id"), str):
        return  # the daemon says what is wrong with it
    try:
        daemon.request(control.Show(job_id=job["id"]))
    except client.RequestError as error:
        if error.code != control.NOT_FOUND:
            raise
        return
    message = f"{path}: job {job['id']!r} is there already; to replace jobs: schedctl import {path}"
    raise cli_common.Failure(message, control.INVALID)


def _print_defined(invocation: cli_common.Invocation, answer: dict[str, Any], done: str) -> None:
    for warning in answer["warnings"]:
        cli_common.warn(f"warning: {warning}")
    job, fires = answer["job"], answer["next"]
    if invocation.json:
        times = [views.iso(at) for at in fires]
        cli_common.print_json({**answer, "job": views.job_json(job), "next": times})
        return
    print(f"Job '{job['id']}' {done}.")
    print(f"Runs as: {cli_common.printable(answer['runs_as'])}, profile {job['sandbox']['profile']}")
    if fires:
        print(f"Next runs ({tables.zone_name()}): {', '.join(map(tables.second, fires))}")
    else:
        print(f"Next runs: none, {_why_never(job)}")


def _why_never(job: dict[str, Any]) -> str:
    if not job["enabled"]:
        return "it is disabled"
    if (job["schedule"] or "").strip().lower() == "@reboot":
        return "it runs when the daemon starts, once a boot"
    return "it has no schedule" if job["schedule"] is None else "its schedule names no time to come"


@click.command("edit", cls=_Keys, without_keys=("id",))
@click.argument("job_id", metavar="JOB", shell_complete=cli_common.complete_jobs)
@click.argument("argv", metavar="[-- ARGV...]", nargs=-1, type=click.UNPROCESSED)
@click.option("--unset", multiple=True, metavar="KEY", help="Back to the default. May be repeated.")
def edit(job_id: str, argv: tuple[str, ...], unset: tuple[str, ...], **values: Any) -> None:
    """Change a job. Without options its definition is opened in $EDITOR."""
    invocation = cli_common.current()
    changes = _given(values, argv)
    dropped = [key.replace("-", "_") for key in unset]
    if unknown := [key for key in dropped if key not in views.JOB_KEYS]:
        raise click.UsageError(f"no key of a job is called {unknown[0]!r}")
    with invocation.client() as daemon:
        if not changes and not dropped:
            changes, dropped = _edited(_definition(daemon, job_id))
            if not changes and not dropped:
                print("Nothing was changed.", file=sys.stderr)
                return
        answer = daemon.request(control.Edit(job_id=job_id, changes=changes, unset=tuple(dropped)))
    _print_defined(invocation, answer, "changed")


def _definition(daemon: client.Client, job_id: str) -> dict[str, Any]:
    """The job as it was given, secrets included; Show masks them."""
    # The page of one that begins after every id that is less: "~" comes after all characters that an id may have.
    before = job_id[:-1] + chr(max(0, ord(job_id[-1:] or "0") - 1)) + "~"
    page = daemon.request(control.Export(after=before, limit=1))["jobs"]
    if not page or page[0]["id"] != job_id:
        raise cli_common.Failure(f"no job {job_id!r}; see: schedctl list", control.NOT_FOUND)
    definition: dict[str, Any] = page[0]
    return definition


def _edited(definition: dict[str, Any]) -> tuple[dict[str, Any], list[str]]:
    """What a person made of it in the editor: changed keys, and those taken out."""
    text = click.edit(json.dumps(definition, indent=2, ensure_ascii=False) + "\n", extension=".json")
    if text is None:
        return {}, []
    try:
        edited = json.loads(text)
    except ValueError as error:
        raise cli_common.Failure(
            f"what was written is not JSON, and nothing was changed: {error}", control.INVALID
        ) from None
    if not isinstance(edited, dict):
        raise cli_common.Failure("what was written is not a JSON object, and nothing was changed", control.INVALID)
    changes = {key: value for key, value in edited.items() if key not in definition or definition[key] != value}
    return changes, [key for key in definition if key not in edited]


@click.command("export", cls=cli_common.Command)
@click.argument("path", metavar="[FILE]", required=False)
@click.option("--crontab", is_flag=True, help="As lines of a crontab, with what cron cannot do said in comments.")
def export(path: str | None, crontab: bool) -> None:
    """Write all jobs as a job file, to FILE or to stdout.

    It holds secrets as they are, so that it can be imported again; FILE is made readable for you alone.
    """
    jobs = []
    invocation = cli_common.current()
    for job in cli_common.pages(invocation.source(), control.Export(), "jobs", "after"):
        if job.get("main_file"):
            cli_common.warn(f"job {job['id']!r} belongs to the program {job['main_file']} and is left out")
        else:
            jobs.append(job)
    text = _as_crontab(invocation, jobs) if crontab else json.dumps({"jobs": jobs}, indent=2) + "\n"
    if path is None:
        print(text, end="")
        return
    cli_common.write_private(path, text)


def _as_crontab(invocation: cli_common.Invocation, jobs: list[dict[str, Any]]) -> str:
    from lnmt_scheduler.supervisor import cli_sandbox, config, crontab_export, job_files

    try:
        settings = job_files.settings(invocation.paths(), invocation.state())
    except config.ConfigError as error:
        raise invalid(error.problems) from None  # a guess at the zone would move jobs to other hours
    host_zone, is_root = config.host_zone(), cli_sandbox.told(invocation)["uid"] == 0
    found = crontab_export.lines(jobs, host_zone, settings.timezone or host_zone, has_users=is_root)
    return "\n".join(found) + "\n"


@click.command("import", cls=cli_common.Command)
@click.argument("files", metavar="FILE...", nargs=-1, required=True)
@click.option("--dry-run", is_flag=True, help="Only show what would change.")
@click.option("--prune", is_flag=True, help="Remove jobs that none of the files names; those of jobs.d stay.")
def import_(files: tuple[str, ...], dry_run: bool, prune: bool) -> None:
    """Add or replace the jobs of job files, all or none."""
    invocation = cli_common.current()
    documents = [(path, _read(path)) for path in files]
    with invocation.client() as daemon:
        _import(invocation, daemon, documents, control.Import(dry_run=dry_run, prune=prune))


def _read(path: str) -> dict[str, Any]:
    try:
        return load.read_file(path)
    except load.JobsInvalid as error:
        raise invalid(error.problems) from None


def _import(
    invocation: cli_common.Invocation,
    daemon: client.Client,
    documents: list[tuple[str, dict[str, Any]]],
    request: control.Import,
) -> None:
    upload(daemon, documents)
    cli_common.print_changes(invocation, daemon.stream(request), dry_run=request.dry_run)


def upload(daemon: client.Client, documents: list[tuple[str, dict[str, Any]]]) -> None:
    """Hand documents over, each with its name, for the Import that follows on this connection."""
    try:
        data = codec.pack(documents, max_depth=_UPLOAD_DEPTH)
    except codec.ProtocolError as error:
        raise cli_common.Failure(f"a file holds what no job can: {error}", control.INVALID) from None
    for at in range(0, len(data), control.CHUNK):
        daemon.request(control.Upload(data=data[at : at + control.CHUNK]))


@click.command("validate", cls=cli_common.Command)
@click.argument("files", metavar="[FILE...]", nargs=-1)
def validate(files: tuple[str, ...]) -> int:
    """Check job files, which needs no daemon, or without FILE the registered jobs.

    Files are checked together: a job may depend on one of another file, and on no other.
    """
    invocation = cli_common.current()
    if files:
        from lnmt_scheduler.supervisor import job_files

        checked = job_files.check(invocation.paths(), files, state=invocation.state())
        count, problems = len({each.config.id for each in checked.definitions}), checked.problems
    else:
        with invocation.client() as daemon:
            answer = daemon.request(control.Validate())
        count, problems = answer["jobs"], answer["problems"]
    if invocation.json:
        cli_common.print_json({"jobs": count, "problems": problems})
        return control.INVALID if problems else control.OK
    if problems:
        raise invalid(problems)
    print(f"{count} {'job' if count == 1 else 'jobs'}, all valid.")
    return control.OK


def invalid(problems: Sequence[load.Problem | str]) -> cli_common.Failure:
    """One problem, or the list of them."""
    lines = tuple(map(str, problems))
    if len(lines) == 1:
        return cli_common.Failure(lines[0], control.INVALID)
    return cli_common.Failure(f"{len(lines)} problems", control.INVALID, lines)


COMMANDS = {"add": add, "edit": edit, "export": export, "import": import_, "validate": validate}
