import json
import os
import stat

import fakes
import pytest
import samples

from lnmt_scheduler.ipc import codec, control
from lnmt_scheduler.supervisor import views

FIRES = [samples.ms(f"2024-01-15T14:{minute}:00") for minute in (32, 34, 36)]
GOOD = {"id": "a", "command": "true", "schedule": "@daily"}


def described(job=None, **more):
    return lambda _: {"job": job or samples.job("a"), "runs_as": "root", "next": FIRES, "warnings": [], **more}


def absent(_):
    raise fakes.Refuse(3, "no job")


def importing(*changes, **counts):
    """An answer to Import or Reload."""

    def answer(_):
        yield from (
            {"kind": "change", "action": action, "job_id": job_id, "diff": diff} for action, job_id, diff in changes
        )
        return {"added": 0, "changed": 0, "removed": 0, "unchanged": 0, **counts}

    return answer


@pytest.fixture
def job_file(tmp_path):
    def make(*jobs, name="jobs.json", **more):
        path = tmp_path / name
        path.write_text(json.dumps({"jobs": list(jobs), **more}))
        return str(path)

    return make


# add


def test_add_says_what_it_runs_as_and_when(schedctl):
    schedctl.serve(add=described(warnings=["the user is locked"]))
    done = schedctl("add", "--id", "a", "--command", "true")
    assert done.code == 0
    assert done.out == (
        "Job 'a' added.\n"
        "Runs as: root, profile standard\n"
        "Next runs (UTC): 2024-01-15 14:32:00, 2024-01-15 14:34:00, 2024-01-15 14:36:00\n"
    )
    assert done.err == "schedctl: warning: the user is locked\n"


def test_add_in_json_has_the_job_and_its_fires(schedctl):
    schedctl.serve(add=described())
    found = json.loads(schedctl("add", "--id", "a", "--command", "true", "-o", "json").out)
    assert found.keys() == {"job", "runs_as", "next", "warnings"}
    assert found["job"].keys() == {*views.JOB_KEYS, *views.JOB_STATE}
    assert found["next"][0] == "2024-01-15T14:32:00.000Z"


@pytest.mark.parametrize(
    ("job", "why"),
    [
        (samples.job("a", given={"schedule": None}), "it has no schedule"),
        (samples.job("a", enabled=False), "it is disabled"),
        (samples.job("a"), "its schedule names no time to come"),
        (samples.job("a", given={"schedule": "@reboot"}), "it runs when the daemon starts, once a boot"),
    ],
)
def test_a_job_that_will_not_run_by_itself_says_why(schedctl, job, why):
    schedctl.serve(add=described(job, next=[]))
    assert schedctl("add", "--id", "a", "--command", "true").out.endswith(f"Next runs: none, {why}\n")


def test_the_options_of_the_seed_become_keys(schedctl):
    server = schedctl.serve(add=described())
    done = schedctl(
        "add", "--id", "polling_job", "--name", "Network Polling", "--module", "lnmt.polling",
        "--function", "poll_devices", "--schedule", "*/2 * * * *",
    )  # fmt: skip
    assert done.code == 0
    assert server.asked("add") == [
        {
            "definition": {
                "id": "polling_job",
                "name": "Network Polling",
                "module": "lnmt.polling",
                "function": "poll_devices",
                "schedule": "*/2 * * * *",
            }
        }
    ]


