"""The hub as a state machine: the same entries give the same state and the same effects."""

from collections.abc import Callable
from typing import Any

import hypothesis.strategies as st
import msgspec
import pytest
from hypothesis import given
from support.desk import KEPT, LIMITS, Desk, objects
from support.endpoints import RecordingEndpoint

from mpchat.hub.effects import Effect, NoticeInRoom, Say, SayInRoom, Tell
from mpchat.hub.entries import (
    Announced,
    Asked,
    ClockStepped,
    Configured,
    CutOff,
    Entry,
    Left,
    Lifted,
    Moderated,
    NoticesDue,
    Posted,
    RoomClosed,
    Spoken,
    Swept,
    Told,
    WorkerDied,
)
from mpchat.hub.log import MemoryLog
from mpchat.hub.moderation import Moderation
from mpchat.hub.past import Past
from mpchat.hub.sequencer import NOTICE_GATHER
from mpchat.hub.state import HubState
from mpchat.protocol.messages import message_frame
from mpchat.protocol.requests import Join, ListRooms, ReadHistory, Request, Who

IDENTITIES = st.integers(1, 6)
NAMES = st.sampled_from(["alice", "ALICE", "bob", "가", "bad name"])
ROOMS = st.sampled_from([None, "x", "X", "y", "lobby"])
TIMES = st.floats(0.0, 200.0, allow_nan=False)
REQUESTS = st.one_of(
    st.builds(
        lambda name, room, token, after, epoch: Request(
            join=Join(name=name, room=room, token=token, after=after, epoch=epoch)
        ),
        st.none() | NAMES,
        ROOMS,
        st.none() | st.sampled_from(["t1", "t2", "t3"]),
        st.none() | st.integers(0, 30),
        st.none() | st.sampled_from(["epoch", "earlier", "unknown"]),
    ),
    st.builds(lambda room: Request(who=Who(room=room)), ROOMS),
    st.just(Request(rooms=ListRooms())),
    st.builds(
        lambda before, limit: Request(history=ReadHistory(before, limit)),
        st.none() | st.integers(0, 30),
        st.none() | st.integers(1, 9),
    ),
    st.builds(lambda to: Request(message="psst", to=to), NAMES),
)


@st.composite
def posted(draw: st.DrawFn) -> Posted:
    """Draw messages of several senders in one entry."""
    runs, parts = [], []
    for sender in draw(st.lists(IDENTITIES | st.sampled_from(["1.1.1.1:1", "2.2.2.2:2"]), max_size=4)):
        texts = draw(st.lists(st.sampled_from(["a", "나", "c" * 50]), min_size=1, max_size=3))
        frames = b"".join(map(message_frame, texts))
        runs.append((sender, len(texts), len(frames)))
        parts.append(frames)
    return Posted(draw(TIMES), draw(TIMES), runs, b"".join(parts))


@st.composite
def left(draw: st.DrawFn) -> Left:
    """Draw connections that end."""
    clients: list[str | tuple[int, str, str]] = []
    for identity in draw(st.lists(IDENTITIES, max_size=3)):
        reason = draw(st.sampled_from(["closed", "lost"]))
        member = (identity, f"9.9.9.9:{identity}", reason)
        clients.append(member if draw(st.booleans()) else "1.1.1.1:1")
    return Left(draw(TIMES), clients)


TABLES, KEYS = st.sampled_from(["bans", "mutes"]), st.sampled_from(["alice", "bob", "1.1.1.1"])
ENTRIES = st.lists(
    st.one_of(
        posted(),
        left(),
        st.builds(
            lambda now, at, identity, request, token: Asked(
                now, at, identity, f"9.9.9.9:{identity}", request, token
            ),
            TIMES,
            TIMES,
            IDENTITIES,
            REQUESTS,
            st.sampled_from(["t1", "t2", "t3"]),
        ),
        st.builds(CutOff, TIMES, IDENTITIES, st.just("slow consumer")),
        st.builds(WorkerDied, TIMES, st.lists(IDENTITIES, max_size=3, unique=True), st.integers(0, 5)),
        st.builds(Announced, TIMES, TIMES, st.just(message_frame("공지"))),
        st.builds(Spoken, TIMES, TIMES, st.just("알림"), st.integers(0, 6), st.just(message_frame("새 판"))),
        st.builds(Told, TIMES, TIMES, st.just("알림"), st.sampled_from(["alice", "bob"]), st.just("쉿")),
        st.builds(
            lambda table, key, until: Moderated(table, key, key, until), TABLES, KEYS, st.none() | TIMES
        ),
        st.builds(Lifted, TABLES, KEYS),
        st.builds(RoomClosed, TIMES, TIMES, st.integers(1, 6)),
        st.builds(
            lambda rooms, messages, notices: Configured(
                LIMITS._replace(rooms=rooms, kept=KEPT._replace(messages=messages)), notices
            ),
            st.integers(1, 5),
            st.integers(1, 20),
            st.booleans(),
        ),
        st.builds(NoticesDue, TIMES),
        st.builds(ClockStepped, st.floats(-1e6, 1e6, allow_nan=False)),
        st.builds(Swept, TIMES, TIMES),
    ),
    max_size=40,
)


