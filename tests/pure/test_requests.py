"""Requests and answers: the two ends understand each other, and what is wrong is rejected with a reason.

Frames that the client's half makes are decoded by the server's half, and the other way round.
"""

import json
from collections.abc import Callable

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mpchat.errors import ProtocolError
from mpchat.hub.hub import ANNOUNCEMENT_LIMIT
from mpchat.protocol import messages, requests
from mpchat.protocol.frames import HEADER_SIZE, MAX_PAYLOAD, Oversized
from mpchat.protocol.messages import (
    FromNamedServer,
    HistoryPage,
    Joined,
    Left,
    Moderated,
    PastMessage,
    Refusal,
    Rooms,
    RoomSize,
    Welcome,
    decode_from_named_server,
    error_frame,
    message_frame,
)
from mpchat.protocol.requests import (
    MOST_HISTORY,
    NAMED_IN_NOTICE,
    CloseRoom,
    Join,
    ListRooms,
    ReadHistory,
    Request,
    Sanction,
    Target,
    Who,
    decode_request,
    is_for_history,
    pack_request,
    unpack_request,
)

TEXTS = st.text(st.characters(codec="utf-8"), max_size=20)
MAYBE = st.none() | TEXTS
NUMBERS = st.integers(0, 2**63 - 1)
# Each field goes its own way: what one example in thirty does not show, hundreds would not.
FEW = settings(max_examples=30)


def payload(frame: bytes) -> bytes:
    """Return the payload of a frame, and see that its header says its length."""
    assert int.from_bytes(frame[:HEADER_SIZE], "big") == len(frame) - HEADER_SIZE
    return frame[HEADER_SIZE:]


def understood(frame: bytes) -> Request:
    """Decode a client's frame as a server does."""
    request = decode_request(payload(frame))
    assert request is not None
    return request


def seen(frame: bytes) -> FromNamedServer:
    """Decode a server's frame as a client does."""
    return decode_from_named_server(payload(frame))


def error_of(what: Callable[[], object]) -> tuple[str, str]:
    """Return code and text of the error that is raised."""
    with pytest.raises(ProtocolError) as caught:
        what()
    return caught.value.code, caught.value.text


# From the client to the server.


@FEW
@given(MAYBE, TEXTS, MAYBE, st.none() | NUMBERS, MAYBE)
def test_a_join_arrives_with_all_that_the_client_said(
    name: str | None, room: str, token: str | None, after: int | None, epoch: str | None
) -> None:
    frame = messages.join_frame(name, room, token=token, after=after, epoch=epoch)
    assert understood(frame) == Request(join=Join(name, room, after, epoch, token))


@pytest.mark.parametrize("kind", ["password", "jwt", "secret"])
def test_a_join_shows_its_proof_to_the_server_and_to_no_log(kind: str) -> None:
    join = understood(messages.join_frame("앨리스", "방", token="열쇠", proof=(kind, "비밀번호"))).join
    assert join is not None
    assert {key: getattr(join, key) for key in ("name", "room", "token", kind)} == {
        "name": "앨리스",
        "room": "방",
        "token": "열쇠",
        kind: "비밀번호",
    }
    proofs = "password=None, jwt=None, secret=None".replace(f"{kind}=None", f"{kind}=…")
    assert repr(join) == f"Join(name='앨리스', room='방', after=None, epoch=None, token=…, {proofs})"
    assert unpack_request(pack_request(Request(join=join))) == Request(join=join)


@pytest.mark.parametrize(
    ("action", "seconds", "request_"),
    [
        ("kick", None, Request(kick=Target("밥"))),
        ("ban", None, Request(ban=Sanction("밥"))),
        ("ban", 600.0, Request(ban=Sanction("밥", 600.0))),
        ("unban", None, Request(unban=Target("밥"))),
        ("mute", 1, Request(mute=Sanction("밥", 1.0))),
        ("unmute", None, Request(unmute=Target("밥"))),
        ("close", None, Request(close=CloseRoom("밥"))),
    ],
)
def test_an_operators_request_arrives_as_it_was_asked(
    action: str, seconds: float | None, request_: Request
) -> None:
    frame = messages.moderation_frame(action, "밥", seconds)
    assert understood(frame) == request_
    assert understood(frame).operators == getattr(request_, action)
    assert unpack_request(pack_request(request_)) == request_
    about = {"room": "밥"} if action == "close" else {"name": "밥"}
    assert json.loads(payload(frame)) == {action: about | ({} if seconds is None else {"for": seconds})}


