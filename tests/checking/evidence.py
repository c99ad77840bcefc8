"""What the checker judges: plain data about one history of a daemon, gathered by whoever made that history.

Three make such histories: the simulation, the sweep over crash points, and the storms and the soak of a real daemon. Times
are whole milliseconds on two axes. *True* time runs evenly and nobody sets it: the simulation's own, or CLOCK_BOOTTIME of
one boot moved so that it equals the wall time of the beginning. *Wall* time is what the daemon's clock showed: slots and the
times in its rows. `clock` says how the two went together; where nobody set the clock they are the same.
"""

import dataclasses
from dataclasses import dataclass, field

#: In the place of a job: all of them.
SCHEDULE = "the schedule"


@dataclass(frozen=True, slots=True, kw_only=True)
class Witness:
    """What a job itself wrote about one process of it. Two lines of the same run and attempt are two witnesses."""

    job: str
    run_id: int
    attempt: int
    #: Wall; None: by hand.
    slot: int | None
    #: True.
    start: int
    #: True; None: it was ended from outside, or runs yet.
    end: int | None = None
    #: What it exited with, if it came to its end.
    code: int | None = None
    #: Of all that it wrote, if it says so; and how many bytes.
    sha: str | None = None
    size: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Change:
    """What a client asked for: add, edit, import (either of these), remove, enable, disable, rename, run, cancel; pause and
    resume, where `job` may be SCHEDULE; trigger, where it is the event.
    """

    action: str
    job: str
    #: True: when it was sent, and when the client knew, or had given up.
    sent: int
    until: int
    #: The client read "ok".
    acked: bool
    #: add, edit, import: the keys of the whole definition after it.
    definition: dict | None = None
    #: run, cancel: which run, once the client was told.
    run_id: int | None = None
    allow_overlap: bool = False
    #: trigger: the rows that came of it, once the client was told.
    run_ids: tuple[int, ...] = ()
    #: rename: the new id. pause: how long, if that was said.
    new: str | None = None
    seconds: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """What was done to the daemon, and until when its effect may last. True times."""

    #: supervisor, launcher, reboot, store, full, step, suspend, slow, drain, stop; box: what holds a run's processes
    #: together fails; stuck: a process outlives its KILL; held: the daemon says that its clock cannot be right.
    kind: str
    begin: int
    end: int
    #: step: milliseconds, negative back.
    by: int = 0

    @property
    def ends_jobs(self) -> bool:
        """Everything that ran was ended by it, and nobody was there to see how.

        Also what began in its very millisecond, since no launcher is started in less.
        """
        return self.kind in ("launcher", "reboot")


@dataclass(frozen=True, slots=True, kw_only=True)
class Alive:
    """A process of a run that was found living at the end."""

    run_id: int
    attempt: int
    pid: int = 0


@dataclass(slots=True, kw_only=True)
class Evidence:
    #: True: when the daemon began and when the history was closed.
    begin: int
    end: int
    #: True: when it was stopped for good, so that what came later need not be decided; None: it never was.
    stopped: int | None = None
    #: Zone of jobs that name none.
    zone: str = "UTC"
    #: The daemon's max_concurrent_jobs and reserved_slots.
    places: int = 20
    reserved: int = 1
    #: Its pools and their places, and its aging in seconds.
    pools: dict[str, int] = field(default_factory=dict)
    aging: float = 600
    #: Runs of a job that may wait in line.
    line: int = 100
    changes: list[Change] = field(default_factory=list)
    witnesses: list[Witness] = field(default_factory=list)
    faults: list[Fault] = field(default_factory=list)
    alive: list[Alive] = field(default_factory=list)
    #: run id -> sha256 and bytes of what the daemon has stored of its output.
    outputs: dict[int, tuple[str, int]] = field(default_factory=dict)
    #: What whoever made the history saw go wrong with the daemon as a whole, in words.
    broken: list[str] = field(default_factory=list)
    #: Rows of the final database by table, each a map of column to value: readers.tables().
    tables: dict[str, list[dict]] = field(default_factory=dict)

    @property
    def clock(self) -> list[tuple[int, int]]:
        """(true from, wall minus true) of each span between two steps of the clock, in order."""
        spans = [(self.begin, 0)]
        for fault in sorted((each for each in self.faults if each.kind == "step"), key=lambda each: each.begin):
            spans.append((fault.begin, spans[-1][1] + fault.by))
        return spans


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One thing that must not be, in words."""

    #: Number of the rule, as in rules.RULES.
    rule: int
    about: str
    expected: str
    seen: str

    def __str__(self) -> str:
        return f"({self.rule}) {self.about}: expected {self.expected}; seen {self.seen}"


def as_map(record) -> dict:
    """For a line of JSON."""
    return dataclasses.asdict(record)
