"""Control groups as this host really has them: limits that bite, counters that count, kills that leave nobody."""

import errno
import os
import subprocess
import sys

import harness
import pytest
import standin

from lnmt_scheduler.sandbox import cgroup, controllers, hierarchies

MIB = 1 << 20
#: The job's side: enter by the descriptors in argv, then be the program that follows.
JOIN = "import os, sys\nfrom lnmt_scheduler.sandbox import cgroup\ncgroup.join(map(int, sys.argv[1:]))\n"
BECOME_NOBODY = "os.setgroups(()); os.setgid(65534); os.setuid(65534)"
#: Many processes, all out of session and deaf to what can be ignored; then a line when they stand.
DAEMONS = """
import signal, time
ready, done = os.pipe()
for _ in range(20):
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            os.write(done, b".")
            time.sleep(600)
        os._exit(0)
standing = 0
while standing < 20:
    standing += len(os.read(ready, 20))
print("ready", flush=True)
time.sleep(600)
"""


@pytest.fixture(scope="module")
def host():
    found = cgroup.find()
    if found.kill is None:
        pytest.skip(f"a cgroup of our own: {'; '.join(found.missing)}")
    return found


@pytest.fixture
def make(host, request):
    """Make leaves; at the end of the test all are killed and removed."""
    made = []

    def make(limits=None, on=host, name="leaf"):
        limits = limits or controllers.Limits()
        lacking = limits.names() - on.limits
        if lacking:
            pytest.skip(f"cgroup limits for {', '.join(sorted(lacking))}: {'; '.join(on.missing)}")
        leaf = cgroup.create(on, f"{name}{len(made)}", limits)
        made.append(leaf)
        return leaf

    yield make
    for leaf in made:
        end(leaf)
        assert leaf.remove()


def end(leaf):
    def is_over():
        leaf.kill()
        return leaf.is_empty()

    harness.wait_for(is_over, 10, f"{leaf.name} to be empty")


def start(leaf, program):
    """A process that enters the leaf and then runs the program."""
    fds = leaf.enter_fds()
    try:
        return subprocess.Popen(
            [sys.executable, "-I", "-c", JOIN + program, *map(str, fds)],
            pass_fds=fds,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            text=True,
        )
    finally:
        for fd in fds:
            os.close(fd)


def finish(leaf, program):
    """Exit code and output of the program in the leaf."""
    with start(leaf, program) as process:
        output, _ = process.communicate(timeout=30)
    return process.returncode, output.strip()


def ours(host):
    """Leaves that this process has made and not removed."""
    mine = cgroup._leaf_name("")
    return [entry.path for tree in host.trees for entry in os.scandir(tree.path) if entry.name.startswith(mine)]


# Limits


def test_a_balloon_is_killed_at_its_limit_and_the_peak_is_told(make):
    leaf = make(controllers.Limits(memory=64 * MIB))
    code, _ = finish(leaf, "held = []\nwhile True: held.append(b'x' * (1 << 20))")
    assert code == -9
    used = leaf.usage()
    assert used.oom_kills >= 1
    assert 60 * MIB <= used.max_memory <= 64 * MIB


def test_a_balloon_in_a_child_is_counted_while_the_main_process_goes_on(make, host):
    leaf = make(controllers.Limits(memory=64 * MIB))
    if any(node.version == 2 and "memory" in node.controllers for node in leaf.nodes):
        pytest.skip("cgroup v1: v2 kills the group as a whole")
    balloon = "\npid = os.fork()\nif pid == 0:\n    held = []\n    while True: held.append(b'x' * (1 << 20))\n"
    code, output = finish(leaf, balloon + "print(os.waitpid(pid, 0)[1])")
    assert (code, output) == (0, "9")
    assert leaf.usage().oom_kills == 1


def test_reserved_memory_that_is_not_touched_is_free(make):
    leaf = make(controllers.Limits(memory=64 * MIB))
    code, output = finish(
        leaf, "import mmap\nprint(len(mmap.mmap(-1, 1 << 33, mmap.MAP_PRIVATE | 0x4000)))"
    )  # MAP_NORESERVE
    assert (code, output) == (0, str(1 << 33))
    assert leaf.usage().oom_kills == 0


