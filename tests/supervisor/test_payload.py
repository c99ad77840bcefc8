"""From a definition to what its child is given."""

import fcntl
import json
import mmap
import os
import pwd
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from lnmt_scheduler.ipc import codec
from lnmt_scheduler.jobs import bridge, child, model
from lnmt_scheduler.sandbox import policy, profiles
from lnmt_scheduler.supervisor import payload

ROOT = pwd.getpwuid(0)
NOBODY = pwd.getpwnam("nobody")


def job(**more) -> model.JobConfig:
    return model.JobConfig(id="job", **{"command": "true", **more})


FACTS = payload.Attempt(
    run_id=7,
    attempt=2,
    slot=1_700_000_000_000,
    event={"n": 1},
    kwargs=None,
    state_dir="/state/1",
    result_limit=1000,
    profile="trusted",
)
#: Not to be seen by any boxed job.
KEPT = ("/etc/lnmt-scheduler", "/state")


def built(definition: model.JobConfig, facts: payload.Attempt = FACTS) -> bridge.Payload:
    """What the child would read."""
    fd = payload.build(definition, payload.account(definition, os.geteuid(), facts.profile), facts)
    try:
        return bridge.Payload(**codec.unpack(os.pread(fd, 1 << 24, 0), max_depth=child.DEPTH))
    finally:
        os.close(fd)


# What it is told of the jobs before it.


def parent(result, size):
    return {"job_id": "p", "run_id": 3, "status": "completed", "result": result, "result_bytes": size}


def test_a_job_is_told_of_the_runs_that_it_builds_on():
    told = {"p": parent({"rows": 3, "raw": b"\xff"}, 20)}
    found = built(job(), replace(FACTS, parents=told))
    assert found.parents == told
    assert json.loads(found.environment["LNMT_PARENTS"]) == {"p": parent({"rows": 3, "raw": "\\xff"}, 20)}
    assert "LNMT_PARENTS" not in built(job()).environment


def test_results_that_do_not_fit_the_variable_are_left_out_the_largest_first():
    told = {name: parent("x" * size, size) for name, size in (("a", 40_000), ("b", 30_000), ("c", 10))}
    text = payload.parents_text(told)
    assert len(text) <= payload.PARENTS_LIMIT
    found = {name: facts["result"] is not None for name, facts in json.loads(text).items()}
    assert found == {"a": False, "b": True, "c": True}
    many = {f"job-{number}": parent(None, 0) for number in range(3000)}
    assert payload.PARENTS_LIMIT - 200 < len(payload.parents_text(many)) <= payload.PARENTS_LIMIT


# Who.


def test_a_job_without_a_user_runs_as_the_launcher_does():
    who = payload.account(job(), 0, "trusted")
    assert (who.uid, who.gid, who.groups, who.name, who.home) == (None, None, (), ROOT.pw_name, ROOT.pw_dir)


def test_a_job_with_a_user_gets_that_users_numbers_groups_and_home():
    who = payload.account(job(user="nobody"), 0, "trusted")
    assert (who.uid, who.gid, who.home) == (NOBODY.pw_uid, NOBODY.pw_gid, NOBODY.pw_dir)
    assert set(who.groups) == set(os.getgrouplist("nobody", NOBODY.pw_gid))


def test_accounts_and_groups_that_are_not_there_are_named():
    with pytest.raises(payload.CannotStartError, match="no account is named 'no-such'"):
        payload.account(job(user="no-such"), 0, "trusted")
    with pytest.raises(payload.CannotStartError, match="no group is named 'no-such'"):
        payload.account(job(group="no-such"), 0, "trusted")


def test_only_root_runs_jobs_as_others():
    with pytest.raises(payload.CannotStartError, match="runs jobs as itself, not as 'root'"):
        payload.account(job(user="root"), NOBODY.pw_uid, "trusted")
    assert payload.account(job(user="nobody"), NOBODY.pw_uid, "trusted").uid == NOBODY.pw_uid


