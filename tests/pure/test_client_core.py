"""The client without a socket: every cut of a stream gives the same events, and waiting has its bounds."""

import itertools
import random

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.client.conversation import STEADY, Backoff, Conversation, Inbox, State, message_in
from mpchat.client.core import (
    ClientProtocol,
    Connected,
    Disconnected,
    Event,
    Garbled,
    History,
    Joined,
    Left,
    Message,
    Pong,
    Received,
    Refused,
    Rooms,
    RoomSize,
    Welcome,
    Who,
)
from mpchat.client.lines import Command, Say, Unknown, parse, shown
from mpchat.config import format_address
from mpchat.errors import ConnectionLostError, ProtocolError, RefusedError
from mpchat.protocol import requests
from mpchat.protocol.frames import MAX_PAYLOAD, encode_frame
from mpchat.protocol.messages import error_frame, message_frame
from mpchat.protocol.plain_dialect import PlainDialect
from mpchat.protocol.requests import numbered_frames, room_field

TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
PAYLOADS = st.one_of(
    TEXTS.map(message_frame),
    st.tuples(TEXTS, TEXTS).map(lambda pair: error_frame(*pair)),
    st.binary(max_size=30).map(encode_frame),
    st.sampled_from([b'{"joined":"x"}', b'{"message":null}', b"[]", b'{"message":"a","seq":7}']).map(
        encode_frame
    ),
)


def _pieces(stream: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(stream), *(cut % (len(stream) + 1) for cut in cuts)})
    return [stream[start:end] for start, end in itertools.pairwise(edges)]


def _events(pieces: list[bytes]) -> list[Received]:
    protocol = ClientProtocol()
    events = []
    for piece in pieces:
        protocol.receive_data(piece)
        events += protocol.events()
    assert protocol.receive_eof()
    return events


@given(st.lists(PAYLOADS, max_size=8), st.lists(st.integers(0, 2000), max_size=8))
def test_every_cut_of_a_stream_gives_the_same_events(frames: list[bytes], cuts: list[int]) -> None:
    stream = b"".join(frames)
    whole = _events([stream])
    assert _events(_pieces(stream, cuts)) == whole
    assert _events([bytes([byte]) for byte in stream]) == whole


@given(st.lists(TEXTS, max_size=8))
def test_messages_arrive_equal_and_in_order(texts: list[str]) -> None:
    assert _events([b"".join(map(message_frame, texts))]) == [Message(text) for text in texts]


@given(TEXTS)
def test_the_two_cores_back_to_back(text: str) -> None:
    session, protocol, posts = PlainDialect(), ClientProtocol(), list[tuple[int, bytes]]()
    assert session.receive_data(protocol.send(text), posts) == b""
    protocol.receive_data(posts[0][1])
    assert [str(event) for event in protocol.events()] == [text]


@pytest.mark.parametrize(
    ("payload", "event"),
    [
        (b'{"error":{"code":"full","text":"no place"}}', Refused("full", "no place")),
        (b'{"error":{"code":"full","text":"no place","times":7}}', Refused("full", "no place", 7)),
        (b'{"message":"a","room":"b","seq":1}', Message("a")),
        (b'{"joined":"somebody"}', None),
        (b"", Garbled),
        (b"\xff\xfe", Garbled),
        (b'{"message":7}', Garbled),
        (b'{"message":"\\ud800"}', Garbled),
        (b"[" * 50_000, Garbled),
    ],
)
def test_what_a_server_may_send(payload: bytes, event: Received | type[Garbled] | None) -> None:
    protocol = ClientProtocol()
    protocol.receive_data(encode_frame(payload) + message_frame("next"))
    *first, last = protocol.events()
    assert last == Message("next")
    if event is Garbled:
        assert [type(one) for one in first] == [Garbled]
    else:
        assert first == ([] if event is None else [event])


