import json
import time

import fakes
import pytest
import samples

STATUS = """\
=== Scheduler Status ===
Status: running
PID: 101 (launcher 100)
Version: 0.1.0
Uptime: 1h30m
Jobs: 3
Running: 1
Queued: 0
Retrying: 0
Store: ok
Next Run: network_status_poll at 2024-01-15 14:32:00 (UTC)
"""
ENTRY = {
    "id": 2,
    "time": samples.ms("2024-01-15T14:30:00"),
    "uid": 0,
    "user": "root",
    "action": "edit",
    "target": "a",
    "before": {"timeout": 1, "tags": ["x"]},
    "after": {"timeout": 2, "name": "N"},
}


def test_status_shows_the_daemons_health(schedctl):
    schedctl.serve(state=lambda _: samples.STATE)
    done = schedctl("status")
    assert (done.code, done.out) == (0, STATUS)


def test_status_in_json_has_exactly_its_keys(schedctl):
    schedctl.serve(state=lambda _: samples.STATE)
    assert json.loads(schedctl("status", "-o", "json").out) == {
        "pid": 101, "launcher_pid": 100, "version": "0.1.0", "launcher_version": "0.1.0", "package": "0.1.0",
        "advice": None, "uptime": 5400.25, "jobs": 3, "running": 1, "queued": 0, "retrying": 0, "store": "ok",
        "quarantined": [], "paused": [], "next": {"job_id": "network_status_poll", "slot": "2024-01-15T14:32:00.000Z"},
        "default_profile": "standard", "problems": [],
    }  # fmt: skip


@pytest.mark.parametrize(
    ("versions", "advice"),
    [
        (("0.1.0", "0.1.0", "0.1.0"), None),
        (("0.1.0", "0.1.0", "0.2.0"), "version 0.2.0 is installed: schedctl restart makes it decide, and runs go on"),
        (
            ("0.1.0", "0.2.0", "0.2.0"),
            "the launcher is of 0.1.0, which works; to renew it, too: schedctl drain, then restart the daemon",
        ),
    ],
)
def test_status_says_what_to_do_about_different_versions(schedctl, versions, advice):
    state = dict(zip(("launcher_version", "version", "package"), versions, strict=True))
    schedctl.serve(state=lambda _: {**samples.STATE, **state})
    assert json.loads(schedctl("status", "-o", "json").out)["advice"] == advice
    assert (f"  launcher {versions[0]}, installed {versions[2]}: {advice}\n" in schedctl("status").out) == bool(advice)


def test_a_draining_daemon_says_so(schedctl):
    schedctl.serve(state=lambda _: {**samples.STATE, "draining": True, "next": None})
    out = schedctl("status").out
    assert "Status: draining\n" in out
    assert out.endswith("Next Run: -\n")


def test_status_tells_problems(schedctl):
    schedctl.serve(state=lambda _: {**samples.STATE, "problems": ["no box\x1b[2J here"]})
    assert schedctl("status").out.endswith("\nProblem: no box\\x1b[2J here\n")


def _reload(_):
    yield {"kind": "note", "text": "service_user waits"}
    yield {"kind": "change", "action": "remove", "job_id": "old", "diff": []}
    return {"added": 0, "changed": 0, "removed": 1, "unchanged": 4}


def test_reload_shows_what_it_changes(schedctl):
    server = schedctl.serve(reload=_reload)
    done = schedctl("reload")
    assert done.out == "- old\n0 added, 0 changed, 1 removed, 4 unchanged\n"
    assert done.err == "schedctl: note: service_user waits\n"
    assert schedctl("reload", "--dry-run").out.endswith("Would be: 0 added, 0 changed, 1 removed, 4 unchanged\n")
    assert server.asked("reload") == [{"dry_run": False}, {"dry_run": True}]
    found = json.loads(schedctl("reload", "-o", "json").out)
    assert found.keys() == {"dry_run", "added", "changed", "removed", "unchanged", "changes"}


def test_a_configuration_that_is_wrong_is_78(schedctl):
    def reload(_):
        raise fakes.Refuse(78, "config.toml: key 'x': unknown key")

    schedctl.serve(reload=reload)
    assert schedctl("reload").code == 78


def test_drain_waits_and_may_give_up(schedctl):
    def drain(fields):
        if fields["timeout"] is not None:
            raise fakes.Refuse(1, "2 runs have not ended in 90 s")
        return {"running": 0}

    server = schedctl.serve(drain=drain)
    assert schedctl("drain").code == 0
    assert json.loads(schedctl("drain", "-o", "json").out) == {"running": 0}
    done = schedctl("drain", "--timeout", "1m30s")
    assert (done.code, done.err) == (1, "schedctl: 2 runs have not ended in 90 s\n")
    assert [fields["timeout"] for fields in server.asked("drain")] == [None, None, 90]


def test_stop_returns_when_the_daemon_has_gone(schedctl):
    gone = []

    def stop(_):
        time.sleep(0.05)
        gone.append(True)
        return {}

    schedctl.serve(stop=stop, state=lambda _: samples.STATE)
    assert schedctl("stop").out == "The daemon has stopped.\n"
    assert gone
    assert json.loads(schedctl("stop", "-o", "json").out) == {"stopped": True}


def test_the_audit_says_who_changed_what(schedctl):
    schedctl.serve(audit=lambda _: {"entries": [ENTRY], "more": None})
    out = schedctl("audit").out
    assert "Time (UTC)" in out
    assert '│ root │ edit   │ a      │ timeout: 1 -> 2, tags: ["x"] -> unset, name: "N" │' in out


def test_the_audit_in_json_has_its_time_as_text(schedctl):
    schedctl.serve(audit=lambda _: {"entries": [ENTRY], "more": None})
    assert json.loads(schedctl("audit", "-o", "json").out) == [{**ENTRY, "time": "2024-01-15T14:30:00.000Z"}]


def test_the_audit_ends_at_its_limit(schedctl):
    def audit(fields):
        first = 1000 if fields["before"] is None else fields["before"] - 1
        page = [{**ENTRY, "id": number} for number in range(first, first - fields["limit"], -1)]
        return {"entries": page, "more": page[-1]["id"]}

    schedctl.serve(audit=audit)
    assert len(json.loads(schedctl("audit", "--limit", "7", "-o", "json").out)) == 7
    assert len(json.loads(schedctl("audit", "--limit", "700", "-o", "json").out)) == 700


@pytest.mark.parametrize("command", ["status", "reload", "drain", "stop"])
def test_an_operator_may_not_and_that_is_77(schedctl, command):
    def refuse(_):
        raise fakes.Refuse(77, f"{command} is for administrators; eve is an operator")

    schedctl.serve(**dict.fromkeys(("state", "reload", "drain", "stop"), refuse))
    assert schedctl(command).code == 77


def test_a_shell_that_is_not_known_is_2(schedctl):
    assert schedctl("completion", "tcsh").code == 2
