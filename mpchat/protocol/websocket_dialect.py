"""The WebSocket dialect: each message is the JSON of one plain frame, in either direction.

Text or binary is the same. A message over the limit ends the connection, as does all else that breaks RFC
6455: the client gets a close frame.
"""

from math import inf
from typing import ClassVar

import msgspec

from mpchat.protocol.frames import DEFAULT_PAYLOAD_LIMIT
from mpchat.protocol.framing import Framing
from mpchat.protocol.mask import KEY_SIZE, best_unmask
from mpchat.protocol.messages import Message as Line
from mpchat.protocol.session import MESSAGE_WORK, REQUEST, REQUEST_WORK, RUN_SIZE, DialectState, Session
from mpchat.protocol.websocket_decoder import (
    BINARY,
    FIN,
    MASKED,
    NOT_WHOLE,
    PING,
    TEXT,
    TWO_BYTES,
    Close,
    Decoder,
    Failure,
    close_frame,
    pong_frame,
)
from mpchat.protocol.websocket_framing import WEBSOCKET_FRAMING

# The work of a frame that is cut by itself, in errors (see ``session.MESSAGE_WORK``): 1 to 1.5 µs.
FRAME_WORK = 1 / 4
# What a frame that is no message counts for among the bytes of errors that were not sent: a fragment, a ping.
# With ``budget.ERROR_COST`` ten times its work, as for all.
FRAME_COST = 2
# The longest payload in a run (bytes): a longer one that does not belong there was unmasked in vain.
LONGEST_IN_RUN = 512

# The first bytes of a message that is one frame.
_WHOLE = (FIN | TEXT, FIN | BINARY)
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(Line).decode
# By the length of a short payload: the header of its plain frame.
_HEADERS = [length.to_bytes(2) for length in range(TWO_BYTES)]


class WebSocketDialect(Session):
    """What browsers speak, and others that cannot open a plain connection."""

    __slots__ = ("_closed", "_decoder", "_pong")

    name: ClassVar[str] = "websocket"
    framing: ClassVar[Framing] = WEBSOCKET_FRAMING

    def __init__(self, limit: int = DEFAULT_PAYLOAD_LIMIT, resumed: DialectState | None = None) -> None:
        """Begin after the handshake, or go on from ``resumed``. ``limit`` is in bytes, for a message."""
        super().__init__(limit, asked=resumed is not None and resumed.asked)
        self._decoder = Decoder(limit, resumed.partial if resumed else b"")
        # The pong that the client is to get, and True when its close frame has been given out.
        self._pong = b""
        self._closed = resumed is not None and resumed.closed
        if self._closed:
            self._decoder.feed(b"")  # what has ended the connection, again

    @property
    def has_more(self) -> bool:
        """True when frames are kept that are whole: see :meth:`receive_data`."""
        return self._decoder.has_more

    @property
    def mid_frame(self) -> bool:
        """True while a message or any frame has begun and not ended."""
        return self._decoder.mid_message

    @property
    def held(self) -> int:
        """How many bytes are kept: of a message that has begun, and of frames that are still to be taken."""
        return self._decoder.held

    @property
    def closing(self) -> Close | Failure | None:
        """What ends the connection: the client's close, or how it broke the protocol."""
        return self._decoder.closing

    def receive_data(self, data: bytes, posts: list[tuple[int, bytes]], most: float = inf) -> bytes:
        """Take bytes from the client; see ``plain_dialect.PlainDialect``.

        Control frames to answer with are left for :meth:`take_control`. Nothing is taken after the first
        that ends the connection.
        """
        replies: list[bytes] = []
        decoder = self._decoder
        data, position = decoder.begin(data)
        if self._error:  # a run that the last call did not end
            self._posts = len(posts)
        if not decoder.fragmented:
            position = _take_run(data, position, self.limit, posts)
        while most > 0:
            opcode, payload, position = decoder.cut(data, position)
            if opcode == NOT_WHOLE:
                break
            most -= FRAME_WORK
            if opcode in (TEXT, BINARY):
                most -= self._work(payload, posts, replies)
            else:
                self._counted += FRAME_COST
                if opcode == PING:
                    self._pong = pong_frame(payload)
                    self._counted += len(self._pong)
        decoder.keep(data, position)
        if self._error and not (decoder.has_more and len(posts) == self._posts):
            self._end_run(replies)
        return b"".join(replies)

    def _work(self, payload: bytes, posts: list[tuple[int, bytes]], replies: list[bytes]) -> float:
        """Take a message's payload; returns how much work that was."""
        if self.take(payload, posts, replies):
            return 1
        return REQUEST_WORK if posts[-1][0] == REQUEST else MESSAGE_WORK

    def take_control(self) -> bytes:
        """Return the control frames that the client is to get: a pong for the latest ping, a close frame.

        A client that closes gets its own code. After a close frame nothing may be sent.
        """
        control, self._pong = self._pong, b""
        if self.closing is not None and not self._closed:
            self._closed = True
            control += close_frame(self.closing.code, self.closing.reason)
        return control

    def receive_eof(self) -> bool:
        """Take the end of the client's stream; returns True when it came between two messages."""
        return not self._decoder.mid_message

    def export(self) -> DialectState:
        """Return all that another process needs to go on, as of a moment between two reads.

        Call :meth:`end_run` and :meth:`take_control` before: what they return does not go along.
        """
        return DialectState(self._decoder.export(), 0, self.asked, self._closed)


def _take_run(data: bytes, position: int, limit: int, posts: list[tuple[int, bytes]]) -> int:
    """Append to ``posts`` the messages from ``position`` on that can be relayed as they stand.

    They are what ``messages.leading_run`` takes, each in one frame. Returns where the last one ends. 1 µs a
    message.
    """
    parts: list[bytes] = []
    unmask = best_unmask()
    size, stop, longest = 0, len(data), min(limit, LONGEST_IN_RUN)
    try:
        while data[position] in _WHOLE:
            length = data[position + 1] - MASKED
            start = position + 2
            if 0 <= length < TWO_BYTES:
                header = _HEADERS[length]
            elif length == TWO_BYTES:
                header = data[start : start + 2]
                length = header[0] << 8 | header[1]
                start += 2
                if length < TWO_BYTES:
                    break
            else:
                break
            begin = start + KEY_SIZE
            end = begin + length
            if end > stop or length > longest:
                break
            payload = unmask(data[begin:end], data[start:begin])
            if _encode(_decode(payload)) != payload:
                break
            size += end - position
            if size > RUN_SIZE:
                posts.append((len(parts) // 2, b"".join(parts)))
                parts, size = [], end - position
            parts.append(header)
            parts.append(payload)
            position = end
    except (IndexError, msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        pass  # not whole, or not a message: it is cut and taken by itself
    if parts:
        posts.append((len(parts) // 2, b"".join(parts)))
    return position
