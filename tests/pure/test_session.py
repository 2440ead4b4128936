"""One client's session: a message for everybody, or an answer for that client, and never a changed text."""

import json
import time
from collections.abc import Callable
from itertools import pairwise
from typing import Any, TypeVar

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from mpchat.errors import ProtocolError
from mpchat.protocol.frames import DEFAULT_PAYLOAD_LIMIT, HEADER_SIZE, MAX_PAYLOAD, Oversized, encode_frame
from mpchat.protocol.messages import decode_from_server, leading_run, message_frame, relayed_frame
from mpchat.protocol.plain_dialect import PlainDialect
from mpchat.protocol.requests import Join, Request, Who, unpack_request
from mpchat.protocol.session import MOST_TIMES, REQUEST, REQUEST_WORK, RUN_SIZE

T = TypeVar("T")

HELLO = b'{"message": "hello."}'
# Every code that a plain client's frame can be answered with.
CODES = {"not_json", "not_utf8", "not_a_message", "too_long"}


def received(data: bytes, *cuts: int, limit: int = DEFAULT_PAYLOAD_LIMIT) -> tuple[list[bytes], bytes]:
    """Give a session ``data``, cut at ``cuts``; returns its posts, each message's frame, and its replies."""
    session = PlainDialect(limit)
    posts: list[tuple[int, bytes]] = []
    edges = sorted({0, len(data), *cuts})
    replies = b"".join(session.receive_data(data[start:end], posts) for start, end in pairwise(edges))
    return single(posts), replies


def single(posts: list[tuple[int, bytes]]) -> list[bytes]:
    """Cut posts into frames, and see that they are as many as they say."""
    frames: list[bytes] = []
    for count, run in posts:
        if run and count == REQUEST:  # stands alone, and as its payload
            frames.append(run)
            continue
        before = len(frames)
        while run:
            end = HEADER_SIZE + int.from_bytes(run[:HEADER_SIZE], "big")
            frames.append(run[:end])
            run = run[end:]
        assert len(frames) - before == count
    return frames


def attempt(what: Callable[[], T]) -> T | ProtocolError:
    """Return what came of it, or the one error that may."""
    try:
        return what()
    except ProtocolError as error:
        return error


def objects(frames: bytes) -> list[Any]:
    found = []
    while frames:
        end = HEADER_SIZE + int.from_bytes(frames[:HEADER_SIZE], "big")
        found.append(json.loads(frames[HEADER_SIZE:end]))
        frames = frames[end:]
    return found


def errors(frames: bytes) -> list[tuple[str, str]]:
    """Return code and text of each error that the frames tell, a counted one as often as it came."""
    return [
        (told["error"]["code"], told["error"]["text"])
        for told in objects(frames)
        for _ in range(told["error"].get("times", 1))
    ]


def the_same_however_it_arrives(data: bytes, limit: int = DEFAULT_PAYLOAD_LIMIT) -> tuple[list[bytes], bytes]:
    """Whole, byte by byte, and with a frame behind it: the outcome is one and the same."""
    posts, replies = received(data, limit=limit)
    assert received(data, *range(len(data)), limit=limit) == (posts, replies)
    trailing, trailing_replies = received(data + encode_frame(HELLO), limit=limit)
    assert trailing == [*posts, message_frame("hello.")]
    assert trailing_replies == replies
    return posts, replies


@pytest.mark.parametrize(
    ("payload", "text"),
    [
        (HELLO, "hello."),
        (b'{"message":""}', ""),
        (b' {\n"message"\t: "a" } ', "a"),
        ('{"message": "안녕하세요 👋"}'.encode(), "안녕하세요 👋"),
        (b'{"message": "\\uc548\\ud83d\\udc4b"}', "안👋"),
        (b'{"message": "\\u0000\\u001b[2J\\"\\\\\\/"}', '\0\x1b[2J"\\/'),
        (b'{"message": "a", "room": 5, "x": {"message": "b"}}', "a"),
        (b'{"message": "first", "message": "second"}', "second"),
        (b'{"Message": "no", "message": "yes"}', "yes"),
        ('{"message": "\u2028\u202e\ufeff\u200b"}'.encode(), "\u2028\u202e\ufeff\u200b"),
    ],
)
def test_a_message_goes_to_everybody_with_nothing_but_its_text(payload: bytes, text: str) -> None:
    posts, replies = the_same_however_it_arrives(encode_frame(payload))
    assert replies == b""
    assert [objects(post) for post in posts] == [[{"message": text}]]


