"""Who runs what: the user of a job, the account of the supervisor, and who may have a state directory."""

import grp
import os
import pwd
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import harness
import pytest

from lnmt_scheduler.ipc import control
from lnmt_scheduler.sandbox import users

NOBODY = "nobody"


@pytest.fixture
def root_daemon(make_daemon: Callable[..., harness.Daemon]) -> harness.Daemon:
    if os.geteuid() != 0:
        pytest.skip("the user of a job: needs a root daemon")
    return make_daemon()


def _account_with_groups() -> pwd.struct_passwd:
    """An account with supplementary groups, if the host has one; else nobody."""
    members = {name for group in grp.getgrall() for name in group.gr_mem}
    return next((found for found in pwd.getpwall() if found.pw_name in members and found.pw_uid), pwd.getpwnam(NOBODY))


def test_a_job_runs_as_its_user_with_that_users_groups_and_home(root_daemon):
    who = _account_with_groups()
    report = 'id -ur; id -u; id -gr; id -G; echo "$HOME $USER $LOGNAME $SHELL"; grep ^Cap /proc/self/status'
    root_daemon.add(id="job", command=report, user=who.pw_name, working_directory="/")
    row = root_daemon.run_to_end("job")
    lines = root_daemon.output(row["run_id"]).decode().splitlines()
    assert (row["status"], row["uid"]) == ("completed", who.pw_uid)
    assert lines[:3] == [str(who.pw_uid), str(who.pw_uid), str(who.pw_gid)]
    assert {int(gid) for gid in lines[3].split()} == set(os.getgrouplist(who.pw_name, who.pw_gid))
    assert lines[4] == f"{who.pw_dir} {who.pw_name} {who.pw_name} {who.pw_shell}"
    held = dict(line.split(":\t") for line in lines[5:])
    assert int(held["CapEff"], 16) == int(held["CapPrm"], 16) == int(held["CapAmb"], 16) == 0


def test_a_job_of_another_user_can_open_its_own_streams_by_name(root_daemon):
    root_daemon.add(
        id="job", command="echo out > /dev/stdout; echo err > /proc/self/fd/2", user=NOBODY, working_directory="/"
    )
    row = root_daemon.run_to_end("job")
    assert row["status"] == "completed"
    assert root_daemon.output(row["run_id"]) == b"out\nerr\n"


def test_a_group_is_the_jobs_own_and_the_user_stays(root_daemon):
    group = grp.getgrgid(pwd.getpwnam(NOBODY).pw_gid).gr_name
    root_daemon.add(id="job", command="id -u; id -g", group=group, working_directory="/", sandbox="trusted")
    row = root_daemon.run_to_end("job")
    assert root_daemon.output(row["run_id"]).decode().split() == ["0", str(grp.getgrnam(group).gr_gid)]


@pytest.mark.parametrize(("profile", "user"), [("trusted", "dynamic"), ("standard", None), ("untrusted", None)])
def test_a_run_has_a_user_of_its_own_and_its_home_is_the_state_directory(root_daemon, profile, user):
    report = 'id -u; id -g; id -G; test "$HOME" = "$LNMT_STATE_DIR" && echo "$USER"; sleep 0.2; date > "$HOME/file"'
    for job in ("one", "two"):
        root_daemon.add(id=job, command=report, user=user, sandbox=profile)
    for jobs in (("one", "two"), ("two", "one")):  # the second time the files there are the other number's
        runs = [root_daemon.wait(run_id) for run_id in [root_daemon.run(job) for job in jobs]]
        if runs[0]["reason"] == "sandbox":
            pytest.skip(f"a host that gives the profile {profile}: {runs[0]['error']}")
        assert [row["status"] for row in runs] == ["completed", "completed"], runs
        uids = [row["uid"] for row in runs]
        assert len(set(uids)) == 2
        assert all(uid in users.DEFAULT for uid in uids)
        for row in runs:
            assert root_daemon.output(row["run_id"]).decode().split() == [*[str(row["uid"])] * 3, "lnmt-job"]


