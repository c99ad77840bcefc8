"""What a child may use and see, as data: the launcher gets it as a map, builds the box from it, and stores nothing else.

Every layer of a policy is `require`, `prefer` or `off`. resolve() holds what is wanted against what the host has been seen
to offer: a required layer that is missing is a refusal, a preferred one is noted as absent, and what comes out is what
really will be enforced. Users and paths are resolved by whoever builds a policy; the launcher asks no name service.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

REQUIRE, PREFER, OFF = "require", "prefer", "off"
ENFORCED, BEST_EFFORT, ABSENT = "enforced", "best effort", "absent"

#: Every layer, in the order in which they are shown, with what it keeps a job from.
LAYERS = {
    "tree_kill": "outliving its run",
    "environment": "the daemon's environment",
    "descriptors": "the daemon's open files",
    "signals": "inherited signal handling",
    "core_dumps": "core dumps",
    "rlimits": "its rlimits",
    "memory": "the host's memory",
    "cpu": "the host's processors",
    "pids": "the host's process table",
    "user": "being root, or the same user as other runs",
    "no_new_privs": "gaining privileges, and every capability",
    "filesystem": "changing or seeing files that it was not given",
    "daemon_files": "the daemon's state, configuration and socket",
    "network": "the network",
    "namespaces": "the host's IPC, names and control groups",
    "seccomp": "dangerous system calls",
    "landlock": "files, once more, should a mount be wrong",
}
BASE = ("tree_kill", "environment", "descriptors", "signals", "core_dumps", "rlimits")


class RefusedError(Exception):
    """A required layer cannot be had here: which one, why, and what would mend it."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    profile: str = "trusted"
    #: layer -> REQUIRE or PREFER; what is absent is OFF.
    layers: Mapping[str, str] = field(default_factory=lambda: dict.fromkeys(BASE, REQUIRE))
    #: Layers that the job itself requires, beyond its profile: nothing less than ENFORCED will do, on whatever host.
    insisted: tuple[str, ...] = ()
    #: Numbers of the user that the job runs as; None: as the launcher itself.
    uid: int | None = None
    gid: int | None = None
    #: Supplementary groups; only with uid.
    groups: tuple[int, ...] = ()
    #: Instead of uid: the launcher chooses a uid that nobody else has while the box lives.
    dynamic: bool = False
    #: The job's state directory: made if it is not there, and made its user's own.
    state_directory: str | None = None
    #: Bytes and processes of the whole box; cores.
    memory: int | None = None
    swap: int | None = None
    pids: int | None = None
    cpu: float | None = None
    #: Seconds of processor time for any one process.
    cpu_time: int | None = None
    #: Descriptors of any one process.
    open_files: int | None = None
    #: Bytes of any one file written.
    file_size: int | None = None
    #: Bytes of private temporary files.
    tmp_size: int | None = None
    nice: int | None = None
    #: realtime, best-effort or idle.
    io_class: str | None = None
    #: host or system, see filesystem.View; None: the host's own, unchanged.
    root: str | None = None
    writable: tuple[str, ...] = ()
    readable: tuple[str, ...] = ()
    hidden: tuple[str, ...] = ()
    #: own or full.
    proc: str = "full"
    #: own: the box is a world of processes by itself; host: it sees and may signal the host's, as its user's rights go.
    processes: str = "own"
    #: host, loopback or none.
    network: str = "host"
    #: denylist or strict; None: no filter.
    seccomp: str | None = None

    def to_map(self) -> dict[str, object]:
        return {key: getattr(self, key) for key in _NAMES}

    @property
    def hash(self) -> str:
        """SHA-256, in hex, of all that it says."""
        import hashlib  # noqa: PLC0415 (the launcher, which asks for no hash, is forked with all that it has loaded)

        return hashlib.sha256(json.dumps(self.to_map(), sort_keys=True).encode()).hexdigest()

    def wants(self, layer: str) -> bool:
        return self.layers.get(layer, OFF) != OFF


_NAMES = tuple(f.name for f in fields(Policy))
_KEYS = frozenset(_NAMES)
_TUPLES = ("insisted", "groups", "writable", "readable", "hidden")


def from_map(values: Mapping[str, Any]) -> Policy:
    """The policy that to_map() wrote; ValueError names a key that this version does not know.

    An unknown key is refused and not passed over: it may be a restriction.
    """
    layers = {*values.get("layers", ()), *values.get("insisted", ())}
    unknown = sorted(set(values) - _KEYS) + sorted(layers - LAYERS.keys())
    if unknown:
        raise ValueError(f"policy key {unknown[0]!r} is not known to this launcher")
    for layer, word in values.get("layers", {}).items():
        if word not in (REQUIRE, PREFER, OFF):
            raise ValueError(f"policy layer {layer!r} says {word!r}, which is not known to this launcher")
    return Policy(**{**values, **{key: tuple(values.get(key, ())) for key in _TUPLES}})


#: What a profile requires and lets pass at best effort, said in the row: most jobs leave no process behind, and change no
#: modes of files that are none of theirs. A job that insists does not let it pass.
_LENIENT = ("tree_kill", "filesystem", "daemon_files")


def refuses(policy: Policy, layer: str, state: str) -> bool:
    """Whether a policy is refused where a layer of it comes to `state`."""
    lenient = layer in _LENIENT and layer not in policy.insisted
    return policy.layers[layer] == REQUIRE and (state == ABSENT or (state == BEST_EFFORT and not lenient))


def resolve(policy: Policy, offers: Mapping[str, str], missing: Mapping[str, str]) -> dict[str, str]:
    """layer -> what will be enforced, for every layer that the policy wants.

    `offers` is the probe's word: layer -> ENFORCED or BEST_EFFORT; `missing` says of the others why, and what would mend it.
    RefusedError names the first required layer that is not to be had.
    """
    found = {}
    for layer in LAYERS:
        if not policy.wants(layer):
            continue
        state = offers.get(layer, ABSENT)
        if refuses(policy, layer, state):
            why = missing.get(layer, "this host does not offer it")
            raise RefusedError(f"{layer}: required by profile {policy.profile!r} and not to be had: {why}")
        found[layer] = state
    return found
