"""The network status job: what it makes of observations, and real peers on loopback."""

import json
import os
import socket
import sys
import time

import peers
import pytest

from lnmt_scheduler.jobs import damping, inventory, network, polling, probes

RULES = damping.Rules()
QUICK = damping.Rules(down_after=1, up_after=1)


def observed(*signs: str) -> list[probes.Observation]:
    """`r1 ping +` for each."""
    parts = [sign.rsplit(" ", 2) for sign in signs]
    return [probes.Observation(device=device, what=what, good=sign == "+") for device, what, sign in parts]


def devices(*given: dict[str, object]) -> list[inventory.Device]:
    return inventory.check([{"address": "127.0.0.1", "ping": False, **each} for each in given])


def test_a_device_is_offline_when_nothing_of_it_answers_and_degraded_when_something_does():
    listed = devices({"name": "r1"}, {"name": "r2"}, {"name": "r3"}, {"name": "r4"})
    seen = observed("r1 ping +", "r1 tcp +", "r2 ping -", "r2 tcp +", "r3 ping -", "r3 tcp -")
    states, changes = network.judge({}, seen, 100.0, QUICK)
    found = network.report(listed, seen, states, changes)
    assert {name: each["status"] for name, each in found["devices"].items()} == {
        "r1": "online",
        "r2": "degraded",
        "r3": "offline",
        "r4": "unknown",
    }
    assert found["counts"] == {"online": 1, "degraded": 1, "offline": 1, "unknown": 1}
    assert [(each["device"], each["what"]) for each in found["changes"]] == [
        ("r2", "ping"),
        ("r3", "ping"),
        ("r3", "tcp"),
    ]


@pytest.mark.parametrize(
    ("before", "uptime", "elapsed", "restarted"),
    [
        (5_000, 17_000, 120, False),
        (5_000, 3_000, 120, True),
        (0, 11_000, 120, True),
        (0, 11_990, 120, False),
        ((1 << 32) - 6_000, 6_000, 120, False),
        ((1 << 32) - 600_000, 6_000, 120, True),
    ],
)
def test_a_restart_is_seen_in_the_uptime_and_a_counter_that_wraps_is_none(before, uptime, elapsed, restarted):
    found = network.restarts({"r1": (1000.0, before)}, {"r1": (1000.0 + elapsed, uptime), "new": (1000.0, 5)})
    assert [each["device"] for each in found] == (["r1"] if restarted else [])


def test_a_thousand_devices_that_are_gone_make_a_short_result():
    listed = devices(*({"name": f"r{number}"} for number in range(1000)))
    seen = observed(*(f"r{number} ping -" for number in range(1000)))
    states, changes = network.judge({}, seen, 0.0, QUICK)
    found = network.report(listed, seen, states, changes)
    assert (found["ailing_count"], len(found["ailing"]), found["changes_count"], len(found["changes"])) == (
        1000,
        50,
        1000,
        50,
    )
    assert len(json.dumps(found)) < 100_000


def test_a_port_that_is_closed_is_told_once_and_that_it_opens_again_too(tmp_path, capsys):
    port = peers.free_port()
    listed = devices({"name": "r1", "tcp": [port]})

    def poll() -> str:
        network.poll(listed, str(tmp_path), RULES, 1.0)
        return capsys.readouterr().out

    assert [poll(), poll(), poll()] == ["", f"r1 tcp {port}: unknown -> down (connection refused)\n", ""]
    with socket.create_server(("127.0.0.1", port), backlog=64):
        assert [poll(), poll(), poll()] == ["", f"r1 tcp {port}: down -> up\n", ""]


def test_what_was_told_and_not_remembered_is_told_again(tmp_path, capsys, monkeypatch):
    listed = devices({"name": "r1", "tcp": [peers.free_port()]})

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as dying:
        dying.setattr(network.keep, "write", killed)
        with pytest.raises(KeyboardInterrupt):
            network.poll(listed, str(tmp_path), QUICK, 1.0)
    first = capsys.readouterr().out
    network.poll(listed, str(tmp_path), QUICK, 1.0)
    assert first == capsys.readouterr().out != ""


@pytest.mark.parametrize("kept", ['{"targets": {"r1 ping": ["up"]}}', '{"targets": 5}', '{"boots": {"r1": 5}}', "{"])
def test_a_memory_that_is_damaged_is_put_aside_and_the_job_begins_anew(tmp_path, capsys, kept):
    (tmp_path / "network.json").write_text(kept)
    found = network.poll(devices({"name": "r1", "tcp": [peers.free_port()]}), str(tmp_path), QUICK, 1.0)
    assert found["changes_count"] == 1
    assert (tmp_path / "network.json.damaged").read_text() == kept


