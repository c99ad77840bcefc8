"""The hostile program: tries, inside a box, what the catalogue names, and says what came of each attempt.

It is copied to where the box can see it and run by any Python with the standard library alone. `hostile.py NAMES FACTS` runs
each attempt in a fork of its own and prints one JSON map, name -> outcome: an errno's name, the name of the signal that
ended it, or the word that the attempt returned. `hostile.py NAME FACTS whole` is that attempt itself, for those that end
their whole box. FACTS is a JSON map of what was laid out for it: paths, addresses, a key.
"""

import contextlib
import ctypes
import errno
import fcntl
import json
import mmap
import os
import platform
import resource
import signal
import socket
import struct
import subprocess
import sys
import threading
import time

libc = ctypes.CDLL(None, use_errno=True)
librt = ctypes.CDLL("librt.so.1", use_errno=True)
_X86 = {
    "clone": 56, "ptrace": 101, "syslog": 103, "capset": 126, "personality": 135, "pivot_root": 155,
    "acct": 163, "exit": 60, "swapon": 167, "reboot": 169, "iopl": 172, "init_module": 175, "clock_settime": 227,
    "kexec_load": 246,
    "add_key": 248, "keyctl": 250, "ioprio_set": 251, "process_vm_readv": 310, "kcmp": 312, "open_by_handle_at": 304,
    "bpf": 321, "userfaultfd": 323, "perf_event_open": 298, "setns": 308, "shmget": 29, "seccomp": 317,
}  # fmt: skip
_ARM = {
    "clone": 220, "ptrace": 117, "syslog": 116, "capset": 91, "personality": 92, "pivot_root": 41,
    "acct": 89, "exit": 93, "swapon": 224, "reboot": 142, "iopl": None, "init_module": 105, "clock_settime": 112,
    "kexec_load": 104,
    "add_key": 217, "keyctl": 219, "ioprio_set": 30, "process_vm_readv": 270, "kcmp": 272, "open_by_handle_at": 265,
    "bpf": 280, "userfaultfd": 282, "perf_event_open": 241, "setns": 268, "shmget": 194, "seccomp": 277,
}  # fmt: skip
#: The same everywhere.
_NEW = {
    "io_uring_setup": 425, "open_tree": 428, "fsopen": 430, "pidfd_getfd": 438, "clone3": 435, "mount_setattr": 442,
    "memfd_secret": 447, "landlock_create_ruleset": 444, "landlock_restrict_self": 446,
}  # fmt: skip
NUMBERS = {**(_X86 if platform.machine() == "x86_64" else _ARM), **_NEW}
_NEWUSER = 0x10000000
FACTS: dict = {}


def _inherited():
    """What this program was started with beyond its streams and its report pipe."""
    found = []
    for fd in range(4, 1024):
        try:
            os.fstat(fd)
            found.append(fd)
        except OSError:
            pass
    return found


INHERITED = _inherited()
#: Process 1 of its world, or where there are no such worlds, the one that leads the box.
INIT = os.getppid()


class NotHereError(Exception):
    """This attempt makes no sense on this machine."""


def call(name, *arguments):
    """A raw system call; OSError as the kernel says."""
    number = NUMBERS[name]
    if number is None:
        raise NotHereError
    values = [each if isinstance(each, (bytes, ctypes.Array)) else ctypes.c_long(each) for each in arguments]
    return checked(libc.syscall(ctypes.c_long(number), *values))


def checked(result):
    if result < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    return result


def read(path):
    with open(path, "rb") as file:
        return f"read {len(file.read(4096))} bytes"


def may_open(path, flags):
    os.close(os.open(path, flags))
    return "opened"


