"""Where cgroups may be made, on hosts of every kind: from the words of /proc, and on directories that look like v2.

The directories take what is written to them and do nothing else; that the kernel agrees is shown by a machine with v2.
"""

import os

import pytest

from lnmt_scheduler.sandbox import controllers, hierarchies

V2_MOUNT = "29 23 0:26 / /sys/fs/cgroup rw,nosuid shared:4 - cgroup2 cgroup2 rw,nsdelegate\n"
OTHER_MOUNT = "24 29 0:22 / /proc rw,nosuid shared:12 - proc proc rw\n"


@pytest.fixture(autouse=True)
def systemd(tmp_path, monkeypatch):
    """Where its sign would be; no systemd runs here until a test makes it."""
    monkeypatch.setattr(hierarchies, "_SYSTEMD_RUNS", str(tmp_path / "systemd"))
    return tmp_path / "systemd"


@pytest.fixture
def home(tmp_path):
    """A delegated v2 cgroup two below the top, with memory on offer and this process in it."""
    directory = tmp_path / "system.slice" / "schedd.service"
    (directory / hierarchies.DAEMON).mkdir(parents=True)
    for name, text in {
        "cgroup.type": "domain\n",
        "cgroup.controllers": "cpuset memory hugetlb\n",
        "cgroup.subtree_control": "",
        "cgroup.procs": f"{os.getpid()}\n",
        f"{hierarchies.DAEMON}/cgroup.procs": "",
    }.items():
        (directory / name).write_text(text)
    return directory


@pytest.fixture
def top(tmp_path):
    """The top of that hierarchy, where pids is on for all."""
    (tmp_path / "cgroup.controllers").write_text("memory pids cpu\n")
    (tmp_path / "cgroup.subtree_control").write_text("pids\n")
    return tmp_path


def test_v2_alone_is_found_where_systemd_put_us():
    found = hierarchies.parse("0::/system.slice/schedd.service\n", OTHER_MOUNT + V2_MOUNT)
    assert found == [hierarchies.Hierarchy(2, "/sys/fs/cgroup", "/sys/fs/cgroup/system.slice/schedd.service")]


def test_controllers_that_share_a_mount_are_one_hierarchy():
    cgroups = "12:cpu,cpuacct:/user.slice\n3:devices:/\n1:name=systemd:/init.scope\n0::/user.slice/x\n"
    mounts = (
        "32 31 0:29 / /sys/fs/cgroup/cpu,cpuacct rw - cgroup cgroup rw,cpu,cpuacct\n"
        "33 31 0:30 / /sys/fs/cgroup/devices rw - cgroup cgroup rw,devices\n"
        "34 31 0:31 / /sys/fs/cgroup/systemd rw - cgroup cgroup rw,xattr,name=systemd\n"
        "35 31 0:32 / /sys/fs/cgroup/unified rw - cgroup2 cgroup2 rw\n"
    )
    both = "/sys/fs/cgroup/cpu,cpuacct"
    assert hierarchies.parse(cgroups, mounts) == [
        hierarchies.Hierarchy(1, both, f"{both}/user.slice", frozenset({"cpu", "cpuacct"})),
        hierarchies.Hierarchy(2, "/sys/fs/cgroup/unified", "/sys/fs/cgroup/unified/user.slice/x"),
    ]


def test_a_container_sees_its_own_part_of_the_tree():
    mounts = "40 31 0:30 /docker/77 /sys/fs/cgroup/blkio ro - cgroup cgroup rw,blkio\n"
    (found,) = hierarchies.parse("5:blkio:/docker/77/deep\n", mounts)
    assert found == hierarchies.Hierarchy(1, "/sys/fs/cgroup/blkio", "/sys/fs/cgroup/blkio/deep", frozenset({"io"}))


def test_a_cgroup_that_the_mount_does_not_show_is_unknown():
    mounts = "40 31 0:30 /docker/77 /sys/fs/cgroup/pids rw - cgroup cgroup rw,pids\n"
    (found,) = hierarchies.parse("5:pids:/docker/7\n", mounts)
    assert found.own is None


def test_of_two_mounts_the_one_that_shows_us_counts():
    mounts = "40 31 0:30 /other /srv/jail/pids rw - cgroup cgroup rw,pids\n"
    mounts += "41 31 0:30 / /sys/fs/a\\040b rw - cgroup cgroup rw,pids\n"
    (found,) = hierarchies.parse("5:pids:/here\n", mounts)
    assert (found.top, found.own) == ("/sys/fs/a b", "/sys/fs/a b/here")


def test_in_a_delegated_cgroup_we_move_to_a_leaf_and_share_out_the_rest(home, top):
    tree, _ = hierarchies.claim(hierarchies.Hierarchy(2, str(top), str(home)), "lnmt-probe")
    assert tree == hierarchies.Tree(2, str(home), frozenset({"memory"}))
    assert (home / hierarchies.DAEMON / "cgroup.procs").read_text() == "0"
    assert (home / "cgroup.subtree_control").read_text() == "+memory"
    assert not (home / "lnmt-probe").exists()


def test_started_again_from_our_own_leaf_we_use_the_same_cgroup(home, top):
    (home / "cgroup.subtree_control").write_text("memory\n")
    tree, _ = hierarchies.claim(hierarchies.Hierarchy(2, str(top), str(home / hierarchies.DAEMON)), "lnmt-probe")
    assert tree == hierarchies.Tree(2, str(home), frozenset({"memory"}))
    assert (home / hierarchies.DAEMON / "cgroup.procs").read_text() == ""


