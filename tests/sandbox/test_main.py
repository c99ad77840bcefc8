"""`python -m lnmt_scheduler.sandbox`: any command under a policy, by whoever runs the tests."""

import functools
import grp
import json
import os
import pty
import select
import signal
import subprocess
import sys
import time

import harness
import pytest

PROGRAM = [sys.executable, "-I", "-m", "lnmt_scheduler.sandbox"]


@functools.cache
def offered():
    done = subprocess.run([*PROGRAM, "--host"], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


@pytest.fixture
def boxes():
    """Skips where this host gives this account no boxes."""
    if offered()["mode"] not in "ab":
        pytest.skip(f"namespaces: {offered()['missing'].get('tree_kill')}")


def run(*arguments, stdin="", pretend="", **more):
    environment = {**os.environ, "LNMT_PRETEND": pretend}
    return subprocess.run(
        [*PROGRAM, *arguments], input=stdin, capture_output=True, text=True, timeout=60, env=environment, **more
    )


def test_the_command_has_our_stdin_stdout_and_stderr_and_its_exit_code_is_ours():
    done = run("--profile", "trusted", "--", "sh", "-c", "cat; echo words >&2; exit 7", stdin="data\n")
    assert (done.returncode, done.stdout, done.stderr) == (7, "data\n", "words\n")


def test_a_command_that_dies_of_a_signal_leaves_as_a_shell_says_it():
    assert run("--profile", "trusted", "--", "sh", "-c", "kill -SEGV $$").returncode == 128 + signal.SIGSEGV


@pytest.mark.usefixtures("boxes")
def test_standard_reads_the_host_and_changes_nothing_but_what_it_was_given(folder):
    folder.chmod(0o777)
    script = f"id -u; cat /etc/hostname; touch /etc/lnmt-no; touch {folder}/yes"
    denied = run("--", "sh", "-c", script)
    allowed = run("--writable", str(folder), "--", "sh", "-c", script)
    assert "Read-only file system" in denied.stderr
    assert (denied.returncode, allowed.returncode) == (1, 0)
    assert (folder / "yes").exists()
    assert not os.path.exists("/etc/lnmt-no")
    uid = int(denied.stdout.splitlines()[0])
    assert (uid != 0) if os.geteuid() == 0 else uid == os.geteuid()


@pytest.mark.usefixtures("boxes")
def test_its_state_directory_is_its_own_and_goes_with_it():
    done = run("--", "sh", "-c", "pwd; echo x > file && cat file")
    if os.geteuid() == 0:
        path, content = done.stdout.split()
        assert content == "x"
        assert path.startswith("/var/tmp/lnmt-state-")
        assert not os.path.exists(path)
    else:
        assert done.stdout.splitlines()[0] == os.path.expanduser("~") or done.stdout.startswith("/")


def test_what_a_command_leaves_behind_is_ended():
    marker = f"left-behind-{os.getpid()}"
    done = run(
        "--profile", "trusted", "--", "sh", "-c", f"setsid sh -c 'sleep 1000; : {marker}' >/dev/null 2>&1 & exit 0"
    )
    assert done.returncode == 0
    assert harness.processes_with(marker) == []


def test_a_term_reaches_all_of_the_box():
    marker = f"term-me-{os.getpid()}"
    script = f"trap 'echo ended; exit 3' TERM; echo ready; while :; do sleep 0.02; done; : {marker}"
    with subprocess.Popen(
        [*PROGRAM, "--profile", "trusted", "--", "sh", "-c", script], stdout=subprocess.PIPE
    ) as process:
        assert process.stdout.readline() == b"ready\n"
        process.terminate()
        assert process.stdout.read() == b"ended\n"
        assert process.wait(20) == 3
    assert harness.processes_with(marker) == []


def test_a_second_term_kills_what_ignores_the_first():
    marker = f"kill-me-{os.getpid()}"
    script = f"trap 'echo told' TERM; echo ready; while :; do sleep 0.02; done; : {marker}"
    with subprocess.Popen(
        [*PROGRAM, "--profile", "trusted", "--", "sh", "-c", script], stdout=subprocess.PIPE
    ) as process:
        for said in (b"ready\n", b"told\n"):
            assert process.stdout.readline() == said
            process.terminate()
        assert process.wait(20) == 128 + signal.SIGKILL
    assert harness.processes_with(marker) == []


def test_a_layer_that_is_required_and_not_there_is_a_refusal():
    done = run("--", "true", pretend="seccomp")
    assert done.returncode == 125
    assert "seccomp: required by profile 'standard'" in done.stderr


def test_a_command_that_is_not_there_is_127():
    done = run("--profile", "trusted", "--", "/no/such/program")
    assert done.returncode == 127
    assert "cannot execute '/no/such/program'" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ((), "a COMMAND is expected"),
        (("--profile", "trusted", "--network", "none", "--", "true"), "hides and takes nothing"),
        (("--writable", "relative", "--", "true"), "absolute paths"),
        (("--memory", "lots", "--", "true"), "not a size"),
        (("--user", "no-such-account", "--", "true"), "no account"),
        (("--user", "nobody", "--group", "no-such-group", "--", "true"), "no group"),
        (("--group", "root", "--", "true"), "needs the name of an account"),
    ],
)
def test_options_that_make_no_sense_are_2(arguments, said):
    done = run(*arguments)
    assert done.returncode == 2
    assert said in done.stderr


@pytest.mark.usefixtures("boxes")
def test_a_command_runs_as_an_account_with_another_group():
    if os.geteuid() != 0:
        pytest.skip("root")
    done = run("--user", "nobody", "--group", "adm", "--chdir", "/", "--", "id", "-g")
    assert done.stdout.strip() == str(grp.getgrnam("adm").gr_gid), done.stderr


@pytest.mark.usefixtures("boxes")
def test_the_plan_is_printed_and_nothing_is_done(folder):
    done = run("--plan", "--writable", str(folder), "--", "touch", f"{folder}/file")
    assert done.returncode == 0
    assert f"show {folder}" in done.stdout
    assert "own mount namespace" in done.stdout
    assert "no_new_privs: no capabilities" in done.stdout
    assert not (folder / "file").exists()


@pytest.mark.usefixtures("boxes")
def test_a_process_limit_holds():
    if "pids" not in offered()["cgroups"]["limits"]:
        pytest.skip("a pids cgroup")
    done = run("--pids", "4", "--", "sh", "-c", "for n in 1 2 3 4 5 6 7 8; do sleep 1 & done; wait")
    assert "fork" in done.stderr.lower()


@pytest.mark.usefixtures("boxes")
def test_a_terminal_of_its_own_is_relayed_to_ours():
    pid, terminal = pty.fork()
    if pid == 0:
        os.execv(
            sys.executable,
            [*PROGRAM, "--terminal", "--", "sh", "-c", "test -t 0 && echo a-terminal; read x; echo got $x"],
        )
    said = b""
    until = time.monotonic() + 20
    typed = False
    while time.monotonic() < until:
        if not select.select([terminal], [], [], 0.1)[0]:
            continue
        try:
            piece = os.read(terminal, 4096)
        except OSError:
            break
        if not piece:
            break
        said += piece
        if b"a-terminal" in said and not typed:
            os.write(terminal, b"hello\r")
            typed = True
    os.close(terminal)
    assert os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == 0, said
    assert b"got hello" in said
