"""The picture of `schedctl watch` on a terminal, with rich: tables, and bars for what says how far it is.

rich, an extra, draws; what is shown and in which words is cli_watch.py's. Every text goes in as text: names and messages come
from jobs, and rich would read brackets in them as markup.
"""

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

import rich.console
import rich.live
import rich.progress_bar
import rich.table
import rich.text

from lnmt_scheduler.supervisor import cli_watch, tables
from lnmt_scheduler.supervisor.cli_common import printable

_STYLES = {"completed": "green", "failed": "red", "cancelled": "yellow", "skipped": "yellow", "retrying": "yellow"}


@contextlib.contextmanager
def screen(*, color: bool) -> Iterator[Callable[[dict[str, Any], int], None]]:
    """Gives what shows a picture at a moment of the daemon's time, in place of the one before."""
    console = rich.console.Console(no_color=not color, highlight=False)
    with rich.live.Live(console=console, auto_refresh=False, vertical_overflow="ellipsis") as live:
        yield lambda picture, now: live.update(draw(picture, now), refresh=True)


def draw(picture: dict[str, Any], now: int) -> rich.console.Group:
    counts = picture["counts"]
    head = f"{tables.second(now)} ({tables.zone_name()})  " + ", ".join(
        f"{counts[key]} {key}" for key in ("running", "queued", "retrying")
    )
    parts: list[rich.console.RenderableType] = [_text(head)]
    for title, columns, rows in (
        ("Running", ("Run", "Job", "", "How far"), [_running(each, now) for each in picture["running"]]),
        ("Waiting", ("Run", "Job", "Status", "For"), [_waiting(each) for each in picture["waiting"]]),
        (
            "Next",
            ("Slot", "Job"),
            [[_text(tables.second(each["slot"])), _text(each["job_id"])] for each in picture["next"]],
        ),
        ("Ended", ("At", "Run", "Job", "Status", "Why"), [_ended(each) for each in picture["ended"]]),
    ):
        if rows:
            table = rich.table.Table(*columns, title=title, title_justify="left", expand=False)
            for row in rows:
                table.add_row(*row)
            parts.append(table)
    return rich.console.Group(*parts)


def _text(text: str, style: str = "") -> rich.text.Text:
    return rich.text.Text(printable(text), style=style)


def _running(each: dict[str, Any], now: int) -> list[rich.console.RenderableType]:
    share, words = cli_watch.progress(each, now)
    bar = _text("") if share is None else rich.progress_bar.ProgressBar(total=1.0, completed=share, width=20)
    return [_text(str(each["run_id"])), _text(each["job_id"]), bar, _text(words)]


def _waiting(each: dict[str, Any]) -> list[rich.console.RenderableType]:
    until = "" if each["until"] is None else f", until {tables.second(each['until'])}"
    return [
        _text(str(each["run_id"])),
        _text(each["job_id"]),
        _text(each["status"]),
        _text(f"{each['why'] or ''}{until}"),
    ]


def _ended(each: dict[str, Any]) -> list[rich.console.RenderableType]:
    return [
        _text(tables.second(each["end_time"])),
        _text(str(each["run_id"])),
        _text(each["job_id"]),
        _text(each["status"], _STYLES.get(each["status"], "")),
        _text(tables.cause(each)),
    ]
