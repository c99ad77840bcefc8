"""Process 1 of a box: it starts the job, reaps what is left to it, tells how the job ended, and takes the box with it.

It is forked by the launcher, straight into the namespaces, and never runs a line of the job's. It forks the job's process at
once, and both do what they can before they know whose box this will be: so a box can stand ready before it is wanted
(sandbox/warm.py). Then an Order comes with the policy and the job's descriptors; init hands it on, furnishes the box
(network, mounts), and the job's process follows it into the mount namespace, becomes the job's user and the job.

Init listens to the launcher alone: one socket, on which TERM means TERM and CONT to everything in the box, KILL (only where
there is no pid namespace) means kill until nothing is left, and end-of-file means that the launcher is dead. It answers with
one Report when the main process has ended.

How all of the box is reached depends on what holds it together (namespaces.hold()). In a pid namespace the kernel kills all
others when init ends, which is the proof that the box is empty (pid_namespaces(7)). Elsewhere init is a subreaper, so that
having no child is the proof; it kills by kill(-1) from its own landlock layer, which reaches what is in that layer or on top
of it and nobody else (landlock(7)), or by the box's cgroup, or, where there is neither, by looking for its descendants,
which is best effort.
"""

import os
import select
import signal
import socket
from typing import NoReturn

from lnmt_scheduler.sandbox import (
    becoming,
    capabilities,
    descriptors,
    enter,
    filesystem,
    landlock,
    namespaces,
    orders,
    ownership,
    policy,
    scratch,
    syscalls,
)


def main(inside: orders.Inside) -> NoReturn:
    """Init's life; called in the child of namespaces.fork(), never returns."""
    code = 1
    try:
        _run(inside)
        code = 0
    except enter.SandboxError as error:
        orders.report_error(inside.errors, b"S", str(error))
    except BaseException as error:
        orders.report_error(inside.errors, b"S", f"init: {error!r}")
    finally:
        os._exit(code)


def _run(inside: orders.Inside) -> None:
    kind = inside.kind
    enter.reset_signals()
    signal.set_wakeup_fd(-1)  # the launcher's
    os.setsid()
    if kind.hold == namespaces.PIDS:
        syscalls.prctl(syscalls.PR_SET_PDEATHSIG, signal.SIGKILL)
    else:
        syscalls.prctl(syscalls.PR_SET_CHILD_SUBREAPER, 1)
    control = socket.socket(fileno=inside.control)
    if control.recv(1) != orders.GO:  # the launcher died, or gave up
        return
    if kind.hold == namespaces.SCOPE:
        _lead()
    syscalls.prctl(syscalls.PR_SET_NAME, b"lnmt-init")
    # Before the fork: a SIGCHLD that comes at once must be seen. No pipe of our own: writing to it may need memory.
    signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGCHLD})
    deaths = syscalls.signalfd(signal.SIGCHLD)
    enter.carry_out(enter.first_steps(kind))
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    main_pid = os.fork()
    if main_pid == 0:
        for other in (control, ours):
            other.close()
        becoming.become(inside, theirs)
    theirs.close()
    descriptors.close_all_but({control.fileno(), deaths, ours.fileno(), inside.errors})
    if namespaces.has_mounts(kind.mode):
        filesystem.plan(filesystem.View(root=filesystem.SYSTEM))  # a rehearsal, as the job's
    received = orders.receive(control)
    if received is None:
        ours.close()  # the job's process reads end-of-file, and goes
        os.waitpid(main_pid, 0)
        return
    order, _ = received
    temporary = _make_temporary(order.policy, kind)
    with ours:
        _hand_on(order, ours, temporary)
        _tell_ready(ours, _furnish(order.policy, kind))
    kept = (control.fileno(), deaths, order.group)
    descriptors.close_all_but({fd for fd in kept if fd is not None})
    if kind.closed:
        _give_up(kind.mode)
    _watch(control, deaths, main_pid, kind.hold, order.group)
    if temporary is not None:
        scratch.remove(temporary)


