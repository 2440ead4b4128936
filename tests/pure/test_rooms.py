"""Rooms without processes: numbers, what is kept, what somebody is given of the past, who is told of whom."""

import json
import time
from itertools import pairwise

import hypothesis.strategies as st
import pytest
from hypothesis import given
from msgspec.structs import replace
from support.crowd import payloads

from mpchat.hub import members as people
from mpchat.hub.archive import Loaded
from mpchat.hub.members import Limits, Member, Members
from mpchat.hub.rooms import History, Kept, OvertakenError, Replay, Room, Run, size_of
from mpchat.hub.sequencer import NOTICE_GATHER
from mpchat.protocol.frames import cut_frames
from mpchat.protocol.messages import message_frame
from mpchat.protocol.names import name_key
from mpchat.protocol.requests import Join, ListRooms, Request, Who, as_said_by, numbered_frames, room_field

SHARE = 1 << 20
KEPT = Kept(messages=100, size=1 << 20, age=0.0)
TEXTS = st.lists(st.text(max_size=20).filter(lambda text: text.isprintable()), min_size=1, max_size=5)


def objects(frames: bytes) -> list[dict[str, object]]:
    return [json.loads(each) for each in payloads(frames)]


def run(seq: int, count: int = 1, at: float = 0.0) -> Run:
    frames = b"".join(message_frame(f"{number}") for number in range(seq, seq + count))
    return Run("r", seq, count, at, "alice", frames)


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


@given(st.lists(st.integers(1, 9), min_size=1, max_size=20), st.integers(0, 200), st.integers(1, 500))
def test_a_replay_gives_every_message_once_however_it_is_cut(
    counts: list[int], first: int, most: int
) -> None:
    room = Room(1, "r")
    room.enter(7, "bob")
    room.flush(0.0, SHARE)
    for count in counts:
        room.post("alice", count, run(room.seq + 1, count).frames, 1.0, KEPT._replace(messages=1000))
    last = room.seq
    first = 1 + first % last
    room.flush(1.0, SHARE)
    replay = Replay(room, first, last, room.stream.messages)
    got: list[dict[str, object]] = []
    later = 0
    while not replay.done:
        got += objects(replay.chunk(most))
        if later < 5:  # meanwhile the room goes on
            later += 1
            room.post("alice", 1, run(room.seq + 1).frames, 1.0, KEPT._replace(messages=1000))
            room.flush(1.0, SHARE)
    assert [each["seq"] for each in got] == list(range(first, last + later + 1))


def test_a_replay_that_is_overtaken_says_so() -> None:
    room = Room(1, "r")
    for _ in range(50):
        room.post("alice", 1, run(room.seq + 1).frames, 1.0, KEPT._replace(messages=5))
    with pytest.raises(OvertakenError):
        Replay(room, 10, 50, room.stream.messages).chunk(100)


# Comers and leavers.


def test_comers_and_leavers_are_told_at_once_and_then_together() -> None:
    room = Room(1, "r")
    room.enter(1, "watcher")
    room.flush(0.0, SHARE)
    for number in range(20):
        room.enter(10 + number, f"n{number}")
    assert room.flush(NOTICE_GATHER / 2, SHARE) == (0, b"")
    for number in range(15):
        room.leave(10 + number, "closed")
    room.enter(50, "late")
    count, frames = room.flush(NOTICE_GATHER * 2, SHARE)
    assert (count, room.stream.messages) == (1, 2), "a notice is a frame, and all frames are counted"
    # Who came and went in between was never there; of many the first eight are named.
    names = [*(f"n{number}" for number in range(15, 20)), "late"]
    assert objects(frames) == [{"joined": {"room": "r", "names": names, "count": 6, "members": 7}}]
    for number in range(15, 20):
        room.leave(10 + number, "closed" if number % 2 else "lost")
    room.post("late", 3, run(1, 3).frames, 1.0, KEPT)
    count, frames = room.flush(NOTICE_GATHER * 4, SHARE)
    assert (count, len(objects(frames))) == (5, 5)
    frames = frames[cut_frames(frames, 3) :]
    assert [each["left"]["reason"] for each in objects(frames)] == ["closed", "lost"]  # type: ignore[index]


# Members.


