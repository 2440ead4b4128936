"""WebSocket framing: how the frames of a stream look to WebSocket clients.

Each frame is one text message: two bytes, or four from 126 bytes of payload on, then the same JSON. Frames of
a server have no mask.
"""

from mpchat.protocol.frames import HEADER_SIZE
from mpchat.protocol.websocket_decoder import FIN, TEXT, TWO_BYTES

# Instead of the first byte of a plain frame; and before one whose length takes two bytes here too.
SHORT = bytes((FIN | TEXT,))
LONG = bytes((FIN | TEXT, TWO_BYTES))


class WebSocketFraming:
    """Text frames; see ``framing.Framing``."""

    def encode(self, frames: bytes) -> bytes:
        """Return a text frame for each plain frame: 0.1 µs a frame, 0.01 if all are short and equally long.

        Below 126 bytes only the first byte is another one.
        """
        size = len(frames)
        if size and size == HEADER_SIZE + (frames[0] << 8 | frames[1]):  # one frame, as a rule
            return SHORT + frames[1:] if size < HEADER_SIZE + TWO_BYTES else LONG + frames
        if (count := _equally_long(frames)) and frames[1] < TWO_BYTES and not frames[0]:
            changed = bytearray(frames)
            changed[:: size // count] = SHORT * count
            return bytes(changed)
        changed = bytearray(frames)
        parts: list[bytes | bytearray] = []
        begin = position = 0
        while position < size:
            length = frames[position] << 8 | frames[position + 1]
            if length < TWO_BYTES:
                changed[position] = FIN | TEXT
            else:
                parts += changed[begin:position], LONG
                begin = position
            position += HEADER_SIZE + length
        if not parts:
            return bytes(changed)
        parts.append(changed[begin:])
        return b"".join(parts)

    def leading(self, frames: bytes, most: int) -> tuple[int, int]:
        """Find whole frames; see ``framing.Framing``."""
        count = end = 0
        while end < len(frames):
            after = _end(frames, end)
            if after > most:
                break
            count += 1
            end = after
        return count, end

    def cut(self, frames: bytes, count: int) -> int:
        """Find a frame's end; see ``framing.Framing``."""
        position = 0
        for _ in range(count):
            position = _end(frames, position)
        return position


def _equally_long(frames: bytes) -> int:
    """Return how many plain frames these are if all are equally long, as one sender's often are; else 0.

    Where the first frame ends the second begins, and where each begins stands the same length.
    """
    step = HEADER_SIZE + (frames[0] << 8 | frames[1]) if frames else 1
    count, more = divmod(len(frames), step)
    head = frames[:HEADER_SIZE]
    if more or frames[step : step + HEADER_SIZE] != head:  # at once, as a rule
        return 0
    same = frames[::step] == head[:1] * count and frames[1::step] == head[1:] * count
    return count if same else 0


def _end(frames: bytes, position: int) -> int:
    """Return where the frame at ``position`` ends. No frame of a stream has a length of eight bytes."""
    length = frames[position + 1]
    if length < TWO_BYTES:
        return position + 2 + length
    return position + 4 + (frames[position + 2] << 8 | frames[position + 3])


WEBSOCKET_FRAMING = WebSocketFraming()
