"""What must hold of runs that no schedule asks for, and of pauses: a part of the checker (rules.py), with its knowledge.

Which run a hook's run is told of, and which runs one that comes after others builds on, is what their rows say that the job
was given; whether that is right follows from definitions, statuses and the jobs' own witnesses.
"""

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING

from checking import evidence
from checking.evidence import Finding

if TYPE_CHECKING:
    from checking import lives
    from checking.rules import _Case

HOOKS = {"on_success": "completed", "on_failure": "failed"}
ENDED = ("completed", "failed", "cancelled")
#: A decision is not later than so many ms after what it follows from, where nothing disturbs it.
SOON = 2000


def links(definition: dict) -> list[tuple[str, str]]:
    """(parent, when) of each dependency."""
    return [
        (each, "ok") if isinstance(each, str) else (each["job"], each["when"])
        for each in definition.get("dependencies", ())
    ]


def satisfies(status: str, when: str) -> bool:
    return status in {"ok": ("completed",), "failed": ("failed",), "any": (*ENDED, "skipped")}[when]


class Chains:
    def __init__(self, case: "_Case") -> None:
        self.case = case
        self.requests = {run_id: json.loads(row["request"] or "{}") for run_id, row in case.runs.items()}
        #: Of each target: (sent, acknowledged or None, seconds) of pauses, and (sent, known) of resumes, in order.
        self.pauses: dict[str, list[evidence.Change]] = {}
        for change in sorted(case.found.changes, key=lambda change: change.sent):
            if change.action in ("pause", "resume"):
                self.pauses.setdefault(change.job, []).append(change)

    def findings(self) -> Iterator[Finding]:
        yield from self.hooks()
        yield from self.after()
        yield from self.events()
        yield from self.pauses_held()

    # 13

    def hooks(self) -> Iterator[Finding]:
        started: dict[tuple[int, str], list[dict]] = {}
        for run_id, row in self.case.runs.items():
            if row["trigger"] != "hook":
                continue
            event = self.requests[run_id].get("event", {})
            before = self.case.runs.get(event.get("run_id"))
            about = self.case.name(row)
            key = event.get("hook", "")
            if before is None or HOOKS.get(key) != before["status"]:
                seen = f"{key} of {event.get('run_id')}, which is {before and before['status']}"
                yield Finding(rule=13, about=about, expected="a run that ended so", seen=seen)
                continue
            started.setdefault((before["run_id"], key), []).append(row)
        for run_id, row in self.case.runs.items():
            definition = self.case.definition(row)
            for key, status in HOOKS.items():
                wanted = definition.get(key, []) if row["status"] == status else []
                found = started.get((run_id, key), [])
                about = f"{key} of {self.case.name(row)}"
                if len(found) > len(wanted):
                    yield Finding(rule=13, about=about, expected=f"{len(wanted)} runs", seen=f"{len(found)}")
                elif len(found) < len(wanted) and all(map(self.is_there, wanted)):
                    yield Finding(rule=13, about=about, expected=f"a run of {wanted[0]}", seen="none")

    def is_there(self, name: str) -> bool:
        """Whether the job of this name was never removed, so that it can be started at any time."""
        known = [life for life in self.case.lives if name == life.job or any(name == each for _, each in life.names)]
        return bool(known) and all(life.changes[-1][1] != "remove" for life in known)

    # 14

    def after(self) -> Iterator[Finding]:
        for life in self.case.lives:
            rows = sorted(self.case.rows_of[life.uid], key=lambda row: row["run_id"])
            used: dict[tuple[int, int], int] = {}
            for row in rows:
                if row["trigger"] != "dependency" or row["run_id"] not in self.case.witnesses:
                    continue
                start = self.case.witnesses[row["run_id"]][0].start
                parents = self.requests[row["run_id"]].get("parents", {})
                for name, when in links(self.case.definition(row)):
                    about = f"{self.case.name(row)}, which comes after {name}"
                    parent = self.case.runs.get(parents.get(name))
                    if parent is None or not self.case.over_before(parent, when, start):
                        seen = f"run {parents.get(name)}, {parent and parent['status']}"
                        yield Finding(rule=14, about=about, expected=f"a result ({when}) by {start}", seen=seen)
                        continue
                    key = (parent["job_uid"], parent["run_id"])
                    if key in used:
                        seen = f"run {parent['run_id']}, on which run {used[key]} had started"
                        yield Finding(rule=14, about=about, expected="a result that it had not had", seen=seen)
                    used[key] = row["run_id"]
                yield from self.meanwhile(life, row)
            yield from self.forgotten(life, rows)

    def meanwhile(self, life: "lives.Life", row: dict) -> Iterator[Finding]:
        """All that it asks for came while it ran, and no other run of it was decided as soon as that was over."""
        witnesses = self.case.witnesses[row["run_id"]]
        start, over = witnesses[0].start, witnesses[-1].end
        if over is None or over <= start + 2 * SOON or row["status"] not in ENDED:
            return
        version = life.at(start)
        undisturbed = not self.case.disturbed.touches(over - SOON, over + SOON)
        if (
            version is not life.at(over + SOON)
            or not version.enabled
            or not undisturbed
            or self.may_be_paused(life, over)
        ):
            return
        wanted = links(version.definition)
        if version.definition.get("schedule") or not all(
            any(self.came_between(found, when, start + SOON, over - SOON) for found in self.named(name, over))
            for name, when in wanted
        ):
            return
        wall = self.case.clock.wall(over)
        others = (each for each in self.case.rows_of[life.uid] if each["run_id"] > row["run_id"])
        if not any(abs(each["queued"] - wall) <= SOON or each["queued"] < wall for each in others):
            about = f"{self.case.name(row)}, over at {over}"
            yield Finding(rule=14, about=about, expected="another run, for what came meanwhile", seen="none")

    def named(self, name: str, true: int) -> list[dict]:
        """The rows of the job that had this name then."""
        return [row for life in self.case.lives if life.had_name(name, true) for row in self.case.rows_of[life.uid]]

    def came_between(self, row: dict, when: str, begin: int, end: int) -> bool:
        witnesses = self.case.witnesses.get(row["run_id"], ())
        over = witnesses[-1].end if witnesses else None
        if row["reason"] not in (None, "warning", "exit", "exception"):
            return False  # the run was over when something else was: the next slot came, somebody cancelled it
        return over is not None and begin < over < end and row["status"] != "skipped" and satisfies(row["status"], when)

    def may_be_paused(self, life: "lives.Life", true: int) -> bool:
        names = {evidence.SCHEDULE, life.job, *(name for _, name in life.names)}
        for target in names:
            last = None
            for change in self.pauses.get(target, ()):
                if change.sent <= true and (change.action == "pause" or (change.acked and change.until < true)):
                    last = change
            if last is not None and last.action == "pause":
                return True
        return False

    def forgotten(self, life: "lives.Life", rows: list[dict]) -> Iterator[Finding]:
        """A result of each parent has come since its last start, and it has not started."""
        version = life.versions[-1]
        wanted = links(version.definition)
        if version.definition.get("schedule") or not wanted or not version.enabled or life.changes[-1][1] == "remove":
            return
        ours = [each.start for row in rows for each in self.case.witnesses.get(row["run_id"], ())]
        if any(row["start_time"] and not self.case.witnesses.get(row["run_id"]) for row in rows):
            return  # it could not be forked, and left no witness
        # Where one of them came to nothing it may be that no result was left.
        if any(
            row["status"] == "skipped" or (row["trigger"] == "dependency" and not row["start_time"]) for row in rows
        ):
            return
        if any(row["status"] in ("pending", "running", "retrying") for row in rows):
            return
        since = max([version.begin, *ours])
        for name, when in wanted:
            parent = next((each for each in self.case.lives if each.had_name(name, self.case.found.end)), None)
            if parent is None or not any(self.came(row, when, since) for row in self.case.rows_of[parent.uid]):
                return
        expected = "a start on the results that have come"
        yield Finding(rule=14, about=f"job {life.job}", expected=expected, seen=f"none since {since}")

    def came(self, row: dict, when: str, since: int) -> bool:
        witnesses = self.case.witnesses.get(row["run_id"], ())
        return bool(witnesses) and row["status"] != "skipped" and satisfies(row["status"], when) and (
            witnesses[-1].end is not None and since + SOON < witnesses[-1].end < self.case.found.end - 60_000
        )  # fmt: skip

    # 15

    def events(self) -> Iterator[Finding]:
        known: dict[int, evidence.Change] = {}
        for change in self.case.found.changes:
            if change.action != "trigger":
                continue
            known |= dict.fromkeys(change.run_ids, change)
            about = f"event {change.job} at {change.sent}"
            rows = [self.case.runs.get(run_id) for run_id in change.run_ids] if change.acked else []
            if any(row is None or row["trigger"] != "event" for row in rows):
                yield Finding(
                    rule=15, about=about, expected="the rows that the client was told", seen=f"{change.run_ids}"
                )
                continue
            got = sorted(row["job_uid"] for row in rows if row is not None)
            if change.acked and got != sorted(set(got)):
                yield Finding(rule=15, about=about, expected="one run of each job", seen=f"{got}")
            for life in self.case.lives if change.acked else ():
                if life.uid not in got and self.names_it(life, change):
                    yield Finding(rule=15, about=about, expected=f"a row of {life.job}", seen="none")

    def names_it(self, life: "lives.Life", change: evidence.Change) -> bool:
        """Whether it named this event all the time."""
        if not life.begin < change.sent - 1000 < change.until + 1000 < life.end:
            return False
        ends = (life.at(change.sent - 1000), life.at(change.until + 1000))
        return ends[0] is ends[1] and ends[0].definition.get("on_event") == change.job

    # 16

    def unpaused(self, life: "lives.Life", row: dict) -> str | None:
        """Why this row cannot be one of a pause; None if it can."""
        targets = {evidence.SCHEDULE, life.job, *(name for _, name in life.names)}
        begun = [
            change.sent for target in targets for change in self.pauses.get(target, ()) if change.action == "pause"
        ]
        seen = self.case.decided_by(row["run_id"])
        return None if any(sent <= seen for sent in begun) else "nobody had paused it"

    def pauses_held(self) -> Iterator[Finding]:
        steps = [fault.begin for fault in self.case.found.faults if fault.kind == "step"]
        for life in self.case.lives:
            rows = {row["slot"]: row for row in self.case.rows_of[life.uid] if row["slot"] is not None}
            for begin, end in self.sure(life):
                if any(begin <= at <= end for at in steps):
                    continue
                for slot in life.must:
                    row = rows.get(slot)
                    began = [] if row is None else self.case.witnesses.get(row["run_id"], [])
                    if row is not None and began and begin < life.due[slot] <= began[0].start < end:
                        seen = f"run {row['run_id']} began at {began[0].start}"
                        about = f"slot {slot} of {life.job}, paused from {begin} to {end}"
                        yield Finding(rule=16, about=about, expected="a row of the pause", seen=seen)

    def sure(self, life: "lives.Life") -> Iterator[tuple[int, int]]:
        """True times between which the job was paused for certain."""
        for target in (evidence.SCHEDULE, life.job):
            changes = self.pauses.get(target, ())
            for number, change in enumerate(changes):
                if (
                    change.action != "pause"
                    or not change.acked
                    or (target == life.job and not life.begin < change.sent < life.end)
                ):
                    continue
                end = min([each.sent for each in changes[number + 1 :]], default=self.case.found.end)
                if change.seconds is not None:
                    end = min(end, change.sent + round(change.seconds * 1000))
                if target == life.job:
                    end = min(
                        [
                            end,
                            life.end,
                            *(at for at, verb in life.changes if at > change.sent and verb in ("rename", "remove")),
                        ]
                    )
                yield change.until + SOON, end - SOON
