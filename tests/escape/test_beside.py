"""What one attempt in one box cannot show: races, what is left after a run, what runs do to each other, and broken hosts.

The catalogue names these tests; each is a case of it.
"""

import ast
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

import harness
import pytest
from escape import delegation, hostile

from lnmt_scheduler.ipc import messages
from lnmt_scheduler.sandbox import enter, ownership, policy, scratch

SOURCE = Path(enter.__file__).parent.parent


def test_the_launcher_signals_no_process_by_its_number():
    """A number may be another process's by then. Init may: its children keep theirs until it has reaped them."""
    found = []
    for path in ("supervisor/launcher.py", "supervisor/boxes.py", "sandbox/box.py", "sandbox/foreground.py"):
        for function in ast.walk(ast.parse((SOURCE / path).read_text())):
            if isinstance(function, ast.FunctionDef):
                calls = [ast.unparse(each.func) for each in ast.walk(function) if isinstance(each, ast.Call)]
                found += [function.name] * len({"os.kill", "os.killpg"} & set(calls))
    assert found == ["_kill_strays"]  # its own children, which it has not reaped


HOLD = """
import ctypes, sys, time
libc = ctypes.CDLL(None)
made = 0
while made < int(sys.argv[1]) and libc.inotify_init() >= 0:
    made += 1
print(made, flush=True)
time.sleep(float(sys.argv[2]))
"""


def test_what_a_box_takes_of_its_uid_is_missed_by_no_other_box(sites):
    here = sites.get("a")  # elsewhere all boxes are one uid, and docs/sandbox.md says so
    wanted = here.policy_of("standard").to_map()
    command = (here.ground.python, "-I", "-c", HOLD)
    greedy = here.launched.launch(argv=(*command, "10000", "60"), wanted=wanted, timeout=60)
    _, pipes = here.launched.expect_of(messages.Started, greedy)
    try:
        taken = int(harness.wait_for(lambda: _line(pipes[0]), what="the greedy one"))
        modest = here.launched.run(*command, "1", "0", wanted=wanted)
        here.launched.send(messages.End(run_id=greedy, attempt=1, cause="cancelled", grace=0))
        here.launched.expect_of(messages.Exited, greedy)
    finally:
        for fd in pipes:
            os.close(fd)
    assert 1 < taken < 10_000
    assert modest.stdout == b"1\n"


def _line(fd):
    try:
        return os.read(fd, 64)
    except BlockingIOError:
        return b""


HOG = """
import resource, socket, time
limit = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
resource.setrlimit(resource.RLIMIT_NOFILE, (limit, limit))
kept, sent, full = [], 0, False
while sent < 2 * limit and not full:
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    one.setblocking(False)
    kept += one, other
    try:
        while True:
            socket.send_fds(one, [b"x"], [0] * 253)
            sent += 253
    except BlockingIOError:
        pass
    except OSError:
        full = True
print(sent, flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("mode", ["b", "c", "d"])
def test_a_job_cannot_use_up_the_descriptors_on_their_way(mode, sites):
    """They are counted for the account, which launcher and jobs share there; the launcher has some in reserve."""
    here = sites.get(mode)
    wanted = here.policy_of("standard", open_files=None).to_map()
    command = (here.ground.python, "-I", "-c")
    hog = here.launched.launch(argv=(*command, HOG), wanted=wanted, timeout=60)
    _, pipes = here.launched.expect_of(messages.Started, hog)
    try:
        sent = int(harness.wait_for(lambda: _line(pipes[0]), what="the hog"))
        other = here.launched.run(*command, "print('ran')", wanted=wanted)
        here.launched.send(messages.End(run_id=hog, attempt=1, cause="cancelled", grace=0))
        ended, _ = here.launched.expect_of(messages.Exited, hog)
    finally:
        for fd in pipes:
            os.close(fd)
    assert sent > 1000
    assert other.stdout == b"ran\n"
    assert ended.cause == "cancelled"  # it held them all the while


SWAP = """
import os, sys
os.chdir(sys.argv[1])
os.mkdir("folder"); os.symlink(sys.argv[2], "link")
print("up", flush=True)
while True:
    for one, other in (("folder", "away"), ("link", "folder"), ("folder", "link"), ("away", "folder")):
        os.rename(one, other)
