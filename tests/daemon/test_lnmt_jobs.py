"""examples/lnmt_jobs.json: all of it can be imported, and every job gets the box that it asks for."""

import json
import os
import shutil
from pathlib import Path

import harness
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "lnmt_jobs.json"
JOBS = [job["id"] for job in json.loads(EXAMPLE.read_text())["jobs"]]


@pytest.fixture
def imported(daemon: harness.Daemon, folder: Path) -> harness.Daemon:
    """A daemon with the jobs, whose writable directories are ones that this test has made."""
    if os.geteuid() != 0:
        pytest.skip("root, whose daemon runs jobs as other users")
    if not harness.gives_standard(None, ""):
        pytest.skip("profile standard")
    text = EXAMPLE.read_text()
    for job in json.loads(text)["jobs"]:
        for number, path in enumerate(job["sandbox"].get("writable", [])):
            mine = folder / f"{job['id']}-{number}"
            mine.mkdir()
            shutil.chown(mine, job.get("user", "root"))
            text = text.replace(f'"{path}', f'"{mine}')
    jobs = folder / "jobs.json"
    jobs.write_text(text)
    done = daemon.ctl("import", str(jobs))
    assert done.code == 0, done
    return daemon


@pytest.mark.slow
def test_every_job_gets_the_box_that_it_asks_for(imported):
    tested = {job: imported.ctl("sandbox", "test", job, "-o", "json") for job in JOBS}
    # What a host lacks at large is no matter of the jobs: the same holds for the profile.
    doctor = {each["profile"]: each for each in imported.ctl("doctor", "-o", "json").json["profiles"]}
    lacking = set(doctor["standard"]["degraded_in"])
    for job, done in tested.items():
        found = done.json
        assert found["error"] is None, job
        assert {each["layer"] for each in found["layers"] if each["state"] not in ("enforced", "off")} <= lacking, job


def test_no_job_asks_for_more_than_standard_and_all_are_bounded():
    for job in json.loads(EXAMPLE.read_text())["jobs"]:
        assert job["sandbox"]["profile"] in ("standard", "untrusted"), job["id"]
        assert {"memory", "pids"} <= set(job["limits"]), job["id"]
        assert job["module"].startswith("lnmt_scheduler.jobs."), job["id"]
