"""Hand-off sockets of all workers in the supervisor's loop: what is sent, received and retried there.

What the messages mean for connections is decided by :mod:`mpchat.supervisor.worker_connections` and
:mod:`mpchat.supervisor.placement`.
"""

import logging
from collections.abc import Callable
from contextlib import suppress
from functools import partial

from mpchat.ipc.handoff import REST
from mpchat.reactor import READ, WRITE, Reactor
from mpchat.supervisor.worker_connections import Arrivals
from mpchat.supervisor.worker_handle import WorkerHandle

log = logging.getLogger("mpchat.supervisor")


class HandoffSockets:
    """Watches one socket per worker."""

    def __init__(self, reactor: Reactor, on_arrivals: Callable[[WorkerHandle, Arrivals], None]) -> None:
        """``on_arrivals`` gets what each message from a worker says."""
        self._reactor = reactor
        self._on_arrivals = on_arrivals
        # Workers to which nothing can be sent for a moment.
        self._resting: set[WorkerHandle] = set()

    def watch(self, handle: WorkerHandle) -> None:
        """Listen to a worker that was just started."""
        self._reactor.watch(handle.connections.handoff, READ, partial(self._on_event, handle))

    def unwatch(self, handle: WorkerHandle) -> None:
        """Read a dead worker's last messages, then stop listening to it."""
        while self._receive(handle):
            pass
        self._reactor.forget(handle.connections.handoff)

    def send_assigned(self, handle: WorkerHandle) -> None:
        """Send a worker the connections that were assigned to it, now or as soon as its socket takes them."""
        with suppress(OSError):  # the worker is gone: its death returns the connections
            handle.connections.send_assigned()
        self._watch_again(handle)

    def _watch_again(self, handle: WorkerHandle) -> None:
        handoff = handle.connections.handoff
        interest = READ | WRITE if handoff.unsent else READ
        self._reactor.change(handoff, interest, partial(self._on_event, handle))
        if handoff.resting is not None and handle not in self._resting:
            log.warning("clients wait, %s: %s", handoff.resting.strerror, handle.title)
            self._resting.add(handle)
            self._reactor.call_later(REST, partial(self._try_again, handle))

    def _try_again(self, handle: WorkerHandle) -> None:
        if not handle.closed:
            handoff = handle.connections.handoff
            with suppress(OSError):
                handoff.pump()
            if handoff.resting is not None:
                self._reactor.call_later(REST, partial(self._try_again, handle))
                return
            self._watch_again(handle)
        self._resting.discard(handle)

    def _on_event(self, handle: WorkerHandle, mask: int) -> None:
        if handle.closed:  # its death was handled earlier in this turn
            return
        handoff = handle.connections.handoff
        if mask & WRITE:
            with suppress(OSError):
                handoff.pump()
            self._watch_again(handle)
        if mask & READ and self._receive(handle) and (handoff.unsent or handoff.resting):
            self._watch_again(handle)

    def _receive(self, handle: WorkerHandle) -> bool:
        """Read messages; return False when there will never be more."""
        try:
            messages = handle.connections.handoff.receive()
        except (EOFError, OSError):
            return False
        for arrived in messages:
            self._on_arrivals(handle, handle.connections.on_message(arrived))
        return True
