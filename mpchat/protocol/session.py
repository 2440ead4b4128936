"""One client's conversation with the server, payload by payload, without I/O.

What every dialect shares: a payload is a message for the room, a request, or wrong. A session never ends a
connection because of what a client wrote: it says what was wrong and reads on. How payloads are found in the
client's bytes is the dialect's part.
"""

import msgspec

from mpchat.errors import ProtocolError
from mpchat.protocol.frames import DEFAULT_PAYLOAD_LIMIT, Oversized
from mpchat.protocol.likely_cause import HalfFrame
from mpchat.protocol.messages import counted_error_frame, error_frame, relayed_frame
from mpchat.protocol.requests import Request, decode_request, pack_request, pong_frame

# Bytes of one post at most where it holds many messages: as much as a batch has (see limits.BATCH_SIZE).
RUN_SIZE = 65_000
# Stands for the count of a post that is no message, but a request (see requests.Request).
REQUEST = 0
# Work is counted in errors: 5 µs. A message that has to be encoded again takes less; what takes a run of
# messages together is not counted. A request counts for so much because the hub has to answer it, and a
# worker that takes one from a client takes no more from it in that turn.
MESSAGE_WORK = 1 / 8
REQUEST_WORK = 64
# Repeats of an error that one frame counts at most: a client that sends nothing else hears of it every five
# seconds (200 errors a second, see ``budget.BUDGET``).
MOST_TIMES = 1000


# The frame of that error where a join needs a name only.
NOT_JOINED = error_frame("not_joined", 'send {"join": {"name": "…"}} first')


class DialectState(msgspec.Struct, frozen=True):
    """All that another process needs to go on with a dialect, as of a moment between two reads."""

    # The bytes of a frame that has begun, and how many bytes of an oversized one are still to be skipped.
    partial: bytes = b""
    skip: int = 0
    # True when the client has asked to join; and when it has been sent the last that it gets.
    asked: bool = False
    closed: bool = False


class Session:
    """Takes what a client sends; gives posts for the room and replies for the client alone.

    The same error again and again is a *run*: the first one is answered at once, the others are counted, and
    one frame tells their number when the run ends. Another payload ends it, and so does the caller.
    """

    __slots__ = ("_counted", "_error", "_posts", "_times", "asked", "limit", "not_joined")

    def __init__(self, limit: int = DEFAULT_PAYLOAD_LIMIT, *, asked: bool = False) -> None:
        """Begin, or go on. ``limit`` is the longest payload taken, in bytes."""
        # True from the first time that the client has asked to join.
        self.asked = asked
        self.limit = limit
        # The frame of the error for a request before a join.
        self.not_joined = NOT_JOINED
        # The frame of the last error while its run lasts; how many repeats were counted and not told.
        self._error = b""
        self._times = 0
        # How many posts there were at the last error: with more of them, another payload came between.
        self._posts = 0
        # Bytes of errors that were counted instead of sent; see :meth:`take_counted`.
        self._counted = 0

    @property
    def closing(self) -> tuple[int, str] | None:
        """What ends the connection, a code and a reason; always None where a dialect has no such thing."""
        return None

    def take_control(self) -> bytes:
        """Return what the dialect itself answers, as it goes to the client: not in plain frames."""
        return b""

    def half_frame(self) -> HalfFrame | None:
        """Return what is known of a frame that has begun; None where the dialect has no such thing."""
        return None

    def take(self, payload: bytes | Oversized, posts: list[tuple[int, bytes]], replies: list[bytes]) -> bool:
        """Take a payload. Appends to ``posts`` what goes to the hub, and to ``replies`` plain frames.

        A message is appended as ``(1, frame)``, a request as ``(REQUEST, packed request)``; see ``requests``.
        Returns True for a payload that gives no post: it was answered, or its error was counted.
        """
        try:
            read = self._read(payload)
        except ProtocolError as error:
            self._reject(error_frame(error.code, error.text), posts, replies)
            return True
        if isinstance(read, Request):
            return self._ask(read, posts, replies)
        posts.append((1, read))
        return False

    def end_run(self) -> bytes:
        """End a run of errors; returns the frame that tells what was counted, ``b""`` when all was told."""
        told = counted_error_frame(self._error, self._times) if self._times else b""
        self._error, self._times = b"", 0
        return told

    def take_counted(self) -> int:
        """Return the bytes of the errors that were counted instead of sent since the last call.

        One of each run is missing: the frame that tells the number is in its place. A dialect may add what
        stands for other work, which is charged alike.
        """
        counted, self._counted = self._counted, 0
        return counted

    def _reject(self, error: bytes, posts: list[tuple[int, bytes]], replies: list[bytes]) -> None:
        """Answer with the frame of an error, or count it."""
        if error != self._error or len(posts) != self._posts:
            self._end_run(replies)
            self._error, self._posts = error, len(posts)
            replies.append(error)
            return
        if self._times:
            self._counted += len(error)
        self.reject_again(1, replies)

    def reject_again(self, times: int, replies: list[bytes]) -> None:
        """Count the last error so many times more; :meth:`take_counted` does not count that."""
        error = self._error
        while self._times + times > MOST_TIMES:
            times -= MOST_TIMES - self._times
            self._times = MOST_TIMES
            self._end_run(replies)
            self._error = error
        self._times += times

    def _end_run(self, replies: list[bytes]) -> None:
        if told := self.end_run():
            replies.append(told)

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

    def _ask(self, request: Request, posts: list[tuple[int, bytes]], replies: list[bytes]) -> bool:
        if bytes(request.ping):
            self._end_run(replies)
            replies.append(pong_frame(request.ping))
            return True
        if request.join is None and not self.asked:
            self._reject(self.not_joined, posts, replies)
            return True
        self.asked = True
        posts.append((REQUEST, pack_request(request)))
        return False