def mess(top):
    """What is hard to remove, below a directory of one's own: also used by test_beside.py."""
    for name in (b"a\nb", b"\xff\xfe", b"\x1b[2J", b"-rf", b"n" * 255):
        with open(os.path.join(os.fsencode(top), name), "wb"):
            pass
    for number in range(500):
        os.close(os.open(f"{top}/{number}", os.O_CREAT | os.O_WRONLY))
    os.mkfifo(f"{top}/fifo")
    with socket.socket(socket.AF_UNIX) as sock:
        before = os.getcwd()
        os.chdir(top)
        sock.bind("socket")
        os.chdir(before)
    os.symlink("/", f"{top}/link")
    os.mkdir(f"{top}/closed")
    os.close(os.open(f"{top}/closed/file", os.O_CREAT | os.O_WRONLY, 0))
    os.chmod(f"{top}/closed", 0)
    at = os.open(top, os.O_RDONLY)
    for _ in range(1200):  # deeper than Python's recursion goes
        os.mkdir("deep", dir_fd=at)
        below = os.open("deep", os.O_RDONLY, dir_fd=at)
        os.close(at)
        at = below
    os.close(at)


def _say_and_leave(word):
    print(word, flush=True)
    os._exit(0)


# Processes and time


def fork_bomb():
    made = []
    try:
        for _ in range(400):
            pid = os.fork()
            if pid == 0:
                signal.pause()
            made.append(pid)
    finally:
        for pid in made:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)


def thread_bomb():
    enough = threading.Event()
    try:
        for _ in range(400):
            threading.Thread(target=enough.wait, daemon=True).start()
    except RuntimeError:
        raise BlockingIOError(errno.EAGAIN, "no more threads") from None
    finally:
        enough.set()


def kill_init():
    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGSEGV, signal.SIGSTOP, signal.SIGKILL):
        os.kill(INIT, number)
    time.sleep(0.05)
    with open(f"/proc/{INIT}/stat") as file:
        return "no effect" if file.read().split(")")[1].split()[0] in "SRD" else "init was hit"


def orphans():
    """Daemonise in every way, and leave."""
    for _ in range(3):
        if os.fork() == 0:
            libc.prctl(36, 1, 0, 0, 0)  # PR_SET_CHILD_SUBREAPER
            os.setsid()
            for number in (signal.SIGTERM, signal.SIGHUP, signal.SIGINT):
                signal.signal(number, signal.SIG_IGN)
            if os.fork() == 0:
                os.setsid()
                print(os.getpid(), flush=True)
                while True:
                    signal.pause()
            while True:
                signal.pause()
    os._exit(0)


def survivor():
    """One process that leaves its session and its parent, and says so once it has both."""
    read_end, write_end = os.pipe()
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.write(write_end, b".")
            time.sleep(30)
        os._exit(0)
    os.read(read_end, 1)
    os._exit(0)


def kill_all():
    with open(f"/proc/{INIT}/comm") as file:
        if file.read() != "lnmt-init\n":
            os._exit(99)  # no box: whoever runs this must live
    if os.fork() == 0:
        os.kill(-1, signal.SIGKILL)  # all but itself and process 1
        os._exit(0)
    while True:
        signal.pause()


def stop_and_ignore():
    for number in set(signal.valid_signals()) - {signal.SIGKILL, signal.SIGSTOP}:
        signal.signal(number, signal.SIG_IGN)
    os.kill(os.getpid(), signal.SIGSTOP)
    while True:
        signal.pause()


def exit_in_the_grace():
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    while True:
        signal.pause()


def end_the_main_thread_only():
    threading.Thread(target=time.sleep, args=(60,)).start()
    call("exit", 0)


def balloon_in_a_child():
    if os.fork() == 0:
        balloon()
    os.wait()
    os._exit(0)


def descriptors_after_exec():
    said = subprocess.run(["/bin/sh", "-c", "ulimit -n"], capture_output=True, text=True)
    return said.stdout.strip()


def be_traced():
    call("ptrace", 0, 0, 0, 0)  # PTRACE_TRACEME
    return "traced"


def pretend_to_be_killed():
    os._exit(137)


def balloon():
    held = []
    while len(held) < 64:
        held.append(b"x" * (8 << 20))
    os._exit(0)


