"""Framing: how the frames of a stream look to clients of one dialect. Stateless; one object for all clients.

The hub and the workers count frames and pass them on as plain clients get them (see ``frames``). A framing
makes of those what its own clients get, frame by frame, and finds frames in the result.
"""

from typing import Protocol

from mpchat.protocol.frames import cut_frames, leading_frames


class Framing(Protocol):
    """What a stream and a fan-out need to know of the frames that they hold."""

    def encode(self, frames: bytes) -> bytes:
        """Return what clients of this dialect get for plain ``frames``: as many frames, in the same order."""

    def leading(self, frames: bytes, most: int) -> tuple[int, int]:
        """Return how many of the whole ``frames`` fit into ``most`` bytes, and where the last one ends."""

    def cut(self, frames: bytes, count: int) -> int:
        """Return where the first ``count`` frames end."""


class PlainFraming:
    """Two bytes of length in front of each payload: the frames are passed on as they are."""

    def encode(self, frames: bytes) -> bytes:
        """Return the frames themselves."""
        return frames

    def leading(self, frames: bytes, most: int) -> tuple[int, int]:
        """Find whole frames; see :class:`Framing`."""
        return leading_frames(frames, most)

    def cut(self, frames: bytes, count: int) -> int:
        """Find a frame's end; see :class:`Framing`."""
        return cut_frames(frames, count)


PLAIN_FRAMING = PlainFraming()
