"""Lingering: sockets whose streams have been ended from here, until the peers have ended theirs.

A socket that is closed with unread input resets the connection, and the peer loses what it was sent last. So
the input is read and thrown away, for a while and up to a bound.
"""

import socket
from functools import partial

from mpchat.reactor import READ, Reactor

# Sockets that linger at a time: with more the oldest is closed. And for how long each may (seconds).
LINGERING = 32
LINGER = 1.0
# Bytes of a peer's input that are thrown away at a time, and together at most.
DISCARD_SIZE = 64 << 10
INPUT = 1 << 20


class Lingering:
    """Sockets that nobody else owns any more."""

    def __init__(self, reactor: Reactor) -> None:
        """Begin with none."""
        self._reactor = reactor
        # The oldest first, and how many bytes of each are still thrown away.
        self._left: dict[socket.socket, int] = {}

    def __len__(self) -> int:
        return len(self._left)

    def take(self, sock: socket.socket) -> None:
        """Take over a socket that nothing watches: end its stream, and close it when the peer has closed."""
        try:
            sock.shutdown(socket.SHUT_WR)
            self._reactor.watch(sock, READ, partial(self._discard, sock))
        except (OSError, ValueError):  # the peer has gone; the system's limit of watches
            sock.close()
            return
        self._left[sock] = INPUT
        self._reactor.call_later(LINGER, partial(self._close, sock))
        if len(self._left) > LINGERING:
            self._close(next(iter(self._left)))

    def _discard(self, sock: socket.socket, mask: int) -> None:
        if sock not in self._left:  # closed earlier in this turn of the loop
            return
        try:
            size = len(sock.recv(DISCARD_SIZE))
        except BlockingIOError:
            return
        except OSError:
            size = 0
        self._left[sock] -= size
        if not size or self._left[sock] < 0:
            self._close(sock)

    def _close(self, sock: socket.socket) -> None:
        if self._left.pop(sock, None) is not None:
            self._reactor.forget(sock)
            sock.close()

    def close(self) -> None:
        """Close all at once."""
        for sock in list(self._left):
            self._close(sock)
