"""The lines of runs that wait for others of their own job: where a slot gets in, and when the first one's turn has come.

overlap.judge() decides; here its answer meets the runs. Who stands in line is not written down: after a start it follows
from the order of the runs and from the definition that each was decided with.
"""

from dataclasses import replace

from lnmt_scheduler.supervisor import attempts, catalog, gatekeeper, lives, open_runs, overlap, run


class Line:
    def __init__(self, runs: open_runs.OpenRuns, changes: lives.Lives, gates: gatekeeper.Gatekeeper) -> None:
        self._runs = runs
        self._lives = changes
        self._gates = gates

    def judge(self, job: catalog.Job, *, caught_up: bool) -> overlap.Verdict:
        """What becomes of a slot of this job that is decided now."""
        return overlap.judge(job.config, _others(self._runs.active(job.uid)), caught_up=caught_up)

    def displace(self, verdict: overlap.Verdict, newer: str, now: int) -> None:
        """Let these runs give way to what has come: "the 13:00 slot"."""
        for run_id, reason in verdict.displaced:
            each = self._runs.find(run_id)
            if each is not None:
                if not isinstance(each.state, run.Running):
                    each.facts = replace(each.facts or attempts.Facts(), error=_gives_way(each, reason, newer))
                self._lives.step(each, run.Displace(now=now, reason=reason))

    def advance(self, job_uid: int, now: int) -> None:
        """Let those go on whose turn has come: a run of their job has ended."""
        while (first := self._first(job_uid)) is not None:
            others = [each for each in self._runs.active(job_uid) if not isinstance(each.state, run.InLine)]
            if not overlap.has_turn(first.job, _others(others)):
                return
            self._gates.pass_on(first, now)

    def recover(self, job_uid: int) -> None:
        """After a start: put those back in line that were in it."""
        before: list[open_runs.OpenRun] = []
        for each in self._runs.active(job_uid):
            waits = isinstance(each.state, run.Queued) and each.state.past is None and each.trigger != "manual"
            lines_up = each.job.overlap in ("queue", "replace") or overlap.in_order(each.job) or each.trigger == "hook"
            # One with a gate may have come to it or not: it is asked once more.
            if waits and lines_up and (each.job.dependencies or not overlap.has_turn(each.job, _others(before))):
                self._runs.let_go(each)
                each.state = run.InLine()
                self._runs.keep(each)
            else:
                before.append(each)

    def _first(self, job_uid: int) -> open_runs.OpenRun | None:
        waiting = (each for each in self._runs.active(job_uid) if isinstance(each.state, run.InLine))
        return next(waiting, None)


def _others(runs: list[open_runs.OpenRun]) -> list[overlap.Other]:
    return [overlap.Other(each.run_id, each.state) for each in runs]


def _gives_way(each: open_runs.OpenRun, reason: str, newer: str) -> str:
    match reason:
        case "superseded":
            attempt = run.attempt_of(each.state)
            return f"{newer} came while it waited for attempt {attempt} of {each.terms.max_attempts}"
        case "coalesced":
            return f"{newer} came while it waited in line, and stands for it"
        case _:
            return f"{newer} came before it had started"
