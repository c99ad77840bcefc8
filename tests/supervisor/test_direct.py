"""schedctl with the real store and no daemon."""

import json
import os

import pytest
import samples

from lnmt_scheduler.ipc import codec, control
from lnmt_scheduler.supervisor import cli, client, config, direct, in_force, output, paths, schedule, store, views

GIVEN = {"id": "a", "command": "true", "tags": ["net"], "sandbox": {"profile": "trusted"}}


@pytest.fixture
def where(tmp_path):
    """A state directory with two jobs, a run of each kind and an entry of the audit."""
    found = paths.resolve(state_dir=str(tmp_path))
    opened = store.Store.open(found.database)
    at = samples.ms("2024-01-15T14:30:00")
    for job_id, enabled in (("a", True), ("b", False)):
        uid = opened.add_job(
            job_id=job_id,
            given={**GIVEN, "id": job_id, "environment": {"TOKEN": "t"}},
            origins={"id": "job"},
            hash=job_id,
            source="cli",
            owner=0,
            enabled=enabled,
            watermark=0,
            next_slot=None,
            added=at,
        )
        for slot in (at, at + 60_000):
            run_id = opened.add_run(
                job_uid=uid, job_id=job_id, slot=slot, trigger="schedule", status="running", priority=2, queued=at,
                hash=job_id,
            )  # fmt: skip
            opened.update_run(
                run_id,
                status="completed",
                start_time=slot,
                end_time=slot + 1000,
                attempts=1,
                result=codec.pack({"n": 1}),
            )
    opened.audit_add(time=at, uid=0, user="root", action="add", target="a", after={"kwargs": {"pw": "x"}})
    kept = output.Output(output.path_of(found.output_dir, 1, at), 1000)
    kept.append(b"out\n", output.STDOUT, at)
    kept.append(b"err\n", output.STDERR, at)
    kept.finish()
    opened.update_run(1, output_bytes=8, output_stored=8)
    opened.commit()
    opened.close()
    return found


@pytest.fixture
def schedctl(where, capsys):
    def call(*arguments):
        capsys.readouterr()
        code = cli.run(["--state-dir", where.state_dir, *arguments])
        return code, *capsys.readouterr()

    return call


def test_the_list_is_read_from_the_store_and_says_so(schedctl, where):
    code, out, err = schedctl("list", "-o", "json")
    assert code == 0
    assert [job["id"] for job in json.loads(out)] == ["a", "b"]
    assert json.loads(out)[0].keys() == {*views.JOB_KEYS, *views.JOB_STATE}
    assert err == f"schedctl: the daemon is not running; this is read from {where.database}\n"


def test_the_list_can_be_narrowed(schedctl):
    assert [job["id"] for job in json.loads(schedctl("list", "--enabled", "-o", "json")[1])] == ["a"]
    assert json.loads(schedctl("list", "--tag", "other", "-o", "json")[1]) == []


def test_a_job_is_shown_with_its_last_run_and_without_secrets(schedctl):
    found = json.loads(schedctl("show", "a", "-o", "json")[1])
    assert found["environment"] == {"TOKEN": "***"}
    assert found["last"]["run_id"] == 2
    assert found["origins"] == {"id": "job"}


def test_the_history_has_output_and_result(schedctl):
    found = json.loads(schedctl("history", "--job", "a", "-o", "json")[1])
    assert [run["run_id"] for run in found] == [2, 1]
    assert (found[1]["output"], found[1]["result"]) == ("out\nerr\n", {"n": 1})


def test_the_history_is_read_in_pages(where):
    source = direct.Direct(where)
    first = source.request(control.History(limit=3))
    second = source.request(control.History(limit=3, before=first["more"]))
    source.close()
    assert [run["run_id"] for run in first["runs"] + second["runs"]] == [4, 3, 2, 1]
    assert second["more"] is None


@pytest.mark.parametrize(("arguments", "expected"), [(("1",), "out\nerr\n"), (("1", "--stderr"), "err\n")])
def test_logs_are_read_from_the_file(schedctl, arguments, expected):
    assert schedctl("logs", *arguments)[1] == expected


def test_logs_that_are_gone_are_empty(schedctl):
    assert schedctl("logs", "4")[:2] == (0, "")


def test_following_without_a_daemon_shows_what_there_is(schedctl):
    assert schedctl("logs", "1", "--follow")[1] == "out\nerr\n"


def test_an_export_holds_what_was_given_and_what_was_switched(schedctl):
    jobs = json.loads(schedctl("export")[1])["jobs"]
    assert jobs[0] == {**GIVEN, "environment": {"TOKEN": "t"}}
    assert jobs[1]["enabled"] is False


