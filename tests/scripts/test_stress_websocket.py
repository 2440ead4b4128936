"""The stress clients' own WebSocket: what it sends is what plain clients would say, and so it reads."""

import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from mpchat.protocol.frames import encode_frame
from mpchat.protocol.websocket_decoder import (
    BINARY,
    CONTINUATION,
    PING,
    PONG,
    TEXT,
    Decoder,
    close_frame,
    ping_frame,
)
from mpchat.protocol.websocket_framing import WEBSOCKET_FRAMING
from scripts.common.frames import split_frames
from scripts.common.websocket import RefusedError, WebSocketWire

SHORT = st.binary(max_size=300).map(lambda data: data.hex().encode())
LONG = st.integers(0, 60_000).map(lambda size: b"x" * size)
CUTS = st.lists(st.integers(1, 400), max_size=30)
SWITCHED = b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\n\r\n"


def pieces(data: bytes, sizes: list[int]) -> list[bytes]:
    found = []
    for size in sizes:
        found.append(data[:size])
        data = data[size:]
    return [*found, data]


def wire(seed: int = 0) -> WebSocketWire:
    return WebSocketWire("127.0.0.1:4000", random.Random(seed))


@given(st.lists(SHORT | LONG, max_size=5), CUTS, st.integers(0, 9))
def test_what_is_sent_in_any_pieces_are_the_same_messages(
    payloads: list[bytes], sizes: list[int], seed: int
) -> None:
    sender, decoder = wire(seed), Decoder(60_000)
    data = b"".join(map(encode_frame, payloads))
    events = [event for each in pieces(data, sizes) for event in decoder.feed(sender.encode(each))]
    assert decoder.closing is None
    assert [payload for opcode, payload in events if opcode in (TEXT, BINARY)] == payloads
    assert {opcode for opcode, _ in events} <= {TEXT, PING, CONTINUATION}


@given(st.lists(SHORT | LONG, max_size=5), CUTS)
def test_what_comes_in_any_pieces_are_the_same_frames(payloads: list[bytes], sizes: list[int]) -> None:
    frames = [encode_frame(each) for each in payloads]
    reader, got = wire(), b""
    for each in pieces(SWITCHED + WEBSOCKET_FRAMING.encode(b"".join(frames)), sizes):
        got += reader.decode(each)
    assert split_frames(got) == (frames, b"")


def test_a_ping_is_answered_and_a_close_is_no_message() -> None:
    reader, decoder = wire(), Decoder(100)
    assert reader.decode(SWITCHED + ping_frame(b"x") + close_frame(1000)) == b""
    assert decoder.feed(reader.replies) == [(PONG, b"x")]


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 403 Forbidden\r\n\r\n", b"\x00\x02{}\r\n\r\n", SWITCHED + b"\x02\x01x"]
)
def test_what_is_no_websocket_is_found(answer: bytes) -> None:
    with pytest.raises(RefusedError):
        wire().decode(answer)
