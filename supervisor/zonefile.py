"""What a zone's file says, as a short text that changes with it: how a new tzdata is noticed without a restart.

Looked up as zoneinfo does it, in its folders and then in the package tzdata. Nothing here knows what a zone means.
"""

import hashlib
import importlib.resources
import os
import zoneinfo


def digest(zone: str) -> str | None:
    """Of the zone's file, by the name of a zone that cron.parse() has accepted at some time; None: there is none now."""
    for folder in zoneinfo.TZPATH:
        try:
            with open(os.path.join(folder, zone), "rb") as file:
                return _short(file.read())
        except OSError:
            continue
    try:
        return _short(importlib.resources.files("tzdata").joinpath("zoneinfo", *zone.split("/")).read_bytes())
    except (ImportError, OSError):
        return None


def _short(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]
