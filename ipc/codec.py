"""Values and messages to msgpack and back; every process of the daemon uses it, on bytes that others wrote.

Only the plain values of msgpack travel: None, bool, int of 64 bits, float, str, bytes, lists, and maps whose keys are
str, each once. No extension types, no timestamps. At most MAX_DEPTH containers lie in each other, and that is known
before msgpack builds anything: its own decoder allows a thousand, which code that walks the value would not survive.
A message is [tag, {field: value}], the tag being its class's name in lower case; what comes in is held against the
annotations of the class, so that whoever receives a message need not ask again whether a number is one.

Whatever is wrong with the bytes, the error is ProtocolError. Nothing here knows where they came from or what they mean.
"""

import contextlib
import dataclasses
import functools
import types
import typing

import msgpack  # type: ignore[import-untyped]  # it carries no types

MAX_DEPTH = 32


class ProtocolError(ValueError):
    """Bytes that are no message of ours, or a value that cannot be one; the text says what is wrong with it."""


def pack(value: object, max_depth: int = MAX_DEPTH) -> bytes:
    """Return the msgpack of `value`, which unpack takes for certain.

    ProtocolError names the type that cannot be carried: sets, objects, ints beyond 64 bits, keys that are no str, and
    whatever is nested deeper than max_depth or holds itself. Tuples become lists.
    """
    try:
        data: bytes = msgpack.packb(value, default=_refuse)
    except ProtocolError:
        raise
    except UnicodeEncodeError:
        raise ProtocolError("a str that UTF-8 cannot encode (lone surrogates)") from None
    except (ValueError, BufferError) as error:
        # The packer gives up at its own depth, far beyond ours; this is also how a list that holds itself ends.
        reason = f"nested deeper than {max_depth}" if "recursion" in str(error) else str(error)
        raise ProtocolError(reason) from None
    # What the packer lets through and the other end refuses (depth, keys, extension types) is better refused here.
    unpack(data, max_depth)
    return data


def unpack(data: bytes, max_depth: int = MAX_DEPTH) -> object:
    """Return the one value that `data` holds, or raise ProtocolError.

    Memory stays within a hundred times len(data) (a list of empty maps): no container takes room for more than comes.
    """
    _check(data, max_depth)
    try:
        return msgpack.unpackb(data, strict_map_key=False, object_pairs_hook=_map)
    except ProtocolError:
        raise
    except UnicodeDecodeError:
        raise ProtocolError("a str that is not valid UTF-8") from None
    except msgpack.ExtraData:
        raise ProtocolError("bytes after the end of the value") from None
    except ValueError as error:
        raise ProtocolError(f"not msgpack: {str(error) or type(error).__name__}") from None


def encode(message: object) -> bytes:
    """Return the bytes of a message (an instance of a dataclass); ProtocolError if a value in it cannot be carried.

    A field that has its default stays at home: whoever does not know it yet need not see it.
    """
    cls: type = type(message)
    shape = _shape(cls)
    values = {name: getattr(message, name) for name in shape.hints}
    return pack(
        [cls.__name__.lower(), {name: value for name, value in values.items() if not shape.is_default(name, value)}]
    )


def decode(data: bytes, allowed: tuple[type, ...], *, lenient: bool = False) -> object:
    """Return the message that `data` holds, an instance of one of the `allowed` dataclasses.

    ProtocolError names the tag or field that is unknown, missing (a field with a default may be) or of the wrong type.
    Lenient, it leaves fields that it does not know, and is None for such a message: the other end may be younger.
    """
    match unpack(data):
        case [str(tag), dict(values)]:
            pass
        case _:
            raise ProtocolError("not of the form [tag, fields]")
    cls = _by_tag(allowed).get(tag)
    if cls is None:
        if lenient:
            return None
        raise ProtocolError(f"unknown message {tag[:_SHOWN]!r}")
    shape = _shape(cls)
    for name in values.keys() - shape.hints.keys():
        if lenient:
            del values[name]
            continue
        raise ProtocolError(f"{tag}: unknown field {name[:_SHOWN]!r}")
    for name in shape.required - values.keys():
        raise ProtocolError(f"{tag}: field {name} is missing")
    for name, value in values.items():
        try:
            values[name] = _fit(value, shape.hints[name])
        except TypeError as error:
            raise ProtocolError(f"{tag}: field {name}: {error}") from None
    message: object = cls(**values)
    return message


#: Characters of a peer's own words that an error repeats.
_SHOWN = 40


@dataclasses.dataclass(frozen=True, slots=True)
class _Shape:
    #: Field -> what its annotation stands for.
    hints: dict[str, object]
    #: Fields without a default.
    required: frozenset[str]
    defaults: dict[str, object]

    def is_default(self, name: str, value: object) -> bool:
        return name in self.defaults and self.defaults[name] == value and type(self.defaults[name]) is type(value)


@functools.cache
def _shape(cls: type) -> _Shape:
    hints = typing.get_type_hints(cls)
    fields = dataclasses.fields(cls)
    missing = dataclasses.MISSING
    defaults: dict[str, object] = {f.name: f.default for f in fields if f.default is not missing}
    defaults |= {f.name: f.default_factory() for f in fields if f.default_factory is not missing}
    required = {f.name for f in fields} - defaults.keys()
    return _Shape({f.name: hints[f.name] for f in fields}, frozenset(required), defaults)


