"""WebSocket framing as the bench's clients need it: bytes only, no sockets, and no protocol above it.

No client library: it sends whole messages with a mask of zero, so that a payload stays as it is, and it
expects no fragments. The rule it keeps: how long a frame's head is depends on the payload's size alone.
"""

# The first byte of a frame: the only one of its message, text or binary.
TEXT, BINARY = b"\x81", b"\x82"
# The end of an HTTP head, and the first bytes of the answer to a handshake that succeeded.
HEAD_END = b"\r\n\r\n"
ACCEPTED = b"HTTP/1.1 101 "
# In the second byte: the payload has a mask. The mask of a client, which changes nothing.
_MASKED = 0x80
_MASK = bytes(4)
# In place of a payload's size: two bytes with the size follow, or eight. Sizes below stand for themselves.
_TWO_BYTES, _EIGHT_BYTES = 126, 127


def handshake(path: str) -> bytes:
    """Return a client's request for a WebSocket at ``path``. It names no origin, as programs do not."""
    return (
        f"GET {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        "Sec-WebSocket-Key: AAAAAAAAAAAAAAAAAAAAAA==\r\nSec-WebSocket-Version: 13\r\n\r\n"
    ).encode()


def server_head(first: bytes, size: int) -> bytes:
    """Return what stands before a payload of ``size`` bytes from a server. ``first`` says text or binary."""
    return first + _length(size, 0)


def client_head(first: bytes, size: int) -> bytes:
    """Return what stands before a payload of ``size`` bytes from a client."""
    return first + _length(size, _MASKED) + _MASK


def client_frame(first: bytes, payload: bytes) -> bytes:
    """Return a client's message."""
    return client_head(first, len(payload)) + payload


def _length(size: int, masked: int) -> bytes:
    if size < _TWO_BYTES:
        return bytes([masked | size])
    if size < 1 << 16:
        return bytes([masked | _TWO_BYTES]) + size.to_bytes(2, "big")
    return bytes([masked | _EIGHT_BYTES]) + size.to_bytes(8, "big")


def after_handshake(answer: bytes) -> bytes | None:
    """Return what follows the server's answer to a handshake, None while that has not come whole.

    Raises ``ConnectionRefusedError`` when the server does not agree.
    """
    head, end, rest = answer.partition(HEAD_END)
    if not end:
        return None
    if not head.startswith(ACCEPTED):
        raise ConnectionRefusedError(f"no WebSocket: {head[:100].decode(errors='replace').splitlines()[0]}")
    return rest


class Unwrapper:
    """Takes the frames off what one connection receives: for servers that gather messages in a frame."""

    def __init__(self) -> None:
        """Begin where a frame begins."""
        self._head = b""
        # Bytes of the payload that are still to come.
        self._left = 0

    @property
    def between_frames(self) -> bool:
        """True when all that was begun has come to its end."""
        return not self._head and not self._left

    def feed(self, data: bytes) -> bytes:
        """Return the bytes of payloads in ``data``, which may begin and end anywhere."""
        parts = []
        data, position = self._head + data, 0
        while position < len(data):
            if not self._left:
                begin = position + 2
                if begin > len(data):
                    break
                size = data[position + 1]
                if size >= _TWO_BYTES:
                    begin += 2 if size == _TWO_BYTES else 8
                    if begin > len(data):
                        break
                    size = int.from_bytes(data[position + 2 : begin], "big")
                position, self._left = begin, size
            part = data[position : position + self._left]
            parts.append(part)
            position += len(part)
            self._left -= len(part)
        self._head = data[position:]
        return b"".join(parts)


def payload_of_one(frame: bytes) -> bytes | None:
    """Return the payload of ``frame`` when it is exactly one whole frame, else None."""
    payload = Unwrapper().feed(frame)
    return payload if server_head(frame[:1], len(payload)) + payload == frame else None