def test_memory_without_a_word_on_swap_means_no_swap(make, host):
    if "swap" not in host.limits:
        pytest.skip(f"a limit for swap: {'; '.join(host.missing)}")
    leaf = make(controllers.Limits(memory=64 * MIB))
    node = next(node for node in leaf.nodes if "memory" in node.controllers)
    name, value = ("memory.swap.max", 0) if node.version == 2 else ("memory.memsw.limit_in_bytes", 64 * MIB)
    assert controllers._number(f"{node.path}/{name}") == value


def test_forks_over_the_limit_are_refused_and_counted(make):
    leaf = make(controllers.Limits(pids=5))
    bomb = """
import errno
kept, read = os.pipe(), []
try:
    while True:
        if os.fork() == 0:
            os.close(kept[1]); os.read(kept[0], 1); os._exit(0)
        read.append(1)
except OSError as error:
    print(len(read), errno.errorcode[error.errno])
"""
    code, output = finish(leaf, bomb)
    assert (code, output) == (0, "4 EAGAIN")
    used = leaf.usage()
    assert used.pids_denied >= 1
    assert used.max_processes in {5, None}


def test_a_share_of_a_core_holds_back_who_wants_it_all(make):
    leaf = make(controllers.Limits(cpu=0.2))
    spin = "import time\nbegun, before = time.monotonic(), time.process_time()\n"
    spin += "while time.monotonic() - begun < 0.6: pass\nprint(time.process_time() - before)"
    code, output = finish(leaf, spin)
    assert code == 0
    assert float(output) < 0.4
    assert leaf.usage().cpu_throttled > 0


def test_a_limit_that_the_host_cannot_set_is_refused_and_not_left_out():
    host = cgroup.find(frozenset({"memory"}))
    if host.kill is None:
        pytest.skip(f"a cgroup of our own: {'; '.join(host.missing)}")
    assert not host.limits & {"memory", "swap"}
    wanted = controllers.Limits(memory=64 * MIB, pids=10)
    with pytest.raises(OSError, match="no cgroup here can limit memory") as refused:
        cgroup.create(host, "refused", wanted)
    assert refused.value.errno == errno.ENOTSUP
    assert "Delegate=yes" in str(refused.value)
    assert wanted.only(host.limits) == controllers.Limits(pids=10 if "pids" in host.limits else None)
    assert ours(host) == []


def test_a_value_that_the_kernel_refuses_names_the_file_and_leaves_nothing(host):
    if "pids" not in host.limits:
        pytest.skip(f"a limit for pids: {'; '.join(host.missing)}")
    with pytest.raises(OSError, match="cannot write '-7'") as refused:
        cgroup.create(host, "wrong", controllers.Limits(pids=-7))
    assert refused.value.filename.endswith("-wrong/pids.max")
    assert ours(host) == []


def test_a_name_that_would_leave_the_tree_is_refused(host):
    for name in ("../up", "a/b", "", "a\nb"):
        with pytest.raises(ValueError, match="no name for a cgroup"):
            cgroup.create(host, name, controllers.Limits())


def test_swap_alone_is_refused():
    with pytest.raises(ValueError, match="memory"):
        controllers.Limits(swap=0)


# Entering and counting


def test_a_process_that_joins_is_in_every_tree_of_the_leaf(make):
    leaf = make()
    code, output = finish(leaf, "print(open('/proc/self/cgroup').read(), len(os.listdir('/proc/self/fd')))")
    assert code == 0
    assert output.count(leaf.name) == len(leaf.nodes)
    assert output.endswith(" 4"), "0, 1, 2 and the listing's own: what join() was given is closed"


def test_descriptors_are_closed_on_exec(make):
    fds = make().enter_fds()
    inherited = [fd for fd in fds if os.get_inheritable(fd)]
    for fd in fds:
        os.close(fd)
    assert inherited == []


