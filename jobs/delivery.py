"""One message to one target: by the host's sendmail, an SMTP server, a webhook, or whatever apprise knows.

Runs in a job's process, inside its box: for the daemon's own notifications, for alerts and for reports. Passwords, tokens and
addresses that hold one are named, and read from the job's secrets. A message has a key that stays the same however often
it is tried: mail carries it as its Message-ID, a webhook as Idempotency-Key, so that whoever gets it twice can tell.

What failed is temporary or for good: a server that is away, slow, busy or broken is tried again, one that refuses is not.
What some of several recipients have taken counts as delivered, and who was refused is printed: to try it again would tell the
others once more, however often.
"""

import hashlib
import http.client
import json
import smtplib
import socket
import ssl
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from email.message import EmailMessage
from email.utils import formatdate
from typing import Annotated, Any, Literal, TypeVar

import msgspec
from msgspec import Meta

from lnmt_scheduler.jobs import needs

#: Seconds for each answer of a server.
TIMEOUT = 30
_SUBJECT = 200
_TEMPORARY = {408, 425, 429}

T = TypeVar("T")
Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._-]{0,63}$")]
Address = Annotated[str, Meta(pattern=r"^[^\s<>,;:\"\x00-\x1f\x7f]{1,250}$")]
Addresses = Annotated[list[Address], Meta(min_length=1, max_length=100)]
Secret = Callable[[str], str]


class Target(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="type"):
    """Where messages go; `type` says which of the following it is."""


class Sendmail(Target, frozen=True, tag="sendmail"):
    to: Addresses
    sender: Address | None = msgspec.field(default=None, name="from")
    program: Annotated[str, Meta(pattern=r"^/[^\x00]{1,4000}$")] = "/usr/sbin/sendmail"


class Smtp(Target, frozen=True, tag="smtp"):
    to: Addresses
    sender: Address = msgspec.field(name="from")
    host: Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,252}$")]
    port: Annotated[int, Meta(ge=1, le=65535)] | None = None
    #: starttls: it must be offered; tls: from the first byte; none: in the clear.
    security: Literal["starttls", "tls", "none"] = "starttls"
    user: Annotated[str, Meta(max_length=250)] | None = None
    #: Name of a secret.
    password: Name | None = None


class Webhook(Target, frozen=True, tag="webhook"):
    url: Annotated[str, Meta(pattern=r"^https?://[\x21-\x7e]{1,2000}$")] | None = None
    #: Name of a secret that holds the address, where the address is the secret; and of one that is sent as bearer token.
    url_secret: Name | None = None
    token: Name | None = None


class Apprise(Target, frozen=True, tag="apprise"):
    #: Name of a secret that holds apprise's addresses, one a line.
    url_secret: Name


AnyTarget = Sendmail | Smtp | Webhook | Apprise


@dataclass(frozen=True, slots=True, kw_only=True)
class Message:
    key: str
    subject: str
    text: str
    html: str | None = None
    #: File name, MIME type, content.
    files: Sequence[tuple[str, str, bytes]] = ()
    #: For programs: what the text says, as a map that JSON can carry.
    facts: dict[str, Any] = field(default_factory=dict)


class FailedError(Exception):
    """The target refuses, and will refuse again."""


class TemporaryError(FailedError):
    """It may work later."""


def convert(value: object, kind: type[T]) -> T:
    """What a map says as this kind. ValueError says what is wrong with it."""
    try:
        return msgspec.convert(value, kind)
    except msgspec.ValidationError as error:
        raise ValueError(str(error)) from None


def target(value: object) -> AnyTarget:
    """The target that a map describes. ValueError says what is wrong with it."""
    found: AnyTarget = convert(value, AnyTarget)  # type: ignore[arg-type]  # a union is a type to msgspec
    if isinstance(found, Webhook) and (found.url is None) == (found.url_secret is None):
        raise ValueError("a webhook has either `url` or `url_secret`")
    if isinstance(found, Smtp) and (found.user is None) != (found.password is None):
        raise ValueError("`user` and `password`, the name of a secret, go together")
    return found


