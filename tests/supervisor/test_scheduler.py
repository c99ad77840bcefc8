"""The Python API as a program uses it: a script with functions in its own __main__, under a real daemon."""

import subprocess
import sys
import textwrap
from datetime import UTC, datetime
from pathlib import Path

import harness
import pytest

from lnmt_scheduler.supervisor import JobConfig, JobPriority, JobStatus, LNMTScheduler
from lnmt_scheduler.supervisor.scheduler import SchedulerError


def run_script(folder: Path, text: str) -> subprocess.CompletedProcess[str]:
    path = folder / "program.py"
    path.write_text(textwrap.dedent(text))
    return subprocess.run([sys.executable, str(path)], capture_output=True, text=True, timeout=60, cwd="/")


def test_functions_of_main_are_run_in_the_child_with_what_lies_beside_the_program(folder):
    (folder / "beside.py").write_text("WORD = 'beside'\n")
    done = run_script(
        folder,
        """
        import os
        from lnmt_scheduler.supervisor import JobConfig, JobPriority, LNMTScheduler
        import beside

        class LNMTPollingJob(JobConfig):
            def __init__(self, device_type, **kwargs):
                super().__init__(**kwargs)
                self.device_type = device_type
                self.kwargs["device_type"] = device_type

        def poll_devices(device_type, context):
            print("polling", device_type)
            return {"type": device_type, "beside": beside.WORD, "pid": os.getpid(), "run": context.run_id}

        class Group:
            @staticmethod
            def method():
                return "dotted"

        if __name__ == "__main__":
            scheduler = LNMTScheduler(max_workers=4, cleanup_days=3)
            job = LNMTPollingJob(
                id="router_poll", name="Router Polling", device_type="router", module="__main__",
                function="poll_devices", schedule="*/1 * * * *", priority=JobPriority.HIGH,
            )
            assert scheduler.register_job(job) is True
            job.kwargs["device_type"] = "changed too late"
            scheduler.register_job(JobConfig(id="dotted", module="__main__", function="Group.method"))
            scheduler.start()
            result = scheduler.run_job_now("router_poll")
            print(result.status.value, result.result["type"], result.result["beside"], result.output.strip())
            print(result.result["pid"] != os.getpid(), result.run_id == result.result["run"], result.retry_count)
            print(scheduler.run_job_now("dotted").result)
            status = scheduler.get_job_status("router_poll")
            print(status["status"], status["priority"], status["next_run"] is not None)
            print(scheduler.unregister_job("dotted"), scheduler.unregister_job("dotted"))
            scheduler.stop()
        """,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines() == [
        "completed router beside polling router",
        "True True 0",
        "dotted",
        "completed 3 True",
        "True False",
    ]
    assert done.stderr == ""


def test_a_hundred_jobs_are_registered_and_run(folder):
    """The load test of the seed, with a function that is quick."""
    done = run_script(
        folder,
        """
        from lnmt_scheduler.supervisor import JobConfig, LNMTScheduler

        def quick_test_job():
            return 1

        if __name__ == "__main__":
            with LNMTScheduler() as scheduler:
                for i in range(100):
                    scheduler.register_job(JobConfig(
                        id=f"load_test_{i}", name=f"Load Test Job {i}", module="__main__",
                        function="quick_test_job", schedule="*/1 * * * *"))
                print(sum(scheduler.run_job_now(f"load_test_{i}").result for i in range(0, 100, 10)))
        """,
    )
    assert (done.returncode, done.stdout) == (0, "10\n"), done.stderr


def test_the_daemon_ends_with_the_program_that_started_it(folder):
    done = run_script(
        folder,
        f"""
        import os
        from lnmt_scheduler.supervisor import JobConfig, LNMTScheduler
        scheduler = LNMTScheduler(state_dir={str(folder / "state")!r})
        scheduler.register_job(JobConfig(id="sleeps", command="sleep 1000 # {folder.name}", kill_grace=0))
        scheduler.start()
        scheduler._request(__import__("lnmt_scheduler.ipc.control", fromlist=["x"]).Run(job_id="sleeps"))
        os._exit(0)  # without stop()
        """,
    )
    assert done.returncode == 0, done.stderr
    harness.wait_for(lambda: not harness.processes_with(folder.name), what="the end of daemon and job")


@pytest.fixture
def scheduler(folder):
    with LNMTScheduler(state_dir=str(folder / "state")) as started:
        yield started


def test_run_job_now_follows_the_jobs_retries_and_reports_the_last_attempt(scheduler):
    scheduler.register_job(JobConfig(id="fails", command="echo no; exit 9", max_retries=2, retry_delay=0))
    result = scheduler.run_job_now("fails")
    assert (result.status, result.reason, result.exit_code, result.retry_count) == (JobStatus.FAILED, "exit", 9, 2)
    assert result.start_time is not None
    assert result.end_time is not None
    assert result.start_time <= result.end_time <= datetime.now(UTC)
    assert result.output.startswith("no\n")


def test_a_job_that_is_registered_again_is_replaced_and_keeps_its_history(scheduler):
    scheduler.register_job(JobConfig(id="a", command="exit 1", priority=JobPriority.HIGH))
    first = (
        scheduler.run_job_now("a")
        if scheduler.register_job(JobConfig(id="a", command="exit 2", max_retries=0))
        else None
    )
    assert first is not None
    assert first.exit_code == 2
    assert scheduler.get_job_status("a")["priority"] == JobPriority.NORMAL


def test_everything_wrong_with_a_job_is_said_at_once(scheduler):
    with pytest.raises(SchedulerError) as wrong:
        scheduler.register_job(JobConfig(id="a b", command="true", schedule="61 * * * *", max_retries=-1))
    for word in ("'id'", "schedule", "max_retries"):
        assert word in str(wrong.value)


def test_jobs_are_checked_before_there_is_a_daemon(folder):
    stopped = LNMTScheduler(state_dir=str(folder / "state"))
    with pytest.raises(SchedulerError, match="schedule"):
        stopped.register_job(JobConfig(id="a", command="true", schedule="not a schedule"))
    stopped.register_job(
        JobConfig(
            id="child",
            command="true",
            schedule="0 1 * * *",
            dependencies=["parent", {"job": "child", "when": "ok"}],
            on_failure=["alert"],
        )
    )
    stopped.register_job(JobConfig(id="alert", command="true", dependencies=[{"job": "parent", "when": "failed"}]))
    stopped.register_job(JobConfig(id="parent", command="true", schedule="0 0 * * *"))
    assert stopped.get_job_status("child")["status"] == "never_run"
    stopped.start()  # in whichever order they were registered
    try:
        assert stopped.get_job_status("child")["dependencies"] == ["parent", "child"]
    finally:
        stopped.stop()


def test_jobs_that_the_daemon_refuses_are_not_forgotten_and_leave_no_daemon(folder):
    held = LNMTScheduler(state_dir=str(folder / "state"))
    held.register_job(JobConfig(id="a", command="true", schedule="0 0 * * *"))
    held.register_job(JobConfig(id="b", command="true", schedule="0 0 * * *", on_failure=["nope"]))
    for _ in range(2):
        with pytest.raises(SchedulerError, match="unknown job 'nope'"):
            held.start()
        assert not (folder / "state/schedd.sock").exists()
    held.unregister_job("b")
    with held:
        assert held.get_job_status("a")["status"] == "never_run"
    held.register_job(JobConfig(id="b", command="true", schedule="0 0 * * *", on_success=["c"]))
    held.register_job(JobConfig(id="c", command="true", schedule="0 0 * * *", on_success=["b"]))
    with pytest.raises(SchedulerError, match="jobs name each other in a circle"):
        held.start()


def test_what_is_not_there_is_an_error_and_not_a_none(scheduler):
    with pytest.raises(SchedulerError, match="no job 'nope'"):
        scheduler.run_job_now("nope")
    with pytest.raises(SchedulerError, match="no job 'nope'"):
        scheduler.get_job_status("nope")
    assert scheduler.unregister_job("nope") is False


def test_limits_are_positive():
    with pytest.raises(ValueError, match="at least 1"):
        LNMTScheduler(max_workers=0)
