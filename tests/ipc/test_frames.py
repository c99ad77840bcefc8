"""frames.py: however a stream is cut, the same frames come out, and a bad length costs nothing."""

import itertools
import tracemalloc

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lnmt_scheduler.ipc import control, frames

LIMIT = 64
bodies = st.lists(st.binary(min_size=1, max_size=LIMIT), max_size=20)


def pieces(data, cuts):
    edges = [0, *sorted(cut % (len(data) + 1) for cut in cuts), len(data)]
    return [data[start:end] for start, end in itertools.pairwise(edges)]


@given(bodies, st.lists(st.integers(min_value=0), max_size=30))
def test_frames_come_out_whole_however_the_stream_is_cut(sent, cuts):
    stream = b"".join(frames.pack(body, LIMIT) for body in sent)
    reader = frames.FrameReader(LIMIT)
    assert [body for piece in pieces(stream, cuts) for body in reader.feed(piece)] == sent
    assert reader.pending == 0


@given(bodies.filter(bool), st.data())
def test_a_stream_that_is_cut_off_leaves_its_last_frame_pending(sent, data):
    stream = b"".join(frames.pack(body, LIMIT) for body in sent)
    missing = data.draw(st.integers(1, len(sent[-1]) + frames.HEADER - 1))
    reader = frames.FrameReader(LIMIT)
    assert reader.feed(stream[:-missing]) == sent[:-1]
    assert reader.pending == len(sent[-1]) + frames.HEADER - missing
    assert reader.feed(stream[-missing:]) == sent[-1:]


@given(st.binary(max_size=400), st.lists(st.integers(min_value=0), max_size=10))
def test_garbage_gives_the_same_frames_and_the_same_end_however_it_is_cut(garbage, cuts):
    def outcome(chunks):
        reader = frames.FrameReader(LIMIT)
        found = []
        for chunk in chunks:
            try:
                found += reader.feed(chunk)
            except frames.FrameError as error:
                return found + error.frames, str(error)
        return found, reader.pending

    assert outcome(pieces(garbage, cuts)) == outcome([garbage])


def test_a_whole_frame_before_a_bad_one_is_not_lost():
    with pytest.raises(frames.FrameError, match="at most 64") as caught:
        frames.FrameReader(LIMIT).feed(frames.pack(b"good", LIMIT) + b"\xff\xff\xff\xff")
    assert caught.value.frames == [b"good"]


def test_after_an_error_the_reader_refuses_what_would_have_been_good():
    reader = frames.FrameReader(LIMIT)
    with pytest.raises(frames.FrameError):
        reader.feed(b"\0\0\0\0")
    with pytest.raises(frames.FrameError, match="empty") as caught:
        reader.feed(frames.pack(b"good", LIMIT))
    assert caught.value.frames == []
    assert reader.pending == 0


@pytest.mark.parametrize("length", [LIMIT + 1, 16 * 1024 * 1024, 2**31, 2**32 - 1])
def test_a_length_over_the_limit_is_refused_on_the_header(length):
    with pytest.raises(frames.FrameError, match=f"a frame of {length} bytes, at most {LIMIT}"):
        frames.FrameReader(LIMIT).feed(length.to_bytes(4, "big"))


def test_a_frame_of_exactly_the_limit_passes_and_one_byte_more_does_not():
    assert frames.FrameReader(LIMIT).feed(frames.pack(bytes(LIMIT), LIMIT)) == [bytes(LIMIT)]
    with pytest.raises(frames.FrameError, match="65 bytes"):
        frames.pack(bytes(LIMIT + 1), LIMIT)


def test_an_empty_frame_is_refused_on_both_sides():
    with pytest.raises(frames.FrameError, match="empty"):
        frames.pack(b"", LIMIT)
    with pytest.raises(frames.FrameError, match="empty"):
        frames.FrameReader(LIMIT).feed(bytes(4))


def test_sixteen_mebibytes_of_empty_maps_cost_no_memory():
    flood = (16 * 1024 * 1024).to_bytes(4, "big") + b"\x80" * 65536
    reader = frames.FrameReader(control.FRAME_LIMIT)
    tracemalloc.start()
    try:
        with pytest.raises(frames.FrameError):
            reader.feed(flood)
        for _ in range(256):
            with pytest.raises(frames.FrameError):
                reader.feed(flood)
        assert reader.pending == 0
        assert tracemalloc.get_traced_memory()[1] < 1024 * 1024
    finally:
        tracemalloc.stop()


def test_many_small_frames_in_one_read_are_cut_in_linear_time():
    frame = frames.pack(b"x", LIMIT)
    reader = frames.FrameReader(LIMIT)
    assert len(reader.feed(frame * 200_000 + frame[:3])) == 200_000
    assert reader.pending == 3
