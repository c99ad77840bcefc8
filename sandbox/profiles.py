"""The named policies, and how a job's `sandbox` key changes one.

Pure data and pure functions, used where a job is checked (jobs/checks) and where an attempt is prepared (the supervisor).
`standard`, the default, lets a job read the host and change nothing that it was not given. `untrusted` is for programs that
nobody has read. `trusted` takes nothing from a job but its escape: it is what a line in a crontab may do.
"""

import difflib
import os
from collections.abc import Collection, Iterable, Mapping
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

#: From the loosest on.
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
#: Of a job that does not say, where its daemon's configuration does not either.
DEFAULT = "standard"
NETWORKS = ("host", "loopback", "none")
#: Overrides that are one word of several; the first is what a profile has that does not say.
_WORDS = {"network": NETWORKS, "proc": ("full", "own"), "processes": ("own", "host")}
_PATHS = ("writable", "readable", "hidden")
#: Of each kind, so that a policy fits a packet to the launcher.
PATHS_MAX = 100
_KEYS = ("profile", *_WORDS, *_PATHS, "require")


def canonical(value: object, default: str) -> dict[str, Any]:
    """The `sandbox` key of a job in its canonical form: a map with `profile`, and the overrides that differ from it.

    ValueError says everything that is wrong with it.
    """
    given = {"profile": default} if value is None else {"profile": value} if isinstance(value, str) else value
    if not isinstance(given, Mapping):
        raise ValueError("must be a profile's name, or a map with one")  # noqa: TRY004 (a value's fault, for a person)
    name = given.get("profile", default)
    profile = PROFILES.get(name) if isinstance(name, str) else None
    problems = [f"unknown key {str(key)[:80]!r}{_hint(str(key), _KEYS)}" for key in given if key not in _KEYS]
    if profile is None:
        raise ValueError("; ".join([f"unknown profile {str(name)[:80]!r}{_hint(str(name), PROFILES)}", *problems]))
    found: dict[str, Any] = {"profile": name}
    for key, words in _WORDS.items():
        standing = getattr(profile, key, words[0])
        chosen = given.get(key, standing)
        if chosen not in words:
            problems.append(f"{key} must be {' or '.join(words)}, not {str(chosen)[:80]!r}")
        elif chosen != standing:
            found[key] = chosen
    for key in _PATHS:
        paths = given.get(key, [])
        if not isinstance(paths, list) or not all(isinstance(path, str) and _is_absolute(path) for path in paths):
            problems.append(f"{key} must be a list of absolute paths without '..'")
        elif len(paths) > PATHS_MAX:
            problems.append(f"{key} has {len(paths)} paths; at most {PATHS_MAX} are allowed")
        elif paths:
            found[key] = sorted({os.path.normpath(path) for path in paths})
            problems += [f"{key} cannot have {path}" for path in found[key] if _is_the_boxs_own(key, path)]
    required = given.get("require", [])
    if not isinstance(required, list) or not set(map(str, required)) <= LAYERS.keys():
        problems.append(f"require must be a list of layers: {', '.join(LAYERS)}")
    elif required:
        found["require"] = sorted(set(required))
    if profile.root is None and given.keys() & {"network", "proc", *_PATHS}:
        problems.append(f"profile {name!r} hides and takes nothing; use 'standard' with these keys")
    if found.get("processes") == "host" and profile.root == filesystem.SYSTEM:
        problems.append(
            f"profile {name!r} has no processes but its own; use 'standard' or 'trusted' with processes: host"
        )
    if found.get("processes") == "host" and found.get("proc") == "own":
        problems.append("proc: own shows no process of the host; take it out, or processes: host")
    if problems:
        raise ValueError("; ".join(problems))
    return found


