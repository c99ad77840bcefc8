"""The launcher by itself: what it is made of, what it says of a child's end, and what a bad supervisor cannot do to it."""

import contextlib
import ctypes
import os
import resource
import select
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest
import standin

from lnmt_scheduler.ipc import channel, codec, messages
from lnmt_scheduler.sandbox import policy

HEAVY = ("sqlite3", "msgspec", "click", "croniter", "psutil", "tabulate", "asyncio", "multiprocessing")


@pytest.fixture
def own(tmp_path: Path) -> Iterator[standin.Launched]:
    """A launcher that the test may break."""
    with standin.Launched(tmp_path) as made:
        yield made


# What it is made of.


def test_a_live_launcher_has_one_thread_and_none_of_the_supervisors_libraries_in_its_memory(daemon):
    daemon.add(id="job", module="json", function="dumps", args=[1], working_directory="/")
    assert daemon.run_to_end("job")["status"] == "completed"
    pid = daemon.launcher_pid
    assert os.listdir(f"/proc/{pid}/task") == [str(pid)]
    mapped = Path(f"/proc/{pid}/maps").read_text()
    assert [name for name in HEAVY if f"/{name}/" in mapped or f"_{name}." in mapped] == []
    seen = Path(f"/proc/{daemon.supervisor_pid}/maps").read_text()
    assert "_sqlite3." in seen  # so this way of looking does see one


def test_what_the_launcher_imports_is_none_of_the_supervisors_libraries():
    source = "import sys; import lnmt_scheduler.supervisor.schedd; print(*sys.modules)"
    found = set(standin.python(source).stdout.split())
    assert "lnmt_scheduler.supervisor.launcher" in found
    assert found.isdisjoint(HEAVY)
    ours = {
        name.removeprefix("lnmt_scheduler.supervisor.") for name in found if name.startswith("lnmt_scheduler.superv")
    }
    assert ours.isdisjoint({"daemon", "store", "dispatcher", "registry", "control", "cron", "payload", "config"})


def test_the_launcher_keeps_nothing_of_a_payload(own):
    secret = "secret-" + os.urandom(8).hex()
    run_id = own.launch(argv=["/bin/sleep", "300"], environment={"TOKEN": secret})
    own.expect(messages.Started)
    assert not [fd for fd in os.listdir(f"/proc/{own.pid}/fd") if "memfd:payload" in _link(own.pid, fd)]
    assert not _in_memory(own.pid, secret.encode())
    own.send(messages.End(run_id=run_id, attempt=1, cause="cancelled", grace=0))
    own.expect(messages.Exited)


def _link(pid: int, fd: str) -> str:
    try:
        return os.readlink(f"/proc/{pid}/fd/{fd}")
    except FileNotFoundError:
        return ""


def _in_memory(pid: int, what: bytes) -> bool:
    """Whether the bytes are anywhere in the writable memory of a process."""
    try:
        memory = open(f"/proc/{pid}/mem", "rb", buffering=0)  # noqa: SIM115 (closed below)
    except PermissionError as error:
        pytest.skip(f"reading the memory of another process: {error}")
    with memory:
        for line in Path(f"/proc/{pid}/maps").read_text().splitlines():
            span, rights, *_ = line.split()
            begin, end = (int(each, 16) for each in span.split("-"))
            if "w" in rights and end - begin < 1 << 28:
                memory.seek(begin)
                with contextlib.suppress(OSError):
                    if what in memory.read(end - begin):
                        return True
    return False


def test_it_says_its_version_and_what_it_holds_first(own):
    os.kill(own.standin, signal.SIGKILL)
    welcome = own.take_over()
    assert welcome.version == messages.VERSION
    assert welcome.launcher_pid == own.pid
    assert welcome.mode in ("a", "b", "c", "d")
    assert welcome.held == ()


# How a child ended.


def test_an_exit_code_is_told_as_it_is(launched):
    for code in (0, 1, 77, 124, 137, 255):
        exited = launched.run("/bin/sh", "-c", f"exit {code}").exited
        assert (exited.exit_code, exited.signal, exited.cause, exited.killed_count) == (code, None, None, 0)


#: Those that end nothing unless they are handled.
_HARMLESS = {signal.SIGCHLD, signal.SIGCONT, signal.SIGURG, signal.SIGWINCH}
_STOPPING = {signal.SIGSTOP, signal.SIGTSTP, signal.SIGTTIN, signal.SIGTTOU}


