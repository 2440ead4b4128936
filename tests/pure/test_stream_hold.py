"""The stream goes on for a while without connections that are moved, and then waits for them."""

from typing import cast

import pytest

from mpchat.hub.endpoint import Endpoint
from mpchat.hub.stream_hold import StreamHold
from mpchat.ipc.channel import Link
from mpchat.ipc.stream_buffer import StreamBuffer
from mpchat.protocol.frames import encode_frame

# A frame of ten bytes, and what the stream keeps: a hundred of them.
FRAME = encode_frame(b"12345678")
LIMIT = 100 * len(FRAME)
# Frames by which the stream goes on without connections in hold.
QUARTER = 25

ONE, OTHER = (Endpoint(slot, cast(Link, None)) for slot in (1, 2))


@pytest.fixture
def stream() -> StreamBuffer:
    return StreamBuffer(LIMIT)


def say(stream: StreamBuffer, count: int) -> None:
    for _ in range(count):
        stream.append(FRAME, 1)


def frames_until_it_waits(hold: StreamHold, stream: StreamBuffer) -> int | None:
    """Let the stream go on until it must wait; None when it need not for a long time."""
    for count in range(2000):
        if hold.holds_up():
            return count
        say(stream, 1)
    return None


def test_with_no_connection_in_transit_nothing_waits(stream: StreamBuffer) -> None:
    hold = StreamHold(stream)
    assert frames_until_it_waits(hold, stream) is None


@pytest.mark.parametrize("left", [False, True])
def test_connections_that_have_all_are_gone_on_without_for_a_quarter(
    stream: StreamBuffer, left: bool
) -> None:
    hold = StreamHold(stream)
    say(stream, 30)
    hold.begin(ONE, 30)
    if left:
        hold.left(ONE, [7])
    assert frames_until_it_waits(hold, stream) == QUARTER + 1


@pytest.mark.parametrize(("behind", "more"), [(10, QUARTER), (50, QUARTER), (60, 15), (75, 0), (90, -15)])
def test_connections_more_than_half_a_limit_behind_are_gone_on_without_for_less(
    stream: StreamBuffer, behind: int, more: int
) -> None:
    hold = StreamHold(stream)
    say(stream, 90)
    hold.begin(ONE, 90 - behind)
    assert frames_until_it_waits(hold, stream) == max(0, more + 1)


def test_a_place_that_is_forgotten_counts_as_the_oldest_that_is_kept(stream: StreamBuffer) -> None:
    hold = StreamHold(stream)
    say(stream, 300)
    hold.begin(ONE, 10)
    assert hold.holds_up()
    hold.left(ONE, [])
    hold.begin(ONE, 300 - 70)
    assert frames_until_it_waits(hold, stream) == 5 + 1


def test_the_stream_waits_until_the_last_connection_has_arrived(stream: StreamBuffer) -> None:
    hold = StreamHold(stream)
    hold.begin(ONE, 0)
    say(stream, QUARTER + 1)
    hold.left(ONE, [7, 8])
    assert hold.holds_up()
    hold.arrive(7)
    hold.arrive(99)  # a new one
    assert hold.holds_up()
    hold.arrive(8)
    assert not hold.holds_up()
    assert frames_until_it_waits(hold, stream) is None


def test_the_stream_waits_for_those_that_are_furthest_behind(stream: StreamBuffer) -> None:
    hold = StreamHold(stream)
    say(stream, 20)
    hold.begin(ONE, 20)
    say(stream, 20)
    hold.begin(OTHER, 40)
    hold.left(OTHER, [8])
    assert frames_until_it_waits(hold, stream) == QUARTER + 1 - 20
    hold.left(ONE, [])  # none has left: each had ended
    assert frames_until_it_waits(hold, stream) == 20
    hold.arrive(8)
    assert not hold.holds_up()


def test_connections_that_left_without_a_word_before_wait_where_the_stream_ends(stream: StreamBuffer) -> None:
    hold = StreamHold(stream)
    say(stream, 30)
    hold.left(ONE, [7])
    assert frames_until_it_waits(hold, stream) == QUARTER + 1


def test_a_worker_s_death_ends_what_it_was_about_to_let_go_and_not_what_had_left(
    stream: StreamBuffer,
) -> None:
    hold = StreamHold(stream)
    hold.begin(ONE, 0)
    hold.left(ONE, [7])
    hold.begin(ONE, 0)
    say(stream, QUARTER + 1)
    hold.die(ONE)
    hold.die(OTHER)
    assert hold.holds_up()
    hold.arrive(7)
    assert not hold.holds_up()
