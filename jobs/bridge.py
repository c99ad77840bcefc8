"""Calls a job's function and tells what came of it: the only file that an interpreter needs to run jobs, beside msgpack.

For a function in the daemon's own interpreter child.py imports it, in the fork that becomes the job. For a job with
`python`, and for profiles that want an interpreter that shares no memory with ours, child.py executes `INTERPRETER -I
bridge.py` inside the box. That interpreter knows nothing of our package and may be an older one, so nothing here is
imported from us, and nothing needs more than Python 3.8.

Until the function is called, whatever goes wrong means "could not be started"; from then on it is the job's own failure,
told on the report pipe in frames of at most PIPE_BUF bytes (ipc/frames.py, ipc/messages.py: the same words, written here).
"""

from __future__ import annotations

import atexit
import importlib
import inspect
import io
import logging
import os
import runpy
import signal
import sys
import threading
import traceback
import types
from dataclasses import dataclass, field
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any, NoReturn

try:
    import msgpack  # type: ignore[import-untyped]  # ships none
except ImportError:  # said by main(), where somebody hears it
    msgpack = None

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

#: Where sandbox/init.py has put them.
REPORT_FD, PAYLOAD_FD, ERROR_FD = 3, 4, 5

#: Nesting that the reader of a result takes, and the bytes of one frame.
_DEPTH = 32
_FRAME = 4096 - 4
#: What one frame carries of a long text or result.
_PART = 3500
_TRACE_LIMIT = 64 * 1024
_ERROR_LIMIT = 4000
_NOT_THE_JOB = (__file__, str(importlib.__file__), "<frozen importlib")


class NotStartedError(Exception):
    """The function could not be called: what is missing."""


@dataclass(frozen=True)
class Payload:
    """All that a job is and gets. Built by keyword."""

    job_id: str
    run_id: int
    attempt: int
    #: Epoch milliseconds, or None for a run by hand.
    slot: int | None
    event: Any
    environment: Mapping[str, str]
    #: None: HOME, or / for an account whose home is not there, as many of a system's have it.
    working_directory: str | None
    umask: int
    state_dir: str
    #: Bytes of msgpack that a result may have.
    result_limit: int
    #: Program and arguments; empty for a function.
    argv: Sequence[str] = ()
    module: str = ""
    function: str = ""
    args: Sequence[Any] = ()
    kwargs: Mapping[str, Any] = field(default_factory=dict)
    python_path: Sequence[str] = ()
    #: The file that `__main__` means.
    main_file: str | None = None
    #: Path of the interpreter that is to run the function; None: the daemon's, as a fork of the launcher.
    python: str | None = None
    #: Id of each job that its own depends on -> the facts of that one's run, with its result.
    parents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


@dataclass(frozen=True)
class Facts:
    """Which run this is."""

    job_id: str
    run_id: int
    attempt: int
    #: The instant that the schedule named, aware, in UTC; None for a run by hand.
    slot: datetime | None
    #: Data of the event, the run that has started this one by a hook, or what `schedctl run --event` gave.
    event: Any
    #: The job's own directory, kept from run to run.
    state_dir: str
    #: Id of each job that this one depends on -> the run of it that this one builds on: run_id, status, result and more.
    parents: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)


class JobContext:
    """Handed to a function that has a parameter named `context`.

    What it says travels on the report pipe of its own run; a supervisor that is away for a moment costs at most a wait.
    """

    def __init__(self, facts: Facts, report_fd: int) -> None:
        self.job_id = facts.job_id
        self.run_id = facts.run_id
        self.attempt = facts.attempt
        self.slot = facts.slot
        self.event = facts.event
        self.parents = facts.parents
        self.state_dir = facts.state_dir
        self._fd = report_fd
        self._cancelled = False
        self._watching = False

    def progress(self, done: float, total: float | None = None, message: str = "") -> None:
        """Say how far the job is; shown by schedctl, and counted as a sign of life."""
        _say(self._fd, "progress", done=done, total=total, message=_cut(message, 1000))

    def heartbeat(self) -> None:
        """A sign of life for `stall_timeout`, without words."""
        _say(self._fd, "heartbeat")

    def log(self, text: str, level: str = "info") -> None:
        """One line for the run's log."""
        _say(self._fd, "log", level=_cut(level, 20), text=_cut(text, 3000))

    def secret(self, name: str) -> str:
        """The text of one of the job's `secrets`, without white space at its end. LookupError if it has none of that name."""
        try:
            with open(os.path.join(os.environ["CREDENTIALS_DIRECTORY"], name), encoding="utf-8") as file:
                return file.read().rstrip()
        except (KeyError, OSError):
            raise LookupError(f"the job has no secret {name!r}: name its file under 'secrets'") from None

    @property
    def cancelled(self) -> bool:
        """Whether the job has been asked to end (TERM). It then has `kill_grace` left.

        The first look changes what TERM does: from then on it no longer ends the process, so a function that never looks
        ends at once, and one that looks can end in its own way. To be asked in the main thread first.
        """
        if not self._watching:
            self._watching = True
            signal.signal(signal.SIGTERM, self._note)
        return self._cancelled

    def _note(self, *_: object) -> None:
        self._cancelled = True


