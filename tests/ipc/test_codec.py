"""codec.py: what is packed comes back, and no bytes whatever do anything but that or ProtocolError."""

import contextlib
import dataclasses
import datetime as dt
import math
import struct
import subprocess
import sys
import tracemalloc
import types
import typing

import msgpack
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lnmt_scheduler.ipc import codec, frames, messages

scalars = (
    st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text() | st.binary()
)
values = st.recursive(scalars, lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner), max_leaves=20)
EVERY_MESSAGE = (*messages.TO_LAUNCHER, *messages.TO_SUPERVISOR, *messages.REPORT)


def of(hint):
    """A strategy for the values that an annotation stands for."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    simple = {
        int: st.integers(-(2**63), 2**64 - 1),
        float: st.floats(allow_nan=False) | st.integers(-(2**53), 2**53),
        str: st.text(),
        bytes: st.binary(),
        bool: st.booleans(),
        object: values,
        types.NoneType: st.none(),
    }
    if origin is types.UnionType:
        return st.one_of(*map(of, args))
    if origin is dict:
        return st.dictionaries(of(args[0]), of(args[1]))
    if origin is tuple:
        return st.lists(of(args[0])).map(tuple) if args[1:] == (...,) else st.tuples(*map(of, args))
    return simple[hint]


def matches(value, hint):
    """Whether a decoded value is what an annotation stands for, by the standard library's own isinstance."""
    origin, args = typing.get_origin(hint), typing.get_args(hint)
    if origin is types.UnionType:
        return any(matches(value, option) for option in args)
    if origin is dict:
        return isinstance(value, dict) and all(matches(item, args[1]) for item in value.values())
    if origin is tuple and args[1:] == (...,):
        return isinstance(value, list) and all(matches(item, args[0]) for item in value)
    if origin is tuple:
        return isinstance(value, list) and len(value) == len(args) and all(map(matches, value, args))
    if isinstance(value, bool):
        return hint in (bool, object)
    return isinstance(value, (int, float) if hint is float else hint)


def instances(cls):
    hints = typing.get_type_hints(cls)
    return st.builds(cls, **{field.name: of(hints[field.name]) for field in dataclasses.fields(cls)})


def nested(depth, innermost=b"\x00", head=b"\x91"):
    return head * depth + innermost


def wrapped(depth):
    value = 0
    for _ in range(depth):
        value = [value]
    return value


def refused(data, match):
    with pytest.raises(codec.ProtocolError, match=match):
        codec.unpack(data)


# Values


@given(values)
@example(wrapped(32))
@example({"": {"a": []}, "b": [{}]})
def test_a_plain_value_comes_back_as_it_was(value):
    assert codec.unpack(codec.pack(value)) == value


def test_nan_and_infinities_are_values():
    back = codec.unpack(codec.pack([math.nan, math.inf, -math.inf]))
    assert math.isnan(back[0])
    assert back[1:] == [math.inf, -math.inf]


def test_a_tuple_becomes_a_list_and_an_enum_of_ints_its_number():
    assert codec.unpack(codec.pack((1, (2,), subprocess.signal.SIGTERM))) == [1, [2], 15]


@given(st.binary(max_size=300))
@example(b"\x92\x01\x81\xa1k\xc3")
def test_garbage_is_a_value_or_a_protocol_error(garbage):
    with contextlib.suppress(codec.ProtocolError):
        value = codec.unpack(garbage)
        assert repr(codec.unpack(codec.pack(value))) == repr(value)


@given(values, st.data())
def test_a_value_that_is_cut_off_is_refused(value, data):
    packed = codec.pack(value)
    with pytest.raises(codec.ProtocolError):
        codec.unpack(packed[: data.draw(st.integers(0, len(packed) - 1))])


@given(values, st.binary(min_size=1, max_size=5))
def test_bytes_after_the_value_are_refused(value, more):
    refused(codec.pack(value) + more, "after the end|reserved|nested|longer")


