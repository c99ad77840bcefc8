"""The assembler, each program run by a machine that knows nothing of it."""

import bpf_machine
import pytest

from lnmt_scheduler.sandbox import bpf

ARCH = 0xC000003E
YES, NO = bpf.verdict(1), bpf.verdict(2)


def run(cases, number, *arguments, arch=ARCH):
    program = bpf.program(ARCH, cases)
    bpf_machine.check(program)
    return bpf_machine.run(program, arch, number, *arguments)


@pytest.mark.parametrize("count", [1, 2, 3, 7, 100, 1000])
def test_the_search_finds_every_case_at_both_ends(count):
    cases = [(10 * i, bpf.verdict(i)) for i in range(count)]
    program = bpf.program(ARCH, cases)
    bpf_machine.check(program)
    for i in range(count):
        assert bpf_machine.run(program, ARCH, 10 * i) == i
        assert bpf_machine.run(program, ARCH, 10 * i + 9) == i
    assert bpf_machine.run(program, ARCH, 0xFFFFFFFF) == count - 1


@pytest.mark.parametrize("length", [254, 255, 256, 257, 600])
def test_a_jump_over_more_than_a_byte_can_say_still_lands(length):
    long = bpf.when(0, tuple(range(1, 100)), bpf.WORD, inside=True, then=YES) * (length // 101 + 1) + NO
    cases = [(0, long[-length:]), (5, bpf.verdict(5)), (6, bpf.verdict(6)), (7, bpf.verdict(7))]
    program = bpf.program(ARCH, cases)
    assert [bpf_machine.run(program, ARCH, number) for number in (5, 6, 7)] == [5, 6, 7]


def test_another_architecture_is_killed_whatever_it_calls():
    assert run([(0, YES)], 0, arch=0x40000003) == bpf.KILL_PROCESS
    assert run([(0, YES)], 0) == 1


@pytest.mark.parametrize("argument", range(6))
@pytest.mark.parametrize(("inside", "verdicts"), [(True, [2, 1, 1, 1, 2]), (False, [1, 2, 2, 2, 1])])
def test_each_value_of_a_list_counts(argument, inside, verdicts):
    code = bpf.when(argument, (3, 4, 5), bpf.WORD, inside=inside, then=YES) + NO
    assert [run([(0, code)], 0, *([0] * argument), value) for value in (2, 3, 4, 5, 6)] == verdicts


def test_a_mask_hides_the_other_bits():
    code = bpf.when(0, (0,), 0o6000, inside=True, then=YES) + NO
    assert [run([(0, code)], 0, mode) for mode in (0o777, 0o1777, 0o2755, 0o4755, 0o6755)] == [1, 1, 2, 2, 2]


def test_the_high_word_is_not_looked_at():
    code = bpf.when(0, (7,), bpf.WORD, inside=True, then=YES) + NO
    assert run([(0, code)], 0, 0xDEADBEEF_00000007) == 1
    assert run([(0, code)], 0, 0x00000007_00000000) == 2


def test_of_a_pointer_both_words_can_be_looked_at():
    code = bpf.when(1, (7,), bpf.WORD, inside=True, then=YES, high=True) + NO
    assert run([(0, code)], 0, 0, 0x00000007_DEADBEEF) == 1
    assert run([(0, code)], 0, 0, 0xDEADBEEF_00000007) == 2


def test_checks_nest_and_alternatives_follow_on():
    both = bpf.when(0, (1,), bpf.WORD, inside=True, then=bpf.when(1, (1,), bpf.WORD, inside=True, then=YES))
    third = bpf.when(2, (1,), bpf.WORD, inside=True, then=YES)
    cases = [(0, both + third + NO)]
    found = {(a, b, c): run(cases, 0, a, b, c) for a in (0, 1) for b in (0, 1) for c in (0, 1)}
    assert found == {key: 1 if (key[0] and key[1]) or key[2] else 2 for key in found}
