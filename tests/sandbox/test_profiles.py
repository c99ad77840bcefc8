"""The profiles as data: what each one asks for, what a job may change of it, and what the policy comes to."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lnmt_scheduler.sandbox import policy, profiles

STATE = "/var/lib/lnmt-scheduler/jobs/7"
KEPT = ("/var/lib/lnmt-scheduler", "/etc/lnmt-scheduler")
BOXED = ("standard", "untrusted")


def build(profile, limits=None, *, needed=(), **overrides):
    spec = profiles.canonical({"profile": profile, **overrides}, "trusted")
    return profiles.build(spec, limits or {}, state_directory=STATE, needed=needed, daemon_files=KEPT)


def required(profile, **overrides):
    return {layer for layer, word in build(profile, **overrides).layers.items() if word == policy.REQUIRE}


# What the profiles ask for.


def test_every_profile_requires_the_whole_base():
    for name in profiles.PROFILES:
        assert set(policy.BASE) <= required(name)


def test_each_profile_requires_what_the_one_before_does_and_more():
    assert required("trusted") < required("standard") < required("untrusted")


def test_trusted_hides_and_takes_nothing():
    made = build("trusted", needed=["/srv/program"])
    assert (made.root, made.seccomp, made.network, made.dynamic) == (None, None, "host", False)
    assert (made.writable, made.readable, made.hidden) == ((), (), ())
    assert (made.memory, made.pids, made.cpu, made.tmp_size) == (None, None, None, None)
    assert made.layers.keys() == {*policy.BASE, "memory", "cpu", "pids"}


def test_standard_shows_the_host_read_only_and_keeps_the_network():
    made = build("standard")
    assert (made.root, made.proc, made.network, made.seccomp) == ("host", "full", "host", "denylist")
    assert (made.memory, made.pids, made.cpu) == (1 << 30, 512, None)
    assert "network" not in made.layers
    assert made.dynamic


def test_untrusted_is_alone():
    made = build("untrusted")
    assert (made.root, made.proc, made.network, made.seccomp) == ("system", "own", "none", "strict")
    assert (made.memory, made.pids, made.cpu, made.tmp_size) == (256 << 20, 64, 1.0, 64 << 20)
    assert required("untrusted") == policy.LAYERS.keys() - {"cpu", "landlock"}
    assert made.dynamic


def test_no_profile_names_a_layer_that_is_none():
    for name, profile in profiles.PROFILES.items():
        assert profile.layers.keys() <= policy.LAYERS.keys()
        assert set(profile.layers.values()) <= {policy.REQUIRE, policy.PREFER}
        assert policy.from_map(build(name).to_map()) == build(name)


# Its changes.


@pytest.mark.parametrize("profile", BOXED)
def test_a_network_of_ones_own_is_required_and_the_hosts_is_no_layer(profile):
    for network in ("none", "loopback"):
        made = build(profile, network=network)
        assert (made.network, made.layers["network"]) == (network, policy.REQUIRE)
    assert "network" not in build(profile, network="host").layers


def test_require_makes_a_preferred_layer_required_and_loosens_none():
    assert build("standard").layers["landlock"] == policy.PREFER
    more = required("standard", require=["landlock", "memory"])
    assert more == required("standard") | {"landlock", "memory"}


def test_limits_of_the_job_replace_those_of_the_profile():
    made = build("untrusted", {"memory": 512 << 20, "pids": 100, "cpu_time": 0.3, "nice": 5, "output": 1024})
    assert (made.memory, made.pids, made.cpu, made.cpu_time, made.nice) == (512 << 20, 100, 1.0, 1, 5)


@pytest.mark.parametrize("name", profiles.PROFILES)
def test_the_canonical_form_is_its_own_canonical_form(name):
    spec = profiles.canonical({"profile": name}, "trusted")
    assert spec == {"profile": name}
    assert profiles.canonical(spec, "trusted") == spec
    assert profiles.canonical(name, "trusted") == spec


WORDS = st.none() | st.booleans() | st.integers() | st.sampled_from(["none", "own", "/a", "/a/..", "a", "memory", ""])


@given(st.dictionaries(st.sampled_from([*profiles._KEYS, "netwrk"]), WORDS | st.lists(WORDS, max_size=3)))
def test_any_override_is_taken_for_good_or_refused(values):
    for name in BOXED:
        try:
            spec = profiles.canonical({**values, "profile": name}, "trusted")
        except ValueError:
            continue
        assert profiles.canonical(spec, "trusted") == spec
        assert build(name, **{key: value for key, value in spec.items() if key != "profile"}).profile == name


def test_all_that_is_wrong_is_told_at_once():
    with pytest.raises(ValueError, match="unknown key 'netwrk'; did you mean 'network'") as caught:
        profiles.canonical({"profile": "standard", "netwrk": 1, "proc": "mine", "writable": ["x"]}, "trusted")
    assert str(caught.value).count("; ") >= 3
    assert "proc must be" in str(caught.value)
    assert "writable must be" in str(caught.value)


def test_an_override_of_a_value_of_any_size_is_cut_in_the_refusal():
    with pytest.raises(ValueError, match="unknown profile") as caught:
        profiles.canonical("x" * 100_000, "trusted")
    assert len(str(caught.value)) < 300


# Paths.


@pytest.mark.parametrize("profile", BOXED)
def test_the_daemons_files_are_hidden_besides_what_the_job_hides(profile):
    assert build(profile, hidden=["/srv"]).hidden == tuple(sorted((*KEPT, "/srv")))


@pytest.mark.parametrize("key", ["writable", "readable"])
@pytest.mark.parametrize("path", [KEPT[0], f"{KEPT[0]}/jobs/8", f"{KEPT[1]}/jobs.d"])
def test_the_daemons_files_cannot_be_shown(key, path):
    with pytest.raises(ValueError, match="the daemon's own and cannot be shown to a job of profile 'standard'"):
        build("standard", **{key: [path]})


@pytest.mark.parametrize("path", ["/", "//", "/.", "/proc", "/proc/1/root", "/dev", "/dev/"])
@pytest.mark.parametrize("key", ["writable", "readable"])
def test_what_the_box_has_of_its_own_cannot_be_the_hosts(key, path):
    with pytest.raises(ValueError, match=f"^{key} cannot have /"):
        build("standard", **{key: [path]})


def test_all_cannot_be_hidden_and_parts_of_proc_and_dev_can():
    with pytest.raises(ValueError, match=r"^hidden cannot have /$"):
        build("standard", hidden=["/"])
    assert "/proc/cpuinfo" in build("standard", hidden=["/proc/cpuinfo"]).hidden
    assert build("standard", readable=["/dev/log"]).readable == ("/dev/log",)


def test_a_needed_path_in_the_daemons_files_is_refused_too():
    with pytest.raises(ValueError, match="the daemon's own"):
        build("standard", needed=[f"{KEPT[0]}/program"])


def test_a_path_that_begins_like_the_daemons_is_another():
    assert build("standard", writable=[f"{KEPT[0]}-backup"]).writable == (f"{KEPT[0]}-backup",)


@pytest.mark.parametrize("path", [STATE, f"{STATE}/deep"])
def test_what_lies_in_the_state_directory_may_be_named_and_takes_nothing_more(path):
    assert build("standard", writable=[path, "/srv"]).writable == ("/srv",)
    assert build("untrusted", needed=[path]).readable == ()


def test_without_a_state_directory_nothing_can_be_written_that_is_not_named():
    spec = profiles.canonical({"profile": "untrusted", "writable": ["/srv/out"]}, "trusted")
    made = profiles.build(spec, {}, state_directory=None, needed=["/srv/program"], daemon_files=())
    assert (made.state_directory, made.writable, made.readable) == (None, ("/srv/out",), ("/srv/program",))


def test_what_is_needed_is_read_only_unless_it_may_be_written_anyway():
    made = build("untrusted", needed=["/srv/app/", "/srv/data/in", "/home/x"], writable=["/srv/data"])
    assert made.readable == ("/home/x", "/srv/app")
    assert made.writable == ("/srv/data",)


@pytest.mark.parametrize("path", ["/", "//", "/tmp", "/tmp/", "/dev", "/proc", "/proc/self"])
def test_what_a_box_has_of_its_own_is_not_the_hosts_because_a_job_needs_it(path):
    for profile in ("standard", "untrusted"):
        assert build(profile, needed=[path]).readable == ()


def test_a_path_that_is_both_readable_and_writable_may_be_written():
    made = build("untrusted", readable=["/srv"], writable=["/srv"])
    assert (made.readable, made.writable) == ((), ("/srv",))


@pytest.mark.parametrize("key", ["readable", "hidden"])
def test_what_lies_deep_in_what_may_be_written_cannot_be_kept(key):
    """A run could move what is above it, and the next would find it there."""
    with pytest.raises(
        ValueError, match="cannot be kept from a job that may write to /srv, since it could move /srv/a;"
    ):
        build("standard", writable=["/srv"], **{key: ["/srv/a/b"]})
    assert "/srv/a" in getattr(build("standard", writable=["/srv"], **{key: ["/srv/a"]}), key)
    assert "/srv/a/b" in getattr(build("standard", writable=["/srv", "/srv/a"], **{key: ["/srv/a/b"]}), key)


def test_a_job_that_could_move_the_daemons_files_is_refused():
    with pytest.raises(ValueError, match=f"{KEPT[0]} cannot be kept from a job that may write to /var"):
        build("standard", writable=["/var"])


# The hash, and what a host gives of it.


def test_the_hash_is_of_all_that_a_policy_says():
    plain = build("standard")
    assert plain.hash == build("standard").hash
    assert len(plain.hash) == 64
    others = {build("standard", hidden=["/srv"]).hash, build("untrusted").hash, build("standard", {"pids": 9}).hash}
    changed = dataclasses.replace(plain, layers={**plain.layers, "landlock": policy.REQUIRE})
    assert len(others | {plain.hash, changed.hash}) == 5


def test_the_hash_survives_the_way_to_the_launcher():
    made = build("untrusted", writable=["/srv"])
    assert policy.from_map(made.to_map()).hash == made.hash


@pytest.mark.parametrize("profile", BOXED)
def test_a_host_that_offers_all_gives_all_that_is_wanted(profile):
    made = build(profile)
    found = policy.resolve(made, dict.fromkeys(policy.LAYERS, policy.ENFORCED), {})
    assert found == dict.fromkeys((layer for layer in policy.LAYERS if made.wants(layer)), policy.ENFORCED)


@pytest.mark.parametrize("profile", profiles.PROFILES)
def test_every_layer_that_is_missing_is_a_refusal_or_is_said_to_be_absent(profile):
    made = build(profile)
    for layer, word in made.layers.items():
        offers = {other: policy.ENFORCED for other in policy.LAYERS if other != layer}
        if word == policy.PREFER:
            assert policy.resolve(made, offers, {})[layer] == policy.ABSENT
        else:
            with pytest.raises(policy.RefusedError, match=rf"^{layer}: required by profile '{profile}'.*: the mend$"):
                policy.resolve(made, offers, {layer: "the mend"})
