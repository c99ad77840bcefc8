"""The polling jobs: network status, system metrics, security log. What they are given and what they return is here.

Runs in the job's process, inside its box; how each does its work is in the modules that it imports when it is called, so
that none pays for the packages of another.
"""
# ruff: noqa: PLC0415 - what one job needs is not loaded for the others

import os
from collections.abc import Sequence
from typing import Any

from lnmt_scheduler.jobs.context import JobContext, folder_of

_JOURNALS = ("/var/log/journal", "/run/log/journal")
_AUTH_LOGS = ("/var/log/auth.log", "/var/log/secure")


def network_status(
    inventory: str | None = None,
    *,
    devices: Sequence[Any] | None = None,
    timeout: float = 2,
    down_after: int = 2,
    up_after: int = 2,
    flap_turns: int = 6,
    flap_window: float = 3600,
    context: JobContext | None = None,
) -> dict[str, Any]:
    """Look at each device of an inventory file, or of `devices`, once: ICMP, TCP, HTTP and SNMP as the inventory says.

    What has changed is printed, one line each. A check is down after `down_after` polls in a row that failed, up again after
    `up_after` that did not, and flapping if it turned `flap_turns` times within `flap_window` seconds. `timeout` is in
    seconds, for each answer.
    """
    from lnmt_scheduler.jobs import damping, needs, network
    from lnmt_scheduler.jobs import inventory as inventories

    if (inventory is None) == (devices is None):
        needs.end("network_status wants either `inventory`, a file, or `devices`, a list")
    if not 0 < timeout <= 60 or min(down_after, up_after) < 1 or not 2 <= flap_turns <= 1000 or flap_window <= 0:
        needs.end(
            "network_status: timeout 0 to 60 s, down_after and up_after from 1, flap_turns 2 to 1000, flap_window above 0"
        )
    found = inventories.load(inventory) if inventory is not None else inventories.check(devices or [])
    rules = damping.Rules(down_after=down_after, up_after=up_after, flap_turns=flap_turns, flap_window=flap_window)
    tick = (lambda done, total: context.progress(done, total, "checks")) if context is not None else (lambda *_: None)
    return network.poll(found, folder_of(context), rules, timeout, tick)


def system_metrics(
    *, keep_days: float = 30, mounts: Sequence[str] = (), context: JobContext | None = None
) -> dict[str, Any]:
    """Add a sample of how busy this host is to a series, and return it, with what has changed since the last one.

    `mounts` are looked at besides those of local disks; `keep_days` is how long a sample is kept.
    """
    from lnmt_scheduler.jobs import metrics, needs

    if not 0 < keep_days <= 3650 or len(mounts) > 100:
        needs.end("system_metrics: keep_days is above 0 and at most 3650, and mounts are at most 100")
    try:
        return metrics.sample(folder_of(context), keep_days, mounts)
    except FileNotFoundError as error:
        needs.end(f"system_metrics: no such mount: {error.filename}")


def security_log(
    *,
    source: str = "auto",
    files: Sequence[str] = (),
    journal_directory: str | None = None,
    max_bytes: int = 16 * 1024 * 1024,
    context: JobContext | None = None,
) -> dict[str, Any]:
    """Tell what is new in the journal or in `files`: failed logins by source, new addresses, refused sudo, new accounts.

    `source` is `journal`, `files` or `auto`: the journal where there is one, else the usual files. `max_bytes` of each are read
    at a time.
    """
    import time

    from lnmt_scheduler.jobs import needs, security

    if source not in ("auto", "journal", "files") or not 4096 <= max_bytes <= 1 << 28 or len(files) > 20:
        needs.end("security_log: source is auto, journal or files; max_bytes is 4 KiB to 256 MiB; files are at most 20")
    journal = source == "journal" or (source == "auto" and not files and any(map(os.path.isdir, _JOURNALS)))
    paths = [] if journal else list(files) or [path for path in _AUTH_LOGS if os.path.exists(path)]
    if not journal and not paths:
        needs.end(f"security_log: neither a journal ({_JOURNALS[0]}) nor {' or '.join(_AUTH_LOGS)}", needs.UNAVAILABLE)
    try:
        return security.analyze(
            folder_of(context), time.time(), files=paths, journal=journal, directory=journal_directory, limit=max_bytes
        )
    except PermissionError as error:
        needs.end(
            f"{error.filename} cannot be read: give the job a `user` by name and the group adm", needs.UNAVAILABLE
        )
    except FileNotFoundError as error:
        needs.end(f"security_log: no such file: {error.filename}")


class LNMTPollingJobs:
    """The same by the names of the first document."""

    poll_network_status = staticmethod(network_status)
    collect_system_metrics = staticmethod(system_metrics)
    analyze_security_logs = staticmethod(security_log)
