"""Alerts on their way: decided and composed in one transaction, then delivered one message at a time.

A run that is killed before the transaction has decided nothing, and the next decides the same; one that is killed after it
leaves messages, which the next delivers. Only in the moment between a server's "taken" and the row that says so is it
not known: such a message is sent again, with the same key and the same words, by which the receiver knows it (delivery.py).

No target waits for another one, and no message for one that its target will not have. Such a message is given up in the
end, but only of a target that takes others: where it refuses all of them the fault is the target's, and they wait.
"""

import hashlib
import json
import os
import socket
import sqlite3
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from lnmt_scheduler.jobs import alerting, delivery, memory

_SQL = memory.statements("outbox")
_VERSION = 1
#: Messages to one target in one run.
_AT_ONCE = 100
#: How often a message is refused for good before it is given up.
_REFUSALS = 20
_KEPT_MS = 60 * 86_400_000
#: Alerts that one message lists in full.
_LISTED = 50

Decide = Callable[[alerting.State], tuple[alerting.State, list[alerting.Alert]]]


class NotDeliveredError(Exception):
    """Some messages are still to be sent; the next run tries again."""


class Outbox:
    def __init__(self, state_dir: str) -> None:
        self._path = os.path.join(state_dir, "alerts.db")

    def decide(self, decide: Decide, now: int, targets: Sequence[str]) -> tuple[int, list[alerting.Alert]]:
        """Put what is decided of the state there is in its place, and make messages of what may be told now.

        How many conditions hold, and the alerts that are new.
        """
        with memory.opened(self._path, _SQL["schema"], _VERSION) as db:
            state, alerts = decide(_state(db))
            db.execute(_SQL["clear_conditions"])
            db.executemany(
                _SQL["put_condition"],
                [(*place, each.since, each.told, each.times, each.text) for place, each in state.open.items()],
            )
            db.executemany(_SQL["put_last"], [(*place, run) for place, run in state.last.items()])
            db.executemany(
                _SQL["put_alert"], [(each.key, json.dumps(asdict(each)), each.due, each.at) for each in alerts]
            )
            self._compose(db, now, targets)
            db.execute(_SQL["forget_messages"], (now - _KEPT_MS,))
            db.execute(_SQL["forget_alerts"], (now - _KEPT_MS,))
            return len(state.open), alerts

    def _compose(self, db: sqlite3.Connection, now: int, targets: Sequence[str]) -> None:
        """One message for each target, with all that is to be told there."""
        waiting = [json.loads(text) for _, text in db.execute(_SQL["due"], (now,))]
        for target in targets:
            mine = [alert for alert in waiting if not alert["targets"] or target in alert["targets"]]
            for at in range(0, len(mine), _LISTED):
                db.execute(_SQL["put_message"], _message(target, mine[at : at + _LISTED], now))
        db.executemany(_SQL["composed"], [(alert["key"],) for alert in waiting])

    def deliver(
        self, targets: Mapping[str, delivery.AnyTarget], secret: delivery.Secret, now: int
    ) -> tuple[int, list[str]]:
        """Send to each target in order what is to be sent, until it cannot take any; how many, and what went wrong."""
        sent, failed = 0, []
        self._drop(targets)
        for name, target in targets.items():
            with memory.opened(self._path, _SQL["schema"], _VERSION) as db:
                waiting = db.execute(_SQL["unsent"], (name, _AT_ONCE)).fetchall()
            problem = None
            for number, key, subject, text, facts, made, refusals in waiting:
                message = delivery.Message(key=key, subject=subject, text=text, facts=json.loads(facts))
                error = delivery.attempt(target, message, secret)
                with memory.opened(self._path, _SQL["schema"], _VERSION) as db:
                    if error is None:
                        sent += 1
                        db.execute(_SQL["sent"], (now, number))
                        continue
                    problem = error
                    if isinstance(error, delivery.TemporaryError):
                        db.execute(_SQL["failed"], (str(error)[:500], number))
                        break
                    db.execute(_SQL["refused"], (str(error)[:500], number))
                    if refusals + 1 >= _REFUSALS and db.execute(_SQL["takes"], (name, made)).fetchone():
                        print(f"given up, since {name} has refused it {refusals + 1} times: {subject}: {error}")
                        db.execute(_SQL["give_up"], (now, number))
            if problem is not None:
                failed.append(f"{name}: {problem}")
        return sent, failed

    def _drop(self, targets: Mapping[str, delivery.AnyTarget]) -> None:
        """Forget what waits for targets that were taken away: nobody will ever have it."""
        with memory.opened(self._path, _SQL["schema"], _VERSION) as db:
            for name, count in db.execute(_SQL["waiting"]).fetchall():
                if name not in targets:
                    print(f"{name} is no target any more; not sent: {count} message{'s' * (count > 1)}")
                    db.execute(_SQL["drop"], (name,))

    def pending(self) -> tuple[int, int]:
        """Messages that are still to be sent, and alerts that wait for the end of quiet hours."""
        with memory.opened(self._path, _SQL["schema"], _VERSION) as db:
            found: tuple[int, int] = db.execute(_SQL["pending"]).fetchone()
            return found


def _state(db: sqlite3.Connection) -> alerting.State:
    return alerting.State(
        {
            (rule, job): alerting.Open(since=since, told=told, times=times, text=text)
            for rule, job, since, told, times, text in db.execute(_SQL["conditions"])
        },
        {(rule, job): run for rule, job, run in db.execute(_SQL["last"])},
    )


def _message(target: str, alerts: Sequence[Mapping[str, Any]], now: int) -> tuple[Any, ...]:
    host = socket.gethostname()  # its runs are numbered as another's are
    keys = sorted(alert["key"] for alert in alerts)
    key = hashlib.sha256(json.dumps([host, target, keys]).encode()).hexdigest()[:32]
    worst = sorted(alerts, key=lambda alert: (alert["phase"] == "recovered", alert["severity"] != "critical"))
    first = worst[0]
    words = {"first": "", "still": "still: ", "recovered": "recovered: "}
    subject = f"{words[first['phase']]}{first['job_id']} {first['text']}"
    if len(alerts) > 1:
        count = sum(alert["phase"] != "recovered" for alert in alerts)
        subject = f"{count} alerts, {len(alerts) - count} recovered: {first['job_id']} {first['text']}"
    lines = [
        f"{alert['severity'].upper() if alert['phase'] != 'recovered' else 'OK':8} {words[alert['phase']]}{alert['job_id']}: "
        f"{alert['text']} ({alert['rule']})"
        for alert in worst
    ]
    facts = {
        "alerts": [
            {name: alert[name] for name in ("key", "rule", "job_id", "phase", "severity", "text", "since", "at")}
            for alert in worst
        ]
    }
    text = "\n".join(lines) + "\n\nschedctl history --job JOB and schedctl logs JOB tell more.\n"
    return key, target, f"[{host}] {subject}"[:200], text, json.dumps(facts), now
