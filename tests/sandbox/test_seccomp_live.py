"""Filters loaded for real: what they deny fails with the errno they promise, and ordinary programs do not notice them."""

import errno
import json
import os
import platform
import shutil
import socket
import struct
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from lnmt_scheduler.sandbox import filters, seccomp

RUNNER = str(Path(__file__).parent.parent / "filtered.py")
NOBODY = 65534
PYTHON = [sys.executable, "-I", "-c"]
SIGSYS = -31

pytestmark = pytest.mark.skipif(
    platform.machine() not in ("x86_64", "aarch64"), reason=f"no seccomp filter for {platform.machine()}"
)
both = pytest.mark.parametrize("name", ["denylist", "strict"])


def under(name, *command, options=None, **more):
    """The program under a filter, in a session of its own, so that vhangup finds no terminal."""
    words = [sys.executable, RUNNER, name, json.dumps(options or {}), *command]
    return subprocess.run(words, capture_output=True, text=True, timeout=60, start_new_session=True, **more)


def errnos(name, calls, **options):
    """Names of the errnos that calls of the form (name, argument...) end with."""
    numbers = seccomp.numbers(platform.machine())
    asked = json.dumps([[numbers[call], *arguments] for call, *arguments in calls])
    done = under(name, "calls", options=options, input=asked)
    assert done.returncode == 0, done.stderr
    return [errno.errorcode.get(number, "") for number in json.loads(done.stdout)]


def works(name, *command, **more):
    done = under(name, *command, **more)
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture
def workplace(folder):
    """A folder of an ordinary user's own, and the options to be that user: as jobs under these filters run."""
    if os.geteuid() != 0:
        return {"cwd": folder}
    os.chown(folder, NOBODY, NOBODY)
    return {"cwd": folder, "options": {"uid": NOBODY}}


def needs(program):
    if shutil.which(program) is None:
        pytest.skip(f"{program} is not installed")


# Every argument -1: if the filter let such a call through, it would fail on its arguments and do nothing.
def with_nonsense(names):
    known = seccomp.numbers(platform.machine())
    return [(name, *([-1] * 6)) for name in sorted(names) if name in known]


@both
def test_every_denied_call_fails_with_its_errno(name):
    refused = with_nonsense(filters.DENIED - (filters.TRIPWIRES if name == "strict" else set()))
    assert set(errnos(name, refused)) == {"EPERM"}
    assert set(errnos(name, with_nonsense(filters.ABSENT))) == {"ENOSYS"}


def test_without_a_filter_the_same_calls_fail_on_their_arguments():
    # Else the test above would show nothing.
    found = errnos("none", with_nonsense(filters.DENIED | filters.ABSENT))
    assert sum(name not in ("EPERM", "ENOSYS") for name in found) > 20


@pytest.mark.parametrize("call", sorted(filters.TRIPWIRES))
def test_a_tripwire_of_strict_ends_the_process(call):
    number = seccomp.numbers(platform.machine())[call]
    assert under("strict", "calls", input=json.dumps([[number, *([-1] * 6)]])).returncode == SIGSYS


@both
def test_calls_are_judged_by_their_arguments(name):
    fd, high = -1, 0x100000000
    assert errnos(
        name,
        [
            ("clone", 0x10000000 | 17, 0, 0, 0, 0),
            ("ioctl", fd, 0x5412, 0),
            ("ioctl", fd, high | 0x5412, 0),
            ("ioctl", fd, high | 0x541C, 0),
            ("ioctl", fd, 0x5413, 0),
            ("personality", 0x0040000),
            ("personality", high | 0x0040000),
            ("personality", 0xFFFFFFFF),
            ("prlimit64", 1, 7, 0, 0),
            ("prlimit64", high | 1, 7, 0, 0),
            ("prlimit64", 0, 7, 0, 0),
            ("fchmod", fd, 0o4755),
            ("fchmod", fd, 0o755),
            ("fchmodat", fd, 0, 0o2755),
            ("mkdirat", fd, 0, 0o4755),
            ("openat", fd, 0, os.O_CREAT, 0o4755),
            ("openat", fd, 0, os.O_CREAT, 0o755),
            ("openat", fd, 0, 0, 0o4755),
            ("mknodat", fd, 0, 0o020600, 0x103),
            ("mknodat", fd, 0, 0o060600, 0x700),
            ("mknodat", fd, 0, 0o010600, 0),
            ("socket", 40, 1, 0),
            ("socket", 38, 5, 0),
            ("socket", 16, 3, 9),
            ("socket", 16, 3, 0),
            ("socket", socket.AF_INET6, 1, 0),
            ("socketpair", 30, 1, 0, 0),
        ],
    ) == [
        "EPERM", "EPERM", "EPERM", "EPERM", "EBADF", "EPERM", "EPERM", "", "EPERM", "EPERM", "", "EPERM", "EBADF", "EPERM",
        "EPERM", "EPERM", "EFAULT", "EFAULT", "EPERM", "EPERM", "EFAULT", "EAFNOSUPPORT", "EAFNOSUPPORT", "EAFNOSUPPORT",
        "", "", "EAFNOSUPPORT",
    ]  # fmt: skip


