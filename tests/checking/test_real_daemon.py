"""The checker on histories of a real daemon: a good one is good, and what is wrong with a spoilt one is told."""

import dataclasses
import os
import signal

import pytest
from checking import evidence, readers, rules
from harness import wait_for

from lnmt_scheduler.ipc import control


class History:
    """A daemon, and all that the checker will want to know of it."""

    def __init__(self, daemon, folder):
        self.daemon = daemon
        self.file = folder / "witnesses"
        self.file.touch(0o666)
        self.file.chmod(0o666)
        self.begin = readers.true_now()
        self.changes = []
        self.faults = []

    def change(self, action, job, request, **more):
        sent = readers.true_now()
        answer = self.daemon.request(request)
        self.changes.append(
            evidence.Change(action=action, job=job, sent=sent, until=readers.true_now(), acked=True, **more)
        )
        return answer

    def add(self, job_id, **keys):
        command = readers.witness_command(self.file, **keys.pop("witness", {}))
        definition = {"id": job_id, "command": command, "sandbox": {"profile": "trusted"}, **keys}
        self.change("add", job_id, control.Add(definition=definition), definition=definition)

    def witnesses(self, job_id):
        return [each for each in readers.witnesses(self.file) if each.job == job_id]

    def gather(self):
        sent = readers.true_now()
        state_dir = self.daemon.state_dir
        assert self.daemon.stop() == 0
        self.faults.append(evidence.Fault(kind="stop", begin=sent, end=readers.true_now()))
        return readers.gather(
            state_dir, self.file, begin=self.begin, stopped=sent, changes=self.changes, faults=self.faults
        )


@pytest.fixture
def history(make_daemon, folder):
    return History(make_daemon(), folder)


@pytest.mark.slow
def test_a_daemon_that_is_killed_again_and_again_has_a_good_history(history):
    history.add("second", schedule="@every 1s", witness={"seconds": 0.2, "lines": 500})
    history.add("parent", schedule="@every 2s", max_retries=0)
    history.add("child", schedule="@every 2s", dependencies=["parent"])
    history.add("fails", schedule="@every 5s", witness={"code": 3}, max_retries=1, retry_delay=1, retry_jitter=False)
    for count in (2, 4, 6):
        wait_for(lambda count=count: len(history.witnesses("child")) >= count, what=f"{count} runs")
        pid, begin = history.daemon.supervisor_pid, readers.true_now()
        os.kill(pid, signal.SIGKILL)
        wait_for(history.daemon._is_up, what="another supervisor")
        history.faults.append(evidence.Fault(kind="supervisor", begin=begin, end=readers.true_now()))
    sent = readers.true_now()
    run_id = history.daemon.run("fails", with_retries=False, allow_overlap=True)
    history.changes.append(
        evidence.Change(action="run", job="fails", sent=sent, until=sent, acked=True, run_id=run_id, allow_overlap=True)
    )
    assert history.daemon.wait(run_id)["exit_code"] == 3
    found = history.gather()
    assert len(found.witnesses) > 10
    assert found.outputs
    assert rules.judge(found) == []
    for spoil, rule in SPOILT.items():
        assert rule in {finding.rule for finding in rules.judge(spoil(found))}, spoil.__name__


def lost_row(found):
    rows = found.tables["job_history"]
    gone = next(row for row in rows if row["job_id"] == "second" and row["status"] == "completed")
    return with_tables(found, job_history=[row for row in rows if row is not gone])


def second_process(found):
    return dataclasses.replace(found, witnesses=[*found.witnesses, found.witnesses[3]])


def other_output(found):
    return dataclasses.replace(
        found, outputs={run_id: ("0" * 64, 2 * size) for run_id, (_, size) in found.outputs.items()}
    )


def silent_job(found):
    first = next(row for row in found.tables["attempts"] if row["status"] == "completed")
    return dataclasses.replace(found, witnesses=[each for each in found.witnesses if each.run_id != first["run_id"]])


def survivor(found):
    first = found.witnesses[0]
    return dataclasses.replace(found, alive=[evidence.Alive(run_id=first.run_id, attempt=1, pid=1)])


def lost_answer(found):
    return with_tables(found, audit=[row for row in found.tables["audit"] if row["target"] != "child"])


def with_tables(found, **tables):
    return dataclasses.replace(found, tables={**found.tables, **tables})


SPOILT = {lost_row: 1, second_process: 2, other_output: 6, silent_job: 6, survivor: 7, lost_answer: 8}