@pytest.mark.parametrize("named", [False, True])
def test_what_is_nothing_of_this_protocol_is_told_with_the_reason(named: bool) -> None:
    protocol = ClientProtocol(named=named)
    protocol.receive_data(encode_frame(b"[]") + message_frame("next"))
    garbled, message = protocol.events()
    assert isinstance(garbled, Garbled)
    assert garbled.code == "not_a_message"
    assert garbled.text.startswith("not an mpchat server: ")
    assert message == Message("next")


def test_a_client_with_a_name_gets_each_kind_of_event_with_all_that_it_says() -> None:
    protocol = ClientProtocol(named=True)
    welcome = Welcome("앨리스", "lobby", 7, "epoch", 3, "token", True, (2, 5))
    frames = [
        requests.welcome_frame(welcome),
        numbered_frames(message_frame("안녕"), "bob", room_field("lobby"), 8, 1.5),
        numbered_frames(message_frame("공지"), "", room_field("lobby"), 9, 2.5),
        requests.private_frame("psst", "bob", "앨리스", 3.5),
        requests.joined_frame("lobby", ["carol"], 4),
        requests.left_frame("lobby", ["carol"], 3, "closed"),
        requests.who_frame("lobby", ["bob"], 3, "bob"),
        requests.rooms_frame([("lobby", 3)], 2, "lobby"),
        requests.history_frame("lobby", requests.history_messages(message_frame("전"), "bob", 4, 0.5), 4),
        requests.history_frame("lobby", [], None),
        requests.pong_frame(msgspec.Raw(b"null")),
        error_frame("bad_room", "no"),
        encode_frame(b'{"of a later version":1}'),
    ]
    protocol.receive_data(b"".join(frames))
    assert protocol.events() == [
        welcome,
        Message("안녕", "bob", "lobby", 8, 1.5),
        Message("공지", None, "lobby", 9, 2.5),
        Message("psst", "bob", None, None, 3.5, "앨리스"),
        Joined("lobby", ("carol",), 1, 4),
        Left("lobby", ("carol",), 1, 3, "closed"),
        Who("lobby", ("bob",), 3, "bob"),
        Rooms((RoomSize("lobby", 3),), 2, "lobby"),
        History("lobby", (Message("전", "bob", "lobby", 4, 0.5),), 4),
        History("lobby", (), None),
        Pong(None),
        Refused("bad_room", "no"),
    ]
    assert protocol.events() == []


@pytest.mark.parametrize("cut", [1, 2, 5])
def test_an_end_inside_a_frame_is_told_apart(cut: int) -> None:
    protocol = ClientProtocol()
    protocol.receive_data(message_frame("hello")[:cut])
    assert protocol.events() == []
    assert not protocol.receive_eof()


def test_text_that_no_message_can_hold() -> None:
    protocol = ClientProtocol()
    with pytest.raises(ProtocolError) as too_long:
        protocol.send("x" * MAX_PAYLOAD)
    assert too_long.value.code == "too_long"
    with pytest.raises(ProtocolError) as half:
        protocol.send("\ud800")
    assert half.value.code == "bad_text"


@given(st.integers(0, 10_000), st.floats(0, 1, exclude_max=True))
def test_backoff_stays_between_floor_and_cap(attempt: int, drawn: float) -> None:
    backoff = Backoff(draw=lambda: drawn)
    delay = backoff.delay(attempt)
    assert backoff.floor <= delay <= backoff.cap
    assert delay <= max(backoff.floor, backoff.first * 2.0 ** min(attempt, 64))


def test_backoff_doubles_and_is_jittered_over_the_whole_width() -> None:
    backoff = Backoff(first=1.0, floor=0.0, cap=8.0, draw=lambda: 0.5)
    assert [backoff.delay(attempt) for attempt in range(6)] == [0.5, 1.0, 2.0, 4.0, 4.0, 4.0]
    backoff = Backoff(first=1.0, floor=0.0, cap=8.0, draw=random.Random(4000).random)
    delays = [backoff.delay(3) for _ in range(1000)]
    assert min(delays) < 0.2
    assert max(delays) > 7.8


