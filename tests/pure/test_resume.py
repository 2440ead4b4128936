"""Going on after a loss, without a socket: each message once and in order, or in a gap that is named."""

from dataclasses import dataclass, field
from typing import Any

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpchat.client.conversation import Conversation, Request, Seat, State
from mpchat.client.core import (
    Connected,
    Disconnected,
    Event,
    History,
    Lost,
    Message,
    Moderated,
    Pong,
    Refused,
    Rejected,
    Rooms,
    Welcome,
    Who,
)
from mpchat.client.lines import is_told, shown
from mpchat.client.proof import Proof
from mpchat.client.resume import MAX_ROOMS, Track, Tracks
from mpchat.errors import ConnectionLostError, ProtocolError, RefusedError
from mpchat.protocol.frames import FrameDecoder, Oversized, encode_frame

# Messages that a first join shows, and that the model's room keeps.
RECENT, KEPT = 2, 6


def frame(answer: dict[str, Any]) -> bytes:
    return encode_frame(msgspec.json.encode(answer))


def conversation(**options: Any) -> Conversation:
    return Conversation("h", 1, seat=Seat("앨리스"), **options)


def asked(data: bytes) -> list[Any]:
    payloads = FrameDecoder().feed(data)
    return [msgspec.json.decode(each) for each in payloads if not isinstance(each, Oversized)]


def welcome(seq: int = 0, epoch: str = "one", room: str = "lobby", **more: Any) -> bytes:
    facts = {"name": "앨리스", "room": room, "seq": seq, "epoch": epoch, "members": 1, "token": "t"}
    return frame({"welcome": {"recovered": False, "lost": None, **facts, **more}})


def message(seq: int, room: str = "lobby") -> bytes:
    return frame({"message": f"안녕 {seq}", "from": "bob", "room": room, "seq": seq, "at": 1.5})


def events(chat: Conversation) -> list[Event]:
    return [event for _ in range(len(chat.inbox)) if (event := chat.next_event())]


def numbers(chat: Conversation) -> list[int | tuple[int, int | None]]:
    """Return what the application sees of a room: numbers, and gaps as pairs."""
    seen: list[int | tuple[int, int | None]] = []
    for event in events(chat):
        if isinstance(event, Message) and event.seq is not None:
            seen.append(event.seq)
        elif isinstance(event, Lost):
            seen.append((event.first, event.last))
    return seen


@dataclass
class Room:
    """A room as the contract has it; what is on its way to the client waits in ``wire``, frame by frame."""

    epoch: int = 0
    count: int = 0
    oldest: int = 1
    wire: list[bytes] = field(default_factory=list)

    def say(self, often: int, twice: bool) -> None:
        for _ in range(often):
            self.count += 1
            self.wire += [self.message(self.count)] * (1 + twice)
        self.oldest = max(self.oldest, self.count - KEPT + 1)

    def message(self, seq: int) -> bytes:
        return frame({"message": f"{self.epoch}", "from": "bob", "room": "lobby", "seq": seq, "at": 1.0})

    def join(self, join: dict[str, Any]) -> None:
        after, lost = join.get("after"), None
        if after is None or join["epoch"] != str(self.epoch):
            first = max(self.oldest, self.count - RECENT + 1)
            lost = None if after is None else (after + 1, None)
        else:
            first = max(self.oldest, after + 1)
            lost = (after + 1, first - 1) if first > after + 1 else None
        self.wire.append(welcome(self.count, str(self.epoch), lost=lost))
        self.wire += [self.message(seq) for seq in range(first, self.count + 1)]

    def renumber(self) -> None:
        self.epoch, self.count, self.oldest = self.epoch + 1, 0, 1


SAY = st.tuples(st.just("say"), st.integers(1, 9), st.booleans())
CUT = st.tuples(st.just("cut"), st.floats(0, 1), st.integers(0, 9))
RENUMBER = st.tuples(st.just("renumber"), st.floats(0, 1), st.integers(0, 4))
AWAY = st.tuples(st.just("away"), st.just(0), st.integers(0, 9))


