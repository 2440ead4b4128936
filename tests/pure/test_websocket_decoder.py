"""WebSocket, without I/O: the frames of RFC 6455, in any pieces, and against another library."""

import json
import time
from codecs import getincrementaldecoder, utf_8_decode
from itertools import pairwise
from typing import NamedTuple

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from support.websocket_peer import KEY, masked, text
from websockets.frames import Frame, Opcode
from websockets.protocol import Protocol, Side, State
from websockets.speedups import apply_mask

from mpchat.protocol import mask
from mpchat.protocol.dialects import DIALECTS, Dialect
from mpchat.protocol.frames import HEADER_SIZE, MAX_PAYLOAD, encode_frame
from mpchat.protocol.messages import message_frame
from mpchat.protocol.plain_dialect import PlainDialect
from mpchat.protocol.session import MESSAGE_WORK, REQUEST, RUN_SIZE, DialectState
from mpchat.protocol.websocket_decoder import (
    BINARY,
    CLOSE,
    CONTINUATION,
    FIN,
    NO_CODE,
    NOT_UTF8,
    PING,
    PONG,
    PROTOCOL_ERROR,
    TEXT,
    TOO_BIG,
    Close,
    Decoder,
    Failure,
    close_frame,
    ping_frame,
    pong_frame,
)
from mpchat.protocol.websocket_dialect import FRAME_WORK, LONGEST_IN_RUN, WebSocketDialect
from mpchat.protocol.websocket_framing import WEBSOCKET_FRAMING

LIMIT = 200
HELLO = b'{"message":"hello"}'
# What the decoder says of a length that is not written in the fewest bytes.
WRONG_LENGTH = "a wrong length"


def close(code: int, reason: bytes = b"") -> bytes:
    return masked(FIN | CLOSE, code.to_bytes(2) + reason)


def pieces(data: bytes, cuts: list[int]) -> list[bytes]:
    edges = sorted({0, len(data), *(each % (len(data) + 1) for each in cuts)})
    return [data[start:end] for start, end in pairwise(edges)]


class Outcome(NamedTuple):
    events: list[tuple[int, bytes]]
    closing: Close | Failure | None


def decoded(parts: list[bytes], limit: int = LIMIT) -> Outcome:
    decoder = Decoder(limit)
    return Outcome([event for part in parts for event in decoder.feed(part)], decoder.closing)


def the_same_however_it_arrives(data: bytes) -> Outcome:
    """Whole, byte by byte, and with something behind it that an end hides."""
    outcome = decoded([data])
    assert decoded([bytes((byte,)) for byte in data]) == outcome
    behind = decoded([data + masked(FIN | PONG, b"behind")])
    shown = [] if outcome.closing else [(PONG, b"behind")]
    assert behind == (outcome.events + shown, outcome.closing)
    return outcome


@pytest.mark.parametrize("size", [0, 1, 2, 3, 4, 5, 124, 125, 126, 127, 199, 200])
@pytest.mark.parametrize("opcode", [TEXT, BINARY])
def test_a_frame_of_any_length_is_a_message(opcode: int, size: int) -> None:
    payload = b"abcdefg" * 30
    outcome = the_same_however_it_arrives(masked(FIN | opcode, payload[:size]))
    assert outcome == ([(opcode, payload[:size])], None)


def test_every_width_of_a_length_is_read() -> None:
    for size in (125, 126, MAX_PAYLOAD, MAX_PAYLOAD + 1, 100_000):
        payload = b"x" * size
        assert decoded([text(payload)], 100_000) == ([(TEXT, payload)], None)


def test_a_message_in_fragments_is_whole_with_the_last_one_and_control_frames_come_between() -> None:
    data = masked(TEXT, b"a") + masked(FIN | PING, b"ping") + masked(CONTINUATION) + masked(FIN | PONG)
    outcome = the_same_however_it_arrives(data + masked(FIN | CONTINUATION, b"b") + text(b"c"))
    assert outcome.closing is None
    part = (CONTINUATION, b"")
    assert outcome.events == [part, (PING, b"ping"), part, (PONG, b""), (TEXT, b"ab"), (TEXT, b"c")]


