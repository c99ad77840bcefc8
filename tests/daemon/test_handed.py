"""What a job is handed in its box, secrets and a copy of the history: that it gets it, and that nobody else can see it."""

import json
import os
import shutil
import sys
from pathlib import Path

import harness
import pytest

from lnmt_scheduler.ipc import codec, control

WORD = "correct horse battery staple"
MODULE = """
import os, sqlite3, time

def reads(context):
    return {"secret": context.secret("key"), "modes": [oct(os.stat(p).st_mode & 0o777) for p in paths()]}

def paths():
    where = os.environ["CREDENTIALS_DIRECTORY"]
    return [where, os.path.join(where, "key")]

def counts():
    with sqlite3.connect(f"file:{os.environ['LNMT_HISTORY']}?mode=ro", uri=True) as db:
        return {
            "runs": db.execute("SELECT job_id, status, reason FROM runs ORDER BY run_id").fetchall(),
            "jobs": db.execute("SELECT job_id, result FROM jobs ORDER BY job_id").fetchall(),
            "meta": dict(db.execute("SELECT * FROM meta")),
        }

def answers(): return {"state": "warn"}
"""


@pytest.fixture
def standard(make_daemon, folder):
    """A daemon whose host gives boxes with files of their own."""
    if not harness.gives_standard(None, ""):
        pytest.skip("this host gives no box of profile 'standard'")
    (folder / "handed_jobs.py").write_text(MODULE)
    return make_daemon()


@pytest.fixture
def key(folder: Path) -> str:
    path = folder / "key"
    path.write_text(f"{WORD}\n")
    path.chmod(0o600)
    return str(path)


def function(folder: Path, name: str, **more):
    return {"module": "handed_jobs", "function": name, "python_path": [str(folder)], "max_retries": 0, **more}


def result(daemon, row):
    assert row["status"] == "completed", row["error"]
    return codec.unpack(daemon.request(control.Read(run_id=row["run_id"], what="result"))["data"])


def test_a_secret_reaches_its_job_as_a_file_and_nothing_else(standard, folder, key):
    standard.add(id="a", secrets={"key": key}, **function(folder, "reads"))
    row = standard.run_to_end("a")
    assert result(standard, row) == {"secret": WORD, "modes": ["0o700", "0o400"]}


def test_a_secret_is_in_no_row_argument_environment_or_log(standard, folder, key):
    show = "tr '\\0' '\\n' < /proc/self/environ; tr '\\0' ' ' < /proc/self/cmdline; wc -c < $CREDENTIALS_DIRECTORY/key"
    standard.add(id="a", secrets={"key": key}, command=show)
    row = standard.run_to_end("a")
    assert row["status"] == "completed", standard.output(row["run_id"])
    assert str(len(WORD) + 1).encode() in standard.output(row["run_id"])
    everything = [path for path in standard.state_dir.rglob("*") if path.is_file() and path.name != "reserve"]
    assert len(everything) > 3
    for path in (*everything, standard.log_path):
        assert WORD.encode() not in path.read_bytes(), path


def test_files_of_the_box_are_gone_with_it(standard, key):
    command = "echo $CREDENTIALS_DIRECTORY; find / -xdev -name 'lnmt-files-*' 2>/dev/null | wc -l; exec sleep 600"
    standard.add(id="a", secrets={"key": key}, command=command)
    standard.add(id="b", command="ls -d /dev/shm/lnmt-files-* 2>/dev/null; true")
    run = standard.run("a")
    where = harness.wait_for(lambda: standard.output(run).partition(b"\n")[0], what="where its files are").decode()
    assert standard.output(standard.run_to_end("b")["run_id"]) == b""  # another box sees none of them
    assert not os.path.exists(where) or where.startswith("/tmp/")
    standard.request(control.Cancel(run_id=run))
    assert standard.wait(run)["status"] == "cancelled"
    harness.wait_for(lambda: not os.path.exists(where), what="the end of the files")


def test_an_interpreter_of_its_own_gets_them_too(standard, folder, key):
    standard.add(id="a", secrets={"key": key}, python=sys.executable, **function(folder, "reads"))
    assert result(standard, standard.run_to_end("a"))["secret"] == WORD


def test_a_secret_that_cannot_be_had_is_a_start_that_fails_with_the_reason(standard, folder):
    (folder / "open").write_text("x")
    (folder / "open").chmod(0o644)
    os.mkfifo(folder / "fifo", 0o600)
    (folder / "large").write_bytes(b"x" * 70_000)
    (folder / "large").chmod(0o600)
    for name, words in (
        ("open", "must be its owner's alone, mode 0600"),
        ("missing", "No such file"),
        ("fifo", "not a regular file"),
        ("large", "more than 65536 bytes"),
        ("", "the daemon has no systemd credentials; LoadCredential=a-credential:PATH in its unit gives one"),
    ):
        source = str(folder / name) if name else "a-credential"
        standard.add(id=f"a{name}", command="true", max_retries=0, secrets={"key": source})
        row = standard.run_to_end(f"a{name}")
        assert (row["status"], row["reason"]) == ("failed", "spawn")
        assert words in row["error"]


