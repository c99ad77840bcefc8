"""What init tells the launcher, and how it finds what is below it."""

import os
import signal
import subprocess
from pathlib import Path

import pytest
import standin

from lnmt_scheduler.sandbox import init, orders


@pytest.mark.parametrize(
    "report",
    [
        orders.Report(0, None, leftovers=False),
        orders.Report(255, None, leftovers=True),
        orders.Report(None, 9, leftovers=False),
        orders.Report(None, 64, leftovers=True),
        orders.Report(None, None, leftovers=False),
    ],
)
def test_a_report_survives_its_way(report):
    assert orders.unpack(report.pack()) == report


def test_all_below_a_process_are_found_parents_first():
    script = "sleep 300 & sh -c 'sleep 300 & echo up; wait' & wait"
    with subprocess.Popen(["/bin/sh", "-c", script], stdout=subprocess.PIPE, start_new_session=True) as shell:
        assert shell.stdout is not None
        assert shell.stdout.readline() == b"up\n"
        found = init.descendants(shell.pid)
        parents = {pid: int(Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[1]) for pid in found}
        assert len(found) == 3
        for place, pid in enumerate(found):
            assert parents[pid] in (shell.pid, *found[:place])
        assert len(init.descendants(shell.pid, limit=2)) == 2
        os.killpg(shell.pid, signal.SIGKILL)


def test_a_process_that_is_gone_has_nothing_below_it():
    with subprocess.Popen(["true"]) as gone:
        pass
    assert init.descendants(gone.pid) == []


def test_an_error_is_cut_before_it_fills_the_pipe():
    read, write = os.pipe()
    try:
        orders.report_error(write, b"S", "\udcff" + "x" * 10_000)
        data = os.read(read, 65536)
    finally:
        os.close(read)
        os.close(write)
    assert data.startswith(b"S\\udcffxxx")
    assert len(data) == 4001


#: The main process has ended and left another, and the launcher is dead, before init first looks.
DEAF = """
import os, signal, socket
from lnmt_scheduler.sandbox import init, namespaces, syscalls

syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
ours.close()
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
deaths = syscalls.signalfd(signal.SIGCHLD)
left = os.fork()
if left == 0:
    syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    signal.pause()
main = os.fork()
if main == 0:
    os._exit(3)
os.waitid(os.P_PID, main, os.WEXITED | os.WNOWAIT)
init._watch(theirs, deaths, main, namespaces.SEARCH, None)
print(os.path.exists(f"/proc/{left}"))
"""


def test_init_ends_its_box_also_if_the_launcher_dies_before_it_can_be_told():
    done = standin.python(DEAF)
    assert (done.stderr, done.stdout) == ("", "False\n")


#: What somebody of the same user could find at the moment when init's capabilities go: 1 is dumpable (prctl(2)).
GIVES_UP = """
from lnmt_scheduler.sandbox import capabilities, init, namespaces, syscalls

keep_only = capabilities.keep_only

def seen(kept):
    print(syscalls.prctl(3))
    keep_only(kept)

capabilities.keep_only = seen
print(syscalls.prctl(3))
init._give_up(namespaces.USER_NAMESPACE)
"""


def test_nobody_may_look_into_init_before_it_gives_its_capabilities_up():
    assert standin.python(GIVES_UP).stdout == "1\n0\n"


def test_init_is_the_parent_of_the_job_and_holds_none_of_its_streams(launched):
    script = "echo $$ $PPID; ls -l /proc/$PPID/fd 2>&1 | grep -c pipe; cat /proc/$PPID/comm"
    pid, parent, pipes, name = launched.run("/bin/sh", "-c", script).stdout.decode().split()
    assert (pid, parent, name) == ("2", "1", "lnmt-init") or os.geteuid() != 0
    assert int(pipes) <= 2  # its own, by which it hears of SIGCHLD
