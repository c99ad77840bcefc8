"""What this host is found to offer, by running a box."""

import ast
import os
import re

import pytest
import standin

from lnmt_scheduler.sandbox import landlock, policy

SOURCE = """
import os, sys
from lnmt_scheduler.sandbox import probe
before = sorted(os.listdir("/proc/self/fd"))
host = probe.probe(frozenset(sys.argv[1].split(",")))
assert sorted(os.listdir("/proc/self/fd")) == before
print((host.mode, host.layers, host.missing))
"""


def probe(masked: str = "", user: str | None = None) -> tuple[str, dict[str, str], dict[str, str]]:
    done = standin.python(SOURCE, masked, user=user)
    assert done.returncode == 0, done.stderr
    found: tuple[str, dict[str, str], dict[str, str]] = ast.literal_eval(done.stdout)
    return found


@pytest.fixture
def scopes() -> None:
    if landlock.abi() < 6:
        pytest.skip(f"a landlock that scopes signals (ABI 6): this kernel has ABI {landlock.abi()}")


def test_every_layer_is_judged_and_what_is_missing_says_why():
    mode, layers, missing = probe()
    assert layers.keys() | missing.keys() == policy.LAYERS.keys()
    assert set(layers) >= set(policy.BASE)
    assert layers.keys() & missing.keys() == {layer for layer, state in layers.items() if state == policy.BEST_EFFORT}
    assert (mode == "d") == (layers["tree_kill"] == policy.BEST_EFFORT)
    assert all(missing.values())


def test_a_masked_host_is_best_effort_and_says_what_is_missing():
    mode, layers, missing = probe("pidns,userns,landlock")
    assert (mode, layers["tree_kill"]) == ("d", policy.BEST_EFFORT)
    assert "userns: masked" in missing["tree_kill"]
    assert {layers[layer] for layer in policy.BASE if layer != "tree_kill"} == {policy.ENFORCED}
    for layer in ("filesystem", "daemon_files", "network", "namespaces"):
        assert layer not in layers
        assert "userns: masked" in missing[layer]


def test_without_pid_namespaces_user_namespaces_are_of_no_use():
    assert probe("pidns,landlock")[0] == "d"


def test_a_landlock_that_scopes_signals_takes_the_place_of_namespaces(scopes):
    mode, layers, missing = probe("pidns")
    assert (mode, layers["tree_kill"]) == ("c", policy.ENFORCED)
    for layer in ("no_new_privs", "seccomp", "landlock"):
        assert layers[layer] == policy.ENFORCED
    for layer in ("filesystem", "daemon_files"):
        assert layers[layer] == (policy.ENFORCED if os.geteuid() == 0 else policy.BEST_EFFORT)
    for layer in ("network", "namespaces"):
        assert layer not in layers
        assert "userns: masked" in missing[layer]


@pytest.mark.parametrize(("abi", "has_files"), [(0, False), (2, False), (3, True), (5, True)])
def test_an_older_landlock_restricts_files_but_ends_no_tree(scopes, abi, has_files):
    mode, layers, missing = probe(f"pidns,landlock={abi}")
    assert (mode, layers["tree_kill"]) == ("d", policy.BEST_EFFORT)
    assert "Linux 6.12" in missing["tree_kill"]
    assert ("filesystem" in layers) == has_files


@pytest.mark.parametrize(
    ("masked", "lost"),
    [
        ("mounts", {"filesystem", "daemon_files"}), ("netns", {"network"}), ("namespaces", {"namespaces"}),
        ("seccomp", {"seccomp"}), ("landlock", {"landlock"}), ("cgroup", {"memory", "cpu", "pids"}),
        ("memory", {"memory"}), ("pids", {"pids"}),
    ],
)  # fmt: skip
def test_what_is_masked_is_missing_with_its_mend_and_nothing_else_is(masked, lost):
    mode, layers, _ = probe()
    without = probe(masked)
    assert without[0] == mode
    enforced, before = (
        {layer for layer, state in each.items() if state == policy.ENFORCED} for each in (without[1], layers)
    )
    assert enforced == before - lost
    assert without[1].get("memory", policy.BEST_EFFORT) == policy.BEST_EFFORT or "memory" not in lost
    for layer in lost:
        assert re.search("masked; it takes |Delegate=yes|mount cgroup2", without[2][layer]), without[2][layer]


def test_an_ordinary_user_is_never_told_that_it_is_root(ordinary_user):
    mode, layers, missing = probe(user=ordinary_user if os.geteuid() == 0 else None)
    assert mode in ("b", "c", "d")
    assert (mode == "d") == (layers["tree_kill"] == policy.BEST_EFFORT)
    assert "user" in missing
    assert "user" not in layers