def test_every_signal_that_can_end_a_process_is_told_by_its_number(launched):
    numbers = sorted(signal.valid_signals() - _HARMLESS - _STOPPING)
    assert len(numbers) > 50
    told = {number: launched.run("/bin/sh", "-c", f"kill -{int(number)} $$").exited for number in numbers}
    assert {number: exited.signal for number, exited in told.items()} == {number: int(number) for number in numbers}
    assert {exited.exit_code for exited in told.values()} == {None}


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        (["/no/such/program"], "No such file or directory"),
        (["no-such-program"], "No such file or directory"),
        (["/"], "Permission denied"),
        (["/etc/passwd"], "Permission denied"),
        (["/bin/true", "x" * 200_000], "Argument list too long"),
        (["/bin/true", "a\0b"], "null"),
    ],
)
def test_what_cannot_be_executed_says_so_and_is_no_exit_code(launched, argv, words):
    exited = launched.run(*argv).exited
    assert words in exited.spawn_error
    assert repr(argv[0]) in exited.spawn_error
    assert exited.cause is None


def test_a_script_that_is_being_written_or_has_no_interpreter_says_so(launched, folder):
    for name, content, words in (("bad", "#!/no/such/interpreter\n", "No such file"), ("empty", "what", "Exec format")):
        script = folder / name
        script.write_text(content)
        script.chmod(0o755)
        assert words in launched.run(str(script)).exited.spawn_error


def test_the_end_comes_after_the_start_and_brings_usage(launched):
    done = launched.run(sys.executable, "-I", "-S", "-c", "x = bytearray(60 << 20); sum(range(2_000_000))")
    assert done.exited.exit_code == 0
    assert 60 << 20 < done.exited.max_memory < 1 << 30
    assert 0 < done.exited.cpu_seconds < 20
    assert 0 < done.exited.duration < 20
    assert done.exited.enforced["tree_kill"] in ("enforced", "best effort")


def test_descriptors_of_a_job_are_the_three_streams_and_its_report_pipe(launched):
    source = "import os; print({f: os.readlink(f'/proc/self/fd/{f}').split(':')[0] for f in map(str, range(64)) "
    source += "if os.path.lexists(f'/proc/self/fd/{f}')})"
    said = launched.run(sys.executable, "-I", "-S", "-c", source).stdout.decode()
    assert said == "{'0': '/dev/null', '1': 'pipe', '2': 'pipe', '3': 'pipe'}\n"


def test_a_job_begins_with_default_signals_in_a_session_of_its_own_without_core_dumps(make_daemon):
    # As nohup(1), and some parents of daemons, leave them.
    ignored = {signal.SIGHUP, signal.SIGUSR1, signal.SIGPIPE, signal.SIGCHLD}
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ignored}
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM, signal.SIGUSR2})
    try:
        daemon = make_daemon()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGTERM, signal.SIGUSR2})
        for number, handler in before.items():
            signal.signal(number, handler)
    script = "cat /proc/self/status; cat /proc/self/coredump_filter; cat /proc/$$/stat"
    daemon.add(id="job", command=f"{script}; kill -SEGV $$", working_directory="/")
    row = daemon.run_to_end("job")
    assert (row["reason"], row["signal"]) == ("signal", "SIGSEGV")
    lines = daemon.output(row["run_id"], "stdout").decode().splitlines()
    masks = dict(line.split(":\t") for line in lines if line.startswith("Sig"))
    assert [int(masks[name], 16) for name in ("SigBlk", "SigIgn", "SigCgt")] == [0, 0, 0]
    assert int(lines[-2], 16) == 0
    pid, rest = lines[-1].split(" ", 1)
    group, session, terminal = rest.rsplit(")", 1)[1].split()[2:5]
    assert (group, session, terminal) == (pid, pid, "0")


# Deadlines and ends.


def test_a_deadline_needs_no_word_of_the_supervisor(launched):
    begun = time.monotonic()
    exited = launched.run("/bin/sleep", "300", timeout=0.2).exited
    assert (exited.cause, exited.signal) == ("timeout", signal.SIGTERM)
    assert exited.killed == ()
    assert 0.2 <= exited.duration <= time.monotonic() - begun


