"""`python`: functions in an interpreter of their own, in boxes of every profile."""

import os

import harness
import pytest

from lnmt_scheduler.ipc import codec

MODULE = """
import os, sys
def about(context):
    context.progress(1, 2, "half")
    context.log("said")
    try:
        import lnmt_scheduler
        from lnmt_scheduler.jobs import child
        ours = True
    except ImportError:
        ours = False
    with open(context.state_dir + "/kept", "a") as file:
        file.write("x")
    return {"prefix": sys.prefix, "ours": ours, "id": context.job_id, "home": os.path.exists("/home")}
"""


@pytest.fixture
def other(folder):
    """An interpreter and a module that every account can read, if it can read the interpreter that these are made from."""
    (folder / "modules").mkdir()
    (folder / "modules" / "own_jobs.py").write_text(MODULE)
    return harness.make_python(folder / "venv"), str(folder / "modules")


def _add(daemon, python, modules, **more):
    daemon.add(
        id="job", module="own_jobs", function="about", python=python, python_path=[modules], max_retries=0, **more
    )


@pytest.mark.parametrize("profile", ["trusted", "standard", "untrusted"])
def test_a_function_runs_in_the_interpreter_that_it_names_in_every_profile(request, daemon, other, folder, profile):
    if profile != "trusted":
        request.getfixturevalue("ordinary_user")
    python, modules = other
    _add(daemon, python, modules, sandbox=profile)
    row = daemon.run_to_end("job")
    if profile == "untrusted" and "cgroup" in (row["error"] or ""):
        pytest.skip(f"a box with limits of memory and processes: {row['error']}")
    assert row["status"] == "completed", (row["error"], daemon.output(row["run_id"]))
    result = codec.unpack(daemon.output(row["run_id"], "result"))
    assert (result["prefix"], result["ours"], result["id"]) == (str(folder / "venv"), False, "job")
    assert result["home"] is (profile != "untrusted" and os.path.exists("/home"))
    assert b"info: said" in daemon.output(row["run_id"])


def test_an_interpreter_without_msgpack_ends_as_spawn_with_what_to_install(daemon, folder, other, ordinary_user):
    bare = harness.make_python(folder / "bare", msgpack=False)
    _add(daemon, bare, other[1], sandbox="standard")
    row = daemon.run_to_end("job")
    assert (row["status"], row["reason"]) == ("failed", "spawn")
    assert f"{bare} -m pip install msgpack" in row["error"]