def call(payload: Payload) -> NoReturn:
    """Become the job's function; NotStartedError if it could not be called, else it never returns.

    The environment, the directory and the umask are the job's already.
    """
    _behave_like_a_fresh_interpreter(payload)
    function = _find(payload)
    facts = Facts(
        job_id=payload.job_id,
        run_id=payload.run_id,
        attempt=payload.attempt,
        slot=None if payload.slot is None else datetime.fromtimestamp(payload.slot / 1000, timezone.utc),  # noqa: UP017 (Python 3.8)
        event=payload.event,
        state_dir=payload.state_dir,
        parents=payload.parents,
    )
    kwargs = dict(payload.kwargs)
    if "context" not in kwargs and _takes_context(function):
        kwargs["context"] = JobContext(facts, REPORT_FD)
    os.close(ERROR_FD)
    _leave(_run(function, payload, kwargs))


def _behave_like_a_fresh_interpreter(payload: Payload) -> None:
    """Undo what shows that this process was forked from a daemon, or is this file's."""
    signal.signal(signal.SIGPIPE, signal.SIG_IGN)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.stdin = open(0, encoding="utf-8", closefd=False)  # noqa: SIM115 (lives as long as the process)
    sys.stdout = _stream(1)
    sys.stderr = _stream(2)
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(name)s: %(message)s", stream=sys.stderr)
    sys.argv = [f"{payload.module}.{payload.function}"]
    sys.path[:0] = payload.python_path
    importlib.invalidate_caches()
    sys.modules["__main__"] = types.ModuleType("__main__")


def _stream(fd: int) -> io.TextIOWrapper:
    # By line, so that the log of a running job is not a page behind.
    return open(fd, "w", buffering=1, encoding="utf-8", errors="backslashreplace", closefd=False)


def _find(payload: Payload) -> Callable[..., Any]:
    """The function that the payload names; NotStartedError tells which part of the name is not there."""
    where = payload.module
    try:
        if payload.main_file is not None and payload.module == "__main__":
            where = payload.main_file
            found: Any = _import_main(payload.main_file)
        else:
            found = importlib.import_module(payload.module)
    except BaseException as error:
        raise NotStartedError(f"cannot import {where!r}: {_trace(error)}") from error
    for name in payload.function.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise NotStartedError(f"{where!r} has no {payload.function!r}: {name!r} is missing") from None
    if not callable(found):
        raise NotStartedError(f"{payload.function!r} in {where!r} is not a function")
    return found  # type: ignore[no-any-return]  # any callable will do


def _import_main(path: str) -> types.ModuleType:
    """Run the file as multiprocessing's spawn does: under another name, so that its `__main__` part stays asleep."""
    module = types.ModuleType("__mp_main__")
    module.__dict__.update(runpy.run_path(path, run_name="__mp_main__"))
    sys.modules["__main__"] = sys.modules["__mp_main__"] = module
    return module


def _takes_context(function: Callable[..., Any]) -> bool:
    try:
        parameters = inspect.signature(function).parameters
    except (TypeError, ValueError):
        return False
    return "context" in parameters and parameters["context"].kind not in (
        inspect.Parameter.VAR_KEYWORD,
        inspect.Parameter.VAR_POSITIONAL,
    )


def _run(function: Callable[..., Any], payload: Payload, kwargs: dict[str, Any]) -> int:
    try:
        value = function(*payload.args, **kwargs)
    except SystemExit as leaving:
        if leaving.code is None or isinstance(leaving.code, int):
            return (leaving.code or 0) & 0xFF
        print(leaving.code, file=sys.stderr)
        return 1
    except BaseException as error:  # whatever it raised is what the run failed with
        _say_in_parts("raised", "text", _trace(error).encode(errors="backslashreplace")[-_TRACE_LIMIT:])
        return 1
    try:
        data = _pack(value)
    except ValueError as error:
        return _refuse(f"the function returned what cannot be carried: {error}")
    if len(data) > payload.result_limit:
        return _refuse(f"the result has {len(data)} bytes, result_limit is {payload.result_limit}")
    _say_in_parts("result", "data", data)
    return 0


