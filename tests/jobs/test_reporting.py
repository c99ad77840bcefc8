"""Reports of a month, and alerts on their way: what is in them, that each gets there once, and what a kill leaves."""

import contextlib
import csv
import io
import json
import os
import random
import re
import shutil
import signal
import socket
import sqlite3
import subprocess
import sys
import xml.etree.ElementTree as ET
from dataclasses import replace
from zoneinfo import ZoneInfo

import harness
import month
import msgpack
import pytest
import receivers
import stored
from peers import free_port

from lnmt_scheduler.jobs import alerting, delivery, figures, history, outbox, page, pages, reporting, room
from lnmt_scheduler.supervisor import clock, snapshot, store


@pytest.fixture(scope="module")
def copy(tmp_path_factory):
    """The history of a month, as a job gets it."""
    with pytest.MonkeyPatch.context() as patch:
        place = tmp_path_factory.mktemp("month") / "history.db"
        return month.make(place, days=16, monkeypatch_now=lambda now: patch.setattr(clock, "now_ms", lambda: now))


@pytest.fixture
def state(tmp_path, copy, monkeypatch):
    monkeypatch.setenv("LNMT_HISTORY", str(copy))
    monkeypatch.setenv("LNMT_STATE_DIR", str(tmp_path))
    return tmp_path


def made(copy, days, kind="daily"):
    found = history.load(str(copy))
    return found, figures.report(kind, found, figures.period(found.taken, days, month.END.tzinfo))


def test_the_figures_are_those_of_the_rows(copy):
    found, report = made(copy, 7)
    start, end = report.period.ms
    of = [run for run in found.runs if start <= run.queued < end]
    assert (report.period.start.day, report.period.end.day) == (24, 31)
    assert report.totals["ok"] == sum(run.status == "completed" for run in of) > 2000
    assert report.totals["failed"] == sum(run.status == "failed" for run in of)
    assert sum(bar.ok for bar in report.bars) == report.totals["ok"]
    by_id = {job.job_id: job for job in report.jobs}
    assert by_id["vendor_export"].failing_since is not None
    assert report.jobs[0].job_id == "vendor_export"
    assert by_id["flaky_sync"].is_flaky
    assert not by_id["system_metrics"].is_flaky
    assert report.slowest[0][0] == "backup_data"
    assert "vendor_export" in {job.job_id for job in page.silent(report)}
    assert "restore_drill" not in {job.job_id for job in page.silent(report)}


def test_a_day_has_its_hours_also_when_the_clocks_change():
    berlin = ZoneInfo("Europe/Berlin")
    empty = history.History(taken=0, since=0, complete=True, jobs=[], runs=[])
    for until, hours in (("2026-03-30", 23), ("2026-10-26", 25), ("2026-03-02", 24)):
        assert len(figures.report("daily", empty, figures.period(0, 1, berlin, until)).bars) == hours


def test_the_page_is_well_formed_asks_nobody_and_escapes_what_jobs_say(copy):
    _, report = made(copy, 1)
    html = pages.html(report)
    ET.fromstring(
        re.sub(r"<!DOCTYPE html>|<meta[^>]*>", "", html).replace("&ensp;", " ").replace("class=n", 'class="n"')
    )
    assert "no route to &lt;host&gt;" in html
    assert "<host>" not in html
    assert re.findall(r"(?:src|href)=|url\(|@import|<script", html) == []


def test_the_csv_has_every_job_and_runs_no_formula(copy):
    _, report = made(copy, 7)
    report = replace(report, jobs=[replace(report.jobs[0], last_error="=cmd()"), *report.jobs[1:]])
    assert "'=cmd()" in pages.csv(report)
    rows = list(csv.DictReader(io.StringIO(pages.csv(report))))
    assert {row["job"] for row in rows} == {job_id for job_id, *_ in month.JOBS}


