"""config.toml: the settings of a daemon, checked as a whole before any of them counts.

Read by the supervisor, at start and at each reload, and by schedctl for what it does without a daemon.
A key is described as the keys of a job file are (jobs/fields.py), `[defaults]` being keys of a job file. Settings never
change; a reload makes new ones.
"""

import os
import zoneinfo
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from lnmt_scheduler.jobs import checks, documents, fields
from lnmt_scheduler.jobs import load as job_load
from lnmt_scheduler.sandbox import profiles, users
from lnmt_scheduler.supervisor import notices

_FILE_LIMIT = 1024 * 1024
_MIB = 1024 * 1024
_POOLS_MAX = 1000
#: Places of a pool that a job has from a time when the configuration had it: the least there can be.
UNKNOWN_POOL = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """Durations are seconds, sizes are bytes."""

    max_concurrent_jobs: int = 20
    #: Of these places, kept for runs of priority high and critical; always less than all.
    reserved_slots: int = 1
    #: Whom the ends of runs are told.
    notify: notices.Notify = field(default_factory=notices.Notify)
    #: Of named pools, how many of their runs there may be at one time.
    pools: Mapping[str, int] = field(default_factory=dict)
    #: A waiting run gains one level of priority in this time.
    aging: float = 600
    retention_age: float = 30 * fields.DAY
    #: Runs kept of each job.
    retention_runs: int = 1000
    #: Of all output together.
    retention_size: int = 1024 * _MIB
    #: Of entries of the audit.
    retention_audit: float = 365 * fields.DAY
    #: Of one run, where its job says nothing else.
    output_limit: int = 10 * _MIB
    #: Of what a function returns, as msgpack.
    result_limit: int = _MIB
    #: Preallocated, so that decisions can be written while the disk is full.
    reserve: int = 64 * _MIB
    #: Upper bound of kill_grace while the daemon stops.
    stop_grace: float = 30
    #: IANA name; None: the host's, see host_zone().
    timezone: str | None = None
    #: Account that the supervisor drops to.
    service_user: str | None = None
    admin_group: str | None = None
    operator_group: str | None = "lnmt-scheduler"
    #: Of the runs that have a user of their own, under a daemon of root.
    dynamic_uid_range: users.Range = users.DEFAULT
    #: Keys of a job file, in canonical form; `sandbox` among them where the file says default_profile.
    defaults: Mapping[str, Any] = field(default_factory=dict)
    #: What they were read from.
    document: Mapping[str, Any] = field(default_factory=dict, compare=False, repr=False)

    def pool_problem(self, pool: str | None) -> str | None:
        """What is wrong with a job's `pool`; None: nothing."""
        if pool is None or pool in self.pools:
            return None
        known = f"there are {', '.join(sorted(self.pools)[:20])}" if self.pools else "there is none"
        return f"unknown pool {pool!r}; {known} in [pools] of config.toml{checks.hint(pool, self.pools)}"

    @property
    def default_sandbox(self) -> Mapping[str, Any]:
        """The `sandbox` of a job that has none, in canonical form."""
        found: Mapping[str, Any] = self.defaults.get("sandbox", {"profile": profiles.DEFAULT})
        return found

    def waiting(self, before: "Settings") -> list[str]:
        """What differs from the settings before, and does not hold until the daemon starts anew."""
        return [key for key in ("service_user", "dynamic_uid_range") if getattr(self, key) != getattr(before, key)]


class ConfigError(ValueError):
    """The configuration is not taken; `problems` holds one line for each mistake."""

    def __init__(self, problems: list[str]) -> None:
        super().__init__("\n".join(problems))
        self.problems = tuple(problems)


def _account(value: str) -> str | None:
    return None if value == "none" else checks.account(value)


_ACCOUNT = fields.Field(type=str, expects='a name, or "none"', check=_account, description="", schema=None)
_UIDS = fields.Field(
    type=str, expects=f'text such as "{users.DEFAULT}"', check=users.parse, description="", schema=None
)


def _pools(value: dict[str, int]) -> dict[str, int]:
    if len(value) > _POOLS_MAX:
        raise ValueError(f"has {len(value)} pools; at most {_POOLS_MAX} are allowed")
    for name, places in value.items():
        checks.identifier(name)
        if not 1 <= places <= 10_000:
            raise ValueError(f"{name!r}: must be 1 to 10000 places")
    return dict(value)


_POOLS = fields.Field(
    type=dict[str, int], expects="a table of names, each with a whole number", check=_pools, description="", schema=None
)

_NOTIFY = fields.Field(type=dict[str, Any], expects="a table", check=notices.parse, description="", schema=None)

