"""A change of many jobs, in turns: written down, decided, carried out.

A plan of a few hundred jobs is one transaction in one turn. A larger one would hold up the loop for seconds, so it is first
written into a table of its own, a piece a turn; then one word in the store decides it; then it is carried out, a piece a
turn, each piece in one transaction with its removal from that table. So it happens whole or not at all, also if the
daemon is killed: before the word nothing has changed, after it the next start carries out the rest before anything else.
In between, no other change of definitions is taken, and the new jobs are not due before all of them are there.
"""

import json
from collections.abc import Callable, Generator, Iterator

from lnmt_scheduler.jobs import load
from lnmt_scheduler.supervisor import definitions, dispatcher, planning, rows, store
from lnmt_scheduler.supervisor.definitions import Who

#: Jobs that one turn may change.
_ONE_TURN = 500
#: Jobs of one step; a turn takes several, as its time allows.
_STEP = 10
#: Where the decision is remembered.
_DECIDED = "plan"


class Bulk:
    def __init__(self, history: store.Store, written: definitions.Definitions, runs: dispatcher.Dispatcher) -> None:
        self._store = history
        self._definitions = written
        self._runs = runs

    def carry_out(
        self, plan: planning.Plan, who: Who, action: str, *, first: Callable[[], None] = lambda: None
    ) -> Generator[None, None, None]:
        """Write the whole plan; yields while at work. Refused if jobs were changed since the plan was begun.

        `first` is called once it is certain that the plan will be carried out, and before any of it is.
        """
        self._definitions.check_unchanged(plan.basis)
        first()
        if len(plan.steps) <= _ONE_TURN:
            self.at_once(plan, who, action)
            return
        self._definitions.closed = True
        try:
            yield from self._clear()
            yield from self._write_down(plan)
            self._store.meta_set(_DECIDED, json.dumps({"uid": who.uid, "user": who.user, "action": action}))
            yield
            yield from self.go_on()
        finally:
            self._definitions.closed = False

    def at_once(self, plan: planning.Plan, who: Who, action: str) -> None:
        """Write the whole plan in this turn, which commits it."""
        for step in plan.steps:
            if (entry := self._take(step, who, action)) is not None:
                self._runs.slots.set_schedule(*entry)

    def go_on(self) -> Generator[None, None, None]:
        """Carry out what was decided, if there is something; forget what was not."""
        decided = self._store.meta_get(_DECIDED)
        if decided is None:
            yield from self._clear()
            return
        by = json.loads(decided)
        who = Who(uid=by["uid"], user=by["user"])
        added: list[tuple[int, int | None]] = []
        while page := self._store.planned_page(_STEP):
            added += [entry for each in page if (entry := self._take(_step(each), who, by["action"]))]
            self._store.planned_drop(len(page))
            yield
        self._store.meta_drop(_DECIDED)
        yield
        for number, (uid, upcoming) in enumerate(added):
            self._runs.slots.set_schedule(uid, upcoming)
            if number % 100 == 0:
                yield

    def _take(self, step: planning.Step, who: Who, action: str) -> tuple[int, int | None] | None:
        """Write what becomes of one job. Of a new one that is enabled: its uid, and when it is to be due."""
        row = None if step.action == "add" else definitions.find(self._store, step.job_id)
        before = None if row is None else row.given
        after = None if step.definition is None else step.definition.given
        self._definitions.audit(who, f"{action}: {step.action}", step.job_id, before, after)
        if row is None and step.definition is not None:
            entry = self._definitions.put(step.definition, step.source, who)
            return entry if step.definition.config.enabled else None
        if row is not None and step.definition is not None:
            self._definitions.replace(row, step.definition, step.source)
        elif row is not None:
            self._definitions.delete(row)
        return None

    def _write_down(self, plan: planning.Plan) -> Iterator[None]:
        piece: list[rows.Planned] = []
        for each in plan.steps:
            piece.append(_planned(each))
            if len(piece) == _STEP:
                self._store.planned_add(piece)
                piece.clear()
                yield
        self._store.planned_add(piece)

    def _clear(self) -> Iterator[None]:
        """Forget a plan that was not decided."""
        while self._store.planned_page(1):
            self._store.planned_drop(100 * _STEP)
            yield


def _planned(step: planning.Step) -> rows.Planned:
    if step.definition is None:
        return rows.Planned(action=step.action, job_id=step.job_id)
    return rows.Planned(
        action=step.action,
        job_id=step.job_id,
        source=step.source,
        given=step.definition.given,
        origins=step.definition.origins,
    )


def _step(planned: rows.Planned) -> planning.Step:
    if planned.given is None or planned.origins is None or planned.source is None:
        return planning.Step(planned.action, planned.job_id)
    definition = load.from_given(planned.given, planned.origins)
    return planning.Step(planned.action, planned.job_id, definition, planned.source)
