"""What a load process is told to do, and the counters that all load processes share."""

import ctypes
from dataclasses import dataclass

from scripts.bench.row import Options, Row

# How many messages the slowest connection of each load process has. Eight aligned bytes and one writer each:
# no lock is needed, and an old value only delays a sender.
Board = ctypes.Array[ctypes.c_longlong]
# Seconds that a wait for events lasts at most: a stall or a missing order is seen so late.
WAIT_S = 0.1
# Seconds for a connect, a knock or a question before it counts as refused.
ANSWER_S = 30.0
# A process that does not count writes this to the board: never the slowest.
NOT_COUNTING = 2**62


class LoadError(Exception):
    """An order could not be carried out; the text says why."""


@dataclass(frozen=True)
class Plan:
    """The work of one load process. Times in seconds, sizes in bytes."""

    role: str  # "clients" or "senders"
    wire: str
    host: str
    ports: tuple[int, ...]  # of the hosts of a cluster, each for an equal part of the connections
    source: str  # the local address, because an address has 28 000 ports
    connections: int
    witnesses: int
    in_flight: int  # connections begun and not yet served; below any server's accept queue
    row: Row
    options: Options
    window: int  # messages on their way to the slowest connection, at most; in each room
    first: int  # the number of this process's first client
    tls: str = ""  # when clients begin to shake hands; see ``bench.tls``; empty: they do not encrypt

    def port_of(self, number: int) -> int:
        """Return the port for the connection with this number, from 0 on.

        Each port has an unbroken part of them, so that witnesses at equal distances see every host.
        """
        return self.ports[((number + 1) * len(self.ports) - 1) // self.connections]

    @property
    def channels(self) -> int:
        """The number of rooms, or 1 without rooms."""
        return max(1, self.row.rooms)
