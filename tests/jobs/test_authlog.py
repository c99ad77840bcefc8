"""What lines of an authentication log mean, written by programs, cut off, and made up by whoever knocks at the door."""

import time

import pytest

from lnmt_scheduler.jobs import authlog

SSHD = {
    "Failed password for root from 192.0.2.7 port 22 ssh2": ("failed", "root", "192.0.2.7", False),
    "Failed password for invalid user a b from 2001:db8::7 port 22 ssh2": ("failed", "a b", "2001:db8::7", False),
    "Failed publickey for eve from host.example port 9 ssh2: RSA SHA256:abc": ("failed", "eve", "host.example", False),
    "Failed none for invalid user  from 192.0.2.7 port 22 ssh2": ("failed", "", "192.0.2.7", False),
    "Invalid user admin from 192.0.2.7 port 22": ("guess", "admin", "192.0.2.7", False),
    "Invalid user  from 192.0.2.7": ("guess", "", "192.0.2.7", False),
    "Connection closed by authenticating user root 192.0.2.7 port 22 [preauth]": ("probe", "root", "192.0.2.7", False),
    "Connection reset by invalid user x 192.0.2.7 port 22 [preauth]": ("probe", "x", "192.0.2.7", False),
    "Accepted publickey for eve from 192.0.2.7 port 22 ssh2: ED25519 SHA256:x": ("accepted", "eve", "192.0.2.7", False),
    # A name that is a sentence: the address is sshd's, at the end, and that somebody tried is told.
    "Failed password for invalid user root from 10.0.0.1 port 22 ssh2 from 192.0.2.7 port 5 ssh2": (
        "failed", "root from 10.0.0.1 port 22 ssh2", "192.0.2.7", True,
    ),
    "Invalid user x from 10.0.0.1 port 22 from 192.0.2.7 port 5": ("guess", "x from 10.0.0.1 port 22", "192.0.2.7", True),
    "Connection closed by invalid user a 10.0.0.1 port 1 [preauth] 192.0.2.7 port 5 [preauth]": (
        "probe", "a 10.0.0.1 port 1 [preauth]", "192.0.2.7", True,
    ),
    "Failed password for invalid user \x1b[2J from 192.0.2.7 port 5 ssh2": ("failed", r"\x1b[2J", "192.0.2.7", False),
}  # fmt: skip


@pytest.mark.parametrize("message", SSHD, ids=range(len(SSHD)))
def test_what_sshd_says(message):
    found = authlog.event("sshd", message)
    assert isinstance(found, authlog.Login)
    assert (found.outcome, found.user, found.address, found.forged) == SSHD[message]


@pytest.mark.parametrize(
    "message",
    [
        "Failed password for root from 192.0.2.7 po",
        "Failed password for root",
        "Server listening on :: port 22.",
        "Accepted",
        "",
        "x" * 100_000,
        "Failed password for " + "from 1 port 1 " * 5_000,
    ],
    ids=range(7),
)
def test_what_is_cut_off_or_something_else_is_no_event_and_takes_no_time(message):
    assert authlog.event("sshd", message) is None


@pytest.mark.parametrize(
    ("program", "head", "part"),
    [
        ("sshd", "Failed a for", " from a port 1: x"),
        ("sshd", "Accepted a for", " from a port 1: x"),
        ("su", "pam_unix(su:auth): authentication failure;", " rhost=a user=x"),
    ],
)
def test_a_message_that_is_made_to_be_matched_slowly_takes_no_longer_than_another(program, head, part):
    """The journal takes it from any account; with the square of its length it would outlast the job's timeout for ever."""
    message = head + part * (256 * 1024 // len(part)) + "\nx"
    begun = time.process_time()
    assert authlog.event(program, message) is None
    assert time.process_time() - begun < 2


def test_the_same_words_from_another_program_are_no_login():
    assert authlog.event("cron", "Failed password for root from 192.0.2.7 port 22 ssh2") is None


@pytest.mark.parametrize(
    ("program", "message", "event"),
    [
        (
            "sudo",
            "     eve : 3 incorrect password attempts ; TTY=pts/0 ; PWD=/home/eve ; USER=root ; COMMAND=/usr/bin/id",
            authlog.Sudo(user="eve", why="3 incorrect password attempts", command="/usr/bin/id"),
        ),
        (
            "sudo",
            "eve : user NOT in sudoers ; TTY=pts/0 ; PWD=/ ; USER=root ; COMMAND=/bin/sh -c a ; b",
            authlog.Sudo(user="eve", why="user NOT in sudoers", command="/bin/sh -c a ; b"),
        ),
        ("sudo", "eve : TTY=pts/0 ; PWD=/home/eve ; USER=root ; COMMAND=/usr/bin/id", None),
        (
            "su",
            "pam_unix(su:auth): authentication failure; logname=eve uid=1000 euid=0 tty=pts/0 ruser=eve rhost=  user=root",
            authlog.Login(outcome="failed", user="root", address="(su)", method="su"),
        ),
        (
            "login",
            "pam_unix(login:auth): authentication failure; logname= uid=0 euid=0 tty=tty1 ruser= rhost=192.0.2.9",
            authlog.Login(outcome="failed", user="", address="192.0.2.9", method="login"),
        ),
        ("sshd", "pam_unix(sshd:auth): authentication failure; logname= uid=0 ruser= rhost=192.0.2.7  user=root", None),
        (
            "useradd",
            "new user: name=eve, UID=1001, GID=1001, home=/home/eve, shell=/bin/bash, from=/dev/pts/1",
            authlog.Account(user="eve", change="added (uid 1001)"),
        ),
        ("usermod", "add 'eve' to group 'sudo'", authlog.Account(user="eve", change="joined group sudo")),
        ("userdel", "delete user 'eve'", authlog.Account(user="eve", change="removed")),
    ],
)
def test_what_others_say(program, message, event):
    assert authlog.event(program, message) == event


@pytest.mark.parametrize(
    ("line", "parts"),
    [
        ("Nov  5 01:02:03 host sshd[12]: words: more", ("sshd", "words: more")),
        ("<38>Nov 25 01:02:03 host sudo: words", ("sudo", "words")),
        ("2026-11-25T01:02:03.123456+01:00 host sshd-session[12]: words", ("sshd-session", "words")),
        ("2026-11-25T01:02:03Z host useradd[1]: words", ("useradd", "words")),
        ("Failed password for root from 192.0.2.7 port 22 ssh2", None),
        ("Nov 25 01:02:03 host -- MARK --", None),
        ("", None),
        ("\udcff" * 100, None),
    ],
)
def test_lines_of_syslog(line, parts):
    assert authlog.entry(line) == parts


def test_names_from_outside_are_short_and_move_no_cursor():
    assert authlog.name("a\x1b[31m\n" + "x" * 1000) == r"a\x1b[31m\n" + "x" * 53
