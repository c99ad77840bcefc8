"""Jobs that start others, under a real daemon: results that travel, hooks that fire once whatever dies, and pauses."""

import json
import os
import signal
import sys

import pytest
from harness import wait_for

from lnmt_scheduler.ipc import control
from lnmt_scheduler.supervisor import client

MODULE = """
def collect_data():
    return {"rows": [1, 2, 3], "raw": b"\\xff"}


def process_data(context):
    run = context.parents["collect_data"]
    assert run["status"] == "completed", run
    return {"sum": sum(run["result"]["rows"]), "raw": run["result"]["raw"]}


def generate_report(context):
    return f"the sum is {context.parents['process_data']['result']['sum']}"
"""


@pytest.fixture
def seed_workflow(daemon, folder):
    """Of the first document, as written there; the last job is a script."""
    (folder / "lnmt_jobs_of_a_test.py").write_text(MODULE)
    for job_id, parent in (
        ("collect_data", None),
        ("process_data", "collect_data"),
        ("generate_report", "process_data"),
    ):
        daemon.add(
            id=job_id,
            module="lnmt_jobs_of_a_test",
            function=job_id,
            python_path=[str(folder)],
            dependencies=[parent] if parent else [],
        )
    daemon.add(id="send_report", command='echo "$LNMT_PARENTS"', dependencies=["generate_report"])
    return daemon


def runs_of(daemon, job_id):
    return daemon.request(control.History(job_id=job_id))["runs"]


def ended(daemon, job_id, count=1):
    """So many runs of it, once they have ended, the newest first."""

    def look():
        runs = runs_of(daemon, job_id)
        return runs if len(runs) == count and all(run["end_time"] for run in runs) else None

    return wait_for(look, what=f"{count} ended runs of {job_id}")


def output(daemon, run):
    return daemon.request(control.Read(run_id=run["run_id"], what="stdout"))["data"].decode()


def test_the_workflow_of_the_first_document_runs_and_hands_on_its_results(seed_workflow):
    daemon = seed_workflow
    daemon.run("collect_data")
    (sent,) = ended(daemon, "send_report")
    assert (sent["status"], sent["trigger"], sent["slot"]) == ("completed", "dependency", None)
    told = json.loads(output(daemon, sent))["generate_report"]
    (report,) = runs_of(daemon, "generate_report")
    assert (told["result"], told["run_id"], told["status"]) == ("the sum is 6", report["run_id"], "completed")
    assert [len(runs_of(daemon, job)) for job in ("collect_data", "process_data", "generate_report")] == [1, 1, 1]


@pytest.mark.slow
def test_another_interpreter_is_told_of_the_jobs_before_it_too(seed_workflow):
    daemon = seed_workflow
    daemon.request(control.Edit(job_id="process_data", changes={"python": sys.executable}))
    daemon.run("collect_data")
    (report,) = ended(daemon, "generate_report")
    assert report["status"] == "completed", output(daemon, report)


@pytest.mark.slow
def test_a_hook_fires_once_for_each_run_though_the_supervisor_dies_again_and_again(daemon):
    daemon.add(id="tell", command='echo "$LNMT_EVENT"')
    daemon.add(id="fails", command="exit 3", max_retries=0, on_failure=["tell"])
    for _ in range(6):
        daemon.run("fails")
        os.kill(daemon.supervisor_pid, signal.SIGKILL)
        wait_for(daemon._is_up, what="another supervisor")
    failed = {run["run_id"] for run in ended(daemon, "fails", 6)}
    told = [json.loads(output(daemon, run)) for run in ended(daemon, "tell", 6)]
    assert sorted(event["run_id"] for event in told) == sorted(failed)
    assert {(event["hook"], event["exit_code"], event["reason"]) for event in told} == {("on_failure", 3, "exit")}


@pytest.mark.slow
def test_a_pause_is_ended_by_the_daemon_and_told_meanwhile(daemon):
    daemon.add(id="a", command="true", schedule="@every 1s")
    daemon.add(id="b", command="true", schedule="@yearly")
    assert daemon.ctl("pause", "a", "--for", "3s", "--reason", "a new disk").code == 0
    paused = wait_for(
        lambda: [run for run in runs_of(daemon, "a") if run["reason"] == "paused"], what="a row of the pause"
    )
    assert paused[0]["error"].endswith(": a new disk")
    status = daemon.ctl("status", "-o", "json").json
    assert (status["paused"][0]["job_id"], status["next"]["job_id"]) == ("a", "b")

    def after_it():
        runs = runs_of(daemon, "a")
        return [run for run in runs if run["status"] == "completed" and run["run_id"] > paused[0]["run_id"]]

    wait_for(after_it, what="a run after it")
    assert daemon.ctl("status", "-o", "json").json["paused"] == []


def test_a_stopped_daemons_store_tells_of_its_pauses(daemon):
    daemon.add(id="a", command="true", schedule="@daily")
    daemon.ctl("pause")
    daemon.stop()
    assert daemon.ctl("list", "-o", "json").json[0]["paused"]["job_id"] is None


def test_an_event_reaches_its_job_with_its_data(daemon):
    daemon.add(id="a", command='printf %s "$LNMT_EVENT"', on_event="up")
    assert daemon.ctl("trigger", "up", "--data", '{"text": "ä \\"x\\""}').code == 0
    (run,) = ended(daemon, "a")
    assert (run["trigger"], json.loads(output(daemon, run))) == ("event", {"text": 'ä "x"'})
    with pytest.raises(client.RequestError, match="no job has on_event 'down'"):
        daemon.request(control.Trigger(event="down"))
