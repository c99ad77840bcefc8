"""`make install DESTDIR=...`: what is in the tree, upgrade, the way back, and what is left after `make uninstall`."""

import os
import pwd
import re
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import assemble
import pytest
from installing import ROOT, make

HOME = "opt/lnmt-scheduler"
SHARE = "usr/local/share"
LIB = "usr/local/lib"
#: Path -> mode, of all but what is within the version.
FILES = {
    "etc/lnmt-scheduler/config.toml": 0o640,
    f"{HOME}/python": 0o755,
    f"{LIB}/systemd/system/lnmt-scheduler.service": 0o644,
    f"{LIB}/systemd/system/lnmt-scheduler-account.service": 0o644,
    f"{LIB}/sysusers.d/lnmt-scheduler.conf": 0o644,
    f"{LIB}/tmpfiles.d/lnmt-scheduler.conf": 0o644,
    "usr/local/sbin/lnmt-scheduler-rollback": 0o755,
    f"{SHARE}/bash-completion/completions/schedctl": 0o644,
    f"{SHARE}/zsh/site-functions/_schedctl": 0o644,
    f"{SHARE}/fish/vendor_completions.d/schedctl.fish": 0o644,
    f"{SHARE}/doc/lnmt-scheduler/LICENSE": 0o644,
    f"{SHARE}/doc/lnmt-scheduler/config.toml": 0o644,
    f"{SHARE}/doc/lnmt-scheduler/hardened.conf": 0o644,
    **{
        f"{SHARE}/doc/lnmt-scheduler/{page.relative_to(ROOT / 'docs')}": 0o644
        for page in (ROOT / "docs").rglob("*")
        if page.is_file()
    },
}
LINKS = {
    "usr/local/bin/schedd": "/opt/lnmt-scheduler/current/bin/schedd",
    "usr/local/bin/schedctl": "/opt/lnmt-scheduler/current/bin/schedctl",
}

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]


def install(tree, offline, at=ROOT, **more):
    done = make("install", at=at, DESTDIR=tree, **offline, **more)
    assert done.returncode == 0, done.stderr
    return done.stdout


def current(tree: Path, link: str = "current") -> str:
    return os.readlink(tree / HOME / link)


def snapshot(tree: Path) -> dict[str, tuple[int, int, int, object]]:
    """Everything below: mode, owner, size or target, and when it was last changed."""
    found = {}
    for path in tree.rglob("*"):
        info = path.lstat()
        what = os.readlink(path) if path.is_symlink() else info.st_size
        found[str(path.relative_to(tree))] = (info.st_mode, info.st_uid, info.st_ino, what)
    return found


