"""Backups, reports and alerts as runs of a real daemon: each in its `standard` box, and the way on after one was killed."""

import contextlib
import os
import shutil
import signal
import sqlite3

import harness
import pytest
import receivers
import router

from lnmt_scheduler.ipc import codec, control

BACKUP, REPORTING = "lnmt_scheduler.jobs.backup", "lnmt_scheduler.jobs.reporting"


@pytest.fixture
def boxed(daemon):
    if os.geteuid() != 0:
        pytest.skip("root, whose daemon runs jobs as other users")
    if not harness.gives_standard(None, ""):
        pytest.skip("this host gives no box of profile 'standard'")
    return daemon


def own(path, user="nobody"):
    """A directory of this user's."""
    path.mkdir()
    shutil.chown(path, user)
    return path


def result(daemon, row):
    assert (row["status"], row["profile"]) == ("completed", "standard"), row["error"]
    assert {row["enforced"][layer] for layer in ("no_new_privs", "seccomp", "filesystem")} == {"enforced"}
    return codec.unpack(daemon.request(control.Read(run_id=row["run_id"], what="result"))["data"])


def add(daemon, job_id, module, function, **more):
    daemon.add(id=job_id, module=module, function=function, max_retries=0, **more)


def database(path, rows=2000):
    with contextlib.closing(sqlite3.connect(path)) as db, db:
        db.execute("CREATE TABLE t (x)")
        db.executemany("INSERT INTO t VALUES (?)", [("x" * 500,)] * rows)
    path.chmod(0o644)
    return str(path)


@pytest.mark.slow
def test_databases_are_copied_tried_and_thinned_out(boxed, folder):
    source, to = database(folder / "a.db"), own(folder / "copies")
    box = {"profile": "standard", "network": "none", "writable": [str(to)], "readable": [source]}
    common = {"user": "nobody", "sandbox": box}
    add(boxed, "data", BACKUP, "data", kwargs={"databases": [source], "target": str(to)}, **common)
    add(boxed, "drill", BACKUP, "restore_drill", kwargs={"target": str(to)}, **common)
    add(boxed, "cleanup", BACKUP, "cleanup", kwargs={"root": str(to), "keep": {"last": 1}}, **common)
    (made,) = result(boxed, boxed.run_to_end("data"))["databases"]
    old = f"a-20200101T000000Z{os.path.splitext(made['copy'])[1]}"
    shutil.copy(made["copy"], to / old)
    assert result(boxed, boxed.run_to_end("drill"))["databases"][0]["sound"]
    assert result(boxed, boxed.run_to_end("cleanup"))["removed"] == [old]
    assert os.path.exists(made["copy"])


@pytest.mark.long
def test_a_restic_that_was_killed_in_its_box_keeps_no_later_one_from_its_work(boxed, folder):
    """In a box pids begin anew, so restic would take the lock of a dead one for its own."""
    if shutil.which("restic") is None:
        pytest.skip("restic: not on this machine")
    data, repository = own(folder / "data"), own(folder / "repository")
    password = folder / "password"
    password.write_text("sesame")
    password.chmod(0o600)
    for number in range(60):
        (data / f"file{number}").write_bytes(os.urandom(1 << 20))
    kwargs = {"folders": [str(data)], "repository": str(repository), "init": True}
    box = {"profile": "standard", "network": "none", "writable": [str(repository)], "readable": [str(data)]}
    add(boxed, "data", BACKUP, "data", kwargs=kwargs, user="nobody", sandbox=box, secrets={"restic": str(password)})
    locks = repository / "locks"
    struck = 0
    for _ in range(3):
        run = boxed.run("data")
        harness.wait_for(
            lambda: locks.exists() and [name for name in os.listdir(locks) if "-tmp-" not in name], what="a lock"
        )
        for pid in members(run):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        struck += boxed.wait(run)["status"] == "failed"
    assert struck
    assert result(boxed, boxed.run_to_end("data"))["snapshot"]["files"] == 60
    assert os.listdir(locks) == []


def members(run):
    """Host pids of the processes of a run, by their environment."""
    mark, found = f"LNMT_RUN_ID={run}".encode(), []
    for name in filter(str.isdigit, os.listdir("/proc")):
        with contextlib.suppress(OSError), open(f"/proc/{name}/environ", "rb") as file:
            if mark in file.read().split(b"\0"):
                found.append(int(name))
        with contextlib.suppress(OSError), open(f"/proc/{name}/cmdline", "rb") as file:
            if file.read().startswith(b"/usr/bin/restic") and int(name) not in found and _is_ours(name):
                found.append(int(name))
    return found


def _is_ours(pid):
    """Whether a restic is of a box: it then has another pid there."""
    with open(f"/proc/{pid}/status") as file:
        return any(line.startswith("NSpid:") and len(line.split()) > 2 for line in file)


@pytest.mark.slow
def test_reports_and_alerts_know_the_history_and_nothing_else_of_the_daemon(boxed, folder):
    boxed.add(id="bad", command="exit 3", max_retries=0)
    boxed.run_to_end("bad")
    with receivers.hook() as hook:
        where = {"ops": {"type": "webhook", "url": hook.url}}
        rules = [{"name": "failing", "when": "failing"}]
        box = {"profile": "standard", "network": "host"}
        common = {"grants": ["history"], "sandbox": box}
        add(boxed, "alerts", REPORTING, "alerts", kwargs={"rules": rules, "targets": where}, **common)
        add(boxed, "daily", REPORTING, "daily", kwargs={"targets": where, "disks": []}, **common)
        assert result(boxed, boxed.run_to_end("alerts"))["sent"] == 1
        assert result(boxed, boxed.run_to_end("alerts"))["sent"] == 0
        report = result(boxed, boxed.run_to_end("daily"))
        alert, page = hook.taken
    assert [each["job_id"] for each in alert[1]["alerts"]] == ["bad"]
    assert page[1]["report"] == report["report"]
    assert all(os.path.exists(path) for path in report["files"])


@pytest.mark.slow
def test_a_device_is_read_from_within_a_box(boxed, folder):
    with router.run(folder / "router") as peer:
        one = {"name": "r1", "address": "127.0.0.1", "port": peer.port, "user": "root", "key": "key"}
        box = {"profile": "standard", "network": "host"}
        secrets = {"key": str(peer.key)}
        peer.key.chmod(0o600)
        add(boxed, "config", BACKUP, "device_config", kwargs={"devices": [one]}, sandbox=box, secrets=secrets)
        first = boxed.run_to_end("config")
        assert result(boxed, first)["changed"] == ["r1"]
        again = boxed.run_to_end("config")
        assert result(boxed, again)["changed"] == []
        # Each run had a user of its own, and the folder went along.
        assert boxed.output(again["run_id"]) == b""
