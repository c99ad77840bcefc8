"""The one module of this room that moves bytes: packets, reports, and frames over a blocking socket.

Supervisor and launcher each hold one end of a SOCK_SEQPACKET socketpair as a PacketChannel: one message a packet, whole
or not at all, descriptors beside it. Neither may ever wait for the other, so the sockets do not block, and what the
kernel will not take yet is queued. A job writes its reports blocking, each in a single write(2). schedctl speaks frames
over a blocking socket; the supervisor's side of that is event-driven and lives with its clients.

It opens nothing itself, forks nothing, and knows messages only as something that codec.py can carry.
"""

import array
import collections
import errno
import os
import socket
from collections.abc import Sequence

from lnmt_scheduler.ipc import codec, frames

#: Bytes in one packet, at most.
MAX_PACKET = 128 * 1024
#: Descriptors beside one packet, at most; Started has three.
MAX_FDS = 4
_FDS_SPACE = socket.CMSG_LEN(MAX_FDS * array.array("i").itemsize)
#: What means "not now": the buffer is full, memory is short, or too many descriptors are in flight (unix(7)).
_LATER = {errno.EAGAIN, errno.ENOBUFS, errno.ENOMEM, errno.ETOOMANYREFS}


class PacketChannel:
    """One end of the conversation; it owns the socket and every descriptor handed to send()."""

    def __init__(self, sock: socket.socket, allowed: tuple[type, ...]) -> None:
        """Take over `sock`. `allowed`: the message classes that the other end may send."""
        self._socket = sock
        self._allowed = allowed
        self._queue = collections.deque[tuple[bytes, tuple[int, ...]]]()
        self._deaf = False
        #: The other end is closed and everything that it sent has been received.
        self.eof = False
        sock.setblocking(False)
        # The kernel doubles it; a packet of MAX_PACKET must fit whatever net.core.wmem_default says.
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, MAX_PACKET)

    def fileno(self) -> int:
        return self._socket.fileno()

    @property
    def wants_write(self) -> bool:
        """Something is queued: call flush() when the socket is writable."""
        return bool(self._queue)

    def send(self, message: object, fds: Sequence[int] = ()) -> None:
        """Send, or queue what the kernel will not take now; order is kept. Never waits.

        The descriptors are the channel's from here on: it closes them once they are sent, and also if it raises. If the
        other end is gone the message is dropped; receive() is where that is learnt. ProtocolError: the message cannot
        be carried, and nothing was sent. OSError as flush().
        """
        try:
            data = packet(message, fds)
        except codec.ProtocolError:
            _close(fds)
            raise
        self._queue.append((data, tuple(fds)))
        self.flush()

    def flush(self) -> None:
        """Send what is queued, as far as the kernel takes it. OSError: the channel is of no use, close it."""
        while self._queue:
            data, fds = self._queue[0]
            try:
                if not self._deaf:
                    socket.send_fds(self._socket, [data], fds)
            except (BrokenPipeError, ConnectionResetError):
                self._deaf = True
            except OSError as error:
                if error.errno in _LATER:
                    return
                raise
            self._queue.popleft()
            _close(fds)

    def receive(self, limit: int = 64) -> list[tuple[object, list[int]]]:
        """Return what has come, at most `limit` messages, each with its descriptors: the caller's, close-on-exec.

        A message of a later version of the protocol is left out, and its descriptors are closed. One whose descriptors there
        was no room for in this process (RLIMIT_NOFILE) comes without any. ProtocolError: a packet that is none of ours, or is
        cut off. Every descriptor of this call is closed then, and the conversation is over: close the channel.
        """
        received: list[tuple[object, list[int]]] = []
        try:
            while len(received) < limit and (packet := self._next_packet()):
                data, fds, flags = packet
                received.append((None, fds))
                if flags & (socket.MSG_TRUNC | socket.MSG_CTRUNC):
                    _drop_what_is_cut(flags, fds)
                message = codec.decode(data, self._allowed, lenient=True)
                if message is None:
                    received.pop()
                    _close(fds)
                else:
                    received[-1] = (message, fds)
        except BaseException:
            for _, fds in received:
                _close(fds)
            raise
        return received

    def _next_packet(self) -> tuple[bytes, list[int], int] | None:
        while not self.eof:
            try:
                # Not socket.recv_fds(): it ignores its flags (Python 3.11), and a descriptor would leak into a child.
                data, control, flags, _ = self._socket.recvmsg(MAX_PACKET, _FDS_SPACE, socket.MSG_CMSG_CLOEXEC)
            except ConnectionResetError:
                # The other end closed without reading all of ours. Said once; what it sent before that still comes.
                self._deaf = True
                continue
            except OSError as error:
                if error.errno in _LATER:
                    return None
                raise
            if data:
                fds = array.array("i")
                for _level, _type, content in control:
                    fds.frombytes(content)
                return data, fds.tolist(), flags
            self.eof = True
        return None

    def close(self) -> None:
        """Close the socket and the descriptors that were never sent."""
        for _, fds in self._queue:
            _close(fds)
        self._queue.clear()
        self._socket.close()