def test_a_report_is_written_and_mailed_once(state, capsys):
    with receivers.mailbox() as box:
        for _ in range(2):
            found = reporting.daily(disks=[], targets={"mail": smtp(box)})
        (mail,) = box.mails
    assert found["report"] == "daily-2026-03-30"
    assert mail["Subject"].strip().startswith(f"[{socket.gethostname()}] Jobs 2026-03-30: failing: vendor_export; ")
    assert mail.get_body(("html",)) is not None
    assert [part.get_filename() for part in mail.iter_attachments()] == ["daily-2026-03-30.csv"]
    assert sorted(os.listdir(state / "reports")) == [f"daily-2026-03-30.{suffix}" for suffix in ("csv", "html", "txt")]
    assert "Failing now:" in capsys.readouterr().out
    reporting.daily(disks=[], until="2026-03-30", keep=1)
    assert {name.partition(".")[0] for name in os.listdir(state / "reports")} == {"daily-2026-03-30"}


def test_what_two_hosts_send_alike_is_told_apart(copy, tmp_path, monkeypatch):
    """A receiver drops what has a key that it knows; the same report of another host is another one."""
    monkeypatch.setenv("LNMT_HISTORY", str(copy))
    happened = [alerting.Condition(rule="changed", job_id="config_backup", text="changed", once=7)]
    decided = alerting.step(alerting.State(), [alerting.Rule(name="changed", when="changed")], happened, 1)
    with receivers.mailbox() as box, receivers.hook() as hook:
        for host in ("one", "two"):
            monkeypatch.setattr(socket, "gethostname", lambda host=host: host)
            monkeypatch.setenv("LNMT_STATE_DIR", str(tmp_path / host))
            (tmp_path / host).mkdir()
            reporting.daily(disks=[], targets={"mail": smtp(box)})
            waiting = outbox.Outbox(str(tmp_path / host))
            waiting.decide(lambda _: decided, 1, ["ops"])
            waiting.deliver({"ops": delivery.target({"type": "webhook", "url": hook.url})}, str, 1)
    assert [mail["Subject"].split()[0] for mail in box.mails] == ["[one]", "[two]"]
    assert len({mail["Message-ID"] for mail in box.mails}) == 2
    assert len({key for key, _ in hook.taken}) == len(hook.taken) == 2


def test_a_disk_that_fills_up_is_foreseen_and_a_clean_up_does_not_turn_it():
    day, total = 86_400_000, 1000
    looks = [(number * day, total, 500 + 10 * number) for number in range(20)]
    assert room.forecast("/srv", looks).full_in == pytest.approx(31)
    looks[10] = (10 * day, total, 100)
    assert room.forecast("/srv", looks).full_in == pytest.approx(31, rel=0.05)
    assert room.forecast("/srv", looks[:2]).growth is None
    assert room.forecast("/srv", [(at, total, 700) for at, *_ in looks]).full_in is None


def test_without_the_grant_the_key_that_is_missing_is_named(state, monkeypatch, capsys):
    monkeypatch.delenv("LNMT_HISTORY")
    with pytest.raises(SystemExit):
        reporting.daily()
    assert '"grants": ["history"]' in capsys.readouterr().err


RULES = [
    {"name": "failing", "when": "failing", "severity": "critical"},
    {"name": "silent", "when": "silent", "jobs": ["vendor_*"], "after": "30h"},
]


def test_alerts_of_one_moment_are_one_message_and_are_sent_once(state):
    with receivers.hook() as hook:
        where = {"ops": {"type": "webhook", "url": hook.url}}
        first = reporting.alerts(RULES, where)
        assert (first["new"], first["sent"], first["unsent"]) == (first["open"], 1, 0)
        assert reporting.alerts(RULES, where) == {"open": first["open"], "new": 0, "sent": 0, "unsent": 0, "waiting": 0}
        ((_, body),) = hook.taken
    assert {alert["rule"] for alert in body["alerts"]} == {"failing", "silent"}
    assert "vendor_export" in body["text"]


def test_a_job_whose_failures_have_left_the_history_has_not_recovered(state, copy, monkeypatch):
    with receivers.hook() as hook:
        where = {"ops": {"type": "webhook", "url": hook.url}}
        first = reporting.alerts(RULES, where)
        shutil.copy(copy, state / "later.db")
        with contextlib.closing(sqlite3.connect(state / "later.db")) as db, db:
            db.execute("DELETE FROM runs")
        monkeypatch.setenv("LNMT_HISTORY", str(state / "later.db"))
        assert reporting.alerts(RULES, where) == {**first, "new": 0, "sent": 0}


