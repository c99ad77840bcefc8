"""What a box sees of the file system, looked at from inside: in real boxes of both kinds, with mounts and nothing else."""

import dataclasses
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import standin

from lnmt_scheduler.sandbox import filesystem, policy, users

#: Try expressions in a box of mode argv[1] and print what came of each: a value, or the name of its error.
SOURCE = """
import errno, json, os, sys, time
from pathlib import Path
from lnmt_scheduler.sandbox import box, policy

mode, wanted, tries, count, mask = json.loads(sys.argv[1])
os.umask(mask)
wanted = policy.from_map(wanted)
mounted = Path("/proc/self/mountinfo").read_text()
descriptors = sorted(os.listdir("/proc/self/fd"))
read, write = os.pipe()

def fill(path):
    "Bytes that fit into a file."
    size = 0
    with open(path, "wb", buffering=0) as file:
        try:
            while size < 64 << 20:
                size += file.write(bytes(65536))
        except OSError as error:
            assert error.errno == errno.ENOSPC
    os.unlink(path)
    return size

def write_to(path):
    Path(path).write_text("new")

def attempt(expression):
    try:
        return eval(expression)
    except OSError as error:
        return errno.errorcode[error.errno]

def inside():
    os.write(1, json.dumps({each: attempt(each) for each in tries}).encode())
    os._exit(0)

for number in range(count):
    null = os.open("/dev/null", os.O_RDWR)
    made = box.start(wanted, mode, stdout=write, stderr=2, report=null, payload=null, body=inside)
    os.close(null)
    os.waitid(os.P_PIDFD, made.pidfd, os.WEXITED | os.WNOWAIT)
    ending = made.reap()
    if ending.sandbox_error is not None:
        break
    said = os.read(read, 1 << 16)
os.close(read)
os.close(write)
assert sorted(os.listdir("/proc/self/fd")) == descriptors
assert Path("/proc/self/mountinfo").read_text() == mounted
print(json.dumps([ending.sandbox_error, None if ending.sandbox_error else json.loads(said)]))
"""

Look = Callable[..., dict[str, Any]]


