"""What stands in for the rest of the daemon, so that one part of it can be held to its word.

FakeAttempts is a launcher that starts nothing, for the dispatcher. FakeServer is a control socket with canned answers,
for tests of its clients: real frames over a real socket, and no daemon. Each connection has a thread; an answer is a
function of the request's fields that returns the value, or a generator that yields the items first. What was asked is
in `requests`.
"""

import contextlib
import inspect
import socket
import threading

from lnmt_scheduler.ipc import channel, codec, control, frames
from lnmt_scheduler.supervisor import attempts, paths, run


class Refuse(Exception):  # noqa: N818 - an answer, not a mistake
    """Raised by an answer: the error that the client gets."""

    def __init__(self, code, message, details=()):
        super().__init__(message)
        self.value = {"code": code, "message": message, "details": list(details)}


class FakeServer:
    """Owns its socket and threads until close(); also a context."""

    def __init__(self, path, **answers):
        self.path = str(path)
        self.answers = {"hello": self._hello, **answers}
        #: (tag, fields, key) of every request but hello, in order.
        self.requests = []
        self._open = set()
        self._listener = paths.bind(self.path)
        self._listener.listen(16)
        self._threads = [threading.Thread(target=self._accept, daemon=True)]
        self._threads[0].start()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    @staticmethod
    def _hello(fields):
        return {"protocol": control.PROTOCOL, "version": "0.1.0", "pid": 1, "role": "admin"}

    def asked(self, tag):
        """Fields of every request of this kind."""
        return [fields for name, fields, _ in self.requests if name == tag]

    def close(self):
        for sock in [self._listener, *self._open]:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_RDWR)
        for thread in self._threads:
            thread.join(5)
        self._listener.close()

    def _accept(self):
        while True:
            try:
                sock, _ = self._listener.accept()
            except OSError:
                return
            self._open.add(sock)
            thread = threading.Thread(target=self._serve, args=(sock,), daemon=True)
            self._threads.append(thread)
            thread.start()

    def _serve(self, sock):
        with sock, contextlib.suppress(OSError, frames.FrameError):
            while (body := channel.read_frame(sock, control.FRAME_LIMIT)) is not None:
                number, tag, fields, key = codec.unpack(body)
                if tag != "hello":
                    self.requests.append((tag, fields, key))
                if not self._answer(sock, number, tag, fields):
                    break
        self._open.discard(sock)

    def _answer(self, sock, number, tag, fields):
        """Whether the connection goes on."""

        def send(kind, value):
            channel.write_frame(sock, codec.pack([number, kind, value], max_depth=64), control.FRAME_LIMIT)

        try:
            value = self.answers[tag](fields)
            if inspect.isgenerator(value):
                while True:
                    try:
                        send("item", next(value))
                    except StopIteration as end:
                        value = end.value
                        break
            send("ok", value)
        except Refuse as error:
            send("error", error.value)
        return tag != "stop"


class FakeAttempts:
    """In place of attempts.Attempts: keeps what the dispatcher orders, and starts nothing."""

    def __init__(self):
        #: (run id, attempt) of everything that was launched, in order; and the orders themselves.
        self.launched = []
        self.orders = []
        self.adopted = []
        #: Of those that were adopted.
        self.timeouts = []
        #: (run id, attempt, cause) of every end that was asked for.
        self.ended = []
        #: Called by lose() as by a real one: (run id, attempt, outcome, facts).
        self.on_ended = None

    def defer(self, call):
        call()

    def launch(self, order):
        self.launched.append((order.run_id, order.attempt))
        self.orders.append(order)

    def adopt(self, order):
        self.adopted.append((order.run_id, order.attempt))
        self.timeouts.append(order.timeout)

    def lose(self, order, error):
        self.on_ended(order.run_id, order.attempt, run.Outcome(cause="lost"), attempts.Facts(error=error))

    def end(self, run_id, attempt, cause, grace):
        self.ended.append((run_id, attempt, cause))

    def explain(self, run_id, attempt, reason, facts):
        return facts

    def close(self, run_id, attempt, *, last):
        return 0

    def tail(self, run_id, queued, limit):
        return "the end of it"

    def finish_output(self, run_id, queued, job):
        return 0
