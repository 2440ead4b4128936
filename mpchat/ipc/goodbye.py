"""Goodbye: the end of a process's connections, in order, when the server stops."""

import socket
import time
from contextlib import suppress
from functools import partial

from mpchat.reactor import READ, Reactor

# After an orderly end, seconds that clients have to close their side before the socket is closed on them.
LINGER = 0.5
# Bytes of unread input that are thrown away at a time.
_READ_SIZE = 120 << 10


def say_goodbye(socks: list[socket.socket]) -> None:
    """Close so that clients get all that was sent: a socket closed with unread input would reset them."""
    reactor = Reactor()
    open_socks = set(socks)

    def discard(sock: socket.socket, mask: int) -> None:
        try:
            if sock.recv(_READ_SIZE):
                return
        except BlockingIOError:
            return
        except OSError:  # a reset, a time-out, a network that is gone: the end of this connection alone
            pass
        reactor.forget(sock)
        open_socks.remove(sock)
        sock.close()

    for sock in socks:
        with suppress(OSError):
            sock.shutdown(socket.SHUT_WR)
        reactor.watch(sock, READ, partial(discard, sock))
    deadline = time.monotonic() + LINGER
    while open_socks and (left := deadline - time.monotonic()) > 0:
        reactor.turn(left)
    reactor.close()
    for sock in open_socks:
        sock.close()