def _hand_on(order: orders.Order, job: socket.socket, temporary: str | None) -> None:
    """The job makes what it can of its order while its box is furnished. If it is dead, that is seen when it is reaped."""
    try:
        order.send(job, temporary)
    except (BrokenPipeError, ConnectionResetError):
        pass
    order.close()


def _tell_ready(job: socket.socket, mounts: int | None) -> None:
    """With the mount namespace that the job's process is to enter, if it is another than that in which it was forked."""
    try:
        socket.send_fds(job, [orders.READY], [] if mounts is None else [mounts])
    except (BrokenPipeError, ConnectionResetError):
        pass


def _furnish(wanted: policy.Policy, kind: namespaces.Kind) -> int | None:
    """Network, state directory and files of the box, while init still may; a descriptor of its mount namespace, if any."""
    mounts = None
    layer = "network"
    try:
        if wanted.wants("network") and wanted.network == "loopback":
            namespaces.loopback_up()
        layer = "state directory"
        if wanted.state_directory is not None:
            ownership.own_directory(wanted.state_directory, wanted)
        layer = "filesystem"
        view = view_of(wanted)
        if namespaces.has_mounts(kind.mode):
            syscalls.unshare(syscalls.CLONE_NEWNS)
            mounts = os.open("/proc/self/ns/mnt", os.O_RDONLY | os.O_CLOEXEC)
        if view is not None and namespaces.has_mounts(kind.mode):
            filesystem.enter(filesystem.plan(view))
        elif kind.hold == namespaces.PIDS:
            layer = "tree_kill"
            namespaces.own_proc()
    except OSError as error:
        raise enter.SandboxError(f"{layer}: {error}") from error
    return mounts


def view_of(wanted: policy.Policy) -> filesystem.View | None:
    """What the policy says of files; None: they are the host's."""
    if wanted.root is None or not wanted.wants("filesystem"):
        return None
    own = () if wanted.state_directory is None else (wanted.state_directory,)
    return filesystem.View(
        root=wanted.root,
        writable=(*wanted.writable, *own),
        readable=wanted.readable,
        hidden=wanted.hidden,
        tmp_size=wanted.tmp_size,
        proc="host" if wanted.processes == "host" else wanted.proc,
    )


def _make_temporary(wanted: policy.Policy, kind: namespaces.Kind) -> str | None:
    """A directory for temporary files, where the policy wants private ones and there are no mounts to make /tmp private."""
    if view_of(wanted) is None or namespaces.has_mounts(kind.mode):
        return None
    try:
        return scratch.make(wanted.uid, wanted.gid)
    except OSError as error:
        raise enter.SandboxError(f"filesystem: a directory for temporary files: {error}") from error


def _lead() -> None:
    """Enter the layer from which a signal to all reaches what init starts, and nobody else.

    That it holds is seen before anything relies on it: without it, kill(-1) would reach the whole host.
    """
    try:
        if not capabilities.holds(capabilities.CAP_SYS_ADMIN):
            capabilities.no_new_privs()
        landlock.apply(landlock.build(landlock.LEADER, landlock.abi()))
    except OSError as error:
        raise enter.SandboxError(f"tree_kill: {error}") from error
    try:
        os.kill(os.getppid() or 1, 0)
    except PermissionError:
        return
    raise enter.SandboxError("tree_kill: landlock does not keep signals within the box (it takes Linux 6.12)")


def _give_up(mode: str) -> None:
    """Leave init nothing but the power to signal what is in the box; and nobody in it may look into init."""
    kept: list[int] = []
    if os.geteuid() == 0 and mode != namespaces.USER_NAMESPACE:
        kept.append(capabilities.CAP_KILL)
        if not namespaces.has_mounts(mode):  # temporary files of another user are to be removed at the end
            kept += [capabilities.CAP_DAC_OVERRIDE, capabilities.CAP_FOWNER]
    # First: in mode b the job, which may run already, has init's user, and looks into what has no more capabilities.
    syscalls.prctl(syscalls.PR_SET_DUMPABLE, 0)
    capabilities.keep_only(kept)
    capabilities.no_new_privs()