def test_an_account_without_a_name_is_its_number():
    unused = next(uid for uid in range(60_000, 65_000) if not _is_used(uid))
    assert payload.account(job(), unused, "trusted").name == str(unused)


def _is_used(uid: int) -> bool:
    try:
        pwd.getpwuid(uid)
    except KeyError:
        return False
    return True


# Its environment.


def test_the_environment_says_which_run_this_is_and_nothing_of_the_daemons_is_in_it(monkeypatch):
    monkeypatch.setenv("LEAKED", "yes")
    found = built(job(environment={"OWN": "1", "LNMT_RUN_ID": "forged"}, timezone="Europe/Berlin")).environment
    assert "LEAKED" not in found
    assert found["PATH"] == payload.PATH
    assert (found["OWN"], found["TZ"], found["LANG"]) == ("1", "Europe/Berlin", "C.UTF-8")
    assert (found["LNMT_JOB_ID"], found["LNMT_RUN_ID"], found["LNMT_ATTEMPT"]) == ("job", "7", "2")
    assert found["LNMT_SLOT"] == "2023-11-14T22:13:20Z"
    assert found["LNMT_EVENT"] == '{"n": 1}'
    assert found["LNMT_STATE_DIR"] == "/state/1"
    assert "TZ" not in built(job()).environment


def test_an_environment_file_is_read_as_systemd_does(tmp_path):
    path = tmp_path / "env"
    path.write_text("# comment\n; another\n\nA=1\n B = two words \nC='single'\nD=\"double\"\nE=a=b\nF=\nG='\nA=2\n")
    found = built(job(environment_file=str(path), environment={"B": "of the job"})).environment
    assert {name: found[name] for name in "ABCDEFG"} == {
        "A": "2", "B": "of the job", "C": "single", "D": "double", "E": "a=b", "F": "", "G": "'",
    }  # fmt: skip


@pytest.mark.parametrize("line", ["no equals sign", "=value", "  =value", "A=\0", "export B=1"])
def test_a_bad_line_of_an_environment_file_is_named_by_its_number(tmp_path, line):
    path = tmp_path / "env"
    path.write_text(f"A=1\n{line}\n")
    with pytest.raises(payload.CannotStartError, match=rf"environment_file: {path}, line 2"):
        built(job(environment_file=str(path)))


def test_an_environment_file_that_nobody_writes_to_holds_up_nothing(tmp_path):
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(payload.CannotStartError, match=r"not a regular file: .*fifo"):
        built(job(environment_file=str(tmp_path / "fifo")))


def test_an_environment_file_that_is_missing_or_too_large_is_named(tmp_path):
    with pytest.raises(payload.CannotStartError, match="No such file"):
        built(job(environment_file=str(tmp_path / "none")))
    (tmp_path / "big").write_bytes(b"A=" + b"x" * (256 * 1024))
    with pytest.raises(payload.CannotStartError, match="more than 262144 bytes"):
        built(job(environment_file=str(tmp_path / "big")))


# What it runs.


def test_a_string_goes_to_the_shell_and_a_list_is_an_argv():
    assert built(job(command="a | b")).argv == ["/bin/sh", "-c", "a | b"]
    assert built(job(command=["a", "b c"])).argv == ["a", "b c"]
    assert built(job(command=None, module="m", function="f.g")).argv == []


def test_a_run_by_hand_adds_to_the_definitions_kwargs():
    facts = payload.Attempt(**{**{n: getattr(FACTS, n) for n in FACTS.__slots__}, "kwargs": {"b": 3, "c": 4}})
    found = built(job(command=None, module="m", function="f", args=[1], kwargs={"a": 1, "b": 2}), facts)
    assert (found.args, found.kwargs) == ([1], {"a": 1, "b": 3, "c": 4})


def test_the_working_directory_is_left_to_the_child_unless_one_is_given():
    assert built(job()).working_directory is None
    assert built(job(working_directory="/srv")).working_directory == "/srv"