#: Key of the file, with its table -> field of Settings, and what it may be.
_KEYS: dict[str, tuple[str | None, fields.Field]] = {
    "max_concurrent_jobs": ("max_concurrent_jobs", fields.count("", 1, 10_000)),
    "reserved_slots": ("reserved_slots", fields.count("", 0, 10_000)),
    "aging": ("aging", fields.duration("", 1)),
    "retention.age": ("retention_age", fields.duration("", 1)),
    "retention.runs": ("retention_runs", fields.count("", 1, 10_000_000)),
    "retention.size": ("retention_size", fields.size("", 0)),
    "retention.audit": ("retention_audit", fields.duration("", 1)),
    "limits.output": ("output_limit", fields.size("", 1024)),
    "result_limit": ("result_limit", fields.size("", 0, 64 * _MIB)),
    "reserve": ("reserve", fields.size("", 0)),
    "stop_grace": ("stop_grace", fields.duration("")),
    "timezone": ("timezone", fields.text("", checks.zone)),
    "service_user": ("service_user", _ACCOUNT),
    "admin_group": ("admin_group", _ACCOUNT),
    "operator_group": ("operator_group", _ACCOUNT),
    "default_profile": ("default_profile", fields.choice("", *profiles.PROFILES)),
    "dynamic_uid_range": ("dynamic_uid_range", _UIDS),
    "pools": ("pools", _POOLS),
    "notify": ("notify", _NOTIFY),
}
_TABLES = ("retention", "limits")


def load(path: str | None, *, is_root: bool) -> Settings:
    """The settings of this file, or the defaults. Raises ConfigError with everything that is wrong.

    For root a file that others can write is refused: it decides what runs as root.
    """
    if path is None:
        return Settings()
    try:
        document = documents.read(path, limit=_FILE_LIMIT, private=is_root, kind="toml")
    except documents.Unreadable as error:
        raise ConfigError([f"{path}: {error}"]) from None
    return parse(document, path)


def parse(document: Mapping[str, Any], source: str) -> Settings:
    """The settings of the map that a config.toml is. Raises ConfigError."""
    values: dict[str, Any] = {}
    problems: list[str] = []
    flat = _flat(document)
    job_defaults = flat.pop("defaults", {})
    for key, value in flat.items():
        if key not in _KEYS:
            problems.append(f"{source}: key {key[:80]!r}: unknown key{checks.hint(key, [*_KEYS, 'defaults'])}")
        else:
            name, described = _KEYS[key]
            try:
                canonical = job_load.convert(described, value)
            except ValueError as error:
                problems.append(f"{source}: key {key!r}: {error}")
            else:
                values |= {} if name is None else {name: canonical}
    # What a job's `sandbox` is if it says nothing; [defaults] may say more than a name.
    profile = values.pop("default_profile", None)
    values["defaults"], wrong = job_load.parse_defaults(job_defaults, source, profile or profiles.DEFAULT)
    problems += map(str, wrong)
    if profile is not None:
        values["defaults"].setdefault("sandbox", {"profile": profile})
    default = Settings()
    places = values.get("max_concurrent_jobs", default.max_concurrent_jobs)
    if values.setdefault("reserved_slots", min(default.reserved_slots, places - 1)) >= places:
        problems.append(f"{source}: key 'reserved_slots': must be less than 'max_concurrent_jobs', {places}")
    uids = values.get("dynamic_uid_range")
    if uids is not None and len(uids) < places:
        problems.append(
            f"{source}: key 'dynamic_uid_range': {uids} holds {len(uids)} uids; each of 'max_concurrent_jobs', {places},"
            " may need one"
        )
    if problems:
        raise ConfigError(problems)
    return Settings(**values, document=document)


def _flat(document: Mapping[str, Any]) -> dict[str, Any]:
    """The keys of tables as `table.key`; what should be a table and is none stays, and is an unknown key."""
    flat: dict[str, Any] = {}
    for key, value in document.items():
        if key in _TABLES and isinstance(value, dict):
            flat |= {f"{key}.{inner}": each for inner, each in value.items()}
        else:
            flat[key] = value
    return flat


def host_zone(environ: Mapping[str, str] = os.environ, etc: str = "/etc") -> str:
    """IANA name of the zone that this process would show times in: TZ, /etc/localtime, /etc/timezone, or else UTC."""
    for name in (
        environ.get("TZ", "").removeprefix(":"),
        _linked_zone(f"{etc}/localtime"),
        _first_line(f"{etc}/timezone"),
    ):
        if name and _is_zone(name):
            return name
    return "UTC"


def host_name(etc: str = "/etc") -> str:
    """What this host is called from one boot to the next: machine-id(5), else its name."""
    return _first_line(f"{etc}/machine-id") or os.uname().nodename


def _linked_zone(path: str) -> str:
    # The link itself first: behind it may be an alias of the name that the administrator chose.
    for resolve in (os.readlink, os.path.realpath):
        try:
            _, found, name = resolve(path).rpartition("/zoneinfo/")
        except OSError:
            continue
        if found:
            return name.removeprefix("posix/").removeprefix("right/")
    return ""


def _first_line(path: str) -> str:
    try:
        with open(path, encoding="ascii") as file:
            return file.readline(256).strip()
    except (OSError, ValueError):
        return ""


def _is_zone(name: str) -> bool:
    try:
        zoneinfo.ZoneInfo(name)
    except (ValueError, OSError, zoneinfo.ZoneInfoNotFoundError):
        return False
    return True
