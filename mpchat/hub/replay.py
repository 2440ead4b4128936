"""Replay: the past that a member is still to be sent before it hears a room live. Pure."""

from mpchat.hub.rooms import Room
from mpchat.ipc.stream_buffer import StreamBuffer

# Messages that a member gets that joins without naming a number: a screen or two.
HISTORY_AT_JOIN = 50


class OvertakenError(Exception):
    """A member was sent the past so slowly that the next part is no longer kept."""


class Replay:
    """Messages of the history, then the room's stream from a cursor on."""

    def __init__(self, room: Room, stream: StreamBuffer, first: int, last: int, cursor: int) -> None:
        """Send the messages ``first`` to ``last``, and then what stands in ``stream`` from ``cursor`` on."""
        self._room = room
        self._stream = stream
        self._next, self._last = first, last
        self._cursor = cursor

    @property
    def done(self) -> bool:
        """True when only what the room says from now on is left."""
        return self._next > self._last and self._cursor == self._stream.end

    def chunk(self, most: int) -> bytes:
        """Return the next part, about ``most`` bytes. Raises :class:`OvertakenError`."""
        parts: list[bytes] = []
        size = 0
        if self._next <= self._last:
            size = self._take_history(parts, most)
        if self._next > self._last and size < most and self._cursor < self._stream.end:
            if self._cursor < self._stream.start:
                raise OvertakenError
            views = self._stream.read(self._cursor, most - size)
            self._cursor += sum(map(len, views))
            parts += map(bytes, views)
        return b"".join(parts)

    def _take_history(self, parts: list[bytes], most: int) -> int:
        history, size = self._room.history, 0
        if history.first is None or history.first > self._next:
            raise OvertakenError
        for run in history.since(self._next):
            if size >= most or self._next > self._last:
                break
            parts.append(self._room.numbered(run.since(self._next) if run.seq < self._next else run))
            size += len(parts[-1])
            self._next = run.last + 1
        return size