@settings(max_examples=300, deadline=None)
@given(st.lists(st.one_of(SAY, CUT, RENUMBER, AWAY), max_size=12), st.integers(0, 9))
def test_each_message_once_and_in_order_or_in_a_gap_that_is_named(
    steps: list[tuple[str, Any, int]], before: int
) -> None:
    chat, room = conversation(), Room()
    room.say(before, twice=False)
    room.wire.clear()
    accounted = _Accounts()

    def connect() -> None:
        room.join(asked(chat.opened(0))[0]["join"])

    def deliver(data: bytes) -> None:
        chat.received(data)
        accounted.take(events(chat))

    connect()
    for what, how, often in steps:
        if what == "say":
            room.say(how, bool(often))
        elif what == "away":
            deliver(b"".join(room.wire))
            room.wire.clear()
            chat.ask(Welcome)
            deliver(welcome(0, str(room.epoch), "elsewhere"))
            room.say(often, twice=False)
            room.wire.clear()
            chat.ask(Welcome)
            room.join({})
            accounted.away()
            # One that is lost before this goes back to the other room.
            deliver(room.wire.pop(0))
        else:
            # Any part of what is on its way arrives, down to the byte.
            whole = b"".join(room.wire)
            deliver(whole[: int(len(whole) * how)])
            room.wire.clear()
            chat.lost(0, None)
            if what == "renumber":
                room.renumber()
            room.say(often, twice=False)
            room.wire.clear()
            connect()
    deliver(b"".join(room.wire))
    accounted.ends_at(str(room.epoch), room.count)


class _Accounts:
    """Follows numbers as an application would, and fails when one is missing, doubled or out of order."""

    def __init__(self) -> None:
        self.epoch = ""
        self.last = -1
        # History may begin anywhere up to here; None once it has begun.
        self.start: int | None = None
        self.was_away = False

    def away(self) -> None:
        self.was_away = True

    def take(self, seen: list[Event]) -> None:
        for index, event in enumerate(seen):
            match event:
                case Welcome(room="lobby"):
                    if not self.epoch or self.was_away:
                        self.start = event.seq
                    if event.epoch != self.epoch:
                        if self.epoch and not self.was_away:
                            gap = seen[index + 1]
                            assert isinstance(gap, Lost)
                            assert gap.last is None
                            self.check_first(gap)
                        self.last, self.start = -1, event.seq
                    self.epoch, self.was_away = event.epoch, False
                case Message(room="lobby", seq=int(seq)):
                    assert event.text == self.epoch
                    assert seq > self.last
                    assert self.start is None or seq <= self.start + 1
                    assert self.start is not None or seq == self.last + 1
                    self.last, self.start = seq, None
                case Lost(first=first, last=int(last)):
                    self.check_first(event)
                    assert last >= first
                    self.last, self.start = last, None

    def check_first(self, gap: Lost) -> None:
        # Before history has begun it may do so with a message that one has had, which is not seen here.
        assert self.last < gap.first <= self.position + 1
        assert self.start is not None or gap.first == self.last + 1

    @property
    def position(self) -> int:
        return self.last if self.start is None else max(self.last, self.start)

    def ends_at(self, epoch: str, count: int) -> None:
        assert (self.epoch, self.position) == (epoch, count)


@given(st.integers(0, 50), st.lists(st.integers(0, 60), max_size=30))
def test_whatever_numbers_a_server_sends_none_comes_twice_or_backwards(start: int, sent: list[int]) -> None:
    track, covered = Track(), list[int]()
    track.join("one", start)
    for seq in sent:
        new, gap = track.take(seq)
        if gap is not None:
            assert new
            assert gap[1] is not None
            covered += range(gap[0], gap[1] + 1)
        if new:
            covered.append(seq)
    assert covered == sorted(set(covered))
    if covered:
        assert covered == list(range(covered[0], covered[-1] + 1))


