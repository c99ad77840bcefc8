"""What a box really keeps from what runs in it, found out from inside: the function that `schedctl sandbox test` runs.

It runs as a job does, in the job's own process under the job's own policy, and believes nothing that it was told but which
layers are wanted and what the outside looks like. It reads what the kernel says of this process and tries a few operations
that a layer forbids; each of them is harmless where it succeeds, and is undone.
"""

import contextlib
import errno
import os
import resource
import signal
import socket
import stat
from collections.abc import Callable, Mapping
from typing import Any

from lnmt_scheduler.sandbox import landlock, policy, syscalls

ENFORCED, DEGRADED, ABSENT = "enforced", "degraded", "absent"
#: A state and what it is due to, or what is open.
Finding = tuple[str, str]

NAMESPACES = ("pid", "mnt", "net", "ipc", "uts", "cgroup", "user")
#: Limits of a policy, by their keys.
RLIMITS = {
    "open_files": resource.RLIMIT_NOFILE,
    "file_size": resource.RLIMIT_FSIZE,
    "cpu_time": resource.RLIMIT_CPU,
}
#: Where nothing boxed has to write. Links among them are followed.
_PLACES = ("/", "/etc", "/usr", "/bin", "/opt", "/home", "/root", "/var", "/var/lib", "/srv", "/boot")
#: What a new interpreter ignores by itself.
_IGNORED_BY_PYTHON = {signal.SIGPIPE, signal.SIGXFSZ}
#: What the control socket says to who comes from a box, and how long it may take.
_REFUSAL = b"from inside a job"
_PATIENCE_S = 2
#: How many layers of landlock a process can be under; landlock(7).
_LANDLOCK_LAYERS = 16


def outside(
    *, uid: int, variables: list[str], files: list[str], socket_path: str, processes: str = "own"
) -> dict[str, Any]:
    """What measure() compares with, as this process sees it; the caller must not be in a box.

    `processes` is the policy's: who is to see those of the host is held together by a control group.
    """
    return {
        "namespaces": {name: _namespace(name) for name in NAMESPACES},
        "uid": uid,
        "pid": os.getpid(),
        "variables": variables,
        "files": files,
        "socket": socket_path,
        "processes": processes,
    }


def measure(layers: Mapping[str, str], limits: Mapping[str, int | None], host: Mapping[str, Any]) -> dict[str, Any]:
    """{layers: {layer: [state, by]} of those that are wanted, attempts: [[operation, outcome]]}.

    `limits` are those of the policy that one process has by itself: RLIMITS; `host` is of outside().
    """
    box = _Box(limits, host)
    found = {layer: list(getattr(box, layer)()) for layer in policy.LAYERS if layer in layers}
    return {"layers": found, "attempts": [list(each) for each in box.attempts]}


