"""The child's main: from a sealed payload to a running command or function.

Runs in the job's own process inside the box, as the job's user, and is the first to read the payload: the launcher passes
it on unread. A command is executed. A function is imported here and nowhere else, so that an edited file counts from the
next run; until it is called, whatever goes wrong is written to the error pipe as "could not be started", and from then on
it is the job's own failure, told on the report pipe.
"""

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
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any, NoReturn

from lnmt_scheduler.ipc import channel, codec, messages
from lnmt_scheduler.jobs import context
from lnmt_scheduler.sandbox import init

#: Largest payload that is taken, in bytes; the loader's limits on arguments and environment keep well below it.
PAYLOAD_LIMIT = 8 * 1024 * 1024
#: Nesting of a payload: that of an argument, and what it is wrapped in.
DEPTH = codec.MAX_DEPTH + 8
#: What one frame on the report pipe carries of a long text or result.
_PART = 3500
_TRACE_LIMIT = 64 * 1024
_NOT_THE_JOB = (__file__, str(importlib.__file__), "<frozen importlib")


@dataclass(frozen=True, slots=True, kw_only=True)
class Payload:
    """All that a job is and gets."""

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
    #: A function is to run in an interpreter that shares no memory with ours.
    fresh: bool = False


def main(*, is_fresh: bool = False) -> NoReturn:
    """Read the payload at its place and become the job. NotStartedError if it could not be; else it never returns."""
    size = os.fstat(init.PAYLOAD_FD).st_size
    if size > PAYLOAD_LIMIT:
        raise init.NotStartedError(f"the payload has {size} bytes, the limit is {PAYLOAD_LIMIT}")
    values = codec.unpack(os.pread(init.PAYLOAD_FD, size, 0), max_depth=DEPTH)
    if not isinstance(values, dict):
        raise init.NotStartedError("the payload is not a map")
    payload = Payload(**values)
    if payload.fresh and not is_fresh:
        _begin_anew()
    os.close(init.PAYLOAD_FD)
    os.environ.clear()
    os.environ.update(payload.environment)
    os.umask(payload.umask)
    _change_directory(payload)
    if payload.argv:
        _execute(payload)
    _call(payload)


def _begin_anew() -> NoReturn:
    """Execute a new interpreter that takes the payload and goes on from there."""
    for fd in (init.PAYLOAD_FD, init.ERROR_FD):
        os.set_inheritable(fd, True)
    arguments = [sys.executable, "-I", "-m", "lnmt_scheduler.jobs.fresh"]
    try:
        os.execve(sys.executable, arguments, {"PATH": "/usr/bin:/bin", "LANG": "C.UTF-8"})
    except OSError as error:
        raise init.NotStartedError(f"cannot execute {sys.executable}: {error}") from error


def _change_directory(payload: Payload) -> None:
    if payload.working_directory is None:
        try:
            os.chdir(payload.environment["HOME"])
        except OSError:
            os.chdir("/")
        return
    try:
        os.chdir(payload.working_directory)
    except OSError as error:
        raise init.NotStartedError(f"working directory: {error}") from error


def _execute(payload: Payload) -> NoReturn:
    try:
        os.execvpe(payload.argv[0], list(payload.argv), dict(payload.environment))
    except (OSError, ValueError) as error:
        raise init.NotStartedError(f"cannot execute {payload.argv[0]!r}: {error}") from error


def _call(payload: Payload) -> NoReturn:
    _behave_like_a_fresh_interpreter(payload)
    function = _find(payload)
    facts = context.Facts(
        job_id=payload.job_id,
        run_id=payload.run_id,
        attempt=payload.attempt,
        slot=None if payload.slot is None else datetime.fromtimestamp(payload.slot / 1000, UTC),
        event=payload.event,
        state_dir=payload.state_dir,
    )
    kwargs = dict(payload.kwargs)
    if "context" not in kwargs and _takes_context(function):
        kwargs["context"] = context.JobContext(facts, init.REPORT_FD)
    os.close(init.ERROR_FD)
    _leave(_run(function, payload, kwargs))


def _behave_like_a_fresh_interpreter(payload: Payload) -> None:
    """Undo what shows that this process was forked from a daemon."""
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
        raise init.NotStartedError(f"cannot import {where!r}: {_trace(error)}") from error
    for name in payload.function.split("."):
        try:
            found = getattr(found, name)
        except AttributeError:
            raise init.NotStartedError(f"{where!r} has no {payload.function!r}: {name!r} is missing") from None
    if not callable(found):
        raise init.NotStartedError(f"{payload.function!r} in {where!r} is not a function")
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
        _send_parts(messages.Raised, "text", _trace(error).encode(errors="backslashreplace")[-_TRACE_LIMIT:])
        return 1
    try:
        data = codec.pack(value)
    except codec.ProtocolError as error:
        return _refuse(f"the function returned what cannot be carried: {error}")
    if len(data) > payload.result_limit:
        return _refuse(f"the result has {len(data)} bytes, result_limit is {payload.result_limit}")
    _send_parts(messages.Result, "data", data)
    return 0


def _refuse(error: str) -> int:
    channel.send_report(init.REPORT_FD, messages.Refused(error=channel.cut(error, 3000)))
    return 1


def _trace(error: BaseException) -> str:
    """Traceback from the job's own first frame on: ours and importlib's above it tell nobody anything."""
    trace = error.__traceback__
    while trace is not None and trace.tb_frame.f_code.co_filename.startswith(_NOT_THE_JOB):
        trace = trace.tb_next
    return "".join(traceback.format_exception(type(error), error, trace)).rstrip()


def _send_parts(kind: Callable[..., object], name: str, data: bytes) -> None:
    parts = [data[at : at + _PART] for at in range(0, len(data), _PART)] or [b""]
    for number, part in enumerate(parts, 1):
        channel.send_report(init.REPORT_FD, kind(part=number, parts=len(parts), **{name: part}))


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