def test_the_limit_is_that_of_a_message_and_not_of_the_control_frames_inside_it() -> None:
    data = masked(BINARY, bytes(LIMIT)) + masked(FIN | PING, b"ping") + masked(FIN | CONTINUATION)
    events = [(CONTINUATION, b""), (PING, b"ping"), (BINARY, bytes(LIMIT))]
    assert the_same_however_it_arrives(data) == (events, None)
    assert decoded([masked(FIN | PING, bytes(125))], 100) == ([(PING, bytes(125))], None)


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (b"\x81\x00", PROTOCOL_ERROR),  # no mask
        (b"\x81\x05hello", PROTOCOL_ERROR),
        *((masked(FIN | TEXT | bit, b"a"), PROTOCOL_ERROR) for bit in (0x10, 0x20, 0x40, 0x70)),
        *((masked(FIN | opcode), PROTOCOL_ERROR) for opcode in (3, 4, 5, 6, 7, 11, 12, 13, 14, 15)),
        *((masked(opcode), PROTOCOL_ERROR) for opcode in (CLOSE, PING, PONG)),  # in fragments
        *((masked(FIN | opcode, bytes(126)), PROTOCOL_ERROR) for opcode in (CLOSE, PING, PONG)),
        (masked(FIN | CONTINUATION, b"a"), PROTOCOL_ERROR),  # of nothing
        (masked(CONTINUATION, b"a"), PROTOCOL_ERROR),
        (masked(TEXT, b"a") + masked(FIN | TEXT, b"b"), PROTOCOL_ERROR),  # one inside another
        (masked(BINARY) + masked(TEXT), PROTOCOL_ERROR),
        (masked(TEXT) + masked(FIN | CONTINUATION) + masked(FIN | CONTINUATION), PROTOCOL_ERROR),
        (b"\x81\xfe\x00\x7d" + KEY, PROTOCOL_ERROR),  # 125 in two bytes
        (b"\x81\xff" + (0xFFFF).to_bytes(8) + KEY, PROTOCOL_ERROR),
        (b"\x81\xff" + (1 << 63).to_bytes(8) + KEY, PROTOCOL_ERROR),
        (b"\x81\xff" + ((1 << 63) - 1).to_bytes(8), TOO_BIG),
        (b"\x81\xfe" + (LIMIT + 1).to_bytes(2), TOO_BIG),
        (masked(BINARY, bytes(LIMIT)) + b"\x00\x81", TOO_BIG),
        (masked(BINARY, bytes(LIMIT - 1)) + masked(CONTINUATION, b"1") + b"\x80\x81", TOO_BIG),
        (text(b"\xff"), NOT_UTF8),
        (text(b"\xed\xa0\x80"), NOT_UTF8),  # half of a surrogate pair
        (text(b"\xf4\x90\x80\x80"), NOT_UTF8),
        (text(b"\xc0\x80"), NOT_UTF8),
        (text(b"\xe2\x82"), NOT_UTF8),  # not whole
        (masked(TEXT, b"\xe2") + masked(FIN | CONTINUATION, b"\x82"), NOT_UTF8),
        (
            masked(TEXT, b"\xe2\x82") + masked(CONTINUATION, b"\xacok") + masked(CONTINUATION, b"\xff"),
            NOT_UTF8,
        ),
        (masked(TEXT, b"\xf4") + masked(CONTINUATION, b"\x90"), NOT_UTF8),
        (masked(FIN | CLOSE, b"\x03"), PROTOCOL_ERROR),
        (close(NO_CODE), PROTOCOL_ERROR),
        (close(1000, b"\xff"), NOT_UTF8),
        (close(1000, b"\xe2\x82"), NOT_UTF8),
    ],
)
def test_what_breaks_the_protocol_ends_the_connection_with_a_code(data: bytes, code: int) -> None:
    outcome = the_same_however_it_arrives(data)
    assert isinstance(outcome.closing, Failure)
    assert outcome.closing.code == code
    assert outcome.closing.reason
    assert outcome.events[-1] == (CLOSE, b"")
    assert {opcode for opcode, _ in outcome.events[:-1]} <= {CONTINUATION, TEXT}


def test_what_is_wrong_is_told_with_the_byte_that_shows_it_and_not_later() -> None:
    """A frame is judged by its header: no byte of a payload is waited for, nor kept."""
    for head in (
        b"\x81\x05",
        b"\xc1\x85",
        b"\x83\x80",
        b"\x09\x80",
        b"\x89\xfe",
        b"\x80\x80",
        b"\x82\xfe\x00\xc9",
    ):
        assert decoded([head[:-1]]) == ([], None)
        assert decoded([head]).closing is not None
    assert decoded([masked(TEXT, b"\xe2\x82")]).closing is None
    assert decoded([masked(TEXT, b"\xe2\x28")]).closing is not None


@pytest.mark.parametrize("code", [0, 999, 1004, 1005, 1006, 1015, 1016, 1100, 2000, 2999, 5000, 65535])
def test_a_code_that_no_close_frame_may_have_is_refused(code: int) -> None:
    assert decoded([close(code)]) == ([(CLOSE, b"")], Failure(PROTOCOL_ERROR, "a wrong close code"))


@pytest.mark.parametrize(
    "code", [1000, 1001, 1002, 1003, 1007, 1008, 1011, 1013, 1014, 3000, 3999, 4000, 4999]
)
def test_a_close_has_its_code_and_its_reason_and_nothing_follows(code: int) -> None:
    outcome = the_same_however_it_arrives(close(code, "잘 가".encode()))
    assert outcome == ([(CLOSE, b"")], Close(code, "잘 가"))