def secrets_of(found: AnyTarget) -> set[str]:
    """Names of the secrets that it takes."""
    names = (getattr(found, key, None) for key in ("password", "url_secret", "token"))
    return {name for name in names if name is not None}


def send(found: AnyTarget, message: Message, secret: Secret) -> None:
    """Hand the message over. FailedError if that cannot be, TemporaryError if it may be later."""
    try:
        match found:
            case Sendmail():
                _by_sendmail(found, message)
            case Smtp():
                _by_smtp(found, message, secret)
            case Webhook():
                _by_webhook(found, message, secret)
            case Apprise():
                _by_apprise(found, message, secret)
    except (TimeoutError, ConnectionError, http.client.HTTPException, socket.gaierror) as error:
        raise TemporaryError(f"{type(error).__name__}: {error}") from None


def attempt(found: AnyTarget, message: Message, secret: Secret) -> FailedError | None:
    """The same for who has other targets too: what went wrong, whatever it was, and None if nothing did."""
    try:
        send(found, message, secret)
    except FailedError as error:
        return error
    except SystemExit as error:  # needs.py has said what is missing; once it is there it will work
        return TemporaryError(f"something is missing (exit code {error.code}), see above")
    except OSError as error:
        return TemporaryError(f"{type(error).__name__}: {error}")
    except Exception as error:  # this message's own, as far as one can tell: the next one is not to wait for it
        return FailedError(f"{type(error).__name__}: {error}")
    return None