def test_the_first_connection_asks_for_name_and_room_alone() -> None:
    chat = Conversation("h", 1, seat=Seat("앨리스", "게임방", "old token"))
    assert asked(chat.opened(0)) == [{"join": {"name": "앨리스", "room": "게임방", "token": "old token"}}]


def test_the_next_connection_says_how_far_one_has_read() -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(2) + message(1) + message(2) + message(3))
    chat.lost(1, None)
    assert not chat.seated
    join = {"name": "앨리스", "room": "lobby", "token": "t", "after": 3, "epoch": "one"}
    assert asked(chat.opened(2)) == [{"join": join}]
    chat.received(welcome(5, recovered=True) + message(3) + message(4) + message(5))
    assert numbers(chat) == [1, 2, 3, 4, 5]


def test_a_loss_between_the_welcome_and_history_goes_on_from_the_join() -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(7))
    chat.lost(1, None)
    assert asked(chat.opened(2))[0]["join"]["after"] == 7
    chat.received(welcome(8, recovered=True) + message(8))
    assert numbers(chat) == [8]


@pytest.mark.parametrize(
    ("facts", "then", "expected"),
    [
        ({"seq": 9, "lost": (4, 6)}, [7, 8, 9], [3, (4, 6), 7, 8, 9]),
        # A server that does not say it, or says less than is missing.
        ({"seq": 9}, [7, 8, 9], [3, (4, 6), 7, 8, 9]),
        ({"seq": 9, "lost": (5, 6)}, [7, 8, 9], [3, (4, 6), 7, 8, 9]),
        ({"seq": 2, "epoch": "two", "lost": (4, None)}, [1, 2, 3], [3, (4, None), 1, 2, 3]),
        ({"seq": 2, "epoch": "two"}, [1, 2, 3], [3, (4, None), 1, 2, 3]),
        # The same numbering, and yet behind: what was kept got lost.
        ({"seq": 1, "recovered": True}, [2, 3], [3, (4, None), 2, 3]),
    ],
)
def test_what_a_welcome_says_is_lost(
    facts: dict[str, Any], then: list[int], expected: list[int | tuple[int, int | None]]
) -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(2) + message(3))
    chat.lost(1, None)
    chat.opened(2)
    chat.received(welcome(**facts) + b"".join(map(message, then)))
    assert numbers(chat) == expected


def test_a_message_missing_right_after_the_join_is_lost() -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(5) + message(8))
    assert numbers(chat) == [(6, 7), 8]


def test_a_server_that_lets_one_in_elsewhere_has_lost_nothing_there() -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(5) + message(5))
    chat.lost(1, None)
    chat.opened(2)
    chat.received(welcome(7, room="hall") + message(7, "hall") + message(8, "hall"))
    assert numbers(chat) == [5, 7, 8]


def test_a_gap_in_a_room_that_is_spelled_otherwise_by_now_is_named() -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(seq=3, room="game") + message(3, "game"))
    chat.lost(1, None)
    chat.opened(2)
    chat.received(welcome(seq=9, room="Game", recovered=False, lost=(4, 7)) + message(8, "Game"))
    assert numbers(chat) == [3, (4, 7), 8]


def test_history_of_a_room_that_one_was_in_before_comes_once() -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(1) + message(1) + message(2))
    request = chat.ask(Welcome)
    chat.received(message(3) + welcome(0, room="game") + message(1, "game"))
    assert request.result().room == "game"
    assert chat.seat == Seat("앨리스", "game", "t")
    chat.ask(Welcome)
    chat.received(welcome(9) + message(8) + message(9) + message(10))
    assert numbers(chat) == [1, 2, 3, 1, 8, 9, 10]


@pytest.mark.parametrize("seq", [2, 10, 30])
def test_a_room_entered_again_in_another_epoch_begins_with_its_new_numbers(seq: int) -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(8) + message(9) + message(10))
    chat.ask(Welcome)
    chat.received(welcome(0, room="game"))
    chat.lost(1, None)
    chat.opened(2)
    chat.received(welcome(0, "two", room="game", recovered=True))
    chat.ask(Welcome)
    chat.received(welcome(seq, "two") + message(seq - 1) + message(seq) + message(seq + 1))
    assert numbers(chat) == [9, 10, seq - 1, seq, seq + 1]