@functools.cache
def _by_tag(allowed: tuple[type, ...]) -> dict[str, type]:
    return {cls.__name__.lower(): cls for cls in allowed}


def _fit(value: object, hint: object) -> object:
    """Return `value` as the annotation wants it (lists become tuples); TypeError if it is something else."""
    if hint is object or type(value) is hint or (hint is float and type(value) is int):
        return value
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        if type(value) in args:
            return value
        for option in args:
            with contextlib.suppress(TypeError):
                return _fit(value, option)
    elif origin is dict and isinstance(value, dict):
        return {key: _fit(item, args[1]) for key, item in value.items()}
    elif origin is tuple and isinstance(value, list):
        kinds = args[:1] * len(value) if args[1:] == (...,) else args
        if len(kinds) == len(value):
            return tuple(map(_fit, value, kinds))
    expected = hint.__name__ if isinstance(hint, type) and origin is None else hint
    raise TypeError(f"{expected} expected, not {type(value).__name__}")


def _refuse(value: object) -> typing.NoReturn:
    if isinstance(value, int):
        raise ProtocolError("an int beyond 64 bits")
    raise ProtocolError(f"a value of type {type(value).__qualname__}")


def _map(pairs: list[tuple[object, object]]) -> dict[str, object]:
    # Only str: crafted ints collide at will in a dict, str hashes are salted. Looked at before anything is hashed.
    for key, _ in pairs:
        if type(key) is not str:
            raise ProtocolError(f"a map key of type {type(key).__name__}, only str is allowed")
    value = typing.cast("dict[str, object]", dict(pairs))
    if len(value) != len(pairs):
        raise ProtocolError("a map with the same key twice")
    return value


# What the first byte of a value says (the format's specification has the same table).


def _fixed_width(first: int) -> int:
    """Bytes that a value takes, if its first byte alone decides that; else 0."""
    match first:
        case 0xCA | 0xCE | 0xD2:
            return 5
        case 0xCB | 0xCF | 0xD3:
            return 9
        case 0xCC | 0xD0:
            return 2
        case 0xCD | 0xD1:
            return 3
        case 0xC0 | 0xC2 | 0xC3:
            return 1
        case _ if first <= 0x7F or first >= 0xE0:
            return 1
        case _ if 0xA0 <= first <= 0xBF:
            return 1 + (first & 0x1F)
        case _:
            return 0


_WIDTHS = [_fixed_width(first) for first in range(256)]
#: str and bytes: bytes of the length that follows.
_LENGTHS = {0xC4: 1, 0xC5: 2, 0xC6: 4, 0xD9: 1, 0xDA: 2, 0xDB: 4}
#: Arrays and maps of up to 15 elements: the values in them (a map has two an element); -1: another kind of value.
_SHORT = [-1] * 0x80 + [2 * count for count in range(16)] + [*range(16)] + [-1] * 0x60
#: Longer arrays and maps: bytes of the count that follows, values an element.
_LONG = {0xDC: (2, 1), 0xDD: (4, 1), 0xDE: (2, 2), 0xDF: (4, 2)}
#: What may open a container, but none of more than 65,535 elements; and what else needs a closer look.
_SMALL = bytes([*range(0x80, 0xA0), 0xDC, 0xDE])
_HARMLESS = bytes(set(range(256)) - {*_SMALL, 0xDD, 0xDF, 0xC7, 0xC8, 0xC9, *range(0xD4, 0xD9)})


def _check(data: bytes, max_depth: int) -> None:
    """Refuse extension types, what is nested too deeply, and large claims without the bytes; build nothing for it."""
    # Nearly every message ends here: so few bytes could open a container that wherever they are, none lies too deep.
    suspicious = data.translate(None, _HARMLESS)
    if len(suspicious) <= max_depth and not suspicious.translate(None, _SMALL):
        return
    # One look at each value. Its worst case, a frame of nothing but the smallest containers, is why this is one loop.
    size = len(data)
    position = 0
    # Values still to come in the innermost container, and in those around it.
    left, outer = 1, list[int]()
    while position < size:
        if not left:
            if not outer:
                return
            left = outer.pop()
            continue
        left -= 1
        first = data[position]
        if width := _WIDTHS[first]:
            position += width
            continue
        if first in _LENGTHS:
            width = _LENGTHS[first]
            position += 1 + width
            position += int.from_bytes(data[position - width : position], "big")
            continue
        count = _SHORT[first]
        if count >= 0:
            position += 1
        elif first in _LONG:
            width, each = _LONG[first]
            position += 1 + width
            count = each * int.from_bytes(data[position - width : position], "big")
            # msgpack takes room for all of them at once, in each of the nested ones.
            if width == 4 and count + left + sum(outer) > size - position:
                raise ProtocolError("an array or map longer than the bytes that are there")
        else:
            raise ProtocolError("an extension type or a reserved byte")
        if len(outer) >= max_depth:
            raise ProtocolError(f"nested deeper than {max_depth}")
        if count:
            outer.append(left)
            left = count
    # Cut off in the middle, perhaps: the decoder says so.
