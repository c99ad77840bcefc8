"""Reports on their way: files that are put in place whole, and each delivered once to each target."""

import os
import re
from collections.abc import Mapping
from typing import Any

from lnmt_scheduler.jobs import delivery, keep

_NAME = re.compile(r"(daily|weekly)-[0-9]{4}-[0-9]{2}-[0-9]{2}\.(html|txt|csv)")


def put(folder: str, name: str, made: Mapping[str, str], kept: int) -> list[str]:
    """Write NAME.html and so on, and remove all but the newest reports of its kind; the paths."""
    os.makedirs(folder, mode=0o755, exist_ok=True)
    paths = []
    for suffix, text in made.items():
        paths.append(os.path.join(folder, f"{name}.{suffix}"))
        keep.write_bytes(paths[-1], text.encode())
        os.chmod(paths[-1], 0o644)
    kind = name.partition("-")[0]
    found = sorted(each for each in os.listdir(folder) if _NAME.fullmatch(each) and each.startswith(f"{kind}-"))
    days = sorted({each.partition(".")[0] for each in found}, reverse=True)
    for each in found:
        if each.partition(".")[0] in days[max(1, kept) :]:
            os.unlink(os.path.join(folder, each))
    return paths


def send_once(
    state_dir: str, message: delivery.Message, targets: Mapping[str, delivery.AnyTarget], secret: delivery.Secret
) -> list[str]:
    """Send it to each target that does not have it yet; what went wrong. A report that is made anew is not sent anew."""
    path = os.path.join(state_dir, "sent.json")
    state: dict[str, Any] = keep.read(path)
    failed = []
    for name, target in targets.items():
        if state.get(name) == message.key:
            continue
        error = delivery.attempt(target, message, secret)
        if error is not None:
            failed.append(f"{name}: {error}")
            continue
        state[name] = message.key
        keep.write(path, state)
    return failed