def test_a_room_entered_again_after_two_epochs_goes_on_from_the_last_one() -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(8) + message(9) + message(10))
    for number, epoch in enumerate(("two", "three")):
        chat.lost(number, None)
        join = asked(chat.opened(number))[0]["join"]
        chat.received(welcome(2, epoch, lost=(join["after"] + 1, None)) + message(2) + message(3))
    chat.lost(5, None)
    join = asked(chat.opened(6))[0]["join"]
    assert (join["after"], join["epoch"]) == (3, "three")
    chat.received(welcome(5, "three", recovered=True) + message(4) + message(5))
    assert numbers(chat) == [9, 10, (11, None), 2, 3, (4, None), 2, 3, 4, 5]


def test_what_comes_before_the_welcome_is_passed_over() -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(frame({"message": "for everybody without a name"}) + welcome(1) + message(1))
    assert [type(each) for each in events(chat)] == [Connected, Welcome, Message]


def test_a_private_message_and_an_announcement_have_no_number() -> None:
    chat = conversation()
    chat.opened(0)
    private = {"message": "psst", "from": "bob", "to": "앨리스", "at": 2.5}
    chat.received(welcome(0) + frame(private) + frame({"message": "The server is stopping."}))
    assert events(chat)[2:] == [
        Message("psst", "bob", at=2.5, to="앨리스"),
        Message("The server is stopping."),
    ]


def test_a_name_that_is_taken_at_the_first_join_is_the_openers_affair() -> None:
    chat = conversation()
    chat.opened(0)
    assert chat.entrance is not None
    chat.received(frame({"error": {"code": "name_taken", "text": "앨리스 is taken"}}))
    with pytest.raises(RefusedError) as refused:
        chat.entrance.result()
    assert refused.value.code == "name_taken"
    assert [type(each) for each in events(chat)] == [Connected]


@pytest.mark.parametrize(
    ("code", "reconnect", "state"),
    [
        ("name_taken", True, State.DISCONNECTED),
        ("room_full", True, State.DISCONNECTED),
        ("bad_name", True, State.LOST),
        ("not_a_message", True, State.LOST),
        ("name_taken", False, State.LOST),
    ],
)
def test_one_who_is_not_let_in_again(code: str, reconnect: bool, state: State) -> None:
    chat = conversation(reconnect=True)
    chat.opened(0)
    chat.received(welcome(0))
    chat.lost(1, None)
    chat._reconnect = reconnect
    events(chat)
    chat.opened(2)
    # What would be said now would be said without a name.
    assert not chat.seated
    chat.received(frame({"error": {"code": code, "text": "no"}}) + frame({"message": "plain"}))
    assert chat.rejected is not None
    chat.lost(3, None)
    again = state is State.DISCONNECTED
    assert chat.state is state
    assert events(chat) == [
        Connected("h:1", again=True),
        Rejected("앨리스", "lobby", code, "no", retrying=again),
        Disconnected("h:1", f"no ({code})", retrying=again),
    ]


def test_rejections_that_nobody_looks_at_do_not_pile_up() -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(0))
    for now in range(1000):
        chat.lost(now, None)
        chat.opened(now)
        chat.received(frame({"error": {"code": "name_taken", "text": "no"}}))
    assert len(chat.inbox) < 10


