"""A byte stream cut into frames: four bytes of length, big-endian, then a body of that many bytes.

Used on both ends of the control socket (schedctl and supervisor) and of a job's report pipe (job and supervisor). The
body is codec.py's business. A length is judged on the header alone, before one byte of the body is kept, so that a peer
that claims 4 GiB costs nothing. A stream that broke the rule once has lost its boundaries for good: its reader refuses
the rest.

Nothing here reads, writes or waits.
"""

HEADER = 4
#: Largest body of a frame on a report pipe: with its header it fills PIPE_BUF (4096 on Linux), see pipe(7).
REPORT_LIMIT = 4096 - HEADER
#: Bytes of text or data, together, with which any message of a job still fits into REPORT_LIMIT.
REPORT_DATA = 4000


class FrameError(ValueError):
    """The peer does not keep to the framing; nothing after this point of the stream can be trusted."""

    def __init__(self, reason: str, frames: list[bytes] | None = None) -> None:
        super().__init__(reason)
        #: The whole frames that came before the fault in the same input.
        self.frames = frames or []


def pack(body: bytes, limit: int) -> bytes:
    """Return the frame of `body`; FrameError if that is empty or longer than `limit` bytes."""
    _check(len(body), limit)
    return len(body).to_bytes(HEADER, "big") + body


def body_length(header: bytes | bytearray, limit: int) -> int:
    """Return the length that a header of HEADER bytes announces; FrameError if no body may be that long."""
    length = int.from_bytes(header, "big")
    _check(length, limit)
    return length


def _check(length: int, limit: int) -> None:
    if not length:
        raise FrameError("an empty frame")
    if length > limit:
        raise FrameError(f"a frame of {length} bytes, at most {limit} are allowed")


class FrameReader:
    """Cuts a stream that arrives in pieces of any size into bodies of at most `limit` bytes (header not counted)."""

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self._buffer = bytearray()
        self._broken: str | None = None

    @property
    def pending(self) -> int:
        """Bytes held of a frame that is not whole yet; at the end of a stream, what was cut off."""
        return len(self._buffer)

    def feed(self, data: bytes) -> list[bytes]:
        """Return the bodies that `data` completes.

        FrameError at the first bad header, with the bodies before it in its `frames`, and at every call after that.
        """
        if self._broken is not None:
            raise FrameError(self._broken)
        self._buffer += data
        bodies: list[bytes] = []
        start = 0
        try:
            while len(self._buffer) - start >= HEADER:
                body = start + HEADER
                end = body + body_length(self._buffer[start:body], self._limit)
                if end > len(self._buffer):
                    break
                bodies.append(bytes(self._buffer[body:end]))
                start = end
        except FrameError as error:
            self._broken = str(error)
            self._buffer.clear()
            raise FrameError(self._broken, bodies) from None
        # Once a call, not once a frame: a read full of small frames must not move the rest each time.
        del self._buffer[:start]
        return bodies
