"""A machine for seccomp's BPF: checks a program as the kernel would, and runs it for one system call."""

import struct

ALLOW, KILL = 0x7FFF0000, 0x80000000


def errno_of(verdict: int) -> int:
    assert verdict & 0xFFFF0000 == 0x00050000, hex(verdict)
    return verdict & 0xFFFF


def decode(program: bytes) -> list[tuple[int, int, int, int]]:
    return list(struct.iter_unpack("=HBBI", program))


def check(program: bytes) -> None:
    """What the kernel demands: known instructions, loads inside the data, jumps inside the program, a verdict at the end."""
    code = decode(program)
    assert 0 < len(code) <= 4096
    reached = {0}
    for at, (instruction, if_true, if_false, value) in enumerate(code):
        assert at in reached, f"instruction {at} is never reached"
        match instruction:
            case 0x20:
                assert value % 4 == 0
                assert value < 64
                reached.add(at + 1)
            case 0x54:
                reached.add(at + 1)
            case 0x05:
                reached.add(at + 1 + value)
            case 0x15 | 0x35:
                reached |= {at + 1 + if_true, at + 1 + if_false}
            case 0x06:
                pass
            case _:
                raise AssertionError(f"instruction {instruction:#x}")
    assert max(reached) < len(code)


def run(program: bytes, arch: int, number: int, *arguments: int) -> int:
    """The verdict for one call; arguments are 64 bits wide, missing ones 0."""
    full = [argument & 0xFFFFFFFFFFFFFFFF for argument in arguments] + [0] * (6 - len(arguments))
    data = struct.pack("<IIQ6Q", number & 0xFFFFFFFF, arch, 0, *full)
    code = decode(program)
    accumulator = at = 0
    while True:
        instruction, if_true, if_false, value = code[at]
        at += 1
        match instruction:
            case 0x20:
                (accumulator,) = struct.unpack_from("<I", data, value)
            case 0x54:
                accumulator &= value
            case 0x05:
                at += value
            case 0x15:
                at += if_true if accumulator == value else if_false
            case 0x35:
                at += if_true if accumulator >= value else if_false
            case _:
                return value
