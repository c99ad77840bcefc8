"""`schedd`: from the command line to a running launcher.

What is done here happens once, before the first fork: directories, the lock that makes one daemon of a state directory, the
account that the supervisor is to drop to, the uids of runs that have a user of their own, and the probe that tells what kind
of box this host can give.
"""

import fcntl
import gc
import os
import pwd
import signal
import sys
import tomllib
from collections.abc import Mapping
from typing import Any, NoReturn

from lnmt_scheduler.sandbox import cgroup, limits, namespaces, probe, users
from lnmt_scheduler.supervisor import journal, launcher, options, paths


def _fail(text: str, code: int) -> NoReturn:
    journal.error(text)
    raise SystemExit(code)


def _prepare(where: paths.Paths, service: pwd.struct_passwd | None) -> None:
    """Make the directories; what the supervisor needs must be within reach of the account that it drops to."""
    for directory, mode in ((where.state_dir, 0o711), (where.runtime_dir, 0o755)):
        try:
            _make_directory(directory, mode, service)
        except OSError as error:
            _fail(f"cannot prepare {directory}: {error}; choose another with --state-dir", 73)
    _check_file_system(where.state_dir)
    if service is not None:
        _check_reach(where, service)


def _make_directory(path: str, mode: int, service: pwd.struct_passwd | None) -> None:
    """Make the directory if it is not there; one that is there keeps its mode, and must be the daemon's own."""
    try:
        os.makedirs(os.path.dirname(path), mode=0o755, exist_ok=True)
        os.mkdir(path)
        os.chmod(path, mode)
        if service is not None:
            os.chown(path, service.pw_uid, service.pw_gid)
    except FileExistsError:
        found = os.stat(path)
        owners = {os.geteuid(), 0 if service is None else service.pw_uid}
        if found.st_uid not in owners or found.st_mode & 0o022 & ~(0o020 if found.st_gid == 0 else 0):
            raise PermissionError(1, "it belongs to others, or others can write to it", path) from None


#: File systems over a network: what fsync and locks promise there is another machine's to keep, or nobody's.
_REMOTE = frozenset({"9p", "afs", "ceph", "cifs", "fuse.glusterfs", "fuse.sshfs", "lustre", "nfs", "nfs4", "smb3"})


def remote_kind(path: str, mountinfo: str) -> str | None:
    """The type of the remote file system that holds the directory, by the text of /proc/self/mountinfo; proc(5)."""
    found = ""
    kind = None
    for line in mountinfo.splitlines():
        before, _, after = line.partition(" - ")
        point = before.split()[4].encode().decode("unicode_escape")
        if os.path.commonpath((path, point)) == point and len(point) >= len(found):  # the last one mounted there counts
            found, kind = point, after.split()[0]
    return kind if kind in _REMOTE else None


def _check_file_system(state_dir: str) -> None:
    try:
        with open("/proc/self/mountinfo", encoding="utf-8", errors="surrogateescape") as file:
            kind = remote_kind(os.path.realpath(state_dir), file.read())
    except OSError:
        return
    if kind is not None:
        _fail(
            f"{state_dir} is on a remote file system ({kind}), where a store is not safe; choose a local one with --state-dir",
            73,
        )


def _root_settings(config_file: str) -> dict[str, Any]:
    """The keys that the launcher of a daemon of root goes by. The supervisor reads the file too, and says what is wrong."""
    try:
        with open(config_file, "rb") as file:
            return tomllib.load(file)
    except (OSError, ValueError):
        return {}


def _uids(config_file: str, text: object) -> users.Range:
    """The range of users for boxes, of which nothing may belong to the host."""
    try:
        numbers = users.parse(text) if isinstance(text, str) else users.DEFAULT
    except ValueError:
        return users.DEFAULT  # nothing is started with it: the supervisor refuses the file
    found = users.owners(numbers)
    if found:
        more = f" and {len(found) - 3} others" if len(found) > 3 else ""
        _fail(
            f"{config_file}: key 'dynamic_uid_range': {numbers} is for runs alone, but has {', '.join(found[:3])}{more} in"
            " it; name a range that nobody has",
            78,
        )
    return numbers


def _service_account(config_file: str, name: object) -> pwd.struct_passwd | None:
    if not isinstance(name, str) or name == "none":
        return None
    try:
        return pwd.getpwnam(name)
    except KeyError:
        _fail(f"{config_file}: service_user {name!r}: no such account", 78)


def _check_reach(where: paths.Paths, service: pwd.struct_passwd) -> None:
    """As the service account, in a fork: what the supervisor needs must be within its reach."""
    needed = {
        sys.executable: os.X_OK,
        os.path.dirname(os.path.abspath(__file__)): os.R_OK | os.X_OK,
        where.state_dir: os.R_OK | os.W_OK | os.X_OK,
        where.runtime_dir: os.R_OK | os.W_OK | os.X_OK,
    }
    pid = os.fork()
    if pid == 0:
        number = 255
        try:
            os.initgroups(service.pw_name, service.pw_gid)
            os.setresgid(service.pw_gid, service.pw_gid, service.pw_gid)
            os.setresuid(service.pw_uid, service.pw_uid, service.pw_uid)
            number = next((n for n, (path, mode) in enumerate(needed.items(), 1) if not os.access(path, mode)), 0)
        finally:
            os._exit(number)
    number = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if number:
        path = list(needed)[number - 1] if 0 < number <= len(needed) else "its own account"
        _fail(f"service_user {service.pw_name!r} cannot reach {path}; give it access or run without service_user", 78)


