"""The supervisor's end of the channel to the launcher: who it is, what it says, and what is said to it.

The first message is the launcher's Welcome, and nothing is opened before it: a supervisor that is to take another's place waits
here, with everything imported, until that one has closed the store. What the launcher says after it stays in the channel until
listen(), when the open runs are taken up and it means something.
"""

import os
import select
import socket
from collections.abc import Callable

from lnmt_scheduler.ipc import channel, codec, messages
from lnmt_scheduler.supervisor import hand, journal, loop, version


class Link:
    """Owns the channel for the life of the process, and the page of hand.py."""

    def __init__(self, sock: socket.socket, *, standby: bool) -> None:
        """Wait for the launcher's welcome. SystemExit if it does not come, or the two do not fit."""
        self._channel = channel.PacketChannel(sock, messages.TO_SUPERVISOR)
        if standby:
            self._channel.send(messages.Hello(version=messages.VERSION, minor=messages.MINOR, package=version.VERSION))
        #: Who started us, and on what host.
        self.welcome, fds = self._meet()
        self.hand = hand.Hand(fds[0] if fds else None)
        for fd in fds:
            os.close(fd)

    def _meet(self) -> tuple[messages.Welcome, list[int]]:
        poll = select.poll()
        poll.register(self._channel.fileno(), select.POLLIN)
        while not self._channel.eof:
            poll.poll()
            for message, fds in self._receive(1):
                if isinstance(message, messages.Welcome):
                    if message.version != messages.VERSION:
                        journal.error(
                            f"the launcher ({message.package}) speaks version {message.version} of the protocol, this"
                            f" supervisor ({version.VERSION}) version {messages.VERSION}; restart the daemon as a whole"
                        )
                        raise SystemExit(70)
                    return message, fds
                raise SystemExit("the launcher did not begin with its welcome")
        raise SystemExit(1)

    @property
    def can_replace(self) -> bool:
        """Whether this launcher keeps runs for another supervisor."""
        return self.welcome.minor >= 1

    def listen(self, events: loop.Loop, hear: Callable[[object, list[int]], None]) -> None:
        """From now on pass on what the launcher says; the descriptors are the listener's."""
        self._loop, self._hear = events, hear
        self._watch()

    def send(self, message: object, fds: tuple[int, ...] = ()) -> None:
        self._channel.send(message, fds)
        self._watch()

    def _watch(self) -> None:
        events = loop.READ | (loop.WRITE if self._channel.wants_write else 0)
        self._loop.watch(self._channel.fileno(), events, self._on_ready)

    def _on_ready(self, events: int) -> None:
        if events & loop.WRITE:
            self._channel.flush()
        for message, fds in self._receive(64):
            self._hear(message, fds)
        if self._channel.eof:
            # Without a launcher there is nothing to supervise; the kernel has ended its boxes.
            raise SystemExit(1)
        self._watch()

    def _receive(self, limit: int) -> list[tuple[object, list[int]]]:
        try:
            return self._channel.receive(limit)
        except codec.ProtocolError as error:
            raise SystemExit(f"the launcher broke the protocol: {error}") from error
