"""Where the hostile program is let loose: a ground laid out with what it must not reach, and a real launcher on it.

The ground lies outside /tmp, which every box has its own of, and is open to all by its modes, so that only a layer can keep
a box out of it. The launcher is the real one, in the mode under test; the policies are those of the profiles, built as the
supervisor builds them.
"""

import contextlib
import ctypes
import json
import os
import pwd
import shutil
import signal
import socket
import sys
import tempfile
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any, Self

import harness
import pytest
import standin
from escape import catalogue, delegation

from lnmt_scheduler.ipc import messages
from lnmt_scheduler.sandbox import landlock, namespaces, policy, profiles
from lnmt_scheduler.supervisor import payload

_MIB = 1 << 20
#: Limits of every box: small, so that their end is soon found.
LIMITS = {"pids": 64, "open_files": 256, "file_size": 4 * _MIB, "tmp_size": 16 * _MIB}
#: What makes a launcher of an ordinary account act as in a mode that this host is too good for.
MASKED = {namespaces.LANDLOCK: "pidns,userns", namespaces.NONE: "pidns,userns,landlock=5"}
#: In the launcher's own environment; no job may see them.
SECRETS = {"LNMT_TEST_SECRET": "hunter2", "NOTIFY_SOCKET": "", "SSH_AUTH_SOCK": "/nowhere"}
#: The launcher holds a file that every child would inherit, were it not closed.
LEAK = "import os\nos.dup2(os.open('/etc/hostname', os.O_RDONLY), 99)\n"
#: What takes a layer out that is in no policy's hand: source that the launcher runs first.
_PLAN = """
from lnmt_scheduler.sandbox import enter
carry_out = enter.carry_out
enter.carry_out = lambda steps: carry_out([step for step in steps if step.layer != {layer!r}])
"""
UNDOING = {
    "environment": """
os.environ.clear = lambda: None
os.execvpe = lambda file, arguments, _: os.execvp(file, arguments)
""",
    "descriptors": "os.closerange = lambda *_: None\n",
    "signals": "from lnmt_scheduler.sandbox import enter\nenter.reset_signals = lambda: None\n",
    "core_dumps": _PLAN.format(layer="core_dumps"),
    "rlimits": _PLAN.format(layer="rlimits"),
    "user": _PLAN.format(layer="user"),
}


def interpreter() -> tuple[str, list[str]]:
    """A Python that other accounts reach, and what of it a box must see."""
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        parents = [path, *map(str, Path(path).parents)]
        if os.path.exists(path) and all(os.stat(parent).st_mode & 0o005 == 0o005 for parent in parents):
            return path, [] if path.startswith("/usr/") else [os.path.dirname(os.path.dirname(path))]
    raise LookupError(f"a Python that every account reaches: neither {sys.executable} nor /usr/bin/python3 is one")


def _open_ground() -> Path:
    """A new folder outside of what boxes have of their own."""
    for parent in ("/var/lib", os.path.expanduser("~"), "/srv"):
        # Every box has a /tmp and a /var/tmp of its own.
        if os.access(parent, os.W_OK) and not os.path.realpath(parent).startswith(("/tmp", "/var/tmp")):
            return Path(tempfile.mkdtemp(prefix="lnmt-escape-", dir=parent))
    raise LookupError("a folder outside of /tmp to write in: neither /var/lib nor the home directory nor /srv is one")