def test_answers_go_to_who_asked_in_order() -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(0))
    first, rooms, ping, second = chat.ask(Who), chat.ask(Rooms), chat.ask(Pong), chat.ask(Who)
    page = {"room": "lobby", "members": 2, "next": "앨리스"}
    chat.received(frame({"who": {**page, "names": ["앨리스"]}}) + frame({"pong": None}))
    chat.received(frame({"rooms": {"rooms": [{"room": "방", "members": 1}], "count": 1, "next": None}}))
    chat.received(frame({"error": {"code": "too_long", "text": "a message"}}))
    chat.received(frame({"error": {"code": "bad_room", "text": "the second question"}}))
    assert first.result() == Who("lobby", ("앨리스",), 2, "앨리스")
    assert rooms.result().rooms[0].room == "방"
    assert ping.result() == Pong(None)
    with pytest.raises(RefusedError, match="the second question"):
        second.result()
    assert events(chat)[2:] == [Refused("too_long", "a message")]


def test_older_messages_change_nothing_in_how_far_the_room_was_read() -> None:
    """A late answer, which the application waits for no longer, is dealt with as one in time."""
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(5))
    request = chat.ask(History)
    page = {"room": "lobby", "messages": [{"message": "전에", "seq": 2, "at": 1.0, "from": "밥"}], "next": 2}
    live = {"message": "지금", "from": "밥", "room": "lobby", "seq": 6, "at": 2.0}
    chat.received(frame({"history": page}) + frame(live))
    assert request.result() == History("lobby", (Message("전에", "밥", "lobby", 2, 1.0),), 2)
    assert events(chat)[2:] == [Message("지금", "밥", "lobby", 6, 2.0)]


def test_history_that_was_not_asked_for_counts_in_the_inbox() -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(0))
    before = chat.inbox.size
    page = {"room": "lobby", "messages": [{"message": "x" * 500, "seq": 2, "at": 1.0}], "next": None}
    chat.received(frame({"history": page}))
    assert chat.inbox.size > before + 500
    assert [type(each) for each in events(chat)[2:]] == [History]


def test_an_error_that_is_counted_answers_as_many_questions_and_the_rest_is_about_messages() -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(0))
    questions: list[Request[Any]] = [chat.ask(Who), chat.ask(Rooms), chat.ask(Who)]
    chat.received(frame({"error": {"code": "bad_request", "text": "no", "times": 2}}))
    assert [each.done for each in questions] == [True, True, False]
    chat.received(frame({"error": {"code": "bad_request", "text": "no", "times": 2**63 - 1}}))
    with pytest.raises(RefusedError, match="no"):
        questions[2].result()
    assert events(chat)[2:] == [Refused("bad_request", "no", 2**63 - 2)]


@pytest.mark.parametrize("asks", [False, True], ids=["alone", "with_requests"])
@pytest.mark.parametrize("code", ["kicked", "taken_over"])
def test_a_member_that_is_sent_away_does_not_come_back(code: str, *, asks: bool) -> None:
    chat = conversation(reconnect=True)
    chat.opened(0)
    chat.received(welcome(0))
    requests: list[Request[Any]] = [chat.ask(Who), chat.ask(Welcome)] if asks else []
    events(chat)
    chat.received(frame({"error": {"code": code, "text": "no"}}) + frame({"message": "plain"}))
    chat.lost(1, None)
    assert chat.state is State.LOST
    assert events(chat) == [
        Rejected("앨리스", "lobby", code, "no", retrying=False),
        Disconnected("h:1", f"no ({code})", retrying=False),
    ]
    for each in requests:
        with pytest.raises(ConnectionLostError):
            each.result()


def test_a_kick_between_a_loss_and_the_welcome_ends_the_chat_too() -> None:
    chat = conversation(reconnect=True)
    chat.opened(0)
    chat.received(welcome(0))
    chat.lost(1, None)
    chat.opened(2)
    events(chat)
    chat.received(frame({"error": {"code": "kicked", "text": "no"}}))
    chat.lost(3, None)
    assert chat.state is State.LOST
    assert events(chat)[0] == Rejected("앨리스", "lobby", "kicked", "no", retrying=False)


@pytest.mark.parametrize("code", ["taken_over", "name_taken"])
def test_a_chat_that_an_error_ends_ends_once_however_often_the_error_came(code: str) -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(0))
    if code == "name_taken":
        chat.lost(1, None)
        chat.opened(2)
    events(chat)
    chat.received(frame({"error": {"code": code, "text": "no", "times": 2**63 - 1}}))
    assert [type(each) for each in events(chat)] == [Rejected]


