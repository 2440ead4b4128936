"""Worker connections: the supervisor's account of one worker's connections, and their hand-off.

The supervisor keeps its own socket of each connection in transit until the worker has acked it, so a worker
that dies in between loses no connection.
"""

import socket
import time
from collections import Counter
from collections.abc import Sequence
from contextlib import suppress
from typing import NamedTuple

import msgspec

from mpchat.ipc.client_socket import own
from mpchat.ipc.connection_state import FRESH
from mpchat.ipc.handoff import (
    MAX_DESCRIPTORS,
    ConnectionInTransit,
    Handoff,
    HandoffMessage,
    HandoffSocket,
    Passed,
    Receipt,
    read_message,
)

# Seconds for which a worker that had no descriptor left for a connection gets no further connection.
SHORT_OF_DESCRIPTORS = 1.0


class HeldConnection(NamedTuple):
    """A connection that the supervisor holds: from accept, or from another worker, until a worker acks it.

    ``since`` is when it was assigned to a worker, or began to wait for a TLS process (seconds, monotonic).
    ``state`` and ``speaker`` are those of a moved one.
    """

    identity: int
    sock: socket.socket
    host: str
    port: int
    since: float = 0.0
    state: msgspec.Raw = FRESH
    speaker: bool = False
    # True when a TLS process encrypts it; and when one is to shake hands with it.
    secure: bool = False
    wants_tls: bool = False
    # True when a proxy has not said yet whose it is; and the proxy's host, where it has.
    proxied: bool = False
    proxy: str = ""

    @property
    def moved(self) -> bool:
        """True for a connection that another worker had before, and has served."""
        return self.state is not FRESH and not (self.wants_tls or self.proxy)


class Arrivals(NamedTuple):
    """What one message from a worker says about connections."""

    # Connections that need another worker.
    unplaced: Sequence[HeldConnection] = ()
    # Those among them that another kind of process had.
    passed: bool = False
    # The hosts of connections that have ended.
    ended: Sequence[str] = ()
    # Connections that the worker has acked, and how long each moved one among them had no worker (seconds).
    acked: Sequence[HeldConnection] = ()
    pauses: Sequence[float] = ()