def test_who_ignores_term_is_killed_after_the_grace_and_named(launched):
    source = (
        "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('up', flush=True)\nwhile 1: signal.pause()"
    )
    exited = launched.run(sys.executable, "-I", "-S", "-c", source, timeout=0.5, grace=0.2).exited
    assert (exited.cause, exited.killed_count) == ("timeout", 1)
    assert exited.killed[0][1].startswith(f"{sys.executable} -I -S -c")
    assert exited.duration >= 0.7


def test_the_first_cause_counts_and_a_later_order_may_only_shorten_the_grace(launched):
    run_id = launched.launch(argv=["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"], grace=300)
    launched.expect_of(messages.Started, run_id)[1]
    launched.send(messages.End(run_id=run_id, attempt=1, cause="cancelled", grace=300))
    launched.send(messages.End(run_id=run_id, attempt=1, cause="stopped", grace=0))
    exited, _ = launched.expect_of(messages.Exited, run_id)
    assert exited.cause == "cancelled"
    launched.send(messages.Ack(run_id=run_id, attempt=1))


def test_a_later_order_never_lengthens_the_grace(launched):
    run_id = launched.launch(argv=["/bin/sh", "-c", "trap '' TERM; echo up; while :; do sleep 0.05; done"], grace=300)
    _, pipes = launched.expect_of(messages.Started, run_id)
    assert select.select(pipes[:1], [], [], 20)[0]  # from here on it takes no notice of TERM
    launched.send(messages.End(run_id=run_id, attempt=1, cause="cancelled", grace=0.1))
    launched.send(messages.End(run_id=run_id, attempt=1, cause="stopped", grace=300))
    exited, _ = launched.expect_of(messages.Exited, run_id)
    assert (exited.cause, exited.signal) == ("cancelled", signal.SIGKILL)
    launched.send(messages.Ack(run_id=run_id, attempt=1))
    _close(pipes)


def test_a_deadline_of_a_hundred_years_is_no_trouble(own):
    run_id = own.launch(argv=["/bin/sleep", "300"], timeout=3.2e9)
    own.expect(messages.Started)
    assert own.run("/bin/true").exited.exit_code == 0
    own.send(messages.End(run_id=run_id, attempt=1, cause="cancelled", grace=0))
    assert own.expect(messages.Exited)[0].cause == "cancelled"


def test_a_killed_process_with_any_bytes_for_a_name_is_told_in_printable_words(launched):
    source = "import os; os.execv('/bin/sleep', [b'lnmt-init \\xff\\xfe\\x1b[31m', b'300'])"
    exited = launched.run("/bin/sh", "-c", f'{sys.executable} -I -S -c "$0" & sleep 0.3', source).exited
    assert exited.killed_count == 1
    assert exited.killed[0][1].startswith(r"lnmt-init \xff\xfe")


def test_of_many_leftovers_a_hundred_are_named_and_all_are_counted(launched):
    source = "import os, time\nfor _ in range(130):\n  if os.fork() == 0: time.sleep(300)"
    exited = launched.run(sys.executable, "-I", "-S", "-c", source).exited
    assert exited.exit_code == 0
    assert exited.killed_count == 130
    assert len(exited.killed) == len({pid for pid, _ in exited.killed}) == 100


def test_a_job_that_takes_in_its_orphans_by_itself_keeps_none(launched):
    source = """
import ctypes, os, signal
ctypes.CDLL(None).prctl(36, 1)
if os.fork() == 0:
    os.setsid()
    if os.fork() == 0:
        os.setsid()
        signal.pause()
    os._exit(0)
os.wait()
"""
    exited = launched.run(sys.executable, "-I", "-c", source).exited
    assert (exited.exit_code, exited.killed_count) == (0, 1)


# Holding on, and bad supervisors.


def test_what_runs_and_what_ends_while_there_is_no_supervisor_is_kept_for_the_next(own, folder):
    go = folder / "go"
    run_id = own.launch(argv=["/bin/sh", "-c", f"echo said; until [ -e {go} ]; do sleep 0.02; done; echo more; exit 3"])
    pipes = own.expect(messages.Started)[1]
    harness.wait_for(lambda: _readable(pipes[0]), what="output")
    os.kill(own.standin, signal.SIGKILL)
    welcome = own.take_over()
    assert welcome.held == ((run_id, 1),)
    assert welcome.failed == ""
    os.kill(own.standin, signal.SIGKILL)
    go.touch()
    own.take_over()
    done = own.finish(run_id)
    assert (done.exited.cause, done.exited.exit_code, done.stdout) == (None, 3, b"said\nmore\n")
    os.kill(own.standin, signal.SIGKILL)
    assert own.take_over().held == ()
    for fd in pipes:
        os.close(fd)


