"""Try something in a process of its own and learn what came of it: for tests of what cannot be undone in this one."""

import contextlib
import encodings.idna  # noqa: F401 (sockets want it late, when another account cannot read our modules)
import errno
import os
import pickle
import pwd
import signal
import warnings
from collections.abc import Callable, Iterator

import pytest

NOBODY = "nobody"


class FailedError(AssertionError):
    """The child broke off: its exception, in words."""


def run(body: Callable[[], object], *, account: str | None = None) -> object:
    """What `body` returns in a fork, as `account` if one is given; FailedError if it raises."""
    read, write = os.pipe()
    pid = _fork()
    if pid == 0:
        code = 1
        try:
            os.close(read)
            if account is not None:
                become(account)
            answer = (True, body())
            code = 0
        except BaseException as error:
            answer = (False, f"{type(error).__name__}: {error}")
        finally:
            with contextlib.suppress(BaseException):
                os.write(write, pickle.dumps(answer))
            os._exit(code)
    os.close(write)
    with open(read, "rb") as file:
        data = file.read()
    _, status = os.waitpid(pid, 0)
    if not data:
        raise FailedError(f"the child ended with {os.waitstatus_to_exitcode(status)} and said nothing")
    good, value = pickle.loads(data)
    if not good:
        raise FailedError(value)
    return value


def outcome(action: Callable[..., object], *arguments: object, **more: object) -> str:
    """`ok`, or the name of the errno that the action failed with."""
    try:
        action(*arguments, **more)
    except OSError as error:
        return errno.errorcode[error.errno] if error.errno else str(error)
    return "ok"


def become(account: str) -> None:
    """Be this account and nothing else, for good."""
    who = pwd.getpwnam(account)
    os.setgroups([])
    os.setresgid(who.pw_gid, who.pw_gid, who.pw_gid)
    os.setresuid(who.pw_uid, who.pw_uid, who.pw_uid)


def accounts() -> list[str | None]:
    """As whom to try everything: as we are, and as an ordinary account where we may become one."""
    return [None, NOBODY] if os.geteuid() == 0 else [None]


@contextlib.contextmanager
def bystander(account: str | None = None) -> Iterator[int]:
    """A process of the account that does nothing; killed and reaped at the end."""
    ready_read, ready_write = os.pipe()
    pid = _fork()
    if pid == 0:
        try:
            if account is not None:
                become(account)
            os.write(ready_write, b"R")  # until now a signal from the account is refused for the wrong reason
            while True:
                signal.pause()
        finally:
            os._exit(1)
    os.close(ready_write)
    try:
        assert os.read(ready_read, 1) == b"R"
        yield pid
    finally:
        os.close(ready_read)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)


def skip_unless_root(why: str) -> None:
    if os.geteuid() != 0:
        pytest.skip(f"{why}: needs root")


def _fork() -> int:
    with warnings.catch_warnings():
        # Python 3.12 counts the thread of faulthandler's timeout; it takes no lock that the child wants.
        warnings.simplefilter("ignore", DeprecationWarning)
        return os.fork()
