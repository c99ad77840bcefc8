"""Who may start, and when: what overlap, catch_up, jitter, start_deadline, pools and priorities promise of any history.

Asked by rules.py with what it knows of a history; each answer is a finding, or None or nothing where all is well.
"""

import collections
import itertools
from collections.abc import Iterator

from checking.evidence import Finding

# Reasons.


def limit(definition: dict) -> int:
    """How many runs its schedule may have at a time."""
    return definition.get("max_instances", 1) if definition.get("overlap") == "allow" else 1


def lines_up(definition: dict) -> bool:
    """Whether a slot of it may wait for runs of its own job."""
    return definition.get("overlap") in ("queue", "replace") or definition.get("catch_up") == "all"


def unexcused_overlap(case, row: dict) -> str | None:
    definition = case.definition(row)
    if definition.get("overlap") in ("queue", "replace"):
        return f"its job says {definition['overlap']}"
    others = (each for each in case.rows_of[row["job_uid"]] if each["run_id"] < row["run_id"])
    needed = limit(definition)
    found = sum(1 for _ in itertools.islice((each for each in others if case.open_at(each, row)), needed))
    return None if found >= needed else f"{found} runs of it were open then, and {needed} are allowed"


def was_in_line(case, row: dict) -> bool:
    """Whether a slot may be coalesced for the sake of a newer one that came while it waited, or for all that waited."""
    rows = case.rows_of[row["job_uid"]]
    before = [each for each in rows if each["run_id"] < row["run_id"] and case.open_at(each, row)]
    if case.definition(row).get("catch_up") == "all" and len(before) >= case.found.line:
        return True
    newer = any(each["run_id"] > row["run_id"] and each["queued"] == row["end_time"] for each in rows)
    return case.definition(row).get("overlap") == "queue" and bool(before) and newer


def unexcused_end(case, row: dict) -> str | None:
    """Why a run had no cause to be superseded, replaced or too late; None if it had."""
    newer = [
        each for each in case.rows_of[row["job_uid"]] if each["run_id"] > row["run_id"] and each["trigger"] != "manual"
    ]
    match row["reason"]:
        case "superseded":
            if not row["attempts"]:
                return "it had not run"
            then = [each for each in newer if each["queued"] == row["end_time"]]
            if not then:
                return "nothing was decided then"
            return "every slot of its job counts" if case.definition(then[0]).get("catch_up") == "all" else None
        case "replaced":
            able = (each for each in newer if case.definition(each).get("overlap") == "replace")
            seen = any(each["queued"] <= row["end_time"] + case.set_back for each in able)
            return None if seen else "nothing came that replaces"
        case "deadline":
            patience = case.definition(row).get("start_deadline")
            if patience is None:
                return "its job has no deadline"
            if case.witnesses.get(row["run_id"]):
                return "it had started"
            early = row["end_time"] - row["slot"] < patience * 1000 and not case.set_back
            return "it had time left" if early else None
        case _:
            return None


# Rules.


def findings(case) -> Iterator[Finding]:
    yield from _pools(case)
    yield from _policies(case)
    yield from _jitter(case)
    yield from _aging(case)


def _pools(case) -> Iterator[Finding]:
    for pool, places in case.found.pools.items():
        edges = []
        for witness in case.found.witnesses:
            run = case.runs.get(witness.run_id)
            if run is not None and case.definition(run).get("pool") == pool:
                edges += [(witness.start, 1, witness), (case.until(witness), -1, witness)]
        count = 0
        for at, change, witness in sorted(edges, key=lambda edge: edge[:2]):
            count += change
            if count > places and change > 0:
                seen = f"{count} at {at}, the last of them run {witness.run_id} of {witness.job}"
                yield Finding(rule=17, about=f"pool {pool}", expected=f"at most {places} at a time", seen=seen)


