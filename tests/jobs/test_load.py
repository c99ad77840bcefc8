"""What a job file may say, what is refused and in which words, and what becomes of it."""

import itertools
import json
import re
import subprocess
import sys
from dataclasses import dataclass
from datetime import date
from enum import IntEnum
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lnmt_scheduler.jobs import fields, load, model, schema

REFERENCE = Path(__file__).parents[2] / "docs" / "reference"

#: A value that is not the default, for every key that has one, with its canonical form where that is another.
EVERY_KEY = {
    "id": ("night.backup-1", None),
    "name": ("Nightly backup", None),
    "module": ("lnmt.backup", None),
    "function": ("Backup.configs", None),
    "schedule": ("0 2 * * *", None),
    "priority": ("Critical", 4),
    "max_retries": (5, None),
    "retry_delay": ("2m", 120),
    "timeout": ("none", None),
    "dependencies": (
        ["a", {"job": "b"}, {"job": "c", "when": "ok"}, {"job": "d", "when": "failed"}, {"when": "any", "job": "e"}],
        ["a", "b", "c", {"job": "d", "when": "failed"}, {"job": "e", "when": "any"}],
    ),
    "enabled": (False, None),
    "args": ([1, "two", [3.5, None]], None),
    "kwargs": ({"hosts": ["a", "b"], "deep": {"ok": True}}, None),
    "timezone": ("Europe/Berlin", None),
    "dependency_timeout": ("1h", 3600),
    "retry_backoff": (3, None),
    "retry_max_delay": ("1 day", 86400),
    "retry_jitter": (False, None),
    "retry_on": (["timeout", "exit:075", "exit:75"], ["exit:75", "timeout"]),
    "success_codes": ([3, 0, 3], [0, 3]),
    "warning_codes": ([1], None),
    "idempotent": (True, None),
    "total_timeout": (90.5, None),
    "stall_timeout": ("500ms", 0.5),
    "kill_grace": (0, None),
    "overlap": ("allow", None),
    "max_instances": (3, None),
    "catch_up": ("all", None),
    "catch_up_window": ("2 days", 172800),
    "start_deadline": ("5m", 300),
    "jitter": ("30", 30),
    "pool": ("disk", None),
    "dst": ("skip", None),
    "on_event": ("link.up", None),
    "user": ("backup", None),
    "group": ("adm", None),
    "environment": ({"HOME": "/srv", "EMPTY": ""}, None),
    "environment_file": ("/etc/default/backup", None),
    "working_directory": ("/srv", None),
    "umask": ("0o27", "027"),
    "python": ("/opt/lnmt/venv/bin/python", None),
    "python_path": (["/opt/lnmt"], None),
    "sandbox": (
        {"profile": "standard", "network": "none", "proc": "full", "writable": ["/srv/b//", "/srv/a", "/srv/a"],
         "readable": [], "hidden": ["/opt/"], "require": ["pids", "landlock", "pids"], "processes": "own"},
        {"profile": "standard", "network": "none", "writable": ["/srv/a", "/srv/b"], "hidden": ["/opt"],
         "require": ["landlock", "pids"]},
    ),
    "limits": (
        {"cpu_time": "1m", "open_files": 64, "file_size": "1G", "output": "2M", "nice": 10, "io_class": "idle",
         "memory": "1G", "swap": 0, "cpu": 1.0, "pids": 9, "tmp_size": "1M"},
        {"cpu_time": 60, "open_files": 64, "file_size": 1 << 30, "output": 2 << 20, "nice": 10, "io_class": "idle",
         "memory": 1 << 30, "swap": 0, "cpu": 1, "pids": 9, "tmp_size": 1 << 20},
    ),
    "output_action": ("kill", None),
    "secrets": ({"key": "/etc/keys/key", "token": "a-credential"}, None),
    "grants": (["history", "history"], ["history"]),
    "mailto": ("root@example.net", None),
    "notify_on": ("output", None),
    "on_failure": (["repair", "tell", "repair"], ["repair", "tell"]),
    "on_success": (["report"], None),
    "on_change": (["report"], None),
    "alert_after": ("90m", "1h30m"),
    "run_when_full": (True, None),
    "tags": (["night", "night", "db"], ["night", "db"]),
    "description": ("Two\nlines.", None),
}  # fmt: skip


def any_schedule(_config):
    return None


def no_nonsense(config):
    return "is no cron expression" if config.schedule == "nonsense" else None


def parse(*jobs, **document):
    site_defaults = document.pop("site_defaults", None)
    return load.parse({"jobs": list(jobs), **document}, "F", check_schedule=no_nonsense, site_defaults=site_defaults)


def one(**values):
    values = {"id": "x", "command": "true", "schedule": "@daily"} | values
    return load.parse_one(values, "F", check_schedule=no_nonsense)


def function(**values):
    return one(**{"command": None, "module": "m", "function": "f"} | values)


