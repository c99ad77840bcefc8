"""What a file in `scenarios/` says of itself: how its tests are to be run in the machine.

Such a file is an ordinary module of pytest tests, which run inside the guest, as root, under its systemd. With a `SCENARIO`
it may ask for more than one boot in which all of them run.
"""

import importlib.util
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "scenarios"

#: How a boot is to end: switched off at once, by an orderly reboot, or by a power cut (`report.cut_power()` in a test).
OFF, REBOOT, CUT = "off", "reboot", "cut"


@dataclass(frozen=True, slots=True)
class Boot:
    #: Which tests of the file, as pytest's -k; all, if empty.
    tests: str = ""
    end: str = OFF


@dataclass(frozen=True, slots=True, kw_only=True)
class Scenario:
    boots: tuple[Boot, ...] = (Boot(),)
    #: What pytest is given after its options, in place of the file itself.
    pytest: tuple[str, ...] = ()
    #: MiB of a disk, /dev/vdd, that is empty before the first boot and keeps what is written to it; 0: none.
    disk: int = 0
    #: MiB.
    memory: int = 1024
    #: An emulated machine of more than one does not wake up from its sleep.
    processors: int = 2
    #: For each boot; the guest is slow, and the host may be busy.
    seconds: int = 450
    #: Begins before those that are not.
    is_long: bool = False


def names() -> list[str]:
    return sorted(path.stem for path in FOLDER.glob("[!_]*.py"))


def load(name: str) -> Scenario:
    """Of the file scenarios/NAME.py, which is imported for it."""
    spec = importlib.util.spec_from_file_location(f"vm_scenario_{name}", FOLDER / f"{name}.py")
    if spec is None or spec.loader is None:
        raise LookupError(f"no scenario {name!r}; there are: {', '.join(names())}")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    found = getattr(module, "SCENARIO", Scenario())
    if not isinstance(found, Scenario):
        raise TypeError(f"{name}: SCENARIO is no Scenario")
    return found