def test_a_deadline_holds_while_there_is_no_supervisor(own):
    run_id = own.launch(argv=["/bin/sleep", "300"], timeout=0.3)
    _close(own.expect(messages.Started)[1])
    os.kill(own.standin, signal.SIGKILL)
    own.take_over()
    assert own.finish(run_id).exited.cause == "timeout"


def _readable(fd: int) -> bool:
    return bool(select.select([fd], [], [], 0)[0])


def test_an_exit_is_told_again_until_it_is_acknowledged(own):
    run_id = own.launch(argv=["/bin/sh", "-c", "exit 3"])
    _close(own.expect(messages.Started)[1])
    assert own.expect(messages.Exited)[0].exit_code == 3
    for _ in range(2):
        os.kill(own.standin, signal.SIGKILL)
        assert own.take_over().held == ((run_id, 1),)
        _close(own.expect(messages.Started)[1])
        assert own.expect(messages.Exited)[0].exit_code == 3


def test_an_attempt_that_is_handed_over_twice_runs_once(own, folder):
    proof = folder / "proof"
    own.launch(argv=["/bin/sh", "-c", f"echo x >> {proof}; exec sleep 1"])
    own._run_id -= 1
    run_id = own.launch(argv=["/bin/sh", "-c", f"echo y >> {proof}"])
    own.finish(run_id)
    assert proof.read_text() == "x\n"
    assert own.run("/bin/true").exited.exit_code == 0


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"no_such_layer": 1}, "'no_such_layer' is not known to this launcher"),
        ({"groups": 5}, "int"),
        ({"uid": "root"}, ""),
        ({"uid": 1 << 40}, ""),
        ({"uid": -5}, ""),
        ({"open_files": "many"}, ""),
        ({"io_class": "no-such-class"}, ""),
        ({"state_directory": "/proc/no/such"}, "No such file"),
    ],
)
def test_a_policy_that_makes_no_sense_is_refused_and_the_launcher_goes_on(own, wrong, words):
    run_id = own.launch(argv=["/bin/true"], wanted={**policy.Policy().to_map(), **wanted_group(wrong), **wrong})
    exited, _ = own.expect_of(messages.Exited, run_id)
    assert words in ((exited.spawn_error or "") + (exited.sandbox_error or ""))
    assert exited.spawn_error or exited.sandbox_error
    assert own.run("/bin/true").exited.exit_code == 0


def wanted_group(wrong: dict[str, object]) -> dict[str, object]:
    return {"gid": 65534} if "uid" in wrong else {}


@pytest.mark.parametrize(
    "payload", [b"", b"\xc1", b"\x01", b"\x80", b"\x81\xa7unknown\x01", b"\x91" * 5000, bytes(range(64, 128))]
)
def test_a_payload_that_makes_no_sense_is_no_start(own, payload):
    fd = os.memfd_create("payload")
    os.write(fd, payload)
    own.send(messages.Launch(run_id=1, attempt=1, policy=policy.Policy().to_map(), timeout=5, kill_grace=1), (fd,))
    assert own.finish(1).exited.spawn_error


def test_a_launch_without_a_payload_is_no_start(own):
    own.send(messages.Launch(run_id=1, attempt=1, policy=policy.Policy().to_map(), timeout=5, kill_grace=1))
    assert "without its payload" in own.expect(messages.Exited)[0].spawn_error


def test_orders_for_attempts_that_are_not_there_do_nothing(own):
    own.send(messages.End(run_id=99, attempt=1, cause="cancelled", grace=0))
    own.send(messages.Ack(run_id=99, attempt=1))
    assert own.run("/bin/true").exited.exit_code == 0


@pytest.mark.parametrize("packet", [b"\xc1", b"\x90", b"\x92\xa3end\x80", b"x" * 4096])
def test_a_supervisor_that_talks_nonsense_is_ended_and_its_successor_learns_all(own, packet):
    run_id = own.launch(argv=["/bin/sleep", "300"])
    _close(own.expect(messages.Started)[1])
    own.channel._socket.send(packet)
    welcome = own.take_over()
    assert welcome.held == ((run_id, 1),)
    assert welcome.failed == "broke the protocol"
    own.send(messages.End(run_id=run_id, attempt=1, cause="cancelled", grace=5))
    assert own.finish(run_id).exited.cause == "cancelled"
    assert "broke the protocol" in own.log


