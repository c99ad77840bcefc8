"""The polling jobs in a real box of a real daemon, in a network namespace of its own where they meet a network."""

import os
import shutil
import subprocess
from typing import Any

import harness
import peers
import pytest

from lnmt_scheduler.ipc import codec, control

_NETWORK = """
ip link set lo up && ip link add near type veth peer name far && ip link set far up \
    && ip addr add 192.0.2.1/24 dev near && ip link set near up || exit 9
test "$1" = closed || sysctl -qw net.ipv4.ping_group_range='0 2147483647' || exit 9
shift; exec "$@"
"""
POLLING = "lnmt_scheduler.jobs.polling"


@pytest.fixture
def in_a_network_of_its_own(make_daemon):
    """Makes daemons in a network namespace that has 127.0.0.1 and an empty net 192.0.2.0/24; root only."""
    if os.geteuid() != 0:
        pytest.skip("root, to make a network namespace with a network in it")
    peers.program("ip", "iproute2")
    tried = ["unshare", "--net", "sh", "-c", _NETWORK, "sh", "open", "true"]
    if subprocess.run(tried, capture_output=True).returncode:
        pytest.skip("a network namespace with a veth pair")

    def make(ping: str) -> harness.Daemon:
        return make_daemon(wrapper=("unshare", "--net", "sh", "-c", _NETWORK, "sh", ping))

    return make


def result(daemon: harness.Daemon, run: dict[str, Any]) -> Any:
    return codec.unpack(daemon.request(control.Read(run_id=run["run_id"], what="result"))["data"])


def needs_standard(daemon: harness.Daemon) -> None:
    if not harness.gives_standard(None, ""):
        pytest.skip("profile standard")


@pytest.mark.slow
def test_devices_are_polled_by_a_user_that_owns_nothing_in_a_box(in_a_network_of_its_own):
    daemon = in_a_network_of_its_own("open")
    needs_standard(daemon)
    addresses = {"here": "127.0.0.1", "gone": "192.0.2.77", "nowhere": "198.51.100.1"}
    devices = [{"name": name, "address": address, "ping": {"count": 2}} for name, address in addresses.items()]
    daemon.add(
        id="poll",
        module=POLLING,
        function="LNMTPollingJobs.poll_network_status",
        kwargs={"devices": devices, "timeout": 1, "down_after": 1},
        sandbox={"profile": "standard", "require": ["landlock"]},
    )
    first, second = daemon.run_to_end("poll"), daemon.run_to_end("poll")
    assert [first["status"], second["status"]] == ["completed"] * 2, first["error"]
    told = daemon.output(first["run_id"], "stdout").decode().splitlines()
    assert told == [f"{name} ping: unknown -> down (100 % lost)" for name in ("gone", "nowhere")]
    assert daemon.output(second["run_id"], "stdout") == b""
    found = result(daemon, second)
    assert {name: each["status"] for name, each in found["devices"].items()} == {
        "here": "online",
        "gone": "offline",
        "nowhere": "offline",
    }
    assert found["devices"]["here"]["loss"] <= 50
    assert (second["profile"], second["enforced"]["no_new_privs"]) == ("standard", "enforced")
    assert second["uid"] > 1_000_000


def test_a_host_that_forbids_echos_is_told_in_one_line_with_the_mend(in_a_network_of_its_own):
    daemon = in_a_network_of_its_own("closed")
    needs_standard(daemon)
    kwargs = {"devices": [{"name": "here", "address": "127.0.0.1"}]}
    daemon.add(id="poll", module=POLLING, function="network_status", kwargs=kwargs, max_retries=0)
    run = daemon.run_to_end("poll")
    assert (run["reason"], run["exit_code"]) == ("exit", 69)
    assert b"allow it: sysctl -w net.ipv4.ping_group_range=" in daemon.output(run["run_id"], "stderr")


def test_metrics_of_the_host_are_kept_in_the_state_directory_by_whoever_runs_next(daemon):
    needs_standard(daemon)
    daemon.add(id="metrics", module=POLLING, function="system_metrics")
    runs = [daemon.run_to_end("metrics") for _ in range(2)]
    assert [run["status"] for run in runs] == ["completed"] * 2, runs[0]["error"]
    found = result(daemon, runs[1])
    assert found["seconds"] is not None
    assert found["mounts"]["/"]["total"] == os.statvfs("/").f_blocks * os.statvfs("/").f_frsize
    # Of the files that a box has for itself none is taken for a disk of the host.
    assert [path for path in found["mounts"] if path.startswith(("/tmp", "/proc", "/dev/", "/var/tmp"))] == []


def test_a_log_of_the_group_adm_is_read_by_who_is_given_that_group_and_by_nobody_else(daemon, folder):
    needs_standard(daemon)
    if os.geteuid() != 0:
        pytest.skip("root, to give a job a group")
    log = folder / "auth.log"
    log.write_text("Nov 25 01:02:03 host sshd[1]: Failed password for root from 192.0.2.7 port 22 ssh2\n")
    shutil.chown(log, "root", "adm")
    log.chmod(0o640)
    common = {"module": POLLING, "function": "security_log", "kwargs": {"files": [str(log)]}, "max_retries": 0}
    sandbox = {"profile": "standard", "network": "none", "readable": [str(log)]}
    daemon.add(id="in", user="nobody", group="adm", sandbox=sandbox, **common)
    daemon.add(id="out", user="nobody", sandbox=sandbox, **common)
    run = daemon.run_to_end("in")
    assert run["status"] == "completed", daemon.output(run["run_id"])
    assert result(daemon, run)["failed"] == 1
    assert (run["profile"], run["enforced"]["network"]) == ("standard", "enforced")
    run = daemon.run_to_end("out")
    assert run["exit_code"] == 69
    assert b"group adm" in daemon.output(run["run_id"], "stderr")


@pytest.mark.slow
def test_a_community_reaches_the_poll_as_a_secret_of_its_job(daemon, folder):
    needs_standard(daemon)
    secret = folder / "community"
    secret.write_text("hidden\n")
    secret.chmod(0o600)
    with peers.snmpd(folder) as port:
        agent = {"port": port, "community_file": "agents"}
        device = {"name": "here", "address": "127.0.0.1", "ping": False, "snmp": agent}
        daemon.add(
            id="poll",
            module=POLLING,
            function="network_status",
            kwargs={"devices": [device]},
            secrets={"agents": str(secret)},
            max_retries=0,
        )
        run = daemon.run_to_end("poll")
    assert run["status"] == "completed", daemon.output(run["run_id"])
    assert result(daemon, run)["devices"]["here"]["status"] == "online"
