"""The backup of configurations, against FRR's own shell behind a real sshd."""

import os
import subprocess
import sys
import tracemalloc

import peers
import pytest
import router

from lnmt_scheduler.jobs import backup, devices

CISCO = """Building configuration...

Current configuration : 1234 bytes
!
! Last configuration change at 04:00:01 UTC Tue Mar 3 2026 by admin
!
hostname r1
ntp clock-period 17180152
interface Ethernet0
 description up
end
"""


def device(**more):
    return devices.check([{"name": "r1", "address": "127.0.0.1", "user": "root", "key": "key", **more}])[0]


def test_lines_that_change_by_themselves_are_left_out():
    text = devices.clean(CISCO.replace("\n", "\r\n"), device())
    assert text == "\n!\n!\nhostname r1\ninterface Ethernet0\n description up\nend\n"
    assert text == devices.clean(
        CISCO.replace("04:00:01", "05:00:01").replace("1234", "1240").replace("152", "153"), device()
    )
    assert devices.clean(CISCO, device(volatile=["hostname .*"])) == text.replace("hostname r1\n", "")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (CISCO.removesuffix("end\n"), "the answer is not whole: 10 lines, the last is ' description up'"),
        ("", "the answer is not whole: 0 lines"),
        ("% Invalid input detected at '^' marker.\n\nend\n", "the device answered: % Invalid input"),
        ("    ^\n% Unknown command\nend", "the device answered"),
    ],
)
def test_what_is_no_whole_configuration_is_none(text, words):
    with pytest.raises(ValueError) as caught:
        devices.clean(text, device())
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("wrong", "words"),
    [
        ({"name": "../r1"}, "number 1: "),
        ({"type": "vms"}, "what shows the configuration of a vms is not known; say `command`"),
        ({"key": None}, "needs `password` or `key`"),
        ({"volatile": ["("]}, "number 1: "),
        ({"pasword": "x"}, "unknown field `pasword`"),
        ({"port": 0}, "port"),
    ],
)
def test_what_is_wrong_with_a_device_is_said_before_anything_is_done(wrong, words, capsys):
    with pytest.raises(SystemExit):
        device(**wrong)
    assert words in capsys.readouterr().err


@pytest.fixture
def peer(folder, monkeypatch):
    """A router that lets us in by a key that is among the job's secrets."""
    with router.run(folder / "router") as made:
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(made.folder))
        yield made


def back_up(peer, folder, **more):
    one = {"name": "r1", "address": "127.0.0.1", "port": peer.port, "user": "root", "key": "key", "timeout": 10, **more}
    return backup.device_config([one], folder=str(folder / "configs"))


def git(folder, *words):
    return subprocess.run(
        ["git", "-C", str(folder / "configs"), *words], capture_output=True, text=True, check=True
    ).stdout


@pytest.mark.slow
def test_a_real_router_is_kept_and_only_changes_are_committed_and_said(peer, folder, capsys):
    first = back_up(peer, folder)
    assert first["changed"] == ["r1"]
    kept = (folder / "configs" / "r1.cfg").read_text()
    assert " description first" in kept
    assert "Building configuration" not in kept
    capsys.readouterr()
    # Nothing has changed: nothing is committed, nothing is said.
    again = back_up(peer, folder)
    assert (again["changed"], capsys.readouterr().out, git(folder, "rev-list", "--count", "HEAD")) == ([], "", "1\n")
    peer.configure("interface lo", "description second")
    assert back_up(peer, folder)["changed"] == ["r1"]
    said = capsys.readouterr().out
    assert "\n- description first\n+ description second\n" in said
    assert git(folder, "log", "-1", "--format=%s") == "Changed: r1\n"
    # What a killed run has written and not committed is committed by the next, past the locks that it left.
    (folder / "configs" / "r1.cfg").write_text(kept.replace("first", "third"))
    (folder / "configs" / ".git" / "index.lock").touch()
    assert back_up(peer, folder)["changed"] == ["r1"]
    said = capsys.readouterr().out
    assert said.index("+ description third\n") < said.index("- description third\n")
    assert git(folder, "rev-list", "--count", "HEAD") == "4\n"
    assert git(folder, "status", "--porcelain", "--", "*.cfg") == ""


