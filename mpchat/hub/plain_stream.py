"""Plain stream: what all plain clients get, as the hub keeps it and sends it to the workers.

A worker that comes later is filled with it before it serves a client, so that clients that are behind can be
moved there.
"""

from collections.abc import Callable, Iterable

from mpchat.hub.endpoint import Endpoint
from mpchat.ipc.items import Down
from mpchat.ipc.limits import BATCH_SIZE
from mpchat.ipc.stream_buffer import StreamBuffer

# Bytes of the stream that a new worker is sent at a time.
FILL_SIZE = 30 << 10


class PlainStream:
    """Gathers what plain clients get, keeps the end of it, and sends it."""

    def __init__(self, limit: int) -> None:
        """Keep the last ``limit`` bytes."""
        self.buffer = StreamBuffer(limit)
        self._posts: list[tuple[int, bytes]] = []
        # Adds a number of messages and their frames, for the next flush.
        self.post: Callable[[tuple[int, bytes]], None] = self._posts.append

    @property
    def has_posts(self) -> bool:
        """True when the next flush sends something."""
        return bool(self._posts)

    def flush(self, endpoints: Iterable[Endpoint]) -> None:
        """Send what was gathered to every worker that is ready."""
        if not self._posts:
            return
        batches = self._posts.copy() if len(self._posts) < 2 else joined(self._posts)
        self._posts.clear()
        for count, frames in batches:
            self.buffer.append(frames, count)
            for endpoint in endpoints:
                if endpoint.ready:
                    endpoint.send_frames(Down.BATCH, count, frames)

    def begin_to_fill(self, endpoint: Endpoint) -> None:
        """Send a new worker the stream from its start."""
        endpoint.filled = self.buffer.start
        endpoint.send(Down.BEGIN, self.buffer.messages_before)

    def fill(self, endpoint: Endpoint) -> None:
        """Send a new worker more of the stream, as it takes it; when it has all, it hears what is new."""
        if endpoint.filled is None:
            return
        if endpoint.filled < self.buffer.start:  # it was overtaken
            self.begin_to_fill(endpoint)
        while not endpoint.link.backlog_size:
            count, frames = self.buffer.copy(endpoint.filled, FILL_SIZE)
            if not count:
                endpoint.filled = None
                endpoint.ready = True
                endpoint.send(Down.FILLED)
                return
            endpoint.send_frames(Down.FILL, count, frames)
            endpoint.filled += len(frames)


def joined(posts: list[tuple[int, bytes]]) -> list[tuple[int, bytes]]:
    """Join posts so that each batch fits one queue item; a longer post stands alone."""
    batches: list[tuple[int, bytes]] = []
    frames: list[bytes] = []
    count = size = 0
    for number, each in posts:
        if frames and size + len(each) > BATCH_SIZE:
            batches.append((count, b"".join(frames)))
            frames, count, size = [], 0, 0
        frames.append(each)
        count += number
        size += len(each)
    if frames:
        batches.append((count, b"".join(frames)))
    return batches