def refusal(**values):
    """The one problem of a job that is well-formed but for these."""
    with pytest.raises(load.JobsInvalid) as caught:
        one(**values)
    assert len(caught.value.problems) == 1, caught.value
    assert caught.value.problems[0].key in values or caught.value.problems[0].key.partition(".")[0] in values
    return caught.value.problems[0].message


# What is taken.


def test_every_key_has_a_field_in_the_order_of_the_model():
    assert tuple(fields.FIELDS) == model.KEYS


def test_every_key_is_tested_here():
    assert EVERY_KEY.keys() | {"command", "main_file"} == set(model.KEYS)


def test_every_working_key_is_taken_and_brought_to_its_canonical_form():
    definition = function(**{key: value for key, (value, _) in EVERY_KEY.items()})
    expected = {key: value if as_given is None else as_given for key, (value, as_given) in EVERY_KEY.items()}
    assert definition.given == expected | {"command": None, "timeout": None}
    assert tuple(definition.given) == tuple(key for key in model.KEYS if key in definition.given)
    assert set(definition.origins.values()) == {"job"}


def test_the_config_holds_what_the_canonical_form_means():
    config = function(priority="low", umask="027", timeout="none", kill_grace="2m", name="N").config
    assert (config.priority, config.umask, config.timeout) == (model.JobPriority.LOW, 0o027, None)
    assert (config.kill_grace, config.name, config.retry_delay) == (120, "N", 60)
    assert isinstance(config.priority, model.JobPriority)


def test_what_is_not_given_is_the_built_in_default():
    definition = one()
    default = model.JobConfig("x", name="x", command="true", schedule="@daily", sandbox={"profile": "standard"})
    assert definition.config == default
    assert definition.given == {
        "id": "x",
        "schedule": "@daily",
        "command": "true",
        "sandbox": {"profile": "standard"},
    }
    assert definition.origins == {"id": "job", "schedule": "job", "command": "job"}


def test_the_canonical_form_is_taken_again_unchanged_and_is_json():
    first = function(**{key: value for key, (value, _) in EVERY_KEY.items()})
    again = load.parse_one(json.loads(json.dumps(first.given)), "F", check_schedule=any_schedule)
    assert again.given == first.given
    assert again.config == first.config
    assert again.hash == first.hash


def test_from_given_makes_the_same_definition_without_a_check():
    first = function(**{key: value for key, (value, _) in EVERY_KEY.items()})
    again = load.from_given(json.loads(json.dumps(first.given)), first.origins)
    assert again == first
    assert again.hash == first.hash


@pytest.mark.parametrize("value", [None, "standard", {}, {"profile": "standard"}, {"processes": "own"}])
def test_the_profile_is_stored_with_every_job_also_where_it_is_the_default(value):
    definition = one(sandbox=value)
    assert definition.given["sandbox"] == definition.config.sandbox == {"profile": "standard"}


UNTRUSTED, LOOPBACK = {"profile": "untrusted"}, {"profile": "standard", "network": "loopback"}


@pytest.mark.parametrize(
    ("site", "file", "own", "expected", "origin"),
    [
        (None, None, None, {"profile": "standard"}, None),
        ("untrusted", None, None, UNTRUSTED, "site defaults"),
        ("untrusted", LOOPBACK, None, LOOPBACK, "file defaults"),
        ("untrusted", LOOPBACK, "trusted", {"profile": "trusted"}, "job"),
        # Without a profile, that of the layer below holds: nobody leaves a stricter box by naming a directory.
        ("untrusted", None, {"writable": ["/srv"]}, UNTRUSTED | {"writable": ["/srv"]}, "job"),
        ("untrusted", {"writable": ["/srv"]}, None, UNTRUSTED | {"writable": ["/srv"]}, "file defaults"),
        ("trusted", UNTRUSTED, {"network": "host"}, UNTRUSTED | {"network": "host"}, "job"),
    ],
)
def test_the_sandbox_is_that_of_the_highest_layer_and_its_profile_that_of_the_one_below(
    site, file, own, expected, origin
):
    values = {"id": "a", "command": "true"} | ({} if own is None else {"sandbox": own})
    layers = {
        "site_defaults": {} if site is None else {"sandbox": site},
        "defaults": {} if file is None else {"sandbox": file},
    }
    (definition,), problems = parse(values, **layers)
    assert problems == []
    assert definition.given["sandbox"] == definition.config.sandbox == expected
    assert definition.origins.get("sandbox") == origin


def test_what_the_profile_of_the_layer_below_cannot_have_is_refused():
    _, problems = parse(
        {"id": "a", "command": "true", "sandbox": {"writable": ["/srv"]}}, site_defaults={"sandbox": "trusted"}
    )
    assert "profile 'trusted' hides and takes nothing" in str(problems[0])


def test_an_override_that_is_what_the_profile_says_is_none():
    values = {"profile": "untrusted", "network": "none", "proc": "own"}
    assert one(sandbox=values).config.sandbox == {"profile": "untrusted"}
    assert one(sandbox=values | {"network": "host"}).config.sandbox == {"profile": "untrusted", "network": "host"}