def packet(message: object, fds: Sequence[int]) -> bytes:
    """The message as it is sent. ProtocolError if it is too large, has too many descriptors, or text that is no UTF-8."""
    data = codec.encode(message)
    name = type(message).__name__
    if len(data) > MAX_PACKET:
        raise codec.ProtocolError(f"{name} of {len(data)} bytes, at most {MAX_PACKET} are allowed")
    if len(fds) > MAX_FDS:
        raise codec.ProtocolError(f"{name} with {len(fds)} descriptors, at most {MAX_FDS} are allowed")
    return data


def _drop_what_is_cut(flags: int, fds: list[int]) -> None:
    """Close and forget the descriptors if not all of them have come. ProtocolError if more was sent than may be."""
    if flags & socket.MSG_TRUNC:
        raise codec.ProtocolError(f"a packet of more than {MAX_PACKET} bytes")
    if len(fds) >= MAX_FDS:
        raise codec.ProtocolError(f"a packet with more than {MAX_FDS} descriptors")
    _close(fds)
    fds.clear()


def _close(fds: Sequence[int]) -> None:
    for fd in fds:
        os.close(fd)


def send_report(fd: int, message: object) -> None:
    """Write one report (messages.REPORT) to a job's blocking report pipe; many threads and processes may at once.

    Any message with frames.REPORT_DATA bytes of text or data fits. ProtocolError: it cannot be carried. FrameError: it
    is larger. OSError: nobody can read it any more.
    """
    # One write of at most PIPE_BUF bytes: never torn and never mixed with another's (pipe(7)).
    os.write(fd, frames.pack(codec.encode(message), frames.REPORT_LIMIT))


def cut(text: str, limit: int) -> str:
    """At most `limit` bytes of the text, as a report can carry it: without half characters and lone surrogates."""
    return text.encode(errors="backslashreplace")[:limit].decode(errors="ignore")


def write_frame(sock: socket.socket, body: bytes, limit: int) -> None:
    """Send one frame over a blocking stream socket. FrameError: `body` is empty or over `limit`; OSError as sendall."""
    sock.sendall(frames.pack(body, limit))


def read_frame(sock: socket.socket, limit: int) -> bytes | None:
    """Return the body of the next frame of a blocking stream socket, or None if the stream ended before it.

    FrameError: a body over `limit` bytes, or the stream ended in the middle. OSError as recv, TimeoutError included.
    The stream is of no use after any of them.
    """
    header = _read(sock, frames.HEADER)
    if not header:
        return None
    if len(header) == frames.HEADER:
        length = frames.body_length(header, limit)
        body = _read(sock, length)
        if len(body) == length:
            return body
    raise frames.FrameError("the connection ended in the middle of a frame")


def _read(sock: socket.socket, count: int) -> bytes:
    """Return `count` bytes, or fewer at the end of the stream."""
    data = b""
    while len(data) < count and (more := sock.recv(count - len(data), socket.MSG_WAITALL)):
        data += more
    return data