def spin_on():
    signal.signal(signal.SIGXCPU, signal.SIG_IGN)
    while True:
        pass


def spin():
    """Four that want a processor each, for a second: 0.1 of one is what they get together, or more than twice that."""
    with contextlib.suppress(PermissionError):  # by the filter of a strict box
        os.sched_setaffinity(0, range(1024))
    until = time.monotonic() + 1.0
    for _ in range(4):
        if os.fork() == 0:
            while time.monotonic() < until:
                pass
            os._exit(0)
    for _ in range(4):
        os.wait()
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    os._exit(0 if used.ru_utime + used.ru_stime < 0.2 else 1)


def flood():
    for _ in range(64):
        os.write(1, b"x" * 65536)
    os._exit(0)


def name_of_the_daemon():
    checked(libc.prctl(15, b"schedd\xff\x1b[2J", 0, 0, 0))  # PR_SET_NAME
    return "harmless"


# Memory and files


def reserve_8_gib():
    mmap.mmap(-1, 8 << 30, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x4000).close()
    return "allowed"


def lock_memory():
    for _ in range(64):
        piece = mmap.mmap(-1, 8 << 20)
        if libc.mlock(ctypes.c_void_p(ctypes.addressof(ctypes.c_char.from_buffer(piece))), ctypes.c_size_t(8 << 20)):
            _say_and_leave("refused")
        FACTS[len(FACTS)] = piece  # kept
    _say_and_leave("locked")


def leave_a_mess():
    """Deep, closed, many, with names of any bytes, and what is no file at all."""
    here = os.path.join(os.environ.get("TMPDIR", "/tmp"), "mess")
    print("made", here, flush=True)
    os.mkdir(here)
    mess(here)
    os._exit(0)


def fill_tmp():
    number = 0
    try:
        while number < 200:
            number += 1
            with open(f"/tmp/fill{number}", "wb", buffering=0) as file:
                file.write(b"x" * (1 << 20))
    finally:
        for each in range(1, number + 1):
            os.unlink(f"/tmp/fill{each}")


def fill_shared_memory():
    try:
        for number in range(200):
            with open(f"/dev/shm/fill{number}", "wb", buffering=0) as file:
                file.write(b"x" * (1 << 20))
    finally:
        for name in os.listdir("/dev/shm"):
            os.unlink(f"/dev/shm/{name}")


def fill_inodes():
    os.mkdir("/tmp/inodes")
    number = 0
    try:
        while number < 40_000:
            number += 1
            os.close(os.open(f"/tmp/inodes/{number}", os.O_CREAT | os.O_WRONLY))
    finally:
        for each in range(1, number):
            os.unlink(f"/tmp/inodes/{each}")


def huge_file():
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    with open(f"{FACTS['own']}/huge", "wb", buffering=0) as file:
        while file.tell() < 64 << 20:
            file.write(b"x" * (1 << 20))


def sparse_file():
    with open(f"{FACTS['own']}/sparse", "wb") as file:
        file.truncate(1 << 40)


def signals_at_start():
    """The shell that started this program noted what it was given; Python itself ignores two signals."""
    fields = dict(line.split(":", 1) for line in os.environ["AT_START"].splitlines())
    held = {name: int(fields[name], 16) for name in ("SigBlk", "SigIgn")}
    return "defaults" if not any(held.values()) else str(held)


def exhaust_descriptors():
    held = []
    try:
        while len(held) < 5000:
            held.append(os.open("/dev/null", os.O_RDONLY))
    finally:
        for fd in held:
            os.close(fd)


def own_file():
    with open(f"{FACTS['own']}/kept", "w") as file:
        file.write("mine")
    return "written"


def set_uid_file():
    path = f"{FACTS['own']}/setuid"
    with open(path, "wb"):
        os.chmod(path, 0o4755)


def set_uid_at_birth():
    os.close(os.open(f"{FACTS['own']}/born", os.O_CREAT | os.O_WRONLY, 0o4755))


