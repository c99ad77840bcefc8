"""The word that outlives a supervisor: in a file of memory as small as the launcher makes it."""

import mmap
import os

import pytest

from lnmt_scheduler.supervisor import hand

#: Bytes, as launcher.py makes it.
PAGE = 4096


@pytest.fixture
def page():
    fd = os.memfd_create("page", os.MFD_CLOEXEC)
    os.ftruncate(fd, PAGE)
    yield fd
    os.close(fd)


@pytest.mark.parametrize("kernel", [PAGE, 16 * PAGE])
def test_the_next_one_reads_what_was_in_hand_whatever_the_kernel_has_for_pages(page, monkeypatch, kernel):
    monkeypatch.setattr(mmap, "PAGESIZE", kernel)
    first = hand.Hand(page)
    assert first.left == 0
    first.take(5)
    second = hand.Hand(page)
    assert (second.left, hand.Hand(page).left) == (5, 0)


def test_one_without_a_page_tells_nobody_anything():
    alone = hand.Hand(None)
    alone.take(5)
    assert hand.Hand(None).left == 0
