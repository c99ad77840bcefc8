"""Who gets the descriptors that a process may have: first the daemon's own needs, then runs, and clients what is left.

A pure sum over the limit that launcher and supervisor share (RLIMIT_NOFILE). A run that would need descriptors that are not
there waits in the queue, where it can be seen, and fails nowhere half-way; clients are turned away long before a launch could
suffer from them.
"""

from dataclasses import dataclass

#: The daemon's own in either process: store, channel, loop, sockets, and a file or two that is looked at.
_OWN = 40
#: Of one run at the most. The supervisor: three pipes, output, its index, report, payload. The launcher: three pipes, init's
#: socket, pidfd and error pipe; while it forks, the other ends and the cgroups'; and the pipes of ends not yet acknowledged.
_PER_RUN = 10
#: Clients that there is room for in any case, so that somebody can look at what is wrong.
_FEWEST_CLIENTS = 8


@dataclass(frozen=True, slots=True)
class Share:
    #: Runs at one time, and connections of the control socket.
    runs: int
    clients: int


def share(limit: int, runs: int, clients: int) -> Share:
    """What a process that may have `limit` descriptors gives to the runs and clients that are wanted."""
    left = limit - _OWN - _FEWEST_CLIENTS
    granted = max(1, min(runs, left // _PER_RUN))
    return Share(granted, min(clients, _FEWEST_CLIENTS + max(0, left - granted * _PER_RUN)))