def test_a_question_that_was_not_sent_takes_nobodys_answer() -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(0))
    unsent, sent = chat.ask(Pong), chat.ask(Pong)
    chat.withdraw(unsent)
    chat.received(frame({"pong": 1}))
    assert (unsent.done, sent.done) == (False, True)


@pytest.mark.parametrize("end", ["lost", "close"])
def test_questions_end_with_their_connection(end: str) -> None:
    chat = conversation()
    chat.opened(0)
    chat.received(welcome(0))
    request = chat.ask(Who)
    if end == "lost":
        chat.lost(1, None)
    else:
        chat.close()
    with pytest.raises(ConnectionLostError):
        request.result()


def test_a_name_that_no_json_can_hold() -> None:
    with pytest.raises(ProtocolError):
        Conversation("h", 1, seat=Seat("\ud800"))


# How far a room has been read.


@pytest.mark.parametrize("begun", [True, False])
@pytest.mark.parametrize(
    ("welcome", "gap", "after"),
    [
        # The same epoch, or another one that agrees with it: it goes on.
        (("one", 15, True, None), None, 10),
        (("one", 10, True, None), None, 10),
        (("two", 15, True, None), None, 10),
        (("one", 15, False, None), None, 10),
        # Some are lost, and the client may have had a part of those.
        (("one", 15, False, (11, 12)), (11, 12), 12),
        (("two", 15, False, (11, 12)), (11, 12), 12),
        (("one", 15, False, (8, 11)), (11, 11), 11),
        (("one", 15, False, (8, 10)), None, 10),
        # The server numbers anew.
        (("two", 15, False, None), (11, None), 15),
        (("two", 15, False, (11, None)), (11, None), 15),
        (("one", 15, False, (11, None)), (11, None), 15),
        # The server knows fewer messages than the client, so it has forgotten some.
        (("one", 9, True, None), (11, None), 9),
        (("two", 9, True, None), (11, None), 9),
    ],
)
def test_a_welcome_says_at_once_what_is_lost_and_where_the_room_goes_on(
    begun: bool, welcome: tuple[str, int, bool, Any], gap: Any, after: int
) -> None:
    track = Track()
    track.join("one", 10)
    if begun:
        track.take(10)
    assert track.after == 10
    assert track.resume(*welcome) == gap
    assert (track.epoch, track.after) == (welcome[0], after)


def test_after_a_first_join_history_may_begin_anywhere_up_to_the_next_message() -> None:
    for first, gap in ((0, None), (7, None), (10, None), (11, None), (12, (11, 11)), (20, (11, 19))):
        track = Track()
        track.join("one", 10)
        assert track.take(first) == (True, gap)
        assert track.take(first) == (False, None)
        assert track.take(first + 1) == (True, None)
        assert track.take(first + 4) == (True, (first + 2, first + 3))


def test_a_room_joined_again_in_the_same_epoch_gives_nothing_twice() -> None:
    track = Track()
    track.join("one", 10)
    track.take(10)
    track.join("one", 20)
    assert [track.take(seq) for seq in (9, 10)] == [(False, None), (False, None)]
    track.join("one", 20)
    assert track.take(15) == (True, None)  # what was said meanwhile is no gap


def test_a_room_joined_again_with_fewer_messages_than_were_read_begins_anew() -> None:
    track = Track()
    track.join("one", 10)
    track.take(10)
    track.join("one", 9)
    assert track.take(3) == (True, None)


def test_a_room_that_is_spelled_anew_is_the_same_room_and_another_room_is_not() -> None:
    tracks = Tracks()
    track = tracks.entered("Game")
    tracks.respelled("Game", "other")
    tracks.respelled("never entered", "NEVER ENTERED")
    assert (tracks.get("Game"), tracks.get("other"), tracks.get("NEVER ENTERED")) == (track, None, None)
    tracks.respelled("Game", "GAME")
    assert (tracks.get("Game"), tracks.get("GAME")) == (None, track)
    assert tracks.entered("GAME") is track


