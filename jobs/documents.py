"""A file of a person's to a map: JSON or TOML, or one error that says where it is wrong.

Read by whichever process takes in a file: the supervisor (jobs.d, config.toml), schedctl (import, validate). Trusts
nothing of it: size, encoding, nesting and numbers are bounded, and a name that appears twice is an error (json alone
would take the last). It knows no key and no job.
"""

import json
import math
import os
import re
import stat
import tomllib
from collections.abc import Iterator
from typing import Any

#: No honest file nests deeper. json and tomllib recurse, and end by RecursionError somewhere above.
_DEPTH = 200
_TOKEN = re.compile(r'("[^"\\]*(?:\\.[^"\\]*)*")(\s*:)?|[\[\]{}]|[^\s,:\[\]{}"]+', re.DOTALL)


class Unreadable(ValueError):  # noqa: N818 - it says what the file is
    """The file is not taken; the text says why and, where it can, on which line. It does not name the file."""


def read(path: str, *, limit: int, private: bool = False, kind: str | None = None) -> dict[str, Any]:
    """The map that the file holds, as `kind` json or toml, which its suffix says else. Raises Unreadable.

    A file of more than `limit` bytes is refused; with `private` also one that others than root and the caller's uid may
    write to.
    """
    if kind is None:
        kind = path.rpartition(".")[2]
    if kind not in {"json", "toml"}:
        raise Unreadable("its name must end in .json or .toml")
    text = _decode(_read_bytes(path, limit, private=private))
    document = _parse_toml(text) if kind == "toml" else _parse_json(text)
    if not isinstance(document, dict):
        raise Unreadable("must hold a map at the top, not " + ("a list" if isinstance(document, list) else "a value"))
    return document


def _read_bytes(path: str, limit: int, *, private: bool) -> bytes:
    try:
        # O_NONBLOCK: a FIFO of that name must not hold up whoever reads it.
        with open(os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK), "rb") as file:
            status = os.fstat(file.fileno())
            if not stat.S_ISREG(status.st_mode):
                raise Unreadable("is not a regular file")
            if private:
                _refuse_foreign(status)
            data = file.read(limit + 1)
    except OSError as error:
        raise Unreadable(f"cannot be read: {error.strerror}") from error
    if len(data) > limit:
        raise Unreadable(f"has more than {limit} bytes; split it")
    return data


def _refuse_foreign(status: os.stat_result) -> None:
    if status.st_uid not in (0, os.geteuid()):
        raise Unreadable(f"belongs to uid {status.st_uid}, who could change it at any time; chown it to root")
    if status.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise Unreadable("can be written by others than its owner; chmod go-w")


def _decode(data: bytes) -> str:
    if data.startswith(b"\xef\xbb\xbf"):
        raise Unreadable("line 1: starts with a byte order mark; save it as UTF-8 without one")
    if data.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in data[:4]:
        raise Unreadable("line 1: is not UTF-8 but looks like UTF-16; save it as UTF-8")
    try:
        return data.decode()
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise Unreadable(f"line {line}: is not UTF-8 (byte 0x{data[error.start]:02x})") from None


def _parse_toml(text: str) -> object:
    try:
        return tomllib.loads(text)
    except RecursionError:
        raise Unreadable("is nested too deeply") from None
    except ValueError as error:
        raise Unreadable(f"is not valid TOML: {error}") from None


class _RefusedError(Exception):
    """A hook met what _offences will name with its line."""


def _parse_json(text: str) -> object:
    try:
        return json.loads(text, object_pairs_hook=_unique, parse_constant=_refuse, parse_float=_finite)
    except json.JSONDecodeError as error:
        raise Unreadable(f"line {error.lineno}: is not valid JSON: {error.msg} (column {error.colno})") from None
    except (_RefusedError, RecursionError, ValueError):
        position, what = next(_offences(text))
        raise Unreadable(f"line {text.count(chr(10), 0, position) + 1}: {what}") from None


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) < len(pairs):
        raise _RefusedError
    return values


def _refuse(_constant: str) -> None:
    raise _RefusedError


def _finite(text: str) -> float:
    number = float(text)
    if math.isinf(number):
        raise _RefusedError
    return number


def _offences(text: str) -> Iterator[tuple[int, str]]:
    """Where and what: whatever a hook of json refuses, found again, because a hook is not told its place."""
    # One entry for each open bracket: the names of an object so far, or None for a list.
    open_brackets: list[set[str] | None] = []
    for token in _TOKEN.finditer(text):
        word = token[0]
        match word[0]:
            case '"':
                if token[2] and open_brackets and (names := open_brackets[-1]) is not None:
                    name = json.loads(token[1])
                    if name in names:
                        yield token.start(), f"the key {name!r} appears twice"
                    names.add(name)
            case "{" | "[":
                open_brackets.append(set() if word == "{" else None)
                if len(open_brackets) > _DEPTH:
                    yield token.start(), "is nested too deeply"
            case "}" | "]":
                open_brackets.pop()
            case _ if word in {"NaN", "Infinity", "-Infinity"}:
                yield token.start(), f"{word} is no number of JSON"
            case _ if word.removeprefix("-").isdigit():
                try:
                    int(word)
                except ValueError:  # Python's own limit, 4300 digits
                    yield token.start(), "a number has too many digits"
            case _ if word not in {"true", "false", "null"} and math.isinf(float(word)):
                yield token.start(), f"the number {word} is too large"
    # A RecursionError that was the caller's own depth, not the file's.
    yield len(text), "is nested too deeply"
