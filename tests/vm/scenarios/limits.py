"""cgroup v2 under a real systemd: what the limits of a job come to in the kernel, for a unit of root and for one of an account.

Tests run twice: with `Delegate=yes` for root (mode a), and with `User=` besides (mode b). Once do those of what the kernel then
counts, which does not ask whose the control group is.
"""

import os
from collections.abc import Iterator
from typing import Any

import harness
import pytest
from vm import scenario, unit

SCENARIO = scenario.Scenario(is_long=True)
MIB = 1 << 20
#: Leaves a process in a session of its own and waits with it; both are deaf to TERM.
TREE = "trap '' TERM; setsid sh -c 'echo up; exec sleep 600' & wait"
JOBS: list[dict[str, Any]] = [
    {"id": "true", "command": "true", "limits": {"pids": 8}},
    {
        "id": "held",
        "command": "sleep 600",
        "limits": {"memory": "96M", "swap": "8M", "pids": 24, "cpu": 0.5},
    },
    {"id": "untrusted", "command": "sleep 600", "sandbox": "untrusted"},
    {"id": "standard", "command": "true", "sandbox": "standard"},
    {"id": "greedy", "command": "echo begun; tail /dev/zero", "limits": {"memory": "48M"}},
    # The child is what is too large; the kernel takes all of the run.
    {"id": "greedy-child", "command": "tail /dev/zero; echo survived", "limits": {"memory": "48M"}},
    {"id": "killed", "command": "kill -9 $$", "limits": {"memory": "48M"}},
    {"id": "bomb", "command": "f() { f | f & }; f; sleep 1; exit 3", "limits": {"pids": 20}, "timeout": 60},
    {"id": "patient", "command": "(for i in $(seq 40); do sleep 2 & done) 2>&1; wait; true", "limits": {"pids": 20}},
    {"id": "spin", "command": "timeout 3 sh -c 'while :; do :; done'; true", "limits": {"cpu": 0.2}},
    {"id": "tree", "command": TREE, "sandbox": {"profile": "trusted", "processes": "host"}, "limits": {"pids": 30}},
    {"id": "orphans", "command": "setsid sh -c 'sleep 600 & sleep 600' & sleep 0.5", "limits": {"pids": 30}},
    # 0.4 s of a processor in a process that nobody waits for, and 32 MiB.
    {
        "id": "hidden-use",
        "command": (
            "(setsid timeout 1.5 sh -c 'while :; do :; done' &)"
            " ; head -c 32M /dev/zero | tail -c 32M | sleep 2; sleep 1"
        ),
        "limits": {"memory": "256M", "pids": 30},
    },
]


@pytest.fixture(scope="module", params=["root", "account"])
def daemon(request: pytest.FixtureRequest) -> Iterator[unit.Unit]:
    settings = {"root": unit.ROOT_UNIT, "account": unit.ACCOUNT_UNIT}[request.param]
    with unit.running(settings) as made:
        made.define(*JOBS)
        yield made


once = pytest.mark.parametrize("daemon", ["root"], indirect=True, scope="module")


@pytest.fixture(autouse=True)
def _nothing_stays(daemon):
    """No test leaves a cgroup behind."""
    yield
    harness.wait_for(lambda: not daemon.leaves(), what="cgroups of runs to be gone")


def test_the_unit_is_in_its_mode_and_has_all_controllers(daemon):
    is_root = "User=" not in daemon.settings
    assert unit.show("ActiveState") == "active"
    assert daemon.status()["mode"] == ("a" if is_root else "b")
    assert (unit.CGROUP / "lnmt-daemon" / "cgroup.procs").read_text().split()[0] == str(daemon.launcher_pid)
    assert unit.read(unit.CGROUP / "cgroup.procs") == ""
    assert set(unit.read(unit.CGROUP / "cgroup.subtree_control").split()) >= {"cpu", "io", "memory", "pids"}


def test_doctor_says_that_nothing_is_missing_but_the_newer_landlock(daemon):
    done = daemon.ctl("doctor", "--format", "json")
    assert done.code == 1, done
    found = done.json
    assert found["cgroups"] == {
        "layout": "v2",
        "limits": ["cpu", "io_weight", "memory", "pids", "swap"],
        "kill": "cgroup.kill",
        "missing": [],
    }
    assert {each["profile"]: (each["refused_for"], each["degraded_in"]) for each in found["profiles"]} == {
        "trusted": ([], []),
        "standard": ([], ["landlock"]),
        "untrusted": ([], ["landlock"]),
    }
    text = daemon.ctl("doctor")
    assert "Control groups: v2; limits: cpu, io_weight, memory, pids, swap; killed by: cgroup.kill" in text.stdout


@pytest.mark.parametrize("profile", ["standard", "untrusted"])
def test_sandbox_test_finds_each_layer_enforced_from_inside(daemon, profile):
    done = daemon.ctl("sandbox", "test", "untrusted", "--profile", profile, "--format", "json")
    found = {each["layer"]: (each["wanted"], each["state"], each["by"]) for each in done.json["layers"]}
    short = {layer: said for layer, said in found.items() if said[0] != "off" and said[1] != "enforced"}
    assert (done.code, short) == (0, {}), done
    assert "lnmt-" in found["memory"][2]
    assert {found[layer][1] for layer in ("memory", "pids", "tree_kill", "seccomp")} == {"enforced"}