def test_a_close_may_have_no_code_and_come_inside_a_message() -> None:
    assert the_same_however_it_arrives(masked(FIN | CLOSE)).closing == Close(NO_CODE, "")
    assert the_same_however_it_arrives(masked(TEXT, b"a") + close(1000)).closing == Close(1000, "")


def test_control_frames_of_a_server() -> None:
    assert ping_frame(b"abc") == b"\x89\x03abc"
    assert pong_frame(bytes(125)) == b"\x8a\x7d" + bytes(125)
    assert close_frame(1001, "bye") == b"\x88\x05\x03\xe9bye"
    assert close_frame(NO_CODE) == b"\x88\x00"
    with pytest.raises(ValueError, match="126"):
        ping_frame(bytes(126))


@given(st.text(st.characters()))
def test_the_reason_of_a_close_frame_is_cut_to_what_fits_and_stays_utf_8(reason: str) -> None:
    frame = close_frame(1008, reason)
    assert len(frame) == 2 + frame[1] <= 2 + 125
    sent = frame[4:].decode()
    assert reason.encode(errors="replace").decode().startswith(sent)
    assert len(sent.encode()) > 119 or sent == reason.encode(errors="replace").decode()


@given(st.binary(max_size=600), st.binary(min_size=4, max_size=4))
def test_a_mask_is_taken_off_as_it_is_put_on(payload: bytes, key: bytes) -> None:
    mask.load()
    for unmask in (mask.best_unmask(), mask.unmask_with_integers):
        assert masked(FIN | BINARY, payload, key).endswith(unmask(payload, key))
        assert unmask(unmask(payload, key), key) == payload


def test_the_compiled_function_is_used_once_it_is_loaded() -> None:
    mask.load()
    assert mask.best_unmask() is apply_mask


# Streams: frames that are mostly right, with mistakes, and now and then bytes that are none.
KEYS = st.sampled_from([KEY, bytes(4), b"\xff\x00\xff\x00"]) | st.binary(min_size=4, max_size=4)
LINES_TO_RELAY = st.sampled_from([0, 5, 110, 111, 112, 185, 186, 187, 190]).map(
    lambda size: message_frame("x" * size)[HEADER_SIZE:]
)
TEXTS = st.text(max_size=12).map(str.encode)
PAYLOADS = (
    TEXTS
    | TEXTS.map(lambda each: each[:-1])
    | st.binary(max_size=8)
    | st.integers(0, 210).map(lambda n: b"x" * n)
)
CODES = st.sampled_from([1000, 1001, 1003, 1004, 1005, 1011, 1015, 3000, 4999, 5000]).map(
    lambda code: code.to_bytes(2)
)
CLOSING = st.tuples(CODES, TEXTS).map(b"".join) | st.binary(max_size=3)


def frames_of(firsts: list[int], payloads: st.SearchStrategy[bytes]) -> st.SearchStrategy[bytes]:
    return st.tuples(st.sampled_from(firsts), payloads, KEYS).map(lambda each: masked(*each))


@st.composite
def fragmented(draw: st.DrawFn) -> bytes:
    """A message in fragments, cut anywhere, with control frames between them."""
    payload = draw(PAYLOADS)
    parts = pieces(payload, draw(st.lists(st.integers(0, 300), max_size=5))) or [b""]
    opcodes = [draw(st.sampled_from([TEXT, BINARY])), *[CONTINUATION] * (len(parts) - 1)]
    opcodes[-1] |= FIN
    stream = b""
    for opcode, part in zip(opcodes, parts, strict=True):
        stream += masked(opcode, part, draw(KEYS)) + draw(st.just(b"") | CONTROLS)
    return stream


CONTROLS = frames_of([FIN | PING, FIN | PONG], TEXTS)
GOOD = frames_of([FIN | TEXT, FIN | BINARY], TEXTS | LINES_TO_RELAY) | CONTROLS | fragmented()
MISTAKES = st.one_of(
    frames_of(list(range(256)), PAYLOADS),
    frames_of([FIN | CLOSE], CLOSING),
    frames_of([FIN | PING, FIN | TEXT], st.integers(120, 210).map(bytes)),
    frames_of([FIN | CONTINUATION, CONTINUATION, TEXT, BINARY, FIN | TEXT], PAYLOADS),
    st.integers(0, 1 << 64).map(lambda size: b"\x82\xff" + size.to_bytes(9)[-8:] + KEY),
    st.binary(max_size=12),
)


