"""Each layer taken out in turn: what it blocks becomes possible, and with it in place it is not.

Where layers overlap, those that would block the same are left out of both runs, so that the one in question stands alone.
"""

import os
import signal
from dataclasses import dataclass, replace
from typing import Any

import harness
import pytest
from escape import catalogue, site

from lnmt_scheduler.sandbox import policy

#: What goes with a layer besides its name.
FIELDS: dict[str, dict[str, Any]] = {
    "memory": {"memory": None, "swap": None},
    "cpu": {"cpu": None},
    "pids": {"pids": None},
    "user": {"dynamic": False},
    "filesystem": {"root": None, "readable": (), "writable": (), "hidden": ()},
    "daemon_files": {"hidden": ()},
    "network": {"network": "host"},
    "seccomp": {"seccomp": None},
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proof:
    """That a layer blocks a case, and nothing else does."""

    case: str
    #: The outcome without the layer; None: any that is not right.
    then: str | None = None
    #: Layers that would block the same.
    besides: tuple[str, ...] = ()
    modes: tuple[str, ...] = ("a", "b", "c")
    profile: str = "standard"
    network: str | None = None


PROOFS = {
    "environment": Proof(case="own_environment"),
    "descriptors": Proof(case="use_every_descriptor"),
    "signals": Proof(case="signals_at_start"),
    "core_dumps": Proof(case="dump_core", then="dumped", besides=("seccomp",)),  # which lets no job raise the limit
    "rlimits": Proof(case="huge_file", then="done"),
    "memory": Proof(case="balloon", then="exit 0"),
    "cpu": Proof(case="spin", then="exit 1"),
    "pids": Proof(case="fork_bomb", then="done"),
    "user": Proof(case="shadow", modes=("a",)),
    # In a user namespace a box has no privilege to lose, and setuid programs give none that it knows.
    "no_new_privs": Proof(case="mount_tmpfs", then="mounted", besides=("user", "seccomp", "landlock"), modes=("a",)),
    "filesystem": Proof(case="write_outside", then="opened", besides=("landlock",)),
    "daemon_files": Proof(case="daemon_database", then="read 6 bytes"),
    "network": Proof(case="reach_the_host", then="connected", network="none", modes=("a", "b")),
    "namespaces": Proof(case="shared_memory_of_the_host", then="found", besides=("seccomp",), modes=("a", "b")),
    "seccomp": Proof(case="add_key", then="added"),
    "landlock": Proof(case="abstract_socket", then="connected", modes=("a", "b")),
}
#: The end of the whole tree is nobody's to leave out: here init and launcher are made to forget it.
NO_TREE_KILL = """
from lnmt_scheduler.sandbox import init
init._kill_until_empty = lambda *_, **__: None
init._reap, reap = lambda main: (reap(main)[0], False), init._reap
from lnmt_scheduler.supervisor import boxes
boxes.Boxes._kill_strays = lambda *_: None
"""


def without(wanted: policy.Policy, *layers: str) -> policy.Policy:
    for layer in layers:
        kept = {each: word for each, word in wanted.layers.items() if each != layer}
        wanted = replace(wanted, layers=kept, **FIELDS.get(layer, {}))
    return wanted


def outcome(here: site.Site, wanted: policy.Policy, case: catalogue.Case) -> str:
    return here.whole(wanted, case) if case.whole else here.attempt(wanted, [case.name])[case.name]


def test_there_is_a_proof_for_every_layer():
    assert set(PROOFS) | {"tree_kill"} == set(policy.LAYERS)


@pytest.mark.parametrize(("layer", "mode"), [(layer, mode) for layer, proof in PROOFS.items() for mode in proof.modes])
def test_without_it_at_least_one_case_becomes_possible(layer, mode, sites, request):
    proof = PROOFS[layer]
    case = catalogue.BY_NAME[proof.case]
    here = sites.get(mode)
    if layer not in here.launched.welcome.layers or set(case.needs) & here.missing.keys():
        pytest.skip(f"{layer}: {here.missing[layer]}")
    site.need_landlock(case)
    wanted = here.policy_of(proof.profile, network=proof.network, **case.policy)
    whole = without(wanted, *proof.besides)
    assert outcome(here, whole, case) in case.right(proof.profile, mode)
    if layer in site.UNDOING:
        user = request.getfixturevalue("ordinary_user") if mode != "a" else None
        with site.open_site(mode, user, before=site.UNDOING[layer]) as open_to_all:
            bare = without(open_to_all.policy_of(proof.profile, **case.policy), layer, *proof.besides)
            found = outcome(open_to_all, bare, case)
    else:
        found = outcome(here, without(whole, layer), case)
    assert not found.startswith("not started")
    assert found not in case.right(proof.profile, mode)
    assert proof.then in (None, found)


def test_without_the_end_of_the_whole_tree_an_orphan_outlives_its_run(ordinary_user):
    """In the mode that has no pid namespace: elsewhere the kernel itself would have to forget."""
    try:
        ended = {name: _outlives(ordinary_user, before) for name, before in (("with", ""), ("without", NO_TREE_KILL))}
    except LookupError as error:
        pytest.skip(str(error))
    assert ended == {"with": False, "without": True}


def _outlives(user: str, before: str) -> bool:
    """Whether an orphan is alive after its run, under a launcher that is changed so; it is ended then."""
    case = catalogue.BY_NAME["survivor"]
    with site.open_site("d", user, before=before) as here:
        assert here.whole(policy.Policy(profile="trusted"), case).startswith("exit 0")
        alive = harness.processes_with(here.ground.program)
        for pid in alive:
            os.kill(pid, signal.SIGKILL)
    return bool(alive)
