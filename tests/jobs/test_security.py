"""The security log job: a real sshd with fail2ban as second opinion, a real journal with forged entries, and deaths."""

import contextlib
import getpass
import json
import os
import re
import shutil
import sqlite3
import struct
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import harness
import peers
import pytest

from lnmt_scheduler.jobs import polling, security

HEAD = "2026-11-25T01:02:03.000000+00:00 host "


def line(program: str, message: str) -> str:
    return f"{HEAD}{program}[1]: {message}\n"


def failed(address: str, user: str = "root") -> str:
    return line("sshd", f"Failed password for {user} from {address} port 22 ssh2")


class Host:
    """A log and accounts, and a job that looks at them."""

    def __init__(self, folder: Path) -> None:
        self.state = folder / "state"
        self.state.mkdir()
        self.log = folder / "auth.log"
        self.log.touch()
        self.passwd = folder / "passwd"
        self.passwd.write_text("root:x:0:0:root:/root:/bin/bash\n")

    def look(self, **more: object) -> dict[str, object]:
        settings = {"files": [str(self.log)], "journal": False, "limit": 1 << 20, "passwd": str(self.passwd), **more}
        return security.analyze(str(self.state), time.time(), **settings)

    def write(self, *lines: str) -> None:
        with self.log.open("a") as file:
            file.writelines(lines)


@pytest.fixture
def host(tmp_path):
    return Host(tmp_path)


def test_failed_logins_are_counted_by_source_and_only_once(host):
    host.write(failed("192.0.2.7"), failed("192.0.2.7", "invalid user bob"), failed("192.0.2.8"))
    host.write(line("sshd", "Invalid user bob from 192.0.2.7 port 22"), line("cron", "nothing"))
    found = host.look()
    assert (found["failed"], found["guesses"], found["sources"], found["new_sources"]) == (3, 1, 2, 2)
    assert found["by_source"][0] == {
        "address": "192.0.2.7",
        "failed": 2,
        "guesses": 1,
        "probes": 0,
        "users": ["bob", "root"],
    }
    assert host.look()["failed"] == 0
    host.write(failed("192.0.2.7"), failed("192.0.2.9"))
    found = host.look()
    assert (found["sources"], found["new_sources"]) == (2, 1)


def test_an_address_that_gets_in_is_news_the_first_time_only(host):
    accepted = line("sshd", "Accepted password for eve from 192.0.2.7 port 22 ssh2")
    host.write(failed("192.0.2.7"), accepted)
    assert host.look()["new_addresses"] == [{"address": "192.0.2.7", "users": ["eve"], "failed_before": 1}]
    host.write(accepted)
    assert host.look()["new_addresses_count"] == 0


def test_a_new_account_is_seen_without_any_log(host):
    assert host.look()["new_accounts"] == []
    host.passwd.write_text(host.passwd.read_text() + "eve:x:0:0::/:/bin/sh\nbad line\n")
    assert host.look()["new_accounts"] == ["eve (uid 0)"]
    host.passwd.write_text("root:x:0:0:root:/root:/bin/bash\neve:x:7:0::/:/bin/sh\n")
    assert host.look()["new_accounts"] == ["eve (uid 7, was 0)"]


def test_sudo_and_account_lines_are_told(host, capsys):
    host.write(line("sudo", "eve : user NOT in sudoers ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh"))
    host.write(line("useradd", "new user: name=mallory, UID=0, GID=0, home=/, shell=/bin/sh, from=/dev/pts/1"))
    found = host.look()
    assert found["sudo"] == [{"user": "eve", "why": "user NOT in sudoers", "count": 1}]
    assert found["account_log"] == ["mallory: added (uid 0)"]
    assert "account mallory: added (uid 0)" in capsys.readouterr().out


def test_bytes_that_are_no_text_and_lines_that_are_cut_off_are_passed_over(host):
    with host.log.open("ab") as file:
        file.write(
            b"\xff\xfe\0garbage\n" + failed("192.0.2.7").encode()[:-30] + b"\n" + failed("192.0.2.8", "\x1b").encode()
        )
    found = host.look()
    assert [each["address"] for each in found["by_source"]] == ["192.0.2.8"]
    json.dumps(found)