def test_what_a_younger_supervisor_says_besides_is_left(own):
    read, write = os.pipe()
    socket.send_fds(own.channel._socket, [codec.pack(["nosuch", {"field": 1}])], [write])
    os.close(write)
    assert os.read(read, 1) == b""  # and its descriptors are closed
    os.close(read)
    values = {"run_id": 1, "attempt": 1, "cause": "cancelled", "grace": 0.0, "of_tomorrow": [1]}
    own.channel._socket.send(codec.pack(["end", values]))
    assert own.run("/bin/true").exited.exit_code == 0


def test_descriptors_that_nobody_asked_for_are_closed(own):
    own.run("/bin/true")
    before = harness.wait_for(lambda: _at_rest(own), what="a launcher at rest")
    for _ in range(20):
        own.send(
            messages.Ready(version=1, status="hello"),
            tuple(os.open("/dev/null", os.O_RDONLY) for _ in range(channel.MAX_FDS)),
        )
    assert own.run("/bin/true").exited.exit_code == 0
    # At first it may have held some of the run that had ended; but twenty messages' would be many more.
    harness.wait_for(lambda: 0 < _at_rest(own) <= before, what="no more descriptors than before")


def _at_rest(own: standin.Launched) -> int:
    """How many descriptors the launcher holds once the next box stands ready; 0: it is still at work."""
    children = Path(f"/proc/{own.pid}/task/{own.pid}/children").read_text().split()
    found = set()
    for _ in range(10):
        time.sleep(0.01)
        found.add(_descriptors(own.pid))
    return found.pop() if len(children) == 2 and len(found) == 1 else 0


def _descriptors(pid: int) -> int:
    return len(os.listdir(f"/proc/{pid}/fd"))


def _close(fds: list[int]) -> None:
    for fd in fds:
        os.close(fd)


@pytest.fixture
def traced(own: standin.Launched) -> int:
    """The supervisor, with a debugger on it: this process."""
    seize = 0x4206  # ptrace(2)
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.ptrace(seize, own.standin, None, None) != 0:
        pytest.skip(f"tracing a child of a child: {os.strerror(ctypes.get_errno())}")
    return own.standin


def test_a_supervisor_that_a_debugger_keeps_from_its_parent_holds_up_nothing(own, traced):
    run_id = own.launch(argv=["/bin/sleep", "300"], timeout=0.4)
    started, pipes = own.expect(messages.Started)
    _close(pipes)
    os.kill(traced, signal.SIGKILL)
    harness.wait_for(lambda: ") Z " in Path(f"/proc/{traced}/stat").read_text(), what="the end of the supervisor")
    harness.wait_for(
        lambda: not os.path.exists(f"/proc/{started.pid}"), what="the end of a run that is past its deadline"
    )
    assert os.waitpid(traced, 0)[0] == traced  # the debugger lets go of it
    assert own.take_over().held == ((run_id, 1),)
    assert own.finish(run_id).exited.cause == "timeout"


# Short of descriptors, and alive.


@contextlib.contextmanager
def no_descriptors(own: standin.Launched) -> Iterator[None]:
    """The launcher is given none any more; those that it has stay."""
    before = resource.prlimit(own.pid, resource.RLIMIT_NOFILE)
    resource.prlimit(own.pid, resource.RLIMIT_NOFILE, (3, before[1]))
    try:
        yield
    finally:
        resource.prlimit(own.pid, resource.RLIMIT_NOFILE, before)


def test_what_outlives_its_init_is_found_once_there_are_descriptors_again(tmp_path):
    with standin.Launched(tmp_path, masked="pidns,userns,landlock") as own:
        run_id = own.launch(argv=["/bin/sh", "-c", "setsid sleep 300 & echo up; wait"])
        started, pipes = own.expect(messages.Started)
        assert select.select(pipes[:1], [], [], 20)[0]
        with no_descriptors(own):
            os.kill(started.pid, signal.SIGKILL)
            harness.wait_for(lambda: not os.path.exists(f"/proc/{started.pid}"), what="the end of init")
            own.process.send_signal(signal.SIGHUP)
            own.expect(messages.Reload)  # so it has looked, and is there
        assert own.expect_of(messages.Exited, run_id)[0].killed_count == 2
        assert own.run("/bin/true").exited.exit_code == 0
        _close(pipes)


