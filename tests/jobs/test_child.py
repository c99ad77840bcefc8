"""From a payload to a running function or command, each in a real box under a real launcher.

Functions run twice: in a fork of the launcher, and in an interpreter that has never heard of our package.
"""

import ast
import subprocess
import sys
from pathlib import Path

import harness
import pytest

from lnmt_scheduler.ipc import codec, messages
from lnmt_scheduler.jobs import bridge, child
from lnmt_scheduler.sandbox import orders, policy

MODULE = """
import atexit, logging, os, signal, sys, threading, time

def names():
    return [sys.argv, os.getcwd(), oct(os.umask(0)), sorted(os.environ), sys.modules["__main__"].__name__]

def speaks():
    print("out")
    print("err", file=sys.stderr)
    logging.getLogger("a.b").info("logged")
    logging.getLogger("a.b").debug("not logged")
    os.system("echo from a program")

def surrogates(): print("\\udcff")
def unflushed(): sys.stdout.write("no newline")
def asks(): return input()
def at_exit(): atexit.register(print, "at exit")
def threads(): threading.Thread(target=lambda: (time.sleep(0.1), print("thread"))).start()
def interrupted(): os.kill(os.getpid(), signal.SIGINT)
def broken_pipe():
    read, write = os.pipe()
    os.close(read)
    os.write(write, b"x")
def big(size): return "x" * size
def leaves(code): sys.exit(code)
def raises(): raise LookupError("ü" * 100_000)
def deep(n):
    found = []
    for _ in range(n):
        found = [found]
    return found
def cyclic():
    found = []
    found.append(found)
    return found
def odd(which):
    import msgpack
    odd = {"set": {1}, "key": {1: 2}, "int": 1 << 64, "time": [msgpack.Timestamp(1)], "text": "\\udcff"}
    return {"within": [odd[which]]}
def is_ours():
    try:
        import lnmt_scheduler.jobs.bridge
    except ImportError:
        return False
    return True
def wants(a, *, b=2, **rest): return [a, b, rest]
def takes(context): return [context.job_id, context.run_id, context.attempt, context.slot.isoformat(), context.event]
def optional(context=None): return context is not None
def anything(**context): return sorted(context)
def own(context): return context
def children():
    pid = os.fork()
    if pid == 0:
        os._exit(5)
    return os.waitpid(pid, 0)[1] >> 8
NOT_A_FUNCTION = 5
class Jobs:
    class Inner:
        @classmethod
        def method(cls): return cls.__name__
"""


