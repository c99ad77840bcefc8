"""The child's main: from a sealed payload to a running command or function.

Runs in the job's own process inside the box, as the job's user, and is the first to read the payload: the launcher passes
it on unread. A command is executed, and so is another interpreter for a function that wants one; a function in ours is
called by bridge.py, which imports it here and nowhere else, so that an edited file counts from the next run. Until the job
begins, whatever goes wrong is written to the error pipe as "could not be started".
"""

import os
from typing import NoReturn

from lnmt_scheduler.ipc import codec
from lnmt_scheduler.jobs import bridge, handed
from lnmt_scheduler.sandbox import orders, scratch

#: Largest payload that is taken, in bytes: the loader's limits on arguments and environment keep well below it, and files
#: that are handed to the box are bounded where they come from.
PAYLOAD_LIMIT = 48 * 1024 * 1024
#: Nesting of a payload: that of an argument, and what it is wrapped in.
DEPTH = codec.MAX_DEPTH + 8


def main() -> NoReturn:
    """Read the payload at its place and become the job. NotStartedError if it could not be; else it never returns."""
    size = os.fstat(orders.PAYLOAD_FD).st_size
    if size > PAYLOAD_LIMIT:
        raise orders.NotStartedError(f"the payload has {size} bytes, the limit is {PAYLOAD_LIMIT}")
    values = codec.unpack(os.pread(orders.PAYLOAD_FD, size, 0), max_depth=DEPTH)
    if not isinstance(values, dict):
        raise orders.NotStartedError("the payload is not a map")
    files = values.pop("files", {})
    payload = bridge.Payload(**values)
    os.umask(payload.umask)
    os.environ.clear()
    os.environ.update(scratch.environment(payload.environment))
    if files:
        given = handed.write(files)
        os.environ.update(given)
        values["environment"] = {**payload.environment, **given}
    _change_directory(payload)
    if payload.argv:
        _execute(list(payload.argv))
    if payload.python is not None:
        if not os.access(bridge.__file__, os.R_OK):
            raise orders.NotStartedError(
                f"the user of this job cannot read {bridge.__file__}; install the package where every account may read it"
            )
        if files:
            _replace_payload(codec.pack(values, max_depth=DEPTH))
        for fd in (orders.PAYLOAD_FD, orders.ERROR_FD):
            os.set_inheritable(fd, True)
        _execute([payload.python, "-I", bridge.__file__])
    os.close(orders.PAYLOAD_FD)
    try:
        bridge.call(payload)
    except bridge.NotStartedError as error:
        raise orders.NotStartedError(str(error)) from error


def _replace_payload(data: bytes) -> None:
    """Let the interpreter read a payload without the files, which are written."""
    fd = os.memfd_create("lnmt-payload", os.MFD_CLOEXEC)
    with open(fd, "wb", closefd=False) as file:
        file.write(data)
    os.dup2(fd, orders.PAYLOAD_FD)
    os.close(fd)


def _change_directory(payload: bridge.Payload) -> None:
    if payload.working_directory is None:
        try:
            os.chdir(payload.environment["HOME"])
        except OSError:
            os.chdir("/")
        return
    try:
        os.chdir(payload.working_directory)
    except OSError as error:
        raise orders.NotStartedError(f"working directory: {error}") from error


def _execute(argv: list[str]) -> NoReturn:
    try:
        os.execvp(argv[0], argv)
    except (OSError, ValueError) as error:
        raise orders.NotStartedError(f"cannot execute {argv[0]!r}: {error}") from error
