"""Dialects: what a connection speaks, one object for each connection. A table of all of them.

A dialect takes a client's bytes and gives posts, requests and replies; its framing says how the frames of the
streams that its clients read are encoded; and it exports its state for another process. To add a dialect is
to write one class and to enter it here. One that no client speaks costs nothing.

A plain client that has asked to join is a member. It goes on in its dialect: only which streams
it reads and what it may ask for change with that (``asked``).
"""

from collections.abc import Mapping
from math import inf
from typing import ClassVar, Protocol

from mpchat.protocol.framing import Framing
from mpchat.protocol.http import HttpDialect
from mpchat.protocol.likely_cause import HalfFrame
from mpchat.protocol.plain_dialect import PlainDialect
from mpchat.protocol.session import DialectState
from mpchat.protocol.websocket_dialect import WebSocketDialect


class Dialect(Protocol):
    """What a worker needs of a dialect."""

    name: ClassVar[str]
    framing: ClassVar[Framing]
    # True from the first time that the client has asked to join.
    asked: bool

    @property
    def has_more(self) -> bool:
        """True when :meth:`receive_data` has stopped before all was taken: it wants a call with no data."""

    @property
    def mid_frame(self) -> bool:
        """True while a frame has begun and not ended."""

    @property
    def held(self) -> int:
        """How many bytes are kept of what the client has sent."""

    @property
    def closing(self) -> tuple[int, str] | None:
        """What ends the connection, a code and a reason. Nothing more is taken from the client then."""

    def receive_data(self, data: bytes, posts: list[tuple[int, bytes]], most: float = inf) -> bytes:
        """Take bytes from the client; see ``plain_dialect.PlainDialect``."""

    def take_control(self) -> bytes:
        """Return what goes to the client as it stands, after the answers; see ``websocket_dialect``."""

    def end_run(self) -> bytes:
        """End a run of errors; returns the frame that tells what was counted; see ``session.Session``."""

    def take_counted(self) -> int:
        """Return the bytes of the errors that were counted instead of sent since the last call."""

    def receive_eof(self) -> bool:
        """Take the end of the client's stream; returns True when it came between two frames."""

    def half_frame(self) -> HalfFrame | None:
        """Return what is known of a frame that has begun; None between two frames."""

    def export(self) -> DialectState:
        """Return all that another process needs to go on, as of a moment between two reads."""


class DialectClass(Protocol):
    """How a dialect begins, or goes on from where another process has stopped."""

    def __call__(self, limit: int, resumed: DialectState | None = None) -> Dialect:
        """Make the dialect's object for one connection; ``limit`` is the longest payload, in bytes."""


# By the name under which a connection's state says what it speaks.
DIALECTS: Mapping[str, DialectClass] = {
    PlainDialect.name: PlainDialect,
    HttpDialect.name: HttpDialect,
    WebSocketDialect.name: WebSocketDialect,
}