@pytest.fixture(scope="session")
def where(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("modules")
    (folder / "for_child.py").write_text(MODULE)
    (folder / "bad_syntax.py").write_text("def f(:\n")
    (folder / "bad_import.py").write_text("import no_such_thing_here\n")
    (folder / "leaves.py").write_text("raise SystemExit(3)\n")
    (folder / "main_file.py").write_text(
        "ran = []\ndef job(): return [__name__, ran]\nif __name__ == '__main__': ran.append(1)\n"
    )
    return str(folder)


@pytest.fixture(scope="session")
def other_python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return harness.make_python(tmp_path_factory.mktemp("other") / "venv")


@pytest.fixture(params=["fork", "other"])
def call(request, launched, where):
    """Run a function of the module above; what became of it."""
    python = request.getfixturevalue("other_python") if request.param == "other" else None

    def run(function: str, *args: object, module: str = "for_child", **more: object):
        return launched.run(
            module=module, function=function, args=list(args), python_path=[where], python=python, **more
        )

    return run


def value(done) -> object:
    (result,) = done.reports
    assert isinstance(result, messages.Result), done
    assert done.exited.exit_code == 0
    return codec.unpack(result.data)


def test_a_function_finds_itself_in_a_fresh_interpreters_place(call):
    argv, cwd, umask, environment, main = value(
        call("names", working_directory="/usr", umask=0o027, environment={"A": "1", "B": "2"})
    )
    assert (argv, cwd, umask) == (["for_child.names"], "/usr", "0o27")
    assert environment == ["A", "B"]
    assert main == "__main__"


def test_whatever_a_function_says_is_in_its_streams(call):
    done = call("speaks")
    assert done.stdout == b"out\nfrom a program\n"
    assert done.stderr == b"err\nINFO a.b: logged\n"
    assert value(done) is None


def test_text_that_is_no_text_is_escaped_and_text_without_an_end_is_flushed(call):
    assert call("surrogates").stdout == b"\\udcff\n"
    assert call("unflushed").stdout == b"no newline"


def test_stdin_is_empty(call):
    done = call("asks")
    assert done.exited.exit_code == 1
    assert done.reports[0].text.endswith(b"EOFError: EOF when reading a line")


def test_threads_are_waited_for_and_exit_functions_run(call):
    assert call("threads").stdout == b"thread\n"
    assert call("at_exit").stdout == b"at exit\n"


def test_signals_are_what_python_makes_of_them(call):
    assert call("interrupted").reports[0].text.endswith(b"KeyboardInterrupt")
    assert call("broken_pipe").reports[0].text.endswith(b"BrokenPipeError: [Errno 32] Broken pipe")


def test_a_function_may_fork_and_wait_for_its_own(call):
    assert value(call("children")) == 5


@pytest.mark.parametrize(("given", "code"), [(None, 0), (0, 0), (7, 7), (-1, 255), (256, 0), ("words", 1)])
def test_sys_exit_leaves_as_it_does_in_a_script(call, given, code):
    done = call("leaves", given)
    assert (done.exited.exit_code, done.reports) == (code, [])
    assert done.stderr == (b"words\n" if given == "words" else b"")


def test_a_large_result_comes_in_parts(call):
    done = call("big", 20_000)
    assert [part.part for part in done.reports] == list(range(1, len(done.reports) + 1))
    assert {part.parts for part in done.reports} == {len(done.reports)}
    assert codec.unpack(b"".join(part.data for part in done.reports)) == "x" * 20_000


@pytest.mark.parametrize(
    ("function", "args", "words"),
    [
        ("big", [100], "the result has 102 bytes, result_limit is 50"),
        ("deep", [40], "nested deeper than 32"),
        ("deep", [5000], "nested deeper"),
        ("cyclic", [], "nested deeper"),
        ("odd", ["set"], "a value of type set"),
        ("odd", ["key"], "a map key of type int, only str is allowed"),
        ("odd", ["int"], "an int beyond 64 bits"),
        ("odd", ["time"], "a value of type Timestamp"),
        ("odd", ["text"], "a str that UTF-8 cannot encode"),
    ],
)
def test_a_result_that_cannot_be_carried_is_refused_with_the_reason(call, function, args, words):
    done = call(function, *args, result_limit=50)
    (refused,) = done.reports
    assert words in refused.error
    assert done.exited.exit_code == 1


def test_a_long_traceback_is_cut_at_its_beginning(call):
    done = call("raises")
    text = b"".join(part.text for part in done.reports).decode(errors="replace")
    assert len(text.encode()) <= 64 * 1024 + 3
    assert text.endswith("ü" * 100)


@pytest.mark.parametrize(
    ("function", "args", "kwargs", "expected"),
    [
        ("wants", [1], {"b": 3, "c": 4}, [1, 3, {"c": 4}]),
        ("takes", [], {}, ["job", None, 2, "2023-11-14T22:13:20+00:00", {"e": 1}]),
        ("optional", [], {}, True),
        ("anything", [], {"a": 1}, ["a"]),
        ("own", [], {"context": "mine"}, "mine"),
        ("Jobs.Inner.method", [], {}, "Inner"),
    ],
)
def test_arguments_arrive_and_context_only_where_it_is_asked_for(call, function, args, kwargs, expected):
    found = value(call(function, *args, kwargs=kwargs, slot=1_700_000_000_000, event={"e": 1}, attempt=2))
    if function == "takes":
        found[1] = None
    assert found == expected


@pytest.mark.parametrize(
    ("module", "function", "words"),
    [
        ("no_such_module", "f", "No module named 'no_such_module'"),
        ("bad_syntax", "f", "SyntaxError"),
        ("bad_import", "f", "No module named 'no_such_thing_here'"),
        ("leaves", "f", "SystemExit: 3"),
        ("for_child", "nothing_here", "'for_child' has no 'nothing_here': 'nothing_here' is missing"),
        ("for_child", "Jobs.Outer.f", "'Outer' is missing"),
        ("for_child", "NOT_A_FUNCTION", "is not a function"),
        ("__main__", "f", "'f' is missing"),
    ],
)
def test_what_cannot_be_imported_is_no_start_and_says_why(call, module, function, words):
    done = call(function, module=module)
    assert words in done.exited.spawn_error
    assert "jobs/bridge.py" not in done.exited.spawn_error
    assert done.reports == []


def test_a_function_of_a_script_is_found_without_running_the_script(call, where):
    done = call("job", module="__main__", main_file=f"{where}/main_file.py")
    assert value(done) == ["__mp_main__", []]
    assert "No such file" in call("job", module="__main__", main_file="/no/such.py").exited.spawn_error


def test_another_interpreter_runs_the_function_and_needs_nothing_of_ours(launched, where, other_python):
    asks = {"module": "for_child", "function": "is_ours", "python_path": [where]}
    assert value(launched.run(**asks)) is True
    assert value(launched.run(**asks, python=other_python)) is False


def test_an_interpreter_without_msgpack_is_no_start_and_says_what_to_install(launched, where, tmp_path):
    bare = harness.make_python(tmp_path / "bare", msgpack=False)
    error = launched.run(module="for_child", function="names", python_path=[where], python=bare).exited.spawn_error
    assert error.startswith(f"{bare} has no msgpack")
    assert error.endswith(f"{bare} -m pip install msgpack")


def test_an_interpreter_that_is_not_there_is_no_start(launched):
    done = launched.run(module="m", function="f", python="/no/such/python")
    assert done.exited.spawn_error.startswith("cannot execute '/no/such/python': [Errno 2] No such file or directory")


def test_a_box_without_the_one_file_of_ours_is_no_start_and_says_which(launched):
    room = str(Path(bridge.__file__).parent)
    layers = {**policy.Policy().layers, "filesystem": policy.REQUIRE}
    wanted = policy.Policy(layers=layers, root="host", hidden=(room,)).to_map()
    done = launched.run(module="m", function="f", python=sys.executable, wanted=wanted)
    if done.exited.sandbox_error is not None:
        pytest.skip(f"mounts of its own for a box: {done.exited.sandbox_error}")
    assert done.exited.spawn_error.startswith(f"the user of this job cannot read {bridge.__file__}; install")


def test_the_file_for_other_interpreters_stands_alone_and_suits_older_ones():
    source = Path(bridge.__file__).read_text()
    ast.parse(source, feature_version=(3, 8))
    program = "import sys, runpy; runpy.run_path(sys.argv[1]); print(*[n for n in sys.modules if 'lnmt' in n])"
    done = subprocess.run(
        [sys.executable, "-I", "-S", "-c", program, bridge.__file__], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == ""
    assert (bridge.REPORT_FD, bridge.PAYLOAD_FD, bridge.ERROR_FD) == (
        orders.REPORT_FD,
        orders.PAYLOAD_FD,
        orders.ERROR_FD,
    )


def test_an_edited_module_counts_from_the_next_run(launched, tmp_path):
    for number in (1, 2):
        (tmp_path / "edited.py").write_text(f"def f(): return {number}{' ' * number}\n")
        done = launched.run(module="edited", function="f", python_path=[str(tmp_path)])
        assert value(done) == number


def test_a_working_directory_or_an_environment_that_cannot_be_is_no_start(call):
    assert "working directory" in call("names", working_directory="/no/such").exited.spawn_error
    assert call("names", environment={"A=B": "x"}).exited.spawn_error
    assert call("names", environment={"A": "x\0y"}).exited.spawn_error


def test_a_command_is_found_on_the_path_of_its_own_environment(launched, tmp_path):
    program = tmp_path / "program"
    program.write_text("#!/bin/sh\necho found $0 $1\n")
    program.chmod(0o755)
    done = launched.run("program", "x", environment={"PATH": f"/nowhere:{tmp_path}"})
    assert done.stdout == f"found {program} x\n".encode()
    assert launched.run("program", environment={"PATH": "/nowhere"}).exited.spawn_error


def test_a_payload_over_its_limit_is_not_read(launched):
    done = launched.run(module="m", function="f", args=["x" * child.PAYLOAD_LIMIT])
    assert f"the limit is {child.PAYLOAD_LIMIT}" in done.exited.spawn_error


def test_the_launcher_has_imported_nothing_of_any_job(launched, where, call):
    call("names")
    maps = Path(f"/proc/{launched.pid}/maps").read_text()
    assert where not in maps
    assert value(call("optional")) is True
    assert sys.modules.get("for_child") is None
