"""The checker: judges one history of the daemon by what must hold of any, and says in words what does not.

It knows nothing of the daemon but the words of its tables. What had to happen comes from the clients (lives.py) and an
oracle for cron (oracle.py), what did happen from the jobs themselves, and what may excuse a difference from the log of the
faults. An empty list of findings is the verdict "good".
"""

import bisect
import collections
import itertools
import json
from collections.abc import Iterator

from checking import causes, chains, evidence, lives, order
from checking.evidence import Finding

RULES = {
    1: "each slot is decided, and what did not run has a reason that policy and faults allow",
    2: "nothing runs twice, and nothing that was not due",
    3: "no more attempts than 1 + retries, none before its back-off is over",
    4: "no more runs of a job at a time than it allows",
    5: "no child before its parent has completed",
    6: "rows and witnesses tell the same",
    7: "no process of a run that is over",
    8: "what was acknowledged is there",
    9: "nothing is late without a cause",
    10: "what may have run is not run again, unless its job allows it",
    11: "no attempt outlives its deadline, and no run stays open for ever",
    12: "nothing of a job that is off or gone is started",
    13: "the end of a run starts what its hooks name, once, and nothing else is started so",
    14: "a job after others starts once on results that it has not had, and on all that there are",
    15: "an event starts each job that names it, once",
    16: "what is paused does not start by itself, and nothing else is told as paused",
    17: "no pool has more runs than places",
    18: "nothing is caught up, put off or started later than its job says",
    19: "nobody is passed by what came later than its priority allows",
}
#: A slot that was decided less late than this ran, whatever had been the matter.
GRACE = 60_000
#: Milliseconds between a job's last word and its end, or between the death of what holds it and its own.
DYING = 500
OPEN = ("pending", "running", "retrying")
#: An attempt that ended so came to the job's first line, where the job has written that it is there.
_SEEN = (None, "warning", "exit", "exception")


def judge(found: evidence.Evidence, *, late: int = 2000) -> list[Finding]:
    """Everything that is wrong with this history. `late`: milliseconds that a start may take, and a deadline may be over."""
    return list(_Case(found, late).findings())