def test_a_supervisor_that_hangs_is_replaced_once_there_are_descriptors_again_and_accuses_nobody(tmp_path):
    impatient = "from lnmt_scheduler.supervisor import pulse\npulse.LIMIT = 0.1\n"
    environment = {"NOTIFY_SOCKET": str(tmp_path / "nobody.sock")}
    read, write = os.pipe()
    with select.epoll() as waiting, standin.Launched(tmp_path, before=impatient, environment=environment) as own:
        waiting.register(read, select.EPOLLIN)
        own.send(messages.Watch(), (os.dup(waiting.fileno()),))
        harness.wait_for(lambda: _epolls(own.pid) == 2, what="our epoll at the launcher")
        with no_descriptors(own):
            own.send(messages.Ready(version=messages.VERSION, status="ready"))  # for which systemd is to be told
            os.close(write)  # from now on something waits for us
            harness.wait_for(lambda: "cannot start a supervisor" in own.log, what="a supervisor that is not to be had")
        assert own.take_over().failed == ""
        assert own.run("/bin/true").exited.exit_code == 0
    os.close(read)


def _epolls(pid: int) -> int:
    return sum("eventpoll" in _link(pid, fd) for fd in os.listdir(f"/proc/{pid}/fd"))


def test_a_replacement_is_welcome_also_if_it_cannot_be_handed_descriptors(own):
    run_id = own.launch(argv=["/bin/sleep", "300"])
    _close(own.expect(messages.Started)[1])
    pid, fresh = another(own)
    fresh.send(messages.Hello(version=messages.VERSION, minor=99, package="9.9"))
    own.expect(messages.Leave)
    with no_descriptors(own):
        os.kill(own.standin, signal.SIGKILL)
        own.channel.close()
        own.standin, own.channel = pid, fresh
        assert own.expect(messages.Welcome)[1] == []
        assert own.expect(messages.Started)[1] == []
    own.send(messages.End(run_id=run_id, attempt=1, cause="cancelled", grace=5))
    assert own.expect(messages.Exited)[0].cause == "cancelled"


#: While there is the file, the third descriptor that is to be duplicated is one too many.
SHORT = """
import errno, os
really, asked = os.dup, []

def dup(fd):
    if os.path.exists({short!r}):
        asked.append(fd)
        if len(asked) == 3:
            raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
    return really(fd)

os.dup = dup
"""


def test_pipes_that_cannot_all_be_handed_over_are_not_kept(folder):
    with standin.Launched(folder, before=SHORT.format(short=str(folder / "short"))) as own:
        own.run("/bin/true")
        before = harness.wait_for(lambda: _at_rest(own), what="a launcher at rest")
        (folder / "short").touch()
        run_id = own.launch(argv=["/bin/true"])
        assert own.expect(messages.Started)[1] == []
        own.expect(messages.Exited)
        own.send(messages.Ack(run_id=run_id, attempt=1))
        harness.wait_for(lambda: 0 < _at_rest(own) <= before, what="no more descriptors than before")


#: The kernel takes no order for a box while there is the file.
NO_ORDER = """
import errno, os
from lnmt_scheduler.sandbox import orders
really = orders.Order.send

def send(self, *arguments):
    if os.path.exists({short!r}):
        raise OSError(errno.ENOBUFS, os.strerror(errno.ENOBUFS))
    really(self, *arguments)

orders.Order.send = send
"""


def test_a_box_that_cannot_be_given_its_order_is_no_start_and_does_not_stay(folder):
    short = folder / "short"
    with standin.Launched(folder, before=NO_ORDER.format(short=str(short))) as own:
        own.run("/bin/true")
        before = harness.wait_for(lambda: _at_rest(own), what="a launcher at rest")
        short.touch()
        run_id = own.launch(argv=["/bin/true"])
        assert "No buffer space" in own.expect_of(messages.Exited, run_id)[0].spawn_error
        own.send(messages.Ack(run_id=run_id, attempt=1))
        short.unlink()
        assert own.run("/bin/true").exited.exit_code == 0
        harness.wait_for(lambda: 0 < _at_rest(own) <= before, what="no more descriptors and children than before")


# Another supervisor in the place of the one that is.


def another(own: standin.Launched) -> tuple[int, channel.PacketChannel]:
    """Ask for a replacement; pid and channel of the process that the launcher started for it."""
    own.send(messages.Replace())
    return own.accept()


