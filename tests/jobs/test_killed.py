"""Jobs that remember, killed again and again at growing times: what the next run finds is whole, and it begins nothing anew.

Those with more to lose have tests of their own: test_security.py, test_databases.py, test_rotation.py.
"""

import contextlib
import os
import subprocess

import peers
import pytest

PROGRAM = """
import sys
from lnmt_scheduler.jobs import polling
print("up", flush=True)
polling.{call}
print("done", flush=True)
"""
NETWORK = "network_status(devices=[{'name': 'r1', 'address': '127.0.0.1', 'ping': False, 'tcp': [1]}], down_after=1)"
CALLS = {NETWORK: {"network.json"}, "system_metrics()": {"metrics.db"}}


@pytest.mark.slow
@pytest.mark.parametrize("call", CALLS, ids=["network_status", "system_metrics"])
def test_a_job_that_is_killed_at_any_time_leaves_what_the_next_one_can_use(tmp_path, call):
    def start() -> subprocess.Popen[str]:
        return subprocess.Popen(
            [peers.PYTHON, "-c", PROGRAM.format(call=call)],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={**os.environ, "LNMT_STATE_DIR": str(tmp_path)},
        )  # fmt: skip

    killed = 0
    for number in range(8):
        with start() as job:
            assert job.stdout is not None
            job.stdout.readline()
            with contextlib.suppress(subprocess.TimeoutExpired):
                job.wait(0.008 * number)
            job.kill()
            killed += "done" not in job.communicate()[0]
    assert killed
    with start() as job:
        said, errors = job.communicate()
    assert (job.returncode, said.splitlines()[-1], errors) == (0, "done", "")
    assert {name for name in os.listdir(tmp_path) if not name.endswith("-journal")} == CALLS[call]