def _refuse(error: str) -> int:
    _say(REPORT_FD, "refused", error=_cut(error, 3000))
    return 1


def _trace(error: BaseException) -> str:
    """Traceback from the job's own first frame on: ours and importlib's above it tell nobody anything."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_NOT_THE_JOB):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()


def _leave(code: int) -> NoReturn:
    """End as an interpreter does: wait for threads, run exit functions, flush; then leave without going back up."""
    threading._shutdown()  # type: ignore[attr-defined]  # noqa: SLF001 (what the interpreter itself calls)
    atexit._run_exitfuncs()  # noqa: SLF001 (as multiprocessing does in its children)
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except (OSError, ValueError):
            code = code or 120  # as the interpreter does when its last words cannot be written
    os._exit(code)


# Words for the report pipe.


def _say(fd: int, tag: str, **fields: object) -> None:
    """One frame, in one write: never torn and never mixed with another's (pipe(7))."""
    body = _pack([tag, fields])
    if len(body) > _FRAME:
        raise ValueError(f"a frame of {len(body)} bytes, at most {_FRAME} are allowed")
    os.write(fd, len(body).to_bytes(4, "big") + body)


def _say_in_parts(tag: str, name: str, data: bytes) -> None:
    parts = [data[at : at + _PART] for at in range(0, len(data), _PART)] or [b""]
    for number, part in enumerate(parts, 1):
        _say(REPORT_FD, tag, part=number, parts=len(parts), **{name: part})


def _cut(text: str, limit: int) -> str:
    """At most `limit` bytes of the text, as a report can carry it: without half characters and lone surrogates."""
    return text.encode(errors="backslashreplace")[:limit].decode(errors="ignore")


def _pack(value: object) -> bytes:
    """The msgpack of a value, if the reader takes it for certain (ipc/codec.py); else a ValueError that names the type."""
    _check(value, _DEPTH)
    try:
        data: bytes = msgpack.packb(value, default=_cannot)
    except UnicodeEncodeError:
        raise ValueError("a str that UTF-8 cannot encode (lone surrogates)") from None
    except BufferError as error:
        raise ValueError(str(error)) from None
    return data


def _check(value: object, depth: int) -> None:
    """Refuse what msgpack would carry and the reader would not: too deep, keys that are no str, extension types."""
    if isinstance(value, (msgpack.ExtType, msgpack.Timestamp)):
        _cannot(value)
    if not isinstance(value, (list, tuple, dict)):
        return
    if not depth:
        raise ValueError(f"nested deeper than {_DEPTH}")
    if isinstance(value, dict):
        for key in value:
            if not isinstance(key, str):
                raise ValueError(f"a map key of type {type(key).__name__}, only str is allowed")  # noqa: TRY004 (as all refusals)
        value = value.values()
    for item in value:
        if isinstance(item, (list, tuple, dict, msgpack.Timestamp)):
            _check(item, depth - 1)


def _cannot(value: object) -> NoReturn:
    if isinstance(value, int):
        raise ValueError("an int beyond 64 bits")  # noqa: TRY004 (as all refusals)
    raise ValueError(f"a value of type {type(value).__qualname__}")


# As a program.


def main() -> NoReturn:
    """Take the payload and become its function; what cannot be started is told on the error pipe."""
    try:
        for fd in (PAYLOAD_FD, ERROR_FD):
            os.set_inheritable(fd, False)
        call(_take_payload())
    except NotStartedError as error:
        os.write(ERROR_FD, b"P" + str(error).encode(errors="backslashreplace")[:_ERROR_LIMIT])
    except BaseException:  # it was called, and what remained to be said of it could not be
        traceback.print_exc()
    os._exit(1)


def _take_payload() -> Payload:
    if msgpack is None:
        raise NotStartedError(
            f"{sys.executable} has no msgpack, which it needs to run a job; give it one: "
            f"{sys.executable} -m pip install msgpack"
        )
    payload = Payload(**msgpack.unpackb(os.pread(PAYLOAD_FD, os.fstat(PAYLOAD_FD).st_size, 0)))
    os.close(PAYLOAD_FD)
    # The interpreter may have added to what it was given: a locale, on the way to UTF-8.
    for name in set(os.environ) - set(payload.environment):
        del os.environ[name]
    return payload


if __name__ == "__main__":
    main()
