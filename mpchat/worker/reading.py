"""Reading: what clients send, as far as each of them may send it and the hub can take it.

A client is not read from while it has said too much, does not read its answers, is about to be moved, or the
hub is behind. TCP tells it to wait.
"""

import logging
import time
from functools import partial
from typing import Protocol

from mpchat.config import Config
from mpchat.ipc.reasons import CLOSED, INTERNAL_ERROR
from mpchat.protocol.session import REQUEST
from mpchat.reactor import READ, WRITE, Reactor
from mpchat.worker.connection import Connection
from mpchat.worker.lifetime import Lifetime
from mpchat.worker.uplink import Sender, Uplink

# Bytes read from a client in one turn: a client that sends as fast as it can gets its share, no more. What is
# read together is sent together, and a send of twice as much costs a third less per byte. Below what the C
# library would map and unmap memory for (128 KiB).
READ_SIZE = 120 << 10
# Replies (bytes) that a client has not read: stop reading from it.
OUTBOX_LIMIT = 64 << 10

log = logging.getLogger("mpchat.worker")


class Owner(Protocol):
    """What reading needs of the part that owns the connections; see ``clients.Clients``."""

    def owns(self, connection: Connection) -> bool:
        """Tell whether a connection is here: it has neither ended nor left."""

    def end(self, connection: Connection, reason: str) -> None:
        """End a connection and tell the hub."""

    def reply(self, connection: Connection, frames: bytes) -> None:
        """Send a client an answer."""

    def on_writable(self, connection: Connection) -> None:
        """Send a client what it is owed."""


class Reading:
    """The clients' bytes on their way in."""

    def __init__(
        self, config: Config, reactor: Reactor, uplink: Uplink, owner: Owner, lifetime: Lifetime
    ) -> None:
        """Begin with no client."""
        self.config = config
        self._reactor = reactor
        self._uplink = uplink
        self._owner = owner
        self._lifetime = lifetime
        # Clients that have begun a frame, and when its beginning or its last progress was.
        self.half: dict[Connection, float] = {}
        # Clients that are not read from because the hub is behind.
        self._paused: dict[Connection, None] = {}

    def on_event(self, connection: Connection, mask: int) -> None:
        """Serve a client whose socket is ready. What one client brings about ends no other's connection."""
        try:
            if mask & WRITE and not connection.closed:
                self._owner.on_writable(connection)
            # Asked again: what was ready when the turn began may have been told to leave in the middle of it.
            if mask & READ and connection.reading and not connection.closed:
                self._read(connection)
        except Exception:  # what one client brought about must not end the others' process
            log.exception("failed, its connection is ended: %s", connection.address)
            self._owner.end(connection, INTERNAL_ERROR)

    def _read(self, connection: Connection) -> None:
        if self._uplink.full:
            connection.no_longer(self._reactor, READ)
            self._paused[connection] = None
            return
        try:
            data = connection.sock.recv(READ_SIZE)
        except BlockingIOError:
            return
        except OSError as error:
            self._owner.end(connection, error.strerror or "read failed")
            return
        if data:
            self._take(connection, data)
        else:
            self._take_end(connection)

    def _take_end(self, connection: Connection) -> None:
        in_order = connection.dialect.receive_eof()
        if connection not in connection.fanout:  # sending had failed: the end is that of a reset
            self._owner.end(connection, "lost")
        else:
            self._owner.end(connection, CLOSED if in_order else "closed inside a frame")

    def _take(self, connection: Connection, data: bytes) -> None:
        regained = (self._reactor.now - connection.heard) * self.config.flood_rate
        allowance = min(connection.allowance + regained, self.config.flood_burst)
        connection.heard = self._reactor.now
        completed: list[tuple[int, bytes]] = []
        sender: Sender = connection.identity if connection.dialect.asked else connection.address
        replies = connection.dialect.receive_data(data, completed)
        for count, frames in completed:
            if count == REQUEST:  # what came before the first one was said by the address
                sender = connection.identity
                self._uplink.ask(sender, connection.address, frames)
            else:
                self._uplink.post(sender, count, frames)
            allowance -= count or 1
        connection.allowance = allowance
        if allowance < 0:
            self.slow_down(connection)
        if connection.dialect.mid_frame:
            if completed or replies or connection not in self.half:
                self.half[connection] = self._reactor.now
        elif self.half:
            self.half.pop(connection, None)
        if replies:
            self._owner.reply(connection, replies)

    def slow_down(self, connection: Connection) -> None:
        """Do not read from a client that has said too much until it may say something again."""
        if connection.allowance >= 0 or not self.config.flood_rate:
            return
        connection.quiet_until = connection.heard - connection.allowance / self.config.flood_rate
        connection.no_longer(self._reactor, READ)
        self._reactor.call_later(
            connection.quiet_until - self._reactor.now, partial(self.quiet_is_over, connection)
        )

    def quiet_is_over(self, connection: Connection) -> None:
        """Read again from a client that may say something again, if it is still here."""
        if self._owner.owns(connection):
            self.read_again(connection)

    def read_again(self, connection: Connection) -> None:
        """Read from a client again unless there is another reason not to."""
        quiet = connection.quiet_until > time.monotonic()
        full = len(connection.outbox) >= OUTBOX_LIMIT
        if not (self._lifetime.draining or connection.leaving or quiet or full):
            connection.also(self._reactor, READ)

    def stop(self, connection: Connection) -> None:
        """Read no more from a client that is about to be moved."""
        connection.leaving = True
        connection.no_longer(self._reactor, READ)
        self._paused.pop(connection, None)

    def resume(self) -> None:
        """Read again from the clients that had to wait for the hub, if it has caught up."""
        if self._paused and not self._uplink.link.congested:
            paused, self._paused = self._paused, {}
            for connection in paused:
                if not connection.closed:
                    self.read_again(connection)

    def forget(self, connection: Connection) -> float | None:
        """Forget a client; returns since when it has been inside a frame (seconds, monotonic), or None."""
        return self.half.pop(connection, None)

    def inside_a_frame(self, before: float) -> list[Connection]:
        """Return the clients whose half frame has made no progress since ``before`` (seconds, monotonic)."""
        # Oldest first as a rule, but a client that makes progress moves on in place: look at all.
        return [each for each, since in self.half.items() if max(since, each.quiet_until) < before]
