"""`remove --purge`: what a removed job leaves behind goes, a little a turn.

History, output and state directory of a job may be huge. That they are to go is remembered in the store, in one
transaction with the job's removal; only then, and bit by bit, the work begins, and a daemon that is killed over it goes on
with it at its next start. A job that is removed without `--purge` keeps all of it until retention has taken its last run;
its state directory stays, for `schedctl store repair --orphans` to remove.
"""

import os
from collections.abc import Iterator

from lnmt_scheduler.supervisor import journal, output, store, trees

_KEY = "purge:"
#: Runs of one step.
_STEP = 20


def decide(history: store.Store, uid: int) -> None:
    """The job of this uid is removed, and all of it is to go."""
    history.meta_set(f"{_KEY}{uid}", "")


class Purge:
    def __init__(self, history: store.Store, *, output_dir: str, jobs_dir: str) -> None:
        self._store = history
        self._output_dir = output_dir
        self._jobs_dir = jobs_dir

    def all(self) -> Iterator[None]:
        """What was decided and not done."""
        for key in self._store.meta_keys(_KEY):
            yield from self.job(int(key.removeprefix(_KEY)))

    def job(self, uid: int) -> Iterator[None]:
        """Carry out what was decided about this job; yields while at work, and first of all, for the commit."""
        yield
        while gone := self._store.purge_job(uid, _STEP):
            for run_id, queued in gone:
                output.remove(output.path_of(self._output_dir, run_id, queued))
            yield
        yield from trees.remove(os.path.join(self._jobs_dir, str(uid)), lambda why: journal.warning(f"purge: {why}"))
        self._store.meta_drop(f"{_KEY}{uid}")
