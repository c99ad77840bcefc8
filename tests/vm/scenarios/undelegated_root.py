"""A unit of root whose cgroup systemd has not handed over: only the limits that nobody can take back."""

from pathlib import Path

import pytest
from vm import unit

LIMITED = {"id": "limited", "command": "sleep 600", "limits": {"pids": 24, "memory": "64M"}}
COUNTED = {
    "id": "counted",
    "command": "echo ran",
    "sandbox": {"profile": "trusted", "require": ["cpu"]},
    "limits": {"cpu": 0.5},
}


@pytest.fixture(scope="module")
def root():
    """Root's unit without Delegate=."""
    with unit.running("") as daemon:
        daemon.define(LIMITED, COUNTED)
        yield daemon


def test_root_turns_to_the_top_and_to_what_is_on_there_for_every_unit(root):
    done = root.ctl("doctor", "--format", "json")
    assert done.code == 1, done
    groups = done.json["cgroups"]
    assert (groups["layout"], groups["kill"], groups["limits"]) == ("v2", "cgroup.kill", ["memory", "pids", "swap"])
    missing = "\n".join(groups["missing"])
    assert (
        f"{unit.SERVICE}: systemd takes limits back there when it reloads: Delegate=yes in the daemon's unit" in missing
    )
    assert "cpu, io: systemd may take these back at any time: start with Delegate=yes" in missing
    assert unit.read(unit.CGROUP / "cgroup.subtree_control") == ""


def test_limits_of_root_outlive_a_reload_of_systemd(root):
    run_id = root.run("limited")
    leaf = root.leaf(run_id, top=unit.TOP)
    before = limits_of(leaf)
    assert before == {"pids.max": "24", "memory.max": str(64 << 20)}
    unit.systemd("systemctl", "daemon-reload")
    unit.systemd("systemctl", "start", "systemd-tmpfiles-clean.service")
    assert limits_of(leaf) == before
    assert root.cancel(run_id)["enforced"]["memory"] == "enforced"
    assert not leaf.exists()


def limits_of(leaf: Path) -> dict[str, str]:
    return {name: unit.read(leaf / name) for name in ("pids.max", "memory.max")}


def test_who_requires_what_may_be_taken_back_is_refused(root):
    row = root.row_of("counted")
    assert (row["status"], row["reason"]) == ("failed", "sandbox"), row
    assert "start with Delegate=yes" in row["error"]


def test_systemd_does_take_limits_back():
    """Why a cgroup that it has not handed over is not used: without this the others would prove nothing."""
    done = (
        "mkdir $c/leaf $c/main && echo 0 > $c/main/cgroup.procs && echo +pids > $c/cgroup.subtree_control && ls $c/leaf"
    )
    shell = f"c=/sys/fs/cgroup$(cut -d: -f3 /proc/self/cgroup); {done}; systemctl daemon-reload; echo then; ls $c/leaf"
    said = unit.systemd("systemd-run", "--quiet", "--pipe", "--wait", "sh", "-c", shell.replace("$", "$$"))
    before, after = said.split("then")
    assert ("pids.max" in before, "pids.max" in after) == (True, False), said