def test_the_audit_is_read_and_masked(schedctl):
    assert json.loads(schedctl("audit", "-o", "json")[1])[0]["after"] == {"kwargs": {"pw": "***"}}


@pytest.mark.parametrize("command", [("show", "x"), ("history", "--job", "x"), ("logs", "x"), ("logs", "99")])
def test_what_is_not_there_is_3(schedctl, command):
    assert schedctl(*command)[0] == 3


@pytest.mark.parametrize(
    "command",
    [("status",), ("enable", "a"), ("remove", "a"), ("reload",), ("stop",), ("cancel", "1"), ("show", "a", "--env")],
)
def test_what_needs_the_daemon_is_69(schedctl, command):
    assert schedctl(*command)[0] == 69


def test_a_request_that_changes_something_is_refused(where):
    source = direct.Direct(where)
    with pytest.raises(client.Unreachable, match="remove needs the daemon"):
        source.request(control.Remove(job_id="a"))
    source.close()


def _state_of(path):
    with open(path, "rb") as file:
        return os.fstat(file.fileno()).st_mtime_ns, file.read()


def test_reading_changes_nothing(schedctl, where):
    before = _state_of(where.database)
    for command in (("list",), ("history",), ("show", "a"), ("logs", "1"), ("export",), ("audit",)):
        assert schedctl(*command)[0] == 0
    assert _state_of(where.database) == before


def test_a_damaged_store_is_69_and_says_what_to_do(schedctl, where):
    with open(where.database, "r+b") as file:
        file.write(b"x" * 4096)
    code, _, err = schedctl("list")
    assert code == 69
    assert "nor can its store be read" in err
    assert err.count("\n") == 1


def test_a_store_that_another_process_holds_is_not_read(schedctl, where):
    holder = store.Store.open(where.database)
    code, _, err = schedctl("list")
    holder.close()
    assert (code, "has" in err and "open" in err) == (69, True)


def test_a_socket_alone_says_nothing_about_a_store(where, capsys):
    assert cli.run(["--socket", where.socket, "list"]) == 69
    assert "start it with" in capsys.readouterr().err


def test_a_forecast_goes_by_the_settings_that_the_daemon_held_to_last(schedctl, where):
    opened = store.Store.open(where.database)
    for job_id in ("c", "d"):
        opened.add_job(
            job_id=job_id, given={**GIVEN, "id": job_id, "schedule": "0 2 * * *"}, origins={}, hash=job_id, source="cli",
            owner=0, enabled=True, watermark=0, next_slot=None, added=0,
        )  # fmt: skip
    document = {"max_concurrent_jobs": 1}
    in_force.keep(opened, config.parse(document, "elsewhere.toml"))
    in_force.keep_zone(opened, "Asia/Tokyo")
    opened.commit()
    opened.close()
    with open(where.config_file, "w") as file:
        file.write('timezone = "UTC"\n')
    code, out, _ = schedctl("forecast", "--from", "2026-02-01T00:00Z", "-o", "json")
    assert code == 0
    assert {each["local"] for each in json.loads(out)["fires"]} == {"2026-02-02T02:00:00+09:00"}
    assert (json.loads(out)["peak"]["running"], json.loads(out)["peak"]["queued"]) == (1, 1)


def test_why_is_answered_from_the_rows(schedctl):
    code, out, err = schedctl("why", "a", "2024-01-15T14:31Z")
    assert (code, out) == (0, "a: 14:31 slot completed (run 2)\n")
    assert "the daemon is not running" in err
    assert schedctl("why", "nobody")[0] == 3


def test_why_knows_by_how_much_this_host_puts_a_slot_off(schedctl, where):
    opened = store.Store.open(where.database)
    slot = samples.ms("2024-01-15T14:00:00")
    uid = opened.add_job(
        job_id="c", given={**GIVEN, "id": "c", "jitter": 86_400}, origins={}, hash="c", source="cli", owner=0,
        enabled=True, watermark=slot, next_slot=None, added=0,
    )  # fmt: skip
    run_id = opened.add_run(
        job_uid=uid, job_id="c", slot=slot, trigger="schedule", status="running", priority=2, queued=slot, hash="c"
    )
    start = slot + schedule.offset("c", 86_400, config.host_name()) + 120_000
    opened.update_run(run_id, status="completed", start_time=start, end_time=start)
    opened.commit()
    opened.close()
    assert ", started 2m late, " in schedctl("why", "c", "2024-01-15T14:00Z")[1]
