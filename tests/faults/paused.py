"""schedd, with processes that wait for a word of the test before their first step: so that a tracer can be there from then on.

Run as `python -I paused.py SOCKET ROLES [schedd's arguments]`. A process of one of the roles (comma-separated: launcher,
supervisor, init) connects to the socket, says its role, and goes on once it is answered. Between two supervisors no time is
left, however many have died: a sweep kills hundreds. All else is the daemon as it is.
"""

import os
import socket
import sys

from lnmt_scheduler.sandbox import init
from lnmt_scheduler.supervisor import launcher, schedd, successor

PATH, ROLES = sys.argv[1], sys.argv[2].split(",")


def pause(role):
    if role in ROLES:
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as sock:
                sock.connect(PATH)
                sock.send(role.encode())
                sock.recv(1)
        except OSError:
            os._exit(1)  # the test is gone; and a fork that went on from here would be a second launcher


def paused(role, function):
    def wait_and_call(*arguments):
        pause(role)
        function(*arguments)

    return wait_and_call


launcher._BACKOFF = (0.0,) * len(launcher._BACKOFF)
init.main = paused("init", init.main)
successor._become_supervisor = paused("supervisor", successor._become_supervisor)
pause("launcher")
schedd.main(sys.argv[3:])