@pytest.mark.parametrize(
    ("payload", "code", "why"),
    [
        (b"", "not_json", "the frame is empty"),
        (b"hello.", "not_json", "not JSON"),
        (b'{"message": "a"', "not_json", "not JSON"),
        (b'{"message": "a"} x', "not_json", "not JSON"),
        (b"{'message': 'a'}", "not_json", "not JSON"),
        (b'{"message": "a\nb"}', "not_json", "not JSON"),
        (b'{"message": "a\0b"}', "not_json", "not JSON"),
        (b'\xef\xbb\xbf{"message": "a"}', "not_json", "not JSON"),
        (b'{"message": NaN}', "not_json", "not JSON"),
        (b"null", "not_a_message", "expected"),
        (b"[]", "not_a_message", "expected"),
        (b'"message"', "not_a_message", "expected"),
        (b"{}", "not_a_message", "message"),
        (b'{"Message": "a"}', "not_a_message", "message"),
        (b'{"message": 5}', "not_a_message", "int"),
        (b'{"message": null}', "not_a_message", "null"),
        (b'{"message": ["a"]}', "not_a_message", "array"),
        (b'{"message": "\xff"}', "not_utf8", "UTF-8"),
        (b'{"message": "\xed\xa0\x80"}', "not_utf8", "UTF-8"),
        (b'{"message": "\xc0\x80"}', "not_utf8", "UTF-8"),
        (b'{"message": "a", "x": "\xff"}', "not_utf8", "UTF-8"),
        (b'{"message": "\\ud800"}', "not_json", "surrogate"),
        (b'{"message": "\\udc00\\ud800"}', "not_json", "surrogate"),
        (b'{"message": "\\ud83dx"}', "not_json", "surrogate"),
    ],
)
def test_what_is_no_message_is_answered_with_what_was_wrong(payload: bytes, code: str, why: str) -> None:
    posts, replies = the_same_however_it_arrives(encode_frame(payload))
    assert posts == []
    ((answer),) = objects(replies)
    assert set(answer) == {"error"}
    assert answer["error"]["code"] == code
    assert why in answer["error"]["text"]


def test_every_length_of_a_payload_over_the_limit_is_refused_and_the_next_frame_is_read() -> None:
    for size in range(65, 130):
        posts, replies = the_same_however_it_arrives(encode_frame(HELLO.ljust(size)), limit=64)
        assert posts == []
        assert objects(replies) == [
            {"error": {"code": "too_long", "text": f"the payload has {size} bytes, 64 are allowed"}}
        ]


def test_messages_of_lengths_from_nothing_to_the_last_that_fits_a_frame_are_relayed_or_refused() -> None:
    session = PlainDialect()
    shortest = len(b'{"message":""}')
    filler = "a" * MAX_PAYLOAD
    edges = {DEFAULT_PAYLOAD_LIMIT - shortest + step for step in range(-3, 4)}
    for length in sorted(edges.union(range(2000), range(2000, MAX_PAYLOAD + 1 - shortest, 101))):
        posts: list[tuple[int, bytes]] = []
        sent = message_frame(filler[:length])
        replies = session.receive_data(sent, posts)
        if length + shortest > DEFAULT_PAYLOAD_LIMIT:
            assert (posts, len(objects(replies))) == ([], 1)
        else:
            assert (posts, replies) == ([(1, sent)], b"")


@pytest.mark.parametrize("opening", [b"[", b'{"a":', b'{"message":', b'{"x":[', b'{"message":"a","x":'])
def test_nesting_as_deep_as_fits_is_refused(opening: bytes) -> None:
    payload = (opening * DEFAULT_PAYLOAD_LIMIT)[:DEFAULT_PAYLOAD_LIMIT]
    posts, replies = received(encode_frame(payload) + encode_frame(HELLO))
    assert posts == [message_frame("hello.")]
    assert [each["error"]["code"] in ("not_json", "not_a_message") for each in objects(replies)] == [True]


def test_nesting_that_is_closed_in_an_unknown_key_is_ignored_or_refused_and_never_more() -> None:
    for depth in (10, 1000, 20_000):
        payload = b'{"message": "a", "x": ' + b"[" * depth + b"]" * depth + b"}"
        posts, replies = received(encode_frame(payload))
        assert posts == [message_frame("a")] or objects(replies)[0]["error"]["code"] == "not_json"


