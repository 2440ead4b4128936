"""Outboxes: what this worker keeps for single clients and has not sent yet, together below one limit.

An outbox holds answers, errors, private messages, parts of a room's past, goodbyes: all but the streams that
many clients share. Every change of an outbox goes through here, so that the sum is exact. The sum costs a few
operations on one integer where bytes come or go, and nothing for clients that wait.

Past the limit the clients that hold most are cut off. Which clients those are is looked for only then, and
each look makes so much room that the next one has been paid for in bytes.
"""

from collections.abc import Iterable

from mpchat.worker.connection import Connection

# What an outbox takes beside its bytes (bytes): the object, and the client's place among the late ones. And
# for each byte a quarter more: appending in place leaves an eighth to spare, and outboxes that grow by turns
# leave holes in the memory of the C library. Measured with 60 to 650 000 bytes for each of up to 10 000
# clients, in pieces of all sizes: the process grows by 0.86 to 1.00 of the charge.
OUTBOX_COST = 256
SPARE_SHARE = 4
# After a cut the rest takes less than the limit by this part of it. A look at all clients takes less time
# than it takes to build so many answers.
MADE_FREE = 8


def charge(size: int) -> int:
    """Return the memory (bytes) that an outbox of ``size`` bytes is taken to need."""
    return size + size // SPARE_SHARE + OUTBOX_COST if size else 0


class Outboxes:
    """The outboxes of all connections of a worker, and what they take together."""

    def __init__(self, limit: int) -> None:
        """``limit`` is in bytes, for all together."""
        self.limit = limit
        # The charge of all, in bytes.
        self.held = 0
        # Bytes of outboxes that clients' sockets took.
        self.gone = 0

    @property
    def over(self) -> bool:
        """True while they take more than the limit."""
        return self.held > self.limit

    def put(self, connection: Connection, frames: bytes) -> None:
        """Append to an outbox. In place: one that is full of small answers was copied for each of them."""
        before = len(connection.outbox)
        if before and isinstance(connection.outbox, bytes):
            connection.outbox = bytearray(connection.outbox)
        connection.outbox += frames
        self.held += charge(len(connection.outbox)) - charge(before)

    def set(self, connection: Connection, frames: bytes | bytearray) -> None:
        """Replace what is in an outbox."""
        self.held += charge(len(frames)) - charge(len(connection.outbox))
        connection.outbox = frames

    def sent(self, connection: Connection, size: int) -> None:
        """Take the first ``size`` bytes out: they have gone."""
        self.gone += size
        self.set(connection, connection.outbox[size:])

    def drop(self, connection: Connection) -> None:
        """Forget an outbox whose bytes nobody will get, or which another process sends."""
        self.set(connection, b"")

    def largest(self, connections: Iterable[Connection]) -> list[Connection]:
        """Return the clients to cut off, those that hold most first. O(n log n), seldom; see MADE_FREE."""
        excess = self.held - (self.limit - self.limit // MADE_FREE)
        holders = [each for each in connections if each.outbox]
        holders.sort(key=lambda each: len(each.outbox), reverse=True)
        chosen = []
        for connection in holders:
            if excess <= 0:
                break
            excess -= charge(len(connection.outbox))
            chosen.append(connection)
        return chosen