def test_a_command_may_be_an_argv_or_a_text_for_the_shell():
    assert one(command=["/bin/echo", "", "a b"]).config.command == ["/bin/echo", "", "a b"]
    assert one(command="echo a | wc").config.command == "echo a | wc"


def test_an_explicit_null_of_command_leaves_room_for_a_function():
    assert function(command=None).config.function == "f"


def test_a_job_without_a_schedule_is_taken():
    assert one(schedule=None).config.schedule is None


@pytest.mark.parametrize("value", [18, "022", "22", "0o22", "0022"])
def test_a_umask_is_octal_text_or_the_number_itself(value):
    definition = one(umask=value)
    assert (definition.config.umask, definition.given["umask"]) == (0o022, "022")


# What is refused.


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("id", "../x", "is no id"), ("id", "-rf", "is no id"), ("id", "", "is no id"), ("id", "a" * 65, "is no id"),
        ("id", "a\n", "is no id"), ("id", "é", "is no id"), ("id", 7, "must be text, not a whole number"),
        ("id", None, "must be text, not null"),
        ("name", "a\nb", "one line"), ("name", " ", "empty"), ("name", "é" * 101, "at most 200"),
        ("schedule", "nonsense", "is no cron expression"), ("schedule", "", "empty"), ("schedule", 5, "must be text"),
        ("schedule", "*" * 257, "at most 256"),
        ("timezone", "Europe/Berlni", "did you mean 'Europe/Berlin'?"), ("timezone", "../etc/passwd", "no time zone"),
        ("priority", 5, "1 to 4"), ("priority", True, "not true or false"),
        ("priority", "hihg", "did you mean 'high'?"),
        ("max_retries", True, "not true or false"), ("max_retries", 1.0, "must be a whole number"),
        ("max_retries", -1, "0 to"), ("max_retries", 10**30, "0 to"), ("enabled", 1, "true or false, not a whole"),
        ("timeout", 0, "must be 1ms to"), ("timeout", "11y", "is no duration"), ("timeout", "5000 days", "3650d"),
        ("timeout", float("nan"), "finite"), ("timeout", True, "not true or false"), ("timeout", -1, "negative"),
        ("retry_delay", None, "not null"), ("retry_delay", "none", "is no duration"), ("kill_grace", [], "not a list"),
        ("retry_delay", "2h", "more than 'retry_max_delay', 1h"), ("retry_backoff", 0.5, "1 to 100"),
        ("retry_backoff", float("nan"), "1 to 100"), ("retry_backoff", "2", "must be a number, not text"),
        ("retry_on", ["exits"], "did you mean 'exit'?"), ("retry_on", ["exit:256"], "no reason"),
        ("retry_on", ["superseded"], "no reason"), ("retry_on", ["overlap"], "no reason"),
        ("retry_on", ["exit:"], "no reason"), ("retry_on", "exit", "must be a list"),
        ("success_codes", [256], "0 to 255"), ("success_codes", [-1], "0 to 255"),
        ("success_codes", [0, True], "(at [1])"), ("warning_codes", [0], "in 'success_codes' too"),
        ("dependencies", ["a", "a"], "twice"), ("dependencies", [{"when": "ok"}], "without 'job'"),
        ("dependencies", [{"job": "a", "wen": "ok"}], "unknown key 'wen'"), ("dependencies", ["a b"], "is no id"),
        ("dependencies", [{"job": "a", "when": "maybe"}], "unknown 'when'"), ("dependencies", [3], "(at [0])"),
        ("dependencies", ["a", {"job": "a", "when": "any"}], "twice"),
        ("dependencies", [{"job": "a", "when": "fialed"}], "did you mean 'failed'?"),
        ("dependencies", [{"job": "x", "when": "failed"}], "could not run a first time"),
        ("on_event", "link up", "no name of an event"), ("on_event", "", "no name of an event"),
        ("on_success", "report", "must be a list"), ("on_change", [3], "(at [0])"),
        ("alert_after", 0, "1 to 10000"), ("alert_after", "0", "1 to 10000"), ("alert_after", "soon", "no duration"),
        ("alert_after", True, "not true or false"), ("alert_after", "500ms", "must be 1s"),
        ("dependencies", [str(n) for n in range(1001)], "at most 1000"),
        ("command", "", "names no program"), ("command", [], "names no program"), ("command", [""], "names no program"),
        ("command", ["a\0b"], "NUL"), ("command", "x" * (128 * 1024), "at most 131072"), ("command", 3, "not a whole"),
        ("command", ["echo", "\ud800"], "half a surrogate"),
        ("environment", {"A=B": "x"}, "no name of a variable"), ("environment", {"": "x"}, "no name of a variable"),
        ("environment", {"PORT": 80}, "'PORT' must be text"), ("environment", {"A": "\0"}, "NUL"),
        ("environment", {f"V{n}": "x" * 1000 for n in range(70)}, "at most 65536"),
        ("environment", [], "a map of text"),
        ("environment_file", "env", "absolute"), ("working_directory", "~", "absolute"),
        ("python_path", ["."], "absolute"), ("python", "python3", "absolute"),
        ("umask", "029", "octal"), ("umask", 0o1000, "octal"), ("umask", -1, "octal"), ("umask", True, "octal"),
        ("user", 0, "must be text"), ("user", "1000", "not a number"), ("user", "a:b", "no name of an account"),
        ("group", "", "empty"), ("tags", ["a", ""], "empty"), ("tags", "a", "must be a list"),
        ("tags", ["t"] * 1001, "at most 1000"), ("description", "x" * 4097, "at most 4096"),
        ("description", "\ud800", "half a surrogate"), ("output_action", "stop", "'truncate' or 'kill'"),
        ("overlap", "skp", "must be 'skip'"), ("dst", "corn", "must be 'cron'"),
        ("sandbox", "trustd", "did you mean 'trusted'?"), ("sandbox", {"netwrk": "none"}, "unknown key 'netwrk'"),
        ("sandbox", {"profile": 3}, "unknown profile '3'"), ("sandbox", "", "unknown profile ''"),
        ("sandbox", 3, "a profile"), ("sandbox", "standrad", "did you mean 'standard'?"),
        ("sandbox", {"profile": "trusted", "network": "none"}, "profile 'trusted' hides and takes nothing"),
        ("sandbox", {"profile": "trusted", "writable": ["/srv"]}, "use 'standard' with these keys"),
        ("sandbox", {"profile": "standard", "network": "nowhere"}, "host or loopback or none, not 'nowhere'"),
        ("sandbox", {"profile": "standard", "proc": []}, "proc must be full or own"),
        ("sandbox", {"profile": "standard", "writable": "/srv"}, "a list of absolute paths"),
        ("sandbox", {"profile": "standard", "readable": ["srv"]}, "a list of absolute paths"),
        ("sandbox", {"profile": "standard", "hidden": [f"/{n}" for n in range(101)]}, "101 paths; at most 100"),
        ("sandbox", {"profile": "standard", "hidden": ["/srv/../etc"]}, "without '..'"),
        ("sandbox", {"profile": "standard", "writable": ["/a\0b"]}, "a list of absolute paths"),
        ("sandbox", {"profile": "standard", "require": ["memroy"]}, "a list of layers: tree_kill"),
        ("sandbox", {"profile": "standard", "require": "memory"}, "a list of layers"),
        ("limits", {"nise": 1}, "did you mean 'nice'?"), ("limits", {"nice": 20}, "-20 to 19"),
        ("limits", {"cpu_time": 0}, "must be 1s"), ("limits", {"open_files": True}, "whole number, not true"),
        ("limits", {"output": "1"}, "1 KiB"), ("limits", {"file_size": 1.5}, "a size"),
        ("limits", {"memory": "1M"}, "4 MiB"), ("limits", {"memory": True}, "a size"), ("limits", {"swap": -1}, "negative"),
        ("limits", {"cpu": 0}, "0.01 to 4096 cores"), ("limits", {"cpu": float("nan")}, "0.01 to 4096 cores"),
        ("limits", {"cpu": "1"}, "a number of cores"), ("limits", {"pids": 0}, "must be 1 to"),
        ("limits", {"tmp_size": 1}, "4 KiB"),
        ("limits", {"io_class": "fast"}, "'idle' or 'best-effort' or 'realtime'"), ("limits", None, "must be a map"),
        ("timeot", 3, "did you mean 'timeout'?"), ("zzz", 3, "unknown key"), ("main_file", "/x.py", "unknown key"),
        ("args", [1], "part of 'command'"), ("kwargs", {"a": 1}, "part of 'command'"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_refused_in_words_about_it(key, value, words):
    assert words in refusal(**{key: value})


@pytest.mark.parametrize(
    ("key", "value", "words"),
    [
        ("module", "a-b", "dotted"), ("module", "a..b", "dotted"), ("module", "", "empty"),
        ("module", "__main__", "import"),
        ("function", "<lambda>", "dotted"), ("function", None, "missing beside 'module'"),
        ("module", None, "missing beside 'function'"), ("command", "true", "exclude each other"),
        ("kwargs", {"a": float("inf")}, "finite"), ("kwargs", {"a": date(2024, 1, 1)}, "a date"),
        ("kwargs", {"a": {1: 2}}, "not text"), ("kwargs", {"a": 1 << 64}, "64 bits"),
        ("kwargs", {"a": b"x"}, "a bytes"),
        ("kwargs", {"a": "x" * 70000}, "at most 65536"), ("kwargs", {"\udc80": 1}, "surrogate"),
        ("kwargs", [1], "a map"),
        ("args", {"a": 1}, "a list"), ("args", [{1, 2}], "a set"), ("args", [0] * 1001, "at most 1000"),
    ],
)  # fmt: skip
def test_a_wrong_value_of_a_function_job_is_refused(key, value, words):
    with pytest.raises(load.JobsInvalid) as caught:
        function(**{key: value})
    (problem,) = caught.value.problems
    assert problem.key == key
    assert words in problem.message


def test_arguments_that_nest_too_deeply_are_refused_at_any_depth():
    for depth in (17, 100_000):
        deep = []
        for _ in range(depth):
            deep = [deep]
        with pytest.raises(load.JobsInvalid, match="nested deeper than 16"):
            function(kwargs={"a": deep})


def test_a_job_that_says_nothing_to_run_is_refused():
    _, problems = parse({"id": "x"})
    assert list(map(str, problems)) == [
        "F: job 'x': says nothing to run: give 'command', or 'module' and 'function'",
    ]


def test_a_job_may_wait_for_its_own_previous_run_if_it_has_a_schedule():
    assert one(dependencies=[{"job": "x", "when": "ok"}]).given["dependencies"] == ["x"]
    assert one(dependencies=[{"job": "x", "when": "any"}]).given["dependencies"] == [{"job": "x", "when": "any"}]
    assert "slots of a schedule" in refusal(dependencies=["x"], schedule=None)


def test_a_number_of_runs_is_one_however_it_is_written_and_one_is_the_default():
    assert [one(alert_after=value).config.alert_after for value in (1, "1", 3, "3", None)] == [None, None, 3, 3, None]


def test_a_job_on_a_job_without_a_schedule_of_its_own_is_fine():
    definitions, problems = parse(
        {"id": "a", "command": "true"}, {"id": "b", "command": "true", "schedule": "@daily", "dependencies": ["a"]}
    )
    assert [definition.config.id for definition in definitions] == ["a", "b"]
    assert problems == []


def test_every_mistake_of_a_file_is_told_at_once_with_file_job_and_key():
    definitions, problems = parse(
        {"id": "x", "command": "true", "timeot": 1, "priority": 9, "limits": {"nice": 99, "memory": 1}},
        {"command": "true", "schedule": "nonsense", "timezone": "Nowhere"},
        ["not a job"],
        {"id": "good", "command": "true"},
        {"id": "good", "command": "false"},
        deafults={},
        defaults={"retry_delay": [1], "id": "y", "limits": {"nice": 99}},
    )
    assert [definition.config.id for definition in definitions] == ["good"]
    assert list(map(str, problems)) == [
        "F: key 'deafults': unknown key; did you mean 'defaults'?",
        "F: key 'defaults.retry_delay': must be a number of seconds, or text such as \"1h30m\", not a list",
        "F: key 'defaults.limits.nice': must be -20 to 19, not 99",
        "F: key 'defaults.id': has no default: each job has its own",
        "F: job 'x': key 'timeot': unknown key; did you mean 'timeout'?",
        "F: job 'x': key 'priority': must be 1 to 4, or low, normal, high or critical",
        "F: job 'x': key 'limits.nice': must be -20 to 19, not 99",
        "F: job 'x': key 'limits.memory': must be 4 MiB to 1024 TiB",
        "F: job '#2': key 'timezone': 'Nowhere' is no time zone of this host",
        "F: job '#2': key 'id': missing",
        "F: job '#2': key 'schedule': is no cron expression",
        "F: job '#3': must be a map of keys",
        "F: job 'good': key 'id': used twice: by job 4 and job 5 of the file",
    ]


@pytest.mark.parametrize("document", [{}, {"jobs": None}, {"jobs": {"x": {}}}, {"job": []}])
def test_a_file_without_a_list_of_jobs_is_refused(document):
    definitions, problems = load.parse(document, "F", check_schedule=any_schedule)
    assert definitions == []
    assert problems[-1].key == "jobs"


def test_a_file_full_of_mistakes_is_left_after_a_thousand():
    definitions, problems = parse(*[{"id": f"x{n}", "command": "true", f"k{n}": 1} for n in range(5000)])
    assert (len(definitions), len(problems)) == (0, 1001)
    assert "after number 1000" in problems[-1].message


def test_hostile_names_show_escaped_and_cut():
    _, (problem, *_) = parse({"id": "\x1b[2J" + "x" * 10_000, "command": "true"})
    assert "\x1b" not in str(problem)
    assert len(str(problem)) < 400


# Layers.


def test_a_key_comes_from_the_highest_layer_that_has_it_and_its_origin_is_kept():
    (definition,), problems = parse(
        {"id": "x", "command": "true", "retry_delay": 1},
        defaults={"retry_delay": 2, "timeout": "2m", "tags": ["file"]},
        site_defaults={"retry_delay": 3, "timeout": 3, "kill_grace": 3},
    )
    assert problems == []
    config = definition.config
    assert (config.retry_delay, config.timeout, config.kill_grace, config.tags) == (1, 120, 3, ["file"])
    assert definition.origins == {
        "id": "job",
        "command": "job",
        "retry_delay": "job",
        "timeout": "file defaults",
        "tags": "file defaults",
        "kill_grace": "site defaults",
    }


def test_a_map_of_the_job_replaces_the_default_map_whole():
    (definition,), _ = parse(
        {"id": "x", "command": "true", "limits": {"nice": 1}}, defaults={"limits": {"output": "1M"}}
    )
    assert definition.config.limits == {"nice": 1}


def test_a_command_hides_what_defaults_would_give_a_function():
    (command, function), problems = parse(
        {"id": "a", "command": "true"},
        {"id": "b", "module": "lnmt.polling", "function": "poll"},
        defaults={"args": [1], "kwargs": {"n": 2}},
    )
    assert problems == []
    assert (command.config.args, command.config.kwargs) == ([], {})
    assert (function.config.args, function.config.kwargs) == ([1], {"n": 2})


def test_what_to_run_replaces_what_a_default_would_run():
    defaults = {"module": "lnmt.polling", "function": "poll"}
    (command, other, same), problems = parse(
        {"id": "a", "command": "true"}, {"id": "b", "function": "other"}, {"id": "c"}, defaults=defaults
    )
    assert problems == []
    assert (command.config.command, command.config.module, command.config.function) == ("true", None, None)
    assert (other.config.module, other.config.function) == ("lnmt.polling", "other")
    assert (same.config.module, same.config.function) == ("lnmt.polling", "poll")


def test_a_mistake_of_the_site_defaults_is_told_once_and_as_theirs():
    _, problems = parse({"id": "a", "command": "true"}, {"id": "b", "command": "true"}, site_defaults={"timeot": 1})
    assert list(map(str, problems)) == ["site defaults: key 'defaults.timeot': unknown key; did you mean 'timeout'?"]


# The hash.


def test_the_hash_is_the_same_in_every_notation_and_layer():
    plain = one(timeout=7200, name="x").hash
    assert plain == one(timeout="2h").hash
    assert plain == one(timeout="2h", max_retries=3, umask="022", priority="normal", sandbox="standard").hash
    assert plain == one(timeout="2h", enabled=False).hash
    (layered,), _ = parse({"id": "x", "command": "true", "schedule": "@daily"}, defaults={"timeout": "120m"})
    assert plain == layered.hash


@pytest.mark.parametrize("key", sorted(EVERY_KEY.keys() - {"enabled", "sandbox"}))
def test_the_hash_changes_with_every_key(key):
    plain = {"id": "x", "module": "m", "function": "f", "schedule": "@daily"}
    needed = {"overlap": {"max_instances": 2}, "max_instances": {"overlap": "allow"}}.get(key, {})
    before = load.parse_one(plain, "F", check_schedule=any_schedule)
    after = load.parse_one(plain | needed | {key: EVERY_KEY[key][0]}, "F", check_schedule=any_schedule)
    assert before.hash != after.hash


def test_the_hash_does_not_depend_on_the_order_of_keys():
    assert (
        one(kwargs={}, environment={"A": "1", "B": "2"}).hash == one(environment={"B": "2", "A": "1"}, kwargs={}).hash
    )


# The Python API.


class Level(IntEnum):
    URGENT = 4


@dataclass
class DeviceJob(model.JobConfig):
    """As a program may derive its own kinds of job."""

    device: str = "router"

    def __post_init__(self):
        self.kwargs["device"] = self.device


def test_from_config_gives_the_keys_that_differ_of_a_subclass_too():
    job = DeviceJob(id="x", module="m", function="f", priority=model.JobPriority.HIGH, umask=0o077)
    values = load.from_config(job)
    assert values == {
        "id": "x",
        "module": "m",
        "function": "f",
        "priority": 3,
        "umask": 0o077,
        "kwargs": {"device": "router"},
    }
    definition = load.parse_one(values, "program", check_schedule=any_schedule)
    assert type(definition.config) is model.JobConfig
    assert (definition.config.kwargs, definition.config.umask) == ({"device": "router"}, 0o077)
    job.kwargs["device"] = "changed"
    assert definition.config.kwargs == {"device": "router"}


def test_values_of_a_program_become_plain_ones():
    job = model.JobConfig("x", module="m", function="f", args=(1, (Level.URGENT,)), tags=("a",), priority=Level.URGENT)
    definition = load.parse_one(load.from_config(job), "program", check_schedule=any_schedule)
    assert definition.config.args == [1, [4]]
    assert type(definition.config.args[1][0]) is int
    assert definition.config.priority is model.JobPriority.CRITICAL
    assert json.loads(json.dumps(definition.given)) == definition.given


def test_main_is_taken_with_its_file_from_a_program_only():
    values = {"id": "x", "module": "__main__", "function": "f", "main_file": "/srv/app.py"}
    definition = load.parse_one(values, "program", check_schedule=any_schedule, allow_main_file=True)
    assert definition.config.main_file == "/srv/app.py"
    with pytest.raises(load.JobsInvalid, match="main_file"):
        load.parse_one(values, "F", check_schedule=any_schedule)


def test_one_value_can_be_checked_alone():
    assert load.canonical("kwargs", {"a": (1, 2)}) == {"a": [1, 2]}
    with pytest.raises(ValueError, match="64 bits"):
        load.canonical("kwargs", {"a": 1 << 70})


JSON_VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3),
    max_leaves=8,
)


