"""Cut-offs: tell the supervisor which clients were cut off, and why, for the operator's status.

A few a second at most: when thousands end together, their number by reason is in the beat, and the first few
are named.
"""

from mpchat.ipc.items import Up
from mpchat.reactor import Reactor
from mpchat.worker.connection import Connection
from mpchat.worker.uplink import Uplink

# Clients that are named in a second.
MOST = 5


class CutOffs:
    """Names the clients that were cut off, the first MOST of each second."""

    def __init__(self, reactor: Reactor, uplink: Uplink) -> None:
        self._reactor = reactor
        self._uplink = uplink
        # When the second began that counts (seconds, monotonic), and how many were named in it.
        self._began = 0.0
        self._named = 0

    def report(self, connection: Connection, reason: str) -> None:
        """Name a client, before the hub hears that it has left: then it still has its name there."""
        now = self._reactor.now
        if now - self._began >= 1.0:
            self._began, self._named = now, 0
        if self._named < MOST:
            self._named += 1
            self._uplink.say(Up.CUT_OFF, (connection.identity, connection.address, reason))