def test_every_cut_of_a_good_a_bad_and_an_oversized_frame_in_a_row() -> None:
    data = encode_frame(HELLO) + encode_frame(b"{") + encode_frame(bytes(100)) + encode_frame(HELLO)
    expected = received(data, limit=64)
    assert len(expected[0]) == len(objects(expected[1])) == 2
    for place in range(len(data)):
        assert received(data, place, limit=64) == expected


def test_replies_come_in_the_order_of_what_they_answer() -> None:
    _, replies = received(encode_frame(b"") + encode_frame(b"[]") + encode_frame(b"\xff"))
    assert [each["error"]["code"] for each in objects(replies)] == ["not_json", "not_a_message", "not_json"]


@given(st.text(st.characters()))
def test_any_text_is_encoded_and_comes_out_equal_or_is_refused(text: str) -> None:
    sent = attempt(lambda: message_frame(text))
    if isinstance(sent, ProtocolError):
        assert sent.code == "bad_text"
        assert not text.isprintable()
        return
    posts, replies = received(sent)
    assert (posts, replies) == ([sent], b"")
    assert json.loads(sent[HEADER_SIZE:]) == {"message": text}
    assert decode_from_server(posts[0][HEADER_SIZE:]).message == text


@given(st.text(st.characters()), st.booleans())
def test_any_text_glued_or_escaped_by_another_program_comes_out_equal_or_is_refused(
    text: str, escaped: bool
) -> None:
    payload = json.dumps({"message": text}, ensure_ascii=escaped).encode(errors="surrogatepass")
    posts, replies = received(encode_frame(payload))
    assert len(posts) + len(objects(replies)) == 1
    # Python writes two halves of a pair as two escapes, which are one character in JSON.
    assert [json.loads(post[HEADER_SIZE:])["message"] for post in posts] in (
        [],
        [json.loads(payload)["message"]],
    )


MESSAGES = st.dictionaries(st.sampled_from(["message", "x", ""]), st.text() | st.none() | st.lists(st.text()))
JSON_LIKE = MESSAGES.map(lambda each: json.dumps(each).encode())
MUTATED = st.tuples(JSON_LIKE, st.binary(max_size=3), st.integers(0, 50)).map(
    lambda each: each[0][: each[2]] + each[1] + each[0][each[2] + 1 :]
)
FRAME = (JSON_LIKE | MUTATED | st.binary(max_size=100)).map(encode_frame)
FRAMES = st.lists(FRAME).map(b"".join)


@given(FRAMES | st.binary(max_size=300), st.lists(st.integers(0, 1000)))
def test_any_bytes_in_any_pieces_give_whole_posts_and_documented_answers(
    data: bytes, cuts: list[int]
) -> None:
    posts, replies = received(data, limit=64)
    for places in ([cut for cut in cuts if cut < len(data)], range(len(data))):
        in_pieces, answered = received(data, *places, limit=64)
        assert (in_pieces, errors(answered)) == (posts, errors(replies))
    for post in posts:
        ((message),) = objects(post)
        assert list(message) == ["message"]
        assert isinstance(message["message"], str)
        assert len(post) <= HEADER_SIZE + 64
    for answer in objects(replies):
        assert list(answer) == ["error"]
        assert answer["error"]["code"] in CODES


@given(st.binary(max_size=100))
def test_any_payload_is_relayed_as_json_or_refused_and_never_gets_longer(payload: bytes) -> None:
    relayed = attempt(lambda: relayed_frame(payload, DEFAULT_PAYLOAD_LIMIT))
    if isinstance(relayed, ProtocolError):
        assert relayed.code in CODES
        assert relayed.text
        return
    assert len(relayed) <= HEADER_SIZE + len(payload)
    assert json.loads(relayed[HEADER_SIZE:])["message"] == json.loads(payload)["message"]


@given(st.lists(st.one_of(st.text(max_size=20).filter(str.isprintable).map(message_frame), FRAME)))
def test_messages_that_are_posted_in_runs_are_those_that_would_be_posted_one_by_one(
    parts: list[bytes],
) -> None:
    data = b"".join(parts)
    posts: list[tuple[int, bytes]] = []
    PlainDialect(64).receive_data(data, posts)
    assert single(posts) == received(data, *range(len(data)), limit=64)[0]
    count, end = leading_run(data, 0, len(data), 64)
    run = single([(count, data[:end])])
    assert [relayed_frame(frame[HEADER_SIZE:], 64) for frame in run] == run


