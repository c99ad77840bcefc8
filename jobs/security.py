"""Security log: who failed to log in and from where, who got in from a new address, sudo that was refused, new accounts.

Reads what systemd's journal or the files of syslog have got since the last run. What is found is printed first and
remembered then, in one transaction with how far the logs were read: a run that is killed has it told again, and none is lost
or counted twice.
"""

import json
import os
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from lnmt_scheduler.jobs import authlog, journald, keep, logfiles, memory

_SQL = memory.statements("security")
_VERSION = 1
#: Of what is named one by one, so many.
_NAMED = 20
_ADDRESSES_MAX = 10_000
_OTHERS = "(others)"
_REMEMBERED_MAX = 100_000
_PASSWD_LIMIT = 4 * 1024 * 1024


@dataclass(slots=True, kw_only=True)
class Attempts:
    """What came from one address in this run."""

    failed: int = 0
    guesses: int = 0
    probes: int = 0
    accepted: int = 0
    #: Names that were tried, and those that got in; a few.
    users: set[str] = field(default_factory=set)
    welcome: set[str] = field(default_factory=set)

    @property
    def bad(self) -> int:
        return self.failed + self.guesses + self.probes


@dataclass(slots=True, kw_only=True)
class Tally:
    """What the logs said in this run."""

    lines: int = 0
    forged: int = 0
    gap: bool = False
    behind: bool = False
    addresses: dict[str, Attempts] = field(default_factory=dict)
    sudo: dict[tuple[str, str], int] = field(default_factory=dict)
    accounts: list[str] = field(default_factory=list)

    def add(self, program: str, message: str, forged: bool) -> None:
        found = authlog.event(program, message)
        if found is None:
            return
        self.lines += 1
        if forged:
            self.forged += 1
            return  # told, and believed in nothing
        match found:
            case authlog.Login():
                self.forged += found.forged
                self._login(found)
            case authlog.Sudo():
                key = (found.user, found.why)
                if key in self.sudo or len(self.sudo) < _ADDRESSES_MAX:
                    self.sudo[key] = self.sudo.get(key, 0) + 1
            case authlog.Account():
                if len(self.accounts) < _ADDRESSES_MAX:
                    self.accounts.append(f"{found.user}: {found.change}")

    def _login(self, login: authlog.Login) -> None:
        known = login.address in self.addresses or len(self.addresses) < _ADDRESSES_MAX
        each = self.addresses.setdefault(login.address if known else _OTHERS, Attempts())
        match login.outcome:
            case "failed":
                each.failed += 1
            case "guess":
                each.guesses += 1
            case "probe":
                each.probes += 1
            case _:
                each.accepted += 1
        names = each.welcome if login.outcome == "accepted" else each.users
        if len(names) < 5:
            names.add(login.user)


def analyze(
    state_dir: str,
    now: float,
    *,
    files: Sequence[str],
    journal: bool,
    directory: str | None = None,
    limit: int,
    passwd: str = "/etc/passwd",
) -> dict[str, Any]:
    """Read what is new, tell and return it. OSError if a log cannot be read."""
    with memory.opened(os.path.join(state_dir, "security.db"), _SQL["schema"], _VERSION) as file:
        tally = Tally()
        if journal:
            _read_journal(file, tally, limit, directory)
        for path in files:
            _read_file(file, tally, path, limit)
        new, strangers = _first_seen(file, tally)
        changed = _accounts(file, passwd)
        found = _report(tally, new, changed, strangers, "journal" if journal else "files")
        for line in tell(found):
            print(line)
        _remember(file, tally, int(now))
    return found


def _read_journal(file: sqlite3.Connection, tally: Tally, limit: int, directory: str | None) -> None:
    kept = file.execute(_SQL["mark"], ("journal",)).fetchone()
    cursor = None if kept is None else json.loads(kept[0])
    batch = journald.read(authlog.PROGRAMS, cursor, "-1d", limit, directory)
    for entry in batch.entries:
        tally.add(entry.program, entry.message, entry.forged)
    tally.gap |= batch.gap
    tally.behind |= batch.behind
    if batch.cursor is not None:
        file.execute(_SQL["put_mark"], ("journal", json.dumps(batch.cursor)))


def _read_file(file: sqlite3.Connection, tally: Tally, path: str, limit: int) -> None:
    kept = file.execute(_SQL["mark"], (path,)).fetchone()
    mark = None if kept is None else logfiles.Mark.unpacked(json.loads(kept[0]))
    batch = logfiles.read(path, mark, limit)
    for line in batch.lines:
        found = authlog.entry(line.decode(errors="backslashreplace"))
        if found is not None and found[0] in authlog.PROGRAMS:
            tally.add(*found, forged=False)
    tally.gap |= batch.gap
    tally.behind |= batch.behind
    file.execute(_SQL["put_mark"], (path, json.dumps(batch.mark.packed())))