def fresh() -> HubState:
    """Return a state at its beginning."""
    past = Past("epoch", {"x": 7}, 3, (), {"earlier": {"x": 5}})
    return HubState(LIMITS, past, Moderation())


def written_down(value: Any) -> Any:
    """Write a state down as plain values: all attributes of all objects, wherever they are."""
    return _written(value, {})


def _written(value: Any, seen: dict[int, int]) -> Any:
    if isinstance(value, str | bytes | int | float | bool | None):
        return value
    if id(value) in seen:
        return ("again", seen[id(value)])
    seen[id(value)] = len(seen)
    if isinstance(value, dict):
        return [(_written(key, seen), _written(each, seen)) for key, each in value.items()]
    if isinstance(value, set):
        return sorted(value)
    if hasattr(value, "__iter__") and type(value).__module__ in ("builtins", "collections"):
        return [_written(each, seen) for each in value]
    if isinstance(value, tuple):
        return [_written(each, seen) for each in value]
    if isinstance(value, msgspec.Struct):
        return [_written(getattr(value, name), seen) for name in value.__struct_fields__]
    names = getattr(value, "__slots__", None) or vars(value).keys()
    return [(name, _written(getattr(value, name), seen)) for name in names if not _is_code(value, name)]


def _is_code(value: Any, name: str) -> bool:
    """Functions say what a state does, not what it is."""
    return callable(getattr(value, name)) or name == "_appliers"


def test_states_that_differ_are_written_down_differently() -> None:
    desk = Desk()
    before: list[Any] = []
    steps: list[Callable[[], object]] = [
        lambda: desk.join(1, "alice", room="x"),
        lambda: desk.post(1, "hello"),
        lambda: desk.apply(NoticesDue(1.0)),
        lambda: desk.leave(1, "lost"),
        lambda: desk.apply(Moderated("mutes", "bob", "bob", None)),
        lambda: desk.apply(Configured(LIMITS._replace(rooms=3), notices=True)),
    ]
    for step in steps:
        step()
        assert written_down(desk.state) not in before
        before.append(written_down(desk.state))


@given(ENTRIES)
def test_the_same_entries_give_equal_states_and_equal_effects(entries: list[Entry]) -> None:
    one, other = fresh(), fresh()
    for entry in entries:
        assert one.apply(entry) == other.apply(entry)
    assert written_down(one) == written_down(other)


@given(ENTRIES, st.lists(st.integers(0, 8), max_size=20))
def test_batches_in_which_entries_are_read_make_no_difference(entries: list[Entry], sizes: list[int]) -> None:
    one, other, log = fresh(), fresh(), MemoryLog()
    effects: list[Effect] = []
    rest, batches = list(entries), [*sizes, len(entries)]
    for size in batches:
        for entry in rest[:size]:
            log.append(entry, RecordingEndpoint(1), 0)
        del rest[:size]
        while log:
            content = log.next().content
            assert not isinstance(content, tuple)
            effects += other.apply(content)
    assert effects == [effect for entry in entries for effect in one.apply(entry)]
    assert written_down(one) == written_down(other)


@given(ENTRIES)
def test_entries_that_have_crossed_a_network_do_the_same(entries: list[Entry]) -> None:
    """An entry carries all that decides, and carries it as values that can be written down."""
    one, other = fresh(), fresh()
    decoder = msgspec.msgpack.Decoder(Entry)
    for entry in entries:
        copy = decoder.decode(msgspec.msgpack.encode(entry))
        assert one.apply(entry) == other.apply(copy)
    assert written_down(one) == written_down(other)


@given(ENTRIES)
def test_numbers_of_a_room_have_no_gap_and_are_given_once(entries: list[Entry]) -> None:
    state, last = fresh(), dict[str, int]()
    for entry in entries:
        for effect in state.apply(entry):
            if isinstance(effect, SayInRoom):
                run = effect.run
                assert run.seq == last.get(run.room, run.seq - 1) + 1
                last[run.room] = run.last


def test_a_post_goes_to_plain_clients_and_to_the_lobby_under_the_sender_s_name() -> None:
    desk = Desk()
    desk.join(1, "alice")
    desk.join(2, "bob", room="x")
    effects = desk.post(1, "hello")
    said = [effect for effect in effects if isinstance(effect, Say)]
    assert objects(said[0].frames) == [{"message": "alice: hello"}]
    assert [effect.run.sender for effect in effects if isinstance(effect, SayInRoom)] == ["alice"]
    effects = desk.post(2, "in x")
    assert [effect.run.room for effect in effects if isinstance(effect, SayInRoom)] == ["x"]
    assert not [effect for effect in effects if isinstance(effect, Say)]
    effects = desk.post("1.1.1.1:1", "plain")
    assert [(effect.run.room, effect.run.sender) for effect in effects if isinstance(effect, SayInRoom)] == [
        ("lobby", "1.1.1.1:1")
    ]


