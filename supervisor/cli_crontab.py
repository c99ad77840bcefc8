"""import-crontab: the lines of crontabs as jobs that do the same, with a report of each.

Crontabs are opened with the rights of whoever calls. The jobs go to the daemon as those of `import` do, all or none; with
--output they become a job file, and with --dry-run nothing but the report, and neither needs a daemon.
"""

import json
import os
import pwd
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import click

from lnmt_scheduler.ipc import control
from lnmt_scheduler.jobs import load
from lnmt_scheduler.sandbox import probe
from lnmt_scheduler.supervisor import (
    catalog,
    cli_common,
    cli_define,
    cli_sandbox,
    client,
    config,
    crontab,
    fitness,
    job_files,
    migration,
    tables,
    views,
)

_SIZE_MAX = 4 << 20
_SYSTEM, _SYSTEM_DIR = "/etc/crontab", "/etc/cron.d"
_SPOOLS = ("/var/spool/cron/crontabs", "/var/spool/cron/tabs", "/var/spool/cron")
_HOST_BOX = {"profile": "trusted", "processes": "host"}


@dataclass(frozen=True, slots=True)
class _Tab:
    path: str
    text: str
    #: Whose it is; None: each line names a user.
    user: str | None


@click.command("import-crontab", cls=cli_common.Command)
@click.argument("files", metavar="[FILE...]", nargs=-1)
@click.option("--system-crontab", is_flag=True, help=f"{_SYSTEM} and the files of {_SYSTEM_DIR}.")
@click.option("--crontab-of", "owner", metavar="USER", help="The crontab of this user.")
@click.option(
    "--with-users", is_flag=True, help="Lines of FILE name a user, as in /etc/crontab; seen by itself in /etc/cron.d."
)
@click.option("--disabled", is_flag=True, help="Add the jobs disabled, to enable them one by one.")
@click.option("--output", metavar="JOBFILE", help="Write a job file, in place of adding jobs.")
@click.option("--dry-run", is_flag=True, help="Only the report.")
def import_crontab(
    files: tuple[str, ...],
    system_crontab: bool,
    owner: str | None,
    with_users: bool,
    disabled: bool,
    output: str | None,
    dry_run: bool,
) -> None:
    """Make jobs of the lines of crontabs that do the same as cron, and say what differs line by line."""
    invocation = cli_common.current()
    tabs = [*_of_files(files, with_users=with_users)]
    if system_crontab:
        tabs += _of_system()
    if owner is not None:
        tabs.append(_of_user(owner))
    if not tabs:
        raise click.UsageError("name a FILE, --system-crontab or --crontab-of USER")
    parsed = _parse(tabs)
    site = _settings(invocation)
    place = _place(invocation, site)
    made = migration.Migration(place, int(time.time()))
    translations = [made.take(entry) for _, found in parsed for entry in found.entries]
    document = migration.document(translations, enabled=not disabled)
    _check(document, place, site)
    changes: list[Any] = []
    counts: dict[str, int] = {}
    unequal = [f"{each.entry.path}:{each.entry.line}" for each in translations if each.unequal is not None]
    if unequal and not dry_run:
        raise cli_common.Failure(
            f"{', '.join(unequal[:5])} would fire at other times here, and nothing is taken; look: --dry-run",
            control.INVALID,
        )
    if output is not None:
        cli_common.write_private(output, json.dumps(document, indent=2) + "\n")
    elif not dry_run:
        changes, counts = _add(invocation, document)
    if invocation.json:
        cli_common.print_json({**_report(parsed, translations), "changes": changes})
        return
    for line in _lines(parsed, translations):
        print(cli_common.printable(line))
    if output is not None:
        print(f"{len(translations)} jobs written to {output}; check, then: schedctl import {output}")
    elif not dry_run:
        print(", ".join(f"{count} {word}" for word, count in counts.items()))


# Reading.


