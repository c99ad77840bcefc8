"""What a removed job leaves behind, however it has filled its directory, and whenever the daemon dies over its removal."""

import os
import resource
import stat

import deciding
import pytest

from lnmt_scheduler.supervisor import output, trees


@pytest.fixture
def top(tmp_path):
    path = tmp_path / "jobs" / "7"
    path.mkdir(parents=True)
    return path


def remove(path):
    """Remove it; how many steps that took, and what was said."""
    said = []
    return sum(1 for _ in trees.remove(str(path), said.append)), said


def test_a_tree_goes_with_everything_in_it_and_nothing_that_it_points_to(top, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    (top / "a/b/c").mkdir(parents=True)
    (top / "a/b/c/file").write_text("x")
    (top / "a/link").symlink_to(outside)
    (top / "link").symlink_to(outside)
    (top / "a/hard").hardlink_to(outside / "kept")
    os.mkfifo(top / "fifo")
    (top / "closed").mkdir()
    (top / "closed/file").write_text("x")
    (top / "closed").chmod(0)
    assert remove(top)[1] == []
    assert not top.exists()
    assert (outside / "kept").read_text() == "x"


def test_a_link_in_the_place_of_the_directory_is_removed_and_not_followed(top, tmp_path):
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "kept").write_text("x")
    top.rmdir()
    top.symlink_to(outside)
    assert remove(top)[1] == []
    assert not top.is_symlink()
    assert (outside / "kept").exists()


def test_there_may_be_nothing_to_remove(top):
    top.rmdir()
    assert remove(top) == (0, [])
    top.parent.rmdir()
    assert remove(top) == (0, [])


def test_many_files_take_many_steps(top):
    for number in range(1000):
        (top / f"f{number}").touch()
    steps, said = remove(top)
    assert said == []
    assert not top.exists()
    assert steps >= 1000 // trees._STEP


def test_no_depth_is_too_deep(top):
    """Deeper than a path may be long, and than there are descriptors."""
    before = resource.getrlimit(resource.RLIMIT_NOFILE)
    here = os.open(top, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("deeper", dir_fd=here)
        inner = os.open("deeper", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = inner
    os.close(here)
    resource.setrlimit(resource.RLIMIT_NOFILE, (100, before[1]))
    try:
        assert remove(top)[1] == []
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, before)
    assert not top.exists()


def test_what_cannot_be_removed_stays_and_is_named(top, monkeypatch):
    (top / "a").mkdir()
    (top / "a/stubborn").write_text("x")
    (top / "b").write_text("x")
    real = os.unlink

    def unlink(name, **more):
        if name == "stubborn":
            raise PermissionError(1, "Operation not permitted")
        real(name, **more)

    monkeypatch.setattr(os, "unlink", unlink)
    _, said = remove(top)
    assert said[0] == f"{top}/a/stubborn stays: Operation not permitted"
    assert sorted(os.listdir(top)) == ["a"]


def test_a_purge_that_was_cut_short_goes_on_at_the_next_start(make_world, tmp_path):
    step = 0
    while True:
        step += 1
        (tmp_path / "lnmt.db").unlink(missing_ok=True)
        world = make_world()
        uid = world.add("a", None)
        paths = []
        for _ in range(50):
            run_id = world.start("a")
            paths.append(output.path_of(f"{world.path}.output", run_id, world.store.run(run_id).queued))
            written = output.Output(paths[-1], 1000)
            written.append(b"x", output.STDOUT, 0)
            written.finish()
            world.end("a")
        state = tmp_path / "lnmt.db.jobs" / str(uid)
        state.mkdir(parents=True)
        for number in range(50):
            (state / f"f{number}").touch()
        world.registry.remove("a", deciding.WHO, purge=True)
        world.settle()
        over = True
        for number, _ in enumerate(world.purge.job(uid), 1):
            world.settle()
            if number == step:
                over = False
                break
        world.settle()
        world.restart(crash=True)
        for _ in world.purge.all():
            world.settle()
        world.settle()
        assert world.store.job(uid) is None
        assert world.store.history() == []
        assert world.store.meta_keys("purge:") == []
        assert not state.exists()
        assert not any(os.path.exists(path) for path in paths)
        world.store.close()
        if over:
            break
    assert step > 5


def test_nothing_is_removed_before_the_removal_is_durable(world, tmp_path):
    uid = world.add("a", None)
    state = tmp_path / "lnmt.db.jobs" / str(uid)
    state.mkdir(parents=True)
    world.registry.remove("a", deciding.WHO, purge=True)
    next(world.purge.job(uid))  # the end of the turn of the request
    assert stat.S_ISDIR(state.stat().st_mode)
    world.restart(crash=True)
    assert world.job_row("a").uid == uid
    assert list(world.purge.all()) == []
    assert state.exists()
