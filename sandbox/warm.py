"""Boxes that stand ready: forked, with their namespaces and their cgroup, before it is known which job they will be of.

Forking into namespaces and joining a control group is half of what a box costs, and needs nothing that an order says but
its kind. So whoever starts boxes one after the other keeps one of each kind that was asked for of late, and makes the next
while the last one works. What an order may change on the host until then is not in a box that stands ready: its mounts are
copied from the host's when the order comes, and limits are set then.

Runs in the launcher, single-threaded. A box that stands ready holds two processes that sleep, at most _KINDS times.
"""

import itertools
import os
import select
from collections.abc import Callable
from dataclasses import dataclass
from typing import NoReturn

from lnmt_scheduler.sandbox import box, cgroup, controllers, namespaces, settle

#: Kinds of which a box is kept; the one that was not asked for the longest goes.
_KINDS = 4


class GroupError(OSError):
    """The cgroup of a box cannot be made, or not be given its limits."""


@dataclass(frozen=True, slots=True)
class Ready:
    """A box without a job, and its cgroup. Whoever takes it owns both."""

    boxed: box.Box
    leaf: cgroup.Leaf | None

    def limit(self, limits: controllers.Limits) -> None:
        """Set the limits of its cgroup. GroupError."""
        if self.leaf is not None:
            try:
                self.leaf.limit(limits)
            except OSError as error:
                raise GroupError(error.errno, error.strerror, error.filename) from error

    def is_alive(self) -> bool:
        poll = select.poll()
        poll.register(self.boxed.pidfd, select.POLLIN)
        return not poll.poll(0)

    def abandon(self) -> None:
        self.boxed.abandon()
        if self.leaf is not None:
            self.leaf.remove()


@dataclass(frozen=True, slots=True)
class _Kind:
    of: namespaces.Kind
    #: Limits that its cgroup is for; None: it has none.
    limits: frozenset[str] | None


class Pool:
    def __init__(self, host: cgroup.Host, mode: str, body: Callable[[], NoReturn]) -> None:
        """`body` runs in every box as its job."""
        self._host = host
        self._mode = mode
        self._body = body
        #: The latest asked for last.
        self._ready: dict[_Kind, Ready | None] = {}
        self._names = itertools.count(1)

    @property
    def pids(self) -> set[int]:
        """Of the inits of all that stand ready."""
        return {each.boxed.pid for each in self._ready.values() if each is not None}

    def take(self, settled: settle.Settled) -> Ready:
        """A box for this policy, ready or made now. SandboxError, GroupError or OSError if none can be made."""
        box.check_user(settled.policy, self._mode)
        limits = settled.limits.names() if settled.needs_cgroup else None
        kind = _Kind(namespaces.kind(self._mode, settled.policy), limits)
        found = self._ready.pop(kind, None)
        self._ready[kind] = None
        if found is not None and not found.is_alive():
            found.abandon()
            found = None
        return found or self._make(kind)

    def refill(self) -> bool:
        """Make one that is lacking, the latest asked for first; whether more are. OSError if it cannot be made."""
        for kind in list(self._ready)[:-_KINDS]:
            left = self._ready.pop(kind)
            if left is not None:
                left.abandon()
        lacking = [kind for kind, ready in self._ready.items() if ready is None]
        if lacking:
            self._ready[lacking[-1]] = self._make(lacking[-1])
        return len(lacking) > 1

    def close(self) -> None:
        """Let go of all, and keep none from now on."""
        for ready in self._ready.values():
            if ready is not None:
                ready.abandon()
        self._ready.clear()

    def _make(self, kind: _Kind) -> Ready:
        leaf = None
        fds: list[int] = []
        try:
            if kind.limits is not None:
                try:
                    leaf = cgroup.make(self._host, f"box-{next(self._names)}", kind.limits)
                    fds = leaf.enter_fds()
                except OSError as error:
                    raise GroupError(error.errno, error.strerror, error.filename) from error
            return Ready(box.prepare(kind.of, self._body, cgroups=tuple(fds)), leaf)
        except OSError:
            if leaf is not None:
                leaf.remove()
            raise
        finally:
            for fd in fds:
                os.close(fd)
