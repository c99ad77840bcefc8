"""The plan of a box's inside, and what each step of it leaves behind."""

import os

import pytest
import standin

from lnmt_scheduler.ipc import messages
from lnmt_scheduler.sandbox import enter, namespaces, policy


def layers(wanted: policy.Policy, mode: str) -> list[str]:
    return [step.layer for step in enter.plan(wanted, mode)]


#: Init's share comes first.
FIRST, ALWAYS = ["core_dumps"], ["descriptors", "signals", "rlimits"]


def closed() -> policy.Policy:
    """All that enter() can do, as another user."""
    wanted = dict.fromkeys((*policy.BASE, "user", "no_new_privs", "seccomp", "landlock"), policy.REQUIRE)
    return policy.Policy(layers=wanted, uid=os.geteuid() + 1, gid=1, seccomp="strict")


def test_the_plan_says_what_each_mode_needs_in_order():
    assert layers(policy.Policy(), namespaces.ROOT) == [*FIRST, *ALWAYS]
    assert layers(policy.Policy(), namespaces.USER_NAMESPACE) == [*FIRST, *ALWAYS, "no_new_privs"]
    assert layers(policy.Policy(), namespaces.NONE) == [*FIRST, *ALWAYS, "tree_kill"]


def test_the_user_comes_before_death_with_init_which_a_change_of_user_clears():
    wanted = policy.Policy(uid=os.geteuid() + 1, gid=1)
    assert layers(wanted, namespaces.NONE) == [*FIRST, *ALWAYS, "user", "tree_kill"]


def test_a_closed_box_gives_up_what_needs_rights_before_the_user_and_forbids_system_calls_last():
    wanted = closed()
    got = [(step.layer, step.describe) for step in enter.plan(wanted, namespaces.ROOT, program=b"filter")]
    names = [layer for layer, _ in got]
    assert [words for _, words in got[:4]] == [
        "no core dumps",
        "a session keyring of its own",
        "no capability can be gained by exec",
        "uid 0 means nothing",
    ]
    user = names.index("user")
    assert names[4:user] == ALWAYS
    assert [words for _, words in got[user + 1 : user + 3]] == ["no capabilities", "no new privileges"]
    assert names[user + 3 :] == ["landlock", "seccomp"]


def test_root_that_stays_root_takes_on_its_groups_all_the_same():
    wanted = policy.Policy(uid=os.geteuid(), gid=1)
    assert ("user" in layers(wanted, namespaces.ROOT)) == (os.geteuid() == 0)
    assert "user" not in layers(wanted, namespaces.USER_NAMESPACE)


def test_every_step_describes_itself():
    words = [step.describe for step in enter.plan(closed(), namespaces.NONE, program=b"filter")]
    assert len(set(words)) == len(words)
    assert f"user {os.geteuid() + 1}, group 1" in words
    assert "system calls: strict" in words


@pytest.mark.parametrize(
    ("wanted", "words"),
    [
        (policy.Policy(state_directory="/proc/no/such"), "state directory: "),
        (policy.Policy(open_files=-7), "rlimits: resource limits: "),
    ],
)
def test_the_step_that_failed_names_itself(launched, wanted, words):
    exited = launched.run("/bin/true", wanted=wanted.to_map()).exited
    assert exited.sandbox_error.startswith(words)
    assert wanted.state_directory is None or wanted.state_directory in exited.sandbox_error
    assert exited.signal is None
    assert exited.exit_code == (1 if wanted.state_directory is None else None)  # init fails before there is a job


def test_a_user_without_a_group_is_refused(launched):
    if os.geteuid() != 0:
        pytest.skip("another user: needs root")
    exited = launched.run("/bin/true", wanted=policy.Policy(uid=65534).to_map()).exited
    assert "a user needs its group" in exited.sandbox_error


def test_a_user_that_only_root_could_become_is_refused_elsewhere(launched):
    if os.geteuid() == 0:
        pytest.skip("a launcher that is not root")
    run_id = launched.launch(argv=["/bin/true"], wanted=policy.Policy(uid=0, gid=0).to_map())
    exited, _ = launched.expect_of(messages.Exited, run_id)
    assert "only root" in exited.sandbox_error or "not permitted" in exited.sandbox_error


def test_the_state_directory_is_made_and_is_the_jobs_own(launched, folder):
    where = folder / "state-of-a-job"
    for _ in range(2):
        done = launched.run(
            "/bin/sh", "-c", f"touch {where}/file", wanted=policy.Policy(state_directory=str(where)).to_map()
        )
        assert done.exited.exit_code == 0
    assert where.stat().st_mode & 0o777 == 0o700
    assert where.stat().st_uid == os.geteuid()


def test_a_link_in_the_place_of_the_state_directory_is_refused(launched, folder):
    (folder / "elsewhere").mkdir()
    (folder / "link").symlink_to(folder / "elsewhere")
    wanted = policy.Policy(state_directory=str(folder / "link"))
    assert "state directory" in launched.run("/bin/true", wanted=wanted.to_map()).exited.sandbox_error


def test_signals_are_reset_whatever_they_were():
    source = """
import signal
from lnmt_scheduler.sandbox import enter
for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP}:
    signal.signal(number, signal.SIG_IGN)
signal.pthread_sigmask(signal.SIG_BLOCK, signal.valid_signals())
enter.reset_signals()
print([line.split()[1] for line in open("/proc/self/status") if line.startswith(("SigBlk", "SigIgn", "SigCgt"))])
"""
    assert standin.python(source).stdout == f"{['0' * 16] * 3}\n"