def _watch(control: socket.socket, deaths: int, main_pid: int, hold: str, group: int | None) -> None:
    poll = select.poll()
    poll.register(control, select.POLLIN)
    poll.register(deaths, select.POLLIN)
    reported = False
    while True:
        ended, others = _reap(main_pid)
        if ended is not None:
            _tell(control, ended, leftovers=others)
            reported = True
        if reported and not others:
            return
        for fd, _ in poll.poll():
            if fd == deaths:
                os.read(deaths, 4096)
                continue
            order = _hear(control)
            if order == orders.TERM:
                _signal_box(hold, signal.SIGTERM)
                _signal_box(hold, signal.SIGCONT)
            elif hold != namespaces.PIDS:  # KILL, or the launcher is dead
                _kill_until_empty(control, main_pid, hold, group, reported=reported)
                return
            elif not order:
                return


def _hear(control: socket.socket) -> bytes:
    """The launcher's next word; nothing if it is dead."""
    try:
        return control.recv(1)
    except ConnectionResetError:  # it died before it had read the report (unix(7))
        return b""


def _tell(control: socket.socket, status: int, *, leftovers: bool) -> None:
    """How the main process ended, by its wait status."""
    code = os.waitstatus_to_exitcode(status)
    exit_code, number = (code, None) if code >= 0 else (None, -code)
    try:
        control.send(orders.Report(exit_code, number, leftovers).pack())
    except OSError:  # nobody is left to be told; the box is ended all the same
        pass


def _reap(main_pid: int) -> tuple[int | None, bool]:
    """Reap all that have ended: (the main process's wait status, if it ended now; whether children are left)."""
    ended = None
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:
            return ended, False
        if pid == 0:
            return ended, True
        if pid == main_pid:
            ended = status


def _signal_box(hold: str, number: int) -> None:
    if hold in (namespaces.PIDS, namespaces.SCOPE):
        try:
            os.kill(-1, number)  # all of this pid namespace, or landlock layer, but init itself
        except ProcessLookupError:
            pass
        return
    for pid in descendants(os.getpid()):
        try:
            os.kill(pid, number)
        except (ProcessLookupError, PermissionError):  # gone; or, where root did not start us, another user's by sudo
            pass


def _kill_until_empty(control: socket.socket, main_pid: int, hold: str, group: int | None, *, reported: bool) -> None:
    while True:
        if group is not None:
            try:
                os.write(group, b"1")
            except OSError:  # somebody has removed the group; they are found all the same
                pass
        _signal_box(hold, signal.SIGKILL)
        try:
            # A kill ends at least one of ours, so this returns; who hangs in the kernel, or may not be killed, is waited for.
            pid, status = os.waitpid(-1, 0)
        except ChildProcessError:
            return
        if pid == main_pid and not reported:
            _tell(control, status, leftovers=True)


def descendants(pid: int, limit: int = 10_000) -> list[int]:
    """Pids below `pid`, parents first, by /proc/PID/task/TID/children (proc(5)), at most `limit`.

    A process that forks meanwhile may be missed, and a pid may be gone when it is looked at.
    """
    found: list[int] = []
    waiting = [pid]
    while waiting and len(found) < limit:
        parent = waiting.pop()
        try:
            threads = os.listdir(f"/proc/{parent}/task")
        except OSError:
            continue
        for thread in threads:
            try:
                with open(f"/proc/{parent}/task/{thread}/children", "rb") as file:
                    children = [int(child) for child in file.read().split()]
            except OSError:
                continue
            found += children
            waiting += children
    return found[:limit]
