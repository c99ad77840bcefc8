"""examples/lnmt_jobs.json: all of it can be imported, and every job gets the box that it asks for."""

import grp
import json
import os
import pwd
import shutil
from collections.abc import Callable
from pathlib import Path

import harness
import pytest

EXAMPLE = Path(__file__).parents[2] / "examples" / "lnmt_jobs.json"
JOBS = [job["id"] for job in json.loads(EXAMPLE.read_text())["jobs"]]


@pytest.fixture
def imported(daemon: harness.Daemon, folder: Path) -> harness.Daemon:
    """A daemon with the jobs, whose writable directories are ones that this test has made.

    One of an account runs them as itself, and can hold a job among the host's processes only where it has control groups.
    """
    if not harness.gives_standard(None, ""):
        pytest.skip("profile standard")
    text = EXAMPLE.read_text()
    jobs = json.loads(text)["jobs"]
    for job in jobs:
        for number, path in enumerate(job["sandbox"].get("writable", [])):
            mine = folder / f"{job['id']}-{number}"
            mine.mkdir()
            if os.geteuid() == 0:
                shutil.chown(mine, _known(pwd.getpwnam, job.get("user", "root")))
            text = text.replace(f'"{path}', f'"{mine}')
        if os.geteuid() == 0 and "group" in job:
            _known(grp.getgrnam, job["group"])
    document = json.loads(text)
    if os.geteuid() != 0:
        for job in document["jobs"]:
            job.pop("user", None)
            job.pop("group", None)
            job["sandbox"].pop("processes", None)
    file = folder / "jobs.json"
    file.write_text(json.dumps(document))
    done = daemon.ctl("import", str(file))
    assert done.code == 0, done
    return daemon


def _known(find: Callable[[str], object], name: str) -> str:
    try:
        find(name)
    except KeyError:
        pytest.skip(f"the account or group {name}")
    return name


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


def test_no_backup_of_the_example_holds_its_own_repository() -> None:
    (backup,) = (job["kwargs"] for job in json.loads(EXAMPLE.read_text())["jobs"] if job["id"] == "data_backup")
    assert not any(Path(backup["repository"]).is_relative_to(path) for path in (*backup["folders"], backup["target"]))
