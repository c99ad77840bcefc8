"""A router for tests: FRR's zebra in a network namespace of its own, its shell behind a real sshd on loopback.

Root only. Where a program is missing, the test that asks is skipped with its name.
"""

import contextlib
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import harness
import peers
import pytest

_ZEBRA, _SSHD = "/usr/lib/frr/zebra", "/usr/sbin/sshd"


@dataclass
class Router:
    folder: Path
    port: int
    #: A private key that it lets in.
    key: Path

    def configure(self, *lines: str) -> None:
        """Type these lines at its configuration prompt."""
        words = [word for line in ("configure terminal", *lines) for word in ("-c", line)]
        subprocess.run(["vtysh", "--vty_socket", str(self.folder), *words], check=True, capture_output=True)

    def change_host_key(self) -> None:
        """Be another machine, as far as its host key says; sshd reads it anew at SIGHUP."""
        make_key(self.folder / "host_key")
        key = (self.folder / "host_key.pub").read_text().split()[1]
        os.kill(int((self.folder / "sshd.pid").read_text()), signal.SIGHUP)
        ask = ["ssh-keyscan", "-p", str(self.port), "-t", "ed25519", "127.0.0.1"]
        harness.wait_for(lambda: key in subprocess.run(ask, capture_output=True, text=True).stdout, what="the new key")


@contextlib.contextmanager
def run(folder: Path, hostname: str = "r1") -> Iterator[Router]:
    """The router, until the end of the context."""
    if os.geteuid() != 0:
        pytest.skip("sshd and a network namespace: root only")
    if not os.path.exists(_ZEBRA):
        pytest.skip(f"the program {_ZEBRA} (apt-get install frr)")
    for name, package in (
        ("vtysh", "frr"),
        ("sshd", "openssh-server"),
        ("ssh-keygen", "openssh-client"),
        ("git", "git"),
    ):
        peers.program(name, package)
    folder.mkdir()
    folder.chmod(0o755)
    (folder / "zebra.conf").write_text(f"hostname {hostname}\ninterface lo\n description first\n!\n")
    shutil.chown(folder, "frr", "frr")
    make_key(folder / "host_key")
    make_key(folder / "key")
    (folder / "authorized").write_text((folder / "key.pub").read_text())
    router = Router(folder, peers.free_port(), folder / "key")
    zebra = [
        "unshare", "-n", _ZEBRA, "-f", str(folder / "zebra.conf"), "--vty_socket", str(folder), "-i", str(folder / "zebra.pid"),
        "-z", str(folder / "zserv.api"), "-P", "0", "-u", "frr", "-g", "frr",
    ]  # fmt: skip
    with _process(zebra), _sshd(router, f"/usr/bin/vtysh --vty_socket {folder}"):
        harness.wait_for(lambda: os.path.exists(folder / "zebra.vty"), what="zebra's socket")
        yield router


@contextlib.contextmanager
def _sshd(router: Router, shell: str) -> Iterator[None]:
    """An sshd on the router's port, whose every session is this shell."""
    os.makedirs("/run/sshd", exist_ok=True)
    lines = (
        f"Port {router.port}", "ListenAddress 127.0.0.1", f"HostKey {router.folder}/host_key",
        f"PidFile {router.folder}/sshd.pid",
        f"AuthorizedKeysFile {router.folder}/authorized", "PermitRootLogin yes", "PasswordAuthentication no", "UsePAM no",
        "StrictModes no", f"ForceCommand {shell}",
    )  # fmt: skip
    (router.folder / "sshd_config").write_text("\n".join(lines) + "\n")
    with _process([_SSHD, "-D", "-e", "-f", str(router.folder / "sshd_config")]):
        harness.wait_for(lambda: _listens(router.port), what="sshd")
        yield


def make_key(path: Path) -> None:
    for old in (path, Path(f"{path}.pub")):
        old.unlink(missing_ok=True)
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(path)], check=True)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), 1):
        return True
    return False


@contextlib.contextmanager
def _process(command: list[str]) -> Iterator[None]:
    started = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    try:
        yield
    finally:
        started.terminate()
        started.wait(20)