def test_a_join_leaves_out_what_the_client_does_not_know() -> None:
    """An older server rejects nothing that it was never sent."""
    assert json.loads(payload(messages.join_frame("철수", "lobby"))) == {
        "join": {"name": "철수", "room": "lobby"}
    }
    assert json.loads(payload(messages.join_frame(None, "방"))) == {"join": {"room": "방"}}


@FEW
@given(TEXTS, TEXTS, MAYBE, MAYBE)
def test_questions_and_private_messages_arrive_as_they_were_asked(
    text: str, to: str, room: str | None, after: str | None
) -> None:
    assert understood(messages.private_frame(text, to)) == Request(message=text, to=to)
    assert understood(messages.who_frame(room, after)) == Request(who=Who(room, after))
    assert understood(messages.rooms_frame(after)) == Request(rooms=ListRooms(after))
    assert bytes(understood(messages.ping_frame(text)).ping) == msgspec.json.encode(text)


@FEW
@given(MAYBE, TEXTS, MAYBE, st.none() | NUMBERS)
def test_a_request_reaches_the_hub_as_it_was_decoded(
    name: str | None, text: str, room: str | None, after: int | None
) -> None:
    for request in (
        Request(join=Join(name, room, after, text, name)),
        Request(message=text, to=text),
        Request(who=Who(room, name)),
        Request(rooms=ListRooms(name)),
        Request(history=ReadHistory(after, None if after is None else 1 + after % MOST_HISTORY)),
    ):
        packed = pack_request(request)
        assert unpack_request(packed) == request
        assert is_for_history(packed) is (request.history is not None)


@FEW
@given(st.none() | NUMBERS, st.none() | st.integers(1, MOST_HISTORY))
def test_a_request_for_history_arrives_as_it_was_asked(before: int | None, limit: int | None) -> None:
    frame = messages.history_frame(before, limit)
    assert understood(frame) == Request(history=ReadHistory(before, limit))


def test_a_request_for_history_that_names_null_names_nothing() -> None:
    assert decode_request(b'{"history":{"before":null,"limit":null}}') == Request(history=ReadHistory())


@pytest.mark.parametrize(
    ("sent", "is_request"),
    [
        (b'{"join":{}}', True),
        (b'{"who":{}}', True),
        (b'{"rooms":{}}', True),
        (b'{"history":{}}', True),
        (b'{"history":7}', True),
        (b'{"history":null}', False),
        (b'{"message":"x","history":{}}', False),
        (b'{"kick":{"name":"bob"}}', True),
        (b'{"close":7}', True),
        (b'{"message":"x","kick":{"name":"bob"}}', False),
        (b'{"message":"x","ban":7}', False),
        (b'{"ping":1}', True),
        (b'{"ping":null}', True),
        (b'{"message":5,"to":"bob"}', True),
        (b'{"join":null,"who":{}}', True),
        (b'{"message":null,"who":{}}', True),
        (b'{"join":7}', True),  # wrong, but as a request
        (b'{"join":null}', False),
        (b'{"message":5,"to":null}', False),
        (b'{"message":5,"join":{}}', False),
        (b'{"message":5}', False),
        (b'{"to":"bob"}', False),
        (b'{"Join":{}}', False),
        (b"{}", False),
        (b'["join"]', False),
        (b'{"join":{}', False),
        (b'{"join":"\xff"}', True),
        (b'{"\xff":1,"join":{}}', False),
        (b"", False),
        (b'{"join":' + b"[" * 5_000, False),
        (b'{"join":' + b'{"x":' * 5_000, False),
    ],
)
def test_an_object_is_a_request_by_its_keys(sent: bytes, is_request: bool) -> None:
    try:
        found = decode_request(sent) is not None
    except ProtocolError:
        found = True
    assert found is is_request