@given(st.dictionaries(st.sampled_from([*model.KEYS, "timeot"]), JSON_VALUES))
def test_any_job_is_taken_or_refused_and_what_is_taken_is_stable(values):
    definitions, problems = parse(values)
    assert bool(definitions) != bool(problems)
    for definition in definitions:
        again = load.parse_one(json.loads(json.dumps(definition.given)), "F", check_schedule=any_schedule)
        assert again.given == definition.given


# The graph.


def test_a_graph_without_mistakes_has_no_problems():
    assert load.check_graph({"a": [], "b": ["a"], "c": ["a", "b"], "d": []}) == []


def test_an_unknown_parent_is_named_with_the_nearest_job():
    (problem,) = load.check_graph({"collect_data": [], "report": ["colect_data"]}, {"report": "jobs.d/r.json"})
    assert str(problem) == (
        "jobs.d/r.json: job 'report': key 'dependencies': unknown job 'colect_data'; did you mean 'collect_data'?"
    )


def test_cycles_are_named_in_the_direction_of_the_dependencies():
    graph = {"b": ["c", "free"], "c": ["a"], "a": ["b"], "free": [], "x": ["y"], "y": ["x"], "after": ["a"], "s": ["s"]}
    assert [problem.message for problem in load.check_graph(graph)] == [
        "in a cycle: a -> b -> c -> a",
        "in a cycle: x -> y -> x",
    ]


