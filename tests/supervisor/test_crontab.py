"""crontab.py: what lines of crontabs say."""

import pytest

from lnmt_scheduler.supervisor import crontab


def read(text, *, user="ada", has_users=False):
    return crontab.read(text, "tab", user=user, has_users=has_users)


def one(text, **more):
    (entry,) = read(text, **more).entries
    return entry


@pytest.mark.parametrize(
    ("line", "time", "command"),
    [
        ("*/5 * * * * poll", "*/5 * * * *", "poll"),
        ("  30\t2 * *  1-5   backup  --all  ", "30 2 * * 1-5", "backup  --all"),
        ("@Daily clean", "@daily", "clean"),
        ("@reboot start now", "@reboot", "start now"),
        # What looks like a comment, or a variable, is part of the command.
        ('0 1 * * * echo "a # b" # c', "0 1 * * *", 'echo "a # b" # c'),
        ("0 1 * * * A=1 run", "0 1 * * *", "A=1 run"),
        ("* * * * sun=x true", None, None),
        ("-5 0 * * * quiet", "5 0 * * *", "quiet"),
    ],
)
def test_time_and_command(line, time, command):
    found = read(line)
    if time is None:
        assert found.problems
    else:
        (entry,) = found.entries
        assert (entry.time, entry.command, entry.user, entry.line) == (time, command, "ada", 1)


@pytest.mark.parametrize(
    ("rest", "command", "stdin"),
    [
        (r"date +\%F", "date +%F", None),
        ("mail root%Hello,%%bye", "mail root", "Hello,\n\nbye\n"),
        (r"mail root%100\% done%", "mail root", "100% done\n"),
        ("cat%", "cat", "\n"),
    ],
)
def test_a_percent_sign_ends_the_command_and_begins_its_input(rest, command, stdin):
    entry = one(f"0 0 * * * {rest}")
    assert (entry.command, entry.stdin) == (command, stdin)


def test_variables_count_from_where_they_stand():
    text = "A=1\n0 0 * * * first\nA = two words \n\"B\"=' x '\nC=\n0 0 * * * second\n"
    first, second = read(text).entries
    assert first.variables == {"A": "1"}
    assert second.variables == {"A": "two words", "B": " x", "C": ""}


def test_the_user_stands_before_the_command_in_the_systems_crontab():
    entry = one("17 *\t* * *\troot\tcd / && run-parts --report /etc/cron.hourly", user=None, has_users=True)
    assert (entry.user, entry.command) == ("root", "cd / && run-parts --report /etc/cron.hourly")
    assert one("@daily  bob  x", user=None, has_users=True).user == "bob"
    assert read("@daily root", user=None, has_users=True).problems == [(1, "has no command after the name of its user")]


def test_what_is_commented_out_is_told_apart_from_a_comment():
    found = read("# Copies of the night\n#30 1 * * * old\n0 2 * * * new\n# Copies\n0 3 * * * newer\n")
    assert found.disabled == [(2, "#30 1 * * * old")]
    assert [entry.comment for entry in found.entries] == ["", "Copies"]


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("nonsense", "is neither five fields"),
        ("0 0 * *", "is neither five fields"),
        ("60 * * * * x", "cannot read the time '60 * * * *'"),
        ("22-2 * * * * x", "cannot read the time"),
        ("@never x", "cannot read the time '@never'"),
        ("0" * 200_000, "longer than"),
    ],
)
def test_what_cannot_be_read_is_said_with_its_line(line, said, capfd):
    ((number, words),) = read(f"\n{line}\n").problems
    assert number == 2
    assert said in words
    # python-crontab has an opinion of its own, which nobody asked for.
    assert capfd.readouterr().err == ""


def test_a_long_crontab_is_read():
    assert len(read("A=1\n" + "0 0 * * * x\n" * 3000).entries) == 3000


@pytest.mark.parametrize(
    ("time", "schedule", "is_steady"),
    [
        ("0 0 * * *", "0 0 * * *", False),
        ("@hourly", "@hourly", False),
        ("10~20 4 * * *", "H(10-20) 4 * * *", True),
        ("~ 0~6 * * *", "H H(0-6) * * *", True),
    ],
)
def test_a_random_time_becomes_one_that_stays(time, schedule, is_steady):
    assert crontab.schedule(time) == (schedule, is_steady)


def test_cron_reads_files_without_a_dot():
    assert crontab.is_read("e2scrub_all")
    assert not crontab.is_read("backup.dpkg-old")
    assert not crontab.is_read(".placeholder")