def set_gid_directory():
    os.mkdir(f"{FACTS['own']}/group", 0o2777)


def dump_core():
    hard = resource.getrlimit(resource.RLIMIT_CORE)[1]
    resource.setrlimit(resource.RLIMIT_CORE, (hard, hard))
    pid = os.fork()
    if pid == 0:
        os.chdir(FACTS["own"])
        signal.signal(signal.SIGQUIT, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGQUIT)
    return "dumped" if os.WCOREDUMP(os.waitpid(pid, 0)[1]) else "none"


def wake_core_handler():
    """Of a limit of 0 core_pattern's handler gets a core, as root and outside of the box; only a limit of 1 keeps it away."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, resource.getrlimit(resource.RLIMIT_CORE)[1]))
    return f"limit {resource.getrlimit(resource.RLIMIT_CORE)[0]}"


def write_outside():
    return may_open(FACTS["open_file"], os.O_WRONLY)


def create_outside():
    return may_open(f"{FACTS['open_directory']}/new", os.O_WRONLY | os.O_CREAT)


def remount_writable():
    checked(libc.mount(None, b"/", None, ctypes.c_ulong(0x20 | 0x1000), None))  # MS_REMOUNT | MS_BIND
    return "remounted"


def link_outside():
    os.link(FACTS["open_file"], f"{FACTS['own']}/link")
    return "linked"


def shared_memory_of_the_host():
    call("shmget", FACTS["shm_key"], 0, 0)
    return "found"


def temporary_file_of_the_host():
    return read(FACTS["host_tmp"])


def shared_file_of_the_host():
    return read(FACTS["host_shm"])


def message_queue_of_the_host():
    queue = librt.mq_open(FACTS["queue"].encode(), os.O_RDONLY)
    if queue < 0:
        raise OSError(ctypes.get_errno(), "mq_open")
    return "opened"


# Input, output, terminals, sockets


def close_streams():
    os.closerange(0, 3)
    os.listdir("/usr")
    os._exit(0)


def never_block():
    os.set_blocking(1, False)
    waits = 0
    for _ in range(1024):
        try:
            os.write(1, b"x" * 4096)
        except BlockingIOError:
            waits += 1
            time.sleep(0.001)
    os._exit(0)


def reopen_streams():
    """Its pipes have names, too; each must lead to a pipe of its own, and none to what init or another run holds."""
    strange = []
    for name in os.listdir("/proc/self/fd"):
        try:
            target = os.readlink(f"/proc/self/fd/{name}")
        except FileNotFoundError:  # that of the listing
            continue
        if not (target == "/dev/null" or (int(name) in (1, 2, 3) and target.startswith("pipe:")) or int(name) > 3):
            strange.append(target)
    for name in "12":
        os.close(os.open(f"/proc/self/fd/{name}", os.O_WRONLY))
    return str(strange) if strange else "own"


def use_every_descriptor():
    return str(INHERITED) if INHERITED else "none"


def abstract_socket():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect("\0" + FACTS["abstract"])
    return "connected"


def daemon_socket():
    with socket.socket(socket.AF_UNIX) as sock:
        sock.connect(FACTS["socket"])
    return "connected"


def inject_terminal_input():
    fcntl.ioctl(0, 0x5412, b"x")


def inject_with_a_high_word():
    checked(libc.ioctl(0, ctypes.c_ulong(0x1_0000_5412), b"x"))


def console_paste():
    fcntl.ioctl(0, 0x541C, b"\2")


def open_terminal():
    return may_open("/dev/tty", os.O_RDWR)


# Secrets and sight


def environment_of_init():
    return read(f"/proc/{INIT}/environ")


def memory_of_init():
    return may_open(f"/proc/{INIT}/mem", os.O_RDONLY)


def descriptors_of_init():
    return str(os.listdir(f"/proc/{INIT}/fd"))


def root_of_init():
    return str(os.listdir(f"/proc/{INIT}/root"))


def own_environment():
    strange = sorted(name for name in os.environ if name in FACTS["secrets"] or name.startswith("PYTHON"))
    return "clean" if not strange else str(strange)


def shadow():
    return read("/etc/shadow")


def daemon_database():
    return read(FACTS["database"])


def other_state():
    return read(FACTS["other_state"])


def host_secret():
    return read(FACTS["secret"])


def home_directories():
    return str(os.listdir("/root")) + str(os.listdir("/home"))


def list_processes():
    pids = sorted(int(name) for name in os.listdir("/proc") if name.isdigit())
    with open(f"/proc/{INIT}/comm") as file:
        return "own" if file.read() == "lnmt-init\n" and len(pids) < 10 and max(pids) < 5000 else str(pids)


def kernel_symbols():
    with open("/proc/kallsyms", "rb") as file:
        return "addresses" if any(int(line.split()[0], 16) for line in file.readlines(4096)) else "nothing"


def kernel_memory():
    found = read("/proc/kcore")
    return "nothing" if found == "read 0 bytes" else found


def kernel_log():
    return str(call("syslog", 3, bytes(512), 512))


def sys_tree():
    return str(os.listdir("/sys"))


# Privilege and the kernel's surface


def run_set_uid_program():
    said = subprocess.run([FACTS["set_uid_program"], "-u"], capture_output=True, text=True)
    if said.returncode:
        return "refused"
    return "own uid" if int(said.stdout) == os.getuid() else "another uid"


def become_root():
    os.setresuid(0, 0, 0)
    return "root"


def become_group_root():
    os.setresgid(0, 0, 0)
    return "group root"


def choose_groups():
    os.setgroups([0])
    return "chosen"


def raise_capabilities():
    everything = 0xFFFFFFFF
    call("capset", struct.pack("=Ii", 0x20080522, 0), struct.pack("=6I", everything, everything, 0, 0, 0, 0))
    return "raised"


def raise_ambient():
    checked(libc.prctl(47, 2, 21, 0, 0))  # PR_CAP_AMBIENT_RAISE, CAP_SYS_ADMIN
    return "raised"


def unshare_user():
    checked(libc.unshare(_NEWUSER))
    return "unshared"


def clone_user():
    pid = call("clone", _NEWUSER | signal.SIGCHLD, 0, 0, 0, 0)
    if pid == 0:
        os._exit(0)
    return "cloned"


def clone3_user():
    arguments = struct.pack("=11Q", _NEWUSER, 0, 0, 0, signal.SIGCHLD, 0, 0, 0, 0, 0, 0)
    if call("clone3", arguments, len(arguments)) == 0:
        os._exit(0)
    return "cloned"


def join_namespace():
    fd = os.open("/proc/self/ns/mnt", os.O_RDONLY)
    call("setns", fd, 0)
    return "joined"


def mount_tmpfs():
    checked(libc.mount(b"tmpfs", b"/tmp", b"tmpfs", ctypes.c_ulong(0), None))
    return "mounted"


def unmount_proc():
    checked(libc.umount2(b"/proc", 2))
    return "unmounted"


def change_root():
    os.chroot("/tmp")
    return "changed"


def pivot():
    call("pivot_root", b".\0", b".\0")
    return "pivoted"


def new_mount_calls():
    outcomes = set()
    for name, arguments in {
        "open_tree": (-100, b"/\0", 1),
        "fsopen": (b"tmpfs\0", 0),
        "mount_setattr": (-100, b"/\0", 0, bytes(32), 32),
    }.items():
        try:
            call(name, *arguments)
            outcomes.add(name)
        except OSError as error:
            outcomes.add(errno.errorcode[error.errno])
    return ",".join(sorted(outcomes))


def open_by_handle():
    handle = struct.pack("=Ii8s", 8, 1, struct.pack("=II", 2, 0))  # the root of an ext4
    os.close(call("open_by_handle_at", os.open("/usr", os.O_RDONLY), handle, os.O_RDONLY))
    return "opened"


def trace_init():
    call("ptrace", 16, INIT, 0, 0)  # PTRACE_ATTACH
    return "traced"


def read_memory_of_init():
    call("process_vm_readv", INIT, 0, 0, 0, 0, 0)
    return "read"


def compare_with_init():
    call("kcmp", INIT, INIT, 0, 0, 0)
    return "compared"


def take_descriptor_of_init():
    call("pidfd_getfd", os.pidfd_open(INIT), 0, 0)
    return "taken"


def limit_init():
    resource.prlimit(INIT, resource.RLIMIT_NOFILE, (5, 5))
    return "limited"


def be_nicer_than_all():
    os.setpriority(os.PRIO_PROCESS, 0, -20)
    return "nicer"


def real_time():
    os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(50))
    return "real time"


def real_time_disk():
    call("ioprio_set", 1, 0, 1 << 13)
    return "real time"


def pin_init():
    os.sched_setaffinity(INIT, {0})
    return "pinned"


def slow_init():
    os.setpriority(os.PRIO_PROCESS, INIT, 19)
    return "slowed"


def slow_all_of_the_user():
    os.setpriority(os.PRIO_USER, 0, 19)
    return "own uid" if FACTS["own_uid"] else "slowed"


def set_clock():
    call("clock_settime", 0, struct.pack("=qq", 0, 2_000_000_000))  # no such nanosecond: harmless where it is allowed
    return "set"


def reboot():
    call("reboot", 1, 2, 0, 0)  # wrong numbers: past the question whether one may, it is EINVAL
    return "rebooted"


def load_kernel():
    call("kexec_load", 0, 0, 0, 0)
    return "unloaded"


def load_module():
    call("init_module", 0, 0, 0)
    return "loaded"


def load_bpf():
    call("bpf", 0, bytes(72), 72)
    return "loaded"


def watch_kernel():
    os.close(call("perf_event_open", struct.pack("=IIQ", 1, 112, 0).ljust(112, b"\0"), 0, -1, -1, 0))
    return "watched"


def swap_on():
    call("swapon", b"/nowhere\0", 0)
    return "on"


def account():
    call("acct", 0)
    return "off"


def ports():
    call("iopl", 3)
    return "open"


def exhaust_watches():
    for _ in range(200):
        checked(libc.inotify_init())


def flood_signals():
    number = signal.SIGRTMIN + 1
    signal.pthread_sigmask(signal.SIG_BLOCK, [number])
    for _ in range(1 << 21):
        checked(libc.sigqueue(os.getpid(), ctypes.c_int(number), ctypes.c_void_p(1)))


def stack_layers():
    """As many layers as the kernel takes, and then this process can still do what it could."""
    checked(libc.prctl(38, 1, 0, 0, 0))  # PR_SET_NO_NEW_PRIVS
    handled = struct.pack("=Q", 1)  # to execute
    said = []
    for add in (lambda: _landlock(handled), _filter):
        try:
            for _ in range(64):
                add()
            said.append("no end")
        except OSError as error:
            said.append("none" if error.errno in (errno.ENOSYS, errno.EOPNOTSUPP) else errno.errorcode[error.errno])
    os.listdir("/usr")
    return ", ".join(said)


def _landlock(handled):
    ruleset = call("landlock_create_ruleset", handled, len(handled), 0)
    try:
        call("landlock_restrict_self", ruleset, 0)
    finally:
        os.close(ruleset)


def _filter():
    """A filter of the greatest length that allows everything."""
    length = 4096
    code = ctypes.create_string_buffer(
        struct.pack("=HBBI", 0, 0, 0, 0) * (length - 1) + struct.pack("=HBBI", 6, 0, 0, 0x7FFF0000)
    )
    program = struct.pack("=HxxxxxxQ", length, ctypes.addressof(code))
    call("seccomp", 1, 0, program)


def core_pattern():
    return may_open("/proc/sys/kernel/core_pattern", os.O_WRONLY)


def magic_keys():
    return may_open("/proc/sysrq-trigger", os.O_WRONLY)  # opened, never written


def own_cgroup():
    outcomes = set()
    for path in FACTS["cgroups"]:
        try:
            outcomes.add(may_open(f"{path}/cgroup.procs", os.O_WRONLY))
        except OSError as error:
            outcomes.add(errno.errorcode[error.errno])
    return ",".join(sorted(outcomes))


def mount_cgroup():
    checked(libc.mount(b"cgroup2", b"/tmp", b"cgroup2", ctypes.c_ulong(0), None))
    return "mounted"


def make_disk():
    os.mknod(f"{FACTS['own']}/disk", 0o660 | 0o060000, os.makedev(254, 0))
    return "made"


def make_character_device():
    os.mknod("/tmp/mem", 0o660 | 0o020000, os.makedev(1, 1))
    return "made"


def physical_memory():
    return may_open("/dev/mem", os.O_RDONLY)


def virtual_machine():
    return may_open("/dev/kvm", os.O_RDWR)


def rings():
    call("io_uring_setup", 4, bytes(256))
    return "made"


def user_faults():
    call("userfaultfd", 1)  # UFFD_USER_MODE_ONLY, which needs no privilege
    return "made"


def secret_memory():
    call("memfd_secret", 0)
    return "made"


def add_key():
    return "added" if call("add_key", b"user\0", b"lnmt-escape\0", b"x", 1, -2) > 0 else "nothing"


def user_keyring():
    call("keyctl", 0, -4, 0)  # KEYCTL_GET_KEYRING_ID of the user's own
    return "found"


def strange_sockets():
    outcomes = set()
    for family, kind in (
        (40, socket.SOCK_STREAM),
        (38, socket.SOCK_SEQPACKET),
        (17, socket.SOCK_RAW),
        (16, 3),
        (31, 3),
    ):
        try:
            socket.socket(family, kind, 4 if family == 16 else 0).close()
            outcomes.add(f"family {family}")
        except OSError as error:
            outcomes.add(errno.errorcode[error.errno])
    return ",".join(sorted(outcomes))


def raw_socket():
    socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP).close()
    return "made"


def calls_of_32_bits():
    if platform.machine() != "x86_64":
        raise NotHereError
    code = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
    code.write(b"\xb8\x14\x00\x00\x00\xcd\x80\xc3")  # mov eax, 20 (getpid); int 0x80; ret
    function = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(code)))
    return "pid" if function() == os.getpid() else "nothing"


def calls_of_x32():
    if platform.machine() != "x86_64":
        raise NotHereError
    return str(checked(libc.syscall(ctypes.c_long(0x40000000 + 39))))


def no_randomness():
    call("personality", 0x0040000)
    return "set"


def reach_the_host():
    with socket.create_connection(tuple(FACTS["tcp"]), 2):
        return "connected"


def send_a_datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.sendto(b"x", tuple(FACTS["tcp"]))
    return "sent"


def attempt(name):
    """The outcome of one attempt, in a fork of its own."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        signal.alarm(10)
        try:
            said = str(globals()[name]() or "done")
        except OSError as error:
            said = errno.errorcode.get(error.errno or 0, repr(error))
        except NotHereError:
            said = "not here"
        except BaseException as error:
            said = repr(error)
        os.write(write_end, said.encode()[:4000])
        os._exit(0)
    os.close(write_end)
    said = b""
    while piece := os.read(read_end, 4096):
        said += piece
    os.close(read_end)
    status = os.waitpid(pid, 0)[1]
    return signal.Signals(os.WTERMSIG(status)).name if os.WIFSIGNALED(status) else said.decode(errors="replace")


def main():
    FACTS.update(json.loads(sys.argv[2]))
    if sys.argv[3:] == ["whole"]:
        globals()[sys.argv[1]]()
    else:
        print(json.dumps({name: attempt(name) for name in sys.argv[1].split(",")}))


if __name__ == "__main__":
    main()
