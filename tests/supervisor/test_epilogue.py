"""The last lines of a failed run's log: which key would allow what was denied, and the command that runs the same by hand."""

import shlex
import subprocess
import sys

import pytest

from lnmt_scheduler.jobs import model
from lnmt_scheduler.supervisor import epilogue


def job(**more):
    return model.JobConfig(id="job", **{"sandbox": {"profile": "standard"}, **more})


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("/bin/sh: 1: cannot create /etc/x: Read-only file system", "'/etc/x' is read-only"),
        ("touch: cannot touch '/srv/a b/c': Read-only file system", "'/srv/a b/c' is read-only"),
        ("OSError: [Errno 30] Read-only file system: '/var/lib/x'", "'/var/lib/x' is read-only"),
        ("tar: Read-only file system", "sandbox.writable names what a job may change"),
        ("cat: /home/ann/.ssh/id: Permission denied", "'/home/ann/.ssh/id' is closed to this job"),
        ("Permission denied", "what it tried to open is closed"),
        ("mount: /mnt: Operation not permitted.", "'/mnt': profile 'standard' takes privileges"),
    ],
)
def test_a_denial_is_answered_with_the_path_and_the_key(line, said):
    assert said in (epilogue.hint(f"before\n{line}\nafter\n", "standard") or "")


def test_the_last_denial_counts():
    text = "a: /one: Read-only file system\nb: /two: Read-only file system\nthen this\n"
    assert "'/two'" in (epilogue.hint(text, "standard") or "")


def test_output_without_a_denial_gets_no_hint():
    assert epilogue.hint("no such file: /etc/x\nread-only\n", "standard") is None


def test_only_the_end_of_the_output_is_searched():
    assert epilogue.hint("Permission denied\n" + "x" * epilogue.SEARCHED, "standard") is None


def test_the_hint_comes_before_the_replay_and_only_to_boxed_runs():
    text = "/etc/x: Read-only file system"
    kinds = [line.partition(":")[0] for line in epilogue.lines(job(command="true"), "standard", "exit", text)]
    assert kinds == ["hint", "replay"]
    kinds = [line.partition(":")[0] for line in epilogue.lines(job(command="true"), "trusted", "exit", text)]
    assert kinds == ["replay"]


@pytest.mark.parametrize("reason", ["timeout", "memory", "sandbox"])
def test_a_run_that_was_ended_by_us_gets_no_hint(reason):
    found = epilogue.lines(job(command="true"), "standard", reason, "Permission denied")
    assert [line.partition(":")[0] for line in found] == ["replay"]


@pytest.mark.parametrize("reason", ["lost", "stopped", "superseded"])
def test_what_was_not_the_jobs_doing_gets_neither(reason):
    assert epilogue.lines(job(command="true"), "standard", reason, "Permission denied") == []


def test_the_replay_says_the_whole_policy():
    sandbox = {"profile": "standard", "network": "none", "writable": ["/srv/a b"], "require": ["memory"]}
    limits = {"memory": 1 << 20, "cpu": 0.5, "output": 1000}
    made = job(
        command=["x", "y z"], sandbox=sandbox, limits=limits, user="nobody", group="adm", working_directory="/srv",
        umask=0o077,
    )  # fmt: skip
    words = shlex.split(epilogue.replay(made, "standard") or "")
    assert words == [
        sys.executable, "-m", "lnmt_scheduler.sandbox", "--profile", "standard", "--network", "none",
        "--writable", "/srv/a b", "--require", "memory", "--memory", str(1 << 20), "--cpu", "0.5", "--user", "nobody",
        "--group", "adm", "--chdir", "/srv", "--umask", "077", "--", "x", "y z",
    ]  # fmt: skip


def test_a_profile_without_paths_of_its_own_gets_none_of_the_options_for_them():
    made = job(command="true", sandbox={"profile": "standard", "writable": ["/srv"]})
    assert "--writable" not in (epilogue.replay(made, "trusted") or "")


def test_neither_environment_nor_arguments_are_in_it():
    secret = "hunter2"
    made = job(module="m.n", function="C.f", kwargs={"password": secret}, args=[secret], environment={"PW": secret})
    line = epilogue.replay(made, "standard") or ""
    assert secret not in line
    assert shlex.split(line)[-1] == "from m.n import C; C.f(...)"


def test_a_function_without_arguments_is_called_as_it_is():
    made = job(module="json", function="loads", python_path=["/opt/lnmt"])
    words = shlex.split(epilogue.replay(made, "standard") or "")
    assert words[-1] == "import sys; sys.path[:0] = ['/opt/lnmt']; from json import loads; loads()"
    assert words[words.index("--readable") + 1] == "/opt/lnmt"


def test_a_command_of_several_lines_is_one_line_that_a_shell_reads_as_it_was():
    script = "echo 'one'\necho \\two\tü\x1b"
    line = epilogue.replay(job(command=["printf", "%s", script]), "trusted") or ""
    assert "\n" not in line
    argv = line[line.index(" -- ") + 4 :]
    done = subprocess.run(["bash", "-c", argv], capture_output=True, check=True)
    assert done.stdout.decode() == script


def test_a_command_that_nobody_could_paste_is_left_out():
    assert epilogue.replay(job(command="x" * 10_000), "trusted") is None
