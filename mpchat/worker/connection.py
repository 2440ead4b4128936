"""Connection: one client's socket and session, owned by exactly one worker at a time.

A record, kept small because a worker holds thousands. Who reads is the worker, who writes is the fan-out;
neither keeps bytes of a connection anywhere but here, so that the whole of it can be written down.
"""

import socket
from collections.abc import Callable
from typing import Any

from mpchat.config import format_address
from mpchat.protocol.dialects import Dialect
from mpchat.reactor import READ, WRITE, Reactor

# In ``interest``: the loop has the socket, though it may be paused.
WATCHED = 4
# ``cursor`` of a connection that has got everything: it stands at the stream's end, wherever that is.
LIVE = -1
# The same of a connection that is ahead of this worker's stream: it waits for the stream to come there.
EARLY = -2


class Connection:
    """One client. ``outbox`` is for this client alone; ``outbox_open`` means that a part of it has gone."""

    __slots__ = (
        "allowance",
        "asking",
        "barred",
        "budget",
        "closed",
        "cursor",
        "dialect",
        "fanout",
        "half_closed",
        "heard",
        "host",
        "identity",
        "interest",
        "late_from",
        "late_messages",
        "late_since",
        "leaving",
        "light",
        "more_asked",
        "on_event",
        "outbox",
        "outbox_open",
        "port",
        "proxied",
        "quiet_until",
        "replaying",
        "secure",
        "since",
        "sock",
        "speaker",
        "spoke",
        "undecided",
    )

    def __init__(self, identity: int, sock: socket.socket, host: str, port: int, dialect: Dialect) -> None:
        self.identity = identity
        self.sock = sock
        self.host = host
        self.port = port
        # What the client speaks.
        self.dialect = dialect
        self.closed = False
        # True while a request of it is with the hub.
        self.asking = False
        # True while it has not shown who it is, and has to; see ``barred``.
        self.barred = False
        # True if it sent little when it was read from last.
        self.light = True
        # True once it has said something.
        self.spoke = False
        # True until it is known what the client speaks; see ``first_bytes``.
        self.undecided = False
        # True when a TLS process encrypts it.
        self.secure = False
        # True until the proxy that has connected has said for whom.
        self.proxied = False
        # True once it has said something or asked to join: its loss is told.
        self.speaker = False
        # True from when it has ended its stream; it is still sent what it is owed.
        self.half_closed = False
        # True from when it is not read any more because it is to be moved.
        self.leaving = False
        # The ``fanout.Fanout`` that writes to it. Whether it is being sent the past of a room, and whether
        # the hub has been asked for the next part of that.
        self.fanout: Any = None
        self.replaying = False
        self.more_asked = False
        self.interest = 0
        # When the first worker took it, and when the client last sent something (seconds, monotonic).
        self.since = 0.0
        self.heard = 0.0
        # Messages that it may send at once, as of ``heard``; and when it is read from again if it had none
        # left (seconds, monotonic).
        self.allowance = 0.0
        # The rest of its budget for work that is no plain message, as of ``heard``; see ``budget.BUDGET``.
        self.budget = 0.0
        self.quiet_until = 0.0
        # Changed by ``outboxes.Outboxes`` alone.
        self.outbox: bytes | bytearray = b""
        self.outbox_open = False
        self.cursor = LIVE
        # Where, when and at which message count it fell behind; only meaning something while it is late.
        self.late_from = 0
        self.late_since = 0.0
        self.late_messages = 0
        self.on_event: Callable[[int], None] = _unwatched

    @property
    def address(self) -> str:
        """The peer's ``host:port``."""
        return format_address(self.host, self.port)

    def listen(self, reactor: Reactor, interest: int) -> None:
        """Watch for READ, WRITE, both or nothing for now."""
        before = self.interest
        if interest == before & (READ | WRITE):
            return
        if not before:
            reactor.watch(self.sock, interest, self.on_event)
        elif interest:
            reactor.change(self.sock, interest, self.on_event)
        else:
            reactor.pause(self.sock)
        self.interest = interest | WATCHED

    def also(self, reactor: Reactor, event: int) -> None:
        """Watch for ``event`` too."""
        self.listen(reactor, (self.interest | event) & (READ | WRITE))

    def no_longer(self, reactor: Reactor, event: int) -> None:
        """Watch for ``event`` no longer."""
        self.listen(reactor, self.interest & ~event & (READ | WRITE))

    def unwatch(self, reactor: Reactor) -> None:
        """Take the socket out of the loop, before it is closed or handed over."""
        if self.interest:
            reactor.forget(self.sock)
            self.interest = 0

    def release(self) -> socket.socket:
        """Return the socket, which nothing watches any more, for somebody else to close.

        ``on_event`` refers to the connection. Without that cycle all is freed at once, and not when the
        collector looks at old objects, which is after thousands of clients have come and gone.
        """
        self.on_event = _unwatched
        return self.sock

    def close(self) -> None:
        """Close the socket, which nothing watches any more."""
        self.release().close()

    @property
    def reading(self) -> bool:
        """True while the client is read from."""
        return bool(self.interest & READ)


def _unwatched(mask: int) -> None:
    raise AssertionError("a connection was watched before it had an owner")