@st.composite
def streams(draw: st.DrawFn) -> bytes:
    """Frames of which one at most is a mistake, or has no mask."""
    frames = draw(st.lists(GOOD, max_size=6))
    place = draw(st.integers(0, len(frames)))
    match draw(st.sampled_from(["good", "good", "no mask", "cut", *["mistake"] * 4])):
        case "mistake":
            frames.insert(place, draw(MISTAKES))
        case "no mask":
            frames.insert(place, bytes((FIN | TEXT, 5)) + b"hello")
        case "cut":
            return b"".join(frames)[: -draw(st.integers(1, 20))]
    return b"".join(frames)


STREAMS = streams()
CUTS = st.lists(st.integers(0, 2000), max_size=12)


@given(STREAMS, CUTS)
def test_any_bytes_in_any_pieces_give_what_they_give_whole(data: bytes, cuts: list[int]) -> None:
    expected = decoded([data])
    assert decoded(pieces(data, cuts)) == expected
    assert decoded([bytes((byte,)) for byte in data]) == expected


@given(STREAMS, CUTS)
def test_another_decoder_goes_on_from_every_cut(data: bytes, cuts: list[int]) -> None:
    expected = decoded([data])
    events: list[tuple[int, bytes]] = []
    decoder = Decoder(LIMIT)
    for part in pieces(data, cuts):
        events += decoder.feed(part)
        before, decoder = decoder, Decoder(LIMIT, decoder.export())
        if before.closing:
            assert decoder.feed(b"anything") == [(CLOSE, b"")]
            assert decoder.closing is not None
            assert decoder.closing.code == before.closing.code
            break
        assert (decoder.mid_message, decoder.held) == (before.mid_message, before.held)
        assert decoder.export() == before.export()
    assert events == expected.events


@given(STREAMS, CUTS)
def test_a_decoder_keeps_one_message_and_one_header_at_most(data: bytes, cuts: list[int]) -> None:
    decoder = Decoder(LIMIT)
    for part in pieces(data, cuts):
        decoder.feed(part)
        assert decoder.held <= LIMIT + 14
        assert decoder.held == 0 or decoder.closing is None
        assert not decoder.has_more


class Book(Protocol):
    """The other library's server, after the handshake.

    It leaves the text of messages to its caller. And it takes what a message may still get for the limit of a
    control frame, too: here control frames have none.
    """

    def __init__(self) -> None:
        super().__init__(Side.SERVER, state=State.OPEN, max_size=None)
        # True from when it begins to read a frame until it has read all of it.
        self.inside = False

    @property
    def max_message_size(self) -> int | None:
        self.inside = True
        return None if self.reader.buffer[0] & 8 else LIMIT

    @max_message_size.setter
    def max_message_size(self, size: int | None) -> None:
        pass

    def recv_frame(self, frame: Frame) -> None:
        self.inside = False
        super().recv_frame(frame)


def by_the_book(parts: list[bytes]) -> tuple[list[tuple[int, bytes]], int | None, Book]:
    """Return the messages and the close code that the other library finds, and its object."""
    book = Book()
    messages: list[tuple[int, bytes]] = []
    opcode, message, utf8 = Opcode.TEXT, b"", getincrementaldecoder("utf-8")()
    for part in parts:
        book.receive_data(part)
        for frame in book.events_received():
            assert isinstance(frame, Frame)
            if frame.opcode not in (Opcode.TEXT, Opcode.BINARY, Opcode.CONT):
                continue
            if frame.opcode is not Opcode.CONT:
                opcode, message = frame.opcode, b""
                utf8.reset()
            message += frame.data
            if opcode is Opcode.TEXT:
                try:
                    utf8.decode(frame.data, frame.fin)
                except UnicodeDecodeError:
                    return messages, NOT_UTF8, book
            if frame.fin:
                messages.append((opcode, message))
    return messages, book.close_sent.code if book.close_sent else None, book


@given(STREAMS, CUTS)
def test_another_library_finds_the_same_messages_and_the_same_close_code(
    data: bytes, cuts: list[int]
) -> None:
    events, closing = decoded(pieces(data, cuts))
    # The other library takes a short length in many bytes.
    assume(closing is None or closing.reason != WRONG_LENGTH)
    messages, code, book = by_the_book(pieces(data, cuts))
    assert [event for event in events if event[0] in (TEXT, BINARY)] == messages
    if closing is None:
        assert code is None
    elif isinstance(closing, Close) and code == PROTOCOL_ERROR:
        # It takes no close inside a message. Autobahn's case 7.1.5 wants it taken.
        assert book.close_rcvd is not None
        assert book.close_rcvd.code == closing.code
    elif code is None:
        # It reads a frame to its end before it looks at most of what may be wrong.
        assert (closing.code, book.inside) == (PROTOCOL_ERROR, True)
    elif code == TOO_BIG:  # nor does a frame that is wrong and too long, too, say which of it counts
        assert closing.code in (TOO_BIG, PROTOCOL_ERROR)
    else:
        assert closing.code == code


