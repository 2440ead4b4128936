"""WebSocket frames (RFC 6455): a decoder of what clients send, and the control frames of a server. No I/O.

Does not look into messages, except that a text has to be UTF-8. No extensions, and so no compression. What
breaks the protocol is a value (:class:`Failure`), never an exception: the caller sends it as a close frame
and ends the connection. The opening handshake happens elsewhere.
"""

from codecs import utf_8_decode
from typing import NamedTuple

from mpchat.protocol.frames import DEFAULT_PAYLOAD_LIMIT
from mpchat.protocol.mask import KEY_SIZE, best_unmask

# Opcodes, and the bits around them in a frame's first two bytes.
CONTINUATION, TEXT, BINARY = 0, 1, 2
CLOSE, PING, PONG = 8, 9, 10
FIN = 0x80
MASKED = 0x80
# Bytes of a client's frame before its payload at least: two, and the key of the mask.
SHORT_HEADER = 2 + KEY_SIZE
# Lengths that say: the length follows in two or eight bytes. Control frames may not have it so.
TWO_BYTES, EIGHT_BYTES = 126, 127
MAX_CONTROL = 125

# Close codes.
NORMAL, GOING_AWAY, PROTOCOL_ERROR, NOT_UTF8, POLICY, TOO_BIG = 1000, 1001, 1002, 1007, 1008, 1009
SERVER_ERROR, FULL = 1011, 1013
# Stands for a close frame without a code; never sent.
NO_CODE = 1005
# The codes that a close frame may have: those that IANA has registered, and those for applications.
CLOSE_CODES = {*range(1000, 1004), *range(1007, 1015), *range(3000, 5000)}


class Close(NamedTuple):
    """The client ends the connection. The answer has its code; :data:`NO_CODE` stands for none."""

    code: int
    reason: str


class Failure(NamedTuple):
    """The client broke the protocol: the code and the reason of the close frame that it gets."""

    code: int
    reason: str


# What :meth:`Decoder.cut` gives instead of an opcode when a frame is not whole.
NOT_WHOLE = -1

# The first bytes that a frame may have: one between two messages, and one inside a message.
_CONTROL = (FIN | CLOSE, FIN | PING, FIN | PONG)
_BETWEEN = frozenset((TEXT, BINARY, FIN | TEXT, FIN | BINARY, *_CONTROL))
_INSIDE = frozenset((CONTINUATION, FIN | CONTINUATION, *_CONTROL))
_FIRST_CONTROL = FIN | CLOSE
_WHOLE_TEXT, _WHOLE_BINARY = FIN | TEXT, FIN | BINARY
# Bytes that end another decoder with the same code; see :meth:`Decoder.export`.
_FAILING = {
    PROTOCOL_ERROR: b"\xf0\x80",
    NOT_UTF8: b"\x81\x81\0\0\0\0\xff",
    TOO_BIG: b"\x82\xff\x7f" + b"\xff" * 7,
}


class _BrokenError(Exception):
    """What the client sent breaks the protocol; becomes a :class:`Failure`."""


def close_frame(code: int, reason: str = "") -> bytes:
    """Return a server's close frame. ``reason`` is cut to what fits: 123 bytes of UTF-8."""
    if code == NO_CODE:
        return _control_frame(CLOSE, b"")
    text = reason.encode(errors="replace")[: MAX_CONTROL - 2].decode(errors="ignore").encode()
    return _control_frame(CLOSE, code.to_bytes(2) + text)


def ping_frame(payload: bytes = b"") -> bytes:
    """Return a server's ping; ``payload`` has at most 125 bytes."""
    return _control_frame(PING, payload)


def pong_frame(payload: bytes) -> bytes:
    """Return a server's answer to a ping with ``payload``, at most 125 bytes."""
    return _control_frame(PONG, payload)


def _control_frame(opcode: int, payload: bytes) -> bytes:
    if len(payload) > MAX_CONTROL:
        raise ValueError(f"a control frame of {len(payload)} bytes")
    return bytes((FIN | opcode, len(payload))) + payload


def _client_frame(first: int, payload: bytes) -> bytes:
    """Return a client's frame whose mask changes nothing."""
    size = len(payload)
    if size < TWO_BYTES:
        head = bytes((first, MASKED | size))
    elif size < 1 << 16:
        head = bytes((first, MASKED | TWO_BYTES)) + size.to_bytes(2)
    else:
        head = bytes((first, MASKED | EIGHT_BYTES)) + size.to_bytes(8)
    return head + bytes(KEY_SIZE) + payload