def test_a_run_fits_a_queue_item_and_loses_nothing() -> None:
    frames = [message_frame(f"{number} 안녕 " + "x" * (number % 700)) for number in range(1000)]
    posts: list[tuple[int, bytes]] = []
    assert PlainDialect().receive_data(b"".join(frames), posts) == b""
    assert single(posts) == frames
    assert all(len(run) <= RUN_SIZE for _, run in posts)
    assert len(posts) <= 1 + sum(map(len, frames)) // (RUN_SIZE - 1000)


@example(b'\x00\x16{"join":{"":"","":""}}', 0)
@given(FRAMES, st.integers(0, 1000))
def test_another_session_goes_on_from_any_cut(data: bytes, place: int) -> None:
    place = min(place, len(data))
    first = PlainDialect(64)
    posts: list[tuple[int, bytes]] = []
    replies = first.receive_data(data[:place], posts)
    second = PlainDialect(64, first.export())
    replies += second.receive_data(data[place:], posts)
    whole, answered = received(data, limit=64)
    assert (single(posts), errors(replies)) == (whole, errors(answered))
    assert second.mid_frame == PlainDialect(64, second.export()).mid_frame


@pytest.mark.parametrize("sent", [b"", encode_frame(HELLO), encode_frame(b"junk"), encode_frame(bytes(100))])
def test_the_end_between_two_frames_is_orderly_and_inside_one_it_is_not(sent: bytes) -> None:
    whole = PlainDialect(64)
    whole.receive_data(sent, [])
    assert whole.receive_eof()
    for place in range(1, len(sent)):
        cut_off = PlainDialect(64)
        cut_off.receive_data(sent[:place], [])
        assert not cut_off.receive_eof()


@given(st.binary(max_size=100))
def test_any_payload_from_a_server_is_understood_or_a_protocol_error(payload: bytes) -> None:
    outcome = attempt(lambda: decode_from_server(payload))
    assert not isinstance(outcome, ProtocolError) or outcome.code == "not_a_message"


def test_an_oversized_payload_from_a_server_is_a_protocol_error() -> None:
    with pytest.raises(ProtocolError, match="65535"):
        decode_from_server(Oversized(MAX_PAYLOAD))


def test_a_message_that_fits_no_frame_is_refused_with_its_size() -> None:
    with pytest.raises(ProtocolError, match="65550 bytes, a frame 65535") as caught:
        message_frame("a" * 65_536)
    assert caught.value.code == "too_long"
    assert len(message_frame("a" * 65_521)) == HEADER_SIZE + MAX_PAYLOAD


def test_a_read_full_of_empty_frames_is_answered_in_time_that_grows_with_their_number() -> None:
    """A client that sends nothing else must not stop its worker: 32 768 of them fit one read."""
    begun = time.process_time()
    replies = PlainDialect().receive_data(bytes(64 << 10), [])
    assert len(errors(replies)) == 32 << 10
    assert time.process_time() - begun < 2.0


def test_what_is_kept_of_a_frame_that_has_begun_is_counted() -> None:
    session = PlainDialect()
    assert (session.held, session.mid_frame) == (0, False)
    session.receive_data(encode_frame(HELLO)[:7], [])
    assert (session.held, session.mid_frame) == (7, True)
    session.receive_data(encode_frame(HELLO)[7:], [])
    assert (session.held, session.mid_frame) == (0, False)


# The same error again and again.

EMPTY = encode_frame(b"")
OBJECT = encode_frame(b"{}")
PING = encode_frame(b'{"ping":1}')
JOIN = encode_frame(b'{"join":{"name":"a"}}')
ESCAPED = encode_frame(b'{"message" :"x"}')  # is encoded again, so it stands in no run of messages


def told(frames: bytes) -> list[Any]:
    """Return for each answer a pong's value, or how many errors it stands for."""
    return [each["pong"] if "pong" in each else each["error"].get("times") for each in objects(frames)]


def test_a_packet_that_is_padded_with_zeros_is_answered_with_two_errors() -> None:
    sent = message_frame("hello.").ljust(1024, b"\0")
    posts: list[tuple[int, bytes]] = []
    replies = PlainDialect().receive_data(sent, posts)
    assert posts == [(1, message_frame("hello."))]
    padding = (1024 - len(message_frame("hello."))) // 2
    error = {"code": "not_json", "text": "the frame is empty"}
    assert objects(replies) == [{"error": error}, {"error": {**error, "times": padding - 1}}]
    assert len(replies) < 200


