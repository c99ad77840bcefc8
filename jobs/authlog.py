"""What a line of an authentication log says: who failed to log in from where, who got in, sudo, accounts. Pure.

Whoever can reach the port of sshd chooses part of such a line: a user name may hold a whole sentence, address included. So a
sentence is matched from its end, where sshd's own words are, and a name that looks like a sentence is told as forged.

Whoever has an account may send the journal any text in anybody's name, so every match here takes time that grows with the
length of a message, and not with its square: where a pattern ends in `.*`, its first candidate must be its last.
"""

import re
from dataclasses import dataclass

from lnmt_scheduler.jobs import shown

_NAME_LIMIT = 64
_LINE = re.compile(
    r"(?:<\d{1,3}>)?(?:[A-Z][a-z]{2} [ \d]\d [\d:]{8}|\d{4}-\d\d-\d\dT[\d:.]+(?:Z|[+-]\d\d:?\d\d)) \S+ "
    r"(?P<program>[\w./-]{1,64})(?:\[\d+\])?: ?(?P<message>.*)",
    re.DOTALL,
)
_PORT = r"(?P<address>\S{1,255}) port \d{1,5}"
_FAILED = re.compile(rf"Failed (?P<method>\S+) for (?:invalid user )?(?P<user>.*) from {_PORT}(?: ssh\d)?(?:: .*)?")
_GUESS = re.compile(r"Invalid user (?P<user>.*) from (?P<address>\S{1,255}?)(?: port \d{1,5})?")
_PROBE = re.compile(
    rf"Connection (?:closed|reset) by (?:authenticating|invalid) user (?P<user>.*) {_PORT}(?: \[preauth\])?"
)
_ACCEPTED = re.compile(rf"Accepted (?P<method>\S+) for (?P<user>.*) from {_PORT}(?: ssh\d)?(?:: .*)?")
_SENTENCE = re.compile(r" from \S+ port \d|\[preauth\]| ssh2")
_SUDO = re.compile(
    r"\s*(?P<user>\S{1,255}) : (?P<why>(?!TTY=)[^;]{1,200}?) ; (?:.* ; )?COMMAND=(?P<command>.*)", re.DOTALL
)
_PAM = re.compile(
    r"pam_\w+\((?P<service>[\w-]+):auth\): authentication failure;.*? rhost=(?P<address>\S*)(?: +user=(?P<user>.*))?"
)
_ADDED = re.compile(r"new user: name=(?P<user>[^,]{1,255}), UID=(?P<uid>\d+), .*")
_JOINED = re.compile(r"add '(?P<user>[^']{1,255})' to group '(?P<group>[^']{1,255})'")
_REMOVED = re.compile(r"delete user '(?P<user>[^']{1,255})'")

#: Programs whose lines are looked at.
PROGRAMS = ("sshd", "sshd-auth", "sshd-session", "sudo", "su", "login", "useradd", "usermod", "userdel")
_SSHD = ("sshd", "sshd-auth", "sshd-session")
_ACCOUNTS = ("useradd", "usermod", "userdel")


@dataclass(frozen=True, slots=True, kw_only=True)
class Login:
    """Somebody who tried to get in: `failed`, `guess` (no such user), `probe` (left before an answer) or `accepted`."""

    outcome: str
    user: str
    #: Where from; a name in brackets for what is no address.
    address: str
    method: str = ""
    #: The name that was given looks like a log line.
    forged: bool = False


@dataclass(frozen=True, slots=True, kw_only=True)
class Sudo:
    user: str
    why: str
    command: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Account:
    user: str
    #: What became of it, in words.
    change: str


Event = Login | Sudo | Account


def entry(line: str) -> tuple[str, str] | None:
    """Program and message of a line of syslog, in its old format or with an ISO date; None for any other."""
    found = _LINE.fullmatch(line)
    return None if found is None else (found["program"], found["message"])


def event(program: str, message: str) -> Event | None:
    """What the program says has happened; None for what is no concern of ours."""
    if program in _SSHD:
        return _login(message)
    if program == "sudo":
        found = _SUDO.fullmatch(message)
        if found is not None:
            return Sudo(user=name(found["user"]), why=name(found["why"]), command=name(found["command"], 200))
    if program in _ACCOUNTS:
        return _account(message)
    found = None if "\n" in message else _PAM.fullmatch(message)
    if found is None or found["service"] in ("sshd", "sudo"):  # they say the same in words of their own
        return None
    address = found["address"] or f"({name(found['service'])})"
    return Login(outcome="failed", user=name(found["user"] or ""), address=name(address, 255), method=name(program))


def _login(message: str) -> Login | None:
    # sshd writes none. `.*` stops at one, so that each " from A port N: " of a message would be tried, and run up to there.
    if "\n" in message:
        return None
    for outcome, pattern in (("failed", _FAILED), ("guess", _GUESS), ("probe", _PROBE), ("accepted", _ACCEPTED)):
        found = pattern.fullmatch(message)
        if found is not None:
            return Login(
                outcome=outcome,
                user=name(found["user"]),
                address=name(found["address"], 255),
                method=name(found.groupdict().get("method", "")),
                forged=_SENTENCE.search(found["user"]) is not None,
            )
    return None


def _account(message: str) -> Account | None:
    if found := _ADDED.fullmatch(message):
        return Account(user=name(found["user"]), change=f"added (uid {found['uid']})")
    if found := _JOINED.fullmatch(message):
        return Account(user=name(found["user"]), change=f"joined group {name(found['group'])}")
    if found := _REMOVED.fullmatch(message):
        return Account(user=name(found["user"]), change="removed")
    return None


def name(text: str, limit: int = _NAME_LIMIT) -> str:
    return shown.text(text, limit)
