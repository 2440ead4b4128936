"""Frames: whatever the pieces in which bytes arrive, the same payloads come out, and little is ever held."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.protocol.frames import (
    DEFAULT_PAYLOAD_LIMIT,
    HEADER_SIZE,
    MAX_PAYLOAD,
    FrameDecoder,
    Oversized,
    cut_frames,
    encode_frame,
    leading_frames,
)

Payloads = list[bytes | Oversized]


def by_the_book(data: bytes, limit: int) -> Payloads:
    """Cut whole bytes into payloads as the definition says, with no state at all."""
    payloads: Payloads = []
    while len(data) >= HEADER_SIZE:
        length = int.from_bytes(data[:2], "big")
        if length > limit:
            payloads.append(Oversized(length))
        elif len(data) >= HEADER_SIZE + length:
            payloads.append(data[HEADER_SIZE : HEADER_SIZE + length])
        data = data[HEADER_SIZE + length :]
    return payloads


def fed(decoder: FrameDecoder, pieces: list[bytes]) -> Payloads:
    return [payload for piece in pieces for payload in decoder.feed(piece)]


def cut(data: bytes, places: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(place % (len(data) + 1) for place in places)})
    return [data[start:end] for start, end in pairwise(edges)]


def small_frames(limit: int) -> st.SearchStrategy[bytes]:
    """Streams of frames about as long as ``limit``, so that oversized and cut ones are among them."""
    return st.lists(st.binary(max_size=limit + 8).map(encode_frame)).map(b"".join)


STREAMS = st.one_of(
    st.binary(max_size=300), small_frames(16), st.tuples(small_frames(16), st.binary()).map(b"".join)
)
PLACES = st.lists(st.integers(min_value=0, max_value=10_000), max_size=20)


@given(STREAMS, PLACES)
def test_any_bytes_in_any_pieces_give_what_they_give_whole(data: bytes, places: list[int]) -> None:
    expected = by_the_book(data, 16)
    assert fed(FrameDecoder(16), [data]) == expected
    assert fed(FrameDecoder(16), cut(data, places)) == expected
    assert fed(FrameDecoder(16), [bytes([byte]) for byte in data]) == expected


@given(STREAMS, PLACES)
def test_another_decoder_goes_on_from_every_cut(data: bytes, places: list[int]) -> None:
    payloads: Payloads = []
    state = (b"", 0)
    for piece in cut(data, places):
        decoder = FrameDecoder(16, *state)
        payloads += decoder.feed(piece)
        state = decoder.export()
    assert payloads == by_the_book(data, 16)


@given(STREAMS, PLACES)
def test_a_decoder_never_holds_more_than_one_payload_and_knows_whether_it_is_inside_one(
    data: bytes, places: list[int]
) -> None:
    decoder = FrameDecoder(16)
    for piece in cut(data, places):
        decoder.feed(piece)
        partial, skip = decoder.export()
        assert len(partial) < HEADER_SIZE + 16
        assert not (partial and skip)
        assert decoder.mid_frame == bool(partial or skip)


def test_every_length_from_0_to_65535_comes_out_or_is_skipped_and_the_next_frame_is_read() -> None:
    filler = bytes(MAX_PAYLOAD)
    after = encode_frame(b"{}")
    decoder = FrameDecoder()
    for length in range(MAX_PAYLOAD + 1):
        payload, following = decoder.feed(encode_frame(filler[:length]) + after)
        expected = Oversized(length) if length > DEFAULT_PAYLOAD_LIMIT else filler[:length]
        assert payload == expected
        assert following == b"{}"
        assert not decoder.mid_frame


@pytest.mark.parametrize("payload", [b"", b"x", b"hello.", bytes(300)])
def test_every_cut_of_a_frame_gives_it_once_it_is_whole_and_not_before(payload: bytes) -> None:
    data = encode_frame(payload)
    for place in range(len(data)):
        decoder = FrameDecoder()
        assert decoder.feed(data[:place]) == []
        assert decoder.mid_frame == (place > 0)
        assert decoder.feed(data[place:]) == [payload]
        assert not decoder.mid_frame


@pytest.mark.parametrize("size", [17, 300, MAX_PAYLOAD])
def test_every_cut_of_an_oversized_frame_is_told_once_and_the_next_frame_is_read(size: int) -> None:
    data = encode_frame(bytes(size)) + encode_frame(b"next")
    for place in [*range(min(len(data), 400)), len(data) - 7, len(data) - 6, len(data) - 1]:
        decoder = FrameDecoder(16)
        assert fed(decoder, [data[:place], data[place:]]) == [Oversized(size), b"next"]


def test_an_oversized_frame_is_told_as_soon_as_its_length_is_known_and_never_held() -> None:
    decoder = FrameDecoder(16)
    assert decoder.feed(b"\xff") == []
    assert decoder.feed(b"\xff") == [Oversized(MAX_PAYLOAD)]
    assert decoder.feed(bytes(60_000)) == []
    assert decoder.export() == (b"", MAX_PAYLOAD - 60_000)


def test_an_empty_piece_changes_nothing() -> None:
    decoder = FrameDecoder()
    for piece in (b"", b"\x00", b"", b"\x02", b"", b"a", b""):
        assert decoder.feed(piece) == []
    assert decoder.feed(b"b") == [b"ab"]


def test_the_limit_itself_is_allowed_and_one_more_is_not() -> None:
    assert FrameDecoder(16).feed(encode_frame(bytes(16))) == [bytes(16)]
    assert FrameDecoder(16).feed(encode_frame(bytes(17))) == [Oversized(17)]
    # What clients are told that they may send where nothing else is set.
    assert FrameDecoder().feed(encode_frame(bytes(60_000))) == [bytes(60_000)]
    assert FrameDecoder().feed(encode_frame(bytes(60_001))) == [Oversized(60_001)]


def test_what_two_bytes_cannot_say_is_not_encoded() -> None:
    assert len(encode_frame(bytes(MAX_PAYLOAD))) == HEADER_SIZE + MAX_PAYLOAD
    with pytest.raises(OverflowError):
        encode_frame(bytes(MAX_PAYLOAD + 1))


# Payloads with lengths on both sides of what one byte of the header can say, too, and the longest.
LENGTHS = st.sampled_from([0, 1, 2, 254, 255, 256, 257, 511, 512, DEFAULT_PAYLOAD_LIMIT, MAX_PAYLOAD])
FRAMES = st.lists(
    st.one_of(st.binary(max_size=300), LENGTHS.map(lambda length: b"x" * length)).map(encode_frame)
)


@given(FRAMES)
def test_frames_are_cut_where_their_headers_say(frames: list[bytes]) -> None:
    whole = b"".join(frames)
    for count in range(len(frames) + 1):
        assert cut_frames(whole, count) == sum(map(len, frames[:count]))


@given(FRAMES, st.integers(0, 3_000) | st.integers(0, 200_000))
def test_leading_frames_are_those_that_fit(frames: list[bytes], most: int) -> None:
    whole = b"".join(frames)
    edges = [len(b"".join(frames[:count])) for count in range(len(frames) + 1)]
    for room in (most, *edges[:3], *(edge - 1 for edge in edges[1:3])):
        count, end = leading_frames(whole, room)
        assert end == edges[count] <= room
        assert count == len(frames) or edges[count + 1] > room
