"""sandbox show, sandbox test and doctor, with a fake daemon."""

import json

import fakes
import pytest

from lnmt_scheduler.ipc import control
from lnmt_scheduler.sandbox import policy

GROUPS = {"layout": "v2", "limits": ["cpu", "memory", "pids"], "kill": "cgroup.kill", "missing": []}


def host(*lacking, uid=0, refused=None, **states):
    layers = {layer: policy.ENFORCED for layer in policy.LAYERS if layer not in lacking} | states
    return {
        "uid": uid,
        "mode": "a",
        "layers": layers,
        "missing": dict.fromkeys(lacking, "no; mend it"),
        "cgroups": GROUPS,
        "default": {"profile": "standard", "refused": refused},
    }


@pytest.mark.parametrize(
    ("told", "code", "states"),
    [
        (host(), 0, ["full", "full", "full"]),
        (host("cpu"), 0, ["full", "full", "degraded"]),
        (host("landlock"), 1, ["full", "degraded", "degraded"]),
        (host("memory"), 2, ["full", "degraded", "refused"]),
        (host("seccomp"), 2, ["full", "refused", "refused"]),
        (host("user", uid=1000), 0, ["full", "full", "full"]),
        (host("user"), 2, ["full", "refused", "refused"]),
        (host("tree_kill"), 2, ["refused", "refused", "refused"]),
        (host(tree_kill=policy.BEST_EFFORT), 1, ["degraded", "degraded", "degraded"]),
    ],
)
def test_doctor_judges_every_profile_and_leaves_with_the_verdict(schedctl, told, code, states):
    schedctl.serve(doctor=lambda _: told)
    done = schedctl("doctor", "-o", "json")
    found = json.loads(done.out)
    assert [each["state"] for each in found["profiles"]] == states
    assert found["daemon"] is True
    assert done.code == code
    assert schedctl("doctor").code == code


def test_doctor_says_what_is_missing_what_it_costs_and_the_mend(schedctl):
    schedctl.serve(doctor=lambda _: host("memory", "pids"))
    done = schedctl("doctor")
    assert "memory, pids: no; mend it" in done.out
    assert "Profile standard: degraded (without memory, pids)" in done.out
    assert "Profile untrusted: refused (for want of memory, pids)" in done.out


def test_doctor_says_what_jobs_get_that_name_no_profile(schedctl):
    schedctl.serve(doctor=lambda _: host())
    done = schedctl("doctor")
    assert "Jobs that name no profile get standard.\n" in done.out
    assert "FAIL" not in done.out


def test_doctor_leaves_with_2_where_jobs_that_name_no_profile_cannot_run(schedctl):
    schedctl.serve(doctor=lambda _: host(refused="network: no"))
    done = schedctl("doctor")
    assert done.code == 2
    assert "ALL OF THEM FAIL HERE: network: no" in done.out


def test_doctor_without_a_daemon_looks_for_itself_and_says_so(schedctl):
    done = schedctl("doctor", "-o", "json")
    found = json.loads(done.out)
    assert found["daemon"] is False
    assert [each["layer"] for each in found["layers"]] == list(policy.LAYERS)
    assert "the daemon is not running" in done.err
    assert done.code in (0, 1, 2)


def test_doctor_leaves_with_2_where_a_layer_that_standard_requires_is_masked(schedctl, monkeypatch):
    monkeypatch.setenv("LNMT_PRETEND", "seccomp")
    done = schedctl("doctor")
    assert done.code == 2
    assert "Profile standard: refused" in done.out
    assert "seccomp: masked" in done.out
    assert "ALL OF THEM FAIL HERE: seccomp" in done.out


def shown(**more):
    layers = [{"layer": "seccomp", "wanted": "require", "state": "absent", "why": "no kernel"}]
    plan = {"namespaces": ["own pid namespace"], "cgroup": []}
    return {
        "job_id": "a", "profile": "standard", "mode": "a", "runs_as": "lnmt", "refused": None, "layers": layers,
        "plan": plan, **more,
    }  # fmt: skip


def test_show_prints_layers_and_plan(schedctl):
    server = schedctl.serve(sandbox=lambda _: shown())
    done = schedctl("sandbox", "show", "a", "--profile", "untrusted")
    assert done.code == 0
    assert "namespaces:\n  own pid namespace\n" in done.out
    assert "no kernel" in done.out
    assert "cgroup:" not in done.out
    assert server.asked("sandbox") == [{"job_id": "a", "profile": "untrusted"}]


def test_show_of_what_would_be_refused_says_so_and_fails(schedctl):
    schedctl.serve(sandbox=lambda _: shown(refused="seccomp: not to be had", plan={}))
    done = schedctl("sandbox", "show", "a")
    assert done.code == 1
    assert "A run would be refused: seccomp: not to be had" in done.out
    assert schedctl("sandbox", "show", "a", "-o", "json").code == 1


def measured(state, error=None):
    layers = [{"layer": "network", "wanted": "prefer", "state": state, "by": "what\x1b it saw"}]
    attempts = [{"operation": "setuid(0)", "outcome": "EPERM"}]
    return {
        "job_id": "a", "profile": "standard", "mode": "a", "uid": 7, "error": error, "layers": layers,
        "attempts": attempts,
    }  # fmt: skip


@pytest.mark.parametrize(("state", "code"), [("enforced", 0), ("off", 0), ("degraded", 1), ("absent", 1)])
def test_test_fails_where_a_layer_falls_short(schedctl, state, code):
    schedctl.serve(measure=lambda _: measured(state))
    done = schedctl("sandbox", "test", "a")
    assert done.code == code
    assert "setuid(0)" in done.out
    assert "what\\x1b it saw" in done.out


def test_test_says_why_a_box_could_not_be_measured(schedctl):
    schedctl.serve(measure=lambda _: measured("absent", "filesystem: no"))
    done = schedctl("sandbox", "test", "a")
    assert done.code == 1
    assert "could not be measured: filesystem: no" in done.err


def test_an_unknown_job_is_3(schedctl):
    def refuse(_):
        raise fakes.Refuse(control.NOT_FOUND, "no job 'a'")

    schedctl.serve(sandbox=refuse, measure=refuse)
    assert schedctl("sandbox", "show", "a").code == 3
    assert schedctl("sandbox", "test", "a").code == 3


def test_a_word_that_is_no_command_of_sandbox_is_a_usage_error(schedctl):
    assert schedctl("sandbox", "tset", "a").code == 2
