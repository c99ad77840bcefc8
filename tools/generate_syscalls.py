"""Writes sandbox/syscall_table.py: the number of every system call on the processors that have a seccomp filter.

A developer runs it by hand when Linux has grown new calls, and checks the result in; nothing else ever runs it:

    apt-get install libseccomp2
    .venv/bin/python tools/generate_syscalls.py

libseccomp answers number by number. Calls that are younger than the installed libseccomp are added from NEWER, by the
kernel's own list (include/uapi/asm-generic/unistd.h); where both know a number and disagree, nothing is written.
"""

import sys
import textwrap
from pathlib import Path

import pyseccomp

TARGET = Path(__file__).parent.parent / "sandbox" / "syscall_table.py"
PROCESSORS = {"x86_64": pyseccomp.Arch.X86_64, "aarch64": pyseccomp.Arch.AARCH64}
HIGHEST = 1023  # far above the newest call of any processor
#: Up to Linux 6.18. Numbers from 424 on are the same on every processor.
NEWER = {
    451: "cachestat", 452: "fchmodat2", 453: "map_shadow_stack", 454: "futex_wake", 455: "futex_wait",
    456: "futex_requeue", 457: "statmount", 458: "listmount", 459: "lsm_get_self_attr", 460: "lsm_set_self_attr",
    461: "lsm_list_modules", 462: "mseal", 463: "setxattrat", 464: "getxattrat", 465: "listxattrat", 466: "removexattrat",
    467: "open_tree_attr", 468: "file_getattr", 469: "file_setattr",
}  # fmt: skip
NEWER_HERE = {"x86_64": {335: "uretprobe", 336: "uprobe"}, "aarch64": {}}

HEAD = '''\
"""Numbers of system calls by processor, as text: each line holds the number of its first name, the others follow on.

Written by tools/generate_syscalls.py from libseccomp and the kernel's list up to Linux 6.18; do not edit by hand.
"""

TABLES = {
'''


def known(processor: str) -> dict[int, str]:
    """Number to name, as libseccomp and NEWER say; SystemExit where they contradict each other."""
    newer = NEWER | NEWER_HERE[processor]
    names = {}
    for number in range(HIGHEST + 1):
        try:
            names[number] = pyseccomp.resolve_syscall(PROCESSORS[processor], number).decode()
        except ValueError:
            if number in newer:
                names[number] = newer[number]
        else:
            if newer.get(number, names[number]) != names[number]:
                sys.exit(f"{processor} {number}: libseccomp says {names[number]}, NEWER says {newer[number]}")
    return names


def lines(names: dict[int, str]) -> list[str]:
    """Runs of consecutive numbers, each line opening with the number of its first name."""
    runs: list[list[int]] = []
    for number in sorted(names):
        if runs and runs[-1][-1] == number - 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    found = []
    for run in runs:
        first = run[0]
        for text in textwrap.wrap(" ".join(names[number] for number in run), 112, break_on_hyphens=False):
            found.append(f"{first} {text}")
            first += len(text.split())
    return found


def main() -> None:
    blocks = [
        f'    "{processor}": """\\\n' + "\n".join(lines(known(processor))) + '\n""",\n' for processor in PROCESSORS
    ]
    TARGET.write_text(HEAD + "".join(blocks) + "}\n")


if __name__ == "__main__":
    main()
