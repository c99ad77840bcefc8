"""What the supervisor asks of the launcher for an attempt, where that cannot be asked."""

import os

import stored

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import attempts, config, loop

#: A path that is no UTF-8, which the protocol cannot carry.
ODD = os.fsdecode(b"/srv/\xff")


def test_an_attempt_that_cannot_be_sent_has_ended_as_spawn_and_holds_nothing(tmp_path):
    ended, effects, turns = [], [], loop.Loop()
    made = attempts.Attempts(
        turns, config.Settings(), output_dir=str(tmp_path), jobs_dir=str(tmp_path), daemon_files=[ODD], runs_as=os.geteuid,
        send=lambda *_: None, defer=effects.append, on_ended=lambda *what: ended.append(what),
        on_exceeded=lambda *_: None, on_life=lambda _: None,
    )  # fmt: skip
    job = model.JobConfig(id="a", command="true", sandbox={"profile": "standard"})
    before = set(os.listdir("/proc/self/fd"))
    made.launch(
        attempts.Order(
            run_id=1, attempt=1, of=1, job_uid=1, job=job, slot=None, request={}, queued=stored.T, timeout=None
        )
    )
    turns.call_soon(turns.stop)
    turns.run()
    ((run_id, attempt, outcome, facts),) = ended
    assert (run_id, attempt, outcome.spawn_error) == (1, 1, facts.error)
    assert "UTF-8" in facts.error or "encode" in facts.error
    assert effects == []
    made.close(1, 1, last=True)
    for effect in effects:
        effect()
    assert set(os.listdir("/proc/self/fd")) == before
    turns.close()
