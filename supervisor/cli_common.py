"""What all commands of schedctl share: the global options, where to ask, how to fail, how to print.

schedctl is a short-lived process that talks to the daemon over its control socket; where there is no daemon, some
commands read its store instead (direct.py). Only click is imported at the top: what a command does not need would cost
time at every call.
"""

# ruff: noqa: PLC0415 - an import waits for the command that needs it, for each costs time at every call

import json
import os
import sys
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Protocol

import click

from lnmt_scheduler.ipc import control

if TYPE_CHECKING:
    from lnmt_scheduler.supervisor import client, paths


class Failure(click.ClickException):
    """Ends the command: what is wrong and what to do, further lines, and the exit code."""

    def __init__(self, message: str, code: int = control.FAILED, details: tuple[str, ...] = ()) -> None:
        super().__init__(message)
        #: What schedctl exits with.
        self.code = code
        self.details = details


class Source(Protocol):
    """Who answers: the daemon, or the store itself."""

    def request(self, request: object) -> Any: ...

    def close(self) -> None: ...


@dataclass(slots=True)
class Invocation:
    """The global options of this call, wherever on the line they stood."""

    socket: str | None = None
    state_dir: str | None = None
    system: bool = False
    user: bool = False
    format: str = "table"
    no_color: bool = False

    @property
    def json(self) -> bool:
        return self.format == "json"

    @property
    def color(self) -> bool:
        """Whether stdout gets colours; https://no-color.org."""
        unwanted = self.no_color or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb"
        return not unwanted and sys.stdout.isatty()

    def paths(self) -> "paths.Paths":
        from lnmt_scheduler.supervisor import paths

        if self.system and self.user:
            raise click.UsageError("--system and --user exclude each other")
        found = paths.find(state_dir=self.state_dir, layout="system" if self.system else "user" if self.user else None)
        return found if self.socket is None else replace(found, socket=os.path.abspath(self.socket))

    def client(self) -> "client.Client":
        """A connection to the daemon. Raises client.RequestError."""
        from lnmt_scheduler.supervisor import client, paths

        found = self.paths()
        if self.state_dir is not None:
            hint = f"schedd --state-dir {self.state_dir}"
        else:
            hint = f"systemctl start {_unit()}" if found.state_dir == f"/var/lib/{paths.NAME}" else "schedd"
        return client.Client(found.socket, start_hint=hint)

    def state(self) -> dict[str, Any]:
        """What the daemon says of itself; nothing if none answers."""
        from lnmt_scheduler.supervisor import client

        try:
            with self.client() as daemon:
                return dict(daemon.request(control.State()))
        except client.RequestError:
            return {}

    def source(self) -> Source:
        """The daemon; or, said on stderr, its store while it does not run. Closed when the command ends."""
        opened = self._open_source()
        click.get_current_context().call_on_close(opened.close)
        return opened

    def _open_source(self) -> Source:
        from lnmt_scheduler.supervisor import client

        try:
            return self.client()
        except client.Unreachable as error:
            found = self.paths()
            # A socket of its own says nothing about where the store is.
            if (self.socket is not None and self.state_dir is None) or not os.path.exists(found.database):
                raise
            from lnmt_scheduler.supervisor import direct, store

            try:
                opened: Source = direct.Direct(found)
            except store.StoreError as unreadable:
                raise Failure(f"{error.message}; nor can its store be read: {unreadable}", error.code) from None
            warn(f"the daemon is not running; this is read from {found.database}")
            return opened


def _unit() -> str:
    """Of the system's daemon: that of the account where that is the one which is enabled."""
    from lnmt_scheduler.supervisor import paths

    account = f"{paths.NAME}-account"
    enabled = os.path.lexists(f"/etc/systemd/system/multi-user.target.wants/{account}.service")
    return account if enabled else paths.NAME


def current() -> Invocation:
    """The global options of the command that is running."""
    return of(click.get_current_context())


def of(context: click.Context) -> Invocation:
    return context.find_root().ensure_object(Invocation)


def _note(context: click.Context, parameter: click.Parameter, value: Any) -> None:
    if value and parameter.name is not None:
        setattr(of(context), parameter.name, value)


def global_options() -> list[click.Option]:
    """New objects each time: they stand on the group and on every command."""

    def option(*names: str, **attributes: Any) -> click.Option:
        return click.Option(names, expose_value=False, callback=_note, **attributes)

    return [
        option("--socket", metavar="PATH", help="Control socket of the daemon."),
        option("--state-dir", metavar="DIR", help="The daemon that keeps everything in DIR."),
        option("--system", is_flag=True, help="The system's daemon."),
        option("--user", is_flag=True, help="Your own daemon."),
        option("--format", "-o", type=click.Choice(["table", "json"]), help="Default: table."),
        option("--no-color", is_flag=True, help="No colours; as does NO_COLOR."),
    ]