def test_rooms_that_are_remembered_are_counted() -> None:
    tracks = Tracks()
    for number in range(MAX_ROOMS + 10):
        tracks.entered("first")
        tracks.entered(f"{number}")
    assert tracks.get("first") is not None
    assert tracks.get("0") is None
    assert tracks.get(f"{MAX_ROOMS + 9}") is not None


# A welcome that answers no join: with several hosts the log was lost, and the member is entered again.


def entered(seq: int = 3, **options: Any) -> Conversation:
    """Return a chat that has read messages 1 to ``seq``, and whose events were taken."""
    chat = conversation(**options)
    chat.opened(0)
    chat.received(welcome(seq) + b"".join(message(each) for each in range(1, seq + 1)))
    assert numbers(chat) == list(range(1, seq + 1))
    return chat


@pytest.mark.parametrize(
    ("facts", "then", "expected", "next_after"),
    [
        ({"seq": 5, "recovered": True}, [4, 5, 6], [4, 5, 6], 6),
        # Up to 1 all agree; from 2 on it is uncertain, and numbers that were read come again for others.
        ({"seq": 4, "lost": (2, None)}, [2, 3, 4, 5], [(2, None), 2, 3, 4, 5], 5),
        # The room is shorter than what was read.
        ({"seq": 2, "lost": (3, None)}, [3], [(3, None), 3], 3),
        ({"seq": 0, "lost": (4, None)}, [1, 2], [(4, None), 1, 2], 2),
        # Nothing follows at once: the next message has the next number.
        ({"seq": 2, "lost": (3, None)}, [], [(3, None)], 2),
        # Only what the history has no more.
        ({"seq": 9, "lost": (4, 7)}, [8, 9, 10], [(4, 7), 8, 9, 10], 10),
    ],
)
def test_an_unasked_welcome_tells_once_what_is_uncertain_and_goes_on_in_the_new_epoch(
    facts: dict[str, Any], then: list[int], expected: list[Any], next_after: int
) -> None:
    chat = entered()
    chat.received(welcome(epoch="two", token="new", again=True, **facts))
    chat.received(b"".join(map(message, then)))
    seen = [chat.next_event() for _ in range(len(chat.inbox))]
    assert isinstance(seen[0], Welcome)
    assert seen[0].again
    shown = [
        (e.first, e.last) if isinstance(e, Lost) else e.seq for e in seen[1:] if isinstance(e, Lost | Message)
    ]
    assert shown == expected
    chat.lost(1, None)
    assert asked(chat.opened(2)) == [
        {"join": {"name": "앨리스", "room": "lobby", "token": "new", "after": next_after, "epoch": "two"}}
    ]


def test_an_unasked_welcome_is_no_answer_to_a_join_that_is_under_way() -> None:
    chat = entered()
    enter = chat.ask(Welcome)
    chat.received(welcome(3, epoch="two", recovered=True, again=True))
    assert not enter.done
    assert chat.seat is not None
    assert chat.seat.room == "lobby"
    chat.received(message(4) + welcome(7, epoch="two", room="게임방") + message(8, "게임방"))
    assert enter.result().room == "게임방"
    assert chat.seat.room == "게임방"
    assert numbers(chat) == [4, 8]


def test_an_unasked_welcome_gives_no_token_that_was_not_granted() -> None:
    old, fresh = Proof("jwt", "old"), Proof("jwt", "fresh")
    chat = Conversation("h", 1, seat=Seat("앨리스", proof=old))
    chat.opened(0)
    chat.received(welcome(0))
    renewal = chat.ask(Welcome, fresh)
    chat.received(welcome(0, epoch="two", recovered=True, again=True))
    assert not renewal.done
    assert chat.seat is not None
    assert chat.seat.proof == old
    chat.received(welcome(0, epoch="two"))
    assert renewal.done
    assert chat.seat.proof == fresh