def test_the_state_directory_is_handed_over_when_the_user_changes(root_daemon):
    root_daemon.add(
        id="job",
        command='cd "$LNMT_STATE_DIR"; mkdir -p deep; date >> deep/log && ls -l / > top; pwd',
        working_directory="/",
    )
    owners = []
    for user in ("root", NOBODY, "root"):
        root_daemon.request(control.Edit(job_id="job", changes={"user": user}))
        row = root_daemon.run_to_end("job")
        assert row["status"] == "completed", root_daemon.output(row["run_id"])
        directory = Path(root_daemon.output(row["run_id"]).decode().strip())
        owners.append({path.stat().st_uid for path in (directory, *directory.rglob("*"))})
    assert owners == [{0}, {pwd.getpwnam(NOBODY).pw_uid}, {0}]
    assert len((directory / "deep" / "log").read_text().splitlines()) == 3


def test_links_in_a_state_directory_give_nothing_away(root_daemon, folder):
    precious = folder / "precious"
    precious.write_text("root's own")
    command = f'cd "$LNMT_STATE_DIR"; ln -s {shlex.quote(str(precious))} soft; ln {shlex.quote(str(precious))} hard'
    # Of the two links a box would allow only the first.
    root_daemon.add(id="job", command=command, working_directory="/", sandbox="trusted")
    first = root_daemon.run_to_end("job")
    root_daemon.request(control.Edit(job_id="job", changes={"user": NOBODY, "command": "test -L $LNMT_STATE_DIR/soft"}))
    assert [first["status"], root_daemon.run_to_end("job")["status"]] == ["completed", "completed"]
    assert precious.stat().st_uid == 0


def test_a_daemon_that_is_not_root_refuses_another_user(make_daemon, folder, ordinary_user):
    daemon = _daemon_of(ordinary_user, folder, make_daemon)
    other = "root" if ordinary_user != "root" else "daemon"
    daemon.add(id="job", command="true", user=other, working_directory="/")
    row = daemon.run_to_end("job")
    assert (row["status"], row["reason"]) == ("failed", "spawn")
    assert "is not root runs jobs as itself" in row["error"]


def _daemon_of(user: str, folder: Path, make: Callable[..., harness.Daemon]) -> harness.Daemon:
    if os.geteuid() != 0:
        return make()
    _give(folder / "state", user)
    return make(user=user)


def _give(state: Path, user: str) -> None:
    state.mkdir(mode=0o711)
    os.chown(state, pwd.getpwnam(user).pw_uid, pwd.getpwnam(user).pw_gid)


# The supervisor's account.


def test_the_supervisor_drops_to_its_account_and_jobs_run_as_given(make_daemon, folder, ordinary_user):
    if os.geteuid() != 0:
        pytest.skip("service_user: needs a root daemon")
    _give(folder / "state", ordinary_user)
    daemon = make_daemon(config=f"service_user = {ordinary_user!r}\n")
    uid = pwd.getpwnam(ordinary_user).pw_uid
    assert _uids(daemon.launcher_pid) == {0}
    assert _uids(daemon.supervisor_pid) == {uid}
    status = dict(
        line.split(":\t", 1) for line in Path(f"/proc/{daemon.supervisor_pid}/status").read_text().splitlines()
    )
    assert int(status["CapEff"], 16) == int(status["CapPrm"], 16) == 0
    daemon.add(id="roots", command="id -u; echo $USER $HOME", working_directory="/", sandbox="trusted")
    daemon.add(id="others", command="id -u; echo $USER", user=ordinary_user, working_directory="/")
    row = daemon.run_to_end("roots")
    assert (row["status"], row["uid"]) == ("completed", 0), row["error"]
    assert daemon.output(row["run_id"]).decode().split() == ["0", "root", pwd.getpwuid(0).pw_dir]
    row = daemon.run_to_end("others")
    assert (row["status"], row["uid"]) == ("completed", uid), row["error"]
    assert daemon.output(row["run_id"]).decode().split() == [str(uid), ordinary_user]
    daemon.add(id="nobodys", command="id -u")
    row = daemon.run_to_end("nobodys")
    assert (row["status"], row["uid"] in users.DEFAULT) == ("completed", True), row["error"]
    assert daemon.output(row["run_id"]).decode().split() == [str(row["uid"])]


