"""A new worker is filled with the hub's stream, over a real channel, and hears from then on what is new."""

import select
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import hypothesis.strategies as st
import pytest
from hypothesis import given, settings
from support.hub_limits import limits

from mpchat.hub.endpoint import Endpoint
from mpchat.hub.hub import Hub
from mpchat.hub.plain_stream import FILL_SIZE
from mpchat.ipc.channel import Link, make_queue
from mpchat.ipc.items import Down, Up
from mpchat.ipc.stream_buffer import StreamBuffer


class FarEnd:
    """What a worker does with what the hub sends: one stream, and when it was told that it has everything."""

    def __init__(self, link: Link, limit: int) -> None:
        self.link = link
        self.stream = StreamBuffer(limit)
        # All bytes from where the stream began for it, how many frames came before, and how often it began.
        self.data = b""
        self.origin = 0
        self.begun = 0
        self.filled = False
        self.synced = 0
        self.held: list[tuple[int, bool]] = []

    def receive(self) -> int:
        """Take what there is; returns how many items that was."""
        count = 0
        while select.select([self.link], [], [], 0)[0]:
            for item in self.link.receive():
                self.take(item.kind, item.payload)
                self.link.take(item.cost)
                count += 1
        return count

    def take(self, kind: int, payload: Any) -> None:
        if kind == Down.BEGIN:
            self.stream.begin(payload)
            self.data, self.origin, self.begun = b"", payload, self.begun + 1
        elif kind in (Down.FILL, Down.BATCH):
            assert (kind == Down.BATCH) == self.filled, "filled first, then what is new"
            self.stream.append(payload[1], payload[0])
            self.data += payload[1]
        elif kind == Down.FILLED:
            self.filled = True
        elif kind == Down.SYNCED:
            self.synced += 1
        elif kind == Down.HOLD:
            self.held.append(payload)


class Site:
    """A hub with workers' far ends in this process."""

    def __init__(self, limit: int) -> None:
        self.hub = Hub(limits(limit))
        self.ends: list[tuple[Endpoint, FarEnd]] = []
        self.said = b""
        # How many frames were said, and the offset at which the frame of a number begins, where it is known.
        self.numbered = 0
        self.offsets = {0: 0}
        self.now = 1.0

    def worker(self, limit: int, window: int | None = None) -> FarEnd:
        up, size = make_queue()
        down, _ = make_queue()
        port = Endpoint(len(self.ends) + 1, Link(up, down, window or size))
        end = FarEnd(Link(down, up, window or size), limit)
        self.hub.attach(port)
        self.ends.append((port, end))
        end.link.send(Up.STARTED, None)
        return end

    def say(self, count: int, frames: bytes) -> None:
        self.hub.plain.post((count, frames))
        self.numbered += count
        self.said += frames
        self.offsets[self.numbered] = len(self.said)

    def turn(self) -> int:
        """Let the hub and every worker do what can be done; returns how many items moved."""
        self.now += 0.01
        for port, _ in self.ends:
            if select.select([port.link], [], [], 0)[0]:
                self.receive(port)
        self.hub.turn(self.now)
        return sum(end.receive() for _, end in self.ends)

    def receive(self, port: Endpoint) -> None:
        """Let the hub have what a worker has written."""
        for item in port.receive(self.now):
            self.hub.take(port, item, self.now)

    def settle(self) -> None:
        for _ in range(10_000):
            if not self.turn() and not any(port.link.congested for port, _ in self.ends):
                return
        raise AssertionError("it does not come to an end")

    def close(self) -> None:
        for port, end in self.ends:
            port.link.close()
            end.link.close()


@contextmanager
def site(limit: int) -> Iterator[Site]:
    made = Site(limit)
    try:
        yield made
    finally:
        made.close()


def check(made: Site, end: FarEnd) -> None:
    """It has the same bytes under the same numbers."""
    assert end.filled
    origin = made.offsets[end.origin]
    assert end.data == made.said[origin:]
    assert end.stream.messages == made.hub.plain.buffer.messages
    assert origin <= made.hub.plain.buffer.oldest, "a client that one may serve may be served by the other"


BLOBS = st.lists(st.tuples(st.integers(1, 5), st.binary(min_size=1, max_size=400)), max_size=40)


@settings(max_examples=40)
@given(BLOBS, BLOBS, st.integers(50, 2_000), st.sampled_from([None, 600, 300]))
def test_a_worker_that_comes_later_has_the_same_under_the_same_numbers(
    before: list[tuple[int, bytes]], after: list[tuple[int, bytes]], limit: int, window: int | None
) -> None:
    with site(limit) as made:
        early = made.worker(limit)
        for each in before:
            made.say(*each)
            made.turn()
        late = made.worker(limit, window)
        for each in after:
            made.say(*each)
            made.turn()
        made.settle()
        assert early.data == made.said
        check(made, early)
        check(made, late)


