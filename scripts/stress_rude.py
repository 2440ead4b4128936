"""Clients that do not read, and clients that leave all at once. They run as crowds, in their own processes.

Rude is not unchecked: what a stalled client finds when it reads at last is held against the order like any
other stream, up to where the server cut it off.
"""

import select
import socket
from typing import Any

from stress_clients import Connection, Crowd

# Bytes of receive buffer of a stalled client: little, so that the server notices soon.
STALLED_BUFFER = 4096
# Every so many of the stalled clients read one byte a second; the others read nothing.
TRICKLE_EVERY = 5
# Seconds between two bytes, and between two looks for connections that the server has ended.
TRICKLE_PAUSE = 1.0
# The other side is gone; Linux says so without a read.
_HANGUP = select.POLLHUP | select.POLLERR | getattr(select, "POLLRDHUP", 0)


class Stall(Crowd):
    """One connection reads and knows the order; the others stop reading as soon as they have joined."""

    may_be_cut = True
    _next_look = 0.0
    _stalling = True

    def prepare(self, sock: socket.socket) -> None:
        """Make the buffer small for all but the first."""
        if self.connections:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, STALLED_BUFFER)

    def joined(self, connection: Connection) -> None:
        """Stop reading, unless this is the one that reads."""
        super().joined(connection)
        if self._stalling and connection is not self.connections[0]:
            connection.reading = False
            self.watch(connection)

    def command(self, verb: str, *args: Any) -> None:
        """Take ``resume`` too: read everything that has gathered."""
        if verb == "resume":
            self._stalling = False
            for connection in self.connections:
                connection.reading = True
                self.watch(connection)
        super().command(verb, *args)

    def tick(self, now: float) -> None:
        """Read the byte of each that trickles, and find out who was cut off."""
        if now < self._next_look:
            return
        self._next_look = now + TRICKLE_PAUSE
        stalled = [connection for connection in self.connections if not connection.reading]
        for connection in stalled[::TRICKLE_EVERY]:
            self.read(connection, size=1)
        self._read_ended([connection for connection in stalled if connection.sock.fileno() >= 0])

    def _read_ended(self, stalled: list[Connection]) -> None:
        poll = select.poll()
        by_number = {connection.sock.fileno(): connection for connection in stalled}
        for number in by_number:
            poll.register(number, _HANGUP)
        for number, _ in poll.poll(0):
            by_number[number].reading = True
            self.watch(by_number[number])


class Storm(Crowd):
    """All but one leave in one moment when told to, every second one with a reset, and come again."""

    _left = 0

    def command(self, verb: str, *args: Any) -> None:
        """Take ``storm`` too."""
        if verb == "storm":
            for number, connection in enumerate(self.connections[1:]):
                if connection.joined:
                    self._left += 1
                    self.leave(connection, reset=number % 2 == 1)
        super().command(verb, *args)

    def extra(self) -> dict[str, Any]:
        """Return how many left in storms."""
        return {"left": self._left}