def test_rules_see_each_run_of_late_and_say_what_was_too_large_for_them(tmp_path, monkeypatch):
    """From the rows of the store, by the copy, to whoever is told."""
    monkeypatch.setattr(clock, "now_ms", lambda: stored.T + 500 * stored.HOUR)
    monkeypatch.setenv("LNMT_HISTORY", str(tmp_path / "history.db"))
    monkeypatch.setenv("LNMT_STATE_DIR", str(tmp_path))
    stored.fill(tmp_path / "lnmt.db")
    large = {"changed": ["r3"], "devices": ["x" * snapshot.RESULT_MAX]}
    with contextlib.closing(store.Store.open(str(tmp_path / "lnmt.db"))) as db:
        for run_id, result in ((478, {"changed": ["r1"]}), (498, {"changed": []}), (500, large)):
            db.update_run(run_id, result=msgpack.packb(result))  # of job-17, job-17 and job-19
        making = snapshot.Making(db)
        for _ in making.slices():
            pass
    (tmp_path / "history.db").write_bytes(making.image)
    rules = [
        {"name": "changed", "when": "changed", "key": "changed"},
        {"name": "device", "when": "result", "key": "devices.r3", "values": ["down"]},
    ]
    with receivers.hook() as hook:
        reporting.alerts(rules, {"ops": {"type": "webhook", "url": hook.url}})
        ((_, body),) = hook.taken
    assert {(alert["job_id"], alert["text"]) for alert in body["alerts"]} == {
        ("job-17", 'changed: ["r1"]'),
        ("job-19", 'changed: ["r3"]'),
        ("job-19", "cannot be known, since what it returned is too large for rules: devices.r3"),
    }


def test_a_message_that_was_refused_is_sent_by_the_next_run_with_the_same_words(state):
    with receivers.hook() as hook:
        where = {"ops": {"type": "webhook", "url": hook.url}}
        hook.codes = [500, 404, 200]
        for _ in range(2):
            with pytest.raises(Exception, match="1 messages are still to be sent: ops: "):
                reporting.alerts(RULES, where)
        assert reporting.alerts(RULES, where)["sent"] == 1
        bodies = [json.dumps(body) for _, body, _ in hook.got]
    assert len(set(bodies)) == 1


def test_one_target_that_is_away_keeps_nothing_from_the_others(state):
    with receivers.hook() as hook:
        away = f"http://127.0.0.1:{free_port()}/"
        where = {"away": {"type": "webhook", "url": away}, "ops": {"type": "webhook", "url": hook.url}}
        with pytest.raises(Exception, match="still to be sent"):
            reporting.alerts(RULES, where)
        assert len(hook.taken) == 1


def smtp(box, **more):
    base = {"type": "smtp", "host": "127.0.0.1", "port": box.port, "security": "none", "from": "a@b", "to": ["c@d"]}
    return {**base, **more}


def one_more(number):
    """A rule that was not there before, so that there is one message more."""
    return [{"name": f"r{number}", "when": "failing", "jobs": ["vendor_export"]}]


def test_somebody_who_has_left_keeps_nothing_from_the_others_who_get_it_once(state):
    with receivers.mailbox() as box:
        box.unknown = {"left@d"}
        where = {"mail": smtp(box, to=["alice@d", "left@d"])}
        for number, sent in ((1, 1), (1, 0), (2, 1)):
            assert reporting.alerts(one_more(number), where)["sent"] == sent
        assert len(box.mails) == 2


def test_a_message_that_is_refused_holds_up_no_other_and_is_given_up_in_the_end(state, monkeypatch, capsys):
    monkeypatch.setattr(outbox, "_REFUSALS", 2)
    with receivers.hook() as hook:
        where = {"ops": {"type": "webhook", "url": hook.url}}
        for number, codes in ((1, [400]), (2, [400, 200]), (2, [413])):
            hook.codes = codes
            with pytest.raises(outbox.NotDeliveredError, match=f"ops: 127.0.0.1 answered {codes[0]}"):
                reporting.alerts(one_more(number), where)
        assert [body["alerts"][0]["rule"] for _, body in hook.taken] == ["r2"]
        assert "given up, since ops has refused it 3 times: " in capsys.readouterr().out
        assert reporting.alerts(one_more(2), where)["unsent"] == 0
        assert len(hook.got) == 4


