"""One client's conversation with the server, without I/O.

Bytes go in; posts for the room and answers for this client come out. A session never ends a connection
because of wrong input: it answers with an error and reads on.
"""

from enum import Enum

import msgspec

from mpchat.errors import ProtocolError
from mpchat.protocol.frames import DEFAULT_PAYLOAD_LIMIT, FrameDecoder, Oversized
from mpchat.protocol.messages import error_frame, leading_run, relayed_frame
from mpchat.protocol.requests import decode_request, encode_request, looks_like_request, pong_frame

# Bytes of one post at most where it holds many messages: what fits one queue item (see channel.ITEM_SIZE).
RUN_SIZE = 64 << 10
# Stands for the count of a post that is no message, but a request (see requests.Request).
REQUEST = 0


class State(Enum):
    """The state of a session. ``OPEN`` → ``ENDED`` is the only step, at the end of the stream."""

    OPEN = "open"
    ENDED = "ended"


class SessionState(msgspec.Struct, frozen=True):
    """All that another process needs to continue a session, as it is between two reads."""

    partial: bytes = b""
    skip: int = 0
    asked: bool = False


class Session:
    """Takes a client's bytes; gives posts for the room and replies for the client alone."""

    __slots__ = ("_decoder", "asked", "state")

    def __init__(self, limit: int = DEFAULT_PAYLOAD_LIMIT, resumed: SessionState | None = None) -> None:
        """Begin, or continue ``resumed``. ``limit`` is the longest payload that is accepted, in bytes."""
        self.state = State.OPEN
        # True from the client's first join on.
        self.asked = resumed is not None and resumed.asked
        self._decoder = FrameDecoder(limit, resumed.partial, resumed.skip) if resumed else FrameDecoder(limit)

    @property
    def mid_frame(self) -> bool:
        """True inside a frame."""
        return self._decoder.mid_frame

    @property
    def held(self) -> int:
        """The number of bytes that are kept of an unfinished frame."""
        return self._decoder.held

    def receive_data(self, data: bytes, posts: list[tuple[int, bytes]]) -> bytes:
        """Take bytes from the client, and append the posts that they complete to ``posts``.

        A post is the number of its messages and their frames; a request is a post with :data:`REQUEST` for
        the number and its payload, in its place in the order. Return the frames that answer this client,
        nearly always none (``b""``).
        """
        # A list: 64 KiB of empty frames have 2.5 MB of answers, and adding each to the bytes takes seconds.
        replies: list[bytes] = []
        limit = self._decoder.limit

        def take_runs(data: bytes, start: int) -> int:
            """Post messages that need no new encoding in one piece: 0.4 µs a message, one by one 0.8."""
            count, end = leading_run(data, start, RUN_SIZE, limit)
            while count:
                posts.append((count, data[start:end]))
                start = end
                count, end = leading_run(data, start, RUN_SIZE, limit)
            return start

        for payload in self._decoder.feed(data, take_runs):
            try:
                if isinstance(payload, bytes) and b'"to"' in payload and looks_like_request(payload):
                    replies.append(self._request(payload, posts))
                else:
                    posts.append((1, relayed_frame(payload, limit)))
            except ProtocolError as error:
                replies.append(self._other(payload, error, posts))
        return b"".join(replies)

    def _other(
        self, payload: bytes | Oversized, error: ProtocolError, posts: list[tuple[int, bytes]]
    ) -> bytes:
        """Take a payload that is not a message for the room; ``error`` says why."""
        if isinstance(payload, bytes) and looks_like_request(payload):
            return self._request(payload, posts)
        return error_frame(error.code, error.text)

    def _request(self, payload: bytes, posts: list[tuple[int, bytes]]) -> bytes:
        try:
            request = decode_request(payload)
        except ProtocolError as error:
            return error_frame(error.code, error.text)
        if bytes(request.ping):
            return pong_frame(request.ping)
        if request.join is None and not self.asked:
            return error_frame("not_joined", 'send {"join": {"name": "…"}} first')
        self.asked = True
        posts.append((REQUEST, encode_request(request)))
        return b""

    def receive_eof(self) -> bool:
        """Take the end of the client's stream; return True when it came between two frames."""
        self.state = State.ENDED
        return not self._decoder.mid_frame

    def export(self) -> SessionState:
        """Return the session's state for another process."""
        return SessionState(*self._decoder.export(), self.asked)