def test_limits_stand_in_the_leaf_while_the_job_runs(daemon):
    run_id = daemon.run("held")
    leaf = daemon.leaf(run_id)
    written = {name: unit.read(leaf / name) for name in ("memory.max", "memory.swap.max", "memory.oom.group")}
    assert written == {"memory.max": str(96 * MIB), "memory.swap.max": str(8 * MIB), "memory.oom.group": "1"}
    assert unit.read(leaf / "pids.max") == "24"
    assert unit.read(leaf / "cpu.max") == "50000 100000"
    row = daemon.cancel(run_id)
    assert row["enforced"]["memory"] == row["enforced"]["cpu"] == row["enforced"]["pids"] == "enforced"
    assert not leaf.exists()


def test_untrusted_has_the_limits_of_its_profile_and_no_swap(daemon):
    run_id = daemon.run("untrusted")
    leaf = daemon.leaf(run_id)
    written = {name: unit.read(leaf / name) for name in ("memory.max", "memory.swap.max", "pids.max", "cpu.max")}
    assert written == {
        "memory.max": str(256 * MIB),
        "memory.swap.max": "0",
        "pids.max": "64",
        "cpu.max": "100000 100000",
    }
    enforced = daemon.cancel(run_id)["enforced"]
    assert {layer for layer, state in enforced.items() if state != "enforced"} == {"landlock"}


@pytest.mark.parametrize("job", ["greedy", "greedy-child"])
def test_running_out_of_memory_is_told_apart(daemon, job):
    row = daemon.row_of(job)
    assert (row["status"], row["reason"], row["signal"]) == ("failed", "memory", "SIGKILL")
    assert 40 * MIB < row["usage"]["max_memory"] <= 49 * MIB
    assert "survived" not in row["output"].splitlines()


@once
def test_a_kill_by_itself_is_no_matter_of_memory(daemon):
    row = daemon.row_of("killed")
    assert (row["reason"], row["signal"]) == ("signal", "SIGKILL")


@once
def test_a_fork_bomb_is_held_and_named(daemon):
    row = daemon.row_of("bomb")
    assert (row["status"], row["reason"]) == ("failed", "pids"), row
    assert "ork" in row["output"]  # "Cannot fork"


@once
def test_who_meets_the_limit_of_processes_and_ends_well_has_completed(daemon):
    row = daemon.row_of("patient")
    assert (row["status"], row["reason"]) == ("completed", None), row


@once
def test_a_processor_is_held_back(daemon):
    row = daemon.row_of("spin")
    assert row["status"] == "completed"
    # A fifth of three seconds, and what the start took.
    assert 0.3 < row["usage"]["cpu_seconds"] < 1.2, row["usage"]


@once
def test_use_of_the_whole_tree_is_counted(daemon):
    row = daemon.row_of("hidden-use")
    assert row["status"] == "completed", row
    assert row["usage"]["cpu_seconds"] > 1, row["usage"]
    assert 32 * MIB <= row["usage"]["max_memory"] < 128 * MIB, row["usage"]


@once
def test_orphans_end_with_the_run_and_are_listed(daemon):
    row = daemon.row_of("orphans")
    assert (row["status"], row["killed_count"]) == ("completed", 3), row


def test_who_sees_the_hosts_processes_is_ended_by_its_cgroup(daemon):
    marker = f"marker-{os.urandom(8).hex()}"
    daemon.define({**next(job for job in JOBS if job["id"] == "tree"), "environment": {"MARKER": marker}})
    run_id = daemon.run("tree")
    harness.wait_for(lambda: b"up" in daemon.output(run_id), what="'up' in the output")
    leaf = daemon.leaf(run_id)
    assert len(harness.processes_with(marker)) == 2
    assert unit.table(leaf / "cgroup.events")["populated"] == 1
    row = daemon.cancel(run_id)
    assert harness.processes_with(marker) == []
    assert (row["reason"], row["killed_count"], row["enforced"]["tree_kill"]) == ("cancelled", 2, "enforced")
    assert not leaf.exists()


def test_when_the_launcher_is_killed_nothing_of_a_run_is_left(daemon):
    marker = f"marker-{os.urandom(8).hex()}"
    daemon.define({**next(job for job in JOBS if job["id"] == "tree"), "environment": {"MARKER": marker}})
    run_id = daemon.run("tree")
    harness.wait_for(lambda: b"up" in daemon.output(run_id), what="'up' in the output")
    unit.systemd("systemctl", "kill", "--kill-whom=main", "--signal=KILL", unit.SERVICE)
    harness.wait_for(lambda: not harness.processes_with(marker), what="the end of the tree")
    harness.wait_for(lambda: unit.show("ActiveState") == "failed", what="systemd to notice")
    unit.systemd("systemctl", "start", unit.SERVICE)
    assert daemon.wait(run_id)["reason"] == "lost"
    assert daemon.leaves() == []
