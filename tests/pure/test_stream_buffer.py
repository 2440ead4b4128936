"""A room's stream: what was appended is read back byte by byte, and no more than the limit is kept."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.ipc.stream_buffer import GATHER, Outside, Place, StreamBuffer
from mpchat.protocol.frames import encode_frame
from mpchat.protocol.websocket_framing import WEBSOCKET_FRAMING

BLOBS = st.lists(st.binary(min_size=1, max_size=40), max_size=60)


def filled(blobs: list[bytes], limit: int) -> StreamBuffer:
    stream = StreamBuffer(limit)
    for blob in blobs:
        stream.append(blob, 1)
    return stream


def read_all(stream: StreamBuffer, cursor: int, most: int) -> bytes:
    """Read on from ``cursor`` as a late client does, a piece at a time."""
    got = b""
    while views := stream.read(cursor + len(got), most):
        got += b"".join(views)
    return got


@given(BLOBS, st.integers(1, 200), st.integers(1, 100), st.data())
def test_from_any_cursor_that_is_still_kept_everything_is_read_in_order(
    blobs: list[bytes], limit: int, most: int, data: st.DataObject
) -> None:
    stream = filled(blobs, limit)
    whole = b"".join(blobs)
    assert stream.end == len(whole)
    cursor = data.draw(st.integers(stream.start, stream.end))
    assert read_all(stream, cursor, most) == whole[cursor:]


@given(BLOBS, st.integers(1, 200))
def test_the_limit_is_kept_and_not_one_blob_more_than_that_takes(blobs: list[bytes], limit: int) -> None:
    stream = filled(blobs, limit)
    kept = stream.end - stream.start
    assert kept >= min(limit, stream.end)
    edges = [sum(map(len, blobs[:count])) for count in range(len(blobs) + 1)]
    assert stream.start in edges
    if blobs:
        next_edge = edges[edges.index(stream.start) + 1]
        assert stream.end - next_edge < limit


@given(BLOBS, st.integers(1, 200))
def test_how_far_back_a_cursor_may_be_does_not_depend_on_how_the_bytes_were_cut(
    blobs: list[bytes], limit: int
) -> None:
    whole = b"".join(blobs)
    in_one = filled([whole] if whole else [], limit)
    assert filled(blobs, limit).oldest == in_one.oldest == max(0, len(whole) - limit)


@given(BLOBS, st.integers(1, 200), st.integers(1, 100))
def test_a_stream_filled_from_another_is_the_same_from_there_on(
    blobs: list[bytes], limit: int, most: int
) -> None:
    stream = filled(blobs, limit)
    copy = StreamBuffer(limit)
    copy.begin(stream.messages_before)
    while (part := stream.copy(stream.start + copy.end, most))[0]:
        copy.append(part[1], part[0])
    assert (copy.start, copy.end, copy.messages) == (0, stream.end - stream.start, stream.messages)
    assert copy.end - copy.oldest == stream.end - stream.oldest
    assert read_all(copy, copy.start, 7) == read_all(stream, stream.start, 7)


def test_what_is_copied_counts_the_messages_of_its_blobs() -> None:
    stream = StreamBuffer(1000)
    for count, blob in ((2, b"aa"), (3, b"bbb"), (1, b"c")):
        stream.append(blob, count)
    assert stream.copy(0, 2) == (2, b"aa")
    assert stream.copy(0, 3) == (5, b"aabbb")
    assert stream.copy(2, 100) == (4, b"bbbc")
    assert stream.copy(6, 100) == (0, b"")


@given(BLOBS, st.integers(1, 200))
def test_a_read_stops_at_the_first_blob_past_what_was_asked_for(blobs: list[bytes], most: int) -> None:
    stream = filled(blobs, 1 << 20)
    views = stream.read(0, most)
    assert sum(map(len, views[:-1])) < most
    assert len(views) <= GATHER


def test_a_read_gathers_blobs_until_it_has_what_was_asked_for() -> None:
    stream = filled([b"x" * 10] * 100, 1 << 20)
    for most, views in ((1, 1), (10, 1), (11, 2), (25, 3), (10_000, GATHER)):
        assert len(stream.read(0, most)) == views
        assert len(stream.read(5, most)) == min(GATHER, (most + 5 + 9) // 10)


def test_at_the_end_there_is_nothing() -> None:
    stream = StreamBuffer(100)
    assert stream.read(0, 100) == []
    stream.append(b"abc", 2)
    assert stream.read(3, 100) == []
    assert stream.messages == 2


def test_a_blob_longer_than_the_limit_is_kept_whole_as_long_as_a_part_of_it_counts() -> None:
    stream = filled([b"a" * 50], 10)
    assert (stream.start, stream.oldest, stream.end) == (0, 40, 50)
    stream.append(b"b" * 9, 1)
    assert (stream.start, stream.oldest, stream.end) == (0, 49, 59)
    stream.append(b"c", 1)
    assert (stream.start, stream.oldest, stream.end) == (50, 50, 60)
    assert read_all(stream, 50, 100) == b"b" * 9 + b"c"


@pytest.mark.parametrize("size", [1, 7, 100])
def test_after_a_hundred_thousand_blobs_the_memory_is_still_the_limit(size: int) -> None:
    stream = StreamBuffer(1000)
    for number in range(100_000):
        stream.append(number.to_bytes(size, "big") if size > 3 else bytes(size), 1)
    assert stream.messages == 100_000
    assert stream.end - stream.start <= 1000 + size
    assert len(stream._blobs) <= 2 * (1000 // size + 1) + 1024
    assert sum(map(len, stream._blobs)) <= 1000 + size
    assert len(stream._blobs) == len(stream._offsets) == len(stream._numbers)
    assert len(read_all(stream, stream.start, 100)) == stream.end - stream.start


# Places.

FRAMES = st.lists(st.integers(0, 9).map(lambda size: encode_frame(b"x" * size)), max_size=30)


def cut_into_blobs(frames: list[bytes], cuts: list[int]) -> list[list[bytes]]:
    """Return the frames in groups that are cut before the frames whose indexes are in ``cuts``."""
    edges = [0, *sorted({each for each in cuts if each < len(frames)} - {0}), len(frames)]
    return [frames[begin:end] for begin, end in pairwise(edges) if begin < end]


def stream_of(
    groups: list[list[bytes]], *, before: int = 0, number: int = 0, limit: int = 1000
) -> StreamBuffer:
    """Return a stream whose offsets begin at ``before`` and whose frames are counted from ``number`` on."""
    stream = StreamBuffer(limit)
    stream.append(bytes(before), number)
    stream.begin(number)
    for group in groups:
        stream.append(b"".join(group), len(group))
        stream.append(b"", 0)
    return stream


@given(FRAMES, *[st.lists(st.integers(0, 29))] * 2, *[st.integers(0, 50)] * 2)
def test_a_place_means_the_same_however_the_frames_are_cut_and_wherever_offsets_begin(
    frames: list[bytes], cuts: list[int], other_cuts: list[int], before: int, number: int
) -> None:
    one = stream_of(cut_into_blobs(frames, cuts), number=number)
    other = stream_of(cut_into_blobs(frames, other_cuts), before=before, number=number)
    whole = b"".join(frames)
    for cursor in range(len(whole) + 1):
        place = one.place_of(cursor)
        there = other.cursor_of(place)
        assert there == before + cursor
        assert isinstance(there, int)
        assert other.place_of(there) == place
        assert read_all(other, there, 7) == whole[cursor:]
        rest = one.rest_of_frame(cursor)
        assert rest == other.rest_of_frame(there)
        assert rest == (b"" if not place.byte else frames[place.number - number][place.byte :])
        assert one.place_of(cursor + len(rest)) == (place.number + (place.byte > 0), 0)


def test_a_place_past_the_end_is_told_from_one_that_is_forgotten() -> None:
    stream = stream_of([[encode_frame(b"xyz")]] * 4, number=10, limit=7)
    assert (stream.messages_before, stream.messages) == (12, 14)
    found = {number: stream.cursor_of(Place(number)) for number in range(10, 16)}
    assert found == {
        10: Outside.FORGOTTEN,
        11: Outside.FORGOTTEN,
        12: 10,
        13: 15,
        14: 20,
        15: Outside.AHEAD,
    }
    assert stream.cursor_of(Place(13, 4)) == 19
    assert stream.cursor_of(Place(14, 1)) == Outside.AHEAD
    stream.forget()
    assert stream.cursor_of(Place(13)) == Outside.FORGOTTEN
    assert stream.cursor_of(Place(14)) == stream.start == stream.end


def test_views_are_of_the_blobs_themselves_and_copy_nothing() -> None:
    blob = b"a" * 1000
    (view,) = filled([blob], 10_000).read(10, 100)
    assert view.obj is blob


# The past of another stream in front.


@given(
    st.lists(st.lists(st.binary(max_size=200), min_size=1, max_size=4), min_size=1, max_size=12),
    st.integers(1, 2000),
    st.data(),
)
def test_what_is_put_before_a_stream_is_read_there_as_if_it_had_always_been_there(
    runs: list[list[bytes]], limit: int, data: st.DataObject
) -> None:
    plain, other = StreamBuffer(limit), StreamBuffer(1 << 20, WEBSOCKET_FRAMING)
    begun = data.draw(st.integers(0, len(runs)))
    said: list[bytes] = []
    for number, run in enumerate(runs):
        if number == begun:
            other.begin(len(said), 1 << 40)
        said += map(encode_frame, run)
        plain.append(b"".join(map(encode_frame, run)), len(run))
        if number >= begun:
            other.append(WEBSOCKET_FRAMING.encode(b"".join(map(encode_frame, run))), len(run))
    if begun == len(runs):
        other.begin(len(said), 1 << 40)
    elif data.draw(st.booleans()):
        other.forget()
    live = other.end
    number = data.draw(st.integers(0, len(said)))
    other.put_before(plain, number)
    assert other.end == live
    begin = max(number, plain.messages_before) if number < len(said) else len(said)
    begin = min(begin, other.messages_before) if begin > other.messages_before else begin
    cursor = other.cursor_of(Place(begin))
    assert isinstance(cursor, int)
    assert read_all(other, cursor, 100) == WEBSOCKET_FRAMING.encode(b"".join(said[begin:]))
    # And it goes on.
    other.append(b"further", 1)
    assert read_all(other, cursor, 100).endswith(b"further")
    assert other.place_of(live) == (len(said), 0)