@pytest.mark.parametrize(
    ("option", "text", "value"),
    [
        ("--max-retries", "1", 1),
        ("--max_retries", "1", 1),
        ("--priority", "3", 3),
        ("--priority", "high", "high"),
        ("--timeout", "90", 90),
        ("--timeout", "1h30m", "1h30m"),
        ("--timeout", "none", "none"),
        ("--retry-backoff", "1.5", 1.5),
        ("--enabled", "false", False),
        ("--idempotent", "yes", True),
        ("--args", "[1, null]", [1, None]),
        ("--kwargs", '{"n": {"m": 1}}', {"n": {"m": 1}}),
        ("--dependencies", '["a"]', ["a"]),
        ("--retry-on", '["exit:75"]', ["exit:75"]),
        ("--success-codes", "[0, 3]", [0, 3]),
        ("--tags", '["net"]', ["net"]),
        ("--umask", "027", "027"),
        ("--name", "123", "123"),
        ("--command", "[ -e /x ] && true", "[ -e /x ] && true"),
        ("--user", "nobody", "nobody"),
        ("--sandbox", "trusted", "trusted"),
        ("--sandbox", '{"profile": "trusted"}', {"profile": "trusted"}),
        ("--environment", '{"A": "b"}', {"A": "b"}),
        ("--pool", "net", "net"),
    ],
)
def test_every_key_is_an_option_of_its_own_type(schedctl, option, text, value):
    server = schedctl.serve(add=described())
    assert schedctl("add", "--id", "a", option, text).code == 0
    key = option.removeprefix("--").replace("-", "_")
    assert server.asked("add") == [{"definition": {"id": "a", key: value}}]


def test_words_after_two_dashes_are_the_command(schedctl):
    server = schedctl.serve(add=described())
    schedctl("add", "--id", "a", "--", "df", "-h", "--output=pcent")
    assert server.asked("add") == [{"definition": {"id": "a", "command": ["df", "-h", "--output=pcent"]}}]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--command", "true"], "--id is missing"),
        (["--id", "a", "--command", "x", "--", "y"], "exclude each other"),
        (["--id", "a", "--file", "f.json"], "exclude each other"),
        (["--id", "a", "--kwargs", "{"], "'{' is not JSON"),
        (["--id", "a", "--max-retries", "two"], "Invalid value for '--max-retries'"),
        (["--id", "a", "--enabled", "perhaps"], "Invalid value for '--enabled'"),
        (["--id", "a", "--timeot", "1"], "No such option"),
    ],
)
def test_options_that_make_no_sense_are_2(schedctl, arguments, message):
    done = schedctl("add", *arguments)
    assert done.code == 2
    assert message in done.err


def test_keys_without_a_choice_are_not_in_the_help(schedctl):
    help_text = schedctl("add", "--help").out
    assert "--retry-backoff" in help_text
    assert "--main-file" not in help_text


def test_an_invalid_definition_is_78_with_every_problem(schedctl):
    def add(_):
        raise fakes.Refuse(78, "a: 2 problems", ["key 'x': no", "key 'y': no"])

    schedctl.serve(add=add)
    done = schedctl("add", "--id", "a")
    assert done.code == 78
    assert done.err == "schedctl: a: 2 problems\n  key 'x': no\n  key 'y': no\n"


def test_a_file_with_one_job_is_added_as_options_are(schedctl, job_file):
    server = schedctl.serve(add=described())
    assert schedctl("add", "--file", job_file(GOOD)).out.startswith("Job 'a' added.\n")
    assert server.asked("add") == [{"definition": GOOD}]


def test_a_file_may_hold_the_keys_of_one_job_alone(schedctl, tmp_path):
    path = tmp_path / "one.toml"
    path.write_text('id = "a"\ncommand = "true"\n')
    server = schedctl.serve(add=described())
    assert schedctl("add", "--file", str(path)).code == 0
    assert server.asked("add") == [{"definition": {"id": "a", "command": "true"}}]


def test_several_jobs_of_a_file_are_added_together(schedctl, job_file):
    server = schedctl.serve(show=absent, upload=lambda _: {}, **{"import": importing(("add", "a", []), added=2)})
    path = job_file(GOOD, {**GOOD, "id": "b"})
    done = schedctl("add", "--file", path)
    assert done.code == 0
    assert [fields["job_id"] for fields in server.asked("show")] == ["a", "b"]
    assert server.asked("import") == [{"dry_run": False, "prune": False}]


def test_add_replaces_nothing(schedctl, job_file):
    server = schedctl.serve(show=lambda _: {}, upload=lambda _: {}, **{"import": importing()})
    done = schedctl("add", "--file", job_file(GOOD, {**GOOD, "id": "b"}))
    assert done.code == 78
    assert "job 'a' is there already" in done.err
    assert server.asked("import") == []