#: Every kind of value that the format knows, as bytes with a depth of one container at most.
every_head = st.one_of(
    st.sampled_from([bytes([first]) for first in (0, 0x7F, 0xC0, 0xC2, 0xC3, 0xE0, 0xFF)]),
    st.tuples(
        st.sampled_from([(0xCA, 4), (0xCB, 8), (0xCC, 1), (0xCD, 2), (0xCE, 4), (0xCF, 8)]), st.binary(min_size=8)
    ).map(lambda drawn: bytes([drawn[0][0]]) + drawn[1][: drawn[0][1]]),
    st.tuples(st.sampled_from([(0xD0, 1), (0xD1, 2), (0xD2, 4), (0xD3, 8)]), st.binary(min_size=8)).map(
        lambda drawn: bytes([drawn[0][0]]) + drawn[1][: drawn[0][1]]
    ),
    st.tuples(st.sampled_from([(0xC4, "B"), (0xC5, "H"), (0xC6, "I")]), st.binary(max_size=40)).map(
        lambda drawn: bytes([drawn[0][0]]) + struct.pack(">" + drawn[0][1], len(drawn[1])) + drawn[1]
    ),
    st.tuples(st.sampled_from([(0xD9, "B"), (0xDA, "H"), (0xDB, "I")]), st.text(max_size=10).map(str.encode)).map(
        lambda drawn: bytes([drawn[0][0]]) + struct.pack(">" + drawn[0][1], len(drawn[1])) + drawn[1]
    ),
    st.text(max_size=7).map(str.encode).map(lambda text: bytes([0xA0 + len(text)]) + text),
)


def containers(inner):
    """Arrays and maps in every width that the format has, not only the shortest."""

    def array(drawn):
        form, items = drawn
        head = {"fix": bytes([0x90 + len(items)]), "H": b"\xdc", "I": b"\xdd"}[form]
        return head + (b"" if form == "fix" else struct.pack(">" + form, len(items))) + b"".join(items)

    def mapping(drawn):
        form, items = drawn
        head = {"fix": bytes([0x80 + len(items)]), "H": b"\xde", "I": b"\xdf"}[form]
        count = b"" if form == "fix" else struct.pack(">" + form, len(items))
        return head + count + b"".join(b"\xa1" + bytes([97 + n]) + item for n, item in enumerate(items))

    drawn = st.tuples(st.sampled_from(["fix", "H", "I"]), st.lists(inner, max_size=5))
    return drawn.map(array) | drawn.map(mapping)


def depth(value):
    if isinstance(value, dict):
        return 1 + max(map(depth, value.values()), default=0)
    return 1 + max(map(depth, value), default=0) if isinstance(value, list) else 0


@given(st.recursive(every_head, containers, max_leaves=30), st.integers(0, 8))
def test_depth_is_judged_as_the_decoded_value_has_it(packed, limit):
    value = msgpack.unpackb(packed)
    if depth(value) <= limit:
        assert repr(codec.unpack(packed, limit)) == repr(value)
    else:
        with pytest.raises(codec.ProtocolError, match=f"nested deeper than {limit}"):
            codec.unpack(packed, limit)


@pytest.mark.parametrize(
    "head", [b"\x91", b"\x81\xa1k", b"\xdc\0\1", b"\xdd\0\0\0\1", b"\xde\0\1\xa1k", b"\xdf\0\0\0\1\xa1k"]
)
@pytest.mark.parametrize("innermost", [b"\x00", b"\xc4\x64" + b"\x91" * 100])
def test_depth_32_passes_and_33_does_not(head, innermost):
    assert codec.unpack(nested(32, innermost, head))
    refused(nested(33, innermost, head), "nested deeper than 32")


@pytest.mark.parametrize("innermost", [b"\x90", b"\x80", b"\xdc\0\0", b"\xdf\0\0\0\0"])
def test_an_empty_container_is_a_level_too(innermost):
    assert codec.unpack(nested(31, innermost))
    refused(nested(32, innermost), "nested deeper than 32")


def test_bytes_and_text_that_look_like_containers_have_no_depth():
    value = [b"\x91" * 5000, "\u0451" * 5000, b"\xdd\xff\xff\xff\xff" * 50, b"\xc7" * 40]
    assert codec.unpack(codec.pack(value)) == value


@pytest.mark.parametrize("head", [b"\xdd", b"\xdf"])
def test_nested_claims_of_elements_that_never_come_take_no_memory(head):
    data = (head + b"\0\3\0\0") * 30 + bytes(256 * 1024)
    tracemalloc.start()
    try:
        refused(data, "longer than the bytes that are there")
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_list_of_empty_maps_stays_under_a_hundred_times_its_size():
    count = 64 * 1024
    data = b"\xdd" + count.to_bytes(4, "big") + b"\x80" * count
    tracemalloc.start()
    try:
        assert len(codec.unpack(data)) == count
        assert tracemalloc.get_traced_memory()[1] < 100 * len(data)
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    "data",
    [
        b"\xdd\xff\xff\xff\xff",
        b"\xdf\x7f\xff\xff\xff",
        b"\xdb\xff\xff\xff\xff",
        b"\xc6\x7f\xff\xff\xffx",
        b"\xdc\xff\xff",
    ],
)
def test_a_claim_of_gigabytes_is_refused(data):
    refused(data, "longer than|not msgpack")