def run(tree: Path, program: str, *arguments: str) -> str:
    """A program of the current version, where the tree lies now; it knows its final place only."""
    text = (tree / HOME / "current/bin" / program).read_text().partition("\n")[2]
    done = subprocess.run(
        [tree / HOME / "current/bin/python", "-I", "-c", text, *arguments], capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def tree(tmp_path_factory, offline):
    """An installed tree that no test changes."""
    where = tmp_path_factory.mktemp("tree")
    install(where, offline)
    return where


@pytest.fixture
def own(tree, tmp_path):
    """A copy of it, to be changed."""
    return shutil.copytree(tree, tmp_path / "own", symlinks=True)


def test_the_tree_holds_what_is_promised_and_nothing_else(tree):
    version = f"{HOME}/{current(tree)}/"
    found = {name: entry for name, entry in snapshot(tree).items() if not name.startswith(version)}
    files = {name: stat.S_IMODE(mode) for name, (mode, *_) in found.items() if stat.S_ISREG(mode)}
    links = {name: what for name, (mode, _, _, what) in found.items() if stat.S_ISLNK(mode)}
    directories = {name: stat.S_IMODE(mode) for name, (mode, *_) in found.items() if stat.S_ISDIR(mode)}
    assert files == FILES
    assert links == {**LINKS, f"{HOME}/current": current(tree)}
    assert directories.pop("etc/lnmt-scheduler/jobs.d") == 0o750
    assert set(directories.values()) == {0o755}
    assert {owner for _, owner, _, _ in snapshot(tree).values()} == {os.geteuid()}
    assert re.fullmatch(r"0\.1\.0-[0-9a-f]{8}", current(tree))


def test_every_account_can_read_a_version_and_only_its_owner_can_change_it(tree):
    for path in (tree / HOME).rglob("*"):
        mode = path.lstat().st_mode
        if not stat.S_ISLNK(mode):
            assert mode & 0o022 == 0, path
            assert mode & (0o055 if stat.S_ISDIR(mode) else 0o044), path


def test_a_version_names_neither_the_checkout_nor_the_tree(tree):
    for path in (tree / HOME).rglob("*"):
        if path.is_file() and not path.is_symlink():
            data = path.read_bytes()
            assert os.fsencode(tree) not in data, path
            assert os.fsencode(ROOT) + b"/" not in data, path


def test_a_version_is_complete_and_its_bytecode_is_there(tree):
    (package,) = (tree / HOME / "current/lib").glob("python*/site-packages/lnmt_scheduler")
    for room in ("ipc", "sandbox", "jobs", "supervisor"):
        modules = {path.stem for path in (package / room).glob("*.py")}
        assert modules == {path.stem for path in (ROOT / room).glob("*.py")}
        compiled = {path.name.partition(".")[0] for path in (package / room / "__pycache__").iterdir()}
        assert compiled == modules
    assert not list(tree.glob(f"{HOME}/current/lib/python*/site-packages/pip"))
    assert run(tree, "schedd", "--version") == "schedd 0.1.0\n"
    assert run(tree, "schedctl", "--version") == "schedctl 0.1.0\n"


def test_an_extra_that_there_is_not_is_refused_with_those_that_there_are(folder):
    done = make("install", DESTDIR=folder / "tree", EXTRAS="nte")
    assert done.returncode != 0
    assert "there is no extra 'nte'; there are " in done.stderr


def test_extras_that_were_asked_for_once_stay_until_they_are_named_anew(tmp_path):
    (tmp_path / "current").mkdir()
    assert assemble.extras("", tmp_path) == ()
    assert assemble.extras("words, net", tmp_path) == ("net", "words")
    (tmp_path / "current" / "extras").write_text("net,words")
    assert assemble.extras("", tmp_path) == ("net", "words")
    assert assemble.extras("none", tmp_path) == ()


@pytest.mark.long
def test_to_install_the_same_again_changes_nothing_that_is_somebody_elses(own, offline):
    before = snapshot(own)
    config = own / "etc/lnmt-scheduler/config.toml"
    config.write_text("max_concurrent_jobs = 3\n")
    config.chmod(0o600)
    (own / "etc/lnmt-scheduler/jobs.d/mine.json").write_text('{"jobs": []}')
    assert "was current already" in install(own, offline)
    assert config.read_text() == "max_concurrent_jobs = 3\n"
    assert stat.S_IMODE(config.stat().st_mode) == 0o600
    after = snapshot(own)
    version = f"{HOME}/{current(own)}"
    assert {n: e for n, e in after.items() if n.startswith(version)} == {
        n: e for n, e in before.items() if n.startswith(version)
    }
    assert set(after) - set(before) == {"etc/lnmt-scheduler/jobs.d/mine.json"}


@pytest.mark.long
def test_upgrade_and_the_way_back(own, offline, checkout):
    first = current(own)
    source = checkout("0.2.0")
    install(own, offline, at=source)
    shutil.rmtree(source)  # an installed version needs no checkout
    second = current(own)
    assert second.startswith("0.2.0-")
    assert current(own, "previous") == first
    assert run(own, "schedctl", "--version") == "schedctl 0.2.0\n"
    back = make("rollback", DESTDIR=own)
    assert back.returncode == 0, back.stderr
    assert (current(own), current(own, "previous")) == (first, second)
    assert run(own, "schedctl", "--version") == "schedctl 0.1.0\n"
    installed = own / "usr/local/sbin/lnmt-scheduler-rollback"
    subprocess.run([sys.executable, "-I", installed, "--destdir", own], check=True, capture_output=True)
    assert (current(own), current(own, "previous")) == (second, first)


@pytest.mark.long
def test_a_failed_install_leaves_the_current_version_as_it_was(own, offline, checkout):
    before = snapshot(own)
    broken = checkout("0.2.0")
    (broken / "pyproject.toml").write_text((broken / "pyproject.toml").read_text().replace("click>=8.1", "click>=900"))
    done = make("install", at=broken, DESTDIR=own, **offline)
    assert done.returncode != 0
    assert "click>=900" in done.stderr
    assert snapshot(own) == before


@pytest.mark.long
def test_uninstall_leaves_what_is_the_administrators(own):
    (own / "usr/local/bin/other").write_text("of somebody else")
    done = make("uninstall", DESTDIR=own)
    assert done.returncode == 0, done.stderr
    left = {str(path.relative_to(own)) for path in own.rglob("*") if not path.is_dir() or path.is_symlink()}
    assert left == {"etc/lnmt-scheduler/config.toml", "usr/local/bin/other"}
    assert make("uninstall", DESTDIR=own).returncode == 0


@pytest.mark.long
def test_an_ordinary_account_makes_a_tree_and_touches_nothing_outside(folder, offline, checkout):
    """Whatever it would touch elsewhere is root's, and would fail it; its own home and /tmp stay empty."""
    user = "nobody" if os.geteuid() == 0 else None
    source = checkout("0.2.0")
    for name in ("tree", "home", "tmp"):
        (folder / name).mkdir()
        if user is not None:
            shutil.chown(folder / name, user, pwd.getpwnam(user).pw_gid)
    homes = {"HOME": str(folder / "home"), "TMPDIR": str(folder / "tmp")}
    # PREFIX moves all but versions and configuration.
    done = make("install", at=source, DESTDIR=folder / "tree", PREFIX="/usr", environment=homes, user=user, **offline)
    assert done.returncode == 0, done.stderr
    assert list((folder / "home").iterdir()) == []
    assert list((folder / "tmp").iterdir()) == []
    assert set(os.listdir(folder / "tree")) == {"etc", "opt", "usr"}
    assert os.readlink(folder / "tree/usr/bin/schedctl") == LINKS["usr/local/bin/schedctl"]
    assert (folder / "tree/usr/lib/systemd/system/lnmt-scheduler.service").exists()
    assert not (folder / "tree/usr/local").exists()
    refused = make("install", at=source, environment=homes, user=user, **offline)
    assert refused.returncode != 0
    assert "sudo make install" in refused.stderr


@pytest.mark.parametrize("name", ["DESTDIR", "PREFIX"])
def test_relative_paths_are_refused(name, offline):
    given = {"DESTDIR": "/nonexistent", name: "relative"}
    done = make("install", **given, **offline)
    assert done.returncode != 0
    assert "absolute" in done.stderr


@pytest.mark.parametrize(
    ("shell", "path"),
    [
        ("bash", "bash-completion/completions/schedctl"),
        ("zsh", "zsh/site-functions/_schedctl"),
        ("fish", "fish/vendor_completions.d/schedctl.fish"),
    ],
)
def test_each_shell_takes_its_completion(tree, shell, path):
    try:
        done = subprocess.run([shell, "-n", tree / SHARE / path], capture_output=True, text=True)
    except FileNotFoundError:
        pytest.skip(f"{shell} is not here")
    assert (done.returncode, done.stderr) == (0, "")
    assert "schedctl" in (tree / SHARE / path).read_text()
