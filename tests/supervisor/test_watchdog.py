"""A limit of memory where no cgroup can hold it: the launcher looks at the box, once a second."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import standin

from lnmt_scheduler.ipc import messages
from lnmt_scheduler.sandbox import policy

MIB = 1 << 20
#: Two processes that have so much together, and wait.
BALLOON = """
import os, sys, time
os.fork()
held = b"x" * ({each} << 20)
time.sleep({seconds})
"""


@pytest.fixture(scope="module")
def without(tmp_path_factory: pytest.TempPathFactory) -> Iterator[standin.Launched]:
    """A launcher without cgroups, which looks more often than once a second."""
    folder: Path = tmp_path_factory.mktemp("launcher")
    often = "from lnmt_scheduler.supervisor import launcher\nlauncher._WATCH_MEMORY = 0.05\n"
    with standin.Launched(folder, masked="cgroup", before=often) as made:
        yield made


def limited(word: str = policy.PREFER) -> dict[str, object]:
    return policy.Policy(memory=100 * MIB, layers={**policy.Policy().layers, "memory": word}).to_map()


def balloon(each: int, seconds: float) -> list[str]:
    return [sys.executable, "-I", "-S", "-c", BALLOON.format(each=each, seconds=seconds)]


def test_a_box_over_its_limit_is_killed_and_the_end_is_put_down_to_memory(without):
    exited = without.run(*balloon(70, 60), wanted=limited()).exited
    assert exited.enforced["memory"] == policy.BEST_EFFORT
    assert (exited.signal, exited.oom_kills, exited.cause) == (9, 1, None)
    assert exited.killed_count == 2
    assert exited.duration < 20


def test_a_box_within_its_limit_is_left_alone(without):
    exited = without.run(*balloon(20, 0.5), wanted=limited()).exited
    assert (exited.exit_code, exited.oom_kills) == (0, 0)


def test_who_has_no_limit_is_not_looked_at(without):
    exited = without.run(*balloon(70, 0.5)).exited
    assert (exited.exit_code, exited.oom_kills) == (0, 0)
    assert "memory" not in exited.enforced


def test_who_requires_the_limit_is_refused(without):
    exited, _ = without.expect_of(messages.Exited, without.launch(argv=["/bin/true"], wanted=limited(policy.REQUIRE)))
    assert exited.sandbox_error is not None
    assert exited.sandbox_error.startswith("memory: required")


def test_a_run_over_its_limit_has_memory_for_its_reason(make_daemon):
    daemon = make_daemon(environment={"LNMT_PRETEND": "cgroup"})
    daemon.add(
        id="job", command=balloon(70, 60), working_directory="/", max_retries=0, sandbox="trusted", limits={"memory": "100M"}
    )  # fmt: skip
    row = daemon.run_to_end("job")
    assert (row["status"], row["reason"]) == ("failed", "memory")
    assert row["enforced"]["memory"] == policy.BEST_EFFORT