@pytest.mark.parametrize(
    "value",
    [
        msgpack.ExtType(5, b"x"),
        msgpack.ExtType(5, b"abc"),
        msgpack.ExtType(5, bytes(300)),
        msgpack.ExtType(5, bytes(70_000)),
        msgpack.Timestamp(1),
        msgpack.Timestamp(2**40, 5),
        [1, {"a": msgpack.Timestamp(1, 1)}],
    ],
)
def test_extension_types_and_timestamps_are_refused_both_ways(value):
    refused(msgpack.packb(value), "extension type")
    with pytest.raises(codec.ProtocolError, match="extension type"):
        codec.pack(value)


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "not msgpack"),
        (b"\xc1", "not msgpack"),
        (nested(40, b"\xc1"), "nested"),
        (b"\xdc\x00\x28" + b"\x90" * 39 + b"\xc1", "reserved"),
        (b"\xa2\xff\xfe", "UTF-8"),
        (b"\x81\xa2\xff\xfe\x00", "UTF-8"),
        (b"\xa3\xed\xa0\x80", "UTF-8"),
        (b"\x81\x01\x00", "key of type int"),
        (b"\x81\xc0\x00", "key of type NoneType"),
        (b"\x81\xc4\x01k\x00", "key of type bytes"),
        (b"\x81\x90\x00", "key of type list"),
        (b"\x82\xa1k\x00\xa1k\x01", "same key twice"),
    ],
)
def test_what_is_not_plain_is_refused_with_its_reason(data, reason):
    refused(data, reason)


class Thing:
    pass


def loop():
    value = []
    value.append(value)
    return value


def wide_loop():
    value = {}
    value["a"] = value["b"] = [value, value]
    return value


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ({1, 2}, "a value of type set"),
        ({"a": [Thing()]}, "a value of type Thing"),
        (dt.datetime(2026, 1, 1, tzinfo=dt.UTC), "a value of type datetime"),
        (memoryview(bytes(4))[::2], "not C-contiguous"),
        (1j, "a value of type complex"),
        (2**64, "an int beyond 64 bits"),
        ([-(2**63) - 1], "an int beyond 64 bits"),
        ("\ud800", "lone surrogates"),
        ({"\udcff": 1}, "lone surrogates"),
        ({404: 1}, "key of type int"),
        ({("a", 1): 1}, "key of type list"),
        ({True: 1}, "key of type bool"),
        (wrapped(33), "nested deeper than 32"),
        (wrapped(900), "nested deeper than 32"),
        (loop(), "nested deeper than 32"),
        (wide_loop(), "nested deeper than 32"),
    ],
)
def test_what_cannot_be_carried_is_refused_before_it_is_sent(value, reason):
    with pytest.raises(codec.ProtocolError, match=reason):
        codec.pack(value)


# Messages


@pytest.mark.parametrize("cls", EVERY_MESSAGE)
def test_every_message_comes_back_as_it_was(cls):
    @settings(max_examples=30)
    @given(instances(cls))
    def comes_back(message):
        back = codec.decode(codec.encode(message), EVERY_MESSAGE)
        assert back == message
        assert type(back) is cls

    comes_back()


@pytest.mark.parametrize("cls", EVERY_MESSAGE)
def test_a_message_with_any_value_in_a_field_is_taken_as_annotated_or_refused(cls):
    hints = typing.get_type_hints(cls)

    @settings(max_examples=30)
    @given(instances(cls), st.data())
    def taken_or_refused(message, data):
        tag, fields = codec.unpack(codec.encode(message))
        if not fields:
            return
        name = data.draw(st.sampled_from(sorted(fields)))
        value = data.draw(values)
        packed = codec.pack([tag, fields | {name: value}])
        if matches(value, hints[name]):
            back = codec.decode(packed, (cls,))
            assert codec.decode(codec.encode(back), (cls,)) == back
            given, carried = codec.unpack(packed)[1], codec.unpack(codec.encode(back))[1]
            assert carried == {field: given[field] for field in carried}  # but for what is at its default
        else:
            with pytest.raises(codec.ProtocolError, match=f"^{tag}: field {name}: "):
                codec.decode(packed, (cls,))

    taken_or_refused()


