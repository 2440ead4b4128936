"""Frames: two bytes of length, unsigned and big-endian, then that many bytes of payload.

Does not look into payloads, and does no I/O. "Not enough bytes yet" is a value (an empty list), and a payload
over the limit is one too (:class:`Oversized`): neither ends a connection.
"""

import re
from typing import NamedTuple

from mpchat.protocol.likely_cause import HEAD_SIZE, HalfFrame

# Bytes of the length field.
HEADER_SIZE = 2
# The largest length that two bytes can hold, in bytes.
MAX_PAYLOAD = 0xFFFF
# The default limit of a client's payload, in bytes: the server's additions to a message (a name, a room, a
# number, a time) must still fit into MAX_PAYLOAD.
DEFAULT_PAYLOAD_LIMIT = 60_000
_ZEROS = re.compile(rb"\0*")


class Oversized(NamedTuple):
    """Stands in the place of a payload over the limit, whose bytes are skipped."""

    size: int


def encode_frame(payload: bytes) -> bytes:
    """Return ``payload`` with its length in front; ``OverflowError`` above :data:`MAX_PAYLOAD` bytes."""
    return len(payload).to_bytes(HEADER_SIZE, "big") + payload


def cut_frames(frames: bytes, count: int) -> int:
    """Return where the first ``count`` frames end."""
    position = 0
    for _ in range(count):
        position += HEADER_SIZE + (frames[position] << 8 | frames[position + 1])
    return position


def leading_frames(frames: bytes, most: int) -> tuple[int, int]:
    """Return how many of the whole ``frames`` fit into ``most`` bytes together, and where the last of those
    ends."""
    count = end = 0
    while end < len(frames):
        after = end + HEADER_SIZE + (frames[end] << 8 | frames[end + 1])
        if after > most:
            break
        count += 1
        end = after
    return count, end


class FrameDecoder:
    """Cuts a byte stream into payloads.

    It is always in one of three states: *between* frames, *inside* one (``_partial`` holds its first bytes,
    ``_need`` is the number of bytes that the next decision needs), or *skipping* the rest of an oversized one
    (``_skip`` bytes of it are still to come). It never holds more than one payload of ``limit`` bytes, and
    what a caller of :meth:`cut` gives back to :meth:`keep`.
    """

    __slots__ = ("_need", "_partial", "_skip", "has_more", "limit")

    def __init__(self, limit: int = DEFAULT_PAYLOAD_LIMIT, partial: bytes = b"", skip: int = 0) -> None:
        """Start with ``limit`` in bytes; ``partial`` and ``skip`` continue another decoder's work."""
        self.limit = limit
        self._partial: bytearray | None = None
        self._need = HEADER_SIZE
        self._skip = skip
        # True when what is kept begins with a whole frame.
        self.has_more = False
        self.keep(partial, 0)

    @property
    def mid_frame(self) -> bool:
        """True inside a frame."""
        return not self.has_more and (self._partial is not None or self._skip > 0)

    @property
    def held(self) -> int:
        """The number of bytes that are kept."""
        return 0 if self._partial is None else len(self._partial)

    def half_frame(self) -> HalfFrame | None:
        """Return what is known of the frame that has begun; None between two frames."""
        if self._skip:
            return HalfFrame(b"", 0, self._skip)
        if self._partial is None or self.has_more:
            return None
        came = max(0, len(self._partial) - HEADER_SIZE)
        return HalfFrame(bytes(self._partial[:HEAD_SIZE]), came, self._need - HEADER_SIZE)

    def export(self) -> tuple[bytes, int]:
        """Return ``(partial, skip)``: all that another decoder needs to continue."""
        return bytes(self._partial or b""), self._skip

    def feed(self, data: bytes) -> list[bytes | Oversized]:
        """Take the next bytes of the stream, in pieces of any size, and return the payloads they complete."""
        data, position = self.begin(data)
        frames: list[bytes | Oversized] = []
        while True:
            payload, position = self.cut(data, position)
            if payload is None:
                break
            frames.append(payload)
        self.keep(data, position)
        return frames

    # The same in steps, for a caller that may stop before all payloads are cut.

    def begin(self, data: bytes) -> tuple[bytes, int]:
        """Take the next bytes of the stream. Returns what is to be cut, and from where on."""
        if self._partial is not None:
            self._partial += data
            if len(self._partial) < self._need:
                return b"", 0
            data = bytes(self._partial)
            self._partial = None
        position = min(self._skip, len(data))
        self._skip -= position
        return data, position

    def cut(self, data: bytes, position: int) -> tuple[bytes | Oversized | None, int]:
        """Return the payload of the frame at ``position``, None if it is not whole, and where it ends."""
        size = len(data)
        if size - position < HEADER_SIZE:
            return None, position
        length = data[position] << 8 | data[position + 1]
        end = position + HEADER_SIZE + length
        if length > self.limit:
            self._skip = max(0, end - size)
            return Oversized(length), min(end, size)
        if end > size:
            return None, position
        return data[position + HEADER_SIZE : end], end

    @staticmethod
    def empty_frames(data: bytes, position: int) -> int:
        """Return how many empty frames follow in a row from ``position`` on. O(n) in C: some ns each."""
        zeros = _ZEROS.match(data, position)
        return (zeros.end() - position) // HEADER_SIZE if zeros else 0

    def keep(self, data: bytes, position: int) -> None:
        """Keep what was not cut of ``data``, for the next :meth:`begin`."""
        size = len(data)
        self.has_more = False
        if position >= size:
            return
        self._partial = bytearray(data[position:])
        self._need = HEADER_SIZE
        if size - position >= HEADER_SIZE:
            length = data[position] << 8 | data[position + 1]
            self.has_more = length > self.limit or position + HEADER_SIZE + length <= size
            if not self.has_more:
                self._need = HEADER_SIZE + length
