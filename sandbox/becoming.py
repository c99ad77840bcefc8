"""Process 2 of a box, from init's fork until it is the job.

It joins the control group and waits for its order; until that comes it holds an error pipe and a socket to init and nothing
else. Then it prepares all that the new mounts do not matter to while init lays them, follows init into the mount namespace,
takes the last steps (enter.py), and runs the body that it was forked with. Whatever goes wrong on the way travels by the error
pipe; if init dies, it reads end-of-file and goes.
"""

import os
import socket
from typing import NoReturn

from lnmt_scheduler.sandbox import cgroup, descriptors, enter, orders, policy, scratch, syscalls

#: For the steps that most orders make it take.
_REHEARSED = policy.Policy(layers=dict.fromkeys((*policy.BASE, "no_new_privs", "landlock"), policy.REQUIRE))


def become(inside: orders.Inside, from_init: socket.socket) -> NoReturn:
    """The life of the process; called in the child of init's fork, never returns."""
    code = 1
    errors = inside.errors
    try:
        syscalls.prctl(syscalls.PR_SET_NAME, b"lnmt-job")  # what ps calls a function; a program brings its own name
        cgroup.join(inside.cgroups)
        descriptors.place({orders.ERROR_FD: errors, orders.ORDERS_FD: from_init.detach()}, inherited=0)
        errors = orders.ERROR_FD
        # A rehearsal: what it touches of the launcher's memory is copied now, and not when there is an order to be quick with.
        enter.last_steps(_REHEARSED, inside.kind.mode, None, None)
        _follow(inside, socket.socket(fileno=orders.ORDERS_FD))
    except enter.SandboxError as error:
        orders.report_error(errors, b"S", str(error))
    except orders.NotStartedError as error:
        orders.report_error(errors, b"P", str(error))
    except BaseException as error:
        orders.report_error(errors, b"P", f"{type(error).__name__}: {error}")
    finally:
        os._exit(code)


def _follow(inside: orders.Inside, from_init: socket.socket) -> None:
    """Returns if init is dead: then there is no job to become."""
    received = orders.receive(from_init)
    if received is None:
        return
    order, temporary = received
    stdin = os.open("/dev/null", os.O_RDONLY) if order.stdin is None else order.stdin
    given = dict(enumerate((stdin, order.stdout, order.stderr, order.report, order.payload)))
    kept = {fd: fd for fd in (orders.ERROR_FD, orders.ORDERS_FD)}
    descriptors.place({**given, **kept}, inherited=orders.PAYLOAD_FD)
    if temporary is not None:
        scratch.take(temporary)
    steps = enter.last_steps(order.policy, inside.kind.mode, order.program, temporary)
    said, mounts, _, _ = socket.recv_fds(from_init, 1, 1)
    if said != orders.READY:
        return
    for fd in mounts:
        syscalls.setns(fd, syscalls.CLONE_NEWNS)
        os.close(fd)
    from_init.close()
    enter.carry_out(steps)
    inside.body()
