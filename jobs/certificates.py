"""How many days are left to certificates: those of a PEM file, or what a server shows. `openssl x509` reads them."""

import re
import socket
import ssl

from lnmt_scheduler.jobs import keep, needs, programs

_FILE_LIMIT = 4 * 1024 * 1024
_MAX = 200
_BLOCK = re.compile(
    r"-----BEGIN (?:TRUSTED |X509 )?CERTIFICATE-----.+?-----END (?:TRUSTED |X509 )?CERTIFICATE-----", re.DOTALL
)
_SERVER = re.compile(r"(?:\[(?P<v6>[0-9A-Fa-f:]+)\]|(?P<host>[A-Za-z0-9._-]+)):(?P<port>\d{1,5})")


def days_left(where: str, now: float, timeout: float = 10) -> tuple[float, str]:
    """Of the certificate that ends first, with its subject. `where` is a path or HOST:PORT. OSError; ValueError says why."""
    found = []
    for block in _fetch(where, timeout) if not where.startswith("/") else _read(where):
        done = programs.run(
            [needs.program("openssl", "openssl"), "x509", "-noout", "-enddate", "-subject", "-nameopt", "RFC2253"],
            timeout=timeout, stdin=block.encode(),
        )  # fmt: skip
        values = dict(line.partition("=")[::2] for line in done.output.splitlines())
        if done.code or "notAfter" not in values:
            raise ValueError(f"no certificate that openssl can read: {done.complaint}")
        left = (ssl.cert_time_to_seconds(values["notAfter"]) - now) / 86400
        found.append((round(left, 1), values.get("subject", "")[:100]))
    return min(found)


def _read(path: str) -> list[str]:
    found = _BLOCK.findall(keep.read_bytes(path, _FILE_LIMIT).decode(errors="replace"))
    if not 0 < len(found) <= _MAX:
        raise ValueError(f"holds {len(found)} certificates; 1 to {_MAX} are looked at")
    return [str(each) for each in found]


def _fetch(where: str, timeout: float) -> list[str]:
    """What the server shows; whether anybody trusts it is no matter here."""
    parts = _SERVER.fullmatch(where)
    if parts is None:
        raise ValueError("is neither an absolute path nor HOST:PORT")
    host = parts["v6"] or parts["host"]
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection((host, int(parts["port"])), timeout) as plain,
        context.wrap_socket(plain, server_hostname=host) as secure,
    ):
        shown = secure.getpeercert(binary_form=True)
    if shown is None:
        raise ValueError("shows no certificate")
    return [ssl.DER_cert_to_PEM_cert(shown)]
