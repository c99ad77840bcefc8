"""Whom the end of a run is told: the table of config.toml, what it becomes, and who hears of which end."""

import deciding
import pytest

from lnmt_scheduler.jobs import load, model
from lnmt_scheduler.jobs import notices as delivering
from lnmt_scheduler.supervisor import catalog, config, notices

HOOK = {"type": "webhook", "url": "http://127.0.0.1/hook"}
MAIL = {"type": "smtp", "host": "mail", "from": "a@b", "to": ["c@d"]}
BOTH = notices.Notify(targets={"ops": HOOK, "mail": MAIL}, default=("ops",), mail="mail")


def test_each_target_is_a_job_that_any_loader_takes_and_that_no_default_changes():
    defaults = {"on_failure": ["x"], "mailto": "a@b", "pool": "p", "grants": ["history"], "jitter": 30}
    definitions, problems = load.parse(
        notices.document(BOTH), "config.toml", check_schedule=catalog.checker("UTC"), site_defaults=defaults
    )
    assert problems == []
    by_id = {each.config.id: each.config for each in definitions}
    assert sorted(by_id) == ["notify.mail", "notify.ops"]
    job = by_id["notify.ops"]
    assert (job.on_failure, job.mailto, job.pool, job.grants, job.jitter) == ([], None, None, [], 0)
    assert job.sandbox == {"profile": "standard"}
    assert "exit:75" in (job.retry_on or ())
    assert notices.is_notice(job)


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({"default": ["ops"]}, "default: there is no target 'ops'"),
        ({"targets": {"ops": HOOK}, "default": ["opps"]}, "default: there is no target 'opps'; did you mean 'ops'?"),
        ({"targets": {"ops": {"type": "pigeon"}}}, "targets.ops: "),
        ({"targets": {"o s": HOOK}}, "targets.o s: "),
        ({"targets": {"ops": HOOK}, "mail": "ops"}, "mail: target 'ops' sends no mail"),
        ({"targets": {"ops": {**HOOK, "token": "token"}}}, "secret 'token' is not given"),
        ({"targets": {"ops": 3}}, "targets.ops: must be a table"),
        ({"tragets": {}}, "unknown key 'tragets'"),
        ({"default": "ops"}, "default must be a list"),
    ],
)
def test_what_is_wrong_with_the_table_is_said_with_its_place(table, words):
    with pytest.raises(config.ConfigError) as caught:
        config.parse({"notify": table}, "C")
    assert str(caught.value).startswith("C: key 'notify': ")
    assert words in str(caught.value)


FAILED, DONE, CANCELLED = model.JobStatus.FAILED, model.JobStatus.COMPLETED, model.JobStatus.CANCELLED


def asked(status, *, change=False, output=False, notify=BOTH, **job):
    config = model.JobConfig(id="a", command="true", **job)
    return notices.asked(config, status, notify, is_change=change, has_output=output)


@pytest.mark.parametrize(
    ("job", "status", "more", "told"),
    [
        # A job without hooks: when it begins to fail, and when it is well again.
        ({}, FAILED, {"change": True}, {"notify.ops": "default"}),
        ({}, FAILED, {}, {}),
        ({}, DONE, {"change": True}, {"notify.ops": "default"}),
        ({}, DONE, {}, {}),
        ({}, CANCELLED, {}, {}),
        ({"on_failure": ["x"]}, FAILED, {"change": True}, {}),
        ({"on_success": ["x"]}, FAILED, {"change": True}, {"notify.ops": "default"}),
        # cron's mail.
        ({"mailto": "m@x"}, FAILED, {}, {"notify.mail": "mailto"}),
        ({"mailto": "m@x"}, DONE, {"output": True}, {}),
        ({"mailto": "m@x", "notify_on": "output"}, DONE, {"output": True}, {"notify.mail": "mailto"}),
        ({"mailto": "m@x", "notify_on": "output"}, DONE, {}, {}),
        ({"mailto": "m@x", "notify_on": "output"}, FAILED, {}, {"notify.mail": "mailto"}),
        ({"mailto": "m@x", "notify_on": "always"}, DONE, {}, {"notify.mail": "mailto"}),
        ({"mailto": "m@x", "notify_on": "always"}, CANCELLED, {}, {}),
        # No notice of notices.
        ({"module": notices.MODULE}, FAILED, {"change": True}, {}),
    ],
)
def test_who_is_told_of_which_end(job, status, more, told):
    assert asked(status, **more, **job) == told


@pytest.fixture
def told(tmp_path, monkeypatch):
    """A deciding daemon whose targets are jobs, as config.toml makes them."""
    made = deciding.World(tmp_path, monkeypatch, notify=BOTH)
    for job in notices.document(BOTH)["jobs"]:
        made.registry.add(job, "file:config.toml", deciding.WHO)
        made.settle()
    yield made
    made.close()


def test_the_end_that_is_told_and_the_run_that_tells_it_are_one_decision(told):
    told.add("a", max_retries=0)
    told.to("13:00")
    told.end("a", exit_code=3)
    row = told.row("notify.ops")
    assert (row.trigger, row.status) == ("hook", "running")
    event = row.request["event"]
    assert (event["job_id"], event["status"], event["output"], event["is_change"]) == (
        "a",
        "failed",
        "the end of it",
        True,
    )
    told.to("14:00")
    told.end("a", exit_code=3)
    assert len(told.rows("notify.ops")) == 1


def test_a_hook_may_call_a_target_by_its_name(told):
    told.add("a", on_failure=["ops", "notify.mail"], max_retries=0)
    told.to("13:00")
    told.end("a", exit_code=3)
    assert told.row("notify.ops").request["event"]["hook"] == "on_failure"
    assert told.row("notify.mail").trigger == "hook"


def test_a_notice_that_fails_tells_nobody(told):
    told.add("a", max_retries=0)
    told.to("13:00")
    told.end("a", exit_code=3)
    told.end("notify.ops", exit_code=1)
    assert len(told.rows("notify.ops")) == 1


def test_mailto_needs_somebody_who_mails(tmp_path, monkeypatch):
    made = deciding.World(tmp_path, monkeypatch)
    with pytest.raises(Exception, match="takes a target that mails"):
        made.add("a", mailto="root")
    made.close()


def test_the_words_say_what_happened_where_and_what_to_do():
    event = {"job_id": "backup", "run_id": 7, "status": "failed", "reason": "exit", "exit_code": 3, "failures": 4,
             "failing_since": "2026-03-02T12:00:00Z", "error": None, "output": "disk full\n", "to": ["x"]}  # fmt: skip
    message = delivering.compose(event, "key")
    assert message.subject.endswith("] job backup failed: exit code 3")
    for words in ("failing  for 4 runs", "disk full", "schedctl logs 7"):
        assert words in message.text
    assert "to" not in message.facts
    well = delivering.compose({**event, "status": "completed", "reason": None, "is_change": True}, "key")
    assert well.subject.endswith("] job backup is well again")
    assert "a test" in delivering.compose({}, "key").subject
