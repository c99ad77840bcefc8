"""Giving up power by trying to use it afterwards: as root, as an ordinary account, and as the master of a user namespace."""

import ctypes
import errno
import os
import platform
import shutil
import signal
import socket
import struct
from pathlib import Path

import attempts
import pytest

from lnmt_scheduler.sandbox import capabilities, namespaces, syscalls

NOTHING = dict.fromkeys(capabilities.SETS, 0)
CAP_CHOWN, CAP_NET_ADMIN, CAP_SYS_ADMIN = 0, 12, 21
KILL_ONLY = 1 << capabilities.CAP_KILL

needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="privileges to give up: needs root")
ordinary = attempts.NOBODY if os.geteuid() == 0 else None


def drop_all(*, become: str | None = None, kept: tuple[int, ...] = ()) -> None:
    """All steps in their order."""
    capabilities.join_session_keyring()
    capabilities.drop_bounding()
    capabilities.lock_securebits()
    if become:
        attempts.become(become)
    capabilities.keep_only(kept)
    capabilities.no_new_privs()


def in_user_namespace(body):
    """What `body` returns as an ordinary account that is master of a user namespace; skips where there are none."""

    def outer():
        go_read, go_write = os.pipe()
        answer_read, answer_write = os.pipe()
        syscalls.prctl(4, 1)  # PR_SET_DUMPABLE: a change of user took it, and with it the right to write the maps
        try:
            pid, _ = namespaces.fork(syscalls.CLONE_NEWUSER | syscalls.CLONE_NEWPID)
        except OSError as error:
            return f"no user namespaces: {error}"
        if pid == 0:
            text = ""
            try:
                os.read(go_read, 1)
                text = repr(body())
            except BaseException as error:
                text = f"{type(error).__name__}: {error}"
            finally:
                os.write(answer_write, text.encode())
                os._exit(0)
        try:
            namespaces.map_own_ids(pid)
        except OSError as error:
            return f"no user namespaces: {error}"
        os.write(go_write, b"G")
        os.close(answer_write)
        with open(answer_read) as file:
            text = file.read()
        os.waitpid(pid, 0)
        return text

    text = attempts.run(outer, account=ordinary)
    if text.startswith("no user namespaces"):
        pytest.skip(text)
    return text


def forbidden() -> dict[str, str]:
    """What comes of trying what takes privileges."""
    return {
        "setuid": attempts.outcome(os.setuid, 0 if os.getuid() else 1),
        "setgid": attempts.outcome(os.setgid, 0 if os.getgid() else 1),
        "setgroups": attempts.outcome(os.setgroups, [1]),
        "capset": attempts.outcome(syscalls.capset, KILL_ONLY, KILL_ONLY, 0),
        "inheritable": attempts.outcome(syscalls.capset, 0, 0, KILL_ONLY),
        "ambient": attempts.outcome(syscalls.prctl, syscalls.PR_CAP_AMBIENT, 2, capabilities.CAP_KILL),
        "securebits": attempts.outcome(syscalls.prctl, syscalls.PR_SET_SECUREBITS, 0),
        "bounding": attempts.outcome(syscalls.prctl, syscalls.PR_CAPBSET_DROP, 0),
        "mount": attempts.outcome(syscalls.mount, "none", "/mnt", "tmpfs", 0),
        "chroot": attempts.outcome(os.chroot, "/"),
        "nice": attempts.outcome(os.setpriority, os.PRIO_PROCESS, 0, -5),
        "raw socket": attempts.outcome(lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, 1).close()),
        "hostname": attempts.outcome(socket.sethostname, socket.gethostname()),
    }


def refused(results: dict[str, str]) -> bool:
    return all(result in {"EPERM", "EACCES"} for result in results.values())


@needs_root
def test_root_without_capabilities_may_do_nothing_of_what_takes_them():
    def body():
        drop_all()
        return os.geteuid(), capabilities.read(), forbidden()

    uid, sets, results = attempts.run(body)
    assert (uid, sets) == (0, NOTHING)
    assert refused(results), results


@needs_root
def test_an_account_that_root_became_may_do_nothing_of_what_takes_capabilities():
    def body():
        drop_all(become=attempts.NOBODY)
        return os.getresuid(), os.getgroups(), capabilities.read(), forbidden()

    uids, groups, sets, results = attempts.run(body)
    assert (len(set(uids)), groups, sets) == (1, [], NOTHING)
    assert 0 not in uids
    assert refused(results), results


def test_an_ordinary_account_needs_only_the_steps_that_take_no_privilege():
    def body():
        capabilities.join_session_keyring()
        capabilities.keep_only()
        capabilities.no_new_privs()
        return capabilities.read(), forbidden()

    sets, results = attempts.run(body, account=ordinary)
    assert {name: mask for name, mask in sets.items() if name != "CapBnd"} == {
        name: 0 for name in capabilities.SETS if name != "CapBnd"
    }
    assert refused(results), results


