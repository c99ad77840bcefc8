"""Look at devices once: ICMP echo, TCP, HTTP and SNMP, all at the same time, each with a bound on its time.

What is found is a list of observations: what was looked at, whether it is well, and why not. What they mean over time is
damping.py's business. Nobody here trusts an answer: how much of one is read, and for how long, is capped.
"""

import http.client
import os
import socket
import ssl
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent import futures
from dataclasses import dataclass
from urllib import parse

from lnmt_scheduler.jobs import inventory, needs, shown

_THREADS = 64
#: Addresses that are sent echos at the same time.
_PINGED = 250
_PAGE_LIMIT = 64 * 1024
_PING_RANGE = "/proc/sys/net/ipv4/ping_group_range"


@dataclass(frozen=True, slots=True, kw_only=True)
class Observation:
    device: str
    #: What was looked at: `ping`, `tcp 22`, `http://...`, `snmp`, `interface eth0`.
    what: str
    good: bool
    #: Why it is not good, in a few words.
    why: str = ""
    #: How long the answer took, if there was one.
    milliseconds: float | None = None
    #: Percent; None: nothing that loses anything.
    loss: float | None = None

    @property
    def target(self) -> str:
        return f"{self.device} {self.what}"


@dataclass(frozen=True, slots=True, kw_only=True)
class Seen:
    observations: list[Observation]
    #: Of each agent that answered: when, in seconds since the epoch, and for how many hundredths of a second it was up then.
    uptimes: Mapping[str, tuple[float, int]]


def look(devices: Sequence[inventory.Device], timeout: float, tick: Callable[[int, int], None]) -> Seen:
    """Look at everything. `timeout` is in seconds, for each answer; `tick` is told how many checks of how many are done."""
    found: list[Observation] = []
    uptimes: dict[str, tuple[float, int]] = {}
    checks = [check for device in devices for check in _checks(device, timeout)]
    agents = [device for device in devices if device.snmp is not None]
    pinged = [device for device in devices if device.ping]
    total = len(checks) + len(agents) + len(pinged)
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        for number, each in enumerate(pool.map(lambda check: check(), checks), 1):
            found.append(each)
            tick(number, total)
    if agents:
        from lnmt_scheduler.jobs import snmp  # noqa: PLC0415 (brings asyncio, and needs an extra)

        for answer in snmp.ask(agents, timeout):
            found += answer.observations
            if answer.uptime is not None:
                uptimes[answer.device] = answer.uptime
    if pinged:
        found += _ping(pinged, timeout)
    tick(total, total)
    return Seen(observations=found, uptimes=uptimes)


def _checks(device: inventory.Device, timeout: float) -> list[Callable[[], Observation]]:
    return [
        *((lambda port=port: _connect(device, port, timeout)) for port in device.tcp),
        *(
            (lambda page=page: _fetch(device, page, timeout))
            for page in device.http
            if isinstance(page, inventory.Http)
        ),
    ]


def _connect(device: inventory.Device, port: int, timeout: float) -> Observation:
    what = f"tcp {port}"
    began = time.monotonic()
    try:
        socket.create_connection((device.address, port), timeout).close()
    except OSError as error:
        return Observation(device=device.name, what=what, good=False, why=_words(error))
    return Observation(device=device.name, what=what, good=True, milliseconds=_since(began))


def _fetch(device: inventory.Device, page: inventory.Http, timeout: float) -> Observation:
    began = time.monotonic()
    try:
        status, body = _get(page, timeout)
    except (OSError, http.client.HTTPException, ValueError) as error:
        return Observation(device=device.name, what=page.url, good=False, why=_words(error))
    took = _since(began)
    why = ""
    if status not in page.status if page.status else not 200 <= status < 400:
        why = f"answers {status}"
    elif page.words and page.words.encode() not in body:
        why = f"does not say {page.words!r:.80}"
    return Observation(device=device.name, what=page.url, good=not why, why=why, milliseconds=took)