def _first_seen(file: sqlite3.Connection, tally: Tally) -> tuple[list[str], int]:
    """Addresses that got in and never had before, and how many of those that failed were never seen at all."""
    welcome, strangers = [], 0
    for address, each in tally.addresses.items():
        before = file.execute(_SQL["address"], (address,)).fetchone()
        if each.accepted and (before is None or not before[1]):
            welcome.append(address)
        strangers += before is None and each.bad > 0 and address != _OTHERS
    return welcome, strangers


def _accounts(file: sqlite3.Connection, passwd: str) -> list[str]:
    """What has changed in passwd since the last run, which no log is needed for; nothing on the first."""
    before = dict(file.execute(_SQL["accounts"]).fetchall())
    after: dict[str, int] = {}
    for line in keep.read_bytes(passwd, _PASSWD_LIMIT).decode(errors="backslashreplace").splitlines():
        parts = line.split(":")
        if len(parts) == 7 and parts[2].isdigit():
            after.setdefault(authlog.name(parts[0]), int(parts[2]))
    file.execute(_SQL["drop_accounts"])
    file.executemany(_SQL["put_account"], after.items())
    if not before:
        return []
    return [
        *(f"{name} (uid {uid})" for name, uid in after.items() if name not in before),
        *(f"{name} (uid {uid}, was {before[name]})" for name, uid in after.items() if before.get(name, uid) != uid),
    ]


def _report(tally: Tally, new: Sequence[str], accounts: Sequence[str], strangers: int, source: str) -> dict[str, Any]:
    bad = sorted(
        ((address, each) for address, each in tally.addresses.items() if each.bad),
        key=lambda pair: (-pair[1].bad, pair[0]),
    )
    return {
        "source": source,
        "lines": tally.lines,
        "failed": sum(each.failed for _, each in bad),
        "guesses": sum(each.guesses for _, each in bad),
        "probes": sum(each.probes for _, each in bad),
        "sources": len(bad),
        "new_sources": strangers,
        "by_source": [
            {"address": address, "failed": each.failed, "guesses": each.guesses, "probes": each.probes,
             "users": sorted(each.users)}
            for address, each in bad[:_NAMED]
        ],
        "new_addresses": [
            {"address": address, "users": sorted(tally.addresses[address].welcome),
             "failed_before": tally.addresses[address].bad}
            for address in new[:_NAMED]
        ],
        "new_addresses_count": len(new),
        "sudo": [
            {"user": user, "why": why, "count": count}
            for (user, why), count in sorted(tally.sudo.items(), key=lambda pair: -pair[1])[:_NAMED]
        ],
        "sudo_count": sum(tally.sudo.values()),
        "new_accounts": list(accounts[:_NAMED]),
        "account_log": tally.accounts[:_NAMED],
        "forged": tally.forged,
        "gap": tally.gap,
        "behind": tally.behind,
    }  # fmt: skip


def tell(found: dict[str, Any]) -> Iterable[str]:
    """The same for people, a line for each thing."""
    for each in found["by_source"]:
        counts = ", ".join(f"{each[kind]} {kind}" for kind in ("failed", "guesses", "probes") if each[kind])
        yield f"{each['address']}: {counts}, as {', '.join(each['users'])}"
    if found["sources"] > len(found["by_source"]):
        yield f"and {found['sources'] - len(found['by_source'])} sources more"
    for each in found["new_addresses"]:
        yield f"new address {each['address']}: {', '.join(each['users'])} logged in"
    for each in found["sudo"]:
        yield f"sudo: {each['user']}: {each['why']} ({each['count']})"
    for line in found["new_accounts"]:
        yield f"new account {line}"
    for line in found["account_log"]:
        yield f"account {line}"
    if found["forged"]:
        yield f"{found['forged']} lines that are not what they claim to be"
    if found["gap"]:
        yield "lines were lost: a log was truncated, or rotated away, since the last run"
    if found["behind"]:
        yield "there is more in the logs than one run takes; the next one goes on"


def _remember(file: sqlite3.Connection, tally: Tally, now: int) -> None:
    file.executemany(
        _SQL["put_address"],
        (
            (address, now, now, each.bad, each.accepted)
            for address, each in tally.addresses.items()
            if address != _OTHERS
        ),
    )
    (known,) = file.execute(_SQL["count_addresses"]).fetchone()
    if known > _REMEMBERED_MAX:
        file.execute(_SQL["drop_addresses"], (known - _REMEMBERED_MAX,))
