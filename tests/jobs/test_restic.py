"""Snapshots by the real restic: made, thinned out, restored in a drill; damaged, incomplete and locked repositories."""

import json
import os
import shutil
import subprocess

import harness
import pytest

from lnmt_scheduler.jobs import backup, copies, restic

pytestmark = [
    pytest.mark.skipif(shutil.which("restic") is None, reason="restic: not on this machine"),
    pytest.mark.slow,
]


@pytest.fixture
def place(tmp_path, monkeypatch):
    """Folders of a repository, of a job and of what is to be kept."""
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "restic").write_text("open sesame")
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "one").write_text("1" * 1000)
    (tmp_path / "state").mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path / "secrets"))
    monkeypatch.setenv("LNMT_STATE_DIR", str(tmp_path / "state"))
    return tmp_path


def back_up(place, **more):
    given = {"folders": [str(place / "data")], "repository": str(place / "repository"), "init": True}
    return backup.data(**{**given, **more})


def drill(place, **more):
    return backup.restore_drill(**{"repository": str(place / "repository"), "read_data": "100%", **more})


def call(place, *words):
    environment = {**os.environ, "RESTIC_PASSWORD": "open sesame", "RESTIC_CACHE_DIR": str(place / "cache")}
    command = ["restic", "-r", str(place / "repository"), *words]
    return subprocess.run(command, env=environment, check=True, capture_output=True).stdout


def ask(place, *words):
    return json.loads(call(place, "--json", *words) or "null")


def by(monkeypatch, job):
    """Be the process of this job."""
    monkeypatch.setenv("LNMT_JOB_ID", job)


def paths_of(snapshots):
    return sorted(path for each in snapshots for path in each["paths"])


def locks(place):
    return os.listdir(place / "repository" / "locks")


def test_what_is_kept_comes_back_and_is_thinned_out(place, monkeypatch):
    seen = []
    plain = subprocess.run
    monkeypatch.setattr(
        subprocess, "run", lambda command, **more: (seen.append((command, more)), plain(command, **more))[1]
    )
    with pytest.raises(restic.ResticFailedError, match="the repository cannot be opened"):
        back_up(place, init=False)
    assert back_up(place)["snapshot"]["files"] == 1
    (place / "data" / "two").write_text("2")
    second = back_up(place, keep={"last": 1})
    assert (second["snapshot"]["files"], second["removed_snapshots"]) == (2, 1)
    assert len(ask(place, "snapshots")) == 1
    assert [each["files"] for each in drill(place)["snapshots"]] == [2]
    assert not (place / "state" / "drill").exists()
    assert len(seen) > 8
    assert "open sesame" not in repr([each for each in seen if "RESTIC_PASSWORD" not in (each[1].get("env") or {})])
    with pytest.raises(
        restic.ResticFailedError,
        match=r"2 files came back; at least 3 are wanted.*the newest snapshot of job 'by-hand' is 0\.0 days old",
    ):
        drill(place, least_files=3, max_age=0)


def test_jobs_that_share_a_repository_thin_out_their_own_snapshots_and_are_all_drilled(place, monkeypatch):
    (place / "other").mkdir()
    (place / "other" / "one").write_text("1")
    (place / "other" / "two").write_text("2")
    by(monkeypatch, "first")
    back_up(place, keep={"last": 1})
    by(monkeypatch, "second")
    assert back_up(place, folders=[str(place / "other")], keep={"last": 1})["removed_snapshots"] == 0
    assert paths_of(ask(place, "snapshots")) == [str(place / "data"), str(place / "other")]
    assert [(each["job"], each["files"]) for each in drill(place)["snapshots"]] == [("first", 1), ("second", 2)]
    assert [each["job"] for each in drill(place, jobs=["second"])["snapshots"]] == ["second"]
    with pytest.raises(restic.ResticFailedError, match="job 'third' has no snapshot of this host"):
        drill(place, jobs=["first", "third"])
    with pytest.raises(restic.ResticFailedError, match="job 'first': 1 files came back; at least 2"):
        drill(place, least_files=2)


def test_a_database_that_cannot_be_copied_keeps_no_folder_from_its_snapshot_and_none_goes(place):
    (place / "empty.db").touch()
    back_up(place)
    with pytest.raises(copies.CopiesFailedError, match="it holds no table"):
        back_up(place, databases=[str(place / "empty.db")], target=str(place / "to"), keep={"last": 1})
    assert paths_of(ask(place, "snapshots")) == [str(place / "data"), str(place / "data"), str(place / "to")]


def test_a_snapshot_that_has_no_tag_of_a_job_is_said_and_can_be_given_one(place, monkeypatch):
    by(monkeypatch, "first")
    back_up(place)
    call(place, "tag", "--set", "lnmt-scheduler")  # as it was before jobs had tags
    assert back_up(place, keep={"last": 1})["removed_snapshots"] == 0
    with pytest.raises(restic.ResticFailedError, match=r"the newest snapshot of no job .* days old"):
        drill(place, max_age=0)
    (old,) = (each for each in ask(place, "snapshots") if each["tags"] == ["lnmt-scheduler"])
    call(place, "tag", "--set", "lnmt-scheduler,job=first", old["id"])
    assert back_up(place, keep={"last": 1})["removed_snapshots"] == 2


def test_a_repository_is_not_backed_up_into_itself(place):
    name = "re[po]*tory\\"
    (place / "data" / "link").symlink_to(place / "data")
    repository = place / "data" / name
    for given in (str(repository), f"local:{place}/data/link/{name}"):
        assert back_up(place, repository=given)["snapshot"]["files"] == 1
    with pytest.raises(SystemExit):
        back_up(place, repository=str(repository), folders=[str(repository / "data")])


@pytest.mark.long
def test_a_damaged_repository_fails_the_drill(place):
    back_up(place)
    packs = sorted((place / "repository" / "data").rglob("*"), key=lambda path: path.is_file() and path.stat().st_size)
    packs[-1].chmod(0o600)
    packs[-1].write_bytes(b"\0" * packs[-1].stat().st_size)
    with pytest.raises(restic.ResticFailedError):
        drill(place)


def test_the_lock_of_a_restic_that_was_killed_does_not_stop_the_next(place):
    back_up(place)
    # The lock of a process of this host that is gone: one that restic has really made, and that nobody took away.
    environment = {**os.environ, "RESTIC_PASSWORD": "open sesame", "RESTIC_CACHE_DIR": str(place / "cache")}
    for number in range(40):
        (place / "data" / f"large{number}").write_bytes(os.urandom(1 << 20))
    command = ["restic", "-r", str(place / "repository"), "backup", str(place / "data")]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL) as running:
        harness.wait_for(lambda: [name for name in locks(place) if "-tmp-" not in name], what="a lock")
        running.kill()
    assert locks(place)
    assert back_up(place)["snapshot"]["files"] == 41
    assert locks(place) == []
