"""The health job against real things: a full file system, certificates that end, zombies; and programs that answer oddly."""

import contextlib
import os
import socket
import ssl
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import peers
import pytest

from lnmt_scheduler.jobs import certificates, health, maintenance, verdicts


def look(*only: str, **wishes: object) -> list[verdicts.Check]:
    thresholds = wishes.pop("thresholds", {})
    found, _ = health.look(health.Wishes(limits=health.limits(thresholds), **wishes), only)
    return found


def by_name(found: list[verdicts.Check]) -> dict[str, verdicts.Check]:
    return {each.name: each for each in found}


@pytest.fixture
def small_disk(tmp_path):
    """A file system of 4 MiB with 64 inodes; root only."""
    with peers.small_disk(tmp_path / "small", "4m", inodes=64) as folder:
        yield folder


def test_a_disk_that_fills_up_goes_from_ok_to_warning_to_critical(small_disk):
    def disk() -> verdicts.Check:
        return by_name(look("disk", mounts=[str(small_disk)]))[f"disk {small_disk}"]

    assert disk().verdict == verdicts.OK
    (small_disk / "file").write_bytes(bytes((4 << 20) * 9 // 10))
    assert (disk().verdict, disk().value) == (verdicts.WARNING, pytest.approx(90, abs=1))
    (small_disk / "more").write_bytes(bytes((4 << 20) * 9 // 100))
    assert disk().verdict == verdicts.CRITICAL


def test_inodes_run_out_too(small_disk):
    for number in range(62):
        (small_disk / str(number)).touch()
    found = by_name(look("inodes", mounts=[str(small_disk)]))[f"inodes {small_disk}"]
    assert found.verdict == verdicts.CRITICAL


def certificate(folder: Path, days: int, name: str = "host.example") -> Path:
    peers.program("openssl", "openssl")
    path = folder / f"{days}.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-subj", f"/CN={name}", "-days", str(days)]
    subprocess.run([*command, "-keyout", str(folder / "key.pem"), "-out", str(path)], check=True, capture_output=True)
    return path


def test_a_file_is_as_good_as_the_certificate_in_it_that_ends_first(tmp_path):
    long, soon = certificate(tmp_path, 90), certificate(tmp_path, 10)
    bundle = tmp_path / "bundle.pem"
    bundle.write_text(f"words before\n{long.read_text()}\n{soon.read_text()}")
    (tmp_path / "empty.pem").write_text("nothing\n")
    names = [str(long), str(bundle), str(tmp_path / "empty.pem"), str(tmp_path / "gone.pem"), "nonsense"]
    found = by_name(look("certificates", certificates=names))
    assert [found[f"certificate {name}"].verdict for name in names] == [0, 1, 3, 3, 3]
    assert "CN=host.example" in found[f"certificate {bundle}"].text
    assert certificates.days_left(str(soon), time.time() + 86400 * 20)[0] == pytest.approx(-10, abs=0.1)


def test_a_server_is_as_good_as_what_it_shows(tmp_path):
    path = certificate(tmp_path, 10)
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(path, tmp_path / "key.pem")
    with ssl_server(context) as port:
        (found,) = look("certificates", certificates=[f"127.0.0.1:{port}"])
    assert (found.verdict, found.value) == (verdicts.WARNING, pytest.approx(10, abs=0.1))
    (silent,) = look("certificates", certificates=[f"127.0.0.1:{peers.free_port()}"])
    assert silent.verdict == verdicts.UNKNOWN


@contextlib.contextmanager
def ssl_server(context: ssl.SSLContext) -> Iterator[int]:
    """Shakes hands once; its port."""

    def serve() -> None:
        accepted, _ = listener.accept()
        try:
            context.wrap_socket(accepted, server_side=True).close()
        except OSError:
            accepted.close()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield int(listener.getsockname()[1])
        thread.join(10)


def test_zombies_are_counted_with_who_leaves_them():
    # Seen to have ended, and left.
    program = (
        "import os\nfor _ in range(12):\n    os.waitid(os.P_PID, os.fork() or os._exit(0), os.WEXITED | os.WNOWAIT)\n"
        "print('up', flush=True)\ninput()"
    )
    with subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as parent:
        assert parent.stdout is not None
        parent.stdout.readline()
        (found,) = look("zombies")
        parent.communicate(b"\n")
    assert found.verdict in (verdicts.WARNING, verdicts.CRITICAL)
    assert found.value >= 12
    assert f" {parent.pid}" in found.text or found.value > 30


@pytest.fixture
def programs(tmp_path, monkeypatch):
    """A host with systemd whose programs say what the test wants."""
    folder = tmp_path / "bin"
    folder.mkdir()
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    monkeypatch.setattr(health, "_SYSTEMD", str(tmp_path))

    def put(name: str, script: str) -> None:
        (folder / name).write_text(f"#!/bin/sh\n{script}\n")
        (folder / name).chmod(0o755)

    return put


@pytest.mark.parametrize(
    ("script", "verdict", "words"),
    [
        ("echo '[]'", verdicts.OK, "none failed"),
        ("""echo '[{"unit": "a.service"}, {"unit": "known.service"}]'""", verdicts.WARNING, "failed: a.service"),
        ("echo cannot connect >&2; exit 1", verdicts.UNKNOWN, "systemctl: cannot connect"),
        ("echo '{'", verdicts.UNKNOWN, "Expecting"),
        ("yes | head -c 5000000", verdicts.UNKNOWN, "Expecting"),
    ],
)
def test_failed_units_are_what_systemctl_says(programs, script, verdict, words):
    programs("systemctl", script)
    (found,) = look("units", ignore_units=["known.service"])
    assert found.verdict == verdict
    assert words in found.text


@pytest.mark.parametrize(("said", "verdict"), [("yes", verdicts.OK), ("no", verdicts.WARNING), ("", verdicts.UNKNOWN)])
def test_the_clock_is_as_timedatectl_says(programs, said, verdict):
    programs("timedatectl", f"echo {said}")
    assert look("clock")[0].verdict == verdict


def test_a_program_that_hangs_is_unknown_and_does_not_hold_up_the_rest(programs, monkeypatch):
    monkeypatch.setattr(health, "_SECONDS", 0.2)
    programs("systemctl", "exec sleep 1000")
    found = by_name(look("units", "reboot"))
    assert "did not end in time" in found["units"].text
    assert found["reboot"].verdict != verdicts.UNKNOWN


def test_a_reboot_that_is_due_is_a_warning_and_after_a_month_critical(tmp_path, monkeypatch):
    monkeypatch.setattr(health.glob, "glob", lambda _: [])
    monkeypatch.setattr(health, "_REBOOT", str(tmp_path / "reboot-required"))
    assert look("reboot")[0].verdict == verdicts.OK
    (tmp_path / "reboot-required").touch()
    assert look("reboot")[0].verdict == verdicts.WARNING
    os.utime(tmp_path / "reboot-required", (1, time.time() - 40 * 86400))
    assert look("reboot")[0].verdict == verdicts.CRITICAL


def test_what_a_host_does_not_have_is_left_out_unless_it_is_asked_for(tmp_path, monkeypatch):
    monkeypatch.setattr(health, "_SYSTEMD", str(tmp_path / "nowhere"))
    found, absent = health.look(health.Wishes(limits=health.limits({})))
    assert not {"units", "clock"} & set(by_name(found))
    assert [line.partition(":")[0] for line in absent if "systemd" in line] == ["units", "clock"]
    assert look("units")[0].verdict == verdicts.UNKNOWN


def test_the_job_ends_as_a_plugin_does(capsys):
    calm = {name: [None, None] for name in health.THRESHOLDS}
    found = maintenance.health(checks=["disk", "inodes"], thresholds=calm)
    assert found["verdict"] == "OK"
    assert capsys.readouterr().out.startswith("HEALTH OK - ")
    for limits, code in (([0, None], 1), ([None, 0], 2)):
        with pytest.raises(SystemExit) as ended:
            maintenance.health(checks=["disk"], thresholds={"disk": limits})
        assert ended.value.code == code
    with pytest.raises(SystemExit) as ended:
        maintenance.health(checks=["certificates"])
    assert ended.value.code == 3
    with pytest.raises(SystemExit) as ended:
        maintenance.health(checks=["nonesuch"])
    assert ended.value.code == 78
