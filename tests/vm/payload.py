"""What is under test, as a disk for the guest: an environment at /opt/lnmt with our wheel, what it needs, and the tests.

The guest has no network and Debian 12's Python, whatever the host's is, so everything is put together here: wheels for that
version, and ours, built as for a release. `ready()` gives the image, made anew where the tree has changed.
"""

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterator
from pathlib import Path

from vm import build

#: Of the guest.
PYTHON, HOME = "3.11", "/opt/lnmt"
#: What the guest's tests import besides what we need to run.
_FOR_TESTS = ("pytest>=8.3", "pytest-timeout>=2.3")
_ROOMS = ("ipc", "sandbox", "jobs", "supervisor")
_PACKAGING = ("pyproject.toml", "setup.cfg", "README.md", "LICENSE")
#: Of the checkout, for what the guest installs as a host does (installed.py).
_INSTALLED_FROM = ("pyproject.toml", "LICENSE")
_SCRIPTS = {"schedd": "schedd", "schedctl": "cli"}


def ready() -> Path:
    """The image of the tree as it is now."""
    image, stamp = build.FOLDER / "payload.ext4", build.FOLDER / "payload.stamp"
    needed = [*_dependencies(), *_FOR_TESTS]
    libraries = _made("libraries", repr(needed), lambda folder: _install(folder, *needed))
    wheel = _made("wheel", _digest(_ROOMS, _PACKAGING), _build_wheel)
    now = f"{libraries.name} {wheel.name} {_digest(('tests', 'packaging'), _INSTALLED_FROM)}"
    if not (image.exists() and stamp.exists() and stamp.read_text() == now):
        with tempfile.TemporaryDirectory(dir=build.FOLDER, prefix="new-") as new:
            tree = Path(new, "tree")
            _lay_out(tree, libraries, wheel)
            build.make_ext4(Path(new, "image"), tree, "96M")
            Path(new, "image").rename(image)
        stamp.write_text(now)
    return image


def _made(name: str, ingredients: str, make) -> Path:
    """A folder build/vm/NAME-DIGEST, made by `make(folder)` if it is not there; older ones of that name go."""
    made = build.FOLDER / f"{name}-{hashlib.sha256(ingredients.encode()).hexdigest()[:16]}"
    if not made.exists():
        for old in build.FOLDER.glob(f"{name}-*"):
            shutil.rmtree(old)
        with tempfile.TemporaryDirectory(dir=build.FOLDER, prefix="new-") as new:
            folder = Path(new, name)
            folder.mkdir()
            make(folder)
            folder.rename(made)
    return made


def _dependencies() -> list[str]:
    found: list[str] = tomllib.loads((build.ROOT / "pyproject.toml").read_text())["project"]["dependencies"]
    return found


def _install(folder: Path, *what: str) -> None:
    """Wheels for the guest's Python, never a source that would be compiled for the host's."""
    platforms = [f"--platform={name}" for name in ("manylinux2014_x86_64", "manylinux_2_28_x86_64")]
    wheels = ("--only-binary=:all:", "--implementation=cp", f"--python-version={PYTHON}", *platforms)
    _pip("install", "--no-compile", "--target", str(folder), *wheels, *what)


def _build_wheel(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=build.FOLDER, prefix="new-") as new:
        source = Path(new)  # a copy: setuptools writes into the tree that it builds
        for name in _ROOMS:
            shutil.copytree(build.ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
        for name in _PACKAGING:
            shutil.copy(build.ROOT / name, source)
        _pip("wheel", "--no-deps", "--wheel-dir", str(folder), str(source))
    (wheel,) = folder.glob("*.whl")
    _pip("install", "--no-compile", "--no-deps", "--target", str(folder / "site"), str(wheel))
    shutil.rmtree(folder / "site" / "bin")  # for the host's interpreter


def _pip(*arguments: str) -> None:
    build.run(sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check", "--no-input", *arguments)


def _lay_out(tree: Path, libraries: Path, wheel: Path) -> None:
    """A virtual environment of the guest's Python, and the tests beside it."""
    site = tree / "lib" / f"python{PYTHON}" / "site-packages"
    shutil.copytree(libraries, site)
    shutil.copytree(wheel / "site", site, dirs_exist_ok=True)
    (tree / "pyvenv.cfg").write_text("home = /usr/bin\ninclude-system-site-packages = false\n")
    programs = tree / "bin"
    programs.mkdir()
    for name in ("python", "python3"):
        (programs / name).symlink_to(f"/usr/bin/python{PYTHON}")
    for name, module in _SCRIPTS.items():
        script = f"#!{HOME}/bin/python\nfrom lnmt_scheduler.supervisor.{module} import main\n\nmain()\n"
        (programs / name).write_text(script)
        (programs / name).chmod(0o755)
    for name in ("tests", "packaging"):
        shutil.copytree(build.ROOT / name, tree / "tree" / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in _INSTALLED_FROM:
        shutil.copy(build.ROOT / name, tree / "tree")
    # The guest's disk is read-only, and it would take the guest ten times as long.
    if interpreter := shutil.which(f"python{PYTHON}"):
        command = [interpreter, "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", str(tree)]
        subprocess.run(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _digest(folders: tuple[str, ...], files: tuple[str, ...]) -> str:
    """Of all that these hold, names and contents."""
    found = hashlib.sha256()
    for path in [*_files(folders), *(build.ROOT / name for name in files)]:
        found.update(f"{path.relative_to(build.ROOT)}\0".encode() + path.read_bytes() + b"\0")
    return found.hexdigest()


def _files(folders: tuple[str, ...]) -> Iterator[Path]:
    for folder in folders:
        for where, names, files in os.walk(build.ROOT / folder):
            names[:] = sorted(name for name in names if name != "__pycache__")
            yield from (Path(where, name) for name in sorted(files))
