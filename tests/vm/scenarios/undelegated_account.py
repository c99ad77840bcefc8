"""A unit of an account whose cgroup systemd has not handed over: what is lost, that it is said, and what would mend it."""

import pytest
from vm import unit

PLAIN_ACCOUNT = unit.ACCOUNT_UNIT.replace("Delegate=yes\n", "")
STANDARD = {"id": "standard", "command": "echo ran", "sandbox": "standard"}
UNTRUSTED = {"id": "untrusted", "command": "echo ran", "sandbox": "untrusted"}
LIMITED = {"id": "limited", "command": "sleep 600", "limits": {"pids": 24, "memory": "64M"}}


@pytest.fixture(scope="module")
def account():
    """A service account's unit without Delegate=."""
    with unit.running(PLAIN_ACCOUNT) as daemon:
        daemon.define(STANDARD, UNTRUSTED, {**LIMITED, "sandbox": {"profile": "trusted", "processes": "host"}})
        yield daemon


def test_an_account_has_no_cgroups_and_doctor_says_what_would_mend_it(account):
    done = account.ctl("doctor", "--format", "json")
    assert done.code == 2, done
    found = done.json
    assert (found["mode"], found["cgroups"]["limits"], found["cgroups"]["kill"]) == ("b", [], None)
    assert "Delegate=yes in the daemon's systemd unit" in found["cgroups"]["missing"][0]
    assert {
        each["profile"]: (each["state"], each["refused_for"], each["degraded_in"]) for each in found["profiles"]
    } == {
        "trusted": ("full", [], []),
        "standard": ("degraded", [], ["memory", "pids", "landlock"]),
        "untrusted": ("refused", ["memory", "pids"], ["cpu", "landlock"]),
    }


def test_standard_runs_there_and_its_row_says_what_is_missing(account):
    row = account.row_of("standard")
    assert row["status"] == "completed", row
    less = {layer: state for layer, state in row["enforced"].items() if state != "enforced"}
    assert less == {"memory": "best effort", "pids": "absent", "landlock": "best effort"}


@pytest.mark.parametrize("job", ["untrusted", "limited"])
def test_what_takes_a_cgroup_is_refused_with_the_mend(account, job):
    row = account.row_of(job)
    assert (row["status"], row["reason"]) == ("failed", "sandbox"), row
    assert "Delegate=yes in the daemon's systemd unit" in row["error"]
    assert "ran" not in row["output"].splitlines()
