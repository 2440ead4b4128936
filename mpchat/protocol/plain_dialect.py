"""The plain dialect: two bytes of length, then the payload, both ways."""

from math import inf
from typing import ClassVar

from mpchat.protocol.frames import DEFAULT_PAYLOAD_LIMIT, HEADER_SIZE, FrameDecoder
from mpchat.protocol.framing import PLAIN_FRAMING, Framing
from mpchat.protocol.likely_cause import HalfFrame
from mpchat.protocol.messages import leading_run
from mpchat.protocol.session import MESSAGE_WORK, REQUEST, REQUEST_WORK, RUN_SIZE, DialectState, Session


class PlainDialect(Session):
    """What the lecture's clients speak, and members that joined so."""

    __slots__ = ("_decoder",)

    name: ClassVar[str] = "plain"
    framing: ClassVar[Framing] = PLAIN_FRAMING

    def __init__(self, limit: int = DEFAULT_PAYLOAD_LIMIT, resumed: DialectState | None = None) -> None:
        """Begin, or go on from ``resumed``. ``limit`` is the longest payload taken, in bytes."""
        super().__init__(limit, asked=resumed is not None and resumed.asked)
        self._decoder = FrameDecoder(limit, resumed.partial, resumed.skip) if resumed else FrameDecoder(limit)

    @property
    def has_more(self) -> bool:
        """True when frames are kept that are whole: see :meth:`receive_data`."""
        return self._decoder.has_more

    @property
    def mid_frame(self) -> bool:
        """True while a frame has begun and not ended."""
        return self._decoder.mid_frame

    @property
    def held(self) -> int:
        """How many bytes are kept: of a frame that has begun, and of frames that are still to be taken."""
        return self._decoder.held

    def receive_data(self, data: bytes, posts: list[tuple[int, bytes]], most: float = inf) -> bytes:
        """Take bytes from the client, append to ``posts`` the messages they complete: how many, their frames.

        A request is among them with ``session.REQUEST`` for a count, in its place in the order. Returns the
        plain frames to answer this client with, nearly always none (``b""``). Does so much work at ``most``,
        see ``session.REQUEST_WORK``, and keeps the rest: while :attr:`has_more`, call it again with no data.
        Repeats of an error may then be counted and not told: see :meth:`end_run`.
        """
        # A list: 64 KiB of empty frames have 2.5 MB of answers, and to append them one by one takes seconds.
        replies: list[bytes] = []
        decoder, limit = self._decoder, self.limit
        data, position = decoder.begin(data)
        if self._error:  # a run that the last call did not end
            self._posts = len(posts)
        # What need not be encoded again is posted in one piece: 0.4 µs a message, and one by one 0.8.
        size = len(data)
        while position < size:
            count, end = leading_run(data, position, RUN_SIZE, limit)
            if not count:
                break
            posts.append((count, data[position:end]))
            position = end
        while position < size and most > 0:
            payload, position = decoder.cut(data, position)
            if payload is None:
                break
            if self.take(payload, posts, replies):
                most -= 1
                if not payload and (more := decoder.empty_frames(data, position)):
                    self.reject_again(more, replies)
                    position += more * HEADER_SIZE
            else:
                most -= REQUEST_WORK if posts[-1][0] == REQUEST else MESSAGE_WORK
        decoder.keep(data, position)
        if self._error and not (decoder.has_more and len(posts) == self._posts):
            self._end_run(replies)
        return b"".join(replies)

    def half_frame(self) -> HalfFrame | None:
        """Return what is known of a frame that has begun; None between two frames."""
        return self._decoder.half_frame()

    def receive_eof(self) -> bool:
        """Take the end of the client's stream; returns True when it came between two frames."""
        return not self._decoder.mid_frame

    def export(self) -> DialectState:
        """Return all that another process needs to go on, as of a moment between two reads.

        Call :meth:`end_run` before: a run of errors does not go along.
        """
        return DialectState(*self._decoder.export(), self.asked)
