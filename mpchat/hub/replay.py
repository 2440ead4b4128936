"""Replay: the past that a member is still to be sent before it hears a room live. Pure."""

from mpchat.hub.rooms import Room
from mpchat.ipc.stream_buffer import StreamBuffer

# Messages that a member gets that joins without naming a number: a screen or two.
HISTORY_AT_JOIN = 50


class OvertakenError(Exception):
    """A member was sent the past so slowly that the next part is no longer kept."""


class LastPart:
    """The part of a history that was encoded last: after a restart a whole room asks for the same.

    It stays true: what has a number does not change, and no room gets the number of another. All parts that
    it is asked for are of one size.
    """

    def __init__(self) -> None:
        # The room's number, the first message of the part, and the last message of the past.
        self.key = (0, 0, 0)
        self.frames = b""
        # The number of the message after the part.
        self.following = 0


class Replay:
    """Messages of the history, then the room's stream from a cursor on."""

    def __init__(
        self, room: Room, stream: StreamBuffer, first: int, last: int, cursor: int, last_part: LastPart
    ) -> None:
        """Send the messages ``first`` to ``last``, and then what stands in ``stream`` from ``cursor`` on."""
        self._last_part = last_part
        self._room = room
        self._stream = stream
        self._next, self._last = first, last
        self._cursor = cursor

    @property
    def done(self) -> bool:
        """True when only what the room says from now on is left."""
        return self._next > self._last and self._cursor == self._stream.end

    @property
    def reached(self) -> int | None:
        """The last message that was returned; None: the stream has begun, which has notices in between."""
        return self._next - 1 if self._next <= self._last else None

    def chunk(self, most: int) -> bytes:
        """Return the next part, about ``most`` bytes. Raises :class:`OvertakenError`."""
        parts: list[bytes] = []
        size = 0
        if self._next <= self._last:
            parts.append(self._take_history(most))
            size = len(parts[0])
        if self._next > self._last and size < most and self._cursor < self._stream.end:
            if self._cursor < self._stream.start:
                raise OvertakenError
            views = self._stream.read(self._cursor, most - size)
            self._cursor += sum(map(len, views))
            parts += map(bytes, views)
        return b"".join(parts)

    def skip(self) -> tuple[int, int] | None:
        """Leave out what the history has forgotten; return the first and the last message of it.

        None: it has forgotten nothing, so it was the stream that has.
        """
        kept = self._room.history.first or self._last + 1
        if self._next > self._last or kept <= self._next:
            return None
        lost = self._next, min(self._last, kept - 1)
        self._next = lost[1] + 1
        return lost

    def _take_history(self, most: int) -> bytes:
        history, made = self._room.history, self._last_part
        if history.first is None or history.first > self._next:
            raise OvertakenError
        key = (self._room.number, self._next, self._last)
        if made.key != key:
            parts: list[bytes] = []
            size, following = 0, self._next
            for run in history.since(self._next):
                if size >= most or following > self._last:
                    break
                parts.append(self._room.numbered(run.since(self._next) if run.seq < self._next else run))
                size += len(parts[-1])
                following = run.last + 1
            made.key, made.frames, made.following = key, b"".join(parts), following
        self._next = made.following
        return made.frames
