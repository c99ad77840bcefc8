"""`make test-vm`: the tests that need another kernel, cgroup v2 and a real systemd, in a virtual machine.

    python -m vm [SCENARIO...]            all, or those of these names (scenarios/NAME.py)
    python -m vm --pytest ARGUMENTS...    these tests of ours, in one boot
    python -m vm --script FILE            a shell script; its output and its exit code are passed on

Two scenarios at a time, since a guest keeps one processor busy; each boot is from the same images. Ends with 0 only if
everything passed.
"""

import argparse
import contextlib
import os
import shlex
import sys
import tempfile
import threading
import time
from collections import Counter
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

from vm import build, machine, payload, scenario

#: Guests are slow, and a host may be busy: for one test.
_TEST_SECONDS = 240
_PATIENCE = 8
_AT_ONCE = 2
_ENDS = {scenario.OFF: "poweroff -ff", scenario.CUT: "poweroff -ff", scenario.REBOOT: "start --no-block reboot.target"}


class Tally:
    """How each test ended: printed as it comes, and counted."""

    def __init__(self) -> None:
        self.counts: Counter[str] = Counter()
        self.skipped: list[tuple[str, str]] = []
        self.failed: list[str] = []
        self._lock = threading.Lock()

    def add(self, test: str, outcome: str, why: str = "", seconds: float = 0) -> None:
        kind = outcome.split(maxsplit=1)[0]
        with self._lock:
            self.counts[kind] += 1
        said = why.removeprefix("Skipped: ")
        line = f"  {outcome:8} {test}{f'  ({seconds:g} s)' if seconds >= 1 else ''}"
        if kind == "skipped":
            self.skipped.append((test, said))
        elif kind == "failed":
            self.failed.append(test)
            line = f"{line}\n{why}"
        print(line, flush=True)

    def print(self) -> None:
        for test in self.failed:
            print(f"-- failed: {test}")
        reasons: dict[str, list[str]] = {}
        for test, why in self.skipped:
            reasons.setdefault(why, []).append(test)
        if reasons:
            print("\nNot run, and why:")
        for why, tests in reasons.items():
            more = f" and {len(tests) - 1} more" if len(tests) > 1 else ""
            print(f"  {tests[0]}{more}: {why}")
        print("\n" + ", ".join(f"{self.counts[kind]} {kind}" for kind in ("passed", "failed", "skipped")), flush=True)


class Boot:
    """What one boot has said so far."""

    def __init__(self, tally: Tally, name: str, number: int = 0) -> None:
        """`number` of several boots, from 1 on."""
        self._tally = tally
        self._own = f"{name}.py::"
        self._prefix = f"{name}, boot {number}: " if number else f"{name}: " if name else ""
        #: The test that has begun and not ended, the exit code of the order.
        self.running: str | None = None
        self.code: int | None = None

    def told(self, said: dict[str, Any]) -> None:
        match said:
            case {"begun": str(test)}:
                self.running = test
            case {"test": str(test), "outcome": str(outcome), "why": str(why), "seconds": seconds}:
                self.running = None
                self._tally.add(self.name(test), outcome, why, seconds)
            case {"end": int(code)}:
                self.code = code
            case _:
                pass

    def name(self, test: str) -> str:
        return self._prefix + test.rpartition("/")[2].removeprefix(self._own)


def run_scenario(name: str, wanted: scenario.Scenario, image: Path, tally: Tally) -> None:
    """All boots of a scenario, until one ends in another way than it should."""
    own = str((scenario.FOLDER / f"{name}.py").relative_to(build.ROOT))
    with _disk(wanted.disk) as disk:
        made = machine.Machine(image, memory=wanted.memory, processors=wanted.processors, disk=disk)
        for number, each in enumerate(wanted.boots, 1):
            boot = Boot(tally, name, number if len(wanted.boots) > 1 else 0)
            arguments = [*(wanted.pytest or (own,)), *(("-k", each.tests) if each.tests else ())]
            console = build.FOLDER / "log" / f"{name}.{number}.console"
            if not run_boot(made, boot, arguments, each.end, wanted.seconds, console):
                return


def run_boot(made: machine.Machine, boot: Boot, pytest: list[str], end: str, seconds: float, console: Path) -> bool:
    """Run tests in one boot; whether that ended as it should."""
    console.parent.mkdir(parents=True, exist_ok=True)
    began = time.monotonic()
    with console.open("wb") as file:
        how = made.boot(_order(_pytest(pytest), end), seconds=seconds, console=file, told=boot.told)
    print(f"  {boot.name('')}{time.monotonic() - began:.1f} s", flush=True)
    problem = None
    if how == machine.LATE:
        problem = f"nothing more came within {seconds} s; last begun: {boot.running}"
    elif how == machine.CUT and end == scenario.CUT and boot.running is not None:
        boot.told({"test": boot.running, "outcome": "passed", "why": "", "seconds": 0})
        return True
    elif how == machine.CUT or end == scenario.CUT:
        problem = f"the power was {'not ' if how != machine.CUT else ''}cut; last begun: {boot.running}"
    elif boot.code not in (0, 1):
        problem = f"the tests ended with {boot.code}; last begun: {boot.running}"
    if problem is None:
        return boot.code == 0
    tail = console.read_bytes()[-4000:].decode(errors="replace")
    boot.told({"test": "the boot", "outcome": "failed", "why": f"{problem}\n{tail}", "seconds": 0})
    return False


