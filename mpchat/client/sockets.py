"""Socket options and calls that both clients share. Knows nothing of frames; nothing here waits."""

import errno
import os
import socket
from typing import TYPE_CHECKING

from mpchat.keepalive import probe_silent_peer

if TYPE_CHECKING:
    import ssl

    from mpchat.client.secure import Tls

# Errors of connecting: the network's, and those of a host name that cannot be encoded.
CONNECT_ERRORS = (OSError, UnicodeError)
# Seconds of silence after which TCP probes the server; the same number as in mpchat.js.
SILENCE = 30.0


def prepare(sock: socket.socket) -> None:
    """Prepare a newly connected ``sock``: non-blocking, small messages sent at once, a dead peer noticed.

    Raises ``ConnectionRefusedError`` when the socket is connected to itself. TCP allows that on loopback: no
    server listens, and the kernel happens to pick the dialled port as the socket's own.
    """
    sock.setblocking(False)
    if sock.getsockname() == sock.getpeername():
        raise ConnectionRefusedError(errno.ECONNREFUSED, os.strerror(errno.ECONNREFUSED))
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    probe_silent_peer(sock, SILENCE)


def encryption(tls: "Tls") -> "ssl.SSLContext | None":
    """Return how to encrypt; None: not at all. What TLS needs is loaded only then."""
    if tls is False:
        return None
    from mpchat.client.secure import context_for

    return context_for(tls)


def secured(sock: socket.socket, context: "ssl.SSLContext", host: str, timeout: float) -> socket.socket:
    """Return the socket to go on with instead of ``sock``; see ``secure.secure``."""
    from mpchat.client.secure import secure

    return secure(sock, context, host, timeout)


def try_send(sock: socket.socket, data: bytes | memoryview) -> int:
    """Send what the kernel takes at once; return the number of bytes, maybe 0."""
    try:
        return sock.send(data)
    except (BlockingIOError, InterruptedError):
        return 0


def shut(sock: socket.socket, how: int) -> None:
    """Shut ``sock`` down, which wakes every thread that waits on it; ignore a connection that is gone."""
    try:
        sock.shutdown(how)
    except OSError:
        return