@pytest.mark.slow
def test_a_device_that_cannot_be_read_fails_the_run_after_the_others_were_kept(peer, folder, monkeypatch):
    other = folder / "other"
    router.make_key(other)
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(folder))
    os.symlink(peer.key, folder / "key")
    base = {"address": "127.0.0.1", "user": "root", "timeout": 10}
    several = [
        {"name": "good", "port": peer.port, "key": "key", **base},
        {"name": "stranger", "port": peer.port, "key": "other", **base},
        {"name": "gone", "port": peers.free_port(), "key": "key", **base},
        {"name": "deaf", "port": peer.port, "key": "key", "command": "show nonsense", **base},
    ]
    with pytest.raises(devices.ConfigsFailedError) as caught:
        backup.device_config(several, folder=str(folder / "configs"))
    text = str(caught.value)
    assert text.startswith("3 of 4 devices could not be read: deaf: ValueError: ")
    assert "stranger: NetmikoAuthenticationException: " in text
    assert "gone: " in text
    assert sorted(name for name in os.listdir(folder / "configs") if name.endswith(".cfg")) == ["good.cfg"]
    assert git(folder, "log", "-1", "--format=%s") == "Changed: good\n"


@pytest.mark.slow
def test_another_host_key_than_before_is_refused(peer, folder):
    back_up(peer, folder)
    peer.change_host_key()
    with pytest.raises(devices.ConfigsFailedError, match=r"r1: .*[Hh]ost key"):
        back_up(peer, folder)


def named(*names):
    return devices.check([{"name": name, "address": "192.0.2.1", "user": "u", "key": "key"} for name in names])


def fetch(folder, monkeypatch, answer, *names, workers=2):
    """Back up devices that answer so; only the network is left out."""
    peers.program("git", "git")
    pytest.importorskip("netmiko")
    monkeypatch.setattr(devices, "_fetch", lambda device, *_: answer(device))
    return devices.back_up(named(*names), str(folder / "configs"), str, workers, lambda *_: None)


def test_many_large_configurations_are_never_in_memory_together(folder, monkeypatch, capsys):
    names = [f"r{number}" for number in range(40)]
    tracemalloc.start()
    try:
        found = fetch(folder, monkeypatch, lambda device: f"{device.name} {'x' * 999}\n" * 1000 + "end", *names)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(found["changed"]) == 40
    assert peak < 20 << 20, peak  # of 40 MiB that were fetched, and as much of a diff
    assert capsys.readouterr().out.endswith(f"... the rest: git -C {folder}/configs show\n")


def test_what_a_killed_run_has_fetched_is_told_and_committed_before_anybody_is_asked(folder, monkeypatch, capsys):
    def dead(_):
        assert git(folder, "log", "-1", "--format=%s") == "Changed: r1\n"
        raise OSError("no answer")

    (folder / "configs").mkdir()
    (folder / "configs" / "r1.cfg").write_text("hostname r1\nend\n")
    with pytest.raises(devices.ConfigsFailedError, match="r1: OSError: no answer"):
        fetch(folder, monkeypatch, dead, "r1")
    assert "\n+hostname r1\n" in capsys.readouterr().out


def test_a_change_is_told_again_if_the_run_is_killed_before_it_is_committed(folder, monkeypatch, capsys):
    class KilledError(BaseException):
        pass

    def killed(*_):
        raise KilledError

    def answer(device):
        return f"hostname {device.name}\nend"

    with monkeypatch.context() as patch:
        patch.setattr(devices._Repository, "commit", killed)
        with pytest.raises(KilledError):
            fetch(folder, patch, answer, "r1")
    assert "\n+hostname r1\n" in capsys.readouterr().out
    assert fetch(folder, monkeypatch, answer, "r1")["changed"] == ["r1"]
    assert "\n+hostname r1\n" in capsys.readouterr().out


def test_without_the_extra_the_command_that_installs_it_is_the_only_line(folder, monkeypatch, capsys):
    peers.program("git", "git")
    monkeypatch.setitem(sys.modules, "netmiko", None)
    with pytest.raises(SystemExit) as left:
        backup.device_config(
            [{"name": "r1", "address": "127.0.0.1", "user": "u", "key": "key"}], folder=str(folder / "c")
        )
    assert left.value.code == 69
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("needs netmiko, of the extra 'net'; install it: ")
