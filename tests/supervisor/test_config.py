"""config.toml: its defaults, its mistakes, who may write it; and the host's time zone."""

import os
import re
import tomllib
from pathlib import Path

import pytest

from lnmt_scheduler.jobs import load
from lnmt_scheduler.sandbox import users
from lnmt_scheduler.supervisor import config

UNTRUSTED = {"profile": "untrusted"}
PAGE = (Path(__file__).parents[2] / "docs" / "reference" / "configuration.md").read_text()


def refusals(document):
    with pytest.raises(config.ConfigError) as caught:
        config.parse(document, "C")
    return list(caught.value.problems)


def test_without_a_file_everything_is_at_its_default():
    settings = config.load(None, is_root=True)
    assert settings == config.parse({}, "C")
    assert (settings.max_concurrent_jobs, settings.reserved_slots, settings.aging) == (20, 1, 600)
    assert (settings.retention_age, settings.retention_runs, settings.retention_size) == (2_592_000, 1000, 1 << 30)
    assert (settings.output_limit, settings.result_limit, settings.reserve) == (10 << 20, 1 << 20, 64 << 20)
    assert (settings.stop_grace, settings.timezone, settings.service_user) == (30, None, None)
    assert (settings.admin_group, settings.operator_group, settings.defaults) == (None, "lnmt-scheduler", {})


def documented():
    """The file that has every key of the reference at its default."""
    top = re.findall(r"^\| `(\w+)` \| \w+ \| `?([^|`]+)`? \|", PAGE, re.MULTILINE)
    inner = re.findall(r"^\| `\[(\w+)\]` \| `(\w+)` \| \w+ \| `?([^|`]+)`? \|", PAGE, re.MULTILINE)
    document = {key: value.strip() for key, value in top if value.strip() != "the host's"}
    for table, key, value in inner:
        document.setdefault(table, {})[key] = value.strip()
    return document


def test_the_reference_names_every_working_key_with_its_default():
    text = "".join(f"{key} = {value}\n" for key, value in documented().items() if isinstance(value, str))
    for table, keys in documented().items():
        if isinstance(keys, dict):
            text += f"[{table}]\n" + "".join(f"{key} = {value}\n" for key, value in keys.items())
    # Written out, the default profile is the site's word and no longer built in.
    assert config.parse(tomllib.loads(text), "C") == config.Settings(defaults={"sandbox": {"profile": "standard"}})
    named = {key for key, value in documented().items() if isinstance(value, str)} | {"timezone"}
    assert "| `[pools]` | any name | number | none |" in PAGE
    assert "| `[notify]` | `default`, `mail` | names | none |" in PAGE
    named |= {"pools", "notify"} | {
        f"{table}.{key}" for table, keys in documented().items() if isinstance(keys, dict) for key in keys
    }
    assert named == {key for key, (name, _) in config._KEYS.items() if name is not None}


def test_the_example_of_the_reference_is_taken():
    (example,) = re.findall(r"^```toml.*?\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL)
    assert config.parse(tomllib.loads(example), "C").max_concurrent_jobs == 8


def test_every_key_of_a_file_is_taken(tmp_path):
    path = tmp_path / "settings"
    path.write_text("""
        max_concurrent_jobs = 5
        reserved_slots = 2
        aging = "5m"
        result_limit = "2M"
        reserve = 0
        stop_grace = "1m"
        timezone = "Europe/Berlin"
        service_user = "lnmt"
        admin_group = "wheel"
        operator_group = "none"
        default_profile = "untrusted"
        dynamic_uid_range = "100000-100099"
        [retention]
        age = "90 days"
        runs = 50
        size = "5G"
        [limits]
        output = "1M"
        [defaults]
        timeout = "1h"
        umask = 0o027
        [pools]
        disk = 2
        [notify]
    """)
    settings = config.load(str(path), is_root=False)
    assert settings == config.Settings(
        max_concurrent_jobs=5,
        reserved_slots=2,
        aging=300,
        result_limit=2 << 20,
        reserve=0,
        stop_grace=60,
        timezone="Europe/Berlin",
        service_user="lnmt",
        admin_group="wheel",
        operator_group=None,
        retention_age=90 * 86400,
        retention_runs=50,
        retention_size=5 << 30,
        output_limit=1 << 20,
        dynamic_uid_range=users.Range(100000, 100099),
        pools={"disk": 2},
        defaults={"timeout": 3600, "umask": "027", "sandbox": {"profile": "untrusted"}},
    )


def test_every_mistake_is_told_at_once():
    assert refusals(
        {
            "max_concurent_jobs": 3,
            "aging": 0,
            "retention": {"age": -1, "rums": 3, "runs": True},
            "limits": "1M",
            "timezone": "Mars/Olympus",
            "service_user": 7,
            "default_profile": "standrad",
            "dynamic_uid_range": 7,
            "pools": {"disk": 0},
            "notify": {"default": ["root"]},
            "defaults": {"timeot": 3, "id": "x"},
        }
    ) == [
        "C: key 'max_concurent_jobs': unknown key; did you mean 'max_concurrent_jobs'?",
        "C: key 'aging': must be 1s to 3650d, not 0s",
        "C: key 'retention.age': must not be negative",
        "C: key 'retention.rums': unknown key; did you mean 'retention.runs'?",
        "C: key 'retention.runs': must be a whole number, not true or false",
        "C: key 'limits': unknown key; did you mean 'limits.output'?",
        "C: key 'timezone': 'Mars/Olympus' is no time zone of this host",
        "C: key 'service_user': must be a name, or \"none\", not a whole number",
        "C: key 'default_profile': must be 'trusted' or 'standard' or 'untrusted', not 'standrad'",
        "C: key 'dynamic_uid_range': must be text such as \"1879048192-1879052287\", not a whole number",
        "C: key 'pools': 'disk': must be 1 to 10000 places",
        "C: key 'notify': default: there is no target 'root'",
        "C: key 'defaults.timeot': unknown key; did you mean 'timeout'?",
        "C: key 'defaults.id': has no default: each job has its own",
    ]


@pytest.mark.parametrize(
    ("document", "sandbox"),
    [
        ({}, {"profile": "standard"}),
        ({"default_profile": "trusted"}, {"profile": "trusted"}),
        (
            {"default_profile": "untrusted", "defaults": {"sandbox": {"network": "host"}}},
            UNTRUSTED | {"network": "host"},
        ),
        ({"default_profile": "trusted", "defaults": {"sandbox": "untrusted"}}, UNTRUSTED),
    ],
)
def test_the_default_profile_is_what_a_job_without_a_sandbox_gets(document, sandbox):
    settings = config.parse(document, "C")
    assert settings.default_sandbox == sandbox
    job = load.parse_one(
        {"id": "a", "command": "true"}, "", check_schedule=lambda _: None, site_defaults=settings.defaults
    )
    assert job.config.sandbox == sandbox
    assert job.origins.get("sandbox") == ("site defaults" if document else None)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("1000", "no range of uids"),
        ("10-20-30", "no range of uids"),
        ("-5-10", "no range of uids"),
        ("2000-1000", "ends before it begins"),
        ("0-5000", "must lie in 1000-4294967294"),
        ("4294967000-4294967295", "must lie in 1000-4294967294"),
        ("60000-70000", "65535 in it"),
        ("100000-100018", "holds 19 uids; each of 'max_concurrent_jobs', 20, may need one"),
    ],
)
def test_a_range_that_no_runs_can_have_is_refused(text, words):
    (problem,) = refusals({"dynamic_uid_range": text})
    assert problem.startswith("C: key 'dynamic_uid_range': ")
    assert words in problem


