"""A change of many jobs, in turns: written down, decided, carried out.

A plan of a few hundred jobs is one transaction in one turn. A larger one would hold up the loop for seconds, so it is first
written into a table of its own, a piece a turn; then one word in the store decides it; then it is carried out, a piece a
turn, each piece in one transaction with its removal from that table. So it happens whole or not at all, also if the
daemon is killed: before the word nothing has changed, after it the next start carries out the rest before anything else.
In between, no other change of definitions is taken, and the new jobs are not due before all of them are there.
"""

import json
from collections.abc import Generator, Iterator

from lnmt_scheduler.supervisor import dispatcher, registry, rows, store

#: Jobs that one turn may change.
_ONE_TURN = 500
#: Jobs of one step; a turn takes several, as its time allows.
_STEP = 10
#: Where the decision is remembered.
_DECIDED = "plan"


class Bulk:
    def __init__(self, history: store.Store, definitions: registry.Registry, runs: dispatcher.Dispatcher) -> None:
        self._store = history
        self._registry = definitions
        self._runs = runs

    def carry_out(self, plan: registry.Plan, who: registry.Who, action: str) -> Generator[None, None, None]:
        """Write the whole plan; yields while at work. Refused if jobs were changed since the plan was made."""
        self._registry.check_holds(plan)
        if plan.size <= _ONE_TURN:
            self._registry.carry_out(plan, who, action)
            return
        self._registry.closed = True
        try:
            yield from self._clear()
            yield from self._write_down(plan)
            self._store.meta_set(_DECIDED, json.dumps({"uid": who.uid, "user": who.user, "action": action}))
            yield
            yield from self.go_on()
        finally:
            self._registry.closed = False

    def go_on(self) -> Generator[None, None, None]:
        """Carry out what was decided, if there is something; forget what was not."""
        decided = self._store.meta_get(_DECIDED)
        if decided is None:
            yield from self._clear()
            return
        by = json.loads(decided)
        who = registry.Who(uid=by["uid"], user=by["user"])
        added: list[tuple[int, int | None]] = []
        while page := self._store.planned_page(_STEP):
            added += [entry for each in page if (entry := self._registry.carry_out_one(each, who, by["action"]))]
            self._store.planned_drop(len(page))
            yield
        self._store.meta_drop(_DECIDED)
        yield
        for number, (uid, upcoming) in enumerate(added):
            self._runs.slots.set_schedule(uid, upcoming)
            if number % 100 == 0:
                yield

    def _write_down(self, plan: registry.Plan) -> Iterator[None]:
        piece: list[rows.Planned] = []
        for each in plan.steps():
            piece.append(each)
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
