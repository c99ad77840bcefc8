"""A host without one layer or another: whoever requires it is refused in words, whoever prefers it runs and is told so.

Hosts differ in what they have, so each is held against itself: the same daemon, with one thing masked (LNMT_PRETEND).
"""

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import harness
import pytest
import standin

from lnmt_scheduler.sandbox import landlock, policy
from lnmt_scheduler.supervisor import rows, store


@dataclass(frozen=True)
class Lack:
    """What is masked, a layer that is missing then, and what its refusal says of why and of the mend."""

    masked: str
    layer: str
    why: str
    mend: str
    #: Besides the profile `standard`: to want the layer, or to require it.
    sandbox: dict[str, Any] = field(default_factory=dict)

    def __str__(self) -> str:
        return f"{self.masked}-{self.layer}"


DELEGATE = "Delegate=yes in the daemon's "
#: What no profile only prefers.
REQUIRED = [
    Lack("pidns,userns,landlock", "no_new_privs", "masked", "a kernel with pid namespaces|user.max_user_namespaces"),
    Lack("mounts", "filesystem", "mounts: masked", "a kernel from 5.12 on"),
    Lack("netns", "network", "netns: masked", "a kernel with network namespaces", {"network": "none"}),
    Lack("netns", "network", "netns: masked", "a kernel with network namespaces", {"network": "loopback"}),
    Lack("namespaces", "namespaces", "namespaces: masked", "a kernel with ipc, uts and cgroup namespaces"),
    Lack("seccomp", "seccomp", "seccomp: masked", "CONFIG_SECCOMP_FILTER"),
]
#: What `standard` prefers.
PREFERRED = [
    Lack("landlock", "landlock", "landlock: masked", "landlock in CONFIG_LSM", {"require": ["landlock"]}),
    # Older ones know nothing of abstract sockets, and then of ever less.
    Lack("landlock=5", "landlock", "landlock: ABI 5: abstract sockets", "from Linux 6.12", {"require": ["landlock"]}),
    Lack("landlock=2", "landlock", "can be cut short", "from Linux 6.2", {"require": ["landlock"]}),
    Lack("cgroup", "memory", "no cgroup: ", "mount cgroup2 at", {"require": ["memory"]}),
    Lack("cgroup", "pids", "no cgroup: ", "mount cgroup2 at", {"require": ["pids"]}),
    Lack("memory", "memory", "no cgroup: ", DELEGATE, {"require": ["memory"]}),
    Lack("pids", "pids", "no cgroup: ", DELEGATE, {"require": ["pids"]}),
]


@pytest.fixture(scope="module")
def masked() -> Iterator[Callable[[str], harness.Daemon]]:
    """A daemon for each thing to mask, started when it is first asked for; no test may break one."""
    folder = Path(tempfile.mkdtemp(prefix="lnmt-test-"))
    folder.chmod(0o755)
    made: dict[str, harness.Daemon] = {}

    def of(what: str) -> harness.Daemon:
        if what not in made:
            made[what] = harness.Daemon(folder / f"state{len(made)}", environment=_masking(what))
            made[what].start()
        return made[what]

    yield of
    for daemon in made.values():
        daemon.stop()
    shutil.rmtree(folder, ignore_errors=True)


def _masking(what: str) -> dict[str, str]:
    return {"LNMT_PRETEND": what}


def run(daemon: harness.Daemon, sandbox: dict[str, Any], **more: Any) -> dict[str, Any]:
    """A run of a job in this sandbox; its row."""
    job_id = f"job{len(daemon.history())}"
    daemon.add(
        **{"id": job_id, "command": "echo ran", "working_directory": "/", "max_retries": 0, "sandbox": sandbox, **more}
    )
    return daemon.run_to_end(job_id, with_retries=True)


def attempts(daemon: harness.Daemon, *runs: int) -> list[rows.AttemptRow]:
    """The attempts of these runs. Ends the daemon: the store is open for one process at a time."""
    path = str(daemon.state_dir / "lnmt.db")
    daemon.stop()

    def opened() -> store.Store | None:
        with contextlib.suppress(store.StoreError):  # the launcher has gone, and its supervisor is about to
            return store.Store.open(path, read_only=True)
        return None

    with contextlib.closing(harness.wait_for(opened, what="a store that nobody has open")) as found:
        return [attempt for run_id in runs for attempt in found.attempts(run_id)]


