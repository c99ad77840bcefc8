"""What this host offers, found out by running boxes rather than by asking for versions.

The launcher asks once, at its start. A layer can be masked (PRETEND) to see what the daemon does on a host without it.
"""

import os
import re
import select
import signal
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, NoReturn

from lnmt_scheduler.sandbox import box, cgroup, enter, landlock, namespaces, orders, policy, seccomp

#: Names, separated by commas, of what to act as if it were missing: pidns, userns, mounts, netns, namespaces, seccomp,
#: landlock, landlock=N (all that is newer than ABI N), and what cgroup.find() takes.
PRETEND = "LNMT_PRETEND"

_MEND = {
    "pidns": "a kernel with pid namespaces, and CAP_SYS_ADMIN for the daemon",
    "userns": "sysctl user.max_user_namespaces, kernel.unprivileged_userns_clone=1, or an AppArmor profile that allows them",
    "mounts": "a kernel from 5.12 on, and a /proc without anything mounted over it",
    "netns": "a kernel with network namespaces",
    "namespaces": "a kernel with ipc, uts and cgroup namespaces",
    "seccomp": "a kernel with CONFIG_SECCOMP_FILTER",
    "landlock": "a kernel from 5.13 on, with landlock in CONFIG_LSM or in lsm= on its command line",
    "scope": "a kernel from 6.12 on, with landlock",
}
_NO_LANDLOCK = f"landlock: not there, or older than its ABI {landlock.FILES_ABI}; it takes {_MEND['landlock']}"


#: What is missing where landlock alone keeps files, and they are the account's that the job runs as.
UNSEALED = (
    "a job can change modes, owners, dates and attributes of files of its own account, the daemon's among them, which "
    "landlock does not cover; it takes user namespaces, a daemon of root, or require: [daemon_files] in the job, which "
    "forbids it to change any"
)
#: Layers that a control group makes.
_COUNTED = ("memory", "cpu", "pids")
#: Milliseconds for one step of a box that only this can hold up.
_PATIENCE = 5000


@dataclass(frozen=True, slots=True)
class Host:
    #: namespaces.ROOT, USER_NAMESPACE, LANDLOCK or NONE.
    mode: str
    #: layer -> ENFORCED or BEST_EFFORT; what is not named is not to be had.
    layers: dict[str, str]
    #: layer -> why it is not to be had, and the mend.
    missing: dict[str, str] = field(default_factory=dict)
    cgroups: cgroup.Host = field(default_factory=lambda: cgroup.Host("none"))

    def to_map(self) -> dict[str, Any]:
        """All but where the cgroups are: for others to look at, not to make boxes with."""
        groups = self.cgroups
        return {
            "mode": self.mode,
            "layers": dict(self.layers),
            "missing": dict(self.missing),
            "cgroups": {
                "layout": groups.layout,
                "limits": sorted(groups.limits),
                "kill": groups.kill,
                "missing": list(groups.missing),
            },
        }


def from_map(values: Mapping[str, Any]) -> Host:
    """What to_map() told of a host."""
    groups = values["cgroups"]
    found = cgroup.Host(groups["layout"], (), frozenset(groups["limits"]), groups["kill"], tuple(groups["missing"]))
    return Host(values["mode"], values["layers"], values["missing"], found)


def probe(masked: frozenset[str] = frozenset()) -> Host:
    """The best mode that really works here, and what can be had in it. May move this process into a cgroup of its own."""
    landlock.act_as(_oldest(masked))
    mode, why = _mode(masked)
    layers = dict.fromkeys(policy.BASE, policy.ENFORCED)
    missing: dict[str, str] = {}
    if mode == namespaces.NONE:
        layers["tree_kill"] = policy.BEST_EFFORT
        missing["tree_kill"] = "; ".join(why)
    tried = {
        "filesystem": _try(mode, "mounts", masked, layers={"filesystem": policy.REQUIRE}, root="host"),
        "network": _try(mode, "netns", masked, layers={"network": policy.REQUIRE}, network="loopback"),
        "namespaces": _try(mode, "namespaces", masked, layers={"namespaces": policy.REQUIRE}),
        "no_new_privs": None,
        "seccomp": _masked("seccomp", masked) or seccomp.available(),
        "landlock": _masked("landlock", masked) or (None if landlock.abi() else _NO_LANDLOCK),
        "user": None
        if os.geteuid() == 0 and mode != namespaces.USER_NAMESPACE
        else "a run has a user of its own under a daemon of root only",
    }
    if not namespaces.has_mounts(mode):
        boxless = f"it takes a box, which cannot be had: {'; '.join(why)}"
        tried |= dict.fromkeys(("network", "namespaces"), boxless)
        tried["filesystem"] = None if landlock.abi() >= landlock.FILES_ABI else f"{boxless}; {_NO_LANDLOCK}"
    tried["daemon_files"] = tried["filesystem"]
    if tried["landlock"] is None and (costs := _landlock_costs()):
        layers["landlock"] = policy.BEST_EFFORT
        tried["landlock"] = costs
    if not namespaces.has_mounts(mode) and os.geteuid() != 0 and tried["filesystem"] is None:
        layers |= dict.fromkeys(("filesystem", "daemon_files"), policy.BEST_EFFORT)
        tried |= dict.fromkeys(("filesystem", "daemon_files"), UNSEALED)
    cgroups = cgroup.find(masked)
    reasons = "; ".join(cgroups.missing)
    tried |= {name: None if name in cgroups.limits else f"no cgroup: {reasons}" for name in _COUNTED}
    if tried["memory"] is not None:
        layers["memory"] = policy.BEST_EFFORT  # whoever starts the box looks at it, once a second
    for layer, problem in tried.items():
        if problem is None:
            layers[layer] = policy.ENFORCED
        else:
            missing[layer] = problem
    return Host(mode, layers, missing, cgroups)


