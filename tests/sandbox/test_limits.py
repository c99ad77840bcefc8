"""Limits hold in the process that they are set in and in all that it starts."""

import os
import resource

import standin

from lnmt_scheduler.sandbox import policy


def run(launched, script: str, **limits: object):
    return launched.run("/bin/sh", "-c", script, wanted=policy.Policy(**limits).to_map())


def test_limits_are_soft_and_hard_and_pass_through_exec(launched):
    script = "exec sh -c 'ulimit -Sn; ulimit -Hn; ulimit -St; ulimit -Ht; nice'"
    assert run(launched, script, open_files=33, cpu_time=44, nice=3).stdout.split() == [
        b"33",
        b"33",
        b"44",
        b"44",
        b"3",
    ]


def test_a_file_over_its_size_kills_and_is_no_success(launched, folder):
    done = run(launched, f"exec head -c 100000 /dev/zero > {folder}/big", file_size=4096)
    assert (done.exited.exit_code, done.exited.signal) == (None, 25)
    assert (folder / "big").stat().st_size == 4096


def test_who_ignores_the_signal_for_processor_time_is_killed_all_the_same(launched):
    done = run(launched, "trap '' XCPU; while :; do :; done", cpu_time=1)
    assert done.exited.signal == 9
    assert done.exited.cause is None
    # The kernel's two clocks differ by a tick or more: RLIMIT_CPU counts ticks, a cgroup nanoseconds.
    assert 0.5 < done.exited.cpu_seconds < 10


def test_without_limits_a_job_has_those_of_the_launcher(launched):
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if os.geteuid() != 0:  # of those of its account some are the launcher's alone
        hard = hard * 3 // 4
        soft = min(soft, hard)
    assert run(launched, "ulimit -Sn; ulimit -Hn").stdout.split() == [str(soft).encode(), str(hard).encode()]


def test_no_core_is_dumped_not_even_to_a_handler():
    source = """
import resource
from lnmt_scheduler.sandbox import limits
limits.forbid_core_dumps()
print(resource.getrlimit(resource.RLIMIT_CORE), open("/proc/self/coredump_filter").read())
"""
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    done = standin.python(source)
    if hard == 0:
        # A hard limit of 0 that this process may not raise is as good, and must not fail the job.
        assert done.returncode == 0 or "not allowed" in done.stderr
    else:
        assert done.stdout.split() == ["(1,", "1)", "00000000"]
