"""What this host offers, found out by running a box rather than by asking for versions.

The launcher asks once, at its start. A layer can be masked (PRETEND) to see what the daemon does on a host without it.
"""

import os
from dataclasses import dataclass
from typing import NoReturn

from lnmt_scheduler.sandbox import box, enter, namespaces, policy

#: Names, separated by commas, of what to act as if it were missing: pidns, userns.
PRETEND = "LNMT_PRETEND"


@dataclass(frozen=True, slots=True)
class Host:
    #: namespaces.ROOT, USER_NAMESPACE or NONE.
    mode: str
    #: layer -> "enforced" or "best effort".
    layers: dict[str, str]
    #: What was tried and failed, in words; empty in the best mode.
    missing: tuple[str, ...] = ()


def probe(masked: frozenset[str] = frozenset()) -> Host:
    """The best mode that really works here."""
    missing: list[str] = []
    candidates = [namespaces.ROOT] if os.geteuid() == 0 else []
    for mode in [*candidates, namespaces.USER_NAMESPACE]:
        name = "pidns" if mode == namespaces.ROOT else "userns"
        problem = f"{name}: masked" if {name, "pidns"} & masked else _try(mode)
        if problem is None:
            return Host(mode, dict.fromkeys(policy.BASE, "enforced"), tuple(missing))
        missing.append(problem)
    layers = dict.fromkeys(policy.BASE, "enforced") | {"tree_kill": "best effort"}
    return Host(namespaces.NONE, layers, tuple(missing))


def _try(mode: str) -> str | None:
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        tried = box.start(policy.Policy(), mode, stdout=null, stderr=null, report=null, payload=null, body=_leave)
        os.waitid(os.P_PIDFD, tried.pidfd, os.WEXITED | os.WNOWAIT)
        ending = tried.reap()
    except (OSError, enter.SandboxError) as error:
        return f"mode {mode}: {error}"
    finally:
        os.close(null)
    if ending is None or ending.report is None or ending.report.exit_code != 0:
        return f"mode {mode}: {(ending and (ending.sandbox_error or ending.spawn_error)) or 'the probe box failed'}"
    return None


def _leave() -> NoReturn:
    os._exit(0 if os.path.exists("/proc/self/status") and os.getpid() == 2 else 1)