def test_arguments_that_cannot_be_carried_or_are_too_many_are_refused():
    with pytest.raises(payload.CannotStartError, match="arguments"):
        built(job(command=None, module="m", function="f", args=[object()]))
    with pytest.raises(payload.CannotStartError, match=f"the limit is {child.PAYLOAD_LIMIT}"):
        built(job(command=None, module="m", function="f", args=["x" * child.PAYLOAD_LIMIT]))


# Sealed.


def test_nobody_can_change_a_payload_and_it_survives_no_exec():
    fd = payload.seal(b"secret")
    try:
        assert not os.get_inheritable(fd)
        for change in (lambda: os.pwrite(fd, b"x", 0), lambda: os.ftruncate(fd, 1), lambda: os.ftruncate(fd, 100)):
            with pytest.raises(PermissionError):
                change()
        with pytest.raises(PermissionError):
            mmap.mmap(fd, 6, prot=mmap.PROT_WRITE | mmap.PROT_READ)
        with pytest.raises(PermissionError):
            fcntl.fcntl(fd, fcntl.F_ADD_SEALS, 0)
        again = os.open(f"/proc/self/fd/{fd}", os.O_RDWR)
        with pytest.raises(PermissionError):
            os.pwrite(again, b"x", 0)
        os.close(again)
        assert os.pread(fd, 100, 0) == b"secret"
    finally:
        os.close(fd)


def test_the_policy_carries_user_directory_and_limits():
    definition = job(
        user="nobody",
        limits={"cpu_time": 0.3, "open_files": 64, "file_size": 4096, "nice": 5, "io_class": "idle", "output": 5000},
    )
    found = policy_of(definition, "trusted")
    assert (found.uid, found.gid, found.state_directory) == (NOBODY.pw_uid, NOBODY.pw_gid, "/state/1")
    assert (found.cpu_time, found.open_files, found.file_size) == (1, 64, 4096)
    assert (found.nice, found.io_class, found.profile) == (5, "idle", "trusted")
    assert (found.root, found.hidden, found.dynamic) == (None, (), False)


def policy_of(definition: model.JobConfig, profile: str, daemon_uid: int = 0) -> policy.Policy:
    who = payload.account(definition, daemon_uid, profile)
    return payload.policy_of(definition, who, "/state/1", profile=profile, daemon_files=KEPT)


@pytest.mark.parametrize("profile", ["standard", "untrusted"])
def test_a_boxed_job_of_root_has_a_user_without_a_name_and_lives_in_its_state_directory(profile):
    who = payload.account(job(), 0, profile)
    assert (who.dynamic, who.uid, who.gid, who.groups) == (True, None, None, ())
    facts = payload.Attempt(**{**{n: getattr(FACTS, n) for n in FACTS.__slots__}, "profile": profile})
    assert payload.environment(job(), who, facts)["HOME"] == "/state/1"
    assert ROOT.pw_name not in payload.environment(job(), who, facts).values()
    assert policy_of(job(), profile).dynamic


@pytest.mark.parametrize("profile", ["standard", "untrusted"])
def test_a_user_that_is_named_is_that_user_in_every_profile(profile):
    found = policy_of(job(user="nobody"), profile)
    assert (found.uid, found.gid, found.dynamic) == (NOBODY.pw_uid, NOBODY.pw_gid, False)
    assert payload.account(job(user="nobody"), 0, profile).home == NOBODY.pw_dir


@pytest.mark.parametrize("profile", profiles.PROFILES)
def test_a_user_of_its_own_can_be_asked_for_in_every_profile_and_is_required_then(profile):
    found = policy_of(job(user="dynamic"), profile)
    assert (found.dynamic, found.uid, found.layers["user"]) == (True, None, policy.REQUIRE)
    assert payload.account(job(user="dynamic"), 0, profile).dynamic
    with pytest.raises(payload.CannotStartError, match="only a daemon of root can give a run a user of its own"):
        payload.account(job(user="dynamic"), NOBODY.pw_uid, profile)