class Command(click.Command):
    """A command that takes the global options too. `without`: those that mean something else here."""

    def __init__(self, *args: Any, without: tuple[str, ...] = (), **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._own = len(self.params)
        self.params += [option for option in global_options() if option.name not in without]

    def format_options(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        own = [each for each in self.get_params(ctx) if each not in self.params[self._own :]]
        for title, options in (("Options", own), ("Global options", self.params[self._own :])):
            records = [each.get_help_record(ctx) for each in options if isinstance(each, click.Option)]
            with formatter.section(title):
                formatter.write_dl([record for record in records if record is not None])


def pages(source: Source, request: Any, items: str, cursor: str) -> Iterator[Any]:
    """What a paged request gives, page after page."""
    while True:
        page = source.request(request)
        yield from page[items]
        if page["more"] is None:
            return
        request = replace(request, **{cursor: page["more"]})


def duration(text: str) -> float:
    """Seconds; the type of an option."""
    from lnmt_scheduler.jobs import units

    try:
        return units.duration(text)
    except ValueError as error:
        raise click.BadParameter(str(error)) from None


def moment(text: str) -> int | None:
    """Epoch milliseconds of a time such as 2026-01-31T12:00, in the caller's zone unless it names another; None: it is none."""
    from datetime import datetime

    try:
        return round(datetime.fromisoformat(text).astimezone().timestamp() * 1000)
    except (ValueError, OverflowError):
        return None


def write_private(path: str, text: str) -> None:
    """A file for its owner alone: definitions hold secrets. Raises Failure."""
    try:
        with open(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC, 0o600), "w") as file:
            file.write(text)
    except OSError as error:
        raise Failure(f"cannot write {path}: {error.strerror}", control.CANNOT_WRITE) from None


def how_to_get(package: str, extra: str) -> str:
    """The command that installs an extra's package where this program looks for it."""
    from lnmt_scheduler.jobs import needs

    return needs.how_to_get(extra, [package])


def warn(text: str) -> None:
    print(f"schedctl: {printable(text)}", file=sys.stderr)


def printable(text: str) -> str:
    """One line with every control character escaped: names, errors and output come from jobs."""
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text)


def print_json(value: Any) -> None:
    """An object over several lines; of an array one element a line."""
    if isinstance(value, list):
        lines = ",\n ".join(json.dumps(each) for each in value)
        print(f"[{lines}]")
    else:
        print(json.dumps(value, indent=2))


# A run in full.


def read_all(source: Source, run_id: int, what: str) -> Iterator[bytes]:
    """What is stored of a run's output or result, in pieces."""
    offset = 0
    while True:
        piece = source.request(control.Read(run_id=run_id, what=what, offset=offset))
        if not piece["data"]:
            return
        yield piece["data"]
        offset += len(piece["data"])


def result_of(source: Source, view: Mapping[str, Any]) -> Any:
    """What the function returned; None if there is nothing, or nothing that makes sense: a job may report what it likes."""
    if not view["more"]["result_bytes"]:
        return None
    from lnmt_scheduler.ipc import codec

    try:
        return codec.unpack(b"".join(read_all(source, view["run_id"], "result")))
    except codec.ProtocolError:
        return None


def run_in_full(source: Source, view: Mapping[str, Any]) -> dict[str, Any]:
    """The JSON object of a run, with the end of its output and its result."""
    from lnmt_scheduler.supervisor import client, views

    output = b""
    if view["output_bytes"] or view["end_time"] is None:
        try:
            tail = source.request(control.Read(run_id=view["run_id"], offset=-control.CHUNK))
        except client.RequestError as error:
            if error.code != control.NOT_FOUND:  # retention took the output before the run
                raise
        else:
            output = tail["data"]
    return views.run_json(view, output, result_of(source, view))


# Completion.


def complete_jobs(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return _complete(context, "job", incomplete)


def complete_runs(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return _complete(context, "run", incomplete)


def complete_events(context: click.Context, _parameter: click.Parameter, incomplete: str) -> list[str]:
    return _complete(context, "event", incomplete)


def _complete(context: click.Context, what: str, incomplete: str) -> list[str]:
    try:
        with of(context).client() as daemon:
            values = daemon.request(control.Complete(what=what, prefix=incomplete))["values"]
    except Exception:  # a shell that waits for a word has no use for an error
        return []
    return [str(value) for value in values]


# What a reload or an import changes.

_SIGNS = {"add": "+", "change": "~", "remove": "-"}


def print_changes(invocation: Invocation, stream: "client.Stream", *, dry_run: bool) -> None:
    """The answer to an Import or a Reload, as it comes; notes go to stderr."""
    changed = _changes(stream)
    if invocation.json:
        changes = [{key: item[key] for key in ("action", "job_id", "diff")} for item in changed]
        print_json({"dry_run": dry_run, **stream.value, "changes": changes})
        return
    for item in changed:
        print(f"{_SIGNS.get(item['action'], item['action'])} {item['job_id']}")
        # Of a new job every key is new: worth reading before it is taken, not after.
        for line in item["diff"] if dry_run or item["action"] != "add" else ():
            print(f"    {printable(line)}")
    counts = ", ".join(f"{count} {word}" for word, count in stream.value.items())
    print(f"{'Would be: ' if dry_run else ''}{counts}")


def _changes(stream: "client.Stream") -> Iterator[Mapping[str, Any]]:
    for item in stream:
        if item["kind"] == "note":
            warn(f"note: {printable(item['text'])}")
        else:
            yield item
