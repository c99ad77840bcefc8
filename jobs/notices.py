"""Delivers one of the daemon's notices to one target: the job that each target of `[notify]` in config.toml becomes.

Runs as any other job, in a box, started by the end of the run that it tells of (supervisor/notices.py). What may work later
ends with 75, and is tried again as the job's definition says; what will not, with 1. The key of a message is its run's, so
that every attempt carries the same.
"""

import socket
import sys
from collections.abc import Mapping
from typing import Any

from lnmt_scheduler.jobs import delivery, needs
from lnmt_scheduler.jobs.context import JobContext

#: EX_TEMPFAIL, sysexits.h.
_LATER = 75


def deliver(target: Mapping[str, Any], *, context: JobContext | None = None) -> dict[str, Any]:
    """Tell this target what the event says."""
    event = context.event if context is not None and isinstance(context.event, Mapping) else {}
    try:
        found = delivery.target({**target, **({"to": event["to"]} if event.get("to") else {})})
    except ValueError as error:
        needs.end(f"the target is none: {error}")
    run = context.run_id if context is not None else 0
    message = compose(event, f"{socket.gethostname()} {run}")
    try:
        delivery.send(found, message, needs.secret)
    except delivery.TemporaryError as error:
        print(f"not delivered, to be tried again: {error}", file=sys.stderr)
        raise SystemExit(_LATER) from None
    except delivery.FailedError as error:
        print(f"not delivered: {error}", file=sys.stderr)
        raise SystemExit(1) from None
    return {"subject": message.subject}


def compose(event: Mapping[str, Any], key: str) -> delivery.Message:
    """The words for what has happened: facts of a run as a hook tells them, or nothing, for a test."""
    host = socket.gethostname()
    if not event.get("job_id"):
        return delivery.Message(
            key=key,
            subject=f"[{host}] a test of schedctl notify",
            text="This is a test. Whoever reads it would have read of a failure.\n",
            facts={"test": True},
        )
    job, status, reason = event["job_id"], event.get("status"), event.get("reason")
    said = {"failed": f"failed: {reason}", "completed": "completed", "cancelled": "was cancelled"}.get(
        str(status), str(status)
    )
    if reason == "exit" and event.get("exit_code") is not None:
        said = f"failed: exit code {event['exit_code']}"
    if status == "completed" and event.get("is_change"):
        said = "is well again"
    times = event.get("failures") or 0
    lines = [
        f"job      {job}",
        f"run      {event.get('run_id')}",
        f"status   {status}{f' ({reason})' if reason else ''}",
        f"started  {event.get('start_time') or '-'}",
        f"ended    {event.get('end_time') or '-'}",
        *([f"failing  for {times} runs, since {event.get('failing_since')}"] if times > 1 else []),
        *(["", str(event["error"]).rstrip()] if event.get("error") else []),
        *(["", "the end of its output:", "", str(event["output"]).rstrip()] if event.get("output") else []),
        "",
        f"More: schedctl logs {event.get('run_id')}",
    ]
    facts = {name: value for name, value in event.items() if name != "to"}
    return delivery.Message(key=key, subject=f"[{host}] job {job} {said}", text="\n".join(lines) + "\n", facts=facts)
