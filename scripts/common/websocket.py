"""A WebSocket client as a checker writes it: plain frames in and out of a WebSocket's bytes. Pure.

Written apart from ``mpchat.protocol`` on purpose, as ``frames`` is. What it is given to send may end in the
middle of a frame: it then sends a fragment, or a part of a frame that announces all of it. Some messages go
in fragments, with a ping in between.
"""

import base64
import random

from scripts.common.frames import HEADER, framed

# The part of all whole messages that go in fragments.
IN_FRAGMENTS = 0.1
# The shortest payload whose length takes two bytes more.
_LONG = 126
_TEXT, _CONTINUATION, _CLOSE, _PING, _PONG = 1, 0, 8, 9, 10
_FIN, _MASK = 0x80, 0x80


class RefusedError(Exception):
    """The server did not take the handshake."""


class WebSocketWire:
    """One connection's two directions."""

    def __init__(self, host: str, chance: random.Random) -> None:
        """``host`` is named in the handshake; ``chance`` decides how messages are cut."""
        self._chance = chance
        key = base64.b64encode(chance.randbytes(16)).decode()
        self.opening = (
            f"GET /ws HTTP/1.1\r\nHost: {host}\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
            f"Sec-WebSocket-Key: {key}\r\nSec-WebSocket-Version: 13\r\nSec-WebSocket-Protocol: mpchat\r\n\r\n"
        ).encode()
        # Control frames that the server is to get.
        self.replies = b""
        self._open = False
        self._received = b""
        # What is not encoded yet: less than a length. Then how much of a payload is still to come, and how
        # it goes on: with a mask of which so much was used, or in fragments (None).
        self._head = b""
        self._left = 0
        self._mask: tuple[bytes, int] | None = None

    def encode(self, data: bytes) -> bytes:
        """Return what is sent for the next bytes of plain frames."""
        sent = b""
        while data:
            if self._left:
                part, data = data[: self._left], data[self._left :]
                self._left -= len(part)
                sent += self._go_on(part)
                continue
            missing = HEADER - len(self._head)
            self._head, data = self._head + data[:missing], data[missing:]
            if len(self._head) == HEADER:
                length, self._head = int.from_bytes(self._head, "big"), b""
                part, data = data[:length], data[length:]
                self._left = length - len(part)
                sent += self._begin(part, length)
        return sent

    def _begin(self, part: bytes, length: int) -> bytes:
        if len(part) == length:
            if length < 2 or self._chance.random() >= IN_FRAGMENTS:
                return self._frame(_FIN | _TEXT, part)
            cut = self._chance.randrange(1, length)
            ping = self._frame(_FIN | _PING, b"between")
            return self._frame(_TEXT, part[:cut]) + ping + self._frame(_FIN | _CONTINUATION, part[cut:])
        if self._chance.random() < 0.5:
            self._mask = None
            return self._frame(_TEXT, part)
        mask = self._chance.randbytes(4)
        self._mask = mask, len(part)
        return _header(_FIN | _TEXT, length) + mask + _masked(part, mask, 0)

    def _go_on(self, part: bytes) -> bytes:
        if self._mask is None:
            return self._frame(_CONTINUATION | (0 if self._left else _FIN), part)
        mask, used = self._mask
        self._mask = mask, used + len(part)
        return _masked(part, mask, used)

    def _frame(self, first: int, payload: bytes) -> bytes:
        mask = self._chance.randbytes(4)
        return _header(first, len(payload)) + mask + _masked(payload, mask, 0)

    def decode(self, data: bytes) -> bytes:
        """Return plain frames for the next bytes of the server. Raises :class:`RefusedError`."""
        self._received += data
        if not self._open:
            head, end, rest = self._received.partition(b"\r\n\r\n")
            if not end:
                return b""
            if not head.startswith(b"HTTP/1.1 101 "):
                raise RefusedError(head.partition(b"\r\n")[0].decode(errors="replace"))
            self._open, self._received = True, rest
        frames: list[bytes] = []
        at, data = 0, self._received
        while (found := _server_frame(data, at)) is not None:
            first, begin, after = found
            if first == _FIN | _TEXT:
                frames.append(framed(data[begin:after]))
            elif first == _FIN | _PING:
                self.replies += self._frame(_FIN | _PONG, data[begin:after])
            elif first not in (_FIN | _PONG, _FIN | _CLOSE):
                raise RefusedError(f"a frame that begins with {first:#x}")
            at = after
        self._received = data[at:]
        return b"".join(frames)


def _header(first: int, length: int) -> bytes:
    if length < _LONG:
        return bytes((first, _MASK | length))
    return bytes((first, _MASK | _LONG)) + length.to_bytes(2, "big")


def _masked(payload: bytes, mask: bytes, used: int) -> bytes:
    size = len(payload)
    key = (mask * (size // 4 + 2))[used % 4 :][:size]
    return (int.from_bytes(payload, "big") ^ int.from_bytes(key, "big")).to_bytes(size, "big")


def _server_frame(data: bytes, at: int) -> tuple[int, int, int] | None:
    """Return the first byte of the frame at ``at``, and where its payload begins and ends, if it is whole."""
    if len(data) - at < 2:
        return None
    begin, length = at + 2, data[at + 1]
    if length == _LONG:
        begin += 2
        length = int.from_bytes(data[at + 2 : begin], "big")
    end = begin + length
    return (data[at], begin, end) if end <= len(data) and begin <= len(data) else None