class Counting(Decoder):
    """Counts the bytes that it looks at again and again."""

    __slots__ = ("handed",)
    handed: int

    def begin(self, data: bytes) -> tuple[bytes, int]:
        data, position = super().begin(data)
        self.handed = getattr(self, "handed", 0) + len(data) - position
        return data, position


def counted(monkeypatch: pytest.MonkeyPatch, *names: str) -> list[int]:
    """Count calls of a decoder's methods."""
    calls = [0]
    for name in names:
        original = getattr(Decoder, name)

        def wrapped(*args: object, original: object = original) -> object:
            calls[0] += 1
            assert callable(original)
            return original(*args)

        monkeypatch.setattr(Decoder, name, wrapped)
    return calls


def test_a_long_message_byte_by_byte_is_looked_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    payload = b"x" * 60_000
    data = text(payload)
    calls = counted(monkeypatch, "_measure")
    decoder = Counting(60_000)
    events = [event for byte in data for event in decoder.feed(bytes((byte,)))]
    assert events == [(TEXT, payload)]
    assert decoder.handed <= len(data) + 20
    assert calls[0] <= len(data) + 20  # "not whole" is found once a feed, in no time that grows


@pytest.mark.parametrize("part", [b"", b"x", "안".encode()])
def test_a_message_of_60_000_fragments_takes_work_that_grows_with_their_number(
    monkeypatch: pytest.MonkeyPatch, part: bytes
) -> None:
    number = 60_000
    data = masked(TEXT, part) + masked(CONTINUATION, part) * (number - 2) + masked(FIN | CONTINUATION, part)
    checked = [0]

    def counting(payload: bytes, errors: str, final: bool) -> tuple[str, int]:
        checked[0] += len(payload)
        return original(payload, errors, final)

    original = utf_8_decode
    monkeypatch.setattr("mpchat.protocol.websocket_decoder.utf_8_decode", counting)
    calls = counted(monkeypatch, "_measure", "_take")
    limit = number * len(part)
    dialect = WebSocketDialect(limit)
    turns = 0
    posts: list[tuple[int, bytes]] = []
    for piece in pieces(data, list(range(0, len(data), 120 << 10))):
        dialect.receive_data(piece, posts, 16)
        turns += 1
        while dialect.has_more:
            assert dialect.receive_data(b"", posts, 16) == b"" or not dialect.mid_frame
            turns += 1
    # It is no message of the chat, but all of it was read.
    assert (posts, dialect.closing, dialect.held) == ([], None, 0)
    assert checked[0] <= 4 * limit + 4
    assert turns <= number * FRAME_WORK / 16 + 20
    assert calls[0] <= 2 * number + 2 * turns
    assert dialect.take_counted() >= number - 1


# The framing.

LENGTHS = st.sampled_from([0, 1, 124, 125, 126, 127, 255, 256, 257, 60_000, MAX_PAYLOAD])
LISTS = st.lists(st.binary(max_size=300) | LENGTHS.map(lambda length: b"x" * length), max_size=12)


def server_frame(payload: bytes) -> bytes:
    size = len(payload)
    return (bytes((0x81, size)) if size < 126 else b"\x81\x7e" + size.to_bytes(2)) + payload


@given(LISTS)
def test_a_text_frame_for_each_plain_frame_as_another_library_reads_it(lines: list[bytes]) -> None:
    sent = WEBSOCKET_FRAMING.encode(b"".join(map(encode_frame, lines)))
    assert sent == b"".join(map(server_frame, lines))
    client = Protocol(Side.CLIENT, state=State.OPEN)
    client.receive_data(sent)
    read = [frame for frame in client.events_received() if isinstance(frame, Frame)]
    assert [(frame.opcode, frame.fin, frame.data) for frame in read] == [
        (Opcode.TEXT, True, payload) for payload in lines
    ]


@given(
    st.integers(0, 130), st.integers(1, 40), st.lists(st.tuples(st.integers(0, 5000), st.binary(max_size=9)))
)
def test_frames_that_are_equally_long_or_look_so_are_encoded_alike(
    length: int, count: int, changes: list[tuple[int, bytes]]
) -> None:
    frames = bytearray(encode_frame(bytes(length)) * count)
    for at, what in changes:  # a length in the middle becomes another one: what follows is cut elsewhere
        frames[at % len(frames) : at % len(frames) + len(what)] = what
    lines, position = [], 0
    while position < len(frames):
        end = position + HEADER_SIZE + int.from_bytes(frames[position : position + HEADER_SIZE])
        lines.append(bytes(frames[position + HEADER_SIZE : end]))
        position = end
    whole = b"".join(map(encode_frame, lines))
    assert WEBSOCKET_FRAMING.encode(whole) == b"".join(map(server_frame, lines))


