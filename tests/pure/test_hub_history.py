"""The history of a room, and the frames that members get of it."""

import time

import hypothesis.strategies as st
import pytest
from hypothesis import example, given
from support.desk import KEPT, LIMITS, Desk, objects, run

from mpchat.hub.entries import Swept
from mpchat.hub.history import History, Run, size_of
from mpchat.protocol.messages import message_frame
from mpchat.protocol.requests import as_said_by, numbered_frames, room_field

# Texts on both sides of what one byte of a frame's length can say, too.
LONG = st.sampled_from([100, 200, 240, 260, 500, 5000]).map(lambda length: "x" * length)
TEXTS = st.lists(st.text(max_size=20).filter(str.isprintable) | LONG, min_size=1, max_size=5)


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


@given(
    st.lists(
        st.text() | LONG | st.sampled_from(['"}\0\x0f{"message":"', '{"message":"', "\0\x0f"]), min_size=1
    ),
    st.sampled_from(["", "밥", '"}{"message":"']),
    st.sampled_from([1, 5, 95, 985, 995, 1000, 1995, 999_995, 10**15 - 5]),
)
@example(["안녕"] * 3000, "밥", 1)
@example(["x" * size for size in range(1900, 2000)], "밥", 1)
def test_a_run_of_many_messages_is_numbered_as_each_of_them_alone(
    texts: list[str], sender: str, first: int
) -> None:
    frames, field = list(map(message_frame, texts)), room_field("방")
    alone = [
        numbered_frames(frame, sender, field, first + place, 12.3456) for place, frame in enumerate(frames)
    ]
    together = numbered_frames(b"".join(frames), sender, field, first, 12.3456, len(frames))
    assert together == b"".join(alone)


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


def kept_numbers(history: History) -> list[int]:
    """Return the numbers of the messages that are kept, as their frames have them."""
    runs = list(history.since(0))
    assert [each.count for each in runs] == [len(objects(each.frames)) for each in runs]
    return [int(each["message"]) for run in runs for each in objects(run.frames)]


def test_of_single_messages_as_many_are_kept_as_allowed_and_no_more() -> None:
    history, kept = History(), KEPT._replace(messages=5)
    for seq in range(1, 30):
        history.add(run(seq), kept)
        assert kept_numbers(history) == list(range(max(1, seq - 4), seq + 1))
        assert (history.first, history.last) == (max(1, seq - 4), seq)
    for seq in range(40, 60):  # after a gap it is the same
        history.add(run(seq), kept)
        assert kept_numbers(history) == list(range(max(40, seq - 4), seq + 1))


def test_of_messages_of_one_size_as_many_are_kept_as_fit_and_no_more() -> None:
    history, size = History(), size_of(run(10))
    kept = KEPT._replace(size=5 * size)
    for begin in (10, 50):  # the second time after a gap
        for seq in range(begin, begin + 20):
            history.add(run(seq), kept)
            assert kept_numbers(history) == list(range(max(begin, seq - 4), seq + 1))
    history.trim(0.0, KEPT._replace(size=5 * size - 1))
    assert kept_numbers(history) == [66, 67, 68, 69]


def test_the_last_run_is_kept_however_large_it_is_until_it_is_too_old() -> None:
    history, kept = History(), KEPT._replace(messages=3, size=1, age=10.0)
    history.add(run(1, 100, at=5.0), kept)
    history.trim(15.0, kept)
    assert kept_numbers(history) == list(range(1, 101))
    history.trim(15.1, kept)
    assert (kept_numbers(history), history.first, history.last) == ([], None, None)
    history.add(run(101, 2, at=16.0), kept)
    history.add(run(103, 3, at=16.0), kept)
    assert kept_numbers(history) == [103, 104, 105]


def test_a_run_from_one_of_its_messages_on_has_the_others_and_their_count() -> None:
    whole = run(7, 4, at=2.5)
    for first in range(7, 11):
        rest = whole.since(first)
        assert (rest.seq, rest.count, rest.last, rest.at, rest.sender) == (
            first,
            11 - first,
            10,
            2.5,
            "alice",
        )
        assert [each["message"] for each in objects(rest.frames)] == [f"{seq}" for seq in range(first, 11)]


def test_a_run_between_two_of_its_messages_has_those_and_their_count() -> None:
    whole = run(7, 4, at=2.5)
    assert whole.between(7, 10) is whole
    for first in range(7, 11):
        for last in range(first, 11):
            part = whole.between(first, last)
            assert (part.seq, part.count, part.last, part.at) == (first, last - first + 1, last, 2.5)
            texts = [each["message"] for each in objects(part.frames)]
            assert texts == [f"{seq}" for seq in range(first, last + 1)]


@given(st.lists(st.integers(1, 9), max_size=20), st.integers(0, 99))
@example([1] * 9 + [2] + [9] * 10, 32)
def test_runs_before_a_number_come_newest_first_and_hold_all_below_it(counts: list[int], before: int) -> None:
    history, seq = History(), 30
    for count in counts:
        history.add(run(seq + 1, count), KEPT)
        seq += count
    found = list(history.before(before))
    assert [each.seq for each in found] == sorted((each.seq for each in found), reverse=True)
    assert all(each.seq < before for each in found)
    numbers = {number for each in found for number in range(each.seq, each.last + 1)}
    # Of the newest messages so many are kept, whatever their runs.
    assert numbers >= set(range(max(31, seq + 1 - KEPT.messages), min(before, seq + 1)))


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


@pytest.mark.parametrize("step", [86_400.0, -86_400.0])
def test_a_step_of_the_wall_clock_makes_no_message_older_or_younger(step: float) -> None:
    desk = Desk(LIMITS._replace(kept=KEPT._replace(age=60.0)))
    history = desk.state.rooms.lobby.history
    wall = 1e9
    desk.post("127.0.0.1:1", "먼저", now=100.0, at=wall)
    desk.post("127.0.0.1:1", "나중", now=110.0, at=wall + 10 + step)
    desk.apply(Swept(160.0, wall + 60 + step))
    assert [each.at for each in history.since(0)] == [wall, wall + 10 + step], "the order and the stamps stay"
    desk.apply(Swept(161.0, wall + 61 + step))
    assert [each.at for each in history.since(0)] == [wall + 10 + step]
    desk.apply(Swept(171.0, wall + 71))
    assert not history