def test_an_unknown_job_in_a_hook_is_named_with_its_key():
    (problem,) = load.check_hooks(
        {"a": [("on_failure", "repiar")]}, {}, {"a": [], "repair": []}, {"a": "jobs.d/a.json"}
    )
    assert str(problem) == ("jobs.d/a.json: job 'a': key 'on_failure': unknown job 'repiar'; did you mean 'repair'?")


@pytest.mark.parametrize(
    ("hooks", "after", "circle"),
    [
        ({"a": [("on_failure", "a")]}, {}, "a -> a"),
        ({"a": [("on_failure", "b")], "b": [("on_success", "a")]}, {}, "a -> b -> a"),
        ({"b": [("on_change", "a")]}, {"b": ["a"]}, "a -> b -> a"),
    ],
)
def test_jobs_that_would_start_one_another_for_ever_are_refused(hooks, after, circle):
    (problem,) = load.check_hooks(hooks, after, {"a": [], "b": []})
    assert problem.message == f"starts itself again and again: {circle}"


def test_a_hook_on_a_job_that_waits_at_a_gate_for_it_is_no_circle():
    assert load.check_hooks({"a": [("on_failure", "b")]}, {}, {"a": ["b"], "b": []}) == []


@given(st.dictionaries(st.sampled_from("abcdefg"), st.lists(st.sampled_from("abcdefg"), max_size=3)))
def test_every_graph_with_a_cycle_is_refused_and_each_cycle_told_is_one(graph):
    graph = {job: [each for each in parents if each in graph and each != job] for job, parents in graph.items()}

    def reaches(job, goal, seen):
        return any(p == goal or (p not in seen and reaches(p, goal, seen | {p})) for p in graph[job])

    problems = load.check_graph(graph)
    assert bool(problems) == any(reaches(job, job, {job}) for job in graph)
    for problem in problems:
        path = problem.message.removeprefix("in a cycle: ").split(" -> ")
        assert path[0] == path[-1]
        assert all(parent in graph[job] for job, parent in itertools.pairwise(path))


