"""The rooms and who may import whom, read from the source; an import that is not there cannot be hidden from this."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
#: Room -> rooms that it may import from.
MAY = {
    "ipc": set(),
    "sandbox": set(),
    "jobs": {"sandbox", "ipc"},
    "supervisor": {"jobs", "sandbox", "ipc"},
}
#: Room -> what it may import from outside the standard library and ours.
OUTSIDE = {
    "ipc": {"msgpack"},
    "sandbox": set(),
    "supervisor": {
        "click",
        "cron_descriptor",
        "croniter",
        "crontab",
        "msgpack",
        "msgspec",
        "psutil",
        "rich",
        "tabulate",
    },
    "jobs": {"apprise", "icmplib", "netmiko", "msgpack", "msgspec", "psutil", "pysnmp"},
}
#: Third-party module -> the only modules that may import it.
ONLY = {
    "msgspec": {
        "jobs/load.py",
        "jobs/alerting.py",
        "jobs/delivery.py",
        "jobs/devices.py",
        "jobs/fields.py",
        "jobs/inventory.py",
        "jobs/schema.py",
        "supervisor/config.py",
        "supervisor/control.py",
    },
    "croniter": {"supervisor/cron.py"},
    # Of extras: who imports them says how to get them where they are missing.
    "cron_descriptor": {"supervisor/words.py"},
    "crontab": {"supervisor/crontab.py"},
    "rich": {"supervisor/watching.py"},
    "sqlite3": {
        "jobs/databases.py",
        "jobs/history.py",
        "jobs/copies.py",
        "jobs/memory.py",
        "jobs/outbox.py",
        "jobs/metrics.py",
        "jobs/security.py",
        "supervisor/mending.py",
        "supervisor/snapshot.py",
        "supervisor/store.py",
    },
    "ctypes": {"sandbox/syscalls.py"},
    "icmplib": {"jobs/probes.py"},
    "apprise": {"jobs/delivery.py"},
    "netmiko": {"jobs/devices.py"},
    "pysnmp": {"jobs/snmp.py"},
}
#: What the launcher's process must never hold.
HEAVY = {"sqlite3", "msgspec", "click", "croniter", "dateutil", "psutil", "tabulate", "asyncio", "multiprocessing"}

FILES = [path for room in MAY for path in sorted((ROOT / room).glob("*.py"))]


def imports(path: Path) -> set[str]:
    """Full names of all that a file imports, wherever in it."""
    found = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: relative import"
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


@pytest.mark.parametrize("path", FILES, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_imports_point_down(path):
    room = path.parent.name
    for name in imports(path):
        top, *rest = name.split(".")
        if top == "lnmt_scheduler":
            assert rest[0] == room or rest[0] in MAY[room], f"{room} may not import {name}"
        elif top not in sys.stdlib_module_names:
            assert top in OUTSIDE[room], f"{room} may not import {name}"
        if top in ONLY:
            assert f"{room}/{path.name}" in ONLY[top], f"{name} belongs into {ONLY[top]}"


def test_rooms_are_flat():
    assert [
        str(path) for room in MAY for path in (ROOT / room).iterdir() if path.is_dir() and path.name != "__pycache__"
    ] == []


def test_no_module_has_the_name_of_one_of_the_standard_library():
    clashes = {path.stem for path in FILES} & sys.stdlib_module_names
    assert clashes == set()


def test_the_launcher_imports_nothing_heavy():
    program = "import sys, lnmt_scheduler.supervisor.schedd; print(*sys.modules)"
    done = subprocess.run([sys.executable, "-I", "-c", program], capture_output=True, text=True, check=True)
    loaded = set(done.stdout.split())
    assert loaded & HEAVY == set()
    ours = {name for name in loaded if name.startswith("lnmt_scheduler.supervisor.")}
    assert ours == {
        f"lnmt_scheduler.supervisor.{name}"
        for name in (
            "boxes",
            "journal",
            "launcher",
            "loop",
            "notify",
            "options",
            "paths",
            "pulse",
            "schedd",
            "successor",
            "version",
        )
    }


def test_every_module_opens_with_its_theory():
    bare = [str(path) for path in FILES if ast.get_docstring(ast.parse(path.read_text())) is None]
    assert bare == []
