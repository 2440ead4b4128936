"""Stream hold: how far the plain stream may go on while connections are in transit between two workers.

They get nothing on the way, and none of them may be cut off as slow because of that.
"""

from mpchat.hub.endpoint import Endpoint
from mpchat.ipc.stream_buffer import Outside, Place, StreamBuffer

# The part of the stream's limit by which the stream goes on while connections are in transit. A client that
# was more than half a limit behind before gets less: it would fall out of the stream.
GOES_ON = 4


class StreamHold:
    """For each group of moving connections, and then for each connection, where it waits in the stream."""

    def __init__(self, stream: StreamBuffer) -> None:
        self._stream = stream
        # Offsets in the stream: by the worker that is about to let connections go; after that by identity.
        self._leaving: dict[Endpoint, int] = {}
        self._between: dict[int, int] = {}

    def begin(self, endpoint: Endpoint, number: int) -> None:
        """A worker is about to let connections go that have all got to message ``number``."""
        stream = self._stream
        cursor = stream.cursor_of(Place(number))
        furthest = stream.start if isinstance(cursor, Outside) else cursor
        self._leaving[endpoint] = min(stream.end, furthest + stream.limit // 2)

    def left(self, endpoint: Endpoint, identities: list[int]) -> None:
        """A worker has let these connections go, perhaps none."""
        offset = self._leaving.pop(endpoint, self._stream.end)
        for identity in identities:
            self._between[identity] = offset

    def arrive(self, identity: int) -> None:
        """A connection has a worker again."""
        self._between.pop(identity, None)

    def die(self, endpoint: Endpoint) -> None:
        """A worker has died; what it was about to let go has ended."""
        self._leaving.pop(endpoint, None)

    def holds_up(self) -> bool:
        """Tell whether the stream must wait for a connection in transit."""
        if not (self._leaving or self._between):
            return False
        anchor = min((*self._leaving.values(), *self._between.values()))
        return self._stream.end - anchor > self._stream.limit // GOES_ON
