"""A daemon makes its files with the modes that they are to have, whatever umask it was started with."""

import os
import stat

import pytest

STRICT = ("sh", "-c", 'umask 077; exec "$@"', "sh")


@pytest.fixture
def strict(make_daemon):
    return make_daemon(wrapper=STRICT)


def test_a_strict_umask_locks_no_job_out_of_its_state_directory(strict):
    if os.geteuid() == 0:
        strict.add(id="keeps", command='echo kept > "$LNMT_STATE_DIR/file"', user="nobody", max_retries=0)
    else:
        strict.add(id="keeps", command='echo kept > "$LNMT_STATE_DIR/file"', max_retries=0)
    assert strict.run_to_end("keeps")["status"] == "completed"
    modes = {name: stat.S_IMODE((strict.state_dir / name).stat().st_mode) for name in ("jobs", "output", "lnmt.db")}
    assert modes == {"jobs": 0o711, "output": 0o700, "lnmt.db": 0o600}