class Desk:
    """Takes what people are sent, as the hub does."""

    def __init__(self, rooms: int = 100, members: int = 0) -> None:
        self.people = Members(Limits(rooms, members, name_hold=60.0, kept=KEPT, lag=1 << 20), self)
        self.sent: list[tuple[int, dict[str, object]]] = []
        self.ended: list[int] = []

    def tell(self, person: Member, frames: bytes) -> None:
        self.sent += [(person.identity, each) for each in objects(frames)]

    def begin(self, person: Member, frames: bytes) -> None:
        self.tell(person, frames)
        self.people.live(person)

    def end(self, person: Member, reason: str) -> None:
        self.ended.append(person.identity)

    def ask(self, identity: int, request: Request, now: float = 1.0) -> dict[str, object]:
        """Ask, and return the last thing that this one was sent for it; nothing when it was replaced."""
        before = len(self.sent)
        self.people.ask(identity, f"192.0.2.1:{identity}", "port", request, now, now)
        return next((each for who, each in reversed(self.sent[before:]) if who == identity), {})

    def join(
        self,
        identity: int,
        name: str | None = None,
        now: float = 1.0,
        room: str | None = None,
        token: str | None = None,
    ) -> dict[str, object]:
        return self.ask(identity, Request(join=Join(name=name, room=room, token=token)), now)


def code(answer: dict[str, object]) -> str:
    assert isinstance(answer["error"], dict)
    return str(answer["error"]["code"])


def test_limits_on_rooms_and_members() -> None:
    desk = Desk(rooms=2, members=2)
    assert "welcome" in desk.join(1, "a", room="x")
    assert code(desk.join(2, "b", room="y")) == "too_many_rooms"
    assert "welcome" in desk.join(2, "b", room="X")
    assert code(desk.join(3, "c", room="x")) == "room_full"
    # A refused join has not taken the name.
    assert "welcome" in desk.join(4, "c")
    desk.people.gone(1, "closed", 1.0)
    desk.people.gone(2, "closed", 1.0)
    desk.people.sweep(1.0)
    assert [room.name for room in desk.people.rooms.values()] == ["lobby"]
    assert "welcome" in desk.join(4, room="y")


def test_who_comes_back_to_a_full_room_finds_his_own_place() -> None:
    desk = Desk(members=2)
    token = desk.join(1, "alice", room="x")["welcome"]["token"]  # type: ignore[index]
    desk.join(2, "bob", room="x")
    assert code(desk.join(3, "alice", room="x", token="")) == "room_full"
    assert "welcome" in desk.join(3, "alice", room="x", token=token)
    assert (desk.ended, desk.people.rooms["x"].names) == ([1], ["alice", "bob"])


def test_a_room_that_comes_again_does_not_use_its_numbers_again() -> None:
    desk = Desk()
    desk.join(1, "a", room="x")
    person = desk.people.by_identity[1]
    assert person.room is not None
    desk.people.change_limits(desk.people.limits._replace(kept=KEPT._replace(age=10.0)))
    desk.people.say(person.room, "a", 3, run(1, 3).frames, 1.0)
    desk.people.gone(1, "closed", 1.0)
    desk.people.sweep(100.0)
    answer = desk.join(2, "b", room="x")
    assert answer["welcome"]["seq"] == 3  # type: ignore[index]


@pytest.mark.parametrize("left", [True, False])
def test_rooms_that_are_filled_one_after_the_other_share_their_memory(
    monkeypatch: pytest.MonkeyPatch, left: bool
) -> None:
    monkeypatch.setattr(people, "ROOMS_MEMORY", 1 << 20)
    monkeypatch.setattr(people, "LEAST_SHARE", 1 << 10)
    desk = Desk()
    for number in range(50):
        desk.join(number, f"n{number}", room=f"r{number}")
        room = desk.people.rooms[f"r{number}"]
        while len(room.stream.read_all(room.stream.start)) < 2 or room.history.first == 1:
            desk.people.say(room, "a", 1, message_frame("x" * 4000), 1.0)
            room.flush(1.0, desk.people.share)
        if left:
            desk.people.gone(number, "closed", 1.0)
    desk.people.sweep(1.0)
    rooms = desk.people.rooms.values()
    histories = sum(size_of(run) for room in rooms for run in room.history.since(0))
    streams = sum(room.stream.end - room.stream.start for room in rooms)
    assert histories + streams <= people.ROOMS_MEMORY + 2 * 4000 * len(rooms)
    assert not left or not streams


def test_a_sweep_looks_at_some_rooms_and_all_are_looked_at_in_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(people, "SWEPT", 3)
    monkeypatch.setattr(people, "SWEEPS", 5)
    desk = Desk()
    for number in range(40):
        desk.join(number, f"n{number}", room=f"r{number}")
    for number in range(40):
        desk.people.gone(number, "closed", 1.0)
    left = []
    for _ in range(20):
        desk.people.sweep(1.0)
        left.append(len(desk.people.rooms))
    assert 41 - 8 <= left[0] < 41
    assert left[-1] == 1
    assert all(before - after <= 8 for before, after in pairwise(left))