def test_a_join_that_resumes_may_be_answered_by_the_unasked_welcome_alone() -> None:
    chat = entered()
    chat.lost(1, None)
    chat.opened(2)
    entrance = chat.entrance
    assert entrance is not None
    chat.received(welcome(5, epoch="two", recovered=True, again=True))
    assert entrance.done
    assert chat.seated
    # The host knew no number of this client: what is missing is named all the same.
    chat.received(message(6))
    assert numbers(chat) == [(4, 5), 6]
    enter = chat.ask(Welcome)
    chat.received(welcome(1, epoch="two", room="게임방"))
    assert enter.done


def test_questions_keep_their_order_over_an_unasked_welcome() -> None:
    chat = entered()
    who, rooms, history = chat.ask(Who), chat.ask(Rooms), chat.ask(History)
    chat.received(welcome(3, epoch="two", recovered=True, again=True))
    chat.received(frame({"error": {"code": "bad_request", "text": "no"}}))
    chat.received(frame({"rooms": {"rooms": [], "count": 0, "next": None}}))
    chat.received(frame({"history": {"room": "lobby", "messages": [], "next": None}}))
    assert isinstance(who.error, RefusedError)
    assert rooms.answer == Rooms((), 0)
    assert history.answer == History("lobby", ())


@pytest.mark.parametrize("comes_back", [True, False])
def test_a_private_message_that_the_log_has_lost_takes_no_later_error(comes_back: bool) -> None:
    chat = entered()
    chat.tell("가나다", "밥")
    chat.received(welcome(3, epoch="two", recovered=True, again=True))
    if comes_back:
        chat.received(frame({"message": "가나다", "from": "앨리스", "to": "밥", "at": 1.5}))
    who = chat.ask(Who)
    chat.received(frame({"who": {"room": "lobby", "names": ["앨리스"], "members": 1, "next": None}}))
    assert who.done
    kick = chat.ask(Moderated, order=("kick", "밥"))
    chat.received(frame({"error": {"code": "no_such_name", "text": "nobody"}}))
    assert isinstance(kick.error, RefusedError)


def test_a_room_that_is_spelled_otherwise_after_the_loss_of_the_log_is_the_same_room() -> None:
    chat = Conversation("h", 1, seat=Seat("앨리스", "Games"))
    chat.opened(0)
    chat.received(welcome(1, room="Games") + message(1, "Games"))
    chat.received(welcome(3, epoch="two", room="games", recovered=True, again=True))
    chat.received(message(3, "games"))
    assert numbers(chat) == [1, (2, 2), 3]


def test_a_farewell_is_told_as_it_is_and_is_no_message_of_the_client() -> None:
    chat = entered()
    chat.say()
    # An error about a proof is of the message before it, unless that came back.
    renewal = chat.ask(Welcome, Proof("secret", "비밀"))
    chat.received(frame({"message": "안녕히 계세요"}))
    chat.received(frame({"error": {"code": "auth_required", "text": "prove it"}}))
    assert not renewal.done
    assert events(chat) == [Message("안녕히 계세요"), Refused("auth_required", "prove it")]


@pytest.mark.parametrize(
    ("event", "line"),
    [
        (Message("안녕히 계세요"), "*** 안녕히 계세요"),
        (
            Welcome("앨리스", "게임방", 3, "two", 2, "t", recovered=True, again=True),
            "the chat was restored: you are still 앨리스 in 게임방, 2 people here",
        ),
        # The loss that follows is the line.
        (Welcome("앨리스", "게임방", 3, "two", 2, "t", lost=(2, None), again=True), None),
        (
            Lost("게임방", 2, None),
            "the server has begun anew: what was said after message 1 may be lost",
        ),
    ],
)
def test_a_terminal_tells_each_of_these_in_at_most_one_line(event: Event, line: str | None) -> None:
    assert (shown(event, named=True) if is_told(event) else None) == line
