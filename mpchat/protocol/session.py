"""One client's conversation with the server, payload by payload, without I/O.

What every dialect shares: a payload is a message for the room, a request, or wrong. A session never ends a
connection because of what a client wrote: it says what was wrong and reads on. How payloads are found in the
client's bytes is the dialect's part.
"""

import msgspec

from mpchat.errors import ProtocolError
from mpchat.protocol.frames import DEFAULT_PAYLOAD_LIMIT, Oversized
from mpchat.protocol.messages import error_frame, relayed_frame
from mpchat.protocol.requests import Request, decode_request, pack_request, pong_frame
from mpchat.protocol.sniff import HalfFrame

# Bytes of one post at most where it holds many messages: what fits one queue item (see channel.ITEM_SIZE).
RUN_SIZE = 64 << 10
# Stands for the count of a post that is no message, but a request (see requests.Request).
REQUEST = 0
# Work is counted in errors: 5 µs. A message that has to be encoded again takes less; what takes a run of
# messages together is not counted. A request counts for so much because the hub has to answer it, and a
# worker that takes one from a client takes no more from it in that turn.
MESSAGE_WORK = 1 / 8
REQUEST_WORK = 64


class DialectState(msgspec.Struct, frozen=True):
    """All that another process needs to go on with a dialect, as of a moment between two reads."""

    # The bytes of a frame that has begun, and how many bytes of an oversized one are still to be skipped.
    partial: bytes = b""
    skip: int = 0
    # True when the client has asked to join.
    asked: bool = False


class Session:
    """Takes what a client sends; gives posts for the room and replies for the client alone."""

    __slots__ = ("asked", "limit")

    def __init__(self, limit: int = DEFAULT_PAYLOAD_LIMIT, *, asked: bool = False) -> None:
        """Begin, or go on. ``limit`` is the longest payload taken, in bytes."""
        # True from the first time that the client has asked to join.
        self.asked = asked
        self.limit = limit

    def half_frame(self) -> HalfFrame | None:
        """Return what is known of a frame that has begun; None where the dialect has no such thing."""
        return None

    def take(self, payload: bytes | Oversized, posts: list[tuple[int, bytes]]) -> bytes:
        """Take a payload. Appends to ``posts`` what goes to the hub; returns the plain frame to answer with.

        A message is appended as ``(1, frame)``, a request as ``(REQUEST, packed request)``; see ``requests``.
        """
        try:
            read = self._read(payload)
        except ProtocolError as error:
            return error_frame(error.code, error.text)
        if isinstance(read, Request):
            return self._ask(read, posts)
        posts.append((1, read))
        return b""

    def _read(self, payload: bytes | Oversized) -> bytes | Request:
        """Return the frame of a message, or a request. Raises :class:`ProtocolError` for anything else."""
        if isinstance(payload, bytes) and b'"to"' in payload:
            request = decode_request(payload)
            if request is not None:
                return request
        try:
            return relayed_frame(payload, self.limit)
        except ProtocolError:
            request = decode_request(payload) if isinstance(payload, bytes) else None
            if request is None:
                raise
            return request

    def _ask(self, request: Request, posts: list[tuple[int, bytes]]) -> bytes:
        if bytes(request.ping):
            return pong_frame(request.ping)
        if request.join is None and not self.asked:
            return error_frame("not_joined", 'send {"join": {"name": "…"}} first')
        self.asked = True
        posts.append((REQUEST, pack_request(request)))
        return b""