def test_a_flood_from_very_many_addresses_is_bounded(host, monkeypatch):
    monkeypatch.setattr(security, "_ADDRESSES_MAX", 100)
    monkeypatch.setattr(security, "_REMEMBERED_MAX", 50)
    host.write(*(failed(f"10.0.{number // 250}.{number % 250}") for number in range(300)))
    found = host.look()
    assert (found["failed"], found["sources"], len(found["by_source"])) == (300, 101, 20)
    assert found["by_source"][0]["address"] == "(others)"
    host.write(failed("192.0.2.7"))
    host.look()
    assert len(json.dumps(found)) < 10_000


def test_a_run_that_dies_before_it_remembers_is_told_again_by_the_next(host, monkeypatch, capsys):
    host.write(failed("192.0.2.7"))
    with monkeypatch.context() as dying:
        dying.setattr(security, "_remember", lambda *_: os.strerror(None))
        with pytest.raises(TypeError):
            host.look()
    assert "192.0.2.7: 1 failed" in capsys.readouterr().out
    assert host.look()["failed"] == 1
    assert host.look()["failed"] == 0


def remembered(host: Host) -> int:
    """How many failures of the one address are in the job's memory."""
    with contextlib.closing(sqlite3.connect(host.state / "security.db")) as file:
        try:
            found = file.execute("SELECT failed FROM addresses").fetchone()
        except sqlite3.OperationalError:  # killed before there were tables
            return 0
    return int(found[0]) if found else 0


@pytest.mark.slow
def test_runs_that_are_killed_at_any_time_lose_no_line_and_the_last_counts_what_no_whole_run_has(host):
    program = (
        "import sys, time\nfrom lnmt_scheduler.jobs import security\n"
        "found = security.analyze(sys.argv[1], time.time(), files=[sys.argv[2]], journal=False, limit=1 << 20)\n"
        "print('whole', found['failed'], flush=True)\n"
    )
    told = 0
    for number in range(12):
        host.write(*(failed("192.0.2.7") for _ in range(500)))
        command = [peers.PYTHON, "-c", program, str(host.state), str(host.log)]
        with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as job:
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(0.06 + number * 0.01)
            job.kill()
            output = job.communicate()[0]
        told += sum(int(count) for count in re.findall(r"^whole (\d+)", output, re.MULTILINE))
        assert remembered(host) % 500 == 0
    host.look()
    assert remembered(host) == 6000
    assert told <= 6000


@contextlib.contextmanager
def sshd(folder: Path) -> Iterator[tuple[int, Path]]:
    """A real sshd that asks for passwords, and takes a key; its port, and what it logs."""
    path = peers.program("sshd", "openssh-server")
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / "key")], check=True)
    port = peers.free_port()
    log = folder / "sshd.log"
    (folder / "sshd_config").write_text(
        f"ListenAddress 127.0.0.1\nPort {port}\nHostKey {folder}/key\nAuthorizedKeysFile {folder}/key.pub\nStrictModes no\n"
        "UsePAM no\nPasswordAuthentication yes\nPermitRootLogin yes\nForceCommand true\nPidFile none\n"
    )
    if os.geteuid() == 0:
        os.makedirs("/run/sshd", exist_ok=True)
    server = subprocess.Popen([path, "-D", "-f", str(folder / "sshd_config"), "-E", str(log)])
    try:
        harness.wait_for(lambda: log.exists() and "Server listening" in log.read_text(), what="sshd that listens")
        yield port, log
    finally:
        server.terminate()
        server.wait()