LIMITED = """
import os, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (1, 1))
os.execv(sys.executable, [sys.executable, *sys.argv[1:]])
"""
#: What gpg does when it starts, and a job that wants a handler of core_pattern to be started for it.
LOWERS = """
import ctypes, resource, sys
resource.setrlimit(resource.RLIMIT_CORE, (0, 1))
libc, wanted = ctypes.CDLL(None), (ctypes.c_ulong * 2)(0, 1)
for number, *arguments in ((int(sys.argv[1]), 0, 4, wanted, None), (int(sys.argv[2]), 4, wanted)):
    libc.syscall(ctypes.c_long(number), *arguments)
resource.setrlimit(resource.RLIMIT_NOFILE, (32, 32))
print(*resource.getrlimit(resource.RLIMIT_CORE), *resource.getrlimit(resource.RLIMIT_NOFILE))
"""


@pytest.mark.parametrize(("name", "core"), [("none", "0 1"), ("denylist", "1 1"), ("strict", "1 1")])
def test_the_limit_of_core_dumps_stays_whatever_the_job_is_told(name, core):
    calls = [str(seccomp.numbers(platform.machine())[call]) for call in ("prlimit64", "setrlimit")]
    line = [*PYTHON, LIMITED, RUNNER, name, "{}", *PYTHON, LOWERS, *calls]
    done = subprocess.run(line, capture_output=True, text=True, timeout=60)
    assert (done.stdout, done.stderr) == (f"{core} 32 32\n", "")


def test_a_shared_uid_takes_what_reaches_others_of_that_uid():
    calls = [
        ("setpriority", 0, 0, 0),
        ("setpriority", 0, 1, 0),
        ("setpriority", 2, 0, 0),
        ("ioprio_set", 1, 0, -1),
        ("ioprio_set", 1, 1, -1),
        ("sched_setaffinity", 0, 0, 0),
        ("sched_setaffinity", 1, 0, 0),
        ("sched_setparam", 1, 0),
        ("shmget", 0, 0, 0),
        ("semget", 0, -1, 0),
    ]
    expected = ["", "EPERM", "EPERM", "EINVAL", "EPERM", "EINVAL", "EPERM", "EPERM", "EPERM", "EPERM"]
    assert errnos("denylist", calls, shared_uid=True) == expected


def test_unix_sockets_only_where_that_stands_for_no_network():
    calls = [
        ("socket", family, 1, 0) for family in (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_NETLINK)
    ]
    assert errnos("strict", calls, sockets="unix") == ["", "EAFNOSUPPORT", "EAFNOSUPPORT", "EAFNOSUPPORT"]


def elf_for_i386():
    """A program of 32 bits that does nothing but exit(0) by int 0x80."""
    code = bytes.fromhex("b801000000 31db cd80")
    base, header = 0x08048000, 52 + 32
    size = header + len(code)
    ident = b"\x7fELF\x01\x01\x01" + bytes(9)
    elf = ident + struct.pack("<HHIIIIIHHHHHH", 2, 3, 1, base + header, 52, 0, 0, 52, 32, 1, 0, 0, 0)
    return elf + struct.pack("<8I", 1, 0, base, base, size, size, 5, 0x1000) + code