@pytest.mark.slow
def test_pages_are_judged_by_status_and_words_and_a_server_that_never_ends_is_hung_up_on():
    with peers.web() as address:
        pages = [
            {"url": f"{address}/ok", "words": "is well"},
            {"url": f"{address}/ok?1", "words": "is bad"},
            f"{address}/missing",
            {"url": f"{address}/missing?1", "status": [404]},
            f"{address}/escape",
            f"{address}/drip",
            {"url": f"{address}/endless", "words": "xxx"},
            f"http://127.0.0.1:{peers.free_port()}/",
        ]
        began = time.monotonic()
        seen = probes.look(devices({"name": "r1", "http": pages}), 2.0, lambda *_: None)
        assert time.monotonic() - began < 30
    assert [each.why for each in seen.observations] == [
        "",
        "does not say 'is bad'",
        "answers 404",
        "",
        r"BadStatusLine: \x1b[2J nonsense\r\n",
        "timed out",
        "",
        "connection refused",
    ]


@pytest.mark.slow
def test_snmp_2c_and_3_tell_of_interfaces_and_uptime_and_a_wrong_key_and_silence_are_said(tmp_path):
    (tmp_path / "right").write_text("authentication\n")
    (tmp_path / "wrong").write_text("not-this-key\n")
    (tmp_path / "privacy").write_text("privacy-key\n")
    with peers.snmpd(tmp_path) as port:
        signed = {"version": "3", "port": port, "user": "signed"}
        sealed = {**signed, "user": "sealed", "privacy_key_file": str(tmp_path / "privacy")}
        listed = devices(
            {"name": "plain", "snmp": {"port": port}},
            {"name": "signed", "snmp": {**signed, "authentication_key_file": str(tmp_path / "right")}},
            {"name": "sealed", "snmp": {**sealed, "authentication_key_file": str(tmp_path / "right")}},
            {"name": "wrong", "snmp": {**signed, "authentication_key_file": str(tmp_path / "wrong")}},
            {"name": "refused", "snmp": {"port": port, "community": "guess"}},
            {"name": "nobody", "snmp": {"port": peers.free_port(socket.SOCK_DGRAM)}},
        )
        seen = probes.look(listed, 2.0, lambda *_: None)
    good = {each.target for each in seen.observations if each.good}
    assert {f"{name} {what}" for name in ("plain", "signed", "sealed") for what in ("snmp", "interface lo")} <= good
    assert set(seen.uptimes) == {"plain", "signed", "sealed"}
    why = {each.device: each.why for each in seen.observations if not each.good and each.what == "snmp"}
    assert set(why) == {"wrong", "refused", "nobody"}
    assert why["nobody"] == why["refused"] == "timed out"
    assert "digest" in why["wrong"] or "authentication" in why["wrong"]


@pytest.mark.slow
def test_an_agent_that_was_started_anew_is_told_and_one_that_just_was_is_not(tmp_path, capsys):
    listed = devices({"name": "r1", "snmp": {"port": peers.free_port(socket.SOCK_DGRAM)}})
    port = listed[0].snmp.port

    def poll() -> str:
        network.poll(listed, str(tmp_path), QUICK, 5.0)
        return capsys.readouterr().out

    with peers.snmpd(tmp_path, port):
        assert [poll(), poll()] == ["", ""]
    kept = json.loads((tmp_path / "network.json").read_text())
    kept["boots"]["r1"][0] -= 60
    (tmp_path / "network.json").write_text(json.dumps(kept))
    with peers.snmpd(tmp_path, port):
        assert "r1 snmp: up -> restarted (up for 0 s)" in poll()
        assert poll() == ""


def test_a_check_whose_extra_is_missing_ends_the_job_with_the_command_that_installs_it(tmp_path, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "icmplib", None)
    with pytest.raises(SystemExit) as ended:
        polling.network_status(devices=[{"name": "r1", "address": "127.0.0.1"}])
    said = capsys.readouterr().err
    assert ended.value.code == 69
    assert said.count("\n") == 1
    assert "-m pip install 'cryptography" in said
    assert "'icmplib" in said


def test_arguments_that_make_no_sense_are_one_line(capsys):
    for wrong in ({}, {"inventory": "/x", "devices": []}, {"devices": [], "timeout": 0}, {"devices": []}):
        with pytest.raises(SystemExit) as ended:
            polling.network_status(**wrong)
        assert ended.value.code == 78
        assert capsys.readouterr().err.count("\n") == 1


def test_the_names_of_the_first_document_are_there():
    assert polling.LNMTPollingJobs.poll_network_status is polling.network_status
    assert os.path.basename(polling.__file__) == "polling.py"
