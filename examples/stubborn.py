#!/usr/bin/env python3
"""A script that does not want to end: it double-forks, makes a session of its own, and ignores every signal it can.

Its grandchildren have no living parent, no terminal and no process group in common with it. Only who holds all of them can
end them.
"""

import os
import signal
import time


def ignore_everything() -> None:
    # But SIGCHLD: ignoring it would change what wait() does.
    for number in signal.valid_signals() - {signal.SIGKILL, signal.SIGSTOP, signal.SIGCHLD}:
        signal.signal(number, signal.SIG_IGN)


def detach() -> None:
    """A grandchild in a session of its own, as daemons do it."""
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            linger()
        os._exit(0)
    os.wait()


def linger() -> None:
    while True:
        time.sleep(3600)


ignore_everything()
detach()
detach()
print("two grandchildren are detached; TERM, INT and HUP are ignored", flush=True)
linger()