def test_what_waits_for_the_next_start_is_told():
    before = config.Settings()
    after = config.parse({"dynamic_uid_range": "100000-100099", "service_user": "lnmt", "aging": 5}, "C")
    assert after.waiting(before) == ["service_user", "dynamic_uid_range"]
    assert after.waiting(after) == []


def test_reserved_slots_leave_a_place_for_other_runs():
    assert config.parse({"max_concurrent_jobs": 1}, "C").reserved_slots == 0
    assert refusals({"max_concurrent_jobs": 2, "reserved_slots": 2}) == [
        "C: key 'reserved_slots': must be less than 'max_concurrent_jobs', 2"
    ]
    assert refusals({"reserved_slots": 20})


def test_root_refuses_a_file_that_others_can_write(tmp_path):
    path = tmp_path / "config.toml"
    path.write_text("aging = 60")
    path.chmod(0o664)
    with pytest.raises(config.ConfigError, match="chmod go-w"):
        config.load(str(path), is_root=True)
    assert config.load(str(path), is_root=False).aging == 60


def test_a_file_that_is_absent_or_no_toml_is_named(tmp_path):
    with pytest.raises(config.ConfigError, match="absent: cannot be read: No such file"):
        config.load(str(tmp_path / "absent"), is_root=False)
    path = tmp_path / "config.toml"
    path.write_text("aging = 1\naging = 2\n")
    with pytest.raises(config.ConfigError, match=r"config\.toml: is not valid TOML: .*line 2"):
        config.load(str(path), is_root=False)


@pytest.fixture
def etc(tmp_path):
    (tmp_path / "etc").mkdir()
    return tmp_path / "etc"


def link(etc, target):
    os.symlink(target, etc / "localtime")


def test_the_zone_of_the_host_is_where_localtime_points(etc):
    link(etc, "../usr/share/zoneinfo/Europe/Berlin")
    (etc / "timezone").write_text("Asia/Tokyo\n")
    assert config.host_zone({}, str(etc)) == "Europe/Berlin"


def test_a_link_to_the_posix_rules_is_that_zone(etc):
    link(etc, "/usr/share/zoneinfo/posix/America/Argentina/Ushuaia")
    assert config.host_zone({}, str(etc)) == "America/Argentina/Ushuaia"


def test_a_link_by_way_of_another_is_followed(etc):
    zones = etc.parent / "zoneinfo" / "Asia"
    zones.mkdir(parents=True)
    (zones / "Tokyo").touch()
    os.symlink(zones / "Tokyo", etc / "elsewhere")
    link(etc, "elsewhere")
    assert config.host_zone({}, str(etc)) == "Asia/Tokyo"


def test_a_copied_localtime_leaves_the_word_to_the_timezone_file(etc):
    (etc / "localtime").write_bytes(b"TZif2")
    (etc / "timezone").write_text("Asia/Tokyo\n")
    assert config.host_zone({}, str(etc)) == "Asia/Tokyo"


def test_tz_has_the_first_word_if_it_names_a_zone(etc):
    link(etc, "/usr/share/zoneinfo/Europe/Berlin")
    assert config.host_zone({"TZ": ":America/Lima"}, str(etc)) == "America/Lima"
    assert config.host_zone({"TZ": "CET-1CEST,M3.5.0,M10.5.0/3"}, str(etc)) == "Europe/Berlin"
    assert config.host_zone({"TZ": "../../etc/passwd"}, str(etc)) == "Europe/Berlin"


def test_a_host_that_names_no_zone_is_in_utc(etc):
    assert config.host_zone({}, str(etc)) == "UTC"
    (etc / "timezone").write_bytes(b"\xff\xff")
    assert config.host_zone({}, str(etc)) == "UTC"