@pytest.mark.parametrize("between", [OBJECT, PING, JOIN, message_frame("x"), ESCAPED])
def test_another_frame_ends_a_run_of_errors(between: bytes) -> None:
    _, replies = received(EMPTY * 5 + between + EMPTY * 3)
    # The count comes before the answer to the frame that ended the run.
    expected = {OBJECT: [None, 4, None, None, 2], PING: [None, 4, 1, None, 2]}
    assert told(replies) == expected.get(between, [None, 4, None, 2])


def test_an_error_that_came_twice_is_told_twice_and_other_errors_each_for_itself() -> None:
    _, replies = received((EMPTY + OBJECT) * 3 + EMPTY)
    assert told(replies) == [None] * 7
    assert errors(received(EMPTY * 2)[1]) == [("not_json", "the frame is empty")] * 2
    assert told(received(EMPTY * 2)[1]) == [None, None]


def test_the_same_pong_again_is_no_error_that_is_counted() -> None:
    assert told(received(PING * 5)[1]) == [1] * 5


def test_a_run_goes_on_in_the_next_turn_and_its_number_is_told_after_a_bounded_one() -> None:
    session = PlainDialect()
    replies = [session.receive_data(OBJECT * (MOST_TIMES + 10), [], 16)]
    while session.has_more:
        replies.append(session.receive_data(b"", [], 16))
    assert [told(each) for each in replies if each] == [[None], [MOST_TIMES], [9]]
    session.receive_data(OBJECT * 20, [], 16)
    assert told(session.end_run()) == [15]
    assert session.end_run() == b""
    assert told(session.receive_data(b"", [])) == [None, 3], "what comes after is another run"


def test_errors_that_are_counted_are_as_large_as_if_they_were_sent() -> None:
    session = PlainDialect()
    size = len(received(OBJECT)[1])
    replies = session.receive_data(OBJECT * 100, [])
    counted = session.take_counted()
    assert 100 * size <= counted + len(replies) <= 100 * size + 20
    assert session.take_counted() == 0


def test_zeros_in_a_row_are_little_work_and_every_two_of_them_count() -> None:
    session = PlainDialect()
    replies = session.receive_data(EMPTY * (3 * MOST_TIMES) + b"\0", [], 1)
    assert told(replies) == [None, MOST_TIMES, MOST_TIMES, MOST_TIMES - 1]
    assert session.take_counted() == 0
    assert not session.has_more
    assert session.mid_frame
    assert session.receive_data(b"\x01x", []) == received(encode_frame(b"x"))[1]


MIXED = st.lists(
    st.tuples(
        st.sampled_from([EMPTY, OBJECT, PING, JOIN, message_frame("x"), ESCAPED, encode_frame(bytes(100))]),
        st.integers(1, 5),
    )
)


@given(MIXED, st.integers(1, 5), st.lists(st.integers(0, 300)), st.booleans())
def test_errors_and_their_counts_are_as_many_as_the_wrong_frames_and_in_the_order_of_all_answers(
    parts: list[tuple[bytes, int]], most: int, cuts: list[int], interrupted: bool
) -> None:
    frames = [frame for frame, count in parts for _ in range(count)]
    expected = [objects(received(frame, limit=64)[1]) for frame in frames]
    data = b"".join(frames)
    session = PlainDialect(64)
    edges = sorted({0, len(data), *(cut for cut in cuts if cut < len(data))})
    answered: list[Any] = []
    for start, end in pairwise(edges):
        piece = data[start:end]
        while piece or session.has_more:
            posts: list[tuple[int, bytes]] = []
            replies = session.receive_data(piece, posts, most)
            if interrupted:
                replies += session.end_run()
            for each in objects(replies):
                times = each.get("error", {}).pop("times", 1)
                answered += [each] * times
            piece = b""
    assert answered == [answer for each in expected for answer in each]
    assert session.end_run() == b""


# Requests.


def request(**keys: Any) -> bytes:
    return encode_frame(json.dumps(keys, ensure_ascii=False).encode())


def test_requests_go_to_the_hub_in_their_place_among_the_messages() -> None:
    session = PlainDialect()
    posts: list[tuple[int, bytes]] = []
    parts = [
        request(message="before"),
        request(join={"name": "철수"}),
        request(message="between"),
        request(message="psst", to="영희"),
        request(who={}),
        request(message="after"),
    ]
    assert session.receive_data(b"".join(parts), posts) == b""
    assert [
        (count, unpack_request(post) if count == REQUEST else json.loads(post[HEADER_SIZE:]))
        for count, post in posts
    ] == [
        (1, {"message": "before"}),
        (REQUEST, Request(join=Join("철수"))),
        (1, {"message": "between"}),
        (REQUEST, Request(message="psst", to="영희")),
        (REQUEST, Request(who=Who())),
        (1, {"message": "after"}),
    ]