@pytest.mark.parametrize(("user", "profile"), [(None, "standard"), (None, "untrusted"), ("dynamic", "trusted")])
def test_a_group_without_a_named_user_is_refused_where_the_run_has_a_user_of_its_own(user, profile):
    with pytest.raises(payload.CannotStartError, match="group: it needs a 'user' beside it"):
        payload.account(job(user=user, group="nogroup"), 0, profile)


@pytest.mark.parametrize("profile", ["standard", "untrusted"])
def test_an_ordinary_daemon_runs_boxed_jobs_as_itself(profile):
    who = payload.account(job(), NOBODY.pw_uid, profile)
    assert (who.dynamic, who.uid, who.name) == (False, None, NOBODY.pw_name)


def test_the_profile_of_the_attempt_takes_the_place_of_the_jobs_own_and_its_overrides_stay():
    definition = job(sandbox={"profile": "standard", "hidden": ["/srv"]})
    assert payload.profile_of(definition) == "standard"
    found = policy_of(definition, "untrusted")
    assert (found.profile, found.network, found.hidden) == (
        "untrusted",
        "none",
        ("/etc/lnmt-scheduler", "/srv", "/state"),
    )


def test_the_daemons_files_are_hidden_and_cannot_be_asked_for():
    assert set(KEPT) <= set(policy_of(job(), "standard").hidden)
    definition = job(sandbox={"profile": "standard", "writable": ["/state/2"]})
    with pytest.raises(payload.CannotStartError, match=r"sandbox: /state/2 is the daemon's own"):
        policy_of(definition, "standard")


def test_what_a_job_cannot_start_without_is_shown(tmp_path):
    program = tmp_path / "program"
    program.touch()
    assert str(program) in policy_of(job(command=[str(program)]), "untrusted").readable
    assert str(tmp_path) in policy_of(job(working_directory=str(tmp_path)), "untrusted").readable
    called = job(command=None, module="m", function="f", python_path=[str(tmp_path)])
    assert {str(tmp_path), sys.prefix, sys.base_prefix} <= set(policy_of(called, "untrusted").readable)
    assert policy_of(job(), "untrusted").readable == ()


def test_a_function_runs_in_a_new_interpreter_where_the_profile_says_so():
    called = job(command=None, module="m", function="f")
    for profile, python in (("trusted", None), ("standard", None), ("untrusted", sys.executable)):
        facts = replace(FACTS, profile=profile)
        assert built(called, facts).python == python
        assert built(replace(called, python="/opt/venv/bin/python"), facts).python == "/opt/venv/bin/python"
        assert built(job(), facts).python is None


def test_an_interpreter_is_shown_with_what_it_needs_and_the_one_file_of_ours(tmp_path):
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "python").touch()
    called = job(command=None, module="m", function="f", python=f"{tmp_path}/bin/python")
    assert set(policy_of(called, "untrusted").readable) == {str(tmp_path), bridge.__file__}


def test_nothing_of_a_failed_build_stays_open(tmp_path):
    before = os.listdir("/proc/self/fd")
    for _ in range(3):
        with pytest.raises(payload.CannotStartError):
            built(job(environment_file=str(Path(tmp_path) / "none")))
    assert os.listdir("/proc/self/fd") == before


def test_what_lies_in_a_directory_that_is_closed_is_shown_to_a_user_of_its_own_and_the_directory_covered(tmp_path):
    home, lib = tmp_path / "home", tmp_path / "home" / "lib"
    lib.mkdir(parents=True)
    home.chmod(0o700)
    definition = job(command=["true"], working_directory=str(lib), sandbox={"profile": "standard"})
    made = {
        name: payload.policy_of(
            definition, payload.account(definition, daemon, "standard"), "/state", profile="standard", daemon_files=()
        )
        for name, daemon in (("dynamic", 0), ("own", NOBODY.pw_uid))
    }
    assert str(home) in made["dynamic"].hidden
    assert str(lib) in made["dynamic"].readable
    assert str(home) not in made["own"].hidden
