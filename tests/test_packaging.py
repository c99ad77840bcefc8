"""What is built is what is here: every module and every .sql in the wheel, and a program that starts from it."""

import subprocess
import sys
import tarfile
import venv
import zipfile
from importlib import metadata
from pathlib import Path

import pytest

from lnmt_scheduler.supervisor import version

ROOT = Path(__file__).parent.parent
ROOMS = ("ipc", "sandbox", "jobs", "supervisor")


@pytest.fixture(scope="module")
def built(tmp_path_factory) -> Path:
    """A folder with sdist and wheel, the wheel built from the sdist."""
    out = tmp_path_factory.mktemp("dist")
    done = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", str(out), str(ROOT)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return out


def test_the_wheel_holds_every_module_and_sql_file(built):
    (wheel,) = built.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        names = set(archive.namelist())
    expected = {
        f"lnmt_scheduler/{room}/{path.name}"
        for room in ROOMS
        for path in (ROOT / room).iterdir()
        if path.suffix in (".py", ".sql") or path.name == "py.typed"
    }
    assert {name for name in names if name.startswith("lnmt_scheduler/")} == expected


def test_the_sdist_holds_what_the_wheel_is_built_from(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {name.partition("/")[2] for name in archive.getnames()}
    assert {"LICENSE", "README.md", "pyproject.toml", "setup.cfg"} <= names
    assert {f"supervisor/{path.name}" for path in (ROOT / "supervisor").glob("*.sql")} <= names


@pytest.mark.slow
def test_the_installed_wheel_starts(built, tmp_path):
    (wheel,) = built.glob("*.whl")
    # Dependencies come from the environment that runs this test; the package itself only from the wheel.
    environment = tmp_path / "venv"
    venv.create(environment, with_pip=False)
    python = environment / "bin/python"
    site = next((environment / "lib").glob("python*/site-packages"))
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site)
    (site / "others.pth").write_text("\n".join(path for path in sys.path if path.endswith("site-packages")) + "\n")
    program = (
        "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in type(f).__module__ + repr(f)];"
        "import lnmt_scheduler.supervisor.store as s, lnmt_scheduler.supervisor.cli; print(s.__file__); s.migrations()"
    )
    done = subprocess.run([python, "-I", "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith(str(site))


def test_the_version_in_the_code_is_that_of_the_package():
    assert metadata.version("lnmt-scheduler") == version.VERSION


def test_both_commands_are_installed():
    scripts = {script.name for script in metadata.entry_points(group="console_scripts")}
    assert {"schedd", "schedctl"} <= scripts