def _lock(path: str) -> int:
    """Take the lock of the state directory for this process's life: one daemon each."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        _fail(f"another daemon runs on {os.path.dirname(path)}; stop it first, or choose another --state-dir", 1)
    except OSError as error:
        _fail(f"cannot lock {path}: {error}", 73)
    return fd


def _take_standard_descriptors() -> None:
    """Where stdin, stdout or stderr was closed, let nothing else get its number: the log would be written into the store."""
    while True:
        fd = os.open(os.devnull, os.O_RDWR)
        if fd > 2:
            os.close(fd)
            return
        os.set_inheritable(fd, True)


#: What launcher, supervisor, interpreter and C library go by; of whoever started us nothing else is kept.
_KEPT = frozenset((
    "PATH", "HOME", "USER", "LOGNAME", "LANG", "LANGUAGE", "TZ", "TZDIR", "PYTHONTZPATH", "TMPDIR", "XDG_CONFIG_HOME",
    "XDG_STATE_HOME", "XDG_RUNTIME_DIR", "CONFIGURATION_DIRECTORY", "STATE_DIRECTORY", "RUNTIME_DIRECTORY",
    "CREDENTIALS_DIRECTORY", "NOTIFY_SOCKET", "WATCHDOG_USEC", "WATCHDOG_PID", probe.PRETEND,
    # Systemd gives these to every service. They tell nothing, and to keep them spares it a second start.
    "SHELL", "INVOCATION_ID", "JOURNAL_STREAM", "MANAGERPID", "SYSTEMD_EXEC_PID", "MEMORY_PRESSURE_WATCH",
    "MEMORY_PRESSURE_WRITE",
))  # fmt: skip
#: LD_ is the loader's: an interpreter that needs it would not start again without.
_KEPT_PREFIXES = ("LC_", "LD_")


def kept(environment: Mapping[str, str]) -> dict[str, str]:
    """The part of an environment that a daemon is to have."""
    return {name: value for name, value in environment.items() if name in _KEPT or name.startswith(_KEPT_PREFIXES)}


def _begin_clean(given: list[str]) -> None:
    """Become another process of the same program, if this one has what a daemon, or a job that is a fork of it, must not have.

    The block that a process was given with its environment stays in its memory, and in all of its forks, whatever is done to
    os.environ: a function of `standard` could read there what a unit's Environment= or somebody's shell says.
    """
    ours = kept(os.environ)
    if not sys.flags.isolated:
        # PYTHONPATH and the working directory must lend no module to a daemon; the options are the same.
        os.execve(sys.executable, [sys.executable, "-I", "-m", "lnmt_scheduler.supervisor.schedd", *given], ours)
    if len(ours) < len(os.environ):
        # Not sys.executable, which in an installation is that of supervisors to come.
        os.execve(os.readlink("/proc/self/exe"), sys.orig_argv, ours)


def main(arguments: list[str] | None = None) -> None:
    """`schedd`."""
    _take_standard_descriptors()
    given = sys.argv[1:] if arguments is None else arguments
    _begin_clean(given)
    # Whoever started us may have left them otherwise: with SIGCHLD ignored the kernel would reap our children itself.
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_SETMASK, ())
    # What is private is made so by name; a stricter mask would lock jobs out of their state directories.
    os.umask(0o022)
    chosen = options.parse(given)
    journal.set_level(chosen.log_level)
    where = options.resolve(chosen)
    said = _root_settings(where.config_file) if os.geteuid() == 0 else {}
    service = _service_account(where.config_file, said.get("service_user"))
    uids = _uids(where.config_file, said.get("dynamic_uid_range")) if os.geteuid() == 0 else users.DEFAULT
    _prepare(where, service)
    lock = _lock(where.lock)
    limits.raise_open_files()
    masked = frozenset(os.environ.get(probe.PRETEND, "").split(",")) - {""}
    host = probe.probe(masked)
    for layer, why in host.missing.items():
        journal.info(f"{layer}: {why}")
    for path in cgroup.sweep(host.cgroups):
        journal.warning(f"{path}, left by a daemon that is gone, still holds processes")
    if host.mode == namespaces.NONE:
        journal.warning("no pid namespaces or scoped signals here: ending the whole tree of a run is best effort")
    if len(os.listdir("/proc/self/task")) != 1:
        _fail("the launcher has more than one thread and cannot fork safely", 70)
    gc.collect()
    gc.freeze()  # a fork then copies no page just because the collector wrote to it
    code = launcher.Launcher(given, host, service, uids).run(chosen.tied_to)
    os.close(lock)
    raise SystemExit(code)


if __name__ == "__main__":
    main()