# edit


def test_edit_sends_what_changes(schedctl):
    server = schedctl.serve(edit=described())
    done = schedctl("edit", "a", "--timeout", "2h", "--unset", "tags", "--unset", "retry-on")
    assert done.out.startswith("Job 'a' changed.\n")
    assert server.asked("edit") == [{"job_id": "a", "changes": {"timeout": "2h"}, "unset": ["tags", "retry_on"]}]


def test_a_key_that_is_none_cannot_be_unset(schedctl):
    done = schedctl("edit", "a", "--unset", "nope")
    assert (done.code, "no key of a job is called 'nope'" in done.err) == (2, True)


def exporting(*definitions):
    """An answer to Export, as the store gives it."""

    def export(fields):
        rows = sorted(
            (each for each in definitions if each["id"] > (fields["after"] or "")), key=lambda each: each["id"]
        )
        page = rows[: fields["limit"]]
        return {"jobs": page, "more": page[-1]["id"] if len(rows) > len(page) else None}

    return export


@pytest.fixture
def editor(tmp_path, monkeypatch):
    """An $EDITOR that writes this text."""

    def make(text):
        (tmp_path / "new").write_text(text)
        monkeypatch.setenv("VISUAL", f"cp {tmp_path}/new")

    return make


JOB = {"id": "ab", "command": "true", "kwargs": {"password": "x"}, "tags": ["t"]}


def test_the_editor_gets_the_definition_and_its_changes_are_sent(schedctl, editor):
    others = [{"id": each, "command": each} for each in ("a", "aa", "aaz", "ab.", "ab-c", "abc", "b", "aB")]
    server = schedctl.serve(edit=described(), export=exporting(JOB, *others))
    editor(json.dumps({"id": "ab", "command": "false", "kwargs": {"password": "x"}, "name": "N"}))
    assert schedctl("edit", "ab").code == 0
    assert server.asked("edit") == [{"job_id": "ab", "changes": {"command": "false", "name": "N"}, "unset": ["tags"]}]
    assert len(server.asked("export")) == 1


@pytest.mark.parametrize("job_id", ["a", "-", "0", "A.b_c-", "z" * 64])
def test_one_definition_is_found_without_the_others(schedctl, editor, job_id):
    schedctl.serve(edit=described(), export=exporting(*({"id": each} for each in ("-", "0", "A.b_c-", "a", "z" * 64))))
    editor(json.dumps({"id": job_id, "name": "N"}))
    assert schedctl("edit", job_id).code == 0


def test_an_editor_that_changes_nothing_sends_nothing(schedctl, editor):
    server = schedctl.serve(edit=described(), export=exporting(JOB))
    editor(json.dumps(JOB))
    done = schedctl("edit", "ab")
    assert (done.code, done.err) == (0, "Nothing was changed.\n")
    assert server.asked("edit") == []


@pytest.mark.parametrize("text", ["{", "[]"])
def test_what_is_no_definition_is_not_sent(schedctl, editor, text):
    schedctl.serve(export=exporting(JOB))
    editor(text)
    assert schedctl("edit", "ab").code == 78


def test_editing_what_is_not_there_is_3(schedctl):
    schedctl.serve(export=exporting(JOB))
    assert schedctl("edit", "abc").code == 3


# export


def test_export_is_a_job_file(schedctl):
    schedctl.serve(export=exporting(JOB))
    assert json.loads(schedctl("export").out) == {"jobs": [JOB]}


def test_an_exported_file_is_for_its_owner(schedctl, tmp_path):
    path = tmp_path / "out.json"
    schedctl.serve(export=exporting(JOB))
    assert schedctl("export", str(path)).code == 0
    assert json.loads(path.read_text()) == {"jobs": [JOB]}
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_file_that_cannot_be_written_is_73(schedctl, tmp_path):
    schedctl.serve(export=exporting(JOB))
    done = schedctl("export", str(tmp_path / "no" / "out.json"))
    assert (done.code, "cannot write" in done.err) == (73, True)