def _uids(pid: int) -> set[int]:
    lines = Path(f"/proc/{pid}/status").read_text().splitlines()
    return {int(uid) for line in lines if line.startswith("Uid:") for uid in line.split()[1:]}


def test_an_account_that_cannot_reach_the_state_directory_is_refused_by_the_path(folder, ordinary_user):
    if os.geteuid() != 0:
        pytest.skip("service_user: needs a root daemon")
    (folder / "closed").mkdir(mode=0o700)
    state = folder / "closed" / "state"
    state.mkdir(mode=0o711)
    (state / "config.toml").write_text(f"service_user = {ordinary_user!r}\n")
    done = _schedd(state)
    assert done.returncode == 78
    assert f"service_user {ordinary_user!r} cannot reach {state}" in done.stderr


def test_a_service_user_that_does_not_exist_is_refused(folder):
    if os.geteuid() != 0:
        pytest.skip("service_user: needs a root daemon")
    state = folder / "state"
    state.mkdir(mode=0o711)
    (state / "config.toml").write_text("service_user = 'no-such-account'\n")
    done = _schedd(state)
    assert (done.returncode, "no such account" in done.stderr) == (78, True)


# The state directory.


def _schedd(state: Path) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-I", "-m", "lnmt_scheduler.supervisor.schedd", "--state-dir", str(state)]
    return subprocess.run(command, capture_output=True, text=True, timeout=30, stdin=subprocess.DEVNULL)


def test_a_second_daemon_on_one_state_directory_is_refused(daemon):
    done = _schedd(daemon.state_dir)
    assert done.returncode == 1
    assert f"another daemon runs on {daemon.state_dir}; stop it first" in done.stderr
    assert daemon.status()["running"] == 0


def test_a_state_directory_that_others_can_write_is_refused(folder):
    state = folder / "state"
    state.mkdir()
    state.chmod(0o777)
    done = _schedd(state)
    assert done.returncode == 73
    assert f"cannot prepare {state}" in done.stderr
    assert "others can write to it" in done.stderr


def test_a_state_directory_of_somebody_else_is_refused(folder):
    if os.geteuid() != 0:
        pytest.skip("a directory of another account: needs root to make one")
    state = folder / "state"
    state.mkdir(mode=0o711)
    os.chown(state, pwd.getpwnam(NOBODY).pw_uid, -1)
    done = _schedd(state)
    assert done.returncode == 73
    assert "it belongs to others" in done.stderr


@pytest.mark.skipif(os.geteuid() != 0, reason="only root runs jobs as another user")
def test_a_writable_path_that_the_user_cannot_write_is_a_warning(daemon, folder):
    (folder / "closed").mkdir(mode=0o755)
    open_to_all = folder / "open"
    open_to_all.mkdir()
    open_to_all.chmod(0o777)
    paths = [str(folder / "closed"), str(folder / "missing"), str(open_to_all)]
    spec = {"profile": "standard", "writable": paths}
    warnings = daemon.add(id="dynamic", command="true", sandbox=spec)["warnings"]
    assert len(warnings) == 2
    assert "closed cannot be written by a user of its own each run" in warnings[0]
    assert "missing: No such file or directory" in warnings[1]
    assert len(daemon.add(id="nobody", command="true", sandbox=spec, user="nobody")["warnings"]) == 2
    assert len(daemon.add(id="root", command="true", sandbox=spec, user="root")["warnings"]) == 1
