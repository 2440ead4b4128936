"""Half-closed clients: those that have ended their streams, until they have been sent what they are owed.

A client that sends and then closes only its own side waits for what comes back. It is sent the stream up to
its own last message and the answers to its requests. Then the connection ends. A client that has closed both
sides looks the same until the first byte is sent to it.
"""

from collections import deque
from collections.abc import Callable

from mpchat.ipc.reasons import CLOSED
from mpchat.reactor import READ, Reactor
from mpchat.worker.connection import Connection
from mpchat.worker.fanout import Fanout
from mpchat.worker.uplink import Uplink

# Seconds from its last byte in which a half-closed client is sent what it is owed; then its connection ends.
HALF_CLOSED_TIMEOUT = 30.0


class HalfClosed:
    """The half-closed clients of a worker."""

    def __init__(self, reactor: Reactor, uplink: Uplink, end: Callable[[Connection, str], None]) -> None:
        """Begin with none; ``end`` ends a connection."""
        self._reactor = reactor
        self._uplink = uplink
        self._end = end
        self._waiting: dict[Connection, None] = {}
        # Clients whose last messages the hub has sent to this worker, by fan-out, in order: each with the
        # number of the stream's message up to which it is owed.
        self._echoed: dict[Fanout, deque[tuple[int, Connection]]] = {}
        # Those of them that this worker has sent it to, as far as their sockets took it.
        self._sent: dict[Connection, None] = {}

    def __len__(self) -> int:
        return len(self._waiting)

    def begin(self, connection: Connection) -> None:
        """Read no more from a client; end its connection when it has been sent what it is owed."""
        connection.half_closed = True
        connection.no_longer(self._reactor, READ)
        self._waiting[connection] = None
        self._uplink.said_all.append(connection.identity)

    def finish(self, connection: Connection) -> None:
        """End a connection when it has been sent what there is for it; nothing of what it said is to come."""
        connection.half_closed, connection.replaying = True, False
        connection.no_longer(self._reactor, READ)
        self._waiting[connection] = self._sent[connection] = None
        self.settle(connection)

    def echoed(self, connection: Connection) -> None:
        """Take note that all that a client said has come back to this worker."""
        if connection not in self._waiting:
            return
        fanout: Fanout = connection.fanout
        self._echoed.setdefault(fanout, deque()).append((fanout.messages, connection))

    def work(self) -> None:
        """End connections whose fan-outs have sent what was to be sent."""
        for fanout, clients in list(self._echoed.items()):
            # A fan-out whose last client has ended sends nothing more.
            while clients and (clients[0][1] not in self._waiting or self._has_sent(fanout, clients[0][0])):
                _, connection = clients.popleft()
                if connection in self._waiting:
                    self._sent[connection] = None
                    self.settle(connection)
            if not clients:
                del self._echoed[fanout]

    @staticmethod
    def _has_sent(fanout: Fanout, number: int) -> bool:
        return fanout.between_flushes and number <= fanout.stream.messages

    @property
    def busy(self) -> bool:
        """True while :meth:`work` has something to do once fan-outs have sent."""
        return bool(self._echoed)

    def settle(self, connection: Connection) -> None:
        """End a connection whose client has been sent everything, if it has by now."""
        if connection not in self._sent or connection.replaying or connection.outbox:
            return
        if connection.fanout.is_live(connection):
            self._end(connection, CLOSED)

    def end_overdue(self, now: float) -> None:
        """End connections whose clients do not take what they are owed."""
        for connection in [each for each in self._waiting if now - each.heard > HALF_CLOSED_TIMEOUT]:
            self._end(connection, CLOSED)

    def forget(self, connection: Connection) -> None:
        """Forget a client that has ended or left."""
        self._waiting.pop(connection, None)
        self._sent.pop(connection, None)