def has_standard(daemon: harness.Daemon) -> dict[str, str]:
    """What this host enforces of `standard` with nothing masked; skips where it cannot have it."""
    row = run(daemon, {"profile": "standard"})
    if row["reason"] == "sandbox":
        pytest.skip(f"a host that gives the profile standard: {row['error']}")
    assert row["status"] == "completed", row
    return dict(row["enforced"])


@pytest.mark.parametrize("lack", [*REQUIRED, *PREFERRED], ids=str)
def test_who_requires_what_is_masked_is_refused_with_layer_reason_and_mend(masked, lack):
    if lack.masked.startswith("landlock=") and landlock.abi() < int(lack.masked.removeprefix("landlock=")):
        pytest.skip(f"{lack.masked}: this kernel has ABI {landlock.abi()}")
    daemon = masked(lack.masked)
    row = run(daemon, {"profile": "standard", **lack.sandbox}, max_retries=3)
    assert (row["status"], row["reason"], row["exit_code"]) == ("failed", "sandbox", None)
    layer, _, rest = row["error"].partition(": ")
    if "pidns" in lack.masked:  # several are missing then, and the first is named
        assert layer in ("user", "no_new_privs", "filesystem")
    else:
        assert layer == lack.layer
    assert "required by profile 'standard'" in rest
    assert lack.why in rest
    assert any(mend in rest for mend in lack.mend.split("|"))
    assert row["retry_count"] == 0
    assert b"ran\n" not in daemon.output(row["run_id"]).splitlines(keepends=True)


@pytest.mark.parametrize("lack", PREFERRED, ids=str)
def test_who_prefers_it_runs_and_the_row_says_what_became_of_it(masked, lack):
    before = has_standard(masked(""))
    daemon = masked(lack.masked)
    row = run(daemon, {"profile": "standard"})
    assert row["status"] == "completed", row
    assert daemon.output(row["run_id"]) == b"ran\n"
    state = row["enforced"][lack.layer]
    # A watchdog can take the place of the memory's cgroup, and an older landlock is one all the same.
    lesser = lack.layer == "memory" or lack.masked.startswith("landlock=")
    assert state == (policy.BEST_EFFORT if lesser else policy.ABSENT)
    lost = {"memory", "pids"} if lack.masked == "cgroup" else {lack.layer}
    assert {layer: state for layer, state in row["enforced"].items() if layer not in lost} == {
        layer: state for layer, state in before.items() if layer not in lost
    }


@pytest.mark.parametrize("what", sorted({lack.masked for lack in (*REQUIRED, *PREFERRED)}))
def test_trusted_runs_whatever_is_masked(masked, what):
    daemon = masked(what)
    row = run(daemon, {"profile": "trusted"})
    assert (row["status"], daemon.output(row["run_id"])) == ("completed", b"ran\n"), row
    tree_kill = "best effort" if "pidns" in what else daemon.status()["mode"] != "d" and "enforced"
    assert row["enforced"]["tree_kill"] == (tree_kill or "best effort")


def test_untrusted_is_refused_without_memory_or_processes_limited(masked):
    for what in ("memory", "pids"):
        row = run(masked(what), {"profile": "untrusted"})
        assert (row["reason"], row["error"].partition(":")[2].startswith(" required by")) == ("sandbox", True), row


def test_user_namespaces_are_what_a_daemon_without_root_needs_and_root_does_not(masked):
    has_standard(masked(""))
    row = run(masked("userns,landlock"), {"profile": "standard"})
    if os.geteuid() == 0:
        assert row["status"] == "completed", row
    else:
        assert row["reason"] == "sandbox"
        assert "userns: masked; it takes sysctl user.max_user_namespaces" in row["error"]


# In the store.


def test_every_attempt_keeps_its_policy_and_what_was_enforced_of_it(make_daemon):
    daemon = make_daemon(environment=_masking("landlock"))
    first_fails = 'test "$LNMT_ATTEMPT" = 2'
    row = run(daemon, {"profile": "trusted"}, command=first_fails, max_retries=1, retry_delay=0)
    one, two = attempts(daemon, row["run_id"])
    assert (one.reason, two.status) == ("exit", "completed")
    assert one.policy == two.policy
    assert len(str(one.policy)) == 64
    assert one.enforced == two.enforced == row["enforced"]
    assert one.enforced["environment"] == policy.ENFORCED