def test_a_replacement_that_fits_gets_everything_once_the_other_has_left(own):
    run_id = own.launch(argv=["/bin/sleep", "300"])
    _close(own.expect(messages.Started)[1])
    pid, fresh = another(own)
    fresh.send(messages.Hello(version=messages.VERSION, minor=99, package="9.9"))
    own.expect(messages.Leave)
    assert fresh.receive() == []  # the other is still there
    os.kill(own.standin, signal.SIGKILL)
    own.channel.close()
    own.standin, own.channel = pid, fresh
    welcome, page = own.expect(messages.Welcome)
    _close(page)
    assert (welcome.held, welcome.failed) == (((run_id, 1),), "")
    own.send(messages.End(run_id=run_id, attempt=1, cause="cancelled", grace=5))
    assert own.finish(run_id).exited.cause == "cancelled"


def test_a_replacement_of_another_protocol_is_refused_before_anything_is_stopped(own):
    pid, fresh = another(own)
    fresh.send(messages.Hello(version=messages.VERSION + 1, minor=0, package="9.9"))
    error = own.expect(messages.Replaced)[0].error
    assert "the supervisor on disk (9.9) version 2: the daemon as a whole must be restarted" in error
    harness.wait_for(lambda: not os.path.exists(f"/proc/{pid}"), what="the end of what was refused")
    fresh.close()
    assert own.run("/bin/true").exited.exit_code == 0


def test_a_replacement_that_cannot_start_is_told_and_another_may_be_asked_for(own):
    for _ in range(2):
        pid, fresh = another(own)
        own.send(messages.Replace())
        assert own.expect(messages.Replaced)[0].error == "another restart is under way"
        os.kill(pid, signal.SIGKILL)
        fresh.close()
        assert "ended (signal 9) before it was ready" in own.expect(messages.Replaced)[0].error
    assert own.run("/bin/true").exited.exit_code == 0


def test_a_replacement_whose_predecessor_has_died_before_its_hello_takes_its_place(tmp_path):
    patient = "from lnmt_scheduler.supervisor import launcher\nlauncher._BACKOFF = (300.0,)\n"
    with standin.Launched(tmp_path, before=patient) as own:
        pid, fresh = another(own)
        os.kill(own.standin, signal.SIGKILL)
        harness.wait_for(lambda: "the supervisor ended (signal 9)" in own.log, what="the end of the supervisor")
        fresh.send(messages.Hello(version=messages.VERSION, minor=99, package="9.9"))
        own.channel.close()
        own.standin, own.channel = pid, fresh
        _close(own.expect(messages.Welcome)[1])
        assert own.run("/bin/true").exited.exit_code == 0
        another(own)[1].close()  # and it may be replaced itself


# Its own end.


def test_when_it_is_killed_while_children_start_none_is_left(tmp_path):
    marker = "marker-" + os.urandom(8).hex()
    with standin.Launched(tmp_path) as own:
        for _ in range(20):
            own.launch(argv=["/bin/sleep", "300"], environment={"MARKER": marker})
        _close(own.expect(messages.Started)[1])
    harness.wait_for(lambda: not harness.processes_with(marker), 5, "the end of all of them")


def test_a_term_is_passed_on_and_a_second_one_ends_everything_here(own):
    own.launch(argv=["/bin/sh", "-c", "trap '' TERM; while :; do sleep 0.05; done"], grace=300)
    _close(own.expect(messages.Started)[1])
    own.process.send_signal(signal.SIGTERM)
    own.expect(messages.Stop)
    own.process.send_signal(signal.SIGTERM)
    assert own.expect(messages.Exited)[0].cause == "stopped"
    own.send(messages.Farewell(code=7))
    assert own.process.wait(10) == 7


def test_a_hangup_asks_for_a_reload(own):
    own.process.send_signal(signal.SIGHUP)
    own.expect(messages.Reload)


def test_a_launcher_with_a_second_thread_refuses_to_start(tmp_path):
    source = "import sys, threading; from lnmt_scheduler.supervisor import schedd\n"
    source += "threading.Thread(target=threading.Event().wait, daemon=True).start(); schedd.main(sys.argv[1:])"
    command = [sys.executable, "-I", "-c", source, "--state-dir", str(tmp_path / "state")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30)
    assert (done.returncode, "more than one thread" in done.stderr) == (70, True)
