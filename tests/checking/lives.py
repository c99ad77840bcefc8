"""Which slots had to be decided, told from what clients asked for and how the clock went; nothing of the daemon's is asked.

A *life* is one job from its add to its remove, a *version* of it a span of time in which its definition stood. A slot had to
be decided if the wall clock came to it, or leapt over it by at most three hours, while an enabled version named it; each
slot once, however often the clock comes by. Of some slots it cannot be told from outside, or both ways are right: those may
be decided or not.

- A clock set forward by more than three hours had been wrong: what it leapt over may be passed over. Whether a daemon that
  was down, or busy, at that moment takes it for a leap or for a rest, it cannot know.
- What came while the daemon rested, and was gone again when it came back because the clock had been set back, it never saw.
- A job that is decided more than three hours ahead of a clock that was set back may be decided anew from then on, and must be
  if it is weeks. What has its row keeps it.
- What is put off by `jitter` has not been decided when the clock is set meanwhile, or the history ends.
- A daemon that comes up with a clock that was set back by weeks cannot tell of a job that was decided further ahead since when
  its clock shows that: what came before it was up is passed over.
"""

import bisect
import dataclasses
import itertools
import json
from dataclasses import dataclass, field

from checking import causes, evidence, oracle

CORRECTION = 3 * 3_600_000
WEEKS = 20 * 86_400_000
#: Keys whose change means that the past is none of the job's business.
TIMING = ("schedule", "timezone")
#: Wishes that change no definition: chains.py looks at them.
ELSEWHERE = ("run", "cancel", "pause", "resume", "trigger")
#: A change and the audit's row of it may be so far apart.
SLACK = 1000
_VERBS = {"change": "edit", "purge": "remove"}
#: What has one kind of row; an import may have either of two.
_VERBS_OF_ONE = ("add", "edit", "remove", "enable", "disable", "rename")


@dataclass(slots=True)
class Version:
    #: True times.
    begin: int
    end: int
    enabled: bool
    definition: dict
    #: It is decided from now on: what was due before is over.
    anew: bool


@dataclass(slots=True)
class Life:
    uid: int
    job: str
    versions: list[Version] = field(default_factory=list)
    #: What of the clients' wishes counted, with the true time: for the reasons disabled and removed.
    changes: list[tuple[int, str]] = field(default_factory=list)
    #: What had to be decided, in order; and for each when it was due, in true time.
    must: list[int] = field(default_factory=list)
    due: dict[int, int] = field(default_factory=dict)
    #: Wall: (after, until] of what may be decided.
    may: list[tuple[int, int]] = field(default_factory=list)
    #: (true time, id) since it was renamed so; `job` is what it was called first.
    names: list[tuple[int, str]] = field(default_factory=list)

    @property
    def begin(self) -> int:
        return self.versions[0].begin

    @property
    def end(self) -> int:
        return self.versions[-1].end

    def at(self, true: int) -> Version:
        place = bisect.bisect_right(self.versions, true, key=lambda version: version.begin)
        return self.versions[max(0, place - 1)]

    def had_name(self, name: str, true: int) -> bool:
        """Whether it lived then, and had this name then or before."""
        if not self.begin <= true <= self.end:
            return False
        return name == self.job or any(name == each for at, each in self.names if at <= true)

    def expects(self, slot: int) -> bool:
        place = bisect.bisect_left(self.must, slot)
        return place < len(self.must) and self.must[place] == slot

    def allows(self, slot: int) -> bool:
        return self.expects(slot) or any(after < slot <= until for after, until in self.may)


class Clock:
    """Both axes of a history."""

    def __init__(self, found: evidence.Evidence) -> None:
        self.spans = found.clock
        self._begins = [begin for begin, _ in self.spans]
        self._ends = [*self._begins[1:], found.end + 1]

    def offset(self, true: int) -> int:
        return self.spans[max(0, bisect.bisect_right(self._begins, true) - 1)][1]

    def offsets(self, begin: int, end: int) -> list[int]:
        """All that there were between these."""
        return [self.offset(begin), *(offset for at, offset in self.spans if begin < at <= end)]

    def wall(self, true: int) -> int:
        return true + self.offset(true)

    def first_true(self, wall: int, after: int) -> int:
        """When, at or after `after`, the wall clock first showed this time or a later one; the end if it never did."""
        place = max(0, bisect.bisect_right(self._begins, after) - 1)
        for (begin, offset), end in zip(self.spans[place:], self._ends[place:], strict=True):
            true = max(begin, after, wall - offset)
            if true < end:
                return true
        return self._ends[-1]

    def stepped(self, begin: int, end: int) -> bool:
        """Whether the clock was set between these true times."""
        return bisect.bisect_left(self._begins, begin, 1) < bisect.bisect_right(self._begins, end)