def test_messages_of_many_senders_in_one_entry_each_go_to_the_room_of_their_sender() -> None:
    desk = Desk()
    desk.join(1, "alice", room="x")
    desk.join(2, "bob")
    said: list[tuple[int | str, list[str]]] = [
        (1, ["a", "b"]),
        ("1.1.1.1:1", ["c"]),
        (2, ["d"]),
        (1, ["e" * 300]),
    ]
    parts = [b"".join(map(message_frame, texts)) for _, texts in said]
    runs = [(sender, len(texts), len(part)) for (sender, texts), part in zip(said, parts, strict=True)]
    effects = desk.apply(Posted(1.0, 1.0, runs, b"".join(parts)))
    found = [
        (effect.run.room, effect.run.sender, [each["message"] for each in objects(effect.run.frames)])
        for effect in effects
        if isinstance(effect, SayInRoom)
    ]
    assert found == [
        ("x", "alice", ["a", "b"]),
        ("lobby", "1.1.1.1:1", ["c"]),
        ("lobby", "bob", ["d"]),
        ("x", "alice", ["e" * 300]),
    ]
    assert _said(effects) == ["c", "bob: d"]
    assert desk.state.messages == 5


def test_without_members_plain_clients_hear_all_senders_in_order() -> None:
    desk = Desk()
    parts = [message_frame("a") + message_frame("b"), message_frame("c")]
    runs = [("1.1.1.1:1", 2, len(parts[0])), ("2.2.2.2:2", 1, len(parts[1]))]
    effects = desk.apply(Posted(1.0, 1.0, list(runs), b"".join(parts)))
    assert _said(effects) == ["a", "b", "c"]
    assert [effect.messages for effect in effects if isinstance(effect, Say)] == [3]
    assert [effect.run.sender for effect in effects if isinstance(effect, SayInRoom)] == [
        "1.1.1.1:1",
        "2.2.2.2:2",
    ]
    assert (desk.state.messages, desk.state.sequencer.sequence) == (3, 3)


def test_a_client_whose_join_was_refused_speaks_and_goes_as_a_plain_client() -> None:
    desk = Desk()
    desk.join(1, "not a name")
    effects = desk.post(1, "hello")
    assert _said(effects) == ["hello"]
    assert [(effect.run.room, effect.run.sender) for effect in effects if isinstance(effect, SayInRoom)] == [
        ("lobby", "192.0.2.1:1")
    ]
    desk.leave(1)
    assert _said(desk.apply(NoticesDue(1.0))) == [" Disconnect : 192.0.2.1:1 "]


def _said(effects: list[Effect]) -> list[str]:
    """Return what plain clients hear, and check its count."""
    found = []
    for effect in effects:
        if isinstance(effect, Say):
            said = objects(effect.frames)
            assert effect.messages == len(said)
            found += [str(each["message"]) for each in said]
    return found


def test_every_message_counts_once_in_whatever_room_it_is_said() -> None:
    desk = Desk()
    desk.join(1, "alice")
    desk.join(2, "bob", room="x")
    desk.post(1, "a", "b")
    desk.post(2, "c")
    desk.post("1.1.1.1:1", "d")
    desk.apply(Announced(1.0, 1.0, message_frame("e")))
    assert desk.state.messages == 5


def test_an_announcement_reaches_plain_clients_and_every_room_with_members() -> None:
    desk = Desk()
    desk.join(1, "alice", room="x")
    effects = desk.apply(Announced(1.0, 1.0, message_frame("공지")))
    assert [effect.messages for effect in effects if isinstance(effect, Say)] == [1]
    runs = [effect.run for effect in effects if isinstance(effect, SayInRoom)]
    assert [(run.room, run.seq, run.count, run.sender) for run in runs] == [("x", 1, 1, "")]
    assert desk.state.rooms.by_key["x"].seq == 1


def test_notices_wait_until_they_are_due() -> None:
    desk = Desk()
    desk.join(1, "alice", room="x")
    due = desk.state.notice_due()
    assert due is not None
    assert due <= 1.0
    effects = desk.apply(NoticesDue(1.0))
    assert [each["joined"]["names"] for each in _notices(effects)] == [["alice"]]
    assert desk.state.notice_due() is None
    desk.join(2, "bob", room="x")
    due = desk.state.notice_due()
    assert due == 1.0 + NOTICE_GATHER
    assert _notices(desk.apply(NoticesDue(due - 0.01))) == []
    assert [each["joined"]["names"] for each in _notices(desk.apply(NoticesDue(due)))] == [["bob"]]


