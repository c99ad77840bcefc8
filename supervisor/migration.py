"""From lines of crontabs to jobs that do the same, and what to say about each.

A job of a crontab is spelled out as cron means it: no retries, no time limit, nothing caught up, runs beside each other, the
user, shell and variables of the crontab, and the host as it is. Nothing is improved in passing; what differs all the same, and
what could be tightened now, is said line by line. Whether it fires when the line does is checked by a second reading of it.

Pure: lines in, definitions and words out.
"""

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from lnmt_scheduler.jobs import load
from lnmt_scheduler.supervisor import cron, crontab, second_reading

TAG = "crontab"
#: Fires that are compared.
COMPARED = 50
#: Runs of one job at one time: cron knows no limit, so that of the loader.
_INSTANCES = 10_000
_ID_MAX, _NAME_MAX = 40, 100

#: Words before the one that says what a command is about.
_PREFIXES = {
    "cd", "test", "[", "]", "if", "then", "exec", "env", "nice", "ionice", "chronic", "nohup", "time", "timeout", "flock",
    "sudo", "sh", "bash", "root", "sleep", "eval", "export", "!", "/",
}  # fmt: skip
#: The heading that crontabs begin with says nothing about the first job.
_HEADING = re.compile(r"\bm\b.*\bh\b.*\bdom\b|\bminute\b.*\bhour\b|edit this file|---", re.IGNORECASE)
#: Variables that cron takes for itself.
_OWN = {"MAILTO", "MAILFROM", "CONTENT_TYPE", "CONTENT_TRANSFER_ENCODING", "CRON_TZ", "RANDOM_DELAY", "LOGNAME", "USER"}

_TIGHTEN = (
    (r">\s*/dev/null\b|&>\s*/dev/null", "drop the redirection to /dev/null: output is kept with the run, and capped"),
    (r"\bflock\b", "overlap: skip does what flock does here, and says so in the history"),
    (r"\btimeout\b", "timeout does what timeout(1) does, for the whole tree of processes"),
    (r"\b(io)?nice\b", "limits.nice and limits.io_class do what nice and ionice do"),
    (r"\bsleep\b.*\bRANDOM\b|\bRANDOM\b.*\bsleep\b", "H in the schedule spreads jobs without a sleep"),
    (r"\b(su|sudo|runuser)\b", "user says as whom it runs"),
    (r"^\s*cd\s+/\S*\s*(&&|;)", "working_directory in place of cd"),
    (r"\|\s*(mail|mailx|sendmail)\b", "the output is in the history; see: schedctl logs"),
    (r">>?\s*\S*\.log\b", "output is kept with each run; a log file of its own needs no redirection"),
)


