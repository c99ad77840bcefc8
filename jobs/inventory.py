"""The devices of a network and what is to be looked at on each: a file of JSON or TOML, or a list in the job's arguments.

Read inside the box by the jobs that need it. Everything in it is checked before anything is done, with the place of what is
wrong; how long the file, how many the devices and how many their checks may be is capped here.
"""

import json
import tomllib
from collections.abc import Sequence
from typing import Annotated, Any, Literal

import msgspec
from msgspec import Meta

from lnmt_scheduler.jobs import keep, needs

_FILE_LIMIT = 4 * 1024 * 1024
_DEVICES_MAX = 2000

Name = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,63}$")]
Address = Annotated[str, Meta(pattern=r"^[A-Za-z0-9][A-Za-z0-9._:-]{0,252}$")]
#: The path of a file, or the name of one of the job's secrets.
Secret = Annotated[str, Meta(pattern=r"^(/[^\x00]{0,4000}|[A-Za-z0-9][A-Za-z0-9._-]{0,31})$")]
Port = Annotated[int, Meta(ge=1, le=65535)]
Text = Annotated[str, Meta(max_length=1000)]


class Checked(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of the inventory; keys that it does not have are mistakes."""


class Ping(Checked, frozen=True):
    """ICMP echo: so many, and what of it is still well."""

    count: Annotated[int, Meta(ge=1, le=20)] = 4
    #: Percent.
    max_loss: Annotated[float, Meta(ge=0, lt=100)] = 50
    #: Mean round trip, in milliseconds; null: any.
    max_ms: Annotated[float, Meta(gt=0)] | None = None


class Http(Checked, frozen=True):
    """A page that is to be served."""

    url: Annotated[str, Meta(pattern=r"^https?://[\x21-\x7e]{1,2000}$")]
    #: Codes that are well; empty: 200 to 399.
    status: Annotated[list[Annotated[int, Meta(ge=100, le=599)]], Meta(max_length=50)] = []
    #: What its first 64 KiB are to hold.
    words: Text = ""
    #: Whether the certificate of https must be one that this host trusts.
    verify: bool = True


class Snmp(Checked, frozen=True):
    """An agent: it is to answer, it tells of restarts, and its interfaces that are switched on are to be up."""

    version: Literal["2c", "3"] = "2c"
    port: Port = 161
    #: Of 2c; the file's first line goes before.
    community: Text = "public"
    community_file: Secret | None = None
    #: Of 3. Without an authentication key nothing is signed, without a privacy key nothing is enciphered.
    user: Text = ""
    authentication: Literal["MD5", "SHA", "SHA224", "SHA256", "SHA384", "SHA512"] = "SHA"
    authentication_key_file: Secret | None = None
    privacy: Literal["DES", "AES", "AES192", "AES256"] = "AES"
    privacy_key_file: Secret | None = None
    interfaces: bool = True


class Device(Checked, frozen=True):
    name: Name
    address: Address
    ping: bool | Ping = True
    tcp: Annotated[list[Port], Meta(max_length=50)] = []
    http: Annotated[list[str | Http], Meta(max_length=20)] = []
    snmp: Snmp | None = None


def load(path: str) -> list[Device]:
    """The devices of a file; the job ends with one line if there is something wrong with it."""
    try:
        data = keep.read_bytes(path, _FILE_LIMIT)
        found = tomllib.loads(data.decode()) if path.endswith(".toml") else json.loads(data)
    except OSError as error:
        needs.end(f"the inventory {path!r} cannot be read: {error.strerror}")
    except (ValueError, RecursionError) as error:
        needs.end(f"the inventory {path!r} cannot be used: {error}")
    if not isinstance(found, dict) or not isinstance(found.get("devices"), list):
        needs.end(f"the inventory {path!r} has no list `devices`")
    unknown = sorted(set(found) - {"devices", "defaults"})
    if unknown:
        needs.end(f"the inventory {path!r} has the unknown key {unknown[0]!r}; it may have `devices` and `defaults`")
    defaults = found.get("defaults", {})
    if not isinstance(defaults, dict):
        needs.end(f"the inventory {path!r}: `defaults` is no map")
    return check([{**defaults, **each} if isinstance(each, dict) else each for each in found["devices"]], path)


def check(devices: Sequence[Any], where: str = "devices") -> list[Device]:
    """The same for devices that are there already."""
    if not 0 < len(devices) <= _DEVICES_MAX:
        needs.end(f"{where} has {len(devices)} devices; 1 to {_DEVICES_MAX} are allowed")
    found = []
    names = set()
    for number, each in enumerate(devices):
        try:
            device = msgspec.convert(each, Device)
            urls = [msgspec.convert({"url": page}, Http) if isinstance(page, str) else page for page in device.http]
        except msgspec.ValidationError as error:
            name = each.get("name", "") if isinstance(each, dict) else ""
            needs.end(f"{where}, device {number + 1} {name!r:.80}: {error}")
        if device.name in names:
            needs.end(f"{where}: two devices are named {device.name!r}")
        for what, checks in (("port", device.tcp), ("address", [page.url for page in urls])):
            if len(set(checks)) != len(checks):
                needs.end(f"{where}, device {device.name!r}: the same {what} twice; each is one check with one state")
        names.add(device.name)
        found.append(msgspec.structs.replace(device, http=urls))
    return found


def secret(name: str) -> str:
    """The first line of a secret of at most 4 KiB; the job ends with one line that does not hold it, if there is none."""
    path = name if name.startswith("/") else needs.secret_file(name)
    try:
        lines = keep.read_bytes(path, 4096).decode().splitlines()
    except (OSError, ValueError) as error:
        needs.end(f"the secret {name!r} cannot be read: {getattr(error, 'strerror', None) or 'not UTF-8, or too long'}")
    if not lines or not lines[0]:
        needs.end(f"the secret {name!r} is empty")
    return lines[0]
