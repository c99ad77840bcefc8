"""migration.py: a line of a crontab as a job, and what is said of it."""

import pytest

from lnmt_scheduler.jobs import load
from lnmt_scheduler.supervisor import catalog, cron, crontab, migration

NOW = 1_772_452_800  # 2026-03-02 12:00 UTC


def place(**more):
    values = {"cron_zone": "UTC", "zone": "UTC", "account": "root", "is_root": True, "has_host_processes": True}
    values |= {"has_mail": False}
    return migration.Place(**{**values, **more})


def take(text, *, user="ada", has_users=False, **more):
    entries = crontab.read(text, "tab", user=user, has_users=has_users).entries
    made = migration.Migration(place(**more), NOW)
    return [made.take(entry) for entry in entries]


def test_a_line_is_spelled_out_as_cron_means_it():
    (found,) = take("30 2 * * * /usr/local/bin/backup --all", has_users=False)
    job = found.job
    assert (job["id"], job["schedule"], job["command"]) == ("cron-backup", "30 2 * * *", "/usr/local/bin/backup --all")
    assert (job["max_retries"], job["timeout"], job["overlap"], job["user"]) == (0, "none", "allow", "ada")
    assert (job["catch_up"], job["max_instances"]) == ("skip", 10_000)
    assert job["sandbox"] == {"profile": "trusted", "processes": "host"}
    assert job["environment"] == {"SHELL": "/bin/sh", "PATH": "/usr/bin:/bin"}
    assert job["description"] == "From tab, line 1: 30 2 * * * /usr/local/bin/backup --all"
    assert (found.equal, found.unequal) == (50, None)


def test_the_jobs_are_valid_as_they_are():
    text = """\
SHELL=/bin/bash
HOME=/srv/x
CRON_TZ=Europe/Berlin
# A name of its own
30 2 * * mon-fri run --with "50\\%" # and more
0 9 * * 1 mail root%Hello
5~15 * * * * spread
@reboot start
"""
    translations = take(text)
    document = migration.document(translations, enabled=False)
    good, problems = load.parse(document, "tab", check_schedule=catalog.checker("UTC"))
    assert problems == []
    assert [each.config.enabled for each in good] == [False] * 4
    assert good[0].config.name == "A name of its own"
    assert good[0].config.working_directory == "/srv/x"
    assert good[0].config.command == ["/bin/bash", "-c", 'run --with "50%" # and more']
    assert [each.equal for each in translations] == [50, 50, 0, 0]


def test_input_is_passed_without_a_word_of_it_being_read_by_a_shell():
    (found,) = take("0 9 * * 1 mail 'root'%$(rm -rf /)%\"`x`")
    assert found.job["command"] == [
        "/bin/sh", "-c", 'printf %s "$1" | "$2" -c "$3"', "sh", '$(rm -rf /)\n"`x`\n', "/bin/sh", "mail 'root'",
    ]  # fmt: skip


def test_ids_are_made_of_what_is_run_and_are_unique():
    lines = [
        "cd / && run-parts --report /etc/cron.hourly",
        "cd / && run-parts --report /etc/cron.daily",
        "test -x /usr/sbin/anacron || true",
        "FOO=1 nice -n 10 /opt/bin/sync.sh 2>&1",
        "[ -d /srv ] && exec rsync -a /srv /backup",
        "'",
    ]
    found = take("".join(f"0 0 * * * {line}\n" for line in lines))
    assert [each.job["id"] for each in found] == [
        "cron-run-parts", "cron-run-parts-2", "cron-anacron", "cron-sync.sh", "cron-srv", "cron-job",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("0 0 * * * x", "not mailed to ada"),
        ("MAILTO=ops@example.org\n0 0 * * * x", "not mailed to ops@example.org"),
        ("RANDOM_DELAY=x\n0 0 * * * x", "no number of minutes"),
        ("RANDOM_DELAY=45\n0 0 * * * x", "jitter stays the same"),
        ("10~20 0 * * * x", "drawn at each start of cron"),
        ("@reboot x", "once a boot of the host"),
        ("TZ=Asia/Tokyo\n0 0 * * * x", "the schedule is read in UTC"),
        ("CRON_TZ=Asia/Tokyo\n0 0 * * * x", "the command sees TZ=Asia/Tokyo"),
        ("LOGNAME=bob\n0 0 * * * x", "LOGNAME is that of the account"),
        ("PATH=$HOME/bin:/bin\n0 0 * * * x", "neither cron nor we replace"),
        ("0 0 * * * cat%x", "passed by printf"),
    ],
)
def test_what_differs_is_said(text, said):
    (found,) = take(text)
    assert any(said in words for words in found.differs), found.differs