@dataclass(slots=True)
class Translation:
    """What became of a line."""

    entry: crontab.Entry
    job: dict[str, Any]
    #: Fires that were found equal; 0: it has none by time, or they cannot be compared.
    equal: int = 0
    #: The first fire in which the two differ: epoch seconds by us, and by the other reading. None: they do not.
    unequal: tuple[int | None, int | None] | None = None
    #: How it differs from what cron does.
    differs: list[str] = field(default_factory=list)
    #: What could be better than cron now.
    tighten: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where the jobs are to run."""

    #: Zone in which cron reads its lines, and in which jobs are read that name none.
    cron_zone: str
    zone: str
    #: The daemon's account.
    account: str
    #: The daemon that gets them is root's.
    is_root: bool
    #: Its configuration says how jobs are mailed for.
    has_mail: bool
    #: processes: host can be had.
    has_host_processes: bool
    #: Whether the host has an account of this name.
    knows: Callable[[str], bool] = lambda _: True


class Migration:
    """Lines one after the other; ids are unique among them."""

    def __init__(self, place: Place, now: int) -> None:
        """`now` is epoch seconds."""
        self._place = place
        self._now = now
        self._ids: set[str] = set()

    def take(self, entry: crontab.Entry) -> Translation:
        schedule, is_steady = crontab.schedule(entry.time)
        found = Translation(entry, {"id": self._id(entry), "schedule": schedule})
        self._say_what(found)
        self._say_where(found)
        self._say_as_cron(found)
        self._say_mail(found)
        if is_steady:
            found.differs.append(
                f"the random time {entry.time} is drawn at each start of cron, and here stays the same"
            )
        if entry.time == "@reboot":
            found.differs.append("@reboot runs once a boot of the host, also if the daemon is restarted")
        self._compare(found)
        self._advise(found)
        return found

    # Keys.

    def _id(self, entry: crontab.Entry) -> str:
        wanted = f"cron-{_slug(entry.command)}"
        number, found = 2, wanted
        while found in self._ids:
            found, number = f"{wanted}-{number}", number + 1
        self._ids.add(found)
        return found

    def _say_what(self, found: Translation) -> None:
        entry, job = found.entry, found.job
        if entry.comment and not _HEADING.search(entry.comment):
            job["name"] = entry.comment[:_NAME_MAX]
        shell = entry.variables.get("SHELL", crontab.SHELL)
        if entry.stdin is not None:
            job["command"] = [*crontab.INPUT, entry.stdin, shell, entry.command]
            found.differs.append("what follows % is passed by printf, and the exit code is the command's")
        elif shell == crontab.SHELL:
            job["command"] = entry.command
        else:
            job["command"] = [shell, "-c", entry.command]
        job["description"] = f"From {entry.path}, line {entry.line}: {entry.text}"[:1000]
        job["tags"] = [TAG]

    def _say_where(self, found: Translation) -> None:
        entry, job = found.entry, found.job
        variables = entry.variables
        if entry.user is not None:
            if not self._place.knows(entry.user):
                found.differs.append(f"this host has no account {entry.user!r}: its runs will fail until it has")
            if self._place.is_root:
                job["user"] = entry.user
            elif entry.user != self._place.account:
                found.differs.append(f"runs as the daemon's account, not as {entry.user}: the daemon is not root's")
        environment = {"SHELL": crontab.SHELL, "PATH": crontab.PATH}
        environment |= {name: value for name, value in variables.items() if name not in _OWN}
        if "HOME" in variables:
            job["working_directory"] = variables["HOME"]
        for name in ("LOGNAME", "USER"):
            if name in variables:
                found.differs.append(f"{name} is that of the account, whatever the crontab says")
        if "PATH" in variables and re.search(r"[$~]", variables["PATH"]):
            found.differs.append("neither cron nor we replace $NAME or ~ in the value of a variable")
        job["environment"] = environment
        if self._place.cron_zone != self._place.zone:
            job["timezone"] = self._place.cron_zone
        if zone := variables.get("CRON_TZ"):
            job["timezone"] = zone
            if "TZ" not in variables:
                found.differs.append(f"the command sees TZ={zone}, where cron does not set it")
        if "TZ" in variables:
            found.differs.append(
                f"TZ={variables['TZ']} is for the command alone, as in Debian's cron, and the schedule is read in"
                f" {job.get('timezone', self._place.zone)}; for a cron that reads it in TZ set timezone"
            )

    def _say_as_cron(self, found: Translation) -> None:
        job = found.job
        job |= {
            "max_retries": 0,
            "timeout": "none",
            "catch_up": "skip",
            "overlap": "allow",
            "max_instances": _INSTANCES,
        }
        job["sandbox"] = {"profile": "trusted"}
        if self._place.has_host_processes:
            job["sandbox"]["processes"] = "host"
        else:
            found.differs.append(
                "it sees its own processes only: processes: host needs a control group, see schedctl doctor"
            )
        if delay := found.entry.variables.get("RANDOM_DELAY"):
            if not delay.isdigit():
                found.differs.append(f"RANDOM_DELAY={delay[:20]} is no number of minutes, and left out")
            elif int(delay):
                job["jitter"] = f"{int(delay)}m"
                found.differs.append("RANDOM_DELAY is drawn at each start of cron, and jitter stays the same for a job")

    def _say_mail(self, found: Translation) -> None:
        """Cron mails what a line writes to whoever's crontab it is, unless MAILTO says otherwise."""
        address = found.entry.variables.get("MAILTO")
        if address == "":
            return
        whom = address or found.entry.user
        try:
            address = load.canonical("mailto", whom)
        except ValueError as error:
            address = None
            why = str(error)
        else:
            why = "config.toml has no target for it ([notify] mail)"
        if address is not None and self._place.has_mail:
            found.job |= {"mailto": address, "notify_on": "output"}
        else:
            found.differs.append(f"output is kept in the history and not mailed to {whom or 'its user'}: {why}")

    # Words.

    def _compare(self, found: Translation) -> None:
        job = found.job
        reading = crontab.reading(found.entry.time)
        if reading is None or "~" in found.entry.time:
            return
        zone = job.get("timezone", self._place.zone)
        try:
            planned = cron.parse(job["schedule"], zone, job["id"])
        except cron.CronError:
            return  # the loader says it, with all else that is wrong
        theirs = second_reading.fires(reading, zone, self._now, COMPARED)
        ours: list[int] = []
        at: int | None = self._now * 1000
        while len(ours) < len(theirs) and at is not None and (at := planned.next_after(at)) is not None:
            ours.append(at // 1000)
        for mine, other in zip([*ours, *[None] * len(theirs)], theirs, strict=False):
            if mine != other:
                found.unequal = (mine, other)
                return
            found.equal += 1

    def _advise(self, found: Translation) -> None:
        command = found.entry.command
        found.tighten += [advice for pattern, advice in _TIGHTEN if re.search(pattern, command)]
        if found.entry.user == "root":
            found.tighten.append("user: does it need root?")
        found.tighten.append(
            "timeout, overlap: skip, catch_up: latest, max_retries, sandbox: standard with what it writes"
        )


def _slug(command: str) -> str:
    """The word that says what a command is about, as part of an id."""
    for word in re.split(r"[\s;&|(){}]+", command):
        base = word.rstrip("/").rpartition("/")[2]
        if not base or word.startswith("-") or "=" in word or base in _PREFIXES or re.fullmatch(r"[\d.]+[smhd]?", base):
            continue
        slug = re.sub(r"[^A-Za-z0-9._-]+", "-", base).strip("-._")[:_ID_MAX]
        if slug:
            return slug
    return "job"


def document(translations: list[Translation], *, enabled: bool) -> dict[str, Any]:
    """The job file of all of them."""
    jobs = [each.job if enabled else {**each.job, "enabled": False} for each in translations]
    return {"jobs": jobs}


#: Said once, of all of them.
GENERAL = (
    "The daemon starts at most max_concurrent_jobs at one time (20 unless config.toml says otherwise); cron starts all.",
    "Besides what cron gives them, jobs see LANG=C.UTF-8, USER, TMPDIR and LNMT_*; cron sets a LANG only if PAM does.",
    "The exit code, the output and the usage of each run are kept: schedctl history, schedctl logs.",
    "cron still runs these lines, too: take them out of the crontab when the jobs are enabled here.",
)
