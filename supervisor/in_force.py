"""The configuration that a daemon holds to, for who works something out in its place.

It is not always what config.toml says: that may have been edited and not been taken yet, have come to be wrong, or not be the
file that the daemon was started with. So the daemon leaves it in its store, for a supervisor after it and for schedctl while
none runs, and tells schedctl, in its State, the part that decides when jobs run.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

from lnmt_scheduler.supervisor import config, store

#: Where the store keeps them.
_CONFIG, _ZONE = "config", "zone"
#: Of the settings, what is told.
_TOLD = ("max_concurrent_jobs", "reserved_slots", "aging", "pools")


def keep(history: store.Store, settings: config.Settings) -> None:
    taken = json.dumps(settings.document)
    if taken != history.meta_get(_CONFIG):
        history.meta_set(_CONFIG, taken)


def kept(history: store.Store, source: str) -> config.Settings:
    """Those that held when the store was written last. Raises config.ConfigError, which names the file `source`."""
    taken = history.meta_get(_CONFIG)
    return config.Settings() if taken is None else config.parse(json.loads(taken), source)


def keep_zone(history: store.Store, zone: str) -> None:
    history.meta_set(_ZONE, zone)


def kept_zone(history: store.Store) -> str | None:
    """The zone of jobs that name none, be it of the configuration or of the host; None: no daemon had the store yet."""
    return history.meta_get(_ZONE)


def told(history: store.Store, settings: config.Settings) -> dict[str, Any]:
    """What a daemon says of it."""
    return {"zone": kept_zone(history), **{key: getattr(settings, key) for key in _TOLD}}


def as_told(settings: config.Settings, state: Mapping[str, Any]) -> config.Settings:
    """These settings, but for what a daemon that answered with this State says; one in trouble may say nothing."""
    said = {key: state[key] for key in _TOLD if key in state}
    return replace(settings, timezone=state.get("zone") or settings.timezone, **said)