@pytest.mark.parametrize(
    ("sent", "code", "why"),
    [
        (b'{"join":7}', "bad_request", "got `int` - at `$.join`"),
        (b'{"join":{"after":-1}}', "bad_request", "`int` >= 0"),
        (b'{"join":{"after":9223372036854775808}}', "bad_request", "`int` <= 9223372036854775807"),
        (b'{"who":{"room":5}}', "bad_request", "$.who.room"),
        (b'{"history":{"before":-1}}', "bad_request", "Expected `int` >= 0 - at `$.history.before`"),
        (b'{"history":{"before":"9"}}', "bad_request", "$.history.before"),
        (b'{"history":{"before":9223372036854775808}}', "bad_request", "`int` <= 9223372036854775807"),
        (b'{"history":{"limit":0}}', "bad_request", "Expected `int` >= 1 - at `$.history.limit`"),
        (b'{"history":{"limit":101}}', "bad_request", "Expected `int` <= 100 - at `$.history.limit`"),
        (b'{"history":{"limit":1.5}}', "bad_request", "$.history.limit"),
        (
            b'{"join":{"password":12345}}',
            "bad_request",
            "Expected `str | null`, got `int` - at `$.join.password`",
        ),
        (b'{"kick":{}}', "bad_request", "missing required field `name`"),
        (b'{"unban":{"name":5}}', "bad_request", "$.unban.name"),
        (b'{"ban":{"name":"bob","for":0.9}}', "bad_request", "`float` >= 1.0 - at `$.ban.for`"),
        (
            b'{"mute":{"name":"bob","for":315360001}}',
            "bad_request",
            "`float` <= 315360000.0 - at `$.mute.for`",
        ),
        (b'{"close":{"name":"bob"}}', "bad_request", "missing required field `room`"),
        (b'{"to":"bob","who":{}}', "bad_request", "a private message needs both message and to"),
        (b'{"who":{"room":"\xff"}}', "not_utf8", "not UTF-8 at byte "),
        (b'{"who":{},"x":"\xff"}', "not_utf8", "not UTF-8 at byte 15: invalid start byte"),
    ],
)
def test_a_wrong_request_is_rejected_with_what_is_wrong(sent: bytes, code: str, why: str) -> None:
    found, text = error_of(lambda: decode_request(sent))
    assert found == code
    assert why in text


def test_the_smallest_and_the_largest_number_are_understood() -> None:
    for after in (0, 2**63 - 1):
        assert understood(messages.join_frame("a", "b", after=after)).join == Join("a", "b", after)


@pytest.mark.parametrize(
    "make",
    [
        lambda text: messages.join_frame(text, "lobby"),
        lambda text: messages.private_frame(text, "bob"),
        messages.who_frame,
        messages.rooms_frame,
        messages.ping_frame,
        lambda text: messages.join_frame("철수", "lobby", proof=("password", text)),
        lambda text: messages.moderation_frame("kick", text),
    ],
)
def test_a_request_that_no_frame_can_hold_is_not_made(make: Callable[[str], bytes]) -> None:
    assert error_of(lambda: make("\ud800")) == ("bad_text", "the text holds half of a surrogate pair")
    around = len(payload(make("")))
    assert len(make("a" * (MAX_PAYLOAD - around))) == HEADER_SIZE + MAX_PAYLOAD
    code, text = error_of(lambda: make("a" * (MAX_PAYLOAD - around + 1)))
    assert (code, text) == ("too_long", "the message takes 65536 bytes, a frame 65535")


# From the server to the client.


LOST = st.none() | st.tuples(NUMBERS, NUMBERS) | st.tuples(NUMBERS, st.none())
WELCOMES = st.builds(Welcome, TEXTS, TEXTS, NUMBERS, TEXTS, st.integers(1, 10**6), TEXTS, st.booleans(), LOST)
PROVED = st.builds(
    Welcome,
    *(TEXTS, TEXTS, NUMBERS, TEXTS, st.integers(1, 10**6), TEXTS, st.booleans(), LOST),
    role=st.sampled_from(["member", "operator"]),
    expires=st.none() | st.floats(0, 1e12),
)


@FEW
@given(WELCOMES | PROVED)
def test_a_welcome_arrives_with_all_that_the_server_said(welcome: Welcome) -> None:
    assert seen(requests.welcome_frame(welcome)) == FromNamedServer(welcome=welcome)


def test_a_welcome_without_proof_is_that_of_earlier_versions_byte_for_byte() -> None:
    welcome = Welcome("앨리스", "lobby", 7, "e", 3, "열쇠")
    plain = (
        '{"welcome":{"name":"앨리스","room":"lobby","seq":7,"epoch":"e","members":3,"token":"열쇠",'
        '"recovered":false,"lost":null}}'
    )
    assert payload(requests.welcome_frame(welcome)).decode() == plain
    proved = msgspec.structs.replace(welcome, role="operator", expires=1.5)
    assert payload(requests.welcome_frame(proved)).decode() == plain.replace(
        "null}}", 'null,"role":"operator","expires":1.5}}'
    )
    assert "열쇠" not in repr(proved)
    assert "role='operator'" in repr(proved)


@FEW
@given(TEXTS, TEXTS, st.integers(0, 10**6))
def test_the_answer_to_an_operators_request_arrives(action: str, target: str, count: int) -> None:
    moderated = Moderated(action, target, count)
    assert seen(requests.moderated_frame(action, target, count)) == FromNamedServer(moderated=moderated)