class _Box:
    """A method for each layer of policy.LAYERS."""

    def __init__(self, limits: Mapping[str, int | None], host: Mapping[str, Any]) -> None:
        self._limits = limits
        self._host = host
        self._status = _status()
        #: (operation, what the system said).
        self.attempts: list[tuple[str, str]] = []

    def tree_kill(self) -> Finding:
        if self._has_own("pid"):
            return ENFORCED, f"a pid namespace of its own, in which this is process {os.getpid()}"
        if self._host["processes"] == "host":
            found = [path for _, _, path in _cgroups() if "lnmt-" in path]
            if found:
                return ENFORCED, f"cgroup {found[0]}, which is killed whole"
            return DEGRADED, "neither a pid namespace nor a cgroup of its own"
        # Signal 0 goes to nobody and asks whether one could: the daemon's own user may, unless landlock scopes it.
        reached = self._try("signal 0 to the daemon", lambda: os.kill(self._host["pid"], 0))
        if not reached and os.getuid() == self._host["uid"]:
            return ENFORCED, "a landlock scope: signals reach none but its own"
        return DEGRADED, "no pid namespace of its own"

    def environment(self) -> Finding:
        leaked = sorted(set(self._host["variables"]) & os.environ.keys())
        return (ABSENT, f"the daemon's {', '.join(leaked)}") if leaked else (ENFORCED, "an environment of its own")

    def descriptors(self) -> Finding:
        kept = [int(name) for name in os.listdir("/proc/self/fd")]
        others = [fd for fd in kept if fd > 3 and _is_open(fd)]
        if others:
            return ABSENT, f"descriptors {others} are open"
        return ENFORCED, "only stdin, stdout, stderr and the report pipe are open"

    def signals(self) -> Finding:
        ignored = {number for number in signal.valid_signals() if signal.getsignal(number) is signal.SIG_IGN}
        odd = [int(number) for number in ignored - _IGNORED_BY_PYTHON]
        blocked = list(signal.pthread_sigmask(signal.SIG_BLOCK, ()))
        if odd or blocked:
            return ABSENT, f"ignored: {odd}, blocked: {blocked}"
        return ENFORCED, "every signal at its default, none blocked"

    def core_dumps(self) -> Finding:
        soft, hard = resource.getrlimit(resource.RLIMIT_CORE)
        # Of 0 a handler of core_pattern would be started all the same (core(5)).
        return (ENFORCED if (soft, hard) == (1, 1) else ABSENT), f"RLIMIT_CORE {soft}, {hard}"

    def rlimits(self) -> Finding:
        found = {name: resource.getrlimit(number) for name, number in RLIMITS.items()}
        wrong = [
            name for name, wanted in self._limits.items() if wanted is not None and found[name] != (wanted, wanted)
        ]
        if wrong:
            return ABSENT, f"not as wanted: {', '.join(wrong)}"
        return ENFORCED, ", ".join(f"{name} {_limit(soft)}" for name, (soft, _) in found.items())

    def memory(self) -> Finding:
        return self._leaf("memory")

    def cpu(self) -> Finding:
        return self._leaf("cpu")

    def pids(self) -> Finding:
        return self._leaf("pids")

    def _leaf(self, controller: str) -> Finding:
        for _, controllers, path in _cgroups():
            if "lnmt-" in path and (controller in controllers.split(",") or not controllers):
                return ENFORCED, f"cgroup {path}"
        return DEGRADED, "no cgroup of its own"

    def user(self) -> Finding:
        uid = os.getuid()
        if uid == 0:
            return ABSENT, "it is root"
        if uid == self._host["uid"]:
            return DEGRADED, f"uid {uid}, which is the daemon's"
        self._try("setuid(0)", lambda: os.setuid(0))
        return ENFORCED, f"uid {uid}, groups {os.getgroups()}"

    def no_new_privs(self) -> Finding:
        sets = {name: int(self._status[name], 16) for name in ("CapEff", "CapPrm", "CapInh", "CapBnd", "CapAmb")}
        held = [name for name, value in sets.items() if value]
        self._try("sethostname", lambda: socket.sethostname(socket.gethostname()))
        self._try("chroot('/')", lambda: os.chroot("/"))
        if self._status["NoNewPrivs"] != "1":
            return ABSENT, "the bit is not set"
        if held:
            return DEGRADED, f"the bit is set, and {', '.join(held)} not empty"
        return ENFORCED, "the bit is set, and no set has a capability"

    def filesystem(self) -> Finding:
        written = [place for place in _PLACES if os.path.isdir(place) and self._can_write(place)]
        if written:
            return ABSENT, f"it can write in {', '.join(written)}"
        if os.statvfs("/").f_flag & os.ST_RDONLY and self._has_own("mnt"):
            return ENFORCED, "mounts of its own under a read-only root"
        if _landlock_layers():
            changed = self._changes_mode()
            if changed:
                return DEGRADED, f"landlock, and the mode of {changed} can be changed"
            return ENFORCED, "landlock; no mounts of its own"
        return DEGRADED, "no mounts of its own; what it tried to write was refused"

    def _can_write(self, place: str) -> bool:
        path = os.path.join(place, f".lnmt-trial-{os.getpid()}")

        def create() -> None:
            os.close(os.open(path, os.O_CREAT | os.O_EXCL | os.O_WRONLY | os.O_CLOEXEC, 0o600))
            os.unlink(path)

        return self._try(f"create a file in {place}", create)

    def daemon_files(self) -> Finding:
        opened = [path for path in self._host["files"] if self._try(f"open {path}", lambda path=path: _open(path))]  # type: ignore[misc]
        if self._try(f"connect to {self._host['socket']}", lambda: _connect(self._host["socket"])):
            opened.append(self._host["socket"])
        if opened:
            return ABSENT, f"it can open {', '.join(opened)}"
        changed = self._changes_mode()
        if changed:
            return DEGRADED, f"none of them can be opened; the mode of {changed} can be changed"
        return ENFORCED, "none of them can be opened"

    def _changes_mode(self) -> str | None:
        """A file of the daemon's whose mode can be set; it is set to what it is."""
        for path in self._host["files"]:
            if self._try(f"chmod {path}", lambda path=path: os.chmod(path, stat.S_IMODE(os.stat(path).st_mode))):  # type: ignore[misc]
                return str(path)
        return None

    def network(self) -> Finding:
        names = [name for _, name in socket.if_nameindex()]
        self._try("a route to 192.0.2.1", _find_route)
        if self._has_own("net"):
            return ENFORCED, f"a network namespace of its own with {', '.join(names) or 'nothing'}"
        return ABSENT, f"the host's interfaces: {', '.join(names)}"

    def namespaces(self) -> Finding:
        lacking = [name for name in ("ipc", "uts", "cgroup") if not self._has_own(name)]
        if lacking:
            return (ABSENT if len(lacking) == 3 else DEGRADED), f"the host's: {', '.join(lacking)}"
        return ENFORCED, "own ipc, uts and cgroup namespaces"

    def seccomp(self) -> Finding:
        if self._status["Seccomp"] != "2":
            return ABSENT, f"seccomp mode {self._status['Seccomp']}"
        self._try("a packet socket", lambda: socket.socket(socket.AF_PACKET, socket.SOCK_RAW).close())
        self._try("a session keyring", syscalls.keyctl_join_session_keyring)
        return ENFORCED, f"filters in force: {self._status.get('Seccomp_filters', 'some')}"

    def landlock(self) -> Finding:
        layers = _landlock_layers()
        if layers is None:
            return ABSENT, "the kernel has none, or does not let it be asked"
        return (ENFORCED if layers else ABSENT), f"layers of landlock: {layers}"

    def _has_own(self, name: str) -> bool:
        return bool(_namespace(name) != self._host["namespaces"][name])

    def _try(self, operation: str, action: Callable[[], object]) -> bool:
        """Whether it could be done."""
        try:
            action()
        except OSError as error:
            self.attempts.append((operation, errno.errorcode.get(error.errno or 0, str(error))))
            return False
        self.attempts.append((operation, "done"))
        return True