"""


@pytest.mark.skipif(os.geteuid() != 0, reason="files of another owner: needs root")
@pytest.mark.parametrize("deed", ["handed over", "removed"])
def test_a_directory_that_turns_into_a_link_leads_nobody_outside(folder, deed):
    """Somebody of the job's user swaps a directory for a link as fast as can be, while root works on it."""
    outside, state = folder / "outside", folder / "state"
    outside.mkdir()
    (outside / "kept").touch()
    outside.chmod(0o755)
    before = _looks(outside), _looks(outside / "kept")
    wanted = policy.Policy(uid=65534, gid=65534)
    until = time.monotonic() + 2
    rounds = 0
    while time.monotonic() < until:
        state.mkdir()
        swapper = subprocess.Popen([sys.executable, "-I", "-c", SWAP, state, outside], stdout=subprocess.PIPE)
        assert swapper.stdout.readline() == b"up\n"
        try:
            for _ in range(50):
                try:
                    if deed == "removed":
                        scratch.remove_tree(str(state))
                    else:
                        os.chown(state, 0, 0)
                        ownership.own_directory(str(state), wanted)
                except OSError:
                    pass
                rounds += 1
        finally:
            swapper.kill()
            swapper.wait()
            swapper.stdout.close()
            shutil.rmtree(state, ignore_errors=True)
    assert rounds > 50
    assert (_looks(outside), _looks(outside / "kept")) == before


def _looks(path):
    found = path.stat()
    return found.st_uid, found.st_gid, found.st_mode


def test_a_purge_takes_a_mess_away_and_holds_up_nobody(daemon):
    daemon.add(id="messy", command="true", sandbox="standard")
    daemon.run_to_end("messy")
    (state,) = (daemon.state_dir / "jobs").iterdir()
    hostile.mess(str(state))
    began = time.monotonic()
    done = daemon.ctl("remove", "messy", "--purge")
    assert done.code == 0, done
    assert time.monotonic() - began < 5
    assert not os.path.lexists(state)
    assert "Traceback" not in daemon.log


CRASH = """
import os, signal
from lnmt_scheduler.ipc import codec, frames, messages

def job():
    result = messages.Result(part=1, parts=1, data=codec.pack(42))
    os.write(3, frames.pack(codec.encode(result), frames.REPORT_LIMIT))
    os.kill(os.getpid(), signal.{ending})
"""


@pytest.mark.parametrize("profile", ["trusted", "standard"])
def test_a_result_before_a_crash_does_not_count(daemon, folder, profile):
    (folder / "crashes.py").write_text(CRASH.format(ending="SIGSEGV"))
    daemon.add(id="job", module="crashes", function="job", python_path=[str(folder)], sandbox=profile, max_retries=0)
    row = daemon.run_to_end("job")
    if row["reason"] == "sandbox":
        pytest.skip(row["error"])
    assert (row["status"], row["reason"], row["signal"]) == ("failed", "signal", "SIGSEGV"), row
    assert row["error"] != "ProtocolError"


@pytest.mark.skipif(os.geteuid() != 0, reason="to take its cgroup from a daemon: needs root")
def test_a_cgroup_that_cannot_be_made_is_a_refusal(make_daemon):
    """Somebody removes the cgroup under which the daemon makes those of its runs: said in words, and no line has run."""
    with delegation.cgroups() as (folders, wrapper):
        daemon = make_daemon(wrapper=wrapper)
        daemon.add(id="job", command="echo ran", sandbox={"profile": "standard", "require": ["memory"]}, max_retries=0)
        row = daemon.run_to_end("job")
        if row["reason"] == "sandbox":
            pytest.skip(row["error"])
        assert row["enforced"]["memory"] == "enforced", row
        for folder in folders:
            for each in (*folder.glob("lnmt-*"), folder):  # the box that stands ready for the next run, and the daemon
                for pid in (each / "cgroup.procs").read_text().split():
                    (folder.parent / "cgroup.procs").write_text(pid)
                each.rmdir()
        row = daemon.run_to_end("job")
        assert (row["status"], row["reason"]) == ("failed", "sandbox"), row
        assert row["error"].startswith("memory: required by profile 'standard' and not to be had: no cgroup: ")
        assert "it takes a restart" in row["error"]
        assert b"ran" not in daemon.output(row["run_id"]).splitlines()
        daemon.add(id="job2", command="echo ran", sandbox="standard", max_retries=0)
        row = daemon.run_to_end("job2")
        assert (row["status"], row["enforced"]["memory"], row["enforced"]["pids"]) == (
            "completed",
            "best effort",
            "absent",
        ), row
        daemon.stop()