class _Case:
    def __init__(self, found: evidence.Evidence, late: int) -> None:
        self.found = found
        self.late = late
        self.clock = lives.Clock(found)
        self.lives, self.unknown = lives.read(found, self.clock)
        self.life = {life.uid: life for life in self.lives}
        self.runs = {row["run_id"]: row for row in found.tables["job_history"]}
        self.attempts = {(row["run_id"], row["attempt"]): row for row in found.tables["attempts"]}
        self.definitions = {row["id"]: lives.given(row) for row in found.tables["definitions"]}
        self.rows_of: dict[int, list[dict]] = collections.defaultdict(list)
        for row in found.tables["job_history"]:
            self.rows_of[row["job_uid"]].append(row)
        self.witnesses: dict[int, list[evidence.Witness]] = collections.defaultdict(list)
        for witness in sorted(found.witnesses, key=lambda each: (each.run_id, each.attempt, each.start)):
            self.witnesses[witness.run_id].append(witness)
        #: (run id, true time by which it had been decided).
        self.first_seen: list[tuple[int, int]] = []
        for run_id in sorted(self.witnesses, reverse=True):
            least = self.witnesses[run_id][0].start
            if self.first_seen:
                least = min(least, self.first_seen[-1][1])
            self.first_seen.append((run_id, least))
        self.first_seen.reverse()
        self.ends_of_jobs = sorted(fault.begin for fault in found.faults if fault.ends_jobs)
        self.chains = chains.Chains(self)
        self.disturbed = causes.of(found.faults, causes.LATE_DECISIONS)
        self.asleep = causes.of(found.faults, ["suspend"])
        self.excused = causes.of(found.faults, ["suspend", "stuck"])
        #: While one of these lasts, runs wait though there are places.
        self.holds = causes.of(found.faults, causes.LATE_DECISIONS | {"full", "drain"})
        self.boxes = causes.of(found.faults, ["box"])
        self.set_back = sum(-fault.by for fault in found.faults if fault.kind == "step" and fault.by < 0)
        self.cancels = {change.run_id for change in found.changes if change.action == "cancel"}
        self.gaps = {uid: [row for row in rows if row["slots"] > 1] for uid, rows in self.rows_of.items()}
        self.newest = {uid: max((row["slot"] or 0 for row in rows), default=0) for uid, rows in self.rows_of.items()}
        self.free_for_overlap = {
            change.run_id for change in found.changes if change.action == "run" and change.allow_overlap
        }

    def findings(self) -> Iterator[Finding]:
        for text in self.found.broken:
            yield Finding(rule=11, about="the daemon", expected="that it lives and turns", seen=text)
        yield from self.unknown
        yield from self.slots()
        yield from self.doubles()
        yield from self.tries()
        yield from self.overlaps()
        yield from self.gates()
        yield from self.agreement()
        yield from self.survivors()
        yield from self.promises()
        yield from self.lateness()
        yield from self.deadlines()
        yield from self.off()
        yield from self.chains.findings()
        yield from order.findings(self)

    # What is known of a run.

    def until(self, witness: evidence.Witness) -> int:
        """When its process was gone, at the latest that can be told."""
        if witness.end is not None:
            return witness.end
        row = self.attempts.get((witness.run_id, witness.attempt))
        ends = [at for at in self.ends_of_jobs if at >= witness.start][:1] or [self.found.end]
        if row is not None and row["duration"] and row["reason"] != "lost":
            ends.append(self.asleep.stretch(witness.start, round(row["duration"] * 1000)))
        return min(ends)

    def died_after(self, moment: int) -> bool:
        """Whether launcher or host died then or later."""
        return bool(self.ends_of_jobs) and self.ends_of_jobs[-1] >= moment - DYING

    def definition(self, run: dict) -> dict:
        return self.definitions.get(run["definition"], {})

    def name(self, run: dict) -> str:
        slot = "by hand" if run["slot"] is None else f"slot {run['slot']}"
        return f"run {run['run_id']} of {run['job_id']} ({slot})"

    # 1

    def slots(self) -> Iterator[Finding]:
        for life in self.lives:
            rows = self.rows_of[life.uid]
            exact = {row["slot"]: row for row in rows if row["slot"] is not None}
            gaps = self.gaps.get(life.uid, [])
            for slot in life.must:
                row = exact.get(slot) or next((gap for gap in gaps if gap["slot"] <= slot <= gap["slot_last"]), None)
                about = f"slot {slot} of {life.job}"
                if row is None:
                    yield Finding(rule=1, about=about, expected="a row that says what became of it", seen="none")
                elif (why := self.unexcused(life, slot, row)) is not None:
                    seen = f"{row['reason'] or row['status']} (run {row['run_id']}), but {why}"
                    yield Finding(rule=1, about=about, expected="that it runs", seen=seen)

    def unexcused(self, life: lives.Life, slot: int, row: dict) -> str | None:
        """Why the reason of a slot that did not run does not hold; None if it does."""
        due = life.due[slot]
        match row["reason"]:
            case "missed" | "coalesced" if row["status"] == "skipped":
                return self.unexcused_rest(life, slot, due, row)
            case "overlap":
                return order.unexcused_overlap(self, row)
            case "superseded" | "replaced" | "deadline":
                return order.unexcused_end(self, row)
            case "dependency":
                return None if self.definition(row).get("dependencies") else "it depends on nothing"
            case "disabled" | "removed" as reason:
                verbs = ("disable", "edit", "add") if reason == "disabled" else ("remove",)
                return None if any(verb in verbs for _, verb in life.changes) else "nobody asked for that"
            case "paused":
                return self.chains.unpaused(life, row)
            case "cancelled":
                return None if row["run_id"] in self.cancels else "nobody asked for that"
            case "lost":
                begun = min((each.start for each in self.witnesses.get(row["run_id"], ())), default=0)
                return None if self.died_after(begun) else "launcher and host were well"
            case "stopped":
                return None if any(each.kind == "stop" for each in self.found.faults) else "nobody stopped the daemon"
            case _:
                return None

    def open_at(self, other: dict, row: dict) -> bool:
        """Whether the other run had not ended when this row was made."""
        if other["end_time"] is None:
            return True
        if other["status"] == "skipped" and other["end_time"] == other["queued"] != row["queued"]:
            return False  # decided and over in one moment
        # The clock may have been set back in between, and the later end look the earlier.
        return bool(other["end_time"] + self.set_back >= row["queued"])

    def unexcused_rest(self, life: lives.Life, slot: int, due: int, row: dict) -> str | None:
        if any(after < slot <= until for after, until in life.may):
            return None  # it came before, in a rest
        definition = self.definition(row)
        if row["reason"] == "coalesced" and order.was_in_line(self, row):
            return None
        if not self.disturbed.touches(due - 1000, due + definition.get("jitter", 0) * 1000 + GRACE):
            return "the daemon was well and awake when it was due"
        policy = definition.get("catch_up", "latest")
        if row["reason"] == "missed":
            window = definition.get("catch_up_window", 86_400)
            if policy != "skip" and (window is None or row["queued"] - slot < window * 1000):
                return f"it was not older than {window} s"
        elif policy == "skip":
            return "its job catches up nothing"
        elif (
            policy == "all"
            and sum(each["slots"] for each in self.rows_of[life.uid] if (each["slot"] or 0) > slot) < 100
        ):
            return "it was among the newest hundred"
        elif max(life.must[-1], self.newest[life.uid]) <= slot:
            return "no newer slot stands for it"
        return None

    # 2

    def doubles(self) -> Iterator[Finding]:
        for run_id, witnesses in self.witnesses.items():
            for one, other in itertools.pairwise(witnesses):
                if one.attempt == other.attempt:
                    about = f"run {run_id} of {one.job}, attempt {one.attempt}"
                    seen = f"it began at {one.start} and again at {other.start}"
                    yield Finding(rule=2, about=about, expected="one process", seen=seen)
        seen_slots: dict[tuple[int, int], int] = {}
        for row in self.runs.values():
            if row["slot"] is None:
                continue
            key = (row["job_uid"], row["slot"])
            if key in seen_slots:
                about = f"slot {row['slot']} of {row['job_id']}"
                yield Finding(
                    rule=2, about=about, expected="one row", seen=f"runs {seen_slots[key]} and {row['run_id']}"
                )
            seen_slots[key] = row["run_id"]
            life = self.life.get(row["job_uid"])
            if life is None:
                yield Finding(rule=2, about=self.name(row), expected="a job that a client has added", seen="none")
            elif not self.may_be(life, row):
                yield Finding(rule=2, about=self.name(row), expected="no such slot", seen=row["status"])

    def may_be(self, life: lives.Life, row: dict) -> bool:
        if any(version.definition.get("schedule") == "@reboot" for version in life.versions):
            return True
        if not (life.allows(row["slot"]) and (row["slot_last"] is None or life.allows(row["slot_last"]))):
            return False
        if row["slots"] == 1 or any(after < row["slot_last"] and row["slot"] <= until for after, until in life.may):
            return True
        return sum(row["slot"] <= slot <= row["slot_last"] for slot in life.must) >= row["slots"]

    # 3, 10

    def tries(self) -> Iterator[Finding]:
        for run_id, witnesses in self.witnesses.items():
            run = self.runs.get(run_id)
            if run is None:
                continue  # told by agreement()
            definition = self.definition(run)
            by_hand = run["slot"] is None and not json.loads(run["request"] or "{}").get("with_retries")
            most = 1 if by_hand and run["trigger"] == "manual" else 1 + definition.get("max_retries", 3)
            highest = max(witness.attempt for witness in witnesses)
            if highest > most:
                yield Finding(
                    rule=3, about=self.name(run), expected=f"at most {most} attempts", seen=f"attempt {highest}"
                )
            for one, other in itertools.pairwise(witnesses):
                if one.attempt < other.attempt:
                    yield from self.again(run, definition, one, other)

    def again(self, run: dict, definition: dict, one: evidence.Witness, other: evidence.Witness) -> Iterator[Finding]:
        about = f"{self.name(run)}, attempt {other.attempt}"
        row = self.attempts.get((one.run_id, one.attempt), {})
        over = self.until(one)
        struck = one.end is None and any(one.start <= at <= other.start for at in self.ends_of_jobs)
        unseen = row.get("reason") in ("lost", "stopped") or (struck and row.get("reason") is None)
        if unseen and not definition.get("idempotent"):
            seen = f"attempt {one.attempt} ended as {row.get('reason') or 'nobody knows'}"
            yield Finding(rule=10, about=about, expected="none, since its job is not idempotent", seen=seen)
        if unseen or definition.get("retry_jitter", True) or self.clock.stepped(one.start, other.start):
            return
        delay = definition.get("retry_delay", 60) * definition.get("retry_backoff", 2.0) ** (one.attempt - 1)
        due = over + round(1000 * min(delay, definition.get("retry_max_delay", 3600)))
        if other.start < due - 5:
            yield Finding(rule=3, about=about, expected=f"its start at {due} or later", seen=f"{other.start}")

    # 4

    def overlaps(self) -> Iterator[Finding]:
        by_job: dict[int, list[evidence.Witness]] = collections.defaultdict(list)
        # Of a wish without an answer nobody knows which run became of it.
        unanswered = {each.job for each in self.found.changes if each.allow_overlap and each.run_id is None}
        for witness in self.found.witnesses:
            run = self.runs.get(witness.run_id)
            is_free = witness.run_id in self.free_for_overlap or (witness.slot is None and witness.job in unanswered)
            if run is not None and not is_free:
                by_job[run["job_uid"]].append(witness)
        for witnesses in by_job.values():
            witnesses.sort(key=lambda each: (each.start, each.run_id, each.attempt))
            running: list[evidence.Witness] = []
            for one in witnesses:
                running = [each for each in running if self.until(each) > one.start]
                running.append(one)
                most = max(order.limit(self.definition(self.runs[each.run_id])) for each in running)
                if len(running) > most:
                    about, others = f"job {one.job}", ", ".join(f"run {each.run_id}" for each in running[:-1])
                    seen = f"run {one.run_id} attempt {one.attempt} began at {one.start}, while {others} lasted"
                    yield Finding(rule=4, about=about, expected=f"at most {most} at a time", seen=seen)

    # 5

    def gates(self) -> Iterator[Finding]:
        for run_id, witnesses in self.witnesses.items():
            run = self.runs.get(run_id)
            if run is None or run["slot"] is None or not self.definition(run).get("dependencies"):
                continue
            start = witnesses[0].start
            for parent, when in chains.links(self.definition(run)):
                if (why := self.closed(run, parent, when, start)) is not None:
                    yield Finding(rule=5, about=f"{self.name(run)}, child of {parent}", expected="its wait", seen=why)

    def closed(self, run: dict, parent: str, when: str, start: int) -> str | None:
        """Why the parent's gate was closed when the run began; None if it was open."""
        if parent == self.definition(run)["id"]:
            before = [row for row in self.rows_of[run["job_uid"]] if row["run_id"] < run["run_id"]]
            previous = max((row for row in before if row["status"] != "skipped"), key=_run_id, default=None)
            is_open = previous is None or self.over_before(previous, when, start)
            return None if is_open else f"its own run {previous['run_id']} before it; it is {previous['status']}"
        life = next((each for each in self.lives if each.had_name(parent, start)), None)
        if life is None:
            return "its parent was gone"
        rows = [row for row in self.rows_of[life.uid] if self.decided_by(row["run_id"]) <= start]
        if not life.at(start).definition.get("schedule"):
            good = any(self.over_before(row, when, start) for row in rows)
            return None if good else f"no run of it had ended so by {start}"
        counted = max((row for row in rows if row["slot"] and row["slot"] <= run["slot"]), key=_slot, default=None)
        newest = max((slot for slot in life.must if slot <= run["slot"] and life.due[slot] <= start), default=0)
        if counted is None or newest > (counted["slot_last"] or counted["slot"]):
            # It was due by then, so its end had to be waited for, whenever its row came about.
            counted = next((row for row in self.rows_of[life.uid] if row["slot"] == newest), None)
        if counted is not None and not self.over_before(counted, when, start):
            later = (row for row in self.rows_of[life.uid] if _slot(counted) < _slot(row) <= run["slot"])
            if when == "any" and any(row["status"] == "skipped" for row in later):
                return None  # a skip leaves no witness that would tell since when it was there
            return f"its run {counted['run_id']} had not ended so by {start}; it is {counted['status']}"
        return None

    def decided_by(self, run_id: int) -> int:
        """The true time by which this row was there: rows come in order, and some of their jobs say when they began."""
        place = bisect.bisect_left(self.first_seen, (run_id, 0))
        return self.first_seen[place][1] if place < len(self.first_seen) else self.found.end

    def over_before(self, row: dict, when: str, start: int) -> bool:
        """Whether it was over by then, and is what a dependency asks for."""
        if not chains.satisfies(row["status"], when):
            return False
        witnesses = self.witnesses.get(row["run_id"], [])
        # What never came to its first line has only its row to say when it was over.
        if row["status"] == "completed" and not witnesses:
            return False
        return not witnesses or self.until(witnesses[-1]) <= start

    # 6

    def agreement(self) -> Iterator[Finding]:
        for witness in self.found.witnesses:
            row = self.attempts.get((witness.run_id, witness.attempt))
            about = f"run {witness.run_id} of {witness.job}, attempt {witness.attempt}"
            if row is None:
                yield Finding(rule=6, about=about, expected="the row of the attempt", seen="none")
                continue
            slot = self.runs[witness.run_id]["slot"] if witness.run_id in self.runs else None
            if slot != witness.slot:
                yield Finding(rule=6, about=about, expected=f"slot {witness.slot}, as the job says", seen=f"{slot}")
            # It may have been ended from outside after its last word.
            unseen = row["reason"] == "lost" or (
                row["exit_code"] is None
                and (row["reason"] == "stopped" or self.boxes.touches(witness.start, self.until(witness) + DYING))
            )
            if witness.code is not None and not unseen and row["exit_code"] != witness.code:
                yield Finding(rule=6, about=about, expected=f"exit code {witness.code}", seen=f"{row['exit_code']}")
            if witness.end is not None and row["reason"] == "lost" and not self.died_after(witness.end):
                yield Finding(rule=6, about=about, expected="its end in the row", seen="lost, and nothing had died")
        for (run_id, number), row in self.attempts.items():
            told = row["ended"] is not None and row["reason"] in _SEEN
            if told and not any(each.attempt == number for each in self.witnesses.get(run_id, ())):
                about = f"run {run_id}, attempt {number}"
                seen = f"{row['reason'] or 'completed'}, exit code {row['exit_code']}"
                yield Finding(rule=6, about=about, expected="a word of the job that it ran", seen=seen)
        yield from self.stored_output()

    def stored_output(self) -> Iterator[Finding]:
        for run_id, (sha, size) in self.found.outputs.items():
            told = [each for each in self.witnesses.get(run_id, ()) if each.sha is not None]
            run = self.runs.get(run_id, {})
            if len(self.witnesses.get(run_id, ())) != 1 or not told or run.get("status") != "completed":
                continue  # the daemon has written to it too: which attempt it was, or a hint after a failure
            if (told[0].sha, told[0].size) != (sha, size):
                expected = f"{told[0].size} bytes with hash {str(told[0].sha)[:12]}"
                seen = f"{size} bytes with hash {sha[:12]}"
                yield Finding(rule=6, about=f"output of run {run_id}", expected=expected, seen=seen)

    # 7, 11

    def survivors(self) -> Iterator[Finding]:
        alive = {(each.run_id, each.attempt) for each in self.found.alive}
        for each in self.found.alive:
            row = self.attempts.get((each.run_id, each.attempt))
            if row is None or row["ended"] is not None:
                about = f"run {each.run_id}, attempt {each.attempt}"
                yield Finding(rule=7, about=about, expected="no process of it", seen=f"pid {each.pid} lives")
        wall = self.clock.wall(self.found.end)
        for run in self.runs.values():
            waits = [at for at in (run["gate_until"], run["retry_at"]) if at is not None]
            if run["status"] == "running" and not any(run_id == run["run_id"] for run_id, _ in alive):
                yield Finding(rule=11, about=self.name(run), expected="its end", seen="running, without a process")
            elif run["status"] not in ("pending", "retrying") or self.found.alive or self.in_line(run):
                continue
            elif wall - max(waits, default=run["queued"]) > GRACE:
                seen = f"{run['status']} since {run['queued']}, with nothing that it waits for"
                yield Finding(rule=11, about=self.name(run), expected="its end", seen=seen)

    def in_line(self, run: dict) -> bool:
        """It waits for another run of its job that is open, too."""
        return any(each["status"] in OPEN and each["run_id"] < run["run_id"] for each in self.rows_of[run["job_uid"]])

    # 8

    def promises(self) -> Iterator[Finding]:
        for change in self.found.changes:
            if change.run_id is None or not change.acked:
                continue
            run = self.runs.get(change.run_id)
            about = f"{change.action} of {change.job}, run {change.run_id}, acknowledged at {change.until}"
            if run is None:
                yield Finding(rule=8, about=about, expected="its row", seen="none")
            elif change.action == "cancel" and run["status"] in OPEN:
                yield Finding(rule=8, about=about, expected="that it is over", seen=run["status"])
        jobs = {row["uid"]: row for row in self.found.tables["jobs"]}
        for life in self.lives:
            row = jobs.get(life.uid)
            last = life.versions[-1]
            gone = bool(life.changes) and life.changes[-1][1] == "remove"
            if row is None:
                yield Finding(rule=8, about=f"job {life.job}", expected="its row", seen="none")
            elif gone != (row["removed"] is not None):
                word = "removed" if gone else "there"
                yield Finding(rule=8, about=f"job {life.job}", expected=word, seen=f"removed: {row['removed']}")
            elif not gone:
                known = lives.given(row)
                wrong = [key for key, value in last.definition.items() if known.get(key) != value and key != "enabled"]
                if wrong or bool(row["enabled"]) != last.enabled:
                    expected = f"{ {key: last.definition[key] for key in wrong} }, enabled: {last.enabled}"
                    seen = f"{ {key: known.get(key) for key in wrong} }, enabled: {bool(row['enabled'])}"
                    yield Finding(rule=8, about=f"job {life.job}", expected=expected, seen=seen)

    # 9

    def lateness(self) -> Iterator[Finding]:
        spans = [(each.start, self.until(each)) for each in self.found.witnesses]
        places = max(1, self.found.places - min(self.found.reserved, self.found.places - 1))
        faults = [(fault.begin, fault.end) for fault in self.found.faults] + causes.crowded(spans, places)
        held_up = causes.Spans(faults)
        in_pools = {
            pool: causes.Spans(faults + causes.crowded(self.spans_of(pool), number))
            for pool, number in self.found.pools.items()
        }
        caught_up = [row["queued"] for row in self.runs.values() if row["trigger"] == "catch_up"]
        for run_id, witnesses in self.witnesses.items():
            run, first = self.runs.get(run_id), witnesses[0]
            if run is None or run["slot"] is None or first.attempt != 1:
                continue
            life = self.life.get(run["job_uid"])
            if life is None or not life.expects(run["slot"]) or self.in_gap(life, run["slot"]):
                continue
            definition, pool = self.definition(run), self.definition(run).get("pool")
            ready = life.due[run["slot"]] + definition.get("jitter", 0) * 1000
            links = chains.links(definition)
            if any(when != "ok" or parent == definition["id"] for parent, when in links):
                continue  # its gate may have opened when something was over that left no witness
            if order.lines_up(definition):
                ready = max(ready, self.passed(run, first.start))
            late = self.late
            if run["trigger"] == "catch_up":
                late += 1000 * (1 + sum(abs(at - run["queued"]) < 120_000 for at in caught_up) // 5)
            for parent, _ in links:
                ready = max(ready, self.opened(parent, run["slot"], first.start))
            ready = self.freed(run["slot"], ready, held_up if pool is None else in_pools[pool])
            if first.start - ready > late:
                expected = f"its start by {ready + late}"
                yield Finding(rule=9, about=self.name(run), expected=expected, seen=f"{first.start}")

    def spans_of(self, pool: str) -> list[tuple[int, int]]:
        """When its runs had processes."""
        runs = ((each, self.runs.get(each.run_id)) for each in self.found.witnesses)
        return [
            (each.start, self.until(each))
            for each, run in runs
            if run is not None and self.definition(run).get("pool") == pool
        ]

    def passed(self, run: dict, start: int) -> int:
        """When all that was before it in its own job's line was over, and what was run by hand meanwhile: after a restart
        it stands in line again, and does not overlap that.
        """
        ends = [0]
        for each in self.rows_of[run["job_uid"]]:
            if each["run_id"] < run["run_id"] or each["trigger"] == "manual":
                ends += map(self.until, self.witnesses.get(each["run_id"], ()))
                if each["end_time"] is not None:
                    ends += [self.clock.first_true(each["end_time"], self.found.begin)]
        return max(end for end in ends if end <= start)

    def in_gap(self, life: lives.Life, slot: int) -> bool:
        """It was passed over with others before a clock that was set back came to it again."""
        return any(row["slot"] <= slot <= row["slot_last"] for row in self.gaps.get(life.uid, ()))

    def freed(self, slot: int, ready: int, held_up: causes.Spans) -> int:
        """When nothing is in the way any more; a clock that was set back meanwhile must come to the slot again."""
        while (then := self.clock.first_true(slot, held_up.after(ready, self.late))) > ready:
            ready = then
        return ready

    def opened(self, parent: str, slot: int, start: int) -> int:
        """When the parent's run that counts for this slot was over."""
        ends = [0]
        for life in self.lives:
            if life.had_name(parent, start):
                scheduled = bool(life.at(start).definition.get("schedule"))
                for row in self.rows_of[life.uid]:
                    if row["status"] == "completed" and (not scheduled or (row["slot"] or slot + 1) <= slot):
                        ends += [
                            each for each in map(self.until, self.witnesses.get(row["run_id"], ())) if each <= start
                        ]
        return max(ends)

    # 11

    def deadlines(self) -> Iterator[Finding]:
        for witness in self.found.witnesses:
            run = self.runs.get(witness.run_id)
            if run is None:
                continue
            definition = self.definition(run)
            timeout, grace = definition.get("timeout", 3600), definition.get("kill_grace", 10)
            row = self.attempts.get((witness.run_id, witness.attempt), {})
            if witness.end is None and row.get("reason") == "lost":
                continue  # when its process was gone nobody saw
            over = self.until(witness)
            lasted = over - witness.start - self.excused.within(witness.start, over)
            if timeout is not None and lasted > (timeout + grace) * 1000 + self.late:
                about = f"{self.name(run)}, attempt {witness.attempt}"
                yield Finding(
                    rule=11, about=about, expected=f"its end after {timeout} + {grace} s", seen=f"{lasted} ms"
                )

    # 12

    def off(self) -> Iterator[Finding]:
        for witness in self.found.witnesses:
            run = self.runs.get(witness.run_id)
            life = None if run is None else self.life.get(run["job_uid"])
            if run is None or life is None or run["slot"] is None:
                continue
            version = life.at(witness.start - self.late)
            since = witness.start - self.late > life.end or (
                not version.enabled and not life.at(witness.start).enabled and version.begin < witness.start - self.late
            )
            if since and not (self.disturbed.touches(witness.start - self.late, witness.start)):
                about = f"{self.name(run)}, attempt {witness.attempt}"
                yield Finding(rule=12, about=about, expected="none, since the job is off", seen=f"{witness.start}")


def _run_id(row: dict) -> int:
    return row["run_id"]


def _slot(row: dict) -> int:
    return row["slot"] or 0
