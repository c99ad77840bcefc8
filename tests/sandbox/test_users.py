"""Numbers of users for boxes: no two at a time, and none that an account has."""

import errno
import pwd

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lnmt_scheduler.sandbox import users


def test_numbers_come_from_the_range_and_the_lowest_free_one_first():
    pool = users.Pool()
    assert [pool.take() for _ in range(3)] == [users.FIRST, users.FIRST + 1, users.FIRST + 2]
    pool.give_back(users.FIRST + 1)
    pool.give_back(users.FIRST)
    assert [pool.take() for _ in range(3)] == [users.FIRST, users.FIRST + 1, users.FIRST + 3]


def test_when_all_are_taken_one_is_told_and_one_that_comes_back_is_given_again():
    pool = users.Pool(10, 12)
    assert [pool.take() for _ in range(3)] == [10, 11, 12]
    for _ in range(2):
        with pytest.raises(BlockingIOError, match="uids for boxes are in use") as caught:
            pool.take()
        assert caught.value.errno == errno.EAGAIN
    pool.give_back(11)
    assert pool.take() == 11


@given(st.lists(st.integers(min_value=-1, max_value=7)))
def test_no_number_is_ever_held_twice(history):
    pool, held = users.Pool(100, 107), []
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
    assert not [account.pw_name for account in pwd.getpwall() if users.FIRST <= account.pw_uid <= users.LAST]
    for first, last in ((0, 65535), (61184, 65519), (524288, 1879048191), (2147483648, 4294967294)):
        assert first > users.LAST or last < users.FIRST
