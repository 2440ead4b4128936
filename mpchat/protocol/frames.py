"""Frames: two bytes of length, unsigned and big-endian, then that many bytes of payload.

Does not look into payloads, and does no I/O. "Not enough bytes yet" is a value (an empty list), and a payload
over the limit is one too (:class:`Oversized`): neither ends a connection.
"""

from collections.abc import Callable
from typing import NamedTuple

# Bytes of the length field.
HEADER_SIZE = 2
# The largest length that two bytes can hold, in bytes.
MAX_PAYLOAD = 0xFFFF
# The default limit of a client's payload, in bytes: the server's additions to a message (a name, a room, a
# number, a time) must still fit into MAX_PAYLOAD.
DEFAULT_PAYLOAD_LIMIT = 60_000


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
    (``_skip`` bytes of it are still to come). It never holds more than one payload of ``limit`` bytes.
    """

    __slots__ = ("_need", "_partial", "_skip", "limit")

    def __init__(self, limit: int = DEFAULT_PAYLOAD_LIMIT, partial: bytes = b"", skip: int = 0) -> None:
        """Start with ``limit`` in bytes; ``partial`` and ``skip`` continue another decoder's work."""
        self.limit = limit
        self._partial: bytearray | None = bytearray(partial) if partial else None
        self._need = HEADER_SIZE
        self._skip = skip

    @property
    def mid_frame(self) -> bool:
        """True inside a frame."""
        return self._partial is not None or self._skip > 0

    @property
    def held(self) -> int:
        """The number of bytes that are kept of an unfinished frame."""
        return len(self._partial or b"")

    def export(self) -> tuple[bytes, int]:
        """Return ``(partial, skip)``: all that another decoder needs to continue."""
        return bytes(self._partial or b""), self._skip

    def feed(self, data: bytes, take: Callable[[bytes, int], int] | None = None) -> list[bytes | Oversized]:
        """Take the next bytes of the stream, in pieces of any size, and return the payloads they complete.

        ``take(data, start)`` may first take whole frames, as they stand in ``data`` from ``start`` on; it
        returns the position of the rest.
        """
        if self._partial is not None:
            self._partial += data
            if len(self._partial) < self._need:
                return []
            data = bytes(self._partial)
            self._partial = None
        position = 0
        if self._skip:
            position = min(self._skip, len(data))
            self._skip -= position
        if take is not None:
            position = take(data, position)
        frames: list[bytes | Oversized] = []
        size = len(data)
        while size - position >= HEADER_SIZE:
            length = data[position] << 8 | data[position + 1]
            end = position + HEADER_SIZE + length
            if length > self.limit:
                frames.append(Oversized(length))
                self._skip = max(0, end - size)
                position = min(end, size)
                continue
            if end > size:
                self._need = HEADER_SIZE + length
                break
            frames.append(data[position + HEADER_SIZE : end])
            position = end
        else:
            self._need = HEADER_SIZE
        if position < size:
            self._partial = bytearray(data[position:])
        return frames
