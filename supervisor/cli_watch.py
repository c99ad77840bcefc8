"""watch: what runs, waits, comes next and has ended, live.

The daemon sends a picture whenever something has changed, at most one a second, and is asked nothing else; what goes on by
itself, such as the time that a run has taken, is reckoned here once a second. With the extra `tui` the terminal shows
tables and bars, without it plain text; what is no terminal gets each picture once, a program one JSON object a line.
"""

# ruff: noqa: PLC0415 - watching.py brings rich, an extra

import contextlib
import itertools
import json
import queue
import shutil
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import click

from lnmt_scheduler.ipc import control
from lnmt_scheduler.jobs import units
from lnmt_scheduler.supervisor import cli_common, client, tables, views

_BAR = 20
_TICK = 1.0
Picture = dict[str, Any]


@click.command("watch", cls=cli_common.Command)
@click.option("--once", is_flag=True, help="Show it once and leave.")
@click.option("--plain", is_flag=True, help="Plain text, also where rich is installed.")
def watch(once: bool, plain: bool) -> None:
    """Show what runs, waits, comes next and has ended, live. Ctrl-C leaves."""
    invocation = cli_common.current()
    with invocation.client() as daemon:
        try:
            if once or invocation.json or not sys.stdout.isatty():
                for picture in itertools.islice(_pictures(daemon), 1 if once else None):
                    _print(invocation, picture)
            else:
                with _screen(invocation, plain=plain) as show:
                    _live(daemon, show)
        except KeyboardInterrupt:
            print(file=sys.stderr)


def _pictures(daemon: client.Client) -> Iterator[Picture]:
    """One after the other; those of the next supervisor follow on those of this one."""
    while True:
        try:
            yield from daemon.stream(control.Watch())
        except client.Unreachable:
            daemon.reconnect()


def _print(invocation: cli_common.Invocation, picture: Picture) -> None:
    if invocation.json:
        print(json.dumps(_with_times(picture)), flush=True)
    else:
        print("\n".join(lines(picture, picture["time"])), end="\n\n", flush=True)


def _with_times(picture: Picture) -> Picture:
    named = {
        "running": ("slot", "start_time"),
        "waiting": ("slot", "until"),
        "next": ("slot",),
        "ended": ("slot", "end_time"),
    }
    shown = {key: [views.with_times(each, times) for each in picture[key]] for key, times in named.items()}
    return {"time": views.iso(picture["time"]), "counts": picture["counts"], **shown}


# Live.


def _live(daemon: client.Client, show: Callable[[Picture, int], None]) -> None:
    """Show each picture as it comes, and the newest anew once a second, for the time goes on."""
    arrived: queue.Queue[Picture | BaseException] = queue.Queue()

    def read() -> None:
        try:
            for picture in _pictures(daemon):
                arrived.put(picture)
        except BaseException as error:  # told in the other thread
            arrived.put(error)

    threading.Thread(target=read, daemon=True).start()
    newest: Picture | None = None
    came, ahead = 0.0, 0
    while True:
        try:
            item = arrived.get(timeout=_TICK)
        except queue.Empty:
            pass
        else:
            if isinstance(item, BaseException):
                raise item
            newest, came, ahead = item, time.monotonic(), item["time"]
        if newest is not None:
            show(newest, ahead + round((time.monotonic() - came) * 1000))


#: Shows a picture at a moment of the daemon's time, in place of the one before.
_Show = Callable[[Picture, int], None]


def _screen(invocation: cli_common.Invocation, *, plain: bool) -> contextlib.AbstractContextManager[_Show]:
    if not plain:
        try:
            from lnmt_scheduler.supervisor import watching
        except ImportError:
            cli_common.warn(f"for tables and bars: {cli_common.how_to_get('rich', 'tui')}; Ctrl-C leaves")
        else:
            return watching.screen(color=invocation.color)
    return contextlib.nullcontext(_plain)


def _plain(picture: Picture, now: int) -> None:
    size = shutil.get_terminal_size()
    shown = [line[: size.columns - 1] for line in lines(picture, now)][: size.lines - 1]
    print("\033[H\033[J" + "\n".join(shown), end="", flush=True)


# In words.


def lines(picture: Picture, now: int) -> list[str]:
    """The picture as text; `now` is the daemon's time."""
    counts = picture["counts"]
    found = [
        f"{tables.second(now)} ({tables.zone_name()})  "
        + ", ".join(f"{counts[key]} {key}" for key in ("running", "queued", "retrying"))
    ]
    for title, shown in (
        ("Running", [_run_line(each, now) for each in picture["running"]]),
        ("Waiting", [_waiting_line(each) for each in picture["waiting"]]),
        ("Next", [_next_line(each, now) for each in picture["next"]]),
        ("Ended", [_ended_line(each) for each in picture["ended"]]),
    ):
        if shown:
            found += ["", f"{title}:", *(f"  {line}" for line in shown)]
    return [cli_common.printable(line) for line in found]


def _run_line(each: Any, now: int) -> str:
    share, text = progress(each, now)
    bar = f"[{'#' * round(share * _BAR):-<{_BAR}}] " if share is not None else ""
    attempt = f" attempt {each['attempt']} of {each['attempts']}" if each["attempt"] > 1 else ""
    return f"{each['run_id']} {each['job_id']}{attempt}  {bar}{text}"


def progress(each: Any, now: int) -> tuple[float | None, str]:
    """How far a run is, from 0 to 1, and in words; by what it says itself, else by how long it usually takes."""
    took = max(0.0, (now - each["start_time"]) / 1000)
    text = units.format_duration(float(round(took)))
    said, usual = each["progress"], each["usual"]
    if said is not None:
        message = f"  {said['message']}" if said["message"] else ""
        if said["total"]:
            share = min(1.0, max(0.0, said["done"] / said["total"]))
            return share, f"{share:.0%}  {text}{message}"
        return None, f"{said['done']:g}  {text}{message}"
    if usual:
        return min(1.0, took / usual), f"{text} of usually {units.format_duration(float(round(usual, 1)))}"
    return None, text


def _waiting_line(each: Any) -> str:
    why = f": {each['why']}" if each["why"] else ""
    until = "" if each["until"] is None else f", until {tables.second(each['until'])}"
    return f"{each['run_id']} {each['job_id']}  {each['status']}{why}{until}"


def _next_line(each: Any, now: int) -> str:
    left = units.format_duration(float(round(max(0.0, (each["slot"] - now) / 1000))))
    return f"{tables.second(each['slot'])} {each['job_id']}  in {left}"


def _ended_line(each: Any) -> str:
    took = "" if each["duration"] is None else f" in {units.format_duration(round(each['duration'], 1))}"
    why = f" ({cause})" if (cause := tables.cause(each)) else ""
    return f"{tables.second(each['end_time'])} {each['run_id']} {each['job_id']}  {each['status']}{took}{why}"


COMMANDS = {"watch": watch}
