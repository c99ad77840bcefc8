"""Where a peer runs: beside us, in a pid namespace below ours, or below the launcher; real processes and real sockets."""

import os
import socket
import subprocess
import sys

import pytest
import standin

from lnmt_scheduler.supervisor import boxed

#: Connect to argv[1] and wait for its end; with argv[2] in a grandchild, whose parent is gone.
PEER = """
import os, socket, sys
read, write = os.pipe()
if sys.argv[2:]:
    if os.fork():
        os.close(write)
        os.read(read, 1)
        os._exit(0)
    parent = os.getpid()
    if os.fork():
        os._exit(0)
    while os.getppid() == parent:
        pass
sock = socket.socket(socket.AF_UNIX)
sock.connect(sys.argv[1])
sock.recv(1)
"""


@pytest.fixture
def listener(folder):
    path = str(folder / "sock")
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(path)
        os.chmod(path, 0o666)
        sock.listen()
        sock.settimeout(20)
        yield sock


def pid_of(sock):
    return int.from_bytes(sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4], sys.byteorder)


def start(listener, *prefix, arguments=()):
    return subprocess.Popen([*prefix, sys.executable, "-I", "-c", PEER, listener.getsockname(), *arguments])


def test_a_process_beside_us_is_outside(listener):
    with start(listener) as peer:
        sock, _ = listener.accept()
        with sock:
            assert boxed.place_of(sock, pid_of(sock), None, os.getuid()) == "outside"
            assert boxed.place_of(sock, pid_of(sock), 1 << 22, os.getuid()) == "outside"
        assert peer.wait() == 0


def test_the_descendants_of_the_launcher_are_jobs_and_itself_is_not(listener):
    with start(listener) as peer:
        sock, _ = listener.accept()
        with sock:
            assert boxed.place_of(sock, pid_of(sock), os.getpid(), os.getuid()) == "box"
            assert boxed.place_of(sock, pid_of(sock), peer.pid, os.getuid()) == "outside"


def test_a_box_of_any_mode_is_seen_from_outside_also_after_it_changed_its_parent(listener, launched):
    for arguments in ((), ("fork",)):
        source = [sys.executable, "-I", "-c", PEER, listener.getsockname(), *arguments]
        run_id = launched.launch(argv=source, timeout=20)
        sock, _ = listener.accept()
        with sock:
            assert boxed.place_of(sock, pid_of(sock), launched.pid, os.getuid()) == "box"
            if launched.welcome.mode in "ab":  # by its namespace alone
                assert boxed.place_of(sock, pid_of(sock), None, os.getuid()) == "box"
        launched.finish(run_id)


def test_a_peer_that_has_ended_is_nowhere(listener):
    with start(listener) as peer:
        sock, _ = listener.accept()
        number = pid_of(sock)
        with sock:
            peer.kill()
            peer.wait()
            with pytest.raises(OSError):
                boxed.place_of(sock, number, None, os.getuid())


def test_a_peer_that_ends_while_it_is_looked_at_is_not_taken_for_one_from_outside(listener, monkeypatch):
    """A job may connect in a child, and keep the connection when that has ended."""

    def gone(pid):
        raise FileNotFoundError(2, "it has been reaped", f"/proc/{pid}/stat")

    with start(listener) as peer:
        sock, _ = listener.accept()
        with sock:
            monkeypatch.setattr(boxed, "_parent", gone)
            with pytest.raises(ProcessLookupError):
                boxed.place_of(sock, pid_of(sock), 1 << 22, os.geteuid())
            # Whom an account cannot look at is none of its own, and so no job of its daemon.
            monkeypatch.setattr(os, "geteuid", lambda: 4321)
            assert boxed.place_of(sock, pid_of(sock), 1 << 22, 1234) == "outside"
        peer.kill()


def test_a_peer_outside_of_our_namespace_is_unknown(listener):
    """As that of a container's host is to a daemon in the container: it has no pid there."""
    with start(listener):
        sock, _ = listener.accept()
        with sock:
            assert boxed.place_of(sock, 0, None, os.getuid()) == "unknown"


def test_a_daemon_in_a_box_does_not_know_who_comes_from_outside(folder, launched):
    path = str(folder / "inside.sock")
    source = (
        "import socket, struct, sys\nfrom lnmt_scheduler.supervisor import boxed\n"
        "listener = socket.socket(socket.AF_UNIX); listener.bind(sys.argv[1]); listener.listen()\n"
        "print('up', flush=True); sock, _ = listener.accept()\n"
        "pid = struct.unpack('i', sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12)[:4])[0]\n"
        "print(boxed.place_of(sock, pid, None, 0))\n"
    )
    if launched.welcome.mode not in "ab":
        pytest.skip("boxes with a pid namespace of their own")
    run_id = launched.launch(argv=[sys.executable, "-I", "-c", source, path], timeout=20)
    standin.harness.wait_for(lambda: os.path.exists(path), what="the socket inside")
    with socket.socket(socket.AF_UNIX) as sock:
        standin.harness.wait_for(lambda: sock.connect_ex(path) == 0, what="a connection")
        done = launched.finish(run_id)
    assert done.stdout == b"up\nunknown\n"