class _Fragments:
    """A message that has begun, and has not ended."""

    __slots__ = ("message", "opcode", "room", "tail")

    def __init__(self, opcode: int, limit: int) -> None:
        self.message = bytearray()
        self.opcode = opcode
        # How many more bytes there may be; and of a text the last bytes, of a character that is not whole.
        self.room = limit
        self.tail = b""


class Decoder:
    """Cuts what a client sends into events: an opcode and a payload.

    :data:`TEXT` and :data:`BINARY` are whole messages, :data:`CONTINUATION` is a fragment, which is kept.
    :data:`CLOSE` is the last event: the client closes or has broken the protocol, as :attr:`closing` says.

    What is kept is a message's fragments and the bytes of a frame that has begun, together at
    most one message of ``limit`` bytes and a header; and what a caller of :meth:`cut` gives back to
    :meth:`keep`.
    """

    __slots__ = ("_at", "_fragments", "_kept", "_need", "closing", "has_more", "limit")

    def __init__(self, limit: int = DEFAULT_PAYLOAD_LIMIT, partial: bytes = b"") -> None:
        """Start with ``limit``, the longest message in bytes; ``partial`` continues another's work."""
        self.limit = limit
        self._fragments: _Fragments | None = None
        # What ended the connection.
        self.closing: Close | Failure | None = None
        # What is kept, from ``_at`` on, and how many bytes the next decision needs. As bytes they are whole
        # frames that the caller has left, else the beginning of one.
        self._kept: bytes | bytearray = b""
        self._at = 0
        self._need = 0
        # True when what is kept begins with a whole frame, or a wrong one.
        self.has_more = False
        # The fragments of another decoder come first; they are no news.
        begun = partial[:1] in (bytes((TEXT,)), bytes((BINARY,)))
        self.keep(partial, self.cut(partial, 0)[2] if begun else 0)
        # Wrong fragments were kept by a decoder that had no time to look at them, or had another limit.
        self.has_more = self.has_more or self.closing is not None

    @property
    def mid_message(self) -> bool:
        """True inside a message, and inside any frame."""
        return not self.has_more and (self._fragments is not None or self.held > 0)

    @property
    def fragmented(self) -> bool:
        """True while the rest of a fragmented message is to come."""
        return self._fragments is not None

    @property
    def held(self) -> int:
        """The number of bytes that are kept."""
        kept = len(self._kept) - self._at
        return kept if self._fragments is None else kept + len(self._fragments.message)

    def feed(self, data: bytes) -> list[tuple[int, bytes]]:
        """Take the next bytes of the stream, in pieces of any size, and return the events they complete."""
        data, position = self.begin(data)
        events: list[tuple[int, bytes]] = []
        while True:
            opcode, payload, position = self.cut(data, position)
            if opcode == NOT_WHOLE:
                break
            events.append((opcode, payload))
        self.keep(data, position)
        return events

    def export(self) -> bytes:
        """Return bytes that bring a new decoder into this one's state.

        They are the fragments of a message as one frame, and what is kept after them. The reason of a failure
        does not go along.
        """
        if self.closing is not None:
            return _ending_alike(self.closing)
        begun = self._fragments
        fragments = b"" if begun is None else _client_frame(begun.opcode, bytes(begun.message))
        return fragments + self._kept[self._at :]

    # The same in steps, for a caller that may stop before all frames are cut.

    def begin(self, data: bytes) -> tuple[bytes, int]:
        """Take the next bytes of the stream. Returns what is to be cut, and from where on."""
        if self.closing is not None:
            return b"", 0
        if not self._kept:
            return data, 0
        position = self._at
        if isinstance(self._kept, bytes):
            if data:
                data, position = self._kept[position:] + data, 0
            else:
                data = self._kept
        else:
            self._kept += data
            if len(self._kept) < self._need:
                return b"", 0
            data = bytes(self._kept)
        self._kept, self._at = b"", 0
        return data, position

    def cut(self, data: bytes, position: int) -> tuple[int, bytes, int]:
        """Return the opcode and the payload of the event at ``position``, and where its frame ends.

        The opcode is :data:`NOT_WHOLE` where no whole frame is.
        """
        try:
            start, end = self._measure(data, position)
            if end > len(data):
                return NOT_WHOLE, b"", position
            payload = best_unmask()(data[start:end], data[start - KEY_SIZE : start])
            first = data[position]
            if first < _FIRST_CONTROL:
                return *self._take(first, payload), end
            if first != _FIRST_CONTROL:
                return first - FIN, payload, end
            self._close(payload)
        except _BrokenError as broken:
            self._end(Failure(*broken.args))
        except UnicodeDecodeError:
            self._end(Failure(NOT_UTF8, "not UTF-8"))
        return CLOSE, b"", len(data)  # what follows is not looked at

    def keep(self, data: bytes, position: int) -> None:
        """Keep what was not cut of ``data``, for the next :meth:`begin`."""
        self.has_more = False
        if position >= len(data) or self.closing is not None:
            return
        try:
            end = self._measure(data, position)[1]
        except _BrokenError:
            end = 0
        self.has_more = end <= len(data)
        if self.has_more:
            self._kept, self._at = data, position
        else:
            self._kept, self._need = bytearray(data[position:]), end - position

    def _measure(self, data: bytes, position: int) -> tuple[int, int]:
        """Return where the payload of the frame at ``position`` begins and ends.

        An end behind that of ``data`` is where the next decision can be made. Raises :class:`_BrokenError`.
        """
        size = len(data) - position
        if size < 2:
            return 0, position + 2
        first, length = data[position], data[position + 1] - MASKED
        begun = self._fragments
        if first not in (_BETWEEN if begun is None else _INSIDE):
            raise _BrokenError(PROTOCOL_ERROR, f"no frame here begins with the byte {first:#04x}")
        if length < 0:
            raise _BrokenError(PROTOCOL_ERROR, "a frame without a mask")
        start = position + SHORT_HEADER
        if length > MAX_CONTROL:
            if first >= _FIRST_CONTROL:
                raise _BrokenError(PROTOCOL_ERROR, "a control frame of more than 125 bytes")
            width, least = (2, TWO_BYTES) if length == TWO_BYTES else (8, 1 << 16)
            if size < 2 + width:
                return 0, position + 2 + width
            length = int.from_bytes(data[position + 2 : position + 2 + width])
            if length < least or length >> 63:
                raise _BrokenError(PROTOCOL_ERROR, "a wrong length")
            start += width
        room = self.limit if begun is None else begun.room
        if length > room and first < _FIRST_CONTROL:
            raise _BrokenError(TOO_BIG, f"a message of more than {self.limit} bytes")
        return start, start + length

    def _take(self, first: int, payload: bytes) -> tuple[int, bytes]:
        """Take a message or a fragment."""
        if first == _WHOLE_BINARY:
            return BINARY, payload
        if first == _WHOLE_TEXT:
            utf_8_decode(payload, "strict", True)
            return TEXT, payload
        begun = self._fragments
        if begun is None:
            begun = self._fragments = _Fragments(first, self.limit)
        begun.message += payload
        begun.room -= len(payload)
        last = first >= FIN
        if begun.opcode == TEXT:  # what is wrong is found here, not at the message's end
            payload = begun.tail + payload
            begun.tail = payload[utf_8_decode(payload, "strict", last)[1] :]
        if not last:
            return CONTINUATION, b""
        self._fragments = None
        return begun.opcode, bytes(begun.message)

    def _close(self, payload: bytes) -> None:
        """Take a client's close frame."""
        code = int.from_bytes(payload[:2]) if payload else NO_CODE
        reason = payload[2:].decode()
        if payload and (len(payload) < 2 or code not in CLOSE_CODES):
            raise _BrokenError(PROTOCOL_ERROR, "a wrong close code")
        self._end(Close(code, reason))

    def _end(self, closing: Close | Failure) -> None:
        """Take nothing more, and keep nothing."""
        self.closing = closing
        self._fragments, self._kept, self._at = None, b"", 0


def _ending_alike(closing: Close | Failure) -> bytes:
    """Return bytes that end another decoder with the same code."""
    if isinstance(closing, Failure):
        return _FAILING[closing.code]
    payload = b"" if closing.code == NO_CODE else closing.code.to_bytes(2) + closing.reason.encode()
    return _client_frame(FIN | CLOSE, payload)
