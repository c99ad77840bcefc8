"""What a child may use and see, as data: the launcher gets it as a map, builds the box from it, and stores nothing else.

Every layer of a policy is `require`, `prefer` or `off`; a required layer that the host lacks is a refusal. The user is
given by number, since whoever builds a policy has already asked the name service and the launcher must never wait for it.
"""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

REQUIRE, PREFER, OFF = "require", "prefer", "off"

#: The layers of the profile `trusted`: what tells a job from a line in a crontab without taking anything from it.
TRUSTED = {
    "tree_kill": REQUIRE,
    "environment": REQUIRE,
    "descriptors": REQUIRE,
    "signals": REQUIRE,
    "core_dumps": REQUIRE,
    "rlimits": REQUIRE,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Policy:
    profile: str = "trusted"
    layers: Mapping[str, str] = field(default_factory=lambda: dict(TRUSTED))
    #: Numbers of the user that the job runs as; None: as the launcher itself.
    uid: int | None = None
    gid: int | None = None
    #: Supplementary groups; only with uid.
    groups: tuple[int, ...] = ()
    #: The job's state directory: made if it is not there, and made its user's own.
    state_directory: str | None = None
    #: Seconds of processor time for any one process.
    cpu_time: int | None = None
    #: Descriptors of any one process.
    open_files: int | None = None
    #: Bytes of any one file written.
    file_size: int | None = None
    nice: int | None = None
    #: realtime, best-effort or idle.
    io_class: str | None = None

    def to_map(self) -> dict[str, object]:
        return asdict(self)


_KEYS = frozenset(f.name for f in fields(Policy))


def from_map(values: Mapping[str, Any]) -> Policy:
    """The policy that to_map() wrote; ValueError names a key that this version does not know.

    An unknown key is refused and not passed over: it may be a restriction.
    """
    unknown = sorted(set(values) - _KEYS)
    if unknown:
        raise ValueError(f"policy key {unknown[0]!r} is not known to this launcher")
    return Policy(**{**values, "groups": tuple(values.get("groups", ()))})
