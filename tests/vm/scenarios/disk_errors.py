"""A disk below the state directory that begins to refuse every write, and is mended: dm-flakey.

The file system has no journal: one with a journal would stop all writing for good at its first error, as it has to, and that
is what `readonly` is about. Here the error is over when the disk is.
"""

import contextlib

import harness
import pytest
from vm import disks, scenario, unit

from lnmt_scheduler.supervisor import client

SCENARIO = scenario.Scenario(disk=128)
TRUSTED = {"sandbox": {"profile": "trusted"}, "max_retries": 0}


@pytest.fixture(scope="module")
def disk():
    part = disks.Part("state", 0, 128)
    part.format("-O", "^has_journal")
    part.mount(unit.STATE, "errors=continue")
    return part


@pytest.fixture(scope="module")
def daemon(disk):
    made = unit.Unit(unit.ROOT_UNIT).start()
    made.add(id="tick", command="echo $LNMT_SLOT >> /run/witness; true", schedule="@every 1s", **TRUSTED)
    return made


def state(daemon):
    with contextlib.suppress(client.Unreachable, client.RequestError):
        return daemon.status()["store"]
    return None


def ran():
    with open("/run/witness", encoding="ascii") as file:
        return file.read().split()


def rows(daemon):
    return {row["run_id"]: row["slot"] for row in daemon.history(job_id="tick") if row["status"] == "completed"}


@pytest.mark.parametrize("turn", [1, 2])
def test_no_acknowledged_row_is_lost_status_tells_and_it_goes_on_by_itself(daemon, disk, turn):
    harness.wait_for(lambda: len(rows(daemon)) >= 2, what="two slots")
    before = rows(daemon)
    disk.fail_writes()
    harness.wait_for(lambda: state(daemon) not in ("ok", None), seconds=30, what="status to tell")
    held = len(ran())
    with contextlib.suppress(client.Unreachable, client.RequestError):
        daemon.add(id=f"refused-{turn}", command="true", **TRUSTED)
        pytest.fail("a change was acknowledged that cannot have been written")
    disk.mend()
    harness.wait_for(lambda: state(daemon) == "ok", seconds=60, what="the store to go on")
    harness.wait_for(lambda: len(ran()) >= held + 2, what="slots that run again")
    after = daemon.history(job_id="tick")
    assert before.keys() <= {row["run_id"] for row in after}
    slots = [row["slot"] for row in after]
    assert len(slots) == len(set(slots))
    assert len(ran()) == len(set(ran()))


def test_in_the_end_the_store_is_whole(daemon):
    unit.systemd("systemctl", "stop", unit.SERVICE)
    done = daemon.ctl("store", "check")
    assert done.code == 0, done