@FEW
@given(TEXTS, st.lists(TEXTS, max_size=2 * NAMED_IN_NOTICE), st.integers(1, 10**6), TEXTS)
def test_notices_name_the_first_and_count_them_all(
    room: str, names: list[str], members: int, reason: str
) -> None:
    first, count = tuple(names[:8]), len(names)
    assert seen(requests.joined_frame(room, names, members)).joined == Joined(room, first, count, members)
    left = seen(requests.left_frame(room, names, members, reason)).left
    assert left == Left(room, first, count, members, reason)


@FEW
@given(TEXTS, st.lists(TEXTS), st.integers(1, 10**6), MAYBE)
def test_a_page_of_names_or_rooms_arrives_with_where_the_next_begins(
    room: str, names: list[str], count: int, after: str | None
) -> None:
    who = seen(requests.who_frame(room, names, count, after)).who
    assert who == messages.Who(room, tuple(names), count, after)
    rooms = seen(requests.rooms_frame([(name, count) for name in names], count, after)).rooms
    assert rooms == Rooms(tuple(RoomSize(name, count) for name in names), count, after)


@FEW
@given(TEXTS, st.lists(st.tuples(TEXTS, TEXTS), max_size=5), NUMBERS, st.none() | NUMBERS)
def test_a_page_of_history_arrives_with_all_that_was_said(
    room: str, said: list[tuple[str, str]], first: int, before: int | None
) -> None:
    found = []
    for place, (text, sender) in enumerate(said):
        found += requests.history_messages(message_frame(text), sender, first + place, 12.3456)
    page = seen(requests.history_frame(room, found, before)).history
    expected = [
        PastMessage(text, first + place, 12.346, sender or None) for place, (text, sender) in enumerate(said)
    ]
    assert page == HistoryPage(room, tuple(expected), before)


@given(st.lists(TEXTS, min_size=1, max_size=9), NUMBERS)
def test_messages_of_one_run_are_numbered_in_their_order(texts: list[str], first: int) -> None:
    found = requests.history_messages(b"".join(map(message_frame, texts)), "밥", first, 1.0)
    assert [json.loads(each) for each in found] == [
        {"message": text, "from": "밥", "seq": first + place, "at": 1.0} for place, text in enumerate(texts)
    ]


def test_the_longest_message_fits_a_page_of_history() -> None:
    """A page may be one message: an announcement as long as it may be, in a room whose name is."""
    frame = message_frame("x" * (ANNOUNCEMENT_LIMIT - len(message_frame(""))))
    assert len(frame) == ANNOUNCEMENT_LIMIT
    (message,) = requests.history_messages(frame, "", 2**63 - 1, 4e9)
    page = requests.history_frame("\U00020000" * 32, [message], 2**63 - 1)
    assert len(payload(page)) <= MAX_PAYLOAD


def test_a_private_message_arrives_with_its_sender_and_its_time_to_the_millisecond() -> None:
    found = seen(requests.private_frame("쉿", "철수", "영희", 12.34567))
    assert found == FromNamedServer(message="쉿", sender="철수", to="영희", at=12.346)


@pytest.mark.parametrize("value", [b'"x"', b"7", b"null", b'{"a": [1, 2]}'])
def test_a_ping_comes_back_as_it_was_sent(value: bytes) -> None:
    assert payload(requests.pong_frame(msgspec.Raw(value))) == b'{"pong":' + value + b"}"
    assert seen(requests.pong_frame(msgspec.Raw(value))).pong == json.loads(value)


@FEW
@given(TEXTS, TEXTS)
def test_an_error_arrives_with_code_and_text(code: str, text: str) -> None:
    assert seen(error_frame(code, text)) == FromNamedServer(error=Refusal(code, text))


@pytest.mark.parametrize("decode", [messages.decode_from_server, decode_from_named_server])
def test_an_error_says_which_proofs_the_server_takes(
    decode: Callable[[bytes], messages.FromServer | FromNamedServer],
) -> None:
    sent = '{"error":{"code":"auth_required","text":"증명","proofs":["password","jwt"]}}'
    assert decode(sent.encode()).error == Refusal("auth_required", "증명", proofs=("password", "jwt"))


@pytest.mark.parametrize("decode", [messages.decode_from_server, decode_from_named_server])
@pytest.mark.parametrize("sent", [b"", b"[]", b'{"message":7}', b'{"message":"\xff"}', b"[" * 5_000])
def test_what_no_server_of_this_protocol_sends_is_told_as_that(
    decode: Callable[[bytes | Oversized], object], sent: bytes
) -> None:
    code, text = error_of(lambda: decode(sent))
    assert code == "not_a_message"
    assert text.startswith("not an mpchat server: ")
    assert error_of(lambda: decode(Oversized(70_000))) == (
        "too_long",
        "the server sent a payload of 70000 bytes",
    )