def test_every_length_of_a_frame_is_encoded_alone_and_between_others() -> None:
    filler = bytes(range(256)) * 256
    for length in [*range(300), *range(300, MAX_PAYLOAD, 911), MAX_PAYLOAD]:
        payload = filler[:length]
        assert WEBSOCKET_FRAMING.encode(encode_frame(payload)) == server_frame(payload)
        between = [b"a", payload, bytes(126), b"b"]
        assert WEBSOCKET_FRAMING.encode(b"".join(map(encode_frame, between))) == b"".join(
            map(server_frame, between)
        )
    assert WEBSOCKET_FRAMING.encode(b"") == b""


@given(LISTS, st.integers(0, 3000) | st.integers(0, 200_000))
def test_frames_are_cut_where_their_headers_say_and_leading_ones_are_those_that_fit(
    lines: list[bytes], most: int
) -> None:
    frames = list(map(server_frame, lines))
    whole = b"".join(frames)
    edges = [sum(map(len, frames[:count])) for count in range(len(frames) + 1)]
    for count, edge in enumerate(edges):
        assert WEBSOCKET_FRAMING.cut(whole, count) == edge
    for room in (most, *edges[:3], *(edge - 1 for edge in edges[1:3])):
        count, end = WEBSOCKET_FRAMING.leading(whole, room)
        assert end == edges[count] <= room
        assert count == len(frames) or edges[count + 1] > room


# The dialect.


class Taken(NamedTuple):
    """What a dialect made of a client's bytes: payloads of posts, and errors as often as they came."""

    posts: list[tuple[bool, bytes]]
    answers: list[str]


def taken(dialect: Dialect, parts: list[bytes], most: float = 1e9) -> Taken:
    posts: list[tuple[int, bytes]] = []
    replies = b""
    for part in parts:
        replies += dialect.receive_data(part, posts, most)
        while dialect.has_more:
            replies += dialect.receive_data(b"", posts, most)
    return outcome_of(posts, replies + dialect.end_run())


def outcome_of(posts: list[tuple[int, bytes]], replies: bytes) -> Taken:
    found: list[tuple[bool, bytes]] = []
    for count, frames in posts:
        if count == REQUEST:
            found.append((True, frames))
            continue
        cut_up = list(payloads_of(frames))
        assert len(cut_up) == count
        found += [(False, payload) for payload in cut_up]
    answers: list[str] = []
    for payload in payloads_of(replies):
        told = json.loads(payload)
        answers += (
            [str(told["error"]["text"])] * told["error"].get("times", 1) if "error" in told else [str(told)]
        )
    return Taken(found, answers)


def payloads_of(frames: bytes) -> list[bytes]:
    found = []
    while frames:
        end = HEADER_SIZE + int.from_bytes(frames[:HEADER_SIZE])
        assert len(frames) >= end
        found.append(frames[HEADER_SIZE:end])
        frames = frames[end:]
    return found


LINES = st.one_of(
    st.text(max_size=20).map(lambda line: message_frame(line)[HEADER_SIZE:]),
    st.text(max_size=20).map(lambda line: json.dumps({"message": line}).encode()),
    st.sampled_from([b"", b"junk", b"{}", b'{"ping":5}', b'{"who":{}}', b'{"join":{"name":"ann"}}']),
    st.text(max_size=10).map(str.encode),
    st.sampled_from([100, 110, 111, 112, 113, 140]).map(lambda size: message_frame("x" * size)[HEADER_SIZE:]),
).filter(lambda line: len(line) <= LIMIT)


@st.composite
def sent(draw: st.DrawFn) -> tuple[list[bytes], bytes]:
    """Payloads, and the frames in which a client sends them: whole or not, text or not, others between."""
    lines = draw(st.lists(LINES | st.binary(max_size=8), max_size=10))
    stream = b""
    for line in lines:
        whole = draw(st.booleans())
        opcode = BINARY if draw(st.integers(0, 4)) == 0 or not is_text(line) else TEXT
        if whole:
            stream += masked(FIN | opcode, line, draw(KEYS))
        else:
            place = draw(st.integers(0, len(line)))
            stream += masked(opcode, line[:place], draw(KEYS)) + draw(st.just(b"") | CONTROLS)
            stream += masked(FIN | CONTINUATION, line[place:], draw(KEYS))
        if draw(st.integers(0, 5)) == 0:
            stream += draw(CONTROLS)
    return lines, stream


def is_text(line: bytes) -> bool:
    try:
        line.decode()
    except UnicodeDecodeError:
        return False
    return True


