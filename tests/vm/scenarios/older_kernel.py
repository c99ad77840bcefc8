"""The sandbox on Linux 6.1, with cgroup v2 and a landlock of ABI 2: our own tests of its layers, and the hostile catalogue.

Only what another kernel can change. Of the catalogue these are modes a and b: this landlock scopes no signals, so there is no
mode c, and mode d is the same everywhere. Of the attempts that take a run of their own they are those that a control group or
a filter stands against, but for `spin`, which measures a second of processor time: under emulation a second holds anything,
and `limits` shows what cpu.max does. Pure decisions are left to the host.
"""

from escape import catalogue
from vm import scenario

_FILES = ("cgroup", "landlock", "probe", "seccomp_live")
_TESTED = "tests/escape/test_catalogue.py::test_it_comes_to_what_the_catalogue_says"
_CHANGED = {"memory", "pids", "seccomp", "landlock", "tree_kill"}


def _tried() -> list[str]:
    cases = [case for case in catalogue.CASES if not (case.see or (case.whole and not _CHANGED & set(case.layers)))]
    return [
        f"{_TESTED}[{case.name}-{profile}-{mode}]"
        for case in cases
        for mode in catalogue.BOXED
        for profile in case.profiles
        if case.applies(profile, mode)
    ]


_NOT_THERE = " and ".join(f"not [{mode}] and not -{mode}]" for mode in "cd")
SCENARIO = scenario.Scenario(
    pytest=("-k", _NOT_THERE, *(f"tests/sandbox/test_{name}.py" for name in _FILES), *_tried()),
    seconds=700,
    is_long=True,
)