def test_jobs_of_a_program_are_left_out(schedctl):
    schedctl.serve(export=exporting(JOB, {"id": "x", "main_file": "/p.py"}))
    done = schedctl("export")
    assert json.loads(done.out) == {"jobs": [JOB]}
    assert done.err == "schedctl: job 'x' belongs to the program /p.py and is left out\n"


# import


def test_import_uploads_the_files_and_shows_the_changes(schedctl, job_file):
    changes = importing(
        ("add", "a", ["+ id: a"]), ("change", "b", ["- x: 1", "+ x: \033"]), ("remove", "c", []), added=1
    )
    server = schedctl.serve(upload=lambda _: {}, **{"import": changes})
    first, second = job_file(GOOD), job_file({"id": "b"}, name="b.json", defaults={"timeout": 5})
    done = schedctl("import", first, second, "--prune")
    assert done.out == ("+ a\n~ b\n    - x: 1\n    + x: \\x1b\n- c\n1 added, 0 changed, 0 removed, 0 unchanged\n")
    assert server.asked("import") == [{"dry_run": False, "prune": True}]
    data = b"".join(fields["data"] for fields in server.asked("upload"))
    assert codec.unpack(data, max_depth=64) == [
        [first, {"jobs": [GOOD]}],
        [second, {"jobs": [{"id": "b"}], "defaults": {"timeout": 5}}],
    ]


def test_a_large_import_goes_in_pieces(schedctl, job_file):
    server = schedctl.serve(upload=lambda _: {}, **{"import": importing()})
    path = job_file(*({**GOOD, "id": f"job-{number}", "description": "d" * 500} for number in range(500)))
    assert schedctl("import", path).code == 0
    sizes = [len(fields["data"]) for fields in server.asked("upload")]
    assert len(sizes) > 3
    assert max(sizes) <= control.CHUNK


def test_a_dry_run_says_so(schedctl, job_file):
    server = schedctl.serve(upload=lambda _: {}, **{"import": importing(unchanged=1)})
    done = schedctl("import", "--dry-run", job_file(GOOD))
    assert done.out == "Would be: 0 added, 0 changed, 0 removed, 1 unchanged\n"
    assert server.asked("import")[0]["dry_run"] is True


def test_import_in_json_has_counts_and_changes(schedctl, job_file):
    schedctl.serve(upload=lambda _: {}, **{"import": importing(("add", "a", ["+ id: a"]), added=1)})
    assert json.loads(schedctl("import", job_file(GOOD), "-o", "json").out) == {
        "dry_run": False,
        "added": 1,
        "changed": 0,
        "removed": 0,
        "unchanged": 0,
        "changes": [{"action": "add", "job_id": "a", "diff": ["+ id: a"]}],
    }


def test_a_file_that_cannot_be_read_sends_nothing(schedctl, job_file, tmp_path):
    server = schedctl.serve(upload=lambda _: {}, **{"import": importing()})
    bad = tmp_path / "bad.json"
    bad.write_text('{"jobs": [\n,]}')
    done = schedctl("import", job_file(GOOD), str(bad))
    assert done.code == 78
    assert done.err.startswith(f"schedctl: {bad}: line 2: ")
    assert server.requests == []


def test_import_without_a_file_is_2(schedctl):
    assert schedctl("import").code == 2


# validate


def test_valid_files_need_no_daemon(schedctl, job_file):
    done = schedctl("validate", job_file(GOOD), job_file({**GOOD, "id": "b", "dependencies": ["a"]}, name="b.json"))
    assert (done.code, done.out, done.err) == (0, "2 jobs, all valid.\n", "")


def test_every_problem_of_every_file_is_told(schedctl, job_file):
    first = job_file({**GOOD, "timeot": 1}, {**GOOD, "id": "b", "schedule": "61 * * * *"})
    done = schedctl("validate", first, job_file(GOOD, name="c.json"), "/does/not/exist.json")
    assert done.code == 78
    lines = done.err.splitlines()
    assert lines[0] == "schedctl: 3 problems"
    assert any("'timeot'" in line and "did you mean 'timeout'" in line for line in lines)
    assert any("job 'b'" in line and "schedule" in line for line in lines)
    assert any("/does/not/exist.json" in line for line in lines)


