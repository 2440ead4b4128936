"""Acceptor: accepts connections in the supervisor's loop.

Which client may come in, and which worker serves it, is decided elsewhere. Running out of descriptors or
watches is a state, not a failure: one descriptor is kept in reserve to answer "full" with; after that the
acceptor rests for a moment instead of spinning.
"""

import errno
import logging
import os
import socket
from collections.abc import Callable
from functools import partial

from mpchat.ipc.addresses import without_mapping
from mpchat.reactor import READ, Reactor
from mpchat.supervisor.listeners import BACKLOG, ListenerChange, addresses_of
from mpchat.supervisor.refusals import Refusal, Refusals

# Connections accepted in one turn of the loop. Taking that many takes a worker some two milliseconds.
ACCEPTS_PER_TURN = 32
# Seconds that the acceptor rests when there is no descriptor or no watch left.
REST = 0.1
OUT_OF_DESCRIPTORS = Refusal("the server is out of descriptors; try again later")
_OUT_OF_DESCRIPTORS = frozenset({errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM})

log = logging.getLogger("mpchat.acceptor")

OnClient = Callable[[socket.socket, str, int], None]


class Acceptor:
    """The listening sockets in the supervisor's loop."""

    def __init__(self, reactor: Reactor, listeners: list[socket.socket], on_client: OnClient) -> None:
        """Begin closed: clients wait in the kernel's queue until :meth:`open`.

        ``on_client(sock, host, port)`` gets each accepted connection and owns it from then on.
        """
        self.listeners = listeners
        # As people write them; known after the end too.
        self.addresses = addresses_of(listeners)
        self.refusals = Refusals(reactor)
        # Connections accepted since the start, those that were refused then included.
        self.accepted = 0
        self._reactor = reactor
        self._on_client = on_client
        # Clients may come in; the listeners are watched; no descriptor or no watch was free a moment ago.
        self._wanted = self._watching = self._resting = False
        self._closed = False
        self._spare = _open_spare()

    def open(self) -> None:
        """Accept clients."""
        self._wanted = not self._closed
        if self._wanted and not self._watching and not self._resting:
            self._watching = True
            watched = []
            try:
                for listener in self.listeners:
                    self._reactor.watch(listener, READ, partial(self._on_readable, listener))
                    watched.append(listener)
            except OSError as error:  # the system's limit of watches
                log.warning("no client comes in for a moment: %s", error.strerror)
                self._watching = False
                for listener in watched:
                    self._reactor.forget(listener)
                self._begin_rest()

    def pause(self) -> None:
        """Let clients wait in the kernel's queue."""
        self._wanted = False
        self._unwatch()

    def change(self, listeners: ListenerChange) -> None:
        """Listen at other addresses from now on.

        Clients that came by an address that goes stay connected; clients in its queue are accepted.
        """
        self._unwatch()
        for listener in listeners.gone:
            self._accept(listener, BACKLOG, lambda: True)
            self.listeners.remove(listener)
            listener.close()
        self.listeners += listeners.added
        self.addresses = addresses_of(self.listeners)
        if self._wanted:
            self.open()

    def refuse(self, sock: socket.socket, refusal: Refusal, begun: bytes = b"") -> None:
        """Answer with an error and close, so that the client can read why; ``begun`` is what it has said."""
        self.refusals.refuse(sock, refusal, begun)

    def close(self) -> None:
        """Accept no client from now on and release the port."""
        self.pause()
        self._closed = True
        for listener in self.listeners:
            listener.close()
        self.refusals.close()
        self._close_spare()

    def _unwatch(self) -> None:
        if self._watching:
            self._watching = False
            for listener in self.listeners:
                self._reactor.forget(listener)

    def _on_readable(self, listener: socket.socket, mask: int) -> None:
        error = self._accept(listener, ACCEPTS_PER_TURN, lambda: self._watching)
        if error is not None:
            self._rest(listener, error)

    def _accept(self, listener: socket.socket, most: int, go_on: Callable[[], bool]) -> OSError | None:
        """Accept up to ``most`` connections; return the error if there was no descriptor for one of them."""
        for _ in range(most):
            if not go_on():
                return None
            try:
                sock, peer = listener.accept()
            except BlockingIOError:
                return None
            except OSError as error:
                if error.errno in _OUT_OF_DESCRIPTORS:
                    return error
                continue  # the client has gone again; the next one is its own case
            self.accepted += 1
            self._on_client(sock, without_mapping(peer[0]), peer[1])
        return None

    # Out of descriptors or watches.

    def _rest(self, listener: socket.socket, error: OSError) -> None:
        """Refuse the first client in the queue with the spare descriptor, and let the others wait."""
        log.warning("full: %s; a client was refused", error.strerror)
        self._close_spare()
        try:
            sock, _ = listener.accept()
            self.accepted += 1
            self.refusals.refuse(sock, OUT_OF_DESCRIPTORS, linger=False)
        except OSError:
            pass
        self._spare = _open_spare()
        self._unwatch()
        self._begin_rest()

    def _begin_rest(self) -> None:
        self._resting = True
        self._reactor.call_later(REST, self._resume)

    def _resume(self) -> None:
        self._resting = False
        if self._wanted:
            self.open()

    def _close_spare(self) -> None:
        if self._spare is not None:
            os.close(self._spare)
            self._spare = None


def _open_spare() -> int | None:
    """Return a descriptor that can be closed when another one is needed, or None if there is none now."""
    try:
        return os.open(os.devnull, os.O_RDONLY)
    except OSError:
        return None
