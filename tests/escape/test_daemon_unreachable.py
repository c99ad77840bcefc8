"""From inside a box nobody reaches the daemon that made it: neither its processes nor its files nor its socket.

A real daemon, as root and as an ordinary account, and a job that knows all that there is to know: pids, paths, names.
"""

import json
import os
import shutil
import textwrap

import harness
import pytest
from escape import delegation, site

from lnmt_scheduler.sandbox import landlock

#: What the job tries, by itself: it is given the facts, and prints one line.
SOURCE = textwrap.dedent("""
    import ctypes, errno, json, os, resource, signal, socket, sys
    facts = json.loads(sys.argv[1])
    libc = ctypes.CDLL(None, use_errno=True)
    reached = {}

    def attempt(name, function):
        try:
            function()
            reached[name] = "done"
        except OSError as error:
            reached[name] = errno.errorcode[error.errno]

    def raw(number, *arguments):
        if libc.syscall(ctypes.c_long(number), *map(ctypes.c_long, arguments)) < 0:
            raise OSError(ctypes.get_errno(), "")

    def connect(path):
        with socket.socket(socket.AF_UNIX) as sock:
            sock.connect(path)

    for path in facts["sockets"]:
        attempt(f"connect to {path}", lambda: connect(path))
    attempt("abstract socket", lambda: connect("\\0" + facts["abstract"]))
    for path in facts["files"]:
        attempt(f"read {path}", lambda: os.close(os.open(path, os.O_RDONLY)))
        attempt(f"chmod {path}", lambda: os.chmod(path, 0o777))
        attempt(f"utime {path}", lambda: os.utime(path))
    for path in facts["folders"]:
        attempt(f"list {path}", lambda: os.listdir(path))
        attempt(f"write in {path}", lambda: os.close(os.open(path + "/x", os.O_CREAT | os.O_WRONLY)))
    for pid in facts["pids"]:
        attempt(f"signal 0 to {pid}", lambda: os.kill(pid, 0))
        attempt(f"stop {pid}", lambda: os.kill(pid, signal.SIGCONT))
        attempt(f"pidfd of {pid}", lambda: os.close(os.pidfd_open(pid)))
        attempt(f"prlimit of {pid}", lambda: resource.prlimit(pid, resource.RLIMIT_NOFILE))
        attempt(f"affinity of {pid}", lambda: os.sched_setaffinity(pid, {0}))
        attempt(f"priority of {pid}", lambda: os.setpriority(os.PRIO_PROCESS, pid, 5))
        attempt(f"ptrace {pid}", lambda: raw(facts["ptrace"], 16, pid, 0, 0))
        attempt(f"memory of {pid}", lambda: raw(facts["process_vm_readv"], pid, 0, 0, 0, 0, 0))
        attempt(f"/proc/{pid}", lambda: os.listdir(f"/proc/{pid}"))
        attempt(f"root of {pid}", lambda: connect(f"/proc/{pid}/root{facts['sockets'][0]}"))
        attempt(f"folder of {pid}", lambda: os.listdir(f"/proc/{pid}/cwd"))
    print(json.dumps(reached))
""")
#: The errors that mean "there is no such thing" or "not for you".
KEPT_OUT = {"ENOENT", "EACCES", "EPERM", "ESRCH", "EROFS", "ECONNREFUSED", "EAFNOSUPPORT", "SIGSYS"}
NUMBERS = {"x86_64": (101, 310), "aarch64": (117, 270)}


@pytest.fixture
def folder():
    """In place of the one in /tmp, of which a box has its own."""
    try:
        made = site._open_ground()
    except LookupError as error:
        pytest.skip(str(error))
    made.chmod(0o777)
    yield made
    shutil.rmtree(made, ignore_errors=True)


#: Without namespaces, by landlock alone, these stay: it has no word on them (landlock(7)). What connects is refused by the
#: socket itself, and /proc and pidfds tell that there is a process, no more. Modes and dates are as the row says: at best
#: effort anybody's of the account, and nobody's for a job that insists on the daemon's files.
OPEN = {"c": ("connect to", "pidfd of", "/proc/")}
UNSEALED = ("chmod", "utime")


@pytest.fixture(params=["a", "b", "c"])
def mode(request):
    return str(request.param)


@pytest.fixture
def daemon(mode, request, make_daemon):
    """One of this mode, as root or as an ordinary account that has been given what such an account can be given."""
    if mode == "a" and os.geteuid() != 0:
        pytest.skip("mode a: root")
    if mode == "c" and landlock.abi() < 6:
        pytest.skip("mode c: landlock with scopes (Linux 6.12)")
    user = request.getfixturevalue("ordinary_user") if mode != "a" and os.geteuid() == 0 else None
    masked = {"LNMT_PRETEND": "userns,pidns"} if mode == "c" else {}
    with delegation.wrapper_of(user) as wrapper:
        made = make_daemon(user=user, wrapper=wrapper, environment=masked)
        yield made
        made.stop()