def read(found: evidence.Evidence, clock: Clock) -> tuple[list[Life], list[evidence.Finding]]:
    """Every life, its due slots told; and the acknowledged changes of which the store knows nothing."""
    rows = _Audit(found.tables.get("audit", []))
    uids: dict[str, list[int]] = {}
    first = _first_names(found.tables.get("audit", []))
    for row in sorted(found.tables.get("jobs", []), key=lambda row: row["uid"]):
        uids.setdefault(first.get(row["job_id"], row["job_id"]), []).append(row["uid"])
    lives: list[Life] = []
    living: dict[str, Life] = {}
    findings: list[evidence.Finding] = []
    changes = sorted(found.changes, key=lambda change: change.sent)
    # Of what was answered the row is there for certain: nobody whose wish was not is to take it for his.
    sure = {
        id(change): rows.take(change, clock) for change in changes if change.acked and change.action in _VERBS_OF_ONE
    }
    for change in changes:
        life = living.get(change.job)
        key = id(change)  # of the wish itself, whatever it comes to
        if change.action == "import":
            change = dataclasses.replace(change, action="add" if life is None else "edit")  # noqa: PLW2901 (what it comes to)
        if change.action in ELSEWHERE or (life is None and change.action != "add"):
            continue
        at = sure[key] if key in sure else rows.take(change, clock)
        if at is None and (not change.acked or (life is not None and _is_idle(change, life))):
            continue
        if at is None:
            text = f"{change.action} of {change.job} at {change.sent}"
            findings.append(evidence.Finding(rule=8, about=text, expected="its row in the audit", seen="none"))
            at = change.sent
        if change.action == "add":
            known = uids.get(change.job, [])
            number = sum(1 for each in lives if each.job == change.job)
            life = Life(known[number] if number < len(known) else -1 - len(lives), change.job)
            lives.append(life)
            living[change.job] = life
        if change.action == "rename" and life is not None and change.new is not None:
            _rename(life, living, change, at, found.end)
        elif life is not None:
            _apply(life, change, at, found.end)
        if change.action == "remove":
            living.pop(change.job, None)
    for life in lives:
        _find_due(life, found, clock)
    return lives, findings


def _is_idle(change: evidence.Change, life: Life) -> bool:
    """It asks for what is so already, and may leave no trace."""
    last = life.versions[-1]
    if change.action == "edit":
        return change.definition == last.definition
    return change.action in ("enable", "disable") and last.enabled == (change.action == "enable")


def _first_names(audit: list[dict]) -> dict[str, str]:
    """Name that a job was given later -> its first. No name is given to a job that another has had."""
    first: dict[str, str] = {}
    for row in sorted(audit, key=lambda row: row["id"]):
        if row["action"] == "rename":
            first[json.loads(row["after"])["id"]] = first.get(row["target"], row["target"])
    return first


def renamed(definition: dict, old: str, new: str) -> dict:
    """The definition with the new name where it has the old one."""
    values = dict(definition)
    if values["id"] == old:
        values["id"] = new
    if "dependencies" in values:
        values["dependencies"] = [
            {**each, "job": new} if each != old and not isinstance(each, str) and each["job"] == old else new
            if each == old else each
            for each in values["dependencies"]
        ]  # fmt: skip
    for key in ("on_success", "on_failure", "on_change"):
        if key in values:
            values[key] = [new if each == old else each for each in values[key]]
    return values


def _rename(life: Life, living: dict[str, Life], change: evidence.Change, at: int, end: int) -> None:
    """The job has another name, and who named it follows."""
    life.names.append((at, str(change.new)))
    life.changes.append((at, "rename"))
    del living[change.job]
    living[str(change.new)] = life
    for each in living.values():
        last = each.versions[-1]
        definition = renamed(last.definition, change.job, str(change.new))
        if definition != last.definition:
            last.end = at
            each.versions.append(Version(at, end, last.enabled, definition, anew=False))


class _Audit:
    """Rows of the audit by what was done to whom, each taken once."""

    def __init__(self, rows: list[dict]) -> None:
        self._waiting: dict[tuple[str, str], list[int]] = {}
        for row in sorted(rows, key=lambda row: row["id"]):
            verb = row["action"].rpartition(": ")[2]
            self._waiting.setdefault((_VERBS.get(verb, verb), row["target"]), []).append(row["time"])

    def take(self, change: evidence.Change, clock: Clock) -> int | None:
        """The true time at which it was done; None: it was not."""
        waiting = self._waiting.get((change.action, change.job), [])
        if not waiting:
            return None
        slack = SLACK if change.acked else 0  # else it might take the row of the next one
        for place, time in enumerate(waiting):
            for offset in clock.offsets(change.sent, change.until):
                if change.sent - slack <= time - offset <= change.until + slack:
                    del waiting[place]
                    return min(change.until, max(change.sent, time - offset))
        return None


