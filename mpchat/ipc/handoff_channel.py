"""Handoff channel: the far end of the socket over which connections come and go, in that process's loop.

It sends what can be sent, waits where the system has no room for a moment, and gathers one receipt a turn.
"""

from typing import Protocol

import msgspec

from mpchat.ipc.handoff import (
    REST,
    Handoff,
    HandoffMessage,
    HandoffSocket,
    Message,
    Receipt,
    read_message,
)
from mpchat.ipc.lifetime import Lifetime
from mpchat.reactor import READ, WRITE, Reactor


class Arrivals(Protocol):
    """What takes what arrives; see ``worker.migration``."""

    def take_handoff(self, handoff: Handoff, descriptors: list[int] | None) -> None:
        """Take connections; without descriptors when not all of them could be received."""

    def take_receipt(self, receipt: Receipt) -> None:
        """Take what became of connections that were handed over."""


class HandoffChannel:
    """The hand-off socket of a worker or a TLS process."""

    def __init__(self, reactor: Reactor, sock: HandoffSocket, lifetime: Lifetime) -> None:
        """Take over ``sock``; :meth:`serve` begins to listen."""
        self.sock = sock
        # What is to be told of connections at the end of this turn.
        self.receipt = Receipt([], [], [], [])
        self._reactor = reactor
        self._lifetime = lifetime
        self._arrivals: Arrivals | None = None
        # True while nothing can be sent to the supervisor for a moment.
        self._resting = False

    def serve(self, arrivals: Arrivals) -> None:
        """Listen, and give ``arrivals`` what comes."""
        self._arrivals = arrivals
        self._reactor.watch(self.sock, READ, self._on_ready)

    def _on_ready(self, mask: int) -> None:
        try:
            if mask & WRITE:
                self.sock.pump()
                self._watch_again()
            messages = self.sock.receive()
        except EOFError:
            self._lifetime.lose_supervisor()
            return
        except OSError as error:
            self._lifetime.lose_handoff(error)
            return
        for each in messages:
            self._take(each)

    def _take(self, arrived: HandoffMessage) -> None:
        assert self._arrivals is not None
        message = read_message(arrived.message)
        if isinstance(message, Handoff):
            self._arrivals.take_handoff(message, arrived.descriptors)
        elif isinstance(message, Receipt):
            self._arrivals.take_receipt(message)

    def send_receipt(self) -> None:
        """Send what is to be told of connections, if anything."""
        if self.receipt:
            receipt, self.receipt = self.receipt, Receipt([], [], [], [])
            self.send(receipt, [])

    def send(self, message: Message, descriptors: list[int]) -> None:
        """Send a message as soon as it can go; the descriptors must stay open until then."""
        try:
            self.sock.send(msgspec.msgpack.encode(message), descriptors)
        except OSError as error:
            self._lifetime.lose_handoff(error)
            return
        self._watch_again()

    def _watch_again(self) -> None:
        interest = READ | WRITE if self.sock.unsent else READ
        self._reactor.change(self.sock, interest, self._on_ready)
        if self.sock.resting is not None and not self._resting:
            why = self.sock.resting.strerror
            self._lifetime.log.warning("connections wait, %s: %s", why, self._lifetime.title)
            self._resting = True
            self._reactor.call_later(REST, self._send_again)

    def _send_again(self) -> None:
        try:
            self.sock.pump()
        except OSError as error:
            self._lifetime.lose_handoff(error)
            return
        if self.sock.resting is not None:
            self._reactor.call_later(REST, self._send_again)
            return
        self._resting = False
        self._watch_again()