def test_a_notice_in_the_order_of_plain_clients_is_a_message() -> None:
    desk = Desk()
    desk.apply(Left(1.0, ["1.1.1.1:1"]))
    assert _said(desk.apply(NoticesDue(1.0))) == [" Disconnect : 1.1.1.1:1 "]
    assert (desk.state.messages, desk.state.sequencer.sequence) == (1, 1)
    desk.apply(Announced(2.0, 2.0, message_frame("공지")))
    assert (desk.state.messages, desk.state.sequencer.sequence) == (2, 2)
    assert desk.apply(NoticesDue(9.0)) == []


def test_of_the_notices_that_wait_the_earliest_is_due_first() -> None:
    desk = Desk()
    desk.apply(Left(1.0, ["1.1.1.1:1"]))
    desk.apply(NoticesDue(5.0))
    desk.join(1, "alice", room="x")
    desk.apply(NoticesDue(6.0))
    desk.join(2, "bob", room="x")
    assert desk.state.notice_due() == 6.0 + NOTICE_GATHER
    desk.apply(Left(1.0, ["1.1.1.1:2"]))
    assert desk.state.notice_due() == 5.0 + NOTICE_GATHER
    desk.join(3, "carol", room="y")
    assert desk.state.notice_due() == 0.0
    desk.apply(NoticesDue(5.5))
    assert desk.state.notice_due() == 6.0 + NOTICE_GATHER


def test_where_leaving_is_told_to_no_plain_client_members_still_hear_of_each_other() -> None:
    desk = Desk()
    desk.apply(Configured(LIMITS, notices=False))
    desk.apply(Left(1.0, ["1.1.1.1:1"]))
    desk.kill_worker(7)
    assert desk.state.notice_due() is None
    desk.join(1, "alice", room="x")
    desk.join(2, "bob", room="x")
    desk.leave(2)
    assert [list(each) for each in _notices(desk.apply(NoticesDue(1.0)))] == [["joined"]]
    desk.apply(Configured(LIMITS, notices=True))
    desk.apply(Left(1.0, ["1.1.1.1:1"]))
    assert _said(desk.apply(NoticesDue(2.0))) == [" Disconnect : 1.1.1.1:1 "]


def test_a_notice_that_waits_for_a_room_that_is_gone_is_told_to_no_room() -> None:
    desk = Desk()
    desk.join(1, "alice", room="x")
    desk.leave(1)
    desk.sweep()
    desk.join(2, "bob", room="y")
    assert [each["joined"]["room"] for each in _notices(desk.apply(NoticesDue(1.0)))] == ["y"]
    assert desk.state.notice_due() is None


@pytest.mark.parametrize(
    ("how", "reason"), [("moves", "moved"), ("closes", "closed"), ("dies", "lost"), ("is cut off", "slow")]
)
def test_a_room_is_told_why_a_member_has_left(how: str, reason: str) -> None:
    desk = Desk()
    desk.join(1, "alice", room="x")
    desk.join(2, "bob", room="x")
    desk.apply(NoticesDue(1.0))
    if how == "moves":
        desk.join(1, room="y")
    elif how == "closes":
        desk.leave(1)
    elif how == "dies":
        desk.kill_worker(1)
    else:
        desk.apply(CutOff(1.0, 1, "slow"))
    effects = desk.apply(NoticesDue(2.0))
    assert [each["left"] for each in _notices(effects) if "left" in each] == [
        {"room": "x", "names": ["alice"], "count": 1, "members": 1, "reason": reason}
    ]
    assert {effect.room for effect in effects if isinstance(effect, NoticeInRoom)} >= {
        desk.state.rooms.by_key["x"].number
    }


def _notices(effects: list[Effect]) -> list[dict[str, Any]]:
    return [each for effect in effects if isinstance(effect, NoticeInRoom) for each in objects(effect.frames)]


def test_plain_clients_hear_that_a_member_of_the_lobby_has_gone_and_of_no_other() -> None:
    desk = Desk()
    desk.join(1, "alice")
    desk.join(2, "bob", room="x")
    desk.leave(1)
    desk.leave(2)
    effects = desk.apply(NoticesDue(1.0))
    said = [each for effect in effects if isinstance(effect, Say) for each in objects(effect.frames)]
    assert said == [{"message": " Disconnect : alice "}]


def test_posts_of_a_connection_that_was_replaced_are_dropped() -> None:
    desk = Desk()
    token = desk.join(1, "alice")["welcome"]["token"]
    desk.join(2, "alice", token=token)
    assert desk.post(1, "too late") == []
    assert desk.state.messages == 0
    assert not [each for each in desk.effects if isinstance(each, Tell) and each.identity == 3]
