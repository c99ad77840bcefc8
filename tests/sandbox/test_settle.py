"""What a policy comes to on a host that has this and lacks that; pure."""

from dataclasses import replace

import pytest

from lnmt_scheduler.sandbox import cgroup, policy, probe, profiles, settle

ALL = dict.fromkeys(policy.LAYERS, policy.ENFORCED)


def host(*lacking, limits=("memory", "swap", "pids", "cpu")):
    layers = {layer: state for layer, state in ALL.items() if layer not in lacking}
    return probe.Host(
        "a",
        layers,
        dict.fromkeys(lacking, "it is masked"),
        cgroup.Host("v2", (), frozenset(limits), cgroup.CGROUP_KILL),
    )


def asked(profile="standard", **limits):
    return profiles.build(
        profiles.canonical(profile, profile), limits, state_directory="/state", needed=(), daemon_files=("/daemon",)
    )


def test_a_dynamic_policy_gets_the_user_that_was_taken_for_it():
    found = settle.settle(asked(), host(), is_root=True, uid=70_000)
    assert (found.policy.uid, found.policy.gid, found.policy.groups) == (70_000, 70_000, ())


def test_what_is_required_and_not_there_is_a_refusal_that_says_why():
    with pytest.raises(policy.RefusedError, match=r"seccomp.*'standard'.*it is masked"):
        settle.settle(asked(), host("seccomp"), is_root=True)


def test_what_is_preferred_and_not_there_is_left_out_and_noted():
    found = settle.settle(asked(), host("landlock"), is_root=True)
    assert found.enforced["landlock"] == policy.ABSENT
    assert not found.policy.wants("landlock")
    assert found.policy.wants("seccomp")


def test_a_daemon_that_is_not_root_gives_no_user_and_is_not_refused_for_it():
    found = settle.settle(asked(), host("user"), is_root=False)
    assert "user" not in found.enforced


def test_a_limit_that_is_not_set_is_no_layer():
    assert "cpu" not in settle.settle(asked(), host(), is_root=True).enforced
    assert settle.settle(asked(cpu=0.5), host(), is_root=True).enforced["cpu"] == policy.ENFORCED


def test_a_memory_limit_means_no_swap_where_the_host_can_hold_to_that():
    assert settle.settle(asked(memory=1 << 20), host(), is_root=True).limits.swap == 0
    assert settle.settle(asked(memory=1 << 20), host(limits=("memory",)), is_root=True).limits.names() == {"memory"}


def test_every_layer_has_a_standing():
    found = {
        each.layer: each for each in settle.standings(asked("untrusted"), host("memory", "landlock"), is_root=True)
    }
    assert list(found) == list(policy.LAYERS)
    assert found["memory"].refuses
    assert not found["memory"].degrades
    assert found["landlock"].degrades
    assert found["landlock"].why == "it is masked"
    assert (found["seccomp"].state, found["seccomp"].why) == (policy.ENFORCED, None)


def test_a_layer_that_is_off_neither_refuses_nor_degrades():
    found = {each.layer: each for each in settle.standings(asked("trusted"), host("network"), is_root=True)}
    assert (found["network"].wanted, found["network"].state) == (policy.OFF, policy.OFF)
    assert not found["network"].refuses
    assert not found["network"].degrades


@pytest.mark.parametrize(
    ("named", "lacking", "processes", "refused"),
    [
        (True, ["landlock"], "host", True),
        (True, [], "host", False),
        (True, ["landlock"], "own", False),
        (False, ["landlock"], "host", False),
    ],
)
def test_a_named_user_that_sees_the_hosts_processes_takes_landlock(named, lacking, processes, refused):
    """/proc/PID/root of another process of that user leads to all the files of the host that the user may change."""
    wanted = replace(asked(), processes=processes, **({"dynamic": False, "uid": 1000, "gid": 1000} if named else {}))
    if not refused:
        assert settle.settle(wanted, host(*lacking), is_root=True).enforced["filesystem"] == policy.ENFORCED
        return
    with pytest.raises(
        policy.RefusedError, match=r"^filesystem: with processes: host, .*/proc/PID/root.*it is masked$"
    ):
        settle.settle(wanted, host(*lacking), is_root=True)


def test_who_has_no_box_of_files_or_another_user_namespace_is_not_refused_for_that_way_out():
    lacking = host("landlock")
    trusted = replace(asked("trusted"), processes="host", uid=1000, gid=1000)
    assert settle.settle(trusted, lacking, is_root=True).enforced["tree_kill"] == policy.ENFORCED
    wanted = replace(asked(), processes="host")
    assert settle.settle(wanted, replace(lacking, mode="b"), is_root=False).enforced["filesystem"] == policy.ENFORCED


def test_a_filter_is_compiled_for_who_shares_the_user():
    own, shared = settle.program(asked(), "a"), settle.program(asked(), "b")
    assert own is not None
    assert shared is not None
    assert own != shared
    assert settle.program(asked("trusted"), "a") is None


def test_what_is_told_of_a_host_is_enough_to_judge_by():
    told = probe.from_map(host("memory").to_map())
    assert (told.mode, told.layers, told.missing) == ("a", host("memory").layers, {"memory": "it is masked"})
    assert (told.cgroups.layout, told.cgroups.limits) == ("v2", host().cgroups.limits)
