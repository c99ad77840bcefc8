"""What is installed besides the program: units, accounts, configuration, AppArmor; judged by the tools that read it."""

import re
import shutil
import subprocess
import tomllib
from pathlib import Path

import installing
import pytest

from lnmt_scheduler.supervisor import config

PACKAGING = installing.ROOT / "packaging"
UNITS = PACKAGING / "systemd"
ROOTS = UNITS / "lnmt-scheduler.service"
ACCOUNTS = UNITS / "lnmt-scheduler-account.service"
PAGE = installing.ROOT / "docs/howto/operate.md"

#: What a service must not set whose jobs are to have boxes of their own, or what would take from them what they need.
NEVER = {
    "MemoryDenyWriteExecute",
    "PrivateUsers",
    "ProcSubset",
    "ProtectControlGroups",
    "ProtectKernelLogs",
    "ProtectKernelTunables",
    "ProtectProc",
    "RestrictNamespaces",
}


def needs(program: str) -> str:
    found = shutil.which(program)
    if found is None:
        pytest.skip(f"{program} is not here")
    return found


def settings(*files: Path) -> dict[str, str]:
    """Of a unit and its drop-ins; of a setting that is given twice, the last."""
    found = {}
    for file in files:
        for line in file.read_text().splitlines():
            name, equals, value = line.partition("=")
            if equals and not line.startswith("#"):
                found[name] = value
    return found


def seconds(text: str) -> float:
    number, unit = re.fullmatch(r"(\d+)(min)?", text).groups()
    return float(number) * (60 if unit else 1)


@pytest.mark.parametrize("unit", [ROOTS, ACCOUNTS], ids=lambda path: path.stem)
def test_systemd_knows_every_word_of_a_unit(unit, folder):
    programs = folder / "bin"
    programs.mkdir()
    text = unit.read_text()
    for program in set(re.findall(r"^Exec\w+=(\S+)", text, re.MULTILINE)):
        (programs / Path(program).name).symlink_to("/bin/true")
        text = text.replace(program, f"{programs}/{Path(program).name}")
    (folder / unit.name).write_text(text)
    verify = [needs("systemd-analyze"), "verify", "--recursive-errors=no", folder / unit.name]
    done = subprocess.run(verify, capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("name", "files"),
    [
        ("`lnmt-scheduler.service`", [ROOTS]),
        ("with `hardened.conf`", [ROOTS, UNITS / "hardened.conf"]),
        ("`lnmt-scheduler-account.service`", [ACCOUNTS]),
    ],
    ids=["root", "hardened", "account"],
)
def test_a_unit_is_exposed_no_more_than_the_page_says(name, files, folder):
    (stated,) = re.findall(rf"^\| {re.escape(name)} \| ([\d.]+) \|", PAGE.read_text(), re.MULTILINE)
    unit = folder / files[0].name
    shutil.copy(files[0], unit)
    for drop_in in files[1:]:
        (folder / f"{unit.name}.d").mkdir()
        shutil.copy(drop_in, folder / f"{unit.name}.d")
    threshold = round(float(stated) * 10)
    command = [needs("systemd-analyze"), "security", "--offline=yes", "--no-pager", unit]
    kept = subprocess.run([*command, f"--threshold={threshold}"], capture_output=True, text=True)
    assert kept.returncode == 0, kept.stdout.splitlines()[-1]


@pytest.mark.parametrize(
    "files", [[ROOTS], [ROOTS, UNITS / "hardened.conf"], [ACCOUNTS]], ids=["root", "hardened", "account"]
)
def test_nothing_is_set_that_would_keep_jobs_from_their_boxes(files):
    found = settings(*files)
    assert NEVER & set(found) == set()
    assert "@mount" not in found.get("SystemCallFilter", "")
    assert (found["Type"], found["KillMode"], found["Delegate"], found["Restart"]) == (
        "notify",
        "mixed",
        "yes",
        "always",
    )


@pytest.mark.parametrize("unit", [ROOTS, ACCOUNTS], ids=lambda path: path.stem)
def test_a_stop_has_more_time_than_the_daemon_gives_its_jobs(unit):
    stop = seconds(settings(unit)["TimeoutStopSec"])
    assert stop > config.Settings().stop_grace + 30
    assert f"({stop:g} s)" in (PACKAGING / "config.toml").read_text()


def test_the_account_is_made_with_its_group(folder):
    (folder / "etc").mkdir()
    made = [needs("systemd-sysusers"), f"--root={folder}", PACKAGING / "sysusers.d/lnmt-scheduler.conf"]
    subprocess.run(made, check=True, capture_output=True)
    name, _, uid, gid, _, home, shell = (folder / "etc/passwd").read_text().strip().split(":")
    assert (name, home, shell) == ("lnmt-scheduler", "/var/lib/lnmt-scheduler", "/usr/sbin/nologin")
    assert f"lnmt-scheduler:x:{gid}:" in (folder / "etc/group").read_text()
    assert 0 < int(uid) < 1000
    assert settings(ACCOUNTS)["User"] == name


def test_the_directories_of_an_image_are_made_and_those_that_are_there_left_alone(folder):
    (folder / "etc").mkdir()
    (folder / "etc/passwd").write_text("root:x:0:0::/root:/bin/sh\n")
    (folder / "etc/group").write_text("root:x:0:\nlnmt-scheduler:x:990:\n")
    file = PACKAGING / "tmpfiles.d/lnmt-scheduler.conf"
    make = [needs("systemd-tmpfiles"), f"--root={folder}", "--create", file]
    made = subprocess.run(make, capture_output=True, text=True)
    jobs = folder / "etc/lnmt-scheduler/jobs.d"
    if jobs.stat().st_uid == 0:
        assert made.returncode == 0, made.stderr
        assert (jobs.stat().st_mode & 0o777, jobs.stat().st_gid) == (0o750, 990)
    jobs.chmod(0o700)
    subprocess.run(make, capture_output=True)
    assert jobs.stat().st_mode & 0o777 == 0o700


def test_the_profile_for_apparmor_is_understood():
    parser = needs("apparmor_parser")
    version = subprocess.run([parser, "--version"], capture_output=True, text=True).stdout
    if int(re.search(r"version (\d+)", version)[1]) < 4 or not Path("/etc/apparmor.d/abi/4.0").exists():
        pytest.skip("apparmor_parser of 4.0 or newer, the first that knows `userns`")
    profile = PACKAGING / "apparmor/lnmt-scheduler"
    done = subprocess.run([parser, "--skip-kernel-load", "--skip-cache", profile], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert settings(ACCOUNTS)["AppArmorProfile"] == f"-{profile.name}"
    assert f"profile {profile.name} " in profile.read_text()


def test_the_configuration_says_what_holds_without_it():
    text = (PACKAGING / "config.toml").read_text()
    assert config.parse(tomllib.loads(text), "config.toml") == config.Settings()
    spelled_out = tomllib.loads(re.sub(r"^#(?=\S)", "", text, flags=re.MULTILINE))
    zone = spelled_out.pop("timezone")
    defaults = spelled_out.pop("defaults")
    assert config.parse(spelled_out, "config.toml") == config.Settings()
    assert config.parse({"timezone": zone, "defaults": defaults}, "config.toml").timezone == zone