def start(mode: str, view: filesystem.View, tries: tuple[str, ...], count: int, mask: int) -> list[Any]:
    layers = dict.fromkeys((*policy.BASE, "no_new_privs", "filesystem", "namespaces"), policy.REQUIRE)
    given = {field.name: getattr(view, field.name) for field in dataclasses.fields(view)}
    own = {"uid": users.DEFAULT.first, "gid": users.DEFAULT.first} if mode == "a" else {}
    wanted = policy.Policy(layers=layers, **given, **own)
    done = standin.python(SOURCE, json.dumps([mode, wanted.to_map(), tries, count, mask]))
    if done.returncode and "clone3" in done.stderr:
        pytest.skip(f"boxes of mode {mode}: {done.stderr.splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    found: list[Any] = json.loads(done.stdout)
    if "own /proc" in str(found[0]):
        pytest.skip(f"boxes of mode {mode}: {found[0]}")
    return found


@pytest.fixture(params=["a", "b"])
def look(request: pytest.FixtureRequest) -> Look:
    """What comes of each expression in a box with this view."""

    def run(*tries: str, count: int = 1, mask: int = 0o022, **view: Any) -> dict[str, Any]:
        error, found = start(request.param, filesystem.View(**view), tries, count, mask)
        assert error is None
        return dict(found)

    return run


@pytest.fixture(params=["a", "b"])
def refusal(request: pytest.FixtureRequest) -> Callable[..., str]:
    """Why no box with this view can be had."""

    def run(**view: Any) -> str:
        error, _ = start(request.param, filesystem.View(**view), (), 1, 0o022)
        assert error is not None
        return str(error)

    return run


@pytest.fixture
def tree(folder: Path) -> Path:
    """A folder with the files a/b/c/d/file, each of which every account may write."""
    path = folder
    for name in "abcd":
        path = path / name
        path.mkdir()
        path.chmod(0o777)
        (path / "file").write_text(f"of {name}")
        (path / "file").chmod(0o666)
    return folder


def text(path: Path) -> str:
    return f"Path({str(path)!r}).read_text()"


def change(path: Path) -> str:
    return f"write_to({str(path)!r})"


def there(path: Path | str) -> str:
    return f"os.path.lexists({str(path)!r})"


BOTH = pytest.mark.parametrize("root", [filesystem.HOST, filesystem.SYSTEM])


# The two roots.


def test_the_hosts_root_is_all_there_and_read_only(look):
    found = look(
        "sorted(os.listdir('/'))", "write_to('/new')", "os.mkdir('/etc/new')", "os.listdir('/tmp')",
        "os.listdir('/var/tmp')", "os.access('/usr/bin', os.W_OK)", "os.path.exists('/etc/passwd')",
    )  # fmt: skip
    assert found["sorted(os.listdir('/'))"] == sorted(os.listdir("/"))
    assert found["write_to('/new')"] == found["os.mkdir('/etc/new')"] == "EROFS"
    assert found["os.listdir('/tmp')"] == found["os.listdir('/var/tmp')"] == []
    assert found["os.access('/usr/bin', os.W_OK)"] is False
    assert found["os.path.exists('/etc/passwd')"] is True


def test_the_systems_root_has_the_systems_trees_and_nothing_else_of_the_host(look):
    found = look("sorted(os.listdir('/'))", "write_to('/new')", "os.mkdir('/etc/new')", root=filesystem.SYSTEM)
    trees = {path[1:] for path in filesystem._SYSTEM_TREES if os.path.isdir(path)}
    assert found["sorted(os.listdir('/'))"] == sorted(trees | {"dev", "proc", "tmp"})
    assert found["write_to('/new')"] == found["os.mkdir('/etc/new')"] == "EROFS"


def test_a_program_that_is_named_by_a_link_of_the_systems_root_is_there(look):
    assert look("os.access('/bin/sh', os.X_OK)", root=filesystem.SYSTEM, readable=("/bin/sh",)) == {
        "os.access('/bin/sh', os.X_OK)": True
    }


def test_links_of_the_systems_root_are_links_still(look):
    linked = [path for path in filesystem._SYSTEM_TREES if os.path.islink(path)]
    if not linked:
        pytest.skip("a system with /bin as a link to /usr/bin")
    found = look(*(f"os.readlink({path!r})" for path in linked), root=filesystem.SYSTEM)
    assert list(found.values()) == [os.readlink(path) for path in linked]


@BOTH
def test_temporary_files_are_ones_own(look, folder, root):
    found = look(
        "write_to('/tmp/new')", "os.listdir('/tmp')", "write_to('/dev/shm/new')", "oct(os.stat('/tmp').st_mode)",
        there(folder), root=root,
    )  # fmt: skip
    assert found["write_to('/tmp/new')"] is found["write_to('/dev/shm/new')"] is None
    assert found["os.listdir('/tmp')"] == ["new"]
    assert found["oct(os.stat('/tmp').st_mode)"] == "0o41777"
    assert found[there(folder)] is False
    assert not os.path.exists("/tmp/new")


@BOTH
def test_temporary_files_have_their_size(look, root):
    found = look("fill('/tmp/big')", "fill('/dev/shm/big')", root=root, tmp_size=2 << 20)
    assert set(found.values()) == {1 << 20}


def test_temporary_files_are_counted_too(look):
    made = "[write_to(f'/tmp/{n}') for n in range(2000)]"
    assert look(made, tmp_size=1 << 20)[made] == "ENOSPC"


@BOTH
def test_devices_are_the_harmless_ones(look, root):
    found = look(
        "sorted(os.listdir('/dev'))", "len(Path('/dev/zero').open('rb').read(9))", "write_to('/dev/null')",
        "write_to('/dev/full')", "len(Path('/dev/urandom').open('rb').read(9))", "write_to('/dev/new')",
        "os.readlink('/dev/stdout')", "os.mknod('/tmp/disk', 0o60600, os.makedev(8, 0))", root=root,
    )  # fmt: skip
    names = [*filesystem.DEVICES, *filesystem._DEV_LINKS, "shm"]
    assert found["sorted(os.listdir('/dev'))"] == sorted(names)
    assert found["len(Path('/dev/zero').open('rb').read(9))"] == 9
    assert found["len(Path('/dev/urandom').open('rb').read(9))"] == 9
    assert found["write_to('/dev/null')"] is None
    assert found["write_to('/dev/full')"] == "ENOSPC"
    assert found["write_to('/dev/new')"] == "EROFS"
    assert found["os.readlink('/dev/stdout')"] == "fd/1"
    assert found["os.mknod('/tmp/disk', 0o60600, os.makedev(8, 0))"] == "EPERM"


# /proc.

PIDS = "sorted(int(name) for name in os.listdir('/proc') if name.isdigit())"


@BOTH
def test_proc_in_full_shows_ones_own_processes_and_the_kernel_read_only(look, root):
    found = look(
        PIDS, "os.path.exists('/proc/meminfo')", "os.access('/proc/sys/kernel/hostname', os.W_OK)",
        "os.statvfs('/proc/sys').f_flag & os.ST_RDONLY", "len(Path('/proc/kcore').open('rb').read(1))", root=root,
    )  # fmt: skip
    assert found[PIDS] == [1, 2]
    assert found["os.path.exists('/proc/meminfo')"] is True
    assert found["os.access('/proc/sys/kernel/hostname', os.W_OK)"] is False
    assert found["os.statvfs('/proc/sys').f_flag & os.ST_RDONLY"] == os.ST_RDONLY
    assert found["len(Path('/proc/kcore').open('rb').read(1))"] in ("EACCES", "ENOENT")


@BOTH
def test_proc_of_ones_own_has_processes_only(look, root):
    found = look("sorted(os.listdir('/proc'))", "os.readlink('/proc/self')", root=root, proc="own")
    assert set(found["sorted(os.listdir('/proc'))"]) <= {"1", "2", "self", "thread-self"}
    assert found["os.readlink('/proc/self')"] == "2"


# What is given, and what is kept.


@BOTH
def test_a_writable_path_is_written_through_and_its_neighbours_are_not_seen(look, tree, root):
    found = look(change(tree / "a/b/file"), there(tree / "a/file"), root=root, writable=(str(tree / "a/b"),))
    assert list(found.values()) == [None, False]
    assert (tree / "a/b/file").read_text() == "new"


@BOTH
def test_a_readable_path_below_tmp_is_read_only(look, tree, root):
    found = look(text(tree / "a/b/file"), change(tree / "a/b/file"), root=root, readable=(str(tree / "a/b"),))
    assert list(found.values()) == ["of b", "EROFS"]


@BOTH
def test_a_single_file_can_be_shown(look, tree, root):
    shown, kept = tree / "a/b/file", tree / "a/file"
    found = look(
        change(shown), text(shown), there(kept), f"os.unlink({str(shown)!r})", root=root, writable=(str(shown),)
    )
    assert list(found.values())[:3] == [None, "new", False]
    assert list(found.values())[3] in ("EBUSY", "EACCES", "EROFS")


@BOTH
def test_what_is_hidden_is_neither_read_nor_entered_nor_uncovered(look, tree, root):
    kept = tree / "a/b"
    found = look(
        text(tree / "a/file"), f"os.listdir({str(kept)!r})", text(kept / "file"), f"os.chmod({str(kept)!r}, 0o777)",
        text(tree / "a/c"), root=root, readable=(str(tree / "a"),), hidden=(str(kept), str(tree / "no/such")),
    )  # fmt: skip
    assert list(found.values())[:3] == ["of a", "EACCES", "EACCES"]
    assert list(found.values())[3] in ("EROFS", "EPERM")


@BOTH
def test_a_hidden_file_has_nothing_in_it(look, tree, root):
    kept = tree / "a/file"
    found = look(
        text(kept), change(kept), text(tree / "a/b/file"), root=root, writable=(str(tree),), hidden=(str(kept),)
    )
    assert list(found.values()) == ["EACCES", "EACCES", "of b"]
    assert kept.read_text() == "of a"


@BOTH
@pytest.mark.parametrize("key", ["readable", "writable"])
def test_of_two_paths_the_deeper_one_decides(look, tree, root, key):
    """Hidden in shown in hidden in shown, each at its own depth."""
    a, b, c, d = (tree / path for path in ("a", "a/b", "a/b/c", "a/b/c/d"))
    found = look(
        text(a / "file"), f"os.listdir({str(b)!r})", text(b / "file"), f"write_to({str(b / 'new')!r})",
        text(c / "file"), change(c / "file"), f"os.listdir({str(d)!r})", text(d / "file"),
        root=root, hidden=(str(b), str(d)), **({"readable": (str(a),), "writable": ()} | {key: (str(a), str(c))}),
    )  # fmt: skip
    of_a, listed, of_b, new, of_c, changed, of_d_listed, of_d = found.values()
    assert (of_a, of_b, of_c) == ("of a", "ENOENT", "of c")
    assert listed == "EACCES"  # it can be gone through, not listed
    assert new in ("EACCES", "EROFS")
    assert changed == ("EROFS" if key == "readable" else None)
    assert of_d_listed == of_d == "EACCES"


@BOTH
def test_what_is_to_be_read_only_stays_so_inside_what_may_be_written(look, tree, root):
    found = look(
        change(tree / "a/file"), change(tree / "a/b/file"), change(tree / "a/b/c/file"), root=root,
        writable=(str(tree / "a"), str(tree / "a/b/c")), readable=(str(tree / "a/b"),),
    )  # fmt: skip
    assert list(found.values()) == [None, "EROFS", None]


def test_what_is_hidden_wins_over_the_same_path_shown(look, tree):
    for key in ("readable", "writable"):
        found = look(text(tree / "a/b/file"), hidden=(str(tree / "a/b"),), **{key: (str(tree / "a/b"),)})
        assert list(found.values()) in (["EACCES"], ["ENOENT"])


@BOTH
def test_set_user_id_and_devices_have_no_effect_in_what_is_given(look, tree, root):
    flags = f"os.statvfs({str(tree / 'a')!r}).f_flag & (os.ST_NOSUID | os.ST_NODEV)"
    assert look(flags, root=root, writable=(str(tree / "a"),))[flags] == os.ST_NOSUID | os.ST_NODEV


# Links.


@BOTH
@pytest.mark.parametrize("key", ["readable", "writable"])
def test_a_link_is_followed_and_its_name_leads_there_in_the_box_too(look, tree, root, key):
    link, through = tree / "link", tree / "through"
    link.symlink_to(tree / "a/b")
    through.symlink_to(tree / "a")
    names = (link / "file", through / "b/c/file", tree / "a/b/file")
    tries = [*map(text, names), change(link / "file"), text(tree / "a/file")]
    found = look(*tries, root=root, **{key: (str(link), str(through / "b/c"))})
    assert [found[each] for each in tries[:3]] == ["of b", "of c", "of b"]
    assert found[tries[3]] == (None if key == "writable" else "EROFS")
    assert found[tries[4]] == "ENOENT"
    assert sorted(os.listdir(tree)) == ["a", "link", "through"]


@BOTH
def test_a_link_to_what_is_hidden_hides_it(look, tree, root):
    (tree / "link").symlink_to(tree / "a/b")
    found = look(
        text(tree / "a/file"), text(tree / "a/b/file"), text(tree / "link/file"), root=root, readable=(str(tree),),
        hidden=(str(tree / "link"),),
    )  # fmt: skip
    assert list(found.values()) == ["of a", "EACCES", "EACCES"]


def test_a_link_that_leads_into_what_is_hidden_is_refused(refusal, tree):
    (tree / "a/b/link").symlink_to(tree / "a/b/c")
    (tree / "own").symlink_to(tree / "a/b/c")
    for key in ("readable", "writable"):
        error = refusal(hidden=(str(tree / "a/b/c"),), **{key: (str(tree / "own"),)})
        assert f"leads to {tree}/a/b/c, which is hidden" in error
        assert str(tree / "own") in error


@pytest.mark.parametrize("key", ["readable", "writable"])
def test_a_link_out_of_what_may_be_written_is_refused(refusal, tree, key):
    """A run before may have put it in the place of a directory on the way."""
    given = tree / "given"
    given.mkdir()
    (given / "moved").symlink_to(tree / "a")
    paths = {"writable": (str(given),), key: (str(given / "moved/file"),)}
    if key == "writable":
        paths[key] = (str(given), str(given / "moved/file"))
    error = refusal(**paths)
    assert f"leads to {tree}/a/file, out of {given}, which the job may write to" in error


# What goes wrong, and what is left.


@BOTH
@pytest.mark.parametrize("key", ["readable", "writable"])
def test_a_path_that_does_not_exist_is_named_in_one_line(refusal, tree, root, key):
    missing = str(tree / "no" / "such")
    error = refusal(root=root, **{key: (missing,)})
    assert error.startswith("filesystem: ")
    assert f"take {missing}" in error
    assert error.endswith("No such file or directory")
    assert "\n" not in error


def test_the_daemons_umask_closes_nothing(look, tree):
    where = tree / "a/b/file"
    assert look(text(where), mask=0o077, readable=(str(where),), root=filesystem.SYSTEM)[text(where)] == "of b"


@BOTH
def test_nothing_is_left_on_the_host_after_fifty_boxes(look, tree, root):
    look(
        change(tree / "a/file"), count=50, root=root, writable=(str(tree / "a"),), readable=(str(tree / "a/b"),),
        hidden=(str(tree / "a/b/c"),),
    )  # fmt: skip
    assert sorted(os.listdir(tree / "a/b/c")) == ["d", "file"]


# The plan.


def test_the_plan_takes_before_it_lays_anything_out_and_changes_the_root_last(tree):
    view = filesystem.View(writable=(str(tree / "a"),), hidden=(str(tree / "a/b"),))
    operations = filesystem.plan(view)
    kinds = [type(operation) for operation in operations]
    assert kinds[0] is filesystem.Private
    assert kinds[-1] is filesystem.Pivot
    taken = [number for number, kind in enumerate(kinds) if kind is filesystem.Clone]
    assert taken == list(range(1, len(taken) + 1))


@BOTH
def test_every_operation_of_a_plan_describes_itself(tree, root):
    view = filesystem.View(root=root, writable=(str(tree / "a"),), readable=(str(tree),), hidden=(str(tree / "a/b"),))
    words = [operation.describe() for operation in filesystem.plan(view)]
    for wanted in (
        f"take {tree}/a",
        f"show {tree}/a",
        f"take {tree} read-only",
        f"hide {tree}/a/b",
        "own /proc (full)",
    ):
        assert wanted in words
    assert words[-1] == "the new root"


def test_a_tree_holds_itself_and_what_lies_in_it_and_not_what_begins_alike():
    assert filesystem.is_within("/a", ["/a"])
    assert filesystem.is_within("/a/b", ["/x", "/a"])
    assert filesystem.is_within("/a", ["/"])
    assert not filesystem.is_within("/ab", ["/a"])
    assert not filesystem.is_within("/", ["/a"])
