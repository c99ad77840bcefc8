"""The maintenance jobs in a real box of a real daemon, each with the least policy that it needs."""

import os
import shutil
import sqlite3
from pathlib import Path
from typing import Any

import harness
import peers
import pytest

MAINTENANCE = "lnmt_scheduler.jobs.maintenance"


@pytest.fixture
def boxed(daemon):
    if not harness.gives_standard(None, ""):
        pytest.skip("profile standard")
    return daemon


def owned(path: Path) -> dict[str, str]:
    """Give a path to an ordinary account where that can be done; the keys of a job that runs as its owner."""
    if os.geteuid() != 0:
        return {}
    shutil.chown(path, "nobody", "nogroup")
    return {"user": "nobody"}


def add(daemon: harness.Daemon, function: str, sandbox: dict[str, Any], **more: Any) -> None:
    daemon.add(
        id="job",
        module=MAINTENANCE,
        function=function,
        sandbox={"profile": "standard", **sandbox},
        max_retries=0,
        **more,
    )


def test_health_ends_as_a_plugin_does_and_a_warning_is_no_failure(boxed):
    add(boxed, "LNMTMaintenanceJobs.check_system_health", {}, warning_codes=[1])
    run = boxed.run_to_end("job", kwargs={"checks": ["disk"], "thresholds": {"disk": [0, None]}})
    assert (run["status"], run["reason"], run["exit_code"]) == ("completed", "warning", 1), run
    assert boxed.output(run["run_id"], "stdout").startswith(b"HEALTH WARNING - disk /")
    run = boxed.run_to_end("job", kwargs={"checks": ["disk"], "thresholds": {"disk": [None, 0]}})
    assert (run["status"], run["exit_code"]) == ("failed", 2)
    run = boxed.run_to_end("job")
    assert b"left out zombies: the box shows no processes of the host" in boxed.output(run["run_id"], "stdout")


def test_a_database_is_tended_by_its_owner_in_a_box_that_may_write_nowhere_else(boxed, folder):
    data = folder / "data"
    data.mkdir()
    with sqlite3.connect(data / "a.db") as file:
        file.execute("CREATE TABLE t (text TEXT)")
        file.executemany("INSERT INTO t VALUES (?)", (("x" * 1000,) for _ in range(3000)))
        file.commit()
        file.execute("DELETE FROM t")
    file.close()
    owned(data)
    who = owned(data / "a.db")
    before = (data / "a.db").stat().st_size
    add(
        boxed,
        "database",
        {"network": "none", "writable": [str(data)]},
        kwargs={"sqlite": [str(data / "a.db")], "vacuum_bytes": 1},
        **who,
    )
    run = boxed.run_to_end("job")
    assert run["status"] == "completed", boxed.output(run["run_id"])
    assert (data / "a.db").stat().st_size < before / 10
    assert (run["enforced"]["filesystem"], run["enforced"]["network"]) == ("enforced", "enforced")


@pytest.mark.parametrize("root", [False, True])
def test_logs_are_rotated_by_their_owner_root_without_privileges_too(boxed, folder, root):
    peers.program("logrotate", "logrotate")
    if root and os.geteuid() != 0:
        pytest.skip("root")
    logs = folder / "logs"
    logs.mkdir(mode=0o755)
    (logs / "app.log").write_text("x" * 1_000_000)
    who = {"user": "root", "group": "adm"} if root else owned(logs)
    if root:
        shutil.chown(logs / "app.log", "root", "adm")
    else:
        owned(logs / "app.log")
    directives = ["rotate 2", "compress", "create"]
    kwargs = {"logs": [f"{logs}/*.log"], "directives": directives, "force": True}
    add(boxed, "log_rotation", {"network": "none", "writable": [str(logs)]}, kwargs=kwargs, **who)
    run = boxed.run_to_end("job")
    assert run["status"] == "completed", boxed.output(run["run_id"])
    assert sorted(path.name for path in logs.iterdir()) == ["app.log", "app.log.1.gz"]
    assert run["enforced"]["no_new_privs"] == "enforced"
