"""A policy travels as a map and comes back the same, or not at all."""

import pytest

from lnmt_scheduler.ipc import codec
from lnmt_scheduler.sandbox import policy

FULL = policy.Policy(
    uid=65534, gid=65534, groups=(1, 2), state_directory="/state", cpu_time=5, open_files=64, nice=3, io_class="idle"
)


@pytest.mark.parametrize("wanted", [policy.Policy(), FULL])
def test_a_policy_survives_the_way_to_the_launcher(wanted):
    carried = codec.unpack(codec.pack(wanted.to_map()))
    assert isinstance(carried, dict)
    assert policy.from_map(carried) == wanted


def test_a_key_that_is_not_known_is_refused_because_it_may_be_a_restriction():
    with pytest.raises(ValueError, match="policy key 'no_such_key' is not known to this launcher"):
        policy.from_map({**FULL.to_map(), "no_such_key": "none"})


def test_the_profile_trusted_requires_the_end_of_the_whole_tree():
    assert policy.Policy().profile == "trusted"
    assert policy.Policy().layers["tree_kill"] == policy.REQUIRE
