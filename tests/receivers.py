"""Who gets messages in tests: a webhook and a mail server on loopback, which answer as a test tells them to."""

import base64
import contextlib
import email
import email.policy
import http.server
import json
import socketserver
import threading
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.message import EmailMessage
from typing import Any


@dataclass
class Hook:
    """A webhook: what it got, and the codes that it answers with, one after another; the last one stays."""

    url: str = ""
    codes: list[int] = field(default_factory=lambda: [200])
    #: (headers, body, the code that was answered).
    got: list[tuple[dict[str, str], Any, int]] = field(default_factory=list)
    #: Set: answers come; cleared: whoever asks waits.
    answers: threading.Event = field(default_factory=threading.Event)
    #: Called when a request is there, before it is answered.
    on_request: Any = None

    @property
    def taken(self) -> list[tuple[str, Any]]:
        """(Idempotency-Key, body) of what was answered with success."""
        return [(headers["Idempotency-Key"], body) for headers, body, code in self.got if 200 <= code < 300]


@contextlib.contextmanager
def hook() -> Iterator[Hook]:
    found = Hook()
    found.answers.set()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            if found.on_request is not None:
                found.on_request()
            found.answers.wait(60)
            code = found.codes.pop(0) if len(found.codes) > 1 else found.codes[0]
            found.got.append((dict(self.headers), body, code))
            with contextlib.suppress(OSError):
                self.send_response(code)
                if code == 302:
                    self.send_header("Location", found.url)
                self.send_header("Content-Length", "0")
                self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with _serving(http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)) as port:
        found.url = f"http://127.0.0.1:{port}/hook"
        try:
            yield found
        finally:
            found.answers.set()


@dataclass
class Mailbox:
    """A mail server without TLS: what it took, and what it says to MAIL, RCPT and the end of DATA."""

    port: int = 0
    mails: list[EmailMessage] = field(default_factory=list)
    recipients: list[str] = field(default_factory=list)
    #: A word of the protocol -> its answer, in place of 250.
    says: dict[str, str] = field(default_factory=dict)
    #: Whom it does not know.
    unknown: set[str] = field(default_factory=set)
    logins: list[tuple[str, str]] = field(default_factory=list)


@contextlib.contextmanager
def mailbox() -> Iterator[Mailbox]:
    found = Mailbox()

    class Handler(socketserver.StreamRequestHandler):
        def handle(self) -> None:
            self._say("220 test")
            while line := self.rfile.readline():
                word = line[:4].decode().upper()
                if word == "QUIT":
                    self._say("221 bye")
                    return
                if word == "EHLO":
                    self._say("250-test\r\n250 AUTH PLAIN")
                elif word == "AUTH":
                    _, user, password = base64.b64decode(line.split()[2]).decode().split("\0")
                    found.logins.append((user, password))
                    self._say(found.says.get(word, "235 in"))
                elif word == "DATA":
                    self._say("354 go on")
                    data = b"".join(iter(self.rfile.readline, b".\r\n"))
                    answer = found.says.get(word, "250 taken")
                    if answer.startswith("2"):
                        found.mails.append(_parse(data))
                    self._say(answer)
                else:
                    if word == "RCPT":
                        found.recipients.append(line.decode().strip())
                    known = not any(f"<{each}>" in line.decode() for each in found.unknown)
                    self._say(found.says.get(word, "250 fine") if known else "550 who is that")

        def _say(self, text: str) -> None:
            self.wfile.write(f"{text}\r\n".encode())

    class Server(socketserver.ThreadingTCPServer):
        daemon_threads = True

    with _serving(Server(("127.0.0.1", 0), Handler)) as port:
        found.port = port
        yield found


def _parse(data: bytes) -> EmailMessage:
    return email.message_from_bytes(data.replace(b"\r\n..", b"\r\n."), policy=email.policy.default)  # type: ignore[return-value]


@contextlib.contextmanager
def _serving(server: socketserver.TCPServer) -> Iterator[int]:
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    try:
        yield int(server.server_address[1])
    finally:
        server.shutdown()
        server.server_close()