@both
@pytest.mark.skipif(platform.machine() != "x86_64", reason="only x86-64 runs programs for i386")
def test_a_program_of_32_bits_dies_of_its_first_call(name, folder):
    program = folder / "i386"
    program.write_bytes(elf_for_i386())
    program.chmod(0o755)
    if under("none", str(program)).returncode != 0:
        pytest.skip("a kernel that runs programs of 32 bits")
    assert under(name, str(program)).returncode == SIGSYS


INT_80 = """
import ctypes, mmap
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
memory.write(bytes.fromhex("b814000000cd80c3"))  # getpid by the table of i386
ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))()
"""


@both
@pytest.mark.skipif(platform.machine() != "x86_64", reason="int 0x80 is an instruction of x86")
def test_int_80_in_a_program_of_64_bits_kills(name):
    if under("none", *PYTHON, INT_80).returncode != 0:
        pytest.skip("a kernel with the 32-bit entry")
    assert under(name, *PYTHON, INT_80).returncode == SIGSYS


PROGRAMS = {
    "threads": """
        import threading
        found = []
        threads = [threading.Thread(target=found.append, args=(i,)) for i in range(20)]
        for t in threads: t.start()
        for t in threads: t.join()
        assert sorted(found) == list(range(20))
    """,
    "files": """
        import os, shutil, tempfile
        with tempfile.TemporaryDirectory() as folder:
            path = os.path.join(folder, "a")
            with open(path, "w") as file: file.write("x" * 100000)
            os.chmod(path, 0o640); os.rename(path, path + "b"); shutil.copy2(path + "b", path); os.mkfifo(path + "f")
            os.symlink(path, path + "l"); os.utime(path); assert os.stat(path).st_size == 100000
            assert len(os.listdir(folder)) == 4
    """,
    "subprocess": """
        import subprocess
        for close in (True, False):
            assert subprocess.run(["/bin/sh", "-c", "echo a | cat"], capture_output=True, close_fds=close).stdout == b"a\\n"
    """,
    "multiprocessing": """
        import multiprocessing
        with multiprocessing.get_context("fork").Pool(2) as pool:
            assert pool.map(abs, [-1, -2, -3]) == [1, 2, 3]
    """,
    "sqlite": """
        import sqlite3, tempfile
        with tempfile.TemporaryDirectory() as folder:
            db = sqlite3.connect(folder + "/db")
            assert db.execute("pragma journal_mode=wal").fetchone() == ("wal",)
            db.execute("create table t (x)"); db.executemany("insert into t values (?)", [(i,) for i in range(1000)])
            db.commit(); assert db.execute("select sum(x) from t").fetchone() == (499500,); db.close()
    """,
    "http": """
        import http.server, threading, urllib.request
        server = http.server.HTTPServer(("127.0.0.1", 0), http.server.SimpleHTTPRequestHandler)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        assert urllib.request.urlopen(f"http://127.0.0.1:{server.server_port}/").status == 200
        server.shutdown(); server.server_close()
    """,
    "asyncio": """
        import asyncio
        async def main():
            child = await asyncio.create_subprocess_exec("/bin/echo", "a", stdout=-1)
            assert (await child.communicate())[0] == b"a\\n"
            assert await asyncio.to_thread(sum, [1, 2]) == 3
        asyncio.run(main())
    """,
    "resources": """
        import resource, signal
        resource.setrlimit(resource.RLIMIT_NOFILE, (64, 64))
        assert resource.getrlimit(resource.RLIMIT_NOFILE) == (64, 64)
        signal.pthread_sigmask(signal.SIG_BLOCK, [signal.SIGALRM])
        signal.setitimer(signal.ITIMER_REAL, 0.01)
        assert signal.sigwait([signal.SIGALRM]) == signal.SIGALRM
    """,
    "names": """
        import socket
        assert socket.getaddrinfo("127.0.0.1", 80) and socket.if_nameindex()
    """,
}


@both
@pytest.mark.parametrize("program", PROGRAMS)
def test_what_python_programs_do_works(name, program, folder):
    works(name, *PYTHON, textwrap.dedent(PROGRAMS[program]), cwd=folder)