def _conversation(*, reconnect: bool = True, inbox_limit: int = 10_000) -> Conversation:
    backoff = Backoff(first=1.0, floor=0.0, cap=64.0, draw=lambda: 0.5)
    return Conversation("h", 1, reconnect=reconnect, backoff=backoff, inbox_limit=inbox_limit)


def _all(conversation: Conversation) -> list[Event]:
    return [event for _ in range(len(conversation.inbox)) if (event := conversation.next_event())]


def test_a_server_that_accepts_and_closes_is_asked_ever_more_slowly() -> None:
    conversation, now, delays = _conversation(), 0.0, []
    for _ in range(4):
        conversation.opened(now)
        conversation.lost(now, None)
        delays.append(conversation.next_delay())
    assert delays == [0.5, 1.0, 2.0, 4.0]
    conversation.opened(now)
    conversation.lost(now + STEADY, None)
    assert conversation.next_delay() == 0.5


def test_half_a_frame_does_not_reach_into_the_next_connection() -> None:
    conversation = _conversation()
    conversation.opened(0)
    conversation.received(message_frame("lost")[:-1])
    conversation.lost(1, None)
    conversation.opened(2)
    conversation.received(message_frame("kept"))
    assert _all(conversation) == [
        Connected("h:1", again=False),
        Disconnected("h:1", "the server closed it inside a frame", retrying=True),
        Connected("h:1", again=True),
        Message("kept"),
    ]


def test_without_reconnect_what_came_before_the_loss_is_still_read() -> None:
    conversation = _conversation(reconnect=False)
    conversation.opened(0)
    conversation.received(message_frame("last words"))
    conversation.lost(1, ConnectionResetError(104, "Connection reset by peer"))
    assert conversation.state is State.LOST
    assert Message("last words") in _all(conversation)
    with pytest.raises(ConnectionLostError, match="h:1 is lost: Connection reset by peer"):
        conversation.next_event()


def test_a_closed_chat_gives_nothing_more() -> None:
    conversation = _conversation()
    conversation.opened(0)
    conversation.close()
    conversation.received(message_frame("late"))
    with pytest.raises(ConnectionLostError, match="closed"):
        conversation.next_event()


def test_losses_that_nobody_looks_at_do_not_pile_up() -> None:
    conversation = _conversation()
    for now in range(1000):
        conversation.opened(now)
        conversation.lost(now, None)
    assert len(conversation.inbox) == 2


@given(st.lists(st.one_of(TEXTS.map(Message), st.none())))
def test_an_inbox_knows_its_size(steps: list[Message | None]) -> None:
    inbox = Inbox(limit=1)
    for step in steps:
        if step is None:
            inbox.take()
        else:
            inbox.put(step)
        assert inbox.full == (len(inbox) > 0)


def test_an_error_of_the_server_is_raised() -> None:
    with pytest.raises(RefusedError) as refused:
        message_in(Refused("full", "no place", 3))
    assert (refused.value.code, refused.value.times) == ("full", 3)
    assert str(refused.value) == "no place (full, 3 times)"
    assert message_in(Connected("h:1", again=True)) is None


def test_addresses() -> None:
    assert format_address("127.0.0.1", 4000) == "127.0.0.1:4000"
    assert format_address("::1", 4000) == "[::1]:4000"


@pytest.mark.parametrize(
    ("line", "meaning"),
    [
        ("", None),
        (" \t", None),
        ("hello ", Say("hello ")),
        (" /quit", Say(" /quit")),
        ("//quit", Say("/quit")),
        ("//", Say("/")),
        ("/quit", Command.QUIT),
        ("/help me", Command.HELP),
        ("/nick x", Unknown("/nick")),
        ("/", Unknown("/")),
    ],
)
def test_what_a_line_asks_for(line: str, meaning: object) -> None:
    assert parse(line) == meaning


@pytest.mark.parametrize(
    "event", [Message("a\x1b[2Jb\nc"), Refused("a\x1b", "b\x1bc"), Garbled("x", "\x1b]0;t\x07")]
)
def test_nothing_of_a_server_reaches_the_terminal_raw(event: Event) -> None:
    assert shown(event).isprintable()