def _get(page: inventory.Http, timeout: float) -> tuple[int, bytes]:
    """Status and the beginning of the body. A server that goes on forever, a byte at a time, is hung up on."""
    parts = parse.urlsplit(page.url)
    if parts.hostname is None:
        raise ValueError("the address has no host")
    if parts.scheme == "https":
        trust = ssl.create_default_context()
        if not page.verify:
            trust.check_hostname, trust.verify_mode = False, ssl.CERT_NONE
        connection: http.client.HTTPConnection = http.client.HTTPSConnection(
            parts.hostname, parts.port, timeout=timeout, context=trust
        )
    else:
        connection = http.client.HTTPConnection(parts.hostname, parts.port, timeout=timeout)
    late = threading.Event()

    def hang_up() -> None:
        late.set()
        try:
            connection.sock.shutdown(socket.SHUT_RDWR)
        except (OSError, AttributeError):
            pass  # it has ended by itself

    timer = threading.Timer(timeout, hang_up)
    timer.daemon = True
    try:
        connection.connect()
        timer.start()
        connection.request("GET", f"{parts.path or '/'}{'?' if parts.query else ''}{parts.query}")
        answer = connection.getresponse()
        page_begins = answer.read(_PAGE_LIMIT)
    except (OSError, http.client.HTTPException):
        if late.is_set():
            raise TimeoutError from None
        raise
    finally:
        timer.cancel()
        connection.close()
    if late.is_set():
        raise TimeoutError
    return answer.status, page_begins


def _ping(devices: Sequence[inventory.Device], timeout: float) -> list[Observation]:
    with needs.extra("net"):
        import icmplib  # type: ignore[import-untyped]  # noqa: PLC0415 (an extra; ships no types)
    _may_ping()
    with futures.ThreadPoolExecutor(_THREADS) as pool:
        resolved = list(zip(devices, pool.map(_resolve, devices), strict=True))
    found = [
        Observation(device=device.name, what="ping", good=False, why="no such host")
        for device, address in resolved
        if address is None
    ]
    # The library sends all of one call the same number of echos.
    wishes: dict[int, list[tuple[inventory.Device, inventory.Ping, str]]] = {}
    for device, address in resolved:
        if address is not None:
            wish = device.ping if isinstance(device.ping, inventory.Ping) else inventory.Ping()
            wishes.setdefault(wish.count, []).append((device, wish, address))
    for count, group in wishes.items():
        hosts = icmplib.multiping(
            [address for _, _, address in group], count=count, interval=0.2, timeout=timeout, concurrent_tasks=_PINGED,
            privileged=False,
        )  # fmt: skip
        found += [_heard(device, wish, host) for (device, wish, _), host in zip(group, hosts, strict=True)]
    return found


def _heard(device: inventory.Device, wish: inventory.Ping, host: "icmplib.Host") -> Observation:  # type: ignore[name-defined]  # noqa: F821 (lazy)
    # Of echos that could not even be sent the library says that none was lost.
    loss = round(100 * (1 - min(host.packets_received / wish.count, 1)), 1)
    took = round(host.avg_rtt, 3) if host.is_alive else None
    why = ""
    if loss > wish.max_loss or took is None:
        why = f"{loss:g} % lost"
    elif wish.max_ms is not None and took > wish.max_ms:
        why = f"takes {took:g} ms"
    return Observation(device=device.name, what="ping", good=not why, why=why, milliseconds=took, loss=loss)


def _may_ping() -> None:
    """Whether the kernel lets this group send echos without privileges (icmp(7)); else the job ends with the mend."""
    try:
        socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP).close()
    except PermissionError:
        needs.end(
            f"ICMP echo is not allowed to group {os.getegid()}; allow it: sysctl -w net.ipv4.ping_group_range='0 2147483647'"
            f" ({_PING_RANGE}), or say `ping = false` in the inventory",
            needs.UNAVAILABLE,
        )


def _resolve(device: inventory.Device) -> str | None:
    try:
        return str(socket.getaddrinfo(device.address, None, type=socket.SOCK_DGRAM)[0][4][0])
    except (OSError, UnicodeError):
        return None


def _since(began: float) -> float:
    return round((time.monotonic() - began) * 1000, 3)


def _words(error: Exception) -> str:
    if isinstance(error, TimeoutError):
        return "timed out"
    if isinstance(error, socket.gaierror):
        return "no such host"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror[:200].lower()
    return shown.text(f"{type(error).__name__}: {error}")
