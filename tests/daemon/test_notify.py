"""Notices of a real daemon: delivered by runs in boxes, retried, and in nobody's way."""

import os
import signal

import harness
import pytest
import receivers

from lnmt_scheduler.supervisor import client

CONFIG = """
[defaults]
retry_delay = "0s"

[notify]
default = ["ops"]
mail = "mail"

[notify.targets.ops]
type = "webhook"
url = "{url}"
token = "token"
secrets = {{ token = "{token}" }}

[notify.targets.mail]
type = "smtp"
host = "127.0.0.1"
port = {port}
security = "none"
from = "lnmt@example.net"
to = ["root@example.net"]
"""


@pytest.fixture
def peers():
    with receivers.hook() as hook, receivers.mailbox() as mailbox:
        yield hook, mailbox


@pytest.fixture
def notified(make_daemon, folder, peers):
    if not harness.gives_standard(None, ""):
        pytest.skip("this host gives no box of profile 'standard'")
    token = folder / "token"
    token.write_text("sesame")
    token.chmod(0o600)
    hook, mailbox = peers
    return make_daemon(config=CONFIG.format(url=hook.url, token=token, port=mailbox.port))


def ended(daemon, job_id, count=1):
    """Runs of this job, once so many have ended."""
    return harness.wait_for(
        lambda: (
            rows if len(rows := [row for row in daemon.history(job_id=job_id) if row["end_time"]]) >= count else None
        ),
        what=f"{count} runs of {job_id}",
    )


@pytest.mark.slow
def test_a_failure_reaches_the_default_target_and_mail_its_reader(notified, peers):
    hook, mailbox = peers
    notified.add(id="bad", command="echo why; exit 3", max_retries=0)
    notified.add(id="cron", command="echo for a person", mailto="me@example.net", notify_on="output")
    notified.add(id="quiet", command="true", mailto="me@example.net", notify_on="output")
    for job in ("bad", "cron", "quiet"):
        notified.run_to_end(job)
    (row,) = ended(notified, "notify.ops")
    assert (row["status"], row["trigger"], row["profile"]) == ("completed", "hook", "standard")
    ((headers, body, _),) = hook.got
    assert (body["job_id"], body["exit_code"], headers["Authorization"]) == ("bad", 3, "Bearer sesame")
    assert "why" in body["output"]
    ended(notified, "notify.mail")
    (mail,) = mailbox.mails
    assert mail["To"] == "me@example.net"
    assert "for a person" in mail.get_content()
    # The token is nowhere but in its file.
    for path in (*notified.state_dir.rglob("*"), notified.log_path):
        if path.is_file() and path.name != "reserve":
            assert b"sesame" not in path.read_bytes(), path


@pytest.mark.slow
def test_a_target_that_hangs_or_refuses_keeps_nothing_from_running(notified, peers):
    hook, _ = peers
    hook.answers.clear()
    hook.codes = [500, 200]
    notified.add(id="bad", command="exit 3", max_retries=0)
    notified.add(id="good", command="true")
    notified.run_to_end("bad")
    harness.wait_for(lambda: notified.status()["running"] == 1, what="a notice that waits for its answer")
    with harness.Asker(notified) as asker:
        assert [notified.run_to_end("good")["status"] for _ in range(5)] == ["completed"] * 5
    assert asker.worst < 2
    hook.answers.set()
    harness.wait_for(lambda: len(hook.got) == 1, what="the refusal")
    row = harness.wait_for(lambda: notified.history(job_id="notify.ops")[0], what="its row")
    assert row["status"] in ("retrying", "running", "completed")


@pytest.mark.slow
def test_schedctl_tries_the_targets(notified, peers):
    hook, mailbox = peers
    done = notified.ctl("notify", "test")
    assert (done.code, "mail: delivered" in done.stdout, "ops: delivered" in done.stdout) == (0, True, True)
    assert (len(hook.got), len(mailbox.mails)) == (1, 1)
    hook.codes = [404]
    done = notified.ctl("notify", "test", "ops")
    assert done.code == 1
    assert "ops: not delivered: not delivered: 127.0.0.1 answered 404" in done.stdout
    assert notified.ctl("notify", "test", "nobody").code == 3
    # A target that is taken away is no job any more; one that a file defines is not edited by hand.
    assert notified.ctl("remove", "notify.ops").code == 78
    (notified.state_dir / "config.toml").write_text("")
    assert notified.ctl("reload").code == 0
    assert "notify.ops" not in notified.ctl("list").stdout


@pytest.mark.long
def test_no_failure_goes_untold_or_has_two_keys_while_supervisors_are_killed(notified, peers):
    hook, _ = peers
    failures = []
    for number in range(12):
        notified.add(id=f"bad{number}", command="exit 3", max_retries=0, on_failure=["ops"])
        failures.append(notified.run(f"bad{number}"))
        if number % 2:
            os.kill(notified.supervisor_pid, signal.SIGKILL)
            harness.wait_for(lambda: _answers(notified), what="a successor")
    told = harness.wait_for(lambda: _told(hook, len(failures)), seconds=60, what="word of each failure")
    assert sorted(told) == failures
    assert {run: len(keys) for run, keys in told.items()} == dict.fromkeys(failures, 1)


def _answers(daemon):
    try:
        return daemon.status()
    except (OSError, client.Unreachable):
        return None


def _told(hook, count):
    """Run that failed -> the keys by which it was told, once all have been."""
    keys: dict[int, set[str]] = {}
    for key, body in hook.taken:
        keys.setdefault(body["run_id"], set()).add(key)
    return keys if len(keys) == count else None
