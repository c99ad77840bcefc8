"""The named policies, and how a job's `sandbox` key changes one.

Pure data and pure functions, used where a job is checked (jobs/checks) and where an attempt is prepared (the supervisor).
`trusted` takes nothing from a job but its escape: it is what a line in a crontab deserves. `standard` lets it read the
host and change nothing that it was not given. `untrusted` is for programs that nobody has read.
"""

import difflib
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from lnmt_scheduler.sandbox import filesystem
from lnmt_scheduler.sandbox.policy import BASE, LAYERS, OFF, PREFER, REQUIRE, Policy

_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    layers: Mapping[str, str]
    root: str | None = None
    proc: str = "full"
    network: str = "host"
    seccomp: str | None = None
    #: A user of its own for each run, where the daemon can give one and the job names none.
    dynamic: bool = False
    #: Functions run in a new interpreter, not in a fork of the launcher's.
    fresh: bool = False
    #: Where the job's own `limits` say nothing.
    limits: Mapping[str, Any] = field(default_factory=dict)


_BOXED = dict.fromkeys(BASE, REQUIRE) | dict.fromkeys(
    ("user", "no_new_privs", "filesystem", "daemon_files", "namespaces", "seccomp"), REQUIRE
)
_COUNTED = dict.fromkeys(("memory", "cpu", "pids"), PREFER)

PROFILES = {
    "trusted": Profile(layers=dict.fromkeys(BASE, REQUIRE) | _COUNTED),
    "standard": Profile(
        layers=_BOXED | _COUNTED | {"landlock": PREFER},
        root=filesystem.HOST,
        seccomp="denylist",
        dynamic=True,
        limits={"memory": 1024 * _MIB, "pids": 512},
    ),
    "untrusted": Profile(
        layers=_BOXED | _COUNTED | {"memory": REQUIRE, "pids": REQUIRE, "network": REQUIRE, "landlock": PREFER},
        root=filesystem.SYSTEM,
        proc="own",
        network="none",
        seccomp="strict",
        dynamic=True,
        fresh=True,
        limits={"memory": 256 * _MIB, "pids": 64, "cpu": 1.0, "tmp_size": 64 * _MIB},
    ),
}
NETWORKS = ("host", "loopback", "none")
_PATHS = ("writable", "readable", "hidden")
_KEYS = ("profile", "network", *_PATHS, "require", "proc", "processes")


def canonical(value: object, default: str) -> dict[str, Any]:
    """The `sandbox` key of a job in its canonical form: a map with `profile`, and the overrides that differ from it.

    ValueError says everything that is wrong with it.
    """
    given = {"profile": default} if value is None else {"profile": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise ValueError("must be a profile's name, or a map with one")  # noqa: TRY004 (a value's fault, for a person)
    problems = [f"unknown key {str(key)[:80]!r}{_hint(str(key), _KEYS)}" for key in given if key not in _KEYS]
    name = given.get("profile", default)
    profile = PROFILES.get(name) if isinstance(name, str) else None
    if profile is None:
        problems.append(f"unknown profile {str(name)[:80]!r}{_hint(str(name), PROFILES)}")
        raise ValueError("; ".join(problems))
    found: dict[str, Any] = {"profile": name}
    for key, allowed, standing in (
        ("network", NETWORKS, profile.network),
        ("proc", ("own", "full"), profile.proc),
        ("processes", ("own",), "own"),
    ):
        chosen = given.get(key, standing)
        if key == "processes" and chosen == "host":
            problems.append("processes: host is not supported yet")
        elif chosen not in allowed:
            problems.append(f"{key} must be {' or '.join(allowed)}")
        elif chosen != standing:
            found[key] = chosen
    for key in _PATHS:
        paths = given.get(key, [])
        if not isinstance(paths, list) or not all(isinstance(path, str) and _is_absolute(path) for path in paths):
            problems.append(f"{key} must be a list of absolute paths without '..'")
        elif paths:
            found[key] = sorted({os.path.normpath(path) for path in paths})
    required = given.get("require", [])
    if not isinstance(required, list) or not set(map(str, required)) <= LAYERS.keys():
        problems.append(f"require must be a list of layers: {', '.join(LAYERS)}")
    elif required:
        found["require"] = sorted(set(required))
    if name == "trusted" and (given.keys() & {"network", "proc", *_PATHS}):
        problems.append("profile 'trusted' hides and takes nothing; use 'standard' with these keys")
    if problems:
        raise ValueError("; ".join(problems))
    return found


def build(
    spec: Mapping[str, Any], limits: Mapping[str, Any], *, needed: Iterable[str], daemon_files: Iterable[str]
) -> Policy:
    """The policy of a canonical `sandbox` map and a job's `limits`; user and state directory are the caller's to add.

    `needed` are paths that the job cannot start without, shown whatever covers them; `daemon_files` is what the daemon
    keeps to itself.
    """
    profile = PROFILES[spec["profile"]]
    network = spec.get("network", profile.network)
    layers = dict(profile.layers) | dict.fromkeys(spec.get("require", ()), REQUIRE)
    layers["network"] = OFF if network == "host" else REQUIRE
    wanted = {**profile.limits, **limits}
    made = Policy(
        profile=spec["profile"],
        layers={layer: word for layer, word in layers.items() if word != OFF},
        dynamic=profile.dynamic,
        memory=wanted.get("memory"),
        swap=wanted.get("swap"),
        pids=wanted.get("pids"),
        cpu=wanted.get("cpu"),
        cpu_time=None if wanted.get("cpu_time") is None else max(1, round(wanted["cpu_time"])),
        open_files=wanted.get("open_files"),
        file_size=wanted.get("file_size"),
        tmp_size=wanted.get("tmp_size"),
        nice=wanted.get("nice"),
        io_class=wanted.get("io_class"),
        root=profile.root,
        proc=spec.get("proc", profile.proc),
        network=network,
        seccomp=profile.seccomp,
    )
    if profile.root is None:
        return made
    shown = {os.path.normpath(path) for path in needed} | set(spec.get("readable", ()))
    return replace(
        made,
        writable=tuple(spec.get("writable", ())),
        readable=tuple(sorted(shown - set(spec.get("writable", ())))),
        hidden=tuple(sorted({*spec.get("hidden", ()), *map(os.path.normpath, daemon_files)})),
    )


def _is_absolute(path: str) -> bool:
    return path.startswith("/") and ".." not in path.split("/") and "\0" not in path and len(path) < 4096


def _hint(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