def test_nobody_else_is_moved_out_of_our_cgroup(home, top):
    (home / "cgroup.procs").write_text(f"{os.getpid()}\n4711\n")
    claimed = hierarchies.Hierarchy(2, str(top), str(home))
    if os.geteuid() == 0:  # root has the top to turn to, with what is on there; the rest is another's to enable
        tree, notes = hierarchies.claim(claimed, "lnmt-probe")
        assert tree == hierarchies.Tree(2, str(top), frozenset({"pids"}))
        assert "1 other processes are in it, such as 4711: start the daemon as a systemd service" in notes[0]
        assert "cpu, memory: off, and system.slice is not ours to disturb" in notes[1]
    else:
        with pytest.raises(
            OSError, match="1 other processes are in it, such as 4711: start the daemon as a systemd service"
        ):
            hierarchies.claim(claimed, "lnmt-probe")
    assert (home / "cgroup.subtree_control").read_text() == ""
    assert (top / "cgroup.subtree_control").read_text() == "pids\n"
    assert (home / hierarchies.DAEMON / "cgroup.procs").read_text() == ""


def test_a_v2_mount_without_controllers_is_good_for_leaves(home, top):
    (home / "cgroup.controllers").write_text("hugetlb\n")
    tree, notes = hierarchies.claim(hierarchies.Hierarchy(2, str(top), str(home)), "lnmt-probe")
    assert (tree, notes) == (hierarchies.Tree(2, str(home)), [])
    assert (home / hierarchies.DAEMON / "cgroup.procs").read_text() == ""


AS_ROOT = pytest.mark.skipif(
    os.geteuid() != 0, reason="root: for an account systemd's word is in who owns the directory"
)


@AS_ROOT
def test_under_systemd_root_does_without_its_own_cgroup_and_with_what_is_on_for_every_unit(home, top, systemd):
    systemd.mkdir()
    (top / "cgroup.subtree_control").write_text("pids memory cpu\n")
    tree, notes = hierarchies.claim(hierarchies.Hierarchy(2, str(top), str(home)), "lnmt-probe")
    assert tree == hierarchies.Tree(2, str(top), frozenset({"memory", "pids"}))
    assert [line for line in notes if "cpu: systemd may take these back at any time: start with Delegate=yes" in line]
    assert [line for line in notes if f"{home}: systemd takes limits back there when it reloads" in line]
    assert (home / "cgroup.subtree_control").read_text() == ""


@AS_ROOT
@pytest.mark.parametrize("marked", ["schedd.service", "system.slice"])
def test_under_systemd_what_is_delegated_is_used_with_all_that_lies_in_it(home, top, systemd, marked):
    systemd.mkdir()
    folder = home if marked == "schedd.service" else home.parent
    (home.parent / "cgroup.type").write_text("domain\n")
    try:
        os.setxattr(folder, "user.delegate", b"1")
    except OSError as error:
        pytest.skip(f"attributes of files in {folder}: {error}")
    tree, notes = hierarchies.claim(hierarchies.Hierarchy(2, str(top), str(home)), "lnmt-probe")
    assert (tree, notes) == (hierarchies.Tree(2, str(home), frozenset({"memory"})), [])


def test_a_mount_that_does_not_show_us_is_refused(top):
    if os.geteuid() == 0:
        pytest.skip("an ordinary account: root turns to the top")
    with pytest.raises(OSError, match="does not show the cgroup of this process"):
        hierarchies.claim(hierarchies.Hierarchy(2, str(top), None), "lnmt-probe")


def test_a_write_names_the_file_and_the_text_and_makes_no_file(tmp_path):
    with pytest.raises(OSError, match="cannot write '7'") as refused:
        hierarchies.write(f"{tmp_path}/pids.max", "7")
    assert refused.value.filename == f"{tmp_path}/pids.max"
    assert list(tmp_path.iterdir()) == []


# The files of v1 and v2


def lines(version, **limits):
    return [(each.file, each.value) for each in controllers.settings(version, controllers.Limits(**limits))]


def test_limits_in_the_words_of_v2():
    assert lines(2, memory=1 << 20, swap=0, pids=9, cpu=1.5, io_weight=50) == [
        ("memory.max", "1048576"),
        ("memory.oom.group", "1"),
        ("memory.swap.max", "0"),
        ("pids.max", "9"),
        ("cpu.max", "150000 100000"),
        ("io.weight", "50"),
    ]


def test_limits_in_the_words_of_v1():
    assert lines(1, memory=1 << 20, swap=4096, pids=9, cpu=0.5, io_weight=50) == [
        ("memory.limit_in_bytes", "1048576"),
        ("memory.memsw.limit_in_bytes", "1052672"),
        ("pids.max", "9"),
        ("cpu.cfs_period_us", "100000"),
        ("cpu.cfs_quota_us", "50000"),
        ("blkio.bfq.weight", "50"),
    ]


def test_no_limit_is_no_line():
    assert lines(1) == lines(2) == []


def test_the_counters_of_v2_are_read(tmp_path):
    for name, text in {
        "cpu.stat": "usage_usec 1500000\nuser_usec 1000000\nnr_throttled 3\nthrottled_usec 250000\n",
        "memory.events": "low 0\nhigh 0\nmax 12\noom 2\noom_kill 4\noom_group_kill 1\n",
        "memory.peak": "67108864\n",
        "pids.events": "max 7\n",
    }.items():
        (tmp_path / name).write_text(text)
    node = hierarchies.Tree(2, str(tmp_path), frozenset({"memory", "pids", "cpu"}))
    assert controllers.usage([node]) == controllers.Usage(
        cpu_seconds=1.5, max_memory=64 << 20, max_processes=None, oom_kills=4, pids_denied=7, cpu_throttled=0.25
    )
