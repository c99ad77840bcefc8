"""What a request does, it does as a whole or not at all.

A handler changes rows, runs in memory, the heap of the schedule, and leaves calls for after the commit. If it ends in an
error, be it a refusal or a mistake of ours, all of that is taken back, and what others did in the same turn is not: rows
by a savepoint, runs by what they were, the schedule by reading it again, and the calls by forgetting them.
"""

import contextlib
from collections import deque
from collections.abc import Callable, Iterator

from lnmt_scheduler.supervisor import catalog, dispatcher, store


class Whole:
    def __init__(
        self,
        history: store.Store,
        jobs: catalog.Catalog,
        runs: dispatcher.Dispatcher,
        effects: deque[Callable[[], None]],
    ) -> None:
        """`effects`: what is called after the commit of this turn."""
        self._store = history
        self._catalog = jobs
        self._runs = runs
        self._effects = effects

    @contextlib.contextmanager
    def __call__(self) -> Iterator[None]:
        """Do one request, or one slice of a long one, in this."""
        effects = len(self._effects)
        try:
            with self._runs.undoable(), self._store.together(self._reread):
                yield
        except BaseException as error:
            while len(self._effects) > effects:
                self._effects.pop()
            if isinstance(error, store.StoreError) and error.kind == "conflict":
                # A mistake of ours that the store has kept from becoming worse, not one of the store.
                raise RuntimeError(f"the store refused it: {error}") from error
            raise

    def _reread(self) -> None:
        """Rows were taken back: what memory knows of jobs may be too new."""
        self._catalog.forget_all()
        self._runs.slots.reread_schedule()
        self._runs.pauses.reread()
