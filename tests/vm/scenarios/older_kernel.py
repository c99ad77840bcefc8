"""The sandbox on Linux 6.1, with cgroup v2 and a landlock of ABI 2: our own tests of its layers, and the hostile catalogue.

This landlock scopes no signals, so there is no mode c, and without namespaces no files for `standard` either: those cases say
so. Pure decisions, which are the same on any kernel, are left to the host. So is the case `spin`, which measures a second of
processor time: under emulation a second holds anything, and `limits` shows what cpu.max does.
"""

from vm import scenario

_LAYERS = (
    *("box", "capabilities", "cgroup", "enter", "filesystem", "init", "landlock", "limits", "main", "measure", "probe"),
    *("scratch", "seccomp_live", "syscalls"),
)
SCENARIO = scenario.Scenario(
    pytest=(*(f"tests/sandbox/test_{name}.py" for name in _LAYERS), "tests/escape/test_catalogue.py", "-k", "not spin"),
    seconds=600,
)