@pytest.mark.parametrize(
    ("secrets", "words"),
    [
        ({"../a": "/b"}, "is no name of a secret"),
        ({".hidden": "/b"}, "is no name of a secret"),
        ({"a": "relative/path"}, "must be an absolute path, or the name of a systemd credential"),
        ({"a": 1}, "must be a path"),
        ({f"n{n}": "/b" for n in range(33)}, "at most 32"),
    ],
)
def test_a_secret_is_a_name_and_where_its_file_is(secrets, words):
    assert words in refusal(secrets=secrets)


def test_what_cannot_be_granted_is_named_with_what_can():
    assert (
        refusal(grants=["histroy"])
        == "'histroy' is nothing that can be granted; did you mean 'history'?; there is: history"
    )


@pytest.mark.parametrize("key", ["secrets", "grants"])
def test_a_trusted_job_has_no_files_of_its_own_for_what_it_is_handed(key):
    value = {"secrets": {"a": "/b"}, "grants": ["history"]}[key]
    assert "takes a box with files of its own" in refusal(**{key: value, "sandbox": "trusted"})


@pytest.mark.parametrize("mailto", ["a b", "a@b, c@d", "a@b\nBcc: c", "<a@b>", ""])
def test_mail_goes_to_one_address(mailto):
    assert "no address of one person" in refusal(mailto=mailto)
    assert one(mailto="none").config.mailto is None