ENDED = {"run_id": 1, "attempt": 2, "cause": "cancelled", "grace": 1.5}


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        (5, r"not of the form \[tag, fields\]"),
        (["end"], "not of the form"),
        (["end", ENDED, 1], "not of the form"),
        ([b"end", ENDED], "not of the form"),
        ([["end"], ENDED], "not of the form"),
        (["end", [1]], "not of the form"),
        (["End", ENDED], "unknown message 'End'"),
        (["result", ENDED], "unknown message 'result'"),
        (["x" * 1000, ENDED], "unknown message 'x{40}'$"),
        (["end", ENDED | {"pid": 1}], "end: unknown field 'pid'"),
        (["end", {"run_id": 1, "attempt": 2, "cause": "x"}], "end: field grace is missing"),
        (["end", ENDED | {"run_id": "1"}], "end: field run_id: int expected, not str"),
        (["end", ENDED | {"run_id": True}], "end: field run_id: int expected, not bool"),
        (["end", ENDED | {"run_id": 1.0}], "end: field run_id: int expected, not float"),
        (["end", ENDED | {"run_id": None}], "end: field run_id: int expected, not NoneType"),
        (["end", ENDED | {"cause": b"x"}], "end: field cause: str expected, not bytes"),
        (["end", ENDED | {"grace": False}], "end: field grace: float expected, not bool"),
    ],
)
def test_a_message_that_is_not_one_is_refused_with_what_is_wrong(value, reason):
    with pytest.raises(codec.ProtocolError, match=reason):
        codec.decode(codec.pack(value), messages.TO_LAUNCHER)


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class Sample:
    pairs: tuple[tuple[int, str], ...] = ()
    texts: dict[str, str] = dataclasses.field(default_factory=dict)
    limit: float | None = None
    flag: bool = False
    anything: object = None


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({}, Sample()),
        ({"limit": 5}, Sample(limit=5)),
        ({"limit": 5.5, "flag": True}, Sample(limit=5.5, flag=True)),
        ({"pairs": [[1, "a"], [2, "b"]], "texts": {"a": "b"}}, Sample(pairs=((1, "a"), (2, "b")), texts={"a": "b"})),
        ({"anything": {"a": [1, b"", None]}}, Sample(anything={"a": [1, b"", None]})),
    ],
)
def test_fields_are_taken_as_annotated(fields, expected):
    assert codec.decode(codec.pack(["sample", fields]), (Sample,)) == expected


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"pairs": [[1, "a", 2]]}, r"pairs: tuple\[int, str\] expected, not list"),
        ({"pairs": [[1]]}, "pairs: tuple"),
        ({"pairs": [["1", "a"]]}, "pairs: int expected, not str"),
        ({"pairs": {"a": 1}}, "pairs: tuple.* expected, not dict"),
        ({"pairs": "ab"}, "pairs: tuple.* expected, not str"),
        ({"texts": {"a": 1}}, "texts: str expected, not int"),
        ({"texts": [["a", "b"]]}, "texts: dict.* expected, not list"),
        ({"limit": "5"}, r"limit: float \| None expected, not str"),
        ({"limit": True}, "limit: .* expected, not bool"),
        ({"flag": 1}, "flag: bool expected, not int"),
    ],
)
def test_fields_of_another_type_are_refused(fields, reason):
    with pytest.raises(codec.ProtocolError, match=reason):
        codec.decode(codec.pack(["sample", fields]), (Sample,))


def test_the_fields_that_a_message_carries_are_checked_when_it_is_sent():
    with pytest.raises(codec.ProtocolError, match="a value of type Thing"):
        codec.encode(Sample(anything=Thing()))


@pytest.mark.parametrize(
    "message",
    [
        messages.Result(part=2**32, parts=2**32, data=bytes(frames.REPORT_DATA)),
        messages.Raised(part=2**32, parts=2**32, text=bytes(frames.REPORT_DATA)),
        messages.Refused(error="x" * frames.REPORT_DATA),
        messages.Log(level="critical", text="x" * (frames.REPORT_DATA - 8)),
        messages.Progress(done=1.5, total=2.5, message="x" * frames.REPORT_DATA),
    ],
)
def test_every_report_with_as_much_data_as_promised_fits_one_write(message):
    assert len(frames.pack(codec.encode(message), frames.REPORT_LIMIT)) <= 4096


def test_tags_are_unique_within_each_conversation():
    for conversation in (messages.TO_LAUNCHER, messages.TO_SUPERVISOR, messages.REPORT):
        assert len({cls.__name__.lower() for cls in conversation}) == len(conversation)


def test_the_launcher_gets_nothing_heavy_with_this_room():
    script = (
        "import sys; from lnmt_scheduler.ipc import channel, messages;"
        "print([m for m in ('sqlite3', 'msgspec', 'click', 'croniter', 'asyncio', 'subprocess') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
