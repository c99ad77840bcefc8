"""What starts nothing by itself for a while: single jobs, or the whole schedule. Runtime state, which only people change.

A pause holds back what comes while it lasts, slots and what others would start; each leaves a row that says so. What was
decided before, retries too, goes on. A pause that has an end is over by itself then, also while no daemon runs: what is
looked at later is still what came before and after that moment. There are few pauses, so all of them are in memory.

Times are epoch milliseconds.
"""

from collections.abc import Iterator
from dataclasses import replace

from lnmt_scheduler.supervisor import heap, rows, store, views

#: In the place of a job's uid.
SCHEDULE = 0


class Pauses:
    def __init__(self, history: store.Store) -> None:
        self._store = history
        self._all: dict[int, rows.Pause] = {}
        self._ends = heap.LazyHeap()
        self.reread()

    def reread(self) -> None:
        """Learn them from the store."""
        self._all = {pause.job_uid: pause for pause in self._store.pauses()}
        self._ends = heap.LazyHeap()
        for pause in self._all.values():
            self._note_end(pause)

    def start(self, now: int) -> None:
        """None is longer than it was meant to be: the clock may have been years ahead when it began."""
        for pause in list(self._all.values()):
            if pause.until is not None and pause.seconds is not None:
                until = min(pause.until, now + round(pause.seconds * 1000))
                if until != pause.until or pause.since > now:
                    self._put(replace(pause, since=min(pause.since, now), until=until))

    def __len__(self) -> int:
        return len(self._all)

    def __iter__(self) -> Iterator[rows.Pause]:
        return iter(sorted(self._all.values(), key=lambda pause: pause.job_uid))

    def set(self, pause: rows.Pause) -> None:
        """Let this pause begin; it takes the place of one that the job has."""
        self._put(pause)

    def end(self, job_uid: int) -> None:
        """It is over, and all that it held back is decided."""
        self._all.pop(job_uid, None)
        self._ends.discard(job_uid)
        self._store.resume(job_uid)

    def own(self, job_uid: int, now: int) -> rows.Pause | None:
        """The pause of this job itself, or with SCHEDULE of the whole schedule, if it lasts."""
        pause = self._all.get(job_uid)
        return pause if pause is not None and _lasts(pause, now) else None

    def of(self, job_uid: int, now: int) -> rows.Pause | None:
        """The pause that holds the job back: its own, or that of the whole schedule."""
        return self.own(job_uid, now) or self.own(SCHEDULE, now)

    def pieces(self, job_uid: int, watermark: int, now: int) -> list[tuple[int, rows.Pause | None]]:
        """The time from the watermark to now, cut where pauses began and ended: (until, the pause that held it back)."""
        held = [pause for pause in (self._all.get(SCHEDULE), self._all.get(job_uid)) if pause is not None]
        if not held:
            return [(now, None)]
        ends = {at for pause in held for at in (pause.since, pause.until) if at is not None and watermark < at < now}
        return [(end, next((pause for pause in held if holds(pause, end)), None)) for end in sorted(ends | {now})]

    def first_end(self) -> int | None:
        """When the first of them is over."""
        first = self._ends.first()
        return None if first is None else first[0]

    def over(self, now: int) -> list[rows.Pause]:
        """Those whose time is over, and that have not been ended."""
        first = self.first_end()
        return [] if first is None or now < first else [pause for pause in self if not _lasts(pause, now)]

    def move(self, by: int) -> None:
        """The clock was set by so many milliseconds: they last as long as they were meant to."""
        for pause in list(self._all.values()):
            until = None if pause.until is None else pause.until + by
            self._put(replace(pause, since=pause.since + by, until=until))

    def _put(self, pause: rows.Pause) -> None:
        self._store.pause(pause)
        self._all[pause.job_uid] = pause
        self._note_end(pause)

    def _note_end(self, pause: rows.Pause) -> None:
        if pause.until is None:
            self._ends.discard(pause.job_uid)
        else:
            self._ends.set(pause.job_uid, pause.until)


def holds(pause: rows.Pause, at: int) -> bool:
    """Whether it holds back what is due at this moment; it has its last moment, and not its first."""
    return pause.since < at and (pause.until is None or at <= pause.until)


def _lasts(pause: rows.Pause, now: int) -> bool:
    return pause.until is None or now < pause.until


def words(pause: rows.Pause) -> str:
    """Who has paused it since when, until when and why: for rows and people."""
    what = "the whole schedule was paused" if pause.job_uid == SCHEDULE else "it was paused"
    until = "" if pause.until is None else f" until {views.iso(pause.until)}"
    return f"{what} by {pause.user} at {views.iso(pause.since)}{until}{f': {pause.reason}' if pause.reason else ''}"