# The schema and the reference.


def conforms(value, rule, root):
    """Whether a value fits a JSON Schema, for the keywords of ours; any other is an error of this test."""
    kinds = {"string": str, "integer": int, "number": (int, float), "array": list, "object": dict, "boolean": bool}
    if "$ref" in rule:
        target = root
        for part in rule["$ref"].removeprefix("#/").split("/"):
            target = target[part]
        return conforms(value, target, root)
    for keyword, wanted in rule.items():
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        match keyword:
            case "$schema" | "title" | "description" | "default" | "$defs":
                fits = True
            case "type":
                names = [wanted] if isinstance(wanted, str) else wanted
                fits = any(
                    value is None if name == "null" else isinstance(value, kinds[name])
                    and (name == "boolean" or not isinstance(value, bool))
                    for name in names
                )  # fmt: skip
            case "const":
                fits = value == wanted and isinstance(value, bool) == isinstance(wanted, bool)
            case "enum":
                fits = value in wanted
            case "anyOf":
                fits = any(conforms(value, option, root) for option in wanted)
            case "pattern":
                fits = not isinstance(value, str) or re.search(wanted, value) is not None
            case "minimum":
                fits = not is_number or value >= wanted
            case "maximum":
                fits = not is_number or value <= wanted
            case "minLength":
                fits = not isinstance(value, str) or len(value) >= wanted
            case "maxLength":
                fits = not isinstance(value, str) or len(value) <= wanted
            case "minItems":
                fits = not isinstance(value, list) or len(value) >= wanted
            case "maxItems":
                fits = not isinstance(value, list) or len(value) <= wanted
            case "items":
                fits = not isinstance(value, list) or all(conforms(item, wanted, root) for item in value)
            case "required":
                fits = not isinstance(value, dict) or all(name in value for name in wanted)
            case "properties":
                fits = not isinstance(value, dict) or all(
                    conforms(value[name], inner, root) for name, inner in wanted.items() if name in value
                )
            case "additionalProperties":
                others = value.keys() - rule.get("properties", {}).keys() if isinstance(value, dict) else ()
                fits = all(wanted is not False and conforms(value[name], wanted, root) for name in others)
            case _:
                raise AssertionError(f"a keyword that this test does not know: {keyword}")
        if not fits:
            return False
    return True