@given(sent(), CUTS, st.sampled_from([1.0, 16.0, 1e9]))
def test_messages_are_taken_as_a_plain_client_s_are_in_any_pieces_and_any_turns(
    case: tuple[list[bytes], bytes], cuts: list[int], most: float
) -> None:
    lines, stream = case
    expected = taken(PlainDialect(LIMIT), [b"".join(map(encode_frame, lines))])
    assert taken(WebSocketDialect(LIMIT), [stream]) == expected
    dialect = WebSocketDialect(LIMIT)
    assert taken(dialect, pieces(stream, cuts), most) == expected
    assert (dialect.mid_frame, dialect.held, dialect.closing) == (False, 0, None)
    assert dialect.receive_eof()


@given(sent(), CUTS)
def test_another_dialect_goes_on_from_every_cut(case: tuple[list[bytes], bytes], cuts: list[int]) -> None:
    lines, stream = case
    posts: list[tuple[int, bytes]] = []
    replies = b""
    dialect = WebSocketDialect(LIMIT)
    parts = pieces(stream, cuts)
    while parts or dialect.has_more:
        part = parts.pop(0) if parts else b""
        replies += dialect.receive_data(part, posts, 1) + dialect.end_run()
        before, dialect = dialect, WebSocketDialect(LIMIT, dialect.export())
        if not before.has_more:  # else a fragment that was left is taken at once
            assert (dialect.has_more, dialect.mid_frame) == (False, before.mid_frame)
            assert (dialect.held, dialect.asked) == (before.held, before.asked)
    whole = b"".join(map(encode_frame, lines))
    assert outcome_of(posts, replies) == taken(PlainDialect(LIMIT), [whole])


@given(STREAMS, CUTS, st.sampled_from([1.0, 1e9]))
def test_any_bytes_end_a_dialect_as_they_end_its_decoder(data: bytes, cuts: list[int], most: float) -> None:
    expected = decoded([data])
    dialect = WebSocketDialect(LIMIT)
    taken(dialect, pieces(data, cuts), most)
    assert dialect.closing == expected.closing
    if expected.closing:
        assert dialect.take_control().endswith(close_frame(*expected.closing))
        assert dialect.take_control() == b""
        assert taken(dialect, [text(HELLO), text(b"junk")]) == Taken([], [])
        assert (dialect.has_more, dialect.mid_frame, dialect.held, dialect.take_control()) == (
            False,
            False,
            0,
            b"",
        )


def test_a_run_of_messages_fits_a_queue_item_and_loses_nothing() -> None:
    lines = [message_frame(f"{number} 안녕 " + "x" * (number % 600))[HEADER_SIZE:] for number in range(1000)]
    posts: list[tuple[int, bytes]] = []
    assert WebSocketDialect().receive_data(b"".join(map(text, lines)), posts) == b""
    assert [payload for _, frames in posts for payload in payloads_of(frames)] == lines
    assert all(len(frames) <= RUN_SIZE for _, frames in posts)
    short = [line for line in lines if len(line) <= LONGEST_IN_RUN]
    posts = []
    WebSocketDialect().receive_data(b"".join(map(text, short)), posts)
    assert len(posts) <= 1 + sum(map(len, short)) // (RUN_SIZE - 8000)


def test_messages_that_need_no_change_are_taken_at_once_and_others_as_far_as_a_turn_goes() -> None:
    posts: list[tuple[int, bytes]] = []
    dialect = WebSocketDialect()
    dialect.receive_data(text(HELLO) * 1000, posts, 1)
    assert ([count for count, _ in posts], dialect.has_more) == ([1000], False)
    spaced = text(b'{"message": "hello"}')
    posts = []
    dialect.receive_data(spaced * 100, posts, 10 * (FRAME_WORK + MESSAGE_WORK))
    assert (len(posts), dialect.has_more, dialect.mid_frame) == (10, True, False)
    assert dialect.held == 90 * len(spaced)
    dialect.receive_data(text(HELLO), posts)
    assert len(posts) == 101


def test_a_read_is_answered_with_one_pong_and_each_ping_and_fragment_is_charged() -> None:
    dialect = WebSocketDialect()
    assert dialect.take_control() == b""
    data = b"".join(masked(FIN | PING, b"%d" % number) for number in range(5)) + masked(FIN | PONG)
    assert dialect.receive_data(data, []) == b""
    assert dialect.take_control() == pong_frame(b"4")
    assert dialect.take_control() == b""
    pings = dialect.take_counted()
    assert pings >= 6 + 5 * len(pong_frame(b"4"))
    assert dialect.take_counted() == 0
    dialect.receive_data(masked(TEXT) + masked(CONTINUATION), [])
    assert dialect.take_counted() > 0
    dialect.receive_data(masked(FIN | CONTINUATION, HELLO) + text(HELLO), [])
    assert dialect.take_counted() == 0


