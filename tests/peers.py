"""What jobs meet in tests: real servers on loopback, ended with the test; skipped by name where a program is missing."""

import contextlib
import http.server
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import harness
import pytest

PYTHON = sys.executable


def program(name: str, package: str) -> str:
    """Path of a program of the host; the test is skipped by its name where it is not there."""
    path = shutil.which(name, path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin:/sbin")
    if path is None:
        pytest.skip(f"the program {name} (apt-get install {package})")
    return path


def free_port(kind: socket.SocketKind = socket.SOCK_STREAM) -> int:
    """A port of 127.0.0.1 that nobody has now."""
    with socket.socket(socket.AF_INET, kind) as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])


@contextlib.contextmanager
def web() -> Iterator[str]:
    """A web server; its address.

    /ok says so, /missing is 404, /escape is no answer, /drip never ends, /endless sends all that is taken.
    """

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path.startswith("/ok"):
                self.send_response(200)
                self.end_headers()
                self.wfile.write(b"all is well")
            elif self.path == "/escape":
                self.wfile.write(b"\x1b[2J nonsense\r\n\r\n")
            elif self.path in ("/drip", "/endless"):
                with contextlib.suppress(OSError):
                    while not over.is_set():
                        self.wfile.write(b"H" if self.path == "/drip" else b"HTTP/1.0 200 OK\r\n\r\n" + b"x" * 100_000)
                        over.wait(0.05 if self.path == "/drip" else 0)
            else:
                self.send_error(404)

        def log_message(self, *_: object) -> None:
            pass

    over = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        over.set()
        server.shutdown()
        server.server_close()


@contextlib.contextmanager
def snmpd(folder: Path, port: int | None = None) -> Iterator[int]:
    """A real agent, with the communities `public` and `hidden` and the users `signed` and `sealed` of version 3; its port."""
    path = program("snmpd", "snmpd")
    port = port or free_port(socket.SOCK_DGRAM)
    configuration = folder / "snmpd.conf"
    configuration.write_text(
        f"agentaddress udp:127.0.0.1:{port}\nrocommunity public 127.0.0.1\nrocommunity hidden 127.0.0.1\n"
        "createUser signed SHA authentication\ncreateUser sealed SHA authentication AES privacy-key\n"
        "rouser signed auth\nrouser sealed priv\n"
    )
    process = subprocess.Popen(
        [path, "-f", "-Lo", "-C", "-c", str(configuration)],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        env={**os.environ, "SNMP_PERSISTENT_DIR": str(folder / "snmpd"), "MIBS": ""},
    )
    try:
        assert process.stdout is not None
        # It says its version once it listens.
        harness.wait_for(lambda: b"NET-SNMP version" in process.stdout.readline(), what="snmpd that listens")
        yield port
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


@contextlib.contextmanager
def small_disk(folder: Path, size: str, inodes: int = 0) -> Iterator[Path]:
    """A file system of its own in a new folder; the test is skipped where that cannot be made."""
    folder.mkdir()
    made = ["mount", "-t", "tmpfs", "-o", f"size={size},nr_inodes={inodes}", "lnmt-test", str(folder)]
    if os.geteuid() != 0 or subprocess.run(made, capture_output=True).returncode:
        pytest.skip("root that may mount a small tmpfs")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def read_only(folder: Path) -> Iterator[Path]:
    """The folder as one that nobody, root neither, may write to; what has it open for writing goes on."""
    if os.geteuid() != 0:
        folder.chmod(0o555)
        try:
            yield folder
        finally:
            folder.chmod(0o755)
        return
    bind, change = ["mount", "--bind", folder, folder], ["mount", "-o", "remount,bind,ro", folder]
    if subprocess.run(bind, capture_output=True).returncode:
        pytest.skip("root that may mount")
    try:
        subprocess.run(change, check=True)
        yield folder
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


def kill_group(leader: int) -> None:
    """What a job's box does at once to all of it: KILL to it and to what it has started. ProcessLookupError if all are gone."""
    os.killpg(leader, signal.SIGKILL)
