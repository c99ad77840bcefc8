"""Jobs that bring the supervisor down: counted, and after the third time left alone until a person enables them again.

A supervisor that failed by its own doing (the launcher says so) and had a job in hand (hand.py) has that job to thank for
it. Its successor writes that down before it does anything else, so that also a job that fails it at every start gets its
third time. What is remembered is one word of the store, as small as the number of jobs that ever did this.
"""

import json
from dataclasses import dataclass

from lnmt_scheduler.supervisor import store

#: A third time is no chance.
LIMIT = 3
_KEY = "quarantine"


@dataclass(frozen=True, slots=True)
class _Offence:
    times: int
    #: How the supervisor ended the last time.
    how: str


class Quarantine:
    def __init__(self, history: store.Store) -> None:
        self._store = history
        kept = json.loads(history.meta_get(_KEY) or "{}")
        self._offences = {int(uid): _Offence(times, how) for uid, (times, how) in kept.items()}

    def accuse(self, job_uid: int, how: str) -> int:
        """It had this job in hand when it ended so; how often that was. To be committed at once."""
        times = self._times(job_uid) + 1
        self._offences[job_uid] = _Offence(times, how)
        self._write()
        return times

    def why(self, job_uid: int) -> str | None:
        """Why the job is left alone; None if it is not."""
        offence = self._offences.get(job_uid)
        if offence is None or offence.times < LIMIT:
            return None
        return (
            f"the supervisor failed {offence.times} times with this job in hand, last by {offence.how}; to try it again:"
            " schedctl enable"
        )

    def release(self, job_uid: int) -> bool:
        """A person wants it tried again; whether it was left alone."""
        was_held = self.why(job_uid) is not None
        if self._offences.pop(job_uid, None) is not None:
            self._write()
        return was_held

    def held(self) -> list[int]:
        """uids of the jobs that are left alone."""
        return [uid for uid in self._offences if self.why(uid) is not None]

    def _times(self, job_uid: int) -> int:
        offence = self._offences.get(job_uid)
        return 0 if offence is None else offence.times

    def _write(self) -> None:
        kept = {str(uid): (offence.times, offence.how) for uid, offence in self._offences.items()}
        self._store.meta_set(_KEY, json.dumps(kept))
