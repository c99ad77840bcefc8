"""The running configuration of network devices, fetched by SSH and kept in a git folder that says what changed when.

Runs in the job's process, inside its box, for backup.device_config. A configuration is taken only whole: its last line must be
what the system ends one with, and an answer such as "% Invalid input" is none. Lines that change by themselves (a date, a
counter of bytes) are left out, so that a commit means that somebody changed something. A device whose host key is
another than before is refused. Passwords come from the job's secrets, by name.

A run that is killed leaves a file that is whole, since each is put in its place by rename(2), and at worst not committed; the
next run commits it before it asks anybody. What has changed is printed before it is committed, so it is told at least once. Of
git's own locks those of a killed run are removed: the folder's lock says that nobody holds them.

Each worker puts what it fetched in its place at once: no more configurations are in memory than there are workers.
"""

import concurrent.futures
import logging
import os
import re
import subprocess
import threading
from collections.abc import Callable, Sequence
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from lnmt_scheduler.jobs import atomic, keep, needs

_CONFIG_LIMIT = 32 * 1024 * 1024
_DIFF_LIMIT = 64 * 1024
_DEVICES_MAX = 1000
#: Held to write a file: what killed runs have left of it is then removed, which is known by its name, and what another worker
#: is writing for `r1.lan` looks like something that was left of `r1`.
_WRITING = threading.Lock()

#: Of a system what shows its configuration, and the line that a whole one ends with; netmiko's words for systems.
_SYSTEMS = {
    "cisco": ("show running-config", r"end"),
    "arista_eos": ("show running-config", r"end"),
    "dell_os10": ("show running-configuration", r".*"),
    "fortinet": ("show full-configuration", r"end"),
    "hp_comware": ("display current-configuration", r"return"),
    "huawei": ("display current-configuration", r"return"),
    "juniper": ("show configuration | display set", r"(set|deactivate) .*"),
    "mikrotik_routeros": ("/export", r".*"),
    "vyos": ("show configuration commands", r"set .*"),
}
#: Lines that differ from one look to the next although nothing was changed.
_VOLATILE = (
    r"Building configuration\.*",
    r"Current configuration ?:.*",
    r"! (Last configuration change|NVRAM config last updated|No configuration change) .*",
    r"!Time: .*",
    r"! device: .*",
    r"ntp clock-period \d+",
    r"## Last (commit|changed): .*",
    r"# .* by RouterOS .*",
    r"#conf_file_ver=.*",
    r".* uptime is .*",
)
_REFUSED = re.compile(
    r"^(% ?(Invalid|Unknown|Incomplete|Ambiguous|Authorization)|\^|Error: |syntax error)", re.MULTILINE
)


class ConfigsFailedError(Exception):
    """Some devices could not be read; the others were."""


class Device(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    name: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
    address: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,252}$")]
    #: netmiko's word for its system: cisco_ios, arista_eos, juniper_junos, ...
    type: Annotated[str, Meta(pattern=r"^[a-z0-9_]{1,64}$")] = "cisco_ios"
    port: Annotated[int, Meta(ge=1, le=65535)] = 22
    user: Annotated[str, Meta(min_length=1, max_length=100)]
    #: Names among the job's secrets: of the password, or of a private key, and of the password of privileged mode.
    password: str | None = None
    key: str | None = None
    enable: str | None = None
    #: What shows the configuration, and a regular expression of the last line of a whole one; None: as its system has it.
    command: Annotated[str, Meta(min_length=1, max_length=500)] | None = None
    last_line: Annotated[str, Meta(max_length=500)] | None = None
    #: Seconds to connect, and between two pieces of an answer.
    timeout: Annotated[float, Meta(gt=0, le=600)] = 30
    #: Regular expressions of whole lines that are left out, besides those that are known.
    volatile: Annotated[list[str], Meta(max_length=100)] = []


def check(devices: Sequence[Any]) -> list[Device]:
    """The devices, or the job ends with one line about the first that is wrong."""
    if not 0 < len(devices) <= _DEVICES_MAX:
        needs.end(f"devices has {len(devices)} entries; 1 to {_DEVICES_MAX} are allowed")
    found: dict[str, Device] = {}
    for number, each in enumerate(devices, 1):
        try:
            device = msgspec.convert(each, Device)
            for pattern in (*device.volatile, *([device.last_line] if device.last_line is not None else [])):
                re.compile(pattern)
        except (msgspec.ValidationError, re.error) as error:
            needs.end(f"devices, number {number}: {error}")
        if device.name in found:
            needs.end(f"devices, number {number}: a device is named {device.name!r} already")
        if device.password is None and device.key is None:
            needs.end(f"device {device.name!r} needs `password` or `key`, a name among the job's secrets")
        if device.command is None and _system(device.type) is None:
            needs.end(
                f"device {device.name!r}: what shows the configuration of a {device.type} is not known; say `command`"
            )
        found[device.name] = device
    return list(found.values())


