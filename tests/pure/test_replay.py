"""The past that a member is sent: every message once, however it is cut, or word that it was overtaken."""

import hypothesis.strategies as st
import pytest
from hypothesis import given
from support.desk import KEPT, objects, run

from mpchat.hub.history import Run
from mpchat.hub.replay import LastPart, OvertakenError, Replay
from mpchat.hub.rooms import Room
from mpchat.ipc.stream_buffer import StreamBuffer

PLENTY = KEPT._replace(messages=1000)


def say(room: Room, stream: StreamBuffer, count: int = 1) -> None:
    """Say something that goes into the history and the stream."""
    posted = room.post("alice", count, run(room.seq + 1, count).frames, (1.0, 1.0), PLENTY)
    stream.append(room.numbered(posted), count)


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(0, 200), st.integers(1, 500))
def test_a_replay_sends_every_message_once_however_it_is_cut(
    counts: list[int], first: int, most: int
) -> None:
    room, stream = Room(1, "r"), StreamBuffer(1 << 20)
    for count in counts:
        say(room, stream, count)
    last = room.seq
    first = 1 + first % last
    replay = Replay(room, stream, first, last, stream.end, LastPart())
    got: list[dict[str, object]] = []
    later = 0
    while not replay.done:
        got += objects(replay.chunk(most))
        if later < 5:  # meanwhile the room goes on
            later += 1
            say(room, stream)
    assert [each["seq"] for each in got] == list(range(first, last + later + 1))


@given(st.lists(st.tuples(st.integers(1, 2), st.integers(1, 40)), max_size=20), st.integers(1, 2_000))
def test_what_members_ask_for_one_after_the_other_is_what_each_would_get_alone(
    asked: list[tuple[int, int]], most: int
) -> None:
    rooms = {number: Room(number, f"r{number}") for number in (1, 2)}
    streams = {number: StreamBuffer(1 << 20) for number in rooms}
    for number, room in rooms.items():
        for _ in range(10):
            say(room, streams[number], 2 + number)
    shared = LastPart()
    for number, first in asked:
        room, stream = rooms[number], streams[number]
        say(room, stream)
        first = min(first, room.seq)
        for _ in range(2):
            alone = Replay(room, stream, first, room.seq, stream.end, LastPart())
            together = Replay(room, stream, first, room.seq, stream.end, shared)
            while not alone.done:
                assert together.chunk(most) == alone.chunk(most)
            assert together.done


def test_a_past_that_a_whole_room_asks_for_is_encoded_once(monkeypatch: pytest.MonkeyPatch) -> None:
    room, stream, shared = Room(1, "r"), StreamBuffer(1 << 20), LastPart()
    for _ in range(20):
        say(room, stream)
    encoded: list[int] = []
    numbered = Room.numbered

    def counted(self: Room, run: Run) -> bytes:
        encoded.append(run.seq)
        return numbered(self, run)

    monkeypatch.setattr(Room, "numbered", counted)
    parts = {Replay(room, stream, 11, 20, stream.end, shared).chunk(1 << 20) for _ in range(1000)}
    assert encoded == list(range(11, 21))
    (part,) = parts
    assert [each["seq"] for each in objects(part)] == list(range(11, 21))


def test_a_replay_whose_history_is_overtaken_says_so() -> None:
    room = Room(1, "r")
    for _ in range(50):
        room.post("alice", 1, run(room.seq + 1).frames, (1.0, 1.0), KEPT._replace(messages=5))
    with pytest.raises(OvertakenError):
        Replay(room, StreamBuffer(0), 10, 50, 0, LastPart()).chunk(100)


def test_a_replay_leaves_out_what_its_history_has_forgotten() -> None:
    room, stream = Room(1, "r"), StreamBuffer(1 << 20)
    kept = KEPT._replace(messages=5)

    def post(count: int) -> None:
        for _ in range(count):
            room.post("alice", 1, run(room.seq + 1).frames, (1.0, 1.0), kept)

    post(10)
    replay = Replay(room, stream, 6, 10, stream.end, LastPart())
    assert replay.skip() is None
    assert [each["seq"] for each in objects(replay.chunk(1))] == [6]
    post(2)
    assert replay.skip() == (7, 7)
    assert [each["seq"] for each in objects(replay.chunk(1))] == [8]
    post(20)
    assert replay.skip() == (9, 10)
    assert (replay.done, replay.skip()) == (True, None)


def test_a_replay_whose_stream_is_overtaken_says_so() -> None:
    room, stream = Room(1, "r"), StreamBuffer(100)
    replay = Replay(room, stream, 1, 0, stream.end, LastPart())
    for _ in range(50):
        say(room, stream)
    with pytest.raises(OvertakenError):
        replay.chunk(100)


def test_a_member_that_has_missed_nothing_needs_no_history() -> None:
    room, stream = Room(1, "r", seq=7), StreamBuffer(1 << 20)
    replay = Replay(room, stream, 8, 7, stream.end, LastPart())
    assert replay.done
    assert replay.chunk(100) == b""


def test_a_replay_continues_from_the_oldest_byte_that_is_kept() -> None:
    room, stream = Room(1, "r"), StreamBuffer(1 << 20)
    replay = Replay(room, stream, 1, 0, stream.end, LastPart())
    say(room, stream, 3)
    assert replay.chunk(1 << 20) == b"".join(map(bytes, stream.read_all(0)))
    assert replay.done


@given(st.integers(1, 3000))
def test_a_part_of_a_replay_is_longer_than_asked_for_by_less_than_a_message(most: int) -> None:
    room, stream = Room(1, "r"), StreamBuffer(1 << 20)
    for _ in range(20):
        say(room, stream)
    replay = Replay(room, stream, 1, 20, stream.end, LastPart())
    for _ in range(20):
        say(room, stream)
    longest = len(room.numbered(run(40)))
    while not replay.done:
        part = replay.chunk(most)
        assert 0 < len(part) < most + longest
        assert replay.done or len(part) >= most
