import json
import sys

import pytest
import rich.console
import samples

from lnmt_scheduler import supervisor
from lnmt_scheduler.supervisor import cli_common, cli_watch, watching

AT = samples.ms("2026-03-02T12:00:00")
PICTURE = {
    "time": AT,
    "counts": {"running": 3, "queued": 1, "retrying": 0},
    "running": [
        {
            "run_id": 7, "job_id": "copy", "slot": None, "start_time": AT - 30_000, "attempt": 2, "attempts": 4,
            "progress": {"done": 1, "total": 4, "message": "disk [red]1\033"}, "usual": None,
        },
        {
            "run_id": 8, "job_id": "poll", "slot": AT, "start_time": AT - 5_000, "attempt": 1, "attempts": 1,
            "progress": None, "usual": 10.0,
        },
        {
            "run_id": 9, "job_id": "new", "slot": AT, "start_time": AT - 90_000, "attempt": 1, "attempts": 1,
            "progress": None, "usual": None,
        },
    ],
    "waiting": [
        {
            "run_id": 10, "job_id": "report", "slot": AT, "status": "pending", "until": AT + 3_600_000,
            "why": "gate on copy, whose 12:00 run is still running",
        }
    ],
    "next": [{"job_id": "poll", "slot": AT + 120_000}],
    "ended": [
        {
            "run_id": 6, "job_id": "poll", "slot": AT, "status": "failed", "reason": "exit", "exit_code": 3,
            "signal": None, "end_time": AT - 60_000, "duration": 2.5,
        }
    ],
}  # fmt: skip

TEXT = """\
2026-03-02 12:00:00 (UTC)  3 running, 1 queued, 0 retrying

Running:
  7 copy attempt 2 of 4  [#####---------------] 25%  30s  disk [red]1\\x1b
  8 poll  [##########----------] 5s of usually 10s
  9 new  1m30s

Waiting:
  10 report  pending: gate on copy, whose 12:00 run is still running, until 2026-03-02 13:00:00

Next:
  2026-03-02 12:02:00 poll  in 2m

Ended:
  2026-03-02 11:59:00 6 poll  failed in 2.5s (exit 3)

"""


def pictures(*more):
    def watch(_):
        yield PICTURE
        yield from more

    return watch


def test_what_is_no_terminal_gets_plain_text(schedctl):
    schedctl.serve(watch=pictures())
    done = schedctl("watch", "--once")
    assert (done.code, done.out) == (0, TEXT)


def test_programs_get_an_object_a_line(schedctl):
    schedctl.serve(watch=pictures())
    done = schedctl("watch", "--once", "-o", "json")
    (line,) = done.out.splitlines()
    found = json.loads(line)
    assert found["time"] == "2026-03-02T12:00:00.000Z"
    assert found["running"][0]["start_time"] == "2026-03-02T11:59:30.000Z"
    assert found["next"] == [{"job_id": "poll", "slot": "2026-03-02T12:02:00.000Z"}]
    assert list(found) == ["time", "counts", "running", "waiting", "next", "ended"]


@pytest.mark.parametrize(
    ("more", "share", "text"),
    [
        ({}, None, "30s"),
        ({"usual": 20.0}, 1.0, "30s of usually 20s"),
        ({"usual": 60.0}, 0.5, "30s of usually 1m"),
        ({"progress": {"done": 5, "total": None, "message": ""}, "usual": 60.0}, None, "5  30s"),
        ({"progress": {"done": 9, "total": 4, "message": "x"}}, 1.0, "100%  30s  x"),
        ({"start_time": AT + 5000}, None, "0s"),
    ],
)
def test_how_far_a_run_is(more, share, text):
    each = {"start_time": AT - 30_000, "progress": None, "usual": None, **more}
    assert cli_watch.progress(each, AT) == (share, text)


def test_time_goes_on_between_two_pictures():
    lines = cli_watch.lines(PICTURE, AT + 5_000)
    assert "  8 poll  [####################] 10s of usually 10s" in lines


def test_rich_draws_tables_and_no_markup_of_a_job(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    console = rich.console.Console(width=150, force_terminal=True, color_system=None)
    with console.capture() as captured:
        console.print(watching.draw(PICTURE, AT))
    drawn = captured.get()
    for words in ("copy", "disk [red]1\\x1b", "25%", "gate on copy", "failed", "exit 3", "━"):
        assert words in drawn


def test_without_the_extra_it_is_plain_text_and_says_how_to_get_more(monkeypatch, capsys):
    monkeypatch.delattr(supervisor, "watching")
    monkeypatch.setitem(sys.modules, "lnmt_scheduler.supervisor.watching", None)
    with cli_watch._screen(cli_common.Invocation(), plain=False) as show:
        show(PICTURE, AT)
    said = capsys.readouterr()
    assert "-m pip install rich" in said.err
    assert said.out.startswith("\033[H\033[J")
    assert "7 copy attempt 2 of 4" in said.out