@pytest.fixture(params=["standard", "standard that insists", "untrusted"])
def sandbox(mode, request, daemon):
    """A job's `sandbox`, and what its first run enforced of it."""
    asked = {"profile": request.param.split()[0]}
    if request.param.endswith("insists"):
        asked["require"] = ["daemon_files"]
    daemon.add(id="first", command="true", sandbox=asked)
    row = daemon.run_to_end("first")
    refusal = "takes namespaces" if mode == "c" else "required by profile"
    if request.param == "untrusted" and row["reason"] == "sandbox" and refusal in row["error"]:
        pytest.skip(f"{request.param}: {row['error'][:100]}")
    assert row["status"] == "completed", row
    return asked, row["enforced"]


def test_a_box_reaches_nothing_of_its_daemon(mode, daemon, sandbox, folder):
    asked, enforced = sandbox
    python, needed = site.interpreter()
    (folder / "kept").mkdir()
    program = folder / "kept" / "program.py"
    program.write_text(SOURCE)
    daemon.add(id="other", command="echo secret > $LNMT_STATE_DIR/file; echo words", sandbox=asked)
    other = daemon.run_to_end("other")
    assert other["status"] == "completed", other
    state = daemon.state_dir
    states = [str(path) for path in (state / "jobs").iterdir()]
    logs = [str(path) for path in (state / "output").rglob("*.log")]
    assert states
    assert logs
    facts = {
        "sockets": [daemon.socket],
        "abstract": "lnmt-scheduler",
        "files": [str(state / "lnmt.db"), str(state / "lock"), *logs, *(f"{path}/file" for path in states)],
        "folders": [str(state), str(state / "output"), *states],
        "pids": [daemon.launcher_pid, daemon.supervisor_pid],
        "ptrace": NUMBERS[os.uname().machine][0],
        "process_vm_readv": NUMBERS[os.uname().machine][1],
    }
    before = standing(daemon)
    daemon.add(
        id="escape",
        command=[python, "-I", str(program), json.dumps(facts)],
        sandbox={**asked, "readable": [str(folder / "kept"), *needed]},
    )
    run_id = daemon.run("escape")
    row = daemon.wait(run_id)
    assert row["status"] == "completed", daemon.output(run_id)
    reached = json.loads(daemon.output(run_id).splitlines()[0])
    assert len(reached) > 30
    known = OPEN.get(mode, ("nothing",))
    if enforced["daemon_files"] == "best effort":
        assert mode == "c"
        assert "require" not in asked
        assert reached[f"chmod {daemon.state_dir}/lock"] == "done"  # or it would be more than best effort
        known += UNSEALED
    assert [
        f"{name}: {said}" for name, said in reached.items() if said not in KEPT_OUT and not name.startswith(known)
    ] == []
    assert standing(daemon) == before


def standing(daemon):
    """What a job might have changed of the daemon's processes."""
    pids = (daemon.launcher_pid, daemon.supervisor_pid)
    return [(os.sched_getaffinity(pid), os.getpriority(os.PRIO_PROCESS, pid)) for pid in pids]


@pytest.mark.parametrize("sandbox", ["trusted", "standard", "untrusted"])
def test_schedctl_inside_a_job_is_refused_by_name(daemon, sandbox):
    """Whoever the job runs as: with profile trusted it is the daemon's own account, and the socket is there to be opened."""
    daemon.add(id="inside", command=[harness.SCHEDCTL, "--state-dir", str(daemon.state_dir), "stop"], sandbox=sandbox)
    run_id = daemon.run("inside")
    row = daemon.wait(run_id)
    said = daemon.output(run_id).decode()
    if sandbox == "trusted":
        assert (row["status"], row["exit_code"]) == ("failed", 77), said
        assert "the daemon takes no requests from inside a job" in said
    else:
        assert row["status"] == "failed", said
    assert daemon.status()["pid"] > 0


@pytest.mark.parametrize(
    ("masked", "sandbox"),
    [("userns,pidns,landlock", "trusted"), ("", {"profile": "trusted", "processes": "host"})],
    ids=["mode d", "processes of the host"],
)
def test_without_a_pid_namespace_it_is_refused_by_its_descent(masked, sandbox, make_daemon):
    daemon = make_daemon(environment={"LNMT_PRETEND": masked})
    stop = f"{harness.SCHEDCTL} --state-dir {daemon.state_dir} stop"
    # Also by a grandchild whose parent has ended.
    daemon.add(id="inside", command=f"{stop}; echo $?; sh -c '({stop}; echo $?) &' | cat", sandbox=sandbox)
    run_id = daemon.run("inside")
    row = daemon.wait(run_id)
    if row["reason"] == "sandbox":
        pytest.skip(row["error"])
    said = daemon.output(run_id).decode()
    assert said.split().count("77") == 2, said
    assert daemon.status()["pid"] > 0
