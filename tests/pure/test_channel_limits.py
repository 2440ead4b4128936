"""The two ends of a channel in one process: what an item costs, and what waits for room in the pipe."""

from collections.abc import Iterator
from contextlib import closing

import pytest

from mpchat.ipc import channel
from mpchat.ipc.channel import FIRST_KIND, ITEM_COST, Item, Link, make_queue

# More than any pipe takes at once, and turns in which all of it has been read for long.
MUCH = 4 << 20
TURNS = 1000


@pytest.fixture
def ends() -> Iterator[tuple[Link, Link]]:
    """Both ends of a channel with a window of 1000 bytes."""
    (up, _), (down, _) = make_queue(), make_queue()
    with closing(Link(up, down, 1000)) as near, closing(Link(down, up, 1000)) as far:
        yield near, far


def test_an_item_costs_what_its_data_take_and_a_little(ends: tuple[Link, Link]) -> None:
    near, _ = ends
    assert near.item_size == near.window == 1000
    near.send(FIRST_KIND, None)
    assert near.under_way == ITEM_COST
    near.send_frames(FIRST_KIND, 1, b"abc")
    assert near.under_way == 2 * ITEM_COST + 3


def test_what_waits_behind_an_item_that_did_not_fit_follows_once_there_is_room(
    ends: tuple[Link, Link],
) -> None:
    near, far = ends
    near.send(FIRST_KIND, bytes(MUCH), 10)
    assert near.full
    near.send(FIRST_KIND, "next", 10)
    assert near.congested
    got: list[Item] = []
    for _ in range(TURNS):
        if far.readable:
            got += far.receive()
        near.write_on()
    assert [each.payload for each in got] == [bytes(MUCH), "next"]
    assert not near.full
    assert not near.congested


def test_where_a_pipe_cannot_be_asked_for_its_size_the_smallest_is_taken(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    for name in ("_F_SETPIPE_SZ", "_F_GETPIPE_SZ"):
        with monkeypatch.context() as patch:
            patch.setattr(channel, name, None)
            queue, window = make_queue()
            queue.close()
        assert window == 4 << 10


def test_without_the_far_ends_an_end_has_neither_a_reader_nor_a_writer() -> None:
    (up, window), (down, _) = make_queue(), make_queue()
    with closing(Link(up, down, window)) as link:
        link.close_far_ends()
        with pytest.raises(BrokenPipeError):
            link.send(FIRST_KIND, None)
        with pytest.raises(EOFError):
            link.receive()


def test_what_has_been_told_of_is_not_told_again_before_an_eighth_more_is_taken(
    ends: tuple[Link, Link],
) -> None:
    near, far = ends
    assert not near.readable
    far.take(1000 // 8)
    assert not near.readable
    far.take(1)
    assert near.readable
    assert near.receive() == []
    far.take(1000 // 8)
    assert not near.readable
    far.take(1)
    assert near.receive() == []
    assert near.acknowledged == 2 * (1000 // 8 + 1)


def test_a_link_that_is_closed_reads_from_no_other_descriptor() -> None:
    (up, window), (down, _) = make_queue(), make_queue()
    link = Link(up, down, window)
    link.close()
    assert link.fileno() < 0
    with pytest.raises(OSError, match="Bad file descriptor"):
        link.receive()
    with pytest.raises(OSError, match="Bad file descriptor"):
        link.send(FIRST_KIND, None)
    up._writer.close()  # type: ignore[attr-defined]
    down._reader.close()  # type: ignore[attr-defined]
