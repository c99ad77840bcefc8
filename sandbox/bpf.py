"""Assembles seccomp filters: classic BPF over one `struct seccomp_data`. Pure; knows instructions, not policies.

A piece of code is a tuple of instructions, and pieces are joined by putting one inside another, so every jump's distance
is the length of what it skips: there are no labels to resolve, and none can be missed. Code either ends in a verdict on every
path or falls out at its end, as each function says.

Of a number only the low word is read. All numbers that our filters look at are an int, an unsigned int or a mode_t in the
kernel (and clone's flags, of which it takes the low word too), so the kernel drops the high word before it acts. A filter that
compared all 64 bits would be passed by garbage in the high word where it denies, and would refuse honest callers, whose
compilers may leave such garbage, where it allows. Of a pointer both words count. bpf(4), seccomp(2).
"""

import struct
from dataclasses import dataclass

ALLOW = 0x7FFF0000
KILL_PROCESS = 0x80000000
_ERRNO = 0x00050000

_LOAD = 0x20  # BPF_LD | BPF_W | BPF_ABS
_AND = 0x54  # BPF_ALU | BPF_AND | BPF_K
_JUMP = 0x05  # BPF_JMP | BPF_JA
_IF_EQUAL = 0x15  # BPF_JMP | BPF_JEQ | BPF_K
_IF_AT_LEAST = 0x35  # BPF_JMP | BPF_JGE | BPF_K
_RETURN = 0x06  # BPF_RET | BPF_K

# struct seccomp_data; both processors are little-endian, so an argument's low word comes first.
_NUMBER = 0
_ARCH = 4
_ARGUMENTS = 16

WORD = 0xFFFFFFFF
#: A conditional jump has one byte for its distance.
_FARTHEST = 255


@dataclass(frozen=True, slots=True)
class Instruction:
    code: int
    value: int
    if_true: int = 0
    if_false: int = 0


Code = tuple[Instruction, ...]


def errno_verdict(number: int) -> int:
    """The verdict by which a call fails with this errno; with 0 it succeeds, and nothing is done (seccomp(2))."""
    return _ERRNO | number


def verdict(value: int) -> Code:
    """Decide: ends the program."""
    return (Instruction(_RETURN, value),)


def when(argument: int, values: tuple[int, ...], mask: int, *, inside: bool, then: Code, high: bool = False) -> Code:
    """Run `then` if the argument's low (or high) word under the mask is one of the values (inside) or is none of them.

    Else fall out.
    """
    code = [Instruction(_LOAD, _ARGUMENTS + 8 * argument + (4 if high else 0))]
    if mask != WORD:
        code.append(Instruction(_AND, mask))
    for left, value in zip(range(len(values) - 1, -1, -1), values, strict=True):
        if inside:
            code.append(Instruction(_IF_EQUAL, value, left, 0 if left else len(then)))
        else:
            code.append(Instruction(_IF_EQUAL, value, left + len(then), 0))
    return (*code, *then)


def choose(cases: list[tuple[int, Code]]) -> Code:
    """Binary search over the call's number, which is already loaded.

    The cases are (first number, code that ends in a verdict), ascending; each holds up to the next, the first from 0 on.
    """
    if len(cases) == 1:
        return cases[0][1]
    middle = len(cases) // 2
    low, high = choose(cases[:middle]), choose(cases[middle:])
    first = cases[middle][0]
    if len(low) <= _FARTHEST:
        return (Instruction(_IF_AT_LEAST, first, len(low), 0), *low, *high)
    return (Instruction(_IF_AT_LEAST, first, 0, 1), Instruction(_JUMP, len(low)), *low, *high)


def program(arch: int, cases: list[tuple[int, Code]]) -> bytes:
    """The whole filter as the kernel takes it: any other architecture is killed before its call is even looked at."""
    code = (
        Instruction(_LOAD, _ARCH),
        Instruction(_IF_EQUAL, arch, 1, 0),
        *verdict(KILL_PROCESS),
        Instruction(_LOAD, _NUMBER),
        *choose(cases),
    )
    return b"".join(struct.pack("=HBBI", one.code, one.if_true, one.if_false, one.value) for one in code)