@pytest.mark.slow
def test_a_real_sshd_is_understood_as_fail2ban_understands_it(host, tmp_path):
    oracle = peers.program("fail2ban-regex", "fail2ban")
    client = peers.program("ssh", "openssh-client")
    ask = tmp_path / "ask"
    ask.write_text("#!/bin/sh\necho wrong\n")
    ask.chmod(0o755)
    me = getpass.getuser()
    with sshd(tmp_path) as (port, log):
        options = [
            "-F",
            "none",
            "-p",
            str(port),
            "-o",
            "StrictHostKeyChecking=no",
            "-o",
            "UserKnownHostsFile=/dev/null",
        ]
        passwords = [*options, "-o", "PubkeyAuthentication=no", "-o", "NumberOfPasswordPrompts=2"]
        asking = {**os.environ, "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
        for user in (me, "nobody-here", "root from 10.0.0.1 port 22 ssh2"):
            subprocess.run([client, *passwords, "-l", user, "127.0.0.1"], env=asking, capture_output=True, timeout=60)
        # Of an account that may log in: that of this test, unless it is a system's.
        gets_in = os.geteuid() == 0
        keys = [*options, "-o", "PasswordAuthentication=no", "-o", "IdentitiesOnly=yes", "-i", str(tmp_path / "key")]
        done = subprocess.run([client, *keys, "-l", me, "127.0.0.1"], capture_output=True, text=True, timeout=60)
        if gets_in:
            assert done.returncode == 0, done.stderr
            harness.wait_for(lambda: "Accepted publickey" in log.read_text(), what="the login in the log")
    host.write(*(line("sshd", each) for each in log.read_text().splitlines()))
    found = host.look()
    assert found["failed"] == 6
    assert [(each["address"], each["failed"]) for each in found["by_source"]] == [("127.0.0.1", 6)]
    assert [each["users"] for each in found["new_addresses"]] == ([[me]] if gets_in else [])
    assert found["forged"] > 0
    # fail2ban's filter for sshd, at its strictest: the lines that name a failed password and who did it.
    said = subprocess.run(
        [oracle, "--print-all-matched", "-o", "<ip> <msg>", str(host.log), "sshd[mode=normal]"],
        capture_output=True, text=True, timeout=60, check=True,
    ).stdout  # fmt: skip
    matched = [each for each in said.splitlines() if "Failed password" in each]
    assert len(matched) == 6, said
    assert {each.split()[0] for each in matched} == {"127.0.0.1"}


def test_a_real_journal_tells_who_is_who_and_is_read_on_from_where_it_was(host, tmp_path):
    peers.program("journalctl", "systemd")
    writer = "/lib/systemd/systemd-journal-remote"
    if shutil.which(writer) is None:
        pytest.skip("systemd-journal-remote (apt-get install systemd-journal-remote), to write a journal")
    journal = tmp_path / "journal"
    journal.mkdir()

    def write(*messages: tuple[str, str, str]) -> None:
        stamp = time.time_ns() // 1000
        exported = b"".join(
            f"__REALTIME_TIMESTAMP={stamp + number}\n__MONOTONIC_TIMESTAMP={stamp + number}\n_BOOT_ID={'1' * 32}\n"
            f"_UID={uid}\n_EXE={path}\nSYSLOG_IDENTIFIER={os.path.basename(path) if uid == '0' else 'sshd'}\n"
            "MESSAGE\n".encode()
            # With its length before it, as what holds a new line is exported.
            + struct.pack("<Q", len(text)) + text.encode() + b"\n\n"
            for number, (uid, path, text) in enumerate(messages)
        )  # fmt: skip
        output = str(journal / f"remote-{stamp}.journal")
        subprocess.run([writer, "-o", output, "-"], input=exported, check=True, capture_output=True)

    def look() -> dict[str, object]:
        return host.look(files=[], journal=True, directory=str(journal))

    words = "Failed password for root from 192.0.2.7 port 22 ssh2"
    write(("0", "/usr/sbin/sshd", words), ("1000", "/usr/bin/logger", words), ("0", "/usr/sbin/cron", words))
    found = look()
    assert (found["source"], found["failed"], found["forged"]) == ("journal", 1, 1)
    assert look()["lines"] == 0
    # What any account can send, and what is made to be matched slowly, keeps nothing from being seen.
    slow = "Failed a for" + " from a port 1: x" * 15_000 + "\nx"
    write(*[("1000", "/usr/bin/logger", slow)] * 3, ("0", "/usr/sbin/sshd", words))
    begun = time.process_time()
    assert (look()["failed"], look()["lines"]) == (1, 0)
    assert time.process_time() - begun < 5


def test_a_log_that_may_not_be_read_is_one_line_with_the_mend(tmp_path, capsys, monkeypatch):
    monkeypatch.setenv("LNMT_STATE_DIR", str(tmp_path))

    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", "/var/log/auth.log")

    monkeypatch.setattr(security, "analyze", denied)
    with pytest.raises(SystemExit) as ended:
        polling.security_log(files=["/var/log/auth.log"])
    assert ended.value.code == 69
    assert "the group adm" in capsys.readouterr().err
    with pytest.raises(SystemExit) as ended:
        polling.security_log(source="nonesuch")
    assert ended.value.code == 78