def _policies(case) -> Iterator[Finding]:
    for run in case.runs.values():
        definition, witnesses = case.definition(run), case.witnesses.get(run["run_id"], [])
        if run["trigger"] == "catch_up" and definition.get("catch_up") == "skip":
            yield Finding(rule=18, about=case.name(run), expected="that it is missed", seen="it was caught up")
        patience = definition.get("start_deadline")
        if None in (patience, run["slot"], run["start_time"]) or not witnesses or witnesses[0].attempt != 1:
            continue
        start = witnesses[0].start
        decided = min(
            start, case.clock.first_true(run["start_time"], case.clock.first_true(run["slot"], case.found.begin))
        )
        # Started in time, and held up by a fault before its first line.
        shown = run["start_time"] if case.disturbed.touches(decided, start) else case.clock.wall(start)
        late = shown - run["slot"] - (patience + definition.get("jitter", 0)) * 1000
        if late > case.late and not case.clock.stepped(case.clock.first_true(run["slot"], case.found.begin), start):
            yield Finding(
                rule=18, about=case.name(run), expected=f"its start within {patience} s", seen=f"{late} ms late"
            )


def _jitter(case) -> Iterator[Finding]:
    """A slot is put off by the same while each time: seen where nothing disturbed its decision."""
    offsets = collections.defaultdict(list)
    # What is due is decided before anything of its job is changed or paused.
    asked = [at for change in case.found.changes for at in (change.sent, change.until)]
    for run in case.runs.values():
        jitter = case.definition(run).get("jitter", 0) * 1000
        life = case.life.get(run["job_uid"])
        if not jitter or life is None or run["slot"] not in life.due or run["slots"] > 1 or run["reason"] == "paused":
            continue
        due, off = life.due[run["slot"]], run["queued"] - run["slot"]
        changed = any(due - case.late <= at <= due + jitter + case.late for at in asked)
        if changed or case.disturbed.touches(due - 1000, due + jitter + case.late):
            continue
        if off > jitter + case.late:
            continue  # late for another reason, which is lateness()'s matter
        if off < 0:
            yield Finding(rule=18, about=case.name(run), expected="nothing before its slot", seen=f"{off} ms")
        offsets[run["job_id"], jitter].append((off, run))
    for (_, jitter), found in offsets.items():
        (least, _), (most, run) = (edge(found, key=lambda each: each[0]) for edge in (min, max))
        if most - least > case.late:
            seen = f"{least} ms at one time, {most} at another"
            yield Finding(rule=18, about=case.name(run), expected=f"the same part of {jitter} ms", seen=seen)


def _aging(case) -> Iterator[Finding]:
    """A run that is ready is passed only by what came less than (5 - priority) intervals after it."""
    starts = []
    for run_id, witnesses in case.witnesses.items():
        run = case.runs.get(run_id)
        if run is None or run["trigger"] == "catch_up" or witnesses[0].attempt != 1:
            continue
        definition = case.definition(run)
        # Since when the others are ready cannot be told from outside.
        is_plain = not definition.get("dependencies") and not lines_up(definition)
        starts.append((witnesses[0].start, run, definition.get("pool"), is_plain))
    starts.sort(key=lambda each: each[0])
    waits = sorted(
        ((run["queued"], start, run, pool) for start, run, pool, is_plain in starts if is_plain and run["slot"]),
        key=lambda each: each[0],
    )
    interval = case.found.aging * 1000
    for queued, start, run, pool in waits:
        bound = queued + (5 - run["priority"]) * interval + case.late
        since = start - (case.clock.wall(start) - queued)
        if case.clock.wall(start) <= bound or case.holds.touches(since, start):
            continue
        for then, other, its_pool, _ in starts:
            if then >= start:
                break
            passes = then > since and pool in (None, its_pool) and (run["priority"] >= 3 or other["priority"] < 3)
            # What became ready when the clock was ahead tells another time.
            if passes and bound < other["queued"] <= case.clock.wall(then):
                seen = f"run {other['run_id']} of priority {other['priority']}, ready at {other['queued']}, began before it"
                expected = f"its turn before what came after {bound}"
                yield Finding(rule=19, about=case.name(run), expected=expected, seen=seen)
                break
