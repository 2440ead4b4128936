"""The history of a room, and the frames that members get of it."""

import time

import hypothesis.strategies as st
from hypothesis import given
from support.desk import KEPT, objects, run

from mpchat.hub.history import History, Run, size_of
from mpchat.protocol.messages import message_frame
from mpchat.protocol.requests import as_said_by, numbered_frames, room_field

TEXTS = st.lists(st.text(max_size=20).filter(lambda text: text.isprintable()), min_size=1, max_size=5)


@given(TEXTS, st.text(min_size=1, max_size=10).filter(str.isprintable), st.integers(1, 1 << 40))
def test_what_members_get_is_what_was_said_with_who_where_which_and_when(
    texts: list[str], sender: str, first: int
) -> None:
    frames = b"".join(map(message_frame, texts))
    assert objects(numbered_frames(frames, sender, room_field("방"), first, 12.3456)) == [
        {"message": text, "from": sender, "room": "방", "seq": first + place, "at": 12.346}
        for place, text in enumerate(texts)
    ]
    assert objects(as_said_by(sender, frames)) == [{"message": f"{sender}: {text}"} for text in texts]


def test_what_the_server_says_has_no_sender() -> None:
    assert objects(numbered_frames(message_frame("hi"), "", room_field("r"), 1, 1.0)) == [
        {"message": "hi", "room": "r", "seq": 1, "at": 1.0}
    ]


# History.


@given(st.lists(st.integers(1, 40), min_size=1, max_size=30), st.integers(1, 60))
def test_history_keeps_the_last_messages_and_hardly_more(counts: list[int], most: int) -> None:
    history, seq = History(), 0
    for count in counts:
        history.add(run(seq + 1, count), KEPT._replace(messages=most))
        seq += count
    kept = [number for each in history.since(0) for number in range(each.seq, each.last + 1)]
    assert kept == list(range(history.first or 0, seq + 1))
    assert len(kept) >= min(most, seq)
    assert len(kept) < most + max(counts)


def test_history_is_bounded_in_bytes_and_in_time_and_begins_after_a_gap() -> None:
    history = History()
    for seq in range(1, 100):
        history.add(run(seq), KEPT._replace(size=10 * size_of(run(10))))
    assert [each.seq for each in history.since(0)] == list(range(90, 100))
    history = History()
    for seq in range(1, 100):
        history.add(run(seq, at=float(seq)), KEPT._replace(age=10.0))
    assert [each.seq for each in history.since(0)] == list(range(89, 100))
    history.trim(1000.0, KEPT._replace(age=10.0))
    assert not history
    history.add(run(200), KEPT)
    history.add(run(205), KEPT)
    assert (history.first, history.last) == (205, 205)


def test_to_give_the_last_few_of_a_long_history_takes_no_time() -> None:
    history, many = History(), 100_000
    kept = KEPT._replace(messages=many, size=1 << 30)
    for seq in range(1, many + 1):
        history.add(Run("r", seq, 1, 0.0, "alice", b"\0\0"), kept)
    began = time.process_time()
    for _ in range(300):
        assert [each.seq for each in history.since(many - 49)] == list(range(many - 49, many + 1))
    assert time.process_time() - began < 1.0  # looking at all of it, it was five
