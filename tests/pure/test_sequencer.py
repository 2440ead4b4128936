"""A room: the order in which it is told is the order in which it tells, and leaving never floods it."""

import json
import re
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.errors import ProtocolError
from mpchat.hub.sequencer import NAMED_LEAVERS, NOTICE_GATHER, Sequencer, leaving_text
from mpchat.ipc.limits import BATCH_SIZE
from mpchat.protocol.frames import HEADER_SIZE, FrameDecoder
from mpchat.protocol.messages import message_frame

# The longest address there is, as a notice writes it.
LONGEST = "[ffff:ffff:ffff:ffff:ffff:ffff:255.255.255.255%interface-of-15]:65535"


def told(batches: list[tuple[int, bytes]]) -> list[str]:
    """Return the texts of batches, whose counts must be true."""
    texts = []
    for count, frames in batches:
        payloads = FrameDecoder(65_535).feed(frames)
        assert len(payloads) == count
        texts += [json.loads(payload)["message"] for payload in payloads if isinstance(payload, bytes)]
    return texts


def addresses(count: int) -> list[str]:
    return [f"127.0.0.1:{50_000 + number}" for number in range(count)]


@given(st.lists(st.lists(st.text(max_size=2000), min_size=1, max_size=5), max_size=30))
def test_posts_come_out_once_in_the_order_in_which_they_went_in(posts: list[list[str]]) -> None:
    room = Sequencer()
    for texts in posts:
        room.post(len(texts), b"".join(map(message_frame, texts)))
    batches = room.batch(0.0)
    assert told(batches) == [text for texts in posts for text in texts]
    assert room.sequence == sum(map(len, posts))
    assert room.batch(0.0) == []


@given(st.lists(st.integers(1, 20_000), min_size=2, max_size=30))
def test_small_posts_share_a_batch_and_no_batch_outgrows_an_item_but_a_post_that_does_so_alone(
    sizes: list[int],
) -> None:
    room = Sequencer()
    for size in sizes:
        room.post(1, bytes(size))
    batches = room.batch(0.0)
    assert b"".join(frames for _, frames in batches) == bytes(sum(sizes))
    assert all(len(frames) <= BATCH_SIZE or count == 1 for count, frames in batches)
    for (_, one), (_, next_one) in pairwise(batches):
        assert len(one) + len(next_one) > BATCH_SIZE


def test_one_leaver_is_told_at_once_in_the_words_of_the_lecture() -> None:
    room = Sequencer()
    room.leave(["127.0.0.1:51234"])
    assert room.notice_due() == 0.0
    assert told(room.batch(5.0)) == [" Disconnect : 127.0.0.1:51234 "]
    assert room.notice_due() is None


def test_leavers_right_after_a_notice_wait_and_share_the_next_one() -> None:
    room = Sequencer()
    room.leave(["a:1"])
    room.batch(5.0)
    room.leave(["b:2"])
    room.leave(["c:3"])
    assert room.notice_due() == pytest.approx(5.0 + NOTICE_GATHER)
    assert room.batch(5.0 + NOTICE_GATHER / 2) == []
    assert told(room.batch(5.0 + NOTICE_GATHER)) == [" Disconnect : b:2, c:3 (2 clients) "]


def test_a_notice_comes_after_the_posts_of_those_who_left() -> None:
    room = Sequencer()
    room.post(1, message_frame("my last words"))
    room.leave(["a:1"])
    assert told(room.batch(1.0)) == ["my last words", " Disconnect : a:1 "]
    assert room.sequence == 2


@pytest.mark.parametrize("count", [1, 2, NAMED_LEAVERS, NAMED_LEAVERS + 1, 1000, 100_000])
def test_many_leaving_at_once_share_one_notice_that_counts_them_and_fits_a_frame(count: int) -> None:
    room = Sequencer()
    room.leave([LONGEST] * count)
    batches = room.batch(1.0)
    (text,) = told(batches)
    assert len(batches[0][1]) < HEADER_SIZE + 1000
    assert text.startswith(f" Disconnect : {LONGEST}")
    if count > 1:
        assert text.endswith(f"({count} clients) ")
    if count > NAMED_LEAVERS:
        assert f", {count - NAMED_LEAVERS} more (" in text


@pytest.mark.parametrize(
    ("named", "unnamed", "text"),
    [
        (0, 1, " Disconnect : 1 client "),
        (0, 500, " Disconnect : 500 clients "),
        (1, 1, " Disconnect : 127.0.0.1:50000, 1 more (2 clients) "),
        (2, 0, " Disconnect : 127.0.0.1:50000, 127.0.0.1:50001 (2 clients) "),
    ],
)
def test_clients_of_a_killed_worker_are_counted_though_nobody_knows_their_names(
    named: int, unnamed: int, text: str
) -> None:
    assert leaving_text(addresses(named), unnamed) == text


@given(st.lists(st.tuples(st.integers(0, 20), st.integers(0, 5), st.floats(0.0, 0.2)), max_size=40))
def test_however_they_leave_everybody_is_counted_once_and_notices_keep_their_distance(
    steps: list[tuple[int, int, float]],
) -> None:
    room, now, counted, moments = Sequencer(), 0.0, 0, []
    for named, unnamed, pause in [*steps, (0, 0, NOTICE_GATHER)]:
        now += pause
        room.leave(addresses(named), unnamed)
        for text in told(room.batch(now)):
            moments.append(now)
            clients = re.search(r"\b(\d+) client", text)
            counted += int(clients[1]) if clients else 1
    assert counted == sum(named + unnamed for named, unnamed, _ in steps)
    assert all(b - a >= NOTICE_GATHER * 0.999 for a, b in pairwise(moments))


def test_without_notices_nobody_hears_of_leavers() -> None:
    room = Sequencer(notices=False)
    room.leave(addresses(5), 5)
    assert room.notice_due() is None
    assert room.batch(1.0) == []


def test_an_announcement_is_a_message_like_any_other() -> None:
    room = Sequencer()
    room.say("서버 점검 10분 전 👋")
    assert told(room.batch(0.0)) == ["서버 점검 10분 전 👋"]


def test_an_announcement_that_fits_no_frame_is_refused_and_changes_nothing() -> None:
    room = Sequencer()
    with pytest.raises(ProtocolError, match="a frame 65535"):
        room.say("a" * 70_000)
    assert (room.sequence, room.batch(0.0)) == (0, [])
