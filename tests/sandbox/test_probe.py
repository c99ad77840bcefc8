"""What this host is found to offer, by running a box."""

import ast
import os

import standin

from lnmt_scheduler.sandbox import policy

SOURCE = """
import os, sys
from lnmt_scheduler.sandbox import probe
before = sorted(os.listdir("/proc/self/fd"))
host = probe.probe(frozenset(sys.argv[1].split(",")))
assert sorted(os.listdir("/proc/self/fd")) == before
print((host.mode, host.layers, host.missing))
"""


def probe(masked: str = "", user: str | None = None) -> tuple[str, dict[str, str], tuple[str, ...]]:
    done = standin.python(SOURCE, masked, user=user)
    assert done.returncode == 0, done.stderr
    found: tuple[str, dict[str, str], tuple[str, ...]] = ast.literal_eval(done.stdout)
    return found


def test_every_layer_of_the_profile_is_judged():
    mode, layers, missing = probe()
    assert set(layers) >= set(policy.Policy().layers)
    assert (mode == "d") == (layers["tree_kill"] == "best effort")
    assert (mode == "a" or os.geteuid() != 0) or missing


def test_a_masked_host_is_best_effort_and_says_what_is_missing():
    mode, layers, missing = probe("pidns,userns")
    assert (mode, layers["tree_kill"]) == ("d", "best effort")
    assert "userns: masked" in missing
    assert {layers[layer] for layer in policy.Policy().layers if layer != "tree_kill"} == {"enforced"}


def test_without_pid_namespaces_user_namespaces_are_of_no_use():
    assert probe("pidns")[0] == "d"


def test_an_ordinary_user_is_never_told_that_it_is_root(ordinary_user):
    mode, _, missing = probe(user=ordinary_user if os.geteuid() == 0 else None)
    assert mode in ("b", "d")
    assert (mode == "b") == (missing == ())