def test_a_ping_is_answered_at_once_by_any_client() -> None:
    posts, replies = received(request(ping=[1, "안녕"]) + request(ping=None))
    assert posts == []
    assert objects(replies) == [{"pong": [1, "안녕"]}, {"pong": None}]


def test_questions_are_answered_only_after_a_join_was_asked_for() -> None:
    for question in (
        request(who={}),
        request(rooms={}),
        request(history={}),
        request(message="psst", to="bob"),
    ):
        posts, replies = received(question)
        assert posts == []
        assert [each["error"]["code"] for each in objects(replies)] == ["not_joined"]
        session = PlainDialect()
        session.receive_data(request(join={"name": "alice"}), [])
        moved = PlainDialect(DEFAULT_PAYLOAD_LIMIT, session.export())
        for each in (session, moved):
            asked: list[tuple[int, bytes]] = []
            assert each.receive_data(question, asked) == b""
            assert [count for count, _ in asked] == [REQUEST]


@pytest.mark.parametrize(
    ("sent", "code"),
    [
        (b'{"join":{"name":5}}', "bad_request"),
        (b'{"join":{"after":-1}}', "bad_request"),
        (b'{"who":{"room":"\xff"}}', "not_utf8"),
        (b'{"message":5,"to":"bob"}', "bad_request"),
        (b'{"join":null}', "not_a_message"),
    ],
)
def test_a_wrong_request_is_answered_with_what_was_wrong_and_asks_nothing(sent: bytes, code: str) -> None:
    posts, replies = the_same_however_it_arrives(encode_frame(sent))
    assert posts == []
    assert [each["error"]["code"] for each in objects(replies)] == [code]


def test_a_message_that_speaks_of_to_or_has_it_empty_is_for_the_room() -> None:
    for sent in (b'{"message":"\\"to\\""}', b'{"message":"a","to":null}', b'{"message":"a","x":{"to":"b"}}'):
        posts, replies = received(encode_frame(sent))
        assert ([list(each) for post in posts for each in objects(post)], replies) == ([["message"]], b"")


def taken_in_turns(
    session: PlainDialect, data: bytes, most: int
) -> tuple[list[tuple[int, bytes]], bytes, int]:
    """Take ``data`` with so much work at a time; returns posts, replies and how many turns it took."""
    posts: list[tuple[int, bytes]] = []
    replies = session.receive_data(data, posts, most)
    turns = 1
    while session.has_more:
        replies += session.receive_data(b"", posts, most)
        turns += 1
    return posts, replies, turns


@given(st.binary(max_size=300), st.integers(1, 5))
@example(bytes(100), 3)
@example(encode_frame(b"{}") * 20 + message_frame("x") * 3 + encode_frame(bytes(100)), 2)
def test_what_is_taken_in_turns_is_what_is_taken_at_once(data: bytes, most: int) -> None:
    posts: list[tuple[int, bytes]] = []
    whole = PlainDialect(64)
    replies = whole.receive_data(data, posts)
    session = PlainDialect(64)
    taken, answered, _ = taken_in_turns(session, data, most)
    assert b"".join(frames for _, frames in taken) == b"".join(frames for _, frames in posts)
    assert answered == replies
    assert session.export() == whole.export()
    assert session.mid_frame == whole.mid_frame


def test_a_turn_ends_after_a_bounded_number_of_errors_and_whoever_goes_on_knows() -> None:
    session = PlainDialect()
    posts: list[tuple[int, bytes]] = []
    replies = session.receive_data(OBJECT * 50, posts, 10)
    assert len(errors(replies + session.end_run())) == 10
    assert session.has_more
    assert not session.mid_frame  # nothing is missing of what is kept
    moved = PlainDialect(60_000, session.export())
    assert moved.has_more
    assert len(errors(moved.receive_data(b"", posts, 100))) == 40
    assert (moved.has_more, moved.held, posts) == (False, 0, [])


def test_a_turn_ends_with_a_request() -> None:
    session = PlainDialect()
    asks = request(join={"name": "a"}) + request(who={}) + message_frame("x")
    posts, replies, turns = taken_in_turns(session, asks, REQUEST_WORK)
    assert [count for count, _ in posts] == [REQUEST, REQUEST, 1]
    assert (replies, turns) == (b"", 3)