def _cgroups() -> list[list[str]]:
    """Number, controllers and path of each hierarchy; cgroups(7)."""
    with open("/proc/self/cgroup", encoding="utf-8", errors="replace") as file:
        return [line.rstrip("\n").split(":", 2) for line in file]


def _status() -> dict[str, str]:
    with open("/proc/self/status", encoding="utf-8", errors="replace") as file:
        return {name: value.strip() for name, _, value in (line.partition(":") for line in file)}


def _namespace(name: str) -> str:
    """The namespace's identity; empty where the kernel has no such namespaces."""
    try:
        return os.readlink(f"/proc/self/ns/{name}")
    except FileNotFoundError:
        return ""


def _is_open(fd: int) -> bool:
    try:
        os.fstat(fd)
    except OSError:  # that of the listing itself
        return False
    return True


def _limit(value: int) -> str:
    return "unlimited" if value == resource.RLIM_INFINITY else str(value)


def _open(path: str) -> None:
    os.close(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK))


def _connect(path: str) -> None:
    """Where no layer keeps a box from the socket, the daemon refuses who comes from one by name, before a word is said."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as sock:
        sock.settimeout(_PATIENCE_S)
        sock.connect(path)
        said = b""
        with contextlib.suppress(TimeoutError):  # it would hear a request
            said = sock.recv(4096)
        if _REFUSAL in said:
            raise PermissionError(errno.EPERM, "the daemon refuses")


def _find_route() -> None:
    """Connecting a datagram socket asks for a route and sends nothing; the address is for documentation (RFC 5737)."""
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.connect(("192.0.2.1", 9))


def _landlock_layers() -> int | None:
    """Under how many layers this process is: as many as are missing from those that a child can still put on."""
    if not landlock.abi():
        return None
    pid = os.fork()
    if pid == 0:
        more = 0
        try:
            while more < _LANDLOCK_LAYERS:
                landlock.apply(landlock.build(landlock.Rules(readable=("/",), writable=("/",)), 1))
                more += 1
        except OSError as error:
            more = more if error.errno == errno.E2BIG else 255
        finally:
            os._exit(more)
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return None if not 0 <= code <= _LANDLOCK_LAYERS else _LANDLOCK_LAYERS - code
