"""The handing over of a state directory: all of it, whatever its shape, and nothing of what somebody puts in its place."""

import os

import pytest
import standin

from lnmt_scheduler.sandbox import ownership, policy, scratch

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="files of another owner: needs root")
OTHER = 65534
WANTED = policy.Policy(uid=OTHER, gid=OTHER)


def test_all_of_it_is_given_but_what_has_another_name(folder):
    state, outside = folder / "state", folder / "outside"
    (state / "a" / "b").mkdir(parents=True)
    (state / "c").mkdir()
    outside.touch()
    for name in ("file", "a/file", "a/b/file", "c/file"):
        (state / name).touch()
    (state / "a" / "link").symlink_to(outside)
    os.link(outside, state / "c" / "second")
    ownership.own_directory(str(state), WANTED)
    kept = {str(path.relative_to(state)) for path in state.rglob("*") if path.lstat().st_uid == 0}
    assert (state.stat().st_uid, state.stat().st_gid, kept) == (OTHER, OTHER, {"c/second"})
    assert outside.stat().st_uid == 0


def test_one_nested_deeper_than_descriptors_or_calls_go_is_given_to_its_end(folder):
    state = folder / "state"
    state.mkdir()
    here = os.open(state, os.O_RDONLY)
    for _ in range(3000):
        os.mkdir("d", dir_fd=here)
        below = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = below
    try:
        ownership.own_directory(str(state), WANTED)
        assert os.fstat(here).st_uid == OTHER
    finally:
        os.close(here)
        scratch.remove_tree(str(state))


#: At the moment before the folder is opened, it turns into a link to a pipe: to open that waits for ever for a writer.
TURNED = """
import os, sys
from lnmt_scheduler.sandbox import ownership, policy

os.chdir(sys.argv[1])
os.mkdir("state"); os.mkdir("state/folder"); os.mkfifo("pipe")
turned = []

def turn(event, arguments):
    if event == "open" and arguments[0] == "folder" and not turned:
        turned.append(event)
        os.rename("state/folder", "state/away")
        os.{how}

sys.addaudithook(turn)
ownership.own_directory("state", policy.Policy(uid=65534, gid=65534))
print(turned, os.stat("state").st_uid, os.stat("pipe").st_uid)
"""


@pytest.mark.parametrize("how", ["symlink('../pipe', 'state/folder')", "mkfifo('state/folder')"])
def test_what_turns_into_a_pipe_meanwhile_is_not_opened(folder, how):
    done = standin.python(TURNED.replace("{how}", how), str(folder))
    assert (done.stdout, done.stderr) == ("['open'] 65534 0\n", "")


MOVED = """
import os, sys
from lnmt_scheduler.sandbox import ownership, policy

os.chdir(sys.argv[1])
os.makedirs("state/a/b/c"); os.mkdir("outside"); os.mkdir("outside/d")

def move(event, arguments):
    if event == "open" and arguments[0] == "c":
        os.rename("state/a/b", "outside/b")

sys.addaudithook(move)
try:
    ownership.own_directory("state", policy.Policy(uid=65534, gid=65534))
except OSError as error:
    print(error.strerror)
print(os.stat("outside/d").st_uid)
"""


def test_a_directory_that_is_moved_meanwhile_leads_nowhere_else(folder):
    done = standin.python(MOVED, str(folder))
    assert done.stdout == "a directory in it was moved while it was handed over to the run's user\n0\n", done.stderr
