"""How long this host's work has waited for processors, memory and disks: /proc/pressure, since Linux 4.20."""

from collections.abc import Mapping

RESOURCES = ("cpu", "memory", "io")


def read(resource: str, root: str = "/proc/pressure") -> Mapping[str, Mapping[str, float]] | None:
    """`some` and `full`, each with avg10, avg60, avg300 (percent) and total (microseconds); None where there is none."""
    try:
        with open(f"{root}/{resource}", encoding="ascii") as file:
            text = file.read(4096)
    except OSError:  # no such file, or a kernel that has it switched off
        return None
    found = {}
    for line in text.splitlines():
        kind, *pairs = line.split()
        found[kind] = {name: float(value) for name, _, value in (pair.partition("=") for pair in pairs)}
    return found