def build(
    spec: Mapping[str, Any],
    limits: Mapping[str, Any],
    *,
    state_directory: str | None,
    needed: Iterable[str],
    daemon_files: Iterable[str],
) -> Policy:
    """The policy of a canonical `sandbox` map and a job's `limits`; the user is the caller's to add.

    `needed` are paths that the job cannot start without, shown whatever covers them; `daemon_files` is what the daemon
    keeps to itself. ValueError if any of what is to be shown lies in that, but for the job's own state directory.
    """
    profile = PROFILES[spec["profile"]]
    network = spec.get("network", profile.network)
    layers = dict(profile.layers) | dict.fromkeys(spec.get("require", ()), REQUIRE)
    layers["network"] = OFF if network == "host" else REQUIRE
    wanted = {**profile.limits, **limits}
    made = Policy(
        profile=spec["profile"],
        layers={layer: word for layer, word in layers.items() if word != OFF},
        insisted=tuple(sorted(spec.get("require", ()))),
        dynamic=profile.dynamic,
        memory=wanted.get("memory"),
        swap=wanted.get("swap"),
        pids=wanted.get("pids"),
        cpu=wanted.get("cpu"),
        state_directory=state_directory,
        cpu_time=None if wanted.get("cpu_time") is None else max(1, round(wanted["cpu_time"])),
        open_files=wanted.get("open_files"),
        file_size=wanted.get("file_size"),
        tmp_size=wanted.get("tmp_size"),
        nice=wanted.get("nice"),
        io_class=wanted.get("io_class"),
        root=profile.root,
        proc=spec.get("proc", profile.proc),
        processes=spec.get("processes", "own"),
        network=network,
        seccomp=profile.seccomp,
    )
    if profile.root is None:
        return made
    own = [] if state_directory is None else [state_directory]
    # What lies in the state directory can be written anyway, and may be a link that the job has made.
    writable = tuple(path for path in spec.get("writable", ()) if not filesystem.is_within(path, own))
    # What is needed is shown read-only, unless it lies in what may be written anyway, or a box has it of its own: a
    # working directory of / is to be found in every box, and is not to bring the host's tree into it.
    free = [*writable, *own]
    shown = {path for path in map(_normal, needed) if not (filesystem.is_within(path, free) or _has_of_its_own(path))}
    shown |= set(spec.get("readable", ())) - set(writable)
    kept = [os.path.normpath(path) for path in daemon_files]
    for path in sorted({*shown, *writable}):
        if filesystem.is_within(path, kept) and not filesystem.is_within(path, own):
            raise ValueError(f"{path} is the daemon's own and cannot be shown to a job of profile {spec['profile']!r}")
    _refuse_what_could_be_moved((*spec.get("readable", ()), *spec.get("hidden", ()), *kept), free)
    return replace(
        made, writable=writable, readable=tuple(sorted(shown)), hidden=tuple(sorted({*spec.get("hidden", ()), *kept}))
    )


def _refuse_what_could_be_moved(held: Iterable[str], free: Collection[str]) -> None:
    """ValueError if one of these lies deeper than by a name in what the job may write to.

    The job could rename a directory on the way, and its next run would find it under another name, shown and writable. What
    is a mount by itself cannot be renamed.
    """
    held = set(held)
    for path in sorted(held):
        for place in free:
            above = os.path.dirname(path)
            while above != place and filesystem.is_within(above, [place]):
                if above not in held and above not in free:
                    raise ValueError(
                        f"{path} cannot be kept from a job that may write to {place}, since it could move {above}; "
                        "name what is beside it as writable"
                    )
                above = os.path.dirname(above)


def _is_absolute(path: str) -> bool:
    return path.startswith("/") and ".." not in path.split("/") and "\0" not in path and len(path) < 4096


def _is_the_boxs_own(key: str, path: str) -> bool:
    """The root, and the host's /proc and /dev, which would bring all that the box keeps away."""
    return path in ("/", "//") or (key != "hidden" and (path == "/dev" or filesystem.is_within(path, ["/proc"])))


def _has_of_its_own(path: str) -> bool:
    return path == "/tmp" or _is_the_boxs_own("readable", path)


def _normal(path: str) -> str:
    """normpath() keeps two slashes at the beginning, as POSIX would have it; Linux knows no such place."""
    return os.path.normpath(path).replace("//", "/")


def _hint(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, list(known), 1)
    return f"; did you mean {near[0]!r}?" if near else ""
