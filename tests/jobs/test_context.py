"""What a function is given as `context`, heard at the other end of a real pipe."""

import os
import signal
import threading
from collections.abc import Iterator

import pytest
import standin

from lnmt_scheduler.ipc import codec, frames, messages
from lnmt_scheduler.jobs import context

FACTS = context.Facts(job_id="job", run_id=7, attempt=2, slot=None, event={"n": 1}, state_dir="/state/1")


@pytest.fixture
def pipe() -> Iterator[tuple[int, int]]:
    read, write = os.pipe()
    yield read, write
    os.close(read)
    os.close(write)


@pytest.fixture
def told(pipe):
    """A context, and what has been heard from it."""
    made = context.JobContext(FACTS, pipe[1])
    reader = frames.FrameReader(frames.REPORT_LIMIT)
    return made, lambda: [codec.decode(body, messages.REPORT) for body in reader.feed(os.read(pipe[0], 1 << 16))]


def test_it_says_which_run_this_is(told):
    made, _ = told
    assert (made.job_id, made.run_id, made.attempt) == ("job", 7, 2)
    assert (made.slot, made.event, made.state_dir) == (None, {"n": 1}, "/state/1")


def test_progress_log_and_heartbeat_arrive_as_they_were_said(told):
    made, heard = told
    made.progress(1, 3, "first")
    made.progress(0.5)
    made.heartbeat()
    made.log("hello")
    made.log("careful", "warning")
    assert heard() == [
        messages.Progress(done=1, total=3, message="first"),
        messages.Progress(done=0.5),
        messages.Heartbeat(),
        messages.Log(level="info", text="hello"),
        messages.Log(level="warning", text="careful"),
    ]


@pytest.mark.parametrize("character", ["x", "ü", "€", "😀", "\udcff", "\0", "\n"])
def test_words_of_any_length_and_alphabet_fit_into_one_frame(told, character):
    made, heard = told
    made.progress(1, 2, character * 10_000)
    made.log(character * 10_000, character * 100)
    progress, log = heard()
    expected = character.encode(errors="backslashreplace").decode()
    assert progress.message.startswith(expected * 100)
    assert log.text.startswith(expected * 100)
    assert log.level.startswith(expected)


def test_what_is_no_number_is_an_error_of_the_caller_and_nothing_is_sent(told):
    made, heard = told
    with pytest.raises(ValueError, match="a value of type object"):
        made.progress(object())
    made.heartbeat()
    assert heard() == [messages.Heartbeat()]


def test_many_threads_do_not_tear_each_others_words(pipe):
    made = context.JobContext(FACTS, pipe[1])
    heard: list[object] = []
    reader = frames.FrameReader(frames.REPORT_LIMIT)

    def listen() -> None:
        while len(heard) < 400:
            heard.extend(codec.decode(body, messages.REPORT) for body in reader.feed(os.read(pipe[0], 1 << 16)))

    def talk(letter: str) -> None:
        for _ in range(100):
            made.log(letter * 2900)

    threads = [threading.Thread(target=listen), *(threading.Thread(target=talk, args=(letter,)) for letter in "abcd")]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(20)
    assert sorted(log.text for log in heard) == sorted(letter * 2900 for letter in "abcd" for _ in range(100))


def test_nobody_asked_so_term_ends_the_process_and_who_asked_is_told():
    source = """
import os, signal, sys
from lnmt_scheduler.jobs import context
made = context.JobContext(context.Facts(job_id="j", run_id=1, attempt=1, slot=None, event=None, state_dir="/"), 3)
assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
print(made.cancelled)
os.kill(os.getpid(), signal.SIGTERM)
print(made.cancelled, made.cancelled)
"""
    assert standin.python(source).stdout.split() == ["False", "True", "True"]
    silent = standin.python(source.replace("print(made.cancelled)\n", "", 1))
    assert silent.returncode == -signal.SIGTERM