def test_a_refused_attempt_keeps_the_policy_that_was_refused(make_daemon):
    daemon = make_daemon(environment=_masking("seccomp"))
    wanted = ({"profile": "standard"}, {"profile": "standard", "network": "none"}, {"profile": "trusted"})
    refused, other, trusted = attempts(daemon, *(run(daemon, sandbox)["run_id"] for sandbox in wanted))
    assert (refused.reason, refused.enforced) == ("sandbox", {})
    assert len({refused.policy, other.policy, trusted.policy, None}) == 4


def test_what_cannot_be_prepared_has_no_policy(daemon):
    daemon.add(id="job", command="true", environment_file=f"{daemon.state_dir}/none", max_retries=0)
    row = daemon.run_to_end("job")
    (attempt,) = attempts(daemon, row["run_id"])
    assert (row["reason"], attempt.policy) == ("spawn", None)
    assert "environment_file: " in row["error"]


# At the launcher, where every layer can be preferred: what is absent is not there at all, and not half.


#: What is masked, the layer, how the policy asks for it, and a command that says "with" it or "without".
WITHOUT = {
    "mounts": ("filesystem", {"root": "host"}, 'test -e "$1" && echo without || echo with'),
    "netns": (
        "network",
        {"network": "none"},
        'test "$(readlink /proc/self/ns/net)" = "$2" && echo without || echo with',
    ),
    "namespaces": ("namespaces", {}, 'test "$(readlink /proc/self/ns/ipc)" = "$3" && echo without || echo with'),
    "seccomp": (
        "seccomp",
        {"seccomp": "denylist"},
        'test "$(grep -c "^Seccomp_filters:.$4$" /proc/self/status)" = 1 && echo without || echo with',
    ),
}


@pytest.mark.parametrize("masked_now", [False, True])
@pytest.mark.parametrize("what", WITHOUT)
def test_a_layer_that_is_preferred_and_masked_is_absent_in_whole(folder, what, masked_now):
    layer, asked, command = WITHOUT[what]
    layers = dict.fromkeys(policy.BASE, policy.REQUIRE) | {"no_new_privs": policy.PREFER, layer: policy.PREFER}
    wanted = policy.Policy(layers=layers, **asked)
    filters = next(line.split()[1] for line in _status() if line.startswith("Seccomp_filters"))
    facts = [str(folder), os.readlink("/proc/self/ns/net"), os.readlink("/proc/self/ns/ipc"), filters]
    with standin.Launched(folder, masked=what if masked_now else "") as launched:
        done = launched.run("/bin/sh", "-c", command, "sh", *facts, wanted=wanted.to_map())
    state = done.exited.enforced[layer]
    if not masked_now and state != policy.ENFORCED:
        pytest.skip(f"{layer}: this host does not offer it")
    assert state == (policy.ABSENT if masked_now else policy.ENFORCED)
    assert done.stdout == (b"without\n" if masked_now else b"with\n")


def _status() -> list[str]:
    return Path("/proc/self/status").read_text().splitlines()


def test_a_preferred_layer_never_touches_the_host_in_a_mode_without_boxes(folder):
    """The mounts of a box that is none would be the host's own."""
    layers = dict.fromkeys(policy.BASE, policy.REQUIRE) | dict.fromkeys(("filesystem", "network"), policy.PREFER)
    wanted = policy.Policy(layers=layers, root="host", network="loopback", hidden=(str(folder),))
    before = Path("/proc/self/mountinfo").read_text()
    with standin.Launched(folder, masked="pidns,userns,landlock") as launched:
        done = launched.run("/bin/sh", "-c", 'test -e "$1"', "sh", str(folder), wanted=wanted.to_map())
    assert (done.exited.exit_code, done.exited.sandbox_error) == (0, None)
    assert done.exited.enforced["filesystem"] == done.exited.enforced["network"] == policy.ABSENT
    assert Path("/proc/self/mountinfo").read_text() == before
