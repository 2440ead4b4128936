"""What both clients want of a fresh socket. Knows nothing of frames; nothing here waits."""

import errno
import os
import socket

# What connecting raises: the network's errors, and those of a host name that cannot be encoded.
CONNECT_ERRORS = (OSError, UnicodeError)


def prepare(sock: socket.socket) -> None:
    """Make ``sock``, just connected, fit for a chat: non-blocking, small messages at once, death noticed.

    Raises ``ConnectionRefusedError`` when it is connected to itself: TCP allows that on loopback, when nobody
    listens and the kernel happens to pick the very port that is dialled as the own one.
    """
    sock.setblocking(False)
    if sock.getsockname() == sock.getpeername():
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)


def try_send(sock: socket.socket, data: bytes | memoryview) -> int:
    """Return how many bytes the kernel took at once, maybe none."""
    try:
        return sock.send(data)
    except (BlockingIOError, InterruptedError):
        return 0


def shut(sock: socket.socket, how: int) -> None:
    """Shut ``sock`` down, which wakes whoever waits on it; a connection that is gone is shut already."""
    try:
        sock.shutdown(how)
    except OSError:
        return
