"""The profiles where there are no namespaces, but a landlock that scopes signals (mode c): a daemon of an ordinary account.

The same account runs the daemon and its jobs, so what keeps them apart is landlock and seccomp alone.
"""

import os
import pwd
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import harness
import pytest

from lnmt_scheduler.sandbox import landlock

MASKED = "pidns,userns"

#: Tries, and says for each what came of it.
TRIES = """
import os, signal, socket, sys

def tried(name, call, *arguments):
    try:
        call(*arguments)
        print(name, "ok", flush=True)
    except OSError as error:
        print(name, os.strerror(error.errno).replace(" ", "_"), flush=True)

def write(path):
    with open(path, "w") as file:
        file.write("x")

def read(path):
    with open(path, "rb") as file:
        file.read(1)

def connect(path):
    with socket.socket(socket.AF_UNIX) as made:
        made.connect(path)
        made.settimeout(10)
        print("answer", "not_allowed" if b"from inside a job" in made.recv(4096) else "another")

state, supervisor, launcher = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
temporary = os.environ["TMPDIR"]
os.makedirs(temporary + "/deep" * 20)
os.chmod(temporary + "/deep/deep", 0)
print("temporary", temporary)
tried("read-etc", read, "/etc/passwd")
tried("list-usr", os.listdir, "/usr")
tried("write-null", write, "/dev/null")
tried("write-state", write, os.environ["LNMT_STATE_DIR"] + "/mine")
tried("write-temporary", write, temporary + "/mine")
tried("write-tmp", write, "/tmp/lnmt-test-not-mine")
tried("write-shm", write, "/dev/shm/lnmt-test-not-mine")
tried("write-given", write, sys.argv[4] + "/given/mine")
tried("write-beside", write, sys.argv[4] + "/beside/mine")
tried("list-tmp", os.listdir, "/tmp")
tried("read-store", read, state + "/lnmt.db")
tried("list-daemon", os.listdir, state)
tried("read-hidden", read, sys.argv[4] + "/given/hidden/secret")
for name, pid in (("supervisor", supervisor), ("launcher", launcher), ("init", os.getppid())):
    tried("signal-" + name, os.kill, pid, 0)
    tried("environ-" + name, read, "/proc/%d/environ" % pid)
tried("connect", connect, state + "/control.sock")
with open("/proc/self/status") as file:
    fields = dict(line.split(":\\t") for line in file.read().splitlines())
print("privileges", fields["NoNewPrivs"], fields["Seccomp"], int(fields["CapEff"], 16))
"""


@pytest.fixture
def scoped(folder: Path, make_daemon: Callable[..., harness.Daemon], request: pytest.FixtureRequest) -> harness.Daemon:
    """A daemon in mode c, of an ordinary account."""
    if landlock.abi() < 6:
        pytest.skip(f"boxes of mode c: landlock scopes signals from ABI 6 on, this kernel has ABI {landlock.abi()}")
    user = request.getfixturevalue("ordinary_user") if os.geteuid() == 0 else None
    state = folder / "state"
    state.mkdir(mode=0o711)
    for name in ("given", "given/hidden", "beside"):
        (folder / name).mkdir(mode=0o777)
        (folder / name).chmod(0o777)
    (folder / "given/hidden/secret").write_text("secret")
    if user is not None:
        found = pwd.getpwnam(user)
        os.chown(state, found.pw_uid, found.pw_gid)
    daemon = make_daemon(user=user, environment={"LNMT_PRETEND": MASKED})
    assert daemon.status()["mode"] == "c", daemon.log
    return daemon


def run(daemon: harness.Daemon, **definition: Any) -> dict[str, Any]:
    job_id = f"job{len(daemon.history())}"
    daemon.add(**{"id": job_id, "working_directory": "/", "max_retries": 0, "sandbox": "standard", **definition})
    return daemon.run_to_end(job_id)


def test_standard_changes_and_sees_no_more_than_it_was_given(scoped, folder):
    row = run(
        scoped,
        command=[
            sys.executable, "-I", "-S", "-c", TRIES, str(scoped.state_dir), str(scoped.supervisor_pid),
            str(scoped.launcher_pid), str(folder),
        ],
        sandbox={"profile": "standard", "writable": [f"{folder}/given"], "hidden": [f"{folder}/given/hidden"],
                 "readable": [sys.base_prefix, sys.prefix]},
    )  # fmt: skip
    said = scoped.output(row["run_id"]).decode()
    assert (row["status"], row["error"]) == ("completed", None), said
    found = dict(line.split(" ", 1) for line in said.splitlines())
    temporary = found.pop("temporary")
    denied = "Permission_denied"
    assert found == {
        "read-etc": "ok", "list-usr": "ok", "write-null": "ok", "write-state": "ok", "write-temporary": "ok",
        "write-tmp": denied, "write-shm": denied,
        "write-given": denied,  # no new name beside what is hidden
        "write-beside": denied, "list-tmp": denied,
        "read-store": denied, "list-daemon": denied, "read-hidden": denied,
        "signal-supervisor": "Operation_not_permitted", "environ-supervisor": denied,
        "signal-launcher": "Operation_not_permitted", "environ-launcher": denied,
        "signal-init": "Operation_not_permitted", "environ-init": denied,
        "answer": "not_allowed", "connect": "ok", "privileges": "1 2 0",
    }  # fmt: skip
    assert temporary.startswith("/tmp/lnmt-")
    assert not os.path.lexists(temporary)
    assert {row["enforced"][layer] for layer in ("tree_kill", "no_new_privs", "seccomp")} == {"enforced"}
    assert {row["enforced"][layer] for layer in ("filesystem", "daemon_files")} == {"best effort"}  # modes and dates
    assert row["enforced"]["namespaces"] == "absent"


