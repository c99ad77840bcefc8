"""A supervisor that dies between any two of its system calls: what it moved is there once, and of whom it was.

The process is played by an exception that comes in place of the k-th call that changes something, for every k there is;
then its objects are let go as a death would, and a successor goes on from the files and the pipes. Nothing else is known to
it.
"""

import contextlib
import os

import attempts as forked
import pytest

from lnmt_scheduler.ipc import channel, codec, messages
from lnmt_scheduler.supervisor import attempts, children, loop, output

CALLS = ("splice", "pwrite", "ftruncate", "unlink", "rename", "sendfile")
LINES = ["one", "two", "three"]


class Died(BaseException):
    """Where the process ended."""


class Deaths:
    """Counts the calls that change a file, and dies in place of the k-th."""

    def __init__(self, monkeypatch):
        self.left = -1
        for name in CALLS:
            monkeypatch.setattr(os, name, self._counted(getattr(os, name)))

    def _counted(self, really):
        def call(*arguments, **more):
            if self.left == 0:
                raise Died
            self.left -= self.left > 0
            return really(*arguments, **more)

        return call


class Job:
    """The launcher's ends of a job's three pipes, which outlive every supervisor, and what the job has said."""

    def __init__(self):
        pairs = [os.pipe() for _ in range(3)]
        self.reads = [read for read, _ in pairs]
        self.stdout, self.stderr, self.report = (write for _, write in pairs)

    def close(self):
        for fd in (*self.reads, self.stdout, self.stderr, self.report):
            os.close(fd)


def scenario(job, step):
    """What the job does at each step, and whether there is another."""
    match step:
        case 0:
            os.write(job.stdout, b"out 0\n")
            channel.send_report(job.report, messages.Log(level="info", text=LINES[0]))
        case 1:
            os.write(job.stderr, b"err 1\n")
            os.write(job.stdout, b"out 1\n")
            channel.send_report(job.report, messages.Progress(done=1, total=3))
        case 2:
            # A frame that is torn, and the rest of it in the next step.
            body = codec.encode(messages.Log(level="info", text=LINES[1]))
            os.write(job.report, (len(body).to_bytes(4, "big") + body)[:9])
            os.write(job.stdout, b"x" * 300)
        case 3:
            body = codec.encode(messages.Log(level="info", text=LINES[1]))
            os.write(job.report, (len(body).to_bytes(4, "big") + body)[9:])
            os.write(job.stderr, b"y" * 150)
        case 4:
            for number in range(1, 3):
                channel.send_report(job.report, messages.Result(part=number, parts=2, data=b"r" * number))
            channel.send_report(job.report, messages.Log(level="warning", text=LINES[2]))
            os.write(job.stdout, b"z" * 400 + b"end\n")
        case _:
            return False
    return True


class Supervisor:
    """One life: takes the attempt up, moves what there is, and may end it."""

    def __init__(self, path, job, limit):
        self.events = loop.Loop()
        self.child = None
        self.begun = False
        try:
            self.child = children.Child(
                1, 2, self.events, path=path, output_limit=limit, result_limit=1000, now_ms=lambda: 0,
                before=lambda: None, on_life=lambda: None, first_line="[attempt 2 of 3]",
            )  # fmt: skip
            self.child.attach([os.dup(fd) for fd in job.reads])
        except BaseException:
            self.die()
            raise

    def move(self):
        for fd in list(self.child._pipes):
            with contextlib.suppress(BlockingIOError):
                while self.child._move(fd):
                    pass

    def end(self):
        """As attempts.py does: drain, the last words, and the facts for the row."""
        self.child.drain()
        self.child.say("replay: it")
        written, report = self.child.output, self.child.report
        return written.total, written.truncated, written.finished_size(), report.result, report.progress

    def die(self):
        self.events.close()


def live(path, job, limit, deaths, dies_at):
    """Play the scenario; whoever dies has a successor. The facts, and whether anybody died."""
    died, facts = False, None
    deaths.left = dies_at
    step, is_said, supervisor = 0, False, None
    while True:
        try:
            if facts is not None and supervisor is None:
                # The row is durable, and the launcher tells the exit again: what remains is done anew.
                attempts._finish(output.Output(path, limit))
                return facts, died
            supervisor = supervisor or Supervisor(path, job, limit)
            while is_said or (is_said := scenario(job, step)):
                supervisor.move()
                step, is_said = step + 1, False
            facts = supervisor.end()
            supervisor.child.finish(last=True)
        except Died:
            died, deaths.left, supervisor = True, -1, None
        else:
            return facts, died


def kept(path):
    return {what: output.read_stored(path, what, 0, 1 << 20)[0] for what in ("output", "stdout", "stderr", "log")}


@pytest.mark.parametrize("limit", [10_000, 400])
def test_at_every_call_nothing_is_lost_and_nothing_doubled(tmp_path, monkeypatch, limit):
    # In a process of its own: what the dead leave open is closed with it.
    points = forked.run(lambda: _die_everywhere(tmp_path, monkeypatch, limit))
    assert isinstance(points, int)
    assert points > 30


def _die_everywhere(folder, monkeypatch, limit):
    deaths = Deaths(monkeypatch)
    job = Job()
    path = str(folder / "whole" / "1.log")
    expected, _ = live(path, job, limit, deaths, -1)
    whole = kept(path)
    if limit == 10_000:
        assert whole["stdout"] == b"out 0\nout 1\n" + b"x" * 300 + b"z" * 400 + b"end\n"
        assert whole["stderr"] == b"err 1\n" + b"y" * 150
        assert whole["log"] == b"[attempt 2 of 3]\ninfo: one\ninfo: two\nwarning: three\nreplay: it\n"
    else:
        assert b"bytes of output dropped here" in whole["log"]
    dies_at, died = 0, True
    while died:
        job.close()
        job = Job()
        path = str(folder / str(dies_at) / "1.log")
        facts, died = live(path, job, limit, deaths, dies_at)
        assert kept(path) == whole, dies_at
        assert facts == expected, dies_at
        assert facts[2] == len(whole["output"])
        assert sorted(os.listdir(os.path.dirname(path))) == ["1.idx", "1.log"], dies_at
        dies_at += 1
    return dies_at
