"""A box from outside: started, ended, emptied, in each mode; in a process of its own, since it forks."""

import json

import pytest
import standin

from lnmt_scheduler.sandbox import landlock

#: Run `body` in a box of mode argv[1], end it as argv[2] says, and print what is known then.
SOURCE = """
import json, os, select, signal, socket, sys, time
from lnmt_scheduler.sandbox import box, enter, namespaces, policy, syscalls

mode, how = sys.argv[1:3]
syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
read, write = os.pipe()

def tree():
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, signal.SIG_IGN)
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            parent = os.getpid()
            if os.fork() == 0:
                os.setsid()
                while os.getppid() == parent:
                    time.sleep(0.001)
                os.write(1, b".")
                signal.pause()
            os._exit(0)
    signal.pause()

def quick():
    os._exit(7)

def obedient():
    os.write(1, b"..")
    signal.pause()

def fails():
    raise RuntimeError("no way")

def looks():
    os.write(1, ("%d %s" % (os.getpid(), " ".join(sorted(os.listdir("/proc/self/fd"), key=int)))).encode())
    os._exit(0)

def leaves():
    if os.fork() == 0:
        os.setsid()
        signal.pause()
    os._exit(0)

body = {
    "kill": tree, "quick": quick, "term": obedient, "fails": fails, "init": tree, "eof": tree, "unread": leaves, "looks": looks,
}[how]
before = len(os.listdir("/proc/self/fd"))
null = os.open("/dev/null", os.O_RDWR)
made = box.start(policy.Policy(), mode, stdout=write, stderr=2, report=null, payload=null, body=body)
os.close(null)
os.close(write)
if how in ("kill", "term", "init", "eof"):
    said = b""
    while len(said) < 2:
        said += os.read(read, 2)
named, count = made.processes()
if how == "kill":
    made.kill()
elif how == "term":
    made.terminate()
elif how == "init":
    signal.pidfd_send_signal(made.pidfd, signal.SIGKILL)
elif how == "eof":
    made.control.shutdown(2)
elif how == "unread":
    poll = select.poll()
    poll.register(made.control, select.POLLIN)
    assert poll.poll(10_000), "no report comes"
    made.control.close()
    made.control, other = socket.socketpair()
    other.close()
poll = select.poll()
poll.register(made.pidfd, select.POLLIN)
assert poll.poll(10_000), "the box does not end"
ending = made.reap()
left = []
with open(f"/proc/self/task/{os.getpid()}/children") as file:
    for pid in map(int, file.read().split()):  # without a pid namespace strays become our children, as the launcher's
        left.append(pid)
        os.kill(pid, signal.SIGKILL)
        os.waitpid(pid, 0)
print(json.dumps({
    "report": None if ending.report is None else [ending.report.exit_code, ending.report.signal, ending.report.leftovers],
    "sandbox": ending.sandbox_error, "spawn": ending.spawn_error, "count": count, "left": left,
    "said": os.read(read, 1000).decode() if how == "looks" else "", "cpu": ending.cpu_seconds, "memory": ending.max_memory,
    "descriptors": len(os.listdir("/proc/self/fd")) - before}))
"""


@pytest.fixture(params=["a", "b", "c", "d"])
def box(request: pytest.FixtureRequest):
    mode = request.param
    if mode == "c" and landlock.abi() < 6:
        pytest.skip(f"boxes of mode c: a landlock that scopes signals (ABI 6): this kernel has {landlock.abi()}")

    def run(how: str) -> dict[str, object]:
        done = standin.python(SOURCE, mode, how)
        if done.returncode and "clone3" in done.stderr:
            pytest.skip(f"boxes of mode {mode}: {done.stderr.splitlines()[-1]}")
        assert done.returncode == 0, done.stderr
        found: dict[str, object] = json.loads(done.stdout)
        if mode in "ab" and "own /proc" in str(found["sandbox"]):
            pytest.skip(f"boxes of mode {mode}: {found['sandbox']}")
        assert found["descriptors"] == -1  # the write end that was given away
        if "tree_kill: landlock" in str(found["sandbox"]):
            pytest.skip(f"boxes of mode {mode}: {found['sandbox']}")
        assert found["left"] == [] or (mode in "cd" and how == "init")
        return found

    run.mode = mode  # type: ignore[attr-defined]
    return run


def test_the_end_is_told_with_exit_code_and_usage(box):
    found = box("quick")
    assert found["report"] == [7, None, False]
    assert (found["sandbox"], found["spawn"]) == (None, None)
    assert found["memory"] > 1 << 20
    assert found["cpu"] >= 0


def test_a_kill_leaves_nobody(box):
    found = box("kill")
    assert (found["count"], found["left"]) == (3, [])


def test_a_term_reaches_the_job(box):
    assert box("term")["report"] == [None, 15, False]


def test_the_death_of_init_is_the_end_of_the_box(box):
    found = box("init")
    assert found["report"] is None


def test_the_death_of_the_launcher_is_the_end_of_the_box(box):
    assert box("eof")["left"] == []


def test_the_death_of_a_launcher_that_has_not_read_the_report_is_the_end_of_the_box(box):
    found = box("unread")
    assert (found["left"], found["sandbox"]) == ([], None)


def test_what_cannot_be_started_is_told_apart_from_what_failed(box):
    found = box("fails")
    assert found["spawn"] == "RuntimeError: no way"
    assert found["sandbox"] is None


def test_a_job_has_its_descriptors_and_no_others(box):
    pid, *descriptors = box("looks")["said"].split()
    assert descriptors == [
        "0",
        "1",
        "2",
        "3",
        "4",
        "5",
        "6",
    ]  # until it is executed: payload, errors; the last is listdir's
    assert (pid == "2") == (box.mode in "ab")