def test_what_was_given_as_writable_is(scoped, folder):
    row = run(
        scoped, command=f"echo x > {folder}/given/new", sandbox={"profile": "standard", "writable": [f"{folder}/given"]}
    )
    assert row["status"] == "completed"
    assert (folder / "given/new").read_text() == "x\n"


def test_a_function_of_standard_runs_and_finds_its_own_temporary_directory(scoped):
    row = run(scoped, module="tempfile", function="gettempdir")
    assert row["status"] == "completed", row
    assert b"/tmp/lnmt-" in scoped.output(row["run_id"], "result")


def test_a_run_that_is_killed_leaves_no_temporary_directory(scoped):
    scoped.add(
        id="killed", command="echo $TMPDIR; touch $TMPDIR/x; sleep 300", sandbox="standard", working_directory="/", timeout=1,
        kill_grace=0.2, max_retries=0,
    )  # fmt: skip
    row = scoped.run_to_end("killed")
    assert row["reason"] == "timeout"
    temporary = scoped.output(row["run_id"]).decode().splitlines()[0]
    assert temporary.startswith("/tmp/lnmt-")
    assert not os.path.lexists(temporary)


@pytest.mark.parametrize(
    ("definition", "words"),
    [
        ({"sandbox": "untrusted"}, "profile 'untrusted' takes namespaces"),
        ({"sandbox": {"profile": "standard", "network": "none"}}, "network: required by profile 'standard'"),
        ({"sandbox": {"profile": "standard", "proc": "own"}}, "proc: own takes namespaces"),
        ({"limits": {"tmp_size": "1M"}}, "limits.tmp_size takes namespaces"),
    ],
)
def test_what_takes_namespaces_is_refused(scoped, definition, words):
    row = run(scoped, command="echo ran", **definition)
    assert (row["status"], row["reason"]) == ("failed", "sandbox")
    assert words in row["error"]
    assert b"ran" not in scoped.output(row["run_id"]).splitlines()


@pytest.mark.skipif(os.geteuid() != 0, reason="a user of its own for each run: needs root")
def test_a_root_that_may_make_no_namespaces_gives_each_run_a_user_of_its_own(make_daemon):
    daemon = make_daemon(environment={"LNMT_PRETEND": MASKED})
    if daemon.status()["mode"] != "c":
        pytest.skip(f"boxes of mode c: {daemon.log.strip()}")
    script = (
        "id -u; grep -E '^Cap(Eff|Prm|Bnd)' /proc/self/status; touch $TMPDIR/mine $LNMT_STATE_DIR/mine; echo $TMPDIR"
    )
    row = run(daemon, command=script)
    uid, *sets, temporary = daemon.output(row["run_id"]).decode().splitlines()
    assert row["status"] == "completed"
    assert int(uid) == row["uid"] > 65535
    assert {int(line.split()[1], 16) for line in sets} == {0}
    assert not os.path.lexists(temporary)
    assert row["enforced"]["user"] == "enforced"


SEALED = """
set -x
cd "$LNMT_STATE_DIR"
echo mine > file && mkdir folder && mv file folder/ && ln -s folder link && rm link
chmod 600 folder/file
touch -d 2001-01-01 folder/file
chmod 000 "$0"
stat -c %a "$0"
"""


def test_who_insists_on_the_daemons_files_changes_no_modes_or_dates(scoped):
    state = scoped.state_dir
    before = [(path.stat().st_mode, path.stat().st_mtime_ns) for path in (state, state / "lock")]
    row = run(
        scoped,
        command=["/bin/sh", "-c", SEALED, str(state)],
        sandbox={"profile": "standard", "require": ["daemon_files"]},
    )
    said = scoped.output(row["run_id"]).decode()
    assert row["status"] == "completed", said
    assert said.count("Operation not permitted") == 3, said
    assert {row["enforced"][layer] for layer in ("filesystem", "daemon_files")} == {"enforced"}
    assert [(path.stat().st_mode, path.stat().st_mtime_ns) for path in (state, state / "lock")] == before


@pytest.mark.parametrize("layer", ["namespaces", "tree_kill"])
def test_who_insists_on_what_is_only_wished_for_here_is_refused(scoped, make_daemon, layer):
    daemon = scoped
    if layer == "tree_kill":
        daemon = make_daemon(environment={"LNMT_PRETEND": f"{MASKED},landlock=5"}, name="older", user=scoped.user)
        assert daemon.status()["mode"] == "d"
    row = run(daemon, command="echo ran", sandbox={"profile": "standard", "require": [layer]})
    assert (row["status"], row["reason"]) == ("failed", "sandbox")
    assert row["error"].startswith(f"{layer}: required by profile 'standard' and not to be had: ")


def test_doctor_and_the_measurement_say_that_modes_can_be_changed(scoped):
    scoped.add(id="job", command="true", working_directory="/", sandbox="standard")
    scoped.add(
        id="sealed", command="true", working_directory="/", sandbox={"profile": "standard", "require": ["daemon_files"]}
    )
    found = scoped.ctl("doctor", "-o", "json").json
    layers = {each["layer"]: each for each in found["layers"]}
    standard = next(each for each in found["profiles"] if each["profile"] == "standard")
    for layer in ("filesystem", "daemon_files"):
        assert layers[layer]["state"] == "best effort"
        assert "landlock does not cover" in layers[layer]["why"]
        assert layer in standard["degraded_in"]
    states = {
        job: {each["layer"]: each["state"] for each in scoped.ctl("sandbox", "test", job, "-o", "json").json["layers"]}
        for job in ("job", "sealed")
    }
    assert states["job"]["daemon_files"] == "degraded"
    assert states["sealed"]["daemon_files"] == states["sealed"]["filesystem"] == "enforced"