def test_a_target_that_refuses_everything_is_at_fault_itself_and_nothing_is_given_up(state, monkeypatch):
    monkeypatch.setattr(outbox, "_REFUSALS", 2)
    with receivers.hook() as hook:
        where = {"ops": {"type": "webhook", "url": hook.url}}
        hook.codes = [401]
        for number in range(5):
            with pytest.raises(outbox.NotDeliveredError):
                reporting.alerts(one_more(number), where)
        hook.codes = [200]
        reporting.alerts(one_more(4), where)
        assert {body["alerts"][0]["rule"] for _, body in hook.taken} >= {f"r{number}" for number in range(5)}


@pytest.mark.parametrize(
    "call", [lambda where: reporting.alerts(RULES, where), lambda where: reporting.daily(targets=where)]
)
def test_a_target_that_cannot_even_be_tried_keeps_nothing_from_the_others(state, monkeypatch, tmp_path, call):
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    (tmp_path / "password").write_text("p\xe4ssword")
    with receivers.hook() as hook, receivers.mailbox() as box:
        where = {
            "a": {"type": "webhook", "url_secret": "nonesuch"},
            "b": smtp(box, user="me", password="password"),
            "ops": {"type": "webhook", "url": hook.url},
        }
        with pytest.raises(Exception, match=r"a: something is missing.*b: 127\.0\.0\.1: its name, the user or the"):
            call(where)
        assert len(hook.taken) == 1


def test_however_much_waits_for_a_dead_target_the_others_get_theirs(state, monkeypatch, capsys):
    monkeypatch.setattr(outbox, "_AT_ONCE", 2)
    with receivers.hook() as hook:
        where = {"away": {"type": "webhook", "url": f"http://127.0.0.1:{free_port()}/"}}
        ops = {"ops": {"type": "webhook", "url": hook.url}}
        for number in range(3):
            with pytest.raises(outbox.NotDeliveredError):
                reporting.alerts(one_more(number), where)
        with pytest.raises(outbox.NotDeliveredError, match="4 messages are still to be sent: away: "):
            reporting.alerts(one_more(3), where | ops)
        assert len(hook.taken) == 1
        # Once it is taken away, nobody waits for it for ever.
        assert reporting.alerts(one_more(3), ops)["unsent"] == 0
        assert "away is no target any more; not sent: 4 messages" in capsys.readouterr().out


CALL = "import sys, json; from lnmt_scheduler.jobs import reporting; reporting.alerts(*json.loads(sys.argv[1]))"


def start(rules, where):
    return subprocess.Popen(
        [sys.executable, "-c", CALL, json.dumps([rules, where])], stdout=subprocess.DEVNULL, stderr=subprocess.PIPE
    )


@pytest.mark.slow
def test_killed_at_random_points_no_alert_is_lost_and_none_has_two_keys(state):
    """Also at the worst one: while the server has the message, and has not answered."""
    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    dice = random.Random(seed)
    with receivers.hook() as hook:
        where = {"ops": {"type": "webhook", "url": hook.url}}
        expected, struck = set(), 0
        for number in range(9):
            # Each round has another condition to tell of.
            rules = [{"name": f"r{number}", "when": "failing", "jobs": ["vendor_export"]}]
            expected.add(f"r{number}")
            with start(rules, where) as running:
                if number % 3 == 0:
                    hook.on_request = running.kill  # it dies with its message on the way
                try:
                    running.wait(5 if number % 3 == 0 else dice.uniform(0.05, 0.6))
                except subprocess.TimeoutExpired:
                    running.kill()
                running.communicate()
                struck += running.returncode == -signal.SIGKILL
            hook.on_request = None
            with start(rules, where) as running:
                assert running.wait(30) == 0, running.communicate()
        harness.wait_for(lambda: len(hook.got) >= len(expected), what="all messages")
        keys: dict[str, set[str]] = {}
        for key, body in hook.taken:
            for alert in body["alerts"]:
                keys.setdefault(alert["rule"], set()).add(key)
    assert struck >= 3
    assert keys.keys() == expected  # none is lost
    assert {rule: len(found) for rule, found in keys.items()} == dict.fromkeys(expected, 1)  # and none has two keys