@pytest.mark.parametrize("step", [capabilities.drop_bounding, capabilities.lock_securebits])
def test_a_step_that_needs_privilege_says_so(step):
    def body():
        capabilities.keep_only()
        return attempts.outcome(step)

    assert attempts.run(body, account=ordinary) == "EPERM"


def test_the_master_of_a_user_namespace_can_give_all_up_too():
    def body():
        before = capabilities.read()["CapEff"] != 0
        drop_all()
        sets = capabilities.read()
        results = forbidden()
        # Only one user and one group exist in there, so others are no right but a wrong value.
        elsewhere = [results.pop("setuid"), results.pop("setgid")]
        return before, sets == NOTHING, elsewhere, refused(results) or results

    assert in_user_namespace(body) == repr((True, True, ["EINVAL", "EINVAL"], True))


@needs_root
def test_exec_as_root_gives_nothing_back():
    """Uid 0 without no_new_privs: the locked bits alone must hold."""

    def body():
        capabilities.lock_securebits()
        capabilities.keep_only()
        return _status_after_exec("/bin/cat")

    status = attempts.run(body)
    assert status["Uid"].split() == ["0"] * 4
    assert (int(status["CapPrm"], 16), int(status["CapEff"], 16), status["NoNewPrivs"]) == (0, 0, "0")
    assert int(status["CapBnd"], 16) != 0


@needs_root
def test_without_the_bits_exec_as_root_gives_all_back():
    """What the bits are for; without this the test above would pass on a kernel where they do nothing."""

    def body():
        capabilities.keep_only()
        return _status_after_exec("/bin/cat")

    assert int(attempts.run(body)["CapEff"], 16) != 0


@needs_root
def test_init_keeps_the_right_to_signal_others_through_its_change_of_user():
    with attempts.bystander() as pid:  # of another user than the one who signals

        def body():
            drop_all(become=attempts.NOBODY, kept=(capabilities.CAP_KILL,))
            return (
                capabilities.read(),
                attempts.outcome(os.kill, pid, signal.SIGWINCH),
                forbidden() | {"capset": "EPERM"},
            )

        sets, signalled, results = attempts.run(body)
        assert sets == NOTHING | {"CapPrm": KILL_ONLY, "CapEff": KILL_ONLY}
        assert signalled == "ok"
        # With CAP_KILL held, asking for it again is nothing new; making it inheritable needs it in the bounding set.
        assert refused(results), results


@needs_root
def test_without_that_right_the_signal_is_refused():
    with attempts.bystander() as pid:

        def body():
            drop_all(become=attempts.NOBODY)
            return attempts.outcome(os.kill, pid, signal.SIGWINCH)

        assert attempts.run(body) == "EPERM"


@needs_root
def test_what_init_keeps_does_not_reach_what_it_executes():
    def body():
        drop_all(kept=(capabilities.CAP_KILL,))
        return _status_after_exec("/bin/cat")

    status = attempts.run(body)
    assert [int(status[name], 16) for name in capabilities.SETS] == [0] * 5


@needs_root
def test_a_capability_that_is_not_held_cannot_be_kept():
    def body():
        capabilities.keep_only([CAP_CHOWN])
        return attempts.outcome(capabilities.keep_only, [CAP_CHOWN, CAP_NET_ADMIN]), capabilities.read()["CapEff"]

    assert attempts.run(body) == ("EPERM", 1 << CAP_CHOWN)


@needs_root
def test_dropping_the_bounding_set_takes_nothing_that_is_held():
    def body():
        before = capabilities.read()
        capabilities.drop_bounding()
        capabilities.drop_bounding()  # again: there is nothing left to need a privilege for
        return before, capabilities.read()

    before, after = attempts.run(body)
    assert before["CapBnd"] != 0
    assert after == before | {"CapBnd": 0}


@needs_root
def test_a_capability_beyond_the_32nd_is_kept_as_well():
    checkpoint = 40  # CAP_CHECKPOINT_RESTORE, since Linux 5.9

    def body():
        capabilities.keep_only([checkpoint])
        return capabilities.read()["CapEff"]

    assert attempts.run(body) == 1 << checkpoint


@needs_root
def test_the_securebits_are_locked():
    def body():
        capabilities.lock_securebits()
        held = syscalls.prctl(syscalls.PR_GET_SECUREBITS)
        return held, [attempts.outcome(syscalls.prctl, syscalls.PR_SET_SECUREBITS, held & ~(1 << n)) for n in (0, 2, 6)]

    assert attempts.run(body) == (capabilities.SECUREBITS, ["EPERM"] * 3)