def _order(command: str, end: str) -> str:
    return f'{command}\necho "{{\\"end\\": $?}}" > /dev/ttyS0\nsystemctl {_ENDS[end]} > /dev/null'


def _pytest(arguments: list[str]) -> str:
    options = ("-p", "vm.guest.report", "-p", "no:cacheprovider", "--color=no", "-v")
    times = ("-o", f"timeout={_TEST_SECONDS}", "-o", f"faulthandler_timeout={_TEST_SECONDS - 20}")
    # exec: alone in its cgroup, as a service is.
    return f"LNMT_TEST_PATIENCE={_PATIENCE} PYTHONPATH=tests python -B -m pytest {shlex.join((*options, *times, *arguments))}"


@contextlib.contextmanager
def _disk(mib: int, path: Path | None = None) -> Iterator[Path | None]:
    """A disk of this size: the file of this path, made if it is not there, or one that goes away again."""
    if path is not None:
        yield path if path.exists() else machine.make_disk(path, mib)
        return
    if not mib:
        yield None
        return
    with tempfile.TemporaryDirectory(prefix="disk-", dir=build.FOLDER) as folder:
        yield machine.make_disk(Path(folder, "disk"), mib)


def _run_scenarios(names: list[str], tally: Tally) -> None:
    """The long ones first, so that the end is no wait for one of them."""
    wanted = sorted(((name, scenario.load(name)) for name in names), key=lambda each: not each[1].is_long)
    image = payload.ready()
    with futures.ThreadPoolExecutor(_AT_ONCE) as pool:
        for done in [pool.submit(run_scenario, name, each, image, tally) for name, each in wanted]:
            done.result()


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="vm", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO")
    parser.add_argument("--list", action="store_true", help="name the scenarios")
    parser.add_argument("--script", type=Path, metavar="FILE")
    parser.add_argument("--pytest", nargs=argparse.REMAINDER, metavar="ARGUMENT")
    parser.add_argument("--boots", type=int, default=1, metavar="N", help="with --script: run it in so many boots")
    parser.add_argument(
        "--disk", type=Path, metavar="FILE", help="with --script: /dev/vdd, kept; made if it is not there"
    )
    parser.add_argument("--disk-size", type=int, default=256, metavar="MIB")
    parser.add_argument("--memory", type=int, default=1024, metavar="MIB")
    parser.add_argument("--seconds", type=int, default=300, metavar="S", help="for each boot")
    return parser.parse_args(arguments)


def _run_script(options: argparse.Namespace) -> int:
    """Its exit code; 125 if the guest did not live to tell, or was late."""
    script = options.script.read_text()
    boot = Boot(Tally(), "")
    with _disk(options.disk_size, options.disk) as disk:
        made = machine.Machine(payload.ready(), memory=options.memory, disk=disk)
        for _ in range(options.boots):
            boot.code = None
            order = _order(f"(\n{script}\n) 2>&1", scenario.OFF)
            how = made.boot(order, seconds=options.seconds, console=sys.stdout.buffer, told=boot.told)
            if how != machine.CUT and boot.code != 0:
                break
    return 125 if boot.code is None else boot.code


def main() -> int:
    options = _parse(sys.argv[1:])
    if options.list:
        print("\n".join(scenario.names()))
        return 0
    if unknown := sorted(set(options.scenarios) - set(scenario.names())):
        sys.exit(f"vm: no scenario {', '.join(unknown)}; there are: {', '.join(scenario.names())}")
    build.ready()
    if options.script is not None:
        return _run_script(options)
    tally = Tally()
    if options.pytest is not None:
        made = machine.Machine(payload.ready(), memory=options.memory)
        console = build.FOLDER / "log" / "pytest.console"
        run_boot(made, Boot(tally, ""), options.pytest, scenario.OFF, options.seconds, console)
    else:
        _run_scenarios(options.scenarios or scenario.names(), tally)
    tally.print()
    return 1 if tally.counts["failed"] or not tally.counts["passed"] else 0


if __name__ == "__main__":
    os.environ.setdefault("PYTHONUNBUFFERED", "1")
    raise SystemExit(main())