def test_a_systemd_credential_is_taken_by_its_name(make_daemon, folder):
    if not harness.gives_standard(None, ""):
        pytest.skip("this host gives no box of profile 'standard'")
    (folder / "credentials").mkdir()
    (folder / "credentials" / "smtp").write_text(WORD)
    daemon = make_daemon(environment={"CREDENTIALS_DIRECTORY": str(folder / "credentials")})
    daemon.add(id="a", command="cat $CREDENTIALS_DIRECTORY/password", secrets={"password": "smtp"})
    assert daemon.output(daemon.run_to_end("a")["run_id"]) == WORD.encode()
    # And not by a job that it is not given to, which runs on the same host and may run as the same account.
    daemon.add(id="b", command=f"cat {folder}/credentials/*", max_retries=0)
    row = daemon.run_to_end("b")
    assert row["reason"] == "exit"
    assert WORD.encode() not in daemon.output(row["run_id"])


@pytest.mark.skipif(os.geteuid() != 0, reason="only root reads what a job may not")
def test_what_the_daemon_reads_for_a_job_is_not_the_jobs_to_choose(standard, folder):
    place, other = folder / "place", folder / "other.env"
    place.mkdir(mode=0o777)
    place.chmod(0o777)
    other.write_text("WORD=of-somebody-else\n")
    other.chmod(0o600)
    (place / ".env").write_text("WORD=own\n")
    standard.add(
        id="a",
        command=f'echo "$WORD"; rm {place}/.env; ln -s {other} {place}/.env',
        environment_file=str(place / ".env"),
        sandbox={"profile": "standard", "writable": [str(place)]},
        max_retries=0,
    )
    assert standard.output(standard.run_to_end("a")["run_id"]) == b"own\n"
    row = standard.run_to_end("a")
    assert (row["reason"], "environment_file" in row["error"], "link" in row["error"]) == ("spawn", True, True)


def test_a_run_by_hand_as_trusted_is_not_handed_what_it_has_no_box_for(standard, key):
    standard.add(id="a", command="true", secrets={"key": key}, max_retries=0)
    row = standard.run_to_end("a", profile="trusted")
    assert (row["reason"], "has no files of its own" in row["error"]) == ("spawn", True)


def test_a_job_that_is_granted_it_gets_a_copy_of_the_history(standard, folder):
    standard.add(id="bad", command="exit 3", max_retries=0)
    standard.add(id="good", **function(folder, "answers"))
    standard.add(id="report", grants=["history"], **function(folder, "counts"))
    standard.add(id="plain", **function(folder, "counts"))
    for job in ("bad", "good"):
        standard.run_to_end(job)
    found = result(standard, standard.run_to_end("report"))
    assert found["runs"] == [["bad", "failed", "exit"], ["good", "completed", None], ["report", "running", None]]
    assert ["good", json.dumps({"state": "warn"})] in found["jobs"]
    assert found["meta"]["complete"] == 1
    assert "LNMT_HISTORY" in standard.run_to_end("plain")["error"]


@pytest.mark.slow
@pytest.mark.parametrize("pretend", ["", "pidns"], ids=["as the host is", "without namespaces"])
def test_under_an_account_the_files_are_the_boxes_own_too(make_daemon, folder, ordinary_user, pretend):
    """Where no mount can make memory of its own, they are in the box's directory of temporary files, which init removes."""
    account = ordinary_user if os.geteuid() == 0 else None
    if not harness.gives_standard(account, pretend):
        pytest.skip(f"profile 'standard' for {ordinary_user}, without {pretend or 'nothing'}")
    key = folder / "key"
    key.write_text(WORD)
    key.chmod(0o600)
    if account is not None:
        shutil.chown(key, account)
    daemon = make_daemon(user=account, environment={"LNMT_PRETEND": pretend} if pretend else None)
    look = "cat $CREDENTIALS_DIRECTORY/key; echo; echo $CREDENTIALS_DIRECTORY; sleep 600"
    daemon.add(id="a", secrets={"key": str(key)}, command=look)
    daemon.add(id="b", command="cat /tmp/lnmt-*/lnmt-files-*/key /dev/shm/lnmt-files-*/key 2>/dev/null; true")
    run = daemon.run("a")
    said = harness.wait_for(lambda: daemon.output(run).split(b"\n")[:-1][1:2], what="the secret")
    assert daemon.output(run).startswith(WORD.encode())
    assert daemon.output(daemon.run_to_end("b")["run_id"]) == b""
    daemon.request(control.Cancel(run_id=run))
    daemon.wait(run)
    assert not os.path.exists(said[0].decode())
