"""Runs a program, or raw system calls, under a seccomp filter: a process of its own, with one thread.

    filtered.py FILTER OPTIONS COMMAND...

FILTER is denylist, strict or none, OPTIONS a JSON map for compile(), or with `uid` to become that user. The COMMAND `calls`
reads a JSON list of [number, argument...] and prints the list of errnos (0: done); any other is executed.
"""

import ctypes
import json
import os
import sys

from lnmt_scheduler.sandbox import seccomp, syscalls


def main() -> None:
    name, text, *command = sys.argv[1:]
    options = json.loads(text)
    todo = json.load(sys.stdin) if command == ["calls"] else []
    if "uid" in options:
        uid = options.pop("uid")
        os.setgroups([])
        os.setresgid(uid, uid, uid)
        os.setresuid(uid, uid, uid)
    libc = ctypes.CDLL(None, use_errno=True)
    if name != "none":
        syscalls.prctl(syscalls.PR_SET_NO_NEW_PRIVS, 1)
        seccomp.load(seccomp.compile(name, **options))
    if command != ["calls"]:
        os.execvp(command[0], command)
    errors = []
    for call in todo:
        ctypes.set_errno(0)
        # -1 is an answer too (personality's, for one), so errno decides; nothing else here sets it.
        libc.syscall(*(ctypes.c_long(value) for value in call))
        errors.append(ctypes.get_errno())
    print(json.dumps(errors))


if __name__ == "__main__":
    main()