class Ground:
    """Files, sockets and memory that a box must not reach. A context; leaving it takes all away."""

    def __init__(self, owner: str | None) -> None:
        self.folder = _open_ground()
        self.python, self.needed = interpreter()
        self._stack = contextlib.ExitStack()
        self._stack.callback(shutil.rmtree, self.folder, ignore_errors=True)
        try:
            self._lay_out(owner)
        except BaseException:
            self._stack.close()
            raise

    def _lay_out(self, owner: str | None) -> None:
        self.daemon = self.folder / "daemon"
        self.own = self.daemon / "jobs" / "1"
        other = self.daemon / "jobs" / "2"
        program = self.folder / "program"
        self.open = self.folder / "open"
        for path in (self.daemon, self.daemon / "jobs", other, program, self.open):
            path.mkdir()
        shutil.copy(Path(__file__).with_name("hostile.py"), program)
        self.program = str(program / "hostile.py")
        self.needed.append(str(program))
        for path in (self.daemon / "lnmt.db", other / "state", self.folder / "secret", self.open / "file"):
            path.write_text("secret")
            path.chmod(0o666)
        for path in (self.folder, self.daemon, self.daemon / "jobs", other, program):
            path.chmod(0o755)
        self.open.chmod(0o777)
        set_uid = self.open / "id"
        shutil.copy("/usr/bin/id", set_uid)
        set_uid.chmod(0o4755)
        if owner is not None:
            account = pwd.getpwnam(owner)
            for path in (self.folder, self.daemon, self.daemon / "jobs"):
                os.chown(path, account.pw_uid, account.pw_gid)
        self.abstract = self.folder.name
        self._listen(socket.AF_UNIX, "\0" + self.abstract)
        self._listen(socket.AF_UNIX, str(self.daemon / "control.sock"))
        (self.daemon / "control.sock").chmod(0o666)
        tcp = self._listen(socket.AF_INET, ("127.0.0.1", 0))
        self.facts: dict[str, Any] = {
            "own": str(self.own),
            "open_file": str(self.open / "file"),
            "open_directory": str(self.open),
            "shm_key": self._share_memory(),
            "host_tmp": self._temporary("/tmp"),
            "host_shm": self._temporary("/dev/shm"),
            "abstract": self.abstract,
            "socket": str(self.daemon / "control.sock"),
            "secrets": list(SECRETS),
            "database": str(self.daemon / "lnmt.db"),
            "other_state": str(other / "state"),
            "secret": str(self.folder / "secret"),
            "set_uid_program": str(set_uid),
            "cgroups": [str(path.parent) for path in Path("/sys/fs/cgroup").glob("*/cgroup.procs")]
            or ["/sys/fs/cgroup"],
            "tcp": tcp.getsockname(),
            "queue": self._queue_messages(),
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def _listen(self, family: int, address: Any) -> socket.socket:
        sock = self._stack.enter_context(socket.socket(family))
        sock.bind(address)
        sock.listen(64)
        return sock

    def _temporary(self, where: str) -> str:
        fd, path = tempfile.mkstemp(prefix="lnmt-escape-", dir=where)
        self._stack.callback(os.unlink, path)
        os.write(fd, b"secret")
        os.fchmod(fd, 0o666)
        os.close(fd)
        return path

    def _share_memory(self) -> int:
        """The key of a System V segment that everybody may use."""
        libc = ctypes.CDLL(None, use_errno=True)
        key = int.from_bytes(os.urandom(3), "big") + 0x10000000
        number = libc.shmget(key, 4096, 0o3666)  # IPC_CREAT, IPC_EXCL
        if number < 0:
            raise OSError(ctypes.get_errno(), "shmget")
        self._stack.callback(libc.shmctl, number, 0, None)  # IPC_RMID
        return key

    def _queue_messages(self) -> str:
        """The name of a POSIX message queue that everybody may use."""
        librt = ctypes.CDLL("librt.so.1", use_errno=True)
        name = f"/{self.folder.name}"
        before = os.umask(0)
        # mq_flags, mq_maxmsg, mq_msgsize, mq_curmsgs: as little as can be, since a user's queues are counted (RLIMIT_MSGQUEUE).
        attributes = (ctypes.c_long * 8)(0, 1, 64, 0)
        made = librt.mq_open(name.encode(), os.O_CREAT | os.O_RDWR, 0o666, attributes)
        os.umask(before)
        if made < 0:
            raise OSError(ctypes.get_errno(), "mq_open")
        os.close(made)
        self._stack.callback(librt.mq_unlink, name.encode())
        return name


class Site:
    """A ground with a launcher on it. `mode` is the one that it found. A context."""

    def __init__(self, user: str | None, *, before: str = "", masked: str = "") -> None:
        self._stack = contextlib.ExitStack()
        try:
            self.ground = self._stack.enter_context(Ground(user))
            wrapper = self._stack.enter_context(delegation.wrapper_of(user))
            self.launched = self._stack.enter_context(
                standin.Launched(
                    self.ground.folder,
                    user=user,
                    environment=SECRETS,
                    before=LEAK + before,
                    masked=masked,
                    wrapper=wrapper,
                )
            )
        except BaseException:
            self._stack.close()
            raise
        self.mode = self.launched.welcome.mode
        self.missing = self.launched.welcome.missing
        self.ground.facts["own_uid"] = self.mode == namespaces.ROOT
        self._outcomes: dict[str, dict[str, str]] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._stack.close()

    def policy_of(self, profile: str, *, network: str | None = None, **changes: Any) -> policy.Policy:
        """The profile's policy as the supervisor makes it; what this host cannot count is not required."""
        spec = profiles.canonical({"profile": profile} | ({"network": network} if network else {}), "standard")
        made = profiles.build(
            spec,
            {key: value for key, value in LIMITS.items() if key != "tmp_size" or namespaces.has_mounts(self.mode)},
            state_directory=str(self.ground.own),
            needed=self.ground.needed,
            daemon_files=[str(self.ground.daemon)],
        )
        uncounted = {layer for layer in ("memory", "cpu", "pids") if layer in self.missing}
        return replace(made, layers={k: v for k, v in made.layers.items() if k not in uncounted}, **changes)

    def outcomes(self, profile: str) -> dict[str, str]:
        """name -> outcome of every single attempt that the profile has, all in one box, once."""
        if profile not in self._outcomes:
            names = [case.name for case in catalogue.CASES if is_single(case) and case.applies(profile, self.mode)]
            self._outcomes[profile] = self.attempt(self.policy_of(profile), names)
        return self._outcomes[profile]

    def attempt(self, wanted: policy.Policy, names: Iterable[str]) -> dict[str, str]:
        done = self._run(",".join(names), wanted=wanted, timeout=60 * harness.PATIENCE)
        if done.exited.exit_code != 0:
            raise AssertionError(f"the hostile program did not end well: {done}")
        return dict(json.loads(done.stdout))

    def whole(self, wanted: policy.Policy, case: catalogue.Case) -> str:
        """How the launcher says that this attempt, a run of its own, ended."""
        done = self._run(case.name, "whole", wanted=wanted, timeout=case.timeout * harness.PATIENCE, grace=0.3)
        said = done.stdout.decode(errors="replace").splitlines()
        left = [line for line in said if line.startswith("made ") and os.path.lexists(line.removeprefix("made "))]
        if said in (["refused"], ["locked"]) and done.exited.exit_code == 0:
            return said[0]
        return ", ".join([verdict(done.exited), *left])

    def _run(self, name: str, *rest: str, wanted: policy.Policy, **more: float) -> standin.Done:
        # The shell notes its signals before Python changes them.
        line = 'AT_START=$(grep ^Sig /proc/self/status) exec "$0" -I "$@"'
        command = ("/bin/sh", "-c", line, self.ground.python, self.ground.program, name, json.dumps(self.ground.facts))
        environment = {"PATH": payload.PATH, "TMPDIR": "/tmp"}
        return self.launched.run(*command, *rest, wanted=wanted.to_map(), environment=environment, **more)


def need_landlock(case: catalogue.Case) -> None:
    """Skip by name what this kernel's landlock has nothing against."""
    if (abi := landlock.abi()) < case.landlock_abi:
        pytest.skip(f"a landlock of ABI {case.landlock_abi}: this kernel has {abi}")


def is_single(case: catalogue.Case) -> bool:
    return not (case.whole or case.see)


def verdict(exited: messages.Exited) -> str:
    if exited.sandbox_error or exited.spawn_error:
        return f"not started: {exited.sandbox_error or exited.spawn_error}"
    number = exited.signal
    words = [f"exit {exited.exit_code}" if number is None else signal.Signals(number).name]
    words += [exited.cause] if exited.cause else []
    words += ["oom"] if exited.oom_kills else []
    words += ["killed"] if exited.killed_count and not exited.cause else []
    return ", ".join(words)


@contextlib.contextmanager
def open_site(mode: str, user: str | None, **more: str) -> Iterator[Site]:
    """A site of this mode. LookupError says by name what the host lacks for it."""
    if mode == namespaces.ROOT and os.geteuid() != 0:
        raise LookupError("mode a: root")
    more.setdefault("masked", MASKED.get(mode, ""))
    with Site(user if mode != namespaces.ROOT and os.geteuid() == 0 else None, **more) as made:
        if made.mode != mode:
            raise LookupError(f"mode {mode}: this host gives mode {made.mode} ({made.missing.get('tree_kill', '')})")
        yield made