def _status_after_exec(program: str) -> dict[str, str]:
    """/proc/self/status as `program`, a copy of cat, sees its own."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.dup2(write, 1)
        try:
            os.execv(program, ["cat", "/proc/self/status"])
        except OSError as error:
            os.write(write, f"error:{errno.errorcode[error.errno]}".encode())
        finally:
            os._exit(1)
    os.close(write)
    with open(read) as file:
        text = file.read()
    os.waitpid(pid, 0)
    return {key: value.strip() for key, _, value in (line.partition(":") for line in text.splitlines())}


@pytest.fixture
def gainful(folder):
    """Copies of cat that give whoever runs them root, or a capability; skips where the file system does not."""
    attempts.skip_unless_root("a set-user-id program")
    cat = shutil.which("cat", path="/bin:/usr/bin")
    for name in ("setuid", "capable"):
        shutil.copy(cat, folder / name)
    (folder / "setuid").chmod(0o4755)
    (folder / "capable").chmod(0o755)
    kill = 1 << capabilities.CAP_KILL
    # Version 2 with the effective bit; permitted and inheritable, low and high halves (linux/capability.h).
    os.setxattr(folder / "capable", "security.capability", struct.pack("<5I", 0x02000001, kill, 0, 0, 0))
    gained = attempts.run(lambda: _status_after_exec(str(folder / "setuid")), account=attempts.NOBODY)
    if gained["Uid"].split()[1] != "0":
        pytest.skip(f"a set-user-id program: {folder} is mounted nosuid")
    gained = attempts.run(lambda: _status_after_exec(str(folder / "capable")), account=attempts.NOBODY)
    assert int(gained["CapEff"], 16) == kill
    return folder


@pytest.mark.parametrize("program", ["setuid", "capable"])
def test_a_program_that_gives_power_gives_none_after_no_new_privs(gainful, program):
    def body():
        capabilities.no_new_privs()
        return _status_after_exec(str(gainful / program))

    status = attempts.run(body, account=attempts.NOBODY)
    assert status["NoNewPrivs"] == "1"
    assert "0" not in status["Uid"].split()
    assert int(status["CapPrm"], 16) == int(status["CapEff"], 16) == 0


@pytest.mark.parametrize("program", ["setuid", "capable"])
def test_a_program_that_gives_power_gives_no_capability_with_an_empty_bounding_set(gainful, program):
    def body():
        capabilities.drop_bounding()
        attempts.become(attempts.NOBODY)
        return _status_after_exec(str(gainful / program))

    status = attempts.run(body)
    # A program that insists on its capability is not even started.
    assert status == {"error": "EPERM"} if program == "capable" else int(status["CapPrm"], 16) == 0


def test_no_new_privs_cannot_be_taken_back():
    def body():
        before = syscalls.prctl(syscalls.PR_GET_NO_NEW_PRIVS)
        capabilities.no_new_privs()
        return (
            before,
            attempts.outcome(syscalls.prctl, syscalls.PR_SET_NO_NEW_PRIVS, 0),
            syscalls.prctl(syscalls.PR_GET_NO_NEW_PRIVS),
        )

    assert attempts.run(body, account=ordinary) == (0, "EINVAL", 1)


_ADD_KEY = {"x86_64": 248, "aarch64": 217, "ppc64le": 269, "s390x": 278, "riscv64": 217}
_KEYCTL = {"x86_64": 250, "aarch64": 219, "ppc64le": 271, "s390x": 280, "riscv64": 219}
_SESSION = -3
_SEARCH, _READ = 10, 11


def _libc_call(*arguments) -> int:
    result = ctypes.CDLL(None, use_errno=True).syscall(*arguments)
    if result < 0:
        raise OSError(ctypes.get_errno(), "keys")
    return result


def _add_key(text: bytes) -> int:
    return _libc_call(_ADD_KEY[platform.machine()], b"user", b"lnmt-test", text, ctypes.c_size_t(len(text)), _SESSION)


def _search_key() -> int:
    return _libc_call(_KEYCTL[platform.machine()], _SEARCH, _SESSION, b"user", b"lnmt-test", 0)


def _read_key(serial: int) -> bytes:
    buffer = ctypes.create_string_buffer(64)
    size = _libc_call(_KEYCTL[platform.machine()], _READ, serial, buffer, ctypes.c_size_t(64))
    return buffer.raw[:size]


@pytest.mark.parametrize("account", attempts.accounts(), ids=lambda account: account or "ourselves")
def test_the_keys_of_the_parents_session_are_out_of_reach(account):
    def body():
        if not capabilities.join_session_keyring():
            return "no keyrings"
        serial = _add_key(b"secret")
        inherited = attempts.run(lambda: (_search_key() == serial, _read_key(serial)))

        def after_leaving():
            capabilities.join_session_keyring()
            return attempts.outcome(_search_key), attempts.outcome(_read_key, serial)

        return inherited, attempts.run(after_leaving)

    results = attempts.run(body, account=account)
    if results == "no keyrings":
        pytest.skip("keyrings: this kernel has none")
    assert results == ((True, b"secret"), ("ENOKEY", "EACCES"))


def test_reading_speaks_of_the_process_that_is_asked_for():
    with attempts.bystander() as pid:
        assert capabilities.read(pid) == capabilities.read(os.getpid()) == capabilities.read()
    assert not Path(f"/proc/{pid}").exists()
    with pytest.raises(FileNotFoundError):
        capabilities.read(pid)