def test_a_leaf_can_be_entered_after_the_user_has_changed(make):
    if os.geteuid() != 0:
        pytest.skip("root: to change to another user")
    leaf = make()
    fds = leaf.enter_fds()
    late = JOIN.replace("cgroup.join", f"{BECOME_NOBODY}\ncgroup.join") + "print(open('/proc/self/cgroup').read())"
    done = subprocess.run(
        [sys.executable, "-I", "-c", late, *map(str, fds)], pass_fds=fds, capture_output=True, text=True
    )
    for fd in fds:
        os.close(fd)
    assert done.stdout.count(leaf.name) == len(leaf.nodes), done.stderr


def test_what_orphans_used_is_counted(make):
    """The main process never waits for them, so no rusage has them."""
    leaf = make()
    burn = """
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        import time
        while time.process_time() < 0.3: pass
    os._exit(0)
"""
    code, _ = finish(leaf, burn)
    assert code == 0
    harness.wait_for(leaf.is_empty, 10, "the orphan's end")
    assert 0.3 <= leaf.usage().cpu_seconds < 3


# Killing


@pytest.mark.parametrize(
    ("without", "by"),
    [
        ((), cgroup.CGROUP_KILL),
        (("cgroup2",), cgroup.FREEZER),
        (("cgroup.kill",), cgroup.FREEZER),
        (("cgroup.kill", "freezer"), cgroup.SIGNALS),
    ],
)
def test_a_tree_of_daemons_is_killed_whole_by_every_means(make, without, by):
    host = cgroup.find(frozenset(without))
    if host.kill != by:
        pytest.skip(f"kill by {by}: {'; '.join(host.missing)}")
    leaf = make(on=host)
    with start(leaf, DAEMONS) as process:
        assert process.stdout.readline() == "ready\n"
        assert not leaf.is_empty()
        assert not leaf.remove()
        assert leaf.usage().max_processes in {None, *range(21, 42)}
        end(leaf)
        assert process.wait(10) == -9
        assert process.stdout.read() == ""


def test_a_fork_storm_is_killed_by_the_freezer(make):
    host = cgroup.find(frozenset({"cgroup2"}))
    if host.kill != cgroup.FREEZER:
        pytest.skip(f"the freezer of cgroup v1: {'; '.join(host.missing)}")
    leaf = make(controllers.Limits(pids=60), on=host)
    storm = """
print("ready", flush=True)
while True:
    try:
        if os.fork() and os.fork():
            os._exit(0)
    except OSError:
        pass
"""
    with start(leaf, storm) as process:
        assert process.stdout.readline() == "ready\n"
        harness.wait_for(lambda: leaf.usage().pids_denied, 10, "a storm that fills its leaf")
        end(leaf)
        assert process.stdout.read() == ""


def test_only_the_leaf_is_killed(make):
    first, second = make(), make()
    wait = "print('ready', flush=True)\nsys.stdin.read()\nimport time; time.sleep(600)"
    with start(first, wait) as one, start(second, wait) as other:
        assert (one.stdout.readline(), other.stdout.readline()) == ("ready\n", "ready\n")
        end(first)
        assert one.wait(10) == -9
        assert not second.is_empty()
        assert other.poll() is None
        end(second)


def test_a_zombie_does_not_keep_a_leaf_from_being_empty(make):
    leaf = make()
    with start(leaf, "") as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        harness.wait_for(leaf.is_empty, 10, "the zombie's leaf")
        assert leaf.remove()


# Removing


def test_cgroups_that_the_job_made_go_with_the_leaf(make):
    leaf = make()
    for node in leaf.nodes:
        os.makedirs(f"{node.path}/deep/deeper")
        os.mkdir(f"{node.path}/wide")
    assert leaf.is_empty()
    assert leaf.remove()
    assert [node.path for node in leaf.nodes if os.path.exists(node.path)] == []


def test_a_leaf_that_someone_removed_is_empty_and_needs_no_kill(make):
    leaf = make()
    fds = leaf.enter_fds()
    assert leaf.remove()
    with pytest.raises(OSError, match="No such device") as refused:
        os.write(fds[0], b"0")
    assert refused.value.errno == errno.ENODEV
    for fd in fds:
        os.close(fd)
    leaf.kill()
    assert leaf.is_empty()
    assert leaf.usage() == controllers.Usage()
    assert leaf.remove()
    with pytest.raises(FileNotFoundError, match=leaf.name):
        leaf.enter_fds()


