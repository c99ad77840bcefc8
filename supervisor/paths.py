"""Where the daemon's files are, and how to reach a socket there.

Used by launcher, supervisor and schedctl alike, so that the three cannot disagree; standard library only, because the
launcher imports it. Three layouts: everything in one directory (`--state-dir`), the system's (/etc, /var/lib, /run),
and a person's own (XDG). Nothing here creates a directory or looks into a file.

A socket's path may be longer than sun_path holds (108 bytes, unix(7)): bind and connect then go through the open
directory, /proc/self/fd/N/name.
"""

import os
import pwd
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

NAME = "lnmt-scheduler"
#: sun_path with its final NUL.
_SUN_PATH = 108

Layout = Literal["system", "user"]
_SYSTEMD = ("CONFIGURATION_DIRECTORY", "STATE_DIRECTORY", "RUNTIME_DIRECTORY")


@dataclass(frozen=True, slots=True, kw_only=True)
class Paths:
    """Absolute paths of one daemon's files; none of them need exist."""

    config_file: str
    #: Job files that the daemon loads by itself.
    jobs_d: str
    state_dir: str
    runtime_dir: str
    socket: str
    #: Held by the launcher for its life: one daemon per state directory.
    lock: str
    database: str
    output_dir: str


def _paths(config_dir: str, state_dir: str, runtime_dir: str, config: str | None) -> Paths:
    return Paths(
        config_file=os.path.abspath(config) if config else os.path.join(config_dir, "config.toml"),
        jobs_d=os.path.join(config_dir, "jobs.d"),
        state_dir=state_dir,
        runtime_dir=runtime_dir,
        socket=os.path.join(runtime_dir, "control.sock"),
        lock=os.path.join(state_dir, "lock"),
        database=os.path.join(state_dir, "lnmt.db"),
        output_dir=os.path.join(state_dir, "output"),
    )


def resolve(
    *,
    state_dir: str | None = None,
    config: str | None = None,
    layout: Layout | None = None,
    env: Mapping[str, str] = os.environ,
) -> Paths:
    """The paths of the daemon that would be started so.

    layout None: the system's for root and under systemd ($STATE_DIRECTORY is set), else the person's own. systemd's
    variables count for the system's layout only. `config` replaces config.toml and moves nothing else.
    """
    if state_dir is not None:
        directory = os.path.abspath(state_dir)
        return _paths(directory, directory, directory, config)
    if layout is None:
        layout = "system" if os.geteuid() == 0 or env.get("STATE_DIRECTORY") else "user"
    if layout == "system":
        return _paths(
            _systemd(env, "CONFIGURATION_DIRECTORY", f"/etc/{NAME}"),
            _systemd(env, "STATE_DIRECTORY", f"/var/lib/{NAME}"),
            _systemd(env, "RUNTIME_DIRECTORY", f"/run/{NAME}"),
            config,
        )
    home = env.get("HOME") or pwd.getpwuid(os.geteuid()).pw_dir
    state = os.path.join(_xdg(env, "XDG_STATE_HOME", os.path.join(home, ".local/state")), NAME)
    # Where nobody logged in (su, cron) the variable is missing although the directory is there.
    runtime = _xdg(env, "XDG_RUNTIME_DIR", f"/run/user/{os.geteuid()}")
    return _paths(
        os.path.join(_xdg(env, "XDG_CONFIG_HOME", os.path.join(home, ".config")), NAME),
        state,
        os.path.join(runtime, NAME) if os.path.isdir(runtime) else state,
        config,
    )


def find(*, state_dir: str | None = None, layout: Layout | None = None, env: Mapping[str, str] = os.environ) -> Paths:
    """The daemon that schedctl means: the system's if it is there, else the person's own.

    "There" is its socket, else its database; if neither layout has any, the one that this user would start. systemd's
    variables are not looked at: they belong to the service that schedctl may be running in, a job's for instance.
    """
    plain = {name: value for name, value in env.items() if name not in _SYSTEMD}
    if state_dir is not None or layout is not None:
        return resolve(state_dir=state_dir, layout=layout, env=plain)
    candidates = (resolve(layout="system", env=plain), resolve(layout="user", env=plain))
    for paths in candidates:
        if os.path.exists(paths.socket):
            return paths
    for paths in candidates:
        if os.path.exists(paths.database):
            return paths
    return resolve(env=plain)


def connect(path: str) -> socket.socket:
    """A stream socket connected to `path`, the caller's to close. Raises OSError."""
    return _open(path, socket.socket.connect)


def bind(path: str) -> socket.socket:
    """A stream socket bound to `path`, the caller's to close. Raises OSError, also if the path exists."""
    return _open(path, socket.socket.bind)


def _open(path: str, reach: Callable[[socket.socket, str], None]) -> socket.socket:
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        if len(os.fsencode(path)) < _SUN_PATH:
            reach(sock, path)
        else:
            directory = os.open(os.path.dirname(path), os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                reach(sock, f"/proc/self/fd/{directory}/{os.path.basename(path)}")
            finally:
                os.close(directory)
    except BaseException:
        sock.close()
        raise
    return sock


def _systemd(env: Mapping[str, str], variable: str, default: str) -> str:
    # systemd.exec(5): several directories are separated by colons; the first is ours.
    return env.get(variable, "").split(":")[0] or default


def _xdg(env: Mapping[str, str], variable: str, default: str) -> str:
    # The XDG base directory specification: a relative path counts as unset.
    value = env.get(variable, "")
    return value if os.path.isabs(value) else default