def test_nothing_to_fill_with_is_ready_at_once() -> None:
    with site(1 << 20) as made:
        end = made.worker(1 << 20)
        made.settle()
        assert (end.filled, end.begun, end.stream.end) == (True, 1, 0)


def test_a_worker_that_is_overtaken_while_it_is_filled_begins_anew() -> None:
    limit = 4 * FILL_SIZE
    with site(limit) as made:
        for _ in range(8):
            made.say(1, b"a" * FILL_SIZE)
            made.turn()
        slow = made.worker(limit, window=FILL_SIZE)
        made.receive(made.ends[0][0])
        made.hub.turn(made.now)
        for _ in range(20):  # it does not read while the others chat on
            made.say(1, b"b" * FILL_SIZE)
            made.hub.turn(made.now)
        made.settle()
        assert slow.begun >= 2
        check(made, slow)


def test_a_worker_that_dies_while_it_is_filled_holds_nobody_up() -> None:
    with site(1 << 20) as made:
        other = made.worker(1 << 20)
        for _ in range(20):
            made.say(1, b"x" * FILL_SIZE)
            made.turn()
        made.worker(1 << 20, window=FILL_SIZE)
        port, dead = made.ends[1]
        made.receive(port)
        made.hub.turn(made.now)
        dead.link.close()
        made.say(1, b"after its death")
        made.hub.turn(made.now)
        del made.ends[1]
        while not port.ended:
            made.receive(port)
        made.hub.detach(port, made.now)
        port.link.close()
        made.settle()
        check(made, other)


@pytest.mark.parametrize("filled", [False, True], ids=["before it is filled", "while it is filled"])
def test_a_worker_that_is_to_end_is_not_filled_any_more(*, filled: bool) -> None:
    with site(1 << 20) as made:
        made.worker(1 << 20)
        for _ in range(20):
            made.say(1, b"x" * FILL_SIZE)
            made.turn()
        made.worker(1 << 20, window=FILL_SIZE)
        port, end = made.ends[1]
        if filled:
            made.receive(port)
            made.hub.turn(made.now)
            assert port.filled
        port.retire()
        made.settle()
        assert not port.ready
        assert not end.filled


def test_a_sync_is_answered_after_all_posts_before_it_are_in_the_order() -> None:
    with site(1 << 20) as made:
        one, other = made.worker(1 << 20), made.worker(1 << 20)
        made.settle()
        for number in range(50):
            said = b"%d." % number * 3_000
            one.link.send_frames(Up.POSTS, [("a", 1, len(said))], said)
        one.link.send(Up.SYNC, (0, []))
        for _ in range(10_000):
            made.turn()
            if one.synced:
                break
        assert made.hub.messages == 50
        assert (one.synced, other.synced) == (1, 0)


@pytest.mark.parametrize("behind", [0.0, 0.3, 0.6, 0.9])
def test_the_room_waits_before_anybody_who_leaves_would_fall_out_of_the_stream(behind: float) -> None:
    limit = 1 << 20
    with site(limit) as made:
        one, other = made.worker(limit), made.worker(limit)
        made.settle()
        for _ in range(40):
            made.say(1, b"x" * FILL_SIZE)
            made.turn()
        end = made.hub.plain.buffer.end
        number = 40 - int(behind * limit) // FILL_SIZE
        got_to = number * FILL_SIZE
        one.link.send(Up.SYNC, (number, []))
        made.settle()
        assert one.synced == 1
        port = made.ends[0][0]
        for _ in range(40):
            other.link.send_frames(Up.POSTS, [("a", 1, FILL_SIZE)], b"y" * FILL_SIZE)
            made.turn()
        assert made.hub.waits(made.now)
        assert made.hub.plain.buffer.end - got_to < limit - 2 * FILL_SIZE
        # Those who were not far behind do not stop anybody in an instant.
        assert behind > 0.5 or made.hub.plain.buffer.end - end > limit // 5
        made.hub.transit_began(port, [])
        made.settle()
        assert made.hub.plain.buffer.end == end + 40 * FILL_SIZE


def test_a_new_worker_hears_of_the_rooms_whose_senders_wait() -> None:
    with site(1 << 20) as made:
        made.worker(1 << 20).link.send(Up.STRAINED, (7, True, 0))
        made.settle()
        late = made.worker(1 << 20)
        made.settle()
        assert late.held == [(7, True)]


def test_what_a_worker_says_beside_its_clients_words_does_not_fill_the_window() -> None:
    with site(1 << 20) as made:
        end = made.worker(1 << 20)
        for number in range(20_000):
            end.link.send(Up.STRAINED, (number % 100, number % 200 < 100, 0))
            if number % 50 == 0:
                made.settle()
        made.settle()
        assert not end.link.congested
