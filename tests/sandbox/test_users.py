"""Numbers of users for boxes: no two at a time, and none that an account has."""

import errno
import grp
import pwd
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lnmt_scheduler.sandbox import filesystem, policy, users


def test_a_number_comes_again_only_when_all_others_have_been_through():
    """What it owned, a state directory or a file in a shared place, must not be the next run's."""
    pool = users.Pool(users.Range(10, 13))
    first = pool.take()
    pool.give_back(first)
    later = []
    for _ in range(3):
        later.append(pool.take())
        pool.give_back(later[-1])
    assert sorted([first, *later]) == [10, 11, 12, 13]
    assert [pool.take() for _ in range(4)] == [first, *later]


def test_a_restart_does_not_begin_with_the_numbers_that_the_last_one_began_with():
    assert len({users.Pool().take() for _ in range(20)}) > 10


def test_when_all_are_taken_one_is_told_and_one_that_comes_back_is_given_again():
    pool = users.Pool(users.Range(10, 12))
    assert {pool.take() for _ in range(3)} == {10, 11, 12}
    for _ in range(2):
        with pytest.raises(BlockingIOError, match="all 3 uids for boxes, 10-12, are in use") as caught:
            pool.take()
        assert caught.value.errno == errno.EAGAIN
    pool.give_back(11)
    assert pool.take() == 11


@given(st.lists(st.integers(min_value=-1, max_value=7)))
def test_no_number_is_ever_held_twice(history):
    pool, held = users.Pool(users.Range(100, 107)), []
    for event in history:
        if event >= 0 and held:
            pool.give_back(held.pop(event % len(held)))
        elif len(held) < 8:
            uid = pool.take()
            assert uid not in held
            assert 100 <= uid <= 107
            held.append(uid)


def test_the_range_is_nobodys():
    """No account of this host, and neither the ids that containers nor those that systemd gives out (its UIDS-GIDS.md)."""
    assert users.owners(users.DEFAULT) == []
    for first, last in ((0, 65535), (61184, 65519), (524288, 1879048191), (2147483648, 4294967294)):
        assert first > users.DEFAULT.last or last < users.DEFAULT.first


def test_whoever_has_a_number_of_the_range_is_named(tmp_path):
    me = pwd.getpwnam("nobody")
    found = users.owners(users.Range(me.pw_uid - 1, me.pw_uid + 1), subordinate=())
    assert f"account nobody ({me.pw_uid})" in found
    assert f"group {grp.getgrgid(me.pw_gid).gr_name} ({me.pw_gid})" in found
    lent = tmp_path / "subuid"
    lent.write_text("# lent\nalice:100000:65536\nbob:165536:65536\nnobody:0:0\nnonsense\n")
    paths = (str(lent), str(tmp_path / "none"))
    assert users.owners(users.Range(165535, 165535), subordinate=paths) == [f"alice by {lent} (100000-165535)"]
    assert len(users.owners(users.Range(165535, 165536), subordinate=paths)) == 2
    assert users.owners(users.Range(231072, 231075), subordinate=paths) == []


def test_a_range_is_what_its_text_says():
    numbers = users.parse(" 2000 - 2003 ")
    assert (numbers, len(numbers), str(numbers)) == (users.Range(2000, 2003), 4, "2000-2003")
    assert 2003 in numbers
    assert 2004 not in numbers
    assert users.parse(str(users.DEFAULT)) == users.DEFAULT


def test_what_is_reserved_is_nobody_elses_until_it_is_let_go():
    numbers = users.Range(3_900_000_000, 3_900_000_001)
    first, holder = users.reserve(numbers)
    second, other = users.reserve(numbers)
    assert [first, second] == [numbers.last, numbers.first]
    with pytest.raises(BlockingIOError):
        users.reserve(numbers)
    holder.close()
    again, holder = users.reserve(numbers)
    assert again == first
    holder.close()
    other.close()


def test_the_number_of_an_account_is_never_reserved():
    uid = pwd.getpwnam("nobody").pw_uid
    reserved, holder = users.reserve(users.Range(uid - 1, uid))
    holder.close()
    assert reserved == uid - 1


def shown(*readable, hidden=()):
    return policy.Policy(root=filesystem.HOST, readable=readable, hidden=hidden, dynamic=True)


def test_the_way_to_what_is_shown_by_its_name_is_opened_and_to_what_a_link_leads_to_it_is_not(folder):
    home, lib = folder / "home", folder / "home" / "lib"
    lib.mkdir(parents=True)
    home.chmod(0o700)
    link = folder / "link"
    link.symlink_to(lib)
    assert users.closed_above(str(lib / "later")) == [str(home)]
    assert users.open_ways(shown(str(lib), hidden=("/srv",))).hidden == tuple(sorted([str(home), "/srv"]))
    assert users.open_ways(shown(str(link))).hidden == ()
    assert users.open_ways(shown(str(folder))) == shown(str(folder))
    empty = replace(shown(str(lib)), root=filesystem.SYSTEM)
    assert users.open_ways(empty) == empty