def _system(kind: str) -> tuple[str, str] | None:
    return next((what for name, what in _SYSTEMS.items() if kind.startswith(name)), None)


def back_up(
    devices: Sequence[Device], folder: str, secret: Callable[[str], str], workers: int, tick: Callable[[int, int], None]
) -> dict[str, Any]:
    """Fetch all, keep what is new, commit; which have changed, and how. ConfigsFailedError if any could not be read."""
    git = needs.program("git", "git")
    with needs.extra("net"):
        import netmiko  # noqa: F401, PLC0415 - asked for before anything is begun; 0.5 s that no other job pays
    for name in ("paramiko", "netmiko"):
        logging.getLogger(name).setLevel(logging.WARNING)  # that a login has worked is not what somebody should read
    with atomic.locked(folder):
        repository = _Repository(git, folder)
        before, said_before = _record(repository)
        failed: dict[str, str] = {}
        with concurrent.futures.ThreadPoolExecutor(max(1, min(workers, len(devices)))) as pool:
            asked = [pool.submit(_ask, device, secret, folder) for device in devices]
            for done, each in enumerate(concurrent.futures.as_completed(asked), 1):
                name, error = each.result()
                if error is not None:
                    failed[name] = error
                tick(done, len(devices))
        after, said_after = _record(repository)
    changed, diff = sorted({*before, *after}), f"{said_before}\n{said_after}".strip("\n")
    found = {"devices": len(devices), "changed": changed, "failed": failed, "folder": folder, "diff": diff[:4000]}
    if failed:
        lines = "; ".join(f"{name}: {error}" for name, error in sorted(failed.items()))
        raise ConfigsFailedError(f"{len(failed)} of {len(devices)} devices could not be read: {lines}")
    return found


def _record(repository: "_Repository") -> tuple[list[str], str]:
    """Print what differs from the last commit, and commit it: names of devices, and the diff."""
    changed, diff = repository.stage()
    if changed:
        print(diff, flush=True)
        repository.commit(changed)
    return changed, diff


def _ask(device: Device, secret: Callable[[str], str], folder: str) -> tuple[str, str | None]:
    """Fetch one and keep it; its name, and what went wrong."""
    try:
        text = clean(_fetch(device, secret, os.path.join(folder, ".known_hosts")), device)
        _keep(os.path.join(folder, f"{device.name}.cfg"), text)
    except Exception as error:
        # The beginning: netmiko adds a page of advice. No password is ever in it.
        return device.name, f"{type(error).__name__}: {' '.join(str(error).split())}"[:250]
    return device.name, None


def _fetch(device: Device, secret: Callable[[str], str], keys: str) -> str:
    import netmiko  # noqa: PLC0415 (as above)

    own_keys = f"{keys}.{device.name}"
    options: dict[str, Any] = {
        "device_type": device.type,
        "host": device.address,
        "port": device.port,
        "username": device.user,
        "conn_timeout": device.timeout,
        "auth_timeout": device.timeout,
        "banner_timeout": device.timeout,
        "read_timeout_override": device.timeout,
        # What is known must be the same again; what is not is taken, and known from then on (as ssh's accept-new).
        "ssh_strict": os.path.exists(own_keys),
        "alt_host_keys": os.path.exists(own_keys),
        "alt_key_file": own_keys,
        "allow_agent": False,
    }
    if device.password is not None:
        options["password"] = secret(device.password)
    if device.key is not None:
        options |= {"use_keys": True, "key_file": os.path.join(os.environ["CREDENTIALS_DIRECTORY"], device.key)}
    if device.enable is not None:
        options["secret"] = secret(device.enable)
    command = device.command or (_system(device.type) or ("", ""))[0]
    with netmiko.ConnectHandler(**options) as connection:
        if not os.path.exists(own_keys) and connection.remote_conn_pre is not None:
            lines = [
                f"{host} {kind} {key.get_base64()}\n"
                for host, of_host in connection.remote_conn_pre.get_host_keys().items()
                for kind, key in of_host.items()
            ]
            with _WRITING:
                keep.write_bytes(own_keys, "".join(lines).encode())
        if device.enable is not None:
            connection.enable()
        return str(connection.send_command(command, read_timeout=device.timeout))


