"""The LNMT jobs that ask a real systemd: failed units, the clock, and a journal in which anybody may write anything."""

import subprocess

import harness
import pytest
from vm import scenario, unit

SCENARIO = scenario.Scenario()
WORDS = "Failed password for root from 192.0.2.7 port 22 ssh2"
HEALTH = {
    "id": "health",
    "module": "lnmt_scheduler.jobs.maintenance",
    "function": "LNMTMaintenanceJobs.check_system_health",
    "kwargs": {"checks": ["units", "clock", "zombies", "disk"]},
    "warning_codes": [1],
    "user": "nobody",
    "sandbox": {"profile": "standard", "processes": "host"},
}
SECURITY = {
    "id": "security",
    "module": "lnmt_scheduler.jobs.polling",
    "function": "LNMTPollingJobs.analyze_security_logs",
    "kwargs": {"source": "journal"},
    "user": "nobody",
    "group": "systemd-journal",
    "sandbox": {"profile": "standard", "network": "none"},
}


@pytest.fixture(scope="module")
def daemon():
    # A boot does this; the guest's leaves it out.
    unit.systemd("systemd-tmpfiles", "--create", "--prefix=/run/log/journal", "--prefix=/var/log/journal")
    with unit.running(unit.ROOT_UNIT) as made:
        made.define(HEALTH, {**HEALTH, "id": "of_nobody", "user": "dynamic"})
        made.define(SECURITY, {**SECURITY, "id": "nosy", "group": "nogroup"})
        yield made


def output(daemon: unit.Unit, row: dict[str, object]) -> str:
    return daemon.output(int(str(row["run_id"]))).decode()


def test_systemd_is_asked_from_the_box_by_an_account(daemon):
    row = daemon.row_of("health")
    told = output(daemon, row)
    assert "OK units: none failed" in told
    assert "OK clock:" in told or "WARNING clock: nothing keeps it right" in told
    assert "OK zombies:" in told
    assert "UNKNOWN" not in told
    assert (row["profile"], row["enforced"]["user"]) == ("standard", "enforced")


def test_the_message_bus_hangs_up_on_a_user_that_exists_for_one_run_and_that_is_said(daemon):
    row = daemon.row_of("of_nobody")
    assert row["exit_code"] == 3
    assert "give the job a `user` by name" in output(daemon, row)


def test_a_unit_that_has_failed_is_a_warning_with_its_name(daemon):
    unit.systemd("systemd-run", "--unit=broken", "--property=RemainAfterExit=no", "false", check=False)
    harness.wait_for(lambda: unit.show("ActiveState", "broken.service") == "failed", what="a failed unit")
    row = daemon.row_of("health")
    assert (row["status"], row["reason"]) == ("completed", "warning")
    assert "WARNING units: failed: broken.service" in output(daemon, row)
    unit.systemd("systemctl", "reset-failed")


def test_the_journal_tells_sshd_from_who_says_so(daemon):
    subprocess.run(["logger", "-t", "sshd", WORDS], check=True)
    subprocess.run(["logger", "-t", "sshd", WORDS], check=True, user="nobody", group="nogroup", extra_groups=[])
    unit.systemd("journalctl", "--sync")
    row = daemon.row_of("security")
    assert row["status"] == "completed", output(daemon, row)
    assert (row["result"]["failed"], row["result"]["forged"]) == (1, 1)
    assert daemon.row_of("security")["result"]["lines"] == 0


def test_who_is_not_in_the_group_is_told_which_one_it_takes(daemon):
    row = daemon.row_of("nosy")
    assert row["exit_code"] == 69
    assert "systemd-journal or adm" in output(daemon, row)