def test_a_message_that_was_taken_before_the_connection_is_to_end_is_posted() -> None:
    posts: list[tuple[int, bytes]] = []
    dialect = WebSocketDialect(LIMIT)
    data = text(HELLO) + text(b"junk") + masked(FIN | PING, b"p") + close(1001, b"bye") + text(HELLO)
    replies = dialect.receive_data(data, posts)
    assert posts == [(1, encode_frame(HELLO))]
    assert b"not_json" in replies
    assert dialect.take_control() == pong_frame(b"p") + close_frame(1001, "bye")


@pytest.mark.parametrize(
    ("data", "code"),
    [
        (text(HELLO)[:1] + b"\x05", 1002),
        (text(b'{"message":"\xff"}'), 1007),
        (text(b"x" * (LIMIT + 1)), 1009),
    ],
)
def test_a_client_that_breaks_the_protocol_gets_a_close_frame(data: bytes, code: int) -> None:
    dialect = WebSocketDialect(LIMIT)
    assert dialect.receive_data(data, []) == b""
    control = dialect.take_control()
    assert (control[0], int.from_bytes(control[2:4])) == (0x88, code)
    assert isinstance(dialect.closing, Failure)
    resumed = WebSocketDialect(LIMIT, dialect.export())
    resumed.receive_data(b"", [])
    assert resumed.closing is not None
    assert resumed.closing.code == code


RELAYED = message_frame("x" * 186)[HEADER_SIZE:]


@pytest.mark.parametrize(
    ("parts", "limit", "code"),
    [
        ([b"\x81\xfe" + len(HELLO).to_bytes(2) + text(HELLO)[2:]], LIMIT, PROTOCOL_ERROR),
        ([b"\x81\xff" + len(RELAYED).to_bytes(8) + text(RELAYED)[4:]], LIMIT, PROTOCOL_ERROR),
        ([b"\x81" + bytes((len(HELLO),)) + HELLO], LIMIT, PROTOCOL_ERROR),
        ([b"\xc1" + text(HELLO)[1:]], LIMIT, PROTOCOL_ERROR),
        ([masked(FIN | CONTINUATION, HELLO)], LIMIT, PROTOCOL_ERROR),
        ([masked(TEXT, b""), text(HELLO)], LIMIT, PROTOCOL_ERROR),
        ([text(HELLO)], len(HELLO) - 1, TOO_BIG),
        ([text(RELAYED)], LIMIT - 1, TOO_BIG),
    ],
)
def test_a_message_that_could_be_relayed_as_it_stands_must_come_in_a_right_frame(
    parts: list[bytes], limit: int, code: int
) -> None:
    assert len(RELAYED) == LIMIT
    dialect = WebSocketDialect(limit)
    assert taken(dialect, parts) == Taken([], [])
    assert dialect.closing is not None
    assert dialect.closing.code == code


@pytest.mark.parametrize(
    "data", [text(HELLO), text(b"junk"), masked(BINARY, b"a") + masked(FIN | CONTINUATION)]
)
def test_the_end_between_two_messages_is_orderly_and_inside_one_it_is_not(data: bytes) -> None:
    whole = WebSocketDialect(LIMIT)
    whole.receive_data(data, [])
    assert whole.receive_eof()
    for place in range(1, len(data)):
        cut_off = WebSocketDialect(LIMIT)
        cut_off.receive_data(data[:place], [])
        assert not cut_off.receive_eof()
        assert (cut_off.mid_frame, cut_off.half_frame()) == (True, None)
        assert cut_off.held > 0


def test_a_read_full_of_empty_messages_is_answered_in_time_that_grows_with_their_number() -> None:
    begun = time.process_time()
    outcome = taken(WebSocketDialect(), [text(b"") * 20_000], 16)
    assert len(outcome.answers) == 20_000
    assert time.process_time() - begun < 3.0


def test_it_is_one_of_the_dialects_and_a_plain_client_has_no_control_frames() -> None:
    made = DIALECTS["websocket"](LIMIT, DialectState(text(HELLO)[:9], 0, True))
    assert isinstance(made, WebSocketDialect)
    assert (made.held, made.asked, made.framing) == (9, True, WEBSOCKET_FRAMING)
    plain = DIALECTS["plain"](LIMIT)
    assert (plain.closing, plain.take_control()) == (None, b"")


@pytest.mark.parametrize(
    ("fragment", "code"), [(masked(TEXT, b"\xff"), NOT_UTF8), (masked(TEXT, bytes(LIMIT + 1)), TOO_BIG)]
)
def test_a_wrong_fragment_that_was_moved_before_it_was_looked_at_is_told(fragment: bytes, code: int) -> None:
    dialect = WebSocketDialect(LIMIT, DialectState(partial=fragment))
    assert dialect.has_more, "nobody would ask it otherwise"
    assert dialect.receive_data(b"", []) == b""
    assert not dialect.has_more
    assert dialect.closing is not None
    assert dialect.closing.code == code
    assert dialect.take_control()
