"""Ask SNMP agents for how long they have been up and which of their interfaces are, many at the same time.

pysnmp speaks the protocol; versions 2c and 3. Answers come by UDP from whoever likes to send them, so how many interfaces
one may have and how long their names are is capped, and each agent has a bound on its time as a whole.
"""

import asyncio
import time
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from lnmt_scheduler.jobs import inventory, needs, probes, shown

with needs.extra("net"):
    from pysnmp.hlapi.v3arch import asyncio as protocol  # type: ignore[import-untyped]  # ships none

_TOGETHER = 50
_INTERFACES_MAX = 512
_UPTIME = "1.3.6.1.2.1.1.3.0"
_NAME, _WANTED, _STATUS = "1.3.6.1.2.1.2.2.1.2", "1.3.6.1.2.1.2.2.1.7", "1.3.6.1.2.1.2.2.1.8"
_UP = 1

_AUTHENTICATION = {
    "MD5": protocol.usmHMACMD5AuthProtocol,
    "SHA": protocol.usmHMACSHAAuthProtocol,
    "SHA224": protocol.usmHMAC128SHA224AuthProtocol,
    "SHA256": protocol.usmHMAC192SHA256AuthProtocol,
    "SHA384": protocol.usmHMAC256SHA384AuthProtocol,
    "SHA512": protocol.usmHMAC384SHA512AuthProtocol,
}
_PRIVACY = {
    "DES": protocol.usmDESPrivProtocol,
    "AES": protocol.usmAesCfb128Protocol,
    "AES192": protocol.usmAesCfb192Protocol,
    "AES256": protocol.usmAesCfb256Protocol,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    device: str
    observations: list[probes.Observation]
    #: When it answered, in seconds since the epoch, and for how many hundredths of a second it was up then.
    uptime: tuple[float, int] | None = None


class NoAnswerError(Exception):
    """What the agent did instead."""


def ask(devices: Iterable[inventory.Device], timeout: float) -> list[Answer]:
    """Ask all of them; `timeout` is in seconds, for each answer."""
    return asyncio.run(_ask_all(list(devices), timeout))


async def _ask_all(devices: Sequence[inventory.Device], timeout: float) -> list[Answer]:  # noqa: ASYNC109 (for each answer)
    room = asyncio.Semaphore(_TOGETHER)
    # An engine knows one key of each user, and devices may have a user of the same name with keys of their own.
    engines: dict[tuple[Any, ...], Any] = {}

    async def one(device: inventory.Device) -> Answer:
        async with room:
            key = _identity(device.snmp)
            if key not in engines:
                engines[key] = protocol.SnmpEngine()
            return await _ask(engines[key], device, timeout)

    try:
        return await asyncio.gather(*(one(device) for device in devices))
    finally:
        for engine in engines.values():
            engine.close_dispatcher()


def _identity(wish: inventory.Snmp | None) -> tuple[Any, ...]:
    if wish is None or wish.version == "2c":
        return ()
    return (wish.user, wish.authentication, wish.authentication_key_file, wish.privacy, wish.privacy_key_file)


async def _ask(engine: Any, device: inventory.Device, timeout: float) -> Answer:  # noqa: ASYNC109 (for each answer)
    wish = device.snmp
    assert wish is not None
    began = asyncio.get_running_loop().time()
    try:
        # A walk is many answers; an agent that makes each of them late is bad, and may not hold up the others.
        async with asyncio.timeout(timeout * 10):
            target = await protocol.UdpTransportTarget.create((device.address, wish.port), timeout=timeout, retries=1)
            session = (engine, _credentials(wish), target, protocol.ContextData())
            uptime = await _get(session, _UPTIME)
            heard = time.time()
            took = round((asyncio.get_running_loop().time() - began) * 1000, 3)
            interfaces = await _interfaces(session) if wish.interfaces else []
    except NoAnswerError as error:
        return _silent(device, str(error))
    except TimeoutError:
        return _silent(device, f"no end of its answer within {timeout * 10:g} s")
    except Exception as error:  # whatever a library makes of bytes from outside is that device's matter alone
        return _silent(device, shown.text(f"{type(error).__name__}: {error}"))
    agent = probes.Observation(device=device.name, what="snmp", good=True, milliseconds=took)
    return Answer(
        device=device.name,
        uptime=(heard, uptime),
        observations=[
            agent,
            *(
                probes.Observation(device=device.name, what=f"interface {name}", good=up, why="" if up else "down")
                for name, up in interfaces
            ),
        ],
    )


def _silent(device: inventory.Device, why: str) -> Answer:
    return Answer(
        device=device.name, observations=[probes.Observation(device=device.name, what="snmp", good=False, why=why)]
    )


def _credentials(wish: inventory.Snmp) -> Any:
    if wish.version == "2c":
        community = inventory.secret(wish.community_file) if wish.community_file else wish.community
        return protocol.CommunityData(community, mpModel=1)
    keys: dict[str, Any] = {}
    if wish.authentication_key_file:
        keys |= {
            "authKey": inventory.secret(wish.authentication_key_file),
            "authProtocol": _AUTHENTICATION[wish.authentication],
        }
    if wish.privacy_key_file:
        keys |= {"privKey": inventory.secret(wish.privacy_key_file), "privProtocol": _PRIVACY[wish.privacy]}
    return protocol.UsmUserData(wish.user, **keys)


async def _get(session: tuple[Any, ...], oid: str) -> int:
    problem, status, _, rows = await protocol.get_cmd(
        *session, protocol.ObjectType(protocol.ObjectIdentity(oid)), lookupMib=False
    )
    if problem or int(status or 0):
        raise NoAnswerError(_words(problem or status))
    return int(rows[0][1])


async def _interfaces(session: tuple[Any, ...]) -> list[tuple[str, bool]]:
    """Name of each interface that is switched on, and whether it is up."""
    wanted = await _column(session, _WANTED)
    status = await _column(session, _STATUS)
    names = await _column(session, _NAME)
    found: dict[str, bool] = {}
    for index, value in wanted.items():
        if int(value) == _UP and index in status:
            name = shown.text(names.get(index, ""), 64).strip()
            # Devices exist that give several the same name.
            name = name if name and name not in found else f"{name} #{index}".strip()
            found[name] = int(status[index]) == _UP
    return list(found.items())


async def _column(session: tuple[Any, ...], oid: str) -> dict[str, Any]:
    found: dict[str, Any] = {}
    walk = protocol.bulk_walk_cmd(
        *session, 0, 25, protocol.ObjectType(protocol.ObjectIdentity(oid)), lookupMib=False, lexicographicMode=False
    )
    async for problem, status, _, rows in walk:
        if problem or int(status or 0):
            raise NoAnswerError(_words(problem or status))
        for name, value in rows:
            found[str(name).removeprefix(f"{oid}.")] = value
        if len(found) >= _INTERFACES_MAX:
            break
    await walk.aclose()
    return found


def _words(problem: object) -> str:
    said = str(problem)
    return "timed out" if "before timeout" in said else shown.text(said).lower()