def without_cgroups(host: Host, why: str) -> Host:
    """The same host once its cgroups have turned out to be gone, or not ours to change any more."""
    layers = {layer: state for layer, state in host.layers.items() if layer not in _COUNTED}
    missing = host.missing | dict.fromkeys(_COUNTED, f"no cgroup: {why}")
    return Host(host.mode, layers | {"memory": policy.BEST_EFFORT}, missing, cgroup.Host("none", missing=(why,)))


def _mode(masked: frozenset[str]) -> tuple[str, list[str]]:
    """The best mode, and what was tried and failed before it."""
    failed: list[str] = []
    candidates = [namespaces.ROOT] if os.geteuid() == 0 else []
    for mode in [*candidates, namespaces.USER_NAMESPACE]:
        name = "pidns" if mode == namespaces.ROOT else "userns"
        problem = _try(mode, name, masked | ({name} if "pidns" in masked else set()))
        if problem is None:
            return mode, failed
        failed.append(problem)
    problem = _try_scope(masked)
    if problem is None:
        return namespaces.LANDLOCK, failed
    return namespaces.NONE, [*failed, problem]


def _try_scope(masked: frozenset[str]) -> str | None:
    """Whether init's kill from its landlock layer ends a process that left its session; None if so, else why not.

    That it reaches nobody outside, init itself makes sure of before the job is forked.
    """
    if masked_out := _masked("landlock", masked):
        return masked_out
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        tried = box.start(
            policy.Policy(), namespaces.LANDLOCK, stdout=null, stderr=null, report=null, payload=null, body=_stray
        )
        poll = select.poll()
        poll.register(tried.control, select.POLLIN)
        poll.poll(_PATIENCE)
        tried.read_report()
        tried.kill()
        poll = select.poll()
        poll.register(tried.pidfd, select.POLLIN)
        if not poll.poll(_PATIENCE):
            signal.pidfd_send_signal(tried.pidfd, signal.SIGKILL)
        os.waitid(os.P_PIDFD, tried.pidfd, os.WEXITED | os.WNOWAIT)
        ending = tried.reap()
    except (OSError, enter.SandboxError) as error:
        return f"scoped signals: {error}"
    finally:
        os.close(null)
    if ending is not None and ending.report == orders.Report(0, None, leftovers=True):
        return None
    return f"scoped signals: {(ending and ending.sandbox_error) or 'a job was not ended by them'}{_mend('scope')}"


def _stray() -> NoReturn:
    """Leave behind a process in a session of its own, and see that init cannot be reached from here."""
    code = 1
    try:
        if os.fork() == 0:
            os.setsid()
            while True:
                signal.pause()
        os.kill(os.getppid(), 0)
    except PermissionError:
        code = 0
    finally:
        os._exit(code)


def _try(mode: str, name: str, masked: frozenset[str], **wanted: Any) -> str | None:
    """Run a box with this much and no more; None if it worked, else why not and the mend."""
    if masked_out := _masked(name, masked):
        return masked_out
    if not namespaces.has_mounts(mode):
        return f"{name}: needs root or user namespaces"
    mend = _mend(name)
    null = os.open("/dev/null", os.O_RDWR | os.O_CLOEXEC)
    try:
        asked = policy.Policy(**wanted)
        tried = box.start(asked, mode, stdout=null, stderr=null, report=null, payload=null, body=_leave)
        os.waitid(os.P_PIDFD, tried.pidfd, os.WEXITED | os.WNOWAIT)
        ending = tried.reap()
    except (OSError, enter.SandboxError) as error:
        return f"{name}: {error}{mend}"
    finally:
        os.close(null)
    if ending is None or ending.report is None or ending.report.exit_code != 0:
        return f"{name}: {(ending and (ending.sandbox_error or ending.spawn_error)) or 'the probe box failed'}{mend}"
    return None


def _mend(name: str) -> str:
    return f"; it takes {_MEND[name]}"


def _landlock_costs() -> str | None:
    """What this kernel's landlock lets through of what enter.plan() asks of it, and since which Linux it does not."""
    plan = landlock.build(landlock.Rules(readable=("/",), scope_abstract=True), landlock.abi())
    return f"landlock: ABI {plan.abi}: {'; '.join(plan.costs)}" if plan.costs else None


def _oldest(masked: frozenset[str]) -> int:
    """The ABI of landlock that may be used: all, or no newer than N if `landlock=N` is masked; 0 if landlock is."""
    limits = [int(word.removeprefix("landlock=")) for word in masked if re.fullmatch(r"landlock=\d{1,3}", word)]
    return 0 if "landlock" in masked else min(limits, default=landlock.NEWEST)


def _masked(name: str, masked: frozenset[str]) -> str | None:
    """What is said of a thing that is masked; None if it is not."""
    return f"{name}: masked{_mend(name)}" if name in masked else None


def _leave() -> NoReturn:
    os._exit(0 if os.path.exists("/proc/self/status") and os.getpid() == 2 else 1)
