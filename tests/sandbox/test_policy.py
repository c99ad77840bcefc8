"""A policy travels as a map and comes back the same, or not at all."""

import dataclasses

import pytest

from lnmt_scheduler.ipc import codec
from lnmt_scheduler.sandbox import policy

FULL = policy.Policy(
    profile="untrusted",
    insisted=("cpu",),
    layers=dict.fromkeys(policy.LAYERS, policy.REQUIRE) | {"landlock": policy.PREFER, "cpu": policy.OFF},
    uid=65534, gid=65534, groups=(1, 2), dynamic=True, state_directory="/state", memory=1 << 30, swap=0, pids=9, cpu=0.5,
    cpu_time=5, open_files=64, file_size=4096, tmp_size=8192, nice=3, io_class="idle", root="system", writable=("/a",),
    readable=("/b", "/c"), hidden=("/d",), proc="own", network="loopback", seccomp="strict",
)  # fmt: skip


@pytest.mark.parametrize("wanted", [policy.Policy(), FULL])
def test_a_policy_survives_the_way_to_the_launcher(wanted):
    carried = codec.unpack(codec.pack(wanted.to_map()))
    assert isinstance(carried, dict)
    assert policy.from_map(carried) == wanted


def test_a_key_that_is_not_known_is_refused_because_it_may_be_a_restriction():
    with pytest.raises(ValueError, match="policy key 'no_such_key' is not known to this launcher"):
        policy.from_map({**FULL.to_map(), "no_such_key": "none"})


def test_a_layer_that_is_not_known_is_refused():
    with pytest.raises(ValueError, match="policy key 'firewall' is not known to this launcher"):
        policy.from_map({"layers": {"firewall": policy.REQUIRE}})


def test_a_word_that_is_not_known_is_refused_and_not_taken_for_a_preference():
    with pytest.raises(ValueError, match="policy layer 'seccomp' says 'requird'"):
        policy.from_map({"layers": {"seccomp": "requird"}})


def test_a_layer_is_wanted_if_it_is_required_or_preferred():
    assert FULL.wants("seccomp")
    assert FULL.wants("landlock")
    assert not FULL.wants("cpu")
    assert not policy.Policy().wants("seccomp")


def test_what_a_policy_does_not_want_is_not_looked_for():
    assert policy.resolve(policy.Policy(), dict.fromkeys(policy.LAYERS, policy.ENFORCED), {}).keys() == set(policy.BASE)


def test_the_end_of_the_tree_may_be_best_effort_and_nothing_else_that_is_required():
    offers = dict.fromkeys(policy.LAYERS, policy.ENFORCED)
    found = policy.resolve(FULL, offers | {"tree_kill": policy.BEST_EFFORT}, {})
    assert found["tree_kill"] == policy.BEST_EFFORT
    with pytest.raises(
        policy.RefusedError, match=r"^memory: required by profile 'untrusted' and not to be had: a watchdog"
    ):
        policy.resolve(FULL, offers | {"memory": policy.BEST_EFFORT}, {"memory": "a watchdog only"})


def test_of_several_that_are_missing_the_first_is_named():
    with pytest.raises(policy.RefusedError, match=r"^tree_kill: .*: this host does not offer it$"):
        policy.resolve(FULL, {}, {})


def test_the_hash_changes_with_every_field():
    plain = policy.Policy()
    changed = {
        field.name for field in dataclasses.fields(FULL) if getattr(FULL, field.name) != getattr(plain, field.name)
    }
    assert changed >= {field.name for field in dataclasses.fields(FULL)} - {"processes"}
    hashes = {dataclasses.replace(plain, **{name: getattr(FULL, name)}).hash for name in changed}
    assert len(hashes | {plain.hash}) == len(changed) + 1


def test_the_profile_trusted_requires_the_end_of_the_whole_tree():
    assert policy.Policy().profile == "trusted"
    assert policy.Policy().layers["tree_kill"] == policy.REQUIRE


@pytest.mark.parametrize("layer", ["tree_kill", "filesystem", "daemon_files"])
def test_best_effort_will_do_until_a_job_insists(layer):
    offers = {layer: policy.BEST_EFFORT}
    plain = policy.Policy(layers={layer: policy.REQUIRE})
    assert policy.resolve(plain, offers, {}) == offers
    with pytest.raises(policy.RefusedError, match=f"{layer}: required"):
        policy.resolve(dataclasses.replace(plain, insisted=(layer,)), offers, {})
    with pytest.raises(policy.RefusedError, match=f"{layer}: required"):
        policy.resolve(plain, {}, {})