def _apply(life: Life, change: evidence.Change, at: int, end: int) -> None:
    last = life.versions[-1] if life.versions else None
    life.changes.append((at, change.action))
    if last is not None:
        last.end = at
    if change.action == "remove":
        return
    definition = change.definition if change.definition is not None else last.definition
    if change.action in ("enable", "disable"):
        enabled = change.action == "enable"
    else:
        enabled = definition.get("enabled", True) if last is None else last.enabled
        if last is not None and definition.get("enabled", True) != last.definition.get("enabled", True):
            enabled = definition.get("enabled", True)
    anew = (
        last is None
        or (enabled and not last.enabled)
        or any(definition.get(key) != last.definition.get(key) for key in TIMING)
    )
    life.versions.append(Version(at, end, enabled, definition, anew))


def _find_due(life: Life, found: evidence.Evidence, clock: Clock) -> None:
    due: dict[int, int] = {}
    waived: list[tuple[int, int]] = []
    #: (true begin, how far it was decided then, offset) of each piece.
    passed: list[tuple[int, int, int]] = []
    #: `high`: it is decided up to here; `anew`: since then by this schedule.
    high, anew, before = 0, 0, None
    resting = causes.of(found.faults, causes.LATE_DECISIONS - {"step"})
    down = causes.of(found.faults, causes.LATE_DECISIONS - {"step", "held"})
    for begin, end, offset, version, is_change in _pieces(life, clock):
        wall = begin + offset
        if before is not None and offset != before:
            # What came in a rest of the daemon that has not ended yet is not decided.
            rest = resting.begin_of(begin) - 1
            rested = next((max(had, rest + by) for since, had, by in reversed(passed) if since <= rest), anew) - SLACK
            rested = max(rested, anew)
            if offset > before + CORRECTION:
                waived.append((min(high - SLACK, rested), resting.end_of(begin) + offset))
                high = max(high, wall)
            elif offset < before and rested < high:
                for slot in [slot for slot in due if rested < slot <= high]:
                    del due[slot]
                life.may.append((rested, high))
                high = rested
            if high > wall + CORRECTION:
                life.may.append((wall, high))
                if high > wall + WEEKS and down.touches(begin, begin):
                    waived.append((wall, down.end_of(begin) + offset + SLACK))
                # Of some hours it depends on when the daemon looked; of weeks it does not.
                high = wall if high > wall + WEEKS else high
        if before is None or (is_change and version.anew):
            high = anew = wall
            passed.clear()
        passed.append((begin, high, offset))
        until = end + offset
        if version.enabled and version.definition.get("schedule"):
            zone = version.definition.get("timezone") or found.zone
            jitter = version.definition.get("jitter", 0) * 1000
            for slot in oracle.slots(version.definition["schedule"], zone, high, until):
                at = max(begin, slot - offset)
                due.setdefault(slot, at)
                decided = resting.end_of(at + jitter) + SLACK
                put_off = jitter and (clock.stepped(at - SLACK, decided) or decided >= found.end)
                if put_off or begin == end:
                    waived.append((slot - 1, slot))  # what became of it then depends on the moment
        high, before = max(high, until), offset
    if found.stopped is not None:
        waived.append((clock.wall(found.stopped) - SLACK, clock.wall(found.end)))
    life.may += waived
    life.due = {slot: due[slot] for slot in sorted(due) if not any(after < slot <= until for after, until in waived)}
    life.must = list(life.due)


def _pieces(life: Life, clock: Clock):
    """(true begin, true end, offset, version, whether the version begins here): spans without change and step, in order."""
    for version, following in itertools.zip_longest(life.versions, life.versions[1:]):
        # A clock that is set in the very millisecond in which the past becomes none of the job's business may be looked at
        # before that: a piece without length.
        is_last_word = following is None or following.anew or not following.enabled
        last = version.end if is_last_word else version.end - 1
        cuts = [begin for begin, _ in clock.spans if version.begin < begin <= last]
        begins = [version.begin, *cuts]
        for begin, end in zip(begins, [*cuts, version.end], strict=True):
            yield begin, end, clock.offset(begin), version, begin == version.begin


def given(row: dict) -> dict:
    """A definition of the table `definitions` or `jobs`."""
    return dict(json.loads(row["given"]))