@pytest.mark.parametrize(
    ("jobs", "message"),
    [
        ([{**GOOD, "dependencies": ["b"]}, {**GOOD, "id": "b", "dependencies": ["a"]}], "cycle"),
        ([{**GOOD, "dependencies": ["nope"]}], "unknown job 'nope'"),
        ([{**GOOD, "on_failure": ["nope"]}], "unknown job 'nope'"),
        ([{**GOOD, "on_success": ["b"]}, {**GOOD, "id": "b", "on_success": ["a"]}], "starts itself again and again"),
    ],
)
def test_what_jobs_name_is_checked_among_the_files(schedctl, job_file, jobs, message):
    done = schedctl("validate", job_file(*jobs))
    assert (done.code, message in done.err) == (78, True)


def test_an_id_in_two_files_is_a_problem(schedctl, job_file):
    done = schedctl("validate", job_file(GOOD), job_file(GOOD, name="b.json"))
    assert (done.code, "is defined in" in done.err) == (78, True)


def test_the_sites_defaults_count(schedctl, job_file, tmp_path, capsys):
    from lnmt_scheduler.supervisor import cli  # noqa: PLC0415 - the fixture's own call would add --socket

    path = job_file({"id": "a"})
    (tmp_path / "config.toml").write_text('[defaults]\ncommand = "true"\n')
    assert cli.run(["validate", path, "--state-dir", str(tmp_path)]) == 0
    (tmp_path / "config.toml").write_text("nope = 1\n")
    assert cli.run(["validate", path, "--state-dir", str(tmp_path)]) == 78
    assert "'nope'" in capsys.readouterr().err


def test_a_hook_may_name_a_target_of_the_sites_notices(schedctl, job_file, tmp_path):
    from lnmt_scheduler.supervisor import cli  # noqa: PLC0415 - as above

    path = job_file({**GOOD, "on_failure": ["hook"]})
    (tmp_path / "config.toml").write_text('[notify.targets.hook]\ntype = "webhook"\nurl = "https://example.org/"\n')
    assert cli.run(["validate", path, "--state-dir", str(tmp_path)]) == 0


def test_the_pools_of_a_daemon_that_answers_count(schedctl, job_file, tmp_path):
    (tmp_path / "config.toml").write_text("[pools]\nedited = 1\n")
    schedctl.serve(state=lambda _: {"zone": "UTC", "pools": {"disk": 2}})
    here = ("--state-dir", str(tmp_path))
    assert schedctl("validate", *here, job_file({**GOOD, "pool": "disk"})).code == 0
    # As the daemon would say: it has not read the file again.
    done = schedctl("validate", *here, job_file({**GOOD, "pool": "edited"}))
    assert (done.code, "unknown pool 'edited'; there are disk" in done.err) == (78, True)


def test_validate_in_json_leaves_with_78_too(schedctl, job_file):
    assert json.loads(schedctl("validate", job_file(GOOD), "-o", "json").out) == {"jobs": 1, "problems": []}
    done = schedctl("validate", job_file({"id": "a"}), "-o", "json")
    assert done.code == 78
    assert len(json.loads(done.out)["problems"]) == 1


def test_without_a_file_the_daemon_checks_its_jobs(schedctl):
    answers = [{"jobs": 7, "problems": []}, {"jobs": 7, "problems": ["job 'a': no"]}]
    schedctl.serve(validate=lambda _: answers.pop(0))
    assert schedctl("validate").out == "7 jobs, all valid.\n"
    done = schedctl("validate")
    assert (done.code, done.err) == (78, "schedctl: job 'a': no\n")


def test_validate_without_file_and_daemon_is_69(schedctl):
    assert schedctl("validate").code == 69


def test_files_are_opened_with_the_callers_rights(schedctl, job_file):
    if os.geteuid() == 0:
        pytest.skip("root may read everything")
    path = job_file(GOOD)
    os.chmod(path, 0)
    assert schedctl("validate", path).code == 78
