"""Network status: what became of each device since it was last looked at.

The states that damping.py goes through are kept in one small file of the job's state directory. Changes are told in the
output before they are remembered: a run that is killed in between has them told again by the next one, and none is lost.
"""

import itertools
import os
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from lnmt_scheduler.jobs import damping, inventory, keep, probes

#: Of the devices and of what ails them, so many are named in a result.
_NAMED = 50
#: Of checks and interfaces together, so many have a state; the file that keeps them stays well below what is read of it.
_JUDGED = 100_000
_WRAPS = 1 << 32
#: Hundredths of a second: what an answer may have been on its way, and clocks may differ.
_SLACK = 500


def poll(
    devices: Sequence[inventory.Device],
    state_dir: str,
    rules: damping.Rules,
    timeout: float,
    tick: Callable[[int, int], None] = lambda *_: None,
) -> dict[str, Any]:
    """Look at all devices once, tell what has changed, and remember how things are."""
    path = os.path.join(state_dir, "network.json")
    kept = keep.read(path)
    try:
        states = {name: damping.State.unpacked(values) for name, values in kept.get("targets", {}).items()}
        boots = {str(name): (float(when), int(uptime)) for name, (when, uptime) in kept.get("boots", {}).items()}
    except (ValueError, TypeError, AttributeError) as error:
        keep.aside(path, str(error))
        states, boots = {}, {}
    seen = probes.look(devices, timeout, tick)
    observations = seen.observations[:_JUDGED]
    if len(seen.observations) > _JUDGED:
        print(f"{len(seen.observations)} checks, interfaces included; the first {_JUDGED} count", file=sys.stderr)
    now = round(time.time(), 3)
    after, changes = judge(states, observations, now, rules)
    changes += restarts(boots, seen.uptimes)
    for change in changes:
        print(describe(change))
    known = {device.name for device in devices}
    silent = (name for name in states if name not in after and _interface_of(name) in known)
    after |= {name: states[name] for name in itertools.islice(silent, _JUDGED - len(after))}
    boots = {name: each for name, each in boots.items() if name in known}
    keep.write(
        path,
        {
            "targets": {name: state.packed() for name, state in after.items()},
            "boots": {**boots, **seen.uptimes},
        },
    )
    return report(devices, observations, after, changes)


def _interface_of(target: str) -> str | None:
    """The device of an interface: while its agent is silent nobody knows about it, and its state is kept."""
    device, _, what = target.partition(" ")
    return device if what.startswith("interface ") else None


def judge(
    states: Mapping[str, damping.State], observations: Sequence[probes.Observation], now: float, rules: damping.Rules
) -> tuple[dict[str, damping.State], list[dict[str, Any]]]:
    """The states after these observations, and the changes among them."""
    after: dict[str, damping.State] = {}
    changes = []
    for each in observations:
        state, before = damping.step(states.get(each.target, damping.State()), each.good, now, rules)
        after[each.target] = state
        if before is not None:
            changes.append(
                {"device": each.device, "what": each.what, "from": before, "to": state.status, "why": each.why}
            )
    return after, changes


def restarts(boots: Mapping[str, tuple[float, int]], uptimes: Mapping[str, tuple[float, int]]) -> list[dict[str, Any]]:
    """Devices that have been up for less time than since they were last asked."""
    found = []
    for device, (now, uptime) in uptimes.items():
        if device not in boots:
            continue
        when, before = boots[device]
        elapsed = (now - when) * 100
        # After 497 days the counter begins anew by itself.
        wrapped = before + elapsed >= _WRAPS > before and abs(before + elapsed - _WRAPS - uptime) < 6000
        if uptime + _SLACK < elapsed and not wrapped:
            found.append(
                {"device": device, "what": "snmp", "from": "up", "to": "restarted", "why": f"up for {uptime // 100} s"}
            )
    return found


def describe(change: Mapping[str, Any]) -> str:
    why = f" ({change['why']})" if change["why"] else ""
    return f"{change['device']} {change['what']}: {change['from']} -> {change['to']}{why}"


def report(
    devices: Sequence[inventory.Device],
    observations: Sequence[probes.Observation],
    states: Mapping[str, damping.State],
    changes: Sequence[dict[str, Any]],
) -> dict[str, Any]:
    """The job's result: how many of the devices are how, what ails the ones that are not well, and what has changed."""
    seen: dict[str, list[probes.Observation]] = {device.name: [] for device in devices}
    for each in observations:
        seen[each.device].append(each)
    status = {name: _together([states[each.target].status for each in found]) for name, found in seen.items()}
    ailing = [
        {"device": each.device, "what": each.what, "status": states[each.target].status, "since": states[each.target].since,
         "why": each.why}
        for each in observations
        if states[each.target].status in (damping.DOWN, damping.FLAPPING)
    ]  # fmt: skip
    counts = {word: list(status.values()).count(word) for word in ("online", "degraded", "offline", "unknown")}
    return {
        "devices": {
            name: {"status": status[name], **_measured(found)} for name, found in seen.items()
        },
        "counts": counts,
        "ailing": ailing[:_NAMED],
        "ailing_count": len(ailing),
        "changes": changes[:_NAMED],
        "changes_count": len(changes),
    }  # fmt: skip


def _together(words: Sequence[str]) -> str:
    """How a device is, of whose checks these are the states."""
    if not words or all(word == damping.UNKNOWN for word in words):
        return "unknown"
    if all(word == damping.DOWN for word in words):
        return "offline"
    return "degraded" if any(word in (damping.DOWN, damping.FLAPPING) for word in words) else "online"


def _measured(observations: Sequence[probes.Observation]) -> dict[str, float]:
    """The first round trip that was measured, that of ICMP before any other, and the loss."""
    ordered = sorted(observations, key=lambda each: each.loss is None)
    found: dict[str, float] = {}
    for each in ordered:
        if each.milliseconds is not None:
            found["response_time"] = each.milliseconds
            break
    for each in ordered:
        if each.loss is not None:
            found["loss"] = each.loss
    return found
