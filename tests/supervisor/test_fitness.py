"""What keeps every run of a job from starting: told when it is defined, and nothing that is not certain."""

import os
from pathlib import Path

import pytest

from lnmt_scheduler.jobs import model
from lnmt_scheduler.sandbox import cgroup, namespaces, policy, probe
from lnmt_scheduler.supervisor import fitness, payload

ROOT, OTHER = 0, 12345


@pytest.fixture
def ground(folder):
    """A directory that is open, and in it one that is closed to others, with an open one below."""
    open_below = folder / "home" / "lib"
    open_below.mkdir(parents=True)
    (folder / "home").chmod(0o700)
    (folder / "state" / "jobs").mkdir(parents=True)
    return folder


def obstacles(ground: Path, *, uid: int = ROOT, mode: str = namespaces.ROOT, sandbox: object = None, **keys: object):
    job = model.JobConfig("job", sandbox=sandbox or {"profile": "standard"}, **{"command": ["true"], **keys})
    state = str(ground / "state")
    return fitness.obstacles(job, daemon_uid=uid, daemon_files=[state], jobs_dir=os.path.join(state, "jobs"), mode=mode)


def test_a_job_that_needs_no_path_has_no_obstacle(ground):
    assert obstacles(ground) == []
    assert obstacles(ground, command="cd /root; ./anything") == []


@pytest.mark.parametrize("key", ["python_path", "working_directory", "command"])
def test_a_path_that_is_closed_to_others_is_named_with_its_key_and_mode(ground, key):
    home = str(ground / "home")
    value = {"python_path": [home], "working_directory": home, "command": [home]}[key]
    ((said, why),) = obstacles(ground, **{key: value})
    assert said == key
    assert why.startswith(f"{home} cannot be reached by the user of its own that each run has: it has mode 0700; ")
    assert "'user'" in why
    assert "'trusted'" in why


def test_a_program_that_others_may_not_execute_or_read_is_an_obstacle(ground):
    program = ground / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o750)
    ((key, why),) = obstacles(ground, command=[str(program)])
    assert (key, "mode 0750" in why) == ("command", True)
    program.chmod(0o755)
    assert obstacles(ground, command=[str(program)]) == []
    main = ground / "main.py"
    main.touch(mode=0o600)
    main.chmod(0o600)
    found = obstacles(ground, command=None, module="__main__", function="f", main_file=str(main))
    assert [(key, "main.py cannot be reached" in why) for key, why in found] == [("function", True)]


def test_a_box_with_mounts_of_its_own_has_no_closed_directory_on_the_way(ground):
    lib = str(ground / "home" / "lib")
    assert obstacles(ground, python_path=[lib]) == []
    assert obstacles(ground, python_path=[lib], sandbox={"profile": "untrusted"}) == []


@pytest.mark.parametrize("mode", [namespaces.LANDLOCK, namespaces.NONE])
def test_without_mounts_the_whole_way_must_be_open(ground, mode):
    lib = str(ground / "home" / "lib")
    ((key, why),) = obstacles(ground, python_path=[lib], mode=mode)
    assert key == "python_path"
    assert why.startswith(
        f"{lib} cannot be reached by the user of its own that each run has: {ground}/home has mode 0700"
    )


def test_a_user_of_its_own_without_a_box_is_judged_too(ground):
    lib = str(ground / "home" / "lib")
    ((key, _),) = obstacles(ground, python_path=[lib], sandbox={"profile": "trusted"}, user="dynamic")
    assert key == "python_path"


def test_an_interpreter_that_others_cannot_execute_is_an_obstacle(ground):
    python = ground / "venv" / "bin" / "python"
    python.parent.mkdir(parents=True)
    python.touch()
    python.chmod(0o700)
    ((key, why),) = obstacles(ground, command=None, module="m", function="f", python=str(python))
    assert key == "python"
    assert str(python) in why


def test_a_group_needs_a_user_beside_it(ground):
    assert obstacles(ground, group="adm") == [("group", payload.GROUP_ALONE)]
    for more in ({"user": "nobody"}, {"sandbox": {"profile": "trusted"}}, {"uid": OTHER}):
        assert obstacles(ground, group="adm", **more) == []


def test_what_only_a_link_leads_to_must_be_open_or_be_shown_by_its_name(ground):
    program = ground / "home" / "lib" / "program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    link = ground / "link"
    link.symlink_to(program)
    assert obstacles(ground, command=[str(program)]) == []
    ((key, why),) = obstacles(ground, command=[str(link)])
    assert key == "command"
    assert why.startswith(
        f"{link} cannot be reached by the user of its own that each run has: {ground}/home has mode 0700"
    )
    shown = {"profile": "standard", "readable": [str(program.parent)]}
    assert obstacles(ground, command=[str(link)], sandbox=shown) == []


def test_whoever_has_an_account_is_left_to_the_kernel(ground):
    home = str(ground / "home")
    for more in ({"user": "nobody"}, {"sandbox": {"profile": "trusted"}}, {"uid": OTHER}):
        assert obstacles(ground, working_directory=home, **more) == []


def test_what_is_not_there_is_no_obstacle(ground):
    assert (
        obstacles(ground, working_directory=str(ground / "later"), python_path=[str(ground / "home" / "later")]) == []
    )


@pytest.mark.parametrize("uid", [ROOT, OTHER])
def test_the_daemons_own_files_are_no_jobs(ground, uid):
    inside = ground / "state" / "scripts"
    inside.mkdir()
    link = ground / "link"
    link.symlink_to(inside)
    for path in (inside, link):
        ((key, why),) = obstacles(ground, uid=uid, working_directory=str(path))
        assert key == "working_directory"
        assert why == f"{path} is the daemon's own, and hidden from every job of profile 'standard'; move it"
    ((key, _),) = obstacles(ground, uid=uid, sandbox={"profile": "standard", "writable": [str(inside)]})
    assert key == "sandbox.writable"
    assert obstacles(ground, uid=uid, working_directory=str(inside), sandbox={"profile": "trusted"}) == []
    # Its state directory is a job's, and which of them is its own is known when it starts.
    assert obstacles(ground, uid=uid, working_directory=str(ground / "state" / "jobs" / "7")) == []


def host(*lacking: str, mode: str = namespaces.ROOT) -> probe.Host:
    layers = {layer: policy.ENFORCED for layer in policy.LAYERS if layer not in lacking}
    return probe.Host(mode, layers, dict.fromkeys(lacking, "none here"), cgroup.Host("none"))


def test_a_default_that_the_host_cannot_give_is_told_with_the_layer():
    standard = {"profile": "standard"}
    assert fitness.refusal(standard, {}, host(), is_root=True) is None
    assert "seccomp" in str(fitness.refusal(standard, {}, host("seccomp"), is_root=True))
    assert fitness.refusal({"profile": "trusted"}, {}, host("seccomp", "filesystem"), is_root=True) is None
    no_mounts = host("namespaces", mode=namespaces.LANDLOCK)
    assert fitness.refusal(standard, {}, no_mounts, is_root=False) is None
    assert "tmp_size" in str(fitness.refusal(standard, {"tmp_size": 4096}, no_mounts, is_root=False))