def clean(text: str, device: Device) -> str:
    """The configuration without what changes by itself. ValueError if it is not a whole one."""
    if len(text) > _CONFIG_LIMIT:
        raise ValueError(f"the answer has more than {_CONFIG_LIMIT} characters")
    lines = [line.rstrip() for line in text.replace("\r\n", "\n").replace("\r", "\n").split("\n")]
    while lines and not lines[0]:
        lines.pop(0)
    while lines and not lines[-1]:
        lines.pop()
    if refused := _REFUSED.search("\n".join(lines[:5])):
        raise ValueError(f"the device answered: {refused.string[refused.start() :].splitlines()[0][:100]}")
    last = device.last_line if device.last_line is not None else (_system(device.type) or ("", ".*"))[1]
    if len(lines) < 2 or not re.fullmatch(last, lines[-1].strip()):
        shown = lines[-1][:60] if lines else ""
        raise ValueError(f"the answer is not whole: {len(lines)} lines, the last is {shown!r}")
    volatile = re.compile("|".join(f"(?:{pattern})" for pattern in (*_VOLATILE, *device.volatile)))
    return "\n".join(line for line in lines if not volatile.fullmatch(line.strip())) + "\n"


def _keep(path: str, text: str) -> None:
    """Write it if it is another than the one that is there."""
    data = text.encode(errors="surrogateescape")
    try:
        if keep.read_bytes(path, _CONFIG_LIMIT * 4) == data:
            return
    except FileNotFoundError:
        pass
    with _WRITING:
        keep.write_bytes(path, data)


class _Repository:
    """The folder's git, without any configuration but what is said here."""

    def __init__(self, git: str, folder: str) -> None:
        self._git = git
        self._folder = folder
        self._environment = {
            "PATH": os.environ.get("PATH", os.defpath),
            "HOME": folder,
            "GIT_CONFIG_NOSYSTEM": "1",
            "LANG": "C.UTF-8",
        }
        for name in ("index.lock", "HEAD.lock", "config.lock", "packed-refs.lock", "refs/heads/main.lock"):
            if os.path.lexists(path := os.path.join(folder, ".git", name)):
                os.unlink(path)
        if self._call("rev-parse", "--git-dir", check=False).returncode:
            self._call("init", "--quiet", "--initial-branch=main")

    def stage(self) -> tuple[list[str], str]:
        """What differs from the last commit, also what a killed run had written: names of devices, and the diff."""
        if not any(name.endswith(".cfg") for name in os.listdir(self._folder)):
            return [], ""
        self._call("add", "--", "*.cfg")
        staged = self._call("diff", "--cached", "--name-only", "-z").stdout.decode(errors="replace").split("\0")
        changed = sorted(name.removesuffix(".cfg") for name in staged if name.endswith(".cfg"))
        if not changed:
            return [], ""
        diff = self._beginning(_DIFF_LIMIT + 1, "diff", "--cached", "--no-color", "--unified=3")
        text = diff[:_DIFF_LIMIT].decode(errors="backslashreplace").rstrip()
        return changed, text if len(diff) <= _DIFF_LIMIT else f"{text}\n... the rest: git -C {self._folder} show"

    def commit(self, changed: Sequence[str]) -> None:
        """Commit what is staged."""
        shown = ", ".join(changed[:5]) + (f" and {len(changed) - 5} more" if len(changed) > 5 else "")
        self._call("commit", "--quiet", "--message", f"Changed: {shown}")

    def _call(self, *arguments: str, check: bool = True) -> subprocess.CompletedProcess[bytes]:
        done = subprocess.run(
            self._command(arguments), cwd=self._folder, env=self._environment, capture_output=True, check=False
        )
        if check and done.returncode:
            raise OSError(f"git {arguments[0]}: {done.stderr.decode(errors='replace').strip()[:500]}")
        return done

    def _beginning(self, size: int, *arguments: str) -> bytes:
        """So many bytes of what git says, at most; it ends by SIGPIPE if there are more."""
        with subprocess.Popen(
            self._command(arguments), cwd=self._folder, env=self._environment, stdout=subprocess.PIPE
        ) as git:
            assert git.stdout is not None
            data = git.stdout.read(size)
        if git.returncode and len(data) < size:
            raise OSError(f"git {arguments[0]}: it ended with {git.returncode}")
        return data

    def _command(self, arguments: Sequence[str]) -> list[str]:
        settings = {
            "user.name": "lnmt-scheduler",
            "user.email": "lnmt-scheduler@localhost",
            "core.fsync": "committed",
            "core.excludesFile": os.devnull,
            "core.hooksPath": os.devnull,
            "gc.auto": "0",
            "commit.gpgSign": "false",
        }
        return [self._git, *(word for key, value in settings.items() for word in ("-c", f"{key}={value}")), *arguments]