def test_sweep_takes_what_a_dead_daemon_left_and_nothing_else(host, make):
    mine = make()
    source = "from lnmt_scheduler.sandbox import cgroup, controllers\n"
    source += "print(cgroup.create(cgroup.find(), 'left', controllers.Limits()).name, flush=True)\ninput()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen([sys.executable, "-I", "-c", source], text=True, **pipes) as other:
        name = other.stdout.readline().strip()
        left = [f"{tree.path}/{name}" for tree in host.trees if os.path.exists(f"{tree.path}/{name}")]
        cgroup.sweep(host)
        assert [path for path in left if os.path.exists(path)] == left
        assert len(left) == len(mine.nodes)
        other.kill()
    assert not set(cgroup.sweep(host)) & set(left)
    assert [path for path in left if os.path.exists(path)] == []
    assert all(os.path.exists(node.path) for node in mine.nodes)


def test_sweep_tells_of_a_leaf_that_still_holds_processes(host):
    source = """
import os, time
from lnmt_scheduler.sandbox import cgroup, controllers
leaf = cgroup.create(cgroup.find(), "busy", controllers.Limits())
ready, done = os.pipe()
if os.fork() == 0:
    cgroup.join(leaf.enter_fds())
    os.closerange(0, 3)
    os.write(done, b".")
    time.sleep(600)
os.read(ready, 1)
print(leaf.name)
"""
    name = standin.python(source).stdout.strip()
    nodes = tuple(tree for tree in host.trees if os.path.exists(f"{tree.path}/{name}"))
    left = cgroup.Leaf(
        name, tuple(hierarchies.Tree(t.version, f"{t.path}/{name}", t.controllers) for t in nodes), host.kill
    )
    assert set(cgroup.sweep(host)) >= {node.path for node in left.nodes}
    end(left)
    assert not set(cgroup.sweep(host)) & {node.path for node in left.nodes}
    assert [node.path for node in left.nodes if os.path.exists(node.path)] == []


def test_two_hundred_leaves_leave_nothing(host):
    fds = set(os.listdir("/proc/self/fd"))
    limits = controllers.Limits(memory=64 * MIB, pids=10, cpu=0.5).only(host.limits)
    for number in range(200):
        leaf = cgroup.create(host, f"many{number}", limits)
        for fd in leaf.enter_fds():
            os.close(fd)
        leaf.kill()
        assert leaf.is_empty()
        leaf.usage()
        assert leaf.remove()
    assert ours(host) == []
    assert set(os.listdir("/proc/self/fd")) == fds


# What a host lacks


def test_a_host_without_cgroups_says_so():
    host = cgroup.find(frozenset({"cgroup"}))
    assert (host.layout, host.limits, host.kill, host.trees) == ("none", frozenset(), None, ())
    assert "mount cgroup2" in host.missing[0]
    with pytest.raises(OSError, match="no cgroup can be made here"):
        cgroup.create(host, "none", controllers.Limits())


def test_v1_alone_kills_by_the_freezer_and_says_what_would_be_better(host):
    alone = cgroup.find(frozenset({"cgroup2"}))
    if alone.layout != "v1":
        pytest.skip("controllers of cgroup v1")
    assert alone.limits == host.limits
    assert alone.kill == cgroup.FREEZER
    assert [line for line in alone.missing if line.startswith("cgroup.kill: needs Linux 5.14")]


def test_an_ordinary_account_is_told_what_to_ask_for():
    if os.geteuid() != 0:
        pytest.skip("root: to become an account that nothing was delegated to")
    show = f"import os\nfrom lnmt_scheduler.sandbox import cgroup\n{BECOME_NOBODY}\nhost = cgroup.find()\n"
    show += "print(host.layout, host.kill, *host.missing, sep='\\n')"
    layout, kill, *missing = standin.python(show).stdout.splitlines()
    assert (layout, kill) == ("none", "None")
    assert [line for line in missing if "Delegate=yes" in line or "run as root" in line]


def test_trying_out_leaves_nothing(host):
    cgroup.find()
    assert ours(host) == []