@pytest.mark.parametrize(
    ("text", "whom"), [("MAILTO=ops@example.org\n0 0 * * * x", "ops@example.org"), ("0 0 * * * x", "ada")]
)
def test_what_cron_mails_is_mailed_where_the_daemon_can(text, whom):
    (found,) = take(text, has_mail=True)
    assert (found.job["mailto"], found.job["notify_on"]) == (whom, "output")
    assert not any("mailed" in words for words in found.differs)


def test_a_random_delay_is_jitter():
    (found,) = take("RANDOM_DELAY=45\n0 0 * * * x")
    assert found.job["jitter"] == "45m"


def test_an_empty_mailto_means_no_mail():
    (found,) = take('MAILTO=""\n0 0 * * * x', has_mail=True)
    assert "mailto" not in found.job
    assert not any("mailed" in words for words in found.differs)


def test_the_zone_of_a_line_is_that_of_cron():
    (found,) = take("30 2 * * * x", cron_zone="Europe/Berlin")
    assert (found.job["timezone"], found.equal) == ("Europe/Berlin", 50)
    (found,) = take("CRON_TZ=America/New_York\n30 2 * * * x", cron_zone="Europe/Berlin")
    assert found.job["timezone"] == "America/New_York"


def test_a_daemon_that_is_not_roots_runs_all_as_itself():
    (found,) = take("0 0 * * * x", is_root=False, account="ada")
    assert "user" not in found.job
    assert not any("runs as" in words for words in found.differs)
    (found,) = take("0 0 * * * x", is_root=False, account="bob")
    assert any("runs as the daemon's account, not as ada" in words for words in found.differs)


def test_an_account_that_is_not_there_is_said():
    (found,) = take("0 0 * * * x", knows=lambda name: name != "ada")
    assert any("this host has no account 'ada'" in words for words in found.differs)


def test_without_a_control_group_the_host_is_not_seen_and_that_is_said():
    (found,) = take("0 0 * * * x", has_host_processes=False)
    assert found.job["sandbox"] == {"profile": "trusted"}
    assert any("control group" in words for words in found.differs)


@pytest.mark.parametrize(
    ("command", "advice"),
    [
        ("x >/dev/null 2>&1", "drop the redirection"),
        ("flock -n /tmp/l x", "overlap: skip"),
        ("cd /srv && x", "working_directory"),
        ("sleep $((RANDOM % 60)); x", "H in the schedule"),
        ("sudo -u bob x", "user says"),
    ],
)
def test_what_could_be_tightened_is_said(command, advice):
    (found,) = take(f"0 0 * * * {command.replace('%', chr(92) + '%')}")
    assert any(advice in words for words in found.tighten)


def test_a_difference_in_the_fires_is_found(monkeypatch):
    class Late:
        def __init__(self, planned):
            self._planned = planned

        def next_after(self, at):
            fire = self._planned.next_after(at)
            return fire + 60_000 if fire > (NOW + 5 * 86400) * 1000 else fire

    parse = cron.parse
    monkeypatch.setattr(cron, "parse", lambda *arguments: Late(parse(*arguments)))
    (found,) = take("0 12 * * * x")
    assert found.equal in {4, 5}
    ours, theirs = found.unequal
    assert ours == theirs + 60