def _of_files(files: tuple[str, ...], *, with_users: bool) -> Iterator[_Tab]:
    for path in files:
        folder, name = os.path.split(os.path.abspath(path))
        if with_users or os.path.basename(folder) == "cron.d" or (folder, name) == ("/etc", "crontab"):
            yield _Tab(path, _read(path), None)
        else:
            is_spool = folder in _SPOOLS
            yield _Tab(path, _read(path), name if is_spool else _account(os.geteuid()))


def _of_system() -> list[_Tab]:
    tabs = [_Tab(_SYSTEM, _read(_SYSTEM), None)] if os.path.exists(_SYSTEM) else []
    try:
        names = sorted(os.listdir(_SYSTEM_DIR))
    except FileNotFoundError:
        names = []
    for name in names:
        path = f"{_SYSTEM_DIR}/{name}"
        if crontab.is_read(name):
            tabs.append(_Tab(path, _read(path), None))
        elif not name.startswith("."):
            cli_common.warn(f"{path} is left out: cron does not read files with such a name")
    if not tabs:
        raise cli_common.Failure(f"there is neither {_SYSTEM} nor a file in {_SYSTEM_DIR}", control.NOT_FOUND)
    return tabs


def _of_user(user: str) -> _Tab:
    if not _is_account(user):
        raise cli_common.Failure(f"no user {user!r}", control.NOT_FOUND)
    for folder in _SPOOLS:
        path = os.path.join(folder, user)
        if os.access(path, os.R_OK) and os.path.isfile(path):
            return _Tab(path, _read(path), user)
    # The spool is for root; crontab(1) may read one's own.
    try:
        command = ["crontab", "-l", *(["-u", user] if os.geteuid() == 0 else [])]
        done = subprocess.run(command, capture_output=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        done = None
    mine = os.geteuid() == 0 or user == _account(os.geteuid())
    if done is None or done.returncode != 0 or not mine:
        raise cli_common.Failure(f"no crontab of {user} that you may read in {', '.join(_SPOOLS)}", control.NOT_FOUND)
    return _Tab(f"crontab of {user}", _text(done.stdout, f"crontab of {user}"), user)


def _read(path: str) -> str:
    try:
        with open(path, "rb") as file:
            data = file.read(_SIZE_MAX + 1)
    except OSError as error:
        raise cli_common.Failure(f"cannot read {path}: {error.strerror}", control.INVALID) from None
    return _text(data, path)


def _text(data: bytes, path: str) -> str:
    if len(data) > _SIZE_MAX:
        raise cli_common.Failure(f"{path} has more than {_SIZE_MAX} bytes; is it a crontab?", control.INVALID)
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        raise cli_common.Failure(f"{path}:{line}: is not UTF-8", control.INVALID) from None


def _parse(tabs: list[_Tab]) -> list[tuple[str, crontab.Crontab]]:
    try:
        parsed = [
            (tab.path, crontab.read(tab.text, tab.path, user=tab.user, has_users=tab.user is None)) for tab in tabs
        ]
    except ImportError:
        raise cli_common.Failure(
            f"import-crontab needs {crontab.PACKAGE}: {cli_common.how_to_get(crontab.PACKAGE, 'crontab')}"
        ) from None
    problems = [f"{path}:{line}: {what}" for path, found in parsed for line, what in found.problems]
    if problems:
        raise cli_define.invalid(problems)
    return parsed


# Where the jobs will be.


def _settings(invocation: cli_common.Invocation) -> config.Settings:
    try:
        return job_files.settings(invocation.paths(), invocation.state())
    except config.ConfigError as error:
        raise cli_define.invalid(error.problems) from None


def _place(invocation: cli_common.Invocation, site: config.Settings) -> migration.Place:
    told = cli_sandbox.told(invocation)
    is_root = told["uid"] == 0
    refused = fitness.refusal(_HOST_BOX, {}, probe.from_map(told), is_root=is_root)
    return migration.Place(
        cron_zone=config.host_zone(),
        zone=site.timezone or config.host_zone(),
        account=_account(told["uid"]),
        is_root=is_root,
        has_mail=site.notify.mail is not None,
        has_host_processes=refused is None,
        knows=_is_account,
    )


def _is_account(name: str) -> bool:
    try:
        pwd.getpwnam(name)
    except KeyError:
        return False
    return True


def _account(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def _check(document: dict[str, Any], place: migration.Place, site: config.Settings) -> None:
    """As the daemon will: nothing that it would refuse gets so far as to be half done."""
    _, problems = load.parse(
        document, "crontab", check_schedule=catalog.checker(place.zone), site_defaults=site.defaults
    )
    if problems:
        raise cli_define.invalid(problems)


def _add(invocation: cli_common.Invocation, document: dict[str, Any]) -> tuple[list[Any], dict[str, int]]:
    with invocation.client() as daemon:
        for job in document["jobs"]:
            _refuse_others(daemon, job["id"])
        cli_define.upload(daemon, [("crontab", document)])
        stream = daemon.stream(control.Import())
        changes = [{"action": item["action"], "job_id": item["job_id"]} for item in stream if item["kind"] == "change"]
        return changes, stream.value


def _refuse_others(daemon: client.Client, job_id: str) -> None:
    """A job of this id that came from elsewhere must not be replaced."""
    try:
        job = daemon.request(control.Show(job_id=job_id))["job"]
    except client.RequestError as error:
        if error.code != control.NOT_FOUND:
            raise
        return
    if migration.TAG not in job["tags"]:
        message = (
            f"job {job_id!r} is there already, and not from a crontab; rename one: --output, edit, schedctl import"
        )
        raise cli_common.Failure(message, control.INVALID)


# The report.


def _report(parsed: list[tuple[str, crontab.Crontab]], translations: list[migration.Translation]) -> dict[str, Any]:
    return {
        "jobs": [each.job for each in translations],
        "lines": [
            {
                "file": each.entry.path,
                "line": each.entry.line,
                "text": each.entry.text,
                "job_id": each.job["id"],
                "equal_fires": each.equal,
                "unequal": None if each.unequal is None else [_iso(at) for at in each.unequal],
                "differs": each.differs,
                "tighten": each.tighten,
            }
            for each in translations
        ],
        "disabled": [
            {"file": path, "line": line, "text": text} for path, found in parsed for line, text in found.disabled
        ],
    }


def _iso(at: int | None) -> str | None:
    return None if at is None else views.iso(at * 1000)


def _lines(parsed: list[tuple[str, crontab.Crontab]], translations: list[migration.Translation]) -> Iterator[str]:
    for each in translations:
        entry, job = each.entry, each.job
        yield f"{entry.path}:{entry.line}: {entry.text}"
        user = f", as {job['user']}" if "user" in job else ""
        zone = f" in {job['timezone']}" if "timezone" in job else ""
        yield f"  job {job['id']}: {job['schedule']}{zone}{user}"
        yield f"  fires: {_fires(each)}"
        yield from (f"  differs: {words}" for words in each.differs)
        yield from (f"  could be: {words}" for words in each.tighten)
    for path, found in parsed:
        yield from (f"{path}:{line}: commented out, and left out: {text}" for line, text in found.disabled)
    yield from migration.GENERAL


def _fires(each: migration.Translation) -> str:
    if each.unequal is not None:
        ours, theirs = (None if at is None else tables.second(at * 1000) for at in each.unequal)
        return f"NOT EQUAL after {each.equal}: here {ours or 'never'}, by the crontab {theirs or 'never'}"
    if each.equal:
        return f"the next {each.equal} are equal"
    return "not by time" if each.entry.time == "@reboot" else "not compared, since the time is random"


COMMANDS = {"import-crontab": import_crontab}
