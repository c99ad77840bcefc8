"""A job that brings the supervisor down is left alone after the third time; one that only happened to run is not."""

import os
import signal

import harness
import pytest

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import client

#: A launcher as ever, whose supervisors fail at one job: at a step of its runs, or at what it reports.
FAULTY = """
import os, sys
from lnmt_scheduler.sandbox import enter
from lnmt_scheduler.supervisor import successor

SUPERVISOR = {supervisor!r}

def become(fd, arguments, service):
    enter.reset_signals()
    os.set_inheritable(fd, True)
    os.execv(sys.executable, [sys.executable, "-I", "-c", SUPERVISOR, {fault!r}, "--channel", str(fd), *arguments])

successor._become_supervisor = become
"""
SUPERVISOR = """
import os, sys
from lnmt_scheduler.supervisor import children, daemon, lives

FAULT = sys.argv.pop(1)

def fails(owner, name, when):
    really = getattr(owner, name)
    def call(self, each, *arguments):
        if when(self, each) and os.path.exists(FAULT):
            how = open(FAULT).read().strip()
            if how == "raise":
                raise KeyError("a fault of ours")
            if how == "disk":
                raise OSError(28, "No space left on device")
            while how == "hang":
                pass
            os.kill(os.getpid(), int(how))
        return really(self, each, *arguments)
    setattr(owner, name, call)

fails(lives.Lives, "step", lambda self, each: each.job.id == "poison")
fails(children.Child, "_move", lambda self, fd: "POISON" in self.output.tail(100).decode())
daemon.main()
"""


@pytest.fixture
def fault(folder):
    """The file that says how the supervisor fails at the job "poison", while there is one."""
    path = folder / "fault"
    yield path
    path.unlink(missing_ok=True)


@pytest.fixture
def faulty(make_daemon, fault, request):
    before = FAULTY.format(supervisor=SUPERVISOR, fault=str(fault))
    return make_daemon(before=before, environment=getattr(request, "param", {}))


def answered(daemon, request):
    try:
        return daemon.request(request)
    except (client.RequestError, OSError):
        return None


def in_quarantine(daemon):
    return (answered(daemon, control.State()) or {}).get("quarantined")


def by(daemon, job_id):
    return daemon.history(job_id=job_id)


@pytest.mark.parametrize("how", ["raise", "11"])
def test_after_the_third_time_its_slots_are_skipped_until_it_is_enabled(faulty, fault, how):
    trusted = {"sandbox": {"profile": "trusted"}}
    faulty.add(id="good", command="sleep 100", kill_grace=0, **trusted)
    good = faulty.run("good")
    fault.write_text(how)
    faulty.add(id="poison", command="true", schedule="@every 1s", max_retries=0, **trusted)
    assert harness.wait_for(lambda: in_quarantine(faulty), 60) == ["poison"]
    rows = harness.wait_for(
        lambda: [row for row in by(faulty, "poison") if row["reason"] == "quarantined"], what="a skipped slot"
    )
    word = "exit 1" if how == "raise" else "signal SIGSEGV"
    why = f"the supervisor failed 3 times with this job in hand, last by {word}; to try it again: schedctl enable"
    assert (rows[0]["status"], rows[0]["error"]) == ("skipped", why)
    assert faulty.log.count("with job poison in hand") == 3
    (listed,) = [job for job in faulty.ctl("list", "-o", "json").json if job["id"] == "poison"]
    assert listed["quarantined"] == why
    assert "quarantined" in faulty.ctl("list").stdout
    assert "Quarantined: poison; see: schedctl show poison" in faulty.ctl("status").stdout
    assert f"Quarantined: {why}" in faulty.ctl("show", "poison").stdout
    refused = faulty.ctl("run", "poison")
    assert refused.code == 125
    assert "is in quarantine" in refused.stderr
    fault.unlink()
    assert faulty.ctl("enable", "poison").code == 0
    assert in_quarantine(faulty) == []
    harness.wait_for(lambda: by(faulty, "poison")[0]["status"] == "completed", what="a run of what was released")
    # And nobody else was harmed.
    assert [row["status"] for row in faulty.history() if row["run_id"] == good] == ["running"]


def test_what_it_says_can_be_the_cause_and_then_its_run_is_ended(faulty, fault):
    trusted = {"sandbox": {"profile": "trusted"}}
    go = faulty.state_dir.parent / "go"
    source = f"echo POISON; until [ -e {go} ]; do sleep 0.02; done; while :; do echo more; sleep 0.1; done"
    faulty.add(id="talker", command=source, kill_grace=0, **trusted)
    run_id = faulty.run("talker")
    harness.wait_for(lambda: faulty.output(run_id) == b"POISON\n")
    fault.write_text("6")
    go.touch()
    assert harness.wait_for(lambda: in_quarantine(faulty), 60) == ["talker"]
    row = faulty.wait(run_id)
    assert (row["status"], row["reason"], row["error"]) == ("failed", "lost", "ended because the job is in quarantine")


@pytest.mark.parametrize("faulty", [{"WATCHDOG_USEC": "2000000"}], indirect=True)
def test_a_loop_without_end_is_a_failure_too(faulty, fault):
    faulty.add(id="good", command="sleep 100", kill_grace=0, sandbox={"profile": "trusted"})
    good = faulty.run("good")
    fault.write_text("hang")
    faulty.add(id="poison", command="true", schedule="@every 1s", sandbox={"profile": "trusted"})
    assert harness.wait_for(lambda: in_quarantine(faulty), 90) == ["poison"]
    assert "the supervisor hangs; it is killed and replaced" in faulty.log
    assert "last by hung" in faulty.ctl("show", "poison").stdout
    assert [row["status"] for row in faulty.history() if row["run_id"] == good] == ["running"]


def test_a_host_that_is_short_of_something_accuses_nobody(faulty, fault):
    fault.write_text("disk")
    faulty.add(id="poison", command="true", schedule="@every 1s", sandbox={"profile": "trusted"})
    harness.wait_for(lambda: faulty.log.count("the supervisor ended (exit 1)") >= 4, 60)
    fault.unlink()
    harness.wait_for(lambda: in_quarantine(faulty) is not None)
    assert in_quarantine(faulty) == []
    assert "in hand" not in faulty.log


def test_a_supervisor_that_others_kill_accuses_nobody(daemon):
    daemon.add(id="a", command="while :; do echo more; done", kill_grace=0, sandbox={"profile": "trusted"})
    daemon.run("a")
    for _ in range(4):
        supervisor = daemon.supervisor_pid
        os.kill(supervisor, signal.SIGKILL)
        harness.wait_for(lambda old=supervisor: (answered(daemon, control.State()) or {"pid": old})["pid"] != old)
    assert in_quarantine(daemon) == []