def fits_schema(*args, **document):
    root = schema.schema()
    return conforms({"jobs": list(args)} | document, root, root)


def test_the_schema_on_file_is_the_one_that_the_program_prints():
    printed = subprocess.run(
        [sys.executable, "-m", "lnmt_scheduler.jobs.schema"], capture_output=True, text=True, check=True
    ).stdout
    assert (REFERENCE / "job-file.schema.json").read_text() == printed
    assert json.loads(printed) == schema.schema()


def test_the_schema_takes_every_key_and_every_canonical_form():
    job = {key: value for key, (value, _) in EVERY_KEY.items()}
    assert fits_schema(job, {"id": "x", "command": ["a"]}, {"id": "y", "command": "a"}, defaults={"timeout": "1h"})
    assert fits_schema(function(**job).given)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("timeot", 1), ("timeout", "soon"), ("timeout", True), ("priority", 5), ("priority", "urgent"), ("id", "../x"),
        ("limits", {"nise": 1}), ("limits", {"memory": "lots"}), ("limits", {"cpu": 0}), ("success_codes", [300]),
        ("sandbox", "standrad"), ("sandbox", {"profile": "standard", "netwrk": "none"}),
        ("sandbox", {"profile": "standard", "network": "nowhere"}),
        ("sandbox", {"profile": "standard", "writable": ["srv"]}), ("sandbox", {"require": ["memroy"]}),
        ("enabled", "yes"), ("dependencies", [{"when": "ok"}]), ("retry_on", ["exits"]), ("overlap", "wait"),
        ("dependencies", [{"job": "a", "when": "no"}]), ("on_failure", ["a b"]), ("alert_after", "soon"),
        ("on_event", "a b"), ("alert_after", 0),
        ("umask", "9"), ("environment", {"A": 1}), ("main_file", "/x.py"), ("working_directory", "srv"),
    ],
)  # fmt: skip
def test_the_schema_refuses_what_the_loader_refuses(key, value):
    assert fits_schema({"id": "x", "command": "true"})
    assert not fits_schema({"id": "x", "command": "true", key: value})


def test_the_reference_names_every_working_key_with_its_default_and_its_examples_are_valid():
    text = (REFERENCE / "job-file.md").read_text()
    for key in {*EVERY_KEY, "command"}:
        assert f"| `{key}` |" in text, key
    for key in fields.LIMITS:
        assert (f"| `{key}` |" in text) == (fields.LIMITS[key].schema is not None), key
    examples = [block.partition("```")[0] for block in text.split("```json\n")[1:]]
    assert examples
    for example in examples:
        document = json.loads(example)
        definitions, problems = load.parse(document, "F", check_schedule=any_schedule)
        assert (len(definitions), problems) == (len(document["jobs"]), [])
        assert fits_schema(**document)