def test_a_room_that_was_spelled_in_two_ways_goes_on_after_its_last_number() -> None:
    desk = Desk()
    past = Loaded("e", {"Game": 20, "game": 15}, 0, [], {})
    desk.people.remember(past, [replace(run(15), room="game"), replace(run(16, 5), room="Game")])
    desk.join(1, "alice", room="GAME")
    room = desk.people.rooms["game"]
    assert (room.seq, room.history.first) == (20, 15)
    assert {each.room for each in room.history.since(0)} == {room.name}


def test_who_is_cut_off_in_a_takeover_comes_back_with_the_token_that_it_has() -> None:
    desk = Desk()
    first = desk.join(1, "alice")["welcome"]
    assert isinstance(first, dict)
    second = desk.join(2, "alice", token=first["token"])["welcome"]
    assert isinstance(second, dict)
    assert (desk.ended, second["token"] == first["token"]) == ([1], False)
    # The one that was replaced does not take it back while the other is there.
    assert code(desk.join(3, "alice", token=first["token"])) == "name_taken"
    desk.people.gone(2, "lost", 1.0)
    assert code(desk.join(4, "alice", token="")) == "name_taken"
    assert "welcome" in desk.join(5, "alice", token=first["token"])


def test_who_is_paged() -> None:
    desk = Desk()
    names = sorted(f"n{number:03}" for number in range(250))
    for identity, name in enumerate(names):
        desk.join(identity, name)
    found: list[str] = []
    after: str | None = None
    pages = 0
    while pages == 0 or after is not None:
        page = desk.ask(0, Request(who=Who(after=after)))["who"]
        assert isinstance(page, dict)
        found += page["names"]
        after, pages = page["next"], pages + 1
    assert (found, pages) == (names, 3)


def test_a_page_begins_after_any_text_and_takes_no_time_for_it() -> None:
    """To compose this text takes a second; a thousand times that is more than any test may take."""
    desk = Desk()
    desk.join(1, "alice", room="가")
    after = "A" + "\u0300\u0316" * 10_000
    for _ in range(1000):
        assert desk.ask(1, Request(who=Who(after=after)))["who"]["names"] == ["alice"]  # type: ignore[index]
        assert desk.ask(1, Request(rooms=ListRooms(after=after)))["rooms"]["count"] == 2  # type: ignore[index]


STEPS = st.lists(
    st.tuples(
        st.sampled_from(["join", "gone", "lost", "later", "departs", "arrives"]),
        st.integers(0, 5),
        st.sampled_from(["a", "A", "b", "Ｂ", "가", "bad name"]),
        st.sampled_from(["x", "X", "y", "lobby"]),
    ),
    max_size=40,
)


@given(STEPS)
def test_names_are_unique_and_rooms_hold_exactly_those_who_are_in_them(
    steps: list[tuple[str, int, str, str]],
) -> None:
    desk, now = Desk(), 1.0
    tokens: dict[str, str] = {}
    people = desk.people
    for what, identity, name, room in steps:
        known = people.by_identity.get(identity)
        if what == "join" and (known is None or known.endpoint is not None):
            own = None if known is None or not known.name else known.name
            answer = desk.join(identity, own or name, now, room=room, token=_token(tokens, own or name))
            welcome = answer.get("welcome")
            if isinstance(welcome, dict):
                tokens[name_key(welcome["name"])] = welcome["token"]
        elif what in ("gone", "lost"):
            people.gone(identity, "closed" if what == "gone" else "lost", now)
        elif what == "later":
            now += 40.0
        elif what == "departs":
            people.departs(identity)
        elif what == "arrives":
            people.arrives(identity, "port")
        check(people)


def _token(tokens: dict[str, str], name: str) -> str | None:
    """Half of the time somebody has the right token."""
    return tokens.get(name_key(name)) if len(tokens) % 2 else None


def check(people: Members) -> None:
    named = [person for person in people.by_identity.values() if person.claim is not None]
    keys = [name_key(person.name) for person in named]
    assert len(keys) == len(set(keys)), "a name that two have"
    for room in people.rooms.values():
        inside = {person.identity: person.name for person in named if person.room is room}
        assert room.members == inside
        assert room.names == sorted(inside.values())
        live = sum(person.live for person in named if person.room is room)
        assert sum(room.endpoints.values()) == live
    assert people._room_names == sorted(room.name for room in people.rooms.values())