def mail(message: Message, sender: str, to: Sequence[str]) -> EmailMessage:
    """As multipart mail: text, the same as HTML, attachments."""
    found = EmailMessage()
    found["From"], found["To"] = sender, ", ".join(to)
    found["Subject"] = line(message.subject)
    found["Date"] = formatdate(localtime=True)
    found["Message-ID"] = f"<{hashlib.sha256(message.key.encode()).hexdigest()[:40]}@{_domain(sender)}>"
    found["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answer by a machine is wanted
    found.set_content(_clean(message.text))
    if message.html is not None:
        found.add_alternative(message.html, subtype="html")
    for name, kind, data in message.files:
        main, _, sub = kind.partition("/")
        found.add_attachment(data, maintype=main, subtype=sub, filename=name)
    return found


def line(text: str) -> str:
    """One line for a header, whatever a job has put into it."""
    return _clean(" ".join(text.split()))[:_SUBJECT]


def _clean(text: str) -> str:
    return "".join(c if c.isprintable() or c in "\n\t" else "\N{REPLACEMENT CHARACTER}" for c in text)


def _say(text: str) -> None:
    print(line(text), file=sys.stderr)


def _domain(sender: str) -> str:
    return sender.rpartition("@")[2] or "localhost"


def _by_sendmail(found: Sendmail, message: Message) -> None:
    sender = found.sender or f"lnmt-scheduler@{socket.getfqdn()}"
    flags = ["-oi", *(["-f", found.sender] if found.sender is not None else [])]
    try:
        done = subprocess.run(
            [found.program, *flags, "--", *found.to],
            input=mail(message, sender, found.to).as_bytes(),
            capture_output=True,
            timeout=TIMEOUT * 2,
            check=False,
        )
    except FileNotFoundError:
        raise FailedError(f"{found.program} is not there; install a mail server, or name one by type smtp") from None
    except subprocess.TimeoutExpired as error:
        raise TemporaryError(str(error)) from None
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip()[-300:]
        kind = TemporaryError if done.returncode == 75 else FailedError  # EX_TEMPFAIL, sysexits.h
        raise kind(f"{found.program} exited with {done.returncode}: {said}")


def _by_smtp(found: Smtp, message: Message, secret: Secret) -> None:
    port = found.port or {"tls": 465, "starttls": 587, "none": 25}[found.security]
    context = ssl.create_default_context()
    try:
        if found.security == "tls":
            server: smtplib.SMTP = smtplib.SMTP_SSL(found.host, port, timeout=TIMEOUT, context=context)
        else:
            server = smtplib.SMTP(found.host, port, timeout=TIMEOUT)
        with server:
            if found.security == "starttls":
                server.starttls(context=context)
            if found.user is not None and found.password is not None:
                server.login(found.user, secret(found.password))
            refused = server.send_message(mail(message, found.sender, found.to))
    except smtplib.SMTPRecipientsRefused as error:
        codes = {code for code, _ in error.recipients.values()}
        kind = TemporaryError if min(codes) < 500 else FailedError
        raise kind(f"{found.host} refused every recipient: {error.recipients}") from None
    except smtplib.SMTPResponseException as error:
        kind = FailedError if error.smtp_code >= 500 else TemporaryError
        said = error.smtp_error.decode(errors="replace") if isinstance(error.smtp_error, bytes) else error.smtp_error
        raise kind(f"{found.host} said {error.smtp_code} {said}") from None
    except smtplib.SMTPServerDisconnected as error:
        raise TemporaryError(f"{found.host}: {error}") from None
    except smtplib.SMTPException as error:
        raise FailedError(f"{found.host}: {error}") from None
    except ssl.SSLError as error:
        raise FailedError(f"{found.host}: {error}") from None
    except UnicodeError:  # which would say part of the password
        raise FailedError(f"{found.host}: its name, the user or the password is not ASCII") from None
    for address, (code, why) in refused.items():
        _say(f"{found.host} took it, but not for {address}: {code} {why.decode(errors='replace')}")


class _NoRedirect(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *_: Any) -> None:
        """Nobody else gets the token."""


def _by_webhook(found: Webhook, message: Message, secret: Secret) -> None:
    url = (found.url if found.url_secret is None else secret(found.url_secret)) or ""
    if not url.startswith(("http://", "https://")):
        raise FailedError(f"secret {found.url_secret} is no address that begins with http:// or https://")
    body = {"key": message.key, "subject": line(message.subject), "text": message.text, **message.facts}
    headers = {
        "Content-Type": "application/json",
        "User-Agent": "lnmt-scheduler",
        "Idempotency-Key": hashlib.sha256(message.key.encode()).hexdigest()[:40],
    }
    if found.token is not None:
        headers["Authorization"] = f"Bearer {secret(found.token)}"
    opener = urllib.request.build_opener(_NoRedirect, urllib.request.ProxyHandler({}))
    try:
        # The host is named in what goes wrong, never the whole address: it may be a secret.
        host = urllib.parse.urlsplit(url).hostname
        request = urllib.request.Request(url, json.dumps(body).encode(), headers, method="POST")
        with opener.open(request, timeout=TIMEOUT) as answer:
            answer.read(1024)
    except urllib.error.HTTPError as error:
        error.close()
        kind = TemporaryError if error.code >= 500 or error.code in _TEMPORARY else FailedError
        raise kind(f"{host} answered {error.code} {error.reason}") from None
    except urllib.error.URLError as error:
        raise TemporaryError(f"{host}: {error.reason}") from None
    except (ValueError, http.client.InvalidURL):  # the latter says the part of the address that it does not like
        raise FailedError("the address of the webhook is none, or its token cannot be sent") from None


def _by_apprise(found: Apprise, message: Message, secret: Secret) -> None:
    with needs.extra("notify"):
        import apprise  # noqa: PLC0415 (50 ms and 16 MB, for those who have such a target)

    known = apprise.Apprise()
    for address in secret(found.url_secret).splitlines():
        if address.strip() and not known.add(address.strip()):
            raise FailedError(f"secret {found.url_secret}: apprise does not know one of its addresses")
    # One by one, since all together are said to have failed if one of them has.
    title = line(message.subject)
    failed = [
        number
        for number, each in enumerate(known, 1)
        if not apprise.Apprise(each).notify(title=title, body=message.text)
    ]
    if len(failed) == len(known):
        raise TemporaryError("apprise could not deliver to any address")
    for number in failed:
        _say(f"apprise could not deliver to address {number} of secret {found.url_secret}")