class WorkerConnections:
    """The connections of one worker or TLS process, and those in transit to it."""

    def __init__(self, sock: socket.socket, *, encrypts: bool = False) -> None:
        """``sock`` is the supervisor's end of its hand-off socket. ``encrypts``: it is a TLS process."""
        self.handoff = HandoffSocket(sock)
        self._encrypts = encrypts
        # Connections that it has acked and that have not ended, in all and by host. The hosts of those that a
        # TLS process has passed on are counted where they are then.
        self.count = 0
        self.hosts: Counter[str] = Counter()
        # How many of them are speakers: the loss of the others, such as health checks, is no news.
        self.speakers = 0
        # Connections in transit to the worker, by identity, the oldest first.
        self.unacked: dict[int, HeldConnection] = {}
        # Until when (seconds, monotonic) the worker is short of descriptors.
        self.full_until = 0.0
        # True while the worker was asked to move connections out and has not answered.
        self.asked = False
        # Connections that were moved out, and handoffs that had to be refused for want of descriptors.
        self.moved_out = 0
        self.refused = 0
        # Connections that the next handoff will carry.
        self._assigned: list[HeldConnection] = []

    @property
    def load(self) -> int:
        """Connections that the worker has or is about to have."""
        return self.count + len(self.unacked)

    def oldest_unacked(self, now: float) -> float:
        """Return for how long (seconds) the oldest connection has been in transit; 0.0 if there is none."""
        return now - next(iter(self.unacked.values())).since if self.unacked else 0.0

    def assign(self, connection: HeldConnection, now: float) -> None:
        """Put a connection in transit to the worker; :meth:`send_assigned` sends all of a turn together."""
        self.unacked[connection.identity] = connection._replace(since=now)
        self._assigned.append(connection)

    @property
    def has_assigned(self) -> bool:
        """True while an assigned connection has not been sent."""
        return bool(self._assigned)

    def send_assigned(self) -> None:
        """Send what was assigned. Raise ``OSError`` if the worker is gone; no connection is lost by that."""
        while self._assigned:
            batch = self._assigned[:MAX_DESCRIPTORS]
            del self._assigned[:MAX_DESCRIPTORS]
            handoff = Handoff(
                [
                    ConnectionInTransit(
                        each.identity,
                        each.host,
                        each.port,
                        each.state,
                        each.speaker,
                        each.secure,
                        each.proxied,
                        each.proxy,
                    )
                    for each in batch
                ]
            )
            self.handoff.send(msgspec.msgpack.encode(handoff), [each.sock.fileno() for each in batch])

    def on_message(self, arrived: HandoffMessage) -> Arrivals:
        """Update the account by what the worker says."""
        message = read_message(arrived.message)
        if isinstance(message, Receipt):
            return self._on_receipt(message)
        if isinstance(message, Handoff):
            self.asked = False
        return self._on_connections(message, arrived)

    def _on_receipt(self, receipt: Receipt) -> Arrivals:
        acked = [self.unacked.pop(identity) for identity in receipt.acks]
        for connection in acked:
            self.hosts[connection.host] += 1
            self.speakers += connection.speaker
            connection.sock.close()
        returned = [self.unacked.pop(identity) for identity in receipt.nacks]
        if returned:
            self.full_until = time.monotonic() + SHORT_OF_DESCRIPTORS
        self.count += len(acked) - len(receipt.closed) - len(receipt.tunnels)
        for host in receipt.closed:
            self._one_less_from(host)
        return Arrivals(returned, ended=receipt.closed, acked=acked, pauses=receipt.pauses)

    def _on_connections(self, handoff: Handoff | Passed, arrived: HandoffMessage) -> Arrivals:
        """Hold connections that leave the process, or leave them with it when descriptors are short."""
        identities = [each.identity for each in handoff.connections]
        passed = isinstance(handoff, Passed)
        if arrived.descriptors is None:
            self.refused += 1
            self._answer(Receipt(nacks=identities))
            return self._on_lost(handoff) if self._encrypts else Arrivals()
        unplaced = []
        for each, descriptor in zip(handoff.connections, arrived.descriptors, strict=True):
            unplaced.append(
                HeldConnection(
                    each.identity,
                    own(descriptor, each.host, secure=each.secure),
                    each.host,
                    each.port,
                    state=FRESH if self._encrypts else each.state,
                    speaker=each.speaker,
                    secure=each.secure,
                    since=time.monotonic(),
                    wants_tls=passed and not (self._encrypts or each.proxy),
                    proxied=each.proxied,
                    proxy=each.proxy,
                )
            )
            self._one_less_from(each.proxy or each.host)
            self.speakers -= each.speaker
        if not self._encrypts:
            self.count -= len(unplaced)
        if not passed:
            self.moved_out += len(unplaced)
        self._answer(Receipt(acks=identities))
        return Arrivals(unplaced, passed)

    def _on_lost(self, passed: Handoff | Passed) -> Arrivals:
        """Take connections from their hosts: a TLS process ends what it cannot pass on, and says no hosts."""
        hosts = [each.host for each in passed.connections]
        for host in hosts:
            self._one_less_from(host)
        return Arrivals(ended=hosts)

    def _answer(self, receipt: Receipt) -> None:
        with suppress(OSError):  # the worker is gone and needs no answer
            self.handoff.send(msgspec.msgpack.encode(receipt), [])

    def _one_less_from(self, host: str) -> None:
        self.hosts[host] -= 1
        if not self.hosts[host]:
            del self.hosts[host]

    def close(self) -> list[HeldConnection]:
        """Close the hand-off socket of a dead worker; return the connections in transit to it."""
        self.handoff.close()
        held, self.unacked = list(self.unacked.values()), {}
        return held