@both
@pytest.mark.parametrize(
    ("line", "output"),
    [
        ("/bin/true", ""),
        ("printf 'b\\na\\n' | sort | head -n 1", "a\n"),
        ("(echo 1; echo 2) | while read x; do echo $((x + 1)); done", "2\n3\n"),
        ("cat <<END\nhere\nEND", "here\n"),
        (
            "mkdir d && touch d/f && chmod 644 d/f && cp -a d e && tar cf - e | tar tf - | tail -n 1 && rm -r d e",
            "e/f\n",
        ),
        ("sleep 0.01 & wait; ulimit -n 64; ulimit -n", "64\n"),
        ("find . -name x | xargs -r echo; sed -n 1p /dev/null; nice -n 0 echo $(basename /a/b)", "b\n"),
    ],
)
def test_what_shell_scripts_do_works(name, line, output, workplace):
    assert works(name, "/bin/sh", "-c", line, **workplace) == output


@both
def test_bash_works(name, workplace):
    needs("bash")
    line = "mapfile -t a < <(printf '%s\\n' x y); coproc cat; echo ${#a[@]} >&${COPROC[1]}; read -u ${COPROC[0]} n; echo $n"
    assert works(name, "bash", "-c", line, **workplace) == "2\n"


@both
def test_git_works(name, folder, workplace):
    needs("git")
    commit = "git -c user.name=n -c user.email=e commit -q"
    line = f"git --version >&2 && git init -q . && echo a > a && git add a && {commit} -m m && git log --format=%s"
    environment = {"PATH": os.environ["PATH"], "HOME": str(folder), "GIT_CONFIG_NOSYSTEM": "1"}
    assert works(name, "/bin/sh", "-c", line, env=environment, **workplace) == "m\n"


@both
def test_a_c_compiler_and_what_it_makes_work(name, folder, workplace):
    needs("cc")
    (folder / "a.c").write_text('#include <stdio.h>\nint main(void) { puts("made"); return 0; }\n')
    assert works(name, "/bin/sh", "-c", "cc -o a a.c && ./a", **workplace) == "made\n"


def test_a_setuid_bit_is_refused_to_chmod(folder):
    done = under(
        "denylist", "/bin/sh", "-c", "touch f; chmod 4755 f || chmod 2755 f || chmod 755 f && stat -c %a f", cwd=folder
    )
    assert done.stdout == "755\n"
    assert done.stderr.count("Operation not permitted") == 2


def test_a_job_may_tighten_its_own_filter():
    line = [sys.executable, RUNNER, "strict", "{}", sys.executable, RUNNER, "strict", "{}", "/bin/echo", "twice"]
    assert works("denylist", *line) == "twice\n"


def as_nobody(line):
    """Run a line of Python without any privilege; what it needs is imported before."""
    program = (
        f"import os\nfrom lnmt_scheduler.sandbox import seccomp\nif os.geteuid() == 0: os.setuid({NOBODY})\n{line}"
    )
    return subprocess.run([*PYTHON, program], capture_output=True, text=True)


def test_a_filter_is_there_for_an_ordinary_user_too():
    assert as_nobody("print(seccomp.available())").stdout == "None\n"


def test_loading_without_no_new_privs_is_refused():
    done = as_nobody("seccomp.load(seccomp.compile('strict'))")
    assert done.stderr.splitlines()[-1] == "PermissionError: [Errno 13] seccomp: Permission denied"


def without(call):
    """Python code that takes one system call from its own process, as a container runtime might."""
    return f"""
import errno, platform
from lnmt_scheduler.sandbox import bpf, seccomp, syscalls
number = seccomp.numbers(platform.machine())[{call!r}]
verdicts = [bpf.verdict(v) for v in (bpf.ALLOW, bpf.errno_verdict(errno.EPERM), bpf.ALLOW)]
cases = list(zip((0, number, number + 1), verdicts))
syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
seccomp.load(bpf.program(seccomp._AUDIT_ARCH[platform.machine()], cases))
print(seccomp.available())
"""


@pytest.mark.parametrize("call", ["seccomp", "prctl"])
def test_where_filters_cannot_be_loaded_the_reason_is_given(call):
    done = subprocess.run([*PYTHON, without(call)], capture_output=True, text=True)
    reason = "a kernel without CONFIG_SECCOMP_FILTER, or a container that forbids it"
    assert done.stdout == f"seccomp: Operation not permitted: {reason}\n", done.stderr
