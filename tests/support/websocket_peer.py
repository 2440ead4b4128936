"""A WebSocket client that the test moves byte by byte, against workers in the test's own process."""

import array
import fcntl
import socket
import termios
import time
from collections.abc import Sequence

from mpchat.ipc.connection_state import ConnectionState, decode_state, encode_state
from mpchat.protocol.websocket_decoder import CLOSE, CONTINUATION, FIN, PING, PONG, TEXT
from support.one_worker import Bench, unread

HANDSHAKE = (
    b"GET /ws HTTP/1.1\r\nHost: a\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Version: 13\r\n\r\n"
)
KEY = b"\x01\x80\xfe\x33"
# What a server sends: an opcode and a payload.
Event = tuple[int, bytes]


def masked(first: int, payload: bytes = b"", key: bytes = KEY) -> bytes:
    """Return a client's frame; ``first`` is its first byte."""
    size = len(payload)
    if size < 126:
        head = bytes((first, 0x80 | size))
    elif size < 1 << 16:
        head = bytes((first, 0x80 | 126)) + size.to_bytes(2)
    else:
        head = bytes((first, 0x80 | 127)) + size.to_bytes(8)
    return head + key + bytes(byte ^ key[place % 4] for place, byte in enumerate(payload))


def text(payload: bytes) -> bytes:
    return masked(FIN | TEXT, payload)


def ping(payload: bytes = b"") -> bytes:
    return masked(FIN | PING, payload)


def close(code: int, reason: bytes = b"") -> bytes:
    return masked(FIN | CLOSE, code.to_bytes(2) + reason)


def fragments(opcode: int, *parts: bytes, between: bytes = b"") -> bytes:
    """Return a message in several frames, with other frames between them."""
    *begun, last = parts
    frames = [masked(0 if place else opcode, part) for place, part in enumerate(begun)]
    return between.join([*frames, masked(FIN | CONTINUATION, last)])


def cut(data: bytes) -> tuple[list[Event], bytes]:
    """Cut what a server has sent into whole frames, and the beginning of one more."""
    events = []
    while len(data) >= 2:
        first, size = data[0], data[1]
        assert first in (FIN | TEXT, FIN | CLOSE, FIN | PING, FIN | PONG), (
            f"no frame of a server: {data[:9]!r}"
        )
        start = 2
        if size == 126:
            start, size = 4, int.from_bytes(data[2:4])
        assert size <= 60_100
        if len(data) < start + size:
            break
        events.append((first - FIN, data[start : start + size]))
        data = data[start + size :]
    return events, data


def close_event(code: int, reason: str) -> Event:
    return CLOSE, code.to_bytes(2) + reason.encode()


class Browser:
    """A client after its handshake, and its connection at whatever worker that is."""

    def __init__(self, bench: Bench, identity: int, behind: bytes = b"", *, cramped: bool = False) -> None:
        """Shake hands; ``behind`` comes with the same packet. ``cramped``: little fits into its sockets."""
        self.bench = bench
        self.client, self.connection = bench.connect(identity)
        if cramped:
            self.client.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 65_536)
            self.connection.sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
        self.send(HANDSHAKE + behind)
        self.take_handshake()

    def take_handshake(self) -> None:
        head, _, self.data = self.bench.received(self.client, lambda data: b"\r\n\r\n" in data).partition(
            b"\r\n\r\n"
        )
        assert head.startswith(b"HTTP/1.1 101 "), head
        assert self.connection.dialect.name == "websocket"

    def send(self, data: bytes) -> None:
        """Send something, have it wait in the worker's socket as a whole, and let the worker read it."""
        self.client.send_raw(data)
        deadline = time.monotonic() + 10
        while self._waiting() < len(data):
            assert time.monotonic() < deadline, "waited 10 s for bytes on loopback"
        self.bench.turn()

    def _waiting(self) -> int:
        size = array.array("i", [0])
        fcntl.ioctl(self.connection.sock, termios.FIONREAD, size)
        return size[0]

    def take(self, count: int) -> list[Event]:
        """Return the next frames that the server sends, and assert that there are no more of them."""
        self.data += self.bench.received(self.client, lambda data: len(cut(self.data + data)[0]) >= count)
        events, self.data = cut(self.data)
        assert (len(events), self.data) == (count, b""), events
        return events

    def take_all(self) -> list[Event]:
        """Return all frames that have come."""
        events, self.data = cut(self.data + unread(self.client))
        return events

    def take_to_the_end(self) -> list[Event]:
        """Return all frames up to the end of the stream, which comes behind a whole one."""
        events, rest = self.take_to_any_end()
        assert rest == b""
        return events

    def take_to_any_end(self) -> tuple[list[Event], bytes]:
        """Return all frames up to the end of the stream, and the beginning of one more."""
        return cut(self.data + self.bench.received_to_the_end(self.client))

    def move(self, to: Bench) -> ConnectionState:
        """Move the connection as it is moved between processes; returns the state that went along."""
        self.bench.worker.clients.reading.stop(self.connection)
        exported = self.bench.worker.migration.export_state(self.connection)
        state = decode_state(encode_state(exported))
        assert state is not None
        self.bench = to
        self.connection = to.take(self.connection.identity, self.connection.sock, state)
        return state


def posted(benches: Sequence[Bench]) -> list[bytes]:
    """Return the payloads that clients have said at these workers, which take them from now on as sent."""
    found = []
    for bench in benches:
        for _, _, frames in bench.worker.uplink.posts:
            position = 0
            while position < len(frames):
                end = position + 2 + int.from_bytes(frames[position : position + 2])
                found.append(frames[position + 2 : end])
                position = end
        bench.worker.uplink.posts, bench.worker.uplink.posts_size = [], 0
    return found
